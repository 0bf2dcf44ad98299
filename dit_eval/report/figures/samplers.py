"""FID of one network against evaluations and compute of an image, a series for each sampler."""

from __future__ import annotations

import math

import pandas as pd

from dit_eval.report.figures.draw import caption, handle, interval, legend_above, marker_of, sentences
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.select import extent
from dit_eval.report.figures.style import SAMPLER_COLOURS, Look, new_figure, styled
from dit_eval.report.samplers import sampler_points
from dit_eval.report.sampling import UNITS, unit_for
from dit_eval.report.setting import Setting
from dit_eval.report.words import fid_label, steps_text

_MARKERS = {"ddpm": "o", "ddim": "s", "ode-euler": "^", "ode-heun": "D", "ode-dopri5": "*", "sde-euler": "v",
            "sde-heun": "P"}  # fmt: skip


@styled
def samplers(setting: Setting, look: Look) -> Picture | None:
    """FID against evaluations of the network; the second scale is compute."""
    shown = sampler_points(setting.points)
    if shown.empty:
        return None
    figure, axis = new_figure(look, 3.4)
    axis.set_xscale("log")
    axis.set_yscale("log")  # few evaluations give many times the FID of enough, where samplers still differ
    handles = []
    for name, own in shown.groupby("series", sort=False):
        own = own.sort_values("nfe", kind="stable")
        sampler = own["sampler"].iloc[0]
        colour, line = SAMPLER_COLOURS[sampler], "-" if _learned_flow(own) else "--"
        axis.plot(own["nfe"], own["fid"], color=colour, linestyle=line, zorder=2)
        marker_of(axis, own["nfe"], own["fid"], colour, _MARKERS[sampler], measured=True, size=4.5)
        for row in own.to_dict("records"):
            interval(axis, row["nfe"], row, "fid")
        handles.append(handle(colour, _MARKERS[sampler], str(name), measured=True, line=line))
    ticks = [2.0**e for e in range(12) if shown["nfe"].min() / 1.2 <= 2.0**e <= shown["nfe"].max() * 1.2]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_xlim(shown["nfe"].min() / 1.2, shown["nfe"].max() * 1.2)
    axis.set_xlabel("Evaluations of the network per image (log scale)")
    axis.set_ylabel(f"{fid_label(shown['num_samples'].iloc[0])} ↓ (log scale)")
    fids = extent(shown, "fid")
    axis.set_ylim(fids.min() / 1.2, fids.max() * 1.2)
    axis.set_yticks(*_round_numbers(*axis.get_ylim()))
    gflops = shown["gflops"].iloc[0]
    unit = unit_for(gflops * shown["nfe"].max() / 1000)
    scale = gflops * UNITS[unit] / 1000
    above = axis.secondary_xaxis("top", functions=(lambda nfe: nfe * scale, lambda compute: compute / scale))
    above.set_xlabel(f"Compute per image ({unit})")
    above.set_xticks(*_round_numbers(*(limit * scale for limit in axis.get_xlim())))
    for each in (axis, above):
        each.minorticks_off()
    legend_above(figure, handles)
    what = f"{shown['model'].iloc[0]} after {steps_text(shown['training_steps'].iloc[0])} training steps, no guidance"
    brackets = "in brackets, and by a dashed line for DDPM: what the weights were trained for"
    text = f"{caption(shown, published='')} {sentences(what, brackets)}"
    return Picture(figure=figure, caption=text, data=shown)


SAMPLERS = PaperFigure(
    name="samplers",
    title="Samplers at equal compute",
    draw=samplers,
    about="FID against the number of evaluations of the network for an image, and so its compute. A step of Euler "
    "takes one, of Heun two; of dopri5 it is the mean of the first images.",
    may_be_wide=False,
)


def _round_numbers(low: float, high: float) -> tuple[list[float], list[str]]:
    """1, 2, 5, 10 and so on between two numbers, and as an axis names them."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    numbers = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    within = [number for number in numbers if low <= number <= high]
    return within, [f"{number:g}" for number in within]


def _learned_flow(own: pd.DataFrame) -> bool:
    return bool(own["objective"].iloc[0] == "flow")
