"""`dit-eval classes`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_eval.cli.extractor import _check_extractor, _extractor
from dit_eval.cli.options import (
    _FEATURES,
    _IMAGES,
    _add_extractor_options,
    _check_destination,
    _file,
    _folder,
    _json_file,
    _network_line,
    _open_images,
    _reference_path,
)
from dit_eval.cli.output import _File, _header, _say, _tell_json
from dit_eval.system.progress import Progress
from dit_eval.system.text import shown

if TYPE_CHECKING:
    from dit_eval.checks.classes import ClassReport
    from dit_eval.images import ImageSet


def _add_classes(commands: Any) -> None:
    classes = commands.add_parser(
        "classes",
        help="find the classes that are worst",
        description="Compare each class of the samples with the same class of the reference: numbers of images, and a "
        "kernel distance (KID's) of their features, which needs no covariance. Both sides need labels.",
    )
    classes.add_argument("samples", type=Path, metavar="SAMPLES", help=f"generated images with labels: {_IMAGES}")
    classes.add_argument("--ref", required=True, help="as of `dit-eval evaluate`, with labels")
    _add_extractor_options(classes)
    classes.add_argument("--num-samples", type=int, metavar="N", help="use the first N samples")
    classes.add_argument("--worst", type=int, default=10, metavar="K", help="classes to show (default: %(default)s)")
    classes.add_argument(
        "--grid",
        type=_file(".png", ".pdf"),
        metavar="GRID.png",
        help="also draw the worst classes beside the reference: GRID.png and GRID.pdf",
    )
    classes.add_argument(
        "--images", type=int, default=6, metavar="N", help="of a side in a row of the grid (default: %(default)s)"
    )
    classes.add_argument(
        "--cache", type=_folder, metavar="DIR", help="keep features here, and take those of `dit-eval evaluate`"
    )
    classes.add_argument(
        "--json",
        type=_json_file,
        metavar="FILE|-",
        help="also write the scores of all classes as one JSON object; - prints only that",
    )
    classes.set_defaults(run=_classes)


def _classes(arguments: argparse.Namespace) -> None:
    if arguments.worst < 1 or arguments.images < 1:
        raise ValueError(f"--worst {arguments.worst}, --images {arguments.images}: needed at least 1 of each.")
    gen = _open_images(arguments.samples, "gen", arguments.num_samples)
    _check_destination("--json", arguments.json)
    _check_destination("--grid", arguments.grid)
    _check_destination("--cache", arguments.cache, folder=True)
    _check_extractor(arguments)
    ref = _open_images(_reference_path(arguments.ref), "ref")
    if arguments.grid and gen.image_size != ref.image_size:
        raise ValueError(
            f"{gen.path} and {ref.path} have images of different sizes, and --grid draws them side by side; drop it."
        )
    _header(_network_line(arguments))
    from dit_eval.checks.classes import score_classes

    extractor = _extractor(arguments)
    with Progress(names=_FEATURES) as progress:
        report = score_classes(
            gen=gen,
            ref=ref,
            extractor=extractor,
            batch_size=arguments.batch_size,
            cache=arguments.cache,
            on_progress=progress.update,
            on_note=progress.note,
        )
    for warning in report.warnings:
        _say(f"warning: {warning}")

    def draw(path: Path) -> None:
        for written in _draw_classes(report, gen, ref, arguments, path):
            _say(f"written: {written}")

    files = [_File(option="--grid", path=arguments.grid, write=draw)] if arguments.grid else []
    _tell_json(arguments.json, report.to_json(), report.text(arguments.worst), *files)


def _draw_classes(
    report: ClassReport, gen: ImageSet, ref: ImageSet, arguments: argparse.Namespace, path: Path
) -> tuple[Path, Path]:
    import numpy as np

    from dit_eval.checks.classes import images_of_class
    from dit_eval.report.figures.samples import sample_grid_figure
    from dit_eval.report.figures.style import save_figure

    sides = (("sample", gen), ("reference", ref))
    rows = {}
    for score in report.worst(arguments.worst):
        parts = [images_of_class(images, score.label, arguments.images) for _, images in sides]
        # White where a class has fewer images.
        full = [
            np.concatenate([part, np.full((arguments.images - len(part), *part.shape[1:]), 255, np.uint8)])
            for part in parts
        ]
        rows[f"class {score.label}: KID {score.kid:.3g} ± {score.standard_error:.2g}"] = np.concatenate(full)
    if not rows:
        raise ValueError("No class has a distance, so there is nothing to draw; see the counts without --grid.")
    columns = [f"{name} {k + 1}" for name, _ in sides for k in range(arguments.images)]
    names = " beside ".join(shown(Path(images.path).name) for _, images in sides)
    title = f"{names}, features of {report.extractor.name}: the {len(rows)} worst classes"
    figure = sample_grid_figure(rows, columns=columns, title=title)
    return save_figure(figure, path)
