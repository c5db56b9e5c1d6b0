import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from monai_blurvae.losses import KernelLoss, L2Loss, WienerLoss
from monai_blurvae.losses.wiener import BOUNDARIES
from tests.dense import circulant, random_kernel, wiener_matrix

SIZE = (5, 6)


def data(channels=1, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, channels, *SIZE, generator=generator, dtype=torch.float64) * 2 - 1
    y = torch.rand(batch, channels, *SIZE, generator=generator, dtype=torch.float64) * 2 - 1
    kernel = torch.stack([random_kernel((3, 3), seed) for seed in range(batch)])[:, None]
    return x, y, kernel


def covariance(kernel, channels, c=0.025):
    w = wiener_matrix(circulant(kernel[0], SIZE), c)
    return torch.block_diag(*[torch.linalg.inv(w.T @ w)] * channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_wiener_log_prob_is_the_dense_gaussian(channels):
    mean, x, kernel = data(channels)
    expected = [
        MultivariateNormal(m.flatten(), covariance(k, channels)).log_prob(xi.flatten())
        for m, xi, k in zip(mean, x, kernel, strict=True)
    ]
    torch.testing.assert_close(WienerLoss().log_prob(mean, x, kernel), torch.stack(expected))


@pytest.mark.parametrize("channels", [1, 3])
def test_l2_log_prob_is_the_unit_gaussian(channels):
    mean, x, _ = data(channels)
    torch.testing.assert_close(L2Loss().log_prob(mean, x), Normal(mean, 1.0).log_prob(x).flatten(1).sum(1))


@pytest.mark.parametrize("channels", [1, 3])
def test_kernel_loss_is_the_dense_residual(channels):
    reconstruction, x, kernel = data(channels)
    expected = [
        ((circulant(k[0], SIZE) @ xi.flatten(1).T).T - r.flatten(1)).square().sum()
        for r, xi, k in zip(reconstruction, x, kernel, strict=True)
    ]
    term = KernelLoss(boundary="circular", reduction="none")
    torch.testing.assert_close(term(reconstruction, x, kernel), torch.stack(expected))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("term", [L2Loss, WienerLoss, KernelLoss])
def test_reductions_and_independence_of_the_batch(term, channels):
    y, x, kernel = data(channels, batch=4)
    each = term(reduction="none")(y, x, kernel)
    assert each.shape == (4,)
    torch.testing.assert_close(term(reduction="mean")(y, x, kernel), each.mean())
    torch.testing.assert_close(term(reduction="sum")(y, x, kernel), each.sum())
    torch.testing.assert_close(term(reduction="none")(y[1:2], x[1:2], kernel[1:2]), each[1:2])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("term", [L2Loss(), WienerLoss()])
def test_a_perfect_reconstruction_costs_nothing(term, channels):
    _, x, kernel = data(channels)
    assert term(x, x, kernel).item() == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_a_perfect_blur_costs_the_kernel_nothing(channels):
    _, x, kernel = data(channels)
    blurred = torch.stack(
        [(circulant(k[0], SIZE) @ xi.flatten(1).T).T.reshape(xi.shape) for xi, k in zip(x, kernel, strict=True)]
    )
    for boundary in BOUNDARIES:
        assert KernelLoss(boundary)(blurred, x, kernel).item() == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_blur_wiener_is_l2_over_one_plus_c_squared(channels):
    y, x, _ = data(channels)
    delta = torch.zeros(2, 1, 3, 3, dtype=torch.float64)
    delta[..., 1, 1] = 1
    torch.testing.assert_close(WienerLoss(c=0.25)(y, x, delta), L2Loss()(y, x) / 1.25**2)


@pytest.mark.parametrize(
    "term",
    [L2Loss(), *(WienerLoss(weighting=w, detach_weight=False) for w in ("wiener", "bounded_inverse", "flat"))],
    ids=["l2", "wiener", "bounded inverse", "flat"],
)
def test_gradients(term):
    y, x, kernel = data(channels=3)
    assert torch.autograd.gradcheck(term, (y.requires_grad_(), x.requires_grad_(), kernel.requires_grad_()))
    for boundary in BOUNDARIES:
        assert torch.autograd.gradcheck(KernelLoss(boundary), (y, x, kernel))


def test_detach_weight():
    y, x, kernel = data()
    kernel.requires_grad_()
    y.requires_grad_()
    WienerLoss(detach_weight=True)(y, x, kernel).backward()
    assert kernel.grad is None
    assert y.grad is not None
    WienerLoss(detach_weight=False)(y, x, kernel).backward()
    assert kernel.grad.abs().sum() > 0


def test_bad_arguments():
    y, x, _ = data()
    with pytest.raises(ValueError, match="reduction"):
        L2Loss("batchmean")
    with pytest.raises(ValueError, match="C must be a positive"):
        WienerLoss(c=0)
    with pytest.raises(ValueError, match="boundary"):
        KernelLoss("zeros")
    with pytest.raises(ValueError, match="shape"):
        L2Loss()(y, x[..., 1:])
    with pytest.raises(ValueError, match="kernel"):
        WienerLoss()(y, x)


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_weights_are_the_squared_error_times_the_mean_square_of_the_dense_weights(channels):
    y, x, kernel = data(channels)
    n = SIZE[0] * SIZE[1]
    w = [wiener_matrix(circulant(k[0], SIZE), 0.025) for k in kernel]
    scale = torch.stack([m.square().sum() / n for m in w])  # the trace of WᵀW over N
    expected = 0.5 * scale * (x - y).square().flatten(1).sum(1)
    term = WienerLoss(weighting="flat", reduction="none")
    torch.testing.assert_close(term(y, x, kernel), expected)
    gaussians = [Normal(m, s.rsqrt()).log_prob(xi).sum() for m, s, xi in zip(y, scale, x, strict=True)]
    torch.testing.assert_close(term.log_prob(y, x, kernel), torch.stack(gaussians))
