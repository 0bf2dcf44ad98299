"""Figure 13: loss curves."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import (
    _PATCH_DASHES,
    BLOCK_STYLES,
    PATCH_COLOURS,
    SIZE_COLOURS,
    _block_name,
    _footer,
    _handle,
    _legend,
)
from dit_eval.report.figures.style import new_figure, styled
from dit_eval.report.setting import select
from dit_eval.report.words import SIZES, THOUSANDS_FROM, ModelName, model_name


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
