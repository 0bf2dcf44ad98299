"""Gflops: what one forward pass costs, by which convention, and what runs of it cost.

    count = count_flops(model, (x, t, y))  # on the meta device no weights are needed
    print(count.gflops("paper"), count.params)

The counters load when they are first asked for: they bring PyTorch, and what runs cost is arithmetic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_eval.flops.compute import TRAINING_FACTOR, Workload, gpu_hours, image_gflops, sampling_gflops, training_gflops
from dit_eval.flops.counts import CONVENTIONS, Convention, Counts, FlopCount

if TYPE_CHECKING:
    from dit_eval.flops.count import count_flops, count_model

__all__ = [
    "CONVENTIONS",
    "TRAINING_FACTOR",
    "Convention",
    "Counts",
    "FlopCount",
    "Workload",
    "count_flops",
    "count_model",
    "gpu_hours",
    "image_gflops",
    "sampling_gflops",
    "training_gflops",
]


def __getattr__(name: str) -> Any:
    if name in ("count_flops", "count_model"):
        from dit_eval.flops import count

        return getattr(count, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
