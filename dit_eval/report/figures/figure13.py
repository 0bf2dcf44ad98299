"""Figure 13: loss curves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from dit_eval.report.figures.draw import (
    BLOCK_STYLES,
    PATCH_DASHES,
    add_legend,
    block_name,
    handle,
    sentences,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.style import INK, SIZE_COLOURS, SOFT, Look, new_figure, points, styled
from dit_eval.report.setting import select
from dit_eval.report.words import SIZES, THOUSANDS_FROM, ModelName, model_name

_WINDOW = 50  # logged losses that the bold line averages; the pale line is the log itself
_DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 1.5, 1, 1.5)))
_SEED = " seed "  # before the seed in a name of a study
_BLOCK_DASHES = dict(zip(BLOCK_STYLES, (":", "-.", "--", "-"), strict=True))


@styled
def loss_curves(losses: pd.DataFrame, look: Look) -> Picture | None:
    """Figure 13: training loss of each model of a loss log (`points.read_losses`)."""
    if losses.empty:
        return None
    curves = sorted(_curves(dict.fromkeys(losses["model"])), key=_by_size)
    # Models that were trained with several block designs have a panel of their own, beside that of all models.
    several = {curve.model for curve in curves if curve.block}
    models, designs = [c for c in curves if not c.block], [c for c in curves if c.model in several]
    panels = [panel for panel in (models, designs) if panel]
    figure, axes = new_figure(look, 2.9, wide=len(panels) > 1, columns=len(panels), sharey=True)
    axes = [axes] if len(panels) == 1 else axes
    for axis, panel in zip(axes, panels, strict=True):
        _panel(axis, panel, losses, of_designs=panel is designs)
    settled = losses[losses["step"] >= 0.05 * losses["step"].max()]["loss"]
    low, high = settled.min(), settled.quantile(0.999)
    axes[0].set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    axes[0].set_ylabel("Training loss ↓")
    papers = any(curve.parts is not None and curve.parts.family == "DiT" for curve in curves)
    note = "the paper prints no numbers of its loss curves" if papers else ""
    text = sentences("Measured", "Bold: running mean of the log", note)
    return Picture(figure=figure, caption=text, data=losses)


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
    """A curve of a loss log.

    Attributes
    ----------
    name : in the log
    model, block, seed : of the name; a block design and a seed where it says one
    parts : of the model's name
    """

    name: str
    model: str
    block: str | None
    parts: ModelName | None
    seed: int | None = None

    def style(self, number: int, *, of_designs: bool) -> tuple[str, Any, str]:
        """Colour, dashes and label; a network whose name has no parts is told apart by its dashes."""
        which = "" if self.seed is None else f"{_SEED}{self.seed}"
        label = self.name if self.seed is None else f"{self.model}{which}"
        if of_designs:
            block = self.block or "adaln-zero"
            return BLOCK_STYLES[block][0], _BLOCK_DASHES[block], f"{self.model} {block_name(block)}{which}"
        if self.parts is not None:
            dash = PATCH_DASHES[self.parts.patch] if self.seed is None else _DASHES[self.seed % len(_DASHES)]
            return SIZE_COLOURS[self.parts.size], dash, label
        return (INK, SOFT)[number % 2], _DASHES[number // 2 % len(_DASHES)], label


def _panel(axis: Axes, curves: Sequence[_Curve], losses: pd.DataFrame, *, of_designs: bool) -> None:
    scale = 1e-3 if losses["step"].max() >= THOUSANDS_FROM else 1.0
    handles = []
    for number, curve in enumerate(curves):
        own = select(losses, model=curve.name)
        colour, dash, label = curve.style(number, of_designs=of_designs)
        mean = own["loss"].rolling(min(_WINDOW, max(1, len(own) // 20)), min_periods=1, center=True).mean()
        axis.plot(own["step"] * scale, own["loss"], color=colour, alpha=0.18, linewidth=points(0.6))
        axis.plot(own["step"] * scale, mean, linestyle=dash, color=colour)
        handles.append(handle(colour, "", label, line=dash))
    axis.set_xlim(left=0)
    axis.set_xlabel("Training steps (K)" if scale < 1 else "Training steps")
    add_legend(axis, handles, loc="upper right", ncols=1 + (len(handles) > 6))


def _by_size(curve: _Curve) -> tuple[int, int, str, int]:
    """Sort key: DiTs by size and falling patch size, others after them by name; one model by seed."""
    name, seed = curve.parts, curve.seed or 0
    return (SIZES.index(name.size), -name.patch, curve.model, seed) if name else (len(SIZES), 0, curve.model, seed)


def _curves(names: Iterable[str]) -> list[_Curve]:
    """The curves of these names. One that says no seed is of seed 0, as a study calls it, where another says one."""
    curves = [*map(_curve, names)]
    seeded = {(curve.model, curve.block) for curve in curves if curve.seed is not None}
    return [
        replace(curve, seed=0) if curve.seed is None and (curve.model, curve.block) in seeded else curve
        for curve in curves
    ]


def _curve(name: str) -> _Curve:
    whole, said, seed = name.rpartition(_SEED)
    if not said or not re.fullmatch("[0-9]{1,9}", seed):
        whole, seed = name, ""
    model, _, block = whole.rpartition(" ")
    if block not in BLOCK_STYLES:
        model, block = whole, ""
    return _Curve(
        name=name,
        model=model,
        block=None if block in ("", "adaln-zero") else block,
        parts=model_name(model),
        seed=int(seed) if seed else None,
    )
