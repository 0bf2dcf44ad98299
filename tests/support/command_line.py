"""The command line as plain data: the only place in the tests that knows which library parses it.

`commands` lists every command with its arguments and options; `parse` says what a command line means. Both speak the
language of ``goldens/command_line.json``, so that another parser changes this file and nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dit_eval.cli import _parser

KINDS = {int: "integer", float: "number"}


def commands() -> dict[str, dict[str, Any]]:
    """Each command by its words, such as "study run": its arguments in order, and its options by their first spelling.

    Of an argument or option: ``name`` or ``spellings``; ``kind``: integer, number, text, list (commas between) or flag;
    ``values``: how many it takes, "0", "1", "0+" or "1+"; ``repeatable``: whether a second time adds to the first
    (else the last one holds); ``required``; ``default``; ``choices``, or none. A command of commands lists their
    names. The order of commands and options is not part of it.
    """
    return dict(_listed("", _parser()))


def parse(words: Sequence[str]) -> dict[str, Any]:
    """What a right command line means: the command, and the value of every argument and option of it by its name."""
    found = _parser().parse_args(words)
    name = " ".join(word for word in (found.command, getattr(found, "action", None)) if word)
    parser = next(parser for command, parser in _parsers("", _parser()) if command == name)
    values = {_name(action): _plain(getattr(found, action.dest)) for action in _shown(parser)}
    return {"command": name, **values}


def _parsers(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from _parsers(f"{name} {word}".strip(), command)


def _listed(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, dict[str, Any]]]:
    for command, of in _parsers(name, parser):
        subcommands = [a for a in of._actions if isinstance(a, argparse._SubParsersAction)]
        entries = [_entry(action) for action in _shown(of)]
        yield (
            command,
            {
                "commands": sorted(word for action in subcommands for word in action.choices),
                "arguments": [entry for entry in entries if "name" in entry],
                "options": {entry["spellings"][0]: entry for entry in entries if "spellings" in entry},
            },
        )


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Arguments and options; not --help and --version, which the exit codes hold, nor the commands."""
    apart = (argparse._SubParsersAction, argparse._HelpAction, argparse._VersionAction)
    return [action for action in parser._actions if not isinstance(action, apart)]


def _name(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)


def _entry(action: argparse.Action) -> dict[str, Any]:
    flag = isinstance(action, argparse._StoreTrueAction)
    many = (
        isinstance(action.type, type(_plain))
        and action.default in (None, ())
        and action.type.__name__
        in (
            "<lambda>",
            "_integers",
        )
    )
    kind = "flag" if flag else "list" if many else KINDS.get(action.type, "text")  # type: ignore[arg-type]
    named = {"spellings": sorted(action.option_strings)} if action.option_strings else {"name": _name(action)}
    return {
        **named,
        "kind": kind,
        "values": "0" if flag else {"*": "0+", "+": "1+"}.get(str(action.nargs), "1"),
        "repeatable": isinstance(action, (argparse._AppendAction, argparse._ExtendAction)),
        "required": action.required if action.option_strings else action.nargs != "*",
        "default": _plain(action.default),
        "choices": None if action.choices is None else [str(choice) for choice in action.choices],
    }


def _plain(value: Any) -> Any:
    """A value as JSON has it; an empty list is the same as none."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value] or None
    return value
