"""The library speaks of parameters, the command line of options."""

import pytest

from dit_eval.cli.spoken import in_options

OPTIONS = {"out": "--out", "save_at": "--save-at", "learning_rate": "--lr"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Name another `out`, or remove it.", "Name another --out, or remove it."),
        ("try a lower `learning_rate`", "try a lower --lr"),
        ("save_at: expected steps from 1 to 10; got 11", "--save-at: expected steps from 1 to 10; got 11"),
        ("learning_rate: expected more than 0; got 0", "--lr: expected more than 0; got 0"),
        ("other: expected more than 0; got 0", "other: expected more than 0; got 0"),
        ("out: no such folder", "out: no such folder"),  # a path of the user's
        ("call `run` or `dit-eval train`, with `weights`", "call `run` or `dit-eval train`, with `weights`"),
    ],
)
def test_parameters_become_options_of_the_command(text, said):
    assert in_options(text, OPTIONS) == said
