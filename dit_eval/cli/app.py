"""The commands: what each is for, and the one that a command line calls. A module is imported when it is asked for."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_type_hints

import dit_eval
from dit_eval.cli.spoken import in_options
from dit_eval.cli.syntax import HELP, VERSION, Syntax, UsageError

if TYPE_CHECKING:
    from dit_eval.cli.options import Form

ABOUT = """Evaluate diffusion transformers: FID, sFID, Inception Score, precision and recall as ADM's suite.

Example: dit-eval evaluate samples.npz --ref imagenet256

`dit-eval COMMAND --help` says more of a command, `dit-eval --version` which version this is.

Results go to stdout, progress and warnings to stderr. Exit codes: 0: done; 1: verify failed; 2: a mistake of yours, or
a failure; 3: the result is printed but could not be written everywhere; 130: interrupted.

The ending of a file to write says its format; another ending is refused. What --out names is never written over:
sample, train, encode, study run and quickstart go on with what is theirs, stats, grid and report need --force. --json,
and --grid of sample and classes, are written anew each time; --results grows by a line."""
COMMANDS = {  # in the order of the help; `study run` is dit_eval.cli.study.study_run
    "evaluate": "score samples against a reference",
    "compare": "tell which samples are better, and how sure that is",
    "diagnose": "find out why a number is not the published one",
    "classes": "find the classes that are worst",
    "stats": "make a reference npz from real images",
    "flops": "count Gflops and parameters of models, beside the paper's",
    "weights": "list, fetch or verify public weights and reference batches",
    "weights list": "what there is, where it is from, and what is on this machine",
    "weights fetch": "download into the cache (goes on where it stopped, checked, atomic)",
    "weights verify": "check a file in the cache",
    "sample": "draw images from a DiT into one sample npz",
    "train": "train a DiT by the paper's recipe",
    "encode": "encode a folder of images to the latents that a DiT trains on",
    "study": "run a scaling study from a plan: train, sample, evaluate, report",
    "study run": "do what is missing of a study, in a folder that survives interruptions",
    "study status": "show each task of a study: state, cost, time left",
    "study report": "draw the paper's figures from a study's results",
    "study show": "print a plan, to start one of your own from",
    "study work": "do one task of a study; what engines start, under torchrun or alone",
    "sweep": "find the best guidance or steps, and confirm it on fresh noise",
    "grid": "look at samples: one file, or several side by side",
    "report": "redraw the paper's tables and figures, with your own results",
    "verify": "check that this installation gives ADM's numbers",
    "quickstart": "see every metric at work on real digits, with no download",
}
_MORE = {  # of a command of commands: what stands below its sentence
    "weights": """Example: dit-eval weights list

`dit-eval weights ACTION --help` says more.""",
    "study": """Example: dit-eval study run digits-small --out study

`dit-eval study ACTION --help` says more.""",
}


def commands_of(name: str) -> dict[str, str]:
    """The commands of a command and what they do; those of the program for ""."""
    inner = {other: words for other, words in COMMANDS.items() if other.rpartition(" ")[0] == name}
    return {other.rpartition(" ")[2]: words for other, words in inner.items()}


@dataclass(frozen=True, kw_only=True)
class Call:
    """A command and the words after it.

    Attributes
    ----------
    name : such as "study run"; "" for the program
    about : what its help says above and below the options
    form : its options; None if it is one of commands
    run : takes the options
    """

    name: str
    about: str
    syntax: Syntax
    words: Sequence[str]
    form: Form[Any] | None = None
    run: Callable[[Any], None] = field(default=lambda _: None)

    def __call__(self) -> None:
        """Run the command, or print its help.

        Raises
        ------
        UsageError
            If the words are wrong.
        """
        used, words = self.syntax.read(self.words)
        if used.intersection(HELP):
            sys.stdout.write(self.help())
        elif VERSION in used:
            sys.stdout.write(f"dit-eval {dit_eval.__version__}\n")
        else:
            self.run(self.options(words))

    def help(self) -> str:
        """The help of the command."""
        from dit_eval.cli.help import help_text

        return help_text(self.syntax, self.about, commands_of(self.name))

    def options(self, words: Sequence[str]) -> Any:
        """What words of one meaning say; see `Syntax.read`.

        Raises
        ------
        UsageError
            If a value is none of its option's type, out of its bounds, or does not pass its option's check.
        """
        if self.form is None:
            raise self.syntax.error("a command is missing")
        from cyclopts import CoercionError, ValidationError

        try:
            _, bound, _ = self.form.app.parse_args(words, exit_on_error=False, print_error=False)
            return self.form.fill(bound.arguments)
        except CoercionError as error:
            name = self._written.get(error.argument.name, error.argument.name) if error.argument else ""
            raise self.syntax.error(f"argument {name}: {error.msg}") from None
        except ValidationError as error:
            raise UsageError(error.exception_message) from None
        except ValueError as error:
            raise UsageError(self.spoken(str(error))) from None

    def spoken(self, text: str) -> str:
        """A message of the library in the words of this command."""
        names = self.form.names if self.form else {}
        return in_options(text, {field: self._written.get(name, name) for field, name in names.items()})

    @property
    def _written(self) -> dict[str, str]:
        """The options in use, by their first names: as the user has written them."""
        used, _ = self.syntax.read(self.words)
        return {option.name: name for name in used if (option := self.syntax.options[name]) is not None}


def follow(words: Sequence[str]) -> Call:
    """The command that the first words name; its module is imported."""
    left, names = [*words], list[str]()
    while left and left[0] in commands_of(" ".join(names)):
        names.append(left.pop(0))
    name, prog = " ".join(names), " ".join(["dit-eval", *names])
    if inner := commands_of(name):
        syntax = Syntax.of(prog, (), commands=[*inner], flags=HELP if name else (*HELP, VERSION))
        about = f"{COMMANDS[name][0].upper()}{COMMANDS[name][1:]}.\n\n{_MORE[name]}" if name else ABOUT
        return Call(name=name, about=about, syntax=syntax, words=left)
    from dit_eval.cli.options import Form  # not for the help of the program, which answers at once

    run = getattr(import_module(f"dit_eval.cli.{names[0]}"), "_".join(names))
    form = Form(get_type_hints(run)["arguments"])
    syntax = Syntax.of(prog, form.arguments())
    return Call(name=name, about=inspect.getdoc(form.options) or "", syntax=syntax, words=left, form=form, run=run)
