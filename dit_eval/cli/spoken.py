"""Messages of the library in the words of the command line: options in place of parameters."""

from __future__ import annotations

import argparse
import re

_PARAMETER = re.compile(r"`([a-z]\w*)`")
_SETTING = re.compile(r"([a-z]\w*)(: expected .*; got )", re.DOTALL)


def in_options(text: str, arguments: argparse.Namespace) -> str:
    """A message of the library, as a user of this command line may read it.

    The library sets the names of parameters in backticks, and a message of `check_settings` begins with one. Those that
    the command has an option for become its name: the parameter's own, or what `options` of the command says.
    """
    given = {name for name in vars(arguments) if name not in ("run", "options")}
    options = {name: "--" + name.replace("_", "-") for name in given} | vars(arguments).get("options", {})
    text = _PARAMETER.sub(lambda found: options.get(found[1], found[0]), text)
    setting = _SETTING.match(text)
    return options.get(setting[1], setting[1]) + text[setting.end(1) :] if setting else text
