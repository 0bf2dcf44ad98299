"""`dit-eval evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dit_eval.cli.extractor import check_extractor, load_extractor
from dit_eval.cli.options import EVERYDAY, Option, Panel
from dit_eval.cli.output import format_cost_of_run, header, tell_json
from dit_eval.cli.scores import Format, Told
from dit_eval.cli.shared import (
    FEATURES,
    IMAGES,
    CenterCrop,
    CropBy,
    NetworkOptions,
    NumImages,
    check_cropped,
    check_destination,
    crop_of,
    has_ending,
    is_folder,
    json_file,
    network_line,
    open_role,
    reference_path,
)
from dit_eval.metrics import PROTOCOLS, names_in_words
from dit_eval.results.settings import EvaluationSettings
from dit_eval.system.dist import World, join
from dit_eval.system.progress import Progress

if TYPE_CHECKING:
    from dit_eval.images import ImageSet
    from dit_eval.results.eval_result import EvalResult


@dataclass(frozen=True, kw_only=True)
class Evaluate(NetworkOptions):
    """Score a sample batch against a reference batch, by ADM's protocol.

    Example: dit-eval evaluate samples.npz --ref imagenet256

    SAMPLES are an npz (arr_0, uint8 NHWC); a folder, .zip, .tar or .tar.gz of PNGs, in the order of their names (2.png
    before 10.png); or a saved Hugging Face dataset. Several of them make a leaderboard, with one pass over the
    reference.
    """

    samples: Annotated[tuple[Path, ...], Option(f"generated images: {IMAGES}", name="SAMPLES", several="words")]
    ref: Annotated[
        str,
        Option("an npz or .pkl, images as SAMPLES, a URL, or a name: imagenet64, 128, 256 or 512, or digits"),
    ]
    pr_ref: Annotated[
        str | None,
        Option(
            "compare single images with these, for precision and recall, where --ref holds statistics",
            metavar="IMAGES",
        ),
    ] = None
    settings: Annotated[
        EvaluationSettings,
        Panel(
            options={
                "metrics": Option(
                    f"{names_in_words()}: some of them (default: the first five, ADM's; of dinov2 and clip all)",
                    read=str.lower,
                    group=EVERYDAY,
                ),
                "protocol": Option(
                    f"all metrics of one or more of {', '.join(PROTOCOLS)} from the same pass, in place of --metrics",
                    read=str.lower,
                ),
                "intervals": Option(group=EVERYDAY),
            },
            left_out=("num_images", "batch_size"),  # the one names more than there is in a dry run, the other is above
        ),
    ]
    num_images: NumImages = None
    results: Annotated[Path, Option("append to FILE", metavar="FILE", group=EVERYDAY, check=has_ending(".jsonl"))] = (
        Path("results.jsonl")
    )
    center_crop: CenterCrop = None
    crop_rule: CropBy = None
    no_results: Annotated[bool, Option("append to no file")] = False
    json: Annotated[str | None, json_file("the result")] = None
    format: Annotated[Format, Option("what is printed; json as --json -")] = "table"
    cache: Annotated[
        Path | None,
        Option(
            "keep features of samples and reference here (default: those of the reference, in the cache of dit-eval)",
            metavar="DIR",
            check=is_folder,
        ),
    ] = None
    no_cache: Annotated[bool, Option("keep no features")] = False
    dry_run: Annotated[
        bool,
        Option("predict time and memory from a short trial; --num-images may then be more than are drawn yet"),
    ] = False


def evaluate(arguments: Evaluate) -> None:
    with join() as world:
        # Mistakes are told once, by process 0.
        setup = world.first_then_all(lambda: _evaluation_setup(arguments, world))
        world.share_cores()
        if arguments.dry_run:
            _tell_evaluation_cost(arguments, setup, world)
            return
        told = Told(arguments, several=len(arguments.samples) > 1)
        references: dict[str, Any] = {}  # features of the one reference, for all samples
        for gen in setup.pop("gen"):
            result = _score(arguments, {"gen": gen, **setup}, world, references)
            if world.rank == 0:
                told.add(result)
        if world.rank == 0:
            told.print()


def _score(arguments: Evaluate, setup: dict[str, Any], world: World, references: dict[str, Any]) -> EvalResult:
    from dit_eval.evaluation import score
    from dit_eval.system.assets import cache_dir
    from dit_eval.system.where import Where

    kept = None if arguments.no_cache else arguments.cache or cache_dir() / "features"
    with Progress(names=FEATURES) as progress:
        where = Where(
            world=world,
            cache=kept,
            cache_gen=arguments.cache is not None,
            references=references,
            on_progress=progress.update if world.rank == 0 else None,
            on_note=progress.note,
        )
        return score(**setup, where=where)


def _evaluation_setup(arguments: Evaluate, world: World) -> dict[str, Any]:
    """Files, request and extractor: everything a user may have got wrong, in the order of what it costs to find out."""
    count, first = arguments.num_images, arguments.samples[0]
    crop = crop_of(arguments.center_crop, arguments.crop_rule)
    if arguments.dry_run and len(arguments.samples) > 1:
        raise ValueError(f"--dry-run: expected one SAMPLES to predict for; got {len(arguments.samples)}.")
    if arguments.dry_run and arguments.settings.until is not None:
        raise ValueError("--dry-run: predicts for a number of images, and --until finds it; pass one of the two.")
    if arguments.dry_run and count is not None:  # what is not drawn yet can be predicted from what is
        from dit_eval.images import open_images

        count = min(count, open_images(first, role="gen", crop=crop).num_images or count)
    gens = [open_role(path, "gen", count, crop=crop) for path in arguments.samples]
    if world.rank == 0:
        _check_evaluation_destinations(arguments)
    header(network_line(arguments))
    from dit_eval.metrics.choose import check_metrics, chosen
    from dit_eval.reference import check_named_size

    network = check_extractor(arguments, world)
    check_metrics(arguments.settings.metrics, network.name, arguments.settings.protocol)
    settings = replace(arguments.settings, batch_size=arguments.batch_size)
    for gen in [] if settings.allow_size_mismatch else gens:
        check_named_size(arguments.ref, gen)
    ref: ImageSet = open_role(reference_path(arguments.ref), "ref", network=arguments.network, crop=crop)
    if arguments.pr_ref is not None:
        from dit_eval.images.pair import TwoReferences

        images = open_role(reference_path(arguments.pr_ref, "pr_ref"), "ref", crop=crop)
        ref = TwoReferences(statistics=ref, images=images)
    for gen in gens:
        check_cropped(crop, gen, ref)
        chosen(settings, gen=gen, ref=ref, network=network)
    return {"gen": gens, "ref": ref, "network": load_extractor(arguments, world), "settings": settings}


def _check_evaluation_destinations(arguments: Evaluate) -> None:
    check_destination("--json", arguments.json)
    if arguments.dry_run:
        return
    check_destination("--cache", arguments.cache, folder=True)
    if arguments.cache is not None and arguments.no_cache:
        raise ValueError("--cache keeps features and --no-cache keeps none; pass one of the two.")
    if not arguments.no_results:
        instead = ", or pass --no-results to have the result printed only"
        check_destination("--results", arguments.results, append=True, instead=instead)
        if arguments.json not in (None, "-") and Path(arguments.json).resolve() == arguments.results.resolve():
            raise ValueError(f"--json {arguments.json}: the file of --results, which it would replace. Name another.")


def _tell_evaluation_cost(arguments: Evaluate, setup: dict[str, Any], world: World) -> None:
    from dit_eval.cost import evaluation_cost
    from dit_eval.metrics.choose import chosen

    (gen,), ref, network, settings = (setup[name] for name in ("gen", "ref", "network", "settings"))
    choice = chosen(settings, gen=gen, ref=ref, network=network)
    cost = evaluation_cost(
        gen=gen,
        ref=ref,
        network=network,
        settings=replace(settings, metrics=choice.names, num_images=arguments.num_images),
        world=world,
    )
    if world.rank:
        return
    what = f"to score {arguments.num_images or gen.num_images:,} samples"
    tell_json(arguments.json, cost.to_json(), format_cost_of_run(what, cost))
