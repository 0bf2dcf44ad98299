"""The operators of a forward pass, as PyTorch's tracer lists them.

The list is taken while the tracer runs, before it removes those whose results are used by nothing: they are computed
all the same. Each has the name of the module that runs it, through global hooks, so that nothing is written into the
module itself.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from dit_eval.flops.meta_kernels import RecordedConvolutions, RememberedShapes, UntracedKernels
from dit_eval.flops.module_state import tensors_in


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
    remembered: RememberedShapes,
) -> Trace:
    """Run and trace a forward pass, in which `names` are those of modules.

    Parameters
    ----------
    watched : operators in which operations of `flop_registry` are added up
    flop_registry : operations of each operator, as in PyTorch's own counter
    remembered : of an earlier forward pass
    """
    attributes = [list(vars(part).values()) for part in module.modules()]
    tensors = list(tensors_in((attributes, arguments, dict(keywords))))
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
            stack.enter_context(RecordedConvolutions())
        if on_meta:
            stack.enter_context(UntracedKernels(stack.enter_context(ThreadPoolExecutor(max_workers=1))))
            stack.enter_context(remembered)
        if watched:
            stack.enter_context(within)
        stack.callback(register_module_forward_pre_hook(hooks.enter).remove)
        stack.callback(register_module_forward_hook(hooks.leave).remove)
        with suppress(_TracedToTheEnd):
            torch.jit._get_trace_graph(call, ())
        torch._C._jit_pass_inline(call.graph)  # scripted functions
        operations = list(_operations(call.graph, hooks.scopes))
    return Trace(operations=operations, within=within.found, graph=call.graph)


def _operations(graph: Any, modules: Sequence[str]) -> Iterator[Operation]:
    """Operators of a graph whose scopes are numbers of these modules."""
    for node in _nodes(graph):
        scopes = node.scopeName().split("/")
        # What an autograd function does is the function's affair; only its own node is an operator.
        if scopes.count(_IN_FUNCTION) > (node.kind() == _FUNCTION):
            continue
        running = next((int(scope) for scope in reversed(scopes) if scope.isdigit()), 0)
        inputs, outputs = list(node.inputs()), list(node.outputs())
        yield Operation(name=_kind(node), module=modules[running], inputs=inputs, outputs=outputs)


def _nodes(block: Any) -> Iterator[Any]:
    """Nodes of a graph, and of its blocks: the tracer has one for each module, scripted functions for each branch."""
    for node in block.nodes():
        kind = node.kind()
        if kind in _PLAIN:
            continue
        if kind != _MODULE:
            yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _last_node(graph: Any) -> Any:
    node = graph.return_node().prev()
    while node.kind() == _MODULE:
        node = [*node.blocks()][-1].returnNode().prev()
    return node


_MODULE, _FUNCTION = "prim::TracedModuleForward", "prim::PythonOp"
# Nodes that only put values together or take them apart: most of a trace, and no operators.
_PLAIN = frozenset({"prim::Constant", "prim::GetAttr", "prim::ListConstruct", "prim::ListUnpack", "prim::NumToTensor",
                    "prim::TupleConstruct", "prim::TupleUnpack"})  # fmt: skip
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
