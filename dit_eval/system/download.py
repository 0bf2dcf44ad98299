"""A file from a web server, into a part that a later call completes.

Whatever goes wrong on the way is one `ConnectionError` that says what; what goes wrong on this disk is an `OSError`.
Beside the part lies a note (`<part>.json`) of what it is a part of: address, ETag, date and size. By it the server is
asked for the rest of the same file (If-Range), and a file that has changed begins anew.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import stat
import string
import urllib.parse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from dit_eval.system.connection import Limits, Watchdog, ask
from dit_eval.system.text import reason, shown

_CHUNK = 1 << 18  # bytes
_MAX_NOTE = 1 << 14  # bytes
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_CONTENT_RANGE = r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)"
_AGAIN = "run it again to go on"


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What a part is a part of, as the server said when it began."""

    url: str | None = None
    etag: str | None = None
    modified: str | None = None
    total: int | None = None

    @property
    def validator(self) -> str | None:
        return self.etag or self.modified


@dataclass(frozen=True, kw_only=True)
class _Span:
    """The bytes of the file that an answer holds; None where it does not say."""

    begin: int
    end: int | None
    total: int | None


def download(
    url: str,
    partial: Path,
    *,
    pinned: bool,
    limits: Limits | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> bool:
    """Bring a part to the whole file, and return whether it went on from what was there.

    Parameters
    ----------
    partial : in a folder that is there. It stays if the download stops, unless it is empty.
    pinned : whether the caller knows the checksum of the file. If not, a part is continued only where ETag or date
        prove that it is of the same file, and an answer whose end cannot be told from a broken connection is refused.
    on_progress : called with (bytes so far, bytes in all or None)

    Raises
    ------
    ValueError
        If it is no address of the web.
    ConnectionError
        If the server cannot be reached, or its answer is not such a file.
    OSError
        If the part cannot be written.
    """
    limits = limits or Limits()
    if why := _no_address(url):
        raise ValueError(f"`url` {shown(url)}: {why}")
    with _Part(partial) as part, Watchdog(limits) as watch:
        note = part.note(url)
        if part.size and (pinned or note.validator):
            response = _answer(url, _headers(part.size, note), watch)
            with response:
                if _nothing_more(response, part.size, pinned):
                    return True
                span = _continues(response, part.size, note)
                if span is not None or response.status not in (206, 416):
                    _receive(response, span or _whole(response, pinned), part, watch, url, on_progress)
                    return span is not None
        with _answer(url, _headers(0, note), watch) as response:
            _receive(response, _whole(response, pinned), part, watch, url, on_progress)
        return False


def discard(partial: Path) -> None:
    """Remove a part and its note."""
    partial.unlink(missing_ok=True)
    _note_path(partial).unlink(missing_ok=True)


def redirected(url: str, location: str | None) -> str:
    """The address that a server at `url` refers to.

    Raises
    ------
    ConnectionError
        If it is none, of another kind than http and https, or not encrypted where `url` is.
    """
    if not location:
        raise ConnectionError("the server redirects to no address")
    try:
        target = urllib.parse.urljoin(url, urllib.parse.quote(location, encoding="latin-1", safe=string.punctuation))
    except ValueError as error:
        raise ConnectionError(f"the server redirects to no address: {reason(error)}") from None
    if why := _no_address(target):
        raise ConnectionError(f"the server redirects to {_short(target)}: {why}")
    if url.lower().startswith("https:") and not target.lower().startswith("https:"):
        raise ConnectionError(f"the server redirects from https to {_short(target)}, which is not encrypted")
    return target


def _no_address(url: str) -> str | None:
    """What is wrong with an address."""
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError as error:
        return f"{reason(error)}."
    return None if good else "expected an address that begins with https:// or http://."


def _short(text: str) -> str:
    """What a server said, in a message."""
    text = shown(text)
    return text if len(text) <= 200 else f"{text[:200]}..."


# What the server says


def _headers(have: int, note: _Note) -> dict[str, str]:
    headers = {"User-Agent": "dit-eval", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if note.validator:
            headers["If-Range"] = note.validator
    return headers


def _answer(url: str, headers: dict[str, str], watch: Watchdog) -> http.client.HTTPResponse:
    """The answer at the end of all redirects, whatever its status is."""
    for _ in range(watch.limits.redirects + 1):
        response = ask(url, headers, watch)
        if response.status not in (301, 302, 303, 307, 308):
            return response
        location = response.headers.get("Location")
        response.close()
        url = redirected(url, location)
    raise ConnectionError(f"the server redirects more than {watch.limits.redirects} times")


def _nothing_more(response: http.client.HTTPResponse, have: int, pinned: bool) -> bool:
    """Whether the server says that nothing lies beyond what we have; that it is the file, its checksum may say."""
    if response.status != 416:
        return False
    found = re.fullmatch(r"bytes \*/([0-9]{1,18})", response.headers.get("Content-Range", "").strip(), re.IGNORECASE)
    return int(found[1]) == have if found else pinned


def _continues(response: http.client.HTTPResponse, have: int, note: _Note) -> _Span | None:
    """What an answer adds to the first `have` bytes of the file of a note; None if it does not."""
    if response.status != 206 or response.chunked:  # of chunks, one only knows at the last whether they were right
        return None
    found = re.fullmatch(_CONTENT_RANGE, response.headers.get("Content-Range", "").strip(), re.IGNORECASE)
    if found is None:
        return None
    begin, end = int(found[1]), int(found[2]) + 1
    total = note.total if found[3] == "*" else int(found[3])
    now = _said(response, None)
    fits = (
        begin == have < end <= (end if total is None else total)
        and _length(response) in (None, end - begin)
        and note.total in (None, total)
        and note.etag in (None, now.etag)
        and (note.etag is not None or now.modified in (None, note.modified) or note.modified is None)
    )
    return _Span(begin=begin, end=end, total=total) if fits else None


def _whole(response: http.client.HTTPResponse, pinned: bool) -> _Span:
    """The span of an answer that holds the whole file; any other is refused."""
    if response.status == 206:
        raise ConnectionError("the server answered with a part of the file (206), expected all of it")
    if response.status != 200:
        said = f"{response.status} {_short(response.reason or '')}".strip()
        raise ConnectionError(f"the server answered {said}, expected 200 and the file")
    length = _length(response)
    if length == 0:
        raise ConnectionError("the server sent an empty file")
    if length is None and not response.chunked and not pinned:
        raise ConnectionError("the server says neither how long the file is nor where it ends")
    return _Span(begin=0, end=length, total=length)


def _length(response: http.client.HTTPResponse) -> int | None:
    """Bytes of an answer; None if it comes in chunks, or until the connection closes."""
    if response.chunked:
        return None
    lengths = {text.strip() for text in response.headers.get_all("Content-Length", [])}
    if len(lengths) > 1 or not all(re.fullmatch("[0-9]{1,18}", text) for text in lengths):
        raise ConnectionError(f"the server sent Content-Length {_short(', '.join(sorted(lengths)))}, expected a number")
    return int(lengths.pop()) if lengths else None


def _check_content(response: http.client.HTTPResponse) -> None:
    """That an answer holds a file as it is, and no web page."""
    for name in ("Content-Encoding", "Transfer-Encoding"):
        plain = "identity" if name == "Content-Encoding" else "chunked"
        found = ", ".join(response.headers.get_all(name, [])).strip()
        if found.lower() not in ("", plain):
            raise ConnectionError(f"the server sent {name} {_short(found)}, expected the file as it is")
    if re.match(r"\s*(text/html|application/xhtml)", response.headers.get("Content-Type", ""), re.IGNORECASE):
        raise ConnectionError("the server sent a web page, expected a file; is there a login page in between?")


def _said(response: http.client.HTTPResponse, url: str | None) -> _Note:
    """What an answer says about the file. A weak ETag proves nothing about bytes."""
    return _note_of(
        {"url": url, "etag": response.headers.get("ETag"), "modified": response.headers.get("Last-Modified")}
    )


def _note_of(found: dict[str, Any]) -> _Note:
    """A note of what is well-formed in one, or in an answer."""

    def text(name: str, form: str) -> str | None:
        value = found.get(name)
        return value if isinstance(value, str) and re.fullmatch(form, value) else None

    total = found.get("total")
    return _Note(
        url=text("url", r"\S{1,8000}"),
        etag=text("etag", r'"[\x21\x23-\x7e]{1,1000}"'),
        modified=text("modified", r"[\x20-\x7e]{1,100}"),
        total=total if type(total) is int and total > 0 else None,
    )


def _receive(
    response: http.client.HTTPResponse,
    span: _Span,
    part: _Part,
    watch: Watchdog,
    url: str,
    on_progress: Callable[[int, int | None], None] | None,
) -> None:
    """Write an answer into the part, after what it continues or as a new one."""
    _check_content(response)
    limit = watch.limits.size
    too_long = f"more than the {limit:,} bytes that are allowed"
    if span.total is not None and span.total > limit:
        raise ConnectionError(f"the server sends {span.total:,} bytes, {too_long}")
    part.make_room(span)
    if not span.begin:
        said = _said(response, url)
        # Bytes of chunks are not known to be right before the last.
        part.begin(_Note(url=url) if response.chunked else _note_of(asdict(said) | {"total": span.total}))
    try:
        while span.end is None or part.size < span.end:
            with watch.waiting():
                chunk = response.read1(min(_CHUNK, (limit + 1 if span.end is None else span.end) - part.size))
            if not chunk:
                break
            if part.size + len(chunk) > limit:
                raise ConnectionError(f"the server sent {too_long}")
            part.write(chunk)
            watch.fed(len(chunk))
            if on_progress:
                on_progress(part.size, span.total)
    except ConnectionError:
        if response.chunked:
            part.cut(0)
        raise
    if not part.size:
        raise ConnectionError("the server sent an empty file")
    total = span.total or span.end
    if total is not None and part.size < total:
        raise ConnectionError(f"the connection closed after {part.size:,} of {total:,} bytes; {_AGAIN}")
    part.sync()


# What is on the disk


def _note_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


class _Part:
    """A part of a download, open for writing. It is a plain file of one name, never what a link leads to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            odd = error.errno in (errno.ELOOP, errno.EISDIR)
            why = "it is a link" if error.errno == errno.ELOOP else error.strerror
            what = "Remove it, and run it again." if odd else "Set DIT_EVAL_CACHE to a folder that you can write in."
            raise OSError(f"{shown(path)} cannot be written: {why}. {what}") from None
        self._file = os.fdopen(file, "r+b", buffering=0)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            self._file.close()
            why = "it has a second name, a hard link" if stat.S_ISREG(status.st_mode) else "it is no plain file"
            raise OSError(f"{shown(path)} cannot be written: {why}. Remove it, and run it again.")
        self.size = self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self.size:
            discard(self.path)

    def note(self, url: str) -> _Note:
        """What this is a part of, if it was begun at this address."""
        try:
            file = os.open(_note_path(self.path), os.O_RDONLY | _NO_LINKS | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(file, "rb") as opened:
                found = json.loads(opened.read(_MAX_NOTE))
        except (OSError, ValueError, RecursionError):
            return _Note()
        note = _note_of(found) if isinstance(found, dict) else _Note()
        return note if note.url == url and (note.total is None or note.total >= self.size) else _Note()

    def make_room(self, span: _Span) -> None:
        """See that the disk takes the rest of the file."""
        free = shutil.disk_usage(self.path.parent).free
        needed = (span.total or 0) - self.size
        if needed > free:
            raise OSError(
                f"{shown(self.path)} cannot be written: {needed:,} bytes are to come, {free:,} are free. "
                "Make room, or set DIT_EVAL_CACHE to a folder on another disk."
            )

    def begin(self, note: _Note) -> None:
        """Empty it for another file. The note is whole before the first byte is there."""
        self.cut(0)
        place = _note_path(self.path)
        place.unlink(missing_ok=True)
        try:
            with open(place, "xb") as file:
                file.write(json.dumps(asdict(note)).encode() + b"\n")
        except OSError as error:
            raise self._full(error) from None

    def cut(self, size: int) -> None:
        self._file.truncate(size)
        self.size = self._file.seek(size)

    def write(self, chunk: bytes) -> None:
        left = memoryview(chunk)
        try:
            while left:
                count = self._file.write(left)
                self.size += count
                left = left[count:]
        except OSError as error:
            raise self._full(error) from None

    def sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from None

    def _full(self, error: OSError) -> OSError:
        return OSError(
            f"{shown(self.path)} cannot be written after {self.size:,} bytes: {error.strerror}. "
            f"Make room, or set DIT_EVAL_CACHE to a folder on another disk; {_AGAIN}."
        )
