import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from monai_blurvae.functional import gaussian_log_normalizer
from monai_blurvae.losses import ELBOLoss, SigmaVAELoss, SpectralGaussianLoss, WienerLoss
from monai_blurvae.networks import VAEOutput
from tests.dense import circulant, random_kernel, wiener_matrix

SIZE = (6, 5)
PIXELS = 30


def pair(batch=3, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.rand(batch, channels, *SIZE, generator=generator, dtype=torch.float64) - 0.5 for _ in range(2))
    kernel = torch.stack([random_kernel((3, 3), i) for i in range(batch)])[:, None]
    return y, x, kernel


def dense_covariance(term):
    """The circulant matrix whose eigenvalues are the variances of the full spectrum."""
    spectrum = term.variance().double()
    autocorrelation = torch.fft.irfft2(spectrum.expand(SIZE[0], SIZE[1] // 2 + 1), s=SIZE)
    index = [(a, b) for a in range(SIZE[0]) for b in range(SIZE[1])]
    rows = [[autocorrelation[(a - c) % SIZE[0], (b - d) % SIZE[1]] for c, d in index] for a, b in index]
    return torch.stack([torch.stack(row) for row in rows])


def fitted(term, channels=1):
    term = term.double()
    y, x, kernel = pair(64, channels, seed=9)
    term.update(y, x, kernel)
    return term


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("tempering", [0.0, 0.3, 1.0])
def test_spectral_log_prob_is_the_dense_gaussian(tempering, channels):
    term = fitted(SpectralGaussianLoss(SIZE, tempering), channels)
    y, x, _ = pair(channels=channels)
    dense = MultivariateNormal(torch.zeros(PIXELS, dtype=torch.float64), dense_covariance(term))
    torch.testing.assert_close(term.log_prob(y, x), dense.log_prob((x - y).flatten(2)).sum(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_sigma_vae_log_prob_is_the_normal_with_the_batch_variance(channels):
    term = fitted(SigmaVAELoss(), channels)
    y0, x0, _ = pair(64, channels, seed=9)
    y, x, _ = pair(channels=channels)
    expected = Normal(y, (x0 - y0).square().mean().sqrt()).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(term.log_prob(y, x), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [lambda w: SigmaVAELoss(w), lambda w: SpectralGaussianLoss(SIZE, 1.0, w)])
def test_whitened_log_prob_is_the_dense_gaussian(make, channels):
    term = fitted(make(WienerLoss(c=0.1)), channels)
    y, x, kernel = pair(channels=channels)
    for i in range(len(x)):
        w = wiener_matrix(circulant(kernel[i, 0], SIZE), 0.1)
        covariance = torch.linalg.inv(w) @ dense_covariance(term) @ torch.linalg.inv(w).T
        dense = MultivariateNormal(y[i].flatten(), torch.block_diag(*[0.5 * (covariance + covariance.T)] * channels))
        torch.testing.assert_close(term.log_prob(y, x, kernel)[i], dense.log_prob(x[i].flatten()))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("make", [SigmaVAELoss, lambda: SpectralGaussianLoss(SIZE)])
def test_no_other_variance_makes_the_batch_likelier(make, channels):
    term = fitted(make(), channels)
    y, x, _ = pair(64, channels, seed=9)
    best = term.log_prob(y, x).mean()
    generator = torch.Generator().manual_seed(3)
    power = term.power.clone()
    for _ in range(20):
        term.power = power * (1 + 0.2 * torch.randn(power.shape, generator=generator, dtype=torch.float64)).abs()
        assert term.log_prob(y, x).mean() < best


@pytest.mark.parametrize("channels", [1, 3])
def test_tempering_has_the_likeliest_scale(channels):
    term = fitted(SpectralGaussianLoss(SIZE, 0.4), channels)
    y, x, _ = pair(64, channels, seed=9)
    power, variance, best = term.power.clone(), term.variance(), term.log_prob(y, x).mean()
    for factor in (0.9, 1.1):
        term.power = power * factor
        torch.testing.assert_close(term.variance(), variance * factor)
        assert term.log_prob(y, x).mean() < best


def test_the_running_mean_is_normalised_from_the_first_batch_on():
    term = SigmaVAELoss(decay=0.75).double()
    assert term.variance() == 1
    zeros = torch.zeros(2, 1, *SIZE, dtype=torch.float64)
    term.update(zeros, zeros + 2.0)
    torch.testing.assert_close(term.variance(), torch.tensor(4.0, dtype=torch.float64))
    term.update(zeros, zeros + 1.0)
    torch.testing.assert_close(term.variance(), torch.tensor((0.75 * 4 + 1) / 1.75, dtype=torch.float64))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "make", [SigmaVAELoss, lambda: SpectralGaussianLoss(SIZE, 0.5), lambda: SigmaVAELoss(WienerLoss())]
)
def test_gradients_and_independence_of_the_batch(make, channels):
    term = fitted(make(), channels)
    y, x, kernel = pair(channels=channels)
    assert torch.autograd.gradcheck(lambda r: term.per_image(r, x, kernel), y.clone().requires_grad_())
    torch.testing.assert_close(term.per_image(y[1:2], x[1:2], kernel[1:2]), term.per_image(y, x, kernel)[1:2])
    again = term.per_image(x, x, kernel)
    nearest = torch.autograd.functional.jacobian(lambda r: term.per_image(r, x, kernel).sum(), x)
    assert torch.equal(nearest, torch.zeros_like(x))
    assert bool((again < term.per_image(y, x, kernel)).all())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("weighting", ["wiener", "bounded_inverse", "flat"])
@pytest.mark.parametrize("make", [lambda w: SigmaVAELoss(w), lambda w: SpectralGaussianLoss(SIZE, 0.5, w)])
def test_the_gradient_through_the_whitening_weight(make, weighting, channels):
    y, x, kernel = pair(channels=channels)
    kernel.requires_grad_()
    kept = fitted(make(WienerLoss(c=0.1, weighting=weighting, detach_weight=False)), channels)
    assert not kept.detach_weight
    assert torch.autograd.gradcheck(lambda k: kept.per_image(y, x, k), kernel)
    (gradient,) = torch.autograd.grad(kept.per_image(y, x, kernel).sum(), kernel)
    assert bool(gradient.abs().sum() > 0)
    detached = fitted(make(WienerLoss(c=0.1, weighting=weighting)), channels)
    assert detached.detach_weight
    assert not detached.per_image(y, x, kernel).requires_grad


@pytest.mark.parametrize("make", [SigmaVAELoss, lambda: SpectralGaussianLoss(SIZE, 0.5)])
def test_a_call_in_training_takes_the_batch_first_and_one_in_evaluation_does_not(make):
    y, x, _ = pair()
    called, updated = make().double(), make().double()
    value = called(y.requires_grad_(), x)
    updated.update(y.detach(), x)
    torch.testing.assert_close(called.variance(), updated.variance())
    torch.testing.assert_close(value, updated.per_image(y, x, None).mean())
    assert not called.power.requires_grad
    before = called.variance().clone()
    called.eval().reduction = "none"
    torch.testing.assert_close(called(y[1:2], x[1:2]), called(y, x)[1:2])
    assert torch.equal(called.variance(), before)


@pytest.mark.parametrize("size", [(6, 4), (5, 6), (12, 10)])  # of these, (6, 4) has a half spectrum of the same shape
def test_images_of_another_size_are_refused(size):
    term = SpectralGaussianLoss(SIZE)
    images = torch.zeros(2, 1, *size)
    for mode in (True, False):
        with pytest.raises(
            ValueError, match=r"the images have size \(.*\), but image_size of Spectral.* says \(6, 5\)"
        ):
            term.train(mode)(images, images)
    assert term.total_weight == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_objective_updates_in_training_alone(channels):
    y, x, _ = pair(channels=channels)
    zeros = torch.zeros(3, 4, dtype=torch.float64)
    output = VAEOutput(y, zeros, zeros, zeros)
    objective = ELBOLoss(SigmaVAELoss().double())
    objective.eval()(output, x)
    assert objective.term.total_weight == 0
    terms = objective.train()(output, x)
    mean_square = (x - y).square().mean()
    expected = 0.5 * PIXELS * channels * (1 + mean_square.log())
    torch.testing.assert_close(terms.loss, expected)
    log_prob = objective.term.log_prob(y, x).mean()
    torch.testing.assert_close(-terms.loss - gaussian_log_normalizer(PIXELS * channels), log_prob)


def test_bad_arguments():
    with pytest.raises(ValueError, match="decay"):
        SigmaVAELoss(decay=1.0)
    with pytest.raises(ValueError, match="tempering"):
        SpectralGaussianLoss(SIZE, tempering=1.5)
