"""Gflops and parameters of the models in a report, counted when it is made; the only place where it needs torch."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Count:
    """Gflops of one forward pass in the paper's convention, and trainable parameters in millions."""

    gflops: float
    params_m: float


@functools.cache
def count_named(name: str, image_size: int | None = None, block: Any = None) -> Count:
    """Count a model of the paper; see `dit_eval.flops.count_model`."""
    from dit_eval.flops import count_model

    counted = count_model(name, image_size=image_size, block=block)
    return Count(gflops=counted.gflops("paper"), params_m=counted.params / 1e6)


def count_network(network: dict[str, Any]) -> tuple[float, float] | None:
    """Gflops and millions of parameters of a `SampleRun.network`; None if it does not describe a DiT."""
    return _count_config(json.dumps(network, sort_keys=True))


@functools.cache
def _count_config(text: str) -> tuple[float, float] | None:
    import torch

    from dit_eval.flops import count_flops
    from dit_eval.models.dit import DiT, DiTConfig

    try:
        config = DiTConfig(**json.loads(text))
    except (TypeError, ValueError):
        return None
    with torch.device("meta"):
        x = torch.empty(1, config.in_channels, config.input_size, config.input_size)
        counted = count_flops(DiT(config), (x, torch.zeros(1), torch.zeros(1, dtype=torch.long)))
    return counted.gflops("paper"), counted.params / 1e6
