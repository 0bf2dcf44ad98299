"""What do metrics cost, and do intervals hold, on 50,000 real pictures against 10,000 by the true network?

    python benchmarks/at_real_scale.py cost [--adm CLONE] [--gen 50000] [--ref 10000]
    python benchmarks/at_real_scale.py coverage [--draws 40] [--images 5000] [--sfid]

The features are of CIFAR-10's training set and test set, by the convolutions of 2015 (`tests/support/real.py` brings
both and keeps the features: two hours of a core the first time).

`cost` runs FID, KID, and precision and recall by our functions, torch-fidelity's and, with a checkout of
openai/guided-diffusion, those of ADM's unchanged evaluator, each program in a fresh process on the same two files of
features. Processor seconds of all threads are printed, which other work on the machine disturbs least, and the peak of
memory. torch-fidelity takes its way that saves memory; ADM has no KID.

`coverage` takes draws of the training pictures and counts the 95 % intervals that hold the value of all of them
(FID for 50,000 images, precision), or the mean of the draws (FID and recall at this N). Draws are without replacement:
with a tenth of the pictures in each, they vary by 5 % less than independent ones, and share that much.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coverage_of_intervals import moments
from harness import adm_evaluator, log, print_environment

from dit_eval.features.network import FeatureBatch
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.intervals import estimate_uncertainty
from dit_eval.metrics.kid import kernel_distance
from dit_eval.metrics.manifold import precision_recall
from dit_eval.metrics.metric import Sides
from dit_eval.summary import FeatureSummary
from dit_eval.system.environment import peak_memory_bytes

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import real

Step = Callable[[np.ndarray, np.ndarray], dict[str, float]]  # of features gen (N, 2048) and ref (M, 2048), float32
KID_SUBSETS = 10  # of a draw, in place of 100


# --- cost


def ours() -> dict[str, Step]:
    def manifold(gen: np.ndarray, ref: np.ndarray) -> dict[str, float]:
        found = precision_recall(gen=gen, ref=ref)
        return {"precision": found.precision, "recall": found.recall}

    def manifold_float32(gen: np.ndarray, ref: np.ndarray) -> dict[str, float]:
        found = precision_recall(gen=gen, ref=ref, distances="float32")
        return {"precision": found.precision, "recall": found.recall}

    return {
        "FID": lambda gen, ref: {"fid": frechet_distance(gen=moments(gen), ref=moments(ref)).value},
        "KID": lambda gen, ref: {"kid": kernel_distance(gen=gen, ref=ref).mean},
        "precision and recall": manifold,
        "the same in float32": manifold_float32,
    }


def torch_fidelity() -> dict[str, Step]:
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    def fid(gen: np.ndarray, ref: np.ndarray) -> dict[str, float]:
        sides = (metric_fid.fid_features_to_statistics(torch.from_numpy(side)) for side in (gen, ref))
        return {"fid": metric_fid.fid_statistics_to_metric(*sides, verbose=False)[metric_fid.KEY_METRIC_FID]}

    def kid(gen: np.ndarray, ref: np.ndarray) -> dict[str, float]:
        how = {"kid_subsets": 100, "kid_subset_size": 1000, "kid_degree": 3, "kid_gamma": None, "kid_coef0": 1}
        found = metric_kid.kid_features_to_metric(
            torch.from_numpy(gen), torch.from_numpy(ref), **how, rng_seed=2020, verbose=False
        )
        return {"kid": found[metric_kid.KEY_METRIC_KID_MEAN]}

    def manifold(gen: np.ndarray, ref: np.ndarray) -> dict[str, float]:
        found = metric_prc.prc_features_to_metric(
            torch.from_numpy(gen), torch.from_numpy(ref), save_cpu_ram=True, verbose=False
        )
        return {"precision": found["precision"], "recall": found["recall"]}

    return {"FID": fid, "KID": kid, "the same in float32": manifold}


def adm(clone: Path) -> dict[str, Step]:
    import tensorflow.compat.v1 as tf

    program = adm_evaluator(clone)
    estimator = program.ManifoldEstimator(tf.Session(config=tf.ConfigProto(allow_soft_placement=True)))

    def fid(gen: np.ndarray, ref: np.ndarray) -> dict[str, float]:
        sides = [program.Evaluator.compute_statistics(None, side) for side in (gen, ref)]
        return {"fid": sides[0].frechet_distance(sides[1])}

    def manifold(gen: np.ndarray, ref: np.ndarray) -> dict[str, float]:
        radii = [estimator.manifold_radii(side) for side in (ref, gen)]
        precision, recall = estimator.evaluate_pr(ref, radii[0], gen, radii[1])
        return {"precision": float(precision[0]), "recall": float(recall[0])}

    return {"FID": fid, "precision and recall": manifold}


def run_steps(program: str, clone: Path | None, files: list[Path], found: Connection) -> None:
    """One program: of each of its steps what it gives, its seconds, and the peak of memory until then."""
    steps = ours() if program == "dit-eval" else torch_fidelity() if clone is None else adm(clone)
    gen, ref = (np.load(path) for path in files)
    before = peak_memory_bytes()
    for name, step in steps.items():
        begin, wall = time.process_time(), time.perf_counter()
        values = step(gen, ref)
        seconds = {"processor_seconds": time.process_time() - begin, "seconds": time.perf_counter() - wall}
        found.send((name, {**values, **seconds, "peak": peak_memory_bytes(), "before": before}))
    found.send(None)


def cost(arguments: argparse.Namespace) -> None:
    figures: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files, network, pictures = [], real.Remembered(), real.parts()
        for part, count in (("train", arguments.gen), ("test", arguments.ref)):
            files.append(Path(folder) / f"{part}.npy")
            np.save(files[-1], real.features(network, pictures[part][:count]).pool)
        programs: dict[str, Path | None] = {"dit-eval": None, "torch-fidelity": None}
        programs |= {"ADM's evaluator": arguments.adm} if arguments.adm else {}
        for program, clone in programs.items():
            figures[program] = dict(steps_of(program, clone, files))
            for name, of in figures[program].items():
                values = ", ".join(
                    f"{key} {of[key]:.10g}" for key in ("fid", "kid", "precision", "recall") if key in of
                )
                sys.stdout.write(
                    f"  {program:<16} {name:<22} {of['processor_seconds']:8.1f} processor s ({of['seconds']:.1f} s)  "
                    f"peak {of['peak'] / 1e9:5.2f} GB ({of['before'] / 1e9:.2f} before)  {values}\n"
                )
                sys.stdout.flush()
    log(f"Metrics of {arguments.gen:,} against {arguments.ref:,} true features", {"programs": figures})


def steps_of(program: str, clone: Path | None, files: list[Path]) -> Iterator[tuple[str, dict[str, float]]]:
    """What `run_steps` finds, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_steps, args=(program, clone, files, sender))
    process.start()
    sender.close()
    while found := receiver.recv():
        yield found
    process.join()


# --- coverage


def draw(number: int, gen: FeatureBatch, ref: FeatureSummary, size: int) -> dict[str, Any]:
    """Scores of a draw, and of each its estimate: value, standard error, and both ends of the interval."""
    rows = np.sort(np.random.RandomState(number).permutation(len(gen.pool))[:size])
    pool = gen.pool[rows]
    spatial = gen.spatial[rows] if ref.spatial else None
    side = FeatureSummary(
        pool=moments(pool),
        pool_features=pool,
        spatial=None if spatial is None else moments(spatial),
        spatial_features=spatial,
    )
    scores: dict[str, float | None] = {"fid": frechet_distance(gen=side.pool, ref=ref.pool).value}
    if side.spatial is not None:
        scores["sfid"] = frechet_distance(gen=side.spatial, ref=ref.spatial).value
    manifold = precision_recall(gen=pool, ref=ref.pool_features)
    scores |= {"precision": manifold.precision, "recall": manifold.recall}
    found = estimate_uncertainty(Sides(gen=side, ref=ref), scores=scores)
    estimates = {
        name: [each.value, each.standard_error, each.low, each.high] for name, each in found.estimates.items() if each
    }
    kid = kernel_distance(gen=pool, ref=ref.pool_features, num_subsets=KID_SUBSETS).mean
    return {"draw": number, "images": size, "scores": scores | {"kid": kid}, "estimates": estimates}


def coverage(arguments: argparse.Namespace) -> None:
    network, pictures = real.Remembered(), real.parts()
    gen = real.features(network, pictures["train"][: arguments.gen])
    test = real.features(network, pictures["test"][: arguments.ref])
    ref = FeatureSummary(
        pool=moments(test.pool),
        pool_features=test.pool,
        spatial=moments(test.spatial) if arguments.sfid else None,
    )
    draws = kept_draws(arguments.kept, arguments.images)
    for number in range(arguments.draws):
        if number not in draws:
            begin = time.process_time()
            draws[number] = draw(number, gen, ref, arguments.images)
            sys.stdout.write(
                f"draw {number}: {time.process_time() - begin:.0f} processor s, {draws[number]['scores']}\n"
            )
            sys.stdout.flush()
            if arguments.kept:
                with open(arguments.kept, "a", encoding="utf-8") as file:
                    file.write(json.dumps(draws[number]) + "\n")
    whole: dict[str, float] = {"fid": frechet_distance(gen=moments(gen.pool), ref=ref.pool).value}
    whole["kid"] = kernel_distance(gen=gen.pool, ref=test.pool).mean
    if arguments.sfid:
        whole["sfid"] = frechet_distance(gen=moments(gen.spatial), ref=ref.spatial).value
    sys.stdout.write(f"all {arguments.gen:,}: {whole}\n")
    chosen = [draws[number] for number in range(arguments.draws)]
    figures = {}
    for name in dict.fromkeys(name for each in chosen for name in each["estimates"]):
        own = [each["estimates"][name] for each in chosen if name in each["estimates"]]
        values = [value for value, *_ in own]
        true = whole[name.removesuffix("_50k")] if name.endswith("_50k") else float(np.mean(values))
        share = float(np.mean([low <= true <= high for _, _, low, high in own]))
        error = math.sqrt(np.mean([standard_error**2 for _, standard_error, _, _ in own]))
        spread = float(np.std(values, ddof=1))
        figures[name] = {"coverage": share, "expected": true, "mean": float(np.mean(values)), "draws": len(own),
                         "standard_error": error, "spread": spread}  # fmt: skip
        sys.stdout.write(
            f"  {name:<14} {share:6.1%} of {len(own)} hold {true:.4f}   mean {np.mean(values):.4f}, standard error "
            f"{error:.4f}, spread over draws {spread:.4f}\n"
        )
    kids = [each["scores"]["kid"] for each in chosen]
    sys.stdout.write(f"  kid: mean {np.mean(kids):.4g}, spread {np.std(kids, ddof=1):.2g}, of all {whole['kid']:.4g}\n")
    question = f"Coverage of 95 % intervals, {arguments.images:,} of {arguments.gen:,} training pictures"
    log(question, {"metrics": figures, "whole": whole, "kid": kids})


def kept_draws(path: Path | None, images: int) -> dict[int, dict[str, Any]]:
    """Draws of an earlier run, by their number."""
    if path is None or not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["draw"]: line for line in lines if line["images"] == images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("question", choices=["cost", "coverage"])
    parser.add_argument("--gen", type=int, default=50_000, metavar="N", help="training pictures")
    parser.add_argument("--ref", type=int, default=10_000, metavar="N", help="test pictures")
    parser.add_argument("--adm", type=Path, metavar="CLONE")
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--images", type=int, default=5_000, help="N of each draw")
    parser.add_argument("--sfid", action="store_true", help="sFID as well, which doubles the time of coverage")
    parser.add_argument("--kept", type=Path, metavar="FILE", help="keep draws there, and go on from it")
    arguments = parser.parse_args()
    print_environment()
    {"cost": cost, "coverage": coverage}[arguments.question](arguments)


if __name__ == "__main__":
    main()
