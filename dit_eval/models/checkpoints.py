"""Published and trained DiT weights, in the layouts people have them in, loaded into our module.

Known layouts: the released state dict (raw), a trainer's file (`ema` or `model` inside, perhaps with `module.` before
each name), safetensors of either, and diffusers' `DiTTransformer2DModel`. Nothing is unpickled but tensors and plain
containers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dit_eval.files import atomic_file, shown
from dit_eval.models.dit import MODEL_NAMES, DiT, DiTConfig, named_config
from dit_eval.results import reason
from dit_eval.tensors import load_tensors

# In the metadata of the safetensors files that we write.
_CONFIG_KEY = "dit_eval.config"
NOTES_KEY = "dit_eval.training"  # of weights that were trained here: step, recipe, data, environment

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


def load_dit(path: str | os.PathLike[str], config: DiTConfig, *, weights: Literal["ema", "model"] = "ema") -> DiT:
    """A DiT with the weights of a checkpoint, in evaluation mode, on the CPU.

    The position table is always computed, never taken from the file: averaging moves the stored one by rounding. From
    diffusers' layout only the weights are taken; that library's module differs in the frequencies of the timestep
    embedding and in a norm's epsilon, ours is the released one for all layouts.

    Parameters
    ----------
    weights : which of a trainer's two sets; a file with one set has no choice

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no checkpoint of a DiT, or of another one; the message says which.
    """
    state = read_checkpoint(path, weights=weights)
    with torch.device("meta"):
        needed = {name: tuple(value.shape) for name, value in DiT(config).state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    stored_positions = found.pop("pos_embed", ())
    is_table = len(stored_positions) == 3
    if is_table and stored_positions != needed["pos_embed"] and found == {k: needed[k] for k in found if k in needed}:
        raise ValueError(
            f"{os.fspath(path)}: its position table has {stored_positions[1]} tokens, this model "
            f"{needed['pos_embed'][1]}. The checkpoint is for images of {_image_size(stored_positions[1], config)} px; "
            f"this model for {config.image_size} px."
        )
    del needed["pos_embed"]
    if found != needed:
        raise ValueError(f"{os.fspath(path)}: {_difference(found, needed, config)}")
    model = DiT(config)
    model.load_state_dict({**state, "pos_embed": model.pos_embed.detach()})
    return model.eval()


def read_checkpoint(path: str | os.PathLike[str], *, weights: Literal["ema", "model"] = "ema") -> dict[str, Tensor]:
    """The tensors of a checkpoint by their released names, whatever its layout. Errors as `load_dit`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    state = read_state(path)
    if "ema" in state or "model" in state:
        chosen = state.get(weights, state.get("model", state.get("ema")))
        if not isinstance(chosen, dict):
            raise ValueError(f"{path}: a trainer's file without a state dict under {weights!r}.")
        state = chosen
    tensors = {str(name).removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    odd = next((name for name, value in tensors.items() if not _is_plain(value)), None)
    if odd is not None:
        raise ValueError(f"{path}: {odd[:80]!r} holds no plain floating point numbers, as weights do.")
    if any(name.startswith("transformer_blocks.") for name in tensors):
        tensors = _from_diffusers(tensors, path)
    if "x_embedder.proj.weight" not in tensors:
        some = ", ".join(shown(name[:80]) for name in sorted(map(str, state))[:4]) or "nothing"
        raise ValueError(f"{path}: not a checkpoint of a DiT (found {some}, ...; needed x_embedder.proj.weight, ...).")
    return tensors


def save_dit(path: str | os.PathLike[str], model: DiT, *, notes: Mapping[str, str] | None = None) -> None:
    """Write a model as safetensors that carry their configuration, atomically; the same model is the same bytes.

    Parameters
    ----------
    notes : text to keep in the file's metadata, such as how it was trained
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**(notes or {}), _CONFIG_KEY: json.dumps(asdict(model.config))}
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    data = memoryview(save(tensors, metadata=metadata))
    # safetensors writes metadata in an order that changes from call to call.
    size = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(bytes(data[8:size]))
    entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with atomic_file(path) as file:
        for part in (len(header).to_bytes(8, "little"), header, data[size:]):
            file.write(part)


def stored_config(path: str | os.PathLike[str]) -> DiTConfig | None:
    """The configuration that `save_dit` put into a checkpoint; None in a file of another maker.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file, or the configuration in it, cannot be read.
    """
    try:
        text = _metadata(Path(path)).get(_CONFIG_KEY)
        return None if text is None else DiTConfig(**json.loads(text))
    except (SafetensorError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: its configuration cannot be read ({reason(error)}).") from None


def training_notes(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What `dit-eval train` wrote into a checkpoint on how its weights were trained; None in any other file.

    Returns
    -------
    "step", "weights" ("ema" or "model"), and as objects "recipe", "config", "data", "environment".

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file, or the notes in it, cannot be read.
    """
    try:
        text = _metadata(Path(path)).get(NOTES_KEY)
        if text is None:
            return None
        notes = json.loads(text)
        counts = (notes["step"], notes["recipe"]["batch_size"])
        if not all(type(count) is int and count > 0 for count in counts):
            raise ValueError(f"{counts[0]!r} steps of {counts[1]!r} images")
        if notes["weights"] not in ("ema", "model"):
            raise ValueError(f"weights {notes['weights']!r}, neither ema nor model")
        return dict(notes)
    except (SafetensorError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: its notes on training cannot be read ({reason(error)}).") from None


def _metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries; none in another file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def read_state(path: Path) -> dict[str, object]:
    """What a PyTorch or safetensors file holds: tensors, and plain containers of them.

    Raises
    ------
    ValueError
        If it is neither, or needs anything else to be unpickled.
    """
    try:
        # A trainer's file carries its command line as a Namespace, which is a plain container.
        state = load_tensors(path, containers=(argparse.Namespace,))
    except ValueError as error:
        raise ValueError(f"{path}: not a PyTorch or safetensors checkpoint ({error}).") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds {type(state).__name__}; needed a state dict.")
    return state


def _is_plain(value: Tensor) -> bool:
    return value.device.type == "cpu" and value.layout == torch.strided and value.is_floating_point()


def _from_diffusers(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}  # the three thirds of each block's attention matrix
    for name, value in tensors.items():
        module, _, kind = name.rpartition(".")
        block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
        if block is None:
            if module not in _DIFFUSERS_OUTER:
                raise ValueError(f"{path}: {name} is not part of diffusers' DiT.")
            state[f"{_DIFFUSERS_OUTER[module]}.{kind}"] = value
            continue
        index, inner = block.groups()
        if inner in _DIFFUSERS_BLOCK:
            state[f"blocks.{index}.{_DIFFUSERS_BLOCK[inner]}.{kind}"] = value
        elif inner in _DIFFUSERS_SHARED:
            ours = f"{_DIFFUSERS_SHARED[inner]}.{kind}"
            if ours in state and (state[ours].dtype != value.dtype or not torch.equal(state[ours], value)):
                raise ValueError(f"{path}: {name} differs between blocks; a DiT has one for all.")
            state[ours] = value
        elif inner in ("attn1.to_q", "attn1.to_k", "attn1.to_v"):
            parts.setdefault(f"blocks.{index}.attn.qkv.{kind}", {})[inner[-1]] = value
        else:
            raise ValueError(f"{path}: {name} is not part of diffusers' DiT.")
    for ours, thirds in parts.items():
        if thirds.keys() != {"q", "k", "v"}:
            raise ValueError(f"{path}: {ours} is incomplete; found {', '.join(sorted(thirds))} of q, k, v.")
        if len({third.shape for third in thirds.values()}) > 1 or thirds["q"].ndim == 0:
            raise ValueError(f"{path}: the shapes of q, k and v of {ours} differ.")
        state[ours] = torch.cat([thirds[third] for third in "qkv"])
    return state


def _image_size(tokens: int, config: DiTConfig) -> int:
    return replace(config, input_size=round(tokens**0.5) * config.patch_size).image_size


def _difference(found: dict[str, tuple[int, ...]], needed: dict[str, tuple[int, ...]], config: DiTConfig) -> str:
    """Why the shapes do not fit: the model they are of, if the paper has it, else the first differences."""
    for name in MODEL_NAMES:
        named = named_config(name)
        same = (named.depth, named.hidden_size, named.patch_size) == (
            config.depth,
            config.hidden_size,
            config.patch_size,
        )
        if not same and all(found.get(key) == shape for key, shape in _telling_shapes(named).items()):
            return (
                f"a checkpoint of {name}; the model asked for has depth {config.depth}, hidden size "
                f"{config.hidden_size}, patch size {config.patch_size}, {config.block} blocks."
            )
    missing, unknown = sorted(needed.keys() - found.keys()), sorted(found.keys() - needed.keys())
    shapes_differ = sorted(key for key in found.keys() & needed.keys() if found[key] != needed[key])
    named_keys = (("missing", missing), ("unknown", unknown))
    notes = [f"{what} {shown(keys[0][:80])} and {len(keys) - 1} more" for what, keys in named_keys if keys]
    notes += [f"{shown(key)} is {found[key]}, needed {needed[key]}" for key in shapes_differ[:2]]
    return f"not a checkpoint of the model asked for ({'; '.join(notes)})."


def _telling_shapes(config: DiTConfig) -> dict[str, tuple[int, ...]]:
    """Shapes that tell a model from the others: patch embedding and last block."""
    dim, patch = config.hidden_size, config.patch_size
    return {
        "x_embedder.proj.weight": (dim, config.in_channels, patch, patch),
        f"blocks.{config.depth - 1}.attn.qkv.weight": (3 * dim, dim),
    }
