"""Which sampler gives the best quality for its compute? Evaluations of one network by several samplers.

Nothing is interpolated: everything here speaks of points that were evaluated.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from dit_eval.flops.compute import image_gflops
from dit_eval.report.sampling import compute_text, pareto_front
from dit_eval.report.setting import select
from dit_eval.results.settings import is_flow

COMPUTE = "image_gflops"
_NEAR = 1.1  # times the best FID: near enough to ask what it costs
# What the evaluations of one network have in common; DDPM and a flow are trained alike.
_SAME = ["model", "block", "training_steps", "batch_size", "decoder", "seed", "num_samples"]
_WORDS = {
    "ddpm": "DDPM", "ddim": "DDIM", "ode-euler": "ODE Euler", "ode-heun": "ODE Heun", "ode-dopri5": "ODE dopri5",
    "sde-euler": "SDE Euler", "sde-heun": "SDE Heun",
}  # fmt: skip


def sampler_points(points: pd.DataFrame) -> pd.DataFrame:
    """The unguided evaluations of the network that was drawn by the most samplers; none of one sampler alone.

    Returns
    -------
    pandas.DataFrame
        The points with three columns more: "series" (sampler, and what the weights have learned), "nfe" (evaluations of
        the network for an image) and "image_gflops" (compute of an image, the decoder left out).
    """
    shown = select(points, source="measured", cfg_scale=1.0)
    nfe = shown["evaluations"].fillna(shown["sampling_steps"])
    compute = image_gflops(shown["gflops"], evaluations=nfe)
    names = [
        _series(sampler, objective) for sampler, objective in zip(shown["sampler"], shown["objective"], strict=True)
    ]
    shown = shown.assign(series=names, nfe=nfe, image_gflops=compute)
    shown = shown[shown["series"].notna() & shown["image_gflops"].notna() & shown["fid"].notna()]
    groups = [own for _, own in shown.groupby(_SAME, dropna=False, sort=False) if own["series"].nunique() > 1]
    return max(groups, key=lambda own: (own["series"].nunique(), len(own)), default=shown.head(0))


def sentences(points: pd.DataFrame) -> Iterator[str]:
    """What the points of `sampler_points` say: the front, and what each sampler takes to come near the best FID."""
    front = pareto_front(points, COMPUTE)
    steps = [f"{row.series} at {row.nfe:.3g} ({row.fid:.2f})" for row in front.itertuples()]
    yield f"On the Pareto front, from the cheapest point to the best, with evaluations of an image: {', '.join(steps)}."
    best = points["fid"].min()
    near = points[points["fid"] <= _NEAR * best].sort_values([COMPUTE, "fid"], kind="stable").drop_duplicates("series")
    told = [f"{row.series} {row.nfe:.3g} ({compute_text(row.image_gflops / 1000)})" for row in near.itertuples()]
    never = [name for name in dict.fromkeys(points["series"]) if name not in set(near["series"])]
    rest = f"; never: {', '.join(never)}" if never else ""
    yield f"Within {_NEAR - 1:.0%} of the best FID, {best:.2f}, at the fewest evaluations: {', '.join(told)}{rest}."


def _series(sampler: str | None, objective: str | None) -> str | None:
    """The name of a sampler in figures; of one that follows a flow, with what its weights were trained for."""
    if sampler not in _WORDS:
        return None
    learned = "flow" if objective == "flow" else "DDPM"
    return f"{_WORDS[sampler]} ({learned})" if is_flow(sampler) else _WORDS[sampler]
