"""Which words of a command line are options, values and arguments; mistakes in it are told here.

cyclopts binds the words after this. It would stop at the first mistake it meets, in an order of its own, and take
`-a b` and `-` for options.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from dit_eval.system.text import did_you_mean, nearest

if TYPE_CHECKING:
    from cyclopts.argument import Argument

HELP, VERSION = ("--help", "-h"), "--version"  # what answers them needs nothing else

# Options of ADM's, DiT's, pytorch-fid's, torch-fidelity's and other programs, and what does the same here.
_ELSEWHERE = {
    **dict.fromkeys(("--ref-batch", "--reference", "--real", "--input2"), "--ref"),
    **dict.fromkeys(("--sample-batch", "--samples", "--gen", "--fake", "--input1"), "SAMPLES"),
    **dict.fromkeys(("--output", "--outdir", "--output-dir", "--save-dir", "--sample-dir", "--results-dir"), "--out"),
    **dict.fromkeys(("--num-samples", "--num-fid-samples"), "--num-images"),
    **dict.fromkeys(("--model-path", "--checkpoint"), "--ckpt"),
    **dict.fromkeys(("--data-path", "--data-dir"), "--data"),
    **dict.fromkeys(("--cuda", "--gpu"), "--device cuda"),
    "--cache-root": "--cache",
    "--ckpt-every": "--save-every",
    "--cpu": "--device cpu",
    "--feature-extractor": "--extractor",
    "--fid": "--metrics fid",
    "--global-batch-size": "--batch-size",
    "--guidance-scale": "--cfg-scale",
    "--isc": "--metrics is",
    "--kid": "--metrics kid",
    "--learning-rate": "--lr",
    "--prc": "--metrics precision,recall",
    "--tf32": "--precision tf32",
    "--timestep-respacing": "--num-sampling-steps",
    "--use-ddim": "--sampler ddim",
}


class UsageError(ValueError):
    """A command line that cannot be read; the user reads the text as it is."""


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """What a command takes.

    Attributes
    ----------
    prog : the words before, such as "dit-eval study run"
    options : by spelling; None for those that are no fields, such as --help
    arguments : in order
    commands : what the first word must be one of, if the command is one of commands
    """

    prog: str
    options: Mapping[str, Argument | None]
    arguments: Sequence[Argument] = ()
    commands: Sequence[str] = ()

    @classmethod
    def of(
        cls, prog: str, arguments: Iterable[Argument], *, commands: Sequence[str] = (), flags: Sequence[str] = HELP
    ) -> Syntax:
        """Take them from cyclopts's list of the parameters of a command."""
        found = [*arguments]
        named = {name: argument for argument in found for name in argument.names if name.startswith("-")}
        plain = [argument for argument in found if argument.index is not None]
        return cls(prog=prog, options={**named, **dict.fromkeys(flags)}, arguments=plain, commands=commands)

    def usage(self) -> str:
        """One line: what the command needs."""
        if self.commands:
            return f"usage: {self.prog} {self._first_word} ..."
        plain = [f"{argument.name}{' ...' if _many(argument) else ''}" for argument in self.arguments]
        plain = [name if each.required else f"[{name}]" for name, each in zip(plain, self.arguments, strict=True)]
        needed = [f"{name} {each.parameter.metavar}" for name, each in self._required().items()]
        return " ".join(["usage:", self.prog, *plain, *needed, "[OPTIONS]"])

    def _required(self) -> dict[str, Argument]:
        """The options that must be there, by their first names."""
        return {name: each for name, each in self.options.items() if each and each.required and name == each.name}

    @property
    def _first_word(self) -> str:
        """What a command of commands calls the word that is to follow."""
        return "ACTION" if " " in self.prog else "COMMAND"

    def error(self, text: str) -> UsageError:
        """A mistake in the command line, with what is right below it."""
        return UsageError(f"{text}\n{self.usage()}\nSee `{self.prog} --help`.")

    def read(self, words: Sequence[str]) -> tuple[set[str], list[str]]:
        """The options in use, and the words in a form of one meaning: ``--option=value ... -- argument ...``.

        Raises
        ------
        UsageError
            By the first of: an unknown command or option, too many arguments, an option without its value, what is
            missing.
        """
        used: set[str] = set()
        options: list[str] = []
        found: list[str] = []
        mistakes: list[str] = []
        left = [*words]
        while left:
            word = left.pop(0)
            if word == "--":
                found += left
                break
            if _is_option(word):
                name, mistake, written = self._option(word, left)
                used.add(name)
                options += written
                mistakes += mistake
            else:
                self._refuse_command(word)
                found.append(word)
        self._refuse_arguments(found, used)
        if mistakes:
            raise self.error(mistakes[0])
        if not used.intersection((*HELP, VERSION)):
            self._refuse_missing(found, used)
        return used, [*options, "--", *found] if found else options

    def _option(self, word: str, left: list[str]) -> tuple[str, list[str], list[str]]:
        """Take the values of an option off the words behind it.

        Returned are its name, what is wrong with the values, and the option with its values.
        """
        name, joined, value = word.partition("=")
        if name not in self.options:
            self._refuse_option(name)
        option = self.options[name]
        if option is None or option.is_flag():
            return name, [f"argument {name}: it takes no value, got {value!r}"] if joined else [], [name]
        several = bool(option.parameter.consume_multiple)
        if values := [value] if joined else _take_values(left, most=len(left) if several else 1):
            return name, [], [f"{name}={value}" for value in values]
        return name, [f"argument {name}: expected {'at least ' if several else ''}one argument"], []

    def _refuse_option(self, name: str) -> NoReturn:
        plain = [argument.name for argument in self.arguments]
        known = (*self.options, *plain)
        also = {other: ours for other, ours in _ELSEWHERE.items() if ours.partition(" ")[0] in known}
        near = nearest(name, self.options, also=also)
        hint = "" if near is None else f" Did you mean {near!r}?"
        if near in plain:
            hint = f" {near} stands without an option: {self.prog} {near}"
        elif near is None and self.commands:
            hint = " Options of a command come after its name."
        raise self.error(f"unknown option {name!r}.{hint}")

    def _refuse_command(self, name: str) -> None:
        """Refuse a word where a command is expected; those that are one have been taken."""
        if self.commands:
            known, hint = ", ".join(self.commands), did_you_mean(name, self.commands)
            raise self.error(f"unknown choice {name!r}; known: {known}.{hint}")

    def _refuse_arguments(self, found: Sequence[str], used: set[str]) -> None:
        """Refuse arguments too many, and a reference among the samples."""
        if len(found) == 2 and "--ref" in self.options and "--ref" not in used:
            ref, samples = (shlex.quote(word) if word.isprintable() else ascii(word) for word in found)
            raise self.error(
                f"expected SAMPLES and --ref REF, got two paths. ADM's evaluator takes the reference first; here: "
                f"{self.prog} {samples} --ref {ref}"
            )
        if len(found) <= (math.inf if any(map(_many, self.arguments)) else len(self.arguments)):
            return
        expected = ", ".join(argument.name for argument in self.arguments) or "none"
        raise self.error(f"unexpected argument {found[len(self.arguments)]!r}; expected {expected}.")

    def _refuse_missing(self, found: Sequence[str], used: set[str]) -> None:
        missing = [argument.name for argument in self.arguments[len(found) :] if argument.required]
        missing += [name for name, option in self._required().items() if not used.intersection(option.names)]
        if self.commands:
            missing = [self._first_word]
        if missing:
            raise self.error(f"the following arguments are required: {', '.join(missing)}")


def _many(argument: Argument) -> bool:
    return argument.token_count()[1]


def _take_values(left: list[str], *, most: int) -> list[str]:
    """Take words up to the next option."""
    count = next((i for i, word in enumerate(left[:most]) if _is_option(word)), min(most, len(left)))
    values = left[:count]
    if not count and left and _is_number(left[0]):  # such as -1e-4, which was meant for a value: no unknown option
        count = 1
    del left[:count]
    return values


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_option(word: str) -> bool:
    """Whether a word is an option: it begins with a hyphen, and is not "-", a number such as -1.5, or a sentence."""
    if not word.startswith("-") or word == "-" or " " in word.partition("=")[0]:
        return False
    return not re.fullmatch(r"-\d+|-\d*\.\d+", word)
