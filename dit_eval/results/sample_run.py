"""`SampleRun`: how a file of samples was drawn, stored inside the file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dit_eval.results.parse import checked, json_text
from dit_eval.results.settings import LABEL_RULES, SamplingSettings
from dit_eval.system.environment import environment
from dit_eval.system.reading import NOT_OURS, parse_json
from dit_eval.system.text import reason

_OF_FLOWS = {
    "path", "prediction", "time", "diffusion_form", "diffusion_norm", "last_step", "last_step_size", "atol", "rtol",
    "timestep_shift",
}  # fmt: skip
_LATER = {"guidance_interval", "guide_ckpt", "guide_ckpt_sha256", "guide_network", "vae_latents"}
_OF_TRAINING = {"training_seed", "training_recipe"}  # of the checkpoint, whose checksum decides; they say what it is
# How sampling makes noise; a change of the rule is a change of all images and needs another text.
NOISE_RULE = "numpy Philox, key (seed, index), standard_normal float32; labels from key (seed, 2^63 + index)"


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What a run draws with: a network, the files that it is loaded from, and their SHA-256.

    Attributes
    ----------
    model : name of the paper, or of the file for another network
    network, image_size : the fields of its `DiTConfig`, and the side of its images in pixels
    checkpoint, checkpoint_sha256, weights : file name, checksum, and the set of weights that was taken from it
    vae, vae_sha256 : decoder and checksum; None in pixel space
    vae_latents : channels, factor, scale and shift of its latents; None for Stable Diffusion's, and in pixel space
    labels_sha256 : of the file of labels, if they are from one
    training_steps, training_batch_size, training_seed, training_recipe : as the checkpoint says; None if it does not
    guide_ckpt, guide_ckpt_sha256, guide_network : of a second network that guides; None if none does
    """

    model: str
    network: dict[str, Any]
    image_size: int
    checkpoint: str
    checkpoint_sha256: str
    weights: str
    vae: str | None = None
    vae_sha256: str | None = None
    labels_sha256: str | None = None
    training_steps: int | None = None
    training_batch_size: int | None = None
    training_seed: int | None = None
    training_recipe: str | None = None
    guide_ckpt: str | None = None
    guide_ckpt_sha256: str | None = None
    guide_network: dict[str, Any] | None = None
    vae_latents: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class SampleRun:
    """How a sample file was made; kept in the file as JSON text under the key `sample_run`.

    Everything that decides what image i is, and nothing that does not: batch size, number of processes and time are
    left out, so that the same run gives the same file wherever it was cut in pieces. The defaults are the paper's
    protocol without guidance.

    Attributes
    ----------
    model : name of the paper, or of the file for another network
    network : the fields of its `DiTConfig`
    checkpoint, checkpoint_sha256 : file name, hexadecimal SHA-256
    image_size : side in pixels
    weights : which set of a trainer's file, "ema" or "model"
    num_images : N
    num_sampling_steps : steps as asked for, such as "250" or "ddim50"
    sampler : "ddpm", "ddim" (eta = 0), or one of a flow, such as "ode-heun"
    cfg_scale, cfg_channels : guidance scale, 1.0 = none; channels it acts on, None without guidance
    guidance_interval : where it acts, in the sampler's own time (a flow) or in sigma (DDPM); None: everywhere
    guide_ckpt, guide_ckpt_sha256, guide_network : file name, SHA-256 and configuration of a second network that guides
        in place of the one without label; None if none does
    path, prediction, time : of a flow: the path, what the network predicts, and whose time it is told
    diffusion_form, diffusion_norm, last_step, last_step_size : of an SDE, as in SiT
    atol, rtol : of ode-dopri5
    timestep_shift : of an ODE's times, as in LightningDiT; None for none
    evaluations, guided_evaluations : of ode-dopri5, which chooses its steps: how often it asked the network for an
        image, and how often of these with guidance; means of the first images. They decide nothing
    vae, vae_sha256 : decoder name or file name, SHA-256 of its weights; None in pixel space
    vae_latents : channels, factor, scale and shift of its latents; None for Stable Diffusion's, and in pixel space
    vae_tiling : latents decoded in overlapping tiles, which changes pixels near the seams
    labels, labels_sha256 : "random", "balanced", or "file" and its checksum
    rounding : "dit" (127.5 x + 128, truncated) or "truncate" (127.5 (x + 1), truncated)
    global_seed : with an image's index, all that its noise and random label depend on
    noise : the rule that makes noise from seed and index
    precision : "fp32", "tf32" or "bf16"
    compiled : run through torch.compile
    device : "cpu" or "cuda"
    training_steps, training_batch_size : how long the weights were trained; None where the checkpoint does not say
    training_seed, training_recipe : the seed of that training, and a digest of all else that it was; None as before
    environment : versions, commit and machine of the process that wrote the file
    earlier_environments : those of interrupted processes that drew a part of it, where they differ
    """

    model: str
    network: dict[str, Any]
    checkpoint: str
    checkpoint_sha256: str
    image_size: int
    weights: str = "ema"
    num_images: int = 50_000
    num_sampling_steps: str = "250"
    sampler: str = "ddpm"
    cfg_scale: float = 1.0
    cfg_channels: int | None = None
    vae: str | None = None
    vae_sha256: str | None = None
    vae_tiling: bool = False
    labels: str = "random"
    labels_sha256: str | None = None
    rounding: str = "dit"
    global_seed: int = 0
    noise: str = NOISE_RULE
    precision: str = "fp32"
    compiled: bool = False
    device: str = "cpu"
    training_steps: int | None = None
    training_batch_size: int | None = None
    guidance_interval: tuple[float, float] | None = None
    guide_ckpt: str | None = None
    guide_ckpt_sha256: str | None = None
    guide_network: dict[str, Any] | None = None
    path: str | None = None
    prediction: str | None = None
    time: str | None = None
    diffusion_form: str | None = None
    diffusion_norm: float | None = None
    last_step: str | None = None
    last_step_size: float | None = None
    atol: float | None = None
    rtol: float | None = None
    timestep_shift: float | None = None
    vae_latents: dict[str, Any] | None = None
    evaluations: float | None = None
    guided_evaluations: float | None = None
    training_seed: int | None = None
    training_recipe: str | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    earlier_environments: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, settings: SamplingSettings, files: RunFiles, *, device: str) -> SampleRun:
        """The run of these settings with these files, on this machine."""
        settings = settings.completed()
        return cls(
            model=files.model,
            network=files.network,
            checkpoint=files.checkpoint,
            checkpoint_sha256=files.checkpoint_sha256,
            image_size=files.image_size,
            weights=files.weights,
            num_images=settings.num_images,
            num_sampling_steps=str(settings.num_sampling_steps),
            sampler=settings.rule,
            cfg_scale=float(settings.cfg_scale),
            cfg_channels=settings.guided_channels(files.network["in_channels"]),
            vae=files.vae,
            vae_sha256=files.vae_sha256,
            vae_tiling=settings.vae_tiling and files.vae is not None,
            labels=settings.labels if settings.labels in LABEL_RULES else "file",
            labels_sha256=files.labels_sha256,
            rounding=settings.rounding,
            global_seed=settings.global_seed,
            precision=settings.precision,
            compiled=settings.compiled,
            device=device.split(":")[0],
            training_steps=files.training_steps,
            training_batch_size=files.training_batch_size,
            training_seed=files.training_seed,
            training_recipe=files.training_recipe,
            guidance_interval=settings.guidance_interval,
            guide_ckpt=files.guide_ckpt,
            guide_ckpt_sha256=files.guide_ckpt_sha256,
            guide_network=files.guide_network,
            path=settings.path,
            prediction=settings.prediction,
            time=settings.time,
            diffusion_form=settings.diffusion_form,
            diffusion_norm=settings.diffusion_norm,
            last_step=settings.last_step,
            last_step_size=settings.last_step_size,
            atol=settings.atol,
            rtol=settings.rtol,
            timestep_shift=settings.timestep_shift,
            vae_latents=files.vae_latents,
            environment=environment(),
        )

    @property
    def settings(self) -> SamplingSettings:
        """The settings that ask for this run once more, of the same checkpoint; labels of a file are named "file".

        Raises
        ------
        ValueError
            If a record of another program has values that nobody can ask for.
        """
        recorded = {
            each.name: getattr(self, each.name)
            for each in dataclasses.fields(SamplingSettings)
            if each.name in _RECORDED
        }
        return SamplingSettings(**recorded, vae=self.vae or SamplingSettings.vae)

    def to_dict(self) -> dict[str, Any]:
        """Every field, but for options that came later and are not in use: earlier editions know no such fields."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None or name in _FIRST}

    def to_json(self) -> str:
        """One line of JSON, of `to_dict`."""
        return json_text(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> SampleRun:
        """The run that `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not such a run.
        """
        try:
            return cls._from_dict(parse_json(text))
        except NOT_OURS as error:
            raise ValueError(f"Not the description of a sampling run ({reason(error)}): {text[:80]!r}") from None

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> SampleRun:
        lists = {name: tuple(data[name]) for name in _TUPLES if data.get(name) is not None}
        run = checked(cls(**data | lists))
        for field_ in dataclasses.fields(run):
            value = getattr(run, field_.name)
            if isinstance(value, str) and not value.isprintable():  # it is shown on terminals
                raise TypeError(f"{field_.name} is {value[:80]!a}, which is no line of text")
        return run

    def differences(self, other: SampleRun) -> list[str]:
        """What makes image i of the two runs differ, as "name: mine, theirs"; environments are not compared."""
        return [
            f"{name}: {getattr(self, name)!r}, {getattr(other, name)!r}"
            for name in _DECISIVE
            if getattr(self, name) != getattr(other, name)
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """What decides image i; without fields that are as by default, so that a new field changes no earlier run."""
        fields = {each.name: each.default for each in dataclasses.fields(self)}
        return {name: getattr(self, name) for name in _DECISIVE if getattr(self, name) != fields[name]}

    def summary(self) -> str:
        """A few words for a line of output: model, steps, guidance, seed."""
        guidance = "no guidance" if self.cfg_scale == 1.0 else f"cfg {self.cfg_scale:.2f}"
        if self.guidance_interval is not None:
            guidance += " in {:g} to {:g}".format(*self.guidance_interval)
        if self.guide_ckpt is not None:
            guidance += f" by {self.guide_ckpt}"
        sampler = {"ddpm": "", "ddim": " DDIM"}.get(self.sampler, f" {self.sampler}")
        # A solver that chooses its steps is told how exact to be; what it visits between is of no matter.
        steps = f"{self.num_sampling_steps}{sampler} steps" if self.rtol is None else f"{self.sampler} to {self.rtol:g}"
        return f"{self.model}, {steps}, {guidance}, seed {self.global_seed}"


_COUNTED = {"evaluations", "guided_evaluations"}
# Fields of the first edition's files, which are written whatever they are.
_FIRST = {
    each.name for each in dataclasses.fields(SampleRun) if each.name not in _LATER | _OF_FLOWS | _COUNTED | _OF_TRAINING
}
_TUPLES = ("earlier_environments", "guidance_interval")  # JSON has lists
# Fields of a run that are those of its settings, under the same name and with the same meaning.
_RECORDED = {each.name for each in dataclasses.fields(SampleRun)} - {"vae"}
# Fields that decide what image i is.
_DECISIVE = tuple(
    each.name
    for each in dataclasses.fields(SampleRun)
    if each.name not in {"num_images", "environment", "earlier_environments"} | _COUNTED | _OF_TRAINING
)
