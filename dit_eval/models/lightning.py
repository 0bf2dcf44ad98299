"""LightningDiT, and DiTs with some of its parts: norms of queries and keys, RMSNorm, SwiGLU, rotations, no shift.

The blocks are DiT's adaLN-Zero blocks with these parts in place of others, so REPA's networks with norms of queries and
keys are of this kind as well. Parameter names are those of the released checkpoints, so a released state dict loads as
it is.

N batch, C channels, H W input height and width, p patch size, T = (H / p) (W / p) tokens, D hidden size, E = D / heads.

References
----------
Yao et al. 2025 (LightningDiT, arXiv 2501.01423), Section 4; the released module is hustvl/LightningDiT
`models/lightningdit.py`. Yu et al. 2025 (REPA, arXiv 2410.06940): sihyun-yu/REPA `models/sit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_eval.models.config import BlockDesign, DiTConfig
from dit_eval.models.dit import MLP, DiT
from dit_eval.models.dit import example_inputs as example_inputs  # `MODELS` finds it in a family's file
from dit_eval.models.names import LIGHTNING_SIZES, parse_lightning

_NORM_EPS = 1e-6
_QK_NORM_EPS = 1e-5  # of a LayerNorm of queries and keys: PyTorch's default, which both modules leave
_ROTATIONS = 10_000.0  # the longest wavelength over 2 pi, in tokens
_PARTS = ("qk_norm", "rms_norm", "swiglu", "rope", "shift")


@dataclass(frozen=True, kw_only=True)
class LightningConfig(DiTConfig):
    """What defines a DiT with later parts. The defaults of these are a plain DiT's.

    Attributes
    ----------
    qk_norm : queries and keys are normalised, each head's alone
    rms_norm : every norm is an RMSNorm with weights, in place of a LayerNorm without (of queries and keys: with)
    swiglu : the MLP is gated (Shazeer 2020), of two thirds of the width
    rope : queries and keys are rotated by their place (Su et al. 2021), in two dimensions, besides the position table
    shift : adaLN shifts as well as scales; the output's always does
    """

    qk_norm: bool = False
    rms_norm: bool = False
    swiglu: bool = False
    rope: bool = False
    shift: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block != "adaln-zero":
            raise ValueError(f"Found block {self.block}; a network with LightningDiT's parts has adaln-zero blocks.")
        for name in _PARTS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"Found {name} {str(getattr(self, name))[:40]}; needed true or false.")
        if self.rope and self.hidden_size // self.num_heads % 4:
            raise ValueError(
                f"Heads of {self.hidden_size // self.num_heads} channels: rotations in two dimensions need a multiple "
                "of 4."
            )


def named_config(name: str, *, image_size: int = 256, block: BlockDesign = "adaln-zero") -> LightningConfig:
    """The released configuration of a model such as "LightningDiT-XL/1", on the latents of VA-VAE (f16d32).

    Raises
    ------
    ValueError
        If there is no such model, the image size is no multiple of 16, or another block design is asked for.
    """
    size, patch = parse_lightning(name)
    if image_size % 16:
        raise ValueError(f"Image size {image_size}: needed a multiple of 16, the factor of VA-VAE.")
    depth, hidden_size, num_heads = LIGHTNING_SIZES[size]
    return LightningConfig(
        depth=depth,
        hidden_size=hidden_size,
        num_heads=num_heads,
        patch_size=patch,
        input_size=image_size // 16,
        in_channels=32,
        learn_sigma=False,
        block=block,
        rms_norm=True,
        swiglu=True,
        rope=True,
        latent_factor=16,
    )


def network_config(values: dict[str, Any]) -> DiTConfig:
    """The configuration of a network by its fields, as files and records have them: a DiT's, or one with more parts.

    Raises
    ------
    TypeError, ValueError
        If they are none of either.
    """
    later = {each.name for each in fields(LightningConfig)} - {each.name for each in fields(DiTConfig)}
    kind = LightningConfig if later & set(values) else DiTConfig
    return kind(**values)


def network(config: DiTConfig) -> DiT:
    """The network of a configuration, with fresh weights."""
    return LightningDiT(config) if isinstance(config, LightningConfig) else DiT(config)


class LightningDiT(DiT):
    """A DiT with later parts; Yao et al., CVPR 2025."""

    config: LightningConfig

    def __init__(self, config: LightningConfig) -> None:
        super().__init__(config)
        if config.rms_norm:
            self.final_layer.norm_final = nn.RMSNorm(config.hidden_size, eps=_NORM_EPS)
        grid, width = config.input_size // config.patch_size, config.hidden_size // config.num_heads
        self.feat_rope = Rotation(grid, width) if config.rope else None

    def denoise(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """As `DiT.denoise`."""
        tokens = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        condition = time + label  # (N, D)
        for block in self.blocks:
            tokens = block(tokens, condition, self.feat_rope)
        return self._unpatchify(self.final_layer(tokens, condition))

    def _block(self) -> nn.Module:
        return LightningBlock(self.config)


class Rotation(nn.Module):
    """Rotates pairs of channels of queries or keys (N, heads, T, E) by angles that grow with a token's row and column.

    The first half of the channels turns with the row, the second with the column, each pair of neighbours by one of
    E / 4 frequencies from 1 down to nearly 1e-4. The tables are buffers because the released checkpoints store them.
    """

    freqs_cos: Tensor
    freqs_sin: Tensor

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        half = width // 2
        frequencies = 1.0 / _ROTATIONS ** (torch.arange(0, half, 2).float() / half)  # (E / 4,)
        angles = (torch.arange(grid).float()[:, None] * frequencies).repeat_interleave(2, dim=1)  # (grid, E / 2)
        rows = angles[:, None].expand(grid, grid, half)
        columns = angles[None].expand(grid, grid, half)
        both = torch.cat([rows, columns], dim=2).flatten(0, 1)  # (T, E)
        self.register_buffer("freqs_cos", both.cos())
        self.register_buffer("freqs_sin", both.sin())

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-second, first], dim=-1).flatten(-2)
        return x * self.freqs_cos + turned * self.freqs_sin


class LightningAttention(nn.Module):
    """Multi-head self-attention, (N, T, D) -> (N, T, D), with norms and rotations of queries and keys where asked."""

    def __init__(self, config: LightningConfig) -> None:
        super().__init__()
        dim, width = config.hidden_size, config.hidden_size // config.num_heads
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.q_norm, self.k_norm = (_qk_norm(config, width) for _ in range(2))

    def forward(self, x: Tensor, rotate: Callable[[Tensor], Tensor] | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, T, E)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _qk_norm(config: LightningConfig, width: int) -> nn.Module:
    if not config.qk_norm:
        return nn.Identity()
    return nn.RMSNorm(width, eps=_NORM_EPS) if config.rms_norm else nn.LayerNorm(width, eps=_QK_NORM_EPS)


class SwiGLU(nn.Module):
    """(N, T, D) -> (N, T, D) through a gated layer of two thirds of 4 D, whose gate and value are one matrix."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        inner = int(2 / 3 * (4 * dim))
        self.w12 = nn.Linear(dim, 2 * inner)
        self.w3 = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LightningBlock(nn.Module):
    """An adaLN-Zero block with later parts; without shifts the condition gives scales and gates alone."""

    def __init__(self, config: LightningConfig) -> None:
        super().__init__()
        dim, self.shift = config.hidden_size, config.shift
        self.norm1, self.norm2 = (
            nn.RMSNorm(dim, eps=_NORM_EPS)
            if config.rms_norm
            else nn.LayerNorm(dim, eps=_NORM_EPS, elementwise_affine=False)
            for _ in range(2)
        )
        self.attn = LightningAttention(config)
        self.mlp = SwiGLU(dim) if config.swiglu else MLP(dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, (6 if self.shift else 4) * dim))

    def forward(self, x: Tensor, condition: Tensor, rotate: Callable[[Tensor], Tensor] | None) -> Tensor:
        parts = self.adaLN_modulation(condition)[:, None].chunk(6 if self.shift else 4, dim=2)  # (N, 1, D) each
        first, second = parts[: len(parts) // 2], parts[len(parts) // 2 :]
        x = x + first[-1] * self.attn(_modulated(self.norm1(x), *first[:-1]), rotate)
        return x + second[-1] * self.mlp(_modulated(self.norm2(x), *second[:-1]))


def _modulated(x: Tensor, *parts: Tensor) -> Tensor:
    """x (N, T, D) scaled by the last of the parts (N, 1, D), and shifted by the first if there are two."""
    scaled = x * (1 + parts[-1])
    return scaled + parts[0] if len(parts) == 2 else scaled
