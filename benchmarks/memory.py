"""Does the memory of `evaluate` grow with the number of images?

python benchmarks/memory.py [--extractor inception] [--weights FILE]

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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--extractor", choices=sorted(KEPT_VALUES), default="digits")
    parser.add_argument("--weights", help="Inception weights; others of the same shape measure the same")
    arguments = parser.parse_args()
    print_environment()
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
