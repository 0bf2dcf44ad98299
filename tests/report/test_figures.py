"""How the figures look: areas, colours, open and filled, names, empty panels, widths, letters, files."""

import csv
import dataclasses
import io
import itertools
import re

import matplotlib
import numpy as np
import pandas
import pytest
from matplotlib.text import Text
from report_runs import mini_gflops, mini_results, mini_run, result, sample_run, synthetic_results

from dit_eval.flops.kept import Count
from dit_eval.paper import load_later, load_table
from dit_eval.report import page
from dit_eval.report.figures import FIGURES
from dit_eval.report.figures.labels import place_labels
from dit_eval.report.figures.style import (
    BLOCK_COLOURS,
    DARK,
    INK,
    LOOKS,
    OTHER_COLOUR,
    PAPER,
    PATCH_COLOURS,
    SAMPLER_COLOURS,
    SIZE_COLOURS,
    new_figure,
    render_figure,
)
from dit_eval.report.points import measured_points, published_points
from dit_eval.report.samplers import sampler_points, sentences
from dit_eval.report.sections import sampler_analysis
from dit_eval.report.setting import settings
from dit_eval.report.words import true_minus

BY_NAME = {item.name: item for item in FIGURES}
OF_POINTS = [item for item in FIGURES if item.needs == "points"]
OF_PAPER = ["figure2-left", "figure2-right", "figure5", "figure8", "figure9", "figure10", "guidance", "epochs"]


def with_results(results, count):
    own = measured_points([("results.jsonl, line 1", r) for r in results], count=count)
    return settings(pandas.concat([published_points(), own], ignore_index=True))


def mini_count(network):
    return Count(gflops=mini_gflops(network), params_m=0.1)


@pytest.fixture(scope="module")
def papers():
    return settings(published_points())[0]


@pytest.fixture(scope="module")
def together():
    def count(network):
        tokens, width = (network["input_size"] / network["patch_size"]) ** 2, network["hidden_size"]
        return Count(gflops=network["depth"] * (12 * tokens * width**2 + 2 * tokens**2 * width) / 1e9, params_m=1.0)

    return with_results(synthetic_results(), count)[0]


@pytest.fixture(scope="module")
def minis():
    return with_results(mini_results(), mini_count)[1]


def pictures_of(who, setting):
    pictures = {(who, item.name): item.draw(setting) for item in OF_POINTS}
    return {key: picture for key, picture in pictures.items() if picture is not None}


@pytest.fixture(scope="module")
def published(papers):
    """Figures of the paper's points: ("paper", name) -> picture."""
    return pictures_of("paper", papers)


@pytest.fixture(scope="module")
def drawn(published, together, minis):
    """Every figure of points: (whose points, its name) -> picture."""
    return published | pictures_of("together", together) | pictures_of("minis", minis)


def test_the_paper_alone_has_the_figures_that_its_numbers_support(published):
    assert [name for who, name in published if who == "paper"] == OF_PAPER
    assert "--results" in BY_NAME["figure6"].missing
    assert "--results" in BY_NAME["figure12"].missing


@pytest.mark.slow
def test_no_panel_is_empty(drawn):
    for key, picture in drawn.items():
        for axis in picture.figure.axes:
            assert axis.collections or [line for line in axis.lines if len(line.get_xdata())], key


def test_a_metric_that_was_not_measured_has_no_panel():
    results = [r for r in mini_results() if "XL" in r.gen.run.model or "S/" in r.gen.run.model]
    fids = [dataclasses.replace(r, scores={"fid": r.fid}) for r in results]
    (_, setting) = with_results(fids, mini_count)
    assert len(BY_NAME["figure12"].draw(setting).figure.axes) == 2
    guided = BY_NAME["guidance"].draw(setting).figure
    assert [axis.get_ylabel() for axis in guided.axes] == ["FID-500 ↓"]


def test_runs_whose_batch_size_is_not_known_have_no_panel_of_training_compute():
    def bare(r):
        run = dataclasses.replace(r.gen.run, training_batch_size=None)
        return dataclasses.replace(r, gen=dataclasses.replace(r.gen, run=run))

    few = [bare(r) for r in mini_results() if "XL" in r.gen.run.model]
    (_, setting) = with_results(few, mini_count)
    assert len(BY_NAME["figure12"].draw(setting).figure.axes) == 5
    assert BY_NAME["figure9"].draw(setting) is None


# Bubbles


def outer_area(diameter, rim):
    return (diameter + rim) ** 2


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", ["figure2-left", "figure2-right"])
def test_areas_of_bubbles_are_as_gflops_to_the_smallest_and_the_legend_is_to_scale(name, look, papers, together):
    units = {"Mflops": 1e-3, "Gflops": 1.0, "Tflops": 1e3}
    for setting in (papers, together):
        picture = BY_NAME[name].draw(setting, LOOKS[look])
        published = picture.data[picture.data["source"] == "paper"]
        if name == "figure2-right":  # a network without guidance is a bar, with it a bubble
            published = published.drop_duplicates("model", keep="last")
        gflops = sorted([*published["gflops"], *picture.data[picture.data["source"] == "measured"]["gflops"]])
        (axis,) = picture.figure.axes
        areas = sorted(outer_area(np.sqrt(c.get_sizes()[0]), c.get_linewidth()[0]) for c in axis.collections)
        assert len(areas) == len(gflops)
        scale = np.array(areas) / np.array(gflops)
        assert scale == pytest.approx(scale[0], rel=1e-9)
        legend = picture.figure.legends[-1]
        for mark, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            value, unit = text.get_text().split()
            area = outer_area(mark.get_markersize(), mark.get_markeredgewidth())
            assert area / (float(value) * units[unit]) == pytest.approx(scale[0], rel=1e-9)


# Colours

# Machado, Oliveira and Fernandes 2009, severity 1, on linear sRGB.
SIGHT = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour, sight):
    """CIE L*a*b* (D65) of a colour as it is seen."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(SIGHT[sight] @ linear, 0, 1) / (0.95047, 1, 1.08883)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("page_is_dark", [False, True])
def test_colours_are_told_apart_and_ramps_keep_their_order(sight, page_is_dark):
    def seen(colours):
        return [lab(DARK[c] if page_is_dark else c, sight) for c in colours]

    for ramp in (SIZE_COLOURS, PATCH_COLOURS):
        lightness = [colour[0] for colour in seen(ramp.values())]
        steps = np.diff(lightness) * (1 if page_is_dark else -1)  # away from the page with growing Gflops
        assert steps.min() > 8
    beside_each_other = (
        [*SIZE_COLOURS.values(), *PATCH_COLOURS.values()],
        [*BLOCK_COLOURS.values()],
        [*SAMPLER_COLOURS.values()],
    )
    for colours in beside_each_other:
        distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen(colours), 2)]
        assert min(distances) > 11
    ground = lab(DARK[PAPER] if page_is_dark else PAPER, sight)[0]
    for colour in seen([*SIZE_COLOURS.values(), *PATCH_COLOURS.values(), *BLOCK_COLOURS.values(), OTHER_COLOUR]):
        assert abs(colour[0] - ground) > 20


def test_no_colour_has_two_meanings():
    ramps = (SIZE_COLOURS, PATCH_COLOURS, BLOCK_COLOURS, SAMPLER_COLOURS)
    colours = [*itertools.chain.from_iterable(ramp.values() for ramp in ramps), OTHER_COLOUR]
    assert len(set(colours)) == len(colours)
    assert set(colours) < set(DARK), "each has one for a dark page"


@pytest.mark.slow
def test_open_is_the_papers_and_filled_is_measured(drawn):
    for (who, name), picture in drawn.items():
        sources = set(picture.data["source"]) - {"later paper"}
        filled = set()
        for axis in picture.figure.axes:
            marks = [line for line in axis.lines if line.get_marker() not in ("None", "", "_", "x", None)]
            filled |= {line.get_markerfacecolor() != PAPER for line in marks}
            filled |= {len(bubble.get_facecolor()) > 0 for bubble in axis.collections}
        assert filled == {{"paper": False, "measured": True}[source] for source in sources}, (who, name)
        # A legend names colours by lines, and shows a state only where the figure has it.
        for legend in picture.figure.legends[:1]:
            for mark in legend.legend_handles:
                if mark.get_marker() not in ("", "None", "x"):
                    assert (mark.get_markerfacecolor() != PAPER) in filled, (who, name)


# Words


def texts(figure):
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


@pytest.mark.slow
def test_nothing_that_is_written_overlaps_or_leaves_the_picture(drawn, papers, minis):
    """In the look of the page every figure; in the others those with the most names."""
    pictures = {(key, "page"): (picture, LOOKS["page"]) for key, picture in drawn.items()}
    for look in (LOOKS["slides"], dataclasses.replace(LOOKS["paper"], serif=True)):
        for name in ("figure2-left", "figure2-right", "figure5", "figure8", "figure9", "guidance", "epochs"):
            pictures |= {
                (name, who, look): (BY_NAME[name].draw(s, look), look) for who, s in enumerate((papers, minis))
            }
    for key, (picture, look) in pictures.items():
        if picture is None:
            continue
        with matplotlib.rc_context(look.settings()):
            picture.figure.draw_without_rendering()
            boxes = [(t.get_text(), t.get_window_extent()) for t in shown_texts(picture.figure)]
        frame = picture.figure.bbox.padded(1)
        for text, box in boxes:
            assert (box.min >= frame.min).all(), (key, text)
            assert (box.max <= frame.max).all(), (key, text)
        for (a, box), (b, other) in itertools.combinations(boxes, 2):
            assert not box.padded(-0.5).overlaps(other.padded(-0.5)), (key, a, b)


def shown_texts(figure):
    """Texts that are drawn: names, titles, legends, and the numbers at ticks within the panels."""
    found = [t for legend in figure.legends for t in legend.get_texts()]
    for axis in figure.axes:
        found += [t for t in axis.texts if t.get_text()]
        found += [axis.xaxis.label, axis.yaxis.label, axis.title]
        for side, (low, high) in ((axis.xaxis, sorted(axis.get_xlim())), (axis.yaxis, sorted(axis.get_ylim()))):
            ticks = [t for t in side.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_visible()]
            found += [tick.label1 for tick in ticks]
    return [t for t in found if t.get_text().strip() and t.get_visible()]


def test_a_name_that_fits_nowhere_is_left_out():
    with matplotlib.rc_context(LOOKS["page"].settings()):
        figure, axis = new_figure(LOOKS["page"], 2.0)
        axis.set(xlim=(0, 1), ylim=(0, 1))
        many = 60
        xs, ys = np.random.default_rng(0).random((2, many)) / 20 + 0.47
        place_labels(axis, xs, ys, [f"model {n}" for n in range(many)])
        names = [t for t in axis.texts if t.get_text()]
        figure.draw_without_rendering()
        assert 5 < len(names) < many
        for a, b in itertools.combinations([t.get_window_extent() for t in names], 2):
            assert not a.overlaps(b)


def test_every_model_of_the_paper_is_named(published):
    names = {re.sub("DiT-", "", row.model) for row in load_table(4).itertuples()}
    written = {t.get_text() for t in texts(published["paper", "figure8"].figure)}
    assert names <= written


MINUS = {"r = -0.93": "r = −0.93", "-.5": "−.5", "DiT-XL/2": "DiT-XL/2", "FID-50K": "FID-50K", "a -1": "a −1"}


@pytest.mark.parametrize("text", MINUS)
def test_a_minus_is_a_minus_and_a_hyphen_a_hyphen(text):
    assert true_minus(text) == MINUS[text]


def test_units_fit(minis, papers):
    for name in ("figure8", "figure12"):
        written = " ".join(t.get_text() for t in texts(BY_NAME[name].draw(minis).figure))
        assert "Mflops of the model" in written, name
        assert "Gflops of the model" not in written, name
    assert BY_NAME["figure8"].draw(papers).figure.axes[0].get_xlabel().startswith("Gflops")


@pytest.mark.slow
def test_metrics_start_at_zero_but_where_two_are_set_against_each_other(drawn):
    for (who, name), picture in drawn.items():
        for axis in picture.figure.axes:
            low = axis.get_xlim()[0] if (name, axis.get_ylabel()) == ("figure5", "") else axis.get_ylim()[0]
            assert low == 0 or axis.get_ylabel() == "Precision ↑", (who, name)


@pytest.mark.slow
def test_captions_stand_on_the_page_and_not_in_the_picture(drawn):
    for key, picture in drawn.items():
        assert picture.figure.get_supxlabel() == picture.figure.get_suptitle() == "", key
        assert ("Open: paper" in picture.caption) == ("paper" in set(picture.data["source"])), key
        assert ("Filled: measured" in picture.caption) == ("measured" in set(picture.data["source"])), key


# Looks and files


@pytest.mark.parametrize(
    ("name", "widths", "text", "small"),
    [("paper", (3.25, 6.75), 8, 7), ("page", (3.5, 7.0), 8, 7), ("slides", (6.2, 12.4), 16, 14)],
)
def test_looks(name, widths, text, small, minis):
    look = LOOKS[name]
    for figure, width in (("figure8", widths[0]), ("figure10", widths[1])):
        picture = BY_NAME[figure].draw(minis, look).figure
        assert picture.get_figwidth() == width
        assert {t.get_fontsize() for t in texts(picture)} <= {text, small}


def test_serif_letters_are_serif(papers):
    look = dataclasses.replace(LOOKS["paper"], serif=True)
    for given, family in ((look, "STIXGeneral"), (LOOKS["paper"], "DejaVu Sans")):
        figure = BY_NAME["figure8"].draw(papers, given).figure
        assert {t.get_fontname() for t in texts(figure)} == {family}
        pdf = render_figure(figure, given)["pdf"]
        assert re.search(rb"STIXGeneral" if given.serif else rb"DejaVuSans", pdf)


def test_a_figure_is_laid_out_once(papers, monkeypatch):
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    runs = []
    real = ConstrainedLayoutEngine.execute
    monkeypatch.setattr(ConstrainedLayoutEngine, "execute", lambda self, fig: (runs.append(1), real(self, fig))[1])
    figure, drawn = BY_NAME["figure8"].draw(papers).figure, []
    draw = figure.draw
    monkeypatch.setattr(figure, "draw", lambda renderer: (drawn.append(1), draw(renderer)))
    assert len(render_figure(figure)) == len(drawn) == 3, "each format once"
    assert len(runs) == 1


def test_every_format_has_the_same_layout(papers):
    figure = BY_NAME["figure8"].draw(papers).figure
    before = figure.axes[0].get_position().bounds
    render_figure(figure)
    assert figure.axes[0].get_position().bounds == before


@pytest.mark.slow
def test_the_points_of_a_figure_lie_beside_it(monkeypatch):
    monkeypatch.setattr(page, "FIGURES", [BY_NAME["figure8"]])
    monkeypatch.setattr(page, "paper_tables", lambda _: [])
    files = page.report_files()
    rows = list(csv.DictReader(io.StringIO(files["figures/figure8.csv"].decode())))
    assert [(row["model"], float(row["fid"])) for row in rows] == [
        (row.model, row.fid_50k) for row in load_table(4).itertuples()
        if row.image_size == 256 and row.training_steps_k == 400 and row.block == "adaln-zero"
    ]  # fmt: skip


# Figures that the paper lacks


def test_guidance_has_the_numbers_of_table_2(published):
    fid, score, trade = published["paper", "guidance"].figure.axes
    printed = load_table(2).set_index("model").loc[
        ["DiT-XL/2", "DiT-XL/2-G (cfg=1.25)", "DiT-XL/2-G (cfg=1.50)"]
    ]  # fmt: skip

    def marks(axis):
        return [tuple(map(float, xy)) for line in axis.lines for xy in line.get_xydata()]

    assert marks(fid) == [*zip((1.0, 1.25, 1.5), printed["fid"], strict=True)]
    assert marks(score) == [*zip((1.0, 1.25, 1.5), printed["inception_score"], strict=True)]
    assert marks(trade) == [*zip(printed["recall"], printed["precision"], strict=True)]
    assert [t.get_text() for t in trade.texts if t.get_text()] != []


def test_a_guidance_curve_joins_evaluations_that_differ_in_the_scale_alone():
    def run(scale, **changes):
        return result(sample_run(cfg_scale=scale, training_steps=7_000_000, vae="ema", **changes), 10 - 3 * scale)

    results = [run(1.0), run(2.0), run(1.5), run(1.25, global_seed=1)]
    (papers, *_) = with_results(results, lambda _: Count(gflops=118.6, params_m=675.0))
    fid = BY_NAME["guidance"].draw(papers).figure.axes[0]
    joined = [line.get_xdata().tolist() for line in fid.lines if line.get_linestyle() != "None"]
    assert joined == [[1.0, 1.5, 2.0]], "the one of another seed is alone, and no curve"


def test_epochs_are_steps_times_batch_over_imagenet_and_later_papers_are_as_their_sources_print(published):
    picture = published["paper", "epochs"]
    own = picture.data[picture.data["source"] == "paper"]
    assert own["epochs"].round().tolist() == [80, 470, 1399]
    assert own["fid"].tolist() == [19.47, 10.67, 9.62]
    later = picture.data[picture.data["source"] == "later paper"]
    known = {(row.model, row.fid) for row in load_later().itertuples() if row.guidance == "none"}
    assert set(zip(later["model"], later["fid"], strict=True)) <= known
    assert later["origin"].ne("").all()
    crosses = [line for line in picture.figure.axes[0].lines if line.get_marker() == "x"]
    assert [len(line.get_xdata()) for line in crosses] == [len(later)]
    assert {line.get_linestyle() for line in crosses} == {"None"}, "no curve between printed numbers"
    assert crosses[0].get_color() not in (INK, *SIZE_COLOURS.values())


def test_sampling_steps_are_drawn_where_they_were_varied(papers, minis):
    assert BY_NAME["sampling-steps"].draw(papers) is None
    (axis,) = BY_NAME["sampling-steps"].draw(minis).figure.axes
    joined = [line.get_xdata().tolist() for line in axis.lines if line.get_linestyle() != "None"]
    assert joined == [[16, 32, 64, 128, 256, 1000]] * 12


FLOW = {"path": "linear", "prediction": "velocity", "time": "sit"}
SDE = {"diffusion_form": "sigma", "diffusion_norm": 1.0, "last_step": "mean", "last_step_size": 0.04}


def sampler_results():
    """A network by several samplers, trained by DDPM and as a flow."""
    runs = [mini_run("mini-B/2", num_sampling_steps=str(steps)) for steps in (4, 8, 16)]
    runs += [mini_run("mini-B/2", sampler="ddim", num_sampling_steps=str(steps)) for steps in (4, 8)]
    of_noise = {"path": "vp", "prediction": "noise", "time": "ddpm"}
    runs += [mini_run("mini-B/2", sampler="ode-heun", num_sampling_steps="5", **of_noise)]
    runs += [mini_run("mini-B/2", sampler="ode-heun", num_sampling_steps=str(s), **FLOW) for s in (3, 5)]
    runs += [mini_run("mini-B/2", sampler="sde-euler", num_sampling_steps="8", **FLOW, **SDE)]
    adaptive = {"evaluations": 22.5, "guided_evaluations": 0.0, "rtol": 1e-3, "atol": 1e-6}
    runs += [mini_run("mini-B/2", sampler="ode-dopri5", **FLOW, **adaptive)]
    fids = [40.0, 20.0, 12.0, 30.0, 15.0, 14.0, 11.0, 9.0, 16.0, 8.5]
    return [result(run, fid, num_samples=500, protocol="digits") for run, fid in zip(runs, fids, strict=True)]


@pytest.fixture(scope="module")
def by_samplers():
    return with_results(sampler_results(), mini_count)[1]


def test_samplers_of_one_network_stand_beside_each_other_by_what_an_image_costs(by_samplers, minis):
    points = sampler_points(by_samplers.points)
    gflops = mini_gflops(mini_run("mini-B/2").network)
    nfe = {name: own["nfe"].tolist() for name, own in points.groupby("series", sort=False)}
    assert nfe == {
        "DDPM": [4, 8, 16], "DDIM": [4, 8], "ODE Heun (DDPM)": [8], "ODE Heun (flow)": [4, 8], "SDE Euler (flow)": [8],
        "ODE dopri5 (flow)": [22.5],
    }  # fmt: skip
    np.testing.assert_allclose(points["image_gflops"], gflops * points["nfe"], rtol=1e-12)
    front, near = sentences(points)
    assert "ODE Heun (flow) at 4 (11.00), ODE Heun (flow) at 8 (9.00), ODE dopri5 (flow) at 22.5 (8.50)." in front
    assert "Within 10% of the best FID, 8.50, at the fewest evaluations: ODE Heun (flow) 8 (" in near
    assert "never: DDPM, DDIM, ODE Heun (DDPM), SDE Euler (flow)." in near
    (table,) = sampler_analysis(by_samplers).tables
    assert [row.cells["nfe"] for row in table.rows if row.cells["front"] == "yes"] == ["4", "8", "22.5"]
    assert [row.cells["steps"] for row in table.rows][-1] == "its own"
    (axis,) = BY_NAME["samplers"].draw(by_samplers).figure.axes
    drawn = {(line.get_color(), line.get_linestyle()) for line in axis.lines if line.get_linestyle() != "None"}
    assert (SAMPLER_COLOURS["ode-heun"], "-") in drawn, "of a flow"
    assert (SAMPLER_COLOURS["ode-heun"], "--") in drawn, "of the noise of DDPM"
    assert BY_NAME["samplers"].draw(minis) is None, "of one sampler alone there is nothing to compare"
    assert sampler_analysis(minis) is None


def test_results_of_a_flow_alone_have_a_setting_of_their_own():
    flows = [each for each in sampler_results() if each.gen.run.time == "sit"]
    (_, own) = with_results(flows, mini_count)
    assert BY_NAME["samplers"].draw(own) is not None
    assert [item.name for item in OF_POINTS if item.draw(own) is not None] == ["samplers"]


def test_a_second_model_that_guides_counts_as_itself():
    weak = mini_run("mini-S/4").network
    guided = mini_run("mini-B/2", sampler="ode-euler", cfg_scale=2.0, guide_ckpt="weak", guide_network=weak,
                      guidance_interval=(0.2, 0.6), num_sampling_steps="11", **FLOW)  # fmt: skip
    (point,) = measured_points([("line 1", result(guided, 5.0, protocol="digits"))], count=mini_count).to_dict(
        "records"
    )
    assert (point["evaluations"], point["guided_evaluations"]) == (10, 5)
    assert point["guide_gflops"] == pytest.approx(mini_gflops(weak))
    assert point["sampling_tflops"] == pytest.approx(10 * mini_gflops(guided.network) / 1000)
