"""Figure 7: samples by size and patch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dit_eval.report.figures.figure import PaperFigure, Picture
from dit_eval.report.figures.style import SOFT, Look, lettering, new_figure, small, styled
from dit_eval.report.points import shown_protocol, shown_reference
from dit_eval.report.sample_images import first_images
from dit_eval.report.setting import Setting
from dit_eval.report.words import PATCHES, SIZES, model_name
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.sample_run import SampleRun
from dit_eval.system.text import shown


@dataclass(frozen=True, kw_only=True)
class SeedImages:
    """One image of each model of a family, all drawn from one noise and label.

    Attributes
    ----------
    images : model name -> uint8 (H, W, 3)
    caption : how they were drawn
    """

    images: Mapping[str, np.ndarray]
    caption: str


def images_of_one_seed(setting: Setting, results: Iterable[EvalResult], folder: Path) -> SeedImages | None:
    """Image 0 of each model of a family whose samples are still there, from runs that differ in the network only.

    Parameters
    ----------
    folder : of the results file; paths of samples count from there too

    Returns
    -------
    SeedImages
        Of the runs with the most models; None with fewer than two.
    """
    groups: dict[str, dict[str, np.ndarray]] = {}
    for result in results:
        run = result.gen.run
        if run is None or not _shown_in(setting, result, run):
            continue
        images = first_images(result, folder, 1)
        if images is not None:
            groups.setdefault(_conditions(run), {})[run.model] = images[0]
    key = max(groups, key=lambda k: len(groups[k]), default="")
    if len(groups.get(key, ())) < 2:
        return None
    return SeedImages(images=groups[key], caption=shown(f"Measured: image 0 of each model's samples ({key})."))


@styled
def size_patch_grid(found: SeedImages, look: Look) -> Picture | None:
    """Figure 7: one image of each model, larger models downwards, smaller patches to the right."""
    names = {model: name for model in found.images if (name := model_name(model)) is not None}
    cells = {(name.size, name.patch): found.images[model] for model, name in names.items()}
    if not cells:
        return None
    prefix = f"{[*names.values()][-1].family}-"
    sizes = [s for s in SIZES if s in {size for size, _ in cells}]
    patches = [p for p in PATCHES if p in {patch for _, patch in cells}]
    cell = (look.column / look.scale - 0.3) / max(len(patches), 3)  # inches
    figure = new_figure(look, cell * len(sizes) + 0.25, columns=0)
    rows = figure.subplots(len(sizes), len(patches), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.02 * look.scale, h_pad=0.02 * look.scale, wspace=0, hspace=0)
    for r, size in enumerate(sizes):
        for c, patch in enumerate(patches):
            _cell(rows[r][c], cells.get((size, patch)))
            if r == 0:
                rows[r][c].set_title(f"patch size {patch}")
            if c == 0:
                rows[r][c].set_ylabel(lettering(f"{prefix}{size}"))
    return Picture(figure=figure, caption=found.caption)


FIGURE7 = PaperFigure(
    name="figure7",
    title="Figure 7: one noise and label through every model",
    draw=size_patch_grid,
    about="Model size grows downwards, patches get smaller to the right.",
    needs="images",
    missing="Figure 7 (a grid of samples) needs sample files of several models with one seed, in their places.",
    may_be_wide=False,
)


def _cell(axis: Axes, image: np.ndarray | None) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    spines: Any = axis.spines
    spines[:].set_visible(False)
    if image is not None:
        axis.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "antialiased")
    else:
        axis.text(
            0.5, 0.5, "not\nmeasured", transform=axis.transAxes, ha="center", va="center", color=SOFT, fontsize=small()
        )


def _shown_in(setting: Setting, result: EvalResult, run: SampleRun) -> bool:
    """Whether this is a model of a setting's grid: of its protocol and size, with the common block design."""
    if setting.reference not in ("", shown_reference(result)):
        return False
    if shown_protocol(result) != setting.protocol or run.image_size != setting.image_size:
        return False
    name = model_name(run.model)
    return (
        name is not None
        and run.network.get("block") == "adaln-zero"
        and (name.family == "DiT" or not setting.is_papers)
    )


def _conditions(run: SampleRun) -> str:
    """All that the runs of one grid have in common, in words."""
    name = model_name(run.model)
    family = name.family if name is not None else ""
    guidance = "no guidance" if run.cfg_scale == 1.0 else f"guidance {run.cfg_scale:g}"
    sampling = f"{run.sampler.upper()} {run.num_sampling_steps} steps, {guidance}"
    training = f", {run.training_steps:,} training steps" if run.training_steps else ""
    return f"{family}, {sampling}, seed {run.global_seed}, {run.labels} labels{training}"
