"""One object that takes images as people have them, and answers in their intensities."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRangePercentiles

import monai_blurvae
from monai_blurvae.errors import BlurVAEError, DataError, RunFolderError, SettingsError
from monai_blurvae.trained import TrainedModel
from monai_blurvae.trained.intensity import IntensityRule, from_network, to_network
from scripts import pack_bundle
from tests.volumes import HCP, ROOT, brain, save


@pytest.fixture(scope="module")
def run(finished_run):
    return finished_run[1]


@pytest.fixture(scope="module")
def model(run):
    return monai_blurvae.load(run)


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    """The zip."""
    return pack_bundle.zip_folder(pack_bundle.pack(run, tmp_path_factory.mktemp("packed")))


def volume(seed=7, shape=(48, 40, 44)):
    return brain(seed, shape).astype(np.float32)


def test_importing_the_package_imports_no_torch():
    code = "import sys, monai_blurvae; assert not {'torch', 'monai', 'numpy'} & set(sys.modules); monai_blurvae.load"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_run_a_folder_and_a_zip_give_the_same_model(model, packed, tmp_path):
    with zipfile.ZipFile(packed) as archive:
        archive.extractall(tmp_path)
    slice_ = volume()[:, 20]
    patch, intensity = slice_[8:40, 4:36], model.intensity(volume())
    for other in (monai_blurvae.load(packed), monai_blurvae.load(str(tmp_path / "hcp"))):
        np.testing.assert_array_equal(other.reconstruct(slice_), model.reconstruct(slice_))
        for likelihood in ("spectrum", "variance"):
            torch.testing.assert_close(
                other.log_prob(patch, intensity, likelihood), model.log_prob(patch, intensity, likelihood)
            )
        torch.testing.assert_close(other.sample(2, seed=3), model.sample(2, seed=3), rtol=0, atol=0)
        x = torch.rand(1, 1, 40, 40)
        torch.testing.assert_close(other.prior().log_prob(x, 0.1), model.prior().log_prob(x, 0.1))


def test_nothing_from_a_zip_is_run(packed, tmp_path):
    ran = tmp_path / "ran"
    changed = tmp_path / "evil.zip"
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/train.json"):
                config = json.loads(content)
                trap = f"$open({str(ran)!r}, 'w')"
                config["bundle_root"] = config["imports"] = config["network_def"]["spatial_dims"] = trap
                content = json.dumps(config).encode()
            target.writestr(name, content)
    monai_blurvae.load(changed).reconstruct(volume()[:, 20])
    assert not ran.exists()


@pytest.fixture
def identity(run, monkeypatch):
    """A model whose reconstruction is the image."""
    model = TrainedModel.load(run)
    monkeypatch.setattr(model.network, "reconstruct", lambda x: x)
    return model


AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "PSR": np.array([[0, 0, 1.0, 10], [-1.0, 0, 0, 20], [0, 1.0, 0, 30], [0, 0, 0, 1]]),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_a_volume_comes_back_in_its_orientation_and_intensities(identity, affine, tmp_path):
    array = volume()
    array[array == 0] = np.nan
    array = array * 3.5 + 100
    low, high = np.percentile(np.nan_to_num(array, nan=np.nanmin(array)), (1, 99))
    path = save(tmp_path / "t1.nii.gz", array, affine=affine)
    from_file = identity.reconstruct(path)
    assert identity.intensity(path) == pytest.approx((low, high), rel=1e-5)
    given = MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(affine))
    from_tensor = identity.reconstruct(given)
    assert isinstance(from_tensor, MetaTensor)
    np.testing.assert_allclose(from_tensor.affine, affine)
    np.testing.assert_allclose(from_file.affine, affine)
    for result in (from_file[0], from_tensor):
        np.testing.assert_allclose(result, array.clip(low, high), rtol=0, atol=1e-5 * (high - low))


@pytest.mark.parametrize("make", [lambda x: x, torch.from_numpy, lambda x: x[None], lambda x: x.astype(np.int16)])
def test_a_slice_comes_back_as_what_it_was(identity, make):
    given = make(volume()[:, 20])
    result = identity.reconstruct(given)
    assert type(result) is type(given)
    assert result.shape == given.shape
    low, high = identity.intensity(given)
    np.testing.assert_allclose(result, np.asarray(given).clip(low, high), rtol=0, atol=1e-5 * (high - low))


def test_an_axial_patch_is_seen_by_the_scans_intensity(model):
    scan = volume()
    intensity = model.intensity(scan)
    patches = np.stack([scan[None, 8:40, i, 4:36] for i in (12, 20, 28)])
    mu, log_var = model.encode(patches, intensity)
    low, high = intensity
    x = torch.from_numpy((patches - low) / (high - low) * 2 - 1).clamp(-1, 1)
    with torch.no_grad():
        expected = model.network.encode(x)
    torch.testing.assert_close((mu, log_var), expected, rtol=1e-5, atol=1e-5)
    assert model.log_prob(patches, intensity).shape == (3,)


def test_the_rule_is_the_trainings(run):
    rule = IntensityRule.of(json.loads((run / "config.json").read_text()))
    image = torch.from_numpy(volume())
    bounds = rule.bounds(image)
    expected = ScaleIntensityRangePercentiles(1, 99, -1.0, 1.0, clip=True)(image)
    scaled = to_network(image, bounds, rule.clip)
    torch.testing.assert_close(scaled, torch.as_tensor(expected), rtol=0, atol=1e-5)
    torch.testing.assert_close(from_network(scaled, bounds), image.clamp(*bounds), rtol=1e-5, atol=1e-3)


def scaling(**changes):
    transform = {"_target_": "ScaleIntensityRanged", "a_min": 0.0, "a_max": "@white", "b_min": -1, "b_max": 1}
    return {"white": 255, "train": {"random_transforms": [{**transform, **changes}]}}


def test_photographs_have_one_range_and_other_rules_are_not_guessed():
    assert IntensityRule.of(scaling()) == IntensityRule("value", 0.0, 255.0, False)
    assert IntensityRule.of(scaling(b_min=0)) is None
    assert IntensityRule.of(scaling(a_max="$255")) is None
    assert IntensityRule.of({}) is None


def test_an_unknown_rule_asks_for_the_intensity(run, tmp_path):
    made = copy(run, tmp_path)
    config = json.loads((made / "config.json").read_text())
    config["train"]["deterministic_transforms"].pop()
    (made / "config.json").write_text(json.dumps(config))
    model = monai_blurvae.load(made)
    with pytest.raises(SettingsError, match="give intensity"):
        model.reconstruct(volume()[:, 20])
    assert model.reconstruct(volume()[:, 20], intensity=(0, 900)).shape == (48, 44)


BAD = {
    "the image holds infinite values": np.full((40, 40), np.inf),
    "give an image that is not blank": np.zeros((40, 40)),
    "holds complex numbers": np.ones((40, 40), complex),
    r"has shape \(2, 2, 2, 40, 40\)": np.ones((2, 2, 2, 40, 40)),
    r"has shape \(40,\)": np.ones(40),
}


@pytest.mark.parametrize("message", BAD)
def test_images_that_cannot_be_used(model, message):
    with pytest.raises(DataError, match=message):
        model.reconstruct(BAD[message])


def test_a_patch_of_another_size_is_refused(model):
    with pytest.raises(DataError, match="cut patches"):
        model.encode(volume()[:, 20])


def copy(run, folder):
    return Path(shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("tensorboard", "*.png")))


def test_what_cannot_be_loaded_is_refused_in_a_sentence(run, packed, tmp_path):
    def refused(path, message):
        with pytest.raises(BlurVAEError, match=message) as error:
            monai_blurvae.load(path)
        assert "\n" not in str(error.value)

    refused(tmp_path / "nowhere", "is not there")
    refused(tmp_path, "holds no config.json")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(packed.read_bytes()[:20_000])
    refused(cut, "cannot be read as a zip")
    refused(run / "model.pt", "holds no configs/train.json")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(b'"monai-blurvae": "0.1', b'"monai-blurvae": "0.9'))
    refused(other, r"was made by monai-blurvae 0\.9\.0, and this is")
    unfinished = copy(run, tmp_path)
    (unfinished / "summary.json").unlink()
    refused(unfinished, "its training is not finished")


def test_a_bundle_without_densities_says_so(packed, tmp_path):
    bare = tmp_path / "bare.zip"
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(bare, "w") as target:
        for name in source.namelist():
            if not name.endswith("densities.pt"):
                target.writestr(name, source.read(name))
    model = monai_blurvae.load(bare)
    assert model.reconstruct(volume()[:, 20]).shape == (48, 44)
    with pytest.raises(RunFolderError, match="packed without densities"):
        model.prior()


def test_a_file_of_hcp(model, hcp_dir):
    path = hcp_dir / "103" / HCP
    result = model.reconstruct(path)
    array = nib.load(path).get_fdata()
    np.testing.assert_array_equal(result[0], model.reconstruct(array))
    low, high = model.intensity(path)
    assert low <= float(result.min()) < float(result.max()) <= high
