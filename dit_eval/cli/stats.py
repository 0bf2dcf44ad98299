"""`dit-eval stats`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from dit_eval.cli.extractor import load_extractor
from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import File, header, say, tell
from dit_eval.cli.shared import (
    IMAGES,
    CenterCrop,
    Count,
    CropBy,
    Force,
    NetworkOptions,
    check_cropped,
    check_destination,
    crop_of,
    has_ending,
    network_line,
    open_role,
)
from dit_eval.system.files import refuse_existing
from dit_eval.system.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Stats(NetworkOptions):
    """Make a reference batch: statistics over all images, and some images for precision and recall.

    Example: dit-eval stats real_images --out reference.npz

    IMAGES are an npz (arr_0, uint8 NHWC); a folder, .zip, .tar or .tar.gz of PNGs, in the order of their names (2.png
    before 10.png); parquet files; or a saved Hugging Face dataset. With --center-crop, image files may be of any size
    and mode, such as ImageNet's: its folders, its own tars, or its parquet files. A killed run goes on where it was.
    """

    images: Annotated[Path, Option(f"real images, of one size without --center-crop: {IMAGES}", name="IMAGES")]
    out: Annotated[Path, Option("the file to write", metavar="REFERENCE.npz", check=has_ending(".npz"))]
    center_crop: CenterCrop = None
    crop_rule: CropBy = None
    num_images: Annotated[Count, Option("images to keep, evenly spaced", group=EVERYDAY)] = 10_000
    force: Force = False


def stats(arguments: Stats) -> None:
    refuse_existing([arguments.out], force=arguments.force)
    crop = crop_of(arguments.center_crop, arguments.crop_rule)
    images = open_role(arguments.images, "gen", crop=crop)
    check_cropped(crop, images)
    if arguments.out.exists() and arguments.out.samefile(arguments.images):
        raise ValueError(f"--out {arguments.out}: the images are read from it; name another.")
    check_destination("--out", arguments.out)
    header(network_line(arguments))
    from dit_eval.reference import make_reference

    extractor = load_extractor(arguments)
    with Progress(names={"ref": "ref features"}) as progress:
        reference = make_reference(
            images=images,
            extractor=extractor,
            num_images=arguments.num_images,
            batch_size=arguments.batch_size,
            on_progress=progress.update,
            out=arguments.out,
            on_note=progress.note,
        )
    for warning in images.warnings:
        say(f"warning: {warning}")
    kept = f"statistics of {images.num_images:,} images, {len(reference.kept):,} images kept"
    tell("", File(option="--out", path=arguments.out, write=reference.write, told=f"{arguments.out}: {kept}\n"))
