"""A full-size 2015 Inception with seeded random weights, in both public file layouts.

The published weights are a download; tests must run without one. This module therefore draws random weights for the
true topology and writes them as the two files people have: the frozen TensorFlow graph that the ADM evaluator runs
(``classify_image_graph_def.pb``) and the state dict that torch-fidelity publishes
(``weights-inception-2015-12-05-*.pth``). Both describe one network, so a reader of either file can be checked against
the other, and against the unmodified evaluator (see ``goldens/README.md``).

The name mapping between the two layouts is written out here on its own account. The package has its own mapping;
that the two were written separately is what makes the comparison worth something.

The numbers themselves come from ``dit_eval.checks.golden``, with the topology of this module.
"""

from __future__ import annotations

import contextlib
import importlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dit_eval.checks import golden
from dit_eval.checks.golden import CONSTANT_VECTOR, NUM_FEATURES

if TYPE_CHECKING:
    from tensorflow.core.framework import graph_pb2

BATCHNORM_EPSILON = 0.001

# CONSTANT_VECTOR (one `float_val` that fills the whole shape) and this vector use the less common encodings of a
# constant; a reader that knows only one of the three fails.
LISTED_VECTOR = "conv/batchnorm/moving_mean"  # one `float_val` per element


class Conv(NamedTuple):
    """One convolution with its batch norm and Relu.

    Attributes
    ----------
    name : node name in the TensorFlow graph; the Relu carries it, constants start with it
    torch_name : module name in the state dict
    source : name of the node that it reads
    kernel : (kh, kw)
    widths : (channels in, channels out)
    stride : 1 or 2
    padding : "SAME" or "VALID"
    """

    name: str
    torch_name: str
    source: str
    kernel: tuple[int, int]
    widths: tuple[int, int]
    stride: int = 1
    padding: str = "SAME"


class Pool(NamedTuple):
    """A pooling node; `kind` is the operation, "MaxPool" or "AvgPool"."""

    name: str
    source: str
    kind: str
    size: int
    stride: int
    padding: str


class Join(NamedTuple):
    """A concatenation along the channels of the nodes named in `sources`."""

    name: str
    sources: tuple[str, ...]


Layer = Conv | Pool | Join


def _chain(source: str, width: int, *steps: tuple) -> list[Conv]:
    """Convolutions that read one another; a step is (name, torch name, kernel, channels out[, stride, padding])."""
    convs = []
    for name, torch_name, kernel, channels, *rest in steps:
        convs.append(Conv(name, torch_name, source, kernel, (width, channels), *rest))
        source, width = name, channels
    return convs


def _stem() -> list[Layer]:
    """From the scaled image (node ``Mul``) to 35 x 35 x 192."""
    return [
        *_chain(
            "Mul",
            3,
            ("conv", "Conv2d_1a_3x3", (3, 3), 32, 2, "VALID"),
            ("conv_1", "Conv2d_2a_3x3", (3, 3), 32, 1, "VALID"),
            ("conv_2", "Conv2d_2b_3x3", (3, 3), 64),
        ),
        Pool("pool", "conv_2", "MaxPool", 3, 2, "VALID"),
        *_chain(
            "pool",
            64,
            ("conv_3", "Conv2d_3b_1x1", (1, 1), 80, 1, "VALID"),
            ("conv_4", "Conv2d_4a_3x3", (3, 3), 192, 1, "VALID"),
        ),
        Pool("pool_1", "conv_4", "MaxPool", 3, 2, "VALID"),
    ]


def _block_35(tf: str, torch: str, source: str, width: int, pool_width: int) -> list[Layer]:
    """``mixed``, ``mixed_1``, ``mixed_2``: 35 x 35, 64 + 64 + 96 + `pool_width` channels out."""
    return [
        *_chain(source, width, (f"{tf}/conv", f"{torch}.branch1x1", (1, 1), 64)),
        *_chain(
            source,
            width,
            (f"{tf}/tower/conv", f"{torch}.branch5x5_1", (1, 1), 48),
            (f"{tf}/tower/conv_1", f"{torch}.branch5x5_2", (5, 5), 64),
        ),
        *_chain(
            source,
            width,
            (f"{tf}/tower_1/conv", f"{torch}.branch3x3dbl_1", (1, 1), 64),
            (f"{tf}/tower_1/conv_1", f"{torch}.branch3x3dbl_2", (3, 3), 96),
            (f"{tf}/tower_1/conv_2", f"{torch}.branch3x3dbl_3", (3, 3), 96),
        ),
        Pool(f"{tf}/tower_2/pool", source, "AvgPool", 3, 1, "SAME"),
        *_chain(f"{tf}/tower_2/pool", width, (f"{tf}/tower_2/conv", f"{torch}.branch_pool", (1, 1), pool_width)),
        Join(f"{tf}/join", (f"{tf}/conv", f"{tf}/tower/conv_1", f"{tf}/tower_1/conv_2", f"{tf}/tower_2/conv")),
    ]


def _reduction_35_to_17(source: str) -> list[Layer]:
    """``mixed_3``: 35 x 35 x 288 to 17 x 17 x 768."""
    tf, torch, width = "mixed_3", "Mixed_6a", 288
    return [
        *_chain(source, width, (f"{tf}/conv", f"{torch}.branch3x3", (3, 3), 384, 2, "VALID")),
        *_chain(
            source,
            width,
            (f"{tf}/tower/conv", f"{torch}.branch3x3dbl_1", (1, 1), 64),
            (f"{tf}/tower/conv_1", f"{torch}.branch3x3dbl_2", (3, 3), 96),
            (f"{tf}/tower/conv_2", f"{torch}.branch3x3dbl_3", (3, 3), 96, 2, "VALID"),
        ),
        Pool(f"{tf}/pool", source, "MaxPool", 3, 2, "VALID"),
        Join(f"{tf}/join", (f"{tf}/conv", f"{tf}/tower/conv_2", f"{tf}/pool")),
    ]


def _block_17(tf: str, torch: str, source: str, inner: int) -> list[Layer]:
    """``mixed_4`` to ``mixed_7``: 17 x 17 x 768 in and out, `inner` channels between the 1 x 7 and 7 x 1 layers."""
    width = 768
    return [
        *_chain(source, width, (f"{tf}/conv", f"{torch}.branch1x1", (1, 1), 192)),
        *_chain(
            source,
            width,
            (f"{tf}/tower/conv", f"{torch}.branch7x7_1", (1, 1), inner),
            (f"{tf}/tower/conv_1", f"{torch}.branch7x7_2", (1, 7), inner),
            (f"{tf}/tower/conv_2", f"{torch}.branch7x7_3", (7, 1), 192),
        ),
        *_chain(
            source,
            width,
            (f"{tf}/tower_1/conv", f"{torch}.branch7x7dbl_1", (1, 1), inner),
            (f"{tf}/tower_1/conv_1", f"{torch}.branch7x7dbl_2", (7, 1), inner),
            (f"{tf}/tower_1/conv_2", f"{torch}.branch7x7dbl_3", (1, 7), inner),
            (f"{tf}/tower_1/conv_3", f"{torch}.branch7x7dbl_4", (7, 1), inner),
            (f"{tf}/tower_1/conv_4", f"{torch}.branch7x7dbl_5", (1, 7), 192),
        ),
        Pool(f"{tf}/tower_2/pool", source, "AvgPool", 3, 1, "SAME"),
        *_chain(f"{tf}/tower_2/pool", width, (f"{tf}/tower_2/conv", f"{torch}.branch_pool", (1, 1), 192)),
        Join(f"{tf}/join", (f"{tf}/conv", f"{tf}/tower/conv_2", f"{tf}/tower_1/conv_4", f"{tf}/tower_2/conv")),
    ]


def _reduction_17_to_8(source: str) -> list[Layer]:
    """``mixed_8``: 17 x 17 x 768 to 8 x 8 x 1280."""
    tf, torch, width = "mixed_8", "Mixed_7a", 768
    return [
        *_chain(
            source,
            width,
            (f"{tf}/tower/conv", f"{torch}.branch3x3_1", (1, 1), 192),
            (f"{tf}/tower/conv_1", f"{torch}.branch3x3_2", (3, 3), 320, 2, "VALID"),
        ),
        *_chain(
            source,
            width,
            (f"{tf}/tower_1/conv", f"{torch}.branch7x7x3_1", (1, 1), 192),
            (f"{tf}/tower_1/conv_1", f"{torch}.branch7x7x3_2", (1, 7), 192),
            (f"{tf}/tower_1/conv_2", f"{torch}.branch7x7x3_3", (7, 1), 192),
            (f"{tf}/tower_1/conv_3", f"{torch}.branch7x7x3_4", (3, 3), 192, 2, "VALID"),
        ),
        Pool(f"{tf}/pool", source, "MaxPool", 3, 2, "VALID"),
        Join(f"{tf}/join", (f"{tf}/tower/conv_1", f"{tf}/tower_1/conv_3", f"{tf}/pool")),
    ]


def _block_8(tf: str, torch: str, source: str, width: int, pool_kind: str) -> list[Layer]:
    """``mixed_9`` (averages in its pool branch) and ``mixed_10`` (takes the maximum): 8 x 8 x 2048 out."""
    return [
        *_chain(source, width, (f"{tf}/conv", f"{torch}.branch1x1", (1, 1), 320)),
        *_chain(source, width, (f"{tf}/tower/conv", f"{torch}.branch3x3_1", (1, 1), 384)),
        *_chain(f"{tf}/tower/conv", 384, (f"{tf}/tower/mixed/conv", f"{torch}.branch3x3_2a", (1, 3), 384)),
        *_chain(f"{tf}/tower/conv", 384, (f"{tf}/tower/mixed/conv_1", f"{torch}.branch3x3_2b", (3, 1), 384)),
        *_chain(
            source,
            width,
            (f"{tf}/tower_1/conv", f"{torch}.branch3x3dbl_1", (1, 1), 448),
            (f"{tf}/tower_1/conv_1", f"{torch}.branch3x3dbl_2", (3, 3), 384),
        ),
        *_chain(f"{tf}/tower_1/conv_1", 384, (f"{tf}/tower_1/mixed/conv", f"{torch}.branch3x3dbl_3a", (1, 3), 384)),
        *_chain(f"{tf}/tower_1/conv_1", 384, (f"{tf}/tower_1/mixed/conv_1", f"{torch}.branch3x3dbl_3b", (3, 1), 384)),
        Pool(f"{tf}/tower_2/pool", source, pool_kind, 3, 1, "SAME"),
        *_chain(f"{tf}/tower_2/pool", width, (f"{tf}/tower_2/conv", f"{torch}.branch_pool", (1, 1), 192)),
        Join(
            f"{tf}/join",
            (
                f"{tf}/conv",
                f"{tf}/tower/mixed/conv",
                f"{tf}/tower/mixed/conv_1",
                f"{tf}/tower_1/mixed/conv",
                f"{tf}/tower_1/mixed/conv_1",
                f"{tf}/tower_2/conv",
            ),
        ),
    ]


LAYERS: tuple[Layer, ...] = (
    *_stem(),
    *_block_35("mixed", "Mixed_5b", "pool_1", 192, pool_width=32),
    *_block_35("mixed_1", "Mixed_5c", "mixed/join", 256, pool_width=64),
    *_block_35("mixed_2", "Mixed_5d", "mixed_1/join", 288, pool_width=64),
    *_reduction_35_to_17("mixed_2/join"),
    *_block_17("mixed_4", "Mixed_6b", "mixed_3/join", inner=128),
    *_block_17("mixed_5", "Mixed_6c", "mixed_4/join", inner=160),
    *_block_17("mixed_6", "Mixed_6d", "mixed_5/join", inner=160),
    *_block_17("mixed_7", "Mixed_6e", "mixed_6/join", inner=192),
    *_reduction_17_to_8("mixed_7/join"),
    *_block_8("mixed_9", "Mixed_7b", "mixed_8/join", 1280, pool_kind="AvgPool"),
    *_block_8("mixed_10", "Mixed_7c", "mixed_9/join", NUM_FEATURES, pool_kind="MaxPool"),
    Pool("pool_3", "mixed_10/join", "AvgPool", 8, 1, "VALID"),
)
CONVS: tuple[Conv, ...] = tuple(layer for layer in LAYERS if isinstance(layer, Conv))
JOINS: dict[str, Join] = {layer.name: layer for layer in LAYERS if isinstance(layer, Join)}


def seeded_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights of the whole network, by the names of the TensorFlow constants (see `dit_eval.checks.golden`)."""
    return golden.seeded_weights(((conv.name, (*conv.kernel, *conv.widths)) for conv in CONVS), seed)


def _constant(graph: graph_pb2.GraphDef, name: str, value: np.ndarray, dtype: int) -> None:
    """Add a Const node, its values as raw little-endian bytes."""
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = dtype
    tensor = node.attr["value"].tensor
    tensor.dtype = dtype
    for length in value.shape:
        tensor.tensor_shape.dim.add(size=length)
    if name == CONSTANT_VECTOR and (value == value[0]).all():
        tensor.float_val.append(float(value[0]))
    elif name == LISTED_VECTOR:
        tensor.float_val.extend(value.tolist())
    else:
        tensor.tensor_content = value.astype(value.dtype.newbyteorder("<")).tobytes()


def _node(graph: graph_pb2.GraphDef, name: str, op: str, inputs: tuple[str, ...], **attrs: object) -> None:
    """Add a node; attributes are bool, float, str, a list of int, or (for dtypes) int."""
    node = graph.node.add(name=name, op=op, input=inputs)
    for key, value in attrs.items():
        if isinstance(value, bool):
            node.attr[key].b = value
        elif isinstance(value, int):
            node.attr[key].type = value
        elif isinstance(value, float):
            node.attr[key].f = value
        elif isinstance(value, str):
            node.attr[key].s = value.encode()
        else:
            node.attr[key].list.i.extend(value)


def _checked(graph: graph_pb2.GraphDef, name: str, source: str, dtype: int) -> str:
    """Add the pair of nodes by which the published graph refuses NaN and infinity; returns what to read instead."""
    _node(graph, f"{name}/CheckNumerics", "CheckNumerics", (source,), T=dtype, message=f"{name} is not finite")
    _node(graph, f"{name}/control_dependency", "Identity", (source, f"^{name}/CheckNumerics"), T=dtype)
    return f"{name}/control_dependency"


def _window(size: int) -> list[int]:
    """Size or stride over NHWC."""
    return [1, size, size, 1]


def _operations(graph: graph_pb2.GraphDef, layer: Layer, dtype: int) -> None:
    """Add the nodes of one layer, constants apart."""
    if isinstance(layer, Conv):
        name = layer.name
        strides = _window(layer.stride)
        inputs = (layer.source, f"{name}/conv2d_params")
        _node(graph, f"{name}/Conv2D", "Conv2D", inputs, T=dtype, strides=strides, padding=layer.padding)
        parts = ("moving_mean", "moving_variance", "beta", "gamma")  # the order of the operation's inputs
        _node(
            graph,
            f"{name}/batchnorm",
            "BatchNormWithGlobalNormalization",
            (f"{name}/Conv2D", *(f"{name}/batchnorm/{part}" for part in parts)),
            T=dtype,
            variance_epsilon=BATCHNORM_EPSILON,
            scale_after_normalization=True,
        )
        _node(graph, name, "Relu", (_checked(graph, name, f"{name}/batchnorm", dtype),), T=dtype)
    elif isinstance(layer, Pool):
        source = layer.source
        if layer.kind == "MaxPool":
            source = _checked(graph, layer.name, source, dtype)
        ksize, strides = _window(layer.size), _window(layer.stride)
        _node(graph, layer.name, layer.kind, (source,), T=dtype, ksize=ksize, strides=strides, padding=layer.padding)
    else:
        node = graph.node.add(name=layer.name, op="Concat", input=(f"{layer.name}/concat_dim", *layer.sources))
        node.attr["T"].type = dtype
        node.attr["N"].i = len(layer.sources)


def write_graph_def(path: str | Path, weights: dict[str, np.ndarray]) -> None:
    """Write `weights` as a frozen TensorFlow graph with the node names of the published file.

    As there, the constants come first and in reverse order, so that a reader has to go by their names, and the graph
    has 1,004 nodes of which 489 are constants. The front end that decodes a JPEG is present but never runs: the
    evaluator feeds ``ExpandDims:0`` (float32 NHWC, 0..255). No producer version is set, because TensorFlow refuses
    ``BatchNormWithGlobalNormalization`` in graphs that claim version 9 or later.

    Parameters
    ----------
    path : file to write, about 96 MB
    weights : as made by `seeded_weights`
    """
    with contextlib.suppress(ImportError):  # before TensorFlow: the other order aborts the process
        importlib.import_module("triton")
    from tensorflow.core.framework import graph_pb2, types_pb2

    single, integer, text = types_pb2.DT_FLOAT, types_pb2.DT_INT32, types_pb2.DT_STRING
    graph = graph_pb2.GraphDef()

    constants: list[tuple[str, np.ndarray, int]] = [
        ("ExpandDims/dim", np.array(0, np.int32), integer),
        ("ResizeBilinear/size", np.array([299, 299], np.int32), integer),
        ("Sub/y", np.array(128, np.float32), single),
        ("Mul/y", np.array(1 / 128, np.float32), single),
        *((name, value, single) for name, value in weights.items()),
        *((f"{name}/concat_dim", np.array(3, np.int32), integer) for name in JOINS),
        ("pool_3/_reshape/shape", np.array([-1, NUM_FEATURES], np.int32), integer),
    ]
    for name, value, dtype in reversed(constants):
        _constant(graph, name, value, dtype)
    contents = graph.node.add(name="DecodeJpeg/contents", op="Const")
    contents.attr["dtype"].type = text
    contents.attr["value"].tensor.dtype = text
    contents.attr["value"].tensor.tensor_shape.SetInParent()  # a scalar
    contents.attr["value"].tensor.string_val.append(b"")

    jpeg = graph.node.add(name="DecodeJpeg", op="DecodeJpeg", input=["DecodeJpeg/contents"])
    jpeg.attr["channels"].i = 3
    _node(graph, "Cast", "Cast", ("DecodeJpeg",), SrcT=types_pb2.DT_UINT8, DstT=single)
    _node(graph, "ExpandDims", "ExpandDims", ("Cast", "ExpandDims/dim"), T=single)
    # Neither `align_corners` nor `half_pixel_centers`: source = destination x in / out.
    _node(graph, "ResizeBilinear", "ResizeBilinear", ("ExpandDims", "ResizeBilinear/size"), T=single)
    _node(graph, "Sub", "Sub", ("ResizeBilinear", "Sub/y"), T=single)
    _node(graph, "Mul", "Mul", ("Sub", "Mul/y"), T=single)
    for layer in LAYERS:
        _operations(graph, layer, single)
    _node(graph, "pool_3/_reshape", "Reshape", ("pool_3", "pool_3/_reshape/shape"), T=single)
    _node(graph, "softmax/logits/MatMul", "MatMul", ("pool_3/_reshape", "softmax/weights"), T=single)
    _node(graph, "softmax/logits", "BiasAdd", ("softmax/logits/MatMul", "softmax/biases"), T=single)
    _node(graph, "softmax", "Softmax", ("softmax/logits",), T=single)
    Path(path).write_bytes(graph.SerializeToString())


def _state_dict_arrays(weights: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Pairs of state-dict key and array, in the order of the modules."""
    parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for conv in CONVS:
        params = weights[f"{conv.name}/conv2d_params"]
        yield f"{conv.torch_name}.conv.weight", params.transpose(3, 2, 0, 1)  # HWIO to OIHW
        for key, part in parts.items():
            yield f"{conv.torch_name}.bn.{key}", weights[f"{conv.name}/batchnorm/{part}"]
        yield f"{conv.torch_name}.bn.num_batches_tracked", np.array(0, np.int64)
    yield "fc.weight", weights["softmax/weights"].T
    yield "fc.bias", weights["softmax/biases"]


def write_state_dict(path: str | Path, weights: dict[str, np.ndarray]) -> None:
    """Write `weights` as a torch state dict with the keys and shapes of torch-fidelity's Inception.

    Parameters
    ----------
    path : file to write, about 96 MB
    weights : as made by `seeded_weights`
    """
    import torch

    arrays = _state_dict_arrays(weights)
    torch.save(OrderedDict((key, torch.tensor(value)) for key, value in arrays), path)
