"""`dit-eval verify`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from dit_eval.cli.extractor import load_extractor
from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import NotWritten, bring, header, say, tell_json
from dit_eval.cli.shared import FEATURES, NETWORK, AtOnce, Cache, Device, check_destination, json_file, open_role
from dit_eval.system.dist import World
from dit_eval.system.progress import Progress
from dit_eval.system.where import Where

if TYPE_CHECKING:
    from dit_eval.checks.verify import Verification


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Score published sample batches and compare with the published numbers; exit with code 1 if a number is off.

    Example: dit-eval verify --offline

    With --offline it goes through the whole chain on a golden set that is made here.
    """

    offline: Annotated[bool, Option("without download, in about a minute", group=EVERYDAY)] = False
    published: Annotated[
        str | None,
        Option(
            "of which images: ADM's sample batches (adm, the default), or real ones (cifar10: over an hour on a CPU; "
            "with --cache a run that ended early goes on)",
            metavar="NAME",
            choices=("adm", "cifar10"),
            group=EVERYDAY,
        ),
    ] = None
    golden: Annotated[
        tuple[str, ...],
        Option(
            "adm-g-u-256 or adm-g-128 (default: both); the files are large",
            metavar="NAME",
            several="again",
            group=EVERYDAY,
        ),
    ] = ()
    weights: Annotated[
        Path | None, Option("of Inception (default: fetched into the cache)", metavar="FILE", group=NETWORK)
    ] = None
    batch_size: Annotated[AtOnce, Option("images in memory at a time", metavar="B", group=NETWORK)] = 64
    device: Device = "auto"
    cache: Cache = None
    json: Annotated[str | None, json_file("the checks")] = None

    # What published numbers are of.
    network: ClassVar[str] = "inception"
    backend: ClassVar[str] = "torch"
    precision: ClassVar[str] = "fp32"


def verify(arguments: Verify) -> None:
    if arguments.offline and (arguments.published or arguments.golden or arguments.weights or arguments.cache):
        raise ValueError(
            "--offline makes its own images and weights; drop --published, --golden, --weights and --cache."
        )
    if arguments.published == "cifar10" and arguments.golden:
        raise ValueError("--golden names one of ADM's sample batches; drop it, or --published cifar10.")
    check_destination("--json", arguments.json)
    check_destination("--cache", arguments.cache, folder=True)
    what, run = "published sample batches", _verify_published
    if arguments.offline:
        what, run = "the golden set that is made here", _verify_offline
    elif arguments.published == "cifar10":
        what, run = "published numbers of CIFAR-10", _verify_cifar10
    header(f"verify: {what}")
    from dit_eval.checks.verify import report_json

    verifications = run(arguments)
    passed = all(item.passed for item in verifications)
    try:
        tell_json(arguments.json, report_json(verifications), "\n".join(item.text() for item in verifications))
    except NotWritten:
        if passed:
            raise
    if not passed:
        sys.exit(1)


def _verify_offline(arguments: Verify) -> list[Verification]:
    from dit_eval.checks.verify import verify_offline

    return [verify_offline(device=World().device(arguments.device), on_step=say)]


def _verify_cifar10(arguments: Verify) -> list[Verification]:
    from dit_eval.checks.anchors import anchors, check_true, cifar10_parts, verify_anchors

    extractor = load_extractor(arguments)
    check_true(extractor)
    parts = cifar10_parts(bring)
    with Progress(names={part: f"features of {part}" for part in parts}) as progress:
        found = verify_anchors(
            anchors(),
            parts=parts,
            network=extractor,
            batch_size=arguments.batch_size,
            where=Where(cache=arguments.cache, on_progress=progress.update, on_note=progress.note),
            on_check=lambda check: progress.note("\n".join(check.lines())),
        )
    return [found]


def _verify_published(arguments: Verify) -> list[Verification]:
    from dit_eval.checks.verify import goldens, verify_published
    from dit_eval.system.assets import asset

    chosen = goldens(arguments.golden)
    extractor = load_extractor(arguments)
    found = []
    for golden in chosen:
        files = {role: bring(asset(name)) for role, name in (("gen", golden.gen), ("ref", golden.ref))}
        gen, ref = open_role(files["gen"], "gen"), open_role(files["ref"], "ref")
        with Progress(names=FEATURES) as progress:
            found.append(
                verify_published(
                    golden,
                    gen=gen,
                    ref=ref,
                    extractor=extractor,
                    batch_size=arguments.batch_size,
                    where=Where(cache=arguments.cache, on_progress=progress.update, on_note=progress.note),
                )
            )
    return found
