"""What torch-fidelity computes of Inception's features, where it is not ADM's number; KID is in `kid.py`.

Papers after MAR and JiT print these. What they share with ADM is the network: one pass gives both.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dit_eval.metrics.fid import FID
from dit_eval.metrics.inception_score import score_variation
from dit_eval.metrics.metric import BETA, TORCH_FIDELITY, Metric, Needs, Scores, Sides
from dit_eval.metrics.permuted_score import SEED, SPLITS, permuted_splits
from dit_eval.metrics.precision_recall import NEIGHBOURS, PRECISION, precision_variation, recall_variation_of

if TYPE_CHECKING:
    from dit_eval.metrics.variation import Variation
    from dit_eval.summary import FeatureSummary, GaussianStats

_VERSION = "torch-fidelity 0.4.0"


def _fid(sides: Sides) -> Scores:
    from dit_eval.metrics.frechet import frechet_distance

    ref = sides.ref.stats("pool") if sides.stored else _with_mean_in_float32(sides.ref)
    found = frechet_distance(gen=_with_mean_in_float32(sides.gen), ref=ref)
    return Scores(values={"fid_torch_fidelity": found.value})


def _with_mean_in_float32(features: FeatureSummary) -> GaussianStats:
    """Statistics with the mean that NumPy gives of float32 rows: it is off by up to 1e-5 of itself over 50,000."""
    from dataclasses import replace

    stats = features.stats("pool")
    return replace(stats, mu=features.features("pool").mean(axis=0), names=("the mean", "the covariance"))


def _inception_score(sides: Sides) -> Scores:
    from dit_eval.metrics.permuted_score import permuted_inception_score

    probs = sides.gen.probabilities()
    found = permuted_inception_score(probs if sides.gen_order is None else probs[sides.gen_order])
    key = "inception_score_torch_fidelity"
    return Scores(values={key: found.mean, f"{key}_std": found.std})


def _score_variation(sides: Sides) -> Variation:
    probs, order = sides.gen.probabilities(), sides.gen_order
    splits = permuted_splits(len(probs))
    return score_variation(probs, splits if order is None else [order[rows] for rows in splits])


def _precision_recall(sides: Sides, *, exchanged: bool) -> Scores:
    """Precision and recall; exchanged, as versions before 0.4.0 name them where samples are their first input."""
    from dit_eval.metrics.manifold import precision_recall

    gen, ref = sides.gen.features("pool"), sides.ref.features("pool")
    found = precision_recall(gen=gen, ref=ref, k=NEIGHBOURS, distances="float32", device=sides.device)
    if exchanged:
        return Scores(
            values={
                "precision_torch_fidelity_beta": found.recall,
                "recall_torch_fidelity_beta": found.precision,
            }
        )
    return Scores(
        values={
            "precision_torch_fidelity": found.precision,
            "recall_torch_fidelity": found.recall,
        }
    )


def _precision_or_recall(metric: str, version: str) -> Metric:
    """One of the four: of the release, and of the beta that MAR's and JiT's fork is of."""
    exchanged = version == BETA
    how = "reference in samples' manifold, " if (metric == "precision") == exchanged else "samples in reference's, "
    order = "0.4.0-beta, samples as input 1: exchanged, " if exchanged else "0.4.0, samples as input 1: "
    return Metric(
        key=f"{metric}_{version.replace('-', '_')}",
        name=f"{version}-{metric}",
        label=f"{version} {metric.capitalize()}",
        better="higher",
        networks=("inception",),
        by_default=(),
        suites=(version,),
        version_of=version,
        needs=PRECISION.needs,
        protocol=f"torch-fidelity {order}{how}k = {NEIGHBOURS}, float32 distances, Inception's features",
        score=_PRECISION_RECALL[version],
        variation=recall_variation_of
        if (metric == "precision") == exchanged
        else partial(precision_variation, distances="float32"),
    )


_PRECISION_RECALL = {
    version: partial(_precision_recall, exchanged=version == BETA) for version in (TORCH_FIDELITY, BETA)
}
TORCH_FIDELITY_METRICS = (
    Metric(
        key="fid_torch_fidelity",
        name="torch-fidelity-fid",
        label="torch-fidelity FID",
        better="lower",
        counted=True,
        networks=("inception",),
        by_default=(),
        suites=(TORCH_FIDELITY, BETA),
        version_of=TORCH_FIDELITY,
        needs=FID.needs,
        protocol=f"{_VERSION}: mean in float32, covariance with N - 1",
        few_samples=FID.few_samples,
        score=_fid,
        variation=FID.variation,
    ),
    Metric(
        key="inception_score_torch_fidelity",
        name="torch-fidelity-is",
        label="torch-fidelity Inception Score",
        better="higher",
        networks=("inception",),
        by_default=(),
        suites=(TORCH_FIDELITY, BETA),
        version_of=TORCH_FIDELITY,
        needs=Needs(class_probs=True, least_gen=SPLITS, because=f"its Inception Score takes {SPLITS} splits"),
        protocol=f"{_VERSION}: RandomState({SEED}) permutation of the files in plain order, {SPLITS} splits",
        details=("inception_score_torch_fidelity_std",),
        score=_inception_score,
        variation=_score_variation,
    ),
    *(
        _precision_or_recall(metric, version)
        for version in (TORCH_FIDELITY, BETA)
        for metric in ("precision", "recall")
    ),
)
