"""Every term of the package by a short name, as the tests go through them."""

from monai_blurvae.losses import (
    BernoulliLoss,
    FocalFrequencyTerm,
    L2Loss,
    LaplaceLoss,
    RobustLoss,
    SigmaVAELoss,
    SpectralGaussianLoss,
    StructuralSimilarityLoss,
    VGGFeatureLoss,
    WatsonLoss,
    WienerLoss,
)

SIZE = (16, 16)

# Each makes its term for images of SIZE from their channels and a folder of random weights.
TERMS = {
    "l2": lambda channels, weights_dir: L2Loss(),
    "l1": lambda channels, weights_dir: LaplaceLoss(),
    "ssim": lambda channels, weights_dir: StructuralSimilarityLoss(),
    "ce": lambda channels, weights_dir: BernoulliLoss(),
    "ffl": lambda channels, weights_dir: FocalFrequencyTerm(),
    "vgg": lambda channels, weights_dir: VGGFeatureLoss(weights_dir),
    "watson": lambda channels, weights_dir: WatsonLoss(),
    "robust": lambda channels, weights_dir: RobustLoss(channels=channels),
    "sigma_vae": lambda channels, weights_dir: SigmaVAELoss(),
    "spectral_gaussian": lambda channels, weights_dir: SpectralGaussianLoss(SIZE),
    "wiener": lambda channels, weights_dir: WienerLoss(),
}

VARIANTS = TERMS | {
    "robust dct": lambda channels, weights_dir: RobustLoss("dct", SIZE, channels),
    "sigma_vae whitened": lambda channels, weights_dir: SigmaVAELoss(WienerLoss()),
    "spectral_gaussian whitened": lambda channels, weights_dir: SpectralGaussianLoss(SIZE, 0.5, WienerLoss()),
}
