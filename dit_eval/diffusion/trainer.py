"""The batch of a step, and one optimizer step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dit_eval.diffusion.data import TrainingData
from dit_eval.diffusion.objective import objective_of
from dit_eval.diffusion.recipe import Execution, Recipe
from dit_eval.diffusion.written import check_state, check_weights
from dit_eval.models.checkpoints import read_state
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT
from dit_eval.system.dist import World
from dit_eval.system.switches import arithmetic, float32_products

# Keys of the generators beside the seed. Those of sampling are an image's index, and 2^63 above it.
_EXAMPLE_STREAM, _ORDER_STREAM = (1 << 64) - 1, (1 << 64) - 2


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step sees.

    Attributes
    ----------
    x0 : float32 (N, C, H, W)
    labels : int64 (N,), K where the label is dropped
    timesteps : int64 (N,), 0..999; of a flow float64, 0 (noise) to 1 (data)
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
    timesteps = objective_of(recipe.flow).times(generators)
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
    terms : names of the losses of a step

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
        self._objective = objective_of(recipe.flow)
        self.terms = self._objective.terms
        sizes = [p.numel() for p in self._trained.values()]
        self._buffer = torch.zeros(sum(sizes) + len(self.terms), device=self._device)  # gradients, then losses
        *gradients, self._terms = self._buffer.split([*sizes, len(self.terms)])
        for p, gradient in zip(self._trained.values(), gradients, strict=True):
            p.grad = gradient.view_as(p)
        self._optimizer = torch.optim.AdamW(
            self._trained.values(), lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        self._forward = torch.compile(self.model) if recipe.compile else self.model

    def step(self, batch: Batch) -> Tensor:
        """One step on this process's share of the global batch.

        Returns
        -------
        float32, on the device: `terms`, averaged over the global batch.
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
        """`terms` averaged over a batch."""

        def denoise(x: Tensor, timesteps: Tensor) -> Tensor:
            with arithmetic(self.recipe.precision, self._device):
                return self._forward(x, timesteps, batch.labels).float()

        losses = self._objective.losses(denoise, batch.x0, batch.timesteps, batch.noise)
        return torch.stack([losses[name].mean() for name in self.terms])

    def state(self) -> dict[str, Tensor]:
        """What AdamW remembers, by parameter name; its count of steps is `steps`."""
        return {
            f"{kind}.{name}": self._optimizer.state[p][kind]
            for name, p in self._trained.items()
            for kind in ("exp_avg", "exp_avg_sq")
        }

    def restore(self, steps: int, *, model: Path, ema: Path, state: Path) -> dict[str, Tensor]:
        """Go back to where a run was after some steps.

        Parameters
        ----------
        model, ema : weights of that step
        state : the file that `dit_eval.training.train` writes after them, with `state()` and more

        Returns
        -------
        What the state holds beside the optimizer's.

        Raises
        ------
        ValueError
            If a file is damaged, or not as the state beside it says that it was written.
        """
        check_state(state)
        for path in (model, ema):
            check_weights(path)
        others = {name: value for name, value in read_state(state).items() if isinstance(value, Tensor)}
        self.model.load_state_dict(read_state(model))
        self.ema.load_state_dict(read_state(ema))
        moments = {
            i: {"step": torch.tensor(float(steps))}
            | {kind: others.pop(f"{kind}.{name}") for kind in ("exp_avg", "exp_avg_sq")}
            for i, name in enumerate(self._trained)
        }
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.steps = steps
        return others


def check_execution(recipe: Recipe, execution: Execution, world: World) -> None:
    """The part of `check_training` that needs no data, which may take long to open. Errors as there."""
    if recipe.batch_size % world.size:
        raise ValueError(f"A batch of {recipe.batch_size} does not divide among {world.size} processes.")
    if recipe.precision == "tf32" and not execution.device.startswith("cuda"):
        raise ValueError("tf32 is arithmetic of NVIDIA GPUs; on the CPU use fp32 or bf16.")
