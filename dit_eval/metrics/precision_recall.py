"""Precision and recall, improved: shares of one set that lie in the manifold of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dit_eval.metrics.metric import ADM, Metric, Needs, Scores, Sides

if TYPE_CHECKING:
    from dit_eval.metrics.variation import Variation
    from dit_eval.results.eval_result import Estimate

NEIGHBOURS = 3
_NUM_REFERENCE = 10_000  # images of ADM's reference


def _score(sides: Sides) -> Scores:
    from dit_eval.metrics.manifold import precision_recall

    found = precision_recall(
        gen=sides.gen.features("pool"),
        ref=sides.ref.features("pool"),
        k=NEIGHBOURS,
        distances=sides.distances,
        device=sides.device,
    )
    values = {"precision": found.precision, "recall": found.recall}
    if not found.clipped_risk or sides.distances != "adm-float16":
        return Scores(values=values)
    warning = (
        "features are so large that ADM's float16 distances overflow without notice; precision and recall may be near "
        "1 for that reason alone. Compare with --distances float32."
    )
    return Scores(values=values, warnings=(warning,))


def _precision_interval(value: float, sides: Sides) -> dict[str, Estimate | str]:
    from dit_eval.metrics.intervals import precision_estimate

    return {"precision": precision_estimate(value, num=len(sides.gen.features("pool")), z=sides.z)}


def _recall_interval(value: float, sides: Sides) -> dict[str, Estimate | str]:
    from dit_eval.metrics.intervals import recall_estimate

    gen, ref = sides.gen.features("pool"), sides.ref.features("pool")
    return {"recall": recall_estimate(value, gen=gen, ref=ref, k=NEIGHBOURS, device=sides.device, z=sides.z)}


def precision_variation(sides: Sides, *, distances: Literal["adm-float16", "float32"] | None = None) -> Variation:
    """Which images are inside the manifold of the reference, by this rule of distances or that of the sides."""
    from dit_eval.metrics.manifold import inside_reference
    from dit_eval.metrics.variation import LEAST_IMAGES, Members, NoEstimate

    gen = sides.gen.features("pool")
    if len(gen) < LEAST_IMAGES:
        raise NoEstimate(f"{len(gen)} images; needed at least {LEAST_IMAGES}")
    inside = inside_reference(
        gen=gen,
        ref=sides.ref.features("pool"),
        k=NEIGHBOURS,
        distances=distances or sides.distances,
        device=sides.device,
    )
    return Members(inside=inside)


def recall_variation_of(sides: Sides) -> Variation:
    """Recall of random halves."""
    from dit_eval.metrics.halves import recall_variation

    gen, ref = sides.gen.features("pool"), sides.ref.features("pool")
    return recall_variation(gen=gen, ref=ref, k=NEIGHBOURS, device=sides.device)


def _few_reference(num: int, network: str) -> str | None:
    if network != "inception" or num >= _NUM_REFERENCE:
        return None
    return f"precision and recall against {num:,} reference images do not compare with those against ADM's 10,000."


_NEEDS = Needs(
    ref_images=True,
    least_gen=NEIGHBOURS + 1,
    least_ref=NEIGHBOURS + 1,
    because=f"precision and recall need at least {NEIGHBOURS + 1} on each side",
)
PRECISION = Metric(
    key="precision",
    name="precision",
    label="Precision",
    better="higher",
    networks=("inception",),
    by_default=("inception",),
    suites=(ADM,),
    needs=_NEEDS,
    other_names=("prc",),
    few_reference=_few_reference,
    score=_score,
    interval=_precision_interval,
    variation=precision_variation,
)
RECALL = Metric(
    key="recall",
    name="recall",
    label="Recall",
    better="higher",
    networks=("inception",),
    by_default=("inception",),
    suites=(ADM,),
    needs=_NEEDS,
    few_reference=_few_reference,
    score=_score,
    interval=_recall_interval,
    variation=recall_variation_of,
)
