"""`dit-eval flops`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import header, tell_json
from dit_eval.cli.shared import Pixels, check_destination, json_file
from dit_eval.flops.compute import image_gflops
from dit_eval.flops.counts import CONVENTIONS
from dit_eval.results.settings import Sampler, SamplingSettings
from dit_eval.system.progress import Progress

if TYPE_CHECKING:
    from dit_eval.diffusion.guidance import Evaluations
    from dit_eval.flops.counts import Convention, Counts
    from dit_eval.flops.printed import ComplexityRow


_STEPS = str(SamplingSettings.num_sampling_steps)
SAMPLING = Group("compute of an image, guidance counted", sort_key=2)


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Count multiply-adds of one forward pass (batch 1, no guidance) in three conventions.

    Example: dit-eval flops DiT-XL/2 ADM-256

    `paper`: multiply-adds and one for each normalised element; `fvcore`: what fvcore bills; `mac`: multiply-adds alone.
    """

    models: Annotated[
        tuple[str, ...],
        Option(
            "DiT-XL/2 and so on, ADM-256, LDM-4 and so on, SiT-XL/2, LightningDiT-XL/1", name="MODEL", several="words"
        ),
    ] = ()
    all: Annotated[bool, Option("every model of Tables 1, 4 and 6", group=EVERYDAY)] = False
    image_size: Annotated[Pixels | None, Option("of a DiT (default: 256)", metavar="PIXELS", group=EVERYDAY)] = None
    block: Annotated[
        str | None, Option("of a DiT: adaln-zero (default), adaln, cross-attention or in-context", metavar="DESIGN")
    ] = None
    convention: Annotated[
        Literal["paper", "fvcore", "mac"], Option("the one that is compared with the published figure")
    ] = "paper"
    sampler: Annotated[Sampler | None, Option("also count an image by this sampler", group=SAMPLING)] = None
    num_sampling_steps: Annotated[str, Option("as `dit-eval sample` takes it", metavar="S", group=SAMPLING)] = _STEPS
    cfg_scale: Annotated[float, Option("guidance scale; 1.0: no guidance", metavar="W", group=SAMPLING)] = 1.0
    guidance_interval: Annotated[
        tuple[float, float] | None,
        Option("guide only from LOW to HIGH", metavar="LOW HIGH", several="words", group=SAMPLING),
    ] = None
    guide: Annotated[str | None, Option("model that guides (autoguidance)", metavar="MODEL", group=SAMPLING)] = None
    json: Annotated[str | None, json_file("the rows")] = None


def flops(arguments: Flops) -> None:
    if bool(arguments.models) == arguments.all:
        raise ValueError("Name the models to count, such as DiT-XL/2 or ADM-256, or pass --all; one of the two.")
    if arguments.all and (arguments.image_size or arguments.block):
        raise ValueError("--all counts the paper's models as they are; drop --image-size and --block.")
    image = _image(arguments)
    check_destination("--json", arguments.json)
    header(f"flops: counting {', '.join(arguments.models) or 'every model of Tables 1, 4 and 6'}")
    from dit_eval.flops.counts import FlopCount
    from dit_eval.flops.kept import count_in_parts, is_kept
    from dit_eval.flops.printed import counted_row, paper_rows

    options: dict[str, Any] = {"image_size": arguments.image_size, "block": arguments.block}
    for name in [*arguments.models, *([arguments.guide] if arguments.guide else [])]:
        if not is_kept(name, **options):
            from dit_eval.flops.count import check_model  # which loads PyTorch

            check_model(name, **options)
    counts: list[FlopCount] = []
    total = len(arguments.models) or None
    with Progress("models") as progress:

        def count(name: str, **which: Any) -> FlopCount:
            progress.update("counting", len(counts), total, name)
            counts.append(count_in_parts(name, **which))
            return counts[-1]

        if arguments.all:
            rows = paper_rows(count)
        else:
            rows = [counted_row(name, count(name, **options), **options) for name in arguments.models]
    operators = [] if arguments.all else [count.by_operator for count in counts]
    guide = count_in_parts(arguments.guide, **options).gflops(arguments.convention) if arguments.guide else None
    found = _flops_object(rows, operators, arguments.convention)
    text = _format_flops(rows, operators, arguments.convention)
    for row, each in zip(rows, found["rows"], strict=True):
        if image is not None:
            each["sampling"] = image.of(row, guide, arguments.convention)
            text += image.told(row, each["sampling"])
    tell_json(arguments.json, json.dumps(found, ensure_ascii=False), text)


@dataclass(frozen=True, kw_only=True)
class _Image:
    """How an image is drawn, and how often that asks the network."""

    settings: SamplingSettings
    evaluations: Evaluations

    def of(self, row: ComplexityRow, guide: float | None, convention: Convention) -> dict[str, Any]:
        """What it costs by a model; `guide` are the Gflops of one that guides."""
        found = self.evaluations
        gflops = image_gflops(
            row.gflops(convention), evaluations=found.number, guided_evaluations=found.guided, guide_gflops=guide
        )
        return {"evaluations": found.number, "guided_fraction": found.fraction, "gflops": gflops}

    def told(self, row: ComplexityRow, image: Mapping[str, Any]) -> str:
        guide, guided = self.settings.guide_ckpt, image["guided_fraction"]
        guidance = f", {guided:.1%} of them guided{f' by {guide}' if guide else ''}" if guided else ""
        return (
            f"{row.model} by {self.settings.sampler}, {self.settings.num_sampling_steps} steps: "
            f"{image['evaluations']:,} evaluations (NFE){guidance}; {image['gflops']:,.2f} Gflops an image, its "
            "decoding not counted.\n"
        )


def _image(arguments: Flops) -> _Image | None:
    """How an image is drawn, if its compute is asked for."""
    steps = arguments.num_sampling_steps
    if arguments.sampler is None:
        if (steps, arguments.cfg_scale, arguments.guidance_interval, arguments.guide) != (_STEPS, 1.0, None, None):
            raise ValueError("Pass `sampler` as well: steps and guidance say nothing of one forward pass.")
        return None
    settings = SamplingSettings(
        sampler=arguments.sampler,
        num_sampling_steps=steps,
        cfg_scale=arguments.cfg_scale,
        guidance_interval=arguments.guidance_interval,
        guide_ckpt=arguments.guide,
    )
    from dit_eval.diffusion.guidance import evaluations

    found = evaluations(settings)
    if found is None:
        raise ValueError(f"`sampler` {arguments.sampler} chooses its steps by the image; nobody knows them before.")
    return _Image(settings=settings, evaluations=found)


def _flops_object(rows: list[ComplexityRow], operators: list[Any], convention: Any) -> dict[str, Any]:
    from dit_eval.system.environment import environment

    objects = [row.to_json(convention) for row in rows]
    for each, parts in zip(objects, operators, strict=False):  # none with --all
        each["by_operator"] = {
            name: {"macs": c.macs, "norm_elements": c.norm_elements, "fvcore": c.fvcore} for name, c in parts.items()
        }
    return {"convention": convention, "rows": objects, "environment": environment()}


def _format_flops(rows: list[ComplexityRow], operators: list[Any], convention: Convention) -> str:
    """The rows as people read them, a block for each of the paper's tables, remarks below."""
    lines: list[str] = []
    remarks: list[str] = []
    if operators:
        lines += [*_block("", rows, convention, remarks), ""]
    else:
        for number in sorted({row.table for row in rows if row.table}):
            block = [row for row in rows if row.table == number]
            lines += [*_block(f"Table {number}", block, convention, remarks), ""]
    for row, parts in zip(rows, operators, strict=False):  # none with --all
        lines += [*_shares(row, parts, convention), ""]
    lines += [f"[{number}] {remark}" for number, remark in enumerate(remarks, start=1)]
    lines += [""] if remarks else []
    lines += [
        f"Gflops: 1e9 multiply-adds of one forward pass, batch 1, no guidance, by the convention `{convention}`.",
        "Where a multiply-add counts as two operations, figures are twice as large: "
        f"{2 * rows[-1].gflops(convention):.2f} Gflops for {_name(rows[-1])}.",
    ]
    lines += ["x: the printed digits are not reached"] if any("x [" in line for line in lines) else []
    return "\n".join(lines) + "\n"


def _block(title: str, rows: list[ComplexityRow], convention: Convention, remarks: list[str]) -> list[str]:
    """Heads and a line for each row; what is to be said of rows goes to the remarks, and its number behind the row."""
    lines = [
        f"{title:<24}{'':>4}{'Gflops':>9}{'':>21}{'params (M)':>16}".rstrip(),
        f"{'model':<24}{'px':>4}{'printed':>9}{'counted':>10}{'difference':>11}{'printed':>8}{'counted':>8}",
    ]
    for row in rows:
        mark = ""
        if found := row.remarks(convention):
            remarks.append(f"{row.model} {row.image_size}: {' '.join(found)}")
            mark = f" {'x' if row.agrees(convention) is False else ' '} [{len(remarks)}]"
        difference = row.difference(convention)
        lines.append(
            f"{_name(row):<24}{row.image_size:>4}"
            f"{_printed(row.published, row.decimals):>9}{row.gflops(convention):>10.4f}"
            f"{'-' if difference is None else f'{difference:+.4f}':>11}"
            f"{_printed(row.published_params_m, 0):>8}{row.params / 1e6:>8.2f}{mark}"
        )
    return lines


def _shares(row: ComplexityRow, parts: Mapping[str, Counts], convention: Convention) -> list[str]:
    """What each operator counts, its share, the total, and the total by the other conventions."""
    total = row.gflops(convention)
    title = f"{row.model}, {f'{row.block}, ' if row.block else ''}{row.image_size} px, by operator"
    lines = [f"{title:<44}{'Gflops':>14}{'share':>9}"]
    for name, counts in sorted(parts.items(), key=lambda part: -part[1].total(convention)):
        gflops = counts.gflops(convention)
        lines.append(f"  {name:<42}{gflops:>14.4f}{gflops / total:>9.2%}")
    lines.append(f"  {'total':<42}{total:>14.4f}{1:>9.2%}")
    lines += [f"  {f'total by `{name}`':<42}{row.gflops(name):>14.4f}" for name in CONVENTIONS if name != convention]
    return lines


def _name(row: ComplexityRow) -> str:
    """A model, with a block design that is not the common one."""
    return row.model if row.block in (None, "adaln-zero") else f"{row.model} {row.block}"


def _printed(number: float | None, decimals: int) -> str:
    return "-" if number is None else f"{number:.{decimals}f}"
