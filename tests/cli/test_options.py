"""A command's dataclass as options: its own fields, and those of the settings in it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from cyclopts import CoercionError, Group, ValidationError
from msgspec import Meta

from dit_eval.cli.options import Form, Option, Panel
from dit_eval.cli.syntax import Syntax, UsageError
from dit_eval.system.settings import check_settings

KEEPING = Group("what is kept", sort_key=2)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Settings as the library has them: they know no command line."""

    steps: Annotated[int, Meta(ge=1, description="in all")] = 10
    save_at: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(description="steps to save at")] = ()
    learning_rate: Annotated[float, Meta(gt=0, description="of AdamW")] = 1e-4
    rule: Annotated[Literal["plain", "cosine"], Meta(description="of the rate")] = "plain"
    classes: Annotated[int, Meta(ge=1, description="of the data")] | None = None
    secret: int = 3

    def __post_init__(self) -> None:
        check_settings(self)


def exists(path: Path) -> None:
    if not path.exists():
        raise ValueError(f"{path}: no such file")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train."""

    schedule: Annotated[
        Schedule, Panel(group=KEEPING, options={"learning_rate": Option(name="--lr")}, left_out=("secret",))
    ]
    data: Annotated[Path, Option("images", name="DATA")]
    out: Annotated[Path | None, Option("a folder", check=exists)] = None
    colour: Annotated[str, Option("of the pen", choices=("red", "blue"))] = "red"
    quiet: Annotated[bool, Option("say nothing")] = False


FORM = Form(Train)
SYNTAX = Syntax.of("train", FORM.arguments())


def read(*words):
    _, bound, _ = FORM.app.parse_args(SYNTAX.read(words)[1], exit_on_error=False, print_error=False)
    return FORM.fill(bound.arguments)


def test_settings_are_put_together():
    assert read("d") == Train(schedule=Schedule(), data=Path("d"))
    found = read("--steps", "5", "d", "--save-at", "1,3", "--lr=0.1", "--rule", "cosine", "--classes", "2", "--quiet")
    schedule = Schedule(steps=5, save_at=(1, 3), learning_rate=0.1, rule="cosine", classes=2)
    assert found == Train(schedule=schedule, data=Path("d"), quiet=True)


def test_help_and_names_are_those_of_the_settings():
    steps, rate = SYNTAX.options["--steps"].parameter, SYNTAX.options["--lr"].parameter
    assert (steps.help, steps.group[0], rate.help) == ("in all", KEEPING, "of AdamW")
    assert "--secret" not in SYNTAX.options
    assert FORM.names["learning_rate"] == "--lr"
    assert FORM.names["data"] == "DATA"


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("d", "--steps", "1.5"), CoercionError, "expected a whole number, got '1.5'"),
        (("d", "--classes", "none"), CoercionError, "expected a whole number, got 'none'"),
        (("d", "--save-at", "[1]"), CoercionError, r"invalid: '\[1\]'; expected whole numbers with commas between"),
        (("d", "--lr", "fast"), CoercionError, "expected a number, got 'fast'"),
        (("d", "--rule", "Cosine"), CoercionError, "unknown choice 'Cosine'; known: plain, cosine. .* 'cosine'"),
        (("d", "--colour", "blu"), CoercionError, "known: red, blue. Did you mean 'blue'"),
        (("d", "--out", "nowhere"), ValidationError, "nowhere: no such file"),
        (("d", "--steps", "0"), ValueError, "steps: expected at least 1; got 0"),
        (("d", "--quiet=yes"), UsageError, "argument --quiet: it takes no value, got 'yes'"),
        (("d", "--no-quiet"), UsageError, "unknown option '--no-quiet'"),
        ((), UsageError, "required: DATA"),
        (("d", "e"), UsageError, "unexpected argument 'e'; expected DATA"),
    ],
)
def test_mistakes(words, error, said):
    with pytest.raises(error, match=said):
        read(*words)
