"""Figure 7: samples by size and patch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from dit_eval.report.figures.draw import _footer
from dit_eval.report.figures.style import SOFT, lettering, new_figure, styled
from dit_eval.report.words import PATCHES, SIZES, model_name


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
