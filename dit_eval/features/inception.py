"""The Inception network of 2015-12-05 as ADM's suite runs it, in PyTorch.

The network itself is torch-fidelity's, which copies the TensorFlow graph: TF1 bilinear resize to 299 pixels,
average pools that leave out the padding, a max pool in the last block. What ADM adds is taken from it here: the
spatial features behind sFID, and class probabilities from the classifier matrix without its bias.
"""

from __future__ import annotations

import io
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

from dit_eval.assets import sha256_of
from dit_eval.features.extract import FeatureBatch
from dit_eval.features.graph_def import read_constants

POOL_DIM, SPATIAL_CHANNELS, SPATIAL_DIM, NUM_CLASSES = 2048, 7, 7 * 17 * 17, 1008

# On a CPU small batches keep the activations in the caches, which makes the network 1.6 times as fast as with 64.
_CPU_MINI_BATCH = 8


class TorchInception:
    """ADM's Inception features by PyTorch, in float32.

    Calling it with uint8 images (B, H, W, 3) of any size gives pool (B, 2048), spatial (B, 2023) and class_probs
    (B, 1008), all float32.

    Parameters
    ----------
    weights : torch-fidelity's `.pth` or ADM's `classify_image_graph_def.pb`; the two give identical features
    device : "cpu", "cuda", "cuda:1", ...

    Raises
    ------
    ValueError
        If the file does not hold the weights of this network.

    References
    ----------
    Szegedy et al. 2016 (the architecture); guided-diffusion `evaluations/evaluator.py` (tensors `pool_3:0`,
    `mixed_6/conv:0` and `softmax/logits/MatMul`).
    """

    name = "inception"
    backend = "torch"
    precision = "fp32"
    pool_dim = POOL_DIM
    spatial_dim = SPATIAL_DIM

    def __init__(self, *, weights: str | os.PathLike[str], device: str = "cpu") -> None:
        self.device = device
        self.weights_sha256 = sha256_of(Path(weights))
        self._net = _folded(_network(read_state_dict(weights), weights)).to(device, memory_format=torch.channels_last)
        self._spatial: torch.Tensor | None = None
        # mixed_6/conv after its Relu, which BasicConv2d applies before returning.
        self._net.Mixed_6d.branch1x1.register_forward_hook(self._keep_spatial)

    def _keep_spatial(self, module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        self._spatial = output[:, :SPATIAL_CHANNELS]

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> FeatureBatch:
        step = _CPU_MINI_BATCH if self.device == "cpu" else len(images)
        parts = [self._forward(images[i : i + step]) for i in range(0, len(images), step)]
        pool, spatial, probs = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        return FeatureBatch(pool=pool, spatial=spatial, class_probs=probs)

    def _forward(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2)  # (B, 3, H, W) uint8
        # TF32 convolutions, PyTorch's default on a GPU, would move FID.
        with torch.backends.cudnn.flags(allow_tf32=False):
            pool, logits = self._net(x)
        if self._spatial is None:
            raise RuntimeError("The network did not reach Mixed_6d.")
        spatial = self._spatial.permute(0, 2, 3, 1).flatten(1)  # ADM flattens (17, 17, 7): NHWC order
        return pool, spatial, torch.softmax(logits, dim=1)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Inception weights in torch-fidelity's names, from either layout; no pickle is run.

    Raises
    ------
    ValueError
        If the file is neither.
    """
    path = Path(path)
    if path.suffix == ".pb":
        return _from_graph(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about foreign pickles, which end in the error below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: not a PyTorch state dict ({str(error).splitlines()[0]}). Needed torch-fidelity's Inception "
            "weights (.pth) or ADM's classify_image_graph_def.pb: `dit-eval weights fetch inception`."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path}: holds {type(state).__name__}, needed a plain state dict of tensors.")
    return state


def _network(state: dict[str, torch.Tensor], source: str | os.PathLike[str]) -> FeatureExtractorInceptionV3:
    # The constructor reads its weights by itself, and would run pickles: it is handed the checked tensors instead.
    checked = io.BytesIO()
    torch.save(state, checked)
    checked.seek(0)
    try:
        return FeatureExtractorInceptionV3("dit-eval", ["2048", "logits_unbiased"], checked)
    except RuntimeError as error:  # load_state_dict lists every key that is missing, unknown or misshapen
        lines = [line.strip() for line in str(error).splitlines()]
        raise ValueError(
            f"{os.fspath(source)}: not the weights of the 2015 Inception with 1,008 classes "
            f"({' '.join(lines[1:3])[:300]}). torchvision's inception_v3 is another network; fetch the right one with "
            "`dit-eval weights fetch inception`."
        ) from None


def _folded(net: FeatureExtractorInceptionV3) -> FeatureExtractorInceptionV3:
    """Fold each batch norm into its convolution: one pass over the activations less, equal to 5e-6 of their scale."""
    for module in net.modules():
        if isinstance(module, BasicConv2d):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), torch.nn.Identity()
    return net


# Graph scope of each torch-fidelity block, and within a block of each branch.
_STEM = {"Conv2d_1a_3x3": "conv", "Conv2d_2a_3x3": "conv_1", "Conv2d_2b_3x3": "conv_2", "Conv2d_3b_1x1": "conv_3",
         "Conv2d_4a_3x3": "conv_4"}  # fmt: skip
_BLOCK_A = {"branch1x1": "conv", "branch5x5_1": "tower/conv", "branch5x5_2": "tower/conv_1",
            "branch3x3dbl_1": "tower_1/conv", "branch3x3dbl_2": "tower_1/conv_1", "branch3x3dbl_3": "tower_1/conv_2",
            "branch_pool": "tower_2/conv"}  # fmt: skip
_BLOCK_B = {"branch3x3": "conv", "branch3x3dbl_1": "tower/conv", "branch3x3dbl_2": "tower/conv_1",
            "branch3x3dbl_3": "tower/conv_2"}  # fmt: skip
_BLOCK_C = {"branch1x1": "conv", "branch7x7_1": "tower/conv", "branch7x7_2": "tower/conv_1",
            "branch7x7_3": "tower/conv_2", "branch7x7dbl_1": "tower_1/conv", "branch7x7dbl_2": "tower_1/conv_1",
            "branch7x7dbl_3": "tower_1/conv_2", "branch7x7dbl_4": "tower_1/conv_3",
            "branch7x7dbl_5": "tower_1/conv_4", "branch_pool": "tower_2/conv"}  # fmt: skip
_BLOCK_D = {"branch3x3_1": "tower/conv", "branch3x3_2": "tower/conv_1", "branch7x7x3_1": "tower_1/conv",
            "branch7x7x3_2": "tower_1/conv_1", "branch7x7x3_3": "tower_1/conv_2",
            "branch7x7x3_4": "tower_1/conv_3"}  # fmt: skip
_BLOCK_E = {"branch1x1": "conv", "branch3x3_1": "tower/conv", "branch3x3_2a": "tower/mixed/conv",
            "branch3x3_2b": "tower/mixed/conv_1", "branch3x3dbl_1": "tower_1/conv",
            "branch3x3dbl_2": "tower_1/conv_1", "branch3x3dbl_3a": "tower_1/mixed/conv",
            "branch3x3dbl_3b": "tower_1/mixed/conv_1", "branch_pool": "tower_2/conv"}  # fmt: skip
_BLOCKS = {
    "Mixed_5b": ("mixed", _BLOCK_A), "Mixed_5c": ("mixed_1", _BLOCK_A), "Mixed_5d": ("mixed_2", _BLOCK_A),
    "Mixed_6a": ("mixed_3", _BLOCK_B), "Mixed_6b": ("mixed_4", _BLOCK_C), "Mixed_6c": ("mixed_5", _BLOCK_C),
    "Mixed_6d": ("mixed_6", _BLOCK_C), "Mixed_6e": ("mixed_7", _BLOCK_C), "Mixed_7a": ("mixed_8", _BLOCK_D),
    "Mixed_7b": ("mixed_9", _BLOCK_E), "Mixed_7c": ("mixed_10", _BLOCK_E),
}  # fmt: skip
_BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def _convolutions() -> dict[str, str]:
    """torch-fidelity module name -> graph scope, of all 94 convolutions."""
    scopes = dict(_STEM)
    for block, (scope, branches) in _BLOCKS.items():
        scopes |= {f"{block}.{branch}": f"{scope}/{path}" for branch, path in branches.items()}
    return scopes


def _from_graph(path: Path) -> dict[str, torch.Tensor]:
    constants = read_constants(path)
    state: dict[str, torch.Tensor] = {}
    try:
        for module, scope in _convolutions().items():
            kernel = constants[f"{scope}/conv2d_params"].transpose(3, 2, 0, 1)  # (h, w, in, out) -> (out, in, h, w)
            state[f"{module}.conv.weight"] = torch.tensor(kernel)
            for ours, theirs in _BATCH_NORM.items():
                state[f"{module}.bn.{ours}"] = torch.tensor(constants[f"{scope}/batchnorm/{theirs}"])
            state[f"{module}.bn.num_batches_tracked"] = torch.tensor(0)
        state["fc.weight"] = torch.tensor(constants["softmax/weights"].T)
        state["fc.bias"] = torch.tensor(constants["softmax/biases"])
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path}: not ADM's Inception graph: {error} is missing or misshapen. "
            "Fetch it with `dit-eval weights fetch inception-graph`."
        ) from None
    return state
