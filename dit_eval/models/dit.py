"""The DiT family: four sizes, three patch sizes, four block designs.

Parameter names are those of the released checkpoints, so a released state dict loads as it is.

N batch, C channels, H W input height and width, p patch size, T = (H / p) (W / p) tokens, D hidden size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dit_eval.models.config import DiTConfig
from dit_eval.models.config import named_config as named_config  # `MODELS` finds a family's configurations in its file

_NORM_EPS = 1e-6
_FREQUENCIES = 256  # width of the sinusoidal timestep embedding


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
        self.blocks = nn.ModuleList(self._block() for _ in range(config.depth))
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

    def _block(self) -> nn.Module:
        """A new block of the network's design."""
        designs: dict[str, type[AdaLNZeroBlock | AdaLNBlock | CrossAttentionBlock | PlainBlock]] = {
            "adaln-zero": AdaLNZeroBlock,
            "adaln": AdaLNBlock,
            "cross-attention": CrossAttentionBlock,
            "in-context": PlainBlock,
        }
        return designs[self.config.block](self.config.hidden_size, self.config.num_heads)

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


class FinalLayer(nn.Module):
    """(N, T, D) -> (N, T, p p C'), with a modulated norm in the adaptive designs and a plain one in the others."""

    def __init__(self, dim: int, out: int, adaptive: bool) -> None:
        super().__init__()
        self.norm_final: nn.Module = _norm_to_modulate(dim) if adaptive else _plain_norm(dim)
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
