"""Inference on files as people have them: a volume in its own space, or one sentence and nothing half-written."""

import errno
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser

from monai_blurvae.networks import BlurVAE
from tests.volumes import ROOT, TINY, brain, cause, run, save

INFERENCE = str(ROOT / "bundles/hcp/inference.json")
SIZES = {name: TINY[name] for name in ("patch_size", "channels", "latent_size", "kernel_size", "device")}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    torch.manual_seed(0)
    network = BlurVAE(2, 1, 32, TINY["latent_size"], TINY["channels"], TINY["kernel_size"])
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.save(network.state_dict(), path)
    return str(path)


def reconstruct(folder, out, model_file, pattern="*.nii*"):
    settings = {"dataset_dir": str(folder), "image_pattern": pattern, "output_dir": str(out), "model_file": model_file}
    run("inference", INFERENCE, batch_size=64, **settings, **SIZES)
    return sorted(out.rglob("*_reconstruction.nii.gz"))


def reconstruct_these(images, out, model_file):
    parser = ConfigParser(ConfigParser.load_config_file(INFERENCE))
    parser.update(pairs={"data": [{"image": str(image)} for image in images], "output_dir": str(out)} | SIZES)
    parser.update(pairs={"model_file": model_file, "batch_size": 64, "dataset_dir": str(Path(images[0]).parent)})
    parser.get_parsed_content("evaluator").run()
    return sorted(out.rglob("*.nii.gz"))


def test_nan_stays_nan_and_is_background_to_all_else(tmp_path, model_file):
    array = brain(1, (40, 36, 38)).astype(np.float32)
    masked = np.where(array > 0, array, np.nan)
    affine = np.array([[0, 0, -1.0, 10], [-1.0, 0, 0, 20], [0, 1.0, 0, 30], [0, 0, 0, 1]])
    save(tmp_path / "in" / "nan.nii", masked, affine=affine)
    save(tmp_path / "in" / "plain.nii", np.where(array > 0, array, array[array > 0].min()), affine=affine)
    results = [nib.load(path).get_fdata() for path in reconstruct(tmp_path / "in", tmp_path / "out", model_file)]
    np.testing.assert_array_equal(np.isnan(results[0]), np.isnan(masked))
    np.testing.assert_array_equal(results[0][array > 0], results[1][array > 0])
    assert np.isfinite(results[1]).all()


def infinite():
    array = brain(2).astype(np.float32)
    array[9, 9, 9] = np.inf
    return array


def truncated(path):
    content = save(path, brain(2)).read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD = {
    "truncated": (truncated, "b.nii.gz cannot be read to its end"),
    "infinite": (lambda path: save(path, infinite()), "b.nii.gz holds 1 infinite value"),
    "constant": (lambda path: save(path, np.full((40, 40, 40), 7, np.int16)), "b.nii.gz holds the single value 7"),
    "nan": (lambda path: save(path, np.full((40, 40, 40), np.nan, np.float32)), "b.nii.gz holds NaN alone"),
    "small": (lambda path: path.write_bytes(b"no image"), "b.nii.gz cannot be read"),
}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_volume_that_training_refuses_is_refused_in_the_same_sentence(tmp_path, model_file, kind):
    write, message = BAD[kind]
    save(tmp_path / "in" / "a.nii.gz", brain(1, (36, 34, 35)))
    write(tmp_path / "in" / "b.nii.gz")
    with pytest.raises(RuntimeError) as error:
        reconstruct(tmp_path / "in", tmp_path / "out", model_file)
    sentence = str(cause(error.value))
    assert message in sentence
    assert "\n" not in sentence
    assert not (tmp_path / "out" / "b").exists()
    written = list((tmp_path / "out").rglob("*.nii.gz"))
    assert all(np.isfinite(nib.load(path).get_fdata()).all() for path in written)


def test_a_full_disk_leaves_a_sentence_and_no_file(tmp_path, model_file, monkeypatch):
    save(tmp_path / "in" / "a.nii.gz", brain(1, (36, 34, 35)))

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("monai_blurvae.files.os.fsync", full)
    with pytest.raises(RuntimeError) as error:
        reconstruct(tmp_path / "in", tmp_path / "out", model_file)
    assert "a_reconstruction.nii.gz cannot be written (No space left on device); free space" in str(cause(error.value))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_other_formats_come_out_in_the_space_of_the_input(tmp_path, model_file):
    array = brain(3, (36, 34, 35)).astype(np.float32)
    affine = np.array([[0, 0, -1.5, 10], [-1.0, 0, 0, 20], [0, 2.0, 0, 30], [0, 0, 0, 1]])
    nib.save(nib.MGHImage(array, affine), tmp_path / "b.mgz")
    save(tmp_path / "b.nii", array[..., None], affine=affine)
    image = sitk.ReadImage(str(save(tmp_path / "c.nii.gz", array, affine=affine)))
    sitk.WriteImage(image, str(tmp_path / "c.nrrd"))
    images = [tmp_path / name for name in ("b.mgz", "b.nii", "c.nrrd")]
    written = reconstruct_these(images, tmp_path / "out", model_file)
    assert [path.relative_to(tmp_path / "out").as_posix() for path in written] == [
        "b/b_reconstruction.nii.gz",
        "b.nii/b.nii_reconstruction.nii.gz",
        "c/c_reconstruction.nii.gz",
    ]
    results = [nib.load(path) for path in written]
    for result in results:
        np.testing.assert_allclose(result.affine, affine, atol=1e-6)
        np.testing.assert_allclose(result.get_fdata(), results[0].get_fdata(), atol=1e-5)


def test_monais_evaluator_writes_the_values_of_the_command(tmp_path, model_file):
    path = save(tmp_path / "in" / "a.nii.gz", brain(1, (36, 34, 35)), affine=np.diag([-1.0, 1.0, 1.0, 1.0]))
    (ours,) = reconstruct(tmp_path / "in", tmp_path / "ours", model_file)
    (monais,) = reconstruct_these([path], tmp_path / "monais", model_file)
    ours, monais = nib.load(ours), nib.load(monais)
    np.testing.assert_array_equal(ours.affine, monais.affine)
    np.testing.assert_allclose(ours.get_fdata(), monais.get_fdata(), rtol=1e-4, atol=0.05)
    assert monais.get_fdata().max() > 10
