"""The documents of many kinds of runs, without a browser."""

import builtins
import json
import re
import shlex

import pytest

from monai_blurvae.errors import RunFolderError
from monai_blurvae.report import write_report
from monai_blurvae.report.checks import repeat_command, resume_command
from monai_blurvae.report.page import number_text
from monai_blurvae.report.record import plain_settings
from monai_blurvae.report.run import value_text
from scripts.report import main
from tests.report.html import Document
from tests.report.runs import DATALIST, SETTINGS, evaluate, make_run, write, yardstick

SECTIONS = ["Warnings", "Results", "Training", "Kernel", "Examples", "Spectra", "Latent", "Data", "Settings"]
SECTIONS += ["Reproduce"]
DENSITIES = ["one variance", "kernel", "spectrum"]
EVIL = "<script>alert('x')</script>&amp;\"'"


def report(folder, *arguments):
    path = write_report(folder, *arguments)
    text = path.read_text(encoding="utf-8")
    document = Document(text)
    check(document, text)
    return document


def check(document, text):
    """What holds for every report."""
    assert text.startswith("<!DOCTYPE html>")
    assert document.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in document.all("meta")
    assert not document.all("script")
    assert not document.all("link")
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    sections = [attributes["id"] for attributes in document.all("section")]
    links = [attributes["href"] for attributes in document.all("a")]
    assert [link[1:] for link in links if link.startswith("#")] == sections
    assert " ".join(SECTIONS) in document.text
    assert [link for link in links if not link.startswith("#")] == ["https://arxiv.org/abs/2304.05939"]
    for image in document.all("img"):
        assert re.match(r"data:image/(png|jpeg);base64,", image["src"])
        assert image["alt"]
    for svg in document.all("svg"):
        assert svg["role"] == "img"
        assert svg["aria-label"]
    assert "nothing that it produces may be used for diagnosis" in document.text
    assert "None" not in document.text
    assert "nan" not in document.text.lower().split()
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = make_run(tmp_path_factory.mktemp("plain") / "0007")
    evaluate(folder / "test")
    return folder, report(folder)


def test_a_finished_run(plain):
    folder, document = plain
    text = document.text
    assert [p.name for p in folder.iterdir() if p.name.startswith("report")] == ["report.html"]
    assert "Run 0007" in text
    assert "finished 2026-01-02 · epoch 20 of 20 · loss WienerLoss" in text
    assert "No check found anything." in text
    assert "20.00 ± 1.00 dB" in text
    assert "Better than a 20-component linear model in its bound (110.0 for it against 100.0 nats at β = 1)." in text
    assert "linear, L2, at the network's rate (β = 0.5)" in text
    assert "test: 40 patches of 2 subjects" in text
    assert "Best at epoch 20" in text
    assert "my_momentum" in text
    assert f"--config_file {folder}/config.json" in text
    assert "0.5 cycles per pixel are 0.71 cycles per mm." in text
    assert "0.7×0.7 mm" in text
    # two metrics, three terms that are not zero, KL, active units; kernel; histogram, two spectra, latent; of draws two
    assert len(document.all("svg")) == 2 + 3 + 2 + 1 + 4 + 2
    # inputs, three times reconstructions and samples; eight kernels and their mean; examples; the bar; samples; draws
    assert len(document.all("img")) == 1 + 3 * 2 + 8 + 1 + 8 * 4 + 1 + 8 + 4 * (1 + 4) + 4 * 4


def test_the_same_run_has_the_same_report(plain, tmp_path):
    folder, _ = plain
    again = write_report(folder, output=tmp_path / "again.html")
    assert again.read_bytes() == (folder / "report.html").read_bytes()


def test_colour_images_and_a_name_that_is_html(tmp_path):
    folder = make_run(tmp_path, epochs=4, channels=3, dataset_dir=EVIL, **{EVIL: EVIL * 3})
    write(folder / "datalist.json", DATALIST | {"training": [{"image": EVIL, "subject": EVIL}], "description": EVIL})
    write(folder / "summary.json", {"skipped": [EVIL], "remark": EVIL, "finished": EVIL})
    write(folder / "versions.json", {EVIL: EVIL})
    evaluate(folder / "test", channels=3, names=[EVIL], title=EVIL, remark=EVIL)
    row = {"value": 1.0, "unit": EVIL, "what": EVIL, "features": EVIL, "better": None, "name": EVIL, "reason": ""}
    measures = {"a": row, "b": row | {"value": None, "reason": EVIL}}
    write(folder / "test" / "measures.json", {"title": EVIL, "notes": [EVIL], "measures": measures})
    write(folder / "test" / "yardstick.json", {"title": EVIL, "problem": EVIL})
    document = report(folder)
    assert "40 images" in document.text
    assert "root mean square over the channels" in document.text
    assert document.text.count(EVIL) > 30  # it is shown as it is, everywhere


def test_nothing_but_a_config(tmp_path):
    write(tmp_path / "config.json", SETTINGS)
    document = report(tmp_path)
    assert "Warning: The run is not finished" in document.text
    assert "Nothing was validated or evaluated yet." in document.text
    assert "The training wrote no curves yet." in document.text
    assert "The folder holds no data list." in document.text
    assert "There are no evaluated images to show." in document.text
    assert not document.all("svg")


def test_an_unfinished_run(tmp_path):
    document = report(make_run(tmp_path, epochs=3, finished=False, max_epochs=400))
    assert "Epoch 3 of 400" in document.text
    assert {"class": "option"} in document.all("code")
    assert "PSNR, last validation" in document.text
    assert f"--run_dir {tmp_path} --resume true" in document.text
    assert len(document.all("svg")) == 2 + 3 + 2 + 1


def test_a_run_without_a_kernel(tmp_path):
    folder = make_run(tmp_path, epochs=4, kernel=False)
    evaluate(folder / "test", number=2, draws=("variance", "spectrum"))
    document = report(folder)
    assert "No kernel generator was trained in this run" in document.text
    assert not [image for image in document.all("img") if "kernel" in image["alt"]]


def test_images_drawn_from_the_density(plain):
    _, document = plain
    drawn = [image["alt"] for image in document.all("img") if image["alt"].startswith("drawn, ")]
    assert drawn[:3] == [f"drawn, {name}: s7, slice 10, row 3, column 4: 15.00 dB, SSIM 0.500" for name in DENSITIES]
    assert drawn[-3:] == [f"drawn, {name}: sample 4" for name in DENSITIES]
    assert "Fitted on 16 patches of 1 subject of the validation." in document.text
    assert "one variance 1.2%, kernel 1.2%, spectrum 1.2%" in document.text
    # the means have a third of the images' power, and a ninth; the draws all of it, and twice
    assert "decades: mean 0.48, one variance 0.00, kernel 0.00, spectrum 0.00." in document.text
    assert "decades: mean 0.95, one variance 0.30, kernel 0.30, spectrum 0.30." in document.text


def test_no_density(tmp_path):
    folder = make_run(tmp_path, epochs=2)
    evaluate(folder / "test", number=2, draws=())
    document = report(folder)
    assert "No images were drawn: there are no validation images." in document.text
    assert len(document.all("svg")) == 2 + 3 + 2 + 1 + 4
    assert not [image for image in document.all("img") if image["alt"].startswith("drawn")]


def test_a_run_with_a_fixed_kernel(tmp_path):
    folder = make_run(tmp_path, epochs=4, determinant="fixed", fixed_variance=4.0)
    evaluate(folder / "test", number=2)
    assert "fixed Gaussian kernel with a variance of 4.0 pixels²" in report(folder).text


def test_commands_survive_a_shell_and_html(tmp_path):
    folder = make_run(tmp_path / "it's a <b>&run; rm -rf", epochs=1, finished=False)
    words = shlex.split(resume_command(folder))
    assert words[words.index("--config_file") + 1] == str(folder / "config.json")
    assert words[words.index("--run_dir") + 1] == str(folder)
    assert words[-2:] == ["--resume", "true"]
    assert "--resume" not in repeat_command(folder)
    text = report(folder).text
    assert resume_command(folder) in text
    assert f"--datalist {shlex.quote(str(folder / 'datalist.json'))}" in text


def test_terms_that_are_not_finite(tmp_path):
    folder = make_run(tmp_path, epochs=4, psnr=lambda epoch: float("inf"))
    text = write_report(folder).read_text()
    assert "validation/psnr is inf in epoch 2" in Document(text).text


def test_thousands_of_images(tmp_path):
    folder = make_run(tmp_path, epochs=2)
    entries = [{"image": f"folder/{i:06d}.jpg", "subject": f"{i:06d}"} for i in range(50_000)]
    write(folder / "datalist.json", DATALIST | {"training": entries})
    evaluate(folder / "test", number=2, names=[entry["subject"] for entry in entries])
    document = report(folder)
    assert "50000" in document.text
    assert "folder/000004.jpg" in document.text
    assert "folder/000005.jpg" not in document.text
    assert (folder / "report.html").stat().st_size < 1e6


@pytest.mark.slow
def test_large_photographs_stay_small(tmp_path):
    """256×256 in colour with 41×41 kernels, the largest images that the bundles have; of epochs at most 8 are shown."""
    folder = make_run(tmp_path, epochs=16, size=256, channels=3, kernel_size=41)
    evaluate(folder / "test", size=256, channels=3, kernel_size=41, kernel_variance=16.0, names=["a"])
    report(folder)
    assert (folder / "report.html").stat().st_size < 7.5e6  # half of 15 MB


def test_an_evaluation_has_its_report_beside_it(plain):
    folder, _ = plain
    evaluation = evaluate(folder / "evaluation" / "0001", number=2, title="all")
    path = write_report(folder, evaluation)
    assert path == evaluation / "report.html"
    assert "all: 40 patches of 2 subjects" in Document(path.read_text()).text
    with pytest.raises(RunFolderError, match=r"evaluation holds no evaluation.npz; give the folder that an eval"):
        write_report(folder, folder / "evaluation")


def test_another_file_is_never_overwritten(plain):
    folder, _ = plain
    for output in (folder / "config.json", folder / "test"):
        before = output.read_bytes() if output.is_file() else None
        with pytest.raises(RunFolderError, match="is there and is no report; choose another file"):
            write_report(folder, output=output)
        assert before is None or output.read_bytes() == before
    assert not list(folder.rglob("*.part"))


def test_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(RunFolderError, match=r"holds no config.json; give the folder of a training"):
            write_report(folder)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(RunFolderError, match=r"config.json holds a list, where an object is expected"):
        write_report(tmp_path)


def test_the_script(plain, tmp_path, capsys):
    folder, _ = plain
    assert main([str(folder), "--output", str(tmp_path / "new" / "a.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "new" / "a.html")
    assert (tmp_path / "new" / "a.html").is_file()
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {tmp_path} holds no config.json; give the folder of a training.\n"


def test_without_matplotlib(plain, tmp_path, monkeypatch, capsys):
    folder, _ = plain
    real = builtins.__import__

    def absent(name, *arguments, **options):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert main([str(folder), "--output", str(tmp_path / "a.html")]) == 1
    assert 'pip install "monai-blurvae[report]"' in capsys.readouterr().err
    assert not (tmp_path / "a.html").exists()


def test_the_report_of_a_training(finished_run):
    """Of the bundle itself: every file that it leaves is one that a report takes."""
    _, folder = finished_run
    document = report(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["dataset_dir"] in document.text
    assert "Files cannot be read" not in document.text
    assert "2 patches of 1 subject" in document.text
    assert len([image for image in document.all("img") if image["alt"].startswith("kernel: ")]) == 2
    assert len([image for image in document.all("img") if image["alt"].startswith("kernels at")]) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "true"),
        ([[1, None], "a"], "1, –, a"),
        (0.0001, "0.0001"),
        (1.0, "1"),
        ("x", "x"),
        (3, "3"),
    ],
)
def test_values(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123456, "0.01235"), (-1.5, "−1.5"), (1234.56, "1234.6"), (float("inf"), "inf")]
)
def test_numbers(value, text):
    assert number_text(value) == text


def test_only_plain_values_are_settings_and_none_of_them_is_lost(tmp_path):
    config = SETTINGS | {"_meta_": 1, "reference": "@lr", "mixed": [1, "$2"], "nested": [[1], [2]]}
    settings = plain_settings(config)
    assert {"imports", "bundle_root", "network", "run", "_meta_", "reference", "mixed"}.isdisjoint(settings)
    assert {"loss", "channels", "my_momentum", "nested"} <= settings.keys()
    write(tmp_path / "config.json", config | {"image_pattern": "a" * 100})
    text = report(tmp_path).text
    shown = text[text.index(" Settings Data dataset_dir") :]
    assert all(name in shown for name in settings)
    assert "a" * 100 in shown
    loss = "Loss loss WienerLoss train#term#weighting wiener train#objective#determinant omit beta 1 Optimisation"
    assert loss in shown
    assert shown.index("Other") < shown.index("my_momentum")


def test_images_with_the_lowest_and_the_highest_psnr(plain):
    text = plain[1].text
    lowest = text[text.index("The 5 images with the lowest PSNR") : text.index("The 5 images with the highest PSNR")]
    assert "subject slice row column PSNR (dB) SSIM" in lowest
    assert re.findall(r"s[78] \d+ 3 4 (\S+)", lowest) == ["15", "15.25", "15.5", "15.75", "16"]
    highest = text[text.index("The 5 images with the highest PSNR") :]
    assert re.findall(r"s[78] \d+ 3 4 (\S+)", highest)[:5] == ["24.75", "24.5", "24.25", "24", "23.75"]


def test_a_caption_names_the_place_and_no_other_measure(tmp_path):
    folder = make_run(tmp_path, epochs=2)
    row = {"subject": "007", "slice": 10, "psnr": 15.0, "ssim": 0.5, "elbo_variance": -3493.550116147907}
    evaluate(folder / "test", number=1, examples=[row])
    assert "007, slice 10: 15.00 dB, SSIM 0.500" in report(folder).text
    assert "3493" not in report(folder).text


def test_measures_and_the_linear_models(plain, tmp_path):
    folder = make_run(tmp_path, epochs=2)
    evaluate(folder / "test", number=1)
    row = {"unit": "dB", "what": "how close", "features": "AlexNet", "better": "higher", "name": "PSNR", "reason": ""}
    rows = {"a": row | {"value": -12345.678}, "b": row | {"value": None, "reason": "no weights", "name": "LPIPS"}}
    write(folder / "test" / "measures.json", {"title": "test", "measures": rows, "notes": ["careful"]})
    write(folder / "test" / "yardstick.json", yardstick(linear=None, beta=None, weight=None))
    text = report(folder).text
    assert "PSNR ↑ −12345.7 dB how close; features: AlexNet" in text
    assert "Missing measures: 1 LPIPS: no weights" in text
    assert "careful" in text
    assert "has no closed form" in text
    assert "linear, β = 1" not in text
    assert "objective (nats per image) 100.0 110.0 –" in plain[1].text


def test_tiles_are_the_tests_or_else_the_last_validations(tmp_path):
    folder = make_run(tmp_path, epochs=4)
    assert "PSNR, last validation 18.92 dB" in report(folder).text
    evaluate(folder / "test", number=1)
    text = report(folder).text
    assert "PSNR 20.00 ± 1.00 dB" in text
    assert "active units 18 of 20 kernel width 20.00 pixels = 14.00 mm" in text
    evaluate(folder / "test", number=1, active_units=None, training_voxel_size=[0.0, 0.0])
    text = report(folder).text
    assert "of 20 kernel" not in text
    assert "20.00 pixels Evaluation" in text


def test_nan_that_was_taken_as_background_is_told(tmp_path):
    folder = make_run(tmp_path, epochs=1)
    listed = {"training": [{"image": "a", "nan_voxels": "3"}, {"image": "b"}], "test": [{"nan_voxels": "4"}]}
    write(folder / "datalist.json", listed)
    assert "NaN, taken as background 7 voxels of 2 volumes" in report(folder).text
    write(folder / "datalist.json", {"training": [{"image": "b"}]})
    assert "taken as background" not in report(folder).text
