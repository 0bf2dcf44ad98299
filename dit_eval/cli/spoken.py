"""Messages of the library in the words of the command line: options in place of parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PARAMETER = re.compile(r"`([a-z]\w*)`")
_SETTING = re.compile(r"([a-z]\w*)(: expected .*; got )", re.DOTALL)


def in_options(text: str, options: Mapping[str, str]) -> str:
    """A message of the library, as a user of the command line may read it.

    The library sets the names of parameters in backticks, and a message of `check_settings` begins with one. Those that
    the command has an option for become its name.

    Parameters
    ----------
    options : the names of parameters, and of their options, such as "--lr" for "learning_rate"
    """
    text = _PARAMETER.sub(lambda found: options.get(found[1], found[0]), text)
    setting = _SETTING.match(text)
    return options.get(setting[1], setting[1]) + text[setting.end(1) :] if setting else text
