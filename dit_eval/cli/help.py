"""Help as plain text of one width everywhere, so that it can be kept in a file and compared."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from dit_eval.cli.syntax import Syntax

if TYPE_CHECKING:
    from cyclopts import Group
    from cyclopts.argument import Argument

WIDTH, COLUMN = 80, 28


def help_text(syntax: Syntax, about: str, commands: Mapping[str, str]) -> str:
    """Usage, what the command does, an example, its commands, its options in groups, and what else there is to know.

    Parameters
    ----------
    about : paragraphs: a sentence, and the rest; one that begins with "Example: " is set below the sentence
    commands : names, and what they do
    """
    sentence, *rest = (" ".join(paragraph.split()) for paragraph in about.strip().split("\n\n"))
    examples = [paragraph for paragraph in rest if paragraph.startswith("Example: ")]
    parts = [syntax.usage(), "\n\n".join([textwrap.fill(sentence, WIDTH), *examples])]
    if commands:
        column = max(map(len, commands)) + 4
        parts.append("\n".join(["commands:", *(_row(name, words, column) for name, words in commands.items())]))
    parts += _groups(syntax)
    parts += [textwrap.fill(paragraph, WIDTH) for paragraph in rest if paragraph not in examples]
    return "\n\n".join(parts) + "\n"


def _groups(syntax: Syntax) -> list[str]:
    """Arguments and options by group, in each what is required first."""
    groups: dict[Group, list[str]] = {}
    options = [option for name, option in syntax.options.items() if option and name == option.name]
    options.sort(key=lambda option: not option.required)
    for option in (*syntax.arguments, *options):
        groups.setdefault(_group(option), []).append(_entry(option))
    found = sorted(groups, key=attrgetter("sort_key"))
    return ["\n".join([f"{group.name}:", *groups[group]]) for group in found]


def _group(option: Argument) -> Group:
    """The group that `Form` gives it; cyclopts allows several."""
    groups: Any = option.parameter.group
    return groups[0]


def _entry(option: Argument) -> str:
    name = option.name
    if option.index is None and not option.is_flag():
        choices = option.get_choices()
        name += f" {'|'.join(choices) if choices else option.parameter.metavar}"
        name += " ..." if option.parameter.consume_multiple else ""
    words = option.parameter.help or ""
    if also := ", ".join(option.names[1:]):
        words += f"; also {also}"
    if option.index is None and option.required:
        words += " (required)"
    elif option.show_default and "default" not in words:  # some tell their default in better words
        words += f" (default: {option.show_default})"
    return _row(name, words.strip())


def _row(name: str, words: str, column: int = COLUMN) -> str:
    """A name, and words about it from a column on; below the name if that is too long."""
    lines = textwrap.wrap(words, WIDTH - column, break_on_hyphens=False) or [""]
    if len(name) + 4 > column:
        lines = ["", *lines]
    first = f"  {name:<{column - 2}}{lines[0]}".rstrip()
    return "\n".join([first, *(" " * column + line for line in lines[1:])])
