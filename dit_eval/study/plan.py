"""A plan, and how its cells expand into tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dit_eval.diffusion.recipe import Recipe
from dit_eval.diffusion.spacing import respaced_timesteps
from dit_eval.flops.compute import Workload
from dit_eval.models.config import DiTConfig
from dit_eval.study.engine import Resources
from dit_eval.system.text import did_you_mean


class PlanError(ValueError):
    """A mistake in a plan; the message has file, line and key."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the models of a plan learn, and what their samples are measured against.

    Attributes
    ----------
    train : latents, npz or folder of images; name of an embedded batch; None if it is given when the plan runs
    ref : reference npz, or a name of `dit-eval weights list`; None as above
    space : "latent" or "pixel"
    image_size : side of the images in pixels
    channels : of pixels, 1 or 3
    num_classes : K
    extractor, backend : the feature network, and the program that runs it
    metrics : what cells are scored by; None for all that the network gives unasked
    """

    train: str | None
    ref: str | None
    space: Literal["latent", "pixel"]
    image_size: int
    channels: int
    num_classes: int
    extractor: str
    backend: str = "torch"
    metrics: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training run of a plan.

    Attributes
    ----------
    key : names its files; changes with everything that changes the weights
    model, config, recipe : see there
    steps : after which weights are kept, rising; the last is the length of the run
    gflops : of one forward pass at batch 1 (1e9 multiply-adds)
    save_every, log_every : see `dit_eval.training.train`
    """

    key: str
    model: str
    config: DiTConfig
    recipe: Recipe
    steps: tuple[int, ...]
    gflops: float
    save_every: int
    log_every: int

    @property
    def name(self) -> str:
        return f"{label(self.model, self.config.block, self.recipe.global_seed)}, {self.steps[-1]:,} steps of training"

    @property
    def workload(self) -> Workload:
        return Workload(gflops=self.gflops, training_steps=self.steps[-1], batch_size=self.recipe.batch_size)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A point of a study: weights of one training step, sampled in one way, and scored.

    Attributes
    ----------
    key : names its files; changes with everything that changes the result
    training : the run that its weights come from, by key
    training_steps : after which they are taken
    num_samples, num_sampling_steps, sampler, cfg_scale, cfg_channels, labels, rounding, vae, precision, compile :
        as in `dit_eval.results.SampleRun`
    seed : of sampling, and of the training
    keep_samples : whether the sample file stays when it is scored
    """

    key: str
    training: str
    model: str
    config: DiTConfig
    gflops: float
    training_steps: int
    num_samples: int
    num_sampling_steps: str
    sampler: Literal["ddpm", "ddim"]
    cfg_scale: float
    cfg_channels: int | None
    labels: str
    rounding: Literal["dit", "truncate"]
    vae: str | None
    precision: Literal["fp32", "tf32", "bf16"]
    compile: bool
    seed: int
    keep_samples: bool

    @property
    def name(self) -> str:
        words = [
            label(self.model, self.config.block, self.seed),
            f"{self.training_steps:,} steps of training",
            f"{self.num_sampling_steps} of sampling",
        ]
        words += [] if self.cfg_scale == 1.0 else [f"cfg {self.cfg_scale:g}"]
        words += [] if self.vae is None else [f"decoder {self.vae}"]
        return ", ".join([*words, f"{self.num_samples:,} images"])

    @property
    def workload(self) -> Workload:
        return Workload(
            gflops=self.gflops,
            num_samples=self.num_samples,
            num_sampling_steps=len(respaced_timesteps(self.num_sampling_steps)),
            guided=self.cfg_scale != 1.0,
        )


Task = Training | Cell


@dataclass(frozen=True, kw_only=True)
class TaskResources(Resources):
    """What a task gets to run on, and how it uses that; none of it changes results by more than rounding.

    Attributes
    ----------
    threads : of each process on a CPU; None for its share of the cores
    batch_size : images at once in a process while sampling
    micro_batch : images at once in a process while training; None for its share of the batch
    num_workers : threads that read training batches ahead
    """

    threads: int | None = None
    batch_size: int = 32
    micro_batch: int | None = None
    num_workers: int = 4

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.nodes * self.processes


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a plan's devices are taken to be, for hours before anything was measured.

    Attributes
    ----------
    device : what one device is, in words
    tflops : 1e12 floating-point operations per second that one reaches (a multiply-add is two)
    source : where that number comes from
    """

    device: str
    tflops: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study, checked. `trainings` and `cells` are in the order of the file."""

    name: str
    about: str
    text: str
    path: Path
    data: Data
    trainings: tuple[Training, ...]
    cells: tuple[Cell, ...]
    speed: Speed | None
    rules: tuple[tuple[str | None, tuple[str, ...] | None, Mapping[str, Any]], ...]

    @property
    def tasks(self) -> list[Task]:
        """Trainings, then cells."""
        return [*self.trainings, *self.cells]

    def task(self, key: str) -> Task:
        """The training or cell of a key; ValueError if the plan has none."""
        for task in self.tasks:
            if task.key == key:
                return task
        hint = did_you_mean(key, [task.key for task in self.tasks])
        raise ValueError(f"{self.path}: has no task {key}; the plan was changed since. Run the study again.{hint}")

    def resources(self, task: Task) -> TaskResources:
        """What a task gets: every `[[resources]]` that fits it, later ones over earlier ones."""
        kind = "training" if isinstance(task, Training) else "cell"
        values: dict[str, Any] = {}
        for which, models, rule in self.rules:
            if which in (None, kind) and (models is None or task.model in models):
                values |= {**rule, "slurm": {**values.get("slurm", {}), **rule["slurm"]}}
        return TaskResources(**values)


def label(model: str, block: str, seed: int) -> str:
    """A model in words: block design and seed only where they are not the usual ones."""
    words = [model]
    words += [] if block == "adaln-zero" else [block]
    words += [] if seed == 0 else [f"seed {seed}"]
    return " ".join(words)
