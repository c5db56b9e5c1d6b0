import math

import pytest

pytest.importorskip("pandas")

from study.equal_rate import plain_against_table
from study.frames import cells_frame
from study.paper import beside, paper_table
from study.plan import ROWS, SETS, TABLES
from study.tables import Results, plain_table
from tests.scripts.study.test_tables import entry, measured, of_split


def made(*cells):
    return Results(
        cells_frame([x for split in ("validation", "test") for x in of_split(split, cells)]), "test", "T", {}, {}
    )


def test_every_row_of_the_paper_has_its_place():
    for name in "123456":
        lines = paper_table(name)
        rows = {row.name for row in TABLES[name].rows}
        assert lines
        assert {line.image_set for line in lines} <= SETS.keys()
        assert all(rows.issuperset(line.rows) for line in lines)
    assert paper_table("remedies") == ()


@pytest.mark.parametrize(
    ("table", "image_set", "row", "key", "value"),
    [
        ("2", "celeba", "wiener", "psnr", (23.21, 1.6)),
        ("2", "celeba_hq", "wiener", "lpips", (0.4874, 0.08)),
        ("3", "hcp", "ssim", "ssim", (0.5922, 0.21)),
        ("4", "celeba", "wiener_upsample", "fid_2048", (0.0563, None)),
        ("5", "cifar10", "wiener", "ssim", (0.6382, 0.096)),
        ("6", "celeba", "wiener", "nll_table6", (-3062, None)),
    ],
)
def test_values_as_printed(table, image_set, row, key, value):
    (line,) = [x for x in paper_table(table) if x.image_set == image_set and row in x.rows]
    assert line.values[key] == value


def test_the_same_method_has_the_same_figures_in_tables_1_2_and_6():
    psnr = {t: next(x.values["psnr"][0] for x in paper_table(t) if "wiener" in x.rows) for t in "126"}
    assert psnr == {"1": 23.21, "2": 23.21, "6": 23.2}


def test_lines_of_the_paper_stand_below_ours_on_the_same_images():
    rows = TABLES["2"].rows
    table = plain_table("T", rows, made(measured("l2", 1.0, psnr=20.0, kl=5.0), measured("l2", 0.5, psnr=30.0, kl=9.0)))
    for image_set, psnr in (("celeba", 22.51), ("celeba_hq", 19.37)):
        shown = beside(table, "2", rows, image_set)
        assert len(shown.lines) == 2 * len(rows)
        assert entry(shown, 0, "psnr")[0] == 20.0
        assert shown.lines[1].leading[0] == f"L2, {SETS[image_set].label}"
        assert (shown.means["psnr"][1], math.isnan(shown.means["kl"][1])) == (psnr, True)
        assert not shown.lines[1].competes
    assert "not these" in beside(table, "2", rows, "hcp").notes[-1]
    assert beside(table, "remedies", rows, "hcp") is table


def test_a_kernel_that_is_read_two_ways_has_two_lines():
    rows = [ROWS["fixed_4"]]
    shown = beside(plain_table("T", rows, made()), "1", rows, "celeba")
    assert [line.leading[0] for line in shown.lines[1:]] == ["K(N(0, 2), ε), CelebA", "K(N(0, 4), ε), CelebA"]
    assert list(shown.means["psnr"][1:]) == [22.37, 22.56]


def test_differences_stand_below_differences():
    rows = [ROWS["l2"], ROWS["wiener"]]
    cells = made(
        *(measured(row, 1.0, s, psnr=p + s, kl=5.0) for s in (0, 1) for row, p in (("l2", 20.0), ("wiener", 21.5)))
    )
    shown = beside(plain_against_table("T", rows, cells), "3", rows, "hcp")
    assert entry(shown, 2, "psnr_difference")[:2] == (pytest.approx(1.5), pytest.approx(0.0))
    assert shown.means["psnr_difference"][3] == pytest.approx(19.54 - 18.09)
    assert shown.means["ssim_difference"][3] == pytest.approx(0.5209 - 0.4313)
    assert shown.means["kl_difference"][2] == 0.0
