"""Images of three channels throughout: they share one blur kernel, and are independent, Σ = I₃ ⊗ Σ₁."""

import copy
import io
import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as photographs
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.distributions import MultivariateNormal

from monai_blurvae.engines import BlurVAEEvaluator, BlurVAEKeys, BlurVAETrainer
from monai_blurvae.functional import gaussian_kernel
from monai_blurvae.handlers import reconstruction_figure, save_figure
from monai_blurvae.handlers.monitoring import BlurVAETensorBoardHandler
from monai_blurvae.handlers.pictures import FigureRow, draw_rows
from monai_blurvae.losses import (
    Adversary,
    BernoulliLoss,
    ELBOLoss,
    KernelLoss,
    L2Loss,
    LaplaceLoss,
    RobustLoss,
    SigmaVAELoss,
    SpectralGaussianLoss,
    SpectrumLoss,
    WienerLoss,
)
from monai_blurvae.losses.spectral import FittedGaussianLoss
from monai_blurvae.metrics import (
    CappedPSNRMetric,
    log_spectrum_distance,
    lpips_distance,
    make_ssim_metric,
    relative_sharpness,
)
from monai_blurvae.metrics.distances import alexnet_features
from monai_blurvae.metrics.likelihood import (
    KernelLikelihood,
    SpectrumLikelihood,
    VarianceLikelihood,
    bits_per_dimension,
    dequantize,
    fit_likelihoods,
)
from monai_blurvae.networks import BlurVAE, VAEOutput
from tests.dense import circulant, random_kernel, wiener_matrix
from tests.losses import terms

SIZE = (6, 5)
HALF = (6, 3)
PIXELS = 30


def data(batch=2, channels=3, size=SIZE, seed=0, dtype=torch.float64):
    """Reconstructions, images, and one kernel for each image."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.rand(2, batch, channels, *size, generator=generator, dtype=torch.float64) * 1.8 - 0.9
    kernel = torch.stack([random_kernel((3, 3), seed + i) for i in range(batch)])[:, None]
    return y.to(dtype), x.to(dtype), kernel.to(dtype)


def channel_by_channel(value, y, x, kernel):
    """Values ``(B, C)`` of the channels as grey images of their own."""
    channels = x.shape[1]
    grey = (z.flatten(0, 1)[:, None] for z in (y, x))
    return value(*grey, kernel.repeat_interleave(channels, 0)).view(-1, channels)


# Densities and determinants


def of_three(matrix):
    """I₃ ⊗ matrix."""
    return torch.block_diag(*[matrix] * 3)


def stationary(variance):
    """Σ[p, q] = 1/N Σ_j S_j cos(2π j·(p − q)), the covariance with a half spectrum of eigenvalues, without FFT."""
    row, column = torch.meshgrid(*(torch.arange(n) for n in SIZE), indexing="ij")
    mirrored = column > SIZE[1] // 2
    half = variance.double().expand(HALF)
    full = half[torch.where(mirrored, -row % SIZE[0], row), torch.where(mirrored, SIZE[1] - column, column)]
    pixels = torch.stack([row.flatten(), column.flatten()], 1).double()
    phases = 2 * math.pi * (pixels[:, None] - pixels) @ (pixels / torch.tensor(SIZE)).T
    return (phases.cos() * full.flatten()).mean(2)


def whitener(term, kernel):
    """The dense W of a Wiener term and one kernel."""
    if term.weighting != "flat":
        return wiener_matrix(circulant(kernel, SIZE), term.c, term.weighting)
    w = wiener_matrix(circulant(kernel, SIZE), term.c)
    return torch.eye(PIXELS, dtype=torch.float64) * (w.square().sum() / PIXELS).sqrt()


def covariance(term, kernel):
    """The dense Σ₁ of one channel under a Gaussian term."""
    identity = torch.eye(PIXELS, dtype=torch.float64)
    fitted = stationary(term.variance()) if isinstance(term, FittedGaussianLoss) else identity
    wiener = term if isinstance(term, WienerLoss) else getattr(term, "whitening", None)
    inverse = identity if wiener is None else torch.linalg.inv(whitener(wiener, kernel))
    return inverse @ fitted @ inverse.T


def fitted(term, channels=3):
    """A term that has seen a batch, in evaluation."""
    term.double().update(*data(batch=16, channels=channels, seed=9))
    return term.eval()


GAUSSIANS = {
    "l2": L2Loss,
    **{f"wiener {w}": lambda w=w: WienerLoss(weighting=w) for w in ("wiener", "bounded_inverse", "flat")},
    "sigma_vae": SigmaVAELoss,
    "sigma_vae whitened": lambda: SigmaVAELoss(WienerLoss()),
    "spectral": lambda: SpectralGaussianLoss(SIZE),
    "spectral tempered whitened": lambda: SpectralGaussianLoss(SIZE, 0.5, WienerLoss(c=0.1)),
}


@pytest.mark.parametrize("make", GAUSSIANS.values(), ids=GAUSSIANS)
def test_gaussians_have_the_dense_covariance_of_independent_channels(make):
    term = fitted(make())
    y, x, kernel = data()
    block_diagonal = [of_three(covariance(term, k)) for k in kernel[:, 0]]
    expected = [
        MultivariateNormal(mean.flatten(), 0.5 * (sigma + sigma.T)).log_prob(image.flatten())
        for mean, image, sigma in zip(y, x, block_diagonal, strict=True)
    ]
    log_prob = term.log_prob(y, x, kernel)
    torch.testing.assert_close(log_prob, torch.stack(expected))
    torch.testing.assert_close(channel_by_channel(term.log_prob, y, x, kernel).sum(1), log_prob)


@pytest.mark.parametrize("make", [SigmaVAELoss, lambda: SpectralGaussianLoss(SIZE, 0.5)])
def test_the_channels_share_the_fitted_variances(make):
    term, grey = fitted(make()), make().double()
    y, x, kernel = data(batch=16, seed=9)
    channel_by_channel(lambda *images: (grey.update(*images), images[0].new_zeros(48))[1], y, x, kernel)
    torch.testing.assert_close(term.variance(), grey.variance())


@pytest.mark.parametrize("term", [LaplaceLoss(), RobustLoss(alpha=0.7, scale=0.3)], ids=["laplace", "robust"])
def test_other_densities_are_those_of_independent_channels(term):
    y, x, kernel = data()
    log_prob = term.log_prob(y, x, kernel)
    torch.testing.assert_close(channel_by_channel(term.log_prob, y, x, kernel).sum(1), log_prob)


def test_the_robust_density_of_cosines_has_its_own_shapes_in_each_channel():
    y, x, _ = data()
    term = RobustLoss("dct", SIZE, 3).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in term.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    total = torch.zeros(2, dtype=torch.float64)
    for c in range(3):
        grey = RobustLoss("dct", SIZE, 1).double()
        grey.load_state_dict({name: value[c : c + 1] for name, value in term.state_dict().items()})
        total = total + grey.log_prob(y[:, c : c + 1], x[:, c : c + 1])
    torch.testing.assert_close(term.log_prob(y, x), total)


def test_bernoulli_probabilities_of_all_black_and_white_channels_sum_to_one():
    x = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)[..., None, None]
    y = torch.tensor([-0.3, 0.1, 0.8], dtype=torch.float64).view(1, 3, 1, 1).expand_as(x)
    assert (-BernoulliLoss(reduction="none")(y, x)).exp().sum().item() == pytest.approx(1)


def dense_half_log_det(determinant, kernel, epsilon, c=0.025):
    if determinant == "omit":
        return torch.zeros((), dtype=torch.float64)
    blur = circulant(kernel, SIZE)
    if determinant == "epsilon":
        return torch.linalg.slogdet(of_three(blur + epsilon * torch.eye(PIXELS, dtype=torch.float64))).logabsdet
    w = of_three(wiener_matrix(blur, c))
    return -0.5 * torch.linalg.slogdet(w.T @ w).logabsdet


@pytest.mark.parametrize("determinant", ["omit", "epsilon", "exact", "fixed"])
def test_every_determinant_is_that_of_three_channels(determinant):
    y, x, kernel = data()
    objective = ELBOLoss(WienerLoss(detach_weight=False), determinant, epsilon=0.3, kernel_size=3).double()
    z = torch.zeros(2, 4, dtype=torch.float64)
    value = objective(VAEOutput(y, z, z, z), x, kernel).half_log_det
    one = objective(VAEOutput(y[:, :1], z, z, z), x[:, :1], kernel).half_log_det
    used = gaussian_kernel(3, 2.0).double().expand(2, -1, -1, -1) if determinant == "fixed" else kernel
    expected = torch.stack([dense_half_log_det(determinant, k, 0.3) for k in used[:, 0]]).mean()
    torch.testing.assert_close(value.double(), expected)
    torch.testing.assert_close(value, 3 * one)
    assert (value == 0) == (determinant == "omit")


class Still:
    """A model whose reconstructions are grey everywhere, so that the residual is the image."""

    def __init__(self, kernel):
        self.blur = kernel

    def encode(self, x):
        return torch.zeros(2, len(x), 4, dtype=x.dtype)

    def decode(self, z):
        return torch.zeros(len(z), 1, 1, 1, dtype=z.dtype)

    def kernel(self, z):
        return self.blur.expand(len(z), -1, -1, -1)


def test_fitted_likelihoods_have_one_scale_for_the_image_and_a_spectrum_for_each_channel():
    _, x, kernel = data(batch=7)
    x = x * torch.tensor([0.2, 0.5, 1.0], dtype=x.dtype).view(1, 3, 1, 1)
    model = Still(kernel[:1])
    colour = fit_likelihoods(model, x, uses_kernel=True)
    grey = [fit_likelihoods(model, x[:, c : c + 1], uses_kernel=True) for c in range(3)]
    for name in ("variance", "kernel"):
        assert colour[name].variance == pytest.approx(np.mean([likelihoods[name].variance for likelihoods in grey]))
    spectra = [likelihoods["spectrum"].variance for likelihoods in grey]
    torch.testing.assert_close(colour["spectrum"].variance, torch.cat(spectra, 1))


def test_reported_densities_are_the_dense_gaussians():
    _, x, kernel = data(batch=7)
    z = torch.zeros(7, 4, dtype=x.dtype)
    model = Still(kernel[:1])
    w = wiener_matrix(circulant(kernel[0, 0], SIZE), 0.025)
    spectrum = fit_likelihoods(model, x, uses_kernel=False)["spectrum"].variance
    for likelihood, sigma in [
        (VarianceLikelihood(0.3), 0.3 * torch.eye(3 * PIXELS, dtype=x.dtype)),
        (KernelLikelihood(model, 0.3), 0.3 * of_three(torch.linalg.inv(w.T @ w))),
        (SpectrumLikelihood(spectrum), torch.block_diag(*[stationary(channel) for channel in spectrum[0]])),
    ]:
        dense = MultivariateNormal(torch.zeros(len(sigma), dtype=x.dtype), 0.5 * (sigma + sigma.T))
        torch.testing.assert_close(likelihood.log_prob(x, z), dense.log_prob(x.flatten(1)))


def test_bits_are_divided_by_pixels_times_channels():
    # The uniform density over 256 levels of D = 3 · 30 numbers has 8 bits in each.
    log_density = torch.tensor(3 * PIXELS * math.log(127.5 / 256), dtype=torch.float64)
    assert bits_per_dimension(log_density, 3 * PIXELS, eight_bit=True).item() == pytest.approx(8)
    grey = torch.randn(4, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    bits = [
        bits_per_dimension(VarianceLikelihood(0.5).log_prob(x, torch.empty(0)), x[0].numel(), eight_bit=True)
        for x in (grey, grey.expand(-1, 3, -1, -1))
    ]
    torch.testing.assert_close(bits[0], bits[1])


def test_each_channel_is_dequantised_with_noise_of_its_own():
    x = torch.zeros(300, 3, *SIZE, dtype=torch.float64) + 128 / 127.5 - 1
    noise = (dequantize(x) - x) * 127.5
    red, green, blue = noise.transpose(0, 1).flatten(1)
    for a, b in ((red, green), (green, blue), (red, blue)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(a))
    assert noise.var().item() == pytest.approx(1 / 12, rel=0.05)


# PSNR, SSIM and the other measures


def photograph_pairs():
    """Crops of a photograph and noisy copies, with unlike noise in the channels, in [0, 1]."""
    image = torch.from_numpy(photographs.astronaut()).permute(2, 0, 1).double() / 255
    x = torch.stack([image[:, r : r + 64, 160:208] for r in (20, 60, 100, 140)])
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return (x + noise * torch.tensor([0.3, 0.03, 0.003], dtype=x.dtype).view(1, 3, 1, 1)).clamp(0, 1), x


def scikit_image_ssim(y, x):
    return [
        structural_similarity(
            a, b, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1
        )
        for a, b in zip(x.numpy(), y.numpy(), strict=True)
    ]


def test_psnr_is_that_of_all_channels_together():
    y, x = photograph_pairs()
    values = CappedPSNRMetric()(y.float(), x.float()).flatten()
    pairs = list(zip(x.numpy(), y.numpy(), strict=True))
    np.testing.assert_allclose(values, [peak_signal_noise_ratio(a, b, data_range=1) for a, b in pairs], rtol=1e-5)
    each = [[peak_signal_noise_ratio(a[c], b[c], data_range=1) for c in range(3)] for a, b in pairs]
    assert (np.mean(each, 1) > values.numpy() + 5).all()  # the mean of the channels is another figure


def test_ssim_is_that_of_scikit_image():
    y, x = photograph_pairs()
    np.testing.assert_allclose(make_ssim_metric()(y.float(), x.float()).flatten(), scikit_image_ssim(y, x), atol=5e-5)


@pytest.mark.parametrize("noise", [1e-3, 1e-2])
def test_float32_costs_ssim_less_than_a_thousandth_where_images_are_bright_and_flat(noise):
    x = torch.full((2, 3, 32, 32), 0.9, dtype=torch.float64)
    y = x + noise * torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    np.testing.assert_allclose(make_ssim_metric()(y.float(), x.float()).flatten(), scikit_image_ssim(y, x), atol=1e-3)


MEASURES = {
    "psnr": lambda y, x, _: CappedPSNRMetric()(y, x),
    "ssim": lambda y, x, _: make_ssim_metric()(y, x),
    "lpips": lambda y, x, folder: lpips_distance(y, x, weights_dir=folder),
    "spectrum": lambda y, x, _: log_spectrum_distance(y, x),
    "sharpness": lambda y, x, _: relative_sharpness(y, x),
    "alexnet": lambda y, _, folder: alexnet_features(2 * y - 1, folder).values,
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_grey_image_measures_the_same_in_three_channels(measure, random_weights_dir):
    y, x = (z[:2, 1:2].float() for z in photograph_pairs())
    grey, colour = (measure(*pair, random_weights_dir) for pair in ((y, x), [z.expand(-1, 3, -1, -1) for z in (y, x)]))
    torch.testing.assert_close(colour, grey, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("channel", range(3))
def test_no_channel_is_left_out(measure, channel, random_weights_dir):
    x = photograph_pairs()[1].float()
    darker = x.clone()
    darker[:, channel] *= 0.5
    before, after = (measure(z, x, random_weights_dir) for z in (x, darker))
    assert (after - before).norm() > 1e-3 * before.norm().clamp_min(1)


# Terms


PIXELS_16 = (16, 16)
VARIANTS = terms.VARIANTS | {
    "wiener bounded_inverse": lambda channels, folder: WienerLoss(weighting="bounded_inverse"),
    "wiener flat": lambda channels, folder: WienerLoss(weighting="flat"),
}
OTHER_TERMS = {"spectrum": SpectrumLoss, "kernel": KernelLoss, "kernel circular": lambda: KernelLoss("circular")}
ALL_TERMS = [*VARIANTS, *OTHER_TERMS]


def make_term(variant, folder, channels=3):
    if variant in OTHER_TERMS:
        return OTHER_TERMS[variant]()
    return VARIANTS[variant](channels, folder)


@pytest.mark.parametrize("variant", ALL_TERMS)
def test_a_term_is_finite_sees_every_channel_and_no_other_image(variant, random_weights_dir):
    term = make_term(variant, random_weights_dir)
    y, x, kernel = data(batch=4, size=PIXELS_16, dtype=torch.float32)
    assert torch.isfinite(term(y, x, kernel))
    term.eval().reduction = "none"
    y.requires_grad_()
    each = term(y, x, kernel)
    assert each.shape == (4,)
    (gradient,) = torch.autograd.grad(each.sum(), y)
    assert torch.isfinite(each).all()
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().amax((2, 3)) > 0).all()
    torch.testing.assert_close(term(y[1:2], x[1:2], kernel[1:2]), each[1:2])


@pytest.mark.parametrize("variant", [name for name in ALL_TERMS if name not in ("vgg", "watson")])
def test_a_term_is_the_sum_of_its_channels(variant, random_weights_dir):
    term, grey = (make_term(variant, random_weights_dir, channels).double() for channels in (3, 1))
    y, x, kernel = data(batch=4, size=PIXELS_16)
    term(y, x, kernel)  # the fitted ones take this batch
    if isinstance(term, FittedGaussianLoss):
        grey.load_state_dict(term.state_dict())
    for module in (term, grey):
        module.eval().reduction = "none"
    total = channel_by_channel(grey, y, x, kernel).sum(1)
    tolerance = {"rtol": 1e-5, "atol": 1e-3} if variant == "ssim" else {}  # which MONAI computes in float32
    torch.testing.assert_close(term(y, x, kernel).to(total), total, **tolerance)


@pytest.mark.parametrize("variant", ALL_TERMS)
def test_a_grey_image_in_three_channels(variant, random_weights_dir):
    """LPIPS repeats grey itself, and Watson's chroma is empty; all other terms are sums."""
    term, grey = (make_term(variant, random_weights_dir, channels).eval() for channels in (3, 1))
    y, x, kernel = data(channels=1, size=PIXELS_16, dtype=torch.float32)
    colour = term(y.expand(-1, 3, -1, -1), x.expand(-1, 3, -1, -1), kernel)
    factor = {"vgg": 1, "watson": 1 / 3}.get(variant, 3)
    torch.testing.assert_close(colour, factor * grey(y, x, kernel), rtol=1e-4, atol=1e-4)


# Training


NETWORK = {
    "in_channels": 3,
    "image_size": 16,
    "channels": (4, 8),
    "latent_size": 3,
    "kernel_size": 5,
    "kernel_hidden_size": 9,
}


def batches(count=2, batch=6):
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.rand(batch, 3, 16, 16, generator=generator) * 2 - 1} for _ in range(count)]


def make_trainer(objective, loader, **arguments):
    torch.manual_seed(0)
    network = BlurVAE(**NETWORK | {"architecture": arguments.pop("architecture", "transposed")})
    own = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    return BlurVAETrainer(
        device="cpu",
        max_epochs=arguments.pop("max_epochs", 2),
        train_data_loader=loader,
        network=network,
        optimizer=torch.optim.Adam([*network.vae_parameters(), *own], 1e-3),
        kernel_optimizer=torch.optim.Adam(network.kernel_parameters(), 1e-3),
        loss_function=objective,
        **arguments,
    )


OBJECTIVES = {
    **{name: (name, "omit", {}) for name in VARIANTS},
    **{f"wiener {determinant}": ("wiener", determinant, {}) for determinant in ("epsilon", "exact", "fixed")},
    "l2 spectrum adversary": ("l2", "omit", {"spectrum": 0.1, "adversary": 0.1}),
}


def make_objective(name, folder):
    variant, determinant, extra = OBJECTIVES[name]
    term = make_term(variant, folder)
    if determinant in ("epsilon", "exact"):
        term = WienerLoss(detach_weight=False)
    weight = extra.get("spectrum")
    return ELBOLoss(term, determinant, auxiliary=[[weight, SpectrumLoss()]] if weight else (), kernel_size=5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_in_both_precisions(name, random_weights_dir):
    losses = {}
    for precision in ("float32", "bfloat16"):
        objective = make_objective(name, random_weights_dir)
        weight = OBJECTIVES[name][2].get("adversary")
        adversary = None if weight is None else Adversary(weight, in_channels=3, channels=4, layers=1)
        trainer = make_trainer(objective, batches(), precision=precision, adversary=adversary)
        before = copy.deepcopy(trainer.network.state_dict())
        trainer.run()
        after, output = trainer.network.state_dict(), trainer.state.output
        assert output["pred"].shape == (6, 3, 16, 16)
        assert output["loss"].dtype == torch.float32
        losses[precision] = output["loss"].item()
        changed = (after["decoder.output.conv.weight"] != before["decoder.output.conv.weight"]).flatten(1).all(1)
        assert changed.tolist() == [True] * 3
        kernel_weights = "kernel_generator.layers.0.weight"
        assert torch.equal(after[kernel_weights], before[kernel_weights]) is not objective.uses_kernel
        if objective.uses_kernel:
            assert output[BlurVAEKeys.KERNEL].shape == (6, 1, 5, 5)
    scale = max(abs(losses["float32"]), 3 * 256)  # nats, of which a density may have none
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.02 * scale)


@pytest.mark.parametrize("architecture", ["transposed", "upsample"])
def test_a_network_learns_which_channel_is_which(architecture):
    corners = list(itertools.product([-0.7, 0.7], repeat=3))
    colours = torch.tensor(corners).view(8, 3, 1, 1).expand(8, 3, 16, 16).clone()
    objective = ELBOLoss(WienerLoss(), beta=0.01, warmup_epochs=60)
    trainer = make_trainer(objective, [{"image": colours}], max_epochs=300, architecture=architecture)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 1e-2
    trainer.run()
    evaluator = BlurVAEEvaluator(device="cpu", val_data_loader=[{"image": colours}], network=trainer.network)
    evaluator.run()
    means = evaluator.state.output["pred"].mean((2, 3))
    assert torch.equal(means.sign(), torch.tensor(corners).sign())


# Pictures


RED, TEAL = (1.0, 0.0, 0.0), (0.0, 0.5, 0.5)


def flat(*colours, size=20):
    return torch.tensor(colours).view(len(colours), -1, 1, 1).expand(-1, -1, size, size).clone()


def test_a_figure_has_colours_and_grey_kernels_beside_them(tmp_path):
    x, y = flat(RED, TEAL), flat((0.75, 0.0, 0.25), TEAL)
    kernels = torch.zeros(2, 1, 5, 5)
    kernels[0, 0, 2, 2] = 0.3
    kernels[1, 0] = 0.04
    kernels[1, 0, 2, 2] = 0.02
    save_figure(reconstruction_figure(x, y, kernels, flat(TEAL, RED)), tmp_path / "figure.png")
    pixels = np.asarray(Image.open(tmp_path / "figure.png"))
    # five rows of a label of 22 and a picture of 60 with a gap of 4
    places = [[pixels[i * 86 + 22 + 30, 4 + 64 * j + 30].tolist() for j in range(2)] for i in range(5)]
    red, teal = [255, 0, 0], [0, 128, 128]
    assert places == [
        [red, teal],
        [[191, 0, 64], teal],
        [[128, 0, 128], [0, 0, 0]],  # twice the absolute error of each channel
        [[255, 255, 255], [128, 128, 128]],
        [teal, red],
    ]
    edge_of_kernel = pixels[3 * 86 + 22 + 2, [4 + 2, 4 + 64 + 2]]
    assert edge_of_kernel.tolist() == [[0, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(
    ("channels", "drawn"), [(1, (51, 51, 51)), (2, (51, 51, 51)), (3, (51, 102, 153)), (4, (51, 102, 153))]
)
def test_what_is_drawn_of_other_numbers_of_channels(channels, drawn):
    figure = draw_rows([FigureRow("", flat((0.2, 0.4, 0.6, 0.8)[:channels]))])
    assert tuple(figure[22 + 30, 4 + 30]) == drawn


def test_tensorboard_has_colours(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    images = flat(RED, TEAL, size=16) * 2 - 1
    trainer = make_trainer(ELBOLoss(WienerLoss()), [{"image": images}], max_epochs=1)
    network = trainer.network
    blue = torch.tensor([-1.0, -1.0, 0.6]).view(1, 3, 1, 1)
    network.decoder.forward = lambda z: blue.expand(len(z), 3, 16, 16) + 0 * z.sum()
    logits = network.kernel_generator.layers[2]
    with torch.no_grad():
        logits.weight.zero_()
        logits.bias.fill_(-50).view(5, 5)[2, 2] = 0  # a point, once it went through the softmax
    for group in (*trainer.optimizer.param_groups, *trainer.kernel_optimizer.param_groups):
        group["lr"] = 0.0
    shown = [{"image": image} for image in images]
    validator = BlurVAEEvaluator(device="cpu", val_data_loader=[{"image": images}], network=network)
    BlurVAETensorBoardHandler(lambda: tmp_path, network, shown, validator, interval=1, count=2).attach(trainer)
    trainer.run()
    events = accumulator.EventAccumulator(str(tmp_path), {accumulator.IMAGES: 0}).Reload()

    def pixels(tag, row, column, place=24):
        picture = np.asarray(Image.open(io.BytesIO(events.Images(tag)[0].encoded_image_string)))
        # a row is a label of 22 and a picture of 48 with a gap of 4
        return picture[row * 74 + 22 + place, 4 + 52 * column + place].tolist()

    tag = "input, reconstruction, sample"
    red, teal, drawn_blue = [255, 0, 0], [0, 128, 128], [0, 0, 204]
    assert [[pixels(tag, row, column) for column in range(2)] for row in range(3)] == [
        [red, teal],
        [drawn_blue, drawn_blue],
        [drawn_blue, drawn_blue],
    ]
    assert pixels("kernels", 0, 1) == [255, 255, 255]
    assert pixels("kernels", 0, 1, place=2) == [0, 0, 0]
