import logging

import pytest

pytest.importorskip("pandas")

from monai_blurvae.errors import RunFolderError
from monai_blurvae.study import report
from monai_blurvae.study.folder import KeptRate, StudyFolder
from monai_blurvae.study.frames import cells_frame
from monai_blurvae.study.kernels import KernelHistory
from monai_blurvae.study.plan import ROWS, Cell
from monai_blurvae.study.tables import Results


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


@pytest.fixture(autouse=True)
def _spectra(monkeypatch):
    spectra = {name: [0.0, -1.0] for name in ("images", "reconstruction", "sample")}
    monkeypatch.setattr(StudyFolder, "spectra", lambda self, cell, split: spectra)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws the figures of tables given by names of rows; what each function that draws was given, by file."""
    given = {}
    monkeypatch.setattr(report, "save", lambda figure, folder, name: given.__setitem__(name, figure))
    for name in ("draw_rate_distortion", "draw_spectra", "draw_kernels"):
        monkeypatch.setattr(report, name, lambda shown, *_: shown)

    def draw(made, absent=(), **tables):
        def read(folder):
            if folder.parent.name.rsplit("-beta")[0] in absent:
                raise RunFolderError(f"{folder} is not there.")
            return KernelHistory({}, {}, {})

        monkeypatch.setattr(report, "read_kernels", read)
        given.clear()
        rows = {name.removeprefix("t"): [ROWS[row] for row in rows] for name, rows in tables.items()}
        report.draw_figures(StudyFolder(tmp_path), rows, made, 20.0)
        return {name: list(shown) for name, shown in given.items()}

    return draw


def test_every_table_has_figures_of_its_own_with_the_reference(drawn):
    figures = drawn(results("l2", "l1", "wiener", "exact"), t3=("l2", "l1", "ssim"), t1=("exact", "c_0025"))
    assert figures["rate_distortion"] == figures["spectra"] == ["L2", "L1"]
    assert figures["rate_distortion_table1"] == figures["spectra_table1"] == ["L2", "exact determinant", "C = 0.025"]


def test_kernels_are_of_six_rows_the_most_important_among_them(drawn):
    names = ("l2", "l1", "ssim", "ce", "ffl", "vgg", "watson", "wiener", "default")
    shown = [label.splitlines()[0] for label in drawn(results(*names), t3=names)["kernels"]]
    assert shown == ["L2", "L1", "SSIM", "CE", "Wiener (the paper's)", "default of the bundle"]


def test_rows_without_kernels_leave_their_place_to_others(drawn, caplog):
    names = ("l2", "l1", "ssim", "ce", "ffl", "vgg", "watson")
    with caplog.at_level(logging.WARNING):
        figures = drawn(results(*names), absent=("l2", "ce"), t3=names)
    assert figures["kernels"] == [f"{label}\nβ = 0.1" for label in ("L1", "SSIM", "FFL", "VGG", "Watson")]
    assert [record.getMessage().split(" is left out")[0] for record in caplog.records] == ["L2", "CE"]
    assert "kernels" not in drawn(results("l2"), absent=("l2",), t3=("l2",))


def test_a_row_that_shares_its_trainings_is_shown_once(drawn):
    figures = drawn(results("wiener"), t3=("wiener",), t1=("c_0025",))
    assert figures["kernels"] == ["Wiener (the paper's)\nβ = 0.1"]


def test_kernels_are_of_the_chosen_beta_and_the_first_seed(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(report, "save", lambda *_: None)
    monkeypatch.setattr(report, "draw_kernels", lambda *_: None)
    monkeypatch.setattr(report, "read_kernels", lambda folder: read.append(folder) or KernelHistory({}, {}, {}))
    folder = StudyFolder(tmp_path)
    pytest.importorskip("matplotlib")
    report.draw_figures(folder, {"3": [ROWS["l2"]]}, results("l2", betas=(1.0, 0.1)), None)
    assert read == [folder.cell_dir(Cell("l2", 0.1, 0)) / "tensorboard"]


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


def test_the_figure_of_kernels_says_which_epoch_is_the_last(tmp_path, monkeypatch):
    titles = []
    history = KernelHistory({18: None, 54: None}, dict.fromkeys(range(1, 71), 1.0), {})
    for name in ("save", "draw_rate_distortion", "draw_spectra"):
        monkeypatch.setattr(report, name, lambda *_: None)
    monkeypatch.setattr(report, "draw_kernels", lambda shown, title: titles.append(title))
    monkeypatch.setattr(report, "read_kernels", lambda folder: history)
    report.draw_figures(StudyFolder(tmp_path), {"3": [ROWS["l2"]]}, results("l2"), None)
    assert titles[0].endswith("last pictures of epoch 54 of 70")


def test_kernels_that_were_not_measured_are_not_drawn(drawn):
    figures = drawn(
        results("l2", "fixed_2", fixed_2={"kernel_width": "fixed"}, l2={"kernel_width": 2.0}), t1=("l2", "fixed_2")
    )
    assert figures["kernels"] == ["L2\nβ = 0.1"]


def test_tables_are_written_with_their_comparison(tmp_path):
    made = results("l2", "wiener")
    report.write_tables(StudyFolder(tmp_path), {"3": [ROWS["l2"], ROWS["wiener"]], "remedies": []}, made, 20.0)
    kinds = ("", "_equal_rate", "_against_l2", "_likelihood", "_likelihood_equal_rate")
    stems = [f"{s}{kind}" for s in ("table3", "remedies") for kind in kinds]
    expected = {f"{stem}.{suffix}" for stem in stems for suffix in ("md", "csv", "tex")} | {"cells.csv"}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == expected
