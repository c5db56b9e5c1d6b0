import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.distributions import Independent, Normal, kl_divergence

from monai_blurvae.errors import WeightsError
from monai_blurvae.functional import stationary_sample
from monai_blurvae.metrics import suite
from monai_blurvae.metrics.evaluated import Evaluated
from monai_blurvae.metrics.likelihood import Densities, dequantize, evidence_bounds, fit_likelihoods
from monai_blurvae.metrics.measures import MEASURES
from monai_blurvae.metrics.spectra import log_spectrum_distance
from monai_blurvae.metrics.suite import NO_KERNEL, Measure, measure_model
from monai_blurvae.networks import BlurVAE
from monai_blurvae.networks.perceptual import weight_shapes
from monai_blurvae.seeding import torch_rng
from monai_blurvae.yardstick import measure_network

SIZE = 32


@pytest.fixture(scope="module")
def weights_dir(tmp_path_factory):
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    weights = {key: torch.randn(shape, generator=generator) * 0.05 for key, shape in weight_shapes("alex").items()}
    torch.save({key: w.abs() if key.startswith("lin") else w for key, w in weights.items()}, folder / "lpips_alex.pt")
    return folder


@pytest.fixture(autouse=True)
def no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def channels(request):
    return request.param


@pytest.fixture(scope="module")
def network(channels):
    torch.manual_seed(0)
    sizes = {"image_size": SIZE, "latent_size": 6, "channels": (4, 8), "kernel_size": 5, "kernel_hidden_size": 8}
    network = BlurVAE(in_channels=channels, **sizes)
    with torch.no_grad():
        network(torch.rand(8, channels, SIZE, SIZE) * 2 - 1)  # running statistics of the batch norm
        network.encoder.posterior.weight *= 20
    return network


def levels(count, seed, channels):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, SIZE, SIZE), generator=generator) / 127.5 - 1


IMAGES, REFERENCE = (
    {channels: levels(count, seed, channels) for channels in (1, 3)} for count, seed in ((6, 1), (5, 2))
)


def images_of(network):
    return IMAGES[network.image_shape[0]]


def reference_of(network):
    return REFERENCE[network.image_shape[0]]


def evaluated(network, images, reference, *, uses_kernel=True, samples=3, seed=0, eight_bit=False):
    def fit():
        x = dequantize(reference, seed) if eight_bit else reference
        return Densities(fit_likelihoods(network, x, uses_kernel=uses_kernel, seed=seed), "the reference")

    return Evaluated.of(network, images, samples=samples, seed=seed, eight_bit=eight_bit, fit=fit)


def measure(network, weights_dir, **options):
    found = evaluated(network, images_of(network), reference_of(network), **options)
    no_kernel = "" if options.get("uses_kernel", True) else NO_KERNEL
    return measure_model(found, no_kernel=no_kernel, weights_dir=weights_dir)


@pytest.fixture(scope="module")
def measures(network, weights_dir):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "get_dir", lambda: str(weights_dir))
        return measure(network, weights_dir)


def test_every_key_has_a_value_or_a_reason(measures):
    assert list(measures) == list(MEASURES)
    for key, (value, reason) in measures.items():
        if key.startswith("fid_"):
            assert value is None
            assert "does not exist" in reason or "monai-blurvae[fid]" in reason
        else:
            assert isinstance(value, float), key
            assert math.isfinite(value), key
            assert reason == ""


def answers(network):
    network.eval()
    with torch.no_grad():
        mu, log_var = network.encode(images_of(network))
        result = mu, log_var, network.decode(mu), network.kernel(mu)
    network.train()
    return result


def test_quality_against_scikit_image(network, measures):
    reconstruction = ((answers(network)[2] + 1) / 2).numpy()
    image = ((images_of(network) + 1) / 2).numpy()
    pairs = list(zip(image, reconstruction, strict=True))
    psnr = np.mean([peak_signal_noise_ratio(x, y, data_range=1) for x, y in pairs])
    assert measures["psnr"].value == pytest.approx(psnr, rel=1e-5)
    ssim = []
    for x, y in pairs:
        # MONAI averages SSIM over the pixels whose window lies inside the image, without Bessel's correction.
        _, local = structural_similarity(
            x, y, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True, channel_axis=0
        )
        ssim.append(local[:, 5:-5, 5:-5].mean())
    assert measures["ssim"].value == pytest.approx(np.mean(ssim), abs=1e-4)


def test_latent_and_kernel_against_their_definitions(network, measures):
    mu, log_var, _, kernel = answers(network)
    posterior = Independent(Normal(mu, (0.5 * log_var).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    assert measures["kl"].value == pytest.approx(kl_divergence(posterior, prior).mean().item(), rel=1e-4)
    assert measures["active_units"].value == (mu.var(0) > 0.01).sum() > 0

    kernel = kernel[:, 0].numpy().astype(float)
    y, x = np.mgrid[-2:3, -2:3]
    means = [[(k * axis).sum() for axis in (x, y)] for k in kernel]
    widths = [np.sqrt((k * ((x - mx) ** 2 + (y - my) ** 2)).sum()) for k, (mx, my) in zip(kernel, means, strict=True)]
    assert measures["kernel_width"].value == pytest.approx(np.mean(widths), rel=1e-4)
    otf = np.abs(np.fft.fft2(kernel, s=(SIZE, SIZE)))
    assert 0 < measures["below_sqrt_c"].value < 1
    assert measures["below_sqrt_c"].value == pytest.approx((otf < np.sqrt(0.025)).mean())


class Delegate:
    """A model in another one's place."""

    def __init__(self, network):
        self.network = network

    def encode(self, x):
        return self.network.encode(x)

    def decode(self, z):
        return self.network.decode(z)

    def kernel(self, z):
        return self.network.kernel(z)


class Counting(Delegate):
    """Counts the images that it encodes, and the latents that it decodes."""

    def __init__(self, network):
        super().__init__(network.eval())
        self.encoded = self.decoded = 0

    def encode(self, x):
        self.encoded += len(x)
        return super().encode(x)

    def decode(self, z):
        self.decoded += len(z)
        return super().decode(z)


def test_an_image_is_encoded_once_and_its_mean_the_bounds_and_a_sample_are_decoded(network, weights_dir):
    counting, images = Counting(network), images_of(network)
    found = evaluated(counting, images, reference_of(network), samples=5)
    measure_model(found, weights_dir=weights_dir)
    measure_network(found, 1.0, None)
    count, fitted_on = len(images), len(reference_of(network))
    assert counting.encoded == count + fitted_on  # once for the fit
    assert counting.decoded == count * (1 + 5 + 1) + 4 * fitted_on
    network.train()


class Identity:
    """A model that is no module, whose latent is the image."""

    def __init__(self, channels):
        self.channels = channels

    def encode(self, x):
        return x.flatten(1), torch.full_like(x.flatten(1), -10.0)

    def decode(self, z):
        return z.view(-1, self.channels, SIZE, SIZE)

    def kernel(self, z):
        return torch.ones(len(z), 1, 1, 1)


def test_of_the_identity_reconstructions_are_the_images_and_samples_the_prior(weights_dir, channels):
    # White noise of standard deviation 0.25 is an image in [-1, 1]; samples are white noise of standard deviation 1.
    x = 0.25 * torch.randn(40, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    found = evaluated(Identity(channels), x, x, uses_kernel=False, samples=2)
    result = measure_model(found, no_kernel=NO_KERNEL, weights_dir=weights_dir)
    assert result["psnr"].value == 100
    assert result["ssim"].value == pytest.approx(1, abs=1e-5)
    assert result["lpips"].value == pytest.approx(0, abs=1e-6)
    assert result["spectrum_reconstruction"].value == pytest.approx(0)
    assert result["sharpness_reconstruction"].value == pytest.approx(1)
    assert result["spectrum_sample"].value == pytest.approx(math.log10(16), rel=0.05)
    assert result["sharpness_sample"].value == pytest.approx(16, rel=0.05)
    assert result["kl"].value == pytest.approx(channels * SIZE**2 * (0.25**2 + math.exp(-10) - 1 + 10) / 2, rel=0.01)
    assert result["nll_variance"].value == pytest.approx(result["nll_spectrum"].value, rel=0.05)
    assert result["mmd_alexnet"].value > 0


@pytest.mark.parametrize("eight_bit", [False, True])
def test_likelihoods_are_the_bounds_of_the_fitted_models(network, weights_dir, eight_bit):
    result = measure(network, weights_dir, eight_bit=eight_bit, seed=3)
    both = images_of(network), reference_of(network)
    x, reference = (dequantize(z, 3) if eight_bit else z for z in both)
    fitted = fit_likelihoods(network, reference, uses_kernel=True, seed=3)

    class OfTheLevels(Delegate):
        """Encodes the grey levels that were dequantised."""

        def encode(self, x):
            return network.encode(((x + 1) * 127.5).round() / 127.5 - 1 if eight_bit else x)

    network.eval()
    bounds = evidence_bounds(OfTheLevels(network), x, fitted, samples=3, seed=3)
    network.train()
    for name in ("variance", "kernel", "spectrum"):
        assert result[f"nll_{name}"].value == pytest.approx(-bounds[name].elbo.mean().item(), rel=1e-6)
        assert result[f"iw_nll_{name}"].value == pytest.approx(-bounds[name].importance.mean().item(), rel=1e-6)
        assert result[f"iw_nll_{name}"].value < result[f"nll_{name}"].value
    for name in ("variance", "spectrum"):
        dimensions = network.image_shape[0] * SIZE**2
        bits = result[f"nll_{name}"].value / math.log(2) / dimensions + (math.log2(127.5) if eight_bit else 0)
        assert result[f"bpd_{name}"].value == pytest.approx(bits)


def test_the_spectra_of_draws_are_those_of_images_drawn_by_hand(network, weights_dir):
    result = measure(network, weights_dir, seed=0)
    fitted = fit_likelihoods(network, reference_of(network), uses_kernel=True)
    mu, _, reconstruction, _ = answers(network)
    with torch.no_grad():
        for name, likelihood in fitted.items():
            drawn = likelihood.sample(reconstruction, mu, torch_rng(0, "draws", "reconstruction"))
            expected = log_spectrum_distance(drawn, images_of(network)).item()
            assert result[f"spectrum_reconstruction_draw_{name}"].value == pytest.approx(expected, rel=1e-4)


class Blind:
    """A model that knows the mean of its images alone; what is left, stationary noise, is all in the density."""

    def encode(self, x):
        mu = torch.zeros(len(x), 2, dtype=x.dtype)
        return mu, torch.zeros_like(mu)

    def decode(self, z):
        return torch.full((len(z), 1, SIZE, SIZE), 0.1, dtype=z.dtype)

    def kernel(self, z):
        return torch.ones(len(z), 1, 1, 1)


def test_draws_of_the_fitted_spectrum_have_the_spectrum_of_the_images(weights_dir):
    # a density with the images' own covariance draws images of their spectrum; one variance is flat, and the mean is 0
    noise = torch.randn(200, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    frequency = torch.hypot(torch.fft.fftfreq(SIZE)[:, None], torch.fft.rfftfreq(SIZE)[None])
    x = 0.1 + stationary_sample(noise, 1e-4 / (frequency + 0.05)[None, None] ** 3)
    found = evaluated(Blind(), x[:100], x[100:], uses_kernel=False, samples=1)
    result = measure_model(found, no_kernel=NO_KERNEL, weights_dir=weights_dir)
    for kind in ("reconstruction", "sample"):
        assert result[f"spectrum_{kind}_draw_spectrum"].value < 0.05
        assert result[f"spectrum_{kind}_draw_variance"].value > 0.3
        assert result[f"spectrum_{kind}"].value > 2
        assert result[f"spectrum_{kind}_draw_kernel"] == Measure(None, NO_KERNEL)


def test_all_is_deterministic_for_a_seed(network, weights_dir, measures):
    torch.manual_seed(12345)
    assert measure(network, weights_dir) == measures
    other = measure(network, weights_dir, seed=1)
    changed = {key for key in MEASURES if other[key] != measures[key]}
    sampled = {"spectrum_sample", "sharpness_sample", "mmd_alexnet", "frechet_alexnet"}
    assert changed == sampled | {key for key in MEASURES if "nll" in key or "bpd" in key or "draw" in key}


def test_without_a_kernel_its_measures_are_missing(network, weights_dir, measures):
    result = measure(network, weights_dir, uses_kernel=False)
    for key in MEASURES:
        if key in ("kernel_width", "below_sqrt_c", "nll_kernel", "iw_nll_kernel") or key.endswith("draw_kernel"):
            assert result[key] == Measure(None, NO_KERNEL)
        else:
            assert result[key] == measures[key]


@pytest.mark.parametrize(
    ("broken", "keys"),
    [
        ("relative_sharpness", {"sharpness_reconstruction", "sharpness_sample"}),
        ("bits_per_dimension", {key for key in MEASURES if "nll" in key or "bpd" in key}),
        ("lpips_distance", {"lpips"}),
    ],
)
def test_a_failure_does_not_lose_the_other_measures(network, weights_dir, measures, monkeypatch, broken, keys):
    def fail(*_, **__):
        raise WeightsError("it went wrong\nin two lines")

    monkeypatch.setattr(suite, broken, fail)
    result = measure(network, weights_dir)
    for key in MEASURES:
        assert result[key] == (Measure(None, "it went wrong") if key in keys else measures[key])


@pytest.mark.parametrize(
    ("error", "logged"), [(RuntimeError, True), (KeyError, True), (ImportError, False), (WeightsError, False)]
)
def test_a_failure_that_was_not_foreseen_is_logged_with_its_traceback(
    network, weights_dir, monkeypatch, caplog, error, logged
):
    def fail(*_, **__):
        raise error("it went wrong")

    monkeypatch.setattr(suite, "lpips_distance", fail)
    with caplog.at_level("WARNING"):
        measure(network, weights_dir)
    records = [record for record in caplog.records if record.name == suite.__name__ and record.exc_info]
    assert [record.getMessage() for record in records] == (["no lpips"] if logged else [])


def test_a_value_that_is_not_finite_is_missing(network, weights_dir, monkeypatch):
    monkeypatch.setattr(Evaluated, "kernel_widths", torch.full((6,), math.nan))
    result = measure(network, weights_dir)
    assert result["kernel_width"] == Measure(None, "the value is nan")
    assert result["below_sqrt_c"].value is not None


def test_float_images_as_eight_bit_leave_a_reason(network, weights_dir):
    found = evaluated(network, images_of(network) * 0.9, reference_of(network), eight_bit=True)
    result = measure_model(found, weights_dir=weights_dir)
    assert result["bpd_variance"].value is None
    assert "not 8-bit images" in result["bpd_variance"].reason
    assert result["psnr"].value is not None


def test_the_network_is_left_as_it_was(network, weights_dir):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    stride = network.decoder.output.conv.weight.stride()
    measure(network, weights_dir)
    assert network.training
    assert network.decoder.output.conv.weight.stride() == stride
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_without_images_there_is_nothing_to_evaluate(network, channels):
    with pytest.raises(ValueError, match="an evaluation needs images"):
        Evaluated.of(network, torch.zeros(0, channels, SIZE, SIZE))
