"""What the benchmarks share: alternating repeats, medians, and a line with the environment."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from dit_eval.system.environment import environment, now

LOG = Path(__file__).with_name("results.jsonl")


def alternate(candidates: dict[str, Callable[[], Any]], repeats: int = 5) -> dict[str, list[float]]:
    """Seconds of each candidate, `repeats` times in turn (A B A B ...), after one warm-up of each."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, run in candidates.items():
            begin = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def adm_evaluator(clone: Path) -> ModuleType:
    """`evaluations/evaluator.py` of a checkout of guided-diffusion, as it is."""
    spec = importlib.util.spec_from_file_location("adm_evaluator", clone / "evaluations" / "evaluator.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{clone}: not a checkout of guided-diffusion.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(question: str, seconds: dict[str, list[float]], base: str) -> None:
    """Print medians, spreads and ratios to `base`, and log them."""
    reference = statistics.median(seconds[base])
    sys.stdout.write(f"{question}\n")
    for name, values in seconds.items():
        median = statistics.median(values)
        sys.stdout.write(
            f"  {name:<42} {median:8.3f} s  ({min(values):.3f} to {max(values):.3f})  x{median / reference:.2f}\n"
        )
    log(question, {"seconds": seconds, "base": base})


def log(question: str, figures: dict[str, Any]) -> None:
    """Append figures with the environment to results.jsonl."""
    line = {"question": question, **figures, "environment": environment(), "time": now()}
    with open(LOG, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def print_environment() -> None:
    about = environment()
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items() if version)
    sys.stdout.write(f"{about['processor']}, {about['cores']} cores, Python {about['python']}, {packages}\n")
