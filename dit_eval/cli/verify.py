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
    if arguments.offline and (arguments.golden or arguments.weights or arguments.cache):
        raise ValueError("--offline makes its own images and weights; drop --golden, --weights and --cache.")
    check_destination("--json", arguments.json)
    check_destination("--cache", arguments.cache, folder=True)
    header(f"verify: {'the golden set that is made here' if arguments.offline else 'published sample batches'}")
    from dit_eval.checks.verify import report_json

    verifications = _verify_offline(arguments) if arguments.offline else _verify_published(arguments)
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
