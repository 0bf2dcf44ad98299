"""The name that a user may have meant. Every message about an unknown name ends with it."""

from __future__ import annotations

import difflib
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
    begin = [name for name in plain if name.startswith(wanted)]
    within = [name for name in plain if wanted in name]
    if begin or within:
        return names[min(begin or within, key=len)]
    if longer := [name for name in plain if wanted.startswith(name) and 2 * len(name) >= len(wanted)]:
        return names[max(longer, key=len)]
    alike = {name: difflib.SequenceMatcher(None, name, wanted).ratio() for name in plain}
    best = max(alike, key=lambda name: alike[name], default="")
    return names[best] if alike.get(best, 0.0) >= _ALIKE else None


def did_you_mean(word: str, known: Iterable[str], *, also: Mapping[str, str] | None = None) -> str:
    """The end of a message about an unknown name, such as " Did you mean 'DiT-XL/2'?"; empty if no name is near."""
    near = nearest(word, known, also=also)
    return "" if near is None else f" Did you mean {near!r}?"


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())
