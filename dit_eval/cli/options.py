"""Options from a frozen dataclass: each field is one, and so is each field of the settings dataclasses in it.

A command states its options once, as the fields of a dataclass. `Form` gives cyclopts a flat view of them and makes the
dataclass of what cyclopts has read. Words become values here: cyclopts takes "1.5" and "0x10" for integers, "none" for
None and JSON for lists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, MISSING, Field, dataclass, field, fields
from types import GenericAlias, UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import App, Group, Parameter, Token
from cyclopts.argument import ArgumentCollection
from msgspec import Meta

from dit_eval.system.settings import check_settings
from dit_eval.system.text import did_you_mean

ARGUMENTS = Group("arguments", sort_key=0)
EVERYDAY = Group("everyday options", sort_key=1)
OTHER = Group("other options", sort_key=9)

_EXPECTED = {int: "whole number", float: "number"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class Option:
    """What a field is on the command line; stands in ``Annotated`` beside its type.

    Attributes
    ----------
    help : what it is for; if empty, the description of the type's ``msgspec.Meta``
    name : if it is not the field's; a name without hyphens makes an argument, which has no option before it
    also : names that it had before, or has in other programs
    metavar : what stands for the value in the help
    group : where it stands in the help; what a command cannot do without comes first whatever this says
    read : makes a value of a word, or says in a ValueError what was expected; by default the type does
    check : says in a ValueError what is wrong with the value; the user reads its text alone
    several : how a tuple is written: with "commas" in one word, as "words" in a row, or the option "again" for each
    choices : the values that there are, where they are known only when the program runs; else a ``Literal`` says it
    """

    help: str = ""
    _: KW_ONLY
    name: str = ""
    also: tuple[str, ...] = ()
    metavar: str = ""
    group: Group = OTHER
    read: Callable[[str], Any] | None = None
    check: Callable[[Any], None] | None = None
    several: Literal["commas", "words", "again"] = "commas"
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Panel:
    """How the fields of a settings dataclass are shown; stands in ``Annotated`` beside the class.

    Attributes
    ----------
    group : where the fields stand in the help
    options : of fields of which more is to be said than their names, types and descriptions
    left_out : fields that are no options of this command
    """

    group: Group = OTHER
    options: Mapping[str, Option] = field(default_factory=dict)
    left_out: Sequence[str] = ()


class Form(Generic[_T]):
    """The options of a command, as cyclopts is to know them.

    Attributes
    ----------
    options : the dataclass
    names : what each field is called on the command line
    app : cyclopts's view of it
    """

    def __init__(self, options: type[_T]) -> None:
        self.options = options
        self.names: dict[str, str] = {}
        self.app = App(help_flags=(), version_flags=())
        self._settings: dict[str, tuple[type, list[str]]] = {}  # of a field: its class, and the fields that are shown
        found = self._parameters()
        found.sort(key=lambda parameter: parameter.kind)  # arguments come first

        def view() -> None:
            """Stand for the command."""

        view.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]  # inspect reads it, mypy knows none
        view.__annotations__ = {parameter.name: parameter.annotation for parameter in found}
        self.app.default(view)

    def arguments(self) -> ArgumentCollection:
        """The arguments and options, in order."""
        return self.app.assemble_argument_collection(parse_docstring=False)

    def fill(self, values: Mapping[str, Any]) -> _T:
        """The dataclass, of the values of those fields that are given."""
        left = dict(values)
        for name, (cls, shown) in self._settings.items():
            left[name] = cls(**{each: left.pop(each) for each in shown if each in left})
        made = self.options(**left)
        check_settings(made, bounds_alone=True)  # type: ignore[arg-type]  # `type[T]` cannot say dataclass
        return made

    def _parameters(self) -> list[inspect.Parameter]:
        found = []
        hints = get_type_hints(self.options, include_extras=True)
        for item in fields(self.options):  # type: ignore[arg-type]  # `type[T]` cannot say dataclass
            hint = hints[item.name]
            panel = next(iter(_beside(hint, Panel)), None)
            if panel is None:
                found.append(self._parameter(item, hint, next(iter(_beside(hint, Option)), Option())))
                continue
            cls, _ = _base(hint)
            inner = get_type_hints(cls, include_extras=True)
            shown = [each for each in fields(cls) if each.name not in panel.left_out]
            for each in shown:
                option = panel.options.get(each.name, Option())
                found.append(self._parameter(each, inner[each.name], option, group=panel.group))
            self._settings[item.name] = cls, [each.name for each in shown]
        return found

    def _parameter(self, item: Field[Any], hint: Any, option: Option, group: Group = OTHER) -> inspect.Parameter:
        """A field as a parameter that cyclopts can read."""
        reader = Reader.of(hint, option)
        name = self.names[item.name] = option.name or f"--{item.name.replace('_', '-')}"
        default = inspect.Parameter.empty if item.default is MISSING else item.default
        is_argument = not name.startswith("-")
        told = Parameter(
            name=(name, *option.also),
            help=option.help or _description(hint),
            metavar=option.metavar or {int: "N", float: "X"}.get(reader.base, item.name.upper().replace("_", "-")),
            group=ARGUMENTS if is_argument else _group(option, group, required=item.default is MISSING),
            converter=None if reader.base is bool else reader,
            validator=_Check(option.check) if option.check else None,
            consume_multiple=(1, None) if option.several == "words" else None,
            show_default=_shown_default(default),
            negative=(),  # no --no-FLAG, no --empty-LIST
            allow_repeating=True,  # the last value holds
            json_list=False,
            json_dict=False,
        )
        kind = inspect.Parameter.POSITIONAL_ONLY if is_argument else inspect.Parameter.KEYWORD_ONLY
        annotation: Any = Annotated[reader.whole, told]
        return inspect.Parameter(item.name, kind, default=default, annotation=annotation)


def _group(option: Option, of_panel: Group, *, required: bool) -> Group:
    if option.group is not OTHER:
        return option.group
    return EVERYDAY if required else of_panel


def _description(hint: Any) -> str:
    return next((meta.description for meta in _beside(hint, Meta) if meta.description), "")


def _shown_default(default: Any) -> str | bool:
    if default is None or default == () or isinstance(default, bool) or default is inspect.Parameter.empty:
        return False
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _beside(hint: Any, cls: type[_T]) -> list[_T]:
    """What stands beside a type in ``Annotated``, and inside it, as in ``Annotated[int, Meta(ge=1)] | None``."""
    if get_origin(hint) is Literal:
        return []
    inner = [item for part in get_args(hint) for item in _beside(part, cls)]
    return [item for item in getattr(hint, "__metadata__", ()) if isinstance(item, cls)] + inner


def _base(hint: Any) -> tuple[Any, bool]:
    """The type of one value, without None and what stands beside it, and whether there are several of it."""
    origin = get_origin(hint)
    if origin is Annotated:
        return _base(get_args(hint)[0])
    if origin in (Union, UnionType):
        return _base(next(part for part in get_args(hint) if part is not type(None)))
    if origin is tuple:
        return _base(get_args(hint)[0])[0], True
    return hint, False


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Makes a value of the words of an option; a ValueError says what was expected.

    Attributes
    ----------
    base : the type of one value
    many : whether the whole is a tuple of them
    several, read : as of `Option`
    """

    base: Any
    many: bool
    several: str
    read: Callable[[str], Any] | None

    @classmethod
    def of(cls, hint: Any, option: Option) -> Reader:
        """The reader of a field by its type."""
        base, many = _base(hint)
        if option.choices:
            base = Literal[option.choices]
        return cls(base=base, many=many, several=option.several, read=option.read)

    @property
    def whole(self) -> Any:
        """The type of what it makes."""
        return GenericAlias(tuple, (self.base, ...)) if self.many else self.base

    def __call__(self, _: type, tokens: Sequence[Token]) -> Any:
        words = [token.value for token in tokens]
        if not self.many:
            return self._one(words[-1])
        if self.several != "commas":
            return tuple(map(self._one, words))
        try:
            return tuple(self._one(word.strip()) for word in words[-1].split(",") if word.strip())
        except ValueError:
            expected = f"{_EXPECTED[self.base]}s with commas between, such as 100,200."
            raise ValueError(f"invalid: {words[-1]!r}; expected {expected}") from None

    def _one(self, word: str) -> Any:
        if self.read is not None:
            return self.read(word)
        if get_origin(self.base) is Literal:
            return _choice(word, get_args(self.base))
        try:
            return self.base(word)
        except ValueError:
            raise ValueError(f"expected a {_EXPECTED[self.base]}, got {word!r}") from None


def _choice(word: str, known: Sequence[str]) -> str:
    if word not in known:
        raise ValueError(f"unknown choice {word!r}; known: {', '.join(known)}.{did_you_mean(word, known)}")
    return word


@dataclass(frozen=True)
class _Check:
    """A check as cyclopts calls it; it calls it for defaults, too."""

    check: Callable[[Any], None]

    def __call__(self, _: type, value: Any) -> None:
        if value is not None:
            try:
                self.check(value)
            except OSError as error:  # a name that is too long, a folder that may not be entered
                raise ValueError(str(error)) from None
