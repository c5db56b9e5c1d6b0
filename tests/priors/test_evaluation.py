import math

import pytest
import torch

from monai_blurvae.networks.patch_models import SIGMAS
from monai_blurvae.priors import CalibrationHandler, PatchVAEEvaluator, PatchVAEPrior, PriorReportHandler
from monai_blurvae.priors.evaluation import additional_metrics, key_metric
from tests.priors.models import ConstantDecoder, wiener_network


def evaluated(images, **arguments):
    """The evaluator after a run over batches of two images."""
    model = wiener_network()[0].float()
    evaluator = PatchVAEEvaluator(
        device="cpu",
        val_data_loader=[{"image": batch} for batch in images.split(2)],
        network=model,
        key_val_metric=key_metric(),
        additional_metrics=additional_metrics(),
        **arguments,
    )
    return evaluator, model


def model_images(count=6, size=64):
    """Images whose patches side by side are drawn from the model."""
    model, mean, variance = wiener_network()
    generator = torch.Generator().manual_seed(0)
    patches = (size // 8) ** 2
    noise = torch.randn(count * patches, 64, dtype=torch.float64, generator=generator)
    drawn = model.patches(mean + variance.sqrt() * noise).view(count, size // 8, size // 8, 8, 8)
    return drawn.transpose(2, 3).reshape(count, 1, size, size).float()


def test_of_its_own_images_the_log_density_is_minus_the_entropy():
    """One Gaussian for all latents: the bank has its density, the bound lacks the encoder's KL alone."""
    evaluator, _ = evaluated(model_images())
    evaluator.run()
    _, _, variance = wiener_network()
    patches = 6 * 64
    for sigma in SIGMAS:
        total = variance + (2 * sigma) ** 2
        entropy = 0.5 * (2 * math.pi * math.e * total).log().sum().item()
        found = evaluator.state.metrics[f"bank_{sigma:g}"]
        assert found == pytest.approx(-entropy, abs=5 * math.sqrt(32 / patches))
        bound = evaluator.state.metrics[f"elbo_{sigma:g}"] + evaluator.state.metrics[f"kl_{sigma:g}"]
        assert bound == pytest.approx(found, rel=1e-4)
    assert evaluator.state.metrics["log_p"] == evaluator.state.metrics["elbo_0.02"]


def test_the_noise_repeats_with_the_seed():
    images = model_images(2)
    values = []
    for seed in (0, 0, 1):
        evaluator, _ = evaluated(images, seed=seed)
        torch.manual_seed(len(values))
        evaluator.run()
        values.append(evaluator.state.metrics["log_p"])
    assert values[0] == values[1] != values[2]


def test_the_calibration_is_what_was_measured():
    evaluator, model = evaluated(model_images(2))
    CalibrationHandler(torch.nn.DataParallel(model)).attach(evaluator)
    evaluator.run()
    metrics = evaluator.state.metrics
    rows = [[sigma, metrics[f"elbo_{sigma:g}"], metrics[f"bank_{sigma:g}"]] for sigma in SIGMAS]
    torch.testing.assert_close(model.calibration, torch.tensor(rows))
    PatchVAEPrior(model)  # the bank of a model without latents misses nothing


def test_of_white_images_denoising_has_the_wiener_filters_error(tmp_path):
    """One variance for all coefficients: patches shrink alike, wherever they lie."""
    images = 0.3 * torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    evaluator, model = evaluated(images)
    white = 0.09 / model.scale.square()
    model.decoder = ConstantDecoder(torch.zeros(64), white)
    PriorReportHandler(tmp_path, model, None, title="held out").attach(evaluator)
    evaluator.run()
    pixels = 4 * 50 * 50
    for sigma in SIGMAS:
        error = 0.09 * (2 * sigma) ** 2 / (0.09 + (2 * sigma) ** 2) / 4
        spread = 10 / math.log(10) * math.sqrt(2 / pixels)
        assert evaluator.state.metrics[f"psnr_{sigma:g}"] == pytest.approx(-10 * math.log10(error), abs=5 * spread)
    table = (tmp_path / "metrics.md").read_text()
    assert table.startswith("# held out\n")
    assert "| 0.1 |" in table
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 5
