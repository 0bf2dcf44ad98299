"""The command line: the only module that parses arguments, prints results and exits.

Heavy packages are imported inside the commands that need them, so that `dit-eval --help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import dit_eval

if TYPE_CHECKING:
    from dit_eval.features.extract import FeatureExtractor
    from dit_eval.report.complexity import ComplexityRow
    from dit_eval.results import EvalResult

USER_ERROR = 2
_METRICS = "fid,sfid,is,precision,recall"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit: 0 done, 2 a mistake of the user (one message, no traceback), 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if os.environ.get("DIT_EVAL_TRACEBACK"):
            raise
        _say(f"dit-eval: error: {error}")
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        _say("dit-eval: interrupted")
        sys.exit(130)
    sys.exit(0)


class _Parser(argparse.ArgumentParser):
    """argparse with a suggestion for a command or choice that is nearly right."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), [str(c) for c in action.choices], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            known = ", ".join(str(c) for c in action.choices)
            raise argparse.ArgumentError(action, f"unknown choice {value!r}; known: {known}.{hint}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dit-eval",
        description="Evaluate diffusion transformers: FID, sFID, Inception Score, precision and recall as ADM's suite.",
        epilog="Results go to stdout, progress and warnings to stderr; a mistake of yours exits with code 2.",
    )
    parser.add_argument("--version", action="version", version=f"dit-eval {dit_eval.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    evaluate = commands.add_parser(
        "evaluate",
        help="score a sample npz against a reference npz",
        description="Score a sample batch against a reference batch, by the protocol of ADM's evaluator.",
    )
    evaluate.add_argument("samples", type=Path, metavar="SAMPLES.npz", help="generated images: arr_0, uint8 NHWC")
    evaluate.add_argument(
        "--ref",
        required=True,
        help="reference npz, or a name: imagenet64, imagenet128, imagenet256, imagenet512, digits",
    )
    _add_extractor_options(evaluate)
    evaluate.add_argument(
        "--metrics",
        type=lambda text: [m.strip().lower() for m in text.split(",") if m.strip()],
        help=f"some of {_METRICS} (default: all)",
    )
    evaluate.add_argument("--num-samples", type=int, metavar="N", help="use the first N samples of the file")
    evaluate.add_argument(
        "--distances",
        choices=("adm-float16", "float32"),
        default="adm-float16",
        help="precision and recall distances: ADM's float16 rule (default), or exact float32",
    )
    evaluate.add_argument(
        "--allow-size-mismatch", action="store_true", help="score samples against a reference of another resolution"
    )
    evaluate.add_argument(
        "--cache", type=Path, metavar="DIR", help="keep features here; a second run skips the network"
    )
    evaluate.add_argument(
        "--results",
        type=Path,
        default=Path("results.jsonl"),
        metavar="FILE",
        help="append to FILE (default: %(default)s)",
    )
    evaluate.add_argument("--no-results", action="store_true", help="append to no file")
    evaluate.add_argument(
        "--json", metavar="FILE|-", help="also write the result as one JSON object; - prints only that"
    )
    evaluate.set_defaults(run=_evaluate)

    stats = commands.add_parser(
        "stats",
        help="make a reference npz from an npz of real images",
        description="Make a reference batch: statistics over all images, and some images for precision and recall.",
    )
    stats.add_argument("images", type=Path, metavar="IMAGES.npz", help="real images: arr_0, uint8 NHWC")
    stats.add_argument("--out", type=Path, required=True, metavar="REFERENCE.npz")
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
    flops.add_argument("--json", metavar="FILE|-", help="also write the rows as one JSON object; - prints only that")
    flops.set_defaults(run=_flops)

    weights = commands.add_parser("weights", help="list, fetch or verify public weights and reference batches")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="what there is, and what is on this machine").set_defaults(run=_weights_list)
    for action, run, text in (
        ("fetch", _weights_fetch, "download into the cache (goes on where it stopped, checked, atomic)"),
        ("verify", _weights_verify, "check a file in the cache"),
    ):
        command = actions.add_parser(action, help=text, description=text)
        command.add_argument("name", help="a name that `dit-eval weights list` shows")
        if action == "fetch":
            command.add_argument("--url", help="another address of the same file (a mirror)")
        command.set_defaults(run=run)

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
        metavar="FILE",
        help='loss log of a training: lines as {"model": .., "step": .., "loss": ..}',
    )
    report.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="default: %(default)s")
    report.add_argument("--force", action="store_true", help="write over an earlier report")
    report.add_argument(
        "--skip-bad-lines", action="store_true", help="leave out lines that are no result, with a warning, and go on"
    )
    report.set_defaults(run=_report)

    quickstart = commands.add_parser(
        "quickstart",
        help="see every metric at work on real digits, with no download",
        description="Evaluate real, blurred, noisy and class-collapsed digits; print a table, draw a figure.",
    )
    quickstart.add_argument("--out", type=Path, default=Path("quickstart"), metavar="DIR", help="default: %(default)s")
    quickstart.set_defaults(run=_quickstart)
    return parser


def _add_extractor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--extractor",
        choices=("inception", "digits"),
        default="inception",
        help="feature network: ADM's Inception (default), or the embedded digits CNN",
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="Inception weights, .pth or .pb (default: fetched into the cache)"
    )
    parser.add_argument(
        "--backend", choices=("torch", "tensorflow"), default="torch", help="program that runs Inception"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")


def _evaluate(arguments: argparse.Namespace) -> None:
    from dit_eval.npz import open_batch

    gen = open_batch(arguments.samples, role="gen", num_images=arguments.num_samples)
    ref = open_batch(_reference_path(arguments.ref), role="ref")
    from dit_eval.evaluate import check_request, evaluate

    request: dict[str, Any] = {"metrics": arguments.metrics, "allow_size_mismatch": arguments.allow_size_mismatch}
    check_request(gen=gen, ref=ref, sizes=_extractor_class(arguments), **request)
    extractor = _extractor(arguments)
    with _ProgressBars() as bars:
        result = evaluate(
            gen=gen,
            ref=ref,
            extractor=extractor,
            distances=arguments.distances,
            batch_size=arguments.batch_size,
            cache=arguments.cache,
            on_progress=bars.update,
            **request,
        )
    for warning in result.warnings:
        _say(f"warning: {warning}")
    appended = None if arguments.no_results else arguments.results
    if appended is not None:
        from dit_eval.results import append_result

        append_result(appended, result)
    if arguments.json == "-":
        sys.stdout.write(result.to_json() + "\n")
        return
    if arguments.json:
        _write_text(Path(arguments.json), result.to_json() + "\n")
    sys.stdout.write(_format_result(result, appended))


def _stats(arguments: argparse.Namespace) -> None:
    from dit_eval.npz import open_batch

    images = open_batch(arguments.images, role="gen")
    from dit_eval.evaluate import write_reference

    with _ProgressBars() as bars:
        kept = write_reference(
            images=images,
            out=arguments.out,
            extractor=_extractor(arguments),
            num_images=arguments.num_images,
            batch_size=arguments.batch_size,
            on_progress=bars.update,
        )
    sys.stdout.write(f"{arguments.out}: statistics of {images.num_images:,} images, {kept:,} images kept\n")


def _flops(arguments: argparse.Namespace) -> None:
    if bool(arguments.models) == arguments.all:
        raise ValueError("Name the models to count, such as DiT-XL/2 or ADM-256, or pass --all; one of the two.")
    if arguments.all and (arguments.image_size or arguments.block):
        raise ValueError("--all counts the paper's models as they are; drop --image-size and --block.")
    from dit_eval.flops import FlopCount, check_model, count_model
    from dit_eval.report.complexity import counted_row, paper_rows

    options = {"image_size": arguments.image_size, "block": arguments.block}
    for name in arguments.models:
        check_model(name, **options)
    from tqdm import tqdm

    counts: list[FlopCount] = []
    seldom = 0.1 if sys.stderr.isatty() else 30
    total = len(arguments.models) or None
    with tqdm(total=total, unit="model", file=sys.stderr, leave=False, mininterval=seldom) as bar:

        def count(name: str, **which: Any) -> FlopCount:
            bar.set_description(name, refresh=False)
            counts.append(count_model(name, **which))
            bar.update()
            return counts[-1]

        if arguments.all:
            rows = paper_rows(count)
        else:
            rows = [counted_row(name, count(name, **options), **options) for name in arguments.models]
    operators = [] if arguments.all else [count.by_operator for count in counts]
    if arguments.json:
        text = json.dumps(_flops_object(rows, operators, arguments.convention), ensure_ascii=False) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
            return
        _write_text(Path(arguments.json), text)
    sys.stdout.write(_format_flops(rows, operators, arguments.convention))


def _flops_object(rows: list[ComplexityRow], operators: list[Any], convention: Any) -> dict[str, Any]:
    from dit_eval.results import environment

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
    from dit_eval.assets import assets, cache_dir

    for item in assets():
        state = "here" if item.path.is_file() else "not here"
        sys.stdout.write(f"{item.name:<16} {item.kind:<10} {state:<9} {item.note}\n")
    sys.stdout.write(f"cache: {cache_dir()} (set DIT_EVAL_CACHE to move it)\n")


def _weights_fetch(arguments: argparse.Namespace) -> None:
    from dit_eval.assets import asset

    sys.stdout.write(f"{_fetch(asset(arguments.name), arguments.url)}\n")


def _weights_verify(arguments: argparse.Namespace) -> None:
    from dit_eval.assets import asset, verify

    item = asset(arguments.name)
    found = verify(item)
    state = "as pinned" if item.sha256 else "the publisher states no checksum to compare with"
    sys.stdout.write(f"{item.path}\nsha256 {found}: {state}\n")


def _report(arguments: argparse.Namespace) -> None:
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


def _quickstart(arguments: argparse.Namespace) -> None:
    from dit_eval.quickstart import quickstart

    sys.stdout.write(quickstart(arguments.out, on_step=_say))


def _reference_path(ref: str) -> Path:
    """A path, or the name of a public reference batch (fetched when it is not here yet)."""
    from dit_eval.assets import asset, assets

    if Path(ref).exists():
        return Path(ref)
    names = [a.name for a in assets() if a.kind == "reference"]
    if ref in names:
        return _fetch(asset(ref, "reference"))
    if Path(ref).suffix or os.sep in ref:
        return Path(ref)  # opening it says that it is not there
    raise ValueError(f"--ref {ref}: neither a file nor a known reference; known: {', '.join(names)}.")


def _extractor_class(arguments: argparse.Namespace) -> Any:
    """The chosen class, which knows its feature sizes before any weights are loaded."""
    if arguments.extractor == "digits":
        if arguments.weights or arguments.backend != "torch":
            raise ValueError("--extractor digits carries its own weights and runs on torch; drop --weights/--backend.")
        from dit_eval.features.digits import DigitsExtractor

        return DigitsExtractor
    if arguments.backend == "tensorflow":
        from dit_eval.features.adm_tensorflow import TensorflowInception

        return TensorflowInception
    from dit_eval.features.inception import TorchInception

    return TorchInception


def _extractor(arguments: argparse.Namespace) -> FeatureExtractor:
    from dit_eval.assets import asset

    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size}: needed at least 1.")
    extractor, device = _extractor_class(arguments), _device(arguments.device)
    if arguments.extractor == "digits":
        return extractor(device=device)
    weights = arguments.weights
    if weights is None:
        weights = _fetch(asset("inception-graph" if arguments.backend == "tensorflow" else "inception", "weights"))
    elif not weights.is_file():
        raise FileNotFoundError(
            f"--weights {weights}: no such file. Leave the option out to download it, or see `dit-eval weights list`."
        )
    return extractor(weights=weights, device=device)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: not a device; use cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} GPU(s) here; use cpu.")
    return name


def _fetch(item: Any, url: str | None = None) -> Path:
    from tqdm import tqdm

    from dit_eval.assets import fetch

    if item.url is None or item.path.is_file():
        return fetch(item)
    with tqdm(desc=item.name, unit="B", unit_scale=True, file=sys.stderr, leave=False) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return fetch(item, url=url, on_progress=show)


class _ProgressBars:
    """A bar per image set on stderr; on a log file, a line every half minute."""

    def __init__(self) -> None:
        self._bars: dict[str, Any] = {}

    def __enter__(self) -> _ProgressBars:
        return self

    def __exit__(self, *exception: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def update(self, role: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if role not in self._bars:
            self._bars[role] = tqdm(
                total=total,
                desc=f"{role} features",
                unit="img",
                file=sys.stderr,
                leave=False,
                mininterval=0.1 if sys.stderr.isatty() else 30,
            )
        self._bars[role].update(done - self._bars[role].n)
        if done == total:
            self._bars[role].close()


def _format_result(result: EvalResult, appended: Path | None) -> str:
    """The result as people read it; see design of the output in the README."""
    extractor = result.extractor.name
    count = f"{result.num_samples // 1000}K" if result.num_samples % 1000 == 0 else str(result.num_samples)
    suffix = "" if extractor == "inception" else f" ({extractor})"
    size = "x".join(str(n) for n in reversed(result.gen.image_size or ()))
    rows: list[tuple[str, float | None, str]] = [
        (f"FID-{count}{suffix}", result.fid, ".4f"),
        (f"sFID-{count}{suffix}", result.sfid, ".4f"),
        (f"Inception Score{suffix}", result.inception_score, ".4f"),
        (f"Precision{suffix}", result.precision, ".4f"),
        (f"Recall{suffix}", result.recall, ".4f"),
    ]
    images = f"{result.num_reference:,} images" if result.num_reference else "no images used"
    lines = [
        f"gen  {result.gen.path:<28} {result.num_samples:,} images, {size} px"
        + (f"   {result.gen.run.summary()}" if result.gen.run else ""),
        f"ref  {result.ref.path:<28} {images}, {result.ref.statistics} statistics",
    ]
    width = max(len(name) for name, _, _ in rows)
    lines += [f"  {name:<{width}}  {value:>10{form}}" for name, value, form in rows if value is not None]
    commit = result.environment.get("commit")
    version = f"dit_eval {result.environment['dit_eval']}"
    if commit:
        version += f" ({commit[:7]}{', changed' if result.environment['dirty'] else ''})"
    tail = [result.protocol, f"{extractor} on {result.extractor.backend}, {result.extractor.device}", version]
    if appended is not None:
        tail.append(f"appended to {appended}")
    lines.append(" · ".join(tail))
    return "\n".join(lines) + "\n"


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
