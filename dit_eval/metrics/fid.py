"""FID, sFID and FD-DINOv2: Fréchet distances between Gaussians that are fitted to features."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from dit_eval.metrics.metric import ADM, Metric, Needs, Scores, Sides

if TYPE_CHECKING:
    from dit_eval.metrics.variation import Variation
    from dit_eval.results.eval_result import Estimate


def _score(sides: Sides, *, key: str, space: Literal["pool", "spatial"], raw: bool = True) -> Scores:
    from dit_eval.metrics.frechet import frechet_distance

    found = frechet_distance(gen=sides.gen.stats(space), ref=sides.ref.stats(space))
    return Scores(values={key: found.value} | ({f"{key}_raw": found.raw} if raw else {}))


def _interval(value: float, sides: Sides, *, key: str, space: Literal["pool", "spatial"]) -> dict[str, Estimate | str]:
    from dit_eval.metrics.intervals import frechet_estimates

    found = frechet_estimates(value, gen=sides.gen.features(space), ref=sides.ref.stats(space), z=sides.z)
    few = "a quarter of the images is no more than there are dimensions"
    return {key: found.here, f"{key}_infinity": found.infinity or few, f"{key}_50k": found.at_50k or few}


def frechet_variation_of(sides: Sides, *, space: Literal["pool", "spatial"]) -> Variation:
    """What each image does to the Fréchet distance of these features."""
    from dit_eval.metrics.influence import frechet_variation

    return frechet_variation(sides.gen.features(space), sides.ref.stats(space))


def _few_samples(num: int, network: str) -> str:
    if network == "inception":
        return (
            f"{num:,} samples: FID and sFID grow as samples get fewer; compare with FID-{num} only, not with FID-50K."
        )
    return (
        f"{num:,} samples: FID and sFID of the {network} network grow as samples get fewer; compare at equal numbers "
        "only."
    )


def _few_samples_dinov2(num: int, network: str) -> str:
    return f"{num:,} samples: FD-DINOv2 grows as samples get fewer; compare at equal numbers only."


FID = Metric(
    key="fid",
    name="fid",
    label="FID",
    better="lower",
    counted=True,
    networks=("inception",),
    by_default=("inception",),
    suites=(ADM,),
    needs=Needs(moments="pool", least_gen=2, least_ref=2, because="a covariance needs at least 2"),
    details=("fid_raw",),
    few_samples=_few_samples,
    score=partial(_score, key="fid", space="pool"),
    interval=partial(_interval, key="fid", space="pool"),
    variation=partial(frechet_variation_of, space="pool"),
)
SFID = Metric(
    key="sfid",
    name="sfid",
    label="sFID",
    better="lower",
    counted=True,
    networks=("inception",),
    by_default=("inception",),
    suites=(ADM,),
    needs=Needs(moments="spatial", least_gen=2, least_ref=2, because="a covariance needs at least 2"),
    details=("sfid_raw",),
    few_samples=_few_samples,
    score=partial(_score, key="sfid", space="spatial"),
    interval=partial(_interval, key="sfid", space="spatial"),
    variation=partial(frechet_variation_of, space="spatial"),
)
FD_DINOV2 = Metric(
    key="fd_dinov2",
    name="fd-dinov2",
    label="FD-DINOv2",
    better="lower",
    counted=True,
    networks=("dinov2",),
    by_default=("dinov2",),
    needs=Needs(moments="pool", least_gen=2, least_ref=2, because="a covariance needs at least 2"),
    protocol="dgm-eval: DINOv2 ViT-L/14, class token, 224 px",
    other_names=("fdd",),
    few_samples=_few_samples_dinov2,
    score=partial(_score, key="fd_dinov2", space="pool", raw=False),
    variation=partial(frechet_variation_of, space="pool"),
)
