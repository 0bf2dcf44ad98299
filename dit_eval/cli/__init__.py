"""The command line: the only module that parses arguments, prints results and exits.

Heavy packages are imported inside the commands that need them, so that `dit-eval --help` answers at once.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import dit_eval
from dit_eval.cli.classes import _add_classes
from dit_eval.cli.diagnose import _add_diagnose
from dit_eval.cli.encode import _add_encode
from dit_eval.cli.evaluate import _evaluate
from dit_eval.cli.flops import _flops
from dit_eval.cli.grid import _grid
from dit_eval.cli.options import _IMAGES, _METRICS, _add_extractor_options, _file, _folder, _json_file
from dit_eval.cli.output import NOT_WRITTEN, USER_ERROR, _any_text, _flush_stdout, _give_up_stdout, _NotWritten, _say
from dit_eval.cli.quickstart import _quickstart
from dit_eval.cli.report import _report
from dit_eval.cli.sample import _add_sample
from dit_eval.cli.spoken import in_options
from dit_eval.cli.stats import _stats
from dit_eval.cli.study import _add_study
from dit_eval.cli.train import _add_train
from dit_eval.cli.verify import _add_verify
from dit_eval.cli.weights import _weights_fetch, _weights_list, _weights_verify
from dit_eval.system.dist import FirstProcessFailed, World
from dit_eval.system.text import did_you_mean, nearest

# Options of ADM's, DiT's, pytorch-fid's, torch-fidelity's and other programs, and what does the same here.
_ELSEWHERE = {
    **dict.fromkeys(("--ref-batch", "--reference", "--real", "--input2"), "--ref"),
    **dict.fromkeys(("--sample-batch", "--samples", "--gen", "--fake", "--input1"), "SAMPLES"),
    **dict.fromkeys(("--output", "--outdir", "--output-dir", "--save-dir", "--sample-dir", "--results-dir"), "--out"),
    **dict.fromkeys(("--num-samples", "--num-images"), "--num-fid-samples"),
    **dict.fromkeys(("--model-path", "--checkpoint"), "--ckpt"),
    **dict.fromkeys(("--data-path", "--data-dir"), "--data"),
    **dict.fromkeys(("--cuda", "--gpu"), "--device cuda"),
    "--cache-root": "--cache",
    "--ckpt-every": "--save-every",
    "--cpu": "--device cpu",
    "--feature-extractor": "--extractor",
    "--fid": "--metrics fid",
    "--global-batch-size": "--batch-size",
    "--guidance-scale": "--cfg-scale",
    "--isc": "--metrics is",
    "--kid": "--metrics kid",
    "--learning-rate": "--lr",
    "--prc": "--metrics precision,recall",
    "--tf32": "--precision tf32",
    "--timestep-respacing": "--num-sampling-steps",
    "--use-ddim": "--sampler ddim",
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit.

    0: done. 1: `verify` failed. 2: a mistake of the user, or a failure (one message, no traceback). 3: done, and the
    result is printed, but could not be written everywhere; warnings say where it is kept. 130: interrupted.
    """
    with _any_text(sys.stdout), _any_text(sys.stderr):
        sys.exit(_exit_code(_parser().parse_args(argv)))


def _exit_code(arguments: argparse.Namespace) -> int:
    try:
        arguments.run(arguments)
        _flush_stdout()
    except FirstProcessFailed:
        return USER_ERROR  # process 0 says why
    except _NotWritten:
        return NOT_WRITTEN
    except BrokenPipeError:  # nobody reads stdout any more, as after `| head`
        _give_up_stdout()
        return NOT_WRITTEN
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("DIT_EVAL_TRACEBACK"):
            raise
        rank = World.from_environment().rank
        _say(f"dit-eval: error{f' in process {rank}' if rank else ''}: {in_options(str(error), arguments)}")
        return USER_ERROR
    except KeyboardInterrupt:
        _say("dit-eval: interrupted")
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse that takes no abbreviations, and says what was meant by an unknown option, argument or choice."""

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        given = sys.argv[1:] if args is None else list(args)
        self._check(given)
        return super().parse_known_args(given, namespace)

    def _check(self, given: Sequence[str]) -> None:
        """Find unknown options, and arguments too many, before argparse misses another one for that reason."""
        options = {name: action for action in self._actions for name in action.option_strings}
        arguments = [action for action in self._actions if not action.option_strings]
        used, found = set(), []
        left = list(given)
        while left:
            text = left.pop(0)
            if text == "--":
                found += left
                break
            if not _is_option(text):
                found.append(text)
                if arguments and arguments[0].nargs == argparse.PARSER:
                    return  # the rest is of that command
                continue
            name, joined, _ = text.partition("=")
            if name not in options:
                self._refuse_option(name, [*options], arguments)
            used.add(name)
            values = 0 if joined else _count_values(options[name].nargs, left)
            left = left[values:]
        most = math.inf if any(action.nargs in ("*", "+") for action in arguments) else len(arguments)
        if len(found) <= most:
            return
        if len(found) == 2 and "--ref" in options and "--ref" not in used:
            ref, samples = map(_quoted, found)
            self.error(
                f"expected SAMPLES and --ref REF, got two paths. ADM's evaluator takes the reference first; here: "
                f"{self.prog} {samples} --ref {ref}"
            )
        expected = ", ".join(map(_name_of_argument, arguments)) or "none"
        self.error(f"unexpected argument {found[len(arguments)]!r}; expected {expected}.")

    def _refuse_option(self, name: str, options: Sequence[str], arguments: Sequence[argparse.Action]) -> NoReturn:
        plain = [_name_of_argument(action) for action in arguments]
        also = {other: ours for other, ours in _ELSEWHERE.items() if ours.partition(" ")[0] in (*options, *plain)}
        near = nearest(name, options, also=also)
        hint = "" if near is None else f" Did you mean {near!r}?"
        if near in plain:
            hint = f" {near} stands without an option: {self.prog} {near}"
        elif near is None and any(action.nargs == argparse.PARSER for action in arguments):
            hint = " Options of a command come after its name."
        self.error(f"unknown option {name!r}.{hint}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(c) for c in action.choices]
            hint = did_you_mean(str(value), choices)
            raise argparse.ArgumentError(action, f"unknown choice {value!r}; known: {', '.join(choices)}.{hint}")


def _name_of_argument(action: argparse.Action) -> str:
    return str(action.metavar or action.dest)


def _is_option(text: str) -> bool:
    """Whether argparse takes a text for an option, and not for a value."""
    if not text.startswith("-") or text == "-" or " " in text.partition("=")[0]:
        return False
    try:
        float(text)
    except ValueError:
        return True
    return False


def _count_values(nargs: int | str | None, left: Sequence[str]) -> int:
    """How many of the texts after an option are its values."""
    there = next((i for i, text in enumerate(left) if _is_option(text)), len(left))
    return there if nargs in ("*", "+") else min(there, nargs if isinstance(nargs, int) else 1)


def _quoted(text: str) -> str:
    """A path as one types it."""
    return shlex.quote(text) if text.isprintable() else ascii(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dit-eval",
        description="Evaluate diffusion transformers: FID, sFID, Inception Score, precision and recall as ADM's suite.",
        epilog="Results go to stdout, progress and warnings to stderr. Exit codes: 0: done; 1: verify failed; 2: a "
        "mistake of yours, or a failure; 3: the result is printed but could not be written everywhere; "
        "130: interrupted. The ending of a file to write says its format; another ending is refused. What --out names "
        "is never written over: sample, train, encode, study run and quickstart go on with what is theirs, stats, grid "
        "and report need --force. --json, and --grid of sample and classes, are written anew each time; --results "
        "grows by a line.",
    )
    parser.add_argument("--version", action="version", version=f"dit-eval {dit_eval.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    evaluate = commands.add_parser(
        "evaluate",
        help="score samples against a reference",
        description="Score a sample batch against a reference batch, by the protocol of ADM's evaluator.",
    )
    evaluate.add_argument("samples", type=Path, metavar="SAMPLES", help=f"generated images: {_IMAGES}")
    evaluate.add_argument(
        "--ref",
        required=True,
        help="reference npz, images as SAMPLES, or a name: imagenet64, imagenet128, imagenet256, imagenet512, digits",
    )
    _add_extractor_options(evaluate)
    evaluate.add_argument(
        "--metrics",
        type=lambda text: [m.strip().lower() for m in text.split(",") if m.strip()],
        help=f"some of {_METRICS} (default: ADM's first five; with dinov2 or clip, all that it gives)",
    )
    evaluate.add_argument("--num-samples", type=int, metavar="N", help="use the first N samples")
    evaluate.add_argument(
        "--distances",
        choices=("adm-float16", "float32"),
        default="adm-float16",
        help="precision and recall distances: ADM's float16 rule (default), or exact float32",
    )
    evaluate.add_argument(
        "--intervals",
        action="store_true",
        help="also standard errors, 95%% intervals, and FID for infinitely many images",
    )
    evaluate.add_argument(
        "--allow-size-mismatch", action="store_true", help="score samples against a reference of another resolution"
    )
    evaluate.add_argument(
        "--cache", type=_folder, metavar="DIR", help="keep features here; a second run skips the network"
    )
    evaluate.add_argument(
        "--results",
        type=_file(".jsonl"),
        default=Path("results.jsonl"),
        metavar="FILE",
        help="append to FILE (default: %(default)s)",
    )
    evaluate.add_argument(
        "--dry-run",
        action="store_true",
        help="predict time and memory from a short trial; --num-samples may then be more than are drawn yet",
    )
    evaluate.add_argument("--no-results", action="store_true", help="append to no file")
    evaluate.add_argument(
        "--json", type=_json_file, metavar="FILE|-", help="also write the result as one JSON object; - prints only that"
    )
    evaluate.set_defaults(run=_evaluate)

    _add_diagnose(commands)
    _add_classes(commands)

    stats = commands.add_parser(
        "stats",
        help="make a reference npz from real images",
        description="Make a reference batch: statistics over all images, and some images for precision and recall.",
    )
    stats.add_argument("images", type=Path, metavar="IMAGES", help=f"real images, all of one size: {_IMAGES}")
    stats.add_argument("--out", type=_file(".npz"), required=True, metavar="REFERENCE.npz")
    stats.add_argument("--force", action="store_true", help="write over an earlier file")
    stats.add_argument(
        "--num-images",
        type=int,
        default=10_000,
        metavar="N",
        help="images to keep, evenly spaced (default: %(default)s)",
    )
    _add_extractor_options(stats)
    stats.set_defaults(run=_stats)

    flops = commands.add_parser(
        "flops",
        help="count the Gflops and parameters of models, beside the paper's tables",
        description="Count multiply-adds of one forward pass (batch 1, no guidance) in three conventions: `paper`, "
        "multiply-adds and one for each normalised element; `fvcore`, what fvcore bills; `mac`, multiply-adds alone.",
    )
    flops.add_argument(
        "models", nargs="*", metavar="MODEL", help="DiT-XL/2 and so on, ADM-256, ADM-U-256-upsampler, LDM-4 and so on"
    )
    flops.add_argument("--image-size", type=int, metavar="PIXELS", help="of a DiT (default: 256)")
    flops.add_argument(
        "--block", metavar="DESIGN", help="of a DiT: adaln-zero (default), adaln, cross-attention or in-context"
    )
    flops.add_argument("--all", action="store_true", help="every model of Tables 1, 4 and 6")
    flops.add_argument(
        "--convention",
        choices=("paper", "fvcore", "mac"),
        default="paper",
        help="the one that is compared with the published figure (default: %(default)s)",
    )
    flops.add_argument(
        "--json", type=_json_file, metavar="FILE|-", help="also write the rows as one JSON object; - prints only that"
    )
    flops.set_defaults(run=_flops)

    weights = commands.add_parser("weights", help="list, fetch or verify public weights and reference batches")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = actions.add_parser(
        "list",
        help="what there is, where it is from, and what is on this machine",
        description="List the public files: address, file, path here, size, SHA-256. A machine without network can be "
        "brought a file from its address to its path.",
    )
    listed.add_argument("--json", action="store_true", help="print one JSON object")
    listed.set_defaults(run=_weights_list)
    for action, run, text in (
        ("fetch", _weights_fetch, "download into the cache (goes on where it stopped, checked, atomic)"),
        ("verify", _weights_verify, "check a file in the cache"),
    ):
        command = actions.add_parser(action, help=text, description=text)
        command.add_argument("name", help="a name that `dit-eval weights list` shows")
        if action == "fetch":
            command.add_argument("--url", help="another address of the same file (a mirror)")
        command.set_defaults(run=run)

    _add_sample(commands)
    _add_train(commands)
    _add_encode(commands)
    _add_study(commands)

    grid = commands.add_parser(
        "grid",
        help="look at samples: one file, or the same noise and labels through several models",
        description="Draw images of sample files as a PNG and a PDF beside it: one file in a square, several in a row "
        "each.",
    )
    grid.add_argument("samples", type=Path, nargs="+", metavar="SAMPLES.npz")
    grid.add_argument(
        "--out", type=_file(".png", ".pdf"), required=True, metavar="GRID.png", help="both are written: .png and .pdf"
    )
    grid.add_argument("--force", action="store_true", help="write over earlier files")
    grid.add_argument("--first", type=int, default=0, metavar="I", help="index of the first image (default: 0)")
    grid.add_argument("--count", type=int, metavar="N", help="images of each file (default: 36; 8 of several files)")
    grid.set_defaults(run=_grid)

    report = commands.add_parser(
        "report",
        help="redraw the paper's tables and figures, with your own results beside them",
        description="Write the paper's tables and figures into a folder, as files and as one page, index.html; with "
        "your own results and losses beside them.",
    )
    report.add_argument(
        "--results", type=Path, metavar="FILE", help="results.jsonl of `dit-eval evaluate` (default: the paper alone)"
    )
    report.add_argument(
        "--losses",
        type=Path,
        nargs="+",
        action="extend",
        metavar="RUN",
        help='folders or log.jsonl of `dit-eval train`; or other loss logs: lines as {"model": .., "step": .., "loss": '
        '..}, where "model" may be left out',
    )
    report.add_argument("--out", type=_folder, default=Path("report"), metavar="DIR", help="default: %(default)s")
    report.add_argument("--force", action="store_true", help="write over an earlier report")
    report.add_argument(
        "--skip-bad-lines", action="store_true", help="leave out lines that are no result, with a warning, and go on"
    )
    report.set_defaults(run=_report)

    _add_verify(commands)

    quickstart = commands.add_parser(
        "quickstart",
        help="see every metric at work on real digits, with no download",
        description="Draw digits from a DiT; score them beside real, blurred, noisy and class-collapsed ones; train "
        "four small DiTs and see what more compute buys.",
    )
    quickstart.add_argument(
        "--out", type=_folder, default=Path("quickstart"), metavar="DIR", help="default: %(default)s"
    )
    quickstart.add_argument("--no-study", action="store_true", help="leave out the scaling study, the longest part")
    quickstart.set_defaults(run=_quickstart)
    return parser
