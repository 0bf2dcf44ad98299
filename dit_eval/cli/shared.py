"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group
from msgspec import Meta

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import bring, header
from dit_eval.features import INCEPTION, NETWORKS
from dit_eval.results.settings import MOST_AT_ONCE, MOST_CROPPED, MOST_IMAGES, MOST_PIXELS, Crop, CropRule
from dit_eval.system.files import check_ending, check_folder, check_folder_name, check_target
from dit_eval.system.text import size_text

if TYPE_CHECKING:
    from dit_eval.images import ImageSet
    from dit_eval.images.encoded import ImageFiles
    from dit_eval.images.npz import ImageBatch

FEATURES = {"ref": "ref features", "gen": "gen features"}
IMAGES = "an npz, a folder or archive of PNGs, or a saved Hugging Face dataset"
NETWORK = Group("feature network", sort_key=3)


def has_ending(*endings: str) -> Callable[[str | Path], None]:
    """A check of the name of a file to write, made before anything is done; "-" is stdout."""

    def check(path: str | Path) -> None:
        if path != "-":
            check_ending(Path(path), *endings)

    return check


def is_folder(path: Path) -> None:
    """Check the name of a folder to write."""
    check_folder_name(path)


def json_file(what: str) -> Option:
    """The option --json, for what it writes."""
    words = f"also write {what} as one JSON object; - prints only that"
    return Option(words, metavar="FILE|-", check=has_ending(".json"))


def grid_file(what: str) -> Option:
    """The option --grid, for what it draws."""
    return Option(f"also draw {what}: GRID.png and GRID.pdf", metavar="GRID.png", check=has_ending(".png", ".pdf"))


def _networks_in_words() -> str:
    """The feature networks and what they serve, the usual one first."""
    first, *others, last = (network.about for network in NETWORKS)
    return f"{first} (default), {', '.join(others)}, or {last}"


# Numbers of which no great one makes sense; that they are not too small, whoever uses them says.
Count = Annotated[int, Meta(le=MOST_IMAGES)]
AtOnce = Annotated[int, Meta(le=MOST_AT_ONCE)]
Pixels = Annotated[int, Meta(le=MOST_PIXELS)]
Samples = Annotated[Path, Option(f"generated images: {IMAGES}", name="SAMPLES")]
NumImages = Annotated[Count | None, Option("use the first N samples", also=("--num-samples",), group=EVERYDAY)]
Cache = Annotated[
    Path | None, Option("keep features here; a second run skips the network", metavar="DIR", check=is_folder)
]
Device = Annotated[str, Option("cpu, cuda, cuda:1, ... (default: a GPU if there is one)", group=NETWORK)]
DeviceEach = Annotated[str, Option("cpu or cuda (default: a GPU per process if there are any)")]
CenterCrop = Annotated[
    Annotated[int, Meta(ge=1, le=MOST_CROPPED)] | None,
    Option(
        "cut image files of any size to a square of PX pixels from their middle, as ADM did with ImageNet",
        metavar="PX",
    ),
]
CropBy = Annotated[
    CropRule | None,
    Option("rule of --center-crop: ADM's (default), or torchvision's Resize and CenterCrop, bilinear"),
]
Force = Annotated[bool, Option("write over an earlier file", group=EVERYDAY)]
KnownBy = Annotated[
    Literal["times", "bytes"],
    Option(
        "tell the images of a folder from others of the same names by sizes and times of change (default), or by all "
        "their bytes, for copies that lose their times"
    ),
]
OnCorrupt = Annotated[
    Literal["skip", "refuse"],
    Option("an image that cannot be read: stop at it (default), or leave it out; it is named either way"),
]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which feature network, and how it runs."""

    network: Annotated[
        str,
        Option(
            f"feature network: {_networks_in_words()}",
            name="--extractor",
            choices=tuple(network.name for network in NETWORKS),
            group=EVERYDAY,
        ),
    ] = INCEPTION.name
    weights: Annotated[
        Path | None, Option("of the network (default: fetched into the cache)", metavar="FILE", group=NETWORK)
    ] = None
    backend: Annotated[
        str,
        Option(
            "program that runs Inception", choices=tuple(backend.name for backend in INCEPTION.backends), group=NETWORK
        ),
    ] = "torch"
    precision: Annotated[
        str,
        Option(
            "of the Inception network; only fp32 compares with published numbers",
            choices=INCEPTION.backends[0].precisions,
            group=NETWORK,
        ),
    ] = "fp32"
    batch_size: Annotated[
        AtOnce,
        Option("images in memory at a time; each core of a CPU takes 4 or 8 of them", metavar="B", group=NETWORK),
    ] = 64
    device: Device = "auto"


def check_destination(
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


def crop_of(center_crop: int | None, crop_rule: CropRule | None) -> Crop | None:
    """The crop that the options mean.

    Raises
    ------
    ValueError
        If there is a rule and no size, or the size is out of bounds.
    """
    if center_crop is not None:
        return Crop(size=center_crop, rule=crop_rule or "adm")
    if crop_rule is not None:
        raise ValueError(
            f"`crop_rule` {crop_rule}: expected `center_crop` beside it, the side of the square in pixels."
        )
    return None


def check_cropped(crop: Crop | None, *sets: ImageSet) -> None:
    """ValueError if a crop was asked for, and nothing can be cropped."""
    if crop is not None and not any(images.crop for images in sets):
        paths = ", ".join(str(images.path) for images in sets)
        raise ValueError(
            f"`center_crop` {crop.size}: expected image files, got {paths}, whose images have one size already. "
            "Leave it out, or pass the folder or archive of the files."
        )


def open_role(
    path: Path,
    role: Literal["gen", "ref"],
    num_images: int | None = None,
    *,
    network: str = INCEPTION.name,
    crop: Crop | None = None,
) -> ImageBatch | ImageFiles:
    """Open a set of images, and say what it is."""
    # At once: to load NumPy takes a moment, and to list an archive a while.
    header(f"{role}  {path}" + (f", {size_text(path.stat().st_size)}" if path.is_file() else ""))
    from dit_eval.images import open_images

    images = open_images(path, role=role, num_images=num_images, network=network, crop=crop)
    size = "x".join(str(side) for side in reversed(images.image_size or ()))
    what = f"{images.num_images:,} images of {size} px" if images.num_images else "no images"
    if images.num_images < images.num_stored:
        what = f"the first {images.num_images:,} of {images.num_stored:,} images of {size} px"
    cut = f", cut to it by {'ADM' if images.crop.rule == 'adm' else images.crop.rule}'s rule" if images.crop else ""
    header(f"{role}  {what}{cut}{', with statistics' if images.pool or images.spatial else ''}")
    return images


def reference_path(ref: str, called: str = "ref") -> Path:
    """A path, or the name of a public reference batch (fetched when it is not here yet)."""
    from dit_eval.system.assets import find_reference

    return find_reference(ref, bring=bring, called=called)


def network_line(arguments: NetworkOptions) -> str:
    """The network as it is asked for; its device is known once PyTorch is loaded."""
    runs = "" if arguments.network != INCEPTION.name else f" on {arguments.backend}, {arguments.precision}"
    return f"network  {arguments.network}{runs}: loading"
