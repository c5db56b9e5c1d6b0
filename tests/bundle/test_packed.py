"""A packed bundle in an empty folder, its zip, and the model of the package do what the folder of a run does."""

import csv
import gc
import json
import shutil
import tempfile
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch

from monai_blurvae.runs import Run
from scripts import export, pack_bundle
from tests.bundle.test_scoring import reference_of
from tests.commands import RUN, command
from tests.pickles import Malicious
from tests.volumes import ROOT, brain, cause, run, save

BUNDLE = ROOT / "bundles/hcp"
GIVEN = ("--input", "../in", "--device", "cpu", "--output_dir")
LINES = (
    (*RUN, "inference", "--config_file", "configs/inference.json", *GIVEN, "../inferred"),
    (*RUN, "scoring", "--config_file", "configs/score.json", *GIVEN, "../scored"),
    (ROOT / "scripts/export.py", ".", "--output", "../exported", "--formats", "torchscript"),
)
"""What a user types in the folder."""


@pytest.fixture(scope="module")
def packed(two_validation_run, tmp_path_factory):
    """The zip."""
    return pack_bundle.zip_folder(pack_bundle.pack(two_validation_run, tmp_path_factory.mktemp("packed")))


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    save(folder / "a.nii.gz", brain(10, (36, 10, 36)))
    return folder


def do(run_id, config, run_dir, inputs, out, **settings):
    given = {"run_dir": str(run_dir), "input": str(inputs), "output_dir": str(out), "device": "cpu"}
    run(run_id, str(BUNDLE / config), **given, **settings)


@pytest.fixture(scope="module")
def by_run(two_validation_run, scans, cache_dir, tmp_path_factory):
    """Results of the run's folder."""
    out = tmp_path_factory.mktemp("by_run")
    do("inference", "inference.json", two_validation_run, scans, out / "inferred", cache_dir=cache_dir)
    do("scoring", "score.json", two_validation_run, scans, out / "scored", cache_dir=cache_dir)
    return out


def require_same_results(found, expected):
    """There are the same files, apart from pages, which need an extra, and the same maps."""
    names, others = (
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() and path.suffix != ".html"}
        for folder in (expected, found)
    )
    assert others == names
    maps = [name for name in names if name.endswith(".nii.gz")]
    assert maps
    for name in maps:
        values = [nib.load(folder / name).get_fdata() for folder in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-6, atol=1e-6, err_msg=name)


def rows_of(table):
    return list(csv.DictReader(table.open()))


@pytest.mark.slow
def test_the_zip_in_an_empty_folder_gives_the_values_of_the_run(packed, by_run, scans, two_validation_run, tmp_path):
    """Without the repository, the run, its images and its cache."""
    shutil.unpack_archive(packed, tmp_path)
    save(tmp_path / "in" / "a.nii.gz", nib.load(scans / "a.nii.gz").get_fdata().astype(np.int16))
    for line in LINES:
        done = command(*line, cwd=tmp_path / "hcp", BLURVAE_CACHE_DIR=tmp_path / "no cache")
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("inferred", "scored"):
        require_same_results(tmp_path / name, by_run / name)
    assert list((tmp_path / "inferred").rglob("*_blur_width.nii.gz"))
    found, expected = (rows_of(folder / "scored" / "scores.csv") for folder in (tmp_path, by_run))
    assert len(found) == len(expected) > 2
    for one, other in zip(found, expected, strict=True):
        assert one["scan"] == other["scan"]
        for column in one.keys() - {"scan", "slice"}:
            np.testing.assert_allclose(float(one[column]), float(other[column]), rtol=1e-6, err_msg=column)
    assert export.main([str(two_validation_run), "--output", str(tmp_path / "own"), "--formats", "torchscript"]) == 0
    networks = [torch.jit.load(tmp_path / name / "model.ts") for name in ("exported", "own")]
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(networks[0](x), networks[1](x))
    assert torch.equal(networks[0].log_prob(x), networks[1].log_prob(x))
    cards = [(tmp_path / name / "model_card.md").read_text() for name in ("exported", "own")]
    assert cards[0] == cards[1]


def test_a_zip_goes_where_a_run_goes(packed, by_run, scans, tmp_path):
    """Its results are those of the run, so that they are there already."""
    for run_id, config, name in (("inference", "inference", "inferred"), ("scoring", "score", "scored")):
        do(run_id, f"{config}.json", packed, scans, tmp_path / name, cache_dir=str(tmp_path / "no cache"))
        require_same_results(tmp_path / name, by_run / name)
        before = {path: path.stat().st_mtime_ns for path in (by_run / name).rglob("*.nii.gz")}
        do(run_id, f"{config}.json", packed, scans, by_run / name)
        assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_scores_of_the_validation_subjects_tell_nothing_of_who_they_are(packed, two_validation_run):
    listed = json.loads((two_validation_run / "datalist.json").read_text())
    with zipfile.ZipFile(packed) as archive:
        text = archive.read("hcp/models/reference.json").decode()
    content = json.loads(text)
    assert content.keys() == {"settings", "volumes"}
    assert [set(volume) for volume in content["volumes"]] == [{"slices", "volume", "voxels"}] * 2
    own = reference_of(two_validation_run, 16)
    assert content["volumes"] == [{name: one[name] for name in ("slices", "volume", "voxels")} for one in own]
    private = [str(item[key]) for item in listed["validation"] for key in ("image", "subject", "sha256")]
    private += [one["settings"][key] for one in own for key in ("input", "input_sha256")]
    assert not [value for value in private if f'"{value}"' in text]


def sentence(*arguments, **settings):
    with pytest.raises(RuntimeError) as error:
        do(*arguments, **settings)
    text = str(cause(error.value))
    assert "\n" not in text
    return text


def repacked(packed, path, **changed):
    """A zip whose members are changed: content, None for none, or a function of their names."""
    rename = changed.pop("rename", lambda name: name)
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = changed.get(name.rpartition("/")[2].partition(".")[0], source.read(name))
            if content is not None:
                target.writestr(rename(name), content)
    return path


def test_scores_of_other_settings_or_without_their_parts_are_refused(packed, scans, tmp_path):
    out, scoring = tmp_path / "out", ("scoring", "score.json")
    text = sentence(*scoring, packed, scans, out, importance_samples=4)
    held = f"{packed} holds the scores of its validation subjects with"
    assert (
        text == f"{held} importance_samples 16, but it is 4 now; leave importance_samples as it was, or take the run."
    )
    assert f"{held} likelihood 'spectrum', but it is 'kernel' now" in sentence(
        *scoring, packed, scans, out, likelihood="kernel"
    )
    bare = repacked(packed, tmp_path / "bare.zip", reference=None)
    text = sentence(*scoring, bare, scans, out)
    assert f"{bare} was packed without the scores of its validation subjects, which say what is usual; pack" in text
    bare = repacked(packed, tmp_path / "bare2.zip", linear=None)
    text = sentence(*scoring, bare, scans, out)
    assert text == (
        f"the linear model is fitted on the run's training images, but {bare} was packed without them; take the run."
    )
    bare = repacked(packed, tmp_path / "bare3.zip", densities=None)
    assert sentence(*scoring, bare, scans, out) == f"{bare} was packed without densities; pack the run again."
    assert not list(out.rglob("*.nii.gz"))


def test_a_model_in_half_precision_scores_nearly_the_same(packed, by_run, scans, two_validation_run, tmp_path):
    half = pack_bundle.pack(two_validation_run, tmp_path, linear="half")
    with zipfile.ZipFile(packed) as archive:
        assert (half / "models/linear.pt").stat().st_size < 0.5 * archive.getinfo("hcp/models/linear.pt").file_size
    do("scoring", "score.json", half, scans, tmp_path / "scored")
    found, expected = (rows_of(folder / "scored" / "scores.csv") for folder in (tmp_path, by_run))
    for one, other in zip(found, expected, strict=True):
        assert one["elbo"] == other["elbo"]
        np.testing.assert_allclose(float(one["linear"]), float(other["linear"]), atol=1e-3)


def test_nothing_of_a_zip_gets_out_of_its_folder_or_is_run_when_it_is_opened(packed, scans, tmp_path, monkeypatch):
    inner = tmp_path / "deep" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(inner))
    slipping = repacked(packed, tmp_path / "slipping.zip", rename=lambda name: f"../../{name}")
    with zipfile.ZipFile(slipping, "a") as archive:
        archive.writestr("../../evil.txt", "")
    found = Run(slipping)
    assert found.is_packed
    assert found.setting("patch_size", None) == 32
    assert found.path.is_relative_to(inner)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "slipping.zip"]
    monkeypatch.chdir(inner.parent)
    assert found.evaluation_dir().absolute() == inner.parent / "evaluation/0001"
    del found
    gc.collect()
    assert not list(inner.iterdir())
    torch.save({"encoder": Malicious(tmp_path / "ran")}, tmp_path / "model.pt")
    evil = repacked(packed, tmp_path / "evil.zip", model=(tmp_path / "model.pt").read_bytes())
    text = sentence("inference", "inference.json", evil, scans, tmp_path / "out")
    assert "evil_" in text
    assert "models/model.pt cannot be read" in text
    assert not (tmp_path / "ran").exists()


def test_what_is_no_packed_bundle_is_refused_in_a_sentence(packed, scans, tmp_path):
    def refused(path):
        return sentence("inference", "inference.json", path, scans, tmp_path / "out")

    assert f"{tmp_path / 'none.zip'} is not there; give the folder of a finished run" in refused(tmp_path / "none.zip")
    (tmp_path / "cut.zip").write_bytes(packed.read_bytes()[:9000])
    assert "cut.zip cannot be read as a zip" in refused(tmp_path / "cut.zip")
    bare = repacked(packed, tmp_path / "bare.zip", model=None)
    assert refused(bare) == f"{bare} holds no models/model.pt; give the zip that scripts/pack_bundle.py wrote."
    with zipfile.ZipFile(packed) as archive:
        metadata = archive.read("hcp/configs/metadata.json").replace(b'"monai-blurvae": "0.1', b'"monai-blurvae": "0.9')
    other = repacked(packed, tmp_path / "other.zip", metadata=metadata)
    assert "was made by monai-blurvae 0.9.0, and this is" in refused(other)


def test_the_model_that_comes_with_the_package_goes_by_its_word(tmp_path, monkeypatch):
    """Blur widths, −log p and scores without a training."""
    monkeypatch.chdir(tmp_path)
    affine = np.diag([0.7, 0.7, 0.7, 1])
    scan = save(tmp_path / "a.nii.gz", brain(1, (64, 3, 64)), affine=affine)
    do("inference", "inference.json", "sample_model", scan, tmp_path / "out")
    do("scoring", "score.json", "sample_model", scan, tmp_path / "scored")
    width = nib.load(tmp_path / "out/a/a_blur_width.nii.gz").get_fdata()
    assert 0 < width.min() <= width.max() <= 0.7 * np.hypot(5, 5)
    about = json.loads((tmp_path / "out/a/a_reconstruction.json").read_text())
    assert about["neg_log_prob"]["about"].startswith("fitted on the run's validation images")
    (whole,) = (row for row in rows_of(tmp_path / "scored/scores.csv") if row["slice"] == "volume")
    assert float(whole["distance"]) > 30  # a ball of waves is no brain, of which a slice is at 3 on average
