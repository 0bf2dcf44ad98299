"""What do the digests of pieces of work add to drawing images, and to an evaluation from the cache?

python benchmarks/cost_of_digests.py [--images 64] [--repeats 5]

Each is timed within the run itself: the seconds spent in hashing, and all others. So both are of the same moment of the
same machine. Shares are of the wall clock, and of the processor's time, which other programs on the machine move less.
Images are drawn by the embedded digits model in few steps; features are random, as wide as Inception's. What is read
from the cache is scored, and no more: a whole evaluation also starts PyTorch and sums the files.

Of the cache there are two lines: the CRC-32 of all that is read, which zip files have anyway, and the check that the
arrays belong together and to the images, which is what digests add.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from harness import log, print_environment

import dit_eval
from dit_eval.features.cache import CacheEntry
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.manifold import precision_recall
from dit_eval.results.settings import SamplingSettings
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system import seals


def clocks() -> np.ndarray:
    """Seconds of the wall clock, and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


@contextmanager
def timed(module: Any, name: str, seconds: list[np.ndarray]) -> Iterator[None]:
    """Add the time that each call of a function takes to `seconds`."""
    function: Callable[..., Any] = getattr(module, name)

    def measured(*arguments: Any, **named: Any) -> Any:
        begin = clocks()
        try:
            return function(*arguments, **named)
        finally:
            seconds.append(clocks() - begin)

    with mock.patch.object(module, name, measured):
        yield


def shares(run: Callable[[], None], module: Any, name: str, repeats: int) -> np.ndarray:
    """The share of a run that is spent in a function, in percent by both clocks (repeats, 2), after a warm-up."""
    found = []
    for _ in range(repeats + 1):
        hashing: list[np.ndarray] = []
        begin = clocks()
        with timed(module, name, hashing):
            run()
        found.append(100 * sum(hashing) / (clocks() - begin))
    return np.array(found[1:])


def report(question: str, found: np.ndarray) -> None:
    """Print the medians and spreads of shares, and log them."""
    told = (
        f"{np.median(each):6.3f} % of {clock} ({each.min():.3f} to {each.max():.3f})"
        for clock, each in zip(("wall", "CPU"), found.T, strict=True)
    )
    sys.stdout.write(f"  {question:<46} {', '.join(told)}\n")
    log(f"digests, {question}", {"percent of wall clock": list(found[:, 0]), "percent of CPU": list(found[:, 1])})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=64, help="to draw, of 8 x 8 pixels, in 8 steps")
    parser.add_argument("--features", type=int, default=2000, help="images whose features are read from the cache")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print_environment()
    settings = SamplingSettings(num_images=arguments.images, num_sampling_steps=8, cfg_scale=1.5)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:

        def draw() -> None:
            out = Path(folder, "samples.npz")
            dit_eval.sample("dit-digits", out=out, settings=settings, device="cpu", batch_size=8, quiet=True)
            out.unlink()

        report(
            f"drawing {arguments.images} digits in batches of 8", shares(draw, seals, "digest_of", arguments.repeats)
        )
        features = rng.gamma(0.5, size=(arguments.features, 2048)).astype(np.float32)
        stats = GaussianStats(mu=features.mean(0, np.float64), sigma=np.cov(features.T), num=len(features))
        summary = FeatureSummary(pool=stats, pool_features=features)
        entry = CacheEntry(path=Path(folder, "entry.npz"), made_from="{}", num_images=len(features))
        entry.write(summary)

        def evaluate() -> None:
            gen, ref = entry.read(), entry.read()
            if gen and ref and gen.pool and ref.pool:
                frechet_distance(gen=gen.pool, ref=ref.pool)
                precision_recall(gen=gen.features("pool"), ref=ref.features("pool"))

        scored = f"scoring {arguments.features} cached"
        report(f"{scored}: CRC-32, as ever", shares(evaluate, zipfile, "crc32", arguments.repeats))
        report(f"{scored}: what digests add", shares(evaluate, CacheEntry, "_check", arguments.repeats))


if __name__ == "__main__":
    main()
