"""Would Winograd's algorithm, by PyTorch's own operators, speed up the convolutions of 3 x 3 of Inception on a CPU?

    python benchmarks/winograd.py [--repeats 7]

F(4 x 4, 3 x 3) of Lavin and Gray 2016: tiles of 6 x 6 inputs give 4 x 4 outputs with a quarter of the multiplications.
Here the transforms are matrix products with 36 x 36 and 16 x 36 numbers, and the rest is a product of matrices for each
of 36 places of a tile. A block of tiles at a time stays in a core's caches; the best of several block sizes counts.
Beside it oneDNN's convolution with ReLU, as dit-eval runs it, in turn on one core. Printed are seconds, what all such
layers of the network would save in eight images, and how far each result is from float64's, relative to the largest.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from harness import alternate, log, print_environment
from torch import Tensor
from torch.nn import functional as F

INTO = torch.tensor(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
     [0, 4, 0, -5, 0, 1]], dtype=torch.float64)  # fmt: skip
WEIGHTS = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]], dtype=torch.float64) / 24  # fmt: skip
OUT_OF = torch.tensor(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], dtype=torch.float64
)
BLOCKS = (18, 36, 72, 144, 288)  # tiles at a time


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Convolutions of one shape: their names in the network, channels in and out, input side, padding, images."""

    names: str
    channels: tuple[int, int]
    side: int
    padding: int
    images: int = 8

    @property
    def count(self) -> int:
        return len(self.names.split())


# Of stride 1. The stem's are run for two images at a time, as dit-eval does.
LAYERS = (
    Layer(names="Conv2d_2a", channels=(32, 32), side=149, padding=0, images=2),
    Layer(names="Conv2d_2b", channels=(32, 64), side=147, padding=1, images=2),
    Layer(names="Conv2d_4a", channels=(80, 192), side=73, padding=0, images=2),
    Layer(names="Mixed_5b Mixed_5c Mixed_5d Mixed_6a", channels=(64, 96), side=35, padding=1),
    Layer(names="Mixed_5b Mixed_5c Mixed_5d", channels=(96, 96), side=35, padding=1),
    Layer(names="Mixed_7b Mixed_7c", channels=(448, 384), side=8, padding=1),
)


class Winograd:
    """A convolution of 3 x 3 and ReLU, of inputs (N, C, H, W) that lie channels last."""

    def __init__(self, weight: Tensor, bias: Tensor, *, padding: int, block: int) -> None:
        product = torch.einsum("ij,kcjl,ml->imck", WEIGHTS, weight.double(), WEIGHTS)
        self.products = product.flatten(0, 1).float().contiguous()  # (36, C, K)
        self.into, self.out_of = (torch.kron(each, each).float() for each in (INTO, OUT_OF))
        self.bias, self.padding, self.block = bias, padding, block

    def __call__(self, x: Tensor) -> Tensor:
        count, channels, *side = x.shape
        height, width = (each + 2 * self.padding - 2 for each in side)
        rows, columns, kept = -(-height // 4), -(-width // 4), len(self.bias)
        before, right, below = self.padding, 4 * columns + 2 - side[1], 4 * rows + 2 - side[0]
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, before, right - before, before, below - before))
        line = x.stride(1)
        steps = (line, channels, x.stride(0), 4 * line, 4 * channels, 1)
        tiles = x.as_strided((6, 6, count, rows, columns, channels), steps)
        out = torch.empty(count, rows, 4, columns, 4, kept)
        at_once = max(1, self.block // columns)
        for image in range(count):
            for row in range(0, rows, at_once):
                block = tiles[:, :, image, row : row + at_once]
                given = (self.into @ block.reshape(36, -1)).view(36, -1, channels)
                found = (self.out_of @ torch.bmm(given, self.products).view(36, -1)).view(4, 4, -1, columns, kept)
                out[image, row : row + at_once] = found.permute(2, 0, 3, 1, 4)
        out = out.view(count, 4 * rows, 4 * columns, kept)[:, :height, :width]
        return out.add_(self.bias).relu_().permute(0, 3, 1, 2)


def direct(weight: Tensor, bias: Tensor, padding: int, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """The same by oneDNN, its weights laid out for inputs of a shape."""
    how = ([padding] * 2, [1, 1], [1, 1], 1)
    laid_out = torch.ops.mkldnn._reorder_convolution_weight(weight, *how, shape)
    return lambda x: torch.ops.mkldnn._convolution_pointwise(x, laid_out, bias, *how, "relu", [], "")


def measure(layer: Layer, repeats: int) -> float:
    """Print a layer's figures, and return the milliseconds that it saves in eight images; below 0 if it costs some."""
    came, kept = layer.channels
    x = torch.randn(layer.images, came, layer.side, layer.side).relu().to(memory_format=torch.channels_last)
    weight, bias = torch.randn(kept, came, 3, 3) / (9 * came) ** 0.5, torch.randn(kept)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=layer.padding).relu()
    run: dict[str, Callable[[Tensor], Tensor]] = {"oneDNN": direct(weight, bias, layer.padding, x.shape)}
    run |= {f"{size} tiles": Winograd(weight, bias, padding=layer.padding, block=size) for size in BLOCKS}
    seconds = alternate({name: lambda each=each: each(x) for name, each in run.items()}, repeats)
    took = {name: statistics.median(values) * 8e3 / layer.images for name, values in seconds.items()}
    best = min((name for name in took if name != "oneDNN"), key=took.__getitem__)
    off = {name: float((run[name](x) - exact).abs().max() / exact.max()) for name in ("oneDNN", best)}
    saved = layer.count * (took["oneDNN"] - took[best])
    sys.stdout.write(
        f"  {came:>3} to {kept:>3} channels, {layer.side:>3} px, {layer.count} x: {took['oneDNN']:6.1f} ms (off "
        f"{off['oneDNN']:.0e}), Winograd {took[best]:6.1f} ms (off {off[best]:.0e}, {best}), saves {saved:.0f} ms\n"
    )
    log(f"Winograd, {layer.names}", {"seconds": seconds, "off": off})
    return saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    print_environment()
    sys.stdout.write("Convolutions of 3 x 3 and stride 1, one core, milliseconds for eight images\n")
    saved = [measure(layer, options.repeats) for layer in LAYERS]
    sys.stdout.write(f"  where it is faster it saves {sum(each for each in saved if each > 0):.0f} ms\n")


if __name__ == "__main__":
    main()
