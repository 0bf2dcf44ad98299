"""Records to JSON and back, every field checked."""

from __future__ import annotations

import functools
import json
import re
import types
import typing
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from dit_eval.system.reading import is_number
from dit_eval.system.text import shown

Parsed = TypeVar("Parsed")


def json_text(data: Any) -> str:
    """One line of JSON, in characters that every UTF-8 file can take; see `dit_eval.system.text.shown` for the others.

    Raises
    ------
    ValueError
        If a number is NaN or infinite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    # Of a file name that is no UTF-8. They stand within strings, where a backslash is written twice.
    return re.sub("[\ud800-\udfff]", lambda half: shown(half[0]).replace("\\", "\\\\"), text)


def checked(data: Parsed) -> Parsed:
    """A dataclass that was read from JSON, if each field is of its type; a TypeError otherwise."""
    kind: type = type(data)
    for name, hint in _hints(kind).items():
        value = getattr(data, name)
        if not _fits(value, hint):
            raise TypeError(f"{name} is {repr(value)[:80]}, needed {_in_words(hint)}")
    return data


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint, strict=True)
    except msgspec.ValidationError:
        return False
    return all(map(is_number, _numbers(value)))  # msgspec takes any size, infinities and NaN


def _numbers(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _in_words(hint: Any) -> str:
    """Numbers and texts by name, other types as Python writes them."""
    if typing.get_origin(hint) is types.UnionType:
        return " or ".join(_in_words(part) for part in typing.get_args(hint))
    return {float: "a number", int: "an integer", str: "a text", type(None): "null"}.get(hint, str(hint))
