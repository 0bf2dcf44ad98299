"""Does the memory of `evaluate` grow with the number of images, and what do precision and recall need?

python benchmarks/memory_of_evaluation.py [--extractor inception] [--weights FILE]
python benchmarks/memory_of_evaluation.py --manifold

Evaluates 500 and 2,000 images of 256 px from one stored npz, each in a fresh process, and prints both peaks. What may
grow are the features that are kept: pool features and class probabilities, 4 bytes each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from harness import log, print_environment

COUNTS = (500, 2000)
KEPT_VALUES = {"inception": 2048 + 1008, "digits": 64 + 10}  # per image


MANIFOLD = """
import numpy as np
from dit_eval.metrics.manifold import precision_recall
from dit_eval.system.environment import peak_memory_bytes
rng = np.random.default_rng(0)
gen, ref = (np.empty((rows, 2048), np.float32) for rows in (50_000, 10_000))
for features in (gen, ref):
    for i in range(0, len(features), 1000):
        features[i : i + 1000] = rng.gamma(0.5, size=(1000, 2048)) * 0.4
before = peak_memory_bytes()
precision_recall(gen=gen, ref=ref)
print(before, peak_memory_bytes())
"""


def manifold() -> None:
    """Peak memory of precision and recall of 50,000 against 10,000 features, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MANIFOLD], capture_output=True, check=False, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    before, peak = map(int, done.stdout.split())
    sys.stdout.write(f"  50,000 x 10,000 x 2048: peak {peak / 1e6:,.0f} MB, {before / 1e6:,.0f} MB before the call\n")
    log("peak memory, precision and recall 50K x 10K", {"before": before, "peak": peak})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifold", action="store_true", help="measure precision and recall instead")
    parser.add_argument("--extractor", choices=sorted(KEPT_VALUES), default="digits")
    parser.add_argument("--weights", help="Inception weights; others of the same shape measure the same")
    arguments = parser.parse_args()
    print_environment()
    if arguments.manifold:
        manifold()
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        samples, ref = Path(folder, "samples.npz"), Path(folder, "ref.npz")
        np.savez(samples, arr_0=rng.integers(0, 256, (max(COUNTS), 256, 256, 3), dtype=np.uint8))
        np.savez(ref, arr_0=rng.integers(0, 256, (50, 256, 256, 3), dtype=np.uint8))
        options = ["--extractor", arguments.extractor, "--ref", str(ref), "--json", "-", "--no-results"]
        options += ["--weights", arguments.weights] if arguments.weights else []
        peaks = {}
        for count in COUNTS:
            done = subprocess.run(
                [sys.executable, "-m", "dit_eval", "evaluate", str(samples), "--num-samples", str(count), *options],
                capture_output=True,
                check=False,
                text=True,
            )
            if done.returncode:
                sys.exit(done.stderr)
            peaks[count] = json.loads(done.stdout)["peak_memory_bytes"]
            sys.stdout.write(f"  {count:>5} images: peak {peaks[count] / 1e6:,.0f} MB\n")
    grown = peaks[COUNTS[1]] - peaks[COUNTS[0]]
    kept = 4 * KEPT_VALUES[arguments.extractor] * (COUNTS[1] - COUNTS[0])
    sys.stdout.write(f"  grown by {grown / 1e6:,.1f} MB, of which kept features {kept / 1e6:,.1f} MB\n")
    log(f"peak memory, {arguments.extractor}", {"peaks": peaks, "kept_feature_bytes": kept})


if __name__ == "__main__":
    main()
