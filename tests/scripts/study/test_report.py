import logging

import numpy as np
import pytest

pytest.importorskip("pandas")

from monai_blurvae.errors import RunFolderError
from study import report
from study.folder import KeptRate, StudyFolder
from study.frames import cells_frame
from study.kernels import KernelHistory
from study.pictures import CellPictures
from study.plan import ROWS
from study.tables import Results


def joined(*parts):
    lines = [line for part in parts for line in part.cells.to_dict("records")]
    return parts[0]._replace(cells=cells_frame(lines))


def results(*names, betas=(0.1, 1.0), seeds=(1, 0), **changes):
    cells = [
        {"row": name, "beta": beta, "seed": seed, "split": split, "kl": 10 / beta, "mmd_alexnet": beta, "psnr": 20.0}
        for split in ("validation", "test")
        for name in names
        for seed in seeds
        for beta in betas
    ]
    cells = [cell | changes.get(cell["row"], {}) for cell in cells]
    return Results(cells_frame(cells), "test", "Test subjects", {}, {"c_0025": "wiener"})


PICTURES = CellPictures(
    np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1),
    np.full((8, 1, 1, 1), 100, np.uint8),
    np.full((8, 1, 1, 1), 200, np.uint8),
    np.zeros((3, 1, 1), np.float32),
)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws figures; what each function that draws was given, by the name of the file."""
    given, read = {}, []
    spectra = {name: [0.0, -1.0] for name in ("images", "reconstruction", "sample")}
    monkeypatch.setattr(StudyFolder, "spectra", lambda self, cell, split: spectra)
    monkeypatch.setattr(report, "load_pictures", lambda path: read.append(path.name) or PICTURES)
    monkeypatch.setattr(report, "save", lambda figure, folder, name: given.__setitem__(name, figure))
    monkeypatch.setattr(report, "save_figure", lambda figure, path: given.__setitem__(path.stem, figure))
    for name in ("draw_rate_distortion", "draw_spectra", "draw_kernels", "draw_spectrum_images", "draw_grid"):
        monkeypatch.setattr(report, name, lambda *shown: shown)

    def draw(made, figures=(), absent=(), **tables):
        def history(folder):
            read.append(folder.parent.name)
            if folder.parent.name.rsplit("-beta")[0] in absent:
                raise RunFolderError(f"{folder} is not there.")
            return KernelHistory({18: None, 54: None}, dict.fromkeys(range(1, 71), 1.0), {})

        monkeypatch.setattr(report, "read_kernels", history)
        folder = StudyFolder(tmp_path)
        given.clear()
        read.clear()
        report.draw_figures(folder, figures, made)
        rows = {name.removeprefix("t"): [ROWS[row] for row in rows] for name, rows in tables.items()}
        report.draw_rates(folder, rows, made, 20.0)
        return dict(given), list(read)

    return draw


def test_every_table_has_its_rates_with_the_reference(drawn):
    figures, _ = drawn(results("l2", "l1", "wiener", "exact"), t3=("l1", "ssim"), ablations=("exact",))
    assert list(figures["rate_distortion_table3"][0]) == ["L2", "L1"]
    assert list(figures["rate_distortion_ablations"][0]) == ["L2", "exact determinant"]


def test_a_grid_has_the_same_images_for_every_row(drawn):
    # The protocol's β is 0.1 here, where the MMD is the lowest.
    figures, read = drawn(results("l2", "wiener", "vgg"), ("4",))
    assert list(figures) == ["figure4_beta1", "figure4_protocol"]
    rows, _, title = figures["figure4_beta1"]
    assert [row.label.splitlines()[0] for row in rows] == ["images", "L2", "Wiener (the paper's)"]
    assert rows[1].label == "L2\nβ = 1, 20.00 dB\n10 nats"
    assert [row.left.ravel().tolist() for row in rows] == [[0, 1, 2, 3], [100] * 4, [100] * 4]
    assert [row.right.ravel().tolist() for row in rows] == [[8, 9, 10, 11], [200] * 4, [200] * 4]
    assert title.startswith("Figure 4, here of: Test subjects; β = 1")
    assert read[:2] == ["l2-beta1-seed0.test.npz", "wiener-beta1-seed0.test.npz"]


def test_a_figure_whose_protocol_has_beta_1_is_drawn_once(drawn):
    figures, _ = drawn(results("l2", "wiener", betas=(1.0, 2.0)), ("8", "6"))
    assert list(figures) == ["figure8_beta1", "figure6_beta1_radial", "figure6_beta1"]
    assert list(figures["figure6_beta1"][0]) == ["L2", "Wiener (the paper's)"]


def test_kernels_are_of_rows_that_have_some_and_say_which_epoch_is_the_last(drawn, caplog):
    with caplog.at_level(logging.WARNING):
        figures, read = drawn(results("l2", "wiener", betas=(1.0,)), ("2",), absent=("l2",))
    shown, title, warmup = figures["figure2_beta1"]
    assert list(shown) == ["Wiener (the paper's)\nβ = 1"]
    assert title.endswith("last pictures of epoch 54 of 70")
    assert warmup == 0
    assert read == ["l2-beta1-seed0", "wiener-beta1-seed0"]
    assert [record.getMessage().split(" is left out")[0] for record in caplog.records] == ["L2"]
    assert drawn(results("l2", betas=(1.0,)), ("2",), absent=("l2",))[0] == {}


def test_kernels_that_were_not_measured_are_not_drawn(drawn):
    made = results("l2", "wiener", betas=(1.0,), wiener={"kernel_width": "fixed"}, l2={"kernel_width": 2.0})
    assert list(drawn(made, ("2",))[0]["figure2_beta1"][0]) == ["L2\nβ = 1"]


def test_nothing_is_drawn_of_what_was_not_measured(drawn):
    assert drawn(results("exact"), ("2", "3", "6"))[0] == {}


def test_the_rate_lies_within_the_references_also_where_it_is_in_no_table():
    wide = results("exact", betas=(0.01, 100.0))  # 0.1 to 1000 nats
    narrow = results("l2", betas=(0.5, 0.4))  # 20 to 25 nats
    assert 20 <= report.rate_of([ROWS["exact"]], joined(wide, narrow)) <= 25


def test_the_rate_is_chosen_for_the_main_table_alone():
    main = joined(results("l2", betas=(0.1, 1.0)), results("l1", betas=(0.2, 0.5)))  # 10 to 100, 20 to 50 nats
    others = joined(results("exact", "c_01", betas=(0.9, 0.8)), results("fixed_2", "fixed_4", betas=(0.12,)))
    expected = pytest.approx((20 * 50) ** 0.5)
    for rows in ([ROWS["l2"]], [ROWS["exact"], ROWS["c_01"], ROWS["fixed_2"]]):
        assert report.rate_of(rows, joined(main, others)) == report.rate_of(rows, main) == expected
    assert report.rate_of([ROWS["exact"]], others) == pytest.approx((10 / 0.9 * 10 / 0.8) ** 0.5)
    assert report.rate_of([ROWS["fixed_2"]], others) is None


def test_the_rate_of_the_main_table_is_kept_for_later_commands(tmp_path):
    folder = StudyFolder(tmp_path)
    three, one = {"3": [ROWS["l2"]]}, {"1": [ROWS["exact"]]}
    first, more = results("l2", betas=(0.1, 1.0)), results("l2", betas=(0.1, 0.4))
    rate = report.settle_rate(folder, three, first, None)
    assert folder.rate == KeptRate(rate, False)
    assert report.settle_rate(folder, one, more, None) == rate
    anew = report.settle_rate(folder, three, more, None)
    assert anew == pytest.approx(50.0) != rate
    assert report.settle_rate(folder, one, first, None) == anew


def test_a_given_rate_stays_until_another_is_given(tmp_path):
    folder, tables, made = StudyFolder(tmp_path), {"3": [ROWS["l2"]]}, results("l2")
    assert report.settle_rate(folder, tables, made, 70.0) == 70.0
    assert report.settle_rate(folder, tables, made, None) == 70.0
    assert report.settle_rate(folder, {"1": []}, made, 80.0) == 80.0
    assert report.settle_rate(StudyFolder(tmp_path), tables, made, None) == 80.0


def test_without_a_rate_none_is_kept(tmp_path):
    folder = StudyFolder(tmp_path)
    assert report.settle_rate(folder, {"3": []}, results("l2", betas=(1.0,)), None) is None
    assert folder.rate is None


def test_tables_are_written_with_their_comparison(tmp_path):
    made = results("l2", "wiener")
    tables = {"3": [ROWS["l2"], ROWS["wiener"]], "4": [], "remedies": []}
    report.write_tables(StudyFolder(tmp_path), tables, made, 20.0, "hcp")
    kinds = ("_beta1", "", "_equal_rate", "_likelihood", "_likelihood_equal_rate")
    stems = [f"{s}{kind}" for s in ("table3", "table4", "remedies") for kind in kinds]
    for stem, reference in (("table3", "l2"), ("table4", "l2_upsample"), ("remedies", "l2")):
        stems += [f"{stem}_against_{reference}", f"{stem}_beta1_against_{reference}"]
    expected = {f"{stem}.{suffix}" for stem in stems for suffix in ("md", "csv", "tex")} | {"cells.csv"}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == expected
