"""What leaves the lab gives the network's own values where neither MONAI nor this package can be imported."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from monai.data import load_net_with_metadata
from torch.utils import cpp_extension

from monai_blurvae.bundle import fit_densities
from monai_blurvae.metrics import evidence_bounds
from monai_blurvae.runs import Run
from scripts import export
from tests.pickles import Malicious
from tests.volumes import HCP, TINY, TRAIN, brain, save
from tests.volumes import run as train

onnx = pytest.importorskip("onnx")

FOREIGN = """
import json, sys, warnings

warnings.simplefilter("ignore")

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("monai", "monai_blurvae"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
import onnxruntime, torch

folder = sys.argv[1]
x = torch.load(folder + "/x.pt")
scripted = torch.jit.load(sys.argv[2] + "/model.ts")
program = torch.export.load(sys.argv[2] + "/model.pt2").module()
session = onnxruntime.InferenceSession(sys.argv[2] + "/model.onnx", providers=["CPUExecutionProvider"])
z, log_var = scripted.encode(x)
with torch.no_grad():
    found = {
        "torchscript": scripted(x), "export": program(x), "one": program(x[:1]), "mu": z, "log_var": log_var,
        "onnx": torch.from_numpy(session.run(None, {"image": x.numpy()})[0]),
        "decode": scripted.decode(z), "kernel": scripted.kernel(z), "sample": scripted.sample(3, 5),
        "spectrum": scripted.log_prob(x), "variance": scripted.log_prob(x, "variance"),
        "voxel_size": scripted.voxel_size,
    }
torch.save(found, folder + "/found.pt")
assert not any(name.partition(".")[0] in ("monai", "monai_blurvae") for name in sys.modules)
"""

PROGRAM = """
#include <torch/script.h>
#include <iostream>

int main(int, char** arguments) {
  auto model = torch::jit::load(arguments[1]);
  auto image = torch::linspace(-1, 1, 32 * 32).view({1, 1, 32, 32});
  auto reconstruction = model.forward({image}).toTensor();
  auto latent = model.get_method("encode")({image}).toTuple()->elements()[0].toTensor();
  auto log_prob = model.get_method("log_prob")({image}).toTensor();
  auto sample = model.get_method("sample")({2, 1}).toTensor();
  std::cout.precision(12);
  std::cout << reconstruction.sum().item<double>() << " " << latent.sum().item<double>() << " "
            << log_prob.item<double>() << " " << sample.sum().item<double>() << std::endl;
}
"""


PEOPLE = ("zaphod-b", "arthur-d", "tricia-m", "ford-p", "marvin-r")
"""Names that no number in a file of weights is taken for."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for i, name in enumerate(PEOPLE):
        save(folder / name / HCP, brain(i))
    return folder


@pytest.fixture(scope="module")
def run(data, cache_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(
        "training",
        TRAIN,
        dataset_dir=str(data),
        image_pattern="*-?/T1w/*.nii.gz",
        cache_dir=cache_dir,
        run_dir=str(folder),
        **TINY,
    )
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "out"
    assert export.main([str(run), "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def eager(run, cache_dir):
    """The network and its densities, by this package."""
    found = Run(run)
    network = found.network()
    return network, fit_densities(found, network, cache_dir).likelihoods


def images(count=4):
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(3)).tanh()


def expected(eager, x):
    network, likelihoods = eager
    with torch.no_grad():
        mu, log_var = network.encode(x)
        reconstruction = network.reconstruct(x)
        values = {
            **dict.fromkeys(("torchscript", "export", "onnx"), reconstruction),
            "one": reconstruction[:1],
            "mu": mu,
            "log_var": log_var,
            "decode": network.decode(mu),
            "kernel": network.kernel(mu),
            "sample": network.sample(3, torch.Generator().manual_seed(5)),
            "voxel_size": network.voxel_size,
        }
    for name in ("spectrum", "variance"):
        bounds = [evidence_bounds(network, image[None], {name: likelihoods[name]})[name].importance for image in x]
        values[name] = torch.cat(bounds)
    return values


@pytest.mark.slow
def test_the_same_values_where_neither_monai_nor_this_package_can_be_imported(exported, eager, tmp_path):
    x = images()
    torch.save(x, tmp_path / "x.pt")
    line = [sys.executable, "-c", FOREIGN, str(tmp_path), str(exported)]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found, wanted = torch.load(tmp_path / "found.pt"), expected(eager, x)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        scale = 1e-5 if name in ("spectrum", "variance") else 0.0  # nats by the thousand, latents by the unit
        torch.testing.assert_close(found[name], value, rtol=scale, atol=1e-5, msg=lambda text, name=name: name + text)


@pytest.mark.machine
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_from_cpp(exported, eager, tmp_path):
    (tmp_path / "main.cpp").write_text(PROGRAM)
    libraries = cpp_extension.library_paths()
    line = [
        *("g++", "-std=c++20", "-O0", "main.cpp", "-o", "main"),
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        *(f"-I{path}" for path in cpp_extension.include_paths()),
        *(part for path in libraries for part in (f"-L{path}", f"-Wl,-rpath,{path}")),
        *("-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"),
    ]
    built = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    done = subprocess.run(
        [str(tmp_path / "main"), str(exported / "model.ts")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    network, likelihoods = eager
    image = torch.linspace(-1, 1, 32 * 32).view(1, 1, 32, 32)
    with torch.no_grad():
        wanted = [
            network.reconstruct(image).sum(),
            network.encode(image)[0].sum(),
            evidence_bounds(network, image, likelihoods)["spectrum"].importance,
            network.sample(2, torch.Generator().manual_seed(1)).sum(),
        ]
    np.testing.assert_allclose([float(v) for v in done.stdout.split()], [float(v) for v in wanted], rtol=1e-4)


def test_monai_reads_what_torchscript_says_of_itself(exported, run):
    texts = ("inference.json", "model_card.md")
    network, metadata, extra = load_net_with_metadata(str(exported / "model.ts"), more_extra_files=texts)
    assert network(images()).shape == (4, 1, 32, 32)
    rule = {"by": "percentile", "lower": 1.0, "upper": 99.0, "clip": True}
    preprocessing = metadata["preprocessing"]
    assert preprocessing["intensity"] == rule
    assert preprocessing["voxel_size"] == [1.0, 1.0]
    assert preprocessing["slice_axis"] == 1
    assert metadata["density_fitted_on"] == "2 patches of 1 subject"
    assert preprocessing["image_shape"] == [1, 32, 32]
    assert metadata["eval_metrics"].keys() >= {"psnr", "ssim"}
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    inference = json.loads(extra["inference.json"])
    assert inference["patch_size"] == 32
    assert inference["network_def"]["kernel_size"] == "@kernel_size"
    assert inference["kernel_size"] == 5
    assert "no medical device" in extra["model_card.md"].decode()


def test_the_other_formats_say_the_same(exported):
    files = {"metadata.json": "", "inference.json": "", "model_card.md": ""}
    torch.export.load(exported / "model.pt2", extra_files=files)
    model = onnx.load(exported / "model.onnx")
    properties = {item.key: item.value for item in model.metadata_props}
    assert properties == files
    assert json.loads(files["metadata.json"])["preprocessing"]["slice_axis"] == 1
    assert not {node.op_type for node in model.graph.node} & {"DFT", "STFT"}
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param


def contents(path):
    """All bytes of a file, and of the members of a zip."""
    parts = [path.read_bytes()]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts += [name.encode() + archive.read(name) for name in archive.namelist()]
    return b"\n".join(parts)


def test_no_subject_and_no_path_is_in_any_file(exported, run, data):
    listed = json.loads((run / "datalist.json").read_text())
    entries = [item for split in ("training", "validation", "test") for item in listed[split]]
    private = {item[key] for item in entries for key in ("image", "subject", "sha256")}
    assert private >= set(PEOPLE)
    places = {str(data), str(Path.home()), str(run), str(Path(export.__file__).parents[1]), sys.prefix}
    for file in exported.iterdir():
        content = contents(file)
        for text in private | places:
            assert text.encode() not in content, (file.name, text)


def test_monais_own_export_gives_the_same(exported, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monai.bundle.ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(run / "model.pt"),
        meta_file=str(run / "metadata.json"),
        config_file=str(run / "inference.json"),
    )
    x = images()
    ours, monais = torch.jit.load(exported / "model.ts"), torch.jit.load(tmp_path / "model.ts")
    torch.testing.assert_close(ours(x), monais(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.encode(x), monais.encode(x), rtol=0, atol=1e-6)


def test_the_card_tells_numbers_and_limits(exported):
    card = (exported / "model_card.md").read_text()
    for text in (
        "- training: 3 file(s) of 3 subject(s)",
        "- slices: coronal",
        "- voxel size in plane: 1 × 1 mm",
        "percentiles 1 to 99 of the whole become −1 to 1, clipped",
        "| loss | WienerLoss |",
        "| PSNR (dB) |",
        "a 4-component linear model has a better bound",
        "no medical device",
        "plausible anatomy that is not there",
    ):
        assert text in card


def copy(run, folder):
    return Path(shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("tensorboard", "*.png")))


def refused(run, folder, capsys):
    out = folder / "out"
    assert export.main([str(run), "--output", str(out), "--formats", "torchscript"]) == 1
    assert not list(folder.glob("*out*"))
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_what_cannot_be_exported_is_refused_in_a_sentence(run, tmp_path, capsys):
    made = copy(run, tmp_path)
    whole = (made / "model.pt").read_bytes()
    (made / "model.pt").write_bytes(whole[: len(whole) // 2])
    assert "cannot be read" in refused(made, tmp_path, capsys)

    torch.save({"encoder": Malicious(tmp_path / "ran")}, made / "model.pt")
    assert "cannot be read" in refused(made, tmp_path, capsys)
    assert not (tmp_path / "ran").exists()

    weights = torch.load(run / "model.pt", weights_only=True)
    torch.save({name: value for name, value in weights.items() if "decoder.output" not in name}, made / "model.pt")
    assert "not all there" in refused(made, tmp_path, capsys)
    (made / "model.pt").write_bytes(whole)

    versions = json.loads((made / "versions.json").read_text())
    (made / "versions.json").write_text(json.dumps(versions | {"monai-blurvae": "7.0.0"}))
    assert "was made by monai-blurvae 7.0.0" in refused(made, tmp_path, capsys)
    (made / "versions.json").write_text(json.dumps(versions))

    inference = json.loads((made / "inference.json").read_text())
    (made / "inference.json").write_text(json.dumps(inference | {"mask": str(made / "mask.nii")}))
    assert "would go into the exports" in refused(made, tmp_path, capsys)
    (made / "inference.json").write_text(json.dumps(inference))

    (made / "summary.json").unlink()
    assert "its training is not finished" in refused(made, tmp_path, capsys)


def test_an_export_that_differs_is_not_left(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("monai_blurvae.trained.exports.TOLERANCE", -1.0)
    assert "the TorchScript export gives reconstructions that differ" in refused(run, tmp_path, capsys)


def test_a_package_that_is_missing_is_named_before_anything_is_done(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert export.main([str(run), "--output", str(tmp_path / "out")]) == 1
    assert "onnx is not installed; run pip install 'monai-blurvae[export]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(exported, run, capsys):
    before = contents(exported / "model.ts")
    assert export.main([str(run), "--output", str(exported)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert contents(exported / "model.ts") == before


def test_without_its_images_a_run_is_exported_without_a_density(run, tmp_path):
    made = copy(run, tmp_path)
    (made / "datalist.json").write_text(
        json.dumps(json.loads((made / "datalist.json").read_text()) | {"dataset_dir": str(tmp_path / "nowhere")})
    )
    assert export.main([str(made), "--formats", "torchscript"]) == 0
    scripted = torch.jit.load(made / "export" / "model.ts")
    assert scripted(images()).shape == (4, 1, 32, 32)
    with pytest.raises(torch.jit.Error, match="no density was fitted"):
        scripted.log_prob(images())
