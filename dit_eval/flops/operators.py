"""What each operator of a forward pass counts: multiply-adds, normalised elements, and what fvcore bills for it.

Operators are those of PyTorch's tracer, by their names there ("aten::linear"). One has a rule, or is known to multiply
nothing, or is an error to whoever counts; there is no silent 0. The figures of the fvcore convention come from fvcore's
own handles.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from dit_eval.flops.counts import Counts

if TYPE_CHECKING:
    from dit_eval.flops.counts import Handle

with warnings.catch_warnings():
    # fvcore scripts a loss function of its own when it is imported; nothing that is used here.
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning)
    from fvcore.nn.flop_count import _DEFAULT_SUPPORTED_OPS
    from fvcore.nn.jit_analysis import _IGNORED_OPS
    from fvcore.nn.jit_handles import get_shape
# What counts 0, and why that is right at the precision of the published figures.
NEGLIGIBLE: dict[str, str] = {
    "some operations for each activation, against hundreds of multiply-adds in the layer that made it": (
        "add sub subtract rsub mul multiply div true_divide divide neg negative abs absolute pow square sqrt rsqrt "
        "reciprocal exp exp2 expm1 log log1p log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh "
        "atanh sinc deg2rad rad2deg sigmoid log_sigmoid logit erf silu gelu mish elu selu celu leaky_relu rrelu relu6 "
        "prelu glu softplus softshrink hardshrink threshold hardswish hardtanh hardsigmoid where lt le ne less "
        "less_equal greater greater_equal not_equal minimum maximum fmin fmax fmod addcmul addcdiv lerp heaviside "
        "clip clamp_min clamp_max logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_xor "
        "bitwise_not __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__ __ixor__ isnan isinf isfinite sign sgn "
        "round ceil trunc frac nan_to_num special_expm1 special_expit special_erf special_log_softmax special_softmax "
        "masked_fill masked_scatter alpha_dropout feature_dropout"
    ),
    "complex numbers put together, taken apart or turned, element by element (rotary positions)": (
        "complex polar view_as_complex view_as_real real imag conj _conj conj_physical resolve_conj resolve_neg angle"
    ),
    "products of single elements": "outer ger kron cross linalg_cross",
    "one pass over the activations": (
        "softmax log_softmax logsumexp mean sum nansum prod amax amin aminmax var std var_mean std_mean norm "
        "linalg_vector_norm frobenius_norm cumsum cumprod cummax cummin logcumsumexp diff argmax argmin min any all "
        "count_nonzero median cosine_similarity"
    ),
    "sorting, counting and comparing, without products": (
        "sort msort argsort topk kthvalue mode unique_dim _unique _unique2 unique_consecutive bincount histc "
        "searchsorted bucketize isin equal isclose allclose"
    ),
    "pooling and interpolation: a few operations for each output": (
        "max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d "
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d "
        "adaptive_max_pool3d max_unpool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d "
        "_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d "
        "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa "
        "_upsample_lanczos2d_aa grid_sampler grid_sampler_2d grid_sampler_3d affine_grid_generator "
        "torchvision::roi_align torchvision::ps_roi_align torchvision::roi_pool torchvision::ps_roi_pool"
    ),
    "a fixed scale and shift while sampling, which folds into the convolution before it": "batch_norm",
    "a table look-up": "embedding index_select one_hot take take_along_dim torchvision::nms",
    "data that moves or is made, without arithmetic": (
        "unflatten clone repeat repeat_interleave expand_as view_as reshape_as movedim moveaxis swapaxes swapdims "
        "ravel concat concatenate alias lift_fresh numpy_T mT mH adjoint scatter scatter_add scatter_reduce index_add "
        "index_copy index_fill index_put _index_put_impl index_reduce masked_select tril triu tril_indices "
        "triu_indices diag diag_embed diagonal diagonal_scatter select_scatter slice_scatter flip fliplr flipud rot90 "
        "pad reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d "
        "pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle unfold unfold_copy im2col col2im "
        "as_strided _reshape_alias unsafe_chunk unsafe_split tensor_split hsplit vsplit dsplit hstack vstack dstack "
        "column_stack row_stack block_diag cartesian_prod combinations tile meshgrid broadcast_to pad_sequence "
        "broadcast_tensors empty_like new_ones new_empty_strided ones_like eye rand randn randint randperm rand_like "
        "randn_like randint_like tensor normal uniform bernoulli multinomial exponential linspace logspace "
        "scalar_tensor fill zero set_ argwhere nonzero_static nonzero_numpy result_type is_nonzero item "
        "_local_scalar_dense"
    ),
}
_NEGLIGIBLE_OPERATORS = frozenset(
    name if "::" in name else f"aten::{name}" for names in NEGLIGIBLE.values() for name in names.split()
)


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
    """Scores, then their product with the values, as unfused attention has them.

    Queries, keys and values may each lack a batch that the others have, or (heads in groups) have fewer heads than the
    queries, and the mask may have a batch of its own: each product has the positions of what it makes.
    """
    q, k = (get_shape(value) for value in inputs[:2])
    output = get_shape(outputs[0])
    grouped = len(q) > 2 and k[-3] not in (1, q[-3]) and q[-3] != 1
    keys = [*k[:-3], q[-3]] if grouped else k[:-2]
    scores = math.prod(torch.broadcast_shapes(q[:-2], keys)) * q[-2] * k[-2]
    return scores * q[-1] + math.prod(output) * k[-2]


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
    terms, output = _spelled_out(equation, shapes)
    sizes = _sizes(terms, shapes)
    common = set.intersection(*map(set, terms))
    if len(terms) == 1 or all(sizes[label] == 1 for label in common - output):
        return 0
    return math.prod(size for label, size in sizes.items() if label in output | common)


def _spelled_out(equation: str, shapes: Sequence[Sequence[int]]) -> tuple[list[str], set[str]]:
    """Labels of each operand and of the output, with letters of their own for "..."."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    free = iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ".translate({ord(c): None for c in equation}))
    ellipsis = [next(free) for _ in range(max(map(len, shapes)))] if "..." in left else []
    terms = [_labels(term, len(shape), ellipsis) for term, shape in zip(left.split(","), shapes, strict=True)]
    if arrow:
        return terms, set(right.replace("...", "".join(ellipsis)))
    return terms, {label for label in "".join(terms) if left.count(label) == 1 or label in ellipsis}


def _labels(term: str, dimensions: int, ellipsis: Sequence[str]) -> str:
    """One label a dimension of an operand; "..." stands for the last ones of `ellipsis`."""
    extra = dimensions - len(term.replace("...", ""))
    return term.replace("...", "".join(ellipsis[len(ellipsis) - extra :]))


def _sizes(terms: Sequence[str], shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """Size of each label; where one operand has 1, that of the other."""
    sizes: dict[str, int] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return sizes


def _nothing(inputs: list[Any], outputs: list[Any]) -> int:
    return 0


# Products with a vector, which PyTorch's own counter leaves out; two operations for each multiply-add, as there.
TORCH_FORGETS = {
    torch.ops.aten.mv: lambda matrix, vector, **_: 2 * math.prod(matrix),
    torch.ops.aten.dot: lambda left, right, **_: 2 * math.prod(left),
    torch.ops.aten.addmv: lambda start, matrix, vector, **_: 2 * math.prod(matrix),
}
_NORMS = ("aten::layer_norm", "aten::group_norm", "aten::instance_norm", "aten::rms_norm")
# Multiply-adds of each operator that has some, and of those that fvcore bills for something else.
_RULES: dict[str, Callable[[list[Any], list[Any]], int]] = {
    **dict.fromkeys(
        ("aten::linear", "aten::matmul", "aten::linalg_matmul", "aten::mm", "aten::bmm", "aten::mv", "aten::dot"),
        _product_at(0),
    ),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm", "aten::addmv"), _product_at(1)),
    "aten::_convolution": _convolution_macs,
    "aten::_convolution_mode": _padded_convolution_macs,
    "aten::scaled_dot_product_attention": _attention_macs,
    "aten::einsum": _einsum_macs,
    **dict.fromkeys(_NORMS, _nothing),
    **{name: _nothing for name in _DEFAULT_SUPPORTED_OPS if name in _NEGLIGIBLE_OPERATORS},
}


def has_rule(name: str) -> bool:
    """Whether `count_operator` knows what an operator counts."""
    return name in _RULES


def is_ignored(name: str, outputs: list[Any]) -> bool:
    """Whether an operator does nothing to the numbers: shapes, views, indices. It is not even listed."""
    if name in _IGNORED_OPS or name.removesuffix("_") in _IGNORED_OPS or name == "aten::_shape_as_tensor":
        return True
    # "prim::" is the tracer's own, but for what it cannot look into: autograd functions and scripted functions.
    if name.startswith("prim::"):
        return not name.startswith(("prim::PythonOp", "prim::CallFunction", "prim::CallMethod"))
    # What gives plain numbers, truth values or texts reads sizes and the like.
    return bool(outputs) and all(_is_plain(value.type()) for value in outputs)


def _is_plain(type_: Any) -> bool:
    return _is_plain(type_.getElementType()) if type_.kind() == "ListType" else type_.kind() in _PLAIN


_PLAIN = frozenset({"IntType", "FloatType", "BoolType", "NumberType", "StringType", "NoneType", "DeviceObjType"})


def is_negligible(name: str) -> bool:
    """Whether an operator is among those of `NEGLIGIBLE`, in place or not."""
    return name in _NEGLIGIBLE_OPERATORS or name.removesuffix("_") in _NEGLIGIBLE_OPERATORS


def short_name(name: str) -> str:
    """Name of an operator in a count: without "aten::"; all convolutions are "conv"."""
    return "conv" if name.startswith("aten::_convolution") else name.removeprefix("aten::")


def count_operator(name: str, inputs: list[Any], outputs: list[Any]) -> Counts:
    """What one call counts, from the traced values of its inputs and outputs.

    Raises
    ------
    ValueError
        If shapes are not known, as in scripted functions, or the rule says so.
    """
    if get_shape(outputs[0]) is None:
        raise ValueError(
            f"{name} is in a scripted function, of which no shapes are known. Use the plain function in place of the "
            "scripted one."
        )
    macs = _RULES[name](inputs, outputs)
    elements = math.prod(get_shape(inputs[0])) if name in _NORMS else 0
    return Counts(macs=macs, norm_elements=elements, fvcore=_billed(name, inputs, outputs, macs))


def count_by_handle(name: str, handle: Handle, inputs: list[Any], outputs: list[Any]) -> Counts:
    """The same by a handle of the user."""
    shapes = [[tuple(s) if (s := get_shape(v)) is not None else None for v in values] for values in (inputs, outputs)]
    macs = handle(*shapes)
    if not isinstance(macs, int) or macs < 0:
        raise ValueError(f"The handle of {name} returned {macs!r}; expected a number of multiply-adds, an integer.")
    return Counts(macs=macs, fvcore=macs)


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
