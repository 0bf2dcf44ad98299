"""What is drawn in the figures: no invented point, measured runs beside the paper's, other families, loss curves."""

import dataclasses
import importlib.metadata
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from report_runs import result, rough_count, sample_run, write_losses, write_mini_losses

from dit_eval.report.figures import FIGURES
from dit_eval.report.figures.figure13 import loss_curves
from dit_eval.report.figures.style import PAPER, render_figure
from dit_eval.report.points import measured_points, published_points, read_losses
from dit_eval.report.sampling import compare_pairs
from dit_eval.report.setting import select, settings
from dit_eval.report.tables.analysis import sampling_tables
from dit_eval.report.tables.measured import measured_table
from dit_eval.report.words import model_name

OF_POINTS = [item for item in FIGURES if item.needs == "points"]


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


def test_figures_of_reports_are_drawn_by_the_pinned_version(papers):
    """With the matplotlib of constraints.txt the committed figures come out byte by byte."""
    root = Path(__file__).parents[2]
    pinned = re.search(r"^matplotlib==(.*)$", (root / "constraints.txt").read_text(), re.M)[1]
    if importlib.metadata.version("matplotlib") != pinned:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs matplotlib {pinned}, which draws these bytes")
    (item,) = [f for f in FIGURES if f.name == "figure9"]
    rendered = render_figure(item.draw(papers).figure)
    assert (root / "reports/paper/figures/figure9.pdf").read_bytes() == rendered["pdf"]
