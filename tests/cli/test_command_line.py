"""The command line is frozen: names, defaults, choices, what a line means, exit codes, and what an error names.

``goldens/command_line.json`` holds it, and no parser is named there; `command_line.py` reads ours.
"""

import json
import re
import shlex
from pathlib import Path

import command_line
import pytest

from dit_eval.cli import main

pytestmark = pytest.mark.usefixtures("own_folder")

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "command_line.json").read_text())
ENTRIES = {
    name: {entry.get("name") or entry["spellings"][0]: entry for entry in [*of["arguments"], *of["options"].values()]}
    for name, of in GOLDEN["commands"].items()
}


@pytest.fixture(scope="module")
def commands():
    return command_line.commands()


def test_no_command_comes_or_goes(commands):
    assert sorted(commands) == sorted(GOLDEN["commands"])


@pytest.mark.parametrize("name", GOLDEN["commands"])
def test_arguments_and_options_of_a_command(commands, name):
    found, expected = commands[name], GOLDEN["commands"][name]
    assert found["commands"] == expected["commands"]
    assert found["arguments"] == expected["arguments"]
    for option, entry in expected["options"].items():
        assert found["options"].get(option) == entry
    assert sorted(found["options"]) == sorted(expected["options"])


@pytest.mark.parametrize("case", GOLDEN["parsed"], ids=lambda case: case["line"])
def test_what_a_command_line_means(case):
    line, *given = case.items()
    options = GOLDEN["commands"][case["command"]]["options"]
    given = [(options[name]["spellings"][0] if name in options else name, value) for name, value in given]
    defaults = {name: entry["default"] for name, entry in ENTRIES[case["command"]].items()}
    assert command_line.parse(shlex.split(line[1])) == {**defaults, **dict(given)}


OLD = {  # names of before, which scripts use
    "evaluate a.npz --ref b": {"--num-samples": "--num-images"},
    "diagnose a.npz --ref b": {"--num-samples": "--num-images"},
    "classes a.npz --ref b": {"--num-samples": "--num-images"},
    "sample --out s.npz": {"--num-fid-samples": "--num-images", "--per-proc-batch-size": "--batch-size"},
    "grid a.npz --out g.png": {"--count": "--num-images"},
}


@pytest.mark.parametrize("line", OLD)
def test_an_old_name_is_the_new_one(line):
    for old, new in OLD[line].items():
        meant = command_line.parse([*line.split(), old, "7"])
        assert meant == command_line.parse([*line.split(), new, "7"])
        assert meant != command_line.parse(line.split())
        assert command_line.parse([*line.split(), new, "6", old, "7"]) == meant  # the last one holds


@pytest.mark.parametrize("name", ["--num-images", "--num-samples"])
def test_a_mistake_is_told_with_the_name_that_was_typed(capsys, name):
    for value in ("many", "10000001"):
        with pytest.raises(SystemExit):
            main(["evaluate", "a.npz", "--ref", "digits", name, value])
        error = next(line for line in capsys.readouterr().err.splitlines() if "error: " in line)
        assert f" {name}: " in error


@pytest.mark.parametrize("case", GOLDEN["runs"], ids=lambda case: case["line"])
def test_exit_code_and_what_is_said(capsys, case):
    with pytest.raises(SystemExit) as exit_:
        main(shlex.split(case["line"]))
    out, err = capsys.readouterr()
    assert exit_.value.code == case["exit_code"], err
    said = out
    if case["exit_code"]:
        assert out == ""
        # argparse names the command too, and puts its usage above
        errors = [line for line in err.splitlines() if re.match(r"dit-eval(?: [a-z]+)*: error: ", line)]
        assert len(errors) == 1, err
        said = errors[0]
    for fact in case["says"]:
        assert fact in said
