"""Figure 2: FID of each model, and beside the U-Nets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dit_eval.paper import load_table
from dit_eval.report.figures.draw import (
    bubble,
    bubble_legend,
    bubble_marks,
    caption,
    from_zero,
    legend_above,
    patch_handles,
    sentences,
    source_handles,
    swatch,
)
from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.labels import place_labels
from dit_eval.report.figures.select import at_common_training, extent, of_block, prefix_of
from dit_eval.report.figures.style import (
    OTHER_COLOUR,
    PATCH_COLOURS,
    SIZE_COLOURS,
    Look,
    lettering,
    new_figure,
    points,
    styled,
)
from dit_eval.report.setting import Setting, select
from dit_eval.report.words import SIZES, fid_label, steps_text

# A U-Net or DiT, and the row of Table 2 that is the same network with the guidance that gives its least FID.
_GUIDED = {
    "ADM": "ADM-G",
    "ADM-U": "ADM-G, ADM-U",
    "LDM-8": "LDM-8-G",
    "LDM-4": "LDM-4-G (cfg=1.50)",
    "DiT-XL/2": "DiT-XL/2-G (cfg=1.50)",
}


@styled
def fid_by_model(setting: Setting, look: Look) -> Picture | None:
    """Figure 2, left: FID by model size and patch size at the shortest common training; bubble area is Gflops."""
    shown = at_common_training(of_block(setting.scaling))
    if shown.empty:
        return None
    figure, axis = new_figure(look, 3.1)
    sizes = [size for size in SIZES if size in set(shown["size"])]
    both = len(set(shown["source"])) > 1
    largest = shown["gflops"].max()
    for row in shown.sort_values("gflops", ascending=False).to_dict("records"):
        x = sizes.index(row["size"]) + (0.3 if row["source"] == "measured" and both else 0.0)
        bubble(axis, x, row, PATCH_COLOURS[int(row["patch"])], largest=largest)
    axis.set_xticks(range(len(sizes)), [lettering(f"{prefix_of(shown)}{size}") for size in sizes])
    axis.set_xlim(-0.5, len(sizes) - (0.2 if both else 0.4))
    from_zero(axis, extent(shown, "fid"))
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓")
    axis.set_xlabel(f"Model, after {steps_text(shown['training_steps'].iloc[0])} training steps")
    legend_above(figure, [*patch_handles(shown, coloured=True), *source_handles(shown)])
    bubble_legend(figure, largest=largest)
    text = caption(shown, published="Table 4", extra="Area: Gflops of the model")
    return Picture(figure=figure, caption=text, data=shown)


@styled
def against_unets(setting: Setting, look: Look) -> Picture | None:
    """Figure 2, right: FID against Gflops of DiT-XL/2 and the diffusion U-Nets at 256 px, without and with guidance."""
    if not setting.is_papers:
        return None
    published = _published(setting)
    highest = 1.15 * published["fid"].max()
    measured = select(setting.points, source="measured", num_samples=setting.num_samples)
    measured = measured[measured["gflops"].notna() & (measured["fid"] <= highest)]
    figure, axis = new_figure(look, 3.1)
    axis.set_xscale("log")
    largest = published["gflops"].max()
    xs: list[float] = []
    ys: list[float] = []
    names: list[str] = []
    reach: list[float] = []
    lines: list[tuple[float, float]] = []
    rows = published.to_dict("records")
    for plain, best in zip(rows[::2], rows[1::2], strict=True):
        colour = SIZE_COLOURS["XL"] if plain["model"].startswith("DiT") else OTHER_COLOUR
        x, top, bottom = plain["gflops"], plain["fid"], best["fid"]
        axis.plot([x, x], [bottom, top], linestyle=":", color=colour, linewidth=points(1.2), zorder=2)
        axis.plot([x], [top], marker="_", color=colour, markersize=points(8), markeredgewidth=points(1.6))
        bubble(axis, x, best, colour, largest=largest)
        xs, ys, names = [*xs, x, x], [*ys, top, bottom], [*names, f"{plain['model']} {top:.2f}", f"{bottom:.2f}"]
        reach += [points(6.0), sum(bubble_marks(x, largest=largest)) / 2 + points(2.0)]
        lines += [(x, y) for y in np.linspace(bottom, top, 12)]
    for row in measured.to_dict("records"):
        bubble(axis, row["gflops"], row, SIZE_COLOURS.get(row["size"], OTHER_COLOUR), largest=largest)
    axis.set_ylim(0, highest)
    axis.set_xlim(min([30, *measured["gflops"] / 1.5]), 2600)
    axis.set_xlabel("Gflops of the denoising network (log scale)")
    axis.set_ylabel(f"{fid_label(setting.num_samples)} ↓, ImageNet 256")
    shown = pd.concat([published, measured], ignore_index=True)
    names_of_colours = [swatch(SIZE_COLOURS["XL"], "DiT-XL"), swatch(OTHER_COLOUR, "diffusion U-Net")]
    legend_above(figure, [*names_of_colours, *source_handles(shown)])
    bubble_legend(figure, largest=largest)
    place_labels(axis, xs, ys, names, obstacles=lines, reach=reach)
    text = caption(shown, published="Tables 2 and 6")
    return Picture(
        figure=figure,
        caption=sentences("Bar: without guidance", "Bubble: with guidance, its area the Gflops") + f" {text}",
        data=shown,
    )


FIGURE2_LEFT = PaperFigure(
    name="figure2-left",
    title="Figure 2, left: FID by model",
    draw=fid_by_model,
    about="Each bubble is a model; its area shows Gflops.",
    claim="Larger models and smaller patches both lower FID; Gflops are what they share.",
)
FIGURE2_RIGHT = PaperFigure(
    name="figure2-right",
    title="Figure 2, right: against diffusion U-Nets",
    draw=against_unets,
    about="A dotted line leads from a model without guidance to the same model with it; the evaluations of "
    "guidance, two for each step, are not counted, as in the paper.",
    claim="DiT-XL/2 needs few Gflops for its FID.",
)


def _published(setting: Setting) -> pd.DataFrame:
    """Two rows for each network, without guidance and with it: model, row, gflops, fid."""
    table2, table6 = load_table(2).set_index("model"), load_table(6)
    gflops = {f"{row.model}": row.total_gflops for row in table6[table6["image_size"] == 256].itertuples()}
    gflops["DiT-XL/2"] = select(setting.points, source="paper", origin="Table 2")["gflops"].iloc[0]
    rows = [
        {"source": "paper", "origin": "Tables 2 and 6", "model": plain, "row": row, "gflops": gflops[plain],
         "fid": table2.loc[row, "fid"]}
        for plain, best in _GUIDED.items() for row in (plain, best)
    ]  # fmt: skip
    return pd.DataFrame(rows)
