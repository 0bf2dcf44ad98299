"""The diffusion U-Nets of Table 6: ADM, its upsamplers, and latent diffusion (LDM), as modules that run.

Their purpose here is accounting. Parameter names are those of the released checkpoints (for LDM, below
``model.diffusion_model.``), so a released state dict loads as it is.

N batch, C channels, H W input height and width, E width of the embedding, S length and X width of the context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_eval.system.text import did_you_mean

Resample = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What defines a U-Net. The defaults are what the ADM models share.

    Attributes
    ----------
    image_size : pixels of the images that the model makes (an LDM's autoencoder makes them)
    input_size : H = W of the input
    in_channels, out_channels : of the noised input without the low-resolution image, and of the output
    channels, channel_mult : width of each level is their product
    num_res_blocks : residual blocks of each level on the way down; one more on the way up
    attention_at : factors by which a level is smaller than the input, at levels with attention
    num_heads, head_channels : heads of each attention, or the width of each head; one of the two
    new_attention_order : queries, keys and values are split before heads, not after
    num_classes : rows of the label table, or None without one
    context_dim : X of the context that the spatial transformers attend to; None for plain self-attention
    resblock_updown : resample in residual blocks, not in convolutions
    scale_shift_norm : the embedding scales and shifts the second norm of a residual block, instead of being added
    low_res_size : H = W of the image to upsample, or None
    dropout : in residual blocks, while training
    """

    image_size: int
    input_size: int
    channels: int
    channel_mult: tuple[float, ...]
    attention_at: tuple[int, ...]
    num_res_blocks: int = 2
    num_heads: int | None = None
    head_channels: int | None = None
    in_channels: int = 3
    out_channels: int = 6
    new_attention_order: bool = False
    num_classes: int | None = 1000
    context_dim: int | None = None
    resblock_updown: bool = True
    scale_shift_norm: bool = True
    low_res_size: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if (self.num_heads is None) == (self.head_channels is None):
            raise ValueError("Needed the number of heads or the channels of each head, one of the two.")
        smallest = 2 ** (len(self.channel_mult) - 1)
        if self.input_size % smallest:
            raise ValueError(
                f"Input size {self.input_size}: needed a multiple of {smallest}, the deepest level's factor."
            )

    def heads_of(self, channels: int) -> int:
        return self.num_heads or channels // (self.head_channels or channels)


_ADM_256 = UNetConfig(
    image_size=256, input_size=256, channels=256, channel_mult=(1, 1, 2, 2, 4, 4), attention_at=(8, 16, 32),
    head_channels=64,
)  # fmt: skip
_LDM_4 = UNetConfig(
    image_size=256, input_size=64, channels=192, channel_mult=(1, 2, 3, 5), attention_at=(2, 4, 8), num_heads=1,
    in_channels=3, out_channels=3, num_classes=None, context_dim=512, resblock_updown=False, scale_shift_norm=False,
)  # fmt: skip
# ADM: the model flags in the README of openai/guided-diffusion and its defaults (which give attention by resolution:
# 32, 16, 8 pixels). LDM: configs/latent-diffusion/cin256-v2.yaml and models/ldm/cin256/config.yaml of
# CompVis/latent-diffusion.
UNETS: dict[str, UNetConfig] = {
    "ADM-64": replace(
        _ADM_256, image_size=64, input_size=64, channels=192, channel_mult=(1, 2, 3, 4), attention_at=(2, 4, 8),
        num_res_blocks=3, new_attention_order=True, dropout=0.1,
    ),
    "ADM-128": replace(
        _ADM_256, image_size=128, input_size=128, channel_mult=(1, 1, 2, 3, 4), attention_at=(4, 8, 16),
        num_heads=4, head_channels=None,
    ),
    "ADM-256": _ADM_256,
    "ADM-512": replace(
        _ADM_256, image_size=512, input_size=512, channel_mult=(0.5, 1, 1, 2, 2, 4, 4), attention_at=(16, 32, 64)
    ),
    "ADM-U-256-upsampler": replace(_ADM_256, channels=192, num_heads=4, head_channels=None, low_res_size=64),
    "ADM-U-512-upsampler": replace(
        _ADM_256, image_size=512, input_size=512, channels=192, attention_at=(16, 32), low_res_size=128
    ),
    "LDM-4": _LDM_4,
    "LDM-8": replace(
        _LDM_4, input_size=32, channels=256, channel_mult=(1, 2, 4), attention_at=(1, 2, 4), num_heads=None,
        head_channels=32, in_channels=4, out_channels=4,
    ),
}  # fmt: skip


def named_config(name: str, *, image_size: int | None = None, block: str | None = None) -> UNetConfig:
    """The published configuration of a U-Net such as "ADM-256" or "LDM-4".

    Parameters
    ----------
    image_size, block : as for a DiT; a U-Net has one size, and no block designs

    Raises
    ------
    ValueError
        If there is no such model (the message suggests the nearest), or the two others do not go with it.
    """
    if name not in UNETS:
        raise ValueError(f"Unknown U-Net {name!r}; known: {', '.join(UNETS)}.{did_you_mean(name, UNETS)}")
    config = UNETS[name]
    if image_size not in (None, config.image_size) or block is not None:
        raise ValueError(f"{name} makes images of {config.image_size} pixels and has no block designs; leave both out.")
    return config


def example_inputs(config: UNetConfig) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Arguments of a forward pass of one image: input, timestep and label; by name context and low-resolution image."""
    inputs = [torch.empty(1, config.in_channels, config.input_size, config.input_size), torch.zeros(1)]
    if config.num_classes is not None:
        inputs.append(torch.zeros(1, dtype=torch.long))
    keywords = {}
    if config.context_dim is not None:
        keywords["context"] = torch.empty(1, 1, config.context_dim)
    if config.low_res_size is not None:
        keywords["low_res"] = torch.empty(1, config.in_channels, config.low_res_size, config.low_res_size)
    return tuple(inputs), keywords


class UNet(nn.Module):
    """Diffusion U-Net; Dhariwal and Nichol 2021 (ADM), Rombach et al. 2022 (LDM)."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = [int(mult * config.channels) for mult in config.channel_mult]
        embedding = 4 * config.channels
        self.time_embed = nn.Sequential(
            nn.Linear(config.channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if config.num_classes is not None:
            self.label_emb = nn.Embedding(config.num_classes, embedding)
        in_channels = config.in_channels * (1 if config.low_res_size is None else 2)

        def level(channels: int, out: int, factor: int) -> Iterator[nn.Module]:
            yield ResBlock(channels, out, embedding, config)
            if factor in config.attention_at:
                yield _attention(out, config)

        def resampler(channels: int, resample: Resample, plain: Callable[[int], nn.Module]) -> nn.Module:
            if config.resblock_updown:
                return ResBlock(channels, channels, embedding, config, resample=resample)
            return plain(channels)

        channels = width[0]
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(in_channels, channels, 3, padding=1)])])
        skipped = [channels]  # channels of each output on the way down; the way up takes them from the end
        last = len(width) - 1
        for depth, out in enumerate(width):
            for _ in range(config.num_res_blocks):
                self.input_blocks.append(Stage(level(channels, out, 2**depth)))
                channels = out
                skipped.append(channels)
            if depth < last:
                self.input_blocks.append(Stage([resampler(channels, _halve, Downsample)]))
                skipped.append(channels)
        self.middle_block = Stage(
            [
                ResBlock(channels, channels, embedding, config),
                _attention(channels, config),
                ResBlock(channels, channels, embedding, config),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for depth in range(last, -1, -1):
            for number in range(config.num_res_blocks + 1):
                layers = list(level(channels + skipped.pop(), width[depth], 2**depth))
                channels = width[depth]
                if depth and number == config.num_res_blocks:
                    layers.append(resampler(channels, _double, Upsample))
                self.output_blocks.append(Stage(layers))
        self.out = nn.Sequential(
            _norm(channels), nn.SiLU(), _zero(nn.Conv2d(channels, config.out_channels, 3, padding=1))
        )

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        *,
        context: Tensor | None = None,
        low_res: Tensor | None = None,
    ) -> Tensor:
        """Predicted noise (ADM: then the interpolation weight of the variance).

        Parameters
        ----------
        x : (N, C, H, W) noised input
        t : (N,) timesteps of the unrespaced schedule
        y : (N,) integer labels, for a model with a label table
        context : (N, S, X), for an LDM: the embedded label, S = 1
        low_res : (N, C, h, w) image to upsample, for an upsampler

        Returns
        -------
        (N, C', H, W)

        Raises
        ------
        ValueError
            If one of the last three is missing where the model needs it, or given where it does not.
        """
        config = self.config
        for name, value, needed in (
            ("y", y, config.num_classes),
            ("context", context, config.context_dim),
            ("low_res", low_res, config.low_res_size),
        ):
            if (value is None) != (needed is None):
                raise ValueError(f"This U-Net {'takes no' if needed is None else 'needs'} `{name}`.")
        emb = self.time_embed(_waves(t, config.channels))  # (N, E)
        if y is not None:
            emb = emb + self.label_emb(y)
        if low_res is not None:
            x = torch.cat([x, F.interpolate(low_res, x.shape[2:], mode="bilinear")], dim=1)
        skipped = []
        for stage in self.input_blocks:
            x = stage(x, emb, context)
            skipped.append(x)
        x = self.middle_block(x, emb, context)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skipped.pop()], dim=1), emb, context)
        return self.out(x)


class Stage(nn.ModuleList):
    """Layers one after the other, each given what it takes besides x."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class Downsample(nn.Module):
    """(N, C, H, W) -> (N, C, H / 2, W / 2) by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """(N, C, H, W) -> (N, C, 2 H, 2 W): nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_double(x))


class ResBlock(nn.Module):
    """(N, C, H, W), (N, E) -> (N, C', H, W), or another size where it resamples."""

    def __init__(
        self, channels: int, out: int, embedding: int, config: UNetConfig, resample: Resample | None = None
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample = config.scale_shift_norm, resample
        self.in_layers = nn.Sequential(_norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * out if self.scale_shift else out))
        self.out_layers = nn.Sequential(
            _norm(out), nn.SiLU(), nn.Dropout(config.dropout), _zero(nn.Conv2d(out, out, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[:2](x)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        emb = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + emb)
        return self.skip_connection(x) + h


class AttentionBlock(nn.Module):
    """Self-attention of the positions of (N, C, H, W)."""

    def __init__(self, channels: int, config: UNetConfig) -> None:
        super().__init__()
        self.num_heads, self.new_order = config.heads_of(channels), config.new_attention_order
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)  # (N, C, H W)
        split = (3, self.num_heads, -1) if self.new_order else (self.num_heads, 3, -1)
        qkv = self.qkv(self.norm(flat)).unflatten(1, split)
        q, k, v = qkv.transpose(3, 4).unbind(1 if self.new_order else 2)  # (N, heads, H W, C / heads)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(1, 2)
        return (flat + self.proj_out(attended)).view_as(x)


class SpatialTransformer(nn.Module):
    """Self-attention, attention to the context (N, S, X), and an MLP on the positions of (N, C, H, W)."""

    def __init__(self, channels: int, num_heads: int, context_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, num_heads, context_dim)])
        self.proj_out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        tokens = h.flatten(2).transpose(1, 2)  # (N, H W, C)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).view_as(h))


class TransformerBlock(nn.Module):
    """(N, T, C), (N, S, X) -> (N, T, C)"""

    def __init__(self, dim: int, num_heads: int, context_dim: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(dim, num_heads, dim), Attention(dim, num_heads, context_dim)
        self.ff = FeedForward(dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Attention(nn.Module):
    """Multi-head attention of (N, T, C) to a source (N, S, X)."""

    def __init__(self, dim: int, num_heads: int, source_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k, self.to_v = nn.Linear(source_dim, dim, bias=False), nn.Linear(source_dim, dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim))

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        q, k, v = (
            projected.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (N, heads, T or S, C / heads)
            for projected in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear map to twice 4 C, of which one half gates the other, and back."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedGELU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class GatedGELU(nn.Module):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


def _attention(channels: int, config: UNetConfig) -> nn.Module:
    if config.context_dim is None:
        return AttentionBlock(channels, config)
    return SpatialTransformer(channels, config.heads_of(channels), config.context_dim)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def _zero(module: nn.Module) -> nn.Module:
    """Such layers start at zero, so that an untrained block is the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def _waves(t: Tensor, dim: int) -> Tensor:
    """(N,) timesteps -> (N, dim): cosines, then sines, of frequencies from 1 down to nearly 1e-4."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
