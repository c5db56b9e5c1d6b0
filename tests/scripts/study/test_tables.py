import csv
import io
import math
import re
from statistics import stdev

import pytest

pytest.importorskip("pandas")
pytest.importorskip("tabulate")

from monai_blurvae.metrics.measures import MEASURES, Description
from study.equal_rate import equal_rate_table
from study.frames import cells_frame
from study.plan import Row
from study.tables import (
    LIKELIHOODS,
    QUALITY,
    Line,
    Results,
    Table,
    best_beta,
    criterion_of,
    protocol_table,
    rate_range,
)
from study.text import escape_latex, to_csv, to_latex, to_markdown

L2, WIENER = Row("l2", "L2", ()), Row("wiener", "Wiener", ())


def measured(row, beta, seed=0, reasons=None, **values):
    return {"row": row, "beta": float(beta), "seed": seed, **values, **(reasons or {})}


def of_split(split, cells):
    return [{**cell, "split": split} for cell in cells]


def results(validation, test, problems=None, aliases=None, likelihoods=None):
    cells = cells_frame(of_split("validation", validation) + of_split("test", test))
    return Results(cells, "test", "Test subjects", problems or {}, aliases or {}, likelihoods or {})


def entry(table, line, key):
    """Mean, standard deviation or None, and why there is no mean."""
    mean, std = table.means[key][line], table.stds[key][line]
    if math.isnan(mean):
        return None, None, table.lines[line].reason(key)
    return mean, None if math.isnan(std) else std, ""


def squeezed(text):
    """Without the spaces that align the columns of Markdown."""
    return re.sub(" +", " ", text)


def test_beta_is_chosen_by_the_mean_over_seeds_on_validation_alone():
    validation = [
        measured("l2", 0.1, 0, mmd_alexnet=1.0),
        measured("l2", 0.1, 1, mmd_alexnet=5.0),  # mean 3
        measured("l2", 1.0, 0, mmd_alexnet=2.0),
        measured("l2", 1.0, 1, mmd_alexnet=2.5),  # mean 2.25
    ]
    test = [
        measured("l2", 0.1, 0, psnr=30.0, mmd_alexnet=0.0),
        measured("l2", 1.0, 0, psnr=20.0, mmd_alexnet=9.0),
        measured("l2", 1.0, 1, psnr=23.0, mmd_alexnet=9.0),
    ]
    assert best_beta(cells_frame(of_split("validation", validation)), "mmd_alexnet") == 1.0
    table = protocol_table("T", [L2], results(validation, test))
    assert table.lines[0].leading == ("L2", "1", "2", "–")
    assert entry(table, 0, "psnr") == (21.5, pytest.approx(stdev([20.0, 23.0])), "")
    assert "lowest mmd_alexnet on the validation subjects" in table.notes[0]


def test_all_rows_are_chosen_by_one_criterion():
    with_features = [measured("l2", 0.1, mmd_alexnet=1.0, spectrum_sample=2.0)]
    without = [measured("wiener", 0.1, spectrum_sample=2.0)]
    assert criterion_of(results(with_features, [])) == "mmd_alexnet"
    assert criterion_of(results(with_features + without, with_features)) == "spectrum_sample"
    assert criterion_of(results([measured("l2", 0.1, psnr=1.0)], [])) is None
    assert criterion_of(results([], with_features)) is None


def test_one_seed_has_no_deviation_and_a_missing_measure_its_reason():
    validation = [measured("l2", 0.1, mmd_alexnet=1.0)]
    test = [measured("l2", 0.1, psnr=20.0, reasons={"lpips": "no weights in w"})]
    table = protocol_table("T", [L2], results(validation, test))
    assert entry(table, 0, "psnr") == (20.0, None, "")
    assert entry(table, 0, "lpips") == (None, None, "no weights in w")
    text = to_markdown(table)
    assert "LPIPS: – for L2: no weights in w" in text
    assert "20.00 |" in squeezed(text)


def test_a_seed_that_lacks_a_measure_leaves_none():
    cells = [
        measured("l2", beta, seed, kl=10 / beta, mmd_alexnet=1.0, psnr=20.0, **({"lpips": 0.5} if seed else {}))
        for seed in (0, 1)
        for beta in (1.0, 0.1)
    ]
    cells = [cell if cell["seed"] else {**cell, "lpips": "no weights"} for cell in cells]
    made = results(cells, cells)
    for table in (protocol_table("T", [L2], made), equal_rate_table("T", [L2], made, 20.0)):
        assert entry(table, 0, "psnr") == (20.0, 0.0, "")
        assert entry(table, 0, "lpips") == (None, None, "no weights")
        assert entry(table, 0, "ssim") == (None, None, "not measured")


def test_likelihoods_have_a_table_with_the_reasons_for_what_is_missing():
    reasons = {"fid_2048": "no Inception weights", "nll_kernel": "the loss trains no kernel"}
    values = {"mmd_alexnet": 1.0, "nll_variance": 30.5, "iw_nll_variance": 29.5, "bpd_variance": 0.25}
    cells = [measured("l2", b, reasons=reasons, kl=10 / b, **values) for b in (0.1, 1.0)]
    made = results(cells, cells)
    for table in (protocol_table("T", [L2], made, LIKELIHOODS), equal_rate_table("T", [L2], made, 20.0, LIKELIHOODS)):
        assert (entry(table, 0, "nll_variance")[0], entry(table, 0, "bpd_variance")[0]) == (30.5, 0.25)
        assert entry(table, 0, "fid_2048")[2] == "no Inception weights"
        assert "psnr" not in {measure.key for measure in table.measures}
        text = to_markdown(table)
        assert "−log p, kernel (nats per image): – for L2: the loss trains no kernel" in text
        assert "density of float data" in text
        assert to_latex(table).isascii()


def test_likelihoods_are_of_one_gaussian_whatever_was_trained():
    for shown in (None, LIKELIHOODS):
        table = protocol_table("T", [L2], results([], []), *([shown] if shown else []))
        assert any("All −log p" in note and "whatever the row was trained with" in note for note in table.notes)


def test_columns_that_lack_the_same_share_their_reason():
    reasons = {"fid_64": "no Inception", "fid_192": "no Inception", "nll_kernel": "no kernel"}
    cells = [measured(row, 0.1, reasons=reasons, mmd_alexnet=1.0) for row in ("l2", "wiener")]
    notes = to_markdown(protocol_table("T", [L2, WIENER], results(cells, cells), LIKELIHOODS))
    assert "- FID of samples, 64; FID of samples, 192: – for L2, Wiener: no Inception\n" in notes
    assert "- −log p, kernel (nats per image): – for L2, Wiener: no kernel\n" in notes


def test_a_row_without_cells_says_why():
    crash = {"wiener": "1 cell without a result: the loss is nan"}
    for table in (
        protocol_table("T", [L2, WIENER], results([], [], crash)),
        equal_rate_table("T", [L2, WIENER], results([], [], crash), 20.0),
    ):
        assert [line.note for line in table.lines] == ["not trained", crash["wiener"]]
        for text in (to_markdown(table), to_csv(table), to_latex(table)):
            assert crash["wiener"] in text


def test_rows_that_share_their_cells_share_their_numbers():
    alias = Row("c_0025", "C", ())
    one = [measured("wiener", 0.1, mmd_alexnet=1.0, psnr=20.0)]
    aliases = {"c_0025": "wiener", "wiener": "wiener"}
    table = protocol_table("T", [WIENER, alias], results(one, one, aliases=aliases))
    assert entry(table, 0, "psnr") == entry(table, 1, "psnr") == (20.0, None, "")


def test_the_range_of_a_row():
    cells = [measured("l2", b, s, kl=kl) for b, s, kl in ((1, 0, 10.0), (2, 0, 50.0), (1, 1, 12.0), (2, 1, 45.0))]
    assert rate_range(cells_frame(of_split("test", cells))) == (12.0, 45.0)
    assert rate_range(cells_frame([])) is None


def test_what_is_no_likelihood_is_said():
    validation = [measured(row, 0.1, mmd_alexnet=1.0, kl=3.0, nll_variance=5.0) for row in ("l2", "wiener")]
    made = results(validation, validation, likelihoods={"l2": True, "wiener": False})
    for build in (protocol_table, lambda *given: equal_rate_table(*given, 3.0)):
        table = build("T", [L2, WIENER], made)
        assert table.leading[-1] == "likelihood"
        assert [line.leading[-1] for line in table.lines] == ["yes", "no"]
        assert "Likelihood no" in table.notes[-1]
        assert not any("Likelihood no" in note for note in build("T", [L2], made).notes)
    untrained = protocol_table("T", [WIENER], results([], [], likelihoods={"wiener": False}))
    assert untrained.lines[0].leading == ("Wiener", "–", "–", "no")


def table_of(measure, seeds, competes=None):
    """A table of one measure, with the values of the seeds of each line."""
    import pandas

    competes = competes or [True] * len(seeds)
    lines = [
        Line((f"row {i}",), pandas.DataFrame({measure.key: values}), competes=competes[i])
        for i, values in enumerate(seeds)
    ]
    return Table("A & B", ("row",), (measure,), tuple(lines))


def simple(*means, better=1, **options):
    deviation = 0.24 / 2**0.5
    measure = MEASURES["psnr"]._replace(digits=1, better=better)
    return table_of(measure, [[mean - deviation, mean + deviation] for mean in means], **options)


def test_the_best_of_a_column_is_bold():
    assert "| row 1 | **3.0 ± 0.2** |" in squeezed(to_markdown(simple(2.0, 3.0)))
    assert "| row 0 | **2.0 ± 0.2** |" in squeezed(to_markdown(simple(2.0, 3.0, better=-1)))
    assert "**" not in to_markdown(simple(2.0, 3.0, better=0))
    assert r"row 1 & \textbf{3.0 $\pm$ 0.2} \\" in to_latex(simple(2.0, 3.0))


def test_a_line_that_does_not_compete_is_not_the_best():
    table = squeezed(to_markdown(simple(2.0, 3.0, 9.0, competes=[True, True, False])))
    assert "| row 1 | **3.0 ± 0.2** |" in table
    assert "| row 2 | 9.0 ± 0.2 |" in table


def test_the_only_number_of_a_column_is_not_the_best():
    assert "**" not in to_markdown(simple(2.0))


def test_differences_have_their_sign():
    measure = Description("d", "Δ", "", 1, 0, "", signed=True)
    table = table_of(measure, [[0.5, 1.5], [-1.0]])
    assert "| row 0 | +1.0 ± 0.7 |" in squeezed(to_markdown(table))
    assert "| row 1 | −1.0 |" in squeezed(to_markdown(table))
    assert r"row 0 & +1.0 $\pm$ 0.7 \\" in to_latex(table)
    assert to_latex(table).isascii()


def test_markdown_is_one_table_of_equal_width():
    text = to_markdown(protocol_table("T", [L2, WIENER], results([], [], {"l2": "a|b"})))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(QUALITY.measures) + 4 + 2}


def test_csv_keeps_all_digits():
    rows = list(csv.DictReader(io.StringIO(to_csv(simple(1 / 3, 2 / 3)))))
    assert [float(row["psnr"]) for row in rows] == pytest.approx([1 / 3, 2 / 3], rel=1e-15)
    assert float(rows[0]["psnr_std"]) == pytest.approx(0.24)


def test_latex_escapes_what_would_be_a_command():
    assert escape_latex(r"50 % & $x_1 #{y}~^\z") == (
        r"50 \% \& \$x\_1 \#\{y\}\textasciitilde{}\textasciicircum{}\textbackslash{}z"
    )
    assert escape_latex("−log p, β ± σ²") == r"$-$log p, $\beta$ $\pm$ $\sigma$$^2$"


def test_latex_of_every_text_is_ascii_and_balanced():
    validation = [measured("l2", 0.1, mmd_alexnet=1.0, kl=3.0)]
    made = results(validation, validation, {"wiener": "no file w_1 & {50 %}…"})
    for table in (protocol_table("Σ_1", [L2, WIENER], made), equal_rate_table("Σ", [L2, WIENER], made, 3.0)):
        text = to_latex(table)
        assert text.isascii()
        assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))
        rows = [line for line in text.splitlines() if line.endswith(r"\\")]
        ampersands = len(re.findall(r"(?<!\\)&", rows[0]))
        assert len(re.findall(r"(?<!\\)&", rows[1])) == ampersands == len(table.leading) + len(QUALITY.measures) - 1


def test_labels_of_all_rows_are_ascii_in_latex():
    from study.plan import ROWS

    assert all(escape_latex(row.label).isascii() for row in ROWS.values())


def test_cells_csv_has_every_cell_and_measure():
    validation = [measured("l2", 0.1, 0, psnr=1.5), measured("l2", 0.1, 1, ssim=0.5)]
    test = [measured("l2", 0.1, 0, psnr=2.5, reasons={"lpips": "no weights"})]
    rows = list(csv.DictReader(io.StringIO(results(validation, test).cells.to_csv(index=False))))
    assert [(r["row"], r["seed"], r["split"], r["psnr"], r["ssim"], r["lpips"]) for r in rows] == [
        ("l2", "0", "test", "2.5", "not measured", "no weights"),
        ("l2", "0", "validation", "1.5", "not measured", "not measured"),
        ("l2", "1", "validation", "not measured", "0.5", "not measured"),
    ]
