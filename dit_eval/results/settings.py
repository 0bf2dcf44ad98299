"""What a run is asked for, stated once: the command line and the plans of studies are derived from these classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta

from dit_eval.system.settings import check_settings


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How samples are scored: all that decides a number, and the batch size, which decides none.

    Raises
    ------
    ValueError
        If a value is of another type or out of bounds; whether metrics are known, `dit_eval.metrics` says.
    """

    metrics: Annotated[
        tuple[str, ...] | None,
        Meta(description="the metrics to compute (default: ADM's five; of DINOv2 or CLIP, all that the network gives)"),
    ] = None
    num_images: Annotated[int, Meta(ge=1, description="use the first N samples (default: all)")] | None = None
    distances: Annotated[
        Literal["adm-float16", "float32"],
        Meta(description="precision and recall distances: ADM's float16 rule (default), or exact float32"),
    ] = "adm-float16"
    intervals: Annotated[
        bool, Meta(description="also standard errors, 95 % intervals, and FID for infinitely many images")
    ] = False
    allow_size_mismatch: Annotated[
        bool, Meta(description="score samples against a reference of another resolution")
    ] = False
    batch_size: Annotated[
        int, Meta(ge=1, description="images in memory at a time; each core of a CPU takes 4 or 8 of them")
    ] = 64

    def __post_init__(self) -> None:
        check_settings(self)


def with_metrics(settings: EvaluationSettings | None, metrics: str | Sequence[str] | None) -> EvaluationSettings:
    """The settings, or the default ones, with the metrics that are named beside them: "fid,is" or ["fid", "is"].

    Raises
    ------
    ValueError
        If either is of another type.
    """
    settings = EvaluationSettings() if settings is None else settings
    if not isinstance(settings, EvaluationSettings):
        raise ValueError(f"`settings`: expected an EvaluationSettings; got {type(settings).__name__}.")
    if metrics is None:
        return settings
    names = metrics.split(",") if isinstance(metrics, str) else metrics
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`metrics`: expected names such as ['fid', 'is']; got {metrics!r}.")
    return replace(settings, metrics=tuple(name.strip().lower() for name in names if name.strip()))
