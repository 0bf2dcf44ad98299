"""Settings, stated once: frozen dataclasses whose fields carry their help and their bounds.

A group of settings is a frozen dataclass with fields such as

    num_workers: Annotated[int, Meta(ge=1, description="processes that read images")] = 4

`Meta` is msgspec's. The command line takes its help from there, the plan reader its checks, and the dataclass itself
calls `check_settings(self)` in `__post_init__`, so that no wrong value gets in by any way.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from dit_eval.system.text import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_KINDS = {  # one, several
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    bool: ("true or false", "true or false"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a group of settings: its name, type, default (`dataclasses.MISSING` if required), help, bounds."""

    name: str
    type: Any
    default: Any
    help: str
    bounds: dict[str, float]


@functools.cache
def settings_of(group: type[DataclassInstance]) -> tuple[Setting, ...]:
    """The fields of a dataclass of settings, in their order."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in dataclasses.fields(group):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        meta = _meta(hints[field.name])
        bounds = {key: getattr(meta, key) for key in _BOUNDS if meta and getattr(meta, key) is not None}
        described = (meta.description if meta else None) or ""
        found.append(Setting(name=field.name, type=hints[field.name], default=default, help=described, bounds=bounds))
    return tuple(found)


def check_settings(settings: DataclassInstance, *, bounds_alone: bool = False) -> None:
    """Compare each field of a dataclass of settings with its type and bounds.

    Parameters
    ----------
    bounds_alone : compare fields that have bounds, and no others

    Raises
    ------
    ValueError
        Naming the field, what was expected, and the value.
    """
    for setting in settings_of(type(settings)):
        if bounds_alone and not setting.bounds:
            continue
        value = getattr(settings, setting.name)
        try:
            msgspec.convert(value, setting.type, strict=True)
        except msgspec.ValidationError:
            expected = expectation(setting.type, value)
            raise ValueError(f"{setting.name}: expected {expected}; got {_in_words(value)}") from None


def expectation(hint: Any, value: Any = None) -> str:
    """What a type allows, in words; of a number that is out of bounds the bounds alone: "at least 1".

    Of one that is too small the upper bound is not told.
    """
    if found := choices(hint):
        return f"one of {', '.join(map(str, found))}"
    plain, bounds = _plain(hint), _bounds(hint)
    if bounds and _is_number(value) and not (plain is int and isinstance(value, float)):
        return _least(hint, value) or bounds
    if get_origin(plain) in (list, tuple) and (each := _bounds(get_args(plain)[0])):
        bounds = f"each {each}"
    return ", ".join([_kind(plain), *([bounds] if bounds else [])])


def _bounds(hint: Any) -> str:
    """The bounds of a number in words; nothing if it has none."""
    meta = _meta(hint)
    return " and ".join(_bound(key, bound) for key in _BOUNDS if (bound := getattr(meta, key, None)) is not None)


def _bound(key: str, bound: float) -> str:
    return f"{_BOUNDS[key]} {bound:,}" if isinstance(bound, int) else f"{_BOUNDS[key]} {bound:g}"


def _least(hint: Any, value: float) -> str:
    """The lower bound in words, if the number is below it."""
    meta = _meta(hint)
    if meta and meta.ge is not None and value < meta.ge:
        return _bound("ge", meta.ge)
    return _bound("gt", meta.gt) if meta and meta.gt is not None and value <= meta.gt else ""


def _in_words(value: Any) -> str:
    """A value as a message shows it; Python writes no integer of thousands of digits."""
    try:
        return shown(repr(value))
    except ValueError:
        return "a number of thousands of digits"


def _kind(plain: Any, *, several: bool = False) -> str:
    """A type without bounds, in words."""
    if plain in _KINDS:
        return _KINDS[plain][several]
    origin, parts = get_origin(plain) or plain, get_args(plain)
    if origin in (list, tuple):
        number = f"{len(parts)} " if origin is tuple and ... not in parts else ""
        return f"a list of {number}{_kind(_plain(parts[0]), several=True)}"
    if origin in (dict, Mapping):
        return "tables" if several else "a table"
    return " or ".join(_kind(_plain(part), several=several) for part in parts) or str(plain)


def _plain(hint: Any) -> Any:
    """A type without its notes, and without the None that it may be."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    parts = [part for part in get_args(hint) if part is not type(None)]
    return _plain(parts[0]) if type(None) in get_args(hint) and len(parts) == 1 else hint


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def choices(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, also inside an annotation or `X | None`."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((found for each in get_args(hint) if (found := choices(each))), ())


def _meta(hint: Any) -> Meta | None:
    """The `Meta` of an annotation, also inside `X | None`."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        return next((each for each in notes if isinstance(each, Meta)), None) or _meta(inner)
    return next((meta for each in get_args(hint) if (meta := _meta(each))), None)
