"""Operators that the tracer would miss, or that fail while it looks on.

On the meta device, convolutions are computed by an operator that the tracer does not record, so they are sent through
the one that it does; and some shape rules, written in Python, fail on traced sizes, so they run in a thread in which
nothing is traced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class UntracedKernels(TorchDispatchMode):
    """Runs kernels of traced operators in a thread of their own where they need it. Tracing is a state of a thread."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        super().__init__()
        self._thread = thread

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._convolution.default:
            return self._elsewhere(torch.ops.aten.convolution.default, *args[:9])
        try:
            return func(*args, **kwargs)
        except (TypeError, AssertionError, RuntimeError):
            if func.is_view:  # a view made in another thread would carry that thread's record of gradients
                raise
            return self._elsewhere(func, *args, **kwargs)

    def _elsewhere(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        return self._thread.submit(torch.no_grad()(func), *args, **kwargs).result()


class RecordedConvolutions(TorchFunctionMode):
    """Sends convolutions through aten::_convolution, which the tracer records."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _CONVOLUTIONS:
            return func(*args, **kwargs)
        dimensions, names = _CONVOLUTIONS[func]
        given = _DEFAULTS | dict(zip(names, args, strict=False)) | kwargs
        return _recorded(dimensions, given, transposed=names is _TRANSPOSED)


# Arguments in their order, and their defaults, as PyTorch has them.
_STRAIGHT = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
_CONVOLUTIONS: dict[Any, tuple[int, tuple[str, ...]]] = {
    torch.conv1d: (1, _STRAIGHT),
    torch.conv2d: (2, _STRAIGHT),
    torch.conv3d: (3, _STRAIGHT),
    torch.conv_transpose1d: (1, _TRANSPOSED),
    torch.conv_transpose2d: (2, _TRANSPOSED),
    torch.conv_transpose3d: (3, _TRANSPOSED),
}


def _recorded(dimensions: int, given: Mapping[str, Any], *, transposed: bool) -> Tensor:
    image, weight = given["input"], given["weight"]
    stride, dilation, output_padding = (
        _each(given[name], dimensions) for name in ("stride", "dilation", "output_padding")
    )
    padding = given["padding"]
    if padding == "same":
        total = [d * (int(k) - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        # pad() takes the last dimension first; what is odd goes to the far side.
        image = pad(image, [side for n in reversed(total) for side in (n // 2, n - n // 2)])
    paddings = _each(0 if isinstance(padding, str) else padding, dimensions)
    # This operator takes batches only.
    batched = image.dim() == dimensions + 2
    places = (image if batched else image[None], weight, given["bias"], stride, paddings, dilation)
    # The flags are choices of the cuDNN backend, which the meta device has not.
    flags = (False, False, False, False)
    output = torch.ops.aten._convolution(*places, transposed, output_padding, given["groups"], *flags)
    return output if batched else output[0]


def _each(value: Any, dimensions: int) -> list[int]:
    """One number, or one for each dimension, as a list."""
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * dimensions if len(values) == 1 else values
