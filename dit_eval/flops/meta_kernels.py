"""Operators on the meta device: those that the tracer would miss, or that fail while it looks on, or that take long.

On the meta device, convolutions are computed by an operator that the tracer does not record, so they are sent through
the one that it does; and some shape rules, written in Python, fail on traced sizes, so they run in a thread in which
nothing is traced. The rules take longer than all else in a count, and layers repeat: what a rule has said of a shape is
remembered.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
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


class RememberedShapes(TorchDispatchMode):
    """Asks the shape rule of an operator once for the same inputs, where all of them are on the meta device.

    Whatever else is to see an operator is entered after this, so that it is asked before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[tuple[Any, ...], tuple[bool, list[Tensor]]] = {}  # whether it is a tuple, and what is in it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _makes_new_tensors(func):
            return func(*args, **kwargs)
        try:
            key = (func, _described(args), _described(tuple(kwargs.items())))
        except _NotOnMeta:
            return func(*args, **kwargs)
        if key not in self._made:
            output = func(*args, **kwargs)
            outputs = output if isinstance(output, tuple) else (output,)
            if all(_is_plain_meta(each) for each in outputs):
                self._made[key] = (outputs is output, list(outputs))
            return output
        several, made = self._made[key]
        new = tuple(torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in made)
        return new if several else new[0]


class _NotOnMeta(Exception):
    """An argument says more than its shape."""


@functools.cache
def _makes_new_tensors(func: Any) -> bool:
    """Whether an operator gives tensors of its own, which are no views, and writes into none."""
    made = func._schema.returns
    return not func._schema.is_mutable and all(str(each.type) == "Tensor" and not each.alias_info for each in made)


def _described(value: Any) -> Any:
    """All that a shape rule can see of an argument, to be compared; `_NotOnMeta` if it may see more."""
    if _is_plain_meta(value):
        return (Tensor, value.shape, value.stride(), value.dtype)
    if isinstance(value, list | tuple):
        return tuple(map(_described, value))
    if value is None or isinstance(value, _PLAIN):
        return (type(value), value)
    raise _NotOnMeta


_PLAIN = (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


def _is_plain_meta(value: Any) -> bool:
    if type(value) not in (Tensor, Parameter) or not value.is_meta or value.layout is not torch.strided:
        return False
    return not (value.is_conj() or value.is_neg())


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
