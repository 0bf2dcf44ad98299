"""A comparison as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_uppercase
from textwrap import wrap

from dit_eval.metrics import METRICS
from dit_eval.metrics.metric import Metric
from dit_eval.metrics.printed import ARROWS, decimals, metric_name, signed
from dit_eval.results.comparison import Comparison, Difference
from dit_eval.results.eval_result import EvalResult
from dit_eval.system.style import PLAIN, Style
from dit_eval.system.text import shown

_WIDTH = 100  # columns of the notes
_HEAD = ("", "", "one", "other", "difference", "95 % interval", "p", "verdict", "images to decide")


def comparison_text(comparison: Comparison, style: Style = PLAIN) -> str:
    """The sets, which of them are paired, a line for each metric and pair, and what a reader should know.

    Without a newline at the end.
    """
    names = set_names(len(comparison.results))
    lines = [_set_line(name, result) for name, result in zip(names, comparison.results, strict=True)]
    first = comparison.results[0]
    lines.append(f"ref  {shown(first.ref.path)}   {first.protocol}")
    lines += list(_pairings(comparison, names))
    lines += ["", *_table(comparison, names, style), ""]
    if comparison.looking is not None:
        lines.append(comparison.looking.text())
    lines += list(_gains(comparison, names))
    return "\n".join(
        [*lines, *(part for note in comparison.notes for part in wrap(note, _WIDTH, subsequent_indent="  "))]
    )


def set_names(count: int) -> list[str]:
    """A, B, ... as a text calls the sets; numbers where there are more than letters."""
    return [*ascii_uppercase[:count]] if count <= len(ascii_uppercase) else [str(at + 1) for at in range(count)]


def _set_line(name: str, result: EvalResult) -> str:
    size = "x".join(str(n) for n in reversed(result.gen.image_size or ()))
    run = result.gen.run.summary() if result.gen.run else ""
    parts = (f"{result.num_samples:,} images, {size} px", result.gen.cut, run)
    return f"{name:<3}  {shown(result.gen.path)}   {'   '.join(filter(None, parts))}"


def _pairings(comparison: Comparison, names: Sequence[str]) -> Iterator[str]:
    """Which sets are paired and why, pairs of one reason in a line."""
    of_reason: dict[tuple[str, str], list[str]] = {}
    for each in comparison.pairings:
        of_reason.setdefault((each.word, each.reason), []).append(f"{names[each.a]} and {names[each.b]}")
    for (word, reason), pairs in of_reason.items():
        few = ", ".join(pairs[:6]) + (f" and {len(pairs) - 6} other pairs" if len(pairs) > 6 else "")
        yield f"{word}: {few} ({shown(reason)})"


def _table(comparison: Comparison, names: Sequence[str], style: Style) -> Iterator[str]:
    metrics = {metric.key: metric for metric in METRICS}
    rows = [_row(comparison, each, metrics[each.metric], names) for each in comparison.differences]
    level = comparison.looking.levels[_look(comparison)] if comparison.looking is not None else 0.05
    sets = names if len(names) == 2 else _HEAD[2:4]
    head = (*_HEAD[:2], *sets, _HEAD[4], f"{100 * (1 - level):.4g} % interval", *_HEAD[6:])
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    right = {2, 3, 4, 6, 8}

    def line(row: Sequence[str]) -> str:
        cells = [
            f"{cell:>{w}}" if at in right else f"{cell:<{w}}"
            for at, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return f"  {'  '.join(cells)}".rstrip()

    yield style.dim(line(head))
    for row, each in zip(rows, comparison.differences, strict=True):
        text = line(row)
        yield text if each.verdict in (None, "undecided") else text.replace(row[7], style.good(row[7]))


def _look(comparison: Comparison) -> int:
    looking = comparison.looking
    return 0 if looking is None else looking.looks.index(looking.used)


def _row(comparison: Comparison, each: Difference, metric: Metric, names: Sequence[str]) -> tuple[str, ...]:
    one, other = (comparison.results[at] for at in (each.a, each.b))
    a, b = names[each.a], names[each.b]
    values = [decimals(result.scores[metric.key] or 0.0, metric.digits) for result in (one, other)]
    start = (f"{metric_name(one, metric)} {ARROWS[metric.better]}", f"{a} - {b}", *values)
    digits = _digits(each, metric)
    if each.low is None or each.high is None or each.p_corrected is None:
        return (*start, _signed(each.value, digits), f"no interval: {each.missing}", "", "", "")
    verdict = {"better": f"{a} is better", "worse": f"{b} is better"}.get(each.verdict or "", "undecided")
    images = "" if each.value == 0 else "no number" if each.images_to_decide is None else f"{each.images_to_decide:,}"
    return (
        *start,
        _signed(each.value, digits),
        f"{_signed(each.low, digits)} to {_signed(each.high, digits)}",
        "< 0.0001" if each.p_corrected < 1e-4 else f"{each.p_corrected:.4f}",
        verdict,
        images,
    )


def _signed(value: float, digits: int) -> str:
    """With its sign; what is 0 in so many decimals has none."""
    return signed(value, digits) if round(value, digits) else f"{0:.{digits}f}"


def _digits(each: Difference, metric: Metric) -> int:
    """Decimals with which a standard error shows two digits."""
    if not each.standard_error:
        return metric.digits
    text = decimals(each.standard_error, metric.digits)
    return max(metric.digits, len(text.partition(".")[2]))


def _gains(comparison: Comparison, names: Sequence[str]) -> Iterator[str]:
    """How many times the images unpaired sets would take."""
    labels = {metric.key: metric.short or metric.label for metric in METRICS}
    for pairing in comparison.pairings:
        ratios = [
            f"{labels[each.metric]} {each.variance_ratio:.2g}"
            for each in comparison.differences
            if (each.a, each.b) == (pairing.a, pairing.b) and each.variance_ratio is not None
        ]
        if ratios:
            whose = "" if len(comparison.pairings) == 1 else f" of {names[pairing.a]} and {names[pairing.b]}"
            yield f"images that pairing{whose} saves, times: {', '.join(ratios)}"
