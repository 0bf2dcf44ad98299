"""The command line as plain data: the only place in the tests that knows which library parses it.

`commands` lists every command with its arguments and options; `parse` says what a command line means. Both speak the
language of ``goldens/command_line.json``, so that another parser changes this file and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts.argument import Argument

from dit_eval.cli.app import COMMANDS, Call, follow
from dit_eval.cli.options import Reader

KINDS = {bool: "flag", int: "integer", float: "number"}
FLAG = Reader(base=bool, many=False, several="", read=None)


def commands() -> dict[str, dict[str, Any]]:
    """Each command by its words, such as "study run": its arguments in order, and its options by each spelling.

    Of an argument or option: ``name`` or ``spellings``; ``kind``: integer, number, text, list (commas between) or flag;
    ``values``: how many it takes, "0", "1", "0+" or "1+"; ``repeatable``: whether a second time adds to the first
    (else the last one holds); ``required``; ``default``; ``choices``, or none. A command of commands lists their
    names. The order of commands and options is not part of it.
    """
    return {name: _listed(follow(name.split())) for name in ("", *COMMANDS)}


def parse(words: Sequence[str]) -> dict[str, Any]:
    """What a right command line means: the command, and the value of every argument and option of it by its name.

    Of several spellings the first in the alphabet names it.
    """
    call = follow(words)
    _, plain = call.syntax.read(call.words)
    _, bound, _ = call.form.app.parse_args(plain, exit_on_error=False, print_error=False)
    values = {
        sorted(argument.names)[0]: bound.arguments.get(argument.field_info.name, _default(argument))
        for argument in call.form.arguments()
    }
    return {"command": call.name, **{name: _plain(value) for name, value in values.items()}}


def _listed(call: Call) -> dict[str, Any]:
    options = {name: _entry(option) for name, option in call.syntax.options.items() if option}
    return {
        "commands": sorted(call.syntax.commands),
        "arguments": [_entry(argument) for argument in call.syntax.arguments],
        "options": options,
    }


def _entry(argument: Argument) -> dict[str, Any]:
    positional, reader = argument.index is not None, argument.parameter.converter or FLAG
    several = reader.several if reader.many else ""
    kind = "list" if several == "commas" else KINDS.get(reader.base, "text")
    count = "0" if kind == "flag" else "1+" if several == "words" else "1"
    if positional and several and not argument.required:
        count = "0+"
    choices = argument.get_choices(force=True)
    return {
        **({"name": argument.name} if positional else {"spellings": sorted(argument.names)}),
        "kind": kind,
        "values": count,
        "repeatable": several in ("words", "again") and not positional,
        "required": argument.required,
        "default": _plain(_default(argument)),
        "choices": None if choices is None else [*choices],
    }


def _default(argument: Argument) -> Any:
    return None if argument.required else argument.field_info.default


def _plain(value: Any) -> Any:
    """A value as JSON has it; an empty list is the same as none."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value] or None
    return value
