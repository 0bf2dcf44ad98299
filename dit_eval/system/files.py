"""Files that appear whole or not at all, files that must not change, names, and archives that are opened within bounds.

One rule holds for what commands write, wherever they write it (`check_ending`, `check_folder_name`, `refuse_existing`):

- The ending of a file's name says its format. Another ending is refused before any work; none is added or exchanged.
- `--out` is never written over. Commands that may take long (sample, train, encode, study, quickstart) go on with what
  is theirs and refuse the rest; the others (stats, grid, report) refuse, or replace it with `--force`.
- What accompanies a result is replaced: `--json`, and `--grid` of sample and classes. `--results` grows by a line.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from dit_eval.system.text import shown

# Endings of what one may expect where a folder is made: a page or picture, images, weights, an archive.
_OF_FILES = {
    *(".html", ".pdf", ".png", ".svg", ".jpg", ".jpeg", ".md", ".tex", ".npz"),
    *(".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".zip", ".tar", ".gz"),
}
_PATIENCE, _PAUSE = 60.0, 0.01  # seconds to wait for others who add a line, and between two looks


@contextmanager
def atomic_file(path: Path, *, own: bool = False) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name, and replaces an earlier one, only when all is on the disk.

    Until then it is `.NAME.*.part` beside it, and gone if an error comes. A killed process leaves it, to the next one
    that writes the file. A link stays a link, to the new file, which may be read and written by those who might the
    earlier one. A pipe or device is written into as it is.

    Parameters
    ----------
    own : it lies in a folder of dit-eval's own, where nobody means a pipe, which might be waited for: it is refused

    Raises
    ------
    OSError
        If it cannot be written; with its name. Nothing but a plain file is ever replaced.
    """
    if not own and is_stream(path):
        with _naming(path), open(path, "ab") as file:
            yield file
        return
    path = _followed(path)
    mode = _mode_of(path)
    partial = _partial(path)
    with _naming(path, partial):
        try:
            with _part(partial, path) as file:
                if mode is not None:
                    with suppress(OSError):  # a file system without modes
                        os.fchmod(file.fileno(), mode)
                yield file
                file.flush()
                os.fsync(file.fileno())
                _mode_of(path)  # while the file was written, something else may have taken its name
                os.replace(partial, path)  # while it is locked, or it would count as left
        except BaseException:
            with suppress(OSError):  # the folder is gone, or a file by now: the first error says more
                partial.unlink(missing_ok=True)
            raise


def remove_left(path: Path) -> None:
    """Remove what killed processes left of a file that they were writing; what another one writes now stays.

    Parameters
    ----------
    path : what the file would be called; its folder may be missing
    """
    start, end = f".{path.name}.", ".part"
    try:
        with os.scandir(path.parent) as entries:
            left = [Path(entry) for entry in entries if entry.name.startswith(start) and entry.name.endswith(end)]
    except OSError:  # no folder, or none that may be listed: whoever writes there says so
        return
    for partial in left:
        with suppress(OSError), _opened_plain(partial) as file:  # another one's, or gone by now
            if _try_lock(file) and _is_at(partial, file):
                partial.unlink()


def open_log(path: Path) -> BinaryIO:
    """Open a file that a program is to write its words to, after those that it has; missing folders are made.

    Raises
    ------
    OSError
        If it cannot be written, or is no plain file: to open a pipe may wait for ever.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _mode_of(_followed(path))
    return open(path, "ab")


def append_line(path: Path, line: bytes, *, durable: bool = True) -> None:
    """Add a line, newline included, to a file that several processes add lines to; missing folders are made.

    Each waits for its turn. A line that a killed process left unfinished is closed first. A pipe or device is written
    into as it is.

    Parameters
    ----------
    durable : return only when the line is on the disk

    Raises
    ------
    OSError
        If it cannot be written, or locked; with its name, and the file is then as before.
    """
    if is_stream(path):
        with _naming(path), open(path, "ab") as file:
            file.write(line)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path), _locked(path) as file:
        size = written = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            while written < size + len(line):
                written += file.write(line[written - size :])
            if durable:
                os.fsync(file.fileno())
        except BaseException:
            file.seek(size)
            if line.startswith(file.read(len(line) + 1)):  # and nobody who knows no lock has added more
                file.truncate(size)
            raise


def sync(path: Path) -> None:
    """Wait until a file is on the disk; OSError, with its name, if it cannot be written there."""
    with _naming(path), open(path, "rb") as file:
        os.fsync(file.fileno())


def check_target(path: Path, *, append: bool = False) -> None:
    """That a file can be written under this name, found by trying: made or replaced, or, with `append`, added to.

    Missing folders count as made; whoever writes makes them. Everything is left as it is.

    Raises
    ------
    OSError
        With what is in the way.
    """
    target = _followed(path)
    try:
        if is_stream(path):  # to open it may wait for a reader
            return
        if target.is_dir():
            raise OSError("it is a folder")
        _mode_of(target)
        if path.is_symlink() and not target.parent.is_dir():  # of a disk that is not mounted, perhaps
            raise OSError(f"it is a link to {target}, and there is no folder {target.parent}")
        if append and target.exists():
            with open(target, "ab") as file:
                _lock(file, target, patience=0.0)
            return
        _try(target, lock=append)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {_obstacle(target.parent, error)}") from None


def check_folder(path: Path) -> None:
    """That files can be written in a folder, found by trying; a missing one counts as made. All is left as it is.

    Raises
    ------
    OSError
        With what is in the way.
    """
    try:
        _try(path / "trial")
    except OSError as error:
        raise OSError(f"{path} cannot be written: {_obstacle(path, error)}") from None


def why_not_written(path: Path, error: OSError) -> str:
    """The reason, in words, that writing a file has failed for."""
    return error.strerror or str(error) if path.parent.is_dir() else _obstacle(path.parent, error)


def check_locks(path: Path) -> None:
    """That the system can lock a file, which is made; whether another process has locked it makes no difference.

    Libraries that lock files fall back on files that are there as long as the lock, where the system cannot: such one
    stays when its process is killed, and on another machine nobody can tell.

    Raises
    ------
    OSError
        If it cannot, or the file cannot be made.
    """
    with _naming(path), open(path, "ab") as file:
        _lock(file, path, patience=0.0)


def is_stream(path: Path) -> bool:
    """Whether there is something else than a file or folder: a pipe, a device, or an open file as `/dev/stdout`."""
    opened = str(path).startswith(("/dev/std", "/dev/fd/", "/proc/"))
    return path.exists() and not path.is_dir() and (opened or not path.is_file())


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")


@contextmanager
def _part(partial: Path, path: Path) -> Iterator[BinaryIO]:
    """Make the part of a file, locked for as long as it is open, by which others know that it is being written."""
    remove_left(path)
    while True:
        with open(partial, "xb") as file:
            _try_lock(file, patience=_PATIENCE)  # another process may just have taken it for left, and remove it
            if _is_at(partial, file):
                yield file
                return


@contextmanager
def _opened_plain(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain file to read; OSError if it is none. Neither follows a link nor waits for a pipe."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path))
        yield file


def _try_lock(file: IO[bytes], *, patience: float = 0.0) -> bool:
    """Lock an open file; whether it is. It is not where another process keeps it locked, or the system has no locks."""
    import fcntl  # not on every system, and only for this

    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE)
        except OSError:
            return False


@contextmanager
def _naming(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Give an error of the system the name of the file that is written, if it has none, or that of its part.

    Where a disk is full, that is found out when bytes are written, and all that is known then is an open file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, partial, os.fspath(partial or "")):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def _followed(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _mode_of(path: Path) -> int | None:
    """Who may read and write a plain file; None if there is none. OSError if there is something else."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}  # of links, those that lead to themselves
        code = kinds.get(stat.S_IFMT(status.st_mode), errno.EEXIST)
        raise OSError(code, os.strerror(code), str(path))
    return stat.S_IMODE(status.st_mode)


@contextmanager
def _locked(path: Path) -> Iterator[io.FileIO]:
    """Open a file to read and to append, which no other process that opens it so has at the same time."""
    while True:
        with open(path, "ab+", buffering=0) as file:
            _lock(file, path, patience=_PATIENCE)
            if _is_at(path, file):  # else it was replaced while this process waited
                yield file
                return


def _is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(file: IO[bytes], path: Path, *, patience: float) -> None:
    """Wait for the lock of an open file, which the system takes back when it is closed or its process ends.

    It is the file's own: no other file lies about, none is needed where only this one may be written, and none gets
    old. Without patience only whether there are locks is found out.
    """
    import fcntl  # not on every system, and only for this

    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not patience:
                return
            if time.monotonic() > until:
                words = f"another process has kept it locked for {patience:.0f} s; end that, or name another file"
                raise TimeoutError(errno.ETIMEDOUT, words, str(path)) from None
            time.sleep(_PAUSE)
        except OSError as error:
            words = f"its file system cannot lock files ({error.strerror}); name a file on another one"
            raise OSError(error.errno, words, str(path)) from None


def _try(path: Path, *, lock: bool = False) -> None:
    """Write a byte into a new file beside one, and remove it, with the folders that were made for it."""
    trial = _partial(path)
    missing = [folder for folder in trial.parents if not folder.exists()]
    try:
        for again in (True, True, False):
            trial.parent.mkdir(parents=True, exist_ok=True)
            try:
                with _part(trial, path) as file:
                    if lock:
                        _lock(file, trial, patience=0.0)
                    file.write(b"\0")
                    file.flush()
                    os.fsync(file.fileno())
                break
            except FileNotFoundError:  # another process, which has tried the same, has just removed the folder
                if not again:
                    raise
    finally:
        with suppress(OSError):  # where no folder is, or a folder holds something by now
            trial.unlink(missing_ok=True)
            for folder in missing:
                folder.rmdir()


def _obstacle(folder: Path, error: OSError) -> str:
    """Why nothing can be written in a folder, in words."""
    if error.errno is None:
        return str(error)
    there = next((part for part in (folder, *folder.parents) if os.path.lexists(part)), folder)
    if not there.is_dir():
        return f"{there} is {'a link to nothing' if there.is_symlink() else 'a file, not a folder'}"
    return f"no file can be made in {there.absolute()} ({error.strerror})"


class Watch:
    """Files as they were when they were first seen, so that what is read of one at several times is of one content.

    A state is told by inode, size, and the times of the last change of the content and of the file itself, of which
    nobody can set back the latter. A file that is not there is a state as well.

    Parameters
    ----------
    paths : files to see at once
    """

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        self._seen: dict[Path, tuple[int, ...] | None] = {}
        for path in paths:
            self.see(Path(path))

    def see(self, path: Path, status: os.stat_result | None = None) -> None:
        """Note the state of a file, now or as an open one has it; of a file seen before, check it.

        Raises
        ------
        ValueError
            If the file has been replaced or written to since it was first seen.
        """
        state = _state(path) if status is None else _told(status)
        if self._seen.setdefault(path, state) != state:
            raise ValueError(
                f"{shown(str(path))}: was replaced or written to while it was in use, so what was read of it may be "
                "of two files. Nothing of it is kept; run it again when nothing writes there."
            )

    def check(self) -> None:
        """See all files again.

        Raises
        ------
        ValueError
            If one of them has been replaced or written to since it was first seen.
        """
        for path in list(self._seen):
            self.see(path)


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        return _told(os.stat(path))
    except OSError:
        return None


def _told(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def check_plain(path: Path, needed: str) -> None:
    """That there is a plain file: reading a pipe or a device may never end.

    Raises
    ------
    FileNotFoundError
        If there is nothing; `needed` says in the message what should be.
    ValueError
        If it is something else.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file; needed {needed}.")
    if not path.is_file():
        raise ValueError(f"{path}: not a plain file; needed {needed}.")


def check_ending(path: Path, *endings: str) -> None:
    """That the ending of a file to write is one of those (".png") that say what it will hold.

    A device or pipe, such as /dev/stdout, has none and passes.

    Raises
    ------
    ValueError
        With a name that would do.
    """
    if path.suffix not in endings and (path.is_file() or not path.exists()):
        good = path.with_suffix(endings[0]).name if path.name else f"NAME{endings[0]}"
        raise ValueError(f"{path}: expected a name that ends in {' or '.join(endings)}, such as {good}.")


def check_folder_name(path: Path) -> None:
    """That a folder to write has no file's name, and is no file.

    Raises
    ------
    ValueError
        If the name ends like a file's (report.html), unless a folder of that name is there; or if a file is there.
    """
    if path.is_file():
        raise ValueError(f"{path}: is a file; expected a folder.")
    if path.suffix in _OF_FILES and not path.is_dir():
        raise ValueError(f"{path}: expected the name of a folder, such as {path.with_suffix('').name}.")


def refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    """Refuse to write over files, unless that is wanted.

    Raises
    ------
    FileExistsError
        With the first of those that are there, and how many more are.
    """
    there = [path for path in paths if os.path.lexists(path)]  # a link to nothing is there, too
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FileExistsError(f"{there[0]}{more} exists already. Choose another `out`, or write over it with `force`.")
