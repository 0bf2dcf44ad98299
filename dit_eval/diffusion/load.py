"""From settings to a sampler: choose a network, find mistakes early, fetch, load, and write down what is drawn with.

The order is that of cost: what can be judged without a file comes first, then the checkpoint, then the download of the
decoder.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from dit_eval.diffusion.labels import draw_labels, read_labels
from dit_eval.diffusion.origin import check_answer, check_family, check_origin
from dit_eval.diffusion.recipe import FlowRecipe
from dit_eval.diffusion.sampler import Decoder, ImageSampler, check_sampling
from dit_eval.diffusion.trained import as_trained
from dit_eval.diffusion.written import check_weights
from dit_eval.models.checkpoints import build_dit, stored_config
from dit_eval.models.choose import ModelChoice, Weights, choose_decoder, choose_model
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT
from dit_eval.models.latent_space import LatentSpace
from dit_eval.models.vae import Autoencoder
from dit_eval.models.vae_files import latents_of
from dit_eval.results.sample_run import RunFiles, SampleRun
from dit_eval.results.settings import LABEL_RULES, SamplingSettings
from dit_eval.system.assets import Asset, assets, fetch, sha256_of
from dit_eval.system.dist import World
from dit_eval.system.files import Watch
from dit_eval.system.progress import Progress, write_stderr
from dit_eval.system.text import reason, shown


def choose_and_check(
    model: str | None, ckpt: str | os.PathLike[str] | None, settings: SamplingSettings, *, device: str
) -> ModelChoice:
    """The model to draw from, and all mistakes that show before its tensors are read, or fetched.

    Parameters
    ----------
    model, ckpt : see `dit_eval.models.choose.choose_model`

    Raises
    ------
    FileNotFoundError, ValueError
        As `dit_eval.sampling.sample`.
    """
    choice = choose_model(
        model,
        ckpt,
        weights=settings.weights,
        image_size=settings.image_size,
        num_classes=settings.num_classes,
        block=settings.block,
    )
    settings = _as_trained(choice, settings)
    check_family(choice.family, settings, whose=f"{shown(choice.name)}, {choice.path}")
    choice = _on_its_latents(choice, settings)
    check_sampling(settings, choice.config, device=device)
    _check_clock(choice, settings)
    _choose_guide(choice, settings)
    if not choice.path.is_file():  # the classes of a public checkpoint are known; another file may say its own
        _labels(settings, choice.config)
    return choice


def _on_its_latents(choice: ModelChoice, settings: SamplingSettings) -> ModelChoice:
    """The model on what the autoencoder makes, if it is one of latents."""
    if choice.config.space != "latent":
        return choice
    return choice.on(latents_of(choose_decoder(settings.vae)), vae=settings.vae)


def _as_trained(choice: ModelChoice, settings: SamplingSettings) -> SamplingSettings:
    """The settings, with what weights that were trained here as a flow say of it. Errors as `as_trained`."""
    if choice.flow is None:
        return settings.completed() if settings.sampler is None else settings
    try:
        flow = FlowRecipe(**choice.flow)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{choice.path}: its notes on training cannot be read ({reason(error)}).") from None
    return as_trained(settings, flow, whose=f"{shown(choice.name)}, {choice.path}")


def _check_clock(choice: ModelChoice, settings: SamplingSettings) -> None:
    """ValueError if a flow of the velocity is asked for of weights that are known to predict noise."""
    ours = any(choice.path == item.path for item in assets() if item.kind == "weights")
    known = ours or (choice.training_steps is not None and choice.flow is None)
    if known and settings.is_flow and settings.completed().time != "ddpm":
        raise ValueError(
            f"{shown(choice.name)}, {choice.path}: trained by DDPM, and the sampler {settings.sampler} takes it for a "
            "flow's. Pass `time` ddpm to follow the flow of its noise."
        )


def load_sampler(
    choice: ModelChoice, settings: SamplingSettings, *, device: str, world: World | None = None, quiet: bool = False
) -> tuple[ImageSampler, np.ndarray]:
    """Fetch and load what a run needs; called by every process of the run.

    Returns
    -------
    The sampler, with its run, and the label of each image, int64 (N,).

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        As `dit_eval.sampling.sample`; also if a file is written to while it is in use.
    """
    world = world or World()
    settings = _as_trained(choice, settings)
    weaker = _choose_guide(choice, settings)
    watch, voice = Watch(), _Voice(aloud=world.rank == 0 and not quiet)
    model, weights = world.first_then_all(lambda: _load_model(choice, settings, device, watch, voice))
    found = dataclasses.replace(choice, config=model.config, weights=weights)
    guide = None
    if weaker is not None:
        guide, _ = world.first_then_all(partial(_load_model, weaker, settings, device, watch, voice))
        _check_guide(weaker, guide.config, model.config)
        weaker, guide = dataclasses.replace(weaker, config=guide.config), guide.to(device)
    run, labels, vae = world.from_first(lambda: _describe(found, weaker, settings, device, watch, voice))
    model = model.to(device)
    decode = None
    if vae is not None:
        decode = world.first_then_all(lambda: _load_decoder(vae, settings, device, voice))
    world.barrier()
    world.from_first(watch.check)  # of the run's checksums and of what all processes have loaded
    return ImageSampler(model, run, decode=decode, guide=guide), labels


def _choose_guide(choice: ModelChoice, settings: SamplingSettings) -> ModelChoice | None:
    """The second model, if one guides. It may be of another size, which its checkpoint says, or is the first one's."""
    if settings.guide_ckpt is None:
        return None
    path = Path(settings.guide_ckpt)
    described = not path.is_file() or stored_config(path) is not None
    try:
        guide = choose_model(
            None if described else choice.name,
            settings.guide_ckpt,
            weights=settings.weights,
            image_size=settings.image_size,
            num_classes=settings.num_classes,
            block=None if described else settings.block,
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(str(error).replace("`ckpt`", "`guide_ckpt`")) from None
    guide = _on_its_latents(guide, settings)
    if None not in (choice.training_steps, guide.training_steps):
        _check_same_objective(guide, choice)
    return guide


def _check_same_objective(guide: ModelChoice, choice: ModelChoice) -> None:
    """ValueError if two checkpoints that were trained here predict different things."""
    said = [
        "noise of DDPM" if each.flow is None else "{prediction} of a flow, path {path}, time {time}".format(**each.flow)
        for each in (guide, choice)
    ]
    if said[0] != said[1]:
        raise ValueError(
            f"`guide_ckpt` {guide.path}: predicts {said[0]}; the model that it is to guide predicts {said[1]}. Take "
            "one that was trained for the same."
        )


def _check_guide(guide: ModelChoice, config: DiTConfig, model: DiTConfig) -> None:
    """ValueError if a model cannot guide the other: they draw the same things, whatever their size."""
    for name in ("space", "in_channels", "input_size", "num_classes"):
        found, expected = getattr(config, name), getattr(model, name)
        if found != expected:
            raise ValueError(
                f"`guide_ckpt` {guide.path}: {name} {found}; the model that it is to guide has {expected}. Take one "
                "that was trained on the same data."
            )


@dataclass(frozen=True, kw_only=True)
class _Voice:
    """What a run says of itself on stderr, if it speaks."""

    aloud: bool

    def say(self, text: str) -> None:
        if self.aloud:
            write_stderr(f"{text}\n")

    @property
    def note(self) -> Callable[[str], None] | None:
        return (lambda text: self.say(f"note: {text}")) if self.aloud else None

    def progress(self, in_bytes: str = "checksums") -> Progress:
        return Progress(in_bytes=(in_bytes,), stream=None if self.aloud else io.StringIO())

    def fetch(self, item: Asset) -> Path:
        with self.progress(item.name) as progress:
            return fetch(item, on_progress=partial(progress.update, item.name))


def _load_model(
    choice: ModelChoice, settings: SamplingSettings, device: str, watch: Watch, voice: _Voice
) -> tuple[DiT, Weights]:
    """The model, and which set of weights it has."""
    if choice.public is not None:
        voice.fetch(choice.public)
    watch.see(choice.path)
    about = f"{shown(choice.name)}, {choice.config.image_size} px, on {device.split(':')[0]}"
    voice.say(f"model  {about}: checkpoint {choice.path}")
    checkpoint, config = choice.open(num_classes=settings.num_classes, on_note=voice.note)
    check_origin(checkpoint.origin, settings, whose=str(choice.path))
    check_sampling(settings, config, device=device)  # once more: it may have no label for "no label"
    if not config.label_dropout:
        none = f'{config.num_classes} classes, and none for "no label": it draws without guidance'
        voice.say(f"note: {choice.path}: {none}")
    model = build_dit(checkpoint, config, on_note=voice.note)
    if checkpoint.origin is None and not choice.described:
        check_answer(model, settings, whose=str(choice.path))
    return model, checkpoint.weights or choice.weights


def _describe(
    choice: ModelChoice,
    guide: ModelChoice | None,
    settings: SamplingSettings,
    device: str,
    watch: Watch,
    voice: _Voice,
) -> tuple[SampleRun, np.ndarray, Path | None]:
    """The run, its labels, and its decoder, which is fetched when all else is right."""
    labels, labels_sha256 = _labels(settings, choice.config)
    vae, latents = None, LatentSpace()
    if choice.config.space == "latent":
        decoder = choose_decoder(settings.vae)
        latents = latents_of(decoder)
        vae = voice.fetch(decoder) if isinstance(decoder, Asset) else decoder
        watch.see(vae)
    with voice.progress() as progress:
        report = partial(progress.update, "checksums")
        checkpoint_sha256 = sha256_of(choice.path, report)
        check_weights(choice.path, checkpoint_sha256)
        files = RunFiles(
            model=shown(choice.name),
            network=choice.config.to_dict(),
            image_size=choice.config.image_size,
            checkpoint=shown(choice.path.name),
            checkpoint_sha256=checkpoint_sha256,
            weights=choice.weights,
            vae=shown(Path(settings.vae).name) if vae else None,
            vae_sha256=sha256_of(vae, report) if vae else None,
            vae_latents=latents.record,
            labels_sha256=labels_sha256,
            training_steps=choice.training_steps,
            training_batch_size=choice.training_batch_size,
            training_seed=choice.training_seed,
            training_recipe=choice.training_recipe,
            guide_ckpt=shown(guide.path.name) if guide else None,
            guide_ckpt_sha256=sha256_of(guide.path, report) if guide else None,
            guide_network=guide.config.to_dict() if guide else None,
        )
    return SampleRun.of(settings, files, device=device), labels, vae


def _load_decoder(path: Path, settings: SamplingSettings, device: str, voice: _Voice) -> Decoder:
    return Autoencoder(path, device=device, tiling=settings.vae_tiling, on_note=voice.note).decode


def _labels(settings: SamplingSettings, config: DiTConfig) -> tuple[np.ndarray, str | None]:
    """The label of each image, and the SHA-256 of their file, if they come from one."""
    count, classes = settings.num_images, config.num_classes
    if settings.labels not in LABEL_RULES:
        return read_labels(settings.labels, num_images=count, num_classes=classes)
    rule: Literal["random", "balanced"] = "balanced" if settings.labels == "balanced" else "random"
    return draw_labels(rule, num_images=count, num_classes=classes, seed=settings.global_seed), None
