"""What a study's folder says of itself, read back: nothing of it is believed that does not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dit_eval.results.eval_result import EvalResult
from dit_eval.results.lines import read_lines
from dit_eval.study.plan import Task, Training
from dit_eval.study.sources import Sources
from dit_eval.system.reading import is_number, read_json
from dit_eval.system.seals import read_sealed
from dit_eval.system.text import reason, shown
from dit_eval.training import parse_log_line


@dataclass(frozen=True, kw_only=True)
class Done:
    """What was noted when a task was finished, and the result of a cell."""

    about: dict[str, Any]
    result: EvalResult | None


def read_done(path: Path, task: Task) -> Done:
    """The record of a finished task.

    Raises
    ------
    ValueError
        If it is damaged, or of another task.
    """
    about = read_sealed(path)
    noted, seconds = about.get("task"), about.get("seconds")
    if not isinstance(noted, dict) or noted.get("key") != task.key:
        raise ValueError(f"{path}: of another task.")
    phases = {"training"} if isinstance(task, Training) else {"sampling", "evaluation"}
    if not isinstance(seconds, dict) or not phases <= seconds.keys():
        raise ValueError(f"{path}: no seconds of {' and '.join(sorted(phases))}.")
    numbers = (about.get("gflops"), about.get("share"), *seconds.values())
    if not all(is_number(value) and value >= 0 for value in numbers):
        raise ValueError(f"{path}: gflops, share or seconds are no numbers from 0 on.")
    try:
        result = None if isinstance(task, Training) else EvalResult.from_json(json.dumps(about.get("result")))
    except ValueError as error:
        raise ValueError(f"{path}: {reason(error)}") from None
    return Done(about=about, result=result)


def read_sources(path: Path) -> Sources:
    """Where data and weights are, as the latest run of a study has noted it."""
    try:
        return msgspec.convert(read_sealed(path).get("sources"), Sources, strict=True)
    except ValueError as error:  # of which msgspec's is one
        said = reason(error).removeprefix(f"{path}: ").rstrip(".")
        raise ValueError(f"{path}: damaged ({said}). `dit-eval study run` writes it anew.") from None


def read_failures(path: Path) -> dict[str, str]:
    """Why tasks failed, by their keys; ValueError if that cannot be read."""
    failures = read_json(path, "reasons of failures") if path.exists() else {}
    if not all(isinstance(said, str) for said in failures.values()):
        raise ValueError(f"{path}: not reasons by task.")
    return {key: "\n".join(map(shown, said.split("\n"))) for key, said in failures.items()}


def log_lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a training's log; a training that is running may have written half of the last."""
    if not path.exists():
        return []
    return [line for _, line in read_lines(path, parse_log_line, on_bad_line=lambda _: None)]
