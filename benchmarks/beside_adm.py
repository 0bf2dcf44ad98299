"""How long does a whole evaluation take, and in how much memory, against ADM's evaluator?

    python benchmarks/beside_adm.py --adm CLONE [--images 2000] [--reference 2000] [--repeats 5]

CLONE is a checkout of openai/guided-diffusion, whose evaluator.py runs as it is. Both programs score the same samples
of 256 px against the same reference, which holds statistics and images, each in a fresh process, in turn. The network
has seeded random weights: they cost what the published ones cost. Precision and recall need the images of the reference
too, so that they pass through the network as well.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import log, print_environment

from dit_eval.images.npz import write_batch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from seeded_inception import seeded_weights, write_graph_def

SIZE = 256


def write_files(folder: Path, num_gen: int, num_ref: int) -> None:
    """Samples and a reference of smooth random images, statistics of a made-up Gaussian, and the weights."""
    rng = np.random.RandomState(0)
    for name, count in (("gen", num_gen), ("ref", num_ref)):
        coarse = rng.randint(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        images = np.repeat(np.repeat(coarse, SIZE // 16, 1), SIZE // 16, 2)
        arrays = {}
        if name == "ref":
            for dim, mu, sigma in ((2048, "mu", "sigma"), (2023, "mu_s", "sigma_s")):
                features = rng.standard_normal((2 * dim, dim)) * 0.3
                arrays |= {mu: features.mean(0), sigma: np.cov(features, rowvar=False)}
        write_batch(folder / f"{name}.npz", images=[images], shape=images.shape, arrays=arrays)
    write_graph_def(folder / "classify_image_graph_def.pb", seeded_weights(0))


def seconds_and_peak(command: list[str], folder: Path) -> tuple[float, int]:
    """Seconds of a process, and its peak memory in bytes."""
    with open(os.devnull, "w") as nothing:
        begin = time.perf_counter()
        pid = os.posix_spawn(
            command[0],
            command,
            dict(os.environ),
            file_actions=[(os.POSIX_SPAWN_DUP2, nothing.fileno(), 1), (os.POSIX_SPAWN_DUP2, nothing.fileno(), 2)],
        )
        _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"failed: {' '.join(command)}")
    return time.perf_counter() - begin, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adm", type=Path, required=True, metavar="CLONE")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--reference", type=int, default=2000, metavar="N", help="images in the reference")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print_environment()
    program = (arguments.adm / "evaluations" / "evaluator.py").resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: a program's peak memory, as the system counts it, begins at that of its parent.
        making = multiprocessing.get_context("spawn").Process(
            target=write_files, args=(folder, arguments.images, arguments.reference)
        )
        making.start()
        making.join()
        if making.exitcode:
            sys.exit("failed: writing the files")
        os.chdir(folder)  # where ADM's program looks for the weights
        files = [str(folder / f"{part}.npz") for part in ("ref", "gen")]
        ours = [sys.executable, "-m", "dit_eval", "evaluate", files[1], "--ref", files[0], "--no-results"]
        ours += ["--weights", str(folder / "classify_image_graph_def.pb")]
        commands = {
            "dit-eval": [*ours, "--no-cache"],  # a later run would find the reference's features
            "ADM's evaluator": [sys.executable, str(program), *files],
        }
        runs: dict[str, list[tuple[float, int]]] = {label: [] for label in commands}
        for _ in range(arguments.repeats):
            for label, command in commands.items():
                runs[label].append(seconds_and_peak(command, folder))
                sys.stdout.write(f"  {label}: {runs[label][-1][0]:.1f} s, {runs[label][-1][1] / 1e9:.2f} GB\n")
                sys.stdout.flush()
    question = (
        f"Evaluation of {arguments.images:,} images of {SIZE} px against statistics and {arguments.reference:,} images"
    )
    medians = {
        label: [statistics.median(column) for column in zip(*found, strict=True)] for label, found in runs.items()
    }
    base = medians["dit-eval"]
    sys.stdout.write(f"{question}, medians of {arguments.repeats}\n")
    for label, (seconds, peak) in medians.items():
        sys.stdout.write(
            f"  {label:<18} {seconds:8.1f} s (x{seconds / base[0]:.2f})  {peak / 1e9:6.2f} GB (x{peak / base[1]:.2f})\n"
        )
    log(question, {"seconds_and_bytes": runs})


if __name__ == "__main__":
    main()
