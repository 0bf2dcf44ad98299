"""DINOv2 and CLIP: vision transformers whose embeddings are the pool features of FD-DINOv2 and of CMMD.

The networks are timm's. What the sources add is taken from them here: how an image is resized and normalised, how
dgm-eval's DINOv2 fits its position table, made for 518 pixels, to 224, and that CMMD's embeddings have length 1.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from dit_eval.features.network import FeatureBatch
from dit_eval.system.assets import sha256_of
from dit_eval.system.files import Watch
from dit_eval.system.switches import arithmetic
from dit_eval.system.tensors import load_tensors

PATCH = 14  # pixels
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


class VitExtractor(ABC):
    """What DINOv2 and CLIP have in common: weights from a file, images in, class-token embeddings out, in float32.

    Parameters
    ----------
    net : the network without values
    weights, device : see the networks
    """

    name: str
    backend = "torch"
    precision = "fp32"
    pool_dim: int
    spatial_dim = None
    image_size: int
    _mean: tuple[float, float, float]
    _std: tuple[float, float, float]

    def __init__(self, net: nn.Module, *, weights: str | os.PathLike[str], device: str) -> None:
        watch = Watch(weights)
        state = self._renamed(read_weights(weights, self.name), weights)
        try:
            net.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
        except RuntimeError as error:  # lists every key that is missing, unknown or misshapen
            lines = [line.strip() for line in str(error).splitlines()]
            raise not_the_weights(weights, self.name, " ".join(lines[1:3])[:300]) from None
        self.device = device
        self.weights_sha256 = sha256_of(Path(weights))
        self._net = net.requires_grad_(False).eval().to(device)
        watch.check()

    @abstractmethod
    def _renamed(self, state: dict[str, Tensor], source: str | os.PathLike[str]) -> dict[str, Tensor]:
        """The tensors of a file by timm's names, as the network takes them; ValueError if it is another's file."""

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


def vision_transformer(size: VitSize, *, image_size: int, eps: float, **options: Any) -> nn.Module:
    """timm's vision transformer, without values: they come from the file."""
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise ModuleNotFoundError(
            'DINOv2 and CLIP need timm. Add it with `pip install "dit-eval[witnesses]"`.'
        ) from None
    with torch.device("meta"):
        return VisionTransformer(
            img_size=image_size,
            patch_size=PATCH,
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
        raise not_the_weights(path, network, f"unreadable: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise not_the_weights(path, network, f"it holds {type(state).__name__}, not a plain state dict of tensors")
    return state


def not_the_weights(path: str | os.PathLike[str], network: str, found: str) -> ValueError:
    published = {"dinov2": "dinov2_vitl14_pretrain.pth", "clip": "openai/clip-vit-large-patch14-336"}[network]
    return ValueError(
        f"{os.fspath(path)}: not the weights of {published} ({found}). "
        f"Fetch the right ones with `dit-eval weights fetch {network}`."
    )
