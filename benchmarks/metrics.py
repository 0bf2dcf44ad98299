"""What the metrics cost once features are there, against what users run today.

python benchmarks/metrics.py [--rows 10000]
"""

from __future__ import annotations

import argparse

import numpy as np
from harness import alternate, print_environment, report
from scipy import linalg

from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.manifold import precision_recall
from dit_eval.stats import RunningStats

DIM = 2048


def features(num: int, seed: int) -> np.ndarray:
    """Correlated non-negative rows (num, 2048) float32 with |f|^2 of some hundreds, as Inception's."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((num, 64), dtype=np.float32)
    mixing = np.random.default_rng(0).standard_normal((64, DIM), dtype=np.float32) * 0.05
    noise = rng.standard_normal((num, DIM), dtype=np.float32) * 0.2
    return np.maximum(latent @ mixing + noise + 0.25, 0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=10_000, help="features on each side")
    rows = parser.parse_args().rows
    print_environment()
    gen, ref = features(rows, 1), features(rows, 2)
    stats = []
    for part in (gen, ref):
        running = RunningStats(DIM)
        running.update(part)
        stats.append(running.finalize())

    def moments() -> None:
        running = RunningStats(DIM)
        for i in range(0, 1024, 64):
            running.update(gen[i : i + 64])

    report(
        "Moments of 1,024 images, 2048 dimensions",
        alternate({"streaming, batches of 64": moments}),
        "streaming, batches of 64",
    )
    a, b = stats
    report(
        "Fréchet distance, 2048 dimensions",
        alternate({
            "dit-eval": lambda: frechet_distance(gen=a, ref=b),
            "scipy.linalg.sqrtm (ADM, pytorch-fid)": lambda: linalg.sqrtm(a.sigma @ b.sigma),
        }),
        "dit-eval",
    )  # fmt: skip
    report(
        f"Precision and recall, {rows:,} x {rows:,} x 2048",
        alternate({
            "dit-eval, ADM's float16 rule": lambda: precision_recall(gen=gen, ref=ref),
            "dit-eval, float32": lambda: precision_recall(gen=gen, ref=ref, distances="float32"),
        }),
        "dit-eval, ADM's float16 rule",
    )  # fmt: skip


if __name__ == "__main__":
    main()
