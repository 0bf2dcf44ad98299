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
one, `log.jsonl` the losses. The state carries digests of itself, of the weights of all steps and of the log, which are
checked before a run goes on.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from dit_eval.diffusion.data import TrainingData
from dit_eval.diffusion.latents import Latents
from dit_eval.diffusion.recipe import Execution, Recipe, Schedule
from dit_eval.diffusion.trainer import Batch, Trainer, check_execution, draw_batch
from dit_eval.diffusion.written import STATE, check_state, check_weights, digests_of, notes_of, steps_done
from dit_eval.images.identity import beside, check_identity
from dit_eval.models.checkpoints import NOTES_KEY, save_dit
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT
from dit_eval.system.ahead import in_order
from dit_eval.system.dist import World
from dit_eval.system.environment import environment
from dit_eval.system.files import append_line, atomic_file, sync
from dit_eval.system.reading import is_count, is_number, lines_of, parse_json
from dit_eval.system.run_folder import RunFolder, differences, read_settings, refuse_other
from dit_eval.system.seals import digest_of, file_digest, read_sealed, run_digest, sealed, sealed_tensors
from dit_eval.system.tensors import Unfilled
from dit_eval.system.text import reason

_KINDS: tuple[Literal["ema"], Literal["model"]] = ("ema", "model")
OnSteps = Callable[[int, int, float | None], None]  # steps done, steps in all, loss of the latest line of the log


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What is trained, on what, how, and for how long."""

    config: DiTConfig
    data: TrainingData
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)


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


def check_training(run: TrainingRun, *, execution: Execution, world: World | None = None) -> None:
    """Find what cannot be trained before anything is built or run.

    Raises
    ------
    ValueError
        With what was found, what is needed, and why.
    """
    data, config = run.data, run.config
    needed = (config.in_channels, config.input_size, config.input_size)
    if data.space != config.space or data.shape != needed:
        raise ValueError(
            f"The data are {_words(data.space, data.shape)}; the model needs {_words(config.space, needed)}."
        )
    if isinstance(data, Latents) and data.latents.factor != config.latent_factor:
        raise ValueError(
            f"The data are latents at 1/{data.latents.factor} of the side; the model needs 1/{config.latent_factor}."
        )
    if data.num_classes > config.num_classes:
        raise ValueError(f"The data have labels up to {data.num_classes - 1}; the model knows {config.num_classes}.")
    if not config.learn_sigma and run.recipe.flow is None:
        raise ValueError("The recipe trains the variance as well; needed a model with learn_sigma.")
    check_execution(run.recipe, execution, world or World())


def train(
    out: str | os.PathLike[str],
    run: TrainingRun,
    *,
    execution: Execution | None = None,
    world: World | None = None,
    on_progress: OnSteps | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Trained:
    """Train a DiT in a folder, or go on there; called by every process of a run.

    A run that was interrupted goes on from its latest checkpoint and ends with the weights it would have had: the same
    bits on a CPU. So does one that is asked for more steps than it has done.

    Parameters
    ----------
    out : folder of the run; made if missing
    execution : the device and its use; a CPU by default
    world : the processes that train together
    on_progress : called in process 0 after each step
    on_note : called in process 0 with a line if the run goes on, or is complete already

    Raises
    ------
    ValueError
        As `check_training`; if the folder is of another run (the message says what differs), another process is at it,
        or a loss is not finite (the latest checkpoint is kept).
    OSError
        If the folder cannot be written, or the disk is too small for the checkpoints.
    """
    execution, world = execution or Execution(), world or World()
    check_training(run, execution=execution, world=world)
    steps, images_per_second = run.schedule.steps, None
    folder = _Folder(Path(out), run)
    with folder.files:
        done = world.from_first(lambda: folder.begin(on_note or (lambda _: None)))
        if done < steps:
            loss, images_per_second = _go_on(
                folder, run, done, execution=execution, world=world, on_progress=on_progress
            )
        else:
            loss = world.from_first(folder.last_loss)
    return Trained(
        steps=steps,
        ema=weights_of_step(folder.path, steps, "ema"),
        model=weights_of_step(folder.path, steps, "model"),
        loss=loss,
        images_per_second=images_per_second,
    )


def _go_on(
    folder: _Folder,
    run: TrainingRun,
    done: int,
    *,
    execution: Execution,
    world: World,
    on_progress: OnSteps | None,
) -> tuple[float | None, float]:
    """Do the steps after `done`; the loss of the latest ones, and images per second."""
    folder.files.check_seen(world)
    schedule, saves = run.schedule, set(run.schedule.saves)
    trainer = Trainer(run.config, run.recipe, device=execution.device, world=world, micro_batch=execution.micro_batch)
    pending = folder.restore(trainer, done) if done else []  # losses of the steps that no line of the log has
    world.barrier()  # nobody reads any more
    begin, loss = time.perf_counter(), world.from_first(folder.last_loss)
    with closing(_batches(run, done, world, execution.num_workers)) as batches:
        for step, batch in enumerate(batches, start=done + 1):
            pending.append(trainer.step(batch))
            if step % schedule.log_every == 0:
                loss = folder.log(trainer, pending, world)
                pending = []
            if step in saves:
                folder.save(trainer, pending, world)
            if on_progress and world.rank == 0:
                on_progress(step, schedule.steps, loss)
    if pending:
        loss = float(torch.stack(pending)[:, 0].mean())
    return loss, (schedule.steps - done) * run.recipe.batch_size / (time.perf_counter() - begin)


def _batches(run: TrainingRun, done: int, world: World, num_workers: int) -> Generator[Batch]:
    """This process's share of the batches of the steps after `done`, made ahead by threads."""
    share = run.recipe.batch_size // world.size
    positions = range(world.rank * share, (world.rank + 1) * share)
    tasks = (
        partial(draw_batch, run.data, run.config, run.recipe, step=step, positions=positions)
        for step in range(done, run.schedule.steps)
    )
    return in_order(tasks, threads=num_workers, ahead=num_workers)


def parse_log_line(text: str) -> dict[str, Any]:
    """A line of a training's log: "step", "loss" and other numbers by name; ValueError if it is none."""
    try:
        line = parse_json(text)
    except RecursionError as error:
        raise ValueError(reason(error)) from None
    if not isinstance(line, dict) or not is_count(line.get("step")) or not all(map(is_number, line.values())):
        raise ValueError("expected a step, and numbers by name")
    if "loss" not in line:
        raise ValueError("expected a loss")
    return line


def log_is_damaged(folder: Path) -> bool:
    """Whether the log in a folder is not as the state beside it says that it was written.

    Raises
    ------
    ValueError
        If the state is damaged.
    """
    notes, log = notes_of(folder), folder / "log.jsonl"
    return "log" in notes and digest_of(_lines_to(log, int(notes["step"]), lambda _: None)) != notes["log"]


def _lines_to(log: Path, step: int, note: Callable[[str], None]) -> bytes:
    """The lines of a log up to a step."""
    return b"".join(text for text, line in _whole_lines(log, note) if line["step"] <= step)


def _whole_lines(log: Path, note: Callable[[str], None]) -> list[tuple[bytes, dict[str, Any]]]:
    """Whole lines of a log, and what they say; a killed process may have left half of one."""
    found = []
    for number, text in enumerate(lines_of(log, "a log") if log.exists() else (), start=1):
        if not text.endswith(b"\n"):
            break
        if not text.strip():
            continue
        try:
            found.append((text, parse_log_line(text.decode("utf-8"))))
        except ValueError as error:
            note(f"warning: {log}, line {number}: damaged, left out ({reason(error)}).")
    return found


def weights_of_step(folder: Path, step: int, kind: Literal["ema", "model"] = "ema") -> Path:
    """The file of the averaged or plain weights after a step."""
    return folder / f"{kind}-{step:07d}.safetensors"


def _words(space: str, shape: tuple[int, ...]) -> str:
    return f"{'latents' if space == 'latent' else 'images'} of {shape[0]} x {shape[1]} x {shape[2]}"


class _Folder:
    """What is written in the folder of a run, and read to go on."""

    def __init__(self, path: Path, run: TrainingRun) -> None:
        self.path, self.files = path, RunFolder(path, doing="training there")
        self._training, self._schedule, self._log = run, run.schedule, path / "log.jsonl"
        self._environment: dict[str, Any] = {}
        self._weights: dict[str, str] = {}  # digests of the weights of all steps, by the names of their files

    @cached_property
    def _described(self) -> dict[str, dict[str, Any]]:
        """What tells the run from others, as the file has it; of process 0 alone, since data may be read for it."""
        run = self._training
        config, recipe = run.config.to_dict(), run.recipe.described()
        described: dict[str, dict[str, Any]] = json.loads(
            json.dumps({"config": config, "recipe": recipe, "data": run.data.identity})
        )
        return described

    @cached_property
    def _run(self) -> str:
        return run_digest(self._described)

    def begin(self, note: Callable[[str], None]) -> int:
        """Keep other runs away, and compare what is there with what is asked for; process 0 only.

        Returns the number of steps done.
        """
        self.files.claim()
        known = self._earlier_environments(note)
        done, steps = steps_done(self.path), self._schedule.steps
        if done >= steps:
            if not weights_of_step(self.path, steps).exists():
                raise ValueError(
                    f"{self.path} has done {done:,} steps, {steps:,} were asked for, and the weights of that step are "
                    "not there. Name another `out`."
                )
            log = self._check_written(done, every=True)
            if self._log.exists():
                self._mend_log(done, log, note)
            note(f"{self.path}: complete already, {done:,} steps of this run")
            return done
        log = self._check_written(done, every=False) if done else None
        self._check_disk([step for step in self._schedule.saves if step > done])
        self._environment = json.loads(json.dumps(environment()))
        environments = [*(e for e in known if e != self._environment), self._environment]
        self._describe(environments)
        self._mend_log(done, log, note)
        if done:
            note(f"{self.path}: going on after step {done:,} of {steps:,}")
        return done

    def _describe(self, environments: list[dict[str, Any]]) -> None:
        about = sealed(self._described | {"environments": environments})
        # Half a character, which a file from elsewhere may have had, as JSON spells it.
        text = json.dumps(about, ensure_ascii=False, indent=2).encode(errors="backslashreplace")
        self.files.write("run.json", text)

    def _there(self, note: Callable[[str], None]) -> dict[str, Any] | None:
        """What says which run is there, None if nothing does; if that is damaged, what the state proves."""
        settings = self.files.settings
        try:
            return None if read_settings(settings) is None else read_sealed(settings)
        except ValueError:
            if not (self.path / STATE).exists() or check_state(self.path / STATE).get("run") != self._run:
                raise
        note(f"{settings}: damaged; written anew, and where earlier steps were done is not known")
        self._describe([])
        return self._described | {"environments": []}

    def _earlier_environments(self, note: Callable[[str], None]) -> list[dict[str, Any]]:
        """Where the run that is there was made, if any; ValueError if it is another one."""
        settings = self.files.settings
        there = self._there(note)
        if there is None:
            if any(self.path.glob("*.safetensors")):
                raise ValueError(f"{self.path}: holds weights and no run.json; name another `out`.")
            if self._log.exists():
                raise ValueError(f"{self._log}: a log that no run.json belongs to; name another `out`.")
            return []
        known, parts = there.get("environments"), {part: there.get(part, {}) for part in self._described}
        if not isinstance(known, list) or not all(isinstance(each, dict) for each in [*known, *parts.values()]):
            raise ValueError(f"{settings}: written by another program; name another `out`.")
        found = [
            f"{part} {difference}"
            for part, fields in self._described.items()
            for difference in differences(beside(fields), beside(parts[part]))
        ]
        refuse_other(self.path, found)
        check_identity(self._described["data"], parts["data"], self.path)
        return known

    def _check_written(self, done: int, *, every: bool) -> str | None:
        """Check what a run goes on from, or all that it wrote, and take over its digests; that of the log.

        Raises
        ------
        ValueError
            If the state or weights are damaged, or of another step or run.
        """
        says = check_state(self.path / STATE)
        if not says:  # of an earlier version
            return None
        if says.get("run") != self._run:
            raise ValueError(
                f"{self.path / STATE}: of another run than the folder's run.json. Put a good copy in its place, or "
                "remove the folder to train again."
            )
        self._weights = digests_of(says)
        latest = {weights_of_step(self.path, done, kind).name for kind in _KINDS}
        for name in self._weights if every else latest & self._weights.keys():
            if (self.path / name).exists():
                check_weights(self.path / name)
        return says.get("log")

    def _mend_log(self, done: int, digest: str | None, note: Callable[[str], None]) -> None:
        """Leave out lines of steps that will be done again, damaged ones, and a line that was cut short."""
        data = _lines_to(self._log, done, note)
        if digest is not None and digest_of(data) != digest:
            note(f"{self._log}: damaged; losses of steps up to {done:,} are not as they were written")
        self.files.write(self._log.name, data)

    def restore(self, trainer: Trainer, done: int) -> list[Tensor]:
        """Bring a trainer to the latest checkpoint; the losses that no line of the log has yet."""
        ema, model = weights_of_step(self.path, done, "ema"), weights_of_step(self.path, done, "model")
        missing = [str(path) for path in (ema, model) if not path.exists()]
        if missing:
            raise FileNotFoundError(f"{missing[0]}: gone; {self.path / STATE} goes on from there.")
        others = trainer.restore(done, model=model, ema=ema, state=self.path / STATE)
        return list(others["pending"].to(next(trainer.model.parameters()).device))

    def save(self, trainer: Trainer, pending: list[Tensor], world: World) -> None:
        """Write a checkpoint. The state comes last: until it is there, a run goes on from the one before."""

        def write() -> None:
            losses = _finite(pending, trainer)
            self._save_weights(trainer, "model")
            self._save_weights(trainer, "ema")
            if self._log.exists():
                sync(self._log)
            notes = {
                "step": str(trainer.steps),
                "run": self._run,
                "weights": json.dumps(self._weights),
                "log": digest_of(self._log.read_bytes() if self._log.exists() else b""),
            }
            state = save({**trainer.state(), "pending": losses}, metadata=notes)
            with atomic_file(self.path / STATE, own=True) as file:
                file.writelines(sealed_tensors(state))

        world.from_first(write)

    def _save_weights(self, trainer: Trainer, kind: Literal["ema", "model"]) -> None:
        notes = self._described | {"step": trainer.steps, "weights": kind, "environment": self._environment}
        network = trainer.ema if kind == "ema" else trainer.model
        text = json.dumps(notes, ensure_ascii=False)
        path = weights_of_step(self.path, trainer.steps, kind)
        save_dit(path, network, notes={NOTES_KEY: text})
        self._weights[path.name] = file_digest(path)

    def log(self, trainer: Trainer, pending: list[Tensor], world: World) -> float:
        """Add a line with the mean losses of some steps; the loss."""

        def write() -> float:
            means = dict(zip(trainer.terms, _finite(pending, trainer).mean(0).tolist(), strict=True))
            rate = trainer.recipe.learning_rate_at(trainer.steps - 1)
            line = json.dumps({"step": trainer.steps, **means, "learning_rate": rate})
            append_line(self._log, f"{line}\n".encode(), durable=False)  # `save` makes it so
            return means["loss"]

        return world.from_first(write)

    def last_loss(self) -> float | None:
        lines = _whole_lines(self._log, lambda _: None)
        return lines[-1][1]["loss"] if lines else None

    def _check_disk(self, saves: list[int]) -> None:
        with torch.device("meta"), Unfilled():
            size = 4 * sum(p.numel() for p in DiT(DiTConfig(**self._described["config"])).parameters())
        # Two sets of weights a checkpoint; the optimizer's two moments, and once more while they are replaced.
        needed, free = (2 * len(saves) + 4) * size, shutil.disk_usage(self.path).free
        if free < needed:
            raise OSError(
                f"{self.path}: {free / 1e9:.3f} GB are free; needed {needed / 1e9:.3f} GB for {len(saves)} "
                "checkpoints. Save more seldom, or name another `out`."
            )


def _finite(pending: list[Tensor], trainer: Trainer) -> Tensor:
    """The losses of a trainer's latest steps, (n, its terms) on the CPU, if they are numbers."""
    if not pending:
        return torch.zeros(0, len(trainer.terms))
    losses = torch.stack(pending).cpu()
    bad = torch.nonzero(~torch.isfinite(losses).all(1)).flatten()
    if len(bad):
        step = trainer.steps - len(losses) + 1 + int(bad[0])
        raise ValueError(
            f"Step {step:,}: the loss is {losses[bad[0], 0].item()}. The latest checkpoint is kept; try a lower "
            "learning rate, `warm_up`, or `precision` fp32."
        )
    return losses
