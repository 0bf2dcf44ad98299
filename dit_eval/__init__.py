"""Evaluation of diffusion transformers: the numbers of the papers, with their provenance.

    import dit_eval

    result = dit_eval.evaluate("samples.npz", ref="imagenet256")
    print(result)

The names below are loaded when they are first used; importing this loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for editors and type checkers
    from dit_eval.comparison import compare as compare
    from dit_eval.evaluation import evaluate as evaluate
    from dit_eval.features import NETWORKS as NETWORKS
    from dit_eval.features.load import load_network as load_network
    from dit_eval.flops.count import count_flops as count_flops
    from dit_eval.images import open_images as open_images
    from dit_eval.images.huggingface import from_dataset as from_dataset
    from dit_eval.images.stream import from_batches as from_batches
    from dit_eval.metrics import METRICS as METRICS
    from dit_eval.models import MODELS as MODELS
    from dit_eval.reference import stats as stats
    from dit_eval.results.comparison import Comparison as Comparison
    from dit_eval.results.eval_result import EvalResult as EvalResult
    from dit_eval.results.lines import append_result as append_result
    from dit_eval.results.lines import read_results as read_results
    from dit_eval.results.sample_run import SampleRun as SampleRun
    from dit_eval.results.settings import ComparisonSettings as ComparisonSettings
    from dit_eval.results.settings import EvaluationSettings as EvaluationSettings
    from dit_eval.results.settings import SamplingSettings as SamplingSettings
    from dit_eval.sampling import sample as sample
    from dit_eval.system.where import Where as Where

__version__ = "0.1.0"

_PLACES = {
    "METRICS": "dit_eval.metrics",
    "MODELS": "dit_eval.models",
    "NETWORKS": "dit_eval.features",
    "Comparison": "dit_eval.results.comparison",
    "ComparisonSettings": "dit_eval.results.settings",
    "EvalResult": "dit_eval.results.eval_result",
    "EvaluationSettings": "dit_eval.results.settings",
    "SampleRun": "dit_eval.results.sample_run",
    "SamplingSettings": "dit_eval.results.settings",
    "Where": "dit_eval.system.where",
    "append_result": "dit_eval.results.lines",
    "compare": "dit_eval.comparison",
    "count_flops": "dit_eval.flops.count",
    "evaluate": "dit_eval.evaluation",
    "from_batches": "dit_eval.images.stream",
    "from_dataset": "dit_eval.images.huggingface",
    "load_network": "dit_eval.features.load",
    "open_images": "dit_eval.images",
    "read_results": "dit_eval.results.lines",
    "sample": "dit_eval.sampling",
    "stats": "dit_eval.reference",
}
__all__ = ["__version__", *_PLACES]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'dit_eval' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
