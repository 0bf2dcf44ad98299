"""`dit-eval stats`."""

from __future__ import annotations

import argparse

from dit_eval.cli.extractor import _extractor
from dit_eval.cli.options import _check_destination, _network_line, _open_images
from dit_eval.cli.output import _File, _header, _say, _tell
from dit_eval.system.files import refuse_existing
from dit_eval.system.progress import Progress


def _stats(arguments: argparse.Namespace) -> None:
    refuse_existing([arguments.out], force=arguments.force)
    images = _open_images(arguments.images, "gen")
    if arguments.out.exists() and arguments.out.samefile(arguments.images):
        raise ValueError(f"--out {arguments.out}: the images are read from it; name another.")
    _check_destination("--out", arguments.out)
    _header(_network_line(arguments))
    from dit_eval.reference import make_reference

    extractor = _extractor(arguments)
    with Progress(names={"ref": "ref features"}) as progress:
        reference = make_reference(
            images=images,
            extractor=extractor,
            num_images=arguments.num_images,
            batch_size=arguments.batch_size,
            on_progress=progress.update,
        )
    for warning in images.warnings:
        _say(f"warning: {warning}")
    kept = f"statistics of {images.num_images:,} images, {len(reference.kept):,} images kept"
    _tell("", _File(option="--out", path=arguments.out, write=reference.write, told=f"{arguments.out}: {kept}\n"))
