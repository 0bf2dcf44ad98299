"""The states of a disk that a process may leave when it is killed, kept while it runs to its end in this process.

What a killed process leaves is what was on the disk at that moment. Between two renames only files change that have not
taken their names yet, and logs, which grow: so the states before and after each rename, and while a folder is removed,
are all that there are. A test takes them from one run and goes on from each, without killing anything.
"""

import itertools
import os
import shutil
from pathlib import Path


def states_of_disk(monkeypatch, root, kept):
    """Keep copies of the folder `root` in `kept`, as `NNN what`, from now on; call the answer to stop.

    One is taken before each rename in `root` (the new file is whole, and has no name yet), one when half of a folder is
    removed.
    """
    root, kept = Path(root), Path(kept)
    kept.mkdir(parents=True, exist_ok=True)
    counter = itertools.count()
    replace, rmtree = os.replace, shutil.rmtree

    def keep(what):
        name = str(what.relative_to(root)).replace("/", ":")
        shutil.copytree(root, kept / f"{next(counter):03d} {name}")

    def watched_replace(source, target):
        if root in Path(target).parents:
            keep(Path(target))
        replace(source, target)

    def watched_rmtree(folder, *arguments, **options):
        if root in Path(folder).parents:
            keep(Path(folder))
            for path in sorted(Path(folder).iterdir())[::2]:
                path.unlink()
            keep(Path(folder))
        rmtree(folder, *arguments, **options)

    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(shutil, "rmtree", watched_rmtree)

    def stop():
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        return sorted(kept.iterdir())

    return stop


def fail_once(monkeypatch, name):
    """Have the next rename to a file of this name fail, as on a disk that is full or gone."""
    replace = os.replace

    def failing(source, target):
        if Path(target).name == name:
            monkeypatch.setattr(os, "replace", replace)
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
