"""The figure of the first page: how near ADM's features, and how fast, are the programs that score papers."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from dit_eval.report.figures.figure import Picture
from dit_eval.report.figures.style import DARK, OTHER_COLOUR, Look, new_figure, points, render_figure, small, styled

MEASURED = Path(__file__).with_suffix(".json")  # benchmarks/beside_others.py wrote it
OURS, REFERENCE = "dit-eval", "ADM's TensorFlow graph"
_OURS_COLOUR = "#0072B2"
_EXACT = 1e-8  # where the axis ends; rounding of float32 is above


def measured() -> pd.DataFrame:
    """A row of each program: name, how far its features are off the reference's, images a processor second."""
    programs = json.loads(MEASURED.read_text(encoding="utf-8"))["programs"]
    columns = ("features_off", "images_per_processor_second", "fid")
    return pd.DataFrame([{"program": name, **{key: of[key] for key in columns}} for name, of in programs.items()])


@styled
def beside_others(shown: pd.DataFrame, look: Look) -> Picture:
    """Two panels, a row a program: relative difference of the features, and speed."""
    figure, (off, speed) = new_figure(look, 1.75, wide=True, columns=2, sharey=True)
    places = range(len(shown))
    colours = [_OURS_COLOUR if name == OURS else OTHER_COLOUR for name in shown["program"]]
    for place, colour, row in zip(places, colours, shown.itertuples(), strict=True):
        is_reference = row.program == REFERENCE
        if not is_reference:
            off.plot([_EXACT, row.features_off], [place, place], color=colour, linewidth=points(1.2))
            off.plot(row.features_off, place, marker="o", color=colour, markersize=points(5.5))
        text = "the reference" if is_reference else _share(row.features_off)
        off.annotate(
            text, (_EXACT if is_reference else row.features_off, place), textcoords="offset points",
            xytext=(points(6), 0), va="center", fontsize=small(),
        )  # fmt: skip
        speed.barh(place, row.images_per_processor_second, height=0.55, color=colour)
        speed.annotate(
            f"{row.images_per_processor_second:.1f}", (row.images_per_processor_second, place),
            textcoords="offset points", xytext=(points(4), 0), va="center", fontsize=small(),
        )  # fmt: skip
    off.set_xscale("log")
    off.set_xlim(_EXACT, 10)
    off.set_xticks([1e-8, 1e-6, 1e-4, 1e-2, 1], ["0.000001 %", "0.0001 %", "0.01 %", "1 %", "100 %"])
    off.set_xlabel("Inception features differ from ADM's by (log scale) ↓")
    off.set_yticks(list(places), list(shown["program"]))
    off.invert_yaxis()
    off.minorticks_off()
    speed.set_xlim(0, 1.15 * shown["images_per_processor_second"].max())
    speed.set_xlabel("images a second of one processor core ↑")
    for axis in (off, speed):
        axis.grid(visible=True, axis="x")
        axis.grid(visible=False, axis="y")
        axis.tick_params(axis="y", length=0)
    return Picture(figure=figure, caption="", data=shown)


def _share(value: float) -> str:
    """A share in percent, of one or two digits that count."""
    percent = 100 * value
    return f"{percent:.2g} %" if percent >= 1e-4 else f"{percent:.6f} %"


def files() -> dict[str, bytes]:
    """The picture by its name: a PNG on white, and an SVG for dark pages."""
    picture = beside_others(measured())
    assert picture is not None
    rendered = render_figure(picture.figure)
    svg = rendered["svg"].decode()
    style = svg.index("<style>@media"), svg.index("</style>") + len("</style>")
    svg = svg[: style[0]] + svg[style[1] :]
    for light, dark in DARK.items():
        svg = svg.replace(light, dark)
    return {"beside_others.png": rendered["png"], "beside_others-dark.svg": svg.encode()}
