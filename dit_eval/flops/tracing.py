"""The operators of a forward pass, as PyTorch's tracer lists them, and the state of a module kept meanwhile.

A list of operators is taken while the tracer runs, before it removes those whose results are used by nothing: they are
computed all the same. Each has the name of the module that runs it, through global hooks, so that nothing is written
into the module itself.

Some things are in the way of tracing, and are arranged for here. Compiled parts run as they are written. Checkpointed
parts run at once. Wrappers that spread a module over devices are passed through. On the meta device, convolutions are
computed by an operator that the tracer does not record, so they are sent through the one that it does; and some shape
rules, written in Python, fail on traced sizes, so they run in a thread in which nothing is traced.
"""

from __future__ import annotations

import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operator of a trace.

    Attributes
    ----------
    name : such as "aten::linear", or "prim::PythonOp.Name" for an autograd function
    module : name of the module that runs it; "" is the whole
    inputs, outputs : values of the traced graph, with shapes
    """

    name: str
    module: str
    inputs: list[Any]
    outputs: list[Any]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A traced forward pass.

    Attributes
    ----------
    operations : in order
    within : operations that PyTorch's own counter finds inside each operator of `watched`, two for a multiply-add
    graph : what the values of the operations belong to, and live as long as
    """

    operations: list[Operation]
    within: Counter[str]
    graph: Any


def trace(
    module: nn.Module,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    *,
    names: Mapping[nn.Module, str],
    watched: Collection[str] = (),
    flop_registry: Mapping[Any, Callable[..., int]],
) -> Trace:
    """Run and trace a forward pass, in which `names` are those of modules.

    Parameters
    ----------
    watched : operators in which operations of `flop_registry` are added up
    flop_registry : operations of each operator, as in PyTorch's own counter
    """
    attributes = [list(vars(part).values()) for part in module.modules()]
    tensors = list(_tensors((attributes, arguments, dict(keywords))))
    call = _Call(lambda: module(*arguments, **keywords), tensors)
    functions: list[str] = []
    within = _Within(watched, flop_registry, call, functions)
    hooks = _ScopeHooks(names)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # a forward pass before this one has shown what there is to warn of
        stack.enter_context(_autograd_functions(functions))
        on_meta = any(tensor.is_meta for tensor in tensors)
        if on_meta or watched:  # from within a dispatch mode, the tracer does not record convolutions either
            stack.enter_context(_RecordedConvolutions())
        if on_meta:
            stack.enter_context(_UntracedKernels(stack.enter_context(ThreadPoolExecutor(max_workers=1))))
        if watched:
            stack.enter_context(within)
        stack.callback(register_module_forward_pre_hook(hooks.enter).remove)
        stack.callback(register_module_forward_hook(hooks.leave).remove)
        with suppress(_TracedToTheEnd):
            torch.jit._get_trace_graph(call, ())
        operations = []
        torch._C._jit_pass_inline(call.graph)  # scripted functions
        for node in _nodes(call.graph):
            scopes = node.scopeName().split("/")
            # What an autograd function does is the function's affair; only its own node is an operator.
            if scopes.count(_IN_FUNCTION) > (node.kind() == _FUNCTION):
                continue
            running = next((int(scope) for scope in reversed(scopes) if scope.isdigit()), 0)
            operations.append(
                Operation(
                    name=_kind(node),
                    module=hooks.scopes[running],
                    inputs=list(node.inputs()),
                    outputs=list(node.outputs()),
                )
            )
    return Trace(operations=operations, within=within.found, graph=call.graph)


def _nodes(block: Any) -> Iterator[Any]:
    """Nodes of a graph, and of its blocks: the tracer has one for each module, scripted functions for each branch."""
    for node in block.nodes():
        if node.kind() != _MODULE:
            yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _last_node(graph: Any) -> Any:
    node = graph.return_node().prev()
    while node.kind() == _MODULE:
        node = [*node.blocks()][-1].returnNode().prev()
    return node


_MODULE, _FUNCTION = "prim::TracedModuleForward", "prim::PythonOp"
_IN_FUNCTION = "inside an autograd function"


def _kind(node: Any) -> str:
    kind = str(node.kind())
    return f"{kind}.{node.pyname()}" if kind == _FUNCTION else kind


class _TracedToTheEnd(Exception):
    """Ends a trace before the tracer tidies up the graph."""


class _Call(nn.Module):
    """A call without inputs or outputs, since the tracer takes and returns tensors and their tuples only."""

    def __init__(self, call: Callable[[], Any], tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.call, self.tensors = call, list(tensors)
        self.graph: Any = None

    def forward(self) -> None:
        self.graph = torch._C._get_tracing_state().graph()
        self.call()
        raise _TracedToTheEnd

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """What the tracer takes as variables: all tensors that it could meet; as constants they could not be views."""
        destination.update({f"{prefix}{n}": tensor for n, tensor in enumerate(self.tensors)})
        return destination


class _ScopeHooks:
    """Tells the tracer which module runs: the number of its name in `scopes`."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.scopes = list(dict.fromkeys(["", *names.values()]))
        numbers = {name: number for number, name in enumerate(self.scopes)}
        self._numbers = {module: numbers[name] for module, name in names.items()}
        self._running = [0]

    def enter(self, module: nn.Module, inputs: Any) -> None:
        if state := torch._C._get_tracing_state():
            self._running.append(self._numbers.get(module, self._running[-1]))
            state.push_scope(str(self._running[-1]))

    def leave(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        if state := torch._C._get_tracing_state():
            self._running.pop()
            state.pop_scope()


class _Within(TorchDispatchMode):
    """Adds up operations that run inside some operators of the trace."""

    def __init__(
        self,
        watched: Collection[str],
        registry: Mapping[Any, Callable[..., int]],
        call: _Call,
        functions: Sequence[str],
    ) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._watched, self._registry, self._call, self._functions = watched, registry, call, functions

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        count = self._registry.get(func._overloadpacket)
        # While an operator runs, the tracer rests, and the operator is the last of the graph.
        if count is not None and self._call.graph is not None and torch._C._get_tracing_state() is None:
            name = self._functions[0] if self._functions else _kind(_last_node(self._call.graph))
            if name in self._watched:
                self.found[name] += count(*args, **(kwargs or {}), out_val=output)
        return output


@contextmanager
def _autograd_functions(running: list[str]) -> Iterator[None]:
    """Those given a function, as reentrant checkpointing, call it in the open; `running` has the names of others."""
    original = torch.autograd.Function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        state = torch._C._get_tracing_state()
        if state is None:
            return original.__get__(None, cls)(*args, **kwargs)
        if any(callable(argument) for argument in args):
            if cls.setup_context is not torch.autograd.Function.setup_context:
                return cls.forward(*args, **kwargs)
            keep_nothing = SimpleNamespace(save_for_backward=lambda *tensors: None)
            return cls.forward(keep_nothing, *args, **kwargs)
        state.push_scope(_IN_FUNCTION)
        running.append(f"{_FUNCTION}.{cls.__name__}")
        try:
            return original.__get__(None, cls)(*args, **kwargs)
        finally:
            running.pop()
            state.pop_scope()

    torch.autograd.Function.apply = classmethod(apply)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


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
    attributes = [vars(part) for part in module.modules()]
    contents = [value for found in attributes for value in found.values() if isinstance(value, dict | list | set)]
    before = [(value, _copied(value)) for value in (*contents, *attributes)]
    flags = [(tensor, tensor.requires_grad) for tensor in [*module.parameters(), *module.buffers()]]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers() if not buffer.is_meta]
    devices = {tensor.device for tensor in _tensors((list(module.parameters()), inputs)) if tensor.is_cuda}
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device.index for device in devices]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for value, kept in before:
            _refill(value, kept)
        for tensor, wants_gradient in flags:
            if tensor.requires_grad != wants_gradient:
                tensor.requires_grad_(wants_gradient)
        with torch.no_grad():
            for buffer, values in buffers:
                if buffer.layout is torch.strided and not torch.equal(buffer, values):
                    buffer.copy_(values)


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


def _tensors(value: Any) -> Iterator[Tensor]:
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


class _UntracedKernels(TorchDispatchMode):
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


class _RecordedConvolutions(TorchFunctionMode):
    """Sends convolutions through aten::_convolution, which the tracer records."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS:
            dimensions, convolve = _CONVOLUTIONS[func]
            return convolve(dimensions, *args, **kwargs)
        return func(*args, **kwargs)


def _convolution(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    dilations = _each(dilation, dimensions)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        total = [d * (int(k) - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
        # pad() takes the last dimension first; what is odd goes to the far side.
        input = pad(input, [side for n in reversed(total) for side in (n // 2, n - n // 2)])
        padding = 0
    strides, paddings, none = _each(stride, dimensions), _each(padding, dimensions), [0] * dimensions
    return _recorded(dimensions, input, weight, bias, strides, paddings, dilations, False, none, groups)


def _transposed_convolution(
    dimensions: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    strides, paddings, outputs, dilations = (
        _each(value, dimensions) for value in (stride, padding, output_padding, dilation)
    )
    return _recorded(dimensions, input, weight, bias, strides, paddings, dilations, True, outputs, groups)


def _recorded(dimensions: int, input: Tensor, *rest: Any) -> Tensor:
    # This operator takes batches only. The flags are choices of the cuDNN backend, which the meta device has not.
    batched = input.dim() == dimensions + 2
    arguments: tuple[Any, ...] = (input if batched else input[None], *rest, False, False, False, False)
    output = torch.ops.aten._convolution(*arguments)
    return output if batched else output[0]


_CONVOLUTIONS: dict[Any, tuple[int, Callable[..., Tensor]]] = {
    torch.conv1d: (1, _convolution),
    torch.conv2d: (2, _convolution),
    torch.conv3d: (3, _convolution),
    torch.conv_transpose1d: (1, _transposed_convolution),
    torch.conv_transpose2d: (2, _transposed_convolution),
    torch.conv_transpose3d: (3, _transposed_convolution),
}


def _each(value: Any, dimensions: int) -> list[int]:
    """One number, or one for each dimension, as a list."""
    values = list(value) if isinstance(value, Sequence) else [value]
    return values * dimensions if len(values) == 1 else values
