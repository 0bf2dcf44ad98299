"""How often do the 95 % intervals hold? Coverage of every metric over repeated draws of synthetic features.

python benchmarks/coverage_of_intervals.py [--draws 200] [--images 480]

Features are skewed, heavy-tailed and correlated, with known mean and covariance. The expected value of a metric at
this N is its mean over other draws, four times as many; that of FID for infinitely many images follows from the true
mean and covariance. 200 draws tell a coverage of 95 % to 1.5 %.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np
from harness import log, print_environment

from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.inception_score import inception_score
from dit_eval.metrics.intervals import estimate_uncertainty, inception_score_estimate
from dit_eval.metrics.manifold import precision_recall
from dit_eval.metrics.metric import Sides
from dit_eval.results.eval_result import ESTIMATES, Estimate
from dit_eval.summary import FeatureSummary, GaussianStats, RunningStats

DIM, SPATIAL, CLASSES, REFERENCE = 24, 16, 20, 400
SPLIT = 160  # images of a split of the Inception Score
# Distance of the generator from the reference: shift of the mean in standard deviations, scale of the spread.
GENERATORS = {"far": (0.4, 1.2), "near": (0.1, 1.05)}


class Features:
    """One layer's features: a rotated, scaled mix of independent skewed variables."""

    def __init__(self, dim: int, seed: int, *, shift: float, scale: float) -> None:
        basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))[0] * (1 + np.arange(dim)) ** -0.6
        self.mixing, self.mean = basis * scale, basis @ np.full(dim, shift)
        self.ref = GaussianStats(mu=np.zeros(dim), sigma=basis @ basis.T)
        self.true = GaussianStats(mu=self.mean, sigma=self.mixing @ self.mixing.T)

    def draw(self, rng: np.random.Generator, num: int) -> np.ndarray:
        latent = (rng.gamma(2.0, size=(num, len(self.mixing))) - 2) / math.sqrt(2)  # mean 0, variance 1, kurtosis 6
        return (latent @ self.mixing.T + self.mean).astype(np.float32)


class Generator:
    """Draws of images' features, their metrics, and the estimates from one draw."""

    def __init__(self, *, shift: float, scale: float) -> None:
        self.pool = Features(DIM, 0, shift=shift, scale=scale)
        self.spatial = Features(SPATIAL, 1, shift=shift, scale=scale)
        self.head = np.random.default_rng(2).normal(size=(DIM, CLASSES)) * 2
        real = Features(DIM, 0, shift=0.0, scale=1.0).draw(np.random.default_rng(3), REFERENCE)
        self.ref = FeatureSummary(pool=self.pool.ref, spatial=self.spatial.ref, pool_features=real)

    def draw(self, rng: np.random.Generator, num: int) -> FeatureSummary:
        pool, spatial = self.pool.draw(rng, num), self.spatial.draw(rng, num)
        odds = np.exp(pool @ self.head)
        return FeatureSummary(
            pool=moments(pool),
            spatial=moments(spatial),
            pool_features=pool,
            spatial_features=spatial,
            class_probs=odds / odds.sum(axis=1, keepdims=True),
        )

    def metrics(self, gen: FeatureSummary) -> dict[str, float]:
        manifold = precision_recall(gen=gen.pool_features, ref=self.ref.pool_features, distances="float32")
        return {
            "fid": frechet_distance(gen=gen.pool, ref=self.ref.pool).value,
            "sfid": frechet_distance(gen=gen.spatial, ref=self.ref.spatial).value,
            "inception_score": inception_score(gen.class_probs, split_size=SPLIT),
            "precision": manifold.precision,
            "recall": manifold.recall,
        }

    def estimates(self, gen: FeatureSummary) -> dict[str, Estimate]:
        metrics = self.metrics(gen)
        found = estimate_uncertainty(Sides(gen=gen, ref=self.ref), scores=metrics)
        if found.missing:
            raise SystemExit(f"no estimate: {found.missing}")
        estimates = {name: getattr(found, name) for name in ESTIMATES}
        score = metrics["inception_score"]
        estimates["inception_score"] = inception_score_estimate(score, class_probs=gen.class_probs, split_size=SPLIT)
        return estimates

    def truth(self, metrics: list[dict[str, float]], num: int) -> dict[str, float]:
        """Expected values at this N, and the distances at infinity."""
        expected = {name: float(np.mean([values[name] for values in metrics])) for name in metrics[0]}
        for name, layer in (("fid", self.pool), ("sfid", self.spatial)):
            expected[f"{name}_infinity"] = infinity = frechet_distance(gen=layer.true, ref=layer.ref).value
            # What is left of the bias at 50,000 is 1% of it at this N and known much better than the intervals are.
            expected[f"{name}_50k"] = infinity + (expected[name] - infinity) * num / 50_000
        return expected


def moments(features: np.ndarray) -> GaussianStats:
    running = RunningStats(features.shape[1])
    running.update(features)
    return running.finalize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=480, help="N of each draw")
    arguments = parser.parse_args()
    print_environment()
    for name, (shift, scale) in GENERATORS.items():
        generator, rng = Generator(shift=shift, scale=scale), np.random.default_rng(4)
        others = [generator.metrics(generator.draw(rng, arguments.images)) for _ in range(4 * arguments.draws)]
        truth = generator.truth(others, arguments.images)
        found = [generator.estimates(generator.draw(rng, arguments.images)) for _ in range(arguments.draws)]
        sys.stdout.write(f"{name} generator, N = {arguments.images}, {arguments.draws} draws\n")
        figures = {}
        for metric, true in truth.items():
            own = [estimates[metric] for estimates in found]
            coverage = float(np.mean([estimate.low <= true <= estimate.high for estimate in own]))
            error = math.sqrt(coverage * (1 - coverage) / len(own))
            standard_error = math.sqrt(np.mean([estimate.standard_error**2 for estimate in own]))
            seen = [values[metric] for values in others] if metric in others[0] else [e.value for e in own]
            spread = float(np.std(seen, ddof=1))
            figures[metric] = {"coverage": coverage, "binomial_error": error, "expected": true,
                               "standard_error": standard_error, "spread": spread}  # fmt: skip
            sys.stdout.write(
                f"  {metric:<16} coverage {coverage:6.1%} +- {error:.1%}   expected {true:9.4f}   "
                f"standard error {standard_error:.4f}, spread over draws {spread:.4f}\n"
            )
        log(f"Coverage of 95 % intervals, {name} generator", vars(arguments) | {"metrics": figures})


if __name__ == "__main__":
    main()
