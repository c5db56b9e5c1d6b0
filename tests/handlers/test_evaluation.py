import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch.utils.data import DataLoader

from monai_blurvae.data.facts import DatasetFacts
from monai_blurvae.engines import BlurVAEEvaluator
from monai_blurvae.errors import DataError, RunFolderError
from monai_blurvae.handlers import EvaluationReportHandler
from monai_blurvae.handlers.evaluation import mean_and_std_text
from monai_blurvae.handlers.evaluation_record import ABOUT, EvaluationRecord
from monai_blurvae.metrics import additional_metrics, fit_likelihoods, key_metric
from monai_blurvae.metrics.likelihood import Densities, VarianceLikelihood
from monai_blurvae.networks import BlurVAE
from monai_blurvae.run_files import EVALUATION_NPZ

SIZE = 16


def make_network(channels=1):
    torch.manual_seed(0)
    return BlurVAE(in_channels=channels, image_size=SIZE, channels=(4, 8), latent_size=5, kernel_size=5).eval()


def make_images(count=10, channels=1):
    return torch.rand(count, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def patches(images):
    return [{"image": image, "subject": f"s{i // 4}", "position": (i, i + 1, i + 2)} for i, image in enumerate(images)]


def named(images):
    return [{"image": image, "subject": f"{i:03d}.jpg"} for i, image in enumerate(images)]


class Told(list):
    """A dataset that tells facts of itself."""

    def __init__(self, items, **facts):
        super().__init__(items)
        self._facts = DatasetFacts(**facts)

    def facts(self):
        return self._facts


def evaluate(folder, network, items, batch_size=4, **options):
    """The record, and the network's output for all images at once."""
    handler = EvaluationReportHandler(lambda: folder, network, **options)
    BlurVAEEvaluator(
        torch.device("cpu"),
        DataLoader(items, batch_size=batch_size),
        network,
        key_val_metric=key_metric(),
        additional_metrics=additional_metrics(),
        val_handlers=[handler],
    ).run()
    with torch.no_grad():
        output = network(torch.stack([item["image"] for item in items]))
    return EvaluationRecord.read(folder / EVALUATION_NPZ), output


def direct_power(images):
    """The radial power by a plain FFT of the windowed images and a loop over the frequencies."""
    n = images.shape[-1]
    window = np.outer(np.hanning(n + 1)[:-1], np.hanning(n + 1)[:-1])
    window /= math.sqrt((window**2).mean())
    power = np.abs(np.fft.fft2(images.double().numpy() * window, norm="ortho")) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(n, 1 / n), np.fft.fftfreq(n, 1 / n))).round()
    return np.array([power[..., radius == r].mean() for r in range(1, n // 2 + 1)])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_record_holds_means_over_all_images_and_examples(tmp_path, channels):
    network, images = make_network(channels), make_images(channels=channels)
    record, output = evaluate(tmp_path, network, named(images), count=4)
    np.testing.assert_allclose(record.image_power, direct_power(images), rtol=1e-4)
    np.testing.assert_allclose(record.reconstruction_power, direct_power(output.reconstruction), rtol=1e-4)
    np.testing.assert_allclose(record.frequencies, np.arange(1, SIZE // 2 + 1) / SIZE)
    posterior = torch.distributions.Normal(output.mu.double(), (0.5 * output.log_var.double()).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).mean(0)
    np.testing.assert_allclose(record.unit_kl, kl.detach(), rtol=1e-5)
    assert record.unit_kl.sum() == pytest.approx(record.about["metrics"]["kl"]["mean"], rel=1e-4)
    kernels = network.kernel(output.mu).detach()
    np.testing.assert_allclose(record.mean_kernel, kernels.mean(0)[0], rtol=1e-5)
    # of ten images every second is an example, until there are four
    np.testing.assert_array_equal(record.images, ((images[:8:2] + 1) * 127.5).round().numpy().astype(np.uint8))
    np.testing.assert_allclose(record.kernels, kernels[:8:2, 0], rtol=1e-5)
    assert record.reconstructions.shape == record.samples.shape == record.images.shape
    assert np.abs(record.reconstructions / 127.5 - 1 - output.reconstruction[:8:2].detach().numpy()).max() < 1 / 250


def test_more_batches_change_no_mean(tmp_path):
    network, items = make_network(), named(make_images())
    whole, parts = (evaluate(tmp_path / str(n), network, items, batch_size=n)[0] for n in (10, 3))
    for name in ("image_power", "reconstruction_power", "unit_kl", "mean_kernel"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-5)


def test_patches_have_subjects_and_places(tmp_path):
    facts = {"entries": [{"subject": name} for name in ("s0", "s1", "s2")], "kind": "patches"}
    sizes = [(0.7, 0.8), (0.5, 0.8), (2.0, 3.0)]
    items = Told(patches(make_images()), remark="SYNTHETIC images", voxel_sizes=sizes, **facts)
    record, _ = evaluate(tmp_path, make_network(), items, quarter_turns=1)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert list(rows[0]) == ["subject", "slice", "row", "column", "psnr", "ssim", "kl", "kernel_width"]
    assert [rows[5][name] for name in ("subject", "slice", "row", "column")] == ["s1", "5", "6", "7"]
    assert "10 patches of 3 subjects." in (tmp_path / "metrics.md").read_text()
    about = record.about
    assert (about["images"], about["subjects"], about["remark"]) == (10, 3, "SYNTHETIC images")
    assert about["title"] == "test, SYNTHETIC images"
    assert (about["voxel_size"], about["training_voxel_size"]) == ([0.7, 0.8], [0, 0])
    assert about["quarter_turns"] == 1


def test_images_have_names(tmp_path):
    images = make_images(channels=3)
    network = make_network(3)
    network.get_buffer("voxel_size").fill_(2.0)
    items = Told(named(images), remark="SAMPLE images")
    record, output = evaluate(tmp_path, network, items, title="all")
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert list(rows[0]) == ["image", "psnr", "ssim", "kl", "kernel_width"]
    assert rows[7]["image"] == "007.jpg"
    for row, x, y in zip(rows, images, output.reconstruction.detach(), strict=True):
        expected = peak_signal_noise_ratio(((x + 1) / 2).numpy(), ((y + 1) / 2).numpy(), data_range=1)
        assert float(row["psnr"]) == pytest.approx(expected, rel=1e-4)
    psnr = [float(row["psnr"]) for row in rows]
    assert record.about["metrics"]["psnr"]["mean"] == pytest.approx(np.mean(psnr), rel=1e-4)
    assert record.about["metrics"]["psnr"]["std"] == pytest.approx(np.std(psnr, ddof=1), rel=1e-3)
    assert record.about["evaluated_on"] == "10 images"
    assert record.about["subjects"] is None
    assert record.about["title"] == "all, SAMPLE images"
    assert record.about["training_voxel_size"] == [2, 2]
    text = (tmp_path / "metrics.md").read_text()
    assert "10 images." in text
    width = record.about["metrics"]["kernel_width"]["mean"]
    assert f"| kernel width (mm) | {2 * width:.3g} |" in text


def test_images_without_a_name_are_numbered(tmp_path):
    items = [{"image": image} for image in make_images(6)]
    record, _ = evaluate(tmp_path, make_network(), items)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["image"] for row in rows] == ["0", "1", "2", "3", "4", "5"]
    about = record.about
    assert (about["evaluated_on"], about["subjects"], about["voxel_size"], about["remark"]) == (
        "6 images",
        None,
        None,
        "",
    )
    assert "| PSNR (dB) |" in (tmp_path / "metrics.md").read_text()


def test_the_facts_are_those_of_the_dataset_that_is_named(tmp_path):
    items = named(make_images(4))
    record, _ = evaluate(tmp_path, make_network(), items, dataset=Told(items, remark="PHANTOM images"))
    assert record.about["title"] == "test, PHANTOM images"
    assert "# test, PHANTOM images" in (tmp_path / "metrics.md").read_text()


class Wrapped(torch.nn.Module):
    """As DistributedDataParallel wraps a network: its forward alone."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def test_a_wrapped_network_and_a_folder_that_is_a_path(tmp_path):
    network, items = make_network(), named(make_images(4))
    expected, _ = evaluate(tmp_path / "expected", network, items)
    handler = EvaluationReportHandler(str(tmp_path / "wrapped"), Wrapped(network))
    metrics = {"key_val_metric": key_metric(), "additional_metrics": additional_metrics()}
    loader = DataLoader(items, batch_size=4)
    BlurVAEEvaluator(torch.device("cpu"), loader, network, val_handlers=[handler], **metrics).run()
    record = EvaluationRecord.read(tmp_path / "wrapped" / EVALUATION_NPZ)
    assert record.about == expected.about
    np.testing.assert_array_equal(record.samples, expected.samples)


def test_the_same_samples_whatever_is_evaluated(tmp_path):
    network, images = make_network(), make_images()
    a, _ = evaluate(tmp_path / "a", network, named(images), count=3, seed=1)
    b, _ = evaluate(tmp_path / "b", network, named(-images), count=3, seed=1)
    np.testing.assert_array_equal(a.samples, b.samples)
    np.testing.assert_array_equal(a.sample_power, b.sample_power)
    assert (a.image_power != b.reconstruction_power).any()
    many = network.sample(4000, torch.Generator().manual_seed(2))
    np.testing.assert_allclose(np.log10(a.sample_power), np.log10(direct_power(many)), atol=0.1)


def test_a_second_evaluation_begins_anew(tmp_path):
    network, items = make_network(), named(make_images())
    handler = EvaluationReportHandler(lambda: tmp_path, network)
    evaluator = BlurVAEEvaluator(torch.device("cpu"), DataLoader(items, batch_size=4), network, val_handlers=[handler])
    evaluator.run()
    first = EvaluationRecord.read(tmp_path / EVALUATION_NPZ)
    evaluator.run()
    second = EvaluationRecord.read(tmp_path / EVALUATION_NPZ)
    assert second.about == first.about
    assert second.about["active_units"] is None  # the engine had no such metric
    np.testing.assert_array_equal(second.image_power, first.image_power)


def test_the_record_comes_back_as_it_was_and_runs_nothing(tmp_path):
    numbers, pixels = np.arange(3.0), np.zeros((1, 1, 2, 2), np.uint8)
    kernels, draws = np.ones((1, 3, 3)), [np.zeros((2, 1, 1, 2, 2), np.uint8)] * 2
    about = dict.fromkeys(ABOUT) | {"title": "ünit </script>", "voxel_size": [1.0, 2.0]}
    record = EvaluationRecord(
        pixels, pixels, pixels, kernels, kernels[0], *[numbers] * 4, *draws, *[numbers] * 3, about
    )
    record.write(tmp_path / EVALUATION_NPZ)
    assert [p.name for p in tmp_path.iterdir()] == [EVALUATION_NPZ]
    read = EvaluationRecord.read(tmp_path / EVALUATION_NPZ)
    assert read.about == json.loads(json.dumps(about))
    for name in EvaluationRecord._fields[:-1]:
        np.testing.assert_array_equal(getattr(read, name), getattr(record, name))
    pickled = {name: np.array([{}], object) for name in EvaluationRecord._fields}
    np.savez(tmp_path / "pickled.npz", **pickled)
    for name, content in (("empty.npz", b""), ("cut.npz", (tmp_path / EVALUATION_NPZ).read_bytes()[:300])):
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "other.npz", images=pixels)
    record._replace(about={"title": "of another version"}).write(tmp_path / "old.npz")
    for name in ("pickled.npz", "empty.npz", "cut.npz", "other.npz", "old.npz", "absent.npz"):
        with pytest.raises(RunFolderError, match=f"{name} cannot be read as the record of an evaluation"):
            EvaluationRecord.read(tmp_path / name)


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [(472.16, 239.08, "472.2 ± 240"), (17.414, 1.283, "17.41 ± 1.3"), (0.48, 0.12, "0.48 ± 0.12")],
)
def test_mean_and_standard_deviation_are_rounded_but_not_in_exponents(mean, std, text):
    assert mean_and_std_text(mean, std) == text


def fit(network, images, **options):
    return lambda: Densities(fit_likelihoods(network, images, uses_kernel=True, **options), "5 images")


@pytest.mark.parametrize("channels", [1, 3])
def test_draws_stand_beside_the_means(tmp_path, channels):
    network, images = make_network(channels), make_images(40, channels)
    plain, _ = evaluate(tmp_path / "plain", network, named(images), count=4)
    densities = fit(network, make_images(5, channels))
    record, output = evaluate(tmp_path / "drawn", network, named(images), count=4, densities=densities)
    names = ["variance", "kernel", "spectrum"]
    assert record.about["draws"]["likelihoods"] == names
    assert (record.about["draws"]["fitted_on"], record.about["draws"]["missing"]) == ("5 images", "")
    assert record.reconstruction_draws.shape == record.sample_draws.shape == (3, 4, channels, SIZE, SIZE)
    # means are those of an evaluation without draws, of the same latents
    for name in ("reconstructions", "samples", "reconstruction_power", "sample_power"):
        np.testing.assert_array_equal(getattr(record, name), getattr(plain, name))
    # independent of the mean: the power of white noise of variance s² is that of the mean and s² at every frequency
    variance = densities().likelihoods["variance"].variance
    expected = direct_power(output.reconstruction.detach()) + variance
    np.testing.assert_allclose(record.reconstruction_draw_power[0], expected, rtol=0.15)
    np.testing.assert_allclose(record.sample_draw_power[0], record.sample_power + variance, rtol=0.15)
    for name in names:
        # drawn around x̂ in [-1, 1], a pixel is outside at least as often as noise alone is
        assert 0.001 < record.about["draws"]["outside"][name] < 0.9
    for file, rows in (("samples.png", 2 + 3), ("reconstructions.png", 5 + 3)):
        with Image.open(tmp_path / "drawn" / file) as picture:
            assert picture.height == 22 + rows * (22 + 3 * SIZE + 4)


def test_the_table_has_the_bound_of_each_image(tmp_path):
    """Where q(z|x) is the prior and the decoder does not look at z it is log N(x; x̂, s²), whatever is drawn."""
    torch.manual_seed(0)
    network = BlurVAE(image_size=SIZE, channels=(4, 8), latent_size=5, kernel_size=5, kernel_hidden_size=8).eval()
    for weights in (network.decoder.expand[-1].weight, *network.encoder.posterior.parameters()):
        torch.nn.init.zeros_(weights)
    images = make_images(7)
    densities = Densities({"variance": VarianceLikelihood(0.3)}, "1 image")
    _, output = evaluate(tmp_path, network, named(images), densities=lambda: densities)
    normal = torch.distributions.Normal(output.reconstruction.double(), 0.3**0.5)
    expected = normal.log_prob(images.double()).flatten(1).sum(1)
    found = [float(row["elbo_variance"]) for row in csv.DictReader((tmp_path / "metrics.csv").open())]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    evaluate(tmp_path / "none", network, named(images))
    assert "elbo" not in (tmp_path / "none" / "metrics.csv").read_text()


def test_the_share_outside_is_that_of_the_normal_distribution(tmp_path):
    class Grey(BlurVAE):
        def decode(self, z):
            return torch.zeros(len(z), 1, SIZE, SIZE)

    network = Grey(image_size=SIZE, channels=(4, 8), latent_size=5, kernel_size=5).eval()
    densities = Densities({"variance": VarianceLikelihood(0.25)}, "1 image")
    record, _ = evaluate(tmp_path, network, named(make_images(400)), batch_size=50, densities=lambda: densities)
    share = math.erfc(1 / 0.5 / math.sqrt(2))
    error = math.sqrt(share / (400 * SIZE**2))
    assert record.about["draws"]["outside"]["variance"] == pytest.approx(share, abs=5 * error)
    np.testing.assert_allclose(record.reconstruction_draw_power[0], 0.25, rtol=0.1)


def test_without_validation_images_there_are_no_draws_but_all_else(tmp_path):
    def absent():
        raise DataError("s1.nii.gz is not there any more.")

    network, items = make_network(), named(make_images())
    for densities, why in ((absent, "s1.nii.gz is not there any more."), (None, "was given no fitted density")):
        record, _ = evaluate(tmp_path, network, items, densities=densities)
        assert why in record.about["draws"]["missing"]
        assert record.about["draws"]["likelihoods"] == []
        assert record.reconstruction_draws.shape == (0, 8, 1, SIZE, SIZE)
        assert record.sample_draw_power.shape == (0, SIZE // 2)
        assert (tmp_path / "samples.png").is_file()
