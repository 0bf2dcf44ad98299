"""A result as people read it: in a terminal, and in a notebook."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from textwrap import wrap

from dit_eval.metrics import METRICS
from dit_eval.metrics.metric import Metric
from dit_eval.metrics.published import Beside, published_beside
from dit_eval.results.badge import NUM_SAMPLES
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.references import NOT_RECORDED, foreign_title
from dit_eval.system.style import PLAIN, Style

_COUNT = f"{NUM_SAMPLES // 1000}K"  # in the names of extrapolated distances
_WIDTH = 80  # columns of a terminal
_NO_INTERVAL = "no interval: "
ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One number.

    Attributes
    ----------
    name, arrow : what it is called, and where better values lie
    value : empty where there is none
    sureness : its interval, or why there is none; empty where nobody asked
    published, difference : the published number, and the number less that one
    within_noise : whether that is no more than chance; None where it cannot be told
    """

    name: str
    arrow: str
    value: str
    sureness: str = ""
    published: str = ""
    difference: str = ""
    within_noise: bool | None = None


def result_text(result: EvalResult, style: Style = PLAIN, width: int | None = None) -> str:
    """The result in lines of 80 columns, but for long paths and reasons; without a newline at the end.

    Parameters
    ----------
    width : columns of the terminal, at which the badge is wrapped; None for a log
    """
    rows = [row for row in _rows(result) if row.value]
    lines = [line for role, path, about in _sets(result) for line in _set_lines(role, path, about)]
    lines += ["", *_table(rows, style)]
    lines += [f"  {text}" for text in _biases(result)]
    lines += [f"  {text}" for text in _published_source(result)]
    return "\n".join([*lines, "", *_provenance(result, style, width)])


def result_html(result: EvalResult) -> str:
    """The same as a table."""
    shown = [row for row in _rows(result) if row.value]
    head = "<br>".join(f"<b>{escape(role)}</b> {escape(path)}: {escape(about)}" for role, path, about in _sets(result))
    body = "".join(
        f'<tr><th style="text-align:left">{escape(row.name)} {row.arrow}</th>'
        f'<td style="text-align:right">{escape(row.value)}</td>'
        f'<td style="text-align:left">{escape(row.sureness)}</td><td style="text-align:right">{row.published}</td>'
        f'<td style="text-align:left">{_comparison(row)}</td></tr>'
        for row in shown
    )
    below = "<br>".join(escape(text) for text in (*_biases(result), *_published_source(result), *_provenance(result)))
    return f'<p>{head}</p><table>{body}</table><p style="white-space:pre-wrap">{below}</p>'


def decimals(value: float, digits: int) -> str:
    """A number with so many decimals, or, where they would hide it, with two digits that say something."""
    if value == 0 or round(abs(value), digits) >= 10 ** (1 - digits):
        return f"{value:.{digits}f}"
    return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"


def signed(difference: float, digits: int) -> str:
    """A difference as it is printed: with its sign, and a minus that is none of the keyboard's."""
    return f"{difference:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _set_lines(role: str, path: str, about: str) -> list[str]:
    """A set of images: the path, and what is known below it where a line of 80 columns has no room for both."""
    one = f"{role}  {path:<28} {about}"
    return [one] if len(one) <= _WIDTH else [f"{role}  {path}", *(f"     {part}" for part in about.split("   "))]


def _table(rows: list[_Row], style: Style) -> Iterator[str]:
    """The numbers in columns; those in which no row has anything are left out."""
    name, value, sureness, published = (
        max((len(getattr(row, column)) for row in rows), default=0)
        for column in ("name", "value", "sureness", "published")
    )
    told = max((len(row.sureness) for row in rows if not row.sureness.startswith(_NO_INTERVAL)), default=sureness)
    if published:
        gap = 2 + name + 4 + max(value, 8) + (2 + told if sureness else 0)
        yield style.dim(f"{' ' * gap}  published  difference".rstrip())
    for row in rows:
        line = f"  {row.name:<{name}} {row.arrow}  {style.bold(f'{row.value:>{max(value, 8)}}')}"
        line += f"  {row.sureness:<{told}}" if sureness else ""
        if row.published:
            colour = style.good if row.within_noise else style.doubt if row.within_noise is False else str
            line += f"  {row.published:>9}  {colour(_comparison(row))}"
        yield line.rstrip()


def _comparison(row: _Row) -> str:
    noise = {True: ", within noise", False: ", beyond noise", None: ""}[row.within_noise]
    return f"{row.difference}{noise}"


def _sets(result: EvalResult) -> list[tuple[str, str, str]]:
    """Role, path, and what is known, of samples and reference."""
    size = "x".join(str(n) for n in reversed(result.gen.image_size or ()))
    run = result.gen.run.summary() if result.gen.run else ""
    read = result.num_reference if result.pr_ref is None else None
    used = f"{read:,} images" if read else "no images used"
    whose = NOT_RECORDED if result.reference_protocol is None else foreign_title(result.reference_protocol)
    pair = result.pr_ref
    about = [
        ("gen", result.gen, (f"{result.num_samples:,} images, {size} px", result.gen.cut, run)),
        ("ref", result.ref, (f"{used}, {result.ref.statistics} statistics", result.ref.cut, whose)),
        *(
            []
            if pair is None
            else [("pr-ref", pair, (f"{pair.num_images:,} images, for precision and recall", pair.cut))]
        ),
    ]
    return [(role, images.path, "   ".join(filter(None, parts))) for role, images, parts in about]


def _rows(result: EvalResult) -> Iterator[_Row]:
    """All metrics, with or without a value, then the extrapolated distances."""
    beside = published_beside(result)
    for metric in METRICS:
        score = result.scores.get(metric.key)
        if score is None and metric.version_of is not None:
            continue  # nor does its name widen the column of names
        row = _Row(
            name=metric_name(result, metric),
            arrow=ARROWS[metric.better],
            value="" if score is None else decimals(score, metric.digits),
            sureness=_sureness(result, metric.key, metric.digits),
        )
        yield row if beside is None else _with_published(row, result, metric.key, beside)
    for metric in METRICS:
        for key, name in ((f"{metric.key}_50k", f"{_COUNT}, estimated"), (f"{metric.key}_infinity", "infinity")):
            estimate = getattr(result.uncertainty, key, None)
            if estimate is not None and (name == "infinity" or result.num_samples < NUM_SAMPLES):
                yield _Row(
                    name=f"{metric.label}-{name}",
                    arrow=ARROWS[metric.better],
                    value=decimals(estimate.value, metric.digits),
                    sureness=_sureness(result, key, metric.digits),
                )


def counted_name(result: EvalResult, metric: Metric, label: str) -> str:
    """A label, with N where it belongs to it: FID-50K."""
    return f"{label}-{_count(result)}" if metric.counted else label


def metric_name(result: EvalResult, metric: Metric) -> str:
    """What a number of a result is called: with N where it belongs to the name, and with an unusual network."""
    name = counted_name(result, metric, metric.label)
    network = result.extractor.name
    if "inception" in metric.networks and network != metric.networks[0]:  # others say in their names what they are
        name += f" ({network})"
    return name + against(result, metric)


def _with_published(row: _Row, result: EvalResult, key: str, beside: Beside) -> _Row:
    """A row, with what is published of the metric."""
    difference = beside.published.difference(key, result.scores.get(key))
    if difference is None or key not in beside.compared():
        return row
    printed, estimate = beside.published.values[key], getattr(result.uncertainty, key, None)
    return replace(
        row,
        published=printed,
        difference=signed(difference, len(printed.partition(".")[2])),
        within_noise=None if estimate is None else beside.published.is_within_noise(key, estimate),
    )


def _published_source(result: EvalResult) -> Iterator[str]:
    """Whose the published numbers are."""
    beside = published_beside(result)
    if beside is not None and result.scores.get("fid") is not None:
        near = "" if beside.is_same else ", the nearest FID"
        yield f"published: {beside.published.name}, {beside.published.source}{near}"


def against(result: EvalResult, metric: Metric) -> str:
    """What stands behind a distance from statistics that are not ADM's, as in "FID-50K against JiT's statistics"."""
    whose = foreign_title(result.reference_protocol) if result.ref.statistics == "stored" else ""
    return f" against {whose}" if whose and metric.needs.moments else ""


def _count(result: EvalResult) -> str:
    """N as it stands in the name of a distance."""
    whole = result.num_samples % 1000 == 0
    return f"{result.num_samples // 1000}K" if whole else str(result.num_samples)


def _sureness(result: EvalResult, key: str, digits: int) -> str:
    """The interval of a number, or why there is none; empty where nobody asked."""
    estimate = getattr(result.uncertainty, key, None)
    if estimate is not None:
        return f"{decimals(estimate.low, digits)} to {decimals(estimate.high, digits)}"
    reason = result.uncertainty.missing.get(key) if result.uncertainty else None
    return "" if reason is None else f"{_NO_INTERVAL}{reason}"


def _biases(result: EvalResult) -> Iterator[str]:
    """How a run stopped early, and what having fewer images than 50,000 adds to distances, or why it is not known."""
    if result.looking is not None:
        yield result.looking.text()
    for metric in METRICS:
        key = f"{metric.key}_50k"
        value, at_50k = result.scores.get(metric.key), getattr(result.uncertainty, key, None)
        if value is not None and at_50k is not None and result.num_samples < NUM_SAMPLES:
            more = f"{decimals(value - at_50k.value, metric.digits)} larger than {metric.label}-{_COUNT}"
            yield f"{metric.label}-{_count(result)} is about {more} for having fewer images"
        elif result.uncertainty is not None and key in result.uncertainty.missing:
            yield f"{metric.label} is not extrapolated: {result.uncertainty.missing[key]}"


def _provenance(result: EvalResult, style: Style = PLAIN, width: int | None = None) -> Iterator[str]:
    """What is as published, by what protocol it was made, and by which program."""
    if result.badge is not None:
        set_off = style.good if result.badge.full else style.doubt
        text = f"as published: {result.badge.text()}"
        yield from map(set_off, wrap(text, width, subsequent_indent="  ") if width else [text])
    version, commit = f"dit_eval {result.environment.get('dit_eval', 'unknown')}", result.environment.get("commit")
    if commit:
        version += f" ({commit[:7]}{', changed' if result.environment.get('dirty') else ''})"
    extractor = result.extractor
    made = " · ".join([result.protocol, f"{extractor.name} on {extractor.backend}, {extractor.device}", version])
    yield style.dim(made)
