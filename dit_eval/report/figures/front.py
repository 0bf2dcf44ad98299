"""A sweep of guidance: four metrics against its scale, and the front of precision and recall."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from dit_eval.flops.kept import count_network
from dit_eval.report.figures.draw import (
    caption,
    common_style,
    from_zero,
    handle,
    intervals,
    legend_above,
    marker_of,
    source_handles,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.labels import place_labels
from dit_eval.report.figures.select import extent
from dit_eval.report.figures.style import BLOCK_COLOURS, INK, PAGE, SOFT, Look, new_figure, points, styled
from dit_eval.report.figures.sweeps import ONE_SWEEP
from dit_eval.report.points import CONFIRMED, published_points, read_measured
from dit_eval.report.setting import Setting, select, settings
from dit_eval.report.words import fid_label

_CURVE = [*ONE_SWEEP, "weights", "checkpoint", "num_samples"]
_LEAST = 4  # scales of a curve: fewer are three points of other figures
_METRICS = ("fid", "inception_score", "precision", "recall")


@styled
def guidance_front(setting: Setting, look: Look) -> Picture | None:
    """FID, Inception Score, precision and recall against the scale, and the front of the last two."""
    swept, confirmed = _swept(setting)
    if swept.empty:
        return None
    published = setting.points[setting.points["origin"] == "Table 2"]
    shown = pd.concat([published, swept, confirmed])
    names = [name for name in _METRICS if swept[name].notna().sum() >= _LEAST]
    both = {"precision", "recall"} <= set(names)
    panels = [*names, *(["front"] if both else [])]
    columns = 3 if len(panels) > 2 else len(panels)
    rows = math.ceil(len(panels) / columns)
    figure, axes = new_figure(look, 2.3 * rows + 0.2, wide=columns > 1, columns=columns, rows=rows)
    flat = np.atleast_1d(axes).ravel()
    for empty in flat[len(panels) :]:
        empty.set_axis_off()
    curves = [own.sort_values("cfg_scale", kind="stable") for _, own in _by_curve(pd.concat([published, swept]))]
    for axis, name in zip(flat, panels, strict=False):
        if name == "front":
            _front(axis, curves, confirmed)
        else:
            _against_scale(axis, curves, confirmed, name)
            label = fid_label(swept["num_samples"].iloc[0]) if name == "fid" else _TITLES[name]
            axis.set_ylabel(f"{label} {'↓' if name == 'fid' else '↑'}")
            from_zero(axis, extent(shown, name))
    legend_above(figure, [*_curve_handles(curves), *source_handles(shown), *_star(confirmed)])
    if both:
        scales = pd.concat(curves)
        scales = scales[scales["recall"].notna() & scales["precision"].notna()]
        place_labels(
            flat[len(panels) - 1],
            list(scales["recall"]),
            list(scales["precision"]),
            [f"{scale:g}" for scale in scales["cfg_scale"]],
        )
    text = caption(shown, published="Table 2, FID-50K", extra=_said(both, confirmed))
    return Picture(figure=figure, caption=text, data=shown)


FRONT = PaperFigure(
    name="guidance-front",
    title="A sweep of guidance",
    draw=guidance_front,
    about="Four metrics against the scale of guidance, all else of a curve the same; and precision against recall, "
    "where a line joins the points that no other of the curve beats in both. The best of a sweep is best by chance, "
    "too: a star is the same setting on noise that the search has not seen.",
)


def sweep_figure(results: str | os.PathLike[str], look: Look = PAGE) -> Picture | None:
    """The figure of a file of results; of several settings the first that has one, None if none has."""
    own, _ = read_measured(results, count=count_network)
    points = pd.concat([published_points(), own], ignore_index=True)
    pictures = (guidance_front(setting, look) for setting in settings(points))
    return next((picture for picture in pictures if picture is not None), None)


_TITLES = {"inception_score": "Inception Score", "precision": "Precision", "recall": "Recall"}


def _swept(setting: Setting) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The points of curves of four scales or more, of the N of the most of them; and those that confirm one."""
    measured = select(setting.points, source="measured")
    measured = measured[measured["cfg_scale"].notna() & measured["fid"].notna()]
    is_confirmed = measured["selected_by"].fillna("").str.endswith(CONFIRMED)
    confirmed, tried = measured[is_confirmed], measured[~is_confirmed]
    # A scale of 1 has no interval of guidance: it is the begin of each curve of its sampler.
    scales = tried.groupby(_CURVE, dropna=False)["cfg_scale"].transform("nunique")
    swept = tried[scales >= _LEAST]
    if swept.empty:
        return swept, confirmed.head(0)
    swept = select(swept, num_samples=swept["num_samples"].mode().iloc[0])
    return swept, select(confirmed, model=tuple(swept["model"].unique()))


def _by_curve(shown: pd.DataFrame) -> pd.api.typing.DataFrameGroupBy:
    return shown.groupby(_CURVE, sort=False, dropna=False)


def _colour(number: int, own: pd.DataFrame) -> tuple[str, str]:
    """Of a curve: that of its model; of further curves of a sweep, colours in a row."""
    colour, marker = common_style(own)
    others = [*BLOCK_COLOURS.values()]
    return (colour, marker) if number == 0 else (others[(number - 1) % len(others)], marker)


def _styles(curves: list[pd.DataFrame]) -> list[tuple[str, str]]:
    measured = [own for own in curves if own["source"].iloc[0] == "measured"]
    places = {id(own): number for number, own in enumerate(measured)}
    return [_colour(places.get(id(own), 0), own) for own in curves]


def _against_scale(axis: Axes, curves: list[pd.DataFrame], confirmed: pd.DataFrame, name: str) -> None:
    for own, (colour, marker) in zip(curves, _styles(curves), strict=True):
        is_measured = own["source"].iloc[0] == "measured"
        own = own[own[name].notna()]
        if is_measured:
            axis.plot(own["cfg_scale"], own[name], color=colour, zorder=2)
        marker_of(axis, own["cfg_scale"], own[name], colour, marker, measured=is_measured, size=4)
        intervals(axis, own, "cfg_scale", name)
    axis.plot(confirmed["cfg_scale"], confirmed[name], **_star_look())
    axis.set_xlabel("Guidance scale (1: none)")


def _front(axis: Axes, curves: list[pd.DataFrame], confirmed: pd.DataFrame) -> None:
    """Precision against recall; a line joins the points that no other of their curve beats in both."""
    for own, (colour, marker) in zip(curves, _styles(curves), strict=True):
        is_measured = own["source"].iloc[0] == "measured"
        own = own[own["recall"].notna() & own["precision"].notna()]
        best = own.sort_values(["recall", "precision"], ascending=False, kind="stable")
        best = best[best["precision"] > best["precision"].cummax().shift(fill_value=-math.inf)]
        axis.plot(best["recall"], best["precision"], color=colour, linestyle="-" if is_measured else ":", zorder=2)
        marker_of(axis, own["recall"], own["precision"], colour, marker, measured=is_measured, size=4)
    axis.plot(confirmed["recall"], confirmed["precision"], **_star_look())
    axis.margins(0.2)
    axis.set_xlabel("Recall ↑")
    axis.set_ylabel("Precision ↑")


def _curve_handles(curves: list[pd.DataFrame]) -> list[Line2D]:
    """A name for each measured curve: the model, and what tells it from the others."""
    measured = [(own, style) for own, style in zip(curves, _styles(curves), strict=True)
                if own["source"].iloc[0] == "measured"]  # fmt: skip
    differing = [
        name for name in ("model", "training_steps", "sampling_steps", "sampler", "weights", "checkpoint", "seed")
        if len({str(own[name].iloc[0]) for own, _ in measured}) > 1
    ]  # fmt: skip
    handles = []
    for own, (colour, marker) in measured:
        row = own.iloc[0]
        said = [_UNITS.get(name, "{}").format(_plain(row[name])) for name in differing]
        handles.append(handle(colour, marker, ", ".join(said) or str(row["model"]), measured=True))
    return handles


_UNITS = {"training_steps": "{} training steps", "sampling_steps": "{} steps", "seed": "seed {}"}


def _plain(value: object) -> str:
    return "ema" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _star(confirmed: pd.DataFrame) -> list[Line2D]:
    if confirmed.empty:
        return []
    label = f"confirmed, N {confirmed['num_samples'].iloc[0]:,.0f}, fresh noise"
    return [handle(SOFT, "*", label, measured=True)]


def _star_look() -> dict[str, Any]:
    return {
        "linestyle": "none", "marker": "*", "markersize": points(9), "markerfacecolor": SOFT, "markeredgecolor": INK,
        "markeredgewidth": points(0.6), "zorder": 6,
    }  # fmt: skip


def _said(both: bool, confirmed: pd.DataFrame) -> str:
    parts = ["numbers beside points: guidance scale"] if both else []
    parts += ["star: the selected setting on fresh noise"] if len(confirmed) else []
    return "; ".join(parts)
