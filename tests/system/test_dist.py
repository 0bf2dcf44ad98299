"""The place of a process among others, as the environment says it: each mistake is one message."""

import re

import pytest

from dit_eval.cli import main
from dit_eval.system.dist import World, join, rank_told

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
TWO = {"RANK": "1", "WORLD_SIZE": "2"}
MET = {**TWO, "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def placed(monkeypatch, environment):
    for name, text in environment.items():
        monkeypatch.setenv(name, text)


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, World()),
        (TWO, World(rank=1, size=2)),
        ({"RANK": " 1 ", "WORLD_SIZE": "2\n"}, World(rank=1, size=2)),
        ({**TWO, "LOCAL_RANK": "3"}, World(rank=1, size=2, local_rank=3)),  # by a launcher that says no more
        (
            {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
            World(rank=5, size=8, local_rank=1, local_size=4),
        ),
    ],
)
def test_places(environment, world, monkeypatch):
    placed(monkeypatch, environment)
    assert World.from_environment() == world


MISTAKES = {
    "RANK is a word": ({"RANK": "x"}, r"RANK is 'x' in the environment; expected an integer from 0 to 100,000"),
    "RANK is empty": ({"RANK": ""}, r"RANK is empty in the environment; expected an integer from 0"),
    "RANK is blank": ({"RANK": "  "}, r"RANK is empty"),
    "RANK is negative": ({"RANK": "-1"}, r"RANK is '-1'"),
    "RANK is a fraction": ({"RANK": "0.0"}, r"RANK is '0\.0'"),
    "RANK is signed": ({"RANK": "+0"}, r"RANK is '\+0'"),
    "RANK has an underscore": ({"RANK": "1_0"}, r"RANK is '1_0'"),
    "RANK is of other digits": ({"RANK": "\u0663"}, r"RANK is "),
    "RANK is a superscript": ({"RANK": "\xb2"}, r"RANK is "),
    "RANK moves the cursor": ({"RANK": "\x1b[2J"}, r"RANK is '\\x1b\[2J'"),
    "RANK is endless": ({"RANK": "9" * 100_000}, r"RANK is '9{40}\.\.\.' in"),
    "RANK alone": ({"RANK": "3"}, r"RANK is 3 in the environment, and WORLD_SIZE not set; expected a number below"),
    "RANK beyond WORLD_SIZE": ({"RANK": "2", "WORLD_SIZE": "2"}, r"RANK is 2 in the environment, and WORLD_SIZE 2;"),
    "WORLD_SIZE is empty": ({"WORLD_SIZE": ""}, r"WORLD_SIZE is empty in the environment; expected .* from 1 to"),
    "WORLD_SIZE is 0": ({"WORLD_SIZE": "0"}, r"WORLD_SIZE is '0'"),
    "WORLD_SIZE is negative": ({"WORLD_SIZE": "-2"}, r"WORLD_SIZE is '-2'"),
    "WORLD_SIZE is a word": ({"RANK": "0", "WORLD_SIZE": "two"}, r"WORLD_SIZE is 'two'"),
    "WORLD_SIZE is huge": ({"RANK": "0", "WORLD_SIZE": "1000000000000"}, r"WORLD_SIZE is '1000000000000'"),
    "WORLD_SIZE alone": ({"WORLD_SIZE": "2"}, r"WORLD_SIZE is 2 in the environment, and RANK is not set"),
    "LOCAL_RANK is a word": ({**TWO, "LOCAL_RANK": "x"}, r"LOCAL_RANK is 'x'"),
    "LOCAL_RANK is negative": ({"LOCAL_RANK": "-1"}, r"LOCAL_RANK is '-1'"),
    "LOCAL_RANK beyond": (
        {**TWO, "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"}, r"LOCAL_RANK is 2 .*, and LOCAL_WORLD_SIZE 2;",
    ),
    "LOCAL_WORLD_SIZE is empty": ({**TWO, "LOCAL_WORLD_SIZE": ""}, r"LOCAL_WORLD_SIZE is empty"),
    "LOCAL_WORLD_SIZE beyond": (
        {**TWO, "LOCAL_WORLD_SIZE": "4"}, r"LOCAL_WORLD_SIZE is 4 in the environment, and WORLD_SIZE 2; expected",
    ),
    "MASTER_ADDR is missing": (TWO, r"MASTER_ADDR is not set in the environment"),
    "MASTER_ADDR is empty": ({**TWO, "MASTER_ADDR": "", "MASTER_PORT": "29500"}, r"MASTER_ADDR is not set"),
    "MASTER_PORT is missing": (MET, r"MASTER_PORT is not set"),
    "MASTER_PORT is empty": ({**MET, "MASTER_PORT": ""}, r"MASTER_PORT is not set"),
    "MASTER_PORT is a word": ({**MET, "MASTER_PORT": "http"}, r"MASTER_PORT is 'http' .* from 1 to 65,535"),
    "MASTER_PORT is 0": ({**MET, "MASTER_PORT": "0"}, r"MASTER_PORT is '0'"),
    "MASTER_PORT is negative": ({**MET, "MASTER_PORT": "-5"}, r"MASTER_PORT is '-5'"),
    "MASTER_PORT is no port": ({**MET, "MASTER_PORT": "65536"}, r"MASTER_PORT is '65536'"),
    "OMP_NUM_THREADS is a word": ({"OMP_NUM_THREADS": "all"}, r"OMP_NUM_THREADS is 'all' .* from 1 to 4,096. Unset it"),
    "OMP_NUM_THREADS is empty": ({"OMP_NUM_THREADS": ""}, r"OMP_NUM_THREADS is empty"),
    "OMP_NUM_THREADS is 0": ({"OMP_NUM_THREADS": "0"}, r"OMP_NUM_THREADS is '0'"),
    "OMP_NUM_THREADS is negative": ({"OMP_NUM_THREADS": "-1"}, r"OMP_NUM_THREADS is '-1'"),
    "OMP_NUM_THREADS is huge": ({"OMP_NUM_THREADS": "1000000000000"}, r"OMP_NUM_THREADS is '1000000000000'"),
    "OMP_NUM_THREADS is a list with a hole": ({"OMP_NUM_THREADS": "2,,2"}, r"OMP_NUM_THREADS is '2,,2'"),
}  # fmt: skip


@pytest.mark.parametrize("form", MISTAKES)
def test_a_place_that_is_none_is_one_message(form, monkeypatch):
    environment, message = MISTAKES[form]
    placed(monkeypatch, environment)
    with pytest.raises(ValueError, match=f"^{message}") as error, join():
        pass
    assert re.search(r"(torchrun.* unset RANK|Unset it)", str(error.value))
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("threads", ["1", " 8 ", "4,2", "8,4,2"])
def test_threads_that_openmp_understands(threads, monkeypatch):
    placed(monkeypatch, {"OMP_NUM_THREADS": threads})
    with join() as world:
        assert world == World()


@pytest.mark.parametrize(
    ("environment", "rank"), [({}, 0), ({"RANK": "3"}, 3), ({"RANK": "x"}, 0), ({"RANK": ""}, 0), ({"RANK": "-1"}, 0)]
)
def test_who_speaks_where_the_place_is_in_doubt(environment, rank, monkeypatch):
    placed(monkeypatch, environment)
    assert rank_told() == rank


COMMANDS = {
    "evaluate": ["evaluate", "g.npz", "--ref", "digits", "--extractor", "digits"],
    "sample": ["sample", "--ckpt", "dit-digits", "--out", "s.npz"],
    "train": ["train", "--model", "DiT-S/2", "--data", "latents", "--out", "run"],
    "encode": ["encode", "pictures", "--out", "latents"],
}


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_says_it_once(command, name, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    placed(monkeypatch, {name: "x"})
    with pytest.raises(SystemExit) as exit_:
        main(COMMANDS[command])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out) == (2, "")
    assert err.startswith(f"dit-eval: error: {name} is 'x' in the environment; ")
    assert err.count("\n") == 1
    assert [*tmp_path.iterdir()] == []
