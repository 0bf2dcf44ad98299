"""`dit-eval verify`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_eval.cli.extractor import _extractor
from dit_eval.cli.options import _FEATURES, _check_destination, _folder, _json_file, _open_images
from dit_eval.cli.output import _fetch, _header, _NotWritten, _say, _tell_json
from dit_eval.system.dist import World
from dit_eval.system.progress import Progress
from dit_eval.system.where import Where

if TYPE_CHECKING:
    from dit_eval.checks.verify import Verification


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="check that this installation gives ADM's numbers",
        description="Score published sample batches and compare with the published numbers; or, with --offline, go "
        "through the whole chain on a golden set that is made here. Exits with code 1 if a number is off.",
    )
    verify.add_argument("--offline", action="store_true", help="without download, in about a minute")
    verify.add_argument(
        "--golden",
        action="append",
        default=[],
        metavar="NAME",
        help="adm-g-u-256 or adm-g-128 (default: both); the files are large",
    )
    verify.add_argument("--weights", type=Path, metavar="FILE", help="of Inception (default: fetched into the cache)")
    verify.add_argument("--batch-size", type=int, default=64, metavar="B", help="default: %(default)s")
    verify.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    verify.add_argument(
        "--cache", type=_folder, metavar="DIR", help="keep features here; a second run skips the network"
    )
    verify.add_argument(
        "--json", type=_json_file, metavar="FILE|-", help="also write the checks as one JSON object; - prints only that"
    )
    verify.set_defaults(run=_verify, extractor="inception", backend="torch", precision="fp32")


def _verify(arguments: argparse.Namespace) -> None:
    if arguments.offline and (arguments.golden or arguments.weights or arguments.cache):
        raise ValueError("--offline makes its own images and weights; drop --golden, --weights and --cache.")
    _check_destination("--json", arguments.json)
    _check_destination("--cache", arguments.cache, folder=True)
    _header(f"verify: {'the golden set that is made here' if arguments.offline else 'published sample batches'}")
    from dit_eval.checks.verify import report_json

    verifications = _verify_offline(arguments) if arguments.offline else _verify_published(arguments)
    passed = all(item.passed for item in verifications)
    try:
        _tell_json(arguments.json, report_json(verifications), "\n".join(item.text() for item in verifications))
    except _NotWritten:
        if passed:
            raise
    if not passed:
        sys.exit(1)


def _verify_offline(arguments: argparse.Namespace) -> list[Verification]:
    from dit_eval.checks.verify import verify_offline

    return [verify_offline(device=World().device(arguments.device), on_step=_say)]


def _verify_published(arguments: argparse.Namespace) -> list[Verification]:
    from dit_eval.checks.verify import goldens, verify_published
    from dit_eval.system.assets import asset

    chosen = goldens(arguments.golden)
    extractor = _extractor(arguments)
    found = []
    for golden in chosen:
        files = {role: _fetch(asset(name)) for role, name in (("gen", golden.gen), ("ref", golden.ref))}
        gen, ref = _open_images(files["gen"], "gen"), _open_images(files["ref"], "ref")
        with Progress(names=_FEATURES) as progress:
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
