"""A result as people read it: in a terminal, and in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from dit_eval.metrics import METRICS
from dit_eval.metrics.metric import Metric
from dit_eval.results.badge import NUM_SAMPLES
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.references import NOT_RECORDED, foreign_title

_COUNT = f"{NUM_SAMPLES // 1000}K"  # in the names of extrapolated distances


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One number: what it is called, its text (empty where there is none), and what stands behind it."""

    name: str
    value: str
    sureness: str


def result_text(result: EvalResult) -> str:
    """The result in a few lines, without a newline at the end."""
    rows = list(_rows(result))
    width = max(len(row.name) for row in rows)
    lines = [f"{role}  {path:<28} {about}" for role, path, about in _sets(result)]
    lines += [
        f"  {row.name:<{width}}  {row.value:>10}{f'  {row.sureness}' if row.sureness else ''}"
        for row in rows
        if row.value
    ]
    lines += [f"  {text}" for text in _biases(result)]
    return "\n".join([*lines, *_provenance(result)])


def result_html(result: EvalResult) -> str:
    """The same as a table."""
    shown = [row for row in _rows(result) if row.value]
    head = "<br>".join(f"<b>{escape(role)}</b> {escape(path)}: {escape(about)}" for role, path, about in _sets(result))
    body = "".join(
        f'<tr><th style="text-align:left">{escape(row.name)}</th><td style="text-align:right">{escape(row.value)}</td>'
        f'<td style="text-align:left">{escape(row.sureness)}</td></tr>'
        for row in shown
    )
    below = "<br>".join(escape(text) for text in (*_biases(result), *_provenance(result)))
    return f'<p>{head}</p><table>{body}</table><p style="white-space:pre-wrap">{below}</p>'


def _sets(result: EvalResult) -> list[tuple[str, str, str]]:
    """Role, path, and what is known, of samples and reference."""
    size = "x".join(str(n) for n in reversed(result.gen.image_size or ()))
    run = f"   {result.gen.run.summary()}" if result.gen.run else ""
    read = result.num_reference if result.pr_ref is None else None
    used = f"{read:,} images" if read else "no images used"
    whose = NOT_RECORDED if result.reference_protocol is None else foreign_title(result.reference_protocol)
    pair = result.pr_ref
    return [
        ("gen", result.gen.path, f"{result.num_samples:,} images, {size} px{run}"),
        ("ref", result.ref.path, f"{used}, {result.ref.statistics} statistics{f'   {whose}' if whose else ''}"),
        *([] if pair is None else [("pr-ref", pair.path, f"{pair.num_images:,} images, for precision and recall")]),
    ]


def _rows(result: EvalResult) -> Iterator[_Row]:
    """All metrics, with or without a value, then the extrapolated distances."""
    network, count = result.extractor.name, _count(result)
    for metric in METRICS:
        name = f"{metric.label}-{count}" if metric.counted else metric.label
        if (
            "inception" in metric.networks and network != metric.networks[0]
        ):  # the others say in their names what they are
            name += f" ({network})"
        name += against(result, metric)
        score = result.scores.get(metric.key)
        if score is None and metric.version_of is not None:
            continue  # nor does its name widen the column of names
        value = "" if score is None else f"{score:.{metric.digits}f}"
        yield _Row(name=name, value=value, sureness=_sureness(result, metric.key))
    for metric in METRICS:
        for key, name in ((f"{metric.key}_50k", f"{_COUNT}, estimated"), (f"{metric.key}_infinity", "infinity")):
            estimate = getattr(result.uncertainty, key, None)
            if estimate is not None and (name == "infinity" or result.num_samples < NUM_SAMPLES):
                value = f"{estimate.value:.{metric.digits}f}"
                yield _Row(name=f"{metric.label}-{name}", value=value, sureness=_sureness(result, key))


def against(result: EvalResult, metric: Metric) -> str:
    """What stands behind a distance from statistics that are not ADM's, as in "FID-50K against JiT's statistics"."""
    whose = foreign_title(result.reference_protocol) if result.ref.statistics == "stored" else ""
    return f" against {whose}" if whose and metric.needs.moments else ""


def _count(result: EvalResult) -> str:
    """N as it stands in the name of a distance."""
    whole = result.num_samples % 1000 == 0
    return f"{result.num_samples // 1000}K" if whole else str(result.num_samples)


def _sureness(result: EvalResult, key: str) -> str:
    """Standard error and interval of a number, or why there are none; empty where nobody asked."""
    estimate = getattr(result.uncertainty, key, None)
    if estimate is not None:
        return f"± {estimate.standard_error:.4f}   95 %: {estimate.low:.4f} to {estimate.high:.4f}"
    reason = result.uncertainty.missing.get(key) if result.uncertainty else None
    return "" if reason is None else f"no interval: {reason}"


def _biases(result: EvalResult) -> Iterator[str]:
    """What having fewer images than 50,000 adds to the distances, or why that is not known."""
    for metric in METRICS:
        key = f"{metric.key}_50k"
        value, at_50k = result.scores.get(metric.key), getattr(result.uncertainty, key, None)
        if value is not None and at_50k is not None and result.num_samples < NUM_SAMPLES:
            more = f"{value - at_50k.value:.4f} larger than {metric.label}-{_COUNT}"
            yield f"{metric.label}-{_count(result)} is about {more} for having fewer images"
        elif result.uncertainty is not None and key in result.uncertainty.missing:
            yield f"{metric.label} is not extrapolated: {result.uncertainty.missing[key]}"


def _provenance(result: EvalResult) -> Iterator[str]:
    """What is as published, by what protocol it was made, and by which program."""
    if result.badge is not None:
        yield f"as published: {result.badge.text()}"
    version, commit = f"dit_eval {result.environment.get('dit_eval', 'unknown')}", result.environment.get("commit")
    if commit:
        version += f" ({commit[:7]}{', changed' if result.environment.get('dirty') else ''})"
    extractor = result.extractor
    yield " · ".join([result.protocol, f"{extractor.name} on {extractor.backend}, {extractor.device}", version])
