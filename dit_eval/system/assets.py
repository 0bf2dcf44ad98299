"""Public files that dit-eval uses: where they come from, where they are kept, and whether they are the right ones.

`reference_stats/manifest.toml` lists them. Files live in `$DIT_EVAL_CACHE`, else `$XDG_CACHE_HOME/dit_eval`, else
`~/.cache/dit_eval`.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock

from dit_eval.system.connection import Limits
from dit_eval.system.download import discard, download
from dit_eval.system.files import atomic_file, check_folder, check_locks
from dit_eval.system.progress import Progress
from dit_eval.system.text import did_you_mean, shown
from dit_eval.system.toml import parse_toml

_CHUNK = 1 << 20  # bytes
_MAX_RECORD = 1 << 14  # bytes


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A file that dit-eval can use, as listed in the manifest.

    Attributes
    ----------
    name : how the command line calls it
    kind : "weights", "reference", "samples" (generated images) or "images" (real ones)
    filename : name in the cache, or in `reference_stats/` for an embedded one
    url : public address, or None for an embedded file
    sha256 : hexadecimal; None where the publisher states none and nobody here could compute it
    size : rounded, such as "2.7 GB"; None where it is not known before the file is here
    note : what it holds
    protocol : of a reference, the protocol whose published numbers are against it, such as "adm-2021"
    """

    name: str
    kind: Literal["weights", "reference", "samples", "images"]
    filename: str
    url: str | None
    sha256: str | None
    note: str
    size: str | None = None
    protocol: str | None = None

    @property
    def path(self) -> Path:
        return (embedded_dir() if self.url is None else cache_dir()) / self.filename

    @property
    def limits(self) -> Limits:
        """How far a server is trusted that sends this file; no more than a quarter longer than it should be."""
        number, _, unit = (self.size or "").partition(" ")
        size = 1.25 * float(number) * {"MB": 1e6, "GB": 1e9}[unit] if unit else Limits.size
        return Limits(size=round(size))

    @property
    def record_path(self) -> Path:
        """Where `fetch` notes what it brought from the official address."""
        return self.path.with_name(f"{self.path.name}.fetched.json")


def find_reference(
    ref: str | os.PathLike[str], *, bring: Callable[[Asset], Path] | None = None, called: str = "ref"
) -> Path:
    """The file that a path means, or the name or address of a public reference, fetched when it is not here yet.

    Addresses are those of the web, and `hf://OWNER/REPOSITORY[@REVISION]/FILE` or `hf://datasets/...` of files on
    Hugging Face. Behind # stands the SHA-256 that a file must have, or the name of statistics in it.

    Parameters
    ----------
    bring : brings a public file, and returns where it is; `fetch` of this module by default
    called : the parameter, in messages

    Raises
    ------
    FileNotFoundError
        If it is the path of a public file that is not there.
    ValueError
        If it is neither a path nor a name nor an address, and the message lists the names; or if what came has another
        checksum than it must have.
    OSError
        If the file cannot be fetched.
    """
    text, path = os.fspath(ref), Path(ref)
    if re.match("(https?|hf)://", text):
        address, _, behind = text.partition("#")
        pinned = behind if re.fullmatch("[0-9a-f]{64}", behind) else None
        found = (bring or fetch)(_addressed(address, pinned, called))
        return found.with_name(f"{found.name}#{behind}") if behind and not pinned else found
    files = {item.filename: item.name for item in assets() if item.kind == "reference"}
    names = [*files.values()]
    if path.is_file() or (path.exists() and text not in names):  # ./digits is a folder of that name
        return path
    if text in names:
        return (bring or fetch)(asset(text, "reference"))
    if path.name in files:
        name = files[path.name]
        raise FileNotFoundError(
            f"`{called}` {text}: no such file. By name it is found in the cache or fetched: `{called}` {name}"
        )
    if path.suffix or os.sep in text or not isinstance(ref, str):
        return path  # opening it says that it is not there
    hint = did_you_mean(text, names)
    raise ValueError(f"`{called}` {text}: neither a file nor a known reference; known: {', '.join(names)}.{hint}")


def _addressed(address: str, sha256: str | None, called: str) -> Asset:
    """The file at an address, which has a place of its own in the cache."""
    url = _on_hugging_face(address, called) if address.startswith("hf://") else address
    last = re.sub("[^A-Za-z0-9._-]", "_", urllib.parse.urlsplit(url).path.rpartition("/")[2])[-100:]
    mine = hashlib.sha256(url.encode()).hexdigest()[:16]
    return Asset(
        name=url,
        kind="reference",
        filename=f"references/{mine}/{last.lstrip('.') or 'reference'}",
        url=url,
        sha256=sha256,
        note="named by its address",
    )


def _on_hugging_face(address: str, called: str) -> str:
    """The web address of a file on Hugging Face; ValueError if it names none."""
    form = r"hf://((?:datasets/)?[\w.-]+/[\w.-]+)(?:@([\w.-]+))?/([^?#]+)"
    found = re.fullmatch(form, address, re.ASCII)
    if found is None:
        raise ValueError(
            f"`{called}` {shown(address)}: expected hf://OWNER/REPOSITORY/FILE, with @REVISION behind the repository "
            "if it is another than main, or hf://datasets/OWNER/REPOSITORY/FILE."
        )
    return f"https://huggingface.co/{found[1]}/resolve/{found[2] or 'main'}/{urllib.parse.quote(found[3])}"


def cache_dir() -> Path:
    """The folder that holds downloaded files (not created here)."""
    if chosen := os.environ.get("DIT_EVAL_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dit_eval"


def embedded_dir() -> Path:
    """The folder of the files that come with dit-eval: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "reference_stats"
    return installed if installed.is_dir() else package.parent / "reference_stats"


def assets() -> tuple[Asset, ...]:
    """All files of the manifest."""
    manifest = embedded_dir() / "manifest.toml"
    entries = parse_toml(manifest.read_text(encoding="utf-8"), manifest)["asset"]
    return tuple(
        Asset(
            name=e["name"],
            kind=e["kind"],
            filename=e["filename"],
            url=e.get("url"),
            sha256=e.get("sha256"),
            note=e["note"],
            size=e.get("size"),
            protocol=e.get("protocol"),
        )
        for e in entries
    )


def asset(name: str, kind: Literal["weights", "reference", "samples", "images"] | None = None) -> Asset:
    """The asset of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    known = {a.name: a for a in assets() if kind in (None, a.kind)}
    if name not in known:
        hint = did_you_mean(name, known, also={item.filename: item.name for item in known.values()})
        raise ValueError(f"No {kind or 'file'} called {name!r}; known: {', '.join(known)}.{hint}")
    return known[name]


def sha256_of(path: Path, on_progress: Callable[[int, int], None] | None = None) -> str:
    """Hexadecimal SHA-256 of a file; `on_progress` is called with (bytes read, bytes in all)."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        total = os.fstat(file.fileno()).st_size
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if on_progress:
                on_progress(file.tell(), total)
    return digest.hexdigest()


def git_id_of(path: Path) -> str:
    """What git calls a file by, and trees of repositories state: SHA-1 of its length and its bytes, hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % os.fstat(file.fileno()).st_size, usedforsecurity=False)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def recorded_sha256(item: Asset) -> str | None:
    """SHA-256 of what `fetch` brought from the official address of this file; None where it noted nothing of the kind.

    The file itself may have been replaced since: compare with its own checksum.
    """
    try:
        from dit_eval.system.reading import read_json  # which imports NumPy; `--help` knows assets

        record = read_json(item.record_path, "a record of a download", max_size=_MAX_RECORD)
    except (OSError, ValueError):
        return None
    found = record.get("sha256")
    known = isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found) is not None
    return found if known and record.get("url") == item.url else None


def identify(sha256: str, kind: Literal["weights", "reference", "samples"]) -> Asset | None:
    """The public file with this checksum: as the manifest pins it, as `fetch` recorded it, or as it comes embedded."""
    for item in assets():
        if item.kind != kind:
            continue
        if item.url is None:
            known = sha256_of(item.path) if item.path.is_file() else None
        else:
            known = item.sha256 or recorded_sha256(item)
        if known == sha256:
            return item
    return None


def verify(item: Asset, path: Path | None = None) -> str:
    """Check a file against the manifest and return its SHA-256.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ValueError
        If its checksum is not the pinned one.
    """
    path = path or item.path
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there. Get it with `dit-eval weights fetch {item.name}`.")
    found = sha256_of(path)
    if item.sha256 is not None and found != item.sha256:
        again = "run it again" if item.name == item.url else f"run `dit-eval weights fetch {item.name}`"
        raise ValueError(
            f"{path} is not {shown(item.name)}: its SHA-256 is {found}, needed {item.sha256}. Delete it and {again}."
        )
    return found


def fetch(
    item: Asset,
    *,
    url: str | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    limits: Limits | None = None,
) -> Path:
    """Make sure a public file is in the cache, and return its path.

    A download goes to `<file>.part`, goes on where an earlier one stopped, is checked against the pinned SHA-256
    and only then takes its name. Processes that ask for the same file at once wait for each other. Where no SHA-256 is
    pinned, a part is continued only if the server proves that the file is still the same, and what came from the
    official address is noted beside the file (`<file>.fetched.json`: address, size, SHA-256, time), by which it can be
    told from another file of its name.

    Parameters
    ----------
    url : another address of the same file (a mirror); what it sends is checked against a pinned SHA-256, but not noted
    on_progress : called with (bytes so far, bytes in all or None)
    limits : of time and size; those of the file by default

    Raises
    ------
    OSError
        If nothing can be written in the cache, or the disk is full.
    ConnectionError
        If the address cannot be reached, or sends something else than a file; the message says how to bring the file
        by hand.
    ValueError
        If what came is not the pinned file, or `url` is no address of the web.
    """
    target = item.path
    if item.url is None:
        return target
    if target.is_file():
        if item.sha256 is not None:
            verify(item)
        return target
    with _locked(target):
        if not target.is_file():  # another process may have brought it meanwhile
            if os.path.lexists(target):
                what = "a link to nothing" if target.is_symlink() else "no plain file"
                raise OSError(f"{shown(target)} is {what}. Remove it, and run it again.")
            _bring(item, url or item.url, limits or item.limits, on_progress)
    return target


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Be the only process that brings a file. The lock is the trial whether files can be made there."""
    lock = FileLock(f"{target}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_locks(Path(lock.lock_file))
        lock.acquire()
    except OSError as error:
        why = error.strerror
        try:
            check_folder(target.parent)
        except OSError as error:
            raise OSError(f"{error}. Set DIT_EVAL_CACHE to a folder that you can write in.") from None
        raise OSError(f"{lock.lock_file}: {why}. Set DIT_EVAL_CACHE to another folder.") from None
    try:
        yield
    finally:
        lock.release()


def _bring(item: Asset, url: str, limits: Limits, on_progress: Callable[[int, int | None], None] | None) -> None:
    """Download a file, check it, and put it in its place."""
    official = url == item.url
    # A mirror's bytes must not be continued by the official ones, and be noted as those.
    partial = item.path.with_name(item.path.name + (".part" if official else ".mirror.part"))
    went_on, found = True, ""
    while went_on:  # what was there already may have been wrong; what came at once is the server's
        try:
            went_on = download(url, partial, pinned=item.sha256 is not None, limits=limits, on_progress=on_progress)
        except ConnectionError as error:
            raise ConnectionError(
                f"{shown(item.name)} could not be downloaded from {shown(url)} ({error}). On a machine without "
                f"network, download it elsewhere and put it at {item.path}, or pass its path."
            ) from None
        found = sha256_of(partial)
        if item.sha256 in (None, found):
            break
        discard(partial)
    else:
        raise ValueError(
            f"What {shown(url)} sent is not {shown(item.name)}: its SHA-256 is {found}, needed {item.sha256}. "
            "It was deleted; is there a proxy or a login page in between?"
        )
    item.record_path.unlink(missing_ok=True)  # of an earlier file
    if official and item.sha256 is None:  # before the file has its name, after which nobody would note it any more
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        record = {"url": item.url, "size": partial.stat().st_size, "sha256": found, "time": time}
        with atomic_file(item.record_path, own=True) as file:
            file.write(json.dumps(record).encode() + b"\n")
    os.replace(partial, item.path)
    discard(partial)  # its note


def fetch_aloud(item: Asset, *, url: str | None = None) -> Path:
    """`fetch`, with its progress on stderr."""
    if item.url is None or item.path.is_file():
        return fetch(item)
    with Progress(in_bytes=(item.name,)) as progress:
        return fetch(item, url=url, on_progress=functools.partial(progress.update, item.name))
