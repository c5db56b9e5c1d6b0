"""How unusual scans are, through the command: table, maps, resuming, errors."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import mahalanobis
from sklearn.metrics import roc_auc_score

from monai_blurvae.bundle.scoring import DISTANT
from monai_blurvae.metrics.scoring import DENSITIES, SCORES
from scripts import benchmark_scoring
from tests.commands import RUN, command
from tests.volumes import ROOT, brain, cause, run, save

SCORE = str(ROOT / "bundles/hcp/score.json")
FLIPPED = np.array([[0, 0, -1.0, 10], [-1.0, 0, 0, 20], [0, 1.0, 0, 30], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def trained(two_validation_run):
    return two_validation_run


def typed(trained, cache_dir, inputs, out):
    line = ["--config_file", SCORE, "--device", "cpu", "--run_dir", trained, "--cache_dir", cache_dir]
    line += ["--input", inputs, "--output_dir", out, "--importance_samples", "2"]
    return command(*RUN, "scoring", *line)


@pytest.fixture(scope="module")
def scored(trained, cache_dir, tmp_path_factory):
    """Two scans, one of them turned, through the command: (inputs, outputs)."""
    work = tmp_path_factory.mktemp("scored")
    save(work / "in" / "a.nii.gz", brain(10))
    save(work / "in" / "x" / "b.nii.gz", brain(11).astype(np.float32), affine=FLIPPED)
    done = typed(trained, cache_dir, work / "in", work / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    return work / "in", work / "out"


def table(out):
    return list(csv.DictReader((out / "scores.csv").open()))


def reference_of(trained, importance_samples=2):
    """What the run keeps of its validation subjects."""
    kept = [json.loads(path.read_text()) for path in sorted((trained / "scoring").rglob("*.json"))]
    return [one for one in kept if one["settings"]["importance_samples"] == importance_samples]


def test_the_table_has_slices_and_volumes_with_their_standing(trained, scored):
    """z and percentiles against scipy's, from the kept scores of the validation subjects."""
    reference = reference_of(trained)
    assert len(reference) == 2
    rows = table(scored[1])
    wholes = [row for row in rows if row["slice"] == "volume"]
    assert [row["scan"] for row in wholes] == ["a.nii.gz", "x/b.nii.gz"]
    for row in rows:
        whole = row["slice"] == "volume"
        for name in SCORES:
            known = [one["volume"][name] for one in reference]
            if not whole:
                known = [part[name] for one in reference for part in one["slices"]]
            value = float(row[name])
            np.testing.assert_allclose(float(row[f"{name}_z"]), stats.zmap(value, known, ddof=1), rtol=1e-3, atol=1e-3)
            expected = stats.percentileofscore(known, value, kind="mean")
            np.testing.assert_allclose(float(row[f"{name}_percentile"]), expected, atol=1e-3)
            if name in DENSITIES:
                distance = abs(value - np.mean(known))
                np.testing.assert_allclose(float(row[f"{name}_typicality"]), distance, rtol=1e-3, atol=1e-5)
    known = np.array([[part[name] for name in DISTANT] for one in reference for part in one["slices"]])
    inverse = np.linalg.inv(np.cov(known.T))
    for whole in wholes:
        slices = [row for row in rows if row["scan"] == whole["scan"] and row["slice"] != "volume"]
        weights = [int(row["patches"]) for row in slices]
        assert int(whole["patches"]) == sum(weights)
        mean = np.average([float(row["elbo"]) for row in slices], weights=weights)
        np.testing.assert_allclose(float(whole["elbo"]), mean, rtol=1e-4)
        values = np.array([[float(row[name]) for name in DISTANT] for row in slices])
        expected = [mahalanobis(value, known.mean(0), inverse) ** 2 for value in values]
        np.testing.assert_allclose([float(row["distance"]) for row in slices], expected, rtol=2e-2, atol=1e-2)
        np.testing.assert_allclose(float(whole["distance"]), np.mean(expected), rtol=2e-2)
        assert all(float(row["importance"]) >= float(row["elbo"]) for row in slices)


def test_the_maps_are_on_the_scans_grid_and_of_one_scale(trained, scored):
    inputs, out = scored
    voxels = [one["voxels"] for one in reference_of(trained)]
    count = sum(part["count"] for part in voxels)
    mean = sum(part["count"] * part["mean"] for part in voxels) / count
    std = np.sqrt(sum(part["count"] * part["mean_square"] for part in voxels) / count - mean**2)
    for name in ("a", "x/b"):
        scan = nib.load(inputs / f"{name}.nii.gz")
        stem = out / name / name.split("/")[-1]
        found, z = (nib.load(f"{stem}_neg_log_prob{end}.nii.gz") for end in ("", "_z"))
        assert found.shape == z.shape == scan.shape
        np.testing.assert_allclose(found.affine, scan.affine)
        inside = np.isfinite(found.get_fdata())
        assert inside.any()
        np.testing.assert_allclose(
            z.get_fdata()[inside], (found.get_fdata()[inside] - mean) / std, rtol=1e-4, atol=1e-4
        )


def test_what_is_finished_is_not_made_again_and_rows_are_kept(trained, cache_dir, scored, tmp_path):
    inputs, out = scored
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.suffix == ".gz" or "_score" in path.name}
    rows = table(out)
    score(trained, cache_dir, inputs, out)
    assert table(out) == rows
    other = save(tmp_path / "c.nii.gz", brain(12))
    score(trained, cache_dir, other, out)
    assert [row for row in table(out) if row["scan"] != "c.nii.gz"] == rows
    assert {path: path.stat().st_mtime_ns for path in before} == before
    text = sentence(trained, cache_dir, inputs, out, importance_samples=3)
    assert "scores.json is of other settings, importance_samples was 2 and is 3 now; choose another output_dir" in text


def score(trained, cache_dir, inputs, out, **settings):
    given = {"run_dir": str(trained), "cache_dir": cache_dir, "input": str(inputs), "output_dir": str(out)}
    run("scoring", SCORE, **(given | {"importance_samples": 2, "device": "cpu"} | settings))


def sentence(*arguments, **settings):
    with pytest.raises(RuntimeError) as error:
        score(*arguments, **settings)
    text = str(cause(error.value))
    assert "\n" not in text
    return text


def test_what_is_wrong_is_one_sentence_and_an_exit_code(trained, cache_dir, tmp_path, finished_run):
    good = save(tmp_path / "good.nii.gz", brain(1))
    done = typed(trained, cache_dir, tmp_path / "nothing.nii", tmp_path / "out")
    assert done.returncode == 1
    assert "nothing.nii does not exist; give a volume" in done.stderr
    text = sentence(trained, cache_dir, good, tmp_path / "out", likelihood="student")
    assert text == "likelihood is 'student'; choose spectrum, variance or kernel."
    assert "importance_samples is 0" in sentence(trained, cache_dir, good, tmp_path / "out", importance_samples=0)
    text = sentence(finished_run[1], cache_dir, good, tmp_path / "out")
    assert "has 1 validation subject(s), where at least 2 are needed to say what is usual; take a run with more" in text
    small = brain(1)
    small[8:, :, :] = 0
    text = sentence(trained, cache_dir, save(tmp_path / "small.nii.gz", small), tmp_path / "out")
    assert "small.nii.gz has no 32×32 patch with 25% foreground along slice_axis 1; lower min_foreground" in text
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scores.csv").write_text("name,score\n")
    text = sentence(trained, cache_dir, good, tmp_path / "mine")
    assert "scores.csv is there and was not made by this; choose another output_dir" in text
    assert (tmp_path / "mine" / "scores.csv").read_text() == "name,score\n"


def test_the_auroc_over_subjects_leaves_a_subjects_own_out():
    """Against scikit-learn's of each pair of subjects; a draw of one subject alone says nothing."""
    rng = np.random.default_rng(0)
    usual, unusual = ([rng.normal(shift, size=3) for _ in range(4)] for shift in (0, 1))
    value, low, high = benchmark_scoring.interval(usual, unusual, 500, 0)
    others = [(usual[j], unusual[i]) for i in range(4) for j in range(4) if i != j]
    expected = np.mean([roc_auc_score([0] * 3 + [1] * 3, np.concatenate(pair)) for pair in others])
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert low < value < high
    assert benchmark_scoring.interval(usual, [part + 9 for part in usual], 50, 0) == (1, 1, 1)
    np.testing.assert_allclose(benchmark_scoring.interval(usual[:2], usual[:2], 50, 0), 0.5)
    other = benchmark_scoring.interval(usual, unusual[:3], 50, 0, same_subjects=False)[0]
    truth = [0] * 12 + [1] * 9
    np.testing.assert_allclose(other, roc_auc_score(truth, np.concatenate(usual + unusual[:3])), rtol=1e-12)


def test_a_map_is_asked_where_a_lesion_is():
    """Against scikit-learn's AUROC over the voxels of the slices with a lesion; NaN is no anatomy."""
    found = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 8, 8)))
    found[0, :2] = torch.nan
    mask = torch.zeros(3, 8, 8, dtype=torch.bool)
    mask[0, 1:4, 2:5] = True
    told = benchmark_scoring.located(found, mask)
    values, truth = found[0, 2:].flatten(), mask[0, 2:].flatten()
    np.testing.assert_allclose(told["auroc"], roc_auc_score(truth, values), rtol=1e-12)
    assert told["hit"] == 0
    found[0, 3, 3] = 10
    assert benchmark_scoring.located(found, mask)["hit"] == 1
    assert benchmark_scoring.located(found, torch.zeros_like(mask)) is None


@pytest.mark.slow
def test_the_benchmark_and_again(trained, cache_dir, tmp_path):
    line = ["--run_dir", str(trained), "--cache_dir", cache_dir, "--output", str(tmp_path / "out"), "--every", "8"]
    line += ["--overlap", "0", "--importance_samples", "2", "--changes", "noise", "dark lesion", "--bootstrap", "20"]
    other = save(tmp_path / "other.nii.gz", brain(20))
    line += ["--strengths", "1", "2", "--others", str(other)]
    assert benchmark_scoring.main(line) == 0
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").rglob("*.json")}
    assert len(kept) == 2 * 5 + 1
    assert benchmark_scoring.main(line) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "records").rglob("*.json")}
    rows = list(csv.DictReader((tmp_path / "out" / "auroc.csv").open()))
    assert len(rows) == 2 * 5 * len(benchmark_scoring.SCORES)
    places = list(csv.DictReader((tmp_path / "out" / "locations.csv").open()))
    assert [(row["change"], row["strength"], row["map"]) for row in places] == [
        ("dark lesion", strength, name) for strength in "12" for name in benchmark_scoring.MAPS
    ]
    assert all(0 <= float(row["low"]) <= float(row["auroc"]) <= float(row["high"]) <= 1 for row in rows)


def test_the_benchmark_needs_two_scans(trained, cache_dir, tmp_path, capsys):
    line = ["--run_dir", str(trained), "--cache_dir", cache_dir, "--output", str(tmp_path), "--subjects", "1"]
    assert benchmark_scoring.main(line) == 1
    assert "there are 1 test scans, where an interval over subjects needs at least 2" in capsys.readouterr().err
