"""How long does a command take beside its network: to start, to score again what it has seen, to draw a report?

    python benchmarks/speed_of_start.py [--repeats 5] [--only PATTERN] [--folder FOLDER]

Each run is a process of its own, from the command's first line to its last. Seconds of the clock are what a user waits,
on an idle machine; seconds of processor are much the same on a busy one. The network of `evaluate` stands aside here:
one that answers at once, of Inception's dimensions and name, so that all that is left is dit-eval.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import log, print_environment

from dit_eval.checks.golden import write_seeded_weights
from dit_eval.images.npz import write_batch
from dit_eval.system.assets import asset

# A network that has all features at hand. It says that it is Inception, so that the command finds what it kept.
INSTANT = """
import sys
import numpy as np
from dit_eval.evaluation import score
from dit_eval.features.network import FeatureBatch
from dit_eval.images.npz import open_batch
from dit_eval.system.where import Where

class Instant:
    name, backend, device, precision = "inception", "torch", "cpu", "fp32"
    pool_dim, spatial_dim, weights_sha256 = 2048, 2023, sys.argv[4]
    rng = np.random.default_rng(0)
    pool = np.maximum(rng.standard_normal((64, 2048), dtype=np.float32), 0)
    spatial = np.maximum(rng.standard_normal((64, 2023), dtype=np.float32), 0)
    probs = rng.dirichlet(np.ones(1008), 64).astype(np.float32)

    def __call__(self, images):
        level = images.mean(axis=(1, 2, 3), dtype=np.float32)[:, None] / 255
        n = len(images)
        return FeatureBatch(pool=self.pool[:n] * level, spatial=self.spatial[:n] * level, class_probs=self.probs[:n])

gen, ref, cache = sys.argv[1:4]
found = score(gen=open_batch(gen, role="gen"), ref=open_batch(ref, role="ref"), network=Instant(),
              where=Where(cache=cache if cache != "none" else None))
print(found)
"""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to run, how many seconds it may take (None: it is only told), and what to do before each run."""

    words: list[str]
    limit: float | None = None
    before: Callable[[], object] = lambda: None
    cache: str = "cache"


def dit_eval(*words: object) -> list[str]:
    return [sys.executable, "-m", "dit_eval", *map(str, words)]


def questions(folder: Path) -> dict[str, Question]:
    """All of them; the files that they need are written into the folder, if they are not there."""
    weights, heldout = folder / "weights.pth", asset("digits-heldout").path
    instant = [sys.executable, "-c", INSTANT, str(folder / "gen.npz"), str(folder / "ref.npz")]
    if not (folder / "features").is_dir():
        rng = np.random.RandomState(0)
        for name in ("gen", "ref"):
            images = rng.randint(0, 256, (1000, 256, 256, 3), np.uint8)
            write_batch(folder / f"{name}.npz", images=[images], shape=images.shape)
        write_seeded_weights(weights)
        for batch_size in (64, 100):  # two results
            once = dit_eval("evaluate", heldout, "--ref", "digits", "--extractor", "digits", "--batch-size", batch_size)
            _run([*once, "--results", folder / "results.jsonl"], folder, "cache")
        _run([*instant, folder / "features", hashlib.sha256(weights.read_bytes()).hexdigest()], folder, "cache")
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    again = dit_eval("evaluate", "gen.npz", "--ref", "ref.npz", "--weights", weights, "--cache", "features")
    digits = dit_eval("evaluate", heldout, "--ref", "digits", "--extractor", "digits", "--no-results")
    report = dit_eval("report", "--results", folder / "results.jsonl", "--out", "report", "--force")
    counts = dit_eval("flops", "--all")
    draw = dit_eval("sample", "--ckpt", "dit-digits", "--num-images", 8, "--num-sampling-steps", 2, "--out", "s.npz")
    drawn = folder / "s.npz"

    def forget() -> None:
        for path in (folder / "cold").glob("*"):
            path.unlink()

    return {
        "help": Question(words=dit_eval("--help")),
        "evaluate --help": Question(words=dit_eval("evaluate", "--help")),
        "import of dit_eval.evaluate": Question(words=[sys.executable, "-c", "from dit_eval import evaluate"]),
        "evaluate 500 digits": Question(words=digits),
        "evaluate 1,000 images, but for the network": Question(words=[*instant, "none", sha256]),
        "evaluate 1,000 images again, from the cache": Question(words=[*again, "--no-results"], limit=4),
        "sample 8 digits in 2 steps": Question(words=draw, before=lambda: drawn.unlink(missing_ok=True)),
        "flops --all, counted before": Question(words=counts, limit=5),
        "flops --all, cold": Question(words=counts, limit=15, before=forget, cache="cold"),
        "report of two results": Question(words=report, limit=5),
        "quickstart, cold": Question(
            words=dit_eval("quickstart", "--out", "quick"),
            limit=60,
            before=lambda: (forget(), _clear(folder / "quick")),
            cache="cold",
        ),
    }


def _clear(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def _run(words: Sequence[object], folder: Path, cache: str) -> tuple[float, float]:
    """Seconds of the clock and of processors that a command takes in a folder."""
    begin, before = time.perf_counter(), os.times()
    environ = os.environ | {"DIT_EVAL_CACHE": str(folder / cache)}
    done = subprocess.run([*map(str, words)], cwd=folder, env=environ, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - begin, os.times()
    if done.returncode:
        sys.exit(f"{words}: {done.stderr}")
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--only", default="", metavar="PATTERN", help="questions whose names it matches")
    parser.add_argument("--folder", type=Path, help="for what the questions need, kept for the next time")
    arguments = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(arguments.folder or place).resolve()
        folder.mkdir(exist_ok=True)
        asked = {name: each for name, each in questions(folder).items() if re.search(arguments.only, name)}
        for name, each in asked.items():
            runs = []
            for _ in range(arguments.repeats + 1):
                each.before()
                runs.append(_run(each.words, folder, each.cache))
            clock, used = ([run[part] for run in runs[1:] or runs] for part in (0, 1))
            limit = "" if each.limit is None else f"  at most {each.limit:.0f} s"
            sys.stdout.write(
                f"  {name:<44}{statistics.median(clock):7.2f} s ({min(clock):.2f} to {max(clock):.2f})"
                f"{statistics.median(used):7.2f} s of processor{limit}\n"
            )
            sys.stdout.flush()
            log(name, {"seconds": clock, "processor_seconds": used, "limit": each.limit})


if __name__ == "__main__":
    main()
