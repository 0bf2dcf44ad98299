"""A plan, and how its cells expand into tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from dit_eval.diffusion.guidance import evaluations
from dit_eval.diffusion.recipe import Objective, Recipe
from dit_eval.diffusion.spacing import respaced_timesteps
from dit_eval.flops.compute import Workload
from dit_eval.models.config import DiTConfig
from dit_eval.models.latent_space import LatentSpace
from dit_eval.results.settings import MOST_AT_ONCE, MOST_CLASSES, MOST_PIXELS, MOST_THREADS, SamplingSettings
from dit_eval.study.engine import Resources
from dit_eval.system.text import did_you_mean


class PlanError(ValueError):
    """A mistake in a plan; the message has file, line and key."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """What the models of a plan learn, and what their samples are measured against: `[data]`.

    Where `train` and `ref` are None, they are given when the plan runs. Latents are Stable Diffusion's, which no plan
    says.
    """

    train: Annotated[str, Meta(description="latents, npz, folder of images, or an embedded batch")] | None = None
    ref: Annotated[str, Meta(description="reference npz, or a name of `dit-eval weights list`")] | None = None
    space: Annotated[Literal["latent", "pixel"], Meta(description="what the models work on")]
    image_size: Annotated[int, Meta(ge=1, le=MOST_PIXELS, description="side of the images in pixels")]
    channels: Annotated[int, Meta(ge=1, description="of pixels, 1 or 3")] = 3
    num_classes: Annotated[int, Meta(ge=1, le=MOST_CLASSES, description="K")]
    extractor: Annotated[str, Meta(description="the feature network")] = "inception"
    backend: Annotated[str, Meta(description="the program that runs it")] = "torch"
    metrics: Annotated[tuple[str, ...], Meta(description="names of metrics")] | None = None
    intervals: Annotated[bool, Meta(description="score with standard errors and 95 % intervals")] = False

    @property
    def input_channels(self) -> int:
        """Of what the models take."""
        return LatentSpace.channels if self.space == "latent" else self.channels

    @property
    def input_size(self) -> int:
        """Side of what the models take."""
        return self.image_size // (LatentSpace.factor if self.space == "latent" else 1)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training run of a plan.

    Attributes
    ----------
    key : names its files; changes with everything that changes the weights
    model, config, recipe : see there
    steps : after which weights are kept, rising; the last is the length of the run
    gflops : of one forward pass at batch 1 (1e9 multiply-adds)
    save_every, log_every : see `dit_eval.diffusion.recipe.Schedule`
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
        return f"{self.label}, {self.steps[-1]:,} steps of training"

    @property
    def label(self) -> str:
        return label(self.model, self.config.block, self.recipe.global_seed, self.recipe.objective)

    @property
    def workload(self) -> Workload:
        return Workload(gflops=self.gflops, training_steps=self.steps[-1], batch_size=self.recipe.batch_size)


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A second model of a plan, which guides the samples of a cell in place of no label.

    Attributes
    ----------
    training, training_steps : the run that its weights come from, by key, and after which step
    """

    training: str
    training_steps: int
    config: DiTConfig
    gflops: float


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A point of a study: weights of one training step, sampled in one way, and scored.

    Attributes
    ----------
    key : names its files; changes with everything that changes the result
    training : the run that its weights come from, by key
    training_steps : after which they are taken
    training_seed : of that run
    sampling : how images are drawn
    keep_samples : whether the sample file stays when it is scored
    objective : what its weights have learned
    guide : None where no second model guides
    """

    key: str
    training: str
    model: str
    config: DiTConfig
    gflops: float
    training_steps: int
    training_seed: int
    sampling: SamplingSettings
    keep_samples: bool
    objective: Objective = "ddpm"
    guide: Guide | None = None

    @property
    def weights(self) -> list[tuple[str, int]]:
        """The trainings, by key, and the steps after which a cell takes weights of them: its own, and its guide's."""
        own = (self.training, self.training_steps)
        return [own, *([(self.guide.training, self.guide.training_steps)] if self.guide else [])]

    @property
    def num_samples(self) -> int:
        return self.sampling.num_images

    @property
    def num_sampling_steps(self) -> str:
        return str(self.sampling.num_sampling_steps)

    @property
    def vae(self) -> str | None:
        """The decoder, by the plan's name; None in pixel space."""
        return self.sampling.vae if self.config.space == "latent" else None

    @property
    def seed(self) -> int:
        """Of sampling."""
        return self.sampling.global_seed

    @property
    def name(self) -> str:
        words = [
            label(self.model, self.config.block, self.training_seed, self.objective),
            f"{self.training_steps:,} steps of training",
            self._way,
        ]
        words += [] if self.sampling.cfg_scale == 1.0 else [f"cfg {self.sampling.cfg_scale:g}"]
        words += [] if self.guide is None else [f"guided by {self.guide.training}"]
        words += [] if self.vae is None else [f"decoder {self.vae}"]
        words += [] if self.seed == self.training_seed else [f"sampling seed {self.seed}"]
        return ", ".join([*words, f"{self.num_samples:,} images"])

    @property
    def _way(self) -> str:
        """How it is sampled, in words; of a solver that chooses its steps its tolerance."""
        if self.sampling.rtol is not None:
            return f"{self.sampling.rule} to {self.sampling.rtol:g}"
        return f"{self.num_sampling_steps} of sampling" + (
            "" if self.sampling.rule == "ddpm" else f" by {self.sampling.rule}"
        )

    @property
    def workload(self) -> Workload:
        """Of ode-dopri5, which chooses its steps, with as many as were asked for."""
        steps, found = self.num_sampling_steps, evaluations(self.sampling)
        return Workload(
            gflops=self.gflops,
            num_samples=self.num_samples,
            num_sampling_steps=int(steps) if self.sampling.is_flow else len(respaced_timesteps(steps)),
            guided=self.sampling.cfg_scale != 1.0,
            evaluations=found.number if found else None,
            guided_evaluations=found.guided if found else 0,
            guide_gflops=self.guide.gflops if self.guide else None,
        )


Task = Training | Cell


@dataclass(frozen=True, kw_only=True)
class TaskResources(Resources):
    """What a task gets to run on, and how it uses that; none of it changes results by more than rounding."""

    threads: (
        Annotated[int, Meta(ge=1, le=MOST_THREADS, description="of each process on a CPU; its share of the cores")]
        | None
    ) = None
    batch_size: Annotated[
        int, Meta(ge=1, le=MOST_AT_ONCE, description="images at once in a process while sampling")
    ] = 32
    micro_batch: (
        Annotated[int, Meta(ge=1, le=MOST_AT_ONCE, description="images at once in a process while training")] | None
    ) = None
    num_workers: Annotated[int, Meta(ge=0, le=MOST_THREADS, description="threads that read training batches ahead")] = 4

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.nodes * self.processes


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a plan's devices are taken to be, for hours before anything was measured: `[cost]`."""

    device: Annotated[str, Meta(description="what one device is, in words")]
    tflops: Annotated[float, Meta(gt=0, description="1e12 operations a second that one reaches; a multiply-add is two")]
    source: Annotated[str, Meta(description="where that number comes from")]
    scored_per_second: (
        Annotated[float, Meta(gt=0, description="samples a second that one device takes through the feature network")]
        | None
    ) = None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What some tasks get: `[[resources]]`. None stands for all kinds of tasks, all models."""

    task: Annotated[Literal["training", "cell"], Meta(description="kind of task")] | None = None
    models: Annotated[tuple[str, ...], Meta(description="names of models")] | None = None
    resources: Mapping[str, Any]

    def fits(self, task: Task) -> bool:
        kind = "training" if isinstance(task, Training) else "cell"
        return self.task in (None, kind) and (self.models is None or task.model in self.models)


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
    rules: tuple[Rule, ...]

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
        values: dict[str, Any] = {}
        for rule in self.rules:
            if rule.fits(task):
                slurm = {**values.get("slurm", {}), **rule.resources.get("slurm", {})}
                values |= {**rule.resources, "slurm": slurm}
        return TaskResources(**values)


def label(model: str, block: str, seed: int, objective: Objective = "ddpm") -> str:
    """A model in words: block design, what it learned and seed only where they are not the usual ones."""
    words = [model]
    words += [] if block == "adaln-zero" else [block]
    words += [] if objective == "ddpm" else [objective]
    words += [] if seed == 0 else [f"seed {seed}"]
    return " ".join(words)
