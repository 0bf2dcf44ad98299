"""`dit-eval grid`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import say
from dit_eval.cli.shared import Force, check_destination, has_ending
from dit_eval.system.files import refuse_existing
from dit_eval.system.text import shown

if TYPE_CHECKING:
    import numpy as np

    from dit_eval.images.npz import ImageBatch


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Draw images of sample files as a PNG and a PDF beside it: one file in a square, several in a row each.

    Example: dit-eval grid mine.npz theirs.npz --out grid.png
    """

    samples: Annotated[tuple[Path, ...], Option("sample files in ADM's layout", name="SAMPLES.npz", several="words")]
    out: Annotated[
        Path,
        Option("both are written: .png and .pdf", metavar="GRID.png", check=has_ending(".png", ".pdf")),
    ]
    first: Annotated[int, Option("index of the first image", metavar="I", group=EVERYDAY)] = 0
    num_images: Annotated[
        int | None, Option("of each file (default: 36; 8 of several files)", also=("--count",), group=EVERYDAY)
    ] = None
    force: Force = False


def grid(arguments: Grid) -> None:
    from dit_eval.report.figures.style import picture_files

    refuse_existing(picture_files(arguments.out), force=arguments.force)
    check_destination("--out", arguments.out)
    count = arguments.num_images or (36 if len(arguments.samples) == 1 else 8)
    draw_grid(arguments.samples, arguments.out, first=arguments.first, count=count)


def draw_grid(samples: Sequence[Path], out: Path, *, first: int, count: int) -> None:
    from dit_eval.images.npz import open_batch
    from dit_eval.report.figures.samples import sample_grid_figure
    from dit_eval.report.figures.style import save_figure

    if first < 0 or count < 1:
        raise ValueError(f"Images {first} to {first + count - 1} asked for; needed a first of 0 or more and a count.")
    batches = {path: open_batch(path, role="gen") for path in samples}
    short = [path for path, batch in batches.items() if batch.num_images < first + count]
    if short:
        raise ValueError(f"{short[0]}: {batches[short[0]].num_images:,} images; needed {first + count:,}.")
    rows = {}
    for path, batch in batches.items():
        name = batch.run.summary() if batch.run and len(samples) > 1 else shown(path)
        rows[name if name not in rows else f"{name} ({shown(path)})"] = _some_images(batch, first, count)
    columns = _classes_of_columns([*batches.values()], first, count)
    png, pdf = save_figure(sample_grid_figure(rows, columns=columns), out)
    sys.stdout.write(f"{png} {pdf}\n")


def _classes_of_columns(batches: Sequence[ImageBatch], first: int, count: int) -> list[str] | None:
    """The class of each column, if it has one; a warning if a column is not one noise and one class."""
    labels = {_some_labels(batch, first, count) for batch in batches}
    seeds = {batch.run.global_seed if batch.run else None for batch in batches}
    aligned = len(labels) == 1 and len(seeds) == 1 and None not in labels | seeds
    if len(batches) > 1 and not aligned:
        say("warning: these files differ in seed or labels, or do not say: a column is not one noise and one class")
    common = next(iter(labels)) if len(labels) == 1 else None
    return [f"class {label}" for label in common] if common else None


def _some_labels(batch: ImageBatch, first: int, count: int) -> tuple[int, ...] | None:
    return None if batch.labels is None else tuple(batch.labels[first : first + count])


def _some_images(batch: ImageBatch, first: int, count: int) -> np.ndarray:
    import numpy as np

    kept, begin = [], 0
    for images in batch.batches(64):
        kept.append(images[max(first - begin, 0) : first + count - begin])
        begin += len(images)
        if begin >= first + count:
            break
    return np.concatenate(kept)
