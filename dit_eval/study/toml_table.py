"""A table of a TOML file, compared with the settings that it may hold; mistakes come with file, line and key."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec

from dit_eval.study.plan import PlanError
from dit_eval.system.settings import Setting, choices, expectation
from dit_eval.system.text import nearest, shown
from dit_eval.system.toml import key_parts

Keys = tuple[str | int, ...]  # a place in a file: names of keys, places in lists of tables

_NAME = r"""(?:"[^"]*"|'[^']*'|[A-Za-z0-9_-]+)"""
_KEY = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_HEADER = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(#.*)?$")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a TOML file.

    Attributes
    ----------
    values : what it holds, as `tomllib` gives it
    keys : where it stands in the file
    path, text : of the whole file, for messages
    """

    values: Mapping[str, Any]
    path: Path
    text: str
    keys: Keys = ()

    def read(self, settings: Iterable[Setting]) -> dict[str, Any]:
        """What is given of some settings, converted to their types.

        A list without a fixed length may be written as one value, and counts equal values once. Its setting's help
        says what is expected of it: "names of models".

        Raises
        ------
        PlanError
            If the table holds another key, lacks one that has no default, or has a wrong value.
        """
        known = {setting.name: setting for setting in settings}
        found = {}
        for name, setting in known.items():
            if name in self.values:
                found[name] = self._converted(setting, self.values[name])
            elif setting.default is dataclasses.MISSING:
                raise self.error(name, f"missing; expected {_expected(setting)}")
        for key in self.values:
            if key not in known:
                raise self.unknown(key, known)
        return found

    def inner(self, key: str, values: Mapping[str, Any]) -> Table:
        """The table of a key."""
        return dataclasses.replace(self, values=values, keys=(*self.keys, key))

    def inner_list(self, key: str, tables: Iterable[Mapping[str, Any]]) -> list[Table]:
        """The tables of a key, `[[key]]`."""
        return [self._at(values, key, place) for place, values in enumerate(tables)]

    def unknown(self, key: str, known: Iterable[str]) -> PlanError:
        """The mistake of a key that may not stand here."""
        return self.error(key, f"unknown key; known here: {', '.join(known)}{_did_you_mean(key, known)}")

    def check_choice(self, key: str, value: str, known: Iterable[str], *, if_none: str = "none") -> None:
        """PlanError if a value of a key is not one of the names that are known."""
        known = tuple(known)
        if value not in known:
            names = ", ".join(known) or if_none
            raise self.error(key, f"expected one of {names}; got {value!r}{_did_you_mean(value, known)}")

    def check_printable(self, key: str, text: str) -> None:
        """PlanError if a text that terminals show could move their cursor."""
        if not all(line.isprintable() for line in text.split("\n")):
            raise self.error(key, f"expected characters that can be printed; got {ascii(text)[:80]}")

    def error(self, key: str | None, text: str) -> PlanError:
        """A mistake at a key, or in the table as a whole."""
        keys = self.keys if key is None else (*self.keys, key)
        # Lists of tables count from 1 where people read them.
        where = "".join(f"[{k + 1}]" if isinstance(k, int) else f".{_within(k, 80)}" for k in keys).lstrip(".")
        text = _within(text.rstrip("."), 1000)
        return PlanError(
            f"{self.path}, line {_line_of(self.text, keys)}: {where}: {text}{'' if text[-1] == '?' else '.'}"
        )

    def _at(self, values: Mapping[str, Any], key: str, place: int) -> Table:
        return dataclasses.replace(self, values=values, keys=(*self.keys, key, place))

    def _converted(self, setting: Setting, value: Any) -> Any:
        item = _item(setting.type)
        if item is None:
            return self._one(setting, setting.type, value)
        values = value if isinstance(value, list) else [value]
        if not values:
            raise self.error(setting.name, f"expected {_expected(setting)}; got []")
        return tuple(dict.fromkeys(self._one(setting, item, each) for each in values))

    def _one(self, setting: Setting, hint: Any, value: Any) -> Any:
        try:
            converted = msgspec.convert(value, hint, strict=True)
        except msgspec.ValidationError:
            expected = expectation(hint, value) if choices(hint) else _expected(setting, value)
            near = _did_you_mean(value, choices(hint)) if isinstance(value, str) else ""
            raise self.error(setting.name, f"expected {expected}; got {_shown(value)}{near}") from None
        if isinstance(converted, int) and abs(converted) >> 63:
            raise self.error(setting.name, "expected a number of at most 64 bits")
        if isinstance(converted, float) and not math.isfinite(converted):
            raise self.error(setting.name, f"expected a finite number; got {converted}")
        return converted


def _expected(setting: Setting, value: Any = None) -> str:
    if get_origin(setting.type) is list:
        return f"tables, [[{setting.name}]]"
    return expectation(setting.type, value) if _item(setting.type) is None else setting.help


def _item(hint: Any) -> Any:
    """The type of the values of a list without a fixed length; None of anything else."""
    if get_origin(hint) is tuple:
        inner, *more = get_args(hint)
        return inner if more == [...] else None
    return next((item for part in get_args(hint) if (item := _item(part)) is not None), None)


def _shown(value: Any) -> str:
    """A value as a message shows it; Python writes no integer of thousands of digits, and no list in many lists."""
    try:
        return _within(repr(value), 80)
    except ValueError:
        return "a number of thousands of digits"
    except RecursionError:
        return "lists or tables within many others"


def _within(text: str, length: int) -> str:
    """A text that is not longer than people read, none of whose characters moves the cursor."""
    return shown(text if len(text) <= length else f"{text[:length]}...")


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = nearest(word, known)
    return "" if near is None else f"; did you mean {near!r}?"


def _line_of(text: str, keys: Keys) -> int:
    """The line of a key, or of the table that it would be in."""
    lines: dict[Keys, int] = {}
    table: Keys = ()
    counts: dict[str, int] = {}
    for number, whole in enumerate(text.splitlines(), start=1):
        line = whole[:200]  # a header or key is there; both patterns take the square of a length
        if header := _HEADER.match(line):
            names = key_parts(header[2])
            if not names:  # a line of a list that looks like a header
                continue
            table = names
            if header[1] == "[[":
                counts[header[2]] = counts.get(header[2], -1) + 1
                table = (*table, counts[header[2]])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            names = key_parts(key[1])
            for depth in range(len(names)):
                lines.setdefault((*table, *names[: depth + 1]), number)
    while keys and keys not in lines:
        keys = keys[:-1]
    return lines.get(keys, 1)
