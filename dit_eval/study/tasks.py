"""One task: a training, or a cell, which is drawn and scored."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dit_eval.diffusion.labels import draw_labels
from dit_eval.diffusion.recipe import Execution
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.diffusion.written import check_weights, steps_done
from dit_eval.evaluation import score
from dit_eval.images.npz import open_batch
from dit_eval.models.checkpoints import load_dit, seed_and_recipe, training_notes
from dit_eval.models.latent_space import LatentSpace
from dit_eval.models.vae import Autoencoder
from dit_eval.models.vae_files import latents_of
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.sample_run import RunFiles, SampleRun
from dit_eval.results.settings import EvaluationSettings
from dit_eval.sampling import images_drawn, sample_npz
from dit_eval.study.folder import Study
from dit_eval.study.local import LocalEngine
from dit_eval.study.plan import Cell, Training
from dit_eval.study.sources import feature_network, training_data, training_run
from dit_eval.system.assets import sha256_of
from dit_eval.system.dist import World, cores, gpu_count
from dit_eval.system.files import Watch, check_target
from dit_eval.system.switches import using_threads
from dit_eval.system.where import Where
from dit_eval.training import train, weights_of_step

OnTask = Callable[[int, int], None]  # told in process 0 of steps or images done, and their number


def work(study: Study, key: str, *, world: World | None = None, on_progress: OnTask | None = None) -> None:
    """Do one task of a study; called by every process of it.

    Raises
    ------
    ValueError
        If the plan has no such task, another process is at it, or it cannot be done.
    OSError
        If what it finds cannot be written; before the work, as far as that can be told.
    """
    world, task = world or World(), study.plan.task(key)
    with study.held(task, world):
        if world.from_first(lambda: study.is_done(task)):
            return
        world.from_first(lambda: check_target(study.done_file(task)))
        if isinstance(task, Training):
            _train(study, task, world, on_progress)
        else:
            _draw_and_score(study, task, world, on_progress)


def do_task(folder: Path, workers: int, key: str) -> None:
    """Do a task in a worker process, one of several on this machine."""
    study = Study.open(folder)
    threads = study.plan.resources(study.plan.task(key)).threads
    if threads is None and workers > 1:
        threads = max(1, cores() // workers)
    with using_threads(threads):
        work(study, key)


def local_engine(
    study: Study, *, device: str = "auto", jobs: int | None = None, interval: float = 1.0
) -> tuple[LocalEngine, int]:
    """Workers of this machine for a study, and their number: as many as its cores or GPUs allow, or `jobs`."""
    resources = [study.plan.resources(task) for task in study.plan.tasks]
    gpus = gpu_count() if World().device(device).startswith("cuda") else 0
    if gpus:
        most = gpus // max(each.processes for each in resources)
    else:
        most = cores() // max(each.processes * (each.threads or cores()) for each in resources)
    limit = jobs or max(1, most)
    todo = partial(do_task, study.folder.resolve(), limit)
    return LocalEngine(todo, logs=study.folder / "logs", limit=limit, gpus=gpus, interval=interval), limit


def _train(study: Study, run: Training, world: World, on_progress: OnTask | None) -> None:
    resources, folder = study.plan.resources(run), study.training_folder(run.key)
    before, begin = world.from_first(lambda: steps_done(folder)), time.perf_counter()
    lost = [step for step in run.steps if step <= before and not weights_of_step(folder, step).exists()]
    if lost:
        raise ValueError(
            f"{folder} has done {before:,} steps and did not keep the weights after {lost[0]:,}. Remove the folder "
            "to train again, or take that step out of the plan."
        )
    data = world.first_then_all(lambda: training_data(study.plan, study.sources))
    train(
        folder,
        training_run(run, data, save_at=[step for step in run.steps if step > before]),
        execution=Execution(
            device=world.device(study.sources.device),
            micro_batch=resources.micro_batch,
            num_workers=resources.num_workers,
        ),
        world=world,
        on_progress=(lambda done, total, _: on_progress(done, total)) if on_progress else None,
        on_note=_to_log,
    )
    if world.rank == 0:
        share = 1.0 - before / run.steps[-1]
        study.note_done(run, {"training": time.perf_counter() - begin}, share=share)


def _draw_and_score(study: Study, cell: Cell, world: World, on_progress: OnTask | None) -> None:
    device, out = world.device(study.sources.device), study.samples(cell)
    before, begin = world.from_first(lambda: images_drawn(out)), time.perf_counter()
    sample_npz(
        out,
        sampler=_sampler(study, cell, device),
        labels=draw_labels(
            "balanced" if cell.sampling.labels == "balanced" else "random",
            num_images=cell.num_samples,
            num_classes=cell.config.num_classes,
            seed=cell.seed,
        ),
        batch_size=study.plan.resources(cell).batch_size,
        world=world,
        on_progress=on_progress,
        on_note=_to_log,
    )
    drawn = time.perf_counter()
    result = score(
        gen=open_batch(out, role="gen"),
        ref=open_batch(study.sources.ref, role="ref"),
        network=feature_network(study.plan, study.sources, device=device),
        settings=EvaluationSettings(metrics=study.plan.data.metrics, intervals=study.plan.data.intervals),
        # A cell is scored once; features of 50,000 images take 800 MB.
        where=Where(cache=study.folder / "cache", cache_gen=False, world=world),
    )
    if world.rank == 0:
        seconds = {"sampling": drawn - begin, "evaluation": time.perf_counter() - drawn}
        share = 1.0 - before / cell.num_samples
        study.note_done(cell, seconds, share=share, result=_seen_from(study.folder, result, out))
        if not cell.keep_samples:
            out.unlink()


def _to_log(line: str) -> None:
    """What is taken over or done again; a worker's stderr is its log."""
    sys.stderr.write(f"{line}\n")


def _sampler(study: Study, cell: Cell, device: str) -> ImageSampler:
    """The cell's network with its weights, guide and decoder, and how images are drawn from it."""
    checkpoint, *weaker = study.checkpoints(cell)
    decoder = None if cell.vae is None else Path(study.sources.decoders[cell.vae])
    watch = Watch(checkpoint, *weaker, *([] if decoder is None else [decoder]))
    training = next(run for run in study.plan.trainings if run.key == cell.training)
    latents = LatentSpace() if decoder is None else latents_of(decoder)
    notes = training_notes(checkpoint)
    seed, recipe = seed_and_recipe(notes) if notes else (None, None)
    files = RunFiles(
        model=cell.model,
        network=cell.config.to_dict(),
        image_size=cell.config.image_size,
        checkpoint=checkpoint.name,
        checkpoint_sha256=_checked(checkpoint),
        weights="ema",
        vae=cell.vae,
        vae_sha256=None if decoder is None else sha256_of(decoder),
        vae_latents=latents.record,
        training_steps=cell.training_steps,
        training_batch_size=training.recipe.batch_size,
        training_seed=seed,
        training_recipe=recipe,
    )
    guide = None
    if cell.guide is not None:
        files = dataclasses.replace(
            files,
            guide_ckpt=f"{cell.guide.training}/{weaker[0].name}",  # files of trainings have the same names
            guide_ckpt_sha256=_checked(weaker[0]),
            guide_network=dataclasses.asdict(cell.guide.config),
        )
        guide = load_dit(weaker[0], cell.guide.config).to(device)
    run = SampleRun.of(cell.sampling, files, device=device)
    decode = None if decoder is None else Autoencoder(decoder, device=device, tiling=run.vae_tiling).decode
    model = load_dit(checkpoint, cell.config).to(device)
    watch.check()
    return ImageSampler(model, run, decode=decode, guide=guide)


def _checked(weights: Path) -> str:
    """The SHA-256 of weights, which have to be as their training wrote them."""
    found = sha256_of(weights)
    check_weights(weights, found)
    return found


def _seen_from(folder: Path, result: EvalResult, out: Path) -> EvalResult:
    """A result whose paths are as seen from the folder: it can be moved, and two runs give the same results."""
    gen = dataclasses.replace(result.gen, path=out.relative_to(folder).as_posix())
    ref = dataclasses.replace(result.ref, path=Path(result.ref.path).name)
    return dataclasses.replace(result, gen=gen, ref=ref)
