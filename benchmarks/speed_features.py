"""How fast are features extracted, against the programs that people run today?

    python benchmarks/speed_features.py [--size 256|32] [--batch 64] [--only dit-eval,torch-fidelity] [--profile]

The peers run in turn on the same images, with the same weights: torch-fidelity's extractor as it is, ADM's frozen graph
in TensorFlow, and pytorch-fid's network if it is installed. Where `tests/support/real.py` has brought the true
convolutions and CIFAR-10, these are the weights, and the images are test pictures, enlarged to the size asked for;
elsewhere both are random, which takes the same time. The machine's own speed is that of plain float32 matrix products
between them, the best of the run, with 11.43 GFLOP for each image.

With --profile, where the time goes by kind of operation: on one core, for eight images, beside that core's product.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from beside_others import adm_network, pytorch_fid
from harness import alternate, log, print_environment, report
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from dit_eval.features.inception import TorchInception
from dit_eval.features.inception_weights import POOL_DIM, SPATIAL_DIM
from dit_eval.summary import RunningStats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import real
from seeded_inception import seeded_weights, write_state_dict

GFLOP = 11.43  # of an image of 299 x 299 px, a multiply-add counted as two
PRODUCTS = {1024: 64, 4096: 1}  # sides of square matrices, and how often such a product is repeated
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
        "torch-fidelity": lambda: torch_fidelity(weights),
        "pytorch-fid": lambda: pytorch_fid(state),
        "ADM's graph (TensorFlow)": lambda: adm_network(state),
    }
    found = {}
    for name, make in makers.items():
        if name not in (wanted or makers):
            continue
        try:
            found[name] = make()
        except ModuleNotFoundError as error:
            sys.stdout.write(f"{name} left out: {error}\n")
    return found


def product(side: int) -> Callable[[], Any]:
    """Some matrix products."""
    a, b, out = torch.randn(side, side), torch.randn(side, side), torch.empty(side, side)
    return lambda: [torch.mm(a, b, out=out) for _ in range(PRODUCTS[side])]


def product_rate(side: int, seconds: list[float]) -> float:
    """GFLOP/s of the fastest."""
    return 2 * side**3 * PRODUCTS[side] / min(seconds) / 1e9


def beside(extractors: dict[str, Extract], images: np.ndarray, repeats: int) -> None:
    """Seconds of each program, and its share of the rate of a matrix product."""
    sides = {f"matrix product, {side:,}": side for side in PRODUCTS}
    candidates: dict[str, Callable[[], Any]] = {name: product(side) for name, side in sides.items()}
    candidates |= {name: lambda extract=extract: extract(images) for name, extract in extractors.items()}
    seconds = alternate(candidates, repeats)
    rates = {side: product_rate(side, seconds.pop(name)) for name, side in sides.items()}
    rate, count = max(rates.values()), len(images)
    question = f"Features of {count} images of {images.shape[1]} px, {torch.get_num_threads()} threads"
    report(question, seconds, next(iter(extractors)))
    for name, values in seconds.items():
        reached = count * GFLOP / statistics.median(values)
        sys.stdout.write(
            f"  {name:<42} {count / statistics.median(values):8.2f} images/s, {reached:.0f} of the "
            f"{rate:.0f} GFLOP/s of the best matrix product ({reached / rate:.0%})\n"
        )
    log(f"{question}: matrix products", {"gflops_per_second": rates})
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


@dataclass
class Spent:
    """On operations of a kind: seconds, floating-point operations of convolutions, and calls."""

    seconds: float = 0.0
    flops: int = 0
    calls: int = 0


class Kinds(TorchDispatchMode):
    """Takes the time of each operation of this thread, by kind; convolutions by the size of their kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: dict[str, Spent] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        seconds, name, flops = time.perf_counter() - begin, str(func.overloadpacket), 0
        if name in ("aten.conv2d", "aten.convolution", "mkldnn._convolution_pointwise"):
            weight = args[1].shape  # (out, in, height, width)
            flops, name = 2 * out.numel() * weight[1:].numel(), f"convolution, {weight[2]} x {weight[3]}"
        spent = self.spent.setdefault(name, Spent())
        spent.seconds, spent.flops, spent.calls = spent.seconds + seconds, spent.flops + flops, spent.calls + 1
        return out


def profile(network: Extract, images: np.ndarray, repeats: int) -> None:
    """Where the time of one core goes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    network(images)  # weights are laid out
    rates, kinds = [], Kinds()
    for _ in range(repeats):
        with kinds:
            network(images)
        for side in PRODUCTS:
            rates += [product_rate(side, alternate({"": product(side)}, 1)[""])]
    torch.set_num_threads(threads)
    total, flops = (sum(getattr(of, part) for of in kinds.spent.values()) for part in ("seconds", "flops"))
    question = f"One core, {len(images)} images of {images.shape[1]} px"
    sys.stdout.write(
        f"{question}: {total / repeats:.3f} s, {flops / total / 1e9:.0f} GFLOP/s; its best matrix product "
        f"{max(rates):.0f}\n"
    )
    for name, of in sorted(kinds.spent.items(), key=lambda item: -item[1].seconds):
        if of.seconds > total / 1000:
            rate = f"{of.flops / of.seconds / 1e9:5.0f} GFLOP/s" if of.flops else ""
            sys.stdout.write(f"  {of.seconds / total:6.1%} {of.calls // repeats:4} x {name:<28}{rate}\n")
    parts = {name: vars(of) for name, of in kinds.spent.items()}
    log(f"{question}: profile", {"kinds": parts, "gflops_per_second": max(rates)})


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
    beside(extractors, images, arguments.repeats)
    if arguments.profile:
        profile(extractors["dit-eval"], images[:8], arguments.repeats)


if __name__ == "__main__":
    main()
