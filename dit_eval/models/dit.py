"""The DiT family: four sizes, three patch sizes, four block designs.

Parameter names are those of the released checkpoints, so a released state dict loads as it is.

N batch, C channels, H W input height and width, p patch size, T = (H / p) (W / p) tokens, D hidden size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_eval.models.names import DIT_NAMES, PATCH_SIZES, SIZES, parse_name
from dit_eval.system.text import did_you_mean

BlockDesign = Literal["adaln-zero", "adaln", "cross-attention", "in-context"]
BLOCK_DESIGNS: tuple[BlockDesign, ...] = ("adaln-zero", "adaln", "cross-attention", "in-context")

MODEL_NAMES = DIT_NAMES
LATENT_FACTOR = 8  # the Stable Diffusion autoencoder shrinks each side by it

_NORM_EPS = 1e-6
_FREQUENCIES = 256  # width of the sinusoidal timestep embedding

# Limits far beyond what anyone trains.
_MOST = {"depth": 1000, "hidden_size": 1 << 16, "num_heads": 1 << 10, "patch_size": 1 << 10, "input_size": 1 << 12,
         "in_channels": 1 << 10, "num_classes": 1 << 24}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """What defines a DiT. The defaults are the paper's for latents of 256 px images.

    Attributes
    ----------
    depth, hidden_size, num_heads : layers, D, attention heads
    patch_size : p
    input_size : H = W of the input, in latent pixels (image size / 8), or in pixels for a pixel-space model
    space : what the input is, latents of the Stable Diffusion autoencoder or pixels
    in_channels : C; the output has 2 C channels (noise, then variance) if `learn_sigma`
    num_classes : K; label K stands for "no label"
    label_dropout : share of labels replaced by K while training (0: no such row in the label table)
    learn_sigma : also predict the variance
    block : block design, Section 3.2 of the paper
    """

    depth: int
    hidden_size: int
    num_heads: int
    patch_size: int
    input_size: int = 32
    in_channels: int = 4
    num_classes: int = 1000
    label_dropout: float = 0.1
    learn_sigma: bool = True
    block: BlockDesign = "adaln-zero"
    space: Literal["latent", "pixel"] = "latent"

    def __post_init__(self) -> None:
        if self.space not in ("latent", "pixel"):
            raise ValueError(f"Unknown space {self.space!r}; known: latent, pixel.")
        if self.block not in BLOCK_DESIGNS:
            hint = did_you_mean(str(self.block), BLOCK_DESIGNS)
            raise ValueError(f"Unknown block design {self.block!r}; known: {', '.join(BLOCK_DESIGNS)}.{hint}")
        self._check_ranges()
        if self.input_size % self.patch_size:
            raise ValueError(f"An input of {self.input_size} pixels does not divide into patches of {self.patch_size}.")
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"Hidden size {self.hidden_size}: needed a multiple of 4 (position table) and of "
                f"{self.num_heads} heads."
            )

    def _check_ranges(self) -> None:
        """Whatever a file or a plan says: without these it could ask for a network that no machine builds."""
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"Found {name} {str(value)[:40]}; needed an integer from 1 to {most:,}.")
        if not isinstance(self.label_dropout, int | float) or not 0 <= self.label_dropout <= 1:
            raise ValueError(f"Found label_dropout {str(self.label_dropout)[:40]}; needed a number from 0 to 1.")

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        return self.input_size * (LATENT_FACTOR if self.space == "latent" else 1)


def named_config(name: str, *, image_size: int = 256, block: BlockDesign = "adaln-zero") -> DiTConfig:
    """The paper's configuration of a model such as "DiT-XL/2", on Stable Diffusion latents.

    Raises
    ------
    ValueError
        If there is no such model (the message suggests the nearest), or the image size is no multiple of 8.
    """
    parts = parse_name(name)
    if parts is None or name not in DIT_NAMES:
        known, hint = ", ".join(DIT_NAMES), did_you_mean(name, DIT_NAMES)
        raise ValueError(f"Unknown model {name!r}; known: {known}.{hint}")
    if image_size % LATENT_FACTOR:
        raise ValueError(f"Image size {image_size}: needed a multiple of {LATENT_FACTOR}, the autoencoder's factor.")
    depth, hidden_size, num_heads = SIZES[parts.size]
    return DiTConfig(
        depth=depth,
        hidden_size=hidden_size,
        num_heads=num_heads,
        patch_size=parts.patch,
        input_size=image_size // LATENT_FACTOR,
        block=block,
    )


def paper_name(config: DiTConfig) -> str | None:
    """Name of a configuration in the paper, such as "DiT-XL/2"; None if it has another shape, or is in pixel space."""
    shape = (config.depth, config.hidden_size, config.num_heads)
    sizes = [size for size, standard in SIZES.items() if standard == shape]
    named = sizes and config.space == "latent" and config.patch_size in PATCH_SIZES
    return f"DiT-{sizes[0]}/{config.patch_size}" if named else None


def example_inputs(config: DiTConfig) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Arguments of a forward pass of one image: input, timestep, label; and no keywords."""
    x = torch.empty(1, config.in_channels, config.input_size, config.input_size)
    return (x, torch.zeros(1), torch.zeros(1, dtype=torch.long)), {}


class DiT(nn.Module):
    """Diffusion transformer; Peebles & Xie, ICCV 2023.

    Notes
    -----
    Only the adaLN-Zero design was released. The other three are built so that their multiply-adds and trainable
    parameters are the paper's printed figures (Table 4), which fixes them up to details that neither figure shows:
    affine or plain layer norms in the in-context and cross-attention designs (affine here), biases of the
    cross-attention projections (present), token order (image, timestep, label), and initialisation (as adaLN-Zero,
    where it applies).
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        dim, grid = config.hidden_size, config.input_size // config.patch_size
        self.x_embedder = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.t_embedder = TimestepEmbedder(dim)
        self.y_embedder = LabelEmbedder(config.num_classes, dim, config.label_dropout)
        # A parameter without gradient, because the released checkpoints store it.
        self.pos_embed = nn.Parameter(position_table(dim, grid)[None], requires_grad=False)  # (1, T, D)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        adaptive = config.block in ("adaln-zero", "adaln")
        self.final_layer = FinalLayer(dim, config.patch_size**2 * config.out_channels, adaptive)
        self._initialise()

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Predicted noise and variance.

        Parameters
        ----------
        x : (N, C, H, W) noised input
        t : (N,) timesteps of the unrespaced schedule, 0..999; integers or floats
        y : (N,) integer labels, 0..K; K is "no label"

        Returns
        -------
        (N, 2 C, H, W): noise, then the interpolation weight of the variance; (N, C, H, W) without `learn_sigma`.
        """
        return self.denoise(x, self.t_embedder(t), self.y_embedder(y))

    def denoise(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        """As `forward`, of embedded timesteps and labels, (N, D) each: a sampler knows them before its first step."""
        tokens = self.x_embedder(x) + self.pos_embed  # (N, T, D)
        if self.config.block == "in-context":
            count = tokens.shape[1]
            tokens = torch.cat([tokens, time[:, None], label[:, None]], dim=1)  # (N, T + 2, D)
            for block in self.blocks:
                tokens = block(tokens)
            return self._unpatchify(self.final_layer(tokens[:, :count]))
        # Cross-attention reads the two embeddings as a sequence, the adaptive designs their sum.
        cross = self.config.block == "cross-attention"
        condition = torch.stack([time, label], dim=1) if cross else time + label  # (N, 2, D) or (N, D)
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self._unpatchify(self.final_layer(tokens, None if cross else condition))

    def forward_with_cfg(self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float, cfg_channels: int = 3) -> Tensor:
        """Forward pass with classifier-free guidance on a batch of two halves.

        The model sees the first half of `x` twice, with the labels of either half of `y`: conditional, then
        unconditional. Noise of the first `cfg_channels` channels becomes u + cfg_scale (c - u) in both halves; the
        other channels and the variance stay each half's own.

        Parameters
        ----------
        x : (2 N, C, H, W); the second half is not read
        y : (2 N,) labels, then K for each
        cfg_channels : 3 as in the released code and the paper's main results, or C for all (Section 5)

        Returns
        -------
        (2 N, 2 C, H, W)

        Raises
        ------
        ValueError
            If the batch has no two halves, or there are fewer channels than asked for.
        """
        if len(x) % 2:
            raise ValueError(f"Guidance needs two halves; found a batch of {len(x)}.")
        if not 1 <= cfg_channels <= self.config.in_channels:
            raise ValueError(f"cfg_channels = {cfg_channels}; needed 1 to {self.config.in_channels}.")
        half = x[: len(x) // 2]
        out = self.forward(torch.cat([half, half]), t, y)
        mixed = guided(out, cfg_scale, cfg_channels)[:, :cfg_channels]
        return torch.cat([torch.cat([mixed, mixed]), out[:, cfg_channels:]], dim=1)

    def _unpatchify(self, tokens: Tensor) -> Tensor:
        """(N, T, p p C') -> (N, C', H, W)"""
        p, channels = self.config.patch_size, self.config.out_channels
        grid = self.config.input_size // p
        patches = tokens.unflatten(1, (grid, grid)).unflatten(3, (p, p, channels))  # (N, h, w, p, q, C')
        return patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)

    def _initialise(self) -> None:
        """Xavier for linear maps, N(0, 0.02) for the embeddings, zero where a block or the output must start at 0."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):  # the patch embedding is a linear map of flattened patches
                nn.init.xavier_uniform_(module.weight.flatten(1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        for parameter in self.t_embedder.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)
        zero = [self.final_layer.linear]
        adaptive = [*self.blocks, self.final_layer]
        zero += [m.adaLN_modulation[1] for m in adaptive if hasattr(m, "adaLN_modulation")]
        for layer in zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


def guided(out: Tensor, cfg_scale: float, cfg_channels: int) -> Tensor:
    """The conditional half (N, 2 C, H, W) of an output (2 N, 2 C, H, W), its first channels guided by the other half.

    They are u + cfg_scale (c - u); the other channels stay those of the conditional half.
    """
    conditional, unconditional = out.chunk(2)
    c, u = conditional[:, :cfg_channels], unconditional[:, :cfg_channels]
    return torch.cat([u + cfg_scale * (c - u), conditional[:, cfg_channels:]], dim=1)


class PatchEmbed(nn.Module):
    """(N, C, H, W) -> (N, T, D), tokens in row-major order."""

    def __init__(self, channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class TimestepEmbedder(nn.Module):
    """(N,) timesteps -> (N, D): 128 frequencies from 1 down to nearly 1e-4, cosines first, then an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(_FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Tensor) -> Tensor:
        half = _FREQUENCIES // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t[:, None].float() * torch.exp(-math.log(10_000) * index / half)  # (N, 128), always float32
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.mlp(waves.to(next(self.mlp.parameters()).dtype))


class LabelEmbedder(nn.Module):
    """(N,) labels -> (N, D); while training, a share of the labels is replaced by "no label"."""

    def __init__(self, num_classes: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + (dropout > 0), dim)
        self.num_classes, self.dropout = num_classes, dropout

    def forward(self, y: Tensor) -> Tensor:
        if self.training and self.dropout > 0:
            dropped = torch.rand(len(y), device=y.device) < self.dropout
            y = torch.where(dropped, self.num_classes, y)
        return self.embedding_table(y)


class Attention(nn.Module):
    """Multi-head self-attention, (N, T, D) -> (N, T, D); queries, keys and values from one matrix, as released."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, T, D / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Multi-head attention of tokens (N, T, D) to a context (N, S, D)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            layer(source).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, source in ((self.q, x), (self.k, context), (self.v, context))
        )
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """(N, T, D) -> (N, T, D) through 4 D."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def _plain_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=_NORM_EPS)


def _norm_to_modulate(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=_NORM_EPS, elementwise_affine=False)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class AdaLNZeroBlock(nn.Module):
    """Shift, scale and gate of both branches regressed from the condition; the identity when untrained."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm_to_modulate(dim), _norm_to_modulate(dim)
        self.attn, self.mlp = Attention(dim, num_heads), MLP(dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.adaLN_modulation(condition).chunk(6, dim=1)
        x = x + gate_1[:, None] * self.attn(_modulate(self.norm1(x), shift_1, scale_1))
        return x + gate_2[:, None] * self.mlp(_modulate(self.norm2(x), shift_2, scale_2))


class AdaLNBlock(nn.Module):
    """As adaLN-Zero without gates."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm_to_modulate(dim), _norm_to_modulate(dim)
        self.attn, self.mlp = Attention(dim, num_heads), MLP(dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 4 * dim))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift_1, scale_1, shift_2, scale_2 = self.adaLN_modulation(condition).chunk(4, dim=1)
        x = x + self.attn(_modulate(self.norm1(x), shift_1, scale_1))
        return x + self.mlp(_modulate(self.norm2(x), shift_2, scale_2))


class CrossAttentionBlock(nn.Module):
    """Self-attention, attention to (timestep, label), MLP. A third norm would not give the printed Gflops."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _plain_norm(dim), _plain_norm(dim)
        self.attn, self.cross_attn, self.mlp = Attention(dim, num_heads), CrossAttention(dim, num_heads), MLP(dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(x, condition)
        return x + self.mlp(self.norm2(x))


class PlainBlock(nn.Module):
    """A pre-norm ViT block, for the in-context design."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _plain_norm(dim), _plain_norm(dim)
        self.attn, self.mlp = Attention(dim, num_heads), MLP(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def _block(config: DiTConfig) -> nn.Module:
    designs: dict[str, type[AdaLNZeroBlock | AdaLNBlock | CrossAttentionBlock | PlainBlock]] = {
        "adaln-zero": AdaLNZeroBlock,
        "adaln": AdaLNBlock,
        "cross-attention": CrossAttentionBlock,
        "in-context": PlainBlock,
    }
    return designs[config.block](config.hidden_size, config.num_heads)


class FinalLayer(nn.Module):
    """(N, T, D) -> (N, T, p p C'), with a modulated norm in the adaptive designs and a plain one in the others."""

    def __init__(self, dim: int, out: int, adaptive: bool) -> None:
        super().__init__()
        self.norm_final = _norm_to_modulate(dim) if adaptive else _plain_norm(dim)
        self.linear = nn.Linear(dim, out)
        if adaptive:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        x = self.norm_final(x)
        if condition is not None:
            shift, scale = self.adaLN_modulation(condition).chunk(2, dim=1)
            x = _modulate(x, shift, scale)
        return self.linear(x)


def position_table(dim: int, grid: int) -> Tensor:
    """Fixed two-dimensional sine-cosine positions of a grid x grid of tokens, (T, D) float32, computed in float64.

    The first half of the channels encodes the column, the second the row; each half is sines, then cosines, of
    D / 4 frequencies from 1 down to nearly 1e-4.
    """
    frequencies = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequencies  # (grid, D / 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, D / 2)
    columns = waves[None].expand(grid, grid, -1)
    rows = waves[:, None].expand(grid, grid, -1)
    return torch.cat([columns, rows], dim=2).flatten(0, 1).float()
