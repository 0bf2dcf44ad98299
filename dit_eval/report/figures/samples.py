"""A grid of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from dit_eval.report.figures.style import blank_figure, lettering


def sample_grid_figure(
    rows: Mapping[str, np.ndarray], *, columns: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Images in a grid: a row per sample file, or one file's images in a square.

    With several rows a column is one image index: the same noise and label through several models (Figure 7).

    Parameters
    ----------
    rows : row name -> images uint8 (N, H, W, 3); all rows have the same N, sizes may differ
    columns : a name above each column, such as the class
    """
    if len({len(images) for images in rows.values()}) != 1:
        raise ValueError("Rows of a grid need the same number of images.")
    names, stacks = [lettering(name, longest=120) for name in rows], list(rows.values())
    if len(rows) == 1:  # fold the only row into a square
        across = math.ceil(math.sqrt(len(stacks[0])))
        stacks = [stacks[0][i : i + across] for i in range(0, len(stacks[0]), across)]
        names, columns = [""] * len(stacks), None
    across, cell = len(stacks[0]), 0.9
    margin = 0.07 * max(map(len, names)) + 0.1  # inches, for the row names
    top = 0.3 * bool(columns) + 0.35 * bool(title) + 0.05
    width, height = margin + across * cell, top + len(stacks) * cell
    figure = blank_figure(width, height)
    for r, images in enumerate(stacks):
        for c, image in enumerate(images):
            left, bottom = (margin + c * cell) / width, 1 - (top + (r + 1) * cell) / height
            axis = figure.add_axes((left, bottom, 0.96 * cell / width, 0.96 * cell / height))
            axis.imshow(image, interpolation="nearest" if image.shape[0] < 64 else "antialiased")
            axis.set_axis_off()
            if columns and r == 0:
                axis.set_title(lettering(columns[c]), fontsize=8, pad=3)
        middle = 1 - (top + (r + 0.5) * cell) / height
        figure.text((margin - 0.08) / width, middle, names[r], ha="right", va="center", fontsize=9)
    if title:
        figure.text(0.5, 1 - 0.05 / height, lettering(title, longest=400), ha="center", va="top", fontsize=9)
    return figure
