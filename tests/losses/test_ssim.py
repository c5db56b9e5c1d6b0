import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from monai_blurvae.losses.pixelwise import StructuralSimilarityLoss

TOLERANCE = {"rtol": 1e-4, "atol": 1e-3}  # MONAI computes in float32, and a value here is a sum over some 600 numbers


def data(channels=1, batch=2, size=(13, 16)):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64) * 2 - 1
    noise = torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64) - 0.5
    return (x + noise).clamp(-1, 1), x


def reference(reconstruction, image):
    """D · (1 − SSIM) by scikit-image in float64, one ``(C, H, W)`` array in [−1, 1] each."""
    ssim = structural_similarity(
        (reconstruction + 1) / 2,
        (image + 1) / 2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1.0,
        channel_axis=0,
    )
    return image.size * (1 - ssim)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(13, 16), (11, 11), (24, 20)])
def test_value_is_that_of_scikit_image(channels, size):
    y, x = data(channels, size=size)
    expected = torch.tensor([reference(a, b) for a, b in zip(y.numpy(), x.numpy(), strict=True)])
    torch.testing.assert_close(StructuralSimilarityLoss("none")(y, x), expected.float(), **TOLERANCE)


@pytest.mark.parametrize("channels", [1, 3])
def test_gradient_is_the_finite_difference_of_scikit_image(channels):
    # float64 all the way, so a far sharper check than finite differences of the term itself in float32
    y, x = data(channels, batch=1, size=(12, 13))
    y.requires_grad_()
    StructuralSimilarityLoss()(y, x).backward()
    step = 1e-5
    expected = np.zeros(y[0].numel())
    for i in range(0, expected.size, 5):
        shift = np.zeros(expected.size)
        shift[i] = step
        shift = shift.reshape(y[0].shape)
        image, reconstruction = x[0].numpy(), y[0].detach().numpy()
        difference = reference(reconstruction + shift, image) - reference(reconstruction - shift, image)
        expected[i] = difference / (2 * step)
    torch.testing.assert_close(
        y.grad.flatten()[::5], torch.from_numpy(expected[::5]), rtol=1e-3, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.filterwarnings("ignore:Input #")  # gradcheck would rather have float64, which MONAI turns into float32
def test_gradients():
    y, x = (value.float().requires_grad_() for value in data(channels=3, batch=1, size=(11, 12)))
    # a step that float32 resolves
    assert torch.autograd.gradcheck(StructuralSimilarityLoss(), (y, x), eps=1e-2, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_perfect_reconstruction_costs_nothing(channels):
    x = data(channels)[1].float()
    assert StructuralSimilarityLoss()(x, x).item() == pytest.approx(0, abs=1e-6 * x[0].numel())


def test_volumes():
    x = data(size=(11, 12))[1].float()[..., None].expand(-1, -1, -1, -1, 11)
    value = StructuralSimilarityLoss("none")(-x, x)
    # constant along the last axis, a volume has the SSIM of its slices
    torch.testing.assert_close(value, 11 * StructuralSimilarityLoss("none")(-x[..., 0], x[..., 0]), **TOLERANCE)


def test_reductions_and_independence_of_the_batch():
    y, x = (value.float() for value in data(channels=3, batch=4))
    each = StructuralSimilarityLoss("none")(y, x)
    assert each.shape == (4,)
    torch.testing.assert_close(StructuralSimilarityLoss("mean")(y, x), each.mean())
    torch.testing.assert_close(StructuralSimilarityLoss("sum")(y, x), each.sum())
    torch.testing.assert_close(StructuralSimilarityLoss("none")(y[1:2], x[1:2]), each[1:2])
    assert not StructuralSimilarityLoss.is_likelihood


@pytest.mark.parametrize("shape", [(1, 1, 10, 12), (1, 1, 12)])
def test_images_that_the_window_does_not_fit(shape):
    with pytest.raises(ValueError, match="SSIM needs"):
        StructuralSimilarityLoss()(torch.zeros(shape), torch.zeros(shape))
