"""What the machine can do, by plain matrix products, and where the time of one of its cores goes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from harness import log
from torch.utils._python_dispatch import TorchDispatchMode

INCEPTION_GFLOP = 11.43  # of an image of 299 x 299 px up to its features, a multiply-add counted as two


@dataclass(frozen=True)
class Product:
    """Matrix products: what runs them, and their floating-point operations, a multiply-add counted as two."""

    run: Callable[[], Any]
    flops: float

    def rate(self, seconds: list[float]) -> float:
        """GFLOP/s of the fastest."""
        return self.flops / min(seconds) / 1e9


def products(dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Product]:
    """Products of square matrices, by the libraries that PyTorch has for them on the device."""
    sides = {1024: 32, 4096: 1} if device == "cpu" else {8192: 20}  # and how often a run repeats them
    found = {f"matrix product, {side:,}": _product(side, count, dtype, device) for side, count in sides.items()}
    if device == "cpu" and dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        found["matrix product, 1,024, oneDNN"] = _by_onednn(1024, 32)
    return found


def best_rate(found: dict[str, Product], seconds: dict[str, list[float]]) -> float:
    """GFLOP/s of the fastest of all runs; their seconds leave the others."""
    return max(product.rate(seconds.pop(name)) for name, product in found.items())


def _product(side: int, count: int, dtype: torch.dtype, device: str) -> Product:
    a, b, out = (torch.randn(side, side, device=device).to(dtype) for _ in range(3))

    def run() -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)
        if device != "cpu":
            torch.cuda.synchronize(device)

    return Product(run, 2.0 * side**3 * count)


def _by_onednn(side: int, count: int) -> Product:
    """A convolution of 1 x 1 is a matrix product."""
    x = torch.randn(1, side, 32, side // 32).to(memory_format=torch.channels_last)
    how = ((0, 0), (1, 1), (1, 1), 1)
    weight = torch.ops.mkldnn._reorder_convolution_weight(torch.randn(side, side, 1, 1), *how, x.shape)

    def run() -> None:
        for _ in range(count):
            torch.ops.mkldnn._convolution_pointwise(x, weight, None, *how, "none", [], "")

    return Product(run, 2.0 * side**3 * count)


@dataclass
class _Spent:
    """On operations of a kind: seconds, floating-point operations of products, and calls."""

    seconds: float = 0.0
    flops: int = 0
    calls: int = 0


class _Kinds(TorchDispatchMode):
    """Takes the time of each operation of this thread, by kind; convolutions by the size of their kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.spent: dict[str, _Spent] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        begin = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        seconds = time.perf_counter() - begin
        name, flops = _told(str(func.overloadpacket), args, out)
        spent = self.spent.setdefault(name, _Spent())
        spent.seconds, spent.flops, spent.calls = spent.seconds + seconds, spent.flops + flops, spent.calls + 1
        return out


def _told(name: str, args: tuple[Any, ...], out: Any) -> tuple[str, int]:
    """The kind of an operation, and its floating-point operations if it is a product."""
    if name in ("aten.conv2d", "aten.convolution", "mkldnn._convolution_pointwise"):
        weight = args[1].shape  # (out, in, height, width)
        return f"convolution, {weight[2]} x {weight[3]}", 2 * out.numel() * weight[1:].numel()
    if name in ("aten.linear", "aten.mm", "aten.matmul", "aten.addmm"):
        inner = args[1 if name == "aten.addmm" else 0].shape[-1]
        return f"{name}, {str(out.dtype).removeprefix('torch.')}", 2 * out.numel() * inner
    if "scaled_dot_product" in name:
        queries, keys = args[0].shape, args[1].shape  # (images, heads, tokens, width)
        return f"attention, {str(args[0].dtype).removeprefix('torch.')}", 4 * queries.numel() * keys[2]
    return name, 0


def profile(question: str, run: Callable[[], Any], repeats: int, beside: dict[str, Product]) -> None:
    """Print where the time of one core goes, beside the best of its matrix products between the repeats."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run()  # what is done once
        kinds, best, whole = _Kinds(), 0.0, 0.0
        for _ in range(repeats):
            begin = time.perf_counter()
            with kinds:
                run()
            whole += time.perf_counter() - begin
            for product in beside.values():
                begin = time.perf_counter()
                product.run()
                best = max(best, product.rate([time.perf_counter() - begin]))
    finally:
        torch.set_num_threads(threads)
    flops = sum(of.flops for of in kinds.spent.values())
    sys.stdout.write(
        f"{question}, one core: {whole / repeats:.3f} s, {flops / whole / 1e9:.0f} GFLOP/s; its best matrix product "
        f"{best:.0f} GFLOP/s\n"
    )
    for name, of in sorted(kinds.spent.items(), key=lambda item: -item[1].seconds):
        if of.seconds > whole / 500:
            rate = f"{of.flops / of.seconds / 1e9:5.0f} GFLOP/s" if of.flops else ""
            sys.stdout.write(f"  {of.seconds / whole:6.1%} {of.calls // repeats:5} x {name:<32}{rate}\n")
    inside = sum(of.seconds for of in kinds.spent.values())
    sys.stdout.write(f"  {1 - inside / whole:6.1%} outside of operations, or watching them\n")
    parts = {name: vars(of) for name, of in kinds.spent.items()}
    log(f"{question}: profile", {"kinds": parts, "seconds": whole, "gflops_per_second": best})
