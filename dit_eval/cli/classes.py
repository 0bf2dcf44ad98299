"""`dit-eval classes`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from dit_eval.cli.extractor import check_extractor, load_extractor
from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import File, header, say, tell_json
from dit_eval.cli.shared import (
    FEATURES,
    IMAGES,
    NetworkOptions,
    NumImages,
    check_destination,
    grid_file,
    is_folder,
    json_file,
    network_line,
    open_role,
    reference_path,
)
from dit_eval.results.settings import MOST_CLASSES
from dit_eval.system.progress import Progress
from dit_eval.system.text import shown

_MOST_COLUMNS = 100  # of a picture; places without an image are drawn, too

if TYPE_CHECKING:
    from dit_eval.checks.classes import ClassReport
    from dit_eval.images import ImageSet


@dataclass(frozen=True, kw_only=True)
class Classes(NetworkOptions):
    """Compare each class of the samples with the same class of the reference; both sides need labels.

    Example: dit-eval classes samples.npz --ref imagenet256 --grid worst.png

    Compared are numbers of images, and a kernel distance (KID's) of their features, which needs no covariance.
    """

    samples: Annotated[Path, Option(f"generated images with labels: {IMAGES}", name="SAMPLES")]
    ref: Annotated[str, Option("as of `dit-eval evaluate`, with labels")]
    num_images: NumImages = None
    worst: Annotated[int, Option("classes to show", metavar="K", group=EVERYDAY), Meta(le=MOST_CLASSES)] = 10
    grid: Annotated[Path | None, grid_file("the worst classes beside the reference")] = None
    images: Annotated[int, Option("of a side in a row of the grid"), Meta(le=_MOST_COLUMNS)] = 6
    cache: Annotated[
        Path | None,
        Option("keep features here, and take those of `dit-eval evaluate`", metavar="DIR", check=is_folder),
    ] = None
    json: Annotated[str | None, json_file("the scores of all classes")] = None


def classes(arguments: Classes) -> None:
    if arguments.worst < 1 or arguments.images < 1:
        raise ValueError(f"--worst {arguments.worst}, --images {arguments.images}: needed at least 1 of each.")
    gen = open_role(arguments.samples, "gen", arguments.num_images)
    check_destination("--json", arguments.json)
    check_destination("--grid", arguments.grid)
    check_destination("--cache", arguments.cache, folder=True)
    check_extractor(arguments)
    ref = open_role(reference_path(arguments.ref), "ref", network=arguments.network)
    if arguments.grid and gen.image_size != ref.image_size:
        raise ValueError(
            f"{gen.path} and {ref.path} have images of different sizes, and --grid draws them side by side; drop it."
        )
    header(network_line(arguments))
    from dit_eval.checks.classes import score_classes

    extractor = load_extractor(arguments)
    with Progress(names=FEATURES) as progress:
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
        say(f"warning: {warning}")

    def draw(path: Path) -> None:
        for written in _draw_classes(report, gen, ref, arguments, path):
            say(f"written: {written}")

    files = [File(option="--grid", path=arguments.grid, write=draw)] if arguments.grid else []
    tell_json(arguments.json, report.to_json(), report.text(arguments.worst), *files)


def _draw_classes(
    report: ClassReport, gen: ImageSet, ref: ImageSet, arguments: Classes, path: Path
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
