"""Several results as one table, the best first, with the published numbers that stand nearest to them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dit_eval.metrics import METRICS
from dit_eval.metrics.metric import Metric
from dit_eval.metrics.printed import ARROWS, counted_name, decimals, signed
from dit_eval.metrics.published import Published, published_beside
from dit_eval.report.tables.table import DASH, Column, Row, Table
from dit_eval.results.eval_result import NOT_PUBLISHED, EvalResult
from dit_eval.results.references import foreign_title
from dit_eval.system.text import shown


def leaderboard(results: Sequence[EvalResult]) -> Table:
    """The results by their first metric, and below them what is published beside.

    Where results have intervals, bold is what is significantly better than all others, and ties are marked; else the
    best.

    Raises
    ------
    ValueError
        If there is no result.
    """
    if not results:
        raise ValueError("`results`: expected at least one result; got none.")
    metrics = [metric for metric in METRICS if any(r.scores.get(metric.key) is not None for r in results)]
    ordered = sorted(results, key=lambda result: _place(result, metrics))
    names = _names(ordered)
    columns = [Column(key="samples", title="Samples", text=True)]
    same_n = len({result.num_samples for result in results}) == 1
    columns += [] if same_n else [Column(key="num_samples", title="N")]
    best = {"lower": "min", "higher": "max"}
    columns += [
        Column(key=m.key, title=f"{_title(ordered, m)} {ARROWS[m.better]}", best=best[m.better]) for m in metrics
    ]
    rows = [_row(result, name, metrics) for result, name in zip(ordered, names, strict=True)]
    rows += [_published_row(each, metrics) for each in _published(ordered)]
    table = Table(
        name="results",
        title=f"Scores against {_references(ordered)}{_networks(ordered)}",
        columns=tuple(columns),
        rows=tuple(rows),
        about=" ".join([*_error_words(rows), *crop_lines(ordered), *badge_lines(ordered)]),
    )
    return table.judged()


def differences(results: Sequence[EvalResult]) -> list[str]:
    """How far each comparable result is from the published number beside it, by FID."""
    names = dict(zip(map(id, results), _names(results), strict=True))
    lines = []
    for result in results:
        beside = published_beside(result)
        difference = beside.published.difference("fid", result.scores.get("fid")) if beside else None
        if beside is None or difference is None:
            continue
        printed, estimate = beside.published.values["fid"], getattr(result.uncertainty, "fid", None)
        noise = ""
        if estimate is not None:
            noise = f", {'within' if beside.published.is_within_noise('fid', estimate) else 'beyond'} noise"
        near = "" if beside.is_same else " (nearest)"
        off = signed(difference, len(printed.partition(".")[2]))
        lines.append(f"{names[id(result)]}: {off}{noise}; {beside.published.name}{near}: {printed}")
    return lines


def badge_lines(results: Sequence[EvalResult]) -> list[str]:
    """What is as published: one sentence where it is the same of all results, else one for each group of them."""
    groups: dict[str, list[str]] = {}
    for result, name in zip(results, _names(results), strict=True):
        text = result.badge.text().replace(NOT_PUBLISHED, "; not: ") if result.badge else "not known"
        groups.setdefault(text, []).append(name)
    if len(groups) == 1:
        return [f"As published: {text}." for text in groups]
    return [f"As published of {', '.join(names)}: {text}." for text, names in groups.items()]


def crop_lines(results: Sequence[EvalResult]) -> list[str]:
    """What images were cut to, samples and references alike; nothing where all were taken whole."""
    sources = [images for result in results for images in (result.gen, result.ref, result.pr_ref) if images is not None]
    groups: dict[str, dict[str, None]] = {}
    for images in sources:
        if images.cut:
            groups.setdefault(images.cut, {})[shown(Path(images.path).name)] = None
    return [f"{', '.join(names)}: {cut}." for cut, names in groups.items()]


def _place(result: EvalResult, metrics: Sequence[Metric]) -> tuple[bool, float]:
    """Where a result stands: by its first metric, those without it last."""
    if not metrics or (value := result.scores.get(metrics[0].key)) is None:
        return True, 0.0
    return False, value if metrics[0].better == "lower" else -value


def _names(results: Sequence[EvalResult]) -> list[str]:
    """File names; with as many folders before them as tell them apart."""
    paths = [Path(result.gen.path) for result in results]
    names = [path.name for path in paths]
    for depth in range(2, 1 + max(len(path.parts) for path in paths)):
        several = {name for name, count in Counter(names).items() if count > 1}
        names = ["/".join(p.parts[-depth:]) if n in several else n for p, n in zip(paths, names, strict=True)]
    return [shown(name) or DASH for name in names]


def _title(results: Sequence[EvalResult], metric: Metric) -> str:
    """What a column is called; with N where it belongs to the name and is the same of all results."""
    names = {counted_name(result, metric, metric.short or metric.label) for result in results}
    return names.pop() if len(names) == 1 else metric.short or metric.label


def _row(result: EvalResult, name: str, metrics: Sequence[Metric]) -> Row:
    cells, values = {"samples": name, "num_samples": f"{result.num_samples}"}, dict[str, float | str]()
    for metric in metrics:
        score, estimate = result.scores.get(metric.key), getattr(result.uncertainty, metric.key, None)
        cells[metric.key] = DASH if score is None else decimals(score, metric.digits)
        values |= {} if score is None else {metric.key: score}
        if estimate is not None:
            cells[metric.key] += f" ± {_error(estimate.standard_error, metric.digits)}"
            parts = (estimate.standard_error, estimate.low, estimate.high)
            ends = ("standard_error", "low", "high")
            values |= {f"{metric.key}_{end}": part for end, part in zip(ends, parts, strict=True)}
    return Row(cells=cells, values=values, source=f"{shown(result.gen.path)}, {result.protocol}", measured=True)


def _error(error: float, digits: int) -> str:
    """A standard error with the decimals of its number, or one digit where these would all be 0."""
    text = f"{error:.{digits}f}"
    return text if error == 0 or float(text) else f"{error:.{-math.floor(math.log10(error))}f}"


def _published(results: Sequence[EvalResult]) -> list[Published]:
    """Each published evaluation that stands beside some result, once."""
    found = [beside.published for beside in map(published_beside, results) if beside is not None]
    return [each for number, each in enumerate(found) if each not in found[:number]]


def _published_row(each: Published, metrics: Sequence[Metric]) -> Row:
    cells = {"samples": each.name, "num_samples": f"{each.num_samples}"}
    return Row(cells=cells | {m.key: each.values.get(m.key, DASH) for m in metrics}, source=each.source)


def _references(results: Sequence[EvalResult]) -> str:
    """The reference; whose it is, where it is neither ADM's nor what its name says."""
    names: dict[str, None] = {}
    for result in results:
        whose = foreign_title(result.reference_protocol) if result.reference_protocol else ""
        names[f"{shown(Path(result.ref.path).name)}{f' ({whose})' if whose else ''}"] = None
    return ", ".join(names)


def _networks(results: Sequence[EvalResult]) -> str:
    """The feature networks, where they are others than Inception."""
    names = dict.fromkeys(result.extractor.name for result in results)
    return "" if [*names] == ["inception"] else f", features of {', '.join(names)}"


def _error_words(rows: Sequence[Row]) -> list[str]:
    has_errors = any(" ± " in cell for row in rows for cell in row.cells.values())
    return ["Behind ±: the standard error over draws of N images."] if has_errors else []
