"""`dit-eval compare`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dit_eval.cli.extractor import check_extractor, load_extractor
from dit_eval.cli.options import EVERYDAY, Option, Panel
from dit_eval.cli.output import header, say, tell_json, terminal
from dit_eval.cli.shared import (
    FEATURES,
    IMAGES,
    CenterCrop,
    CropBy,
    NetworkOptions,
    NumImages,
    check_destination,
    crop_of,
    is_folder,
    json_file,
    network_line,
    open_role,
    reference_path,
)
from dit_eval.metrics import PROTOCOLS, names_in_words
from dit_eval.results.settings import ComparisonSettings
from dit_eval.system.dist import World, join
from dit_eval.system.progress import Progress

if TYPE_CHECKING:
    from dit_eval.images import ImageSet
    from dit_eval.results.comparison import Comparison


@dataclass(frozen=True, kw_only=True)
class Compare(NetworkOptions):
    """Tell which of several sample batches is better, and how sure that is.

    Example: dit-eval compare a.npz b.npz --ref imagenet256

    All have as many images. Where image i of two files comes from the same noise and label, as the files of
    `dit-eval sample` with one seed say, what both have in common cancels and far fewer images decide.
    """

    samples: Annotated[tuple[Path, ...], Option(f"two or more: {IMAGES}", name="SAMPLES", several="words")]
    ref: Annotated[str, Option("as of `dit-eval evaluate`")]
    pr_ref: Annotated[str | None, Option("as of `dit-eval evaluate`", metavar="IMAGES")] = None
    settings: Annotated[
        ComparisonSettings,
        Panel(
            options={
                "metrics": Option(
                    f"{names_in_words()}: some of them (default: the first five, ADM's; of dinov2 and clip all)",
                    read=str.lower,
                    group=EVERYDAY,
                ),
                "protocol": Option(
                    f"all metrics of one or more of {', '.join(PROTOCOLS)}, in place of --metrics",
                    read=str.lower,
                ),
                "until_decided": Option(group=EVERYDAY),
            },
            left_out=("num_images", "batch_size", "intervals", "until", "pairing"),
        ),
    ]
    num_images: NumImages = None
    paired: Annotated[bool, Option("image i of all files is of one draw, whatever they say of themselves")] = False
    unpaired: Annotated[bool, Option("the files are of independent draws")] = False
    center_crop: CenterCrop = None
    crop_rule: CropBy = None
    json: Annotated[str | None, json_file("the comparison, with the result of each file")] = None
    cache: Annotated[
        Path | None,
        Option(
            "keep features of samples and reference here (default: those of the reference, in the cache of dit-eval)",
            metavar="DIR",
            check=is_folder,
        ),
    ] = None


def compare(arguments: Compare) -> None:
    with join() as world:
        setup = world.first_then_all(lambda: _comparison_setup(arguments, world))  # mistakes are told once
        world.share_cores()
        found = _compare(arguments, setup, world)
        if world.rank == 0:
            _tell(arguments, found)


def _comparison_setup(arguments: Compare, world: World) -> dict[str, Any]:
    """Files, request and network: what a user may have got wrong, in the order of what it costs to find out."""
    if arguments.paired and arguments.unpaired:
        raise ValueError("--paired and --unpaired: expected one of the two, or neither to go by what the files say.")
    from dit_eval.comparison import check_number_of_sets, check_sets

    check_number_of_sets(arguments.samples)
    crop = crop_of(arguments.center_crop, arguments.crop_rule)
    gens = [open_role(path, "gen", arguments.num_images, crop=crop) for path in arguments.samples]
    if world.rank == 0:
        check_destination("--json", arguments.json)
        check_destination("--cache", arguments.cache, folder=True)
    header(network_line(arguments))
    from dit_eval.metrics.choose import check_metrics
    from dit_eval.reference import check_named_size

    network = check_extractor(arguments, world)
    check_metrics(arguments.settings.metrics, network.name, arguments.settings.protocol)
    pairing: Literal["paired", "unpaired"] | None
    pairing = "paired" if arguments.paired else "unpaired" if arguments.unpaired else None
    settings = replace(arguments.settings, batch_size=arguments.batch_size, pairing=pairing)
    if not settings.allow_size_mismatch:
        check_named_size(arguments.ref, gens[0])
    ref: ImageSet = open_role(reference_path(arguments.ref), "ref", network=arguments.network, crop=crop)
    if arguments.pr_ref is not None:
        from dit_eval.images.pair import TwoReferences

        images = open_role(reference_path(arguments.pr_ref, "pr_ref"), "ref", crop=crop)
        ref = TwoReferences(statistics=ref, images=images)
    check_sets(gens, ref=ref, network=network, settings=settings)
    return {"gens": gens, "ref": ref, "network": load_extractor(arguments, world), "settings": settings}


def _compare(arguments: Compare, setup: dict[str, Any], world: World) -> Comparison:
    from dit_eval.comparison import compare_sets
    from dit_eval.system.assets import cache_dir
    from dit_eval.system.where import Where

    with Progress(names=FEATURES) as progress:
        where = Where(
            world=world,
            cache=arguments.cache or cache_dir() / "features",
            cache_gen=arguments.cache is not None,
            on_progress=progress.update if world.rank == 0 else None,
            on_note=progress.note,
        )
        return compare_sets(setup.pop("gens"), **setup, where=where)


def _tell(arguments: Compare, found: Comparison) -> None:
    from dit_eval.metrics.compared import comparison_text

    for warning in dict.fromkeys(warning for result in found.results for warning in result.warnings):
        say(f"warning: {warning}")
    style, _ = terminal()
    tell_json(arguments.json, found.to_json(), f"{comparison_text(found, style)}\n")
