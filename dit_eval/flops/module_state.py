"""A module made ready to be counted, and given back as it was.

Compiled parts run as they are written, checkpointed parts at once, and wrappers that spread a module over devices are
passed through. Whatever this changes, and whatever a forward pass changes, is taken back.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


@contextmanager
def compiled_parts_run_as_written() -> Iterator[None]:
    """torch.compile does nothing meanwhile: neither what it compiled before nor what it is asked to compile now."""
    compile_ = torch.compile

    def leave_as_it_is(model: Any = None, **options: Any) -> Any:
        return model if model is not None else lambda function: function

    torch.compile = leave_as_it_is
    # Nothing can be compiled without dynamo, and importing it takes a second. An older one has no such way; the tracer
    # then refuses what was compiled.
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    as_written = getattr(dynamo, "_use_eager_on_nested_compile", nullcontext)
    try:
        with as_written():
            yield
    finally:
        torch.compile = compile_


def inside(module: nn.Module) -> nn.Module | None:
    """The module that a known wrapper wraps; None for any other module."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        return module.module
    parts = vars(module).get("_modules", {})
    return next((parts[name] for name in _WRAPPED if name in parts), None)


# Compiled modules, FSDP and PyTorch's checkpoint wrapper hold what they wrap under these names.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside all known wrappers around it."""
    while (within := inside(module)) is not None:
        module = within
    return module


def module_names(module: nn.Module) -> dict[nn.Module, str]:
    """Names of a module and those below it, as they are without wrappers."""
    names: dict[nn.Module, str] = {}

    def visit(part: nn.Module, name: str) -> None:
        if part in names:
            return
        names[part] = name
        wrapped = inside(part)
        for key, child in part.named_children():
            visit(child, name if child is wrapped else f"{name}.{key}" if name else key)

    visit(module, "")
    return names


@contextmanager
def as_before(module: nn.Module, *inputs: Any) -> Iterator[None]:
    """Give a module back as it was, and random numbers too, however the block ends.

    Restored are all attributes of all modules, the contents of attributes that are dicts, lists or sets (parameters,
    buffers, hooks and submodules are among these), the values of buffers, and which tensors want gradients.
    """
    with _random_numbers_as_before(module, inputs), _tensors_as_before(module), _attributes_as_before(module):
        yield


@contextmanager
def _random_numbers_as_before(module: nn.Module, inputs: Any) -> Iterator[None]:
    devices = {tensor.device for tensor in tensors_in((list(module.parameters()), inputs)) if tensor.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device.index for device in devices]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def _tensors_as_before(module: nn.Module) -> Iterator[None]:
    flags = [(tensor, tensor.requires_grad) for tensor in [*module.parameters(), *module.buffers()]]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers() if not buffer.is_meta]
    try:
        yield
    finally:
        for tensor, wants_gradient in flags:
            if tensor.requires_grad != wants_gradient:
                tensor.requires_grad_(wants_gradient)
        with torch.no_grad():
            for buffer, values in buffers:
                if buffer.layout is torch.strided and not torch.equal(buffer, values):
                    buffer.copy_(values)


@contextmanager
def _attributes_as_before(module: nn.Module) -> Iterator[None]:
    attributes = [vars(part) for part in module.modules()]
    contents = [value for found in attributes for value in found.values() if isinstance(value, dict | list | set)]
    before = [(value, _copied(value)) for value in (*contents, *attributes)]
    try:
        yield
    finally:
        for value, kept in before:
            _refill(value, kept)


def _copied(value: Any) -> Any:
    """A plain copy of a dict, a list or a set; their subclasses need not have a usable copy()."""
    return dict(value) if isinstance(value, dict) else list(value) if isinstance(value, list) else set(value)


def _refill(value: Any, kept: Any) -> None:
    """Put contents back, if they are others now; those that cannot be written to are not others."""
    if isinstance(value, dict):
        if [(key, id(v)) for key, v in value.items()] != [(key, id(v)) for key, v in kept.items()]:
            value.clear()
            value.update(kept)
    elif isinstance(value, list):
        if [id(v) for v in value] != [id(v) for v in kept]:
            value[:] = kept
    elif value != kept:
        value.clear()
        value.update(kept)


@contextmanager
def plain_forward(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, nothing compiled, no fused encoder layer, wrappers passed through.

    To be used within `as_before`, which takes back what this changes in modules.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), warnings.catch_warnings(), compiled_parts_run_as_written(), _gathered(module):
            # Checkpointing says so; nobody wants gradients here.
            warnings.filterwarnings("ignore", message="None of the inputs have requires_grad=True")
            module.eval()
            for part in module.modules():
                if (wrapped := inside(part)) is not None:
                    vars(part)["forward"] = wrapped
                for hooks in (part._forward_pre_hooks, part._forward_hooks):
                    for key, hook in list(hooks.items()):
                        if getattr(hook, "__module__", "").startswith("torch.distributed.fsdp"):
                            del hooks[key]
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _gathered(module: nn.Module) -> Iterator[None]:
    """Parameters that FSDP spreads over processes are whole meanwhile; each of these processes has to count."""
    with ExitStack() as stack:
        parts: list[Any] = list(module.modules())
        first = next((part for part in parts if "_fsdp_wrapped_module" in part._modules), None)
        if first is not None:
            stack.enter_context(first.summon_full_params(module, writeback=False))
        for part in parts:
            if any(kind.__name__ == "FSDPModule" for kind in type(part).__mro__):
                part.unshard()
                stack.callback(part.reshard)
        yield


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in nested dicts, lists and tuples, each once."""
    seen, waiting = set(), [value]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, Mapping):
            waiting.extend(each.values())
        elif isinstance(each, list | tuple):
            waiting.extend(each)
