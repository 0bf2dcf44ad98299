"""The Inception network of 2015-12-05 as ADM's suite runs it, in PyTorch.

The blocks are torch-fidelity's, which copy the TensorFlow graph: average pools that leave out the padding, a max pool
in the last block. What surrounds them is here: TF1's bilinear resize to 299 pixels, and what ADM takes beside the pool
features, the spatial features behind sFID and class probabilities from the classifier matrix without its bias.

The arithmetic is the graph's; how it is carried out is chosen for speed (figures in benchmarks/README.md): batch norms
are folded into their convolutions, activations lie channels last, and a CPU works through mini-batches that stay in its
caches, one per core at a time, with convolution and ReLU in one kernel.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from dit_eval.features.inception_weights import (
    POOL_DIM,
    SPATIAL_CHANNELS,
    SPATIAL_DIM,
    check_names,
    convolutions_sha256,
    not_this_network,
    read_state_dict,
)
from dit_eval.features.network import FeatureBatch
from dit_eval.system.assets import sha256_of
from dit_eval.system.files import Watch
from dit_eval.system.switches import arithmetic, each_core_alone

_RESOLUTION = 299
# What a core of a CPU works through at a time. With fewer images the weights, 87 MB, come from memory more often; it is
# half of them where that leaves cores without work. The stem's activations are large: fewer images stay in the caches.
_CPU_MINI_BATCH, _CPU_STEM_BATCH = 8, 2
# ADM takes the spatial features from the first branch of Mixed_6d, the block after these.
_STEM_LAYERS = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
                "MaxPool_2")  # fmt: skip
_BEFORE_SPATIAL = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c")
_AFTER_SPATIAL = ("Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c")
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_CONV = ("weight", "bias")


@dataclass(frozen=True, kw_only=True)
class _Layers:
    """The network in parts: up to the block with the spatial features, their convolution, the rest, the classifier."""

    stem: torch.nn.Module
    before: torch.nn.Module
    spatial: tuple[torch.Tensor, torch.Tensor]
    after: torch.nn.Module
    classifier: torch.Tensor  # (1008, 2048), float32 whatever the network is


class TorchInception:
    """ADM's Inception features by PyTorch.

    Calling it with uint8 images (B, H, W, 3) of any size gives pool (B, 2048), spatial (B, 2023) and class_probs
    (B, 1008), all float32.

    Parameters
    ----------
    weights : torch-fidelity's `.pth` or ADM's `classify_image_graph_def.pb`; the two give identical features
    device : "cpu", "cuda", "cuda:1", ...
    precision : of the convolutions. "fp32" is the protocol's; "tf32" (GPUs only), "bf16" and "fp16" move every metric,
        see benchmarks/README.md. Resizing, pooling and the classifier are in float32 whatever is chosen.

    Raises
    ------
    ValueError
        If the file does not hold the weights of this network, or the device does not have the precision.

    References
    ----------
    Szegedy et al. 2016 (the architecture); guided-diffusion `evaluations/evaluator.py` (tensors `pool_3:0`,
    `mixed_6/conv:0` and `softmax/logits/MatMul`).
    """

    name = "inception"
    backend = "torch"
    pool_dim = POOL_DIM
    spatial_dim = SPATIAL_DIM

    def __init__(self, *, weights: str | os.PathLike[str], device: str = "cpu", precision: Precision = "fp32") -> None:
        check_precision(precision, device)
        self.device = device
        self.precision: str = precision
        self._dtype = _HALF.get(precision, torch.float32)
        self._weights = Path(weights)
        watch = Watch(weights)
        self._state = read_state_dict(weights)
        check_names(self._state, weights)
        self.weights_sha256 = sha256_of(self._weights)
        self.convolutions_sha256 = convolutions_sha256(self._state)
        watch.check()

    @cached_property
    def _layers(self) -> _Layers:
        """The network, built when the first images come: features from a cache do without it."""
        net = _folded(_network(self._state, self._weights)).requires_grad_(False)
        self._state = {}
        classifier = net.get_submodule("fc").get_parameter("weight").clone().to(self.device)
        # 7 of the block's 192 channels, computed once more at a thousandth of the network's cost: simpler than to pick
        # them up inside the block, which several threads run at once.
        conv = net.get_submodule("Mixed_6d.branch1x1.conv")
        spatial = [conv.get_parameter(name)[:SPATIAL_CHANNELS].to(self.device, self._dtype) for name in _CONV]
        net = net.to(self.device, self._dtype).to(memory_format=torch.channels_last)
        if self.device == "cpu" and _fuses_convolutions(self._dtype):
            _fuse_convolutions(net)
        stem, before, after = (
            torch.nn.Sequential(*(net.get_submodule(name) for name in names))
            for names in (_STEM_LAYERS, _BEFORE_SPATIAL, _AFTER_SPATIAL)
        )
        return _Layers(stem=stem, before=before, spatial=(spatial[0], spatial[1]), after=after, classifier=classifier)

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> FeatureBatch:
        _ = self._layers  # built once, before several threads ask for it
        parts = [images]
        if self.device == "cpu":
            enough = len(images) >= _CPU_MINI_BATCH * torch.get_num_threads()
            parts = _cut(images, _CPU_MINI_BATCH if enough else _CPU_MINI_BATCH // 2)
        # Of TF32, which a GPU takes for convolutions unless told otherwise, and of all that a caller has switched on,
        # nothing moves FID unasked.
        with each_core_alone(self.device) as cores:
            with arithmetic("tf32" if self.precision == "tf32" else "fp32", self.device):
                found = cores.map(self._forward, parts)
            pool, spatial = (torch.cat(part) for part in zip(*found, strict=True))
            with arithmetic("fp32", self.device):
                probs = torch.softmax(pool @ self._layers.classifier.T, dim=1)
        return FeatureBatch(pool=pool.cpu().numpy(), spatial=spatial.cpu().numpy(), class_probs=probs.cpu().numpy())

    def _forward(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool (B, 2048) and spatial features (B, 2023), float32."""
        pieces = _cut(images, _CPU_STEM_BATCH) if self.device == "cpu" else [images]
        x = self._layers.before(torch.cat([self._layers.stem(self._input(piece)) for piece in pieces]))
        spatial = F.conv2d(x, *self._layers.spatial).relu_()
        x = self._layers.after(x)
        # ADM flattens (17, 17, 7): NHWC order.
        return x.float().mean((2, 3)), spatial.float().permute(0, 2, 3, 1).flatten(1)

    def _input(self, images: np.ndarray) -> torch.Tensor:
        """What the first layer gets, (B, 3, 299, 299) in -1..1."""
        x = resize_like_tensorflow(torch.from_numpy(images).to(self.device), _RESOLUTION)
        return ((x - 128) / 128).to(self._dtype)


def check_precision(precision: str, device: str) -> None:
    """Raise ValueError if the precision is unknown, or the device does not have it."""
    if precision not in PRECISIONS:
        raise ValueError(f"Unknown precision {precision!r}; known: {', '.join(PRECISIONS)}.")
    if precision == "tf32" and torch.device(device).type != "cuda":
        raise ValueError(f"tf32 is arithmetic of NVIDIA GPUs; {device} has fp32, bf16 and fp16.")


def resize_like_tensorflow(images: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear resize of uint8 images (B, H, W, 3) to float32 (B, 3, size, size), as TensorFlow 1 does it.

    Output pixel i is taken at i H / size, without the half-pixel shift of later programs, and beyond the last input
    pixel there is that pixel again. That is PyTorch's `align_corners` on an image with the last row and column
    doubled, for an output of one pixel more.
    """
    x = images.permute(0, 3, 1, 2).float()  # channels last in memory
    x = torch.cat([x, x[:, :, -1:]], dim=2)
    x = torch.cat([x, x[:, :, :, -1:]], dim=3)
    return F.interpolate(x, size=(size + 1, size + 1), mode="bilinear", align_corners=True)[:, :, :size, :size]


def _cut(images: np.ndarray, size: int) -> list[np.ndarray]:
    return [images[i : i + size] for i in range(0, len(images), size)]


def _network(state: dict[str, torch.Tensor], source: str | os.PathLike[str]) -> torch.nn.Module:
    # Imported late: it brings torchvision, two seconds that features from a cache do without.
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    # The constructor reads its weights by itself, and would run pickles: it is handed the checked tensors instead.
    checked = io.BytesIO()
    torch.save(state, checked)
    checked.seek(0)
    try:
        net: torch.nn.Module = FeatureExtractorInceptionV3("dit-eval", ["2048", "logits_unbiased"], checked)
    except RuntimeError as error:  # load_state_dict lists every key that is missing, unknown or misshapen
        lines = [line.strip() for line in str(error).splitlines()]
        raise not_this_network(source, " ".join(lines[1:3])[:300]) from None
    return net


def _folded(net: torch.nn.Module) -> torch.nn.Module:
    """Fold each batch norm into its convolution: one pass over the activations less, equal to 5e-6 of their scale."""
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    for module in net.modules():
        if isinstance(module, BasicConv2d):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), torch.nn.Identity()
    return net


class _ConvolutionRelu(torch.nn.Module):
    """Convolution and ReLU in one oneDNN kernel, which `torch.compile` uses on CPUs too, with weights in its layout."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        super().__init__()
        self._weight, self._bias = conv.weight, conv.bias
        self._how = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._laid_out: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self._laid_out
        if weight is None:  # the best layout depends on the input; two threads that come here at once make the same
            shape = (_CPU_MINI_BATCH, *x.shape[1:])
            weight = torch.ops.mkldnn._reorder_convolution_weight(self._weight, *self._how, shape)
            self._laid_out = weight
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self._bias, *self._how, "relu", [], "")


def _fuses_convolutions(dtype: torch.dtype) -> bool:
    """Whether oneDNN is there and has this type on this processor. These operators of PyTorch are not public."""
    names = ["_reorder_convolution_weight", "_convolution_pointwise"]
    supported = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}.get(dtype)
    names += [supported] if supported else []
    if not torch.backends.mkldnn.is_available() or not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return supported is None or bool(getattr(torch.ops.mkldnn, supported)())


def _fuse_convolutions(net: torch.nn.Module) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, BasicConv2d):
                setattr(module, name, _ConvolutionRelu(child.conv))
