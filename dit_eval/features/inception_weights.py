"""Files of Inception's weights, in any public layout, to one state dict."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from dit_eval.features.graph_def import read_constants
from dit_eval.system.tensors import load_tensors

POOL_DIM, SPATIAL_CHANNELS, SPATIAL_DIM, NUM_CLASSES = 2048, 7, 7 * 17 * 17, 1008


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Inception weights in torch-fidelity's names, from either layout; no pickle is run.

    Raises
    ------
    ValueError
        If the file is neither.
    """
    path = Path(path)
    if path.suffix == ".pb":
        return state_from_constants(read_constants(path), path)
    try:
        state = load_tensors(path)
    except ValueError as error:
        raise ValueError(
            f"{path}: not a PyTorch state dict ({error}). Needed torch-fidelity's Inception "
            "weights (.pth) or ADM's classify_image_graph_def.pb: `dit-eval weights fetch inception`."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{path}: holds {type(state).__name__}, needed a plain state dict of tensors.")
    return state


def convolutions_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """What tells the network behind FID, sFID, precision and recall from another, whatever file it was read from.

    The classifier has no part in it: the Inception Score alone depends on it.

    Parameters
    ----------
    state : as `read_state_dict` gives it

    Returns
    -------
    SHA-256 of the 94 convolutions in the order of the network; of each, name in the graph, kernel (out, in, h, w), and
    gamma, beta, mean and variance of its batch norm, each with its shape and as little-endian float32.

    Raises
    ------
    ValueError
        If one of them is missing.
    """
    digest = hashlib.sha256()
    for module, scope in convolution_scopes().items():
        for name in (f"{module}.conv.weight", *(f"{module}.bn.{part}" for part in _BATCH_NORM)):
            if name not in state:
                raise not_this_network("these weights", f"{name} is missing")
            # Float32 in a wider type is the same number; in a narrower one it is another.
            values = state[name].detach().cpu().to(torch.float32).contiguous().numpy().astype("<f4", copy=False)
            digest.update(f"{scope} {name.rpartition('.')[2]} {values.shape}\n".encode())
            digest.update(values.data)
    return digest.hexdigest()


def check_names(state: dict[str, torch.Tensor], source: str | os.PathLike[str]) -> None:
    """Tell another network's weights before anything is done with them; `_network` looks at every shape."""
    needed = _names()
    found = {name for name in state if not name.endswith(".num_batches_tracked")}
    if found != needed:
        name = min(found ^ needed)
        raise not_this_network(source, f"{name} is {'missing' if name in needed else 'unknown'}")
    for name, tensor in state.items():
        if not _is_whole(tensor):
            raise not_this_network(
                source, f"{name} is {tensor.dtype} {tuple(tensor.shape)}, in too few bytes or complex"
            )
    if state["fc.weight"].shape != (NUM_CLASSES, POOL_DIM):
        raise not_this_network(source, f"its classifier has shape {tuple(state['fc.weight'].shape)}")


def _names() -> set[str]:
    """What the state dict holds, but for the counts of batches."""
    parts = ("conv.weight", *(f"bn.{name}" for name in _BATCH_NORM))
    return {"fc.weight", "fc.bias", *(f"{module}.{part}" for module in convolution_scopes() for part in parts)}


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor is real and as large as it says: a view may claim any size on a few bytes."""
    return not tensor.is_complex() and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def not_this_network(source: str | os.PathLike[str], what: str) -> ValueError:
    return ValueError(
        f"{os.fspath(source)}: not the weights of the 2015 Inception with 1,008 classes ({what}). torchvision's "
        "inception_v3 is another network; fetch the right one with `dit-eval weights fetch inception`."
    )


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


def convolution_scopes() -> dict[str, str]:
    """torch-fidelity module name -> graph scope, of all 94 convolutions."""
    scopes = dict(_STEM)
    for block, (scope, branches) in _BLOCKS.items():
        scopes |= {f"{block}.{branch}": f"{scope}/{path}" for branch, path in branches.items()}
    return scopes


def state_from_constants(constants: Mapping[str, np.ndarray], path: Path) -> dict[str, torch.Tensor]:
    """The constants of the graph, of the file `path`, by torch-fidelity's names."""
    state: dict[str, torch.Tensor] = {}
    try:
        for module, scope in convolution_scopes().items():
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
