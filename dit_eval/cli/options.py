"""Options that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from dit_eval.cli.output import USER_ERROR, _fetch, _header, _say
from dit_eval.features import INCEPTION, NETWORKS
from dit_eval.metrics import names_in_words
from dit_eval.system.dist import World
from dit_eval.system.files import check_ending, check_folder, check_folder_name, check_target
from dit_eval.system.text import size_text

if TYPE_CHECKING:
    from dit_eval.images.encoded import ImageFiles
    from dit_eval.images.npz import ImageBatch

_T = TypeVar("_T")
_METRICS = names_in_words()
_FEATURES = {"ref": "ref features", "gen": "gen features"}
_IMAGES = (
    "an npz (arr_0, uint8 NHWC); a folder, .zip, .tar or .tar.gz of PNGs, in the order of their names (2.png before "
    "10.png); or a saved Hugging Face dataset"
)


def _check_destination(
    option: str, path: str | Path | None, *, append: bool = False, folder: bool = False, instead: str = ""
) -> None:
    """That what an option names can be written; asked before the work. None and "-" name nothing.

    Raises
    ------
    ValueError
        With what is in the way, and what to do.
    """
    if path is None or path == "-":
        return
    try:
        if folder:
            check_folder(Path(path))
        else:
            check_target(Path(path), append=append)
    except OSError as error:
        what = "a folder" if folder else "a file in a folder"
        raise ValueError(f"{option} {error}. Name {what} that you can write in{instead}.") from None


def _open_images(path: Path, role: Literal["gen", "ref"], num_images: int | None = None) -> ImageBatch | ImageFiles:
    """Open a set of images, and say what it is."""
    # At once: to load NumPy takes a moment, and to list an archive a while.
    _header(f"{role}  {path}" + (f", {size_text(path.stat().st_size)}" if path.is_file() else ""))
    from dit_eval.images import open_images

    images = open_images(path, role=role, num_images=num_images)
    size = "x".join(str(side) for side in reversed(images.image_size or ()))
    what = f"{images.num_images:,} images of {size} px" if images.num_images else "no images"
    if images.num_images < images.num_stored:
        what = f"the first {images.num_images:,} of {images.num_stored:,} images of {size} px"
    _header(f"{role}  {what}{', with statistics' if images.pool or images.spatial else ''}")
    return images


def _file(*endings: str) -> Callable[[str], Path]:
    """The type of an option that names a file to write; its ending is looked at before anything is done."""

    def path(text: str) -> Path:
        return _checked(lambda: check_ending(Path(text), *endings), Path(text))

    return path


def _json_file(text: str) -> str:
    """The type of --json: a file to write, or "-"."""
    return text if text == "-" else _checked(lambda: check_ending(Path(text), ".json"), text)


def _folder(text: str) -> Path:
    """The type of an option that names a folder to write."""
    return _checked(lambda: check_folder_name(Path(text)), Path(text))


def _checked(check: Callable[[], None], value: _T) -> _T:
    """The value; a mistake is told as `main` tells it, since argparse would put its usage above it."""
    try:
        check()
    except (ValueError, OSError) as error:  # a name that is too long, a folder that may not be entered
        if World.from_environment().rank == 0:
            _say(f"dit-eval: error: {error}")
        sys.exit(USER_ERROR)
    return value


def _add_on_corrupt(parser: Any) -> None:
    parser.add_argument(
        "--on-corrupt",
        choices=("skip", "refuse"),
        default="refuse",
        help="an image that cannot be read: stop at it (default), or leave it out; it is named either way",
    )


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"invalid: {text!r}; expected integers with commas between, such as 100,200."
        ) from None


def _networks_in_words() -> str:
    """The feature networks and what they serve, the usual one first."""
    first, *others, last = (network.about for network in NETWORKS)
    return f"{first} (default), {', '.join(others)}, or {last}"


def _add_extractor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--extractor",
        choices=tuple(network.name for network in NETWORKS),
        default="inception",
        help=f"feature network: {_networks_in_words()}",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights of the network (default: fetched into the cache)"
    )
    parser.add_argument(
        "--backend",
        choices=tuple(backend.name for backend in INCEPTION.backends),
        default="torch",
        help="program that runs Inception",
    )
    parser.add_argument(
        "--precision",
        choices=INCEPTION.backends[0].precisions,
        default="fp32",
        help="of the Inception network; only fp32 compares with published numbers (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="B",
        help="images in memory at a time; each core of a CPU takes 4 or 8 of them (default: %(default)s)",
    )
    parser.set_defaults(options={"network": "--extractor"})  # what a message of the library calls it
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.set_defaults(options={"network": "--extractor"})  # what messages call it


def _reference_path(ref: str) -> Path:
    """A path, or the name of a public reference batch (fetched when it is not here yet)."""
    from dit_eval.system.assets import find_reference

    return find_reference(ref, bring=_fetch)


def _network_line(arguments: argparse.Namespace) -> str:
    """The network as it is asked for; its device is known once PyTorch is loaded."""
    runs = "" if arguments.extractor != "inception" else f" on {arguments.backend}, {arguments.precision}"
    return f"network  {arguments.extractor}{runs}: loading"
