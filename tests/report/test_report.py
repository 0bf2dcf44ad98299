"""The report: the paper's numbers as printed, its figures without an invented point, measured runs beside them."""

import csv
import dataclasses
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError
from markdown_it import MarkdownIt
from matplotlib.text import Text
from report_runs import (
    mini_gflops,
    mini_results,
    result,
    sample_run,
    synthetic_results,
    write_grid,
    write_losses,
    write_mini_losses,
    write_results,
)

from dit_eval.cli import main
from dit_eval.flops.kept import Count, count_named, count_network
from dit_eval.paper import load_later, load_notes, load_statements, load_table
from dit_eval.report import page
from dit_eval.report.figures import FIGURES
from dit_eval.report.figures.figure8 import fid_against_gflops
from dit_eval.report.figures.figure13 import loss_curves
from dit_eval.report.figures.style import PAPER, render_figure
from dit_eval.report.law import scaling_law
from dit_eval.report.points import measured_points, number_of_steps, published_points, read_losses
from dit_eval.report.sampling import compare_pairs, compute_for_target, correlation, pareto_front
from dit_eval.report.setting import select, settings
from dit_eval.report.tables import paper
from dit_eval.report.tables.analysis import law_tables, sampling_tables
from dit_eval.report.tables.later import later_tables
from dit_eval.report.tables.latex import to_latex
from dit_eval.report.tables.measured import measured_table
from dit_eval.report.tables.paper import _metrics_table, _table4
from dit_eval.report.tables.stated import stated_table
from dit_eval.report.tables.table import DASH
from dit_eval.report.tables.write import to_csv, to_html, to_markdown
from dit_eval.report.templating import render
from dit_eval.report.words import model_name
from dit_eval.results.eval_result import Estimate, EvalResult, Uncertainty
from dit_eval.results.lines import read_results
from dit_eval.results.sample_run import SampleRun

# From the paper's tables by another way than the CSV: (table, column) -> sum, and sum weighted by the row's place
# (1, 2, ...; a dash adds nothing), so that two exchanged rows show.
SUMS = {
    (1, "layers"): (76, 220), (1, "hidden_size"): (3328, 9600), (1, "heads"): (50, 142), (1, "gflops"): (55.8, 188.1),
    (2, "fid"): (97.58, 745.44), (2, "sfid"): (50.65, 349.04), (2, "inception_score"): (2645.68, 21917.21),
    (2, "precision"): (10.85, 87.47), (2, "recall"): (7.61, 63.67),
    (3, "fid"): (75.32, 333.2), (3, "sfid"): (58.34, 278.49), (3, "inception_score"): (1540.76, 7870.86),
    (3, "precision"): (7.24, 36.29), (3, "recall"): (4.75, 24.87),
    (4, "gflops"): (1960.35, 31511.3), (4, "params_m"): (8238, 105895), (4, "training_steps_k"): (19653, 285050),
    (4, "batch_size"): (4864, 48640), (4, "learning_rate"): (0.0019, 0.019), (4, "fid_50k"): (1046.32, 6842.53),
    (5, "fid"): (7.03, 13.87), (5, "sfid"): (14.51, 28.44), (5, "inception_score"): (825.89, 1658.46),
    (5, "precision"): (2.48, 4.97), (5, "recall"): (1.71, 3.42),
    (6, "base_gflops"): (3988, 11494), (6, "upsampler_gflops"): (3138, 15058), (6, "total_gflops"): (7126, 26552),
}  # fmt: skip
OF_POINTS = [item for item in FIGURES if item.needs == "points"]
COUNTED = {"gflops_counted", "params_m_counted", "total_gflops_counted"}


def rough_count(network):
    """Gflops that cost no time: right to a few per cent, for tests that are on something else."""
    tokens, width = (network["input_size"] / network["patch_size"]) ** 2, network["hidden_size"]
    return Count(gflops=network["depth"] * (12 * tokens * width**2 + 2 * tokens**2 * width) / 1e9, params_m=1.0)


@pytest.fixture(scope="module")
def measured():
    results = [(f"results.jsonl, line {n}", r) for n, r in enumerate(synthetic_results(), start=1)]
    return measured_points(results, count=rough_count)


@pytest.fixture(scope="module")
def together(measured):
    import pandas

    return pandas.concat([published_points(), measured], ignore_index=True)


@pytest.fixture(scope="module")
def papers():
    return settings(published_points())[0]


@pytest.fixture(scope="module")
def minis():
    """The setting of a study of a family in miniature, on digits."""
    import pandas

    results = [(f"results.jsonl, line {n}", r) for n, r in enumerate(mini_results(), start=1)]
    own = measured_points(results, count=lambda n: Count(gflops=mini_gflops(n), params_m=n["hidden_size"] ** 2 / 5e4))
    paper, digits = settings(pandas.concat([published_points(), own], ignore_index=True))
    assert paper.is_papers
    assert not len(select(paper.points, source="measured"))
    return digits


@pytest.fixture(scope="module")
def paper_tables():
    return {table.name: table for table in paper.paper_tables(published_points())}


# The paper's numbers


@pytest.mark.parametrize(("number", "column"), SUMS)
def test_every_column_of_the_tables_adds_up(number, column):
    values = load_table(number)[column].fillna(0).to_numpy()
    assert (values.sum(), values @ np.arange(1, len(values) + 1)) == pytest.approx(SUMS[number, column], abs=1e-9)


def test_every_table_is_written_with_the_digits_that_are_printed(paper_tables):
    for number in range(1, 7):
        printed = load_table(number, printed=True)
        table = paper_tables[f"table{number}"]
        assert len(table.rows) == len(printed)
        for row, source in zip(table.rows, printed.to_dict("records"), strict=True):
            for column in table.columns:
                if column.key not in COUNTED | {"image_size", "block"}:
                    assert row.cells[column.key] == (source[column.key] or "-"), (number, column.key)


def test_counts_are_live_and_round_to_what_is_printed_except_where_a_note_says_so(paper_tables):
    table = paper_tables["table4"]
    off = {
        f"{row.cells['model']} {row.cells['image_size']}"
        for row in table.rows
        if row.cells["gflops"] != row.cells["gflops_counted"]
    }
    assert off == {"DiT-B/4 256×256", "DiT-XL/2 512×512"}
    noted = "".join(load_notes().set_index("name").loc[["gflops-b4", "gflops-512"], "text"])
    for model, image_size, text in (("DiT-B/4", 256, "5.566"), ("DiT-XL/2", 512, "524.606")):
        assert f"{count_named(model, image_size).gflops:.3f}" == text
        assert text in noted
    assert all(row.cells["params_m"] == row.cells["params_m_counted"] for row in table.rows)
    assert [row.cells["total_gflops_counted"] for row in paper_tables["table6"].rows] == [
        "307.03", "1120.23", "1983.33", "741.66", "2813.01", "104.26", "57.05",
    ]  # fmt: skip


def test_a_change_of_the_model_changes_the_counted_column(monkeypatch):
    monkeypatch.setattr(paper, "count_named", lambda *_: Count(gflops=7.0, params_m=8.0))
    (row, *_) = _table4(published_points().head(0)).rows
    assert (row.cells["gflops"], row.cells["gflops_counted"], row.cells["params_m_counted"]) == ("0.36", "7.00", "8")


def test_notes_stand_where_they_matter(paper_tables):
    def note(name):
        return load_notes().set_index("name").loc[name, "text"]

    def noted(table, **cells):
        (row,) = [r for r in table.rows if all(r.cells[k] == v for k, v in cells.items())]
        return {table.notes[n] for n in row.notes}

    assert note("decoder-256") in noted(paper_tables["table2"], model="DiT-XL/2")
    assert note("decoder-256") in noted(paper_tables["table4"], training_steps_k="7000")
    assert note("decoder-512") in noted(paper_tables["table3"], model="DiT-XL/2")
    assert note("gflops-ldm4") in noted(paper_tables["table6"], model="LDM-4")
    assert [paper_tables["table3"].notes[n] for n in paper_tables["table3"].general_notes()] == [note("reference-512")]
    # Every row that a note names exists.
    used = Counter(n for t in paper_tables.values() for r in t.rows for n in (t.notes[i] for i in r.notes))
    rows = load_notes()
    for row in rows[(rows["rows"] != "") & rows["elements"].str.contains("table")].itertuples():
        assert used[row.text] >= len(row.rows.split("|")), row.name


def test_later_results_are_a_file_of_their_own():
    later = load_later()
    assert later["source"].ne("").all()
    assert later["fid"].notna().all()
    published = {(r.fid, r.inception_score) for n in (2, 3) for r in load_table(n).itertuples()}
    assert not published & {(r.fid, r.inception_score) for r in later.itertuples()}
    assert "DDT" not in " ".join(m for n in (2, 3, 4) for m in load_table(n)["model"])


def test_stated_numbers_are_reproduced(papers):
    table = stated_table(papers)
    computed = dict(zip(load_statements().index, (row.cells["computed"] for row in table.rows), strict=True))
    assert computed["correlation"] == "-0.92985"
    assert (computed["fig10-l2-compute"], computed["fig10-xl2-compute"]) == ("80.71", "15.19")
    assert computed["fig10-ratio"] == "5.31"
    assert computed["block-overhead"] == "15.3"
    printed = load_statements(printed=True)["value"]
    off = {
        name
        for name, value in computed.items()
        if value != "-" and round(float(value), len(printed[name].partition(".")[2])) != float(printed[name])
    }
    assert off == {"gflops-ldm4"}, "103.6 is the only stated figure that the count does not give"


def test_what_does_not_vary_correlates_with_nothing(papers):
    # Models that have hardly been trained draw the same images.
    assert correlation([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) is None
    assert correlation([2.0, 2.0, 2.0], [5.0, 6.0, 7.0]) is None
    level = dataclasses.replace(papers, points=papers.points.assign(fid=5.0))
    figure = fid_against_gflops(level).figure
    assert not [text for text in figure.axes[0].texts if "r = " in text.get_text()]


def test_figure_8_has_the_papers_correlation(papers):
    points = select(papers.scaling, block="adaln-zero", training_steps=400_000.0)
    assert len(points) == 12
    r, slope, intercept = correlation(points["gflops"], points["fid"])
    assert r == pytest.approx(-0.929850, abs=5e-7)
    assert (slope, intercept) == pytest.approx((-23.572, 126.145), abs=5e-4)
    assert r == pytest.approx(np.corrcoef(np.log(points["gflops"]), points["fid"])[0, 1], abs=1e-12)


def test_figures_9_and_10_have_the_papers_compute():
    points = published_points()
    training = select(points, origin="Table 4", image_size=256.0, block="adaln-zero", model="DiT-XL/2")
    assert training["training_gflops"].tolist() == pytest.approx([3.645e10, 2.143e11, 6.378e11], rel=2e-4)
    sampling = select(points, origin="Figure 10").set_index("model")
    assert sampling["sampling_tflops"].round(1).to_dict() == {"DiT-L/2": 80.7, "DiT-XL/2": 15.2}
    assert sampling["fid"].to_dict() == {"DiT-L/2": 25.9, "DiT-XL/2": 23.7}


# Figures


def markers(figure):
    """Points drawn as markers: {(x, y, filled)}, and the number of corners of each line that joins points."""
    drawn, joined = [], []
    for axis in figure.axes:
        for line in axis.lines:
            xy = np.asarray(line.get_xydata(), dtype=float)
            if line.get_marker() not in ("None", "", None):
                drawn += [(x, y, line.get_markerfacecolor() != PAPER) for x, y in xy]
            elif len(xy) > 2:
                joined.append(len(xy))
    return drawn, joined


POINTS_OF = {"figure5": ("", "fid"), "figure6": ("training_steps", "fid"), "figure8": ("gflops", "fid"),
             "figure9": ("training_gflops", "fid"), "figure10": ("sampling_tflops", "fid")}  # fmt: skip


@pytest.mark.parametrize("name", POINTS_OF)
def test_no_point_is_invented(name, papers):
    (item,) = [f for f in FIGURES if f.name == name]
    if name == "figure6":
        assert item.draw(papers) is None, "no point of a curve is printed but the last"
        return
    drawn, joined = markers(item.draw(papers).figure)
    x, y = POINTS_OF[name]
    scale = 1e-3 if x == "training_steps" else 1.0
    known = {(round(row[x] * scale, 6) if x else None, row[y]) for row in papers.points.to_dict("records")}
    known = known if x else {fid for _, fid in known}
    for px, py, filled in drawn:
        assert not filled, "a published point is drawn as if it were measured"
        assert (px in known) if not x else ((round(px, 6), py) in known)
    assert drawn
    assert not joined, "the paper prints no curves"


@pytest.mark.parametrize("name", POINTS_OF)
@pytest.mark.slow
def test_measured_points_are_filled_and_joined_beside_the_open_published_ones(name, papers, together):
    (item,) = [f for f in FIGURES if f.name == name]
    published = [] if name == "figure6" else markers(item.draw(papers).figure)[0]
    drawn, joined = markers(item.draw(settings(together)[0]).figure)
    seen = slice(0, 1) if name == "figure5" else slice(0, 2)  # a bar of Figure 5 stands at any height
    open_ones = [m[seen] for m in drawn if not m[2]]
    assert set(m[seen] for m in published) <= set(open_ones)
    assert sum(m[2] for m in drawn) >= 4
    if name in ("figure5", "figure6", "figure9", "figure10"):
        assert joined


def test_bubbles_and_panels_show_measured_runs_too(papers, together):
    by_name = {f.name: f for f in FIGURES}
    for name in ("figure2-left", "figure2-right"):
        before, after = (
            sum(len(a.collections) for a in by_name[name].draw(s).figure.axes) for s in (papers, settings(together)[0])
        )
        assert after > before
    assert by_name["figure12"].draw(papers) is None, "Figures 8 and 9 have the paper's points"
    drawn, _ = markers(by_name["figure12"].draw(settings(together)[0]).figure)
    assert sum(not filled for *_, filled in drawn) == 12 + 14 + 4, "FID above, FID below, the final model's metrics"
    assert sum(filled for *_, filled in drawn) == 5 * 12 + 5 * 60


def test_the_same_data_give_the_same_bytes(papers):
    (item,) = [f for f in FIGURES if f.name == "figure8"]
    first, second = (render_figure(item.draw(papers).figure) for _ in range(2))
    assert first == second
    assert first["png"].startswith(b"\x89PNG")
    assert first["pdf"].startswith(b"%PDF")
    assert b"prefers-color-scheme: dark" in first["svg"]
    assert re.search(rb"\b20\d\d-\d\d-\d\dT", first["svg"]) is None, "a date"


def test_loss_curves_come_from_the_log(tmp_path):
    losses = read_losses(write_losses(tmp_path / "losses.jsonl"))
    assert losses.groupby("model")["step"].count().tolist() == [200] * 4
    figure = loss_curves(losses).figure
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["DiT-S/4", "DiT-B/4", "DiT-XL/4", "DiT-XL/2"]
    assert axis.lines[0].get_ydata().tolist() == select(losses, model="DiT-S/4")["loss"].tolist()


def texts(figure):
    """Everything that is written in a figure."""
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


@pytest.mark.slow
def test_a_family_in_miniature_has_every_figure(minis):
    """Its sizes, patches, steps and Gflops, and no word of the paper."""
    assert (minis.protocol, minis.image_size, minis.num_samples, minis.sampling_steps) == ("digits", 8, 500, 64)
    pictures = {item.name: item.draw(minis) for item in OF_POINTS}
    absent = [name for name, picture in pictures.items() if picture is None]
    assert absent == ["figure2-right", "guidance-front", "samplers", "epochs"]  # few scales, one sampler
    written = {name: texts(picture.figure) for name, picture in pictures.items() if picture is not None}
    for name, words in written.items():
        assert not [w for w in words if "DiT" in w or "paper" in w or "(K)" in w or "patch 8" in w], name
        assert not [w for w in words if re.search(r"\b0\.0+ ", w)], name
    assert [w for w in written["figure2-left"] if "mini-" in w] == ["mini-S", "mini-B", "mini-L", "mini-XL"]
    assert [w for w in written["figure2-left"] if "patch" in w] == ["patch 4", "patch 2", "patch 1"]
    assert "FID-500 ↓ of mini-XL/2\nat 800 training steps" in written["figure5"]
    assert any(w.endswith("5.16 Mflops, 0.1 M") for w in written["figure5"])
    assert {"Training steps", "400", "800", "mini-XL", "patch size 1"} <= set(written["figure6"])
    ends = select(minis.scaling, training_steps=800.0, block="adaln-zero")
    for row in ends.itertuples():
        assert f"{row.size}  {row.fid:.1f}" in written["figure6"]
        assert f"{row.size}/{row.patch:.0f}" in written["figure8"]
    assert any(w.startswith("r = \u22120.") and "(measured, 12 models)" in w for w in written["figure8"])
    for name in ("figure9", "figure10", "figure12", "sampling-steps"):
        assert {"mini-S", "mini-B", "mini-L", "mini-XL", "patch 4", "patch 2", "patch 1"} <= set(written[name])
    assert "Sampling compute per image (Gflops, log scale)" in written["figure10"]


def test_sampling_compute_is_compared_at_one_training_length_and_block(minis):
    assert set(minis.sweep["training_steps"]) == {800.0}
    assert set(minis.sweep["block"]) == {"adaln-zero"}
    assert minis.sweep.groupby("model").size().tolist() == [6] * 12
    (item,) = [f for f in FIGURES if f.name == "figure10"]
    drawn, joined = markers(item.draw(minis).figure)
    assert len(drawn) == 72
    assert sorted(joined)[:12] == [6] * 12, "one line for each model; the rest is the front"
    xs = {round(x, 9) for x, *_ in drawn}
    assert xs == {round(x * 1000, 9) for x in minis.sweep["sampling_tflops"]}, "in Gflops"
    verdicts = compare_pairs(minis.sweep)
    assert len(verdicts) == 66
    assert not [v for v in verdicts if re.search(r"e-\d", v.sentence())]
    pairs, front, aims = sampling_tables(minis)
    assert "Gflops per image" in {c.title for c in front.columns} & {c.title for c in aims.columns}
    assert "Smaller ahead up to (Gflops)" in {c.title for c in pairs.columns}
    cheapest = select(minis.sweep, model="mini-S/4", sampling_steps=16)["sampling_tflops"].item() * 1000
    assert front.rows[0].cells["tflops"] == f"{cheapest:.3g}"


def test_small_numbers_are_not_rounded_away(minis):
    cells = {row.cells["model"]: row.cells for row in measured_table(minis.points).rows}
    assert cells["mini-S/4"]["gflops"] == "0.000057"
    assert float(cells["mini-XL/1"]["gflops"]) == pytest.approx(0.0229, rel=0.01)
    assert float(cells["mini-S/4"]["params_m"]) == pytest.approx(24**2 / 5e4, rel=0.05)


NAMES = {
    "DiT-XL/2": ("DiT", "XL", 2), "mini-S/1": ("mini", "S", 1), "my-own-net-B/16": ("my-own-net", "B", 16),
    "mini-S/3": None, "mini-M/2": None, "-S/2": None, "samples.npz": None, "S/2": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_models_are_read(name):
    found = model_name(name)
    assert (found and (found.family, found.size, found.patch)) == NAMES[name]


@pytest.mark.parametrize("image_size", [256, 512])
def test_other_families_never_stand_among_the_papers_models(image_size):
    runs = [
        dataclasses.replace(sample_run("DiT-XL/2", image_size=image_size), model=name)
        for name in ("mini-XL/2", "SiT-XL/2", "DiT-XL/1", "DiT-XL/2")
    ]
    points = measured_points([("r", result(run, 3.0)) for run in runs], count=rough_count)
    assert points["family"].tolist() == [None, None, None, "DiT"]
    assert points["size"].tolist() == [None, None, None, "XL"]
    assert np.isnan(points["patch"][:3]).all()
    other = measured_points([("r", result(run, 3.0, protocol="digits")) for run in runs], count=rough_count)
    assert other["family"].tolist() == ["mini", "SiT", "DiT", "DiT"], "by another protocol nothing is the paper's"


def test_loss_curves_of_block_designs_have_a_panel(tmp_path):
    losses = read_losses(write_mini_losses(tmp_path / "losses.jsonl"))
    models, designs = loss_curves(losses).figure.axes
    names = [text.get_text() for text in models.get_legend().get_texts()]
    assert names == [f"mini-{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (4, 2, 1)]
    bold = Counter(line.get_color() for line in models.lines if line.get_alpha() is None)
    assert sorted(bold.values()) == [3] * 4, "a colour for each size"
    shown = {text.get_text() for text in designs.get_legend().get_texts()}
    assert shown == {f"mini-XL/2 {b}" for b in ("in-context", "cross-attention", "adaLN", "adaLN-Zero")}
    colours = [line.get_color() for line in designs.lines if line.get_alpha() is None]
    assert len(set(colours)) == len(colours) == 4
    assert designs.get_xlabel() == "Training steps"
    assert designs.lines[-1].get_xdata().max() == 800


def test_loss_curves_of_several_seeds_all_say_theirs():
    # A study gives the model's name alone to seed 0.
    names = (
        "mini-B/4",
        "mini-B/4 seed 1",
        "mini-L/4",
        "mini-L/4 seed 12",
        "mini-L/4 adaln seed 2",
        "XS",
        "7",
        "a seed x",
    )
    losses = pd.DataFrame([{"model": n, "step": s, "loss": 1 / s} for n in names for s in (1, 2, 3)])
    models, designs = loss_curves(losses).figure.axes
    shown = [text.get_text() for text in models.get_legend().get_texts()]
    assert shown == ["mini-B/4 seed 0", "mini-B/4 seed 1", "mini-L/4 seed 0", "mini-L/4 seed 12", "7", "XS", "a seed x"]
    lines = [line for line in models.lines if line.get_alpha() is None]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert lines[0].get_linestyle() != lines[1].get_linestyle()
    assert "mini-L/4 adaLN seed 2" in [text.get_text() for text in designs.get_legend().get_texts()]


def test_other_protocols_have_figures_of_their_own():
    network = {"depth": 4, "hidden_size": 64, "num_heads": 4, "patch_size": 2, "input_size": 8, "space": "pixel",
               "block": "adaln-zero"}  # fmt: skip
    runs = [
        dataclasses.replace(sample_run(model), network=network, image_size=8, num_images=500, training_steps=steps)
        for model in ("DiT-S/2", "DiT-B/2")
        for steps in (100, 200)
    ]
    own = [("r.jsonl, line 1", result(run, 3.0, num_samples=500, protocol="digits")) for run in runs]
    import pandas

    points = pandas.concat([published_points(), measured_points(own, count=rough_count)], ignore_index=True)
    papers, digits = settings(points)
    assert papers.is_papers
    assert not len(select(papers.points, source="measured"))
    assert (digits.protocol, digits.image_size, digits.num_samples) == ("digits", 8, 500)
    assert set(digits.points["source"]) == {"measured"}
    (training,) = [f for f in FIGURES if f.name == "figure9"]
    drawn, _ = markers(training.draw(digits).figure)
    assert len(drawn) == 4
    assert all(filled for *_, filled in drawn)


# Sampling against model compute


def sweep(**models):
    """Points of models, each with its Gflops and {sampling steps: FID}."""
    results = []
    for model, (gflops, fids) in models.items():
        for steps, fid in fids.items():
            run = dataclasses.replace(
                sample_run(num_sampling_steps=str(steps)), model=model, network={"gflops": gflops}
            )
            results.append(("line", result(run, fid, num_samples=10_000)))
    return measured_points(results, count=lambda network: Count(gflops=network["gflops"], params_m=1.0))


def test_a_smaller_model_that_never_reaches_the_larger():
    points = sweep(small=(10.0, {100: 40.0, 400: 30.0}), large=(100.0, {10: 50.0, 20: 25.0}))
    (verdict,) = compare_pairs(points)
    assert (verdict.small, verdict.large) == ("small", "large")
    assert not verdict.reaches
    assert verdict.ahead_until == 1.0, "at 1 Tflops 40 against 50; from 2 on the larger has 25"
    assert verdict.overtaken_at == 2.0
    assert verdict.saving == pytest.approx(2.0), "4 Tflops for 30, 2 Tflops for better"
    assert "No number of steps evaluated brings small" in verdict.sentence()
    assert "2.0 times less" in verdict.sentence()


def test_a_smaller_model_that_does():
    points = sweep(small=(10.0, {100: 20.0}), large=(100.0, {10: 30.0, 1000: 20.0}))
    (verdict,) = compare_pairs(points)
    assert verdict.reaches
    assert verdict.ahead_until == 100.0
    assert verdict.overtaken_at is None
    assert "small reaches the best FID of large" in verdict.sentence()


def test_the_papers_pair(papers):
    (verdict,) = compare_pairs(papers.sweep)
    assert (verdict.small, verdict.large, verdict.source) == ("DiT-L/2", "DiT-XL/2", "paper")
    assert not verdict.reaches
    assert verdict.ahead_until is None
    assert verdict.saving == pytest.approx(80.71 / 15.186, abs=1e-3)


def test_the_front_and_the_compute_for_a_target():
    points = sweep(a=(1.0, {100: 50.0, 200: 40.0, 400: 41.0}), b=(10.0, {30: 39.0, 100: 30.0}))
    assert pareto_front(points)["fid"].tolist() == [50.0, 40.0, 39.0, 30.0]
    table = compute_for_target(points, 40.0).set_index("model")
    assert table["tflops"].to_dict() == {"a": pytest.approx(0.2), "b": pytest.approx(0.3)}
    missed = compute_for_target(points, 35.0).set_index("model")
    assert np.isnan(missed.loc["a", "tflops"])
    assert missed.loc["b", "sampling_steps"] == 100


def test_published_and_measured_points_are_analysed_apart(together):
    verdicts = compare_pairs(settings(together)[0].sweep)
    assert Counter(v.source for v in verdicts) == {"paper": 1, "measured": 6}
    (paper,) = [v for v in verdicts if v.source == "paper"]
    assert (paper.small_best, paper.large_best) == (25.9, 23.7)


# Measured rows in the tables


def test_measured_rows_are_marked_rounded_and_compared(measured):
    table = _metrics_table(2, "t", select(measured, image_size=256.0))
    own = [row for row in table.rows if row.measured]
    (row,) = [r for r in own if r.cells["fid"] == "2.39"]
    assert row.cells == {"model": "DiT-XL/2-G (cfg=1.50), 7000K training steps", "fid": "2.39", "sfid": "4.81",
                         "inception_score": "271.30", "precision": "0.82", "recall": "0.58"}  # fmt: skip
    assert row.source.startswith("results.jsonl, line ")
    assert "24 measured results of other than 50,000 samples are left out." in table.about
    assert "*DiT-XL/2-G (cfg=1.50), 7000K training steps* (measured)" in to_markdown(table)
    assert len(own) == 60 + 9 + 3
    assert "DiT-XL/2, in-context, ft-MSE decoder, 400K training steps" in {r.cells["model"] for r in own}


def test_best_values_are_bold_and_only_they(paper_tables):
    table = paper_tables["table2"]
    bold = sorted((table.rows[i].cells["model"], key) for i, key in table.best)
    assert bold == [
        ("BigGAN-deep", "precision"), ("DiT-XL/2", "recall"), ("DiT-XL/2-G (cfg=1.50)", "fid"),
        ("DiT-XL/2-G (cfg=1.50)", "inception_score"), ("LDM-4-G (cfg=1.50)", "precision"), ("StyleGAN-XL", "sfid"),
    ]  # fmt: skip
    assert to_markdown(table).count("**") == 2 * len(bold) + 2
    assert to_latex(table).count(r"\textbf{") == len(bold)
    assert to_html(table).count("<strong>") == len(bold)


@pytest.mark.parametrize("name", ["table.md.j2", "table.tex.j2", "table.html.j2", "live_table.html.j2", "page.html.j2"])
def test_a_template_that_misses_something_is_an_error(name):
    with pytest.raises(UndefinedError, match="undefined"):
        render(name, {})


def test_csv_gives_the_table_back(paper_tables):
    rows = list(csv.DictReader(io.StringIO(to_csv(paper_tables["table3"]))))
    assert [row["fid"] for row in rows] == load_table(3, printed=True)["fid"].tolist()
    assert {row["source"] for row in rows} == {"paper, Table 3"}


def test_csv_has_numbers_in_full_under_names_for_programs(paper_tables, papers, minis, together):
    import pandas

    every = [*paper_tables.values(), stated_table(papers), *later_tables(), *sampling_tables(minis)]
    every += [*law_tables([scaling_law(minis, "measured")]), measured_table(together)]
    for table in every:
        header = to_csv(table).splitlines()[0].split(",")
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in header), table.name
        assert len(set(header)) == len(header), table.name
        frame = pandas.read_csv(io.StringIO(to_csv(table)))
        assert frame.columns.tolist() == header
        assert len(frame) == len(table.rows)
    frame = pandas.read_csv(io.StringIO(to_csv(paper_tables["table4"])))
    assert frame["image_size"].tolist() == load_table(4)["image_size"].tolist(), "numbers, not 256×256"
    assert frame["gflops_counted"][4] == count_named("DiT-B/4", 256).gflops
    estimate = Estimate(value=2.2712345, standard_error=0.0123456, low=2.25, high=2.2999)
    sure = dataclasses.replace(result(sample_run(), 2.2712345), uncertainty=Uncertainty(estimates={"fid": estimate}))
    table = measured_table(measured_points([("line", sure)], count=rough_count))
    frame = pandas.read_csv(io.StringIO(to_csv(table)))
    assert frame.loc[0, ["fid", "fid_standard_error", "fid_low", "fid_high"]].tolist() == [
        2.2712345, 0.0123456, 2.25, 2.2999,
    ]  # fmt: skip
    assert table.rows[0].cells["fid"] == "2.271 ± 0.012"


def test_html_files_are_pages_of_their_own(paper_tables):
    text = to_html(paper_tables["table2"])
    assert text.startswith("<!DOCTYPE html>")
    assert "<button" not in text, "no script sorts here"
    assert text.count("<tr") == 16


def test_latex_is_set_as_venues_set_it(paper_tables, papers, together):
    table2, table4 = (to_latex(paper_tables[name]) for name in ("table2", "table4"))
    assert r"\caption{ImageNet 256$\times$256, class-conditional.}" in table2, "LaTeX gives the number"
    assert table2.count(r"\midrule") == 1 + 4, "below the head, and between GANs, ADM, CDM, LDM and DiT"
    assert r"171.4\phantom{0}" in table2, "decimals in line"
    assert r"CDM & 4.88 & -- & 158.71" in table2
    assert r"Learning Rate $1 \times 10^{-4}$" in table4
    assert table4.count(r"\midrule") == 1 + 6
    assert "$-$0.92985" in to_latex(stated_table(papers)), "a minus, no hyphen"
    assert r"\begin{longtable}" in to_latex(measured_table(together))
    for table in (table2, table4):
        assert r"\begin{table*}[tbp]" in table
        assert "resizebox" not in table


def test_markdown_renders_as_tables(paper_tables):
    for table in paper_tables.values():
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(to_markdown(table))
        assert rendered.count("<table>") == 1
        assert rendered.count("<td") == len(table.rows) * len(table.columns)


@pytest.mark.skipif(
    shutil.which("pdflatex") is None and not os.environ.get("CI"), reason="needs pdflatex (texlive-latex-recommended)"
)
@pytest.mark.tex
def test_latex_compiles(paper_tables, papers, together, minis, tmp_path):
    hard = dataclasses.replace(
        result(sample_run(), 9.0), gen=dataclasses.replace(result(None, 1.0).gen, path="50%_a&b#c$d{e}^~\\x, é↓<1>.npz")
    )
    points = measured_points([("50%_of.jsonl, line 1", hard)], count=rough_count)
    every = [
        *paper_tables.values(), stated_table(papers), *later_tables(),
        *sampling_tables(settings(together)[0]), *law_tables([scaling_law(minis, "measured")]),
        measured_table(together), measured_table(points),
        _metrics_table(2, "100% & more", points),
    ]  # fmt: skip
    body = "\n\\clearpage\n".join(to_latex(table) for table in every)
    head = "\\documentclass[twocolumn]{article}\\usepackage{array,booktabs,longtable}\\begin{document}\n"
    document = f"{head}{body}\\end{{document}}\n"
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall("Overfull.*|.*Float too large.*", done.stdout)
    assert (tmp_path / "tables.pdf").read_bytes().startswith(b"%PDF")


# Files that are read


def test_runs_without_training_length_are_not_guessed():
    run = dataclasses.replace(sample_run(), training_steps=None, training_batch_size=None)
    named = dataclasses.replace(run, checkpoint="0400000.pt")
    points = measured_points([("a", result(run, 9.0)), ("b", result(named, 9.0)), ("c", result(None, 9.0))],
                             count=rough_count)  # fmt: skip
    assert np.isnan(points.loc[0, "training_steps"])
    assert points.loc[1, "training_steps"] == 400_000, "DiT's trainer names its files so"
    assert points["training_gflops"].isna().all()
    assert points.loc[2, "model"] == "synthetic.npz"
    assert points.loc[2, ["size", "block", "sampler"]].tolist() == [None] * 3


def test_older_sample_files_still_read():
    data = sample_run().to_json()
    for name in ("training_steps", "training_batch_size"):
        data = re.sub(rf'"{name}": \d+, ', "", data)
    assert "training_steps" not in data
    assert SampleRun.from_json(data).training_steps is None


@pytest.mark.parametrize(("spacing", "steps"), [("250", 250), ("10,15,20", 45), ("ddim50", 50), ("all", None)])
def test_sampling_steps_are_counted(spacing, steps):
    assert number_of_steps(spacing) == steps


def test_a_measured_network_is_counted_from_what_the_sample_file_says():
    count = count_network(sample_run("DiT-S/8").network)
    assert (f"{count.gflops:.4f}", f"{count.params_m:.6f}") == ("0.3581", "33.142016")
    assert count_network({"depth": 3}) is None
    small = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 2, "input_size": 8, "in_channels": 3,
             "num_classes": 10, "space": "pixel"}  # fmt: skip
    assert 0 < count_network(small).gflops < 0.01


GOOD = result(None, 9.0).to_json()
BAD_LINES = {
    '{"fid": 1.0, "sf': "Not an evaluation result",
    "[1, 2]": "Not an evaluation result",
    '{"model": "DiT-B/4", "step": 1, "loss": 0.1}': "Not an evaluation result",
    GOOD.replace('"fid": 9.0', '"fid": "nine"'): "fid is 'nine', needed a number",
    GOOD.replace('"num_samples": 50000', '"num_samples": null'): "num_samples is None",
    GOOD.replace('"gen": {', '"gen": "x", "other": {'): "Not an evaluation result",
    "\udcff": "codec can't decode",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_and_refused_or_skipped(line, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(f"{GOOD}\n{line}\n{GOOD}\n".encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"results.jsonl, line 2: .*{re.escape(BAD_LINES[line])}"):
        read_results(path)
    said = []
    assert read_results(path, on_bad_line=said.append) == [EvalResult.from_json(GOOD)] * 2
    assert len(said) == 1
    assert "line 2: " in said[0]


def test_a_bad_line_of_a_loss_log_is_named(tmp_path):
    path = tmp_path / "losses.jsonl"
    good = '{"model": "DiT-B/4", "step": %d, "loss": 0.5}\n'
    path.write_text(good % 1 + '{"model": "DiT-B/4", "step": 2, "loss": NaN}\n' + '{"step": 3}\n' + good % 1)
    with pytest.raises(ValueError, match=r"line 2: .*finite loss(.|\n)*line 3: "):
        read_losses(path)
    assert len(read_losses(path, on_bad_line=lambda _: None)) == 1, "of two lines for one step the later counts"


# The command


def run_command(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["report", *map(str, arguments)])
    return exit_.value.code


@pytest.fixture
def quick_files(monkeypatch):
    """The command without its figures: what it reads and where it writes."""
    real = page.report_files

    def files(**request):
        monkeypatch.setattr(page, "FIGURES", ())
        monkeypatch.setattr(page, "count_network", rough_count)
        return real(**request)

    monkeypatch.setattr(page, "report_files", files)


def test_nothing_is_overwritten_without_force(tmp_path, capsys, quick_files):
    out = tmp_path / "out"
    assert run_command("--out", out) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    (out / "index.html").write_text("mine")
    assert run_command("--out", out) == 2
    assert "--force" in capsys.readouterr().err
    assert (out / "index.html").read_text() == "mine"
    (out / "index.html").unlink()
    assert run_command("--out", out) == 2, "a table is there"
    assert run_command("--out", out, "--force") == 0
    assert "<!DOCTYPE html>" in (out / "index.html").read_text()
    assert not list(out.rglob("*.part"))


def test_bad_lines_are_refused_or_skipped_as_asked(tmp_path, capsys, quick_files):
    path = write_results(tmp_path / "results.jsonl", [result(sample_run("DiT-S/8"), 150.0)])
    with open(path, "a") as file:
        file.write('\n[]\n{"fid": 1.0, "sf\n')
    assert run_command("--results", path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "line 2: " not in error, "an empty line is nothing"
    assert "line 3: Not an evaluation result" in error
    assert "line 4: Not an evaluation result" in error
    assert not (tmp_path / "out").exists()
    assert run_command("--results", path, "--out", tmp_path / "out", "--skip-bad-lines") == 0
    assert "warning: left out" in capsys.readouterr().err
    text = (tmp_path / "out" / "index.html").read_text()
    assert "1 measured result beside" in text
    assert "line 3: Not an evaluation result" in text, "the page says what was left out"


@pytest.mark.parametrize("option", ["--results", "--losses"])
def test_a_missing_file_is_a_mistake_of_the_user(option, tmp_path, capsys):
    assert run_command(option, tmp_path / "no.jsonl", "--out", tmp_path / "out") == 2
    assert f"{option} {tmp_path / 'no.jsonl'}: no such file" in capsys.readouterr().err


def test_an_empty_file_is_refused(tmp_path, capsys):
    path = write_results(tmp_path / "results.jsonl", [])
    assert run_command("--results", path, "--out", tmp_path / "out") == 2
    assert "holds no result" in capsys.readouterr().err


def test_the_report_loads_without_torch():
    code = "import sys, dit_eval.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_program_that_draws_figures_keeps_its_own_backend():
    code = "import sys, dit_eval.report.page, matplotlib; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tables_in_reports_are_what_the_code_makes(paper_tables, papers):
    folder = Path(__file__).parents[2] / "reports" / "paper" / "tables"
    made = [
        *paper_tables.values(), stated_table(papers), *later_tables(), *sampling_tables(papers),
        *law_tables([scaling_law(papers, "paper")]),
    ]  # fmt: skip
    for table in made:
        assert (folder / f"{table.name}.md").read_text(encoding="utf-8") == to_markdown(table)
        assert (folder / f"{table.name}.tex").read_text(encoding="utf-8") == to_latex(table)
        assert (folder / f"{table.name}.csv").read_text(encoding="utf-8") == to_csv(table)
        assert (folder / f"{table.name}.html").read_text(encoding="utf-8") == to_html(table)
    drawn = {path.stem for path in (folder.parent / "figures").glob("*.pdf")}
    assert drawn == {f.name for f in OF_POINTS if f.draw(papers) is not None}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A whole report, of invented results, losses and samples."""
    folder = tmp_path_factory.mktemp("report")
    results = [
        *synthetic_results(),
        *write_grid(folder),
        *(result(None, fid, num_samples=500, protocol="digits", path=f"blur-{fid}.npz") for fid in (1.0, 2.0)),
    ]
    path = write_results(folder / "results.jsonl", results)
    losses = write_losses(folder / "losses.jsonl")
    return page.write_report(out=folder / "out", results=path, losses=losses)


def test_the_report_has_every_table_and_figure(written):
    figures = {p.stem for p in (written.parent / "figures").iterdir()}
    assert figures == {"figure2-left", "figure2-right", "figure5", "figure6", "figure7", "figure8", "figure9",
                       "figure10", "figure12", "figure13", "guidance", "sampling-steps", "epochs"}  # fmt: skip
    for name in figures:
        data = set() if name == "figure7" else {".csv"}
        assert {p.suffix for p in written.parent.glob(f"figures/{name}.*")} == {".pdf", ".png", ".svg", *data}
    made = {p.name for p in (written.parent / "tables").iterdir()}
    for number in range(1, 7):
        assert {f"table{number}.{ending}" for ending in ("md", "tex", "csv", "html")} <= made
    with open(written.parent / "data" / "points.csv", encoding="utf-8") as file:
        points = list(csv.DictReader(file))
    assert Counter(p["source"] for p in points) == {"paper": 30, "measured": 111}


@pytest.fixture(scope="module")
def mini_page(tmp_path_factory):
    """The report of the study in miniature: its page, and the page's sections by their headings."""
    folder = tmp_path_factory.mktemp("mini")
    results = [r for r in mini_results() if r.gen.run.network["patch_size"] > 1]  # 8 models, which are faster to draw
    path, losses = write_results(folder / "results.jsonl", results), write_mini_losses(folder / "losses.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "count_network", lambda n: Count(gflops=mini_gflops(n), params_m=0.1))
        written = page.write_report(out=folder / "out", results=path, losses=losses)
    parts = re.findall(r'<section id="part-\w+"><h2>(.*?)</h2>(.*?)</section>', written.read_text("utf-8"), re.S)
    return written, dict(parts)


def test_a_study_has_a_section_and_files_of_its_own(mini_page):
    written, sections = mini_page
    figures = {p.stem for p in (written.parent / "figures").iterdir()}
    own = {f"figure{n}-digits-8" for n in ("2-left", "5", "6", "8", "9", "10", "12", "13")}
    own |= {"guidance-digits-8", "sampling-steps-digits-8"}
    assert {name for name in figures if "digits" in name} == own
    assert "figure13" not in figures, "no loss of a model of the paper"
    made = {p.name for p in (written.parent / "tables").iterdir()}
    assert {f"{name}-digits-8.csv" for name in ("scaling-law", "scaling-law-exceptions", "sampling-pairs")} <= made
    section = sections["8 px, protocol digits"]
    assert all(f'id="{name}"' in section for name in own)
    assert "needs a loss log" not in "".join(sections.values())


def test_findings_of_the_paper_stand_beside_its_own_points_only(mini_page):
    _, sections = mini_page
    claims = [item.claim for item in FIGURES if item.claim and item.name != "figure6"]  # which needs curves
    assert len(claims) == 4
    assert all(f"The paper: {claim}" in sections["Figures"] for claim in claims)
    assert not [claim for claim in claims if claim in sections["8 px, protocol digits"]]
    assert "The paper:" not in sections["8 px, protocol digits"]


def test_the_law_is_told_where_its_points_are(mini_page):
    _, sections = mini_page
    paper, own = sections["Quality and model compute"], sections["8 px, protocol digits"]
    assert "r = -0.930 over 12 models at 400K training steps" in paper
    assert "9 of 9 pairs. (paper points)" in paper
    assert "measured points" not in paper
    assert re.search(r"r = -0\.\d+ over 8 models at 800 training steps", own)
    assert "Not so: mini-XL/4 (" in own
    assert "paper points" not in own


def test_figures_of_reports_are_drawn_by_the_pinned_version(papers):
    """With the matplotlib of constraints.txt the committed figures come out byte by byte."""
    root = Path(__file__).parents[2]
    pinned = re.search(r"^matplotlib==(.*)$", (root / "constraints.txt").read_text(), re.M)[1]
    if importlib.metadata.version("matplotlib") != pinned:
        pytest.skip(f"needs matplotlib {pinned}")
    (item,) = [f for f in FIGURES if f.name == "figure9"]
    rendered = render_figure(item.draw(papers).figure)
    assert (root / "reports/paper/figures/figure9.pdf").read_bytes() == rendered["pdf"]


def test_further_metrics_have_columns_where_a_result_has_them():
    results = [result(sample_run(), 12.0, fd_dinov2=123.4567, kid=0.0001234), result(sample_run(), 12.0)]
    table = measured_table(measured_points([("line", r) for r in results], count=rough_count))
    titles = {column.title: column.key for column in table.columns}
    assert {"FD-DINOv2 ↓", "KID ↓"} <= titles.keys()
    assert not {"Density ↑", "CMMD ↓"} & titles.keys()
    first, second = (row.cells for row in table.rows)
    assert (first["fd_dinov2"], first["kid"]) == ("123.457", "0.00012")
    assert (second["fd_dinov2"], second["kid"]) == (DASH, DASH)
    sure = Uncertainty(estimates={"kid": Estimate(value=0.0123, standard_error=0.0005, low=0.0113, high=0.0133)})
    table = measured_table(
        measured_points([("line", result(sample_run(), 12.0, kid=0.0123, uncertainty=sure))], count=rough_count)
    )
    assert table.rows[0].cells["kid"] == "0.012 ± 0.00050"
    assert table.rows[0].values["kid_low"] == 0.0113
    assert "standard error" in table.about
