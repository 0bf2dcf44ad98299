"""`dit-eval sweep`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta

from dit_eval.cli.options import EVERYDAY, Option, Panel
from dit_eval.cli.output import bring, header, say, tell
from dit_eval.cli.sample import MODEL, WHAT, WHAT_TO_DRAW
from dit_eval.cli.shared import NETWORK, AtOnce, Count, DeviceEach, check_destination, is_folder
from dit_eval.features import INCEPTION, NETWORKS
from dit_eval.metrics import METRICS
from dit_eval.results.settings import EvaluationSettings, SamplingSettings
from dit_eval.system.dist import World, join
from dit_eval.system.text import did_you_mean

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor
    from dit_eval.metrics.metric import Metric
    from dit_eval.study.sweep import Outcome, Plan

_VARIED = ("weights", "cfg_scale", "num_sampling_steps", "guidance_interval")
_ALL = "all"  # of a guidance interval


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Find the best scale of guidance, interval, number of steps or weights, and confirm it on fresh noise.

    Example: dit-eval sweep --ckpt model.pt --ref imagenet256 --out sweep

    Every combination is scored on --search-images, then scales of guidance between the best and its neighbours. The
    best of many flatters itself, so it is scored again with --num-images of another seed; its result says
    `selected_by`. The same command goes on after a crash. With many processes: torchrun, as `dit-eval sample`.
    """

    ref: Annotated[str, Option("reference: an npz, or a name of `dit-eval weights list`", metavar="NPZ|NAME")]
    out: Annotated[Path, Option("folder of the sweep", metavar="DIR", check=is_folder)]
    model: Annotated[str | None, Option("as of `dit-eval sample`", group=MODEL)] = None
    ckpt: Annotated[
        tuple[str, ...],
        Option(
            "checkpoints, or names of them; several are compared, such as one for each EMA length",
            metavar="FILE",
            several="words",
            group=EVERYDAY,
        ),
    ] = ()
    cfg_scales: Annotated[
        tuple[float, ...],
        Option("scales of guidance to begin with; 1: none", metavar="W", several="words", group=EVERYDAY),
    ] = (1.0, 1.5, 2.0, 3.0)
    num_sampling_steps: Annotated[
        tuple[str, ...], Option('numbers of steps, or "ddimS"', metavar="S", several="words", group=EVERYDAY)
    ] = ("250",)
    guidance_intervals: Annotated[
        tuple[str, ...],
        Option("guide only from LOW to HIGH, or at all times", metavar="LOW:HIGH|all", several="words", group=WHAT),
    ] = (_ALL,)
    sets: Annotated[
        tuple[Literal["ema", "model"], ...],
        Option("sets of a trainer's file to compare: ema, model", several="words", group=MODEL),
    ] = ("ema",)
    by: Annotated[str, Option("the metric that decides", metavar="METRIC", group=EVERYDAY)] = "fid"
    search_images: Annotated[
        Annotated[Count, Meta(ge=1)], Option("images of each candidate", metavar="N", group=EVERYDAY)
    ] = 10_000
    rounds: Annotated[
        Annotated[int, Meta(ge=0, le=20)],
        Option("how often the gap between the best scale and its neighbours is halved"),
    ] = 2
    settings: Annotated[
        SamplingSettings,
        Panel(
            group=WHAT_TO_DRAW.group,
            options={
                **WHAT_TO_DRAW.options,
                "num_images": Option("images by which the best is confirmed", group=EVERYDAY),
                "global_seed": Option("of the search; the best is confirmed with the next", metavar="SEED"),
            },
            left_out=_VARIED,
        ),
    ]
    network: Annotated[
        str,
        Option(
            "feature network that scores", name="--extractor", choices=tuple(n.name for n in NETWORKS), group=EVERYDAY
        ),
    ] = INCEPTION.name
    network_weights: Annotated[
        Path | None,
        Option(
            "of the feature network (default: fetched into the cache)", metavar="FILE", name="--weights", group=NETWORK
        ),
    ] = None
    intervals: Annotated[bool, Option("score with standard errors and 95 % intervals")] = False
    batch_size: Annotated[AtOnce | None, Option("images at once in a process, as of `dit-eval sample`")] = None
    device: DeviceEach = "auto"
    keep_samples: Annotated[bool, Option("keep the images of all candidates, not of the confirmation alone")] = False


def sweep(arguments: Sweep) -> None:
    with join() as world:
        header(f"sweep: {arguments.ckpt[0] if arguments.ckpt else arguments.model or 'DiT-XL/2'}, in {arguments.out}")
        plan = world.from_first(lambda: _plan(arguments))
        world.share_cores()
        network = world.first_then_all(lambda: _network(arguments, world))
        from dit_eval.study.sweep import run_sweep
        from dit_eval.system.where import Where

        if world.rank == 0:
            say(f"{len(plan.coarse)} candidates of {plan.search_images:,} images, then finer")
        outcome = run_sweep(
            plan,
            arguments.out,
            network=network,
            where=Where(device=arguments.device, world=world, on_note=say),
            batch_size=arguments.batch_size,
            keep_samples=arguments.keep_samples,
        )
        if world.rank == 0:
            tell(_format(plan, outcome, _figure(outcome.results, arguments.out)))


def _plan(arguments: Sweep) -> Plan:
    """What is asked for: everything a user may have got wrong that shows without a model."""
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise ValueError(f"`batch_size` {arguments.batch_size}: needed at least 1.")
    check_destination("--out", arguments.out, folder=True)
    from dit_eval.metrics.choose import check_metrics
    from dit_eval.study.search import Axes
    from dit_eval.study.sweep import Plan
    from dit_eval.system.assets import find_reference

    metric = _metric(arguments.by)
    check_metrics((metric.name,), arguments.network)
    named = any(arguments.network in each.by_default for each in METRICS)  # others give what Inception gives
    usual = tuple(each.name for each in METRICS if (arguments.network if named else INCEPTION.name) in each.by_default)
    plan = Plan(
        axes=Axes(
            ckpts=arguments.ckpt or (None,),
            weights=arguments.sets,
            steps=arguments.num_sampling_steps,
            intervals=tuple(map(_interval, arguments.guidance_intervals)),
            cfg_scales=arguments.cfg_scales,
        ),
        base=replace(arguments.settings, weights="ema", cfg_scale=2.0),
        model=arguments.model,
        metric=metric.key,
        search_images=arguments.search_images,
        rounds=arguments.rounds,
        ref=arguments.ref,
        settings=EvaluationSettings(
            metrics=None if metric.name in usual else (*usual, metric.name), intervals=arguments.intervals
        ),
    )
    if Path(arguments.ref).is_dir():
        raise ValueError(f"`ref` {arguments.ref}: a folder; expected an npz, which `dit-eval stats` makes of it.")
    return replace(plan, ref=str(find_reference(arguments.ref, bring=bring)))


def _metric(name: str) -> Metric:
    """The metric of a name, or of a key of results."""
    names = [metric.name for metric in METRICS]
    found = next((metric for metric in METRICS if name.lower() in (metric.name, metric.key)), None)
    if found is None:
        raise ValueError(f"`by` {name}: expected one of {', '.join(names)}.{did_you_mean(name, names)}")
    return found


def _interval(word: str) -> tuple[float, float] | None:
    if word == _ALL:
        return None
    low, _, high = word.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise ValueError(f"`guidance_intervals` {word}: expected LOW:HIGH, such as 0.1:0.5, or {_ALL}.") from None


def _network(arguments: Sweep, world: World) -> FeatureExtractor:
    from dit_eval.features.load import load_network

    device = world.device(arguments.device)
    return load_network(arguments.network, weights=arguments.network_weights, device=device, fetch=bring)


def _figure(results: Path, folder: Path) -> Path | None:
    """The picture of a sweep of guidance; None of one of too few scales."""
    from dit_eval.report.figures.front import sweep_figure
    from dit_eval.report.figures.style import save_figure

    picture = sweep_figure(results)
    return None if picture is None else save_figure(picture.figure, folder / "sweep.png")[0]


def _format(plan: Plan, outcome: Outcome, figure: Path | None) -> str:
    """The best, what it scored in the search and on fresh noise, and where all of it is."""
    from dit_eval.report.points import selection_text

    best, count = outcome.found.best, len(outcome.found.worth)
    lines = [f"best of {count}: {best.name}"]
    for what, result in (("search", outcome.searched), ("confirmed", outcome.confirmed)):
        by = result.selected_by
        said = "" if by is None else f"chosen by {selection_text(by)}"
        lines.append(
            f"{what:<9}  {plan.metric} {result.scores[plan.metric]:.4f} of {result.num_samples:,} images  ({said})"
        )
    if outcome.found.at_the_end:
        lines.append(
            f"cfg {best.scale:g} is at the end of the scales that were tried; a better one may lie beyond. Give more "
            "--cfg-scales."
        )
    lines.append(f"{outcome.results}: {count + 1} results; dit-eval report --results {outcome.results}")
    lines += [] if figure is None else [f"{figure}"]
    return "\n".join(lines) + "\n"
