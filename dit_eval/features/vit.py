"""DINOv2 and CLIP: vision transformers whose embeddings are the pool features of FD-DINOv2 and of CMMD.

The networks are timm's. What the sources add is taken from them here: how an image is resized and normalised, how
dgm-eval's DINOv2 fits its position table, made for 518 pixels, to 224, and that CMMD's embeddings have length 1.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dit_eval.features.extract import FeatureBatch
from dit_eval.models.tensors import load_tensors
from dit_eval.system.assets import sha256_of
from dit_eval.system.files import Watch
from dit_eval.system.switches import arithmetic

_PATCH = 14  # pixels
_CPU_MINI_BATCH = 16  # keeps the activations of CLIP's 577 tokens small


@dataclass(frozen=True, kw_only=True)
class VitSize:
    """Sizes of a vision transformer with heads of 64 dimensions; the defaults are ViT-L's."""

    width: int = 1024
    depth: int = 24

    @property
    def heads(self) -> int:
        return self.width // 64


VIT_L = VitSize()


class _VitExtractor:
    """What the two have in common: weights from a file, images in, class-token embeddings out, in float32."""

    name: str
    backend = "torch"
    precision = "fp32"
    pool_dim: int
    spatial_dim = None
    image_size: int
    _mean: tuple[float, float, float]
    _std: tuple[float, float, float]

    def _load(self, weights: str | os.PathLike[str], net: nn.Module, state: dict[str, Tensor], device: str) -> None:
        try:
            net.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
        except RuntimeError as error:  # lists every key that is missing, unknown or misshapen
            lines = [line.strip() for line in str(error).splitlines()]
            raise _not_the_weights(weights, self.name, " ".join(lines[1:3])[:300]) from None
        self.device = device
        self.weights_sha256 = sha256_of(Path(weights))
        self._net = net.requires_grad_(False).eval().to(device)

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        """One image (H, W, 3) uint8 as one of the network's size; Pillow's bicubic, antialiased, rounded to uint8."""
        return np.asarray(Image.fromarray(image).resize((self.image_size, self.image_size), Image.Resampling.BICUBIC))

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> FeatureBatch:
        """Embeddings of uint8 images (B, H, W, 3) of any size: pool (B, D) float32, and nothing else."""
        step = _CPU_MINI_BATCH if self.device == "cpu" else len(images)
        parts = [self._embed(images[i : i + step]) for i in range(0, len(images), step)]
        return FeatureBatch(pool=torch.cat(parts).cpu().numpy())

    def _embed(self, images: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.stack([self._prepare(image) for image in images])).to(self.device)
        x = pixels.permute(0, 3, 1, 2) / 255  # (B, 3, S, S) float32, in 0..1
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (self._mean, self._std))
        # TF32 in the convolution of the patches, which a GPU takes unless told otherwise, would move the embeddings.
        with arithmetic(self.precision, self.device):
            return self._net((x - mean) / std)


class DinoV2(_VitExtractor):
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
        self.pool_dim, watch = size.width, Watch(weights)
        net = _network(size, image_size=self.image_size, num_classes=0, init_values=1.0, eps=1e-6)
        state = read_weights(weights, self.name)
        state.pop("mask_token", None)  # of its training
        if "pos_embed" in state:
            state["pos_embed"] = _fitted_positions(state["pos_embed"], self.image_size // _PATCH, weights)
        self._load(weights, net, state, device)
        watch.check()


class ClipVision(_VitExtractor):
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
        self.pool_dim, watch = embedding, Watch(weights)
        net = _network(
            size, image_size=self.image_size, num_classes=embedding, pre_norm=True, act_layer="quick_gelu", eps=1e-5
        )
        try:
            state = _clip_state(read_weights(weights, self.name), size.depth, embedding)
        except KeyError as error:
            raise _not_the_weights(weights, self.name, f"{error} is missing") from None
        self._load(weights, net, state, device)
        watch.check()

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return super()._prepare(np.ascontiguousarray(image[top : top + side, left : left + side]))

    def _embed(self, images: np.ndarray) -> Tensor:
        embeddings = super()._embed(images)
        return embeddings / embeddings.norm(dim=-1, keepdim=True)


def _network(size: VitSize, *, image_size: int, eps: float, **options: Any) -> nn.Module:
    """timm's vision transformer, without values: they come from the file."""
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ModuleNotFoundError(
            'The DINOv2 and CLIP extractors need timm. Add it with `pip install "dit-eval[witnesses]"`.'
        ) from None
    with torch.device("meta"):
        return VisionTransformer(
            img_size=image_size,
            patch_size=_PATCH,
            embed_dim=size.width,
            depth=size.depth,
            num_heads=size.heads,
            norm_layer=partial(nn.LayerNorm, eps=eps),
            **options,
        )


def read_weights(path: str | os.PathLike[str], network: str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or PyTorch file by name; no pickle is run.

    Raises
    ------
    ValueError
        If it is neither; `network` names what was needed in the message.
    """
    path = Path(path)
    try:
        state = load_tensors(path)
    except ValueError as error:
        raise _not_the_weights(path, network, f"unreadable: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise _not_the_weights(path, network, f"it holds {type(state).__name__}, not a plain state dict of tensors")
    return state


def _not_the_weights(path: str | os.PathLike[str], network: str, found: str) -> ValueError:
    published = {"dinov2": "dinov2_vitl14_pretrain.pth", "clip": "openai/clip-vit-large-patch14-336"}[network]
    return ValueError(
        f"{os.fspath(path)}: not the weights of {published} ({found}). "
        f"Fetch the right ones with `dit-eval weights fetch {network}`."
    )


def _fitted_positions(table: Tensor, side: int, source: str | os.PathLike[str]) -> Tensor:
    """DINOv2's position table (1, 1 + M M, D) for side x side patches, as its own code resamples it.

    The 0.1 is the published code's guard against rounding; it enters the scale, and so every value.
    """
    grid = math.isqrt(table.shape[1] - 1) if table.ndim == 3 and table.shape[1] > 1 else 0
    if not grid or table.shape[1] != 1 + grid**2:
        raise _not_the_weights(source, "dinov2", f"pos_embed has shape {tuple(table.shape)}")
    patches = table[:, 1:].float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)  # (1, D, M, M)
    scale = (side + 0.1) / grid
    fitted = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([table[:, :1].float(), fitted.flatten(2).transpose(1, 2)], dim=1)  # (1, 1 + side side, D)


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
