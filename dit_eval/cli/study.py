"""`dit-eval study`."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import header, say
from dit_eval.cli.report import Serif, Style
from dit_eval.cli.shared import check_destination, is_folder
from dit_eval.results.settings import MOST_TASKS
from dit_eval.system.dist import join
from dit_eval.system.progress import Progress
from dit_eval.system.text import duration

if TYPE_CHECKING:
    from dit_eval.study.engine import Engine
    from dit_eval.study.folder import Study, TaskStatus
    from dit_eval.study.plan import Plan


_Plan = Annotated[str, Option("a TOML file, or the name of an embedded plan", name="PLAN")]
_Out = Annotated[Path, Option("folder of the study", metavar="DIR")]


@dataclass(frozen=True, kw_only=True)
class Run:
    """Do what is missing of a study: train its models, sample them, score the samples.

    Example: dit-eval study run digits --out study

    The folder of the study survives interruptions: the same command goes on.
    """

    plan: _Plan
    out: Annotated[Path | None, Option("folder of the study", metavar="DIR", group=EVERYDAY, check=is_folder)] = None
    dry_run: Annotated[bool, Option("check the plan, print its tasks and cost, do nothing", group=EVERYDAY)] = False
    train: Annotated[
        str | None, Option("training data, in place of the plan's", name="--data", metavar="LATENTS|NPZ|DIR")
    ] = None
    ref: Annotated[str | None, Option("reference batch, in place of the plan's", metavar="NPZ|NAME")] = None
    weights: Annotated[
        str | None, Option("of the Inception network (default: fetched into the cache)", metavar="FILE")
    ] = None
    engine: Annotated[Literal["local", "slurm"], Option("where tasks run")] = "local"
    jobs: Annotated[
        Annotated[int, Meta(le=MOST_TASKS)] | None,
        Option("tasks at once (default: as many as cores or GPUs allow; 16 with --engine slurm)"),
    ] = None
    device: Annotated[str, Option("cpu or cuda, where tasks run (default: GPUs if there are any)")] = "auto"


@dataclass(frozen=True, kw_only=True)
class Status:
    """Show each task of a study: state, cost, time left.

    Example: dit-eval study status digits --out study
    """

    plan: _Plan
    out: _Out
    json: Annotated[bool, Option("print one JSON object", group=EVERYDAY)] = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """Draw the paper's figures from a study's results.

    Example: dit-eval study report digits --out study
    """

    plan: _Plan
    out: _Out
    style: Style = "page"
    serif: Serif = False


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print a plan, to start one of your own from.

    Example: dit-eval study show digits > my_plan.toml
    """

    plan: _Plan


@dataclass(frozen=True, kw_only=True)
class Work:
    """Do one task of a study; what engines start, under torchrun or alone.

    Example: dit-eval study work study digits-S/4
    """

    plan: _Plan
    key: Annotated[str, Option("as `dit-eval study status` names it", name="TASK")]


def study_run(arguments: Run) -> None:
    header(f"study: plan {arguments.plan}" + ("" if arguments.out is None else f", in {arguments.out}"))
    if arguments.jobs is not None and arguments.jobs < 1:
        raise ValueError(f"--jobs {arguments.jobs}: needed at least 1.")
    from dit_eval.study.plan_file import load_plan

    plan = load_plan(arguments.plan)
    if arguments.dry_run:
        sys.stdout.write(_format_plan(plan))
        return
    if arguments.out is None:
        raise ValueError("--out DIR is missing: the folder of the study.")
    check_destination("--out", arguments.out, folder=True)
    from dit_eval.study.folder import Study
    from dit_eval.study.run import run_study
    from dit_eval.study.sources import check_study, find_sources

    study = Study(plan, arguments.out)
    study.check_folder()
    sources = find_sources(
        plan,
        train=arguments.train,
        ref=arguments.ref,
        weights=arguments.weights,
        device=arguments.device,
        on_note=say,
    )
    check_study(plan, sources)
    say(_format_cost(plan, study.missing()))
    with Progress("tasks", time_left=False) as progress, ExitStack() as stack:  # the study knows the time left better
        engine, workers = _study_engine(arguments, study, stack)
        count = run_study(
            study,
            engine,
            sources,
            workers=workers,
            on_note=progress.note,
            on_progress=lambda done, total, left: progress.update(
                plan.name, done, total, "" if left is None else f"about {duration(left)} left"
            ),
        )
    sys.stdout.write(
        f"{study.results}: {count:,} results\nFigures: dit-eval study report {arguments.plan} --out {study.folder}\n"
    )


def _study_engine(arguments: Run, study: Study, stack: ExitStack) -> tuple[Engine, int]:
    """Where the study's tasks run, and how many at once."""
    resources = [study.plan.resources(task) for task in study.plan.tasks]
    if arguments.engine == "slurm":
        from dit_eval.study.slurm import SlurmEngine

        limit = arguments.jobs or 16
        slurm = SlurmEngine(study.folder / "slurm", limit=limit)
        slurm.check(resources)
        return slurm, limit
    from dit_eval.study.tasks import local_engine

    engine, limit = local_engine(study, device=arguments.device, jobs=arguments.jobs)
    return stack.enter_context(engine), limit


def study_status(arguments: Status) -> None:
    from dit_eval.study.folder import Study
    from dit_eval.study.plan_file import load_plan

    study = Study(load_plan(arguments.plan), arguments.out)
    study.check_begun()
    rows = study.status()
    for line in study.unfit():
        say(line)
    if arguments.json:
        sys.stdout.write(_status_json(rows) + "\n")
    else:
        sys.stdout.write(_format_status(rows))


def _status_json(rows: list[TaskStatus]) -> str:
    tasks = [
        {
            "key": row.task.key,
            "name": row.task.name,
            "state": row.state,
            "done_share": row.done_share,
            "gflops": row.gflops,
            "seconds_left": row.seconds_left,
            "reason": row.reason,
            "result": row.result.to_dict() if row.result else None,
        }
        for row in rows
    ]
    return json.dumps({"tasks": tasks}, ensure_ascii=False)


def _format_status(rows: list[TaskStatus]) -> str:
    """A line for each task, a line that counts them, and why those failed that did."""
    table = [("task", "state", "Gflops", "time left", "FID"), *map(_status_cells, rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = []
    for name, state, *numbers in table:
        cells = [f"{text:>{width}}" for text, width in zip(numbers, widths[2:], strict=True)]
        lines.append("  ".join([f"{name:<{widths[0]}}", f"{state:<{widths[1]}}", *cells]).rstrip())
    lines.append(_status_in_all(rows))
    lines += [f"failed: {row.task.name}: {row.reason}" for row in rows if row.reason]
    return "\n".join(lines) + "\n"


def _status_in_all(rows: list[TaskStatus]) -> str:
    states = [row.state for row in rows]
    counts = {state: states.count(state) for state in ("done", "running", "failed")}
    known = [row.seconds_left for row in rows if row.seconds_left is not None]
    seconds = sum(known) if len(known) == len(rows) else 0.0
    total = f", about {duration(seconds)} of one worker left" if seconds else ""
    return f"{counts['done']} of {len(rows)} done, {counts['running']} running, {counts['failed']} failed{total}"


def _status_cells(row: TaskStatus) -> tuple[str, ...]:
    state = row.state if row.state in ("done", "waiting", "ready") else f"{row.state} {row.done_share:.0%}"
    left = "" if row.state == "done" else "?" if row.seconds_left is None else duration(row.seconds_left)
    fid = f"{row.result.fid:.3f}" if row.result and row.result.fid is not None else ""
    return row.task.name, state, f"{row.gflops:,.0f}", left, fid


def study_report(arguments: Report) -> None:
    from dit_eval.report.figures.style import LOOKS
    from dit_eval.report.law import measured_laws
    from dit_eval.report.page import write_report
    from dit_eval.study.folder import Study
    from dit_eval.study.plan_file import load_plan

    study = Study(load_plan(arguments.plan), arguments.out)
    study.check_begun()
    if not study.collect():
        raise ValueError(f"{study.folder}: no cell is done; run the study first.")
    page = write_report(
        out=study.folder / "report",
        results=study.results,
        losses=study.losses,
        look=replace(LOOKS[arguments.style], serif=arguments.serif),
        force=True,
        on_step=say,
    )
    for setting, law in measured_laws(study.results).items():
        sys.stdout.write("\n".join([f"{setting}:", *(f"  {line}" for line in law.sentences(most=5))]) + "\n")
    sys.stdout.write(f"{page}\n")


def study_show(arguments: Show) -> None:
    from dit_eval.study.plan_file import load_plan

    sys.stdout.write(load_plan(arguments.plan).text)


def study_work(arguments: Work) -> None:
    with join() as world:
        from dit_eval.study.folder import Study
        from dit_eval.study.tasks import work

        study = Study.open(arguments.plan)
        task = study.plan.task(arguments.key)
        world.share_cores(study.plan.resources(task).threads)
        with Progress("images" if task in study.plan.cells else "steps") as progress:
            work(study, arguments.key, world=world, on_progress=partial(progress.update, task.name))


def _format_plan(plan: Plan) -> str:
    """Tasks and cost of a plan, before anything is done."""
    from dit_eval.study.pace import predicted_hours, work_gflops

    table = [("task", "processes", "Gflops", "device-hours")]
    for task in plan.tasks:
        resources, hours = plan.resources(task), predicted_hours(plan, [task])
        processes = f"{resources.nodes} x {resources.processes}"
        table.append((task.name, processes, f"{work_gflops(task):,.0f}", "?" if hours is None else f"{hours:,.2f}"))
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = ["  ".join([f"{line[0]:<{widths[0]}}", *(f"{line[i]:>{widths[i]}}" for i in (1, 2, 3))]) for line in table]
    return "\n".join([f"{plan.name}: {plan.about}", *lines, _format_cost(plan, plan.tasks)]) + "\n"


def _format_cost(plan: Plan, tasks: list[Any]) -> str:
    """What tasks cost, in words."""
    from dit_eval.study.pace import predicted_hours, work_gflops
    from dit_eval.study.plan import Training

    trainings = [task for task in tasks if isinstance(task, Training)]
    cells = [task for task in tasks if not isinstance(task, Training)]
    text = (
        f"to do: {len(trainings)} trainings, {sum(map(work_gflops, trainings)):,.0f} Gflops; {len(cells)} cells, "
        f"{sum(map(work_gflops, cells)):,.0f} Gflops (1e9 multiply-adds; evaluation and decoding not counted)"
    )
    hours = predicted_hours(plan, tasks)
    if plan.speed is not None and hours is not None:
        text += (
            f"\nabout {hours:,.2f} device-hours: {plan.speed.device} at {plan.speed.tflops:g} Tflop/s"
            f"{_scoring_speed(plan.speed.scored_per_second)} ({plan.speed.source})"
        )
    return text


def _scoring_speed(scored_per_second: float | None) -> str:
    return "" if scored_per_second is None else f", {scored_per_second:g} samples a second scored"
