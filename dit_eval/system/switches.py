"""PyTorch's switches of the whole process, set for as long as something runs and then set back.

Networks of several kinds of arithmetic run in one process: a study draws images in TF32 and scores them in float32.
What one of them has switched on must not reach the next, nor what a caller had switched on before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch

_Part = TypeVar("_Part")
_Made = TypeVar("_Made")


@contextmanager
def arithmetic(precision: str, device: torch.device | str) -> Iterator[None]:
    """Compute in a precision, whatever was switched on before, and switch that on again.

    The switches of products are those of the process: no two threads may be in here at once. Autocast is a matter of
    this thread.

    Parameters
    ----------
    precision : "fp32"; "tf32", products of NVIDIA GPUs; or "bf16", autocast, which keeps the residual stream in
        float32, and TF32 for the products that it leaves in float32
    device : of the network
    """
    device = torch.device(device)
    with (
        float32_products(tf32=precision != "fp32" and device.type == "cuda"),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Matrix products and convolutions of float32 in TF32 on GPUs, or as they are; and as they are on CPUs.

    Like `arithmetic`, of which it is the part that a backward pass needs too.
    """
    backends: Any = torch.backends
    general: list[Any] = []  # what the others follow unless they are set
    single: list[Any] = []
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # since PyTorch 2.9, beside the two old switches
        general = [backends, backends.cudnn]
        single = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
        single += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    with ExitStack() as back:
        for switch in [*general, *single]:
            back.callback(setattr, switch, "fp32_precision", switch.fp32_precision)
            switch.fp32_precision = "none" if switch in general else "ieee"
        back.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        back.callback(setattr, backends.cudnn, "allow_tf32", _old_switch_of_convolutions())
        # The old switches move the new ones as well, which then agree: PyTorch refuses to read old ones that do not.
        backends.cuda.matmul.allow_tf32 = tf32
        backends.cudnn.allow_tf32 = tf32
        for switch in single if not tf32 else ():
            switch.fp32_precision = "ieee"
        yield


def _old_switch_of_convolutions() -> bool:
    """Whether cuDNN may use TF32 by the switch before PyTorch 2.9. It is read where the new ones say the same."""
    cudnn: Any = torch.backends.cudnn
    if not hasattr(cudnn, "fp32_precision"):
        return bool(cudnn.allow_tf32)
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = "tf32"
    try:
        return bool(cudnn.allow_tf32)
    except RuntimeError:
        return False


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads of a CPU; None for as many as it uses anyway."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


class Cores:
    """The cores of a CPU that PyTorch may use, each of which works alone; see `each_core_alone`."""

    def __init__(self, count: int = 1, pool: ThreadPoolExecutor | None = None) -> None:
        self.count, self._pool = count, pool

    def map(self, function: Callable[[_Part], _Made], parts: Sequence[_Part]) -> list[_Made]:
        """The function of each part, in order, in the modes of this thread: inference, gradients, autocast."""
        if self._pool is None or len(parts) == 1:
            return [function(part) for part in parts]
        inference, gradients = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        cast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def in_these_modes(part: _Part) -> _Made:
            with (
                torch.inference_mode(inference),
                torch.set_grad_enabled(gradients),
                torch.autocast("cpu", dtype, enabled=cast),
            ):
                return function(part)

        return list(self._pool.map(in_these_modes, parts))


@contextmanager
def each_core_alone(device: torch.device | str = "cpu") -> Iterator[Cores]:
    """Cores that work on parts of their own, instead of sharing each operator; on a GPU, parts one after the other.

    Then nothing depends on their number: MKL and oneDNN pick their kernels by the threads they may use, and PyTorch
    cuts a tensor into a piece for each thread, whose last few values pass through other code than the rest. It also
    spares the cores from waiting for each other after each operator.

    The caller's own operators have one thread, too, in here.
    """
    count = torch.get_num_threads()
    if count == 1 or torch.device(device).type != "cpu":
        yield Cores()
        return
    try:
        torch.set_num_threads(1)
        with ThreadPoolExecutor(count, "core", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield Cores(count, pool)
    finally:
        torch.set_num_threads(count)  # the setting is each thread's own, but also the default of threads to come
