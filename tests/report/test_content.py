import json
import shlex

import pytest

from monai_blurvae.report import content
from monai_blurvae.report.run_record import plain_settings, read_run
from tests.report.runs import SETTINGS, evaluate, make_rows, make_run, yardstick


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "true"),
        ([16, 32], "16, 32"),
        ([[1, None], "a"], "1, –, a"),
        (0.0001, "0.0001"),
        (1.0, "1"),
        ("x", "x"),
        (3, "3"),
    ],
)
def test_values(value, text):
    assert content.value_text(value) == text


def test_only_plain_values_are_settings():
    config = SETTINGS | {"_meta_": 1, "reference": "@lr", "mixed": [1, "$2"], "nested": [[1], [2]]}
    settings = plain_settings(config)
    assert {"imports", "bundle_root", "network", "run", "_meta_", "reference", "mixed"}.isdisjoint(settings)
    assert {"loss", "channels", "my_momentum", "nested"} <= settings.keys()


def test_settings_are_grouped_and_none_is_lost():
    settings = plain_settings(SETTINGS) | {"image_pattern": "a" * 100}
    groups = content.setting_groups(settings)
    assert [group.title for group in groups] == ["Data", "Network", "Loss", "Optimisation", "Other"]
    shown = [setting.name for group in groups for setting in group.settings]
    assert sorted(shown) == sorted(settings)
    loss = next(group for group in groups if group.title == "Loss")
    assert [(setting.name, setting.text) for setting in loss.settings] == [
        ("loss", "WienerLoss"),
        ("train#term#weighting", "wiener"),
        ("train#objective#determinant", "omit"),
        ("beta", "1"),
    ]
    assert [setting.name for setting in groups[-1].settings] == ["my_momentum"]
    assert [s.name for group in groups for s in group.settings if s.is_long] == ["image_pattern"]


def test_a_long_data_list_is_counted():
    entries = [{"image": f"{i}.jpg", "subject": str(i)} for i in range(200_000)]
    training, validation, test = content.splits({"training": entries, "test": entries[:2]})
    assert (training.name, training.entries, len(training.first)) == ("training", 200_000, content.FIRST_ENTRIES)
    assert training.first[1] == ("1", "1.jpg")
    assert (validation.entries, test.entries, len(test.first)) == (0, 2, 2)


def test_the_extremes():
    rows = [{name: str(value) for name, value in row.items()} for row in make_rows(30)]
    lowest, highest = content.extreme_tables(rows[::-1])
    assert [row[4] for row in lowest.rows] == ["15", "15.25", "15.5", "15.75", "16"]
    assert [row[4] for row in highest.rows] == ["22.25", "22", "21.75", "21.5", "21.25"]
    assert list(lowest.head)[:5] == ["subject", "slice", "row", "column", "PSNR (dB)"]
    (few,) = content.extreme_tables(rows[:10])
    assert len(few.rows) == 10
    assert content.extreme_tables([]) == []


def test_where_examples_are_from():
    patch, image = make_rows(1)[0], make_rows(1, ["a/b.jpg"])[0]
    assert content.example_text(patch) == "s7, slice 10, row 3, column 4: 15.00 dB, SSIM 0.500"
    assert content.example_text(image) == "a/b.jpg: 15.00 dB, SSIM 0.500"


def test_measures_with_and_without_a_value():
    row = {"unit": "dB", "what": "how close", "features": "AlexNet", "better": "higher", "name": "PSNR", "reason": ""}
    rows = {"a": row | {"value": -12345.678}, "b": row | {"value": None, "reason": "no weights", "name": "LPIPS"}}
    made = content.measures_of({"title": "test", "measures": rows, "notes": ["careful"]})
    assert made.table.rows == [("PSNR ↑", "−12345.7", "dB", "how close; features: AlexNet")]
    assert made.missing == [("LPIPS", "no weights")]
    assert made.notes == ["careful"]


def test_the_network_stands_beside_the_linear_models():
    made = content.yardstick_of(yardstick())
    by_measure = {row[0]: row[1:] for row in made.table.rows}
    assert by_measure["PSNR (dB)"] == ("20.00", "20.00", "19.00")
    assert by_measure["objective (nats per image)"] == ("100.0", "110.0", "–")
    assert made.table.head[1:3] == ("network", "linear, β = 1")
    assert len(made.table.head) == 4
    without = content.yardstick_of(yardstick(linear=None, beta=None, weight=None))
    assert len(without.table.head) == 3
    assert any("has no closed form" in note for note in without.notes)
    assert content.yardstick_of({"title": "test", "problem": "no images."}).table is None


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123456, "0.01235"), (-1.5, "−1.5"), (1234.56, "1234.6"), (float("inf"), "inf")]
)
def test_numbers(value, text):
    assert content.number_text(value) == text


def test_commands_survive_a_shell(tmp_path):
    folder = tmp_path / "it's a run; rm -rf"
    words = shlex.split(content.resume_command(folder))
    assert words[words.index("--config_file") + 1] == str(folder / "config.json")
    assert words[words.index("--run_dir") + 1] == str(folder)
    assert words[-2:] == ["--resume", "true"]
    assert shlex.split(content.same_split_option(folder)) == ["--datalist", str(folder / "datalist.json")]
    assert "--resume" not in content.repeat_command(folder)


def test_tiles_are_the_tests_or_else_the_last_validations(tmp_path):
    folder = make_run(tmp_path, epochs=4)
    assert dict(content.tiles(read_run(folder)))["PSNR, last validation"] == "18.92 dB"
    evaluate(folder / "test")
    tiles = dict(content.tiles(read_run(folder)))
    assert tiles["PSNR"] == "20.00 ± 1.00 dB"
    assert tiles["active units"] == "18 of 20"
    assert tiles["kernel width"] == "20.00 pixels = 14.00 mm"
    evaluate(folder / "test", active_units=None, training_voxel_size=[0.0, 0.0])
    tiles = dict(content.tiles(read_run(folder)))
    assert "active units" not in tiles
    assert tiles["kernel width"] == "20.00 pixels"


def test_an_untrained_kernel_has_no_width(tmp_path):
    folder = make_run(tmp_path, epochs=1, kernel=False)
    evaluate(folder / "test")
    assert "kernel width" not in dict(content.tiles(read_run(folder)))


def test_nan_that_was_taken_as_background_is_told(tmp_path):
    folder = make_run(tmp_path, epochs=1)
    listed = {
        "training": [{"image": "a", "nan_voxels": "3"}, {"image": "b"}],
        "test": [{"image": "c", "nan_voxels": "4"}],
    }
    (folder / "datalist.json").write_text(json.dumps(listed))
    assert ("NaN, taken as background", "7 voxels of 2 volumes") in content.data_facts(read_run(folder))
    (folder / "datalist.json").write_text(json.dumps({"training": [{"image": "b"}]}))
    assert "NaN, taken as background" not in dict(content.data_facts(read_run(folder)))
