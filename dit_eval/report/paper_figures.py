"""The figures of the DiT paper, from published points and measured ones.

Open markers are the paper's numbers, filled ones are measured. The paper prints end points and no curves, so lines
join measured points only. Each function takes the points that may share its axes (`data.Setting`) and returns a figure;
`draw` knows them all by name.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import LogLocator
from matplotlib.transforms import Bbox

from dit_eval.paper import load_table
from dit_eval.report.figures import INK, PAPER, SOFT, lettering, new_figure, styled
from dit_eval.report.points import METRICS
from dit_eval.report.sampling import UNITS, compute_text, correlation, pareto_front, unit_for
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import PATCHES, SIZES, THOUSANDS_FROM, ModelName, fid_label, model_name, steps_text

# Colours that colour-blind readers tell apart (Okabe & Ito; Tol's wine), from light to dark with model size.
SIZE_COLOURS = {"S": "#E69F00", "B": "#56B4E9", "L": "#009E73", "XL": "#882255"}
PATCH_COLOURS = {16: "#CC79A7", 8: "#E69F00", 4: "#009E73", 2: "#0072B2", 1: "#882255"}
PATCH_MARKERS = {16: "P", 8: "s", 4: "^", 2: "o", 1: "v"}
_PATCH_DASHES: dict[int, Any] = {16: (0, (1, 4)), 8: ":", 4: "--", 2: "-", 1: (0, (6, 1.5, 1, 1.5))}
BLOCK_STYLES = {
    "in-context": ("#E69F00", "s"),
    "cross-attention": ("#56B4E9", "^"),
    "adaln": ("#009E73", "D"),
    "adaln-zero": ("#882255", "o"),
}
_OTHER = ("#7A7A7A", "D")  # a network that is no DiT of the paper
_BUBBLE, _BUBBLE_RIGHT = 3.2, 0.8  # points squared per Gflop, in the two halves of Figure 2
_LARGEST_BUBBLE = 380.0  # points squared, where no model is the paper's
_CAPTION = 6.8  # point size of the line below a figure


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """A figure of the paper: how to draw it, and what it shows.

    Attributes
    ----------
    name : file name without ending, such as "figure8"
    title : number and subject
    draw : makes it of a setting's points; None if there is nothing to draw
    about : what is shown, true of any points; may be empty
    claim : what the paper reads in its own points; to be shown with those only
    """

    name: str
    title: str
    draw: Callable[[Setting], Figure | None]
    about: str
    claim: str = ""


@styled
def fid_by_model(setting: Setting) -> Figure | None:
    """Figure 2, left: FID by model size and patch size at the shortest common training; bubble area is Gflops."""
    points = _at_common_training(_of_block(setting.scaling))
    if points.empty:
        return None
    figure, axis = new_figure(3.5, 3.0)
    sizes = [size for size in SIZES if size in set(points["size"])]
    bubble = _BUBBLE if setting.is_papers else _LARGEST_BUBBLE / points["gflops"].max()
    both = len(set(points["source"])) > 1
    for row in points.sort_values("gflops", ascending=False).itertuples():
        measured = row.source == "measured"
        x = sizes.index(row.size) + (0.2 if measured and both else 0.0)
        colour = PATCH_COLOURS[int(row.patch)]
        area = max(bubble * row.gflops, 14.0)
        if measured:
            axis.scatter(x, row.fid, s=area, color=colour, edgecolor=INK, linewidth=0.8, zorder=3)
            _interval(axis, x, row._asdict(), "fid")
        else:
            axis.scatter(x, row.fid, s=area, color=colour, alpha=0.25, linewidth=0, zorder=2)
            axis.scatter(x, row.fid, s=area, facecolor="none", edgecolor=colour, linewidth=1.2, zorder=3)
    axis.set_xticks(range(len(sizes)), [lettering(f"{_prefix(points)}{size}") for size in sizes])
    axis.set_xlim(-0.5, len(sizes) - 0.45)
    _pad_y(axis, _extent(points, "fid"), 0.12)
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlabel(f"Model, after {steps_text(points['training_steps'].iloc[0])} training steps")
    handles = [_handle(PATCH_COLOURS[p], "o", f"patch size {p}") for p in PATCHES if p in set(points["patch"])]
    _legend(axis, handles, loc="upper right")
    _caption(figure, points, published="Table 4", extra="bubble area: Gflops")
    return figure


@styled
def against_unets(setting: Setting) -> Figure | None:
    """Figure 2, right: FID against Gflops of DiT-XL/2 and the diffusion U-Nets at 256 px, without and with guidance."""
    if not setting.is_papers:
        return None
    table2, table6 = load_table(2).set_index("model"), load_table(6)
    gflops = {f"{row.model}": row.total_gflops for row in table6[table6["image_size"] == 256].itertuples()}
    published = select(setting.points, source="paper", origin="Table 2")
    gflops["DiT-XL/2"] = published["gflops"].iloc[0]
    guided = {
        "ADM": "ADM-G",
        "ADM-U": "ADM-G, ADM-U",
        "LDM-8": "LDM-8-G",
        "LDM-4": "LDM-4-G (cfg=1.50)",
        "DiT-XL/2": "DiT-XL/2-G (cfg=1.50)",
    }
    figure, axis = new_figure(3.5, 3.0)
    axis.set_xscale("log")
    xs: list[float] = []
    ys: list[float] = []
    names: list[str] = []
    lines: list[tuple[float, float]] = []
    reach: list[float] = []
    for plain, best in guided.items():
        colour = SIZE_COLOURS["XL"] if plain.startswith("DiT") else SIZE_COLOURS["B"]
        x, top, bottom = gflops[plain], table2.loc[plain, "fid"], table2.loc[best, "fid"]
        axis.annotate(
            "",
            (x, bottom),
            (x, top),
            arrowprops={"arrowstyle": "-", "color": colour, "linestyle": ":", "linewidth": 1.2},
        )
        axis.scatter(x, top, s=26, facecolor=PAPER, edgecolor=colour, linewidth=1.3, zorder=3)
        axis.scatter(x, bottom, s=_BUBBLE_RIGHT * x, color=colour, alpha=0.25, linewidth=0, zorder=2)
        axis.scatter(x, bottom, s=_BUBBLE_RIGHT * x, facecolor="none", edgecolor=colour, linewidth=1.2, zorder=3)
        xs, ys, names = [*xs, x, x], [*ys, top, bottom], [*names, f"{plain} {top:.2f}", f"{bottom:.2f}"]
        lines += [(x, y) for y in np.linspace(bottom, top, 12)]
        reach += [6.0, math.sqrt(_BUBBLE_RIGHT * x / math.pi) + 2.0]
    measured = select(setting.points, source="measured", num_samples=setting.num_samples)
    measured = measured[measured["gflops"].notna() & measured["fid"].notna()]
    for row in measured.itertuples():
        colour, _ = _style(row)
        if row.fid <= 1.3 * max(ys):
            axis.scatter(row.gflops, row.fid, s=34, color=colour, edgecolor=INK, linewidth=0.8, zorder=4)
            _interval(axis, row.gflops, row._asdict(), "fid")
    axis.set_ylim(0, 18)
    axis.set_xlim(30, 2600)
    axis.set_xlabel("Gflops of the denoising network (log scale)")
    axis.set_ylabel("FID-50K ↓, ImageNet 256")
    handles = [
        _handle(SIZE_COLOURS["XL"], "o", "DiT"),
        _handle(SIZE_COLOURS["B"], "o", "diffusion U-Net"),
        _handle(SOFT, "o", "without guidance", face=PAPER, size=5),
        _handle(SOFT, "o", "with guidance, area: Gflops", face="#dddddd", size=9),
    ]
    _legend(axis, handles, loc="upper right")
    _caption(figure, pd.concat([published, measured]), published="Tables 2 and 6")
    _place_labels(axis, xs, ys, names, obstacles=lines, reach=reach)
    return figure


@styled
def block_designs(setting: Setting) -> Figure | None:
    """Figure 5: the four block designs; published end points, and curves over training where measured."""
    points = setting.scaling
    designs = points[points["block"].notna()]
    counts = designs.groupby("model")["block"].nunique()
    models = [m for m in counts.index if counts[m] > 1]
    if not models:
        return None
    largest = designs.groupby("model")["gflops"].max()
    model = "DiT-XL/2" if "DiT-XL/2" in models else max(models, key=lambda m: (counts[m], largest[m]))
    designs = select(designs, model=model)
    measured = select(designs, source="measured")
    steps = _common_steps(designs, each="block")
    ends = select(designs, training_steps=steps)
    if measured.empty:
        figure, left = new_figure(3.5, 2.2)
        curves = None
    else:
        figure, (left, curves) = new_figure(7.0, 2.6, columns=2)
    order = [b for b in BLOCK_STYLES if b in set(ends["block"])]
    widest = max(ends["fid"])
    both = len(set(ends["source"])) > 1
    for row in ends.itertuples():
        colour, marker = BLOCK_STYLES[row.block]
        is_measured = row.source == "measured"
        y = len(order) - 1 - order.index(row.block) - (0.28 if is_measured and both else 0.0)
        left.plot([0, row.fid], [y, y], color=colour, linewidth=1.6, alpha=0.5, zorder=1)
        _marker(left, row.fid, y, colour, marker, measured=is_measured, size=7)
        _interval(left, y, row._asdict(), "fid", across=True)
        size = "" if is_measured and both else f"   {_gflops_text(row.gflops)}, {_params_text(row.params_m)}"
        text = f"{row.fid:.2f}{size}"
        left.annotate(text, (row.fid, y), (7, 0), textcoords="offset points", va="center", fontsize=7)
    left.set_yticks(range(len(order)), [_block_name(b) for b in reversed(order)])
    left.set_ylim(-0.7, len(order) - 0.4)
    left.set_xlim(0, (2.3 if curves is None or not both else 1.95) * widest)
    left.set_xticks([x for x in left.get_xticks() if x <= 1.05 * widest])
    left.set_xlabel(f"{fid_label(setting.num_samples)} ↓ of {lettering(model)} at {steps_text(steps)} training steps")
    left.grid(False, axis="y")
    if curves is not None:
        shown = designs[designs["training_steps"] <= max(steps, measured["training_steps"].max())]
        for block in order:
            colour, marker = BLOCK_STYLES[block]
            own = select(shown, block=block)
            _series(curves, own, "training_steps", "fid", colour, marker, scale=_step_scale(shown))
        curves.set_xlabel(_step_label(shown))
        curves.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
        curves.set_xlim(left=0)
    _caption(figure, designs, published="Table 4", extra=_end_points(designs))
    return figure


@styled
def training_curves(setting: Setting) -> Figure | None:
    """Figure 6: FID over training; above, sizes at each patch size; below, patch sizes at each size."""
    points = _of_block(setting.scaling)
    points = points[points["training_steps"].notna()]
    if points.empty:
        return None
    patches = [p for p in PATCHES if p in set(points["patch"])]
    sizes = [s for s in SIZES if s in set(points["size"])]
    figure = new_figure(7.0, 4.9, columns=0)
    grid = figure.add_gridspec(2, len(patches) * len(sizes))
    labelled = "paper" if "paper" in set(points["source"]) else "measured"
    if labelled == "measured":
        _size_legend(figure, points, patch_colours=True)
    scale = _step_scale(points)
    end = scale * _common_steps(points)
    measured = select(points, source="measured")["training_steps"] * scale
    farthest = max([end, *measured])
    panels = [
        [(f"patch size {p}", select(points, patch=p), "size") for p in patches],
        [(f"{_prefix(points)}{s}", select(points, size=s), "patch") for s in sizes],
    ]
    for line, contents in enumerate(panels):
        width = grid.ncols // len(contents)
        for number, (title, subset, by) in enumerate(contents):
            axis = figure.add_subplot(grid[line, number * width : (number + 1) * width])
            xs, ys, names = [], [], []
            for _, own in subset[subset["training_steps"] * scale <= farthest].groupby(by, sort=False):
                colour, marker = _style(next(own.itertuples()))
                if by == "patch":
                    colour = PATCH_COLOURS[int(own["patch"].iloc[0])]
                _series(axis, own, "training_steps", "fid", colour, marker, scale=scale)
                ends = select(own, source=labelled)
                for row in (ends if labelled == "paper" else _last_of_each(ends)).itertuples():
                    xs.append(row.training_steps * scale)
                    ys.append(row.fid)
                    names.append(f"{row.size if by == 'size' else f'/{row.patch:.0f}'}  {row.fid:.1f}")
            axis.set_title(lettering(title), fontsize=8)
            axis.set_xlim(0, 1.62 * farthest)
            axis.set_xticks(np.linspace(0, farthest, 3), [f"{x:g}" for x in np.linspace(0, farthest, 3)])
            _pad_y(axis, _extent(points, "fid"), 0.08, bottom=0)
            _stack_labels(axis, xs, ys, names)
            axis.set_xlabel(_step_label(points))
            if number == 0:
                axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
            else:
                axis.tick_params(labelleft=False)
    _caption(figure, points, published="Table 4", extra=_end_points(points))
    return figure


@styled
def fid_against_gflops(setting: Setting) -> Figure | None:
    """Figure 8: FID against Gflops at the same training length, with the correlation of log Gflops and FID."""
    points = _at_common_training(_of_block(setting.scaling))
    if len(points) < 3:
        return None
    figure, axis = new_figure(3.5, 3.1)
    axis.set_xscale("log")
    lines = []
    for source, style in (("paper", "--"), ("measured", "-")):
        own = select(points, source=source)
        fit = correlation(own["gflops"], own["fid"]) if len(own) > 2 else None
        if fit is None:
            continue
        r, slope, intercept = fit
        x = np.array([own["gflops"].min() / 1.4, own["gflops"].max() * 1.4])
        axis.plot(x, intercept + slope * np.log(x), style, color=SOFT, linewidth=1.0, zorder=1)
        lines.append(f"r = {r:.2f} ({source}, {own['model'].nunique()} models)")
    for row in points.itertuples():
        _marker(axis, row.gflops, row.fid, *_style(row), measured=row.source == "measured", size=6)
        _interval(axis, row.gflops, row._asdict(), "fid")
    axis.text(
        0.97, 0.97, "\n".join(lines), transform=axis.transAxes, ha="right", va="top", fontsize=8, path_effects=[_HALO]
    )
    axis.set_xlabel("Gflops of the model (log scale)")
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlim(points["gflops"].min() / 2, points["gflops"].max() * 3)
    top = 0.1 * (points["fid"].max() - points["fid"].min()) if setting.is_papers else 0.15 * points["fid"].max()
    axis.set_ylim(0, points["fid"].max() + (top or 1.0))
    _thin_ticks(axis)
    _caption(
        figure, points, published="Table 4", extra=f"{steps_text(points['training_steps'].iloc[0])} training steps"
    )
    named = points.drop_duplicates("model")
    _place_labels(
        axis,
        list(named["gflops"]),
        list(named["fid"]),
        [m.removeprefix(_prefix(points)) for m in named["model"]],
        obstacles=list(zip(points["gflops"], points["fid"], strict=True)),
    )
    return figure


@styled
def training_compute(setting: Setting) -> Figure | None:
    """Figure 9: FID against training compute."""
    points = _of_block(setting.scaling)
    points = points[points["training_gflops"].notna()]
    if points.empty:
        return None
    published = select(points, source="paper")
    labelled = published if len(published) else _last_of_each(points)
    crowded = _is_crowded(labelled)
    figure, axis = new_figure(7.0 if crowded else 3.5, 3.1)
    _compute_panel(axis, points, "training_gflops", "fid")
    axis.set_xlabel("Training compute (Gflops, log scale)")
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlim(points["training_gflops"].min() / 3, points["training_gflops"].max() * 4)
    _thin_ticks(axis)
    _pad_y(axis, _extent(points, "fid"), 0.1, bottom=0)
    _caption(figure, points, published="Table 4", extra=_end_points(points))
    if crowded:
        _size_legend(figure, points)
        return figure
    names = [
        row.model.removeprefix(_prefix(points))
        + (f" {row.training_steps / 1e6:.3g}M" if row.training_steps > 1e6 else "")
        for row in labelled.itertuples()
    ]
    _place_labels(
        axis,
        list(labelled["training_gflops"]),
        list(labelled["fid"]),
        names,
        obstacles=list(zip(points["training_gflops"], points["fid"], strict=True)),
    )
    return figure


@styled
def sampling_compute(setting: Setting) -> Figure | None:
    """Figure 10: FID against sampling compute per image, with the front that nothing measured beats."""
    points = setting.sweep
    unit = unit_for(points["sampling_tflops"].max())
    points = points.assign(sampling_tflops=points["sampling_tflops"] * UNITS[unit])
    measured = select(points, source="measured")
    swept = measured.groupby("model")["sampling_steps"].nunique()
    if select(points, source="paper").empty and (swept.empty or swept.max() < 2):
        return None
    published = select(points, source="paper")
    ends = pd.concat([published, _last_of_each(measured)])
    crowded = _is_crowded(ends)
    figure, axis = new_figure(7.0 if crowded else 3.5, 3.1)
    _compute_panel(axis, points, "sampling_tflops", "fid")
    front = pareto_front(measured if len(measured) else points, "sampling_tflops")
    if len(front) > 1:
        xs = np.append(front["sampling_tflops"], points["sampling_tflops"].max() * 2)
        ys = np.append(front["fid"], front["fid"].iloc[-1])
        axis.step(xs, ys, where="post", color=SOFT, linewidth=0.9, linestyle=":", zorder=1)
    axis.set_xlabel(f"Sampling compute per image ({unit}, log scale)")
    axis.set_ylabel(f"{fid_label(setting.sweep_samples)} ↓")
    low, high = points["sampling_tflops"].min(), points["sampling_tflops"].max()
    margin = 2.5 if high / low < 30 else 1.7
    axis.set_xlim(low / margin, high * (margin if measured.empty else 6.0))
    if not measured.empty:
        _thin_ticks(axis)
    _pad_y(axis, _extent(points, "fid"), 0.35 if len(points) < 5 else 0.1)
    note = "the paper prints two points of its curves" if measured.empty else "dotted: measured Pareto front"
    length = measured["training_steps"].max()
    note += f"; {steps_text(length)} training steps" if not setting.is_papers and not math.isnan(length) else ""
    _caption(figure, points, published="text on Figure 10", extra=note)
    if crowded:
        _size_legend(figure, points)
        return figure
    names = [
        f"{row.model.removeprefix('DiT-')}, {row.sampling_steps:.0f} steps"
        if row.source == "paper"
        else row.model.removeprefix("" if setting.is_papers else _prefix(points))
        for row in ends.itertuples()
    ]
    _place_labels(
        axis,
        list(ends["sampling_tflops"]),
        list(ends["fid"]),
        names,
        obstacles=list(zip(points["sampling_tflops"], points["fid"], strict=True)),
    )
    return figure


@styled
def all_metrics(setting: Setting) -> Figure | None:
    """Figure 12: every metric against Gflops (above) and against training compute (below)."""
    scaling = _of_block(setting.scaling)
    # Metrics other than FID are printed for the final model only, in Table 2.
    final = select(setting.points, source="paper", origin="Table 2", cfg_scale=1.0)
    if scaling.empty:
        return None
    same_length = _at_common_training(scaling)
    figure, rows = new_figure(7.0, 3.7, columns=len(METRICS), rows=2)
    for row, (x, points, label) in enumerate(
        (
            ("gflops", same_length, f"Gflops, at {steps_text(_common_steps(scaling))} training steps"),
            ("training_gflops", scaling, "Training compute (Gflops)"),
        )
    ):
        spread = pd.concat([points, final]) if x == "training_gflops" else points
        for column, (metric, (title, best)) in enumerate(METRICS.items()):
            axis = rows[row][column]
            axis.set_xscale("log")
            shown = points if metric == "fid" or x == "gflops" else spread
            shown = shown[shown[metric].notna() & shown[x].notna()]
            if x == "training_gflops":
                _compute_panel(axis, shown, x, metric, size=4)
            else:
                for point in shown.itertuples():
                    is_measured = point.source == "measured"
                    _marker(axis, point.gflops, getattr(point, metric), *_style(point), measured=is_measured, size=4)
                    _interval(axis, point.gflops, point._asdict(), metric)
            if row == 0:
                name = fid_label(setting.num_samples) if metric == "fid" else title
                axis.set_title(f"{name} {'↓' if best == 'min' else '↑'}", fontsize=8)
            known = spread[x].dropna()
            if len(known):
                axis.set_xlim(known.min() / 3, known.max() * 3)
            if len(shown):
                _pad_y(axis, _extent(shown, metric), 0.3 if len(shown) < 3 else 0.12)
            else:
                nothing = "no number\nprinted" if setting.is_papers else "not\nmeasured"
                axis.text(0.5, 0.5, nothing, transform=axis.transAxes, ha="center", va="center",
                          fontsize=7, color=SOFT)  # fmt: skip
                axis.set_yticks([])
            axis.tick_params(labelsize=6.5)
            axis.minorticks_off()
        rows[row][len(METRICS) // 2].set_xlabel(label, fontsize=8)
    _size_legend(figure, scaling)
    extra = "sFID, IS, precision and recall are printed for DiT-XL/2 at 7M steps only" if setting.is_papers else ""
    _caption(figure, pd.concat([scaling, final]), published="Tables 4 and 2", extra=extra)
    return figure


@styled
def loss_curves(losses: pd.DataFrame, *, window: int = 50) -> Figure | None:
    """Figure 13: training loss of each model of a loss log (`data.read_losses`).

    Parameters
    ----------
    window : logged losses that the bold line averages; the pale line is the log itself
    """
    if losses.empty:
        return None
    curves = sorted(map(_curve, dict.fromkeys(losses["model"])), key=lambda curve: _by_size(curve.model))
    # A model that was trained with several block designs has a panel of its own, beside that of the models.
    designs = [curve for curve in curves if any(other.model == curve.model and other.block for other in curves)]
    panels = [[curve for curve in curves if not curve.block], designs]
    panels = [panel for panel in panels if len({curve.name for curve in panel}) > 0]
    figure = new_figure(3.5 * len(panels), 2.9, columns=0)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    scale = 1e-3 if losses["step"].max() >= THOUSANDS_FROM else 1.0
    for axis, panel in zip(axes, panels, strict=True):
        handles = []
        for number, curve in enumerate(panel):
            own = select(losses, model=curve.name)
            colour, dash = list(PATCH_COLOURS.values())[number % len(PATCH_COLOURS)], "-"
            if panel is designs:
                colour = BLOCK_STYLES[curve.block or "adaln-zero"][0]
            elif curve.parts is not None:
                colour, dash = SIZE_COLOURS[curve.parts.size], _PATCH_DASHES[curve.parts.patch]
            mean = own["loss"].rolling(min(window, max(1, len(own) // 20)), min_periods=1, center=True).mean()
            axis.plot(own["step"] * scale, own["loss"], color=colour, alpha=0.18, linewidth=0.6)
            axis.plot(own["step"] * scale, mean, linestyle=dash, color=colour, linewidth=1.3)
            label = f"{curve.model} {_block_name(curve.block or 'adaln-zero')}" if panel is designs else curve.name
            handles.append(_handle(colour, "", label, line=dash))
        axis.set_xlim(left=0)
        axis.set_xlabel("Training steps (K)" if scale < 1 else "Training steps")
        _legend(axis, handles, loc="upper right", ncols=1 + (len(handles) > 6))
    settled = losses[losses["step"] >= 0.05 * losses["step"].max()]["loss"]
    low, high = settled.min(), settled.quantile(0.999)
    axes[0].set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axes[0].set_ylabel("Training loss ↓")
    papers = any(curve.parts is not None and curve.parts.family == "DiT" for curve in curves)
    note = "; the paper prints no numbers of its loss curves" if papers else ""
    _footer(figure, f"measured; bold: running mean of the log{note}")
    return figure


@styled
def size_patch_grid(images: Mapping[str, np.ndarray], *, caption: str) -> Figure | None:
    """Figure 7: one image of each model, larger models downwards, smaller patches to the right.

    Parameters
    ----------
    images : model name -> uint8 (H, W, 3); models of one family, all drawn from one noise and label
    caption : how they were drawn
    """
    cells, prefix = {}, ""
    for model, image in images.items():
        name = model_name(model)
        if name is not None:
            cells[name.size, name.patch] = image
            prefix = f"{name.family}-"
    if not cells:
        return None
    sizes = [s for s in SIZES if any(key[0] == s for key in cells)]
    patches = [p for p in PATCHES if any(key[1] == p for key in cells)]
    figure, rows = new_figure(1.25 * len(patches) + 0.7, 1.25 * len(sizes) + 0.7, columns=len(patches), rows=len(sizes))
    for r, size in enumerate(sizes):
        for c, patch in enumerate(patches):
            axis = rows[r][c]
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if (size, patch) in cells:
                image = cells[size, patch]
                axis.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "antialiased")
            else:
                axis.text(0.5, 0.5, "not\nmeasured", transform=axis.transAxes, ha="center", va="center", color=SOFT)
            if r == 0:
                axis.set_title(f"patch size {patch}", fontsize=8)
            if c == 0:
                axis.set_ylabel(lettering(f"{prefix}{size}"), fontsize=8)
    _footer(figure, caption)
    return figure


FIGURES = (
    PaperFigure(
        name="figure2-left",
        title="Figure 2, left: FID by model",
        draw=fid_by_model,
        about="Each bubble is a model; its area shows Gflops.",
        claim="Larger models and smaller patches both lower FID; Gflops are what they share.",
    ),
    PaperFigure(
        name="figure2-right",
        title="Figure 2, right: against diffusion U-Nets",
        draw=against_unets,
        about="A dotted line leads from a model without guidance to the same model with it; the evaluations of "
        "guidance, two for each step, are not counted, as in the paper.",
        claim="DiT-XL/2 needs few Gflops for its FID.",
    ),
    PaperFigure(
        name="figure5",
        title="Figure 5: block designs",
        draw=block_designs,
        about="Four ways to tell a transformer block the timestep and the class.",
        claim="adaLN-Zero is best, and cheap.",
    ),
    PaperFigure(
        name="figure6",
        title="Figure 6: training by size and by patch",
        draw=training_curves,
        about="Above, sizes at each patch size; below, patch sizes at each size.",
        claim="Whatever is held fixed, the model with more Gflops ends lower.",
    ),
    PaperFigure(
        name="figure8",
        title="Figure 8: FID against Gflops",
        draw=fid_against_gflops,
        about="r is the correlation of FID with the logarithm of Gflops, computed from the points that are drawn.",
        claim="FID falls nearly linearly with the logarithm of Gflops.",
    ),
    PaperFigure(
        name="figure9",
        title="Figure 9: training compute",
        draw=training_compute,
        about="Training compute is Gflops x batch size x training steps x 3.",
    ),
    PaperFigure(
        name="figure10",
        title="Figure 10: sampling compute",
        draw=sampling_compute,
        about="Sampling compute is Gflops x sampling steps for one image, guidance not counted.",
    ),
    PaperFigure(
        name="figure12",
        title="Figure 12: every metric against compute",
        draw=all_metrics,
        about="Above against model Gflops, below against training compute.",
    ),
)


def _style(row: Any) -> tuple[str, str]:
    """Colour and marker of a point: size and patch of a DiT."""
    if row.size in SIZE_COLOURS and row.patch in PATCH_MARKERS:
        return SIZE_COLOURS[row.size], PATCH_MARKERS[int(row.patch)]
    return _OTHER


def _by_size(model: str) -> tuple[int, int, str]:
    """Sort key: DiTs by size and falling patch size, others after them by name."""
    name = model_name(model)
    return (SIZES.index(name.size), -name.patch, model) if name else (len(SIZES), 0, model)


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A curve of a loss log: its name there, the model, its block design if the name says one, the name's parts."""

    name: str
    model: str
    block: str | None
    parts: ModelName | None


def _curve(name: str) -> _Curve:
    model, _, block = name.rpartition(" ")
    if block not in BLOCK_STYLES:
        model, block = name, ""
    return _Curve(name=name, model=model, block=None if block in ("", "adaln-zero") else block, parts=model_name(model))


def _prefix(points: pd.DataFrame) -> str:
    """What the names of these models begin with, such as "DiT-"; nothing if they are of several families."""
    families = points["family"].dropna().unique()
    return f"{families[0]}-" if len(families) == 1 else ""


def _of_block(points: pd.DataFrame) -> pd.DataFrame:
    """The points of the common block design; the others belong to Figure 5."""
    return points[points["block"].isin(["adaln-zero"])]


def _common_steps(points: pd.DataFrame, *, each: str = "model") -> float:
    """The training length at which most models (or block designs) were evaluated, the longer one of two."""
    counts = points.groupby("training_steps")[each].nunique()
    return float(counts[counts == counts.max()].index.max()) if len(counts) else math.nan


def _at_common_training(points: pd.DataFrame) -> pd.DataFrame:
    """The points after one training length, the paper's 400K where it has points; DiTs of the paper only."""
    points = points[points["size"].notna()]
    return points[points["training_steps"] == _common_steps(points)]


def _last_of_each(points: pd.DataFrame) -> pd.DataFrame:
    """The point with the most compute of each model, to be labelled."""
    return points.sort_values(["training_gflops", "sampling_tflops"], kind="stable").drop_duplicates(
        "model", keep="last"
    )


def _step_scale(points: pd.DataFrame) -> float:
    """Training steps are shown in thousands, unless they are few."""
    return 1e-3 if points["training_steps"].max() >= THOUSANDS_FROM else 1.0


def _step_label(points: pd.DataFrame) -> str:
    return "Training steps (K)" if _step_scale(points) < 1 else "Training steps"


def _end_points(points: pd.DataFrame) -> str:
    return "the paper prints end points, no curves" if "paper" in set(points["source"]) else ""


def _gflops_text(gflops: float) -> str:
    return f"{gflops:.1f} Gflops" if gflops >= 1 else compute_text(gflops / 1000)


def _params_text(params_m: float) -> str:
    return f"{params_m:.0f} M" if params_m >= 10 else f"{params_m:.2g} M"


def _block_name(block: str) -> str:
    return {"adaln": "adaLN", "adaln-zero": "adaLN-Zero"}.get(block, block)


def _marker(axis: Axes, x: float, y: float, colour: str, marker: str, *, measured: bool, size: float) -> None:
    """Filled if measured, open if published."""
    axis.plot(
        [x],
        [y],
        marker=marker,
        markersize=size,
        markerfacecolor=colour if measured else PAPER,
        markeredgecolor=INK if measured else colour,
        markeredgewidth=0.6 if measured else 1.4,
        linestyle="none",
        zorder=4 if measured else 3,
    )


def _interval(axis: Axes, place: float, row: Mapping[Any, Any], metric: str, *, across: bool = False) -> None:
    """The 95 % interval of a point that has one, as a bar through its marker; `across` if the metric is along x."""
    low, high = row.get(f"{metric}_low", math.nan), row.get(f"{metric}_high", math.nan)
    if not (math.isnan(low) or math.isnan(high)):
        ends, places = [low, high], [place, place]
        axis.plot(*((ends, places) if across else (places, ends)), color=INK, linewidth=0.9, zorder=5)


def _extent(points: pd.DataFrame, metric: str) -> pd.Series:
    """All values that an axis of the metric has to show: the points and the ends of their intervals."""
    ends = [points[name] for name in (metric, f"{metric}_low", f"{metric}_high")]
    return pd.concat([values.dropna() for values in ends], ignore_index=True)


def _series(
    axis: Axes,
    points: pd.DataFrame,
    x: str,
    y: str,
    colour: str,
    marker: str,
    *,
    scale: float = 1.0,
    size: float = 5.0,
    published: bool = True,
) -> None:
    """A model's points; measured ones are joined by a line, one line for each seed."""
    points = points[points[x].notna() & points[y].notna()].sort_values(x, kind="stable")
    measured = select(points, source="measured")
    for _, own in measured.groupby(["model", "block", "seed"], sort=True, dropna=False):
        axis.plot(own[x] * scale, own[y], color=colour, linewidth=1.3, zorder=2)
    for row in points.to_dict("records"):
        is_measured = row["source"] == "measured"
        if is_measured or published:
            _marker(axis, row[x] * scale, row[y], colour, marker, measured=is_measured, size=size)
            _interval(axis, row[x] * scale, row, y)


def _compute_panel(axis: Axes, points: pd.DataFrame, x: str, y: str, *, size: float = 5.5) -> None:
    axis.set_xscale("log")
    for _, own in points.groupby("model", sort=False):
        colour, marker = _style(next(own.itertuples()))
        _series(axis, own, x, y, colour, marker, size=size)


def _pad_y(axis: Axes, values: Iterable[float], share: float, *, bottom: float | None = None) -> None:
    low, high = min(values), max(values)
    room = share * (high - low) or 0.1 * abs(high) or 1.0
    axis.set_ylim(low - room if bottom is None else bottom, high + room)


def _thin_ticks(axis: Axes) -> None:
    """On a log axis of few decades, name 2 and 5 between them instead of everything."""
    low, high = axis.get_xlim()
    if high / low < 100:
        axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))


def _handle(
    colour: str, marker: str, label: str, *, face: str | None = None, line: Any = "none", size: float = 6
) -> Line2D:
    label = lettering(label)
    label = f" {label}" if label.startswith("_") else label  # matplotlib leaves such a name out of legends
    drawn = Line2D([], [], color=colour, linestyle=line, marker=marker, markersize=size, label=label)
    drawn.set_markerfacecolor(face or colour)
    return drawn


def _legend(axis: Axes, handles: Sequence[Line2D], *, loc: Any, ncols: int = 1) -> None:
    legend = axis.legend(
        handles=list(handles), loc=loc, ncols=ncols, fontsize=7, frameon=False, handletextpad=0.4, labelspacing=0.35
    )
    legend.set_in_layout(False)  # one that is larger than its panel leaves the panel its room
    for text in legend.get_texts():
        text.set_path_effects([_HALO])


def _is_crowded(labelled: pd.DataFrame) -> bool:
    """Whether the measured curves of a panel are too many for a name at each, and a legend can tell them apart."""
    return len(labelled) > 8 and set(labelled["source"]) == {"measured"} and bool(labelled["size"].notna().all())


def _size_legend(figure: Figure, points: pd.DataFrame, *, patch_colours: bool = False) -> None:
    """Colours of the sizes and markers of the patch sizes, above the panels; in Figure 6 these have colours too."""
    handles = [_handle(SIZE_COLOURS[s], "o", f"{_prefix(points)}{s}") for s in SIZES if s in set(points["size"])]
    for p in PATCHES:
        if p in set(points["patch"]) and patch_colours:
            handles.append(_handle(PATCH_COLOURS[p], PATCH_MARKERS[p], f"patch {p}", line="-"))
        elif p in set(points["patch"]):
            handles.append(_handle(SOFT, PATCH_MARKERS[p], f"patch {p}", face=PAPER))
    figure.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), fontsize=7, frameon=False, handletextpad=0.3,
        columnspacing=1.4,
    )  # fmt: skip


def _caption(figure: Figure, points: pd.DataFrame, *, published: str, extra: str = "") -> None:
    """Below the figure: where its points come from."""
    sources = set(points["source"])
    parts = []
    if "paper" in sources:
        parts.append(f"open: paper ({published})")
    if "measured" in sources:
        parts.append("filled: measured")
    if points[[f"{metric}_low" for metric in METRICS]].notna().any(axis=None):
        parts.append("bars: 95 % intervals")
    _footer(figure, "; ".join([*parts, *([extra] if extra else [])]))


def _footer(figure: Figure, text: str) -> None:
    width = int(figure.get_figwidth() * 72 / (0.6 * _CAPTION))
    figure.supxlabel(textwrap.fill(lettering(text, longest=400), width), fontsize=_CAPTION, color=SOFT, x=0.5)


def _stack_labels(axis: Axes, xs: Sequence[float], ys: Sequence[float], names: Sequence[str]) -> None:
    """Names to the right of points that lie above each other, moved apart where they would touch."""
    if not names:
        return
    low, high = axis.get_ylim()
    figure = _figure_of(axis)
    figure.draw_without_rendering()
    gap = 8.5 / 72 * figure.dpi * (high - low) / axis.get_window_extent().height  # a line of text
    place = -math.inf
    for y, x, name in sorted(zip(ys, xs, names, strict=True)):
        place = max(place + gap, y)
        axis.annotate(lettering(name), (x, y), (x + 0.07 * axis.get_xlim()[1], place), fontsize=6.8, va="center",
                      annotation_clip=False)  # fmt: skip


def _place_labels(
    axis: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    names: Sequence[str],
    *,
    obstacles: Sequence[tuple[float, float]] = (),
    reach: Sequence[float] = (),
) -> None:
    """Write a name beside each point, where it covers no point, no other name and no edge.

    Tries eight places around the point, near ones first, and takes the first that is free, else the least covered.

    Parameters
    ----------
    obstacles : more points to keep clear of
    reach : least distance of each name from the middle of its point, in points; 6 if not given
    """
    figure = _figure_of(axis)
    figure.draw_without_rendering()  # fixes the layout, so that sizes in pixels are known
    pixel = figure.dpi / 72
    marks = axis.transData.transform(np.array([*zip(xs, ys, strict=True), *obstacles], dtype=float))
    radius = 3.0 * pixel
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in marks]
    legend = axis.get_legend()
    taken += [box for line in axis.lines for box in _along(line)]
    taken += [legend.get_window_extent()] if legend is not None else []
    taken += [text.get_window_extent() for text in axis.texts if text.get_text()]
    frame = axis.get_window_extent()
    for number, (x, y, name) in enumerate(zip(xs, ys, map(lettering, names), strict=True)):
        near = reach[number] if reach else 6.0
        best: tuple[float, Text] | None = None
        for away in (near, near + 4.0, near + 9.0):
            for dx, dy, ha, va in _AROUND:
                text = axis.annotate(
                    name, (x, y), (away * dx, away * dy), textcoords="offset points", fontsize=7, ha=ha, va=va
                )
                text.set_in_layout(False)
                text.set_path_effects([_HALO])
                box = text.get_window_extent().padded(2.0 * pixel, 0.6 * pixel)
                covered = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
                if best is None or covered < best[0]:
                    if best is not None:
                        best[1].remove()
                    best = (covered, text)
                else:
                    text.remove()
                if covered == 0.0:
                    break
            if best is not None and best[0] == 0.0:
                break
        if best is not None:
            taken.append(best[1].get_window_extent().padded(2.0 * pixel, 0.6 * pixel))


def _figure_of(axis: Axes) -> Figure:
    figure = axis.get_figure(root=True)
    if figure is None:
        raise ValueError("These axes belong to no figure.")
    return figure


def _along(line: Line2D) -> list[Bbox]:
    """Small boxes along a drawn curve, in pixels."""
    data = np.asarray(line.get_xydata())
    if line.get_linestyle() == "None" or line.axes is None or len(data) < 2:
        return []
    corners = line.axes.transData.transform(data)
    places = [a + (b - a) * t for a, b in pairwise(corners) for t in np.linspace(0, 1, 12)]
    return [Bbox.from_extents(x - 1.0, y - 1.0, x + 1.0, y + 1.0) for x, y in places]


_HALO = withStroke(linewidth=2.0, foreground=PAPER)  # keeps a name readable where a line passes behind it

_AROUND = (
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (0.7, 0.7, "left", "bottom"),
    (0.7, -0.7, "left", "top"),
    (-0.7, 0.7, "right", "bottom"),
    (-0.7, -0.7, "right", "top"),
)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: Bbox, frame: Bbox) -> float:
    return box.width * box.height - _overlap(box, frame)
