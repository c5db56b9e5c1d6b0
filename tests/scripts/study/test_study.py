"""The course of a study with a trainer and instruments that take no time."""

import json
import math
import re
import sys

import pytest

pytest.importorskip("pandas")

from monai_blurvae.errors import RunFolderError
from study import linear, tasks
from study.measure import _key
from study.options import StudyOptions
from study.plan import Budget, Cell, ImageSet
from study.study import Study, duration
from study.tasks import Task
from tests.volumes import HCP

BUNDLE = {
    "imports": ["$import monai_blurvae.data as blurvae_data"],
    "dataset_dir": None,
    "image_pattern": f"*/{HCP}",
    "datalist": None,
    "cache_dir": "cache",
    "seed": 0,
    "patches_per_volume": 4,
    "batch_size": 4,
    "lr": 1e-4,
    "beta": 1.0,
    "max_epochs": 400,
    "warmup_epochs": 20,
    "val_interval": 20,
    "volumes": "$blurvae_data.find_volumes(@dataset_dir, @image_pattern)",
    "data": "$blurvae_data.Datalist.of(@dataset_dir, blurvae_data.split_subjects(@volumes, @seed))",
    "train": {
        "term": {"_target_": "monai_blurvae.losses.WienerLoss"},
        "objective": {"_target_": "monai_blurvae.losses.ELBOLoss", "determinant": "omit"},
        "dataset": "$@data.items('training') * @patches_per_volume",
    },
    "validate": {"dataset": "$@data.items('validation')"},
    "test": {"dataset": "$@data.items('test')"},
}
L2 = "train#term: {_target_: monai_blurvae.losses.L2Loss}\n"
WIENER = "train#term: {_target_: monai_blurvae.losses.WienerLoss}\n"

# Writes what a training leaves; a file `crash` in the working directory names a cell that fails.
TRAINER = """
import pathlib, sys
folder, log = pathlib.Path(sys.argv[1]), open('trained.txt', 'a')
if pathlib.Path('crash').exists() and folder.name in pathlib.Path('crash').read_text():
    sys.exit('error: the loss is nan')
folder.mkdir(exist_ok=True)
(folder / 'model.pt').write_text(folder.name)
(folder / 'summary.json').write_text('{}')
print('train', folder.name, file=log)
"""
MEASURER = """
import json, pathlib, sys
for path, content in json.loads(sys.argv[1]).items():
    pathlib.Path(path).write_text(json.dumps(content))
    print(pathlib.Path(path).name, file=open('trained.txt', 'a'))
"""


class FakeStudy(Study):
    """Trains and measures by other commands, of the same form."""

    def command(self, cell):
        return [sys.executable, "-S", "-c", TRAINER, str(self.folder.cell_dir(cell))]

    def _measure_task(self, cells, split, index):
        content = {str(self.folder.measure_file(cell, split)): self._content(cell, split) for cell in cells}
        log = self.folder.path / "measures" / "log"
        return Task(f"{split} {index}", [sys.executable, "-S", "-c", MEASURER, json.dumps(content)], log)

    def _linear_task(self, cell, split):
        points = [{"beta": beta, "kl": 8 / beta, "psnr": 21 - beta, "objective": 1.0} for beta in (0.1, 1.0)]
        content = {"key": linear._key(self.folder, cell), "points": points}
        script = (
            f"import pathlib; pathlib.Path({str(self.folder.linear_file(split))!r}).write_text({json.dumps(content)!r})"
        )
        return Task("linear", [sys.executable, "-S", "-c", script], self.folder.path / "measures" / "log")

    def _content(self, cell, split):
        values = {"kl": 10 / cell.beta, "psnr": 20 - cell.beta + cell.seed, "mmd_alexnet": cell.beta}
        measures = {name: {"value": value, "reason": ""} for name, value in values.items()}
        yardstick = {"behind": cell.row == "wiener" and cell.beta > 0.5}
        key = _key(self.folder, cell, self.instruments)
        return {"key": key, "measures": measures, "spectra": {}, "yardstick": yardstick}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "POLL_SECONDS", 0.01)
    folder = tmp_path / "root"
    for name in ("bundles/toy", "configs/losses", "configs/ablations"):
        (folder / name).mkdir(parents=True)
    (folder / "bundles/toy/train.json").write_text(json.dumps(BUNDLE))
    (folder / "configs/losses/l2.yaml").write_text(L2 + "beta: 0.1\n")
    (folder / "configs/losses/wiener.yaml").write_text(WIENER + "beta: 0.1\n")
    return folder


@pytest.fixture
def start(root, hcp_dir, cache_dir, tmp_path):
    """Runs a study, and returns it with what it said and what was trained and measured meanwhile, in order."""

    def run(say=None, **changes):
        said = []
        budget = Budget((), {}, patches=480, validations=2)
        options = {
            "root": root,
            "image_set": ImageSet("toy", "Toy", "toy", (), "configs/none.yaml", "TOY_DIR"),
            "budget": budget,
            "output": tmp_path / "out",
            "tables": ("3",),
            "figures": (),
            "rate_distortion": False,
            "rows": ("l2", "wiener"),
            "seeds": (0,),
            "betas": (0.1, 1.0),
            "dataset_dir": hcp_dir,
            "image_pattern": None,
            "datalist": None,
            "cache_dir": cache_dir,
            "weights_dir": tmp_path / "weights",
            "settings": {},
            "jobs": 2,
            "device": "cpu",
            "importance_samples": 2,
            "rate": None,
            "validation_only": False,
        }
        study = FakeStudy(StudyOptions(**{**options, **changes}), say or said.append)
        study.run()
        log = root / "trained.txt"
        done = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return study, said, done

    return run


def row_of(study, label, table="table3.md"):
    lines = (study.folder.path / table).read_text().splitlines()
    lines = [re.sub(" +", " ", line) for line in lines]
    return next(line for line in lines if line.startswith(f"| {label} |"))


def test_everything_is_done_once(start):
    study, said, done = start()
    assert len(done) == 4 + 4 + 4
    assert all(line.startswith("train ") for line in done[:4])
    assert all(line.endswith(".validation.json") for line in done[4:8])
    assert all(line.endswith(".test.json") for line in done[8:])  # the test subjects come last
    assert "| L2 | 0.1 | 1 |" in row_of(study, "L2")  # MMD is β here
    assert "0 s of training left" in next(line for line in said if line.startswith("cell 4/4"))
    files = {path: path.read_bytes() for path in study.folder.path.iterdir() if path.suffix in (".md", ".csv", ".tex")}

    _, said, done = start()
    assert done == []
    assert "4 cells: 4 finished before, 0 to train, 2 at a time." in said
    assert any("Nothing was left" in line for line in said)
    assert len(files) == 3 * 7 + 1
    assert {path: path.read_bytes() for path in files} == files


def test_the_linear_model_has_a_row_at_equal_rate_and_says_who_is_behind(start):
    study, _, _ = start(rate=20.0)
    # between its β of 0.1 and 1, of 80 and 8 nats, by the logarithm of the rate
    share = math.log(80 / 20) / math.log(10)
    line = row_of(study, "linear L2 model (exact)", "table3_equal_rate.md")
    assert f"| 1 | yes | {80 - 72 * share:.1f} | {20.9 - 0.9 * share:.2f} |" in line
    assert "linear L2" not in (study.folder.path / "table3.md").read_text()
    assert "not trained: 1 of 2 cells are behind the linear VAE" in row_of(study, "Wiener (the paper's)")
    assert "behind" not in row_of(study, "L2")
    assert (study.folder.path / "cells.csv").read_text().count("\nlinear,") == 4


def test_a_crash_stays_in_its_row_and_is_tried_again(start, root):
    (root / "crash").write_text("wiener-beta0.1-seed0 wiener-beta1-seed0")
    study, said, done = start()
    assert sorted(done[:2]) == ["train l2-beta0.1-seed0", "train l2-beta1-seed0"]
    assert "2 cells without a result: the loss is nan (cells/wiener-beta0.1-seed0.log)" in row_of(
        study, "Wiener (the paper's)"
    )
    assert (study.folder.path / "cells/wiener-beta0.1-seed0.log").is_file()
    assert "| L2 | 0.1 | 1 | yes | 100.0 | 19.90 |" in row_of(study, "L2")
    assert sum("FAILED: the loss is nan" in line for line in said) == 2

    (root / "crash").unlink()
    study, _, done = start()
    assert sorted(line for line in done if line.startswith("train")) == [
        "train wiener-beta0.1-seed0",
        "train wiener-beta1-seed0",
    ]
    assert "without a result" not in (study.folder.path / "table3.md").read_text()


def test_after_an_interruption_only_the_rest_is_trained(start, root):
    def interrupt(line):
        if line.startswith("cell 2/4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(say=interrupt, jobs=1)
    before = (root / "trained.txt").read_text().splitlines()
    (root / "trained.txt").unlink()
    _, said, after = start()
    after = [line for line in after if line.startswith("train")]
    assert len(before) == len(after) == 2
    assert len({*before, *after}) == 4
    assert "4 cells: 2 finished before, 2 to train, 2 at a time." in said


def test_later_commands_add_seeds_and_rows_to_the_tables(start):
    start(rows=("l2",))
    study, _, done = start(rows=("wiener",), seeds=(0, 1))
    assert len([line for line in done if line.startswith("train")]) == 4
    assert "| L2 | 0.1 | 1 |" in row_of(study, "L2")
    assert "| 0.1 | 2 | no | 100.0 ± 0.0 | **20.40 ± 0.71** |" in row_of(study, "Wiener (the paper's)")
    assert "| 2 |" in row_of(study, "Wiener (the paper's)", "table3_equal_rate.md")


def test_rows_with_the_same_settings_are_trained_once(start, root):
    (root / "configs/ablations/c_0025.yaml").write_text(WIENER + "beta: 5\n")
    study, _, done = start(rows=("wiener", "c_0025"), tables=("3", "1"))
    assert len([line for line in done if line.startswith("train")]) == 2
    assert "the same trainings as Wiener (the paper's)" in row_of(study, "C = 0.025", "table1.md")


def test_a_cell_of_other_settings_is_neither_used_nor_overwritten(start, root):
    start()
    (root / "configs/losses/l2.yaml").write_text(L2 + "beta: 0.1\nlr: 0.5\n")
    study, _, done = start()
    assert done == []
    assert "lr was 0.0001, is 0.5" in row_of(study, "L2")
    assert "19.90" not in row_of(study, "L2")
    assert "19.90" in row_of(study, "Wiener (the paper's)")


def test_an_argument_of_another_loss_changes_no_cell(start, root):
    for kind in ("pixel", "dct"):
        term = f"train#term: {{_target_: monai_blurvae.losses.RobustLoss, representation: {kind}}}"
        (root / "configs/losses/robust.yaml").write_text(f"{term}\n")
        study, _, _ = start(rows=("l2", "robust"))
    assert "19.90" in row_of(study, "L2")
    assert "train#term#representation was 'pixel', is 'dct'" in row_of(study, "robust")


def test_a_missing_config_is_the_rows_reason(start):
    study, _, done = start(rows=("l2", "vgg"), tables=("2",))
    assert len([line for line in done if line.startswith("train")]) == 2
    assert "the config configs/losses/vgg.yaml is not there." in row_of(study, "VGG", "table2.md")


def test_the_betas_are_those_of_every_row_whatever_its_config_says(start, root):
    (root / "configs/losses/l2.yaml").write_text(L2 + "beta: 3.0\n")
    study, _, done = start(betas=(0.5, 1.0))
    cells = {line.removeprefix("train ") for line in done if line.startswith("train")}
    assert cells == {f"{row}-beta{beta}-seed0" for row in ("l2", "wiener") for beta in (0.5, 1)}
    assert "| L2 | 1 | 1 | yes | 10.0 | **19.00** |" in row_of(study, "L2", "table3_beta1.md")


def test_the_papers_figures_stand_below_ours(start):
    study, _, _ = start()
    lines = [re.sub(" +", " ", x) for x in (study.folder.path / "table3_beta1.md").read_text().splitlines()]
    ours = next(i for i, line in enumerate(lines) if line.startswith("| L2 |"))
    assert lines[ours + 1].startswith("| *L2, HCP* | – | – | – | – | *18.09 ± 5.70* | – | *0.4313 ± 0.1700* |")
    against = (study.folder.path / "table3_beta1_against_l2.md").read_text()
    assert "*+1.45*" in against  # 19.54 − 18.09
    assert "*+0.0896*" in against  # 0.5209 − 0.4313


def test_a_slow_row_that_was_trained_says_for_how_long(start, root):
    budget = Budget((), {}, patches=480, validations=2, slow_share=0.5)
    study, _, _ = start(rows=("l2", "vgg"), tables=("2",), budget=budget)
    assert "trained for" not in row_of(study, "VGG", "table2.md")  # it has no config
    (root / "configs/losses/vgg.yaml").write_text(
        "train#term: {_target_: monai_blurvae.losses.VGGFeatureLoss}\nbeta: 3.0\n"
    )
    study, _, _ = start(rows=("l2", "vgg"), tables=("2",), budget=budget)
    assert "trained for 50% of the others' epochs" in row_of(study, "VGG", "table2.md")
    assert "trained for" not in row_of(study, "L2", "table2.md")


def test_later_tables_go_by_the_rate_of_table_3(start, root):
    (root / "configs/ablations/exact.yaml").write_text(WIENER + "beta: 0.3\ntrain#objective#determinant: exact\n")
    study, said, _ = start()  # both rows from 10 to 100 nats
    assert "Rows are compared at a validation KL of 31.62 nats." in said
    row = "exact determinant"
    study, said, _ = start(tables=("ablations",), rows=("exact",), betas=(0.3,))
    assert "Rows are compared at a validation KL of 31.62 nats." in said
    assert f"| {row} | 33.33 | 1 |" in row_of(study, row, "ablations_against_l2.md")
    assert "one β: at its own rate, 33.33 nats" in row_of(study, row, "ablations_against_l2.md")
    _, said, _ = start(rate=50.0)
    assert any("KL of 50 nats; tables of other commands are still at 31.62." in line for line in said)
    study, _, _ = start(tables=("ablations",), rows=("exact",), betas=(0.3,))
    assert "at a validation KL of 50 nats" in (study.folder.path / "ablations_equal_rate.md").read_text()


def test_the_folder_is_of_one_study(start, root, hcp_dir):
    start()
    with pytest.raises(RunFolderError, match=r"another study \(lr is new\)"):
        start(settings={"lr": 0.1})
    with pytest.raises(RunFolderError, match="max_epochs was 40, is 80"):
        start(budget=Budget((), {}, patches=960, validations=2))
    with pytest.raises(RunFolderError, match="other files or with another split"):
        start(image_pattern=f"10[0-3]/{HCP}")


def test_the_cells_share_a_split_without_test_subjects(start):
    study, _, _ = start()
    full = json.loads(study.folder.datalist.read_text())
    given = json.loads(study.folder.training_datalist.read_text())
    assert given["test"] == []
    assert full["test"]
    assert all(full[split] == given[split] for split in ("training", "validation"))


def test_a_model_that_changed_is_measured_again(start):
    study, _, _ = start()
    study.folder.model_file(Cell("l2", 0.1, 0)).write_text("other weights")
    _, _, done = start()
    assert done == ["l2-beta0.1-seed0.validation.json", "l2-beta0.1-seed0.test.json"]


def test_new_weights_fill_cells_that_had_none(start, tmp_path):
    start()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "lpips_alex.pt").write_text("x")
    _, said, done = start()
    assert len(done) == 8
    assert not any("Nothing was left" in line for line in said)


def test_validation_only_leaves_the_test_subjects_alone(start):
    study, _, done = start(validation_only=True)
    assert not any("test" in line for line in done)
    assert "Validation subjects, NOT test subjects" in (study.folder.path / "table3.md").read_text()


def test_the_command_is_the_users_own(start, root):
    (root / "configs/losses/l2.yaml").write_text(L2 + "beta: 0.1\nlatent_size: 7\nweights_dir: null\n")
    budget = Budget((), {"latent_size": 5}, patches=480, validations=2)
    study, _, _ = start(budget=budget, settings={"lr": 0.5})

    def given(row):
        command = Study.command(study, Cell(row, 0.1, 3))
        assert command[1:5] == ["-m", "monai.bundle", "run", "training"]
        return dict(zip(command[5::2], command[6::2], strict=True))

    options = given("l2")
    assert options["--config_file"] == "['bundles/toy/train.json', 'configs/losses/l2.yaml']"
    assert options["--resume"] == "auto"
    assert (options["--beta"], options["--seed"], options["--lr"]) == ("0.1", "3", "0.5")
    assert options["--run_dir"] == str(study.folder.path / "cells/l2-beta0.1-seed3")
    assert (options["--max_epochs"], options["--warmup_epochs"], options["--val_interval"]) == ("40", "2", "20")
    assert "--latent_size" not in options  # the row's own wins over the budget's
    assert given("wiener")["--latent_size"] == "5"
    assert (options["--weights_dir"], given("wiener").get("--weights_dir")) == (str(study.options.weights_dir), None)


def test_durations():
    assert [duration(s) for s in (5, 65, 3600, 7325)] == ["5 s", "1 min 5 s", "1 h 0 min", "2 h 2 min"]
