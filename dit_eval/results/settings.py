"""What a run is asked for, each thing stated once: its name, type, default, bounds and help.

The command line and the plans of studies are derived from these classes; see `dit_eval.system.settings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from dit_eval.system.settings import check_settings

LABEL_RULES = ("random", "balanced")
Sampler = Literal["ddpm", "ddim", "ode-euler", "ode-heun", "ode-dopri5", "sde-euler", "sde-heun"]
# The greatest numbers that are taken. Nothing sensible comes near them; a slip of the hand, or a number of another
# option, would end in days of work or in all memory, so it is refused before anything is done.
MOST_SEED = (1 << 63) - 1  # the other half of 64 bits is for the streams of labels
MOST_IMAGES = 10_000_000  # each has its label drawn and a place in memory before the first; 256 px take 2 TB
MOST_PIXELS = 16_384  # of a side: the image alone has 800 MB, as it is stored
MOST_CROPPED = 8_192  # of a side, when images of any size are cut: as large as one that is read
MOST_CLASSES = 1_000_000  # each has a row in the table of a model; ImageNet-21K has 21,841
MOST_CHANNELS = 4_096  # latents have 4 to 32
MOST_AT_ONCE = 65_536  # images of 256 px in float32: 50 GB
MOST_THREADS = 1_024  # of a process; the system may start no more
MOST_TASKS = 10_000  # at once: what a Slurm cluster has in an array


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How images are drawn from a DiT: which of its weights, how many images, by which rules.

    The defaults are the paper's 250 steps of DDPM with guidance 1.5, for FID-50K. What is None follows from the model.

    Raises
    ------
    ValueError
        If a value is of another type, or out of its bounds.
    """

    weights: Annotated[Literal["ema", "model"], Meta(description="which set of a trainer's file")] = "ema"
    image_size: (
        Annotated[int, Meta(ge=1, le=MOST_PIXELS, description="pixels; default: what the checkpoint says, else 256")]
        | None
    ) = None
    num_classes: (
        Annotated[int, Meta(ge=1, le=MOST_CLASSES, description="default: what the checkpoint says, else 1000")] | None
    ) = None
    block: Annotated[str, Meta(description="block design of the model (default: adaln-zero)")] | None = None
    num_images: Annotated[int, Meta(ge=1, le=MOST_IMAGES, description="images to draw")] = 50_000
    num_sampling_steps: Annotated[str | int, Meta(description='steps of 1000, or "ddimS"')] = "250"
    cfg_scale: Annotated[float, Meta(ge=1.0, description="guidance scale; 1.0: no guidance")] = 1.5
    cfg_channels: (
        Annotated[int, Meta(ge=1, le=MOST_CHANNELS, description="channels guided (default: 3, as the paper)")] | None
    ) = None
    guidance_interval: (
        Annotated[tuple[float, float], Meta(description="guide only from LOW to HIGH: times of a flow, sigmas of DDPM")]
        | None
    ) = None
    guide_ckpt: Annotated[str, Meta(description="a weaker model that guides in place of no label")] | None = None
    sampler: (
        Annotated[Sampler, Meta(description="rule of a step (default: ddpm, or a flow's sde-euler); ddim: eta = 0")]
        | None
    ) = None
    path: (
        Annotated[Literal["linear", "gvp", "vp"], Meta(description="of a flow (default: linear; of ddpm's time: vp)")]
        | None
    ) = None
    prediction: (
        Annotated[
            Literal["velocity", "score", "noise"],
            Meta(description="of a flow's network (default: velocity; in ddpm's time: noise)"),
        ]
        | None
    ) = None
    time: (
        Annotated[
            Literal["sit", "repa", "ddpm"],
            Meta(description="of a flow's network: 1 is data (sit, the default) or noise (repa), or DDPM's steps"),
        ]
        | None
    ) = None
    diffusion_form: (
        Annotated[
            Literal["constant", "sbdm", "sigma", "linear", "decreasing", "increasing-decreasing"],
            Meta(description="noise of an SDE by time, as SiT names it (default: sigma; in repa's time: linear)"),
        ]
        | None
    ) = None
    diffusion_norm: Annotated[float, Meta(gt=0, description="its factor (default: 1)")] | None = None
    last_step: (
        Annotated[
            Literal["mean", "tweedie", "euler", "none"], Meta(description="how an SDE ends, as in SiT (default: mean)")
        ]
        | None
    ) = None
    last_step_size: (
        Annotated[float, Meta(gt=0, lt=1, description="of time that the last step takes (default: 0.04)")] | None
    ) = None
    timestep_shift: (
        Annotated[float, Meta(gt=0, description="of an ODE's times, as LightningDiT: S t / (1 + (S - 1) t)")] | None
    ) = None
    atol: Annotated[float, Meta(gt=0, description="error allowed in a step of ode-dopri5 (default: 1e-6)")] | None = (
        None
    )
    rtol: Annotated[float, Meta(gt=0, description="the same, of the values (default: 1e-3)")] | None = None
    vae: Annotated[str, Meta(description="decoder of latents: ema, mse, original, flux or a file")] = "ema"
    vae_tiling: Annotated[bool, Meta(description="decode in tiles; needs less memory, changes pixels")] = False
    labels: Annotated[
        str, Meta(description="classes: random (uniform, as in the paper), balanced (in turn), or a file of labels")
    ] = "random"
    rounding: Annotated[
        Literal["dit", "truncate"], Meta(description="to 8 bits: nearest (dit), or ADM's rule (truncate)")
    ] = "dit"
    global_seed: Annotated[int, Meta(ge=0, le=MOST_SEED, description="with an image's index, all its noise")] = 0
    precision: Annotated[Literal["fp32", "tf32", "bf16"], Meta(description="arithmetic of the network")] = "fp32"
    compiled: Annotated[bool, Meta(description="run the network through torch.compile")] = False

    def __post_init__(self) -> None:
        self._teach()
        check_settings(self)

    def guided_channels(self, channels: int) -> int | None:
        """Channels that guidance acts on, in a network of so many; None without guidance."""
        if self.cfg_scale == 1.0:
            return None
        return min(3, channels) if self.cfg_channels is None else self.cfg_channels

    @property
    def rule(self) -> Sampler:
        """The sampler; DDPM's where none is named."""
        return self.sampler or "ddpm"

    @property
    def is_flow(self) -> bool:
        """Whether the sampler follows a flow; the others are DDPM's."""
        return is_flow(self.rule)

    def completed(self) -> SamplingSettings:
        """The same, with its sampler and all that decides what a flow's does, where it was left to follow."""
        if not self.is_flow:
            return replace(self, sampler=self.rule)
        usual: dict[str, Any] = {"time": "sit"}
        usual |= {"path": "vp", "prediction": "noise"} if self.time == "ddpm" else {}
        usual |= {"path": "linear", "prediction": "velocity"} if self.time != "ddpm" else {}
        if self.rule.startswith("sde-"):
            form = "linear" if self.time == "repa" else "sigma"
            usual |= {"diffusion_form": form, "diffusion_norm": 1.0, "last_step": "mean"}
            usual |= {} if self.last_step == "none" else {"last_step_size": 0.04}
        if self.sampler == "ode-dopri5":
            usual |= {"atol": 1e-6, "rtol": 1e-3}
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})

    def by(self, sampler: Sampler) -> SamplingSettings:
        """The same by another sampler, without options that it does not use."""
        names = [name for needs, names in _ACTS_IN.items() if needs not in sampler for name in names]
        unused: dict[str, Any] = dict.fromkeys(names)
        return replace(self, sampler=sampler, **unused)

    def _teach(self) -> None:
        """Mistakes of which more can be said than what type and bounds say."""
        if _below(self.num_images, 1):
            raise ValueError(f"{self.num_images} images asked for; needed at least 1.")
        if isinstance(self.global_seed, int) and not 0 <= self.global_seed <= MOST_SEED:
            raise ValueError(f"Seed {self.global_seed}: needed 0 to 2^63 - 1.")
        if _below(self.cfg_scale, 1.0) or self.cfg_scale == math.inf:
            raise ValueError(
                f"Guidance scale {self.cfg_scale}: needed 1.0 or more. 1.0 is no guidance (the conditional model as it "
                "is); 0 would not switch guidance off but draw without labels, and between the two labels count for "
                "less than the model says."
            )
        if _below(self.cfg_channels, 1):
            raise ValueError(f"Guidance on {self.cfg_channels} channels: needed at least 1.")
        if self.sampler not in (None, *get_args(Sampler)):
            raise ValueError(f"Unknown sampler {self.sampler!r}; known: {', '.join(get_args(Sampler))}.")
        self._check_flow()
        self._check_guidance()

    def _check_flow(self) -> None:
        """That nothing is asked for that this sampler does not look at: whoever asks expects that it acts.

        Where none is named, what the weights were trained for decides, which is not known here.
        """
        for needs, names in _ACTS_IN.items():
            given = next((name for name in names if getattr(self, name) is not None), None)
            if given is not None and self.sampler is not None and needs not in self.sampler:
                raise ValueError(
                    f"`{given}` {getattr(self, given)}: the sampler {self.sampler} does not use it; it is for "
                    f"{_IN_WORDS[needs]}. Leave it out, or take such a `sampler`."
                )
        if self.timestep_shift is not None and (self.sampler == "ode-dopri5" or self.time == "repa"):
            raise ValueError(
                f"`timestep_shift` {self.timestep_shift}: it shifts the steps of ode-euler and ode-heun in SiT's time; "
                "ode-dopri5 chooses its own, and REPA's sampler has none."
            )
        if self.time == "repa" and self.path == "vp":
            raise ValueError("`path` vp: REPA has no such path; with `time` repa take linear, or gvp (its cosine).")
        if self.time == "ddpm" and self.path not in (None, "vp"):
            raise ValueError(f"`path` {self.path}: a network that is told DDPM's steps knows DDPM's path alone, vp.")
        if self.last_step == "none" and self.last_step_size is not None:
            raise ValueError(f"`last_step_size` {self.last_step_size}: there is no last step with `last_step` none.")

    def _check_guidance(self) -> None:
        """That an interval is one, and that there is guidance for it and for a guide to act in."""
        for name in ("guidance_interval", "guide_ckpt"):
            if getattr(self, name) is not None and self.cfg_scale == 1.0:
                raise ValueError(
                    f"`{name}` {getattr(self, name)}: there is no guidance at `cfg_scale` 1.0; expected a larger scale."
                )
        if not isinstance(self.guidance_interval, tuple | list):
            return  # none, or a type that is told of elsewhere
        if not _are_two_numbers(self.guidance_interval):
            found = ", ".join(map(str, self.guidance_interval))
            raise ValueError(f"`guidance_interval`: expected two numbers, LOW and HIGH; got {found or 'none'}.")
        low, high = self.guidance_interval
        if not 0 <= low < high < math.inf:
            raise ValueError(f"`guidance_interval` {low:g} to {high:g}: expected two numbers, 0 <= LOW < HIGH.")
        if self.is_flow and high > 1:
            raise ValueError(
                f"`guidance_interval` {low:g} to {high:g}: the time of a flow ends at 1. Sigmas are for the samplers "
                "ddpm and ddim."
            )


def is_flow(sampler: str) -> bool:
    """Whether a sampler follows a flow; the others are DDPM's."""
    return sampler.startswith(("ode-", "sde-"))


# Options of some samplers alone, by what the names of these have in them.
_ACTS_IN = {
    "-": ("path", "prediction", "time"),
    "sde-": ("diffusion_form", "diffusion_norm", "last_step", "last_step_size"),
    "dopri5": ("atol", "rtol"),
    "ode-": ("timestep_shift",),
}
OF_SOME_SAMPLERS = tuple(name for names in _ACTS_IN.values() for name in names)
_IN_WORDS = {"-": "flows (ode-..., sde-...)", "sde-": "SDEs (sde-euler, sde-heun)", "dopri5": "ode-dopri5",
             "ode-": "ODEs of known steps (ode-euler, ode-heun)"}  # fmt: skip


def _are_two_numbers(values: Sequence[object]) -> bool:
    return len(values) == 2 and all(isinstance(each, int | float) for each in values)


def _below(value: object, least: float) -> bool:
    """Whether it is a number below the least one; NaN is, and what is no number is not."""
    return isinstance(value, int | float) and not value >= least


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How samples are scored: all that decides a number, and the batch size, which decides none.

    Raises
    ------
    ValueError
        If a value is of another type or out of bounds; `dit_eval.metrics` says whether metrics and protocols are known.
    """

    metrics: Annotated[
        tuple[str, ...] | None,
        Meta(description="the metrics to compute (default: ADM's five; of DINOv2 or CLIP, all that the network gives)"),
    ] = None
    protocol: Annotated[
        tuple[str, ...] | None,
        Meta(description="in place of metrics: those of these protocols, all from one pass (default: ADM's)"),
    ] = None
    num_images: (
        Annotated[int, Meta(ge=1, le=MOST_IMAGES, description="use the first N samples (default: all)")] | None
    ) = None
    distances: Annotated[
        Literal["adm-float16", "float32"],
        Meta(description="precision and recall distances: ADM's float16 rule (default), or exact float32"),
    ] = "adm-float16"
    intervals: Annotated[
        bool, Meta(description="also standard errors, 95 % intervals, and FID for infinitely many images")
    ] = False
    until: (
        Annotated[
            float,
            Meta(gt=0, lt=1, description="stop when half of each interval is no more than this share of its value"),
        ]
        | None
    ) = None
    allow_size_mismatch: Annotated[
        bool, Meta(description="score samples against a reference of another resolution")
    ] = False
    batch_size: Annotated[
        int,
        Meta(ge=1, le=MOST_AT_ONCE, description="images in memory at a time; each core of a CPU takes 4 or 8 of them"),
    ] = 64

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def keeps_spatial(self) -> bool:
        """Whether the spatial features of single images are looked at."""
        return self.intervals or self.until is not None


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings(EvaluationSettings):
    """How sets of samples are compared: as each of them is scored, and in which pairs.

    Raises
    ------
    ValueError
        As of `EvaluationSettings`; or if `until` is set, which is about one set.
    """

    pairing: (
        Annotated[
            Literal["paired", "unpaired"],
            Meta(description="whether image i of all sets is of one draw (default: as the files say)"),
        ]
        | None
    ) = None
    until_decided: Annotated[
        bool, Meta(description="take images in random order, and stop when every verdict is clear")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.until is not None:
            raise ValueError(
                f"`until` {self.until:g}: is about the intervals of one set; to stop when sets differ, pass "
                "`until_decided`."
            )

    @property
    def keeps_spatial(self) -> bool:
        """Always: a difference is told from single images."""
        return True


CropRule = Literal["adm", "torchvision"]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A square from the middle of each image, whatever size that has; `dit_eval.images.crop` has the rules.

    Attributes
    ----------
    size : its side in pixels
    rule : "adm" (boxes, then bicubic), or "torchvision" (`Resize` and `CenterCrop`, bilinear)

    Raises
    ------
    ValueError
        If a value is of another type, or out of its bounds.
    """

    size: Annotated[int, Meta(ge=1, le=MOST_CROPPED)]
    rule: CropRule = "adm"

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def name(self) -> str:
        """As results and cache keys have it: "adm-256"."""
        return f"{self.rule}-{self.size}"


def with_metrics(settings: EvaluationSettings | None, metrics: str | Sequence[str] | None) -> EvaluationSettings:
    """The settings, or the default ones, with the metrics that are named beside them: "fid,is" or ["fid", "is"].

    Raises
    ------
    ValueError
        If either is of another type.
    """
    settings = EvaluationSettings() if settings is None else settings
    if not isinstance(settings, EvaluationSettings):
        raise ValueError(f"`settings`: expected an EvaluationSettings; got {type(settings).__name__}.")
    if metrics is None:
        return settings
    names = metrics.split(",") if isinstance(metrics, str) else metrics
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"`metrics`: expected names such as ['fid', 'is']; got {metrics!r}.")
    return replace(settings, metrics=tuple(name.strip().lower() for name in names if name.strip()))
