"""Settings, stated once: frozen dataclasses whose fields carry their help and their bounds.

A group of settings is a frozen dataclass with fields such as

    num_workers: Annotated[int, Meta(ge=1, description="processes that read images")] = 4

`Meta` is msgspec's. The command line takes its help from there, the plan reader its checks, and the dataclass itself
calls `check_settings(self)` in `__post_init__`, so that no wrong value gets in by any way.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from dit_eval.system.text import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


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


def check_settings(settings: DataclassInstance) -> None:
    """Compare each field of a dataclass of settings with its type and bounds.

    Raises
    ------
    ValueError
        Naming the field, what was expected, and the value.
    """
    for setting in settings_of(type(settings)):
        value = getattr(settings, setting.name)
        try:
            msgspec.convert(value, setting.type, strict=True)
        except msgspec.ValidationError as error:
            raise ValueError(f"{setting.name}: {_expected(setting, value, error)}; got {shown(repr(value))}") from None


def _expected(setting: Setting, value: Any, error: msgspec.ValidationError) -> str:
    if choices := _choices(setting.type):
        return f"expected one of {', '.join(map(str, choices))}"
    if isinstance(value, int | float) and setting.bounds:
        return "expected " + " and ".join(f"{_BOUNDS[key]} {bound:g}" for key, bound in setting.bounds.items())
    text = str(error).replace("`", "").split(" - at ")[0]
    return text[:1].lower() + text[1:]


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, also inside an annotation or `X | None`."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    return next((found for each in get_args(hint) if (found := _choices(each))), ())


def _meta(hint: Any) -> Meta | None:
    """The `Meta` of an annotation, also inside `X | None`."""
    if get_origin(hint) is Annotated:
        return next((each for each in get_args(hint)[1:] if isinstance(each, Meta)), None)
    return next((meta for each in get_args(hint) if (meta := _meta(each))), None)
