"""Gflops: multiply-adds of one forward pass, by operator and by module, in three conventions side by side.

``paper``   multiply-adds of linear maps, convolutions, matrix products and einsum, both products of attention included,
            plus one for each element that enters a LayerNorm, GroupNorm, InstanceNorm or RMSNorm. The paper does not
            state its rule; this one gives the printed digits of Tables 1, 4 and 6 but for two rows.
``fvcore``  what fvcore bills by default (4 or 5 for each normalised element, something for interpolation and pooling),
            with fused attention billed as its two products.
``mac``     the multiply-adds alone.

One multiply-add counts 1 (so 1 Gflop here is 2e9 floating-point operations). Batch normalisation counts 0 in ``paper``
and ``mac``: while sampling it is a fixed scale and shift, which folds into the convolution before it, and no model of
the paper has one.

fvcore's tracer does the work: it lists the operators of a forward pass with their shapes and modules, and our handles
say what each counts. An operator that neither has a handle nor is negligible is an error, never a silent 0. The
multiply-adds are compared with those of PyTorch's own counter, which watches another layer of PyTorch.

Models on the meta device need no memory for weights. There, two things are in the way of tracing, and both are
arranged for here: convolutions are computed by an operator that the tracer does not record, so they are sent through
the one that it does; and some shape rules of the meta device, written in Python, fail on traced sizes, so they run in a
thread in which nothing is traced.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dit_eval.models.dit import MODEL_NAMES, BlockDesign, DiT, DiTConfig, named_config
from dit_eval.models.unet import UNETS, UNet, UNetConfig
from dit_eval.suggest import did_you_mean

with warnings.catch_warnings():
    # fvcore scripts a loss function of its own when it is imported; nothing that is used here.
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS
    from fvcore.nn.jit_handles import get_shape

Convention = Literal["paper", "fvcore", "mac"]
CONVENTIONS: tuple[Convention, ...] = ("paper", "fvcore", "mac")

Shape = tuple[int, ...] | None  # None for what is no tensor
Handle = Callable[[Sequence[Shape], Sequence[Shape]], int]

# What counts 0, and why that is right at the precision of the published figures.
NEGLIGIBLE: dict[str, str] = {
    "some operations for each activation, against hundreds of multiply-adds in the layer that made it": (
        "add sub rsub mul div neg abs pow square sqrt rsqrt reciprocal exp log sin cos tanh sigmoid erf silu gelu mish "
        "elu selu leaky_relu relu6 prelu glu softplus hardswish hardtanh hardsigmoid where lt le ne minimum maximum "
        "addcmul lerp clamp_min clamp_max logical_and logical_or logical_not round ceil"
    ),
    "one pass over the activations": (
        "softmax log_softmax mean sum amax amin var std norm linalg_vector_norm cumsum argmax argmin min any all"
    ),
    "pooling and interpolation: a few additions for each output": (
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_max_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
        "upsample_bilinear2d upsample_bicubic2d grid_sampler"
    ),
    "a fixed scale and shift while sampling, which folds into the convolution before it": "batch_norm",
    "a table look-up": "embedding index_select one_hot",
    "data that moves or is made, without arithmetic": (
        "unflatten clone repeat repeat_interleave expand_as view_as reshape_as movedim swapaxes ravel concat alias "
        "lift_fresh numpy_T mT scatter tril triu flip pad reflection_pad2d replication_pad2d pixel_shuffle "
        "pixel_unshuffle unfold im2col tensor_split hstack vstack tile meshgrid broadcast_to empty_like ones_like rand "
        "randn rand_like randn_like linspace fill"
    ),
}
_NEGLIGIBLE_OPERATORS = frozenset(f"aten::{name}" for names in NEGLIGIBLE.values() for name in names.split())


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What a forward pass, a module or an operator counts.

    Attributes
    ----------
    macs : multiply-adds
    norm_elements : elements that enter a normalisation
    fvcore : what fvcore bills by default
    """

    macs: int = 0
    norm_elements: int = 0
    fvcore: int = 0

    def total(self, convention: Convention = "paper") -> int:
        """Operations in a convention, an exact integer."""
        if convention not in CONVENTIONS:
            raise ValueError(f"Unknown convention {convention!r}; known: {', '.join(CONVENTIONS)}.")
        return {"paper": self.macs + self.norm_elements, "fvcore": self.fvcore, "mac": self.macs}[convention]

    def gflops(self, convention: Convention = "paper") -> float:
        """The same in units of 1e9."""
        return self.total(convention) / 1e9


@dataclass(frozen=True, kw_only=True)
class FlopCount(Counts):
    """The counts of one forward pass, whole and in parts.

    Attributes
    ----------
    params : trainable parameters (the paper counts these; the fixed position table of a DiT is not among them)
    by_operator : counts of each operator, such as "linear" or "scaled_dot_product_attention"
    by_module : counts of each module by its name, those below it included; "" is the whole
    negligible : how often each operator occurred that counts 0; reasons in `NEGLIGIBLE`
    """

    params: int
    by_operator: Mapping[str, Counts]
    by_module: Mapping[str, Counts]
    negligible: Mapping[str, int]


def count_flops(
    module: nn.Module,
    inputs: Tensor | tuple[Any, ...],
    *,
    keywords: Mapping[str, Any] | None = None,
    handles: Mapping[str, Handle] | None = None,
) -> FlopCount:
    """Count one forward pass of any module, in evaluation mode and without gradients.

    Parameters
    ----------
    module : on any device; on "meta" (build it under ``torch.device("meta")``) weights and activations need no memory
    inputs : positional arguments of the forward pass, on the device of the module; the batch is counted as it is
    keywords : its keyword arguments
    handles : for operators of your own, or in place of ours: multiply-adds from the shapes of inputs and outputs, by
        the operator's name in the trace, such as "mylib::scan", or "prim::PythonOp.Name" for an autograd function.
        The multiply-adds are not compared with PyTorch's counter then, which does not know of them.

    Raises
    ------
    ValueError
        If an operator is neither counted nor negligible (it is named); if the module cannot be traced; or if fvcore's
        trace and PyTorch's counter disagree.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    handles = dict(handles or {})
    keywords = dict(keywords or {})
    with _plain_forward(module):
        # First without a trace: what is wrong with the module or its inputs shows as it is.
        check = FlopCounterMode(display=False, custom_mapping=_TORCH_FORGETS)
        with check, sdpa_kernel(SDPBackend.MATH):
            module(*arguments, **keywords)
        analysis = _trace(module, arguments, keywords, handles)
    uncounted = {name: times for name, times in analysis.unsupported_ops().items() if not _is_negligible(name)}
    if uncounted:
        raise ValueError(_about_uncounted(module, analysis, uncounted))
    parts = {name: _by_operator(counter) for name, counter in analysis.by_module_and_operator().items()}
    whole = _sum(parts[""].values())
    if not handles and 2 * whole.macs != check.get_total_flops():
        raise ValueError(
            f"{type(module).__name__}: fvcore's trace has {whole.macs:,} multiply-adds, PyTorch's own counter "
            f"{check.get_total_flops() // 2:,}. An operator escaped one of them, so neither is to be trusted. Compare "
            "`fvcore.nn.FlopCountAnalysis(...).by_operator()` with `torch.utils.flop_counter.FlopCounterMode`, and "
            "pass a handle for the operator in question."
        )
    return FlopCount(
        macs=whole.macs,
        norm_elements=whole.norm_elements,
        fvcore=whole.fvcore,
        params=sum(p.numel() for p in module.parameters() if p.requires_grad),
        by_operator=parts[""],
        by_module={name: _sum(operators.values()) for name, operators in parts.items()},
        negligible=dict(analysis.unsupported_ops()),
    )


def check_model(
    name: str, *, image_size: int | None = None, block: BlockDesign | None = None
) -> DiTConfig | UNetConfig:
    """The configuration that `count_model` will build; raises as it does, and builds nothing."""
    if name in UNETS:
        config = UNETS[name]
        if image_size not in (None, config.image_size) or block is not None:
            raise ValueError(
                f"{name} makes images of {config.image_size} pixels and has no block designs; leave both out."
            )
        return config
    if name not in MODEL_NAMES:
        known = [*MODEL_NAMES, *UNETS]
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}")
    return named_config(name, image_size=256 if image_size is None else image_size, block=block or "adaln-zero")


def count_model(name: str, *, image_size: int | None = None, block: BlockDesign | None = None) -> FlopCount:
    """Count a model of the paper by its name, batch 1, without guidance, on the meta device.

    Parameters
    ----------
    name : "DiT-XL/2" and so on (`MODEL_NAMES`), or a U-Net (`UNET_NAMES`)
    image_size : pixels, 256 if not given; for a U-Net its own
    block : block design of a DiT, "adaln-zero" if not given

    Raises
    ------
    ValueError
        If there is no such model (the nearest is suggested), or the two others do not go with it.
    """
    config = check_model(name, image_size=image_size, block=block)
    keywords = {}
    with torch.device("meta"):
        model = DiT(config) if isinstance(config, DiTConfig) else UNet(config)
        x = torch.empty(1, config.in_channels, config.input_size, config.input_size)
        inputs = [x, torch.zeros(1)]
        if config.num_classes is not None:
            inputs.append(torch.zeros(1, dtype=torch.long))
        if isinstance(config, UNetConfig) and config.context_dim is not None:
            keywords["context"] = torch.empty(1, 1, config.context_dim)
        if isinstance(config, UNetConfig) and config.low_res_size is not None:
            keywords["low_res"] = torch.empty(1, config.in_channels, config.low_res_size, config.low_res_size)
    return count_flops(model, tuple(inputs), keywords=keywords)


def sampling_gflops(gflops: float, *, num_sampling_steps: int, guided: bool = False) -> float:
    """Gflops to sample one image: Gflops x steps, twice that with classifier-free guidance.

    The paper's Figure 10 leaves the factor of guidance out. The autoencoder is not counted.
    """
    return gflops * num_sampling_steps * (2 if guided else 1)


def training_gflops(gflops: float, *, steps: int, batch_size: int = 256) -> float:
    """Gflops to train: Gflops x batch x steps x 3; the backward pass counts twice the forward pass (Figure 9)."""
    return 3 * gflops * batch_size * steps


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A cell of a plan: a model to train for some steps, or to sample from, or both.

    Attributes
    ----------
    gflops : of one forward pass at batch 1, in the convention of your choice
    training_steps, batch_size : of its training; 0 steps if it is not trained
    num_samples, num_sampling_steps, guided : of the images drawn; 0 samples if none are
    """

    gflops: float
    training_steps: int = 0
    batch_size: int = 256
    num_samples: int = 0
    num_sampling_steps: int = 250
    guided: bool = False

    @property
    def training(self) -> float:
        """Gflops"""
        return training_gflops(self.gflops, steps=self.training_steps, batch_size=self.batch_size)

    @property
    def sampling(self) -> float:
        """Gflops"""
        each = sampling_gflops(self.gflops, num_sampling_steps=self.num_sampling_steps, guided=self.guided)
        return self.num_samples * each


def plan_gflops(plan: Iterable[Workload]) -> float:
    """Gflops of a whole plan, training and sampling."""
    return sum(cell.training + cell.sampling for cell in plan)


def gpu_hours(
    gflops: float,
    *,
    achieved_tflops: float | None = None,
    peak_tflops: float | None = None,
    utilisation: float | None = None,
) -> float:
    """Hours of one GPU for a number of Gflops (multiply-adds, of which each is two floating-point operations).

    Parameters
    ----------
    achieved_tflops : 1e12 floating-point operations per second that the program reaches, as data sheets count them; or
    peak_tflops, utilisation : those of the data sheet, and the share of them that the program reaches, in 0..1

    Raises
    ------
    ValueError
        If neither way is given, or both are, or a value is out of range.
    """
    if achieved_tflops is None and peak_tflops is not None and utilisation is not None:
        if not 0 < utilisation <= 1:
            raise ValueError(f"utilisation = {utilisation}; needed a share above 0 and up to 1.")
        achieved_tflops = peak_tflops * utilisation
    elif achieved_tflops is None or peak_tflops is not None or utilisation is not None:
        raise ValueError("Needed achieved_tflops, or both peak_tflops and utilisation.")
    if not achieved_tflops > 0:
        raise ValueError(f"A throughput of {achieved_tflops} Tflop/s; needed more than 0.")
    return 2 * gflops * 1e9 / (achieved_tflops * 1e12) / 3600


@contextmanager
def _plain_forward(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and no fused encoder layer; all as before afterwards."""
    training = [part for part in module.modules() if part.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part in training:
            part.training = True


def _trace(
    module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], handles: dict[str, Handle]
) -> FlopCountAnalysis:
    """fvcore's analysis with our handles, done."""
    analysis = FlopCountAnalysis(module, arguments).clear_op_handles()
    analysis.set_op_handle(**{name: _counted(name) for name in _RULES})
    analysis.set_op_handle(**{name: _counted_by_user(name, handle) for name, handle in handles.items()})
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")  # the forward pass before this one has shown what there is to warn of
    on_meta = any(tensor.is_meta for tensor in [*module.parameters(), *module.buffers(), *arguments, *keywords.values()]
                  if isinstance(tensor, Tensor))  # fmt: skip
    with ExitStack() as stack:
        # fvcore passes on positional arguments only.
        add = module.register_forward_pre_hook(lambda _, args, given: (args, given | keywords), with_kwargs=True)
        stack.callback(add.remove)
        if on_meta:
            stack.enter_context(_RecordedConvolutions())
            stack.enter_context(_UntracedKernels(stack.enter_context(ThreadPoolExecutor(max_workers=1))))
        try:
            analysis.total()
        except (RuntimeError, TypeError, AttributeError, AssertionError, IndexError) as error:
            raise ValueError(
                f"{type(module).__name__} runs, but fvcore cannot trace it: {str(error).splitlines()[0]}\n"
                "Usual reasons: activation checkpointing (switch it off), a compiled or scripted part (use the plain "
                "module), control flow that depends on values while on the meta device (use a real device)."
            ) from error
    return analysis


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


def _product_at(index: int) -> Callable[[list[Any], list[Any]], int]:
    """Matrix product whose left factor is that input: its last side for each element of the output."""
    return lambda inputs, outputs: math.prod(get_shape(outputs[0])) * get_shape(inputs[index])[-1]


def _convolution_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """The kernel for each element of the output, or of the input if transposed."""
    positions = get_shape(inputs[0] if inputs[6].toIValue() else outputs[0])
    return math.prod(positions) * math.prod(get_shape(inputs[1])[1:])


def _padded_convolution_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """As above, for padding="same" or "valid"."""
    return math.prod(get_shape(outputs[0])) * math.prod(get_shape(inputs[1])[1:])


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """Scores, then their product with the values, as unfused attention has them."""
    q, k, v = (get_shape(value) for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _einsum_macs(inputs: list[Any], outputs: list[Any]) -> int:
    shapes = [get_shape(value) for value in inputs[1].node().inputs()]
    return einsum_macs(inputs[0].toIValue(), shapes)


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """Multiply-adds of an einsum of at most two operands, as PyTorch computes it.

    Labels of one operand alone are summed away beforehand. Where nothing is left to add up (no common label that the
    output lacks, or only of size 1), PyTorch transposes or multiplies element by element, which counts 0.

    Raises
    ------
    ValueError
        If there are three operands or more, whose count depends on the order in which they are multiplied.
    """
    if len(shapes) > 2:
        raise ValueError(
            f"einsum {equation!r} multiplies {len(shapes)} operands, in an order that is not known here. Write it as "
            'products of two, or pass handles={"aten::einsum": ...}.'
        )
    left, arrow, right = equation.replace(" ", "").partition("->")
    free = iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ".translate({ord(c): None for c in equation}))
    ellipsis = [next(free) for _ in range(max(map(len, shapes)))] if "..." in left else []
    terms: list[set[str]] = []
    sizes: dict[str, int] = {}
    for term, shape in zip(left.split(","), shapes, strict=True):
        extra = len(shape) - len(term.replace("...", ""))
        labels = term.replace("...", "".join(ellipsis[len(ellipsis) - extra :]))
        terms.append(set(labels))
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    if arrow:
        output = set(right.replace("...", "".join(ellipsis)))
    else:
        output = {label for label in sizes if left.count(label) == 1 or label in ellipsis}
    common = set.intersection(*terms)
    if len(terms) == 1 or all(sizes[label] == 1 for label in common - output):
        return 0
    return math.prod(size for label, size in sizes.items() if label in output | common)


def _nothing(inputs: list[Any], outputs: list[Any]) -> int:
    return 0


# Products with a vector, which PyTorch's own counter leaves out; two operations for each multiply-add, as there.
_TORCH_FORGETS = {
    torch.ops.aten.mv: lambda matrix, vector, **_: 2 * math.prod(matrix),
    torch.ops.aten.dot: lambda left, right, **_: 2 * math.prod(left),
    torch.ops.aten.addmv: lambda start, matrix, vector, **_: 2 * math.prod(matrix),
}
_NORMS = ("aten::layer_norm", "aten::group_norm", "aten::instance_norm", "aten::rms_norm")
# Multiply-adds of each operator that has some, and of those that fvcore bills for something else.
_RULES: dict[str, Callable[[list[Any], list[Any]], int]] = {
    **dict.fromkeys(("aten::linear", "aten::matmul", "aten::mm", "aten::bmm", "aten::mv", "aten::dot"), _product_at(0)),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm", "aten::addmv"), _product_at(1)),
    "aten::_convolution": _convolution_macs,
    "aten::_convolution_mode": _padded_convolution_macs,
    "aten::scaled_dot_product_attention": _attention_macs,
    "aten::einsum": _einsum_macs,
    **dict.fromkeys(_NORMS, _nothing),
    **{name: _nothing for name in _DEFAULT_SUPPORTED_OPS if name in _NEGLIGIBLE_OPERATORS},
}


def _counted(name: str) -> Callable[[list[Any], list[Any]], Counter[Any]]:
    """A handle for fvcore that returns all our counts of an operator at once."""
    short = "conv" if name.startswith("aten::_convolution") else name.removeprefix("aten::")

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[Any]:
        macs = _RULES[name](inputs, outputs)
        elements = math.prod(get_shape(inputs[0])) if name in _NORMS else 0
        return _counter(short, Counts(macs=macs, norm_elements=elements, fvcore=_billed(name, inputs, outputs, macs)))

    return count


def _billed(name: str, inputs: list[Any], outputs: list[Any], macs: int) -> int:
    """What fvcore's own handle says; where it has none for a product, or cannot read the shapes, the multiply-adds."""
    handle = _DEFAULT_SUPPORTED_OPS.get(name)
    if handle is None:
        return macs
    try:
        found = handle(inputs, outputs)
    except (AssertionError, IndexError, NotImplementedError):  # such as a matrix times a vector
        return macs
    return int(sum(found.values()) if isinstance(found, Counter) else found)


def _counted_by_user(name: str, handle: Handle) -> Callable[[list[Any], list[Any]], Counter[Any]]:
    def count(inputs: list[Any], outputs: list[Any]) -> Counter[Any]:
        shapes = [
            [tuple(s) if (s := get_shape(v)) is not None else None for v in values] for values in (inputs, outputs)
        ]
        macs = handle(*shapes)
        if not isinstance(macs, int) or macs < 0:
            raise ValueError(f"The handle of {name} returned {macs!r}; needed a number of multiply-adds, an integer.")
        return _counter(name.removeprefix("aten::"), Counts(macs=macs, fvcore=macs))

    return count


def _counter(name: str, counts: Counts) -> Counter[Any]:
    """As fvcore adds them up; keys are (operator, what)."""
    return Counter({(name, what): value for what, value in vars(counts).items()})


def _by_operator(counter: Mapping[Any, int]) -> dict[str, Counts]:
    found: dict[str, dict[str, int]] = {}
    for (operator, what), value in counter.items():
        found.setdefault(operator, {})[what] = value
    return {operator: Counts(**values) for operator, values in sorted(found.items())}


def _sum(counts: Iterable[Counts]) -> Counts:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(vars(each))
    return Counts(**total)


def _is_negligible(name: str) -> bool:
    return name in _NEGLIGIBLE_OPERATORS or name.removesuffix("_") in _NEGLIGIBLE_OPERATORS


def _about_uncounted(module: nn.Module, analysis: FlopCountAnalysis, uncounted: Mapping[str, int]) -> str:
    where = {}
    for part, _ in module.named_modules():  # parents come before children, so the innermost stays
        for name in analysis.unsupported_ops(part):
            where[name] = part
    found = ", ".join(
        f"{name} ({times} time{'s' if times > 1 else ''}, {f'in {where[name]!r}' if where.get(name) else 'at the top'})"
        for name, times in sorted(uncounted.items())
    )
    first = next(iter(sorted(uncounted)))
    return (
        f"{type(module).__name__} has operators that are not counted: {found}. A total without them would be too low.\n"
        f'Pass handles={{"{first}": macs}}, where macs(input_shapes, output_shapes) returns the multiply-adds of one '
        "call (0 if it has none)."
    )
