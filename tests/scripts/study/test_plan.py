import json
import pydoc

import pytest

from monai_blurvae.errors import SettingsError
from study.plan import (
    BUDGETS,
    FIGURES,
    ROWS,
    SETS,
    TABLES,
    Budget,
    Cell,
    Row,
    differences,
    evaluation_settings,
    make_cells,
    merged_config,
    same_rows,
    schedule,
    settings_of,
    shares_of_epochs,
)
from tests.volumes import ROOT


def budget(**changes):
    return Budget((), {}, patches=3200, validations=5)._replace(**changes)


def test_every_cell_sees_the_budgets_patches():
    for volumes in (5, 40):
        epochs = schedule(budget(patches=32000), volumes * 8, 400, 32)["max_epochs"]
        assert epochs * volumes * 8 == 32000


def test_of_many_images_an_epoch_is_a_part():
    found = schedule(budget(), 160_000, 400, 32)
    assert found == {"max_epochs": 20, "val_interval": 4, "train#trainer#epoch_length": 5}  # 20 · 5 · 32 = 3200
    found = schedule(budget(patches=10), 3200, 400, 8)
    assert found == {"max_epochs": 2, "val_interval": 1, "train#trainer#epoch_length": 1}


def test_the_papers_budget_goes_by_the_epochs_of_the_config():
    assert schedule(budget(patches=None, validations=20), 24, 400, 8) == {"max_epochs": 400, "val_interval": 20}


def test_warm_ups_keep_their_share():
    config = {"warmup_epochs": 20, "beta_warmup_epochs": 40, "max_epochs": 400, "half_epochs": "$@max_epochs // 2"}
    assert shares_of_epochs(config, 100) == {"warmup_epochs": 5, "beta_warmup_epochs": 10, "max_epochs": 100}
    assert shares_of_epochs({"warmup_epochs": 0, "max_epochs": 400}, 100)["warmup_epochs"] == 0


def test_cells_are_the_grid_seed_by_seed():
    rows = [Row("a", "A", ()), Row("b", "B", ())]
    cells = make_cells(rows, (0.5, 1.0), seeds=(0, 3))
    assert cells[:4] == [Cell("a", 0.5, 0), Cell("a", 1.0, 0), Cell("b", 0.5, 0), Cell("b", 1.0, 0)]
    assert [cell.seed for cell in cells] == [0] * 4 + [3] * 4
    assert len({cell.name for cell in cells}) == 8
    assert cells[0].name == "a-beta0.5-seed0"


def test_slow_rows_come_first_with_their_own_grid():
    rows = [Row("a", "A", ()), Row("b", "B", (), slow=True)]
    cells = make_cells(rows, (0.5, 1.0), (0,), slow_betas=(3.0,))
    assert cells == [Cell("b", 3.0, 0), Cell("a", 0.5, 0), Cell("a", 1.0, 0)]


def test_names_of_rows_are_distinct_and_usable():
    assert len(ROWS) == len({row for table in TABLES.values() for row in table.rows})
    assert all(name.replace("_", "").isalnum() for name in ROWS)


def test_the_paper_has_six_tables_and_figures_2_to_9():
    assert list(TABLES)[:6] == list("123456")
    assert list(FIGURES) == list("23456789")
    assert all(TABLES[figure.table].rows for figure in FIGURES.values())
    assert {place.image_set for place in (*TABLES.values(), *FIGURES.values())} == SETS.keys()


def test_every_table_is_compared_with_l2():
    for table in TABLES.values():
        assert table.reference.overlays[0] == "configs/losses/l2.yaml"


def test_later_files_win_and_only_what_changes_a_result_counts(tmp_path):
    base, over = tmp_path / "train.json", tmp_path / "over.yaml"
    term = {"_target_": "WienerLoss", "c": "@c"}
    content = {"beta": 1.0, "seed": 3, "c": 0.1, "dataset_dir": "x", "num_workers": 2, "max_epochs": 9}
    base.write_text(
        json.dumps({**content, "channels": [4, 8], "train": {"term": term, "objective": {}, "trainer": {}}})
    )
    over.write_text("train#term: {_target_: L2Loss}\ntrain#objective#extra: 3\n")
    assert settings_of(merged_config([base])) == {
        "c": 0.1,
        "max_epochs": 9,
        "channels#0": 4,
        "channels#1": 8,
        "train#term#_target_": "WienerLoss",
        "train#term#c": "@c",
        "train#objective": {},
        "train#trainer": {},
    }
    settings = settings_of(merged_config([base, over], {"c": 0.2, "train#trainer#seed": 5}))
    assert settings["c"] == 0.2
    assert {id: value for id, value in settings.items() if id.startswith("train")} == {
        "train#term#_target_": "L2Loss",
        "train#objective#extra": 3,
        "train#trainer#seed": 5,
    }


def test_what_makes_the_measured_images_is_found_with_the_settings_that_it_refers_to():
    config = {
        "lr": 0.1,
        "patch_size": 64,
        "cache_dir": "x",
        "train": {"deterministic_transforms": [{"_target_": "LoadImaged"}], "term": {"size": "@lr"}},
        "validate": {
            "dataset": {"_target_": "VolumePatchDataset", "size": "$2 * @patch_size", "cache_dir": "@cache_dir"}
        },
    }
    assert evaluation_settings(config) == {
        "train#deterministic_transforms#0#_target_": "LoadImaged",
        "validate#dataset#_target_": "VolumePatchDataset",
        "validate#dataset#size": "$2 * @patch_size",
        "validate#dataset#cache_dir": "@cache_dir",
        "patch_size": 64,
    }


def test_configs_that_do_not_fit_together_are_named(tmp_path):
    base, over = tmp_path / "train.json", tmp_path / "over.yaml"
    base.write_text(json.dumps({"channels": [1, 2]}))
    over.write_text("+channels: 3\n")
    with pytest.raises(SettingsError, match=r"over\.yaml do not fit together"):
        merged_config([base, over])


@pytest.mark.parametrize(("text", "message"), [(None, "is not there"), ("{", "cannot be read"), ("[1]", "no dict")])
def test_a_config_that_cannot_be_used_is_named(tmp_path, text, message):
    path = tmp_path / "over.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        merged_config([path])
    assert str(path) in str(caught.value)


def test_rows_with_the_same_settings_are_one():
    settings = {"wiener": {"c": 1}, "l2": {"c": 2}, "c_0025": {"c": 1}}
    assert same_rows(settings) == {"wiener": "wiener", "l2": "l2", "c_0025": "wiener"}


def test_differences_are_named_and_new_settings_are_none():
    assert differences({"c": 1, "beta": 2}, {"c": 3, "beta": 2, "new": 4}) == ["c was 1, is 3"]


@pytest.mark.parametrize("images", SETS.values(), ids=lambda images: images.name)
@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_every_row_has_its_configs(row, images):
    files = (f"bundles/{images.bundle}/train.json", images.paper, *images.overlays, *row.overlays)
    config = merged_config([ROOT / file for file in files])
    assert {"beta", "warmup_epochs", "max_epochs", "train"} <= config.keys()
    assert pydoc.locate(config["train"]["term"]["_target_"]) is not None


def test_every_overlay_is_a_row():
    files = {
        f"configs/{folder}/{file.name}"
        for folder in ("losses", "ablations")
        for file in (ROOT / "configs" / folder).glob("*.yaml")
    }
    assert files == {row.overlays[0] for row in ROWS.values()}


def test_every_budget_has_its_configs():
    for chosen in BUDGETS.values():
        assert all((ROOT / file).is_file() for file in chosen.overlays or ())
