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
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from dit_eval.diffusion.data import TrainingData
from dit_eval.diffusion.trainer import TERMS, Trainer, check_schedule, draw_batch
from dit_eval.models.checkpoints import NOTES_KEY, read_state, save_dit
from dit_eval.models.dit import DiT, DiTConfig
from dit_eval.system.dist import World
from dit_eval.system.environment import environment
from dit_eval.system.files import atomic_file

if TYPE_CHECKING:
    from dit_eval.diffusion.trainer import Batch, Recipe

_STATE = "state.safetensors"
Progress = Callable[[int, int, float | None], None]  # steps done, steps in all, loss of the latest line of the log


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
