"""Where a number was made: versions, commit, machine, memory."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import dit_eval


def environment() -> dict[str, Any]:
    """What a number may depend on besides its inputs: versions, commit, machine. Imports none of the packages."""
    packages = ("torch", "torch-fidelity", "timm", "pillow", "numpy", "scipy", "tensorflow")
    commit, dirty = _git_state()
    return {
        "dit_eval": dit_eval.__version__,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def peak_memory_bytes() -> int | None:
    """Largest resident memory of this process so far; None where the system does not say (Windows)."""
    # Linux starts a process's ru_maxrss at the peak of the program that launched it, so it is not asked there.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        pass
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or None


def _git_state() -> tuple[str | None, bool | None]:
    """Commit and whether files differ from it, if dit_eval runs from a checkout of its own; else (None, None)."""
    root = Path(dit_eval.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        run = [
            subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=True)
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return None, None
    return run[0].stdout.strip(), bool(run[1].stdout.strip())
