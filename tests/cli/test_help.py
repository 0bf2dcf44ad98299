"""What `--help` prints: kept in files to be read, and with all that one needs every day on the first screen."""

import inspect
import re
import subprocess
import sys

import pytest

from dit_eval.cli import main
from dit_eval.cli.app import COMMANDS, commands_of, follow
from dit_eval.cli.syntax import Syntax

NAMES = ("", *COMMANDS)
LINES, COLUMNS = 24, 80


@pytest.mark.parametrize("name", NAMES)
def test_help_is_what_is_kept(capsys, pytestconfig, name):
    with pytest.raises(SystemExit) as exit_:
        main([*name.split(), "--help"])
    assert exit_.value.code == 0
    kept = pytestconfig.rootpath / "tests" / "goldens" / "help" / f"{'-'.join(['dit-eval', *name.split()])}.txt"
    assert capsys.readouterr().out == kept.read_text(encoding="utf-8"), "python tests/goldens/make_help.py --write"


def test_no_help_is_kept_of_what_is_no_command(pytestconfig):
    kept = {path.stem for path in (pytestconfig.rootpath / "tests" / "goldens" / "help").glob("*")}
    assert kept == {"-".join(["dit-eval", *name.split()]) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_the_first_screen_has_what_one_needs_every_day(name):
    text = follow(name.split()).help()
    assert max(map(len, text.splitlines())) <= COLUMNS
    usage, sentence, *_ = text.split("\n\n")
    assert usage.startswith("usage: dit-eval")
    assert sentence.endswith(".")
    end = max(match.end() for match in re.finditer(r"^(commands|arguments|everyday options):\n(  .*\n)+", text, re.M))
    assert len(text[:end].splitlines()) <= LINES
    assert text.split("\n\n")[2].startswith(f"Example: dit-eval {name}")


@pytest.mark.parametrize("name", NAMES)
def test_the_example_is_a_right_command_line(name):
    line = re.search(r"^Example: dit-eval (.*)$", follow(name.split()).help(), re.M)[1]
    call = follow(re.sub(r" > .*", "", line).split())
    assert call.name == name or call.name in {" ".join([name, each]).strip() for each in commands_of(name)}
    call.options(call.syntax.read(call.words)[1])


@pytest.mark.parametrize("name", [name for name in COMMANDS if not commands_of(name)])
def test_each_option_has_words_and_each_command_is_described(name):
    call = follow(name.split())
    assert isinstance(call.syntax, Syntax)
    assert inspect.getdoc(call.form.options) == call.about
    silent = [option for option, of in call.syntax.options.items() if of and not of.parameter.help]
    assert not silent


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("main(['--help'])", {"cyclopts", "msgspec", "numpy", "torch"}),
        ("[follow(name.split()).help() for name in COMMANDS]", {"numpy", "torch", "pandas", "matplotlib", "rich"}),
    ],
)
def test_help_loads_little(code, unwanted):
    program = (
        "import sys\nfrom dit_eval.cli import main\nfrom dit_eval.cli.app import COMMANDS, follow\n"
        f"try: {code}\nexcept SystemExit: pass\n"
        f"sys.exit(','.join(sorted({unwanted} & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
