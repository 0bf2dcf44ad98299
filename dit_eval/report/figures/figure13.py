"""Figure 13: loss curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import (
    BLOCK_STYLES,
    PATCH_COLOURS,
    PATCH_DASHES,
    SIZE_COLOURS,
    add_legend,
    block_name,
    footer,
    handle,
)
from dit_eval.report.figures.figure import PaperFigure
from dit_eval.report.figures.style import new_figure, styled
from dit_eval.report.setting import select
from dit_eval.report.words import SIZES, THOUSANDS_FROM, ModelName, model_name

_WINDOW = 50  # logged losses that the bold line averages; the pale line is the log itself


@styled
def loss_curves(losses: pd.DataFrame) -> Figure | None:
    """Figure 13: training loss of each model of a loss log (`points.read_losses`)."""
    if losses.empty:
        return None
    curves = sorted(map(_curve, dict.fromkeys(losses["model"])), key=lambda curve: _by_size(curve.model))
    # Models that were trained with several block designs have a panel of their own, beside that of all models.
    several = {curve.model for curve in curves if curve.block}
    models, designs = [c for c in curves if not c.block], [c for c in curves if c.model in several]
    panels = [panel for panel in (models, designs) if panel]
    figure = new_figure(3.5 * len(panels), 2.9, columns=0)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, panel in zip(axes, panels, strict=True):
        _panel(axis, panel, losses, of_designs=panel is designs)
    settled = losses[losses["step"] >= 0.05 * losses["step"].max()]["loss"]
    low, high = settled.min(), settled.quantile(0.999)
    axes[0].set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axes[0].set_ylabel("Training loss ↓")
    papers = any(curve.parts is not None and curve.parts.family == "DiT" for curve in curves)
    note = "; the paper prints no numbers of its loss curves" if papers else ""
    footer(figure, f"measured; bold: running mean of the log{note}")
    return figure


FIGURE13 = PaperFigure(
    name="figure13",
    title="Figure 13: training loss",
    draw=loss_curves,
    about="The loss of each model over training, from the loss log.",
    needs="losses",
    missing="Figure 13 (loss curves) needs a loss log: --losses. The paper prints no numbers of it.",
    may_be_wide=False,
)


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A curve of a loss log: its name there, the model, its block design if the name says one, the name's parts."""

    name: str
    model: str
    block: str | None
    parts: ModelName | None

    def style(self, number: int, *, of_designs: bool) -> tuple[str, Any, str]:
        """Colour, dashes and label; a network whose name has no parts gets the colour of its number."""
        if of_designs:
            block = self.block or "adaln-zero"
            return BLOCK_STYLES[block][0], "-", f"{self.model} {block_name(block)}"
        if self.parts is not None:
            return SIZE_COLOURS[self.parts.size], PATCH_DASHES[self.parts.patch], self.name
        colours = list(PATCH_COLOURS.values())
        return colours[number % len(colours)], "-", self.name


def _panel(axis: Axes, curves: Sequence[_Curve], losses: pd.DataFrame, *, of_designs: bool) -> None:
    scale = 1e-3 if losses["step"].max() >= THOUSANDS_FROM else 1.0
    handles = []
    for number, curve in enumerate(curves):
        own = select(losses, model=curve.name)
        colour, dash, label = curve.style(number, of_designs=of_designs)
        mean = own["loss"].rolling(min(_WINDOW, max(1, len(own) // 20)), min_periods=1, center=True).mean()
        axis.plot(own["step"] * scale, own["loss"], color=colour, alpha=0.18, linewidth=0.6)
        axis.plot(own["step"] * scale, mean, linestyle=dash, color=colour, linewidth=1.3)
        handles.append(handle(colour, "", label, line=dash))
    axis.set_xlim(left=0)
    axis.set_xlabel("Training steps (K)" if scale < 1 else "Training steps")
    add_legend(axis, handles, loc="upper right", ncols=1 + (len(handles) > 6))


def _by_size(model: str) -> tuple[int, int, str]:
    """Sort key: DiTs by size and falling patch size, others after them by name."""
    name = model_name(model)
    return (SIZES.index(name.size), -name.patch, model) if name else (len(SIZES), 0, model)


def _curve(name: str) -> _Curve:
    model, _, block = name.rpartition(" ")
    if block not in BLOCK_STYLES:
        model, block = name, ""
    return _Curve(name=name, model=model, block=None if block in ("", "adaln-zero") else block, parts=model_name(model))
