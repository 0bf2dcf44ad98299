"""Gflops: multiply-adds of one forward pass, by operator and by module, in three conventions side by side.

`README.md` beside this file says what each convention counts. PyTorch's tracer lists the operators of a forward pass
with their shapes and modules (`tracing.py`), and rules say what each counts (`operators.py`). An operator that neither
has a rule nor is negligible is an error, never a silent 0. The multiply-adds are compared with those of PyTorch's own
counter, which watches another layer of PyTorch. Models on the meta device need no memory for weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from dit_eval.flops.counts import Counts, FlopCount, Handle
from dit_eval.flops.module_state import as_before, module_names, plain_forward, unwrapped
from dit_eval.flops.operators import (
    TORCH_FORGETS,
    count_by_handle,
    count_operator,
    has_rule,
    is_ignored,
    is_negligible,
    short_name,
)
from dit_eval.flops.tracing import Operation, Trace, trace
from dit_eval.models import find_model
from dit_eval.models.config import BlockDesign, DiTConfig
from dit_eval.models.unet import UNetConfig


def count_flops(
    module: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    *,
    keywords: Mapping[str, Any] | None = None,
    handles: Mapping[str, Handle] | None = None,
) -> FlopCount:
    """Count one forward pass of any module, in evaluation mode and without gradients.

    Wrappers are passed through, and what they hold is counted and named as without them: torch.compile, checkpointing,
    DataParallel, DistributedDataParallel, AveragedModel, FSDP (whose parameters are gathered, so that every process has
    to count). The module is afterwards as it was, whatever happened, and so are random numbers. Only a forward pass
    that writes into its own parameters does so here as well.

    Parameters
    ----------
    module : on any device; on "meta" (build it under ``torch.device("meta")``) weights and activations need no memory
    inputs : positional arguments of the forward pass, on the device of the module; the batch is counted as it is
    keywords : its keyword arguments
    handles : for operators of your own, or in place of ours: multiply-adds from the shapes of inputs and outputs, by
        the operator's name in the trace, such as "mylib::scan", or "prim::PythonOp.Name" for an autograd function.
        These operators alone are left out when multiply-adds are compared with PyTorch's counter.

    Raises
    ------
    ValueError
        If an operator is neither counted nor negligible (it is named); if the module cannot be traced; or if the trace
        and PyTorch's counter disagree.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    handles = dict(handles or {})
    keywords = dict(keywords or {})
    title = type(unwrapped(module)).__name__
    names = module_names(module)
    with as_before(module, arguments, keywords), plain_forward(module), sdpa_kernel(SDPBackend.MATH):
        # First without a trace: what is wrong with the module or its inputs shows as it is.
        check = _watched_by_pytorch(module, arguments, keywords)
        traced = _traced(module, arguments, keywords, names, handles, check)
        params = sum(p.numel() for p in module.parameters() if p.requires_grad)
    tally = _Tally(["", *names.values()], handles)
    for each in traced.operations:
        tally.add(each)
    if tally.uncounted:
        raise ValueError(_about_uncounted(title, tally.uncounted))
    operators = tally.parts[""]
    whole = _sum(operators.values())
    # What the handles name is left out on both sides.
    ours, theirs = whole.macs - tally.exempt, (check.get_total_flops() - sum(traced.within.values())) // 2
    if ours != theirs:
        raise ValueError(_about_disagreement(title, operators, check, ours, theirs))
    return FlopCount(
        macs=whole.macs,
        norm_elements=whole.norm_elements,
        fvcore=whole.fvcore,
        params=params,
        by_operator=dict(sorted(operators.items())),
        by_module={name: _sum(found.values()) for name, found in tally.parts.items()},
        negligible=dict(tally.negligible),
    )


class _Tally:
    """Counts of the operators of a trace.

    Attributes
    ----------
    parts : counts by module, those below it included, and by operator; "" is the whole
    negligible : how often each operator occurred that counts 0
    uncounted : operators that nobody knows
    exempt : multiply-adds that handles of the user gave
    """

    def __init__(self, modules: Iterable[str], handles: Mapping[str, Handle]) -> None:
        self.parts: dict[str, dict[str, Counts]] = {name: {} for name in modules}
        self.negligible: Counter[str] = Counter()
        self.uncounted: list[Operation] = []
        self.exempt = 0
        self._handles = handles

    def add(self, each: Operation) -> None:
        """Take in one operator."""
        if each.name in self._handles:
            counts = count_by_handle(each.name, self._handles[each.name], each.inputs, each.outputs)
            self.exempt += counts.macs
        elif has_rule(each.name):
            counts = count_operator(each.name, each.inputs, each.outputs)
        else:
            if is_negligible(each.name):
                self.negligible[each.name] += 1
            elif not is_ignored(each.name, each.outputs):
                self.uncounted.append(each)
            return
        operator = short_name(each.name)
        for name in _with_owners(each.module):
            self.parts[name][operator] = _sum([self.parts[name].get(operator, Counts()), counts])


def check_model(
    name: str, *, image_size: int | None = None, block: BlockDesign | None = None
) -> DiTConfig | UNetConfig:
    """The configuration that `count_model` will build; raises as it does, and builds nothing."""
    return find_model(name).config(image_size=image_size, block=block)


def count_model(name: str, *, image_size: int | None = None, block: BlockDesign | None = None) -> FlopCount:
    """Count a model of the paper, or a later one, by its name, batch 1, without guidance, on the meta device.

    Parameters
    ----------
    name : of `dit_eval.models.MODELS`: "DiT-XL/2", "ADM-256", "SiT-XL/2", "LightningDiT-XL/1", ...
    image_size : pixels, 256 if not given; for a U-Net its own
    block : block design of a DiT, "adaln-zero" if not given

    Raises
    ------
    ValueError
        If there is no such model (the nearest is suggested), or the two others do not go with it.
    """
    config = check_model(name, image_size=image_size, block=block)
    model = find_model(name)
    with torch.device("meta"):
        inputs, keywords = model.example_inputs(config)
        return count_flops(model.build(config), inputs, keywords=keywords)


class _NoModules(ModuleTracker):
    """In place of the record that PyTorch's counter keeps of modules, which fails on views of parameters."""

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *error: object) -> None:
        return None


def _watched_by_pytorch(module: nn.Module, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> FlopCounterMode:
    """PyTorch's counter, having watched a forward pass."""
    check = FlopCounterMode(display=False, custom_mapping=TORCH_FORGETS)
    check.mod_tracker = _NoModules()
    try:
        with check:
            module(*arguments, **keywords)
    except Exception as error:
        module(*arguments, **keywords)  # what is wrong with the module or its inputs shows as it is
        raise ValueError(
            f"{type(module).__name__} runs, but not while PyTorch's own counter watches: {_first_line(error)}\n"
            "Replace the operator that fails there by its plain form, such as flex_attention by "
            "scaled_dot_product_attention."
        ) from error
    return check


def _traced(
    module: nn.Module,
    arguments: tuple[Any, ...],
    keywords: Mapping[str, Any],
    names: Mapping[nn.Module, str],
    handles: Mapping[str, Handle],
    check: FlopCounterMode,
) -> Trace:
    try:
        return trace(
            module, arguments, keywords, names=names, watched=handles.keys(), flop_registry=check.flop_registry
        )
    except Exception as error:
        raise ValueError(
            f"{type(unwrapped(module)).__name__} runs, but PyTorch cannot trace it: {_first_line(error)}\n"
            "Usual reasons: flex_attention (use scaled_dot_product_attention); a scripted part, or under an older "
            "PyTorch a compiled one (use the plain module); "
            "checkpointing by functions of another library (switch it off); control flow that depends on values while "
            "on the meta device (use a real device)."
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _with_owners(name: str) -> list[str]:
    """A module's name and those above it; "" is the whole."""
    return ["", *(name[:end] for end in range(1, len(name)) if name[end] == "."), *([name] if name else [])]


def _sum(counts: Iterable[Counts]) -> Counts:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(vars(each))
    return Counts(**total)


def _about_disagreement(
    title: str, operators: Mapping[str, Counts], check: FlopCounterMode, ours: int, theirs: int
) -> str:
    listed = ", ".join(f"{name} {counts.macs:,}" for name, counts in operators.items() if counts.macs)
    watched = ", ".join(f"{name} {flops // 2:,}" for name, flops in check.get_flop_counts().get("Global", {}).items())
    return (
        f"{title}: PyTorch's trace has {ours:,} multiply-adds, PyTorch's own counter {theirs:,}. An operator escaped "
        f"one of them, so neither is to be trusted. By operator, the trace has: {listed or 'none'}; the counter has: "
        f'{watched or "none"}. Pass a handle for the operator in question: handles={{"aten::linear": macs}}, where '
        "macs(input_shapes, output_shapes) returns the multiply-adds of one call."
    )


def _about_uncounted(title: str, uncounted: Iterable[Operation]) -> str:
    times = Counter(each.name for each in uncounted)
    where = {each.name: each.module for each in uncounted}
    found = ", ".join(
        f"{name} ({n} time{'s' if n > 1 else ''}, {f'in {where[name]!r}' if where[name] else 'at the top'})"
        for name, n in sorted(times.items())
    )
    return (
        f"{title} has operators that are not counted: {found}. A total without them would be too low.\n"
        f'Pass handles={{"{min(times)}": macs}}, where macs(input_shapes, output_shapes) returns the multiply-adds of '
        "one call (0 if it has none)."
    )
