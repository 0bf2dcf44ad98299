"""Figures that the paper lacks: guidance, sampling steps, epochs of training beside later papers."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dit_eval.paper import load_later
from dit_eval.report.figures.draw import (
    caption,
    common_style,
    compute_panel,
    from_zero,
    handle,
    intervals,
    is_crowded,
    legend_above,
    marker_of,
    patch_handles,
    series,
    size_handles,
    source_handles,
    style_of,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.labels import place_labels
from dit_eval.report.figures.select import extent, last_of_each, of_block, prefix_of
from dit_eval.report.figures.style import INK, PALE, SOFT, Look, new_figure, points, styled
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import fid_label, steps_text

# What the evaluations of a guidance sweep have in common.
ONE_SWEEP = ["source", "model", "block", "training_steps", "sampling_steps", "sampler", "objective", "decoder", "seed"]
_IMAGES = 1_281_167  # of ImageNet's training set: an epoch
_ENOUGH = 1.5  # own models of the figure of epochs come to so many times the paper's greatest FID


@styled
def guidance(setting: Setting, look: Look) -> Picture | None:
    """FID and Inception Score against the scale of guidance, and precision against recall."""
    shown = _guided(setting)
    panels = [
        panel for panel in (("cfg_scale", "fid"), ("cfg_scale", "inception_score"), ("recall", "precision"))
        if shown[[*panel]].notna().all(axis=1).sum() > 1
    ]  # fmt: skip
    if not panels:
        return None
    figure, axes = new_figure(look, 2.4, wide=len(panels) > 1, columns=len(panels))
    axes = [axes] if len(panels) == 1 else axes
    labels = {"cfg_scale": "Guidance scale (1: none)", "fid": f"{fid_label(setting.num_samples)} ↓",
              "inception_score": "Inception Score ↑", "recall": "Recall ↑", "precision": "Precision ↑"}  # fmt: skip
    named: list[tuple[Axes, pd.DataFrame]] = []
    for axis, (x, y) in zip(axes, panels, strict=True):
        panel = shown[shown[x].notna() & shown[y].notna()]
        for _, own in panel.groupby(ONE_SWEEP, sort=False, dropna=False):
            _sweep(axis, own.sort_values("cfg_scale", kind="stable"), x, y)
        axis.set_xlabel(labels[x])
        axis.set_ylabel(labels[y])
        if x == "cfg_scale":
            axis.set_xticks(sorted(panel[x].unique()) if panel[x].nunique() < 7 else axis.get_xticks())
            axis.margins(x=0.08)
            from_zero(axis, extent(panel, y))
        else:
            axis.margins(0.2)
            named.append((axis, panel))
    legend_above(figure, [*_models(shown), *source_handles(shown)])
    for axis, panel in named:
        place_labels(
            axis, list(panel["recall"]), list(panel["precision"]), [f"{scale:g}" for scale in panel["cfg_scale"]]
        )
    scales = "Numbers beside points: guidance scale" if named else ""
    return Picture(figure=figure, caption=caption(shown, published="Table 2", extra=scales), data=shown)


@styled
def sampling_steps(setting: Setting, look: Look) -> Picture | None:
    """FID against the number of sampling steps, without guidance."""
    shown = setting.sweep[setting.sweep["sampling_steps"].notna()]
    measured = select(shown, source="measured")
    if measured.empty or measured.groupby("model")["sampling_steps"].nunique().max() < 2:
        return None  # the paper prints two points, of Figure 10
    ends = last_of_each(measured)
    crowded = is_crowded(ends)
    figure, axis = new_figure(look, 2.9, wide=crowded)
    compute_panel(axis, shown, "sampling_steps", "fid")
    steps = sorted(shown["sampling_steps"].unique())
    axis.set_xticks(steps, [f"{step:g}" for step in steps] if len(steps) < 10 else None)
    axis.minorticks_off()
    axis.set_xlim(steps[0] / 1.3, steps[-1] * (1.3 if crowded else 2.5))
    from_zero(axis, extent(shown, "fid"))
    axis.set_xlabel("Sampling steps (log scale)")
    axis.set_ylabel(f"{fid_label(setting.sweep_samples)} ↓")
    if crowded:
        legend_above(figure, [*size_handles(shown), *patch_handles(shown)])
    else:
        legend_above(figure, source_handles(shown))
        place_labels(
            axis, list(ends["sampling_steps"]), list(ends["fid"]),
            [model.removeprefix(prefix_of(shown)) for model in ends["model"]],
            obstacles=list(zip(shown["sampling_steps"], shown["fid"], strict=True)),
        )  # fmt: skip
    return Picture(figure=figure, caption=caption(shown, published="text on Figure 10"), data=shown)


@styled
def epochs(setting: Setting, look: Look) -> Picture | None:
    """FID without guidance against epochs of training: DiT-XL/2 and own models, beside later papers."""
    if not setting.is_papers:
        return None
    shown = of_block(setting.scaling)
    shown = shown.assign(epochs=shown["training_steps"] * shown["batch_size"] / _IMAGES)
    published = select(shown, source="paper", model="DiT-XL/2")
    measured = select(shown, source="measured")
    best = measured.groupby("model")["fid"].transform("min")
    shown = pd.concat([published, measured[best <= _ENOUGH * published["fid"].max()]])
    shown = shown[shown["epochs"].notna()]
    later = _later()
    figure, axis = new_figure(look, 2.9)
    axis.set_xscale("log")
    axis.plot(later["epochs"], later["fid"], linestyle="none", marker="x", color=PALE, markersize=points(4.5))
    for _, own in shown.groupby("model", sort=False):
        series(axis, own, "epochs", "fid", common_style(own), size=5.5)
    every = pd.concat([shown["epochs"], later["epochs"]])
    axis.set_xlim(every.min() / 1.6, every.max() * 1.6)
    ticks = [tick for tick in (10, 20, 50, 100, 200, 500, 1000, 2000) if axis.get_xlim()[0] < tick < axis.get_xlim()[1]]
    axis.set_xticks(ticks, [f"{tick}" for tick in ticks])
    axis.minorticks_off()
    from_zero(axis, [*extent(shown, "fid"), *later["fid"]])
    axis.set_xlabel("Epochs of ImageNet (log scale)")
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓, no guidance")
    legend_above(figure, [handle(PALE, "x", "later papers"), *source_handles(shown)])
    ends = last_of_each(select(shown, source="measured"))
    rows = [
        *((row.epochs, row.fid, f"DiT-XL/2 {steps_text(row.training_steps)}", INK) for row in published.itertuples()),
        *((row.epochs, row.fid, row.model, INK) for row in ends.itertuples()),
        *((row.epochs, row.fid, row.model.partition("-XL")[0], SOFT) for row in later.itertuples()),
    ]
    xs, ys, names, colours = (list(column) for column in zip(*rows, strict=True))
    obstacles = list(zip(shown["epochs"], shown["fid"], strict=True))
    place_labels(axis, xs, ys, names, obstacles=obstacles, colours=colours)
    text = caption(shown, published="Table 4", extra="Crosses: later papers, as their sources print them")
    return Picture(figure=figure, caption=text, data=pd.concat([shown, later], ignore_index=True))


GUIDANCE = PaperFigure(
    name="guidance",
    title="Guidance",
    draw=guidance,
    about="FID and Inception Score against the scale of guidance; precision against recall, where each point is a "
    "scale. All else of a curve is the same.",
)
SAMPLING_STEPS = PaperFigure(
    name="sampling-steps",
    title="Sampling steps",
    draw=sampling_steps,
    about="FID against the number of sampling steps, without guidance.",
)
EPOCHS = PaperFigure(
    name="epochs",
    title="Training length, beside later papers",
    draw=epochs,
    about="FID without guidance against epochs of ImageNet's 1,281,167 training images. Samplers, autoencoders and "
    "batch sizes of later papers differ; the table of later papers has the source of each.",
)


def _guided(setting: Setting) -> pd.DataFrame:
    """Evaluations of networks that were evaluated at two scales of guidance or more, all else equal."""
    shown = select(setting.points, num_samples=setting.num_samples)
    shown = shown[shown["cfg_scale"].notna() & shown["fid"].notna()]
    shown = shown[(shown["source"] == "measured") | (shown["origin"] == "Table 2")]
    scales = shown.groupby(ONE_SWEEP, dropna=False)["cfg_scale"].transform("nunique")
    return shown[scales > 1]


def _sweep(axis: Axes, own: pd.DataFrame, x: str, y: str) -> None:
    """A network at its scales of guidance, in the order of the scales; measured points are joined."""
    colour, marker = common_style(own)
    is_measured = own["source"].iloc[0] == "measured"
    if is_measured:
        axis.plot(own[x], own[y], color=colour, zorder=2)
    marker_of(axis, own[x], own[y], colour, marker, measured=is_measured, size=5)
    intervals(axis, own, x, y)


def _models(shown: pd.DataFrame) -> list[Line2D]:
    """The models of a sweep; of many, their sizes and patches."""
    models = shown.drop_duplicates("model")
    if is_crowded(models):
        return [*size_handles(shown), *patch_handles(shown)]
    return [handle(*style_of(row), row.model, measured=row.source == "measured") for row in models.itertuples()]


def _later() -> pd.DataFrame:
    """What later papers print of ImageNet at 256 px without guidance, where their length in epochs is known."""
    later = load_later()
    later = later[(later["image_size"] == 256) & (later["guidance"] == "none")]
    length = later["training"].str.extract(r"^(\d+) epochs$")[0].astype(float)
    later = later.assign(epochs=length)[length.notna()]
    return later.assign(origin=later["source"], source="later paper")[["source", "origin", "model", "epochs", "fid"]]
