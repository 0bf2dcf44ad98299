"""`dit-eval flops`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import header, tell_json
from dit_eval.cli.shared import Pixels, check_destination, json_file
from dit_eval.system.progress import Progress

if TYPE_CHECKING:
    from dit_eval.flops.printed import ComplexityRow


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Count multiply-adds of one forward pass (batch 1, no guidance) in three conventions.

    Example: dit-eval flops DiT-XL/2 ADM-256

    `paper`: multiply-adds and one for each normalised element; `fvcore`: what fvcore bills; `mac`: multiply-adds alone.
    """

    models: Annotated[
        tuple[str, ...],
        Option("DiT-XL/2 and so on, ADM-256, ADM-U-256-upsampler, LDM-4 and so on", name="MODEL", several="words"),
    ] = ()
    all: Annotated[bool, Option("every model of Tables 1, 4 and 6", group=EVERYDAY)] = False
    image_size: Annotated[Pixels | None, Option("of a DiT (default: 256)", metavar="PIXELS", group=EVERYDAY)] = None
    block: Annotated[
        str | None, Option("of a DiT: adaln-zero (default), adaln, cross-attention or in-context", metavar="DESIGN")
    ] = None
    convention: Annotated[
        Literal["paper", "fvcore", "mac"], Option("the one that is compared with the published figure")
    ] = "paper"
    json: Annotated[str | None, json_file("the rows")] = None


def flops(arguments: Flops) -> None:
    if bool(arguments.models) == arguments.all:
        raise ValueError("Name the models to count, such as DiT-XL/2 or ADM-256, or pass --all; one of the two.")
    if arguments.all and (arguments.image_size or arguments.block):
        raise ValueError("--all counts the paper's models as they are; drop --image-size and --block.")
    check_destination("--json", arguments.json)
    header(f"flops: counting {', '.join(arguments.models) or 'every model of Tables 1, 4 and 6'}")
    from dit_eval.flops.count import check_model, count_model
    from dit_eval.flops.counts import FlopCount
    from dit_eval.flops.printed import counted_row, paper_rows

    options: dict[str, Any] = {"image_size": arguments.image_size, "block": arguments.block}
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
    tell_json(arguments.json, found, _format_flops(rows, operators, arguments.convention))


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
    if operators:
        lines += [*_block(rows, convention, remarks), ""]
    else:
        for number in sorted({row.table for row in rows if row.table}):
            block = [row for row in rows if row.table == number]
            lines += [f"Table {number}", *_block(block, convention, remarks), ""]
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


def _block(rows: list[ComplexityRow], convention: Any, remarks: list[str]) -> list[str]:
    """A head and a line for each row; what is to be said of rows goes to the remarks, and its number behind the row."""
    head = ("model", "px", "block", "params M", "printed", "Gflops", "paper", "fvcore", "mac", "difference")
    table: list[tuple[str, ...]] = [head]
    marks = [""]
    for row in rows:
        found = row.remarks(convention)
        if found:
            remarks.append(f"{row.model} {row.image_size}: {' '.join(found)}")
        marks.append(f"  {'x' if row.agrees(convention) is False else ' '} [{len(remarks)}]" if found else "")
        table.append(_cells(row, convention))
    lines = []
    for (model, size, design, *numbers), mark in zip(table, marks, strict=True):
        lines.append(f"  {model:<20}{size:>4}  {design:<16}" + "".join(f"{n:>11}" for n in numbers) + mark)
    return lines


def _cells(row: ComplexityRow, convention: Any) -> tuple[str, ...]:
    difference = row.difference(convention)
    return (
        row.model,
        str(row.image_size),
        row.block or "-",
        f"{row.params / 1e6:.2f}",
        "-" if row.published_params_m is None else str(row.published_params_m),
        "-" if row.published is None else f"{row.published:.{row.decimals}f}",
        *(f"{row.gflops(name):.4f}" for name in ("paper", "fvcore", "mac")),
        "-" if difference is None else f"{difference:+.4f}",
    )
