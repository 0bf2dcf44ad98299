"""What do tf32, bf16 and fp16 features gain in speed, and by how much do they move FID and sFID?

    python benchmarks/cost_of_precision.py [--weights FILE] [--device cuda] [--images 250] [--precisions bf16,fp16]
    python benchmarks/cost_of_precision.py --cifar10 10000      # on the CPU, by the true convolutions

Three sample sets (digits that the reference does not hold, the same blurred, the same with noise) are scored against a
reference of digits, with features of each precision on both sides, and of fp32 on the side of the reference, as it is
when a file of stored statistics is used. Without --weights the network has seeded random weights: the shift is then
that of such a network, not of the published one. Speeds are of batches of 64 images of 256 px, in turn, beside those of
plain matrix products in the same precision (4,096 x 4,096; 8,192 on a GPU), with 11.43 GFLOP for each image.

With --cifar10, so many pictures of CIFAR-10's training set are scored against as many of its test set instead, 1,000 at
least, by every metric but Inception Score, of which the true classifier is missing. `tests/support/real.py` brings
pictures and network, and keeps features: 10,000 of both in bf16 take ten minutes of two cores that have its arithmetic,
in fp32 twice that.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from coverage_of_intervals import moments
from harness import alternate, log, print_environment
from machine import INCEPTION_GFLOP
from scipy import ndimage

from dit_eval.features.extract import extract_features
from dit_eval.features.inception import PRECISIONS, TorchInception, check_precision
from dit_eval.features.network import FeatureBatch
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.metrics.density_coverage import density_coverage
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.kid import kernel_distance
from dit_eval.metrics.manifold import precision_recall
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system.assets import asset, fetch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import real
from seeded_inception import seeded_weights, write_state_dict


def image_sets(count: int) -> dict[str, np.ndarray]:
    """The reference and three sample sets, uint8 (count, H, W, 3)."""
    ref = open_batch(fetch(asset("digits", "reference")), role="ref").array()[:count]
    real = open_batch(fetch(asset("digits-heldout", "reference")), role="gen").array()[:count]
    noise = np.random.RandomState(0).standard_normal(real.shape) * 20
    return {
        "ref": ref,
        "digits": real,
        "blurred": ndimage.uniform_filter(real, (0, 3, 3, 0)),
        "noisy": np.clip(real + noise, 0, 255).astype(np.uint8),
    }


def product_gflops(precision: str, device: str) -> float:
    """GFLOP/s of a plain matrix product in this precision, of the fastest of five."""
    size = 8192 if device.startswith("cuda") else 4096
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        a @ b
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * size**3 / min(seconds[1:]) / 1e9


def distances(gen: FeatureSummary, ref: FeatureSummary) -> tuple[float, float]:
    """FID and sFID."""

    def of(a: GaussianStats | None, b: GaussianStats | None) -> float:
        if a is None or b is None:
            raise RuntimeError("Features without statistics.")
        return frechet_distance(gen=a, ref=b).raw

    return of(gen.pool, ref.pool), of(gen.spatial, ref.spatial)


def scores(gen: FeatureBatch, ref: FeatureBatch) -> dict[str, float]:
    """Every metric but Inception Score."""
    fid, sfid = (
        frechet_distance(gen=moments(a), ref=moments(b)).raw
        for a, b in ((gen.pool, ref.pool), (gen.spatial, ref.spatial))
    )
    near, held = precision_recall(gen=gen.pool, ref=ref.pool), density_coverage(gen=gen.pool, ref=ref.pool)
    kid = kernel_distance(gen=gen.pool, ref=ref.pool).mean
    return {"FID": fid, "sFID": sfid, "KID": kid, "precision": near.precision, "recall": near.recall,
            "density": held.density, "coverage": held.coverage}  # fmt: skip


def on_cifar10(count: int, names: list[str]) -> None:
    """Print each metric in fp32, and in each other precision on both sides, and on that of the samples."""
    sides, pictures = {}, real.parts()
    for name in names:
        network = real.Remembered(precision=name)
        sides |= {(name, part): real.features(network, pictures[part][:count]) for part in ("train", "test")}
    pairs = {"fp32": ("fp32", "fp32")}
    for name in names[1:]:
        pairs |= {f"{name}, both sides": (name, name), f"{name}, ref fp32": (name, "fp32")}
    found = {label: scores(sides[gen, "train"], sides[ref, "test"]) for label, (gen, ref) in pairs.items()}
    sys.stdout.write(f"{count:,} training against {count:,} test pictures of CIFAR-10, true convolutions\n")
    for label, values in found.items():
        shown = "  ".join(f"{metric} {value:.6g}" for metric, value in values.items())
        sys.stdout.write(f"  {label:<18} {shown}\n")
    log("Precision of the features, CIFAR-10", {"images": count, "scores": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, metavar="FILE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=250, help="in each set")
    parser.add_argument("--precisions", default="tf32,bf16,fp16" if torch.cuda.is_available() else "bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cifar10", type=int, default=0, metavar="N", help="pictures of each side")
    arguments = parser.parse_args()
    names = ["fp32", *arguments.precisions.split(",")]
    for name in names:
        check_precision(name, arguments.device)
    print_environment()
    if arguments.cifar10:
        on_cifar10(arguments.cifar10, names)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = arguments.weights
        if weights is None:
            weights = Path(folder) / "weights.pth"
            write_state_dict(weights, seeded_weights(0))
        known = {name: name for name in PRECISIONS}
        networks = {
            name: TorchInception(weights=weights, device=arguments.device, precision=known[name]) for name in names
        }
        images = np.random.RandomState(0).randint(0, 256, (64, 256, 256, 3), dtype=np.uint8)
        seconds = alternate({name: lambda net=net: net(images) for name, net in networks.items()}, arguments.repeats)
        plain = statistics.median(seconds["fp32"])
        sys.stdout.write("Features of 64 images of 256 px\n")
        for name, values in seconds.items():
            median, product = statistics.median(values), product_gflops(name, arguments.device)
            share = 64 * INCEPTION_GFLOP / median / product
            sys.stdout.write(
                f"  {name}  {64 / median:8.2f} images/s  (x{plain / median:.2f}; {min(values):.2f} to "
                f"{max(values):.2f} s)  {share:.0%} of a product's {product:,.0f} GFLOP/s\n"
            )
        summaries: dict[tuple[str, str], FeatureSummary] = {}
        for part, pixels in image_sets(arguments.images).items():
            path = Path(folder) / f"{part}.npz"
            write_batch(path, images=[pixels], shape=pixels.shape)
            for name, net in networks.items():
                summaries[name, part] = extract_features(open_batch(path, role="gen"), net)
    whose = str(arguments.weights) if arguments.weights else "seeded random weights"
    sys.stdout.write(f"FID and sFID of {arguments.images} images ({whose}), and how far each precision moves them\n")
    rows = []
    for part in ("digits", "blurred", "noisy"):
        exact = distances(summaries["fp32", part], summaries["fp32", "ref"])
        sys.stdout.write(f"  {part:<9} fp32             {exact[0]:12.5f} {exact[1]:12.5f}\n")
        for name in names[1:]:
            for ref in (name, "fp32"):
                moved = distances(summaries[name, part], summaries[ref, "ref"])
                shifts = [(m - e) / e for m, e in zip(moved, exact, strict=True)]
                about = f"{name}, ref {ref}"
                sys.stdout.write(f"  {'':<9} {about:<16} {shifts[0]:+12.3%} {shifts[1]:+12.3%}\n")
                rows.append({"set": part, "gen": name, "ref": ref, "exact": exact, "moved": moved})
    log("Precision of the features", {"seconds": seconds, "weights": whose, "distances": rows})


if __name__ == "__main__":
    main()
