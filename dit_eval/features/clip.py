"""CLIP ViT-L/14 at 336 pixels, the network of CMMD."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dit_eval.features.vit import VIT_L, VitExtractor, not_the_weights, vision_transformer

if TYPE_CHECKING:
    from dit_eval.features.vit import VitSize


class ClipVision(VitExtractor):
    """CLIP ViT-L/14-336 as CMMD runs it: the projected image embedding (B, 768), scaled to length 1.

    An image that is not square is cut to its middle first.

    Parameters
    ----------
    weights : `pytorch_model.bin` of openai/clip-vit-large-patch14-336, or the same tensors as safetensors (its text
        tower is left out); no pickle is run
    device : "cpu", "cuda", "cuda:1", ...
    size, embedding : of the network; other than ViT-L's serve tests

    Raises
    ------
    ModuleNotFoundError
        If timm is not installed (`pip install "dit-eval[witnesses]"`).
    ValueError
        If the file does not hold the weights of this network.

    References
    ----------
    Radford et al. 2021 (the network); Jayasumana et al. 2024, google-research `cmmd/embedding.py` and `io_util.py`.
    """

    name = "clip"
    pool_dim = 768
    image_size = 336
    _mean, _std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def __init__(
        self,
        *,
        weights: str | os.PathLike[str],
        device: str = "cpu",
        size: VitSize = VIT_L,
        embedding: int = 768,
    ) -> None:
        self.pool_dim, self._depth = embedding, size.depth
        net = vision_transformer(
            size, image_size=self.image_size, num_classes=embedding, pre_norm=True, act_layer="quick_gelu", eps=1e-5
        )
        super().__init__(net, weights=weights, device=device)

    def _renamed(self, state: dict[str, Tensor], source: str | os.PathLike[str]) -> dict[str, Tensor]:
        try:
            return _clip_state(state, self._depth, self.pool_dim)
        except KeyError as error:
            raise not_the_weights(source, self.name, f"{error} is missing") from None

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return super()._prepare(np.ascontiguousarray(image[top : top + side, left : left + side]))

    def _embed(self, images: np.ndarray) -> Tensor:
        embeddings = super()._embed(images)
        return embeddings / embeddings.norm(dim=-1, keepdim=True)


def _clip_state(state: dict[str, Tensor], depth: int, embedding: int) -> dict[str, Tensor]:
    """timm's names for the image tower of transformers' CLIP.

    Raises
    ------
    KeyError
        If a tensor of the tower is missing.
    """
    top = {
        "vision_model.embeddings.patch_embedding.weight": "patch_embed.proj.weight",
        **{f"vision_model.pre_layrnorm.{part}": f"norm_pre.{part}" for part in ("weight", "bias")},  # their spelling
        **{f"vision_model.post_layernorm.{part}": f"norm.{part}" for part in ("weight", "bias")},
        "visual_projection.weight": "head.weight",
    }
    layers = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj",
              "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}  # fmt: skip
    left = {key: value for key, value in state.items() if key.startswith(("vision_model.", "visual_projection."))}
    left.pop("vision_model.embeddings.position_ids", None)  # 0, 1, 2, ...
    named = {ours: left.pop(theirs) for theirs, ours in top.items()}
    named["cls_token"] = left.pop("vision_model.embeddings.class_embedding").reshape(1, 1, -1)
    named["pos_embed"] = left.pop("vision_model.embeddings.position_embedding.weight")[None]
    named["head.bias"] = torch.zeros(embedding)  # timm's projection has one
    for number in range(depth):
        layer = f"vision_model.encoder.layers.{number}"
        for part in ("weight", "bias"):
            for theirs, ours in layers.items():
                named[f"blocks.{number}.{ours}.{part}"] = left.pop(f"{layer}.{theirs}.{part}")
            named[f"blocks.{number}.attn.qkv.{part}"] = torch.cat(
                [left.pop(f"{layer}.self_attn.{which}_proj.{part}") for which in "qkv"]
            )
    return named | left  # what is left has no place, and loading will say so
