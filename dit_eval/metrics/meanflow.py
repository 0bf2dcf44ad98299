"""The Inception Score of MeanFlow's line of programs in JAX: MeanFlow, iMF, pMF, Drifting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_eval.metrics.inception_score import score_variation
from dit_eval.metrics.metric import Metric, Needs, Scores, Sides
from dit_eval.metrics.permuted_score import SEED, SPLITS, permuted_splits

if TYPE_CHECKING:
    from dit_eval.metrics.variation import Variation

_ADDED = 1e-10


def _score(sides: Sides) -> Scores:
    from dit_eval.metrics.permuted_score import permuted_inception_score

    found = permuted_inception_score(sides.gen.probabilities(), drop_rest=True, added_in_logarithms=_ADDED)
    return Scores(values={"inception_score_meanflow": found.mean, "inception_score_meanflow_std": found.std})


def _variation(sides: Sides) -> Variation:
    probs = sides.gen.probabilities()
    return score_variation(probs, permuted_splits(len(probs), drop_rest=True))


MEANFLOW_INCEPTION_SCORE = Metric(
    key="inception_score_meanflow",
    name="meanflow-is",
    label="meanflow Inception Score",
    better="higher",
    networks=("inception",),
    by_default=(),
    suites=("meanflow",),
    version_of="meanflow",
    needs=Needs(class_probs=True, least_gen=SPLITS, because=f"its Inception Score takes {SPLITS} splits"),
    protocol=f"imeanflow: RandomState({SEED}) permutation, {SPLITS} splits of N // {SPLITS}, p + {_ADDED:g} in logs",
    details=("inception_score_meanflow_std",),
    score=_score,
    variation=_variation,
)
