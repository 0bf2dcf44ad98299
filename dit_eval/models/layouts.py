"""Checkpoints of other programs' layouts under the released names: diffusers', and those of REPA's trainer."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# diffusers' names of what each block repeats or renames; {i} is the block.
_DIFFUSERS_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
_DIFFUSERS_SHARED = {  # stored in every block, used once
    "norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
}
_DIFFUSERS_OUTER = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}

PROJECTORS = "projectors"  # of REPA: from a layer to the features of a vision model; sampling does without


def released_names(tensors: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    """The tensors of a network of the DiT family by their released names, without REPA's projectors.

    REPA's first checkpoints count the blocks after those with a projector anew, as `decoder_blocks`.

    Raises
    ------
    ValueError
        If a tensor of diffusers' layout is missing, or not part of it. The message begins with `path`.
    """
    if any(name.startswith("transformer_blocks.") for name in tensors):
        return _from_diffusers(tensors, path)
    ahead = 1 + max(
        (int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d{1,4})\.", name))), default=-1
    )
    state = {}
    for name, value in tensors.items():
        if name.startswith(f"{PROJECTORS}."):
            continue
        later = re.fullmatch(r"decoder_blocks\.(\d{1,4})\.(.+)", name)
        state[f"blocks.{int(later[1]) + ahead}.{later[2]}" if later else name] = value
    return state


def _from_diffusers(tensors: Mapping[str, Tensor], path: object) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}  # the three thirds of each block's attention matrix
    for name, value in tensors.items():
        ours, third = _released_name(name, path)
        if third:
            parts.setdefault(ours, {})[third] = value
            continue
        if ours in state and (state[ours].dtype != value.dtype or not torch.equal(state[ours], value)):
            raise ValueError(f"{path}: {name} differs between blocks; a DiT has one for all.")
        state[ours] = value
    return state | {ours: _joined(thirds, ours, path) for ours, thirds in parts.items()}


def _released_name(name: str, path: object) -> tuple[str, str]:
    """The released name of a tensor of diffusers' layout; and "q", "k" or "v" if it is that third of it, or ""."""
    module, _, kind = name.rpartition(".")
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    if block is None and module in _DIFFUSERS_OUTER:
        return f"{_DIFFUSERS_OUTER[module]}.{kind}", ""
    index, inner = block.groups() if block else ("", "")
    if inner in _DIFFUSERS_BLOCK:
        return f"blocks.{index}.{_DIFFUSERS_BLOCK[inner]}.{kind}", ""
    if inner in _DIFFUSERS_SHARED:
        return f"{_DIFFUSERS_SHARED[inner]}.{kind}", ""
    if inner in ("attn1.to_q", "attn1.to_k", "attn1.to_v"):
        return f"blocks.{index}.attn.qkv.{kind}", inner[-1]
    raise ValueError(f"{path}: {name} is not part of diffusers' DiT.")


def _joined(thirds: dict[str, Tensor], ours: str, path: object) -> Tensor:
    """Queries, keys and values of a block as one matrix."""
    if thirds.keys() != {"q", "k", "v"}:
        raise ValueError(f"{path}: {ours} is incomplete; found {', '.join(sorted(thirds))} of q, k, v.")
    if len({third.shape for third in thirds.values()}) > 1 or thirds["q"].ndim == 0:
        raise ValueError(f"{path}: the shapes of q, k and v of {ours} differ.")
    return torch.cat([thirds[third] for third in "qkv"])
