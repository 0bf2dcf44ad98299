"""Published and trained weights of the DiT family, in the layouts people have them in, loaded into our modules.

Known layouts: the released state dicts of DiT, SiT, REPA and LightningDiT, and diffusers' `DiTTransformer2DModel`
(`dit_eval.models.layouts`), as PyTorch's files or safetensors, within what trainers, compilers and parallel training
put around them (`dit_eval.models.wrappers`). What a file is of is found out by `dit_eval.models.recognise`. Nothing is
unpickled but tensors and plain containers.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT
from dit_eval.models.layouts import PROJECTORS, released_names
from dit_eval.models.lightning import LightningConfig, network, network_config
from dit_eval.models.recognise import Origin, Recognised, foreign, origin, recognised
from dit_eval.models.wrappers import found_elsewhere, named_shapes, unwrap
from dit_eval.system.files import atomic_file
from dit_eval.system.reading import parse_json, tensor_file, tensor_header
from dit_eval.system.tensors import Unfilled, load_tensors, stored_texts
from dit_eval.system.text import reason, shown

# In the metadata of the safetensors files that we write.
_CONFIG_KEY = "dit_eval.config"
NOTES_KEY = "dit_eval.training"  # of weights that were trained here: step, recipe, data, environment

# First parts of the names of a DiT, released and diffusers', and a tensor that tells it.
_ROOTS = {"x_embedder", "t_embedder", "y_embedder", "pos_embed", "blocks", "final_layer", "transformer_blocks",
          "proj_out_1", "proj_out_2"}  # fmt: skip
_ANCHORS = {"x_embedder.proj.weight", "pos_embed.proj.weight"}
_LABEL_TABLE = "y_embedder.embedding_table.weight"
_SETTINGS = ("args", "hyper_parameters", "hparams", "config")  # where trainers keep what they were asked for
# Averaging moves the position table, which does not train, by rounding: at most 2^-24 / (1 - 0.9999) = 6e-4 with the
# paper's decay, measured 1.6e-4.
_POSITIONS_DRIFT = 1e-3

Note = Callable[[str], None]


class AnotherNetwork(ValueError):
    """A file is of a network that is known, and not run here."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a file has of a DiT.

    Attributes
    ----------
    path : of the file
    tensors : by their released names, on the CPU
    weights : the set they are, averaged ("ema") or the latest ("model"); None if the file does not say
    num_classes : K, if the file says it in the settings of its training
    found : the network that they are of
    origin : whose program trained them; None if the file does not say
    """

    path: Path
    tensors: dict[str, Tensor]
    weights: Literal["ema", "model"] | None
    num_classes: int | None
    found: Recognised | None = None
    origin: Origin | None = None


def load_dit(
    path: str | os.PathLike[str],
    config: DiTConfig,
    *,
    weights: Literal["ema", "model"] = "ema",
    on_note: Note | None = None,
) -> DiT:
    """A DiT with the weights of a checkpoint, in evaluation mode, on the CPU.

    The position table is the file's, as in the released module, where it is another than the sine-cosine one; that one
    is computed, since averaging moves the stored one by rounding. From diffusers' layout only the weights are taken;
    that library's module differs in the frequencies of the timestep embedding and in a norm's epsilon, ours is the
    released one for all layouts.

    Parameters
    ----------
    weights : which of a trainer's two sets; a file that has the latest weights alone gives them for "ema" too
    on_note : told what was taken off and left out, and of a position table of the file's own

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no checkpoint of a DiT, or of another one; the message says which.
    """
    return build_dit(open_checkpoint(path, weights=weights, on_note=on_note), config, on_note=on_note)


def read_checkpoint(path: str | os.PathLike[str], *, weights: Literal["ema", "model"] = "ema") -> dict[str, Tensor]:
    """The tensors of a checkpoint by their released names, whatever its layout. Errors as `load_dit`."""
    return open_checkpoint(path, weights=weights).tensors


def open_checkpoint(
    path: str | os.PathLike[str], *, weights: Literal["ema", "model"] = "ema", on_note: Note | None = None
) -> Checkpoint:
    """Read what a checkpoint has of a DiT, whatever its layout. Parameters and errors as `load_dit`."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder; pass the file of weights in it, such as model.safetensors.")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    state = read_state(path)
    try:
        found = unwrap(state, roots=_ROOTS, anchors=_ANCHORS, weights=weights)
    except ValueError as error:
        _refuse_foreign(named_shapes(state), path)
        raise ValueError(f"{path}: {error}.") from None
    _refuse_foreign(named_shapes(state) if found is None else _shapes(found.tensors), path)
    if found is None:
        raise ValueError(f"{path}: not a checkpoint of a DiT ({_instead(state)}).")
    tensors = _in_released_names(found.tensors, path)
    network_found = recognised(_shapes(tensors))
    projectors = [name for name in found.tensors if name.startswith(f"{PROJECTORS}.")]
    notes = [*found.notes, *([f"left out the projectors of REPA ({len(projectors)} tensors)"] if projectors else [])]
    if notes and on_note:
        on_note(f"{path}: {'; '.join(notes)}")
    return Checkpoint(
        path=path,
        tensors=tensors,
        weights=found.weights,
        num_classes=_said_classes(state, tensors),
        found=network_found,
        origin=origin(state, found.tensors, network_found, path),
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _refuse_foreign(shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    other = foreign(shapes)
    if other is not None:
        raise AnotherNetwork(f"{path}: {other}.")


def _in_released_names(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a DiT, of any layout, if they are plain numbers."""
    odd = next((name for name, value in tensors.items() if not _is_plain(value)), None)
    if odd is not None:
        kind = type(tensors[odd]).__name__
        raise ValueError(f"{path}: {odd[:80]!r} holds no plain floating point numbers, as weights do, but a {kind}.")
    tensors = released_names(tensors, path)
    if "x_embedder.proj.weight" not in tensors:
        raise ValueError(f"{path}: not a checkpoint of a DiT ({_instead(tensors)}).")
    return tensors


def build_dit(checkpoint: Checkpoint, config: DiTConfig, *, on_note: Note | None = None) -> DiT:
    """The DiT of a checkpoint, in evaluation mode, on the CPU. Position table and errors as `load_dit`."""
    _refuse_other_shapes(checkpoint, config)
    with Unfilled():
        model = network(config)
    positions = _positions(checkpoint, model.pos_embed.detach(), on_note)
    model.load_state_dict({**checkpoint.tensors, "pos_embed": positions})
    return model.eval()


def _refuse_other_shapes(checkpoint: Checkpoint, config: DiTConfig) -> None:
    """Raise a ValueError if a checkpoint is of another model, or of other classes."""
    path = checkpoint.path
    with torch.device("meta"), Unfilled():
        needed = _shapes(network(config).state_dict())
    found = _shapes(checkpoint.tensors)
    stored, table = found.pop("pos_embed", None), needed.pop("pos_embed")
    if stored is not None and stored != table and found == needed:
        sizes = ""
        if len(stored) == 3 and stored[1] != table[1]:
            sizes = (
                f"its position table has {stored[1]} tokens, this model {table[1]}. The checkpoint is for images of "
                f"{_image_size(stored[1], config)} px; this model for {config.image_size} px."
            )
        raise ValueError(f"{path}: {sizes or f'its position table has shape {stored}; needed {table}.'}")
    if found != needed:
        raise ValueError(f"{path}: {_difference(found, needed, config, checkpoint.found)}")
    if checkpoint.num_classes not in (None, config.num_classes):
        raise ValueError(
            f"{path}: of {checkpoint.num_classes} classes, as the settings in it say; asked for {config.num_classes}. "
            f"Its label table has {found[_LABEL_TABLE][0]} rows."
        )


def _positions(checkpoint: Checkpoint, computed: Tensor, on_note: Note | None) -> Tensor:
    """The position table to use: the sine-cosine one that was computed, unless the file has another."""
    own = checkpoint.tensors.get("pos_embed")
    if own is None:
        return computed
    apart = (own.float() - computed).abs().max().item()
    if apart <= max(_POSITIONS_DRIFT, torch.finfo(own.dtype).eps):  # NaN is another one, too
        return computed
    if on_note:
        on_note(
            f"{checkpoint.path}: its position table is not the sine-cosine one (they differ by up to {apart:.2g}); it "
            "is used as stored"
        )
    return own


def labelled_config(config: DiTConfig, checkpoint: Checkpoint, *, num_classes: int | None = None) -> DiTConfig:
    """A configuration with the classes of a checkpoint, and with label dropout if it has a row for "no label".

    K is what the file says, else what is asked for, else that of `config` if the label table has K or K + 1 rows.

    Parameters
    ----------
    num_classes : K as asked for by name

    Raises
    ------
    ValueError
        If the file says another K than is asked for, or K cannot be told: a table of R rows is one of R classes, or of
        R - 1 and "no label".
    """
    table, said = checkpoint.tensors.get(_LABEL_TABLE), checkpoint.num_classes
    if table is None or table.ndim != 2 or not len(table):
        return config  # `build_dit` says what is wrong
    path, rows = checkpoint.path, table.shape[0]
    if None not in (said, num_classes) and said != num_classes:
        raise ValueError(
            f"{path}: of {said} classes, as the settings in it say; asked for {num_classes}. Leave `num_classes` out."
        )
    classes = said or num_classes or (1 if rows == 1 else config.num_classes)
    if rows not in (classes, classes + 1):
        raise ValueError(f"{path}: {_about_rows(rows, classes)}")
    dropout = (config.label_dropout or DiTConfig.label_dropout) if rows == classes + 1 else 0.0
    return replace(config, num_classes=classes, label_dropout=dropout)


def published_name(checkpoint: Checkpoint) -> str | None:
    """The name of a published network that a file is of, by its trainer if it says whose; None if it is of no such."""
    names = checkpoint.found.names if checkpoint.found else ()
    family = None if checkpoint.origin is None else checkpoint.origin.family
    return next((name for name in names if name.partition("-")[0] == family), next(iter(names), None))


def fitted_config(config: DiTConfig, checkpoint: Checkpoint) -> DiTConfig:
    """A configuration with the parts of a checkpoint: channels of the output, and those of a `LightningConfig`."""
    found = checkpoint.found
    if found is None:
        return config  # `build_dit` says what is wrong
    plain: dict[str, Any] = {each.name: getattr(config, each.name) for each in fields(DiTConfig)}
    plain |= {"learn_sigma": found.learn_sigma}
    if not isinstance(config, LightningConfig):
        return network_config(plain | found.parts)
    # SD-VAE's latents, on which LightningDiT was studied too, have 4 channels and an eighth of the side.
    if found.channels == 4 and config.in_channels != 4:
        plain |= {"in_channels": 4, "input_size": config.input_size * config.latent_factor // 8}
    return network_config(plain | found.parts | {"latent_factor": config.image_size // plain["input_size"]})


def _about_rows(rows: int, classes: int) -> str:
    """Why a label table is none of so many classes, and of how many it may be."""
    readings = f'{rows} classes and no row for "no label" (trained without label dropout)'
    choices = f"`num_classes` {rows}"
    if rows > 1:
        readings += f", or {rows - 1} classes and such a row"
        choices += f" or `num_classes` {rows - 1}"
    return (
        f"its label table has {rows} rows, and {classes} classes have {classes} or {classes + 1}. It is of {readings}; "
        f"the file does not say which. Pass {choices}."
    )


def _said_classes(state: Mapping[Any, object], tensors: Mapping[str, Tensor]) -> int | None:
    """K by the settings that a trainer keeps in its file, unless the label table is of another number."""
    table = tensors.get(_LABEL_TABLE)
    for key in _SETTINGS:
        settings = state.get(key)
        values = settings if isinstance(settings, Mapping) else getattr(settings, "__dict__", {})
        said = values.get("num_classes")
        if type(said) is int and said > 0 and table is not None and table.ndim and len(table) in (said, said + 1):
            return said
    return None


def _instead(state: Mapping[Any, object]) -> str:
    """What a file has that is no DiT, and what could be done."""
    names = sorted(map(str, state))
    text = ", ".join(shown(name[:80]) for name in names[:4]) or "nothing"
    text = f"found {text}, ...; needed x_embedder.proj.weight, ..."
    elsewhere = found_elsewhere(state, roots=_ROOTS, anchors=_ANCHORS)
    if elsewhere:
        text += f"; there is one under {elsewhere!r}, which is no wrapper that is known: save it in a file of its own"
    elif any(name.endswith("_flat_param") for name in names):
        text += "; FSDP has flattened its tensors: save its full state dict (StateDictType.FULL_STATE_DICT)"
    return text


def save_dit(path: str | os.PathLike[str], model: DiT, *, notes: Mapping[str, str] | None = None) -> None:
    """Write a model as safetensors that carry their configuration, atomically; the same model is the same bytes.

    Parameters
    ----------
    notes : text to keep in the file's metadata, such as how it was trained
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**(notes or {}), _CONFIG_KEY: json.dumps(model.config.to_dict())}
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    data = save(tensors, metadata=metadata)
    made = io.BytesIO(data)
    header = tensor_header(made)
    with atomic_file(path) as file:
        # safetensors writes metadata in an order that changes from call to call.
        file.writelines(tensor_file(header, memoryview(data)[made.tell() :]))


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
        return None if text is None else network_config(parse_json(text))
    except (ArithmeticError, RecursionError, TypeError, ValueError) as error:
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
        notes = parse_json(text)
        counts = (notes["step"], notes["recipe"]["batch_size"])
        if not all(type(count) is int and count > 0 for count in counts):
            raise ValueError(f"{counts[0]!r} steps of {counts[1]!r} images")
        if notes["weights"] not in ("ema", "model"):
            raise ValueError(f"weights {notes['weights']!r}, neither ema nor model")
        return dict(notes)
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: its notes on training cannot be read ({reason(error)}).") from None


def seed_and_recipe(notes: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """The seed of a training, and a digest of all else that decides its weights; each None where notes do not say.

    Parameters
    ----------
    notes : as `training_notes` gives them
    """
    recipe = notes["recipe"]
    seed = recipe.get("global_seed")
    if type(seed) is not int or not all(isinstance(notes.get(name), dict) for name in ("config", "data")):
        return None, None
    rest = {name: value for name, value in recipe.items() if name != "global_seed"}
    text = json.dumps({"config": notes["config"], "recipe": rest, "data": notes["data"]}, sort_keys=True)
    return seed, hashlib.sha256(text.encode()).hexdigest()[:16]


def _metadata(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries; none in another file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint.")
    if path.suffix != ".safetensors":
        return {}
    return stored_texts(path)


def read_state(path: Path, *, mapped: bool = False) -> dict[str, object]:
    """What a PyTorch or safetensors file holds: tensors, and plain containers of them.

    Parameters
    ----------
    mapped : see `dit_eval.system.tensors.load_tensors`

    Raises
    ------
    ValueError
        If it is neither, or needs anything else to be unpickled.
    """
    try:
        # A trainer's file carries its command line as a Namespace, which is a plain container.
        state = load_tensors(path, containers=(argparse.Namespace,), mapped=mapped)
    except ValueError as error:
        raise ValueError(f"{path}: not a PyTorch or safetensors checkpoint ({error}).") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds {type(state).__name__}; needed a state dict.")
    return state


def _is_plain(value: Tensor) -> bool:
    plain = type(value) in (Tensor, torch.nn.Parameter)  # no shards of parallel training, say
    return plain and value.device.type == "cpu" and value.layout == torch.strided and value.is_floating_point()


def _image_size(tokens: int, config: DiTConfig) -> int:
    return round(tokens**0.5) * config.patch_size * (config.image_size // config.input_size)


def _difference(
    found: dict[str, tuple[int, ...]], needed: dict[str, tuple[int, ...]], config: DiTConfig, other: Recognised | None
) -> str:
    """Why the shapes do not fit: the model they are of, if it is a published one, else the first differences."""
    if other is not None and other.names and other != recognised(needed):
        return (
            f"this is {other.words}; the model asked for has depth {config.depth}, hidden size "
            f"{config.hidden_size}, patch size {config.patch_size}, {config.block} blocks."
        )
    missing, unknown = sorted(needed.keys() - found.keys()), sorted(found.keys() - needed.keys())
    shapes_differ = sorted(key for key in found.keys() & needed.keys() if found[key] != needed[key])
    named_keys = (("missing", missing), ("unknown", unknown))
    notes = [f"{what} {shown(keys[0][:80])} and {len(keys) - 1} more" for what, keys in named_keys if keys]
    notes += [f"{shown(key)} is {found[key]}, needed {needed[key]}" for key in shapes_differ[:2]]
    text = f"not a checkpoint of the model asked for ({'; '.join(notes)})."
    if shapes_differ == [_LABEL_TABLE]:
        rows, dropout = found[_LABEL_TABLE][0], "with" if config.label_dropout else "without"
        text += (
            f" A label table of {rows} rows is of {rows} classes without label dropout, or of {rows - 1} with it; "
            f"asked for are {config.num_classes} {dropout} it."
        )
    return text
