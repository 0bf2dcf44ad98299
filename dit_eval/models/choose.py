"""What a name of a model, a checkpoint, a block design and a decoder mean together: which network, from which file.

A checkpoint of ours says what it is of, and the public ones are known; any other needs the name of a model of the
paper. Nothing is fetched here: a public file need not be on this machine yet.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dit_eval.models.checkpoints import (
    Checkpoint,
    labelled_config,
    open_checkpoint,
    seed_and_recipe,
    stored_config,
    training_notes,
)
from dit_eval.models.config import BLOCK_DESIGNS, DiTConfig, named_config, paper_name
from dit_eval.models.names import DEFAULT_MODEL, ModelName, parse_name
from dit_eval.models.vae import DECODERS, weights_file
from dit_eval.system.assets import Asset, assets
from dit_eval.system.text import did_you_mean

Weights = Literal["ema", "model"]
_SHAPE = ("depth", "hidden_size", "num_heads", "patch_size")  # what a name of the paper says of a model


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A network and the checkpoint that it is loaded from.

    Attributes
    ----------
    name : of the paper, or what the model is to be called
    config : as far as it is known before tensors are read
    path : of the checkpoint
    public : the file to fetch, if the checkpoint is a public one; it need not be here yet
    described : whether the checkpoint says its configuration, or is a public one; else its label table settles K
    weights : the set of weights to take
    training_steps, training_batch_size : as the checkpoint says; None if it does not, or is not here
    training_seed, training_recipe : likewise; see `dit_eval.models.checkpoints.seed_and_recipe`
    """

    name: str
    config: DiTConfig
    path: Path
    public: Asset | None
    described: bool
    weights: Weights
    training_steps: int | None = None
    training_batch_size: int | None = None
    training_seed: int | None = None
    training_recipe: str | None = None

    def open(
        self, *, num_classes: int | None = None, on_note: Callable[[str], None] | None = None
    ) -> tuple[Checkpoint, DiTConfig]:
        """Read the checkpoint, and settle how many classes the network has.

        Parameters
        ----------
        num_classes : K as asked for by name
        on_note : told what wrappers were taken off, and what was left out

        Raises
        ------
        FileNotFoundError, ValueError
            If the checkpoint is none of a DiT, or its classes cannot be told.
        """
        checkpoint = open_checkpoint(self.path, weights=self.weights, on_note=on_note)
        if self.described:
            return checkpoint, self.config
        return checkpoint, labelled_config(self.config, checkpoint, num_classes=num_classes)


def choose_model(
    model: str | None = None,
    ckpt: str | os.PathLike[str] | None = None,
    *,
    weights: Weights = "ema",
    image_size: int | None = None,
    num_classes: int | None = None,
    block: str | None = None,
) -> ModelChoice:
    """The network that a name and a checkpoint mean together.

    Parameters
    ----------
    model : name of the paper, such as "DiT-XL/2"; or such as "mini-XL/4", for a checkpoint that says what it is
    ckpt : file, or name of a public checkpoint; by default the public one of the model at its size
    weights : which of a trainer's two sets
    image_size, num_classes, block : where they are not what the checkpoint says, or 256, 1000 and "adaln-zero"

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint.
    ValueError
        If there is no such model or block design, the checkpoint is of another model, or what it is of cannot be told.
    """
    check_block(block)
    asked = _given({"block": block, "num_classes": num_classes})
    own, named = _by_name(model, image_size, has_ckpt=bool(ckpt))
    path, item = _checkpoint(model, ckpt, image_size, special=bool(asked))
    public = item if item is not None and item.url is not None else None
    # All public checkpoints but our own are of this model.
    stored = named_config(DEFAULT_MODEL, image_size=_size_in_name(public)) if public else stored_config(path)
    if stored is None:
        name, config = _not_described(model, named, path, own=own is not None)
        config = dataclasses.replace(config, **asked)
    else:
        name, config = model or paper_name(stored) or path.stem, stored
        _refuse_other(stored, asked | _meant(own, named, image_size), whose=item.name if item else str(path))
    notes = training_notes(path) if path.is_file() else None
    seed, recipe = seed_and_recipe(notes) if notes else (None, None)
    return ModelChoice(
        name=name,
        config=config,
        path=path,
        public=public,
        described=stored is not None,
        weights=_weights_of(notes, weights, path),
        training_steps=notes["step"] if notes else None,
        training_batch_size=notes["recipe"]["batch_size"] if notes else None,
        training_seed=seed,
        training_recipe=recipe,
    )


def check_block(block: str | None) -> None:
    """Refuse a block design that there is not.

    Raises
    ------
    ValueError
        With the designs there are, and the nearest.
    """
    if block is not None and block not in BLOCK_DESIGNS:
        known = ", ".join(BLOCK_DESIGNS)
        raise ValueError(f"`block` {block}: unknown; known: {known}.{did_you_mean(block, BLOCK_DESIGNS)}")


def choose_decoder(vae: str) -> Path | Asset:
    """The file of a decoder, or the public one that is to be fetched.

    Parameters
    ----------
    vae : "ema", "mse" or "original", or a file or folder, which goes first

    Raises
    ------
    FileNotFoundError
        If it is none of them.
    """
    if vae in DECODERS and not Path(vae).exists():
        return next(item for item in assets() if item.name == DECODERS[vae])
    return weights_file(Path(vae))


def is_checkpoint(text: str) -> bool:
    """Whether a text means a checkpoint, a file or a public one, and no name of a model."""
    return text.startswith("dit-") or bool(Path(text).suffix) or Path(text).exists()


def _by_name(model: str | None, image_size: int | None, *, has_ckpt: bool) -> tuple[ModelName | None, DiTConfig | None]:
    """What a name says: parts of one such as mini-XL/4, for a checkpoint of that kind; or the paper's configuration."""
    name = parse_name(model or "")
    if has_ckpt and name is not None and not name.is_papers:
        return name, None
    if has_ckpt and not model:
        return None, None
    return None, named_config(model or DEFAULT_MODEL, image_size=image_size or 256)


def _meant(own: ModelName | None, named: DiTConfig | None, image_size: int | None) -> dict[str, Any]:
    """What the configuration of a checkpoint has to have, by the name and the size that were given."""
    fields = {} if named is None else {field: getattr(named, field) for field in _SHAPE}
    return fields | _given({"patch_size": own.patch if own else fields.get("patch_size"), "image_size": image_size})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _checkpoint(
    model: str | None, ckpt: str | os.PathLike[str] | None, image_size: int | None, *, special: bool
) -> tuple[Path, Asset | None]:
    """The file of a checkpoint, and what the manifest says of it; `special` models have no public one."""
    public = {item.name: item for item in _public_checkpoints()}
    if ckpt is None:
        ckpt = f"dit-xl-2-{image_size or 256}"
        if model not in (None, DEFAULT_MODEL) or ckpt not in public or special:
            raise ValueError(f"No public checkpoint of this model (there are: {', '.join(public)}); pass `ckpt` FILE.")
    path, item = Path(ckpt), public.get(os.fspath(ckpt))
    if path.exists():
        return path, None
    if item is not None:
        return item.path, item
    if not path.suffix:
        hint = did_you_mean(path.name, public)
        raise FileNotFoundError(
            f"`ckpt` {ckpt}: neither a file nor a public checkpoint; known: {', '.join(public)}.{hint}"
        )
    return path, None


def _public_checkpoints() -> list[Asset]:
    """Checkpoints of the manifest: public ones, and the embedded one."""
    return [item for item in assets() if item.kind == "weights" and item.name.startswith("dit-")]


def _size_in_name(item: Asset) -> int:
    """Pixels of a public checkpoint, such as "dit-xl-2-512"."""
    return int(item.name.rpartition("-")[2])


def _not_described(model: str | None, named: DiTConfig | None, path: Path, *, own: bool) -> tuple[str, DiTConfig]:
    """Name and configuration of a checkpoint that does not say what it is of."""
    if own:
        raise ValueError(f"{path}: does not say its configuration, and {model} is no model of the paper.")
    if named is None or model is None:
        raise ValueError(f"{path}: does not say which model it is of; pass `model`, such as `model` {DEFAULT_MODEL}.")
    return model, named


def _refuse_other(stored: DiTConfig, asked: dict[str, Any], *, whose: str) -> None:
    wrong = [f"{k} {getattr(stored, k)}, asked for {v}" for k, v in asked.items() if getattr(stored, k) != v]
    if wrong:
        raise ValueError(f"{whose}: of another model ({'; '.join(wrong)}). Leave these out to take what it says.")


def _weights_of(notes: dict[str, Any] | None, weights: Weights, path: Path) -> Weights:
    """The set to take: a file of `dit-eval train` holds one, and says which."""
    if notes is None or notes["weights"] == weights:
        return weights
    if weights == "model":
        raise ValueError(
            f"{path} holds averaged weights (ema), and `weights` model asks for the others: pass the file "
            f"{path.name.replace('ema-', 'model-')} beside it."
        )
    return "model"
