"""One task: a training or a cell."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dit_eval.study.folder import Study
from dit_eval.study.local import LocalEngine
from dit_eval.system.dist import World, cores, gpu_count
from dit_eval.system.switches import using_threads


def do_task(folder: Path, workers: int, key: str) -> None:
    """Do a task in a worker process, one of several on this machine."""
    study = Study.open(folder)
    threads = study.plan.resources(study.plan.task(key)).threads
    if threads is None and workers > 1:
        threads = max(1, cores() // workers)
    with using_threads(threads):
        study.work(key)


def local_engine(study: Study, *, device: str = "auto", jobs: int | None = None) -> tuple[LocalEngine, int]:
    """Workers of this machine for a study, and their number: as many as its cores or GPUs allow, or `jobs`."""
    resources = [study.plan.resources(task) for task in study.plan.tasks]
    gpus = gpu_count() if World().device(device).startswith("cuda") else 0
    if gpus:
        most = gpus // max(each.processes for each in resources)
    else:
        most = cores() // max(each.processes * (each.threads or cores()) for each in resources)
    limit = jobs or max(1, most)
    work = partial(do_task, study.folder.resolve(), limit)
    return LocalEngine(work, logs=study.folder / "logs", limit=limit, gpus=gpus), limit
