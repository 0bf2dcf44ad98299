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

from dit_eval.models import MODELS
from dit_eval.models.checkpoints import (
    AnotherNetwork,
    Checkpoint,
    fitted_config,
    labelled_config,
    open_checkpoint,
    published_name,
    seed_and_recipe,
    stored_config,
    training_notes,
)
from dit_eval.models.config import BLOCK_DESIGNS, DiTConfig, named_config, paper_name
from dit_eval.models.latent_space import LatentSpace
from dit_eval.models.names import DEFAULT_MODEL, LIGHTNING_FAMILY, PAPER_FAMILY, SIT_FAMILY, ModelName, parse_name
from dit_eval.models.vae_files import DECODERS, weights_file
from dit_eval.system.assets import Asset, assets
from dit_eval.system.text import did_you_mean, reason, shown

Weights = Literal["ema", "model"]
# Networks on DiT's backbone that predict a flow's velocity.
FLOW_FAMILIES = (SIT_FAMILY, LIGHTNING_FAMILY)
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
    latents : that the weights were trained on, as the checkpoint says; None if it does not, or in pixel space
    decoder : the latents of the autoencoder that goes with it, once that is known
    flow : of a checkpoint that was trained here as a flow, the fields of its `FlowRecipe`
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
    latents: LatentSpace | None = None
    decoder: LatentSpace | None = None
    flow: dict[str, Any] | None = None
    training_seed: int | None = None
    training_recipe: str | None = None

    def on(self, latents: LatentSpace, *, vae: str) -> ModelChoice:
        """The same on the latents of an autoencoder, which a checkpoint takes that does not say its configuration.

        Parameters
        ----------
        vae : what the autoencoder is called

        Raises
        ------
        ValueError
            If the network takes other latents, or the image size is no multiple of the autoencoder's factor.
        """
        config = self.config
        if config.space != "latent":
            return self
        if not self.described:
            side = latents.input_size(config.image_size)
            config = dataclasses.replace(
                config, in_channels=latents.channels, input_size=side, latent_factor=latents.factor
            )
        check_latents(config, latents, vae=vae, whose=str(self.path))
        if self.latents is not None and (self.latents.scale, self.latents.shift) != (latents.scale, latents.shift):
            raise ValueError(
                f"`vae` {shown(vae)}: latents by {latents.scaling}; {self.path} was trained on latents by "
                f"{self.latents.scaling}. Pass the autoencoder by which they were encoded, and what lay beside it."
            )
        return dataclasses.replace(self, config=config, decoder=latents)

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
        _refuse_another_family(self.name, checkpoint)
        self._check_channels(checkpoint)
        config = self.config if self.family == PAPER_FAMILY else fitted_config(self.config, checkpoint)
        return checkpoint, labelled_config(config, checkpoint, num_classes=num_classes)

    @property
    def family(self) -> str:
        """The family of a published network by its name; DiT for any other."""
        return next((model.family for model in MODELS if model.name == self.name), PAPER_FAMILY)

    def _check_channels(self, checkpoint: Checkpoint) -> None:
        """ValueError if the weights, of the network asked for, take other channels than the autoencoder makes."""
        shape, config = tuple(checkpoint.tensors["x_embedder.proj.weight"].shape), self.config
        if self.decoder is None or shape != (config.hidden_size, *shape[1:2], config.patch_size, config.patch_size):
            return  # `build_dit` says what is wrong
        found, made = shape[1], self.decoder.channels
        if found != made:
            raise ValueError(
                f"{self.path}: takes {found} channels, and the autoencoder makes {made}. Pass by `vae` the autoencoder "
                "that it was trained with."
            )


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
        latents=_latents_of(notes, path),
        flow=notes["recipe"].get("flow") if notes else None,
        training_seed=seed,
        training_recipe=recipe,
    )


def check_latents(config: DiTConfig, latents: LatentSpace, *, vae: str, whose: str) -> None:
    """Refuse an autoencoder whose latents a network does not take.

    Parameters
    ----------
    vae, whose : what the autoencoder and the network are called

    Raises
    ------
    ValueError
        With the latents of both.
    """
    takes = LatentSpace(channels=config.in_channels, factor=config.latent_factor)
    if (takes.channels, takes.factor) != (latents.channels, latents.factor):
        raise ValueError(
            f"`vae` {shown(vae)}: makes latents of {latents.words}; {whose} takes {takes.words}. Pass the autoencoder "
            "that it was trained with."
        )


def _refuse_another_family(name: str, checkpoint: Checkpoint) -> None:
    """ValueError if a file is of a network of another family than is asked for, or was trained by its program."""
    family = name.partition("-")[0]
    path, found, origin = checkpoint.path, checkpoint.found, checkpoint.origin
    if found is not None and found.parts and (family == PAPER_FAMILY or (family == SIT_FAMILY and found.is_lightning)):
        instead = f"Pass `model` {found.names[0]}." if found.names else "No published model has its depth and width."
        raise ValueError(f"{path}: this is {found.words}; asked for {name}. {instead}")
    if origin is None:
        return
    if origin.family != family:
        raise ValueError(
            f"{path}: trained by {origin.program}'s program, by {origin.said_by}; asked for {name}. Pass `model` "
            f"{published_name(checkpoint) or f'{origin.family}-XL/2, say'}."
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
    vae : "ema", "mse", "original" or "flux", or a file or folder, which goes first

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
    if not model:
        return None, None if has_ckpt else named_config(DEFAULT_MODEL, image_size=image_size or 256)
    published = {each.name: each for each in MODELS if each.family in (PAPER_FAMILY, *FLOW_FAMILIES)}
    if model in published:
        config = published[model].config(image_size=image_size)
        return None, config if isinstance(config, DiTConfig) else None
    name = parse_name(model)
    if has_ckpt and name is not None and not name.is_papers and name.family not in FLOW_FAMILIES:
        return name, None
    raise ValueError(f"Unknown model {model!r}; known: {', '.join(published)}.{did_you_mean(model, published)}")


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
        raise ValueError(
            f"{path}: does not say which model it is of; pass `model`, such as `model` {_by_tensors(path)}."
        )
    return model, named


def _latents_of(notes: dict[str, Any] | None, path: Path) -> LatentSpace | None:
    """The latents that a file of `dit-eval train` was trained on; None of pixels, and of files of others."""
    data = notes.get("data") if notes else None
    if not isinstance(data, dict) or data.get("kind") != "latents":
        return None
    try:
        return LatentSpace.of(data.get("latents"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: its notes on training cannot be read ({reason(error)}).") from None


def _by_tensors(path: Path) -> str:
    """What to pass for a checkpoint: the published models that its tensors are of, or the paper's largest."""
    try:
        checkpoint = open_checkpoint(path)
    except AnotherNetwork:
        raise
    except (OSError, ValueError):  # that is told once a model is named
        return DEFAULT_MODEL
    name, found = published_name(checkpoint), checkpoint.found
    return DEFAULT_MODEL if name is None or found is None else f"{name}; by its tensors it is {found.words}"


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
