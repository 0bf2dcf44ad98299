"""How a DiT is trained, stated once: recipe, schedule, execution. Needs no torch, so that plans can use it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from dit_eval.results.settings import MOST_AT_ONCE, MOST_SEED, MOST_THREADS
from dit_eval.system.settings import check_settings

MOST_STEPS = 100_000_000  # the paper's longest training has 7,000,000
MOST_BATCH = 1_000_000  # of all processes together; the places of its images are drawn at once
MOST_SAVES = 10_000  # of a run; each is two files of all weights, 5.4 GB of DiT-XL/2
_Beta = Annotated[float, Meta(ge=0, lt=1)]
Objective = Literal["ddpm", "flow"]


@dataclass(frozen=True, kw_only=True)
class FlowRecipe:
    """What a network learns of a flow. The defaults are those of SiT's trainer (willisma/SiT `train.py`).

    Attributes
    ----------
    time : whose time the network is told: 1 is data ("sit") or noise ("repa", whose velocity runs the other way)
    time_sampling : "logit-normal" draws log(sigma / alpha) from a standard normal distribution, as REPA's trainer does:
        on the linear path a time whose logit is normal
    loss_weight : as SiT names it, of the squared error of a score (times sigma) or noise: with spread as in
        `flow.Level`, "velocity" weighs by (spread / sigma)^2, "likelihood" by spread / sigma^2

    Raises
    ------
    ValueError
        Naming the setting, what was expected, and the value; if settings do not go together.
    """

    path: Annotated[Literal["linear", "gvp", "vp"], Meta(description="how data and noise mix with time")] = "linear"
    prediction: Annotated[Literal["velocity", "score", "noise"], Meta(description="what the network predicts")] = (
        "velocity"
    )
    time: Annotated[Literal["sit", "repa"], Meta(description="what it is told: 1 is data (sit) or noise (repa)")] = (
        "sit"
    )
    time_sampling: Annotated[
        Literal["uniform", "logit-normal"], Meta(description="distribution of the times of a batch")
    ] = "uniform"
    loss_weight: Annotated[
        Literal["none", "velocity", "likelihood"], Meta(description="of a score's or noise's error, as SiT names it")
    ] = "none"

    def __post_init__(self) -> None:
        check_settings(self)
        if self.time == "repa" and self.path == "vp":
            raise ValueError("`path` vp: REPA has no such path; with `time` repa take linear, or gvp (its cosine).")
        if self.prediction == "velocity" and self.loss_weight != "none":
            raise ValueError(
                f"`loss_weight` {self.loss_weight}: the error of a velocity has no weight; it is for `prediction` "
                "score or noise."
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a DiT is trained. The defaults are the paper's, for every model size.

    Label dropout is part of `DiTConfig`, since the model's label table depends on it.

    Attributes
    ----------
    ema_decay : of the averaged weights, which start as the initial weights and follow each step
    global_seed : with step and position, all that a batch depends on; also the initial weights
    precision : "tf32" rounds products of NVIDIA GPUs; "bf16" is autocast, where weights and losses stay float32
    ema_warm_up : let the decay rise as (1 + s) / (10 + s), for runs so short that 0.9999 would keep the initial weights
    flow : what is learned of a flow; None for DDPM's noise and variance

    Raises
    ------
    ValueError
        Naming the setting, what was expected, and the value.
    """

    learning_rate: Annotated[float, Meta(gt=0, description="of AdamW")] = 1e-4
    betas: Annotated[tuple[_Beta, _Beta], Meta(description="of AdamW")] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0, description="of AdamW")] = 0.0
    batch_size: Annotated[int, Meta(ge=1, le=MOST_BATCH, description="images of a step, in all processes together")] = (
        256
    )
    ema_decay: Annotated[float, Meta(ge=0, lt=1, description="decay of the averaged weights")] = 0.9999
    flip: Annotated[float, Meta(ge=0, le=1, description="share of images that are mirrored left to right")] = 0.5
    global_seed: Annotated[int, Meta(ge=0, le=MOST_SEED, description="of batches and initial weights")] = 0
    precision: Annotated[Literal["fp32", "tf32", "bf16"], Meta(description="of the model's arithmetic")] = "fp32"
    compile: Annotated[bool, Meta(description="run the model through torch.compile")] = False
    warm_up: Annotated[
        int, Meta(ge=0, le=MOST_STEPS, description="steps to the full learning rate; small models need some")
    ] = 0
    decay_steps: (
        Annotated[int, Meta(ge=1, le=MOST_STEPS, description="step at which a cosine has brought the rate to 0")] | None
    ) = None
    ema_warm_up: Annotated[bool, Meta(description="average over less in the first steps")] = False
    flow: FlowRecipe | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("learning_rate", "weight_decay"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"{name}: expected a finite number; got inf")

    @property
    def objective(self) -> Objective:
        return "ddpm" if self.flow is None else "flow"

    def described(self) -> dict[str, Any]:
        """Every field, by which runs are told apart; without `flow` for DDPM, as earlier editions wrote it."""
        fields = dataclasses.asdict(self)
        return fields if self.flow else {name: value for name, value in fields.items() if name != "flow"}

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rate = self.learning_rate
        if self.warm_up:
            rate *= min(1.0, (step + 1) / self.warm_up)
        if self.decay_steps is not None:
            rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.decay_steps)))
        return rate

    def ema_decay_at(self, step: int) -> float:
        """Decay of the averaged weights after a step, counted from 0."""
        return min(self.ema_decay, (1 + step) / (10 + step)) if self.ema_warm_up else self.ema_decay


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a DiT is trained, and what is kept of it. The last step always keeps its weights.

    Raises
    ------
    ValueError
        As `Recipe`; also if weights are to be kept after a step that is not done.
    """

    steps: Annotated[int, Meta(ge=1, le=MOST_STEPS, description="in all")] = 400_000
    save_at: Annotated[tuple[int, ...], Meta(description="steps after which to save weights")] = ()
    save_every: Annotated[int, Meta(ge=1, le=MOST_STEPS, description="save weights after every so many steps, too")] = (
        50_000
    )
    log_every: Annotated[
        int, Meta(ge=1, le=MOST_STEPS, description="steps of a line of the log, which holds their mean losses")
    ] = 100

    def __post_init__(self) -> None:
        check_settings(self)
        for step in self.save_at:
            if not 1 <= step <= self.steps:
                raise ValueError(f"save_at: expected steps from 1 to {self.steps}, the last one; got {step}")
        if (count := (self.steps - 1) // self.save_every + len(set(self.save_at))) > MOST_SAVES:
            raise ValueError(
                f"{count:,} saves asked for; expected at most {MOST_SAVES:,}, each of which is two files of all "
                f"weights. Raise `save_every`, which is {self.save_every:,}."
            )

    @property
    def saves(self) -> list[int]:
        """The steps after which weights are saved, rising."""
        return sorted({*self.save_at, *range(self.save_every, self.steps, self.save_every), self.steps})


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is done in a process: speed, memory and rounding hang on it, not what is trained.

    Raises
    ------
    ValueError
        As `Recipe`.
    """

    device: Annotated[str, Meta(description="cpu, cuda or cuda:N")] = "cpu"
    micro_batch: (
        Annotated[int, Meta(ge=1, le=MOST_AT_ONCE, description="images at once in a process; its share by default")]
        | None
    ) = None
    num_workers: Annotated[int, Meta(ge=0, le=MOST_THREADS, description="threads that read batches ahead")] = 0

    def __post_init__(self) -> None:
        check_settings(self)
