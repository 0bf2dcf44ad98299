"""DINOv2 ViT-L/14, the network of FD-DINOv2."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from dit_eval.features.vit import PATCH, VIT_L, VitExtractor, not_the_weights, vision_transformer

if TYPE_CHECKING:
    from dit_eval.features.vit import VitSize


class DinoV2(VitExtractor):
    """DINOv2 ViT-L/14 as dgm-eval runs it: the normalised class token (B, 1024) of images resized to 224 pixels.

    Parameters
    ----------
    weights : `dinov2_vitl14_pretrain.pth`, or the same tensors as safetensors; no pickle is run
    device : "cpu", "cuda", "cuda:1", ...
    size : of the network; another than ViT-L serves tests

    Raises
    ------
    ModuleNotFoundError
        If timm is not installed (`pip install "dit-eval[witnesses]"`).
    ValueError
        If the file does not hold the weights of this network.

    References
    ----------
    Oquab et al. 2023 (the network); Stein et al. 2023, layer6ai-labs/dgm-eval `dgm_eval/models/dinov2.py`.
    """

    name = "dinov2"
    pool_dim = 1024
    image_size = 224
    _mean, _std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, *, weights: str | os.PathLike[str], device: str = "cpu", size: VitSize = VIT_L) -> None:
        self.pool_dim = size.width
        net = vision_transformer(size, image_size=self.image_size, num_classes=0, init_values=1.0, eps=1e-6)
        super().__init__(net, weights=weights, device=device)

    def _renamed(self, state: dict[str, Tensor], source: str | os.PathLike[str]) -> dict[str, Tensor]:
        state.pop("mask_token", None)  # of its training
        if "pos_embed" in state:
            state["pos_embed"] = _fitted_positions(state["pos_embed"], self.image_size // PATCH, source)
        return state


def _fitted_positions(table: Tensor, side: int, source: str | os.PathLike[str]) -> Tensor:
    """DINOv2's position table (1, 1 + M M, D) for side x side patches, as its own code resamples it.

    The 0.1 is the published code's guard against rounding; it enters the scale, and so every value.
    """
    grid = math.isqrt(table.shape[1] - 1) if table.ndim == 3 and table.shape[1] > 1 else 0
    if not grid or table.shape[1] != 1 + grid**2:
        raise not_the_weights(source, "dinov2", f"pos_embed has shape {tuple(table.shape)}")
    patches = table[:, 1:].float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)  # (1, D, M, M)
    scale = (side + 0.1) / grid
    fitted = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([table[:, :1].float(), fitted.flatten(2).transpose(1, 2)], dim=1)  # (1, 1 + side side, D)
