"""The name that a user may have meant. Every message about an unknown name ends with it."""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import re
from collections.abc import Iterable, Mapping

_ALIKE = 0.6  # least share of equal characters, as difflib counts them
_LONGEST = 100  # characters of a word that are looked at; a file may hold a word of any length


def nearest(word: str, known: Iterable[str], *, also: Mapping[str, str] | None = None) -> str | None:
    """The known name that is nearest to a word; None if no name is near.

    Case, and everything but letters and digits, make no difference: `dit_xl_2` is as good as `DiT-XL/2`. Taken is, in
    this order: the same name; the shortest name that begins with the word; the shortest that holds it; the longest
    that the word begins with, if it is half of the word (`dit-xl-2-256`); the name with the most equal characters.
    Of several, the first.

    Parameters
    ----------
    also : other words for known names, such as those of other programs, and the names
    """
    wanted = _plain(word[:_LONGEST])
    names = {_plain(name): target for name, target in reversed([*(also or {}).items()])}
    names |= {_plain(name): name for name in reversed([*known])}  # of two alike the first
    if wanted in names or len(wanted) < 2:
        return names.get(wanted)
    plain = [*reversed(names)]
    near = _with_the_word(wanted, plain) or _most_alike(wanted, plain)
    return None if near is None else names[near]


def _with_the_word(wanted: str, plain: list[str]) -> str | None:
    """The shortest name that begins with a word or holds it; else the longest that the word begins with."""
    begin = [name for name in plain if name.startswith(wanted)]
    holders = begin or [name for name in plain if wanted in name]
    longer = [name for name in plain if wanted.startswith(name) and 2 * len(name) >= len(wanted)]
    return min(holders, key=len) if holders else max(longer, key=len, default=None)


def _most_alike(wanted: str, plain: list[str]) -> str | None:
    alike = {name: difflib.SequenceMatcher(None, name, wanted).ratio() for name in plain}
    best = max(alike, key=lambda name: alike[name], default="")
    return best if alike.get(best, 0.0) >= _ALIKE else None


def did_you_mean(word: str, known: Iterable[str], *, also: Mapping[str, str] | None = None) -> str:
    """The end of a message about an unknown name, such as " Did you mean 'DiT-XL/2'?"; empty if no name is near."""
    near = nearest(word, known, also=also)
    return "" if near is None else f" Did you mean {near!r}?"


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
# Names that Windows keeps for devices, and what the end of a slug that was made looks like.
_TAKEN = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]|(.*-)?[0-9a-f]{16}")
_LONGEST_SLUG = 40


def slug(text: str) -> str:
    """A text as a part of file names, ids and links: a-z, 0-9 and hyphens, at most 57 characters, never none.

    A short text of nothing else is its own slug. Any other gives its words and 16 digits of its SHA-256, so that two
    texts have two slugs, also where upper and lower case are one.

    Examples
    --------
    >>> slug("adm-2021"), slug("x/../../evil")
    ('adm-2021', 'x-evil-314e3fe9b95b5a23')
    """
    if len(text) <= _LONGEST_SLUG and _SLUG.fullmatch(text) and not _TAKEN.fullmatch(text):
        return text
    words = re.sub(r"[^a-z0-9]+", "-", text.lower())[:_LONGEST_SLUG].strip("-")
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{words}-{digest}" if words else digest


def shown(text: object) -> str:
    r"""A path or other text as any file and terminal can take it, on one line.

    File names may hold bytes that are no UTF-8, and characters that move the cursor. They become backslash escapes, the
    byte E9 `\xe9`; `named` goes the other way.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in str(text))


def named(text: str) -> str:
    """The path that `shown` made this text of, if there was anything to escape in it."""

    def meant(escape: re.Match[str]) -> str:
        if escape[0] in _LETTERS.values():
            return next(character for character, letter in _LETTERS.items() if letter == escape[0])
        code = int(escape[1] or escape[2] or escape[3], 16)
        return chr(code + 0xDC00 if escape[1] and code > 127 else code)  # as `os.fsdecode` has bytes that are no text

    return re.sub(r"\\[tnr]|\\x([0-9a-f]{2})|\\u([0-9a-f]{4})|\\U(000[0-9a-f]{5}|0010[0-9a-f]{4})", meant, text)


_LETTERS = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}


def _escaped(character: str) -> str:
    if character in _LETTERS:
        return _LETTERS[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 128 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def reason(error: BaseException) -> str:
    """What an error says, in one line that is not longer than people read."""
    text = str(error).partition("\n")[0] or type(error).__name__
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 300 else f"{text[:300]}..."


def told(error: BaseException) -> str:
    """What an error says to the user; one of the system in the form of our own: the file, what is wrong, what to do."""
    if not isinstance(error, OSError) or error.filename is None or error.strerror is None:
        return str(error) or type(error).__name__
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = " Make room and run the same command again." if full else ""
    return f"{shown(os.fsdecode(error.filename))}: {error.strerror}.{advice}"


def duration(seconds: float) -> str:
    """A time in the unit that people would say it in."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def size_text(count: int) -> str:
    """A number of bytes in MB or GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
