"""Training a DiT by the paper's recipe, on one process or many, in a folder that survives a crash.

Everything random about step s (which images, mirrored or not, their posterior samples, timesteps, noise, dropped
labels) comes from counter-based generators keyed by (seed, s, position in the global batch). So any number of processes
sees the same batches, and no state of a generator needs to be kept: a run that goes on from step s is the run that was
never interrupted.

Gradients are views into one buffer, which the processes average by a single all-reduce after the backward pass, instead
of by DistributedDataParallel. That keeps the order of summation the same in every step of every run (DDP regroups its
buckets after a run's first step), lets a global batch be cut in micro-batches for nothing, and carries the losses of
the log in the same message. What it gives up is DDP's overlap of communication with the backward pass.

The folder of a run: `run.json` says what is trained on what and how; `ema-0050000.safetensors` and
`model-0050000.safetensors` are the weights of a step, `state.safetensors` what else is needed to go on from the latest
one, `log.jsonl` the losses.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from dit_eval.data import TrainingData
from dit_eval.diffusion import NUM_TRAIN_STEPS, Diffusion
from dit_eval.models.checkpoints import NOTES_KEY, read_state, save_dit
from dit_eval.models.dit import DiT, DiTConfig
from dit_eval.system.dist import World
from dit_eval.system.environment import environment
from dit_eval.system.files import atomic_file
from dit_eval.system.switches import arithmetic, float32_products

TERMS = ("loss", "mse", "vb")

# Keys of the generators beside the seed. Those of sampling are an image's index, and 2^63 above it.
_EXAMPLE_STREAM, _ORDER_STREAM = (1 << 64) - 1, (1 << 64) - 2
_STATE = "state.safetensors"

Progress = Callable[[int, int, float | None], None]  # steps done, steps in all, loss of the latest line of the log


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a DiT is trained. The defaults are the paper's, for every model size.

    Label dropout is part of `DiTConfig`, since the model's label table depends on it.

    Attributes
    ----------
    learning_rate, betas, weight_decay : of AdamW
    batch_size : images of a step, in all processes together
    ema_decay : of the averaged weights; they start as the initial weights and follow each step
    flip : share of images that are mirrored left to right
    global_seed : with step and position, all that a batch depends on; also the initial weights
    precision : "fp32", "tf32" (products of NVIDIA GPUs), or "bf16" (autocast; weights and losses stay float32)
    compile : run the model through torch.compile
    warm_up : steps in which the learning rate rises linearly. The paper has none; small models at high rates need some
    decay_steps : step at which a cosine has brought the learning rate to 0; None for the paper's constant rate
    ema_warm_up : let the decay rise as (1 + s) / (10 + s), for runs so short that 0.9999 would keep the initial weights
    """

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    batch_size: int = 256
    ema_decay: float = 0.9999
    flip: float = 0.5
    global_seed: int = 0
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    warm_up: int = 0
    decay_steps: int | None = None
    ema_warm_up: bool = False

    def __post_init__(self) -> None:
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"Learning rate {self.learning_rate}: needed more than 0.")
        if not all(0 <= beta < 1 for beta in self.betas) or not self.weight_decay >= 0:
            raise ValueError(
                f"AdamW with betas {self.betas}, weight decay {self.weight_decay}: needed 0 <= beta < 1 and no "
                "negative decay."
            )
        if self.batch_size < 1:
            raise ValueError(f"Batch size {self.batch_size}: needed at least 1.")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.flip <= 1:
            raise ValueError(f"EMA {self.ema_decay}, flips {self.flip}: needed 0 <= EMA < 1 and a share of flips.")
        if not 0 <= self.global_seed < 1 << 63:
            raise ValueError(f"Seed {self.global_seed}: needed 0 to 2^63 - 1.")
        if self.precision not in ("fp32", "tf32", "bf16"):
            raise ValueError(f"Unknown precision {self.precision!r}; known: fp32, tf32, bf16.")
        if self.warm_up < 0 or (self.decay_steps is not None and self.decay_steps < 1):
            raise ValueError(f"Warm-up {self.warm_up}, decay {self.decay_steps}: needed 0 or more, and 1 or more.")

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


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The end of a training run.

    Attributes
    ----------
    steps : steps done in all
    ema, model : files of the averaged and of the last weights
    loss : mean of the latest steps, from the last line of the log on; None if none was done now and none is there
    images_per_second : of the steps done now; None if there were none
    """

    steps: int
    ema: Path
    model: Path
    loss: float | None
    images_per_second: float | None


def check_training(
    data: TrainingData,
    *,
    config: DiTConfig,
    recipe: Recipe,
    steps: int,
    save_at: Collection[int] = (),
    save_every: int = 50_000,
    log_every: int = 100,
    device: str = "cpu",
    micro_batch: int | None = None,
    world: World | None = None,
) -> None:
    """Find what cannot be trained before anything is built or run.

    Raises
    ------
    ValueError
        With what was found, what is needed, and why.
    """
    needed = (config.in_channels, config.input_size, config.input_size)
    if data.space != config.space or data.shape != needed:
        raise ValueError(
            f"The data are {_words(data.space, data.shape)}; the model needs {_words(config.space, needed)}."
        )
    if data.num_classes > config.num_classes:
        raise ValueError(f"The data have labels up to {data.num_classes - 1}; the model knows {config.num_classes}.")
    if not config.learn_sigma:
        raise ValueError("The recipe trains the variance as well; needed a model with learn_sigma.")
    check_schedule(
        recipe=recipe,
        steps=steps,
        save_at=save_at,
        save_every=save_every,
        log_every=log_every,
        device=device,
        micro_batch=micro_batch,
        world=world,
    )


def check_schedule(
    *,
    recipe: Recipe,
    steps: int,
    save_at: Collection[int] = (),
    save_every: int = 50_000,
    log_every: int = 100,
    device: str = "cpu",
    micro_batch: int | None = None,
    world: World | None = None,
) -> None:
    """The part of `check_training` that needs no data, which may take long to open. Errors as there."""
    for what, value in (("--steps", steps), ("--save-every", save_every), ("--log-every", log_every)):
        if value < 1:
            raise ValueError(f"{what} {value}: needed at least 1.")
    beyond = [step for step in save_at if not 1 <= step <= steps]
    if beyond:
        raise ValueError(f"--save-at {beyond[0]}: needed steps from 1 to {steps}, the last one.")
    size = (world or World()).size
    if recipe.batch_size % size:
        raise ValueError(f"A batch of {recipe.batch_size} does not divide among {size} processes.")
    if micro_batch is not None and micro_batch < 1:
        raise ValueError(f"--per-proc-batch-size {micro_batch}: needed at least 1.")
    if recipe.precision == "tf32" and not device.startswith("cuda"):
        raise ValueError("tf32 is arithmetic of NVIDIA GPUs; on the CPU use fp32 or bf16.")


def train(
    out: str | os.PathLike[str],
    *,
    config: DiTConfig,
    data: TrainingData,
    recipe: Recipe,
    steps: int,
    save_at: Collection[int] = (),
    save_every: int = 50_000,
    log_every: int = 100,
    device: str = "cpu",
    micro_batch: int | None = None,
    num_workers: int = 0,
    world: World | None = None,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Trained:
    """Train a DiT in a folder, or go on there; called by every process of a run.

    A run that was interrupted goes on from its latest checkpoint and ends with the weights it would have had: the same
    bits on a CPU. So does one that is asked for more steps than it has done.

    Parameters
    ----------
    out : folder of the run; made if missing
    steps : number of steps in all
    save_at, save_every : write weights after these steps, after every so many, and after the last one
    log_every : steps of a line of the log, which holds their mean losses
    micro_batch : images at once in a process; changes rounding only
    num_workers : threads that read batches ahead; 0 to read in the loop

    Raises
    ------
    ValueError
        As `check_training`; if the folder is of another run (the message says what differs), another process is at it,
        or a loss is not finite (the latest checkpoint is kept).
    OSError
        If the folder cannot be written, or the disk is too small for the checkpoints.
    """
    world, note = world or World(), on_note or (lambda _: None)
    check_training(
        data,
        config=config,
        recipe=recipe,
        steps=steps,
        save_at=save_at,
        save_every=save_every,
        log_every=log_every,
        device=device,
        micro_batch=micro_batch,
        world=world,
    )
    saves = sorted({*save_at, *range(save_every, steps, save_every), steps})
    folder = _Folder(Path(out), config, recipe, data)
    with folder:
        done = world.from_first(lambda: folder.begin(saves, note))
        if done >= steps:
            return Trained(
                steps=steps,
                ema=folder.weights("ema", steps),
                model=folder.weights("model", steps),
                loss=world.from_first(folder.last_loss),
                images_per_second=None,
            )
        if not folder.path.is_dir():
            raise FileNotFoundError(f"{folder.path}: not seen by process {world.rank}; all machines need to share it.")
        trainer = Trainer(config, recipe, device=device, world=world, micro_batch=micro_batch)
        pending = folder.restore(trainer, done) if done else []  # losses of the steps that no line of the log has
        world.barrier()  # nobody reads any more
        share = recipe.batch_size // world.size
        positions = range(world.rank * share, (world.rank + 1) * share)

        def batch(step: int) -> Batch:
            return draw_batch(data, config, recipe, step=step, positions=positions)

        begin, loss = time.perf_counter(), world.from_first(folder.last_loss)
        for step, drawn in zip(range(done + 1, steps + 1), _ahead(batch, range(done, steps), num_workers), strict=True):
            pending.append(trainer.step(drawn))
            if step % log_every == 0:
                loss = folder.log(trainer, pending, world)
                pending = []
            if step in saves:
                folder.save(trainer, pending, world)
            if on_progress and world.rank == 0:
                on_progress(step, steps, loss)
        if pending:
            loss = float(torch.stack(pending)[:, 0].mean())
        seconds = time.perf_counter() - begin
    return Trained(
        steps=steps,
        ema=folder.weights("ema", steps),
        model=folder.weights("model", steps),
        loss=loss,
        images_per_second=(steps - done) * recipe.batch_size / seconds,
    )


def steps_done(folder: Path) -> int:
    """Steps after which the run in a folder would go on; 0 if there is none."""
    path = folder / _STATE
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        return int(file.metadata()["step"])


def weights_of_step(folder: Path, step: int, kind: Literal["ema", "model"] = "ema") -> Path:
    """The file of the averaged or plain weights after a step."""
    return folder / f"{kind}-{step:07d}.safetensors"


def _words(space: str, shape: tuple[int, ...]) -> str:
    return f"{'latents' if space == 'latent' else 'images'} of {shape[0]} x {shape[1]} x {shape[2]}"


def _ahead(make: Callable[[int], Batch], steps: range, num_workers: int) -> Iterator[Batch]:
    """The batches of some steps in order, made by threads while earlier ones are used."""
    if num_workers < 1:
        yield from map(make, steps)
        return
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(num_workers) as pool:
        try:
            for step in steps:
                waiting.append(pool.submit(make, step))
                if len(waiting) > num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Folder:
    """The files of a run."""

    def __init__(self, path: Path, config: DiTConfig, recipe: Recipe, data: TrainingData) -> None:
        self.path = path
        described = {"config": dataclasses.asdict(config), "recipe": dataclasses.asdict(recipe), "data": data.identity}
        self._described: dict[str, dict[str, Any]] = json.loads(json.dumps(described))  # as the file has it
        self._log, self._lock = path / "log.jsonl", FileLock(path / "lock")
        self._environment: dict[str, Any] = {}

    def __enter__(self) -> None:
        """Leaving lets other runs at this folder."""

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def weights(self, kind: Literal["ema", "model"], step: int) -> Path:
        return weights_of_step(self.path, step, kind)

    def begin(self, saves: list[int], note: Callable[[str], None]) -> int:
        """Keep other runs away, and compare what is there with what is asked for; process 0 only.

        Returns the number of steps done.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)  # a killed process lets go of it
        except Timeout:
            raise ValueError(f"{self.path}: another process is training there; wait, or name another --out.") from None
        except OSError as error:
            raise OSError(f"{self.path}: cannot be written ({error.strerror}); name another --out.") from None
        for stale in self.path.glob(".*.part"):  # of a killed process
            stale.unlink()
        settings, steps = self.path / "run.json", saves[-1]
        self._environment = json.loads(json.dumps(environment()))
        known = []
        if settings.exists():
            try:
                there = json.loads(settings.read_text(encoding="utf-8"))
                known = there.pop("environments")
            except (AttributeError, KeyError, TypeError, ValueError):
                raise ValueError(f"{settings}: written by another program; name another --out.") from None
            if differences := _differences(self._described, there):
                raise ValueError(
                    f"{self.path} is of another run: {'; '.join(differences)} (now, there). Name another --out, or "
                    "remove it."
                )
        elif any(self.path.glob("*.safetensors")):
            raise ValueError(f"{self.path}: holds weights and no run.json; name another --out.")
        elif self._log.exists():
            raise ValueError(f"{self._log}: a log that no run.json belongs to; name another --out.")
        done = steps_done(self.path)
        if done >= steps:
            if not self.weights("ema", steps).exists():
                raise ValueError(
                    f"{self.path} has done {done:,} steps, {steps:,} were asked for, and the weights of that step are "
                    "not there. Name another --out."
                )
            if self._log.exists():
                self._mend_log(done)
            note(f"{self.path}: complete already, {done:,} steps of this run")
            return done
        self._check_disk([step for step in saves if step > done])
        environments = [*(e for e in known if e != self._environment), self._environment]
        with atomic_file(settings) as file:
            text = json.dumps(self._described | {"environments": environments}, ensure_ascii=False, indent=2)
            file.write(text.encode())
        self._mend_log(done)
        if done:
            note(f"{self.path}: going on after step {done:,} of {steps:,}")
        return done

    def _mend_log(self, done: int) -> None:
        """Leave out lines of steps that will be done again, and a line that was cut short."""
        kept = [line for line in self._lines() if json.loads(line)["step"] <= done]
        with atomic_file(self._log) as file:
            file.write("".join(line + "\n" for line in kept).encode())

    def restore(self, trainer: Trainer, done: int) -> list[Tensor]:
        """Bring a trainer to the latest checkpoint; the losses that no line of the log has yet."""
        files = {"ema": self.weights("ema", done), "model": self.weights("model", done)}
        missing = [str(path) for path in files.values() if not path.exists()]
        if missing:
            raise FileNotFoundError(f"{missing[0]}: gone; {self.path / _STATE} goes on from there.")
        state = {name: value for name, value in read_state(self.path / _STATE).items() if isinstance(value, Tensor)}
        pending = state.pop("pending")
        trainer.restore(done, model=files["model"], ema=files["ema"], state=state)
        return list(pending.to(next(trainer.model.parameters()).device))

    def save(self, trainer: Trainer, pending: list[Tensor], world: World) -> None:
        """Write a checkpoint. The state comes last: until it is there, a run goes on from the one before."""

        def write() -> None:
            losses = _finite(pending, trainer.steps)
            for kind, network in (("model", trainer.model), ("ema", trainer.ema)):
                notes = self._described | {"step": trainer.steps, "weights": kind, "environment": self._environment}
                text = json.dumps(notes, ensure_ascii=False)
                save_dit(
                    self.weights("ema" if kind == "ema" else "model", trainer.steps), network, notes={NOTES_KEY: text}
                )
            if self._log.exists():
                with open(self._log, "rb") as file:
                    os.fsync(file.fileno())
            state = {**trainer.state(), "pending": losses}
            with atomic_file(self.path / _STATE) as file:
                file.write(save(state, metadata={"step": str(trainer.steps)}))

        world.from_first(write)

    def log(self, trainer: Trainer, pending: list[Tensor], world: World) -> float:
        """Add a line with the mean losses of some steps; the loss."""

        def write() -> float:
            means = dict(zip(TERMS, _finite(pending, trainer.steps).mean(0).tolist(), strict=True))
            rate = trainer.recipe.learning_rate_at(trainer.steps - 1)
            line = json.dumps({"step": trainer.steps, **means, "learning_rate": rate})
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(line + "\n")
            return means["loss"]

        return world.from_first(write)

    def last_loss(self) -> float | None:
        lines = self._lines()
        return json.loads(lines[-1])["loss"] if lines else None

    def _lines(self) -> list[str]:
        """Whole lines of the log; a killed process may have left half of one."""
        text = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
        return text.split("\n")[:-1]

    def _check_disk(self, saves: list[int]) -> None:
        with torch.device("meta"):
            size = 4 * sum(p.numel() for p in DiT(DiTConfig(**self._described["config"])).parameters())
        # Two sets of weights a checkpoint; the optimizer's two moments, and once more while they are replaced.
        needed, free = (2 * len(saves) + 4) * size, shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(
                f"{self.path}: {free / 1e9:.3f} GB are free; needed {needed / 1e9:.3f} GB for {len(saves)} "
                "checkpoints. Save more seldom, or name another --out."
            )


def _differences(mine: dict[str, dict[str, Any]], theirs: dict[str, Any]) -> list[str]:
    """What differs, as "name: mine, theirs"."""
    found = []
    for part, fields in mine.items():
        other = theirs.get(part, {})
        for name in sorted(fields.keys() | other.keys()):
            if fields.get(name) != other.get(name):
                found.append(f"{part} {name}: {fields.get(name)!r}, {other.get(name)!r}")
    return found


def _finite(pending: list[Tensor], last: int) -> Tensor:
    """The losses of steps up to `last`, (n, 3) on the CPU, if they are numbers."""
    if not pending:
        return torch.zeros(0, len(TERMS))
    losses = torch.stack(pending).cpu()
    bad = torch.nonzero(~torch.isfinite(losses).all(1)).flatten()
    if len(bad):
        step = last - len(losses) + 1 + int(bad[0])
        raise ValueError(
            f"Step {step:,}: the loss is {losses[bad[0], 0].item()}. The latest checkpoint is kept; try a lower "
            "learning rate, --warm-up, or --precision fp32."
        )
    return losses
