"""What the metrics cost once features are there, against what users run today.

    python benchmarks/speed_metrics.py [--rows 10000] [--adm CLONE]

CLONE is a checkout of openai/guided-diffusion: its evaluator's precision and recall then run beside ours. If prdc is
installed (`pip install prdc`), so does it, which gives precision, recall, density and coverage in one call.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import adm_evaluator, alternate, print_environment, report
from scipy import linalg

from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.manifold import precision_recall
from dit_eval.summary import RunningStats

DIM = 2048


def features(num: int, seed: int) -> np.ndarray:
    """Correlated non-negative rows (num, 2048) float32 with |f|^2 of some hundreds, as Inception's."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((num, 64), dtype=np.float32)
    mixing = np.random.default_rng(0).standard_normal((64, DIM), dtype=np.float32) * 0.05
    noise = rng.standard_normal((num, DIM), dtype=np.float32) * 0.2
    return np.maximum(latent @ mixing + noise + 0.25, 0)


def adm_precision_recall(clone: Path) -> Callable[[np.ndarray, np.ndarray], Any]:
    """ADM's own, from its unchanged file, in a TensorFlow session."""
    import tensorflow.compat.v1 as tf

    estimator = adm_evaluator(clone).ManifoldEstimator(tf.Session(config=tf.ConfigProto(allow_soft_placement=True)))

    def both(ref: np.ndarray, gen: np.ndarray) -> Any:
        radii = [estimator.manifold_radii(part) for part in (ref, gen)]
        return estimator.evaluate_pr(ref, radii[0], gen, radii[1])

    return both


def bare_products(ref: np.ndarray, gen: np.ndarray) -> None:
    """The three matrix products behind precision and recall, of blocks that fit in memory, and nothing else."""
    ref_rows, gen_rows = torch.from_numpy(ref), torch.from_numpy(gen)
    for rows, columns in ((ref_rows, ref_rows), (gen_rows, gen_rows), (ref_rows, gen_rows)):
        for i in range(0, len(rows), 2048):
            rows[i : i + 2048] @ columns.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000, help="features on each side")
    parser.add_argument("--adm", type=Path, metavar="CLONE")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rows, repeats = arguments.rows, arguments.repeats
    print_environment()
    gen, ref = features(rows, 1), features(rows, 2)
    stats = []
    for part in (gen, ref):
        running = RunningStats(DIM)
        running.update(part)
        stats.append(running.finalize())

    full, other = stats
    few = RunningStats(DIM)
    few.update(gen[:1000])
    deficient = few.finalize()
    for question, a in (("", full), (", 1,000 images on one side", deficient)):
        report(
            f"Fréchet distance, {DIM} dimensions{question}",
            alternate(
                {
                    "dit-eval": lambda a=a: frechet_distance(gen=a, ref=other),
                    "scipy.linalg.sqrtm (ADM, pytorch-fid)": lambda a=a: linalg.sqrtm(a.sigma @ other.sigma),
                },
                repeats,
            ),
            "dit-eval",
        )
    candidates: dict[str, Callable[[], Any]] = {
        "dit-eval, ADM's float16 rule": lambda: precision_recall(gen=gen, ref=ref),
        "dit-eval, float32": lambda: precision_recall(gen=gen, ref=ref, distances="float32"),
        "bare float32 matrix products": lambda: bare_products(ref, gen),
    }
    if arguments.adm:
        theirs = adm_precision_recall(arguments.adm)
        candidates["ADM's evaluator"] = lambda: theirs(ref, gen)
    report(
        f"Precision and recall, {rows:,} x {rows:,} x {DIM}",
        alternate(candidates, repeats),
        "dit-eval, ADM's float16 rule",
    )
    if importlib.util.find_spec("prdc") is None:
        sys.stdout.write("prdc is not installed: density and coverage have nothing to run beside.\n")
        return
    from prdc import compute_prdc

    def all_four() -> None:
        precision_recall(gen=gen, ref=ref, distances="float32", k=5)
        density_coverage(gen=gen, ref=ref)

    report(
        f"Precision, recall, density and coverage, {rows:,} x {rows:,} x {DIM}, float32, k = 5",
        alternate({"dit-eval": all_four, "prdc": lambda: compute_prdc(ref, gen, nearest_k=5)}, repeats),
        "dit-eval",
    )


if __name__ == "__main__":
    main()
