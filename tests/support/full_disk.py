"""A disk that is full from a certain request on, for what is written by `dit_eval.system.files` in this process."""

import errno
import io
import math
import os
from pathlib import Path

from dit_eval.system import files


class Disk:
    """Counts the requests that may find a disk full: to make a folder or file, to write, flush and rename.

    Attributes
    ----------
    asked : (what, path) of each request so far
    left : requests that it still takes; of the last of several bytes it takes only half
    """

    def __init__(self, monkeypatch):
        self.asked, self.left, self._until = [], math.inf, None
        self._names = {}
        fsync, replace, mkdir, disk = os.fsync, os.replace, os.mkdir, self

        class Raw(io.FileIO):
            def write(self, data):
                disk.ask("write", self.name)
                view = memoryview(data).cast("B")
                return super().write(view[: -(-len(view) // 2)] if disk.left == 0 else view)

        def opened(path, mode="r", buffering=-1, **more):
            if "r" in mode:
                return open(path, mode, buffering, **more)
            disk.ask("open", path, path)
            raw = Raw(path, mode.replace("b", ""))
            disk._names[raw.fileno()] = path
            return raw if buffering == 0 else io.BufferedWriter(raw, 128)

        def flushed(file):
            disk.ask("fsync", disk._names.get(file, "?"))
            fsync(file)

        def renamed(source, target):
            disk.ask("replace", target, source, None, target)
            replace(source, target)

        def made(path, *arguments, **more):
            if not os.path.isdir(path):
                disk.ask("mkdir", path, path)
            mkdir(path, *arguments, **more)

        monkeypatch.setattr(files, "open", opened, raising=False)
        for name, function in (("fsync", flushed), ("replace", renamed), ("mkdir", made)):
            monkeypatch.setattr(os, name, function)

    def ask(self, what, path, *named):
        """OSError as the system has it if the disk is full: with the names that the request has, of which some none."""
        if what == "replace" and self._until and Path(path).match(self._until):
            self.left, self._until = 0, None
        if self.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *map(_text, named))
        self.left -= 1
        self.asked.append((what, Path(path)))

    def full_at(self, pattern):
        """Be full when the first file of such a path takes its name, and from then on."""
        self._until = pattern

    def kinds(self):
        """The first request of each kind: what, and the file without its numbers."""
        first = {}
        for number, (what, path) in enumerate(self.asked):
            name = path.name.removesuffix(".part")
            name = name.rpartition(".")[0].lstrip(".") if path.suffix == ".part" else name
            first.setdefault((what, "".join(c for c in name if not c.isdigit())), number)
        return first


def _text(name):
    return None if name is None else os.fspath(name)
