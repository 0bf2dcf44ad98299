"""How fast are features extracted, against the programs that people run today?

    python benchmarks/speed_features.py [--size 256|32] [--batch 64] [--only dit-eval,torch-fidelity] [--profile]

The peers run in turn on the same images, with the same weights: torch-fidelity's extractor as it is, ADM's frozen graph
in TensorFlow, and pytorch-fid's network if it is installed; and, where the CPU has that arithmetic, dit-eval in bf16,
which moves every metric. Where `tests/support/real.py` has brought the true convolutions and CIFAR-10, these are the
weights, and the images are test pictures, enlarged to the size asked for; elsewhere both are random, which takes the
same time. The machine's own speed is that of plain float32 matrix products between them, the best of the run, with
11.43 GFLOP for each image.

With --profile, where the time goes by kind of operation: on one core, for eight images, beside that core's product.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from beside_others import adm_network, pytorch_fid
from harness import alternate, log, print_environment, report
from machine import INCEPTION_GFLOP, best_rate, products, profile
from PIL import Image

from dit_eval.features.inception import TorchInception
from dit_eval.features.inception_weights import POOL_DIM, SPATIAL_DIM
from dit_eval.summary import RunningStats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import real
from seeded_inception import seeded_weights, write_state_dict

Extract = Callable[[np.ndarray], Any]


def pictures(count: int, size: int) -> np.ndarray:
    """uint8 (count, size, size, 3)"""
    if not real.is_kept():
        return np.random.RandomState(0).randint(0, 256, (count, size, size, 3), dtype=np.uint8)
    small = real.parts()["test"][:count]
    return np.stack(
        [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image in small]
    )


def kept_weights(folder: Path) -> Path:
    """The network's file: true convolutions, or random ones made in the folder."""
    if real.is_kept():
        return real.inception()
    write_state_dict(folder / "weights.pth", seeded_weights(0))
    return folder / "weights.pth"


def torch_fidelity(weights: Path) -> Extract:
    """Its own extractor, asked for what FID, IS and precision/recall need."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("peer", ["2048", "logits_unbiased"], str(weights)).eval()
    # As its loader hands batches over: uint8 (B, 3, H, W), contiguous.
    return lambda images: net(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())


def programs(weights: Path, wanted: list[str]) -> dict[str, Extract]:
    """The programs that are here, by name."""
    state = torch.load(weights, weights_only=True)
    makers: dict[str, Callable[[], Extract]] = {
        "dit-eval": lambda: TorchInception(weights=weights),
        "dit-eval, bf16": lambda: TorchInception(weights=weights, precision="bf16"),
        "torch-fidelity": lambda: torch_fidelity(weights),
        "pytorch-fid": lambda: pytorch_fid(state),
        "ADM's graph (TensorFlow)": lambda: adm_network(state),
    }
    found = {}
    for name, make in makers.items():
        emulated = "bf16" in name and not torch.cpu.get_capabilities()["avx512_bf16"]  # which is slower than fp32
        if emulated if not wanted else name not in wanted:
            continue
        try:
            found[name] = make()
        except ModuleNotFoundError as error:
            sys.stdout.write(f"{name} left out: {error}\n")
    return found


def measure(extractors: dict[str, Extract], images: np.ndarray, repeats: int) -> None:
    """Seconds of each program, and its share of the rate of a matrix product."""
    beside = products()
    candidates = {name: product.run for name, product in beside.items()}
    candidates |= {name: lambda extract=extract: extract(images) for name, extract in extractors.items()}
    seconds = alternate(candidates, repeats)
    rate, count = best_rate(beside, seconds), len(images)
    question = f"Features of {count} images of {images.shape[1]} px, {torch.get_num_threads()} threads"
    report(question, seconds, next(iter(extractors)))
    for name, values in seconds.items():
        reached = count * INCEPTION_GFLOP / statistics.median(values)
        sys.stdout.write(
            f"  {name:<42} {count / statistics.median(values):8.2f} images/s, {reached:.0f} of the "
            f"{rate:.0f} GFLOP/s of the best matrix product ({reached / rate:.0%})\n"
        )
    log(f"{question}: matrix products", {"gflops_per_second": rate})
    if "dit-eval" in seconds:
        moments(count, statistics.median(seconds["dit-eval"]), repeats)


def moments(batch: int, extraction: float, repeats: int) -> None:
    """What the streaming moments of pool and spatial features cost beside the network."""
    features = [np.random.RandomState(0).rand(batch, dim).astype(np.float32) for dim in (POOL_DIM, SPATIAL_DIM)]
    running = [RunningStats(part.shape[1]) for part in features]

    def update() -> None:
        for stats, part in zip(running, features, strict=True):
            stats.update(part)

    question = f"Moments of {batch} images"
    seconds = alternate({"streaming": update}, repeats)
    report(question, seconds, "streaming")
    sys.stdout.write(f"  {statistics.median(seconds['streaming']) / extraction:.1%} of the time of the network\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", default="", help="some of the programs, by name, with commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="where the time of dit-eval's network goes")
    arguments = parser.parse_args()
    print_environment()
    torch.set_grad_enabled(False)
    images = pictures(arguments.batch, arguments.size)
    with tempfile.TemporaryDirectory() as folder:
        weights = kept_weights(Path(folder))
        sys.stdout.write(f"weights: {'true convolutions' if real.is_kept() else 'seeded random numbers'}\n")
        extractors = programs(weights, arguments.only.split(",") if arguments.only else [])
    measure(extractors, images, arguments.repeats)
    if arguments.profile:
        network, few = extractors["dit-eval"], images[:8]
        profile(f"8 images of {arguments.size} px", lambda: network(few), arguments.repeats, products())


if __name__ == "__main__":
    main()
