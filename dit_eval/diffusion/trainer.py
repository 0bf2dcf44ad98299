"""The training recipe, the batch of a step, one optimizer step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from dit_eval.diffusion.data import TrainingData
from dit_eval.diffusion.process import NUM_TRAIN_STEPS, Diffusion
from dit_eval.models.checkpoints import read_state
from dit_eval.models.dit import DiT, DiTConfig
from dit_eval.system.dist import World
from dit_eval.system.settings import check_settings
from dit_eval.system.switches import arithmetic, float32_products

_Beta = Annotated[float, Meta(ge=0, lt=1)]
TERMS = ("loss", "mse", "vb")
# Keys of the generators beside the seed. Those of sampling are an image's index, and 2^63 above it.
_EXAMPLE_STREAM, _ORDER_STREAM = (1 << 64) - 1, (1 << 64) - 2


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

    Raises
    ------
    ValueError
        Naming the setting, what was expected, and the value.
    """

    learning_rate: Annotated[float, Meta(gt=0, description="of AdamW")] = 1e-4
    betas: Annotated[tuple[_Beta, _Beta], Meta(description="of AdamW")] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0, description="of AdamW")] = 0.0
    batch_size: Annotated[int, Meta(ge=1, description="images of a step, in all processes together")] = 256
    ema_decay: Annotated[float, Meta(ge=0, lt=1, description="decay of the averaged weights")] = 0.9999
    flip: Annotated[float, Meta(ge=0, le=1, description="share of images that are mirrored left to right")] = 0.5
    global_seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1, description="of batches and initial weights")] = 0
    precision: Annotated[Literal["fp32", "tf32", "bf16"], Meta(description="of the model's arithmetic")] = "fp32"
    compile: Annotated[bool, Meta(description="run the model through torch.compile")] = False
    warm_up: Annotated[int, Meta(ge=0, description="steps to the full learning rate; small models need some")] = 0
    decay_steps: Annotated[int, Meta(ge=1, description="step at which a cosine has brought the rate to 0")] | None = (
        None
    )
    ema_warm_up: Annotated[bool, Meta(description="average over less in the first steps")] = False

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("learning_rate", "weight_decay"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"{name}: expected a finite number; got inf")

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

    steps: Annotated[int, Meta(ge=1, description="in all")] = 400_000
    save_at: Annotated[tuple[int, ...], Meta(description="steps after which to save weights")] = ()
    save_every: Annotated[int, Meta(ge=1, description="save weights after every so many steps, too")] = 50_000
    log_every: Annotated[int, Meta(ge=1, description="steps of a line of the log, which holds their mean losses")] = 100

    def __post_init__(self) -> None:
        check_settings(self)
        for step in self.save_at:
            if not 1 <= step <= self.steps:
                raise ValueError(f"save_at: expected steps from 1 to {self.steps}, the last one; got {step}")

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
    micro_batch: Annotated[int, Meta(ge=1, description="images at once in a process; its share by default")] | None = (
        None
    )
    num_workers: Annotated[int, Meta(ge=0, description="threads that read batches ahead")] = 0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step sees.

    Attributes
    ----------
    x0 : float32 (N, C, H, W)
    labels : int64 (N,), K where the label is dropped
    timesteps : int64 (N,), 0..999
    noise : float32 (N, C, H, W)
    """

    x0: Tensor
    labels: Tensor
    timesteps: Tensor
    noise: Tensor

    def parts(self, size: int) -> Iterator[Batch]:
        """The batch in pieces of up to `size` images."""
        columns = (getattr(self, field.name).split(size) for field in dataclasses.fields(self))
        for x0, labels, timesteps, noise in zip(*columns, strict=True):
            yield Batch(x0=x0, labels=labels, timesteps=timesteps, noise=noise)

    def to(self, device: torch.device) -> Batch:
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})


def draw_batch(data: TrainingData, config: DiTConfig, recipe: Recipe, *, step: int, positions: range) -> Batch:
    """The images at some positions of the global batch of a step, counted from 0.

    Images come in a new order in every pass over the data, and a batch may reach into the next pass.
    """
    places = step * recipe.batch_size + np.arange(positions.start, positions.stop)
    epochs, within = np.divmod(places, len(data))
    indices = np.array([_order(recipe.global_seed, int(e), len(data))[i] for e, i in zip(epochs, within, strict=True)])
    key = np.array([recipe.global_seed, _EXAMPLE_STREAM], np.uint64)
    counters = (np.array([0, 0, position, step], np.uint64) for position in positions)
    generators = [np.random.Generator(np.random.Philox(key=key, counter=counter)) for counter in counters]
    chances = np.stack([g.random(2) for g in generators])  # (N, 2)
    timesteps = np.array([g.integers(NUM_TRAIN_STEPS) for g in generators])
    noise = np.stack([g.standard_normal(data.shape, np.float32) for g in generators])
    x0, labels = data.read(indices, chances[:, 0] < recipe.flip, generators)
    labels = np.where(chances[:, 1] < config.label_dropout, config.num_classes, labels)
    return Batch(
        x0=torch.from_numpy(x0),
        labels=torch.from_numpy(labels),
        timesteps=torch.from_numpy(timesteps),
        noise=torch.from_numpy(noise),
    )


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    key, counter = np.array([seed, _ORDER_STREAM], np.uint64), np.array([0, 0, 0, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).permutation(count)


class Trainer:
    """Weights, averaged weights and optimizer between two steps.

    Parameters
    ----------
    config : of the model; its initial weights depend on the recipe's seed only
    recipe : see `Recipe`
    device : "cpu", "cuda" or "cuda:1"
    world : the processes that train together
    micro_batch : images at once in a process; all of its share of the batch by default

    Attributes
    ----------
    model, ema : the two networks
    steps : steps done

    References
    ----------
    Peebles & Xie 2023, Section 4; facebookresearch/DiT `train.py`.
    """

    def __init__(
        self,
        config: DiTConfig,
        recipe: Recipe,
        *,
        device: str = "cpu",
        world: World | None = None,
        micro_batch: int | None = None,
    ) -> None:
        self.config, self.recipe, self.steps = config, recipe, 0
        self._device, self._world, self._micro_batch = torch.device(device), world or World(), micro_batch
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.global_seed)  # `torch.manual_seed` would seed GPUs for good
            model = DiT(config)  # on the CPU, whose generator is the same everywhere
        # In evaluation mode: all that training mode changes is that the model drops labels, which the batch has done.
        self.model = model.to(self._device).eval()
        self._world.copy_first_(p.detach() for p in self.model.parameters())
        self.ema = deepcopy(self.model).requires_grad_(False)
        # The position table is fixed. Averaging it, as the released code does, would only round it.
        averaged = dict(self.ema.named_parameters())
        self._trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._pairs = [(averaged[name], p) for name, p in self._trained.items()]
        sizes = [p.numel() for p in self._trained.values()]
        self._buffer = torch.zeros(sum(sizes) + len(TERMS), device=self._device)  # gradients, then losses
        *gradients, self._terms = self._buffer.split([*sizes, len(TERMS)])
        for p, gradient in zip(self._trained.values(), gradients, strict=True):
            p.grad = gradient.view_as(p)
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self._diffusion = Diffusion()
        self._forward = torch.compile(self.model) if recipe.compile else self.model

    def step(self, batch: Batch) -> Tensor:
        """One step on this process's share of the global batch.

        Returns
        -------
        (3,) float32, on the device: `TERMS`, averaged over the global batch.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.steps)
        self._buffer.zero_()
        count = len(batch.x0)
        # The backward pass, too, which is no place for autocast.
        with float32_products(tf32=self.recipe.precision != "fp32" and self._device.type == "cuda"):
            for part in batch.parts(self._micro_batch or count):
                terms = self._losses(part.to(self._device))
                share = len(part.x0) / count
                (share * terms[0]).backward()
                self._terms += share * terms.detach()
        self._world.average_(self._buffer)
        self._optimizer.step()
        decay = self.recipe.ema_decay_at(self.steps)
        with torch.no_grad():
            for kept, new in self._pairs:
                kept.mul_(decay).add_(new, alpha=1 - decay)
        self.steps += 1
        return self._terms.clone()

    def _losses(self, batch: Batch) -> Tensor:
        """`TERMS` averaged over a batch, (3,)."""

        def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
            with arithmetic(self.recipe.precision, self._device):
                return self._forward(x, timesteps, batch.labels).float()

        terms = self._diffusion.training_losses(denoise, batch.x0, batch.timesteps, batch.noise)
        return torch.stack([terms[name].mean() for name in TERMS])

    def state(self) -> dict[str, Tensor]:
        """What AdamW remembers, by parameter name; its count of steps is `steps`."""
        return {
            f"{kind}.{name}": self._optimizer.state[p][kind]
            for name, p in self._trained.items()
            for kind in ("exp_avg", "exp_avg_sq")
        }

    def restore(self, steps: int, *, model: Path, ema: Path, state: dict[str, Tensor]) -> None:
        """Go back to where a run was after some steps.

        Raises
        ------
        ValueError
            If a file is damaged.
        """
        self.model.load_state_dict(read_state(model))
        self.ema.load_state_dict(read_state(ema))
        moments = {
            i: {"step": torch.tensor(float(steps))}
            | {kind: state[f"{kind}.{name}"] for kind in ("exp_avg", "exp_avg_sq")}
            for i, name in enumerate(self._trained)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.steps = steps


def check_execution(recipe: Recipe, execution: Execution, world: World) -> None:
    """The part of `check_training` that needs no data, which may take long to open. Errors as there."""
    if recipe.batch_size % world.size:
        raise ValueError(f"A batch of {recipe.batch_size} does not divide among {world.size} processes.")
    if recipe.precision == "tf32" and not execution.device.startswith("cuda"):
        raise ValueError("tf32 is arithmetic of NVIDIA GPUs; on the CPU use fp32 or bf16.")
