"""Folders that a run may be killed in at any time, and goes on in.

One run at a time writes into such a folder; the system lets go of its lock when its process is killed. Every file takes
its name only when all of it is on the disk (`atomic_file`), and whatever says that a piece is done is written after the
piece. So what is on the disk is enough to go on, and a run that goes on first compares its settings with those there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from dit_eval.system.dist import World
from dit_eval.system.files import atomic_file, check_locks
from dit_eval.system.reading import read_json
from dit_eval.system.text import reason, shown


class RunFolder:
    """The folder of a run; leaving it as a context lets other runs in.

    Parameters
    ----------
    path : the folder
    doing : what another process is said to be at: "training there"
    out : what the caller named, if that is another path
    settings : name of the file that says which run this is
    lock : file that keeps other runs away; in the folder by default
    """

    def __init__(
        self, path: Path, *, doing: str, out: Path | None = None, settings: str = "run.json", lock: Path | None = None
    ) -> None:
        self.path, self.settings = path, path / settings
        self._out, self._doing = out or path, doing
        self._lock_file = lock or path / "lock"
        self._lock = FileLock(self._lock_file)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def claim(self) -> None:
        """Keep other runs away, and remove what killed ones left half-written; by process 0 only.

        Makes the folder of the lock, and no other.

        Raises
        ------
        ValueError
            If another process is at it.
        OSError
            If nothing can be written there.
        """
        try:
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            claim(self._lock, f"{self._out}: another process is {self._doing}; wait for it, or name another `out`.")
        except OSError as error:
            raise OSError(f"{self.path}: cannot be written ({error.strerror}); name another `out`.") from None
        remove_partial(self.path)

    def check_seen(self, world: World) -> None:
        """FileNotFoundError if this process does not see the folder that process 0 has made."""
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: not seen by process {world.rank}; all machines need to share it.")

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a file of the folder, whole or not at all."""
        with atomic_file(self.path / name, own=True) as file:
            file.write(data)

    def write_array(self, name: str, array: np.ndarray) -> None:
        """Write an array as `.npy`, whole or not at all."""
        with atomic_file(self.path / name, own=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings in a file that says which run a folder is of; None if there is no such file.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    if not os.path.lexists(path):
        return None
    try:
        return read_json(path, "settings of a run")
    except ValueError as error:
        said = reason(error).removeprefix(f"{path}: ").rstrip(".")
        raise ValueError(f"{path}: written by another program; name another `out`. Found: {said}.") from None


def claim(lock: FileLock, busy: str, *, patience: float = 0.0) -> None:
    """Take a lock, of the system: it goes when its process ends or its machine fails, whatever the file says.

    Raises
    ------
    ValueError
        With the message `busy` if another process holds it for so many seconds more.
    OSError
        If the system cannot lock it.
    """
    check_locks(Path(lock.lock_file))
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        raise ValueError(busy) from None


def is_claimed(path: Path) -> bool:
    """Whether a process holds the lock of this file."""
    if not path.exists():
        return False
    try:
        check_locks(path)
    except OSError:  # so nobody could claim it here
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left in a folder of files that had not taken their names yet."""
    for stale in folder.glob(".*.part"):
        stale.unlink(missing_ok=True)


def refuse_other(path: Path, differences: Iterable[str]) -> None:
    """ValueError if there are differences between the run that is asked for and the one that is there."""
    if told := "; ".join(differences):
        raise ValueError(f"{path} is of another run: {told} (now, there). Name another `out`, or remove it.")


def differences(now: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What differs between two groups of settings, as "name: now, there"."""
    names = sorted(now.keys() | there.keys())
    return [
        f"{shown(name[:80])}: {now.get(name)!r:.300}, {there.get(name)!r:.300}"
        for name in names
        if now.get(name) != there.get(name)
    ]
