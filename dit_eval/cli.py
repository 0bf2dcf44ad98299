"""The command line: the only module that parses arguments, prints results and exits.

Heavy packages are imported inside the commands that need them, so that `dit-eval --help` answers at once.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO, TypeVar

import dit_eval
from dit_eval.system.dist import FirstProcessFailed, World, join
from dit_eval.system.files import (
    Watch,
    atomic_file,
    check_ending,
    check_folder,
    check_folder_name,
    check_target,
    refuse_existing,
    why_not_written,
)
from dit_eval.system.progress import Progress, write_stderr
from dit_eval.system.text import did_you_mean, duration, nearest, shown, size_text

if TYPE_CHECKING:
    import numpy as np

    from dit_eval.checks.classes import ClassReport
    from dit_eval.checks.diagnose import Diagnosis
    from dit_eval.checks.findings.case import Expectation
    from dit_eval.checks.verify import Verification
    from dit_eval.cost import Cost
    from dit_eval.diffusion.data import ImageFolder, TrainingData
    from dit_eval.diffusion.sampler import Decoder
    from dit_eval.features.network import FeatureExtractor
    from dit_eval.flops.printed import ComplexityRow
    from dit_eval.images.encoded import ImageFiles
    from dit_eval.images.npz import ImageBatch
    from dit_eval.images.open import ImageSet
    from dit_eval.models.dit import DiT, DiTConfig
    from dit_eval.results.eval_result import EvalResult, Uncertainty
    from dit_eval.results.sample_run import SampleRun
    from dit_eval.study.engine import Engine
    from dit_eval.study.folder import Study
    from dit_eval.study.plan import Plan

_T = TypeVar("_T")

USER_ERROR, NOT_WRITTEN = 2, 3
_METRICS = "fid,sfid,is,precision,recall,kid,density,coverage, with dinov2 fd-dinov2, with clip cmmd"
# Option of `diagnose` after --expect-, and the metric.
_PUBLISHED = {
    "fid": "fid",
    "sfid": "sfid",
    "is": "inception_score",
    "precision": "precision",
    "recall": "recall",
}
_FEATURES = {"ref": "ref features", "gen": "gen features"}
_IMAGES = (
    "an npz (arr_0, uint8 NHWC); a folder, .zip, .tar or .tar.gz of PNGs, in the order of their names (2.png before "
    "10.png); or a saved Hugging Face dataset"
)


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
        _say(f"dit-eval: error{f' in process {rank}' if rank else ''}: {error}")
        return USER_ERROR
    except KeyboardInterrupt:
        _say("dit-eval: interrupted")
        return 130
    return 0


@contextmanager
def _any_text(stream: TextIO | None) -> Iterator[None]:
    """Let a stream take any text: what its encoding has no character for becomes a backslash escape."""
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # it is closed, or full
            stream.reconfigure(errors=before)


class _NotWritten(Exception):
    """A result is printed, but could not be written everywhere; the user has been told."""


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file that a result goes into, once it is printed.

    Attributes
    ----------
    option, path : by which the user named it
    write : writes it under a path, or raises an OSError
    text : what it holds, to be shown where it can be written nowhere; "" for pictures
    told : what to print when it is written
    """

    option: str
    path: Path
    write: Callable[[Path], object]
    text: str = ""
    told: str = ""


def _tell(text: str, *files: _File) -> None:
    """Print a result, then write it into files; where one cannot be written, keep it elsewhere.

    Raises
    ------
    _NotWritten
        At the end, if something could not be written.
    """
    everywhere = _printed(text)
    for file in files:
        try:
            file.write(file.path)
        except OSError as error:
            kept, what = (
                _kept(file),
                f"{file.option} {file.path} could not be written ({why_not_written(file.path, error)})",
            )
            if not (text or kept):
                raise OSError(f"{what}, nor kept elsewhere. Make room and run the same command again.") from None
            _say(f"warning: {what}. {kept}")
            everywhere = False
        else:
            everywhere = _printed(file.told) and everywhere
    if not everywhere:
        raise _NotWritten


def _printed(text: str) -> bool:
    """Print on stdout, or, if that takes nothing, on stderr; whether it was stdout."""
    if not text:
        return True
    try:
        if sys.stdout is None:
            raise OSError("it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _give_up_stdout()
        _say(f"warning: stdout could not be written ({getattr(error, 'strerror', None) or error}). It was to show:")
        _say(text.rstrip("\n"))
        return False
    return True


def _flush_stdout() -> None:
    """Write what waits for stdout, so that a full disk is noticed here."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_stdout()
        _say(f"warning: stdout could not be written ({error.strerror}).")
        raise _NotWritten from None


def _give_up_stdout() -> None:
    """Drop what waits to be written, which would fail once more at the end of the process."""
    with suppress(AttributeError, OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _kept(file: _File) -> str:
    """Write a file into the folder for temporary files, and say where; else show what it holds, if that is a text."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="dit-eval-"))
        with suppress(OSError):
            file.write(folder / file.path.name)
            return f"It is kept as {folder / file.path.name}."
        folder.rmdir()
    except OSError:  # there is no such folder, or it cannot be emptied again
        pass
    return f"It was to hold:\n{file.text.rstrip()}" if file.text else ""


def _files_of_json(path: str | None, text: str) -> list[_File]:
    """The file of `--json`, if one is named."""
    if path in (None, "-"):
        return []
    return [_File(option="--json", path=Path(path), write=lambda target: _write_text(target, text), text=text)]


def _tell_json(path: str | None, json_line: str, text: str, *files: _File) -> None:
    """Print a result as text, or as JSON alone with `--json -`, then write it into files."""
    if path != "-":
        _tell(text, *_files_of_json(path, f"{json_line}\n"), *files)
        return
    try:
        json_line.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:  # JSON has escapes of its own
        json_line = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in json_line)
    _tell(f"{json_line}\n", *(replace(file, told="") for file in files))


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


def _header(text: str) -> None:
    """A line on what is about to be done, of one process."""
    if World.from_environment().rank == 0:
        _say(text)


def _open_images(path: Path, role: Literal["gen", "ref"], num_images: int | None = None) -> ImageBatch | ImageFiles:
    """Open a set of images, and say what it is."""
    # At once: to load NumPy takes a moment, and to list an archive a while.
    _header(f"{role}  {path}" + (f", {size_text(path.stat().st_size)}" if path.is_file() else ""))
    from dit_eval.images.open import open_images

    images = open_images(path, role=role, num_images=num_images)
    size = "x".join(str(side) for side in reversed(images.image_size or ()))
    what = f"{images.num_images:,} images of {size} px" if images.num_images else "no images"
    if images.num_images < images.num_stored:
        what = f"the first {images.num_images:,} of {images.num_stored:,} images of {size} px"
    _header(f"{role}  {what}{', with statistics' if images.pool or images.spatial else ''}")
    return images


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


def _add_diagnose(commands: Any) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="find out why a number is not the published one",
        description="Look at samples, reference, run and result for what may be wrong, and rank it, with the measured "
        "effect of each. Exits with 0 whether or not something is found.",
    )
    diagnose.add_argument("samples", type=Path, metavar="SAMPLES", help=f"generated images: {_IMAGES}")
    diagnose.add_argument("--ref", required=True, help="as of `dit-eval evaluate`")
    published = diagnose.add_argument_group("what the number is compared with")
    published.add_argument("--expect", metavar="NAME", help="a published result, such as dit-xl-2-cfg1.5")
    for option, metric in _PUBLISHED.items():
        published.add_argument(f"--expect-{option}", type=float, metavar="X", help=f"published {metric}")
    published.add_argument(
        "--expect-samples", type=int, metavar="N", help="samples that the published number is of (default: 50,000)"
    )
    diagnose.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="take the result of these samples from here (default: results.jsonl, if it is there)",
    )
    diagnose.add_argument("--num-samples", type=int, metavar="N", help="use the first N samples")
    diagnose.add_argument(
        "--network",
        action="store_true",
        help="also pass 256 reference images through the network, to see whether the statistics are of it",
    )
    _add_extractor_options(diagnose)
    diagnose.add_argument(
        "--json",
        type=_json_file,
        metavar="FILE|-",
        help="also write the findings as one JSON object; - prints only that",
    )
    diagnose.set_defaults(run=_diagnose)


def _add_classes(commands: Any) -> None:
    classes = commands.add_parser(
        "classes",
        help="find the classes that are worst",
        description="Compare each class of the samples with the same class of the reference: numbers of images, and a "
        "kernel distance (KID's) of their features, which needs no covariance. Both sides need labels.",
    )
    classes.add_argument("samples", type=Path, metavar="SAMPLES", help=f"generated images with labels: {_IMAGES}")
    classes.add_argument("--ref", required=True, help="as of `dit-eval evaluate`, with labels")
    _add_extractor_options(classes)
    classes.add_argument("--num-samples", type=int, metavar="N", help="use the first N samples")
    classes.add_argument("--worst", type=int, default=10, metavar="K", help="classes to show (default: %(default)s)")
    classes.add_argument(
        "--grid",
        type=_file(".png", ".pdf"),
        metavar="GRID.png",
        help="also draw the worst classes beside the reference: GRID.png and GRID.pdf",
    )
    classes.add_argument(
        "--images", type=int, default=6, metavar="N", help="of a side in a row of the grid (default: %(default)s)"
    )
    classes.add_argument(
        "--cache", type=_folder, metavar="DIR", help="keep features here, and take those of `dit-eval evaluate`"
    )
    classes.add_argument(
        "--json",
        type=_json_file,
        metavar="FILE|-",
        help="also write the scores of all classes as one JSON object; - prints only that",
    )
    classes.set_defaults(run=_classes)


def _add_sample(commands: Any) -> None:
    sample = commands.add_parser(
        "sample",
        help="draw images from a DiT into one sample npz",
        description="Draw images from a DiT into one sample npz, on one process or many "
        "(torchrun --nproc_per_node=N -m dit_eval sample ...). The same command goes on after a crash.",
    )
    model = sample.add_argument_group("model")
    model.add_argument(
        "--model",
        help="DiT-XL/2 and so on (default: what the checkpoint says, else DiT-XL/2), or a name such as mini-XL/4 for a "
        "checkpoint of your own",
    )
    model.add_argument(
        "--ckpt",
        metavar="FILE",
        help="checkpoint, or a name of `dit-eval weights list` (default: the public one of DiT-XL/2 at 256 or 512)",
    )
    model.add_argument("--weights", choices=("ema", "model"), default="ema", help="which set of a trainer's file")
    model.add_argument("--image-size", type=int, metavar="PX", help="default: what the checkpoint says, else 256")
    model.add_argument("--num-classes", type=int, metavar="K", help="default: what the checkpoint says, else 1000")
    model.add_argument("--block", help="block design of --model (default: adaln-zero)")
    what = sample.add_argument_group("what to draw")
    what.add_argument("--num-fid-samples", type=int, default=50_000, metavar="N", help="default: %(default)s")
    what.add_argument(
        "--num-sampling-steps", default="250", metavar="S", help='steps of 1000, or "ddimS" (default: %(default)s)'
    )
    what.add_argument("--cfg-scale", type=float, default=1.5, metavar="W", help="1.0: no guidance (default: 1.5)")
    what.add_argument("--cfg-channels", type=int, metavar="C", help="channels guided (default: 3, as the paper)")
    what.add_argument("--sampler", choices=("ddpm", "ddim"), default="ddpm", help="default: %(default)s")
    what.add_argument(
        "--vae",
        default="ema",
        metavar="ema|mse|original|FILE",
        help="decoder of latents (default: %(default)s); a pixel-space model needs none",
    )
    what.add_argument("--vae-tiling", action="store_true", help="decode in tiles; needs less memory, changes pixels")
    what.add_argument(
        "--labels",
        default="random",
        metavar="random|balanced|FILE",
        help="classes: uniform as in the paper (default), in turn, or from text, .npy or the arr_1 of an .npz",
    )
    what.add_argument(
        "--rounding", choices=("dit", "truncate"), default="dit", help="to 8 bits: nearest (default), or ADM's rule"
    )
    what.add_argument("--global-seed", type=int, default=0, metavar="SEED", help="default: %(default)s")
    how = sample.add_argument_group("how")
    how.add_argument(
        "--per-proc-batch-size",
        type=int,
        metavar="B",
        help="default: 32, or more where a CPU has many cores: 8 for each",
    )
    how.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="default: %(default)s")
    how.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    how.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU per process if there are any)")
    how.add_argument("--out", type=_file(".npz"), required=True, metavar="SAMPLES.npz")
    how.add_argument(
        "--grid",
        type=_file(".png", ".pdf"),
        metavar="GRID.png",
        help="also draw the first images: GRID.png and GRID.pdf",
    )
    how.add_argument("--dry-run", action="store_true", help="predict time, memory and disk from a short trial")
    sample.set_defaults(run=_sample)


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a DiT by the paper's recipe",
        description="Train a DiT by the paper's recipe, on one process or many "
        "(torchrun --nproc_per_node=N -m dit_eval train ...). The same command goes on after a crash.",
    )
    model = train.add_argument_group(
        "model", "a name of the paper, on latents; or all four sizes, on what the data are"
    )
    model.add_argument("--model", help="DiT-XL/2 and so on")
    for option, words in (
        ("--depth", "layers"),
        ("--hidden-size", "width"),
        ("--num-heads", "attention heads"),
        ("--patch-size", "side of a patch, in pixels or latents"),
    ):
        model.add_argument(option, type=int, metavar="N", help=words)
    model.add_argument("--block", default="adaln-zero", help="block design (default: %(default)s)")
    model.add_argument("--num-classes", type=int, metavar="K", help="default: as many as the data have")
    model.add_argument("--label-dropout", type=float, default=0.1, metavar="P", help="default: %(default)s")
    data = train.add_argument_group("data")
    data.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="LATENTS|NPZ|DIR",
        help="latents of `dit-eval encode`; images in ADM's npz; or a folder of images, with a folder for each class",
    )
    data.add_argument("--image-size", type=int, metavar="PX", help="of a folder of images: side of the centre crop")
    data.add_argument("--grey", action="store_true", help="take the grey images of an npz as one channel")
    data.add_argument("--no-flips", action="store_true", help="mirror no images (default: half of them)")
    data.add_argument("--num-workers", type=int, default=4, metavar="N", help="threads that read ahead (default: 4)")
    _add_on_corrupt(data)
    recipe = train.add_argument_group("recipe", "the defaults are the paper's; small models at high rates need more")
    recipe.add_argument("--steps", type=int, default=400_000, metavar="N", help="in all (default: %(default)s)")
    recipe.add_argument("--batch-size", type=int, default=256, metavar="B", help="of all processes (default: 256)")
    recipe.add_argument("--lr", type=float, default=1e-4, metavar="RATE", help="of AdamW (default: %(default)s)")
    recipe.add_argument("--weight-decay", type=float, default=0.0, metavar="W", help="default: %(default)s")
    recipe.add_argument("--ema", type=float, default=0.9999, metavar="D", help="decay of the average (default: 0.9999)")
    recipe.add_argument("--warm-up", type=int, default=0, metavar="N", help="steps to the full rate (default: none)")
    recipe.add_argument("--cosine-decay", action="store_true", help="bring the rate to 0 at the last step")
    recipe.add_argument("--ema-warm-up", action="store_true", help="average over less in the first steps")
    recipe.add_argument("--global-seed", type=int, default=0, metavar="SEED", help="default: %(default)s")
    recipe.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="default: %(default)s")
    recipe.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    how = train.add_argument_group("how")
    how.add_argument("--out", type=_folder, required=True, metavar="DIR", help="checkpoints, log.jsonl, run.json")
    how.add_argument("--save-at", type=_integers, default=(), metavar="N,N", help="steps after which to save weights")
    how.add_argument("--save-every", type=int, default=50_000, metavar="N", help="and regularly (default: %(default)s)")
    how.add_argument("--log-every", type=int, default=100, metavar="N", help="default: %(default)s")
    how.add_argument(
        "--per-proc-batch-size", type=int, metavar="B", help="at once in a process (default: its share of the batch)"
    )
    how.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU per process if there are any)")
    train.set_defaults(run=_train)


def _add_encode(commands: Any) -> None:
    encode = commands.add_parser(
        "encode",
        help="encode a folder of images to the latents that a DiT trains on",
        description="Encode each image of a folder, and its mirror image, to the mean and standard deviation of its "
        "posterior, on one process or many (torchrun). The same command goes on after a crash.",
    )
    encode.add_argument("folder", type=Path, metavar="FOLDER", help="images, or a folder of them for each class")
    encode.add_argument("--out", type=_folder, required=True, metavar="LATENTS", help="a folder; for `train --data`")
    encode.add_argument("--image-size", type=int, default=256, metavar="PX", help="centre crop (default: %(default)s)")
    encode.add_argument(
        "--vae",
        default="ema",
        metavar="ema|mse|original|FILE",
        help="all three have one encoder (default: %(default)s)",
    )
    encode.add_argument("--half", action="store_true", help="store float16: half the size, rounded")
    _add_on_corrupt(encode)
    encode.add_argument("--num-workers", type=int, default=4, metavar="N", help="threads that read (default: 4)")
    encode.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU per process if there are any)")
    encode.set_defaults(run=_encode)


def _add_study(commands: Any) -> None:
    study = commands.add_parser(
        "study",
        help="run a scaling study from a plan: train, sample, evaluate, report",
        description="Run a scaling study from a plan: train its models, sample them, score the samples, draw figures.",
    )
    actions = study.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, run: Any, text: str) -> Any:
        command = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("plan", metavar="PLAN", help="a TOML file, or the name of an embedded plan")
        command.set_defaults(run=run)
        return command

    run = action("run", _study_run, "do what is missing of a study, in a folder that survives interruptions")
    run.add_argument("--out", type=_folder, metavar="DIR", help="folder of the study")
    run.add_argument("--dry-run", action="store_true", help="check the plan, print its tasks and cost, do nothing")
    run.add_argument("--data", metavar="LATENTS|NPZ|DIR", help="training data, in place of the plan's")
    run.add_argument("--ref", metavar="NPZ|NAME", help="reference batch, in place of the plan's")
    run.add_argument("--weights", metavar="FILE", help="of the Inception network (default: fetched into the cache)")
    run.add_argument("--engine", choices=("local", "slurm"), default="local", help="default: %(default)s")
    run.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="tasks at once (default: as many as cores or GPUs allow; 16 with --engine slurm)",
    )
    run.add_argument("--device", default="auto", help="cpu or cuda, where tasks run (default: GPUs if there are any)")
    status = action("status", _study_status, "show each task of a study: state, cost, time left")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    report = action("report", _study_report, "draw the paper's figures from a study's results")
    for command in (status, report):
        command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the study")
    action("show", _study_show, "print a plan, to start one of your own from")
    work = action("work", _study_work, "do one task of a study; what engines start, under torchrun or alone")
    work.add_argument("key", metavar="TASK")


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


def _add_extractor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--extractor",
        choices=("inception", "dinov2", "clip", "digits"),
        default="inception",
        help="feature network: ADM's Inception (default), DINOv2 (FD-DINOv2), CLIP (CMMD), or the embedded digits CNN",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights of the network (default: fetched into the cache)"
    )
    parser.add_argument(
        "--backend", choices=("torch", "tensorflow"), default="torch", help="program that runs Inception"
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "tf32", "bf16", "fp16"),
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
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")


def _evaluate(arguments: argparse.Namespace) -> None:
    with join() as world:
        # Mistakes are told once, by process 0.
        setup = world.first_then_all(lambda: _evaluation_setup(arguments, world))
        world.share_cores()
        if arguments.dry_run:
            _tell_evaluation_cost(arguments, setup, world)
            return
        from dit_eval.evaluation import evaluate

        with Progress(names=_FEATURES) as progress:
            result = evaluate(
                **setup,
                distances=arguments.distances,
                intervals=arguments.intervals,
                batch_size=arguments.batch_size,
                cache=arguments.cache,
                world=world,
                on_progress=progress.update if world.rank == 0 else None,
                on_note=progress.note,
            )
        if world.rank == 0:
            _tell_result(arguments, result)


def _evaluation_setup(arguments: argparse.Namespace, world: World) -> dict[str, Any]:
    """Files, request and extractor: everything a user may have got wrong, in the order of what it costs to find out."""
    count = arguments.num_samples
    if arguments.dry_run and count is not None:  # what is not drawn yet can be predicted from what is
        from dit_eval.images.open import open_images

        count = min(count, open_images(arguments.samples, role="gen").num_images or count)
    gen = _open_images(arguments.samples, "gen", count)
    if world.rank == 0:
        _check_evaluation_destinations(arguments)
    _header(_network_line(arguments))
    from dit_eval.metrics.choose import check_metrics, check_request

    check_metrics(arguments.metrics, _check_extractor(arguments, world))
    _check_named_size(arguments, gen)
    ref = _open_images(_reference_path(arguments.ref), "ref")
    request: dict[str, Any] = {"metrics": arguments.metrics, "allow_size_mismatch": arguments.allow_size_mismatch}
    check_request(gen=gen, ref=ref, sizes=_extractor_class(arguments), **request)
    return {"gen": gen, "ref": ref, "extractor": _extractor(arguments, world), **request}


def _check_evaluation_destinations(arguments: argparse.Namespace) -> None:
    _check_destination("--json", arguments.json)
    if arguments.dry_run:
        return
    _check_destination("--cache", arguments.cache, folder=True)
    if not arguments.no_results:
        instead = ", or pass --no-results to have the result printed only"
        _check_destination("--results", arguments.results, append=True, instead=instead)
        if arguments.json not in (None, "-") and Path(arguments.json).resolve() == arguments.results.resolve():
            raise ValueError(f"--json {arguments.json}: the file of --results, which it would replace. Name another.")


def _check_named_size(arguments: argparse.Namespace, gen: ImageSet) -> None:
    """That the samples have the size of a public reference, which its name says, before that is fetched."""
    from dit_eval.system.assets import assets

    known = {item.name for item in assets() if item.kind == "reference"}
    named = re.fullmatch(r"imagenet(\d+)", arguments.ref) if arguments.ref in known else None
    if named is None or Path(arguments.ref).exists() or arguments.allow_size_mismatch or gen.image_size is None:
        return
    side, (height, width) = int(named[1]), gen.image_size
    if (height, width) != (side, side):
        raise ValueError(
            f"{gen.path} has images of {width}x{height}, {arguments.ref} of {side}x{side}. Take the reference of the "
            "samples' resolution, or pass --allow-size-mismatch to score them as they are (the network resizes both)."
        )


def _tell_evaluation_cost(arguments: argparse.Namespace, setup: dict[str, Any], world: World) -> None:
    from dit_eval.cost import evaluation_cost
    from dit_eval.metrics.choose import check_request

    gen, ref, extractor = setup["gen"], setup["ref"], setup["extractor"]
    request = {name: setup[name] for name in ("metrics", "allow_size_mismatch")}
    metrics, _ = check_request(gen=gen, ref=ref, sizes=extractor, **request)
    cost = evaluation_cost(
        gen=gen,
        ref=ref,
        extractor=extractor,
        metrics=metrics,
        distances=arguments.distances,
        batch_size=arguments.batch_size,
        num_images=arguments.num_samples,
        world=world,
    )
    if world.rank:
        return
    what = f"to score {arguments.num_samples or gen.num_images:,} samples"
    _tell_json(arguments.json, cost.to_json(), _format_cost_of_run(what, cost))


def _format_cost_of_run(what: str, cost: Cost) -> str:
    """Predicted time, memory and disk, and what was tried for it."""
    by = "one process" if cost.processes == 1 else f"{cost.processes} processes"

    def text(seconds: float) -> str:
        return f"{seconds:.2f} s" if seconds < 10 else duration(seconds)

    lines = [f"{what}, in {by}: about {text(cost.total)}"]
    lines += [f"  {phase:<24}{text(seconds):>10}" for phase, seconds in cost.seconds.items()]
    each = [f"{cost.seconds_per_1000:,.1f} s"]
    each += [f"{size_text(cost.memory_per_1000)} of memory"] if cost.memory_per_1000 else []
    each += [f"{size_text(cost.disk_per_1000)} of disk"] if cost.disk_per_1000 else []
    lines.append(f"  1,000 images through the network, in one process: {', '.join(each)}")
    if cost.memory_bytes is not None:
        lines.append(f"  memory of a process at its peak: {size_text(cost.memory_bytes)}")
    if cost.gpu_memory_bytes is not None:
        lines.append(f"  memory of its GPU at its peak: {size_text(cost.gpu_memory_bytes)}")
    if cost.disk_bytes:
        lines.append(f"  disk: {size_text(cost.disk_bytes)}, {size_text(cost.disk_peak_bytes)} while it is packed")
    lines += [f"measured now: {trial}" for trial in cost.trials]
    lines.append(f"not in it: {cost.left_out}")
    return "\n".join(lines) + "\n"


def _tell_result(arguments: argparse.Namespace, result: EvalResult) -> None:
    for warning in result.warnings:
        _say(f"warning: {warning}")
    from dit_eval.results.lines import append_result

    appended = _File(
        option="--results",
        path=arguments.results,
        write=lambda path: append_result(path, result),
        text=result.to_json(),
        told=f"appended to {arguments.results}\n",
    )
    files = [] if arguments.no_results else [appended]
    _tell_json(arguments.json, result.to_json(), _format_result(result), *files)


def _diagnose(arguments: argparse.Namespace) -> None:
    gen = _open_images(arguments.samples, "gen", arguments.num_samples)
    _check_destination("--json", arguments.json)
    if arguments.network:
        _check_extractor(arguments)
    ref = _open_images(_reference_path(arguments.ref), "ref")
    from dit_eval.checks.diagnose import diagnose

    expect = _expectation(arguments)
    extractor = _extractor(arguments) if arguments.network else None
    with Progress(names={"ref": "ref images", "gen": "gen images"}) as progress:
        result = _result_of(arguments, gen, progress)
        diagnosis = diagnose(
            gen=gen,
            ref=ref,
            expect=expect,
            result=result,
            extractor=extractor,
            batch_size=arguments.batch_size,
            on_progress=progress.update,
        )
    _tell_json(arguments.json, diagnosis.to_json(), _format_diagnosis(diagnosis))


def _expectation(arguments: argparse.Namespace) -> Expectation | None:
    import dataclasses

    from dit_eval.checks.diagnose import expectation
    from dit_eval.checks.findings.case import Expectation

    given = {metric: getattr(arguments, f"expect_{option}") for option, metric in _PUBLISHED.items()}
    numbers = {metric: value for metric, value in given.items() if value is not None}
    if arguments.expect_samples is not None and arguments.expect_samples < 1:
        raise ValueError(f"--expect-samples {arguments.expect_samples}: needed at least 1.")
    if arguments.expect is not None:
        if numbers:
            raise ValueError("Pass --expect, which brings its numbers, or numbers of your own, not both.")
        expect = expectation(arguments.expect)
    elif numbers or arguments.expect_samples is not None:
        expect = Expectation(name="the expected number", source="command line", metrics=numbers)
    else:
        return None
    if arguments.expect_samples is not None:
        expect = dataclasses.replace(expect, num_samples=arguments.expect_samples)
    return expect


def _result_of(arguments: argparse.Namespace, gen: ImageSet, progress: Progress) -> EvalResult | None:
    """The latest result of these very samples in the file of results."""
    from dit_eval.results.lines import read_results

    path = arguments.results or Path("results.jsonl")
    if not path.is_file():
        if arguments.results is not None:
            raise FileNotFoundError(f"--results {path}: no such file.")
        return None
    sha256 = gen.sha256(partial(progress.update, "checksums"))
    skip = None if arguments.results is not None else lambda _: None
    found = [result for result in read_results(path, on_bad_line=skip) if result.gen.sha256 == sha256]
    if arguments.results is not None and not found:
        raise ValueError(f"{path}: no result of {gen.path} in it. Score it first: `dit-eval evaluate`.")
    return found[-1] if found else None


def _format_diagnosis(diagnosis: Diagnosis) -> str:
    lines = []
    if diagnosis.expected and diagnosis.comparisons:
        lines.append(f"compared with {diagnosis.expected.name} ({diagnosis.expected.source})")
        for row in diagnosis.comparisons:
            verdict = {True: "inside", False: "outside", None: ""}[row.inside]
            lines.append(
                f"  {row.metric:<16} {row.measured:>10.4f}   published {row.published:g}, difference "
                f"{row.measured - row.published:+.4f}" + (f", {verdict} the 95 % interval" if verdict else "")
            )
    for number, finding in enumerate(diagnosis.findings, start=1):
        lines.append(f"{number}. {finding.id} ({finding.certainty}): {finding.found}")
        for effect in finding.effects:
            pairs = [f"{m} {effect.before[m]:.4g} -> {effect.after[m]:.4g}" for m in effect.after]
            lines.append(f"   measured, {effect.damage}: {', '.join(pairs)}")
            lines.append(f"     ({effect.network}; {effect.images})")
        if not finding.effects:
            lines.append("   effect: not measured")
        lines.append(f"   {finding.advice}")
    if not diagnosis.findings:
        lines.append("Nothing found.")
    lines += [f"not checked: {text}" for text in diagnosis.unchecked]
    return "\n".join(lines) + "\n"


def _sample(arguments: argparse.Namespace) -> None:
    with join() as world:
        what = arguments.ckpt or arguments.model or "DiT-XL/2"
        _header(f"sample: {arguments.num_fid_samples:,} images of {what}, into {arguments.out}")
        watch = Watch()
        # What can be judged without a file comes first, then the checkpoint, then the download of the decoder.
        run, checkpoint = world.from_first(lambda: _sample_run(arguments, world))
        world.share_cores()
        from dit_eval.diffusion.sampler import ImageSampler, usual_batch_size
        from dit_eval.sampling import sample_npz

        device = world.device(arguments.device)
        size = arguments.per_proc_batch_size or usual_batch_size(device)
        model, weights = world.first_then_all(lambda: _load_generator(arguments, run, checkpoint, world, watch))
        run, labels, vae = world.from_first(lambda: _loaded_run(arguments, run, checkpoint, model, weights, watch))
        model, decode = model.to(device), world.first_then_all(lambda: _load_decoder(run, vae, device, world))
        world.barrier()
        world.from_first(watch.check)  # of the run's checksums and of what all processes have loaded
        if arguments.dry_run:
            from dit_eval.cost import sampling_cost

            sampler = ImageSampler(model, run, decode=decode)
            cost = sampling_cost(sampler=sampler, out=arguments.out, batch_size=size, world=world)
            if world.rank == 0:
                sys.stdout.write(_format_cost_of_run(f"to draw {cost.images:,} images of {run.summary()}", cost))
            return
        with Progress(names={run.model: f"{run.model} images"}) as progress:
            sample_npz(
                arguments.out,
                sampler=ImageSampler(model, run, decode=decode),
                labels=labels,
                batch_size=size,
                world=world,
                on_progress=partial(progress.update, run.model),
                on_note=progress.note,
            )
        if world.rank == 0:
            images = f"{run.num_images:,} images, {run.image_size} px"
            _tell(f"{arguments.out}: {images}, {run.summary()}\n", *_sample_grid(arguments, min(36, run.num_images)))


def _sample_grid(arguments: argparse.Namespace, count: int) -> list[_File]:
    """The picture of `sample --grid`, if one is asked for."""
    if arguments.grid is None:
        return []
    return [
        _File(
            option="--grid",
            path=arguments.grid,
            write=lambda path: _draw_grid([arguments.out], path, first=0, count=count),
        )
    ]


def _sample_run(arguments: argparse.Namespace, world: World) -> tuple[SampleRun, Path]:
    """What to draw and the checkpoint, which may have to be fetched: all mistakes that show without reading tensors."""
    import dataclasses

    _check_checkpoint_name(arguments.ckpt)
    if arguments.per_proc_batch_size is not None and arguments.per_proc_batch_size < 1:
        raise ValueError(f"--per-proc-batch-size {arguments.per_proc_batch_size}: needed at least 1.")
    if not arguments.dry_run:
        _check_destination("--out", arguments.out)
        _check_destination("--grid", arguments.grid)
    from dit_eval.diffusion.sampler import check_run
    from dit_eval.models.checkpoints import training_notes
    from dit_eval.results.sample_run import SampleRun
    from dit_eval.system.environment import environment

    device = world.device(arguments.device)
    name, config, checkpoint = _network(arguments)
    latent = config.space == "latent"
    if latent:
        _local_decoder(arguments.vae)
    channels = min(3, config.in_channels) if arguments.cfg_channels is None else arguments.cfg_channels
    here = checkpoint.is_file()  # a public one may not be
    trained = training_notes(checkpoint) if here else None
    weights = arguments.weights
    if trained and trained["weights"] != weights:  # a file of `dit-eval train` holds one set, and says which
        if weights == "model":
            raise ValueError(
                f"{checkpoint} holds averaged weights (ema), and --weights model asks for the others: pass the file "
                f"{checkpoint.name.replace('ema-', 'model-')} beside it."
            )
        weights = trained["weights"]
    run = SampleRun(
        model=shown(name),
        network=dataclasses.asdict(config),
        checkpoint=shown(checkpoint.name),
        checkpoint_sha256="",  # of files that are read or fetched later
        weights=weights,
        image_size=config.image_size,
        num_images=arguments.num_fid_samples,
        num_sampling_steps=arguments.num_sampling_steps,
        sampler=arguments.sampler,
        cfg_scale=arguments.cfg_scale,
        cfg_channels=None if arguments.cfg_scale == 1.0 else channels,
        vae=shown(Path(arguments.vae).name) if latent else None,
        vae_tiling=latent and arguments.vae_tiling,
        labels=arguments.labels if arguments.labels in ("random", "balanced") else "file",
        rounding=arguments.rounding,
        global_seed=arguments.global_seed,
        precision=arguments.precision,
        compiled=arguments.compile,
        device=device.split(":")[0],
        training_steps=trained["step"] if trained else None,
        training_batch_size=trained["recipe"]["batch_size"] if trained else None,
        environment=environment(),
    )
    check_run(run)
    if not here:  # the classes of a public checkpoint are known; those of another file are looked for in it
        _sample_labels(arguments, run)
    return run, checkpoint


def _sample_labels(arguments: argparse.Namespace, run: SampleRun) -> tuple[np.ndarray, str | None]:
    """The label of each image, and the SHA-256 of their file, if they come from one."""
    from dit_eval.diffusion.labels import draw_labels, read_labels

    size: dict[str, Any] = {"num_images": run.num_images, "num_classes": run.network["num_classes"]}
    if run.labels == "file":
        return read_labels(arguments.labels, **size)
    return draw_labels("balanced" if run.labels == "balanced" else "random", seed=run.global_seed, **size), None


def _loaded_run(
    arguments: argparse.Namespace, run: SampleRun, checkpoint: Path, model: DiT, weights: str | None, watch: Watch
) -> tuple[SampleRun, np.ndarray, Path | None]:
    """The run with what its checkpoint says, its labels, and the decoder, which is fetched when all else is right."""
    import dataclasses

    from dit_eval.system.assets import sha256_of

    run = dataclasses.replace(run, network=dataclasses.asdict(model.config), weights=weights or run.weights)
    labels, labels_sha256 = _sample_labels(arguments, run)
    vae = _decoder_path(arguments.vae) if run.vae is not None else None
    if vae is not None:
        watch.see(vae)
    with Progress() as progress:
        report = partial(progress.update, "checksums")
        run = dataclasses.replace(
            run,
            labels_sha256=labels_sha256,
            checkpoint_sha256=sha256_of(checkpoint, report),
            vae_sha256=sha256_of(vae, report) if vae else None,
        )
    return run, labels, vae


def _network(arguments: argparse.Namespace) -> tuple[str, DiTConfig, Path]:
    """Name, configuration and checkpoint of the model; a checkpoint of ours says what it is, others need --model.

    A public checkpoint need not be here yet; what it is of is known. How many classes another file has is settled when
    its tensors are read.
    """
    import dataclasses

    from dit_eval.models.checkpoints import stored_config
    from dit_eval.models.dit import BLOCK_DESIGNS, named_config, paper_name
    from dit_eval.system.assets import asset, assets

    _check_block(arguments.block, BLOCK_DESIGNS)
    public = [item.name for item in assets() if item.kind == "weights" and item.name.startswith("dit-")]
    options = (("block", arguments.block), ("num_classes", arguments.num_classes))
    asked = {field: value for field, value in options if value is not None}
    named = None
    # A name such as mini-XL/4, for a checkpoint that says its configuration: reports read size and patch in it.
    own = re.fullmatch(r"(?!DiT-)[^/]+-(?:S|B|L|XL)/(\d+)", arguments.model or "") if arguments.ckpt else None
    if own is None and (arguments.model or not arguments.ckpt):
        named = named_config(arguments.model or "DiT-XL/2", image_size=arguments.image_size or 256)
        named = dataclasses.replace(named, **asked)
    name, ckpt = arguments.model or "DiT-XL/2", arguments.ckpt
    if ckpt is None:
        ckpt = f"dit-xl-2-{arguments.image_size or 256}"
        if name != "DiT-XL/2" or ckpt not in public or asked:
            raise ValueError(f"No public checkpoint of this model (there are: {', '.join(public)}); pass --ckpt FILE.")
    item = asset(ckpt) if ckpt in public and not Path(ckpt).exists() else None
    path = Path(ckpt) if item is None else item.path
    if item is not None and item.url is not None:  # all public ones but our own are of this model
        stored: DiTConfig | None = named_config("DiT-XL/2", image_size=int(item.name.rpartition("-")[2]))
    else:
        stored = stored_config(path)
    if stored is None:
        if own is not None:
            raise ValueError(f"{path}: does not say its configuration, and {name} is no model of the paper.")
        if named is None:
            raise ValueError(f"{path}: does not say which model it is of; pass --model, such as --model DiT-XL/2.")
        return name, named, path
    if named is not None:
        asked |= {field: getattr(named, field) for field in ("depth", "hidden_size", "num_heads", "patch_size")}
    if own is not None:
        asked["patch_size"] = int(own[1])
    if arguments.image_size is not None:
        asked["image_size"] = arguments.image_size
    wrong = [f"{k} {getattr(stored, k)}, asked for {v}" for k, v in asked.items() if getattr(stored, k) != v]
    if wrong:
        whose = path if item is None else item.name
        raise ValueError(f"{whose}: of another model ({'; '.join(wrong)}). Leave the options out to take what it says.")
    return arguments.model or paper_name(stored) or path.stem, stored, path


def _check_checkpoint_name(ckpt: str | None) -> None:
    """That --ckpt is a public name, or looks like a file; the reader of checkpoints says what is wrong with a file."""
    from dit_eval.system.assets import assets

    public = [item.name for item in assets() if item.kind == "weights" and item.name.startswith("dit-")]
    if ckpt is not None and ckpt not in public and not Path(ckpt).suffix and not Path(ckpt).exists():
        raise FileNotFoundError(
            f"--ckpt {ckpt}: neither a file nor a public checkpoint; known: {', '.join(public)}."
            f"{did_you_mean(Path(ckpt).name, public)}"
        )


def _check_block(block: str | None, known: Sequence[str]) -> None:
    if block is not None and block not in known:
        raise ValueError(f"--block {block}: unknown; known: {', '.join(known)}.{did_you_mean(block, known)}")


def _local_decoder(vae: str) -> Path | None:
    """The file of a decoder; None if it is a public one, by name."""
    from dit_eval.models.vae import DECODERS, weights_file

    return None if vae in DECODERS and not Path(vae).exists() else weights_file(Path(vae))


def _decoder_path(vae: str) -> Path:
    from dit_eval.models.vae import DECODERS
    from dit_eval.system.assets import asset

    return _local_decoder(vae) or _fetch(asset(DECODERS[vae]))


def _load_generator(
    arguments: argparse.Namespace, run: SampleRun, path: Path, world: World, watch: Watch
) -> tuple[DiT, str | None]:
    """The model, and which set of weights it has, if its checkpoint says that."""
    import dataclasses

    from dit_eval.diffusion.sampler import check_run
    from dit_eval.models.checkpoints import build_dit, labelled_config, open_checkpoint, stored_config
    from dit_eval.models.dit import DiTConfig
    from dit_eval.system.assets import assets

    public = next((item for item in assets() if item.url is not None and item.path == path), None)
    if public is not None:
        _fetch(public)
    watch.see(path)
    _header(f"model  {run.model}, {run.image_size} px, on {run.device}: checkpoint {path}")
    note = _note if world.rank == 0 else None
    checkpoint = open_checkpoint(path, weights="ema" if run.weights == "ema" else "model", on_note=note)
    config = DiTConfig(**run.network)
    if public is None and stored_config(path) is None:
        config = labelled_config(config, checkpoint, num_classes=arguments.num_classes)
        # Once more, before it is built: it may have no label for "no label".
        check_run(dataclasses.replace(run, network=dataclasses.asdict(config)))
    if note and not config.label_dropout:
        note(f'{path}: {config.num_classes} classes, and none for "no label": it draws without guidance')
    return build_dit(checkpoint, config, on_note=note), checkpoint.weights


def _load_decoder(run: SampleRun, vae: Path | None, device: str, world: World) -> Decoder | None:
    if vae is None:
        return None
    from dit_eval.models.vae import Autoencoder

    note = _note if world.rank == 0 else None
    return Autoencoder(vae, device=device, tiling=run.vae_tiling, on_note=note).decode


def _train(arguments: argparse.Namespace) -> None:
    with join() as world:
        _header(f"train: {arguments.steps:,} steps on {arguments.data}, in {arguments.out}")
        world.share_cores()
        setup = world.first_then_all(lambda: _training_setup(arguments, world))
        from dit_eval.training import train

        with Progress("steps") as progress:
            end = train(
                arguments.out,
                **setup,
                world=world,
                num_workers=arguments.num_workers,
                on_progress=lambda done, total, loss: progress.update(
                    "training", done, total, "" if loss is None else f"loss {loss:.4f}"
                ),
                on_note=progress.note,
            )
        if world.rank == 0:
            words = [f"{end.steps:,} steps"]
            words += [] if end.loss is None else [f"loss {end.loss:.4f}"]
            words += [] if end.images_per_second is None else [f"{end.images_per_second:.1f} images/s"]
            sys.stdout.write(f"{end.ema}: {', '.join(words)}\n")


def _training_setup(arguments: argparse.Namespace, world: World) -> dict[str, Any]:
    """Data, model and recipe as asked for: everything a user may have got wrong."""
    from dit_eval.diffusion.trainer import Recipe, check_schedule
    from dit_eval.training import check_training

    if arguments.num_workers < 0:
        raise ValueError(f"--num-workers {arguments.num_workers}: needed 0 or more.")
    device = world.device(arguments.device)
    recipe = Recipe(
        learning_rate=arguments.lr,
        weight_decay=arguments.weight_decay,
        batch_size=arguments.batch_size,
        ema_decay=arguments.ema,
        flip=0.0 if arguments.no_flips else 0.5,
        global_seed=arguments.global_seed,
        precision=arguments.precision,
        compile=arguments.compile,
        warm_up=arguments.warm_up,
        decay_steps=arguments.steps if arguments.cosine_decay else None,
        ema_warm_up=arguments.ema_warm_up,
    )
    sizes = ("depth", "hidden_size", "num_heads", "patch_size")
    given = [name for name in sizes if getattr(arguments, name) is not None]
    if bool(arguments.model) == bool(given) or (given and len(given) < len(sizes)):
        options = " ".join(f"--{name.replace('_', '-')}" for name in sizes)
        raise ValueError(f"Name a model of the paper by --model, or give all of {options}; one of the two.")
    schedule: dict[str, Any] = {
        "recipe": recipe,
        "steps": arguments.steps,
        "save_at": arguments.save_at,
        "save_every": arguments.save_every,
        "log_every": arguments.log_every,
        "device": device,
        "micro_batch": arguments.per_proc_batch_size,
    }
    # Before the data are opened, which may take long: options alone, and the model as far as it does not hang on them.
    check_schedule(**schedule, world=world)
    _check_training_model(arguments)
    if world.rank == 0:
        _check_destination("--out", arguments.out, folder=True)
    data = _training_data(arguments, world)
    config = _training_config(arguments, data)
    check_training(data, config=config, **schedule, world=world)
    return {"data": _readable(arguments, data, world), "config": config, **schedule}


def _check_training_model(arguments: argparse.Namespace) -> None:
    from dit_eval.models.dit import BLOCK_DESIGNS, DiTConfig, named_config

    _check_block(arguments.block, BLOCK_DESIGNS)
    if not 0 <= arguments.label_dropout < 1:
        raise ValueError(f"--label-dropout {arguments.label_dropout}: needed 0 or more, and less than 1.")
    if arguments.num_classes is not None and arguments.num_classes < 1:
        raise ValueError(f"--num-classes {arguments.num_classes}: needed at least 1.")
    if arguments.model:
        named_config(arguments.model)
        return
    sizes = {name: getattr(arguments, name) for name in ("depth", "hidden_size", "num_heads", "patch_size")}
    if min(sizes.values()) < 1:
        raise ValueError(f"Found {sizes}; needed at least 1 of each.")
    DiTConfig(**sizes, input_size=sizes["patch_size"])  # the smallest such model: only its own sizes can be wrong


def _training_data(arguments: argparse.Namespace, world: World) -> TrainingData:
    from dit_eval.diffusion.data import open_data

    path: Path = arguments.data
    is_folder = path.is_dir() and not (path / "latents.json").is_file()
    if arguments.grey and path.is_dir():
        raise ValueError("--grey is for the grey images of an npz.")
    if arguments.image_size is not None and path.exists() and not is_folder:
        raise ValueError(f"--image-size is for a folder of images; {path} has its own size.")
    if arguments.model and is_folder:
        raise ValueError(
            f"--data {path}: images, and {arguments.model} is a model of latents. Encode them once: "
            f"dit-eval encode {path} --out LATENTS --image-size {arguments.image_size or 256}"
        )
    with Progress() as progress:
        report = partial(progress.update, "checksums") if world.rank == 0 else None
        return open_data(path, image_size=arguments.image_size, channels=1 if arguments.grey else 3, on_progress=report)


def _readable(arguments: argparse.Namespace, data: TrainingData, world: World) -> TrainingData:
    """The data without files that cannot be read, if they are to be left out; each is opened once for that."""
    from dit_eval.diffusion.data import ImageFolder

    if not isinstance(data, ImageFolder) or arguments.on_corrupt != "skip":
        return data
    note = _say if world.rank == 0 else (lambda _: None)
    return data.without_corrupt(note, num_workers=arguments.num_workers)


def _training_config(arguments: argparse.Namespace, data: TrainingData) -> DiTConfig:
    """The model that is asked for, on what the data are."""
    import dataclasses

    from dit_eval.models.dit import DiTConfig, named_config

    channels, side, _ = data.shape
    fields: dict[str, Any] = {
        "block": arguments.block,
        "label_dropout": arguments.label_dropout,
        "num_classes": data.num_classes if arguments.num_classes is None else arguments.num_classes,
    }
    if arguments.model:
        if data.space != "latent":
            raise ValueError(
                f"--data {arguments.data}: images, and {arguments.model} is a model of latents. Give the sizes of a "
                "pixel-space model, or encode a folder of images by `dit-eval encode`."
            )
        return dataclasses.replace(named_config(arguments.model), input_size=side, **fields)
    sizes = {name: getattr(arguments, name) for name in ("depth", "hidden_size", "num_heads", "patch_size")}
    return DiTConfig(**sizes, **fields, input_size=side, in_channels=channels, space=data.space)


def _encode(arguments: argparse.Namespace) -> None:
    with join() as world:
        _header(f"encode: images of {arguments.folder}, into {arguments.out}")
        watch = Watch()
        folder, vae, sha256 = world.from_first(lambda: _encode_setup(arguments, watch))
        world.share_cores()
        import torch

        from dit_eval.encoding import encode
        from dit_eval.models.vae import SCALE, Autoencoder

        device = world.device(arguments.device)
        note = _note if world.rank == 0 else None
        autoencoder = world.first_then_all(lambda: Autoencoder(vae, device=device, on_note=note))
        world.barrier()
        world.from_first(watch.check)  # of the checksum and of what all processes have loaded

        def encoder(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.inference_mode():
                mean, std = autoencoder.encode(torch.from_numpy(images).to(device))
            return mean.cpu().numpy(), std.cpu().numpy()

        with Progress() as progress:
            kept = encode(
                folder,
                arguments.out,
                encoder=encoder,
                vae=shown(Path(arguments.vae).name),
                vae_sha256=sha256,
                scale=SCALE,
                dtype="float16" if arguments.half else "float32",
                on_corrupt=arguments.on_corrupt,
                world=world,
                num_workers=arguments.num_workers,
                on_progress=partial(progress.update, "encoded"),
                on_note=progress.note,
            )
        if world.rank == 0:
            classes = f"{len(folder.classes):,} classes" if folder.classes else "no class folders"
            left_out = f", {len(folder) - kept:,} skipped" if kept < len(folder) else ""
            sys.stdout.write(f"{arguments.out}: {kept:,} images and their mirror images, {classes}{left_out}\n")


def _encode_setup(arguments: argparse.Namespace, watch: Watch) -> tuple[ImageFolder, Path, str]:
    """Images, autoencoder and its SHA-256: everything a user may have got wrong."""
    from dit_eval.diffusion.data import list_images
    from dit_eval.diffusion.latents import check_latents_folder
    from dit_eval.models.dit import LATENT_FACTOR
    from dit_eval.system.assets import sha256_of

    World().device(arguments.device)
    if arguments.image_size % LATENT_FACTOR or arguments.image_size < LATENT_FACTOR:
        raise ValueError(f"--image-size {arguments.image_size}: needed a multiple of {LATENT_FACTOR}.")
    check_latents_folder(arguments.out)
    _local_decoder(arguments.vae)
    folder = list_images(arguments.folder, image_size=arguments.image_size)
    _check_destination("--out", arguments.out.absolute().parent, folder=True)
    vae = _decoder_path(arguments.vae)
    watch.see(vae)
    with Progress() as progress:
        return folder, vae, sha256_of(vae, partial(progress.update, "checksums"))


def _study_run(arguments: argparse.Namespace) -> None:
    _header(f"study: plan {arguments.plan}" + ("" if arguments.out is None else f", in {arguments.out}"))
    from dit_eval.study.plan_file import load_plan

    plan = load_plan(arguments.plan)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"--jobs {arguments.jobs}: needed at least 1.")
    if arguments.dry_run:
        sys.stdout.write(_format_plan(plan))
        return
    if arguments.out is None:
        raise ValueError("--out DIR is missing: the folder of the study.")
    _check_destination("--out", arguments.out, folder=True)
    from dit_eval.study.folder import Study
    from dit_eval.study.sources import check_study, find_sources

    study = Study(plan, arguments.out)
    study.check_folder()
    sources = find_sources(
        plan,
        train=arguments.data,
        ref=arguments.ref,
        weights=arguments.weights,
        device=arguments.device,
        on_note=_say,
    )
    check_study(plan, sources)
    _say(_format_cost(plan, study.missing()))
    with Progress("tasks", time_left=False) as progress, ExitStack() as stack:  # the study knows the time left better
        engine, workers = _study_engine(arguments, study, stack)
        count = study.run(
            engine,
            sources,
            workers=workers,
            interval=1.0 if arguments.engine == "local" else 5.0,
            on_note=progress.note,
            on_progress=lambda done, total, left: progress.update(
                plan.name, done, total, "" if left is None else f"about {duration(left)} left"
            ),
        )
    sys.stdout.write(
        f"{study.results}: {count:,} results\nFigures: dit-eval study report {arguments.plan} --out {study.folder}\n"
    )


def _study_engine(arguments: argparse.Namespace, study: Study, stack: ExitStack) -> tuple[Engine, int]:
    """Where the study's tasks run, and how many at once."""
    resources = [study.plan.resources(task) for task in study.plan.tasks]
    if arguments.engine == "slurm":
        from dit_eval.study.slurm import SlurmEngine

        limit = arguments.jobs or 16
        slurm = SlurmEngine(study.folder / "slurm", limit=limit)
        slurm.check(resources)
        return slurm, limit
    from dit_eval.study.tasks import local_engine

    engine, limit = local_engine(study, device=arguments.device, jobs=arguments.jobs)
    return stack.enter_context(engine), limit


def _study_status(arguments: argparse.Namespace) -> None:
    import dataclasses

    from dit_eval.study.folder import Study
    from dit_eval.study.plan_file import load_plan

    study = Study(load_plan(arguments.plan), arguments.out)
    study.check_begun()
    rows = study.status()
    if arguments.json:
        tasks = [
            {
                "key": row.task.key,
                "name": row.task.name,
                "state": row.state,
                "done_share": row.done_share,
                "gflops": row.gflops,
                "seconds_left": row.seconds_left,
                "reason": row.reason,
                "result": dataclasses.asdict(row.result) if row.result else None,
            }
            for row in rows
        ]
        sys.stdout.write(json.dumps({"tasks": tasks}, ensure_ascii=False) + "\n")
        return
    table = [("task", "state", "Gflops", "time left", "FID")]
    for row in rows:
        state = row.state if row.state in ("done", "waiting", "ready") else f"{row.state} {row.done_share:.0%}"
        left = "" if row.state == "done" else "?" if row.seconds_left is None else duration(row.seconds_left)
        fid = f"{row.result.fid:.3f}" if row.result and row.result.fid is not None else ""
        table.append((row.task.name, state, f"{row.gflops:,.0f}", left, fid))
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for name, state, *numbers in table:
        cells = [f"{text:>{width}}" for text, width in zip(numbers, widths[2:], strict=True)]
        sys.stdout.write("  ".join([f"{name:<{widths[0]}}", f"{state:<{widths[1]}}", *cells]).rstrip() + "\n")
    states = [row.state for row in rows]
    counts = {state: states.count(state) for state in ("done", "running", "failed")}
    known = [row.seconds_left for row in rows if row.seconds_left is not None]
    seconds = sum(known) if len(known) == len(rows) else 0.0
    total = f", about {duration(seconds)} of one worker left" if seconds else ""
    sys.stdout.write(
        f"{counts['done']} of {len(rows)} done, {counts['running']} running, {counts['failed']} failed{total}\n"
    )
    for row in rows:
        if row.reason:
            sys.stdout.write(f"failed: {row.task.name}: {row.reason}\n")


def _study_report(arguments: argparse.Namespace) -> None:
    from dit_eval.report.law import measured_laws
    from dit_eval.report.page import write_report
    from dit_eval.study.folder import Study
    from dit_eval.study.plan_file import load_plan

    study = Study(load_plan(arguments.plan), arguments.out)
    study.check_begun()
    if not study.collect():
        raise ValueError(f"{study.folder}: no cell is done; run the study first.")
    page = write_report(
        out=study.folder / "report", results=study.results, losses=study.losses, force=True, on_step=_say
    )
    for setting, law in measured_laws(study.results).items():
        sys.stdout.write("\n".join([f"{setting}:", *(f"  {line}" for line in law.sentences(most=5))]) + "\n")
    sys.stdout.write(f"{page}\n")


def _study_show(arguments: argparse.Namespace) -> None:
    from dit_eval.study.plan_file import load_plan

    sys.stdout.write(load_plan(arguments.plan).text)


def _study_work(arguments: argparse.Namespace) -> None:
    if World.from_environment().size > 1:
        from dit_eval.study.local import end_with

        end_with(os.getppid())  # torchrun, which gives its processes sessions of their own, may be killed
    with join() as world:
        from dit_eval.study.folder import Study

        study = Study.open(arguments.plan)
        task = study.plan.task(arguments.key)
        world.share_cores(study.plan.resources(task).threads)
        with Progress("images" if task in study.plan.cells else "steps") as progress:
            study.work(arguments.key, world=world, on_progress=partial(progress.update, task.name))


def _format_plan(plan: Plan) -> str:
    """Tasks and cost of a plan, before anything is done."""
    from dit_eval.study.pace import predicted_hours, work_gflops

    table = [("task", "processes", "Gflops", "device-hours")]
    for task in plan.tasks:
        resources, hours = plan.resources(task), predicted_hours(plan, [task])
        processes = f"{resources.nodes} x {resources.processes}"
        table.append((task.name, processes, f"{work_gflops(task):,.0f}", "?" if hours is None else f"{hours:,.2f}"))
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join([f"{line[0]:<{widths[0]}}", *(f"{line[i]:>{widths[i]}}" for i in (1, 2, 3))]) for line in table]
    return "\n".join([f"{plan.name}: {plan.about}", *lines, _format_cost(plan, plan.tasks)]) + "\n"


def _format_cost(plan: Plan, tasks: list[Any]) -> str:
    """What tasks cost, in words."""
    from dit_eval.study.pace import predicted_hours, work_gflops
    from dit_eval.study.plan import Training

    trainings = [task for task in tasks if isinstance(task, Training)]
    cells = [task for task in tasks if not isinstance(task, Training)]
    text = (
        f"to do: {len(trainings)} trainings, {sum(map(work_gflops, trainings)):,.0f} Gflops; {len(cells)} cells, "
        f"{sum(map(work_gflops, cells)):,.0f} Gflops (1e9 multiply-adds; evaluation and decoding not counted)"
    )
    hours = predicted_hours(plan, tasks)
    if plan.speed is not None and hours is not None:
        text += (
            f"\nabout {hours:,.2f} device-hours: {plan.speed.device} at {plan.speed.tflops:g} Tflop/s "
            f"({plan.speed.source})"
        )
    return text


def _grid(arguments: argparse.Namespace) -> None:
    from dit_eval.report.figures.style import picture_files

    refuse_existing(picture_files(arguments.out), force=arguments.force)
    _check_destination("--out", arguments.out)
    count = arguments.count or (36 if len(arguments.samples) == 1 else 8)
    _draw_grid(arguments.samples, arguments.out, first=arguments.first, count=count)


def _draw_grid(samples: Sequence[Path], out: Path, *, first: int, count: int) -> None:
    from dit_eval.images.npz import open_batch
    from dit_eval.report.figures.samples import sample_grid_figure
    from dit_eval.report.figures.style import save_figure

    if first < 0 or count < 1:
        raise ValueError(f"Images {first} to {first + count - 1} asked for; needed a first of 0 or more and a count.")
    batches = {path: open_batch(path, role="gen") for path in samples}
    short = [path for path, batch in batches.items() if batch.num_images < first + count]
    if short:
        raise ValueError(f"{short[0]}: {batches[short[0]].num_images:,} images; needed {first + count:,}.")
    rows, labels, seeds = {}, set(), set()
    for path, batch in batches.items():
        name = batch.run.summary() if batch.run and len(samples) > 1 else shown(path)
        rows[name if name not in rows else f"{name} ({shown(path)})"] = _some_images(batch, first, count)
        labels.add(None if batch.labels is None else tuple(batch.labels[first : first + count]))
        seeds.add(batch.run.global_seed if batch.run else None)
    aligned = len(labels) == 1 and len(seeds) == 1 and None not in labels | seeds
    if len(samples) > 1 and not aligned:
        _say("warning: these files differ in seed or labels, or do not say: a column is not one noise and one class")
    common = next(iter(labels)) if len(labels) == 1 else None
    columns = [f"class {label}" for label in common] if common else None
    png, pdf = save_figure(sample_grid_figure(rows, columns=columns), out)
    sys.stdout.write(f"{png} {pdf}\n")


def _some_images(batch: ImageBatch, first: int, count: int) -> np.ndarray:
    import numpy as np

    kept, begin = [], 0
    for images in batch.batches(64):
        kept.append(images[max(first - begin, 0) : first + count - begin])
        begin += len(images)
        if begin >= first + count:
            break
    return np.concatenate(kept)


def _classes(arguments: argparse.Namespace) -> None:
    if arguments.worst < 1 or arguments.images < 1:
        raise ValueError(f"--worst {arguments.worst}, --images {arguments.images}: needed at least 1 of each.")
    gen = _open_images(arguments.samples, "gen", arguments.num_samples)
    _check_destination("--json", arguments.json)
    _check_destination("--grid", arguments.grid)
    _check_destination("--cache", arguments.cache, folder=True)
    _check_extractor(arguments)
    ref = _open_images(_reference_path(arguments.ref), "ref")
    if arguments.grid and gen.image_size != ref.image_size:
        raise ValueError(
            f"{gen.path} and {ref.path} have images of different sizes, and --grid draws them side by side; drop it."
        )
    _header(_network_line(arguments))
    from dit_eval.checks.classes import score_classes

    extractor = _extractor(arguments)
    with Progress(names=_FEATURES) as progress:
        report = score_classes(
            gen=gen,
            ref=ref,
            extractor=extractor,
            batch_size=arguments.batch_size,
            cache=arguments.cache,
            on_progress=progress.update,
            on_note=progress.note,
        )
    for warning in report.warnings:
        _say(f"warning: {warning}")

    def draw(path: Path) -> None:
        for written in _draw_classes(report, gen, ref, arguments, path):
            _say(f"written: {written}")

    files = [_File(option="--grid", path=arguments.grid, write=draw)] if arguments.grid else []
    _tell_json(arguments.json, report.to_json(), report.text(arguments.worst), *files)


def _draw_classes(
    report: ClassReport, gen: ImageSet, ref: ImageSet, arguments: argparse.Namespace, path: Path
) -> tuple[Path, Path]:
    import numpy as np

    from dit_eval.checks.classes import images_of_class
    from dit_eval.report.figures.samples import sample_grid_figure
    from dit_eval.report.figures.style import save_figure

    sides = (("sample", gen), ("reference", ref))
    rows = {}
    for score in report.worst(arguments.worst):
        parts = [images_of_class(images, score.label, arguments.images) for _, images in sides]
        # White where a class has fewer images.
        full = [
            np.concatenate([part, np.full((arguments.images - len(part), *part.shape[1:]), 255, np.uint8)])
            for part in parts
        ]
        rows[f"class {score.label}: KID {score.kid:.3g} ± {score.standard_error:.2g}"] = np.concatenate(full)
    if not rows:
        raise ValueError("No class has a distance, so there is nothing to draw; see the counts without --grid.")
    columns = [f"{name} {k + 1}" for name, _ in sides for k in range(arguments.images)]
    names = " beside ".join(shown(Path(images.path).name) for _, images in sides)
    title = f"{names}, features of {report.extractor.name}: the {len(rows)} worst classes"
    figure = sample_grid_figure(rows, columns=columns, title=title)
    return save_figure(figure, path)


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


def _flops(arguments: argparse.Namespace) -> None:
    if bool(arguments.models) == arguments.all:
        raise ValueError("Name the models to count, such as DiT-XL/2 or ADM-256, or pass --all; one of the two.")
    if arguments.all and (arguments.image_size or arguments.block):
        raise ValueError("--all counts the paper's models as they are; drop --image-size and --block.")
    _check_destination("--json", arguments.json)
    _header(f"flops: counting {', '.join(arguments.models) or 'every model of Tables 1, 4 and 6'}")
    from dit_eval.flops.count import check_model, count_model
    from dit_eval.flops.counts import FlopCount
    from dit_eval.flops.printed import counted_row, paper_rows

    options = {"image_size": arguments.image_size, "block": arguments.block}
    for name in arguments.models:
        check_model(name, **options)
    counts: list[FlopCount] = []
    total = len(arguments.models) or None
    with Progress("models") as progress:

        def count(name: str, **which: Any) -> FlopCount:
            progress.update("counting", len(counts), total, name)
            counts.append(count_model(name, **which))
            return counts[-1]

        if arguments.all:
            rows = paper_rows(count)
        else:
            rows = [counted_row(name, count(name, **options), **options) for name in arguments.models]
    operators = [] if arguments.all else [count.by_operator for count in counts]
    found = json.dumps(_flops_object(rows, operators, arguments.convention), ensure_ascii=False)
    _tell_json(arguments.json, found, _format_flops(rows, operators, arguments.convention))


def _flops_object(rows: list[ComplexityRow], operators: list[Any], convention: Any) -> dict[str, Any]:
    from dit_eval.system.environment import environment

    objects = [row.to_json(convention) for row in rows]
    for each, parts in zip(objects, operators, strict=False):  # none with --all
        each["by_operator"] = {
            name: {"macs": c.macs, "norm_elements": c.norm_elements, "fvcore": c.fvcore} for name, c in parts.items()
        }
    return {"convention": convention, "rows": objects, "environment": environment()}


def _format_flops(rows: list[ComplexityRow], operators: list[Any], convention: Any) -> str:
    """The rows as people read them, a block for each of the paper's tables, remarks below."""
    lines: list[str] = []
    remarks: list[str] = []
    named = bool(operators)
    for number in [None] if named else sorted({row.table for row in rows if row.table}):
        block = [row for row in rows if named or row.table == number]
        lines += [f"Table {number}"] if number else []
        head = ("model", "px", "block", "params M", "printed", "Gflops", "paper", "fvcore", "mac", "difference")
        table: list[tuple[str, ...]] = [head]
        marks = [""]
        for row in block:
            found = row.remarks(convention)
            if found:
                remarks.append(f"{row.model} {row.image_size}: {' '.join(found)}")
            marks.append(f"  {'x' if row.agrees(convention) is False else ' '} [{len(remarks)}]" if found else "")
            table.append(
                (
                    row.model,
                    str(row.image_size),
                    row.block or "-",
                    f"{row.params / 1e6:.2f}",
                    "-" if row.published_params_m is None else str(row.published_params_m),
                    "-" if row.published is None else f"{row.published:.{row.decimals}f}",
                    *(f"{row.gflops(name):.4f}" for name in ("paper", "fvcore", "mac")),
                    "-" if (difference := row.difference(convention)) is None else f"{difference:+.4f}",
                )
            )
        for cells, mark in zip(table, marks, strict=True):
            model, size, design, *numbers = cells
            lines.append(f"  {model:<20}{size:>4}  {design:<16}" + "".join(f"{n:>11}" for n in numbers) + mark)
        lines.append("")
    for row, parts in zip(rows, operators, strict=False):  # none with --all
        lines.append(f"{row.model}, {row.image_size} px, by operator")
        lines += [f"  {name:<32} {counts.gflops(convention):>14.6f}" for name, counts in parts.items()]
        lines.append("")
    lines += [f"[{number}] {remark}" for number, remark in enumerate(remarks, start=1)]
    lines += [""] if remarks else []
    lines.append(
        "printed, Gflops: the paper's parameters (M) and Gflops (1e9 multiply-adds of one forward pass, batch 1, no "
        f"guidance). Difference: count by `{convention}` less the paper's."
    )
    lines.append("x: the printed digits are not reached" if any("  x [" in line for line in lines) else "")
    return "\n".join(lines).rstrip() + "\n"


def _weights_list(arguments: argparse.Namespace) -> None:
    from dit_eval.system.assets import assets, cache_dir, sha256_of

    files, lines = [], []
    for item in assets():
        # Embedded files are small, and have no publisher who could state it.
        sha256 = sha256_of(item.path) if item.url is None else item.sha256
        size = item.path.stat().st_size if item.path.is_file() else None
        state = "not here" if size is None else "here"
        files.append(
            {
                "name": item.name,
                "kind": item.kind,
                "state": state,
                "url": item.url,
                "file": item.filename,
                "path": str(item.path),
                "size": item.size,
                "size_bytes": size,
                "sha256": sha256,
                "note": item.note,
            }
        )
        length = item.size or "-" if size is None else size_text(size)
        lines += [
            f"{item.name:<16} {item.kind:<10} {state:<9} {length:>9}  {item.note}",
            f"    address  {item.url or 'none: it comes with dit-eval'}",
            f"    file     {item.filename}",
            f"    path     {item.path}",
            f"    sha256   {sha256 or '- (the publisher states none)'}",
        ]
    if arguments.json:
        sys.stdout.write(json.dumps({"cache": str(cache_dir()), "files": files}, ensure_ascii=False) + "\n")
        return
    sys.stdout.write("\n".join([*lines, f"cache: {cache_dir()} (set DIT_EVAL_CACHE to move it)"]) + "\n")


def _weights_fetch(arguments: argparse.Namespace) -> None:
    from dit_eval.system.assets import asset

    sys.stdout.write(f"{_fetch(asset(arguments.name), arguments.url)}\n")


def _weights_verify(arguments: argparse.Namespace) -> None:
    from dit_eval.system.assets import asset, verify

    item = asset(arguments.name)
    found = verify(item)
    state = "as pinned" if item.sha256 else "the publisher states no checksum to compare with"
    sys.stdout.write(f"{item.path}\nsha256 {found}: {state}\n")


def _report(arguments: argparse.Namespace) -> None:
    _check_destination("--out", arguments.out, folder=True)
    _header(f"report: into {arguments.out}")
    from dit_eval.report.page import write_report

    page = write_report(
        out=arguments.out,
        results=arguments.results,
        losses=arguments.losses,
        force=arguments.force,
        on_bad_line=(lambda line: _say(f"warning: left out {line}")) if arguments.skip_bad_lines else None,
        on_step=_say,
    )
    sys.stdout.write(f"{page}\n")


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
                    cache=arguments.cache,
                    on_progress=progress.update,
                    on_note=progress.note,
                )
            )
    return found


def _quickstart(arguments: argparse.Namespace) -> None:
    _check_destination("--out", arguments.out, folder=True)
    _header(f"quickstart: into {arguments.out}")
    from dit_eval.quickstart import quickstart

    sys.stdout.write(quickstart(arguments.out, study=not arguments.no_study, on_step=_say))


def _reference_path(ref: str) -> Path:
    """A path, or the name of a public reference batch (fetched when it is not here yet)."""
    from dit_eval.system.assets import asset, assets

    files = {a.filename: a.name for a in assets() if a.kind == "reference"}
    names = [*files.values()]
    if Path(ref).is_file() or (Path(ref).exists() and ref not in names):  # ./digits is a folder of that name
        return Path(ref)
    if ref in names:
        return _fetch(asset(ref, "reference"))
    if Path(ref).name in files:
        name = files[Path(ref).name]
        raise FileNotFoundError(f"--ref {ref}: no such file. By name it is found in the cache or fetched: --ref {name}")
    if Path(ref).suffix or os.sep in ref:
        return Path(ref)  # opening it says that it is not there
    hint = did_you_mean(ref, names)
    raise ValueError(f"--ref {ref}: neither a file nor a known reference; known: {', '.join(names)}.{hint}")


def _extractor_class(arguments: argparse.Namespace) -> Any:
    """The chosen class, which knows its feature sizes before any weights are loaded."""
    if arguments.extractor == "digits":
        if arguments.weights or arguments.backend != "torch" or arguments.precision != "fp32":
            raise ValueError(
                "--extractor digits carries its own weights, runs on torch and has one precision; drop --weights, "
                "--backend and --precision."
            )
        from dit_eval.features.digits import DigitsExtractor

        return DigitsExtractor
    if arguments.extractor in ("dinov2", "clip"):
        if arguments.backend != "torch" or arguments.precision != "fp32":
            raise ValueError(
                f"--extractor {arguments.extractor} runs on torch and in fp32 only; drop --backend and --precision."
            )
        from dit_eval.features.clip import ClipVision
        from dit_eval.features.dinov2 import DinoV2

        return DinoV2 if arguments.extractor == "dinov2" else ClipVision
    if arguments.backend == "tensorflow":
        if arguments.precision != "fp32":
            raise ValueError(
                f"--precision {arguments.precision} needs --backend torch; TensorflowInception runs in fp32."
            )
        from dit_eval.features.tensorflow import TensorflowInception

        return TensorflowInception
    from dit_eval.features.inception import TorchInception

    return TorchInception


def _check_extractor(arguments: argparse.Namespace, world: World | None = None) -> Any:
    """The chosen class, if its options are right: before any images are opened and anything is fetched."""
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size}: needed at least 1.")
    extractor, device = _extractor_class(arguments), (world or World()).device(arguments.device)
    if arguments.extractor == "inception" and arguments.backend == "torch":
        from dit_eval.features.inception import check_precision

        check_precision(arguments.precision, device)
    if arguments.weights is not None and not arguments.weights.is_file():
        raise FileNotFoundError(
            f"--weights {arguments.weights}: no such file. Leave the option out to download it, or see `dit-eval "
            "weights list`."
        )
    return extractor


def _extractor(arguments: argparse.Namespace, world: World | None = None) -> FeatureExtractor:
    from dit_eval.system.assets import asset

    extractor, device = _check_extractor(arguments, world), (world or World()).device(arguments.device)
    _header(f"device  {device}")
    if arguments.extractor == "digits":
        return extractor(device=device)
    options = {"device": device}
    if arguments.extractor == "inception" and arguments.backend == "torch":
        options["precision"] = arguments.precision
    weights = arguments.weights
    if weights is None:
        name = "inception-graph" if arguments.backend == "tensorflow" else arguments.extractor
        weights = _fetch(asset(name, "weights"))
    return extractor(weights=weights, **options)


def _network_line(arguments: argparse.Namespace) -> str:
    """The network as it is asked for; its device is known once PyTorch is loaded."""
    runs = "" if arguments.extractor != "inception" else f" on {arguments.backend}, {arguments.precision}"
    return f"network  {arguments.extractor}{runs}: loading"


def _fetch(item: Any, url: str | None = None) -> Path:
    from dit_eval.system.assets import fetch

    if item.url is None or item.path.is_file():
        return fetch(item)
    with Progress(in_bytes=(item.name,)) as progress:
        return fetch(item, url=url, on_progress=partial(progress.update, item.name))


def _format_result(result: EvalResult) -> str:
    """The result as people read it; see design of the output in the README."""
    extractor = result.extractor.name
    count = f"{result.num_samples // 1000}K" if result.num_samples % 1000 == 0 else str(result.num_samples)
    suffix = "" if extractor == "inception" else f" ({extractor})"
    size = "x".join(str(n) for n in reversed(result.gen.image_size or ()))
    rows: list[tuple[str, str, float | None]] = [
        (f"FID-{count}{suffix}", "fid", result.fid),
        (f"sFID-{count}{suffix}", "sfid", result.sfid),
        (f"Inception Score{suffix}", "inception_score", result.inception_score),
        (f"Precision{suffix}", "precision", result.precision),
        (f"Recall{suffix}", "recall", result.recall),
        (f"KID{suffix}", "kid", result.kid),
        (f"Density{suffix}", "density", result.density),
        (f"Coverage{suffix}", "coverage", result.coverage),
        (f"FD-DINOv2-{count}", "fd_dinov2", result.fd_dinov2),
        ("CMMD", "cmmd", result.cmmd),
    ]
    rows += _extrapolations(result)
    tails = _tails(result.uncertainty)
    images = f"{result.num_reference:,} images" if result.num_reference else "no images used"
    lines = [
        f"gen  {result.gen.path:<28} {result.num_samples:,} images, {size} px"
        + (f"   {result.gen.run.summary()}" if result.gen.run else ""),
        f"ref  {result.ref.path:<28} {images}, {result.ref.statistics} statistics",
    ]
    width = max(len(name) for name, _, _ in rows)
    for name, key, value in rows:
        if value is not None:
            digits = 6 if key == "kid" else 4  # of a good model it is some thousandths
            lines.append(f"  {name:<{width}}  {value:>10.{digits}f}{tails.get(key, '')}")
    lines += _biases(result, count)
    commit = result.environment.get("commit")
    version = f"dit_eval {result.environment['dit_eval']}"
    if commit:
        version += f" ({commit[:7]}{', changed' if result.environment['dirty'] else ''})"
    if result.badge is not None:
        lines.append(f"as published: {result.badge.text()}")
    tail = [result.protocol, f"{extractor} on {result.extractor.backend}, {result.extractor.device}", version]
    lines.append(" · ".join(tail))
    return "\n".join(lines) + "\n"


def _tails(uncertainty: Uncertainty | None) -> dict[str, str]:
    """What stands behind each number: standard error and interval, or why there is none."""
    from dit_eval.results.eval_result import ESTIMATES

    if uncertainty is None:
        return {}
    texts = {name: f"  no interval: {reason}" for name, reason in uncertainty.missing.items()}
    for name in ESTIMATES:
        estimate = getattr(uncertainty, name)
        if estimate is not None:
            texts[name] = f"  ± {estimate.standard_error:.4f}   95 %: {estimate.low:.4f} to {estimate.high:.4f}"
    return texts


def _extrapolations(result: EvalResult) -> list[tuple[str, str, float | None]]:
    """Rows below the metrics: Fréchet distances for 50,000 images, where these are fewer, and for any number."""
    rows: list[tuple[str, str, float | None]] = []
    for title, key in (("FID", "fid"), ("sFID", "sfid")):
        at_50k = getattr(result.uncertainty, f"{key}_50k", None)
        infinity = getattr(result.uncertainty, f"{key}_infinity", None)
        if at_50k is not None and result.num_samples < 50_000:
            rows.append((f"{title}-50K, estimated", f"{key}_50k", at_50k.value))
        if infinity is not None:
            rows.append((f"{title}-infinity", f"{key}_infinity", infinity.value))
    return rows


def _biases(result: EvalResult, count: str) -> list[str]:
    """What having fewer images than 50,000 adds to the distances, or why that is not known."""
    lines = []
    for title, key in (("FID", "fid"), ("sFID", "sfid")):
        value, at_50k = getattr(result, key), getattr(result.uncertainty, f"{key}_50k", None)
        if at_50k is not None and result.num_samples < 50_000:
            more = f"{value - at_50k.value:.4f} larger than {title}-50K"
            lines.append(f"  {title}-{count} is about {more} for having fewer images")
        elif result.uncertainty is not None and f"{key}_50k" in result.uncertainty.missing:
            lines.append(f"  {title} is not extrapolated: {result.uncertainty.missing[f'{key}_50k']}")
    return lines


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(text.encode())


def _note(text: str) -> None:
    _say(f"note: {text}")


def _say(text: str) -> None:
    write_stderr(f"{text}\n")
