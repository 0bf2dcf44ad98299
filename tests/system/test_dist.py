"""The place of a process among others, as the environment says it: each mistake is one message."""

import datetime
import re
import socket

import numpy as np
import pytest
import torch
import torch.distributed
from torch.distributed import HashStore

from dit_eval.cli import main
from dit_eval.system.dist import FailedElsewhere, OtherProcessEnded, World, _one_word, join, rank_told

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


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_meet_are_told(rank, monkeypatch):
    monkeypatch.setattr("dit_eval.system.dist._UNTIL_ALL_ARE_THERE", datetime.timedelta(seconds=0.2))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        placed(monkeypatch, {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port})
        message = (
            rf"process {rank} of 2 does not meet the others at 127\.0\.0\.1:{port} \(.+\)\. Start all of them by torch"
        )
        with pytest.raises(ConnectionError, match=message) as error, join():
            pass
    assert str(error.value).isprintable()


# ---- another process that is killed; for real under torchrun: tests/test_training.py, tests/test_sampling.py

ENDED = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:25493. This is "
    "typically caused by a remote worker crashing."
)
OTHERS = {
    RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4"): False,
    RuntimeError("expected scalar type Float"): False,
    RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv operation"): True,
    torch.distributed.DistNetworkError("failed to recv, got 0 bytes"): True,
    torch.distributed.DistBackendError("NCCL communicator was aborted on rank 1"): True,
}
TOGETHER = {
    "barrier": lambda world: world.barrier(),
    "average_": lambda world: world.average_(torch.ones(2)),
    "copy_first_": lambda world: world.copy_first_([torch.ones(2)]),
    "most": lambda world: world.most(3),
    "collect": lambda world: world.collect(np.ones((2, 3))),
    "from_first": lambda world: world.from_first(lambda: 1),
    "first_then_all": lambda world: world.first_then_all(lambda: 1),
}


@pytest.fixture
def failing(monkeypatch):
    """Have all that processes do together fail."""

    def fail(error):
        def failing(*_, **__):
            raise error

        for name in ("all_reduce", "broadcast", "broadcast_object_list", "send", "recv"):
            monkeypatch.setattr(torch.distributed, name, failing)

    return fail


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("what", TOGETHER)
def test_a_process_that_has_ended_is_one_message(what, rank, failing):
    failing(RuntimeError(ENDED))
    with pytest.raises(OtherProcessEnded, match=r"^another process of this run has ended.* run the same command again"):
        TOGETHER[what](World(rank=rank, size=2))


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_errors_of_our_own_are_not_those_of_another_process(error, failing):
    failing(error)
    with pytest.raises(OtherProcessEnded if OTHERS[error] else type(error)):
        World(size=2).barrier()


def test_an_error_is_told_though_nobody_else_is_there_any_more(failing):
    failing(RuntimeError(ENDED))
    with pytest.raises(ZeroDivisionError):
        World(rank=0, size=2).from_first(lambda: 1 // 0)


def ends(store, *, rank, size=4, error):
    """How a process ends that meets an error."""
    try:
        with _one_word(World(rank=rank, size=size), store):
            raise error
    except BaseException as found:
        return type(found)


@pytest.mark.parametrize("first", [OtherProcessEnded(), OSError("full"), KeyboardInterrupt()], ids=lambda e: type(e))
def test_one_process_speaks(first):
    store = HashStore()
    assert ends(store, rank=2, error=first) is type(first)
    assert [ends(store, rank=rank, error=OtherProcessEnded()) for rank in (0, 3)] == [FailedElsewhere] * 2
    assert ends(store, rank=1, error=OSError("a fault of its own")) is OSError
    assert ends(store, rank=1, error=FailedElsewhere()) is FailedElsewhere
    with _one_word(World(size=2), store):
        pass


def test_without_process_0_which_kept_the_store_the_next_one_speaks():
    class Gone:
        def add(self, *_):
            raise torch.distributed.DistNetworkError("failed to recv, got 0 bytes")

    found = [ends(Gone(), rank=rank, error=OtherProcessEnded()) for rank in (1, 2, 3)]
    assert found == [OtherProcessEnded, FailedElsewhere, FailedElsewhere]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OtherProcessEnded(), "dit-eval: error in process 1: another process of this run has ended, so the others"),
        (FailedElsewhere(), ""),
        (KeyboardInterrupt(), ""),
    ],
)
def test_what_a_command_says_and_how_it_ends(error, said, monkeypatch, capsys):
    def failing(_):
        raise error

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("dit_eval.cli.app.Call.__call__", failing)
    with pytest.raises(SystemExit) as exit_:
        main(COMMANDS["sample"])
    assert exit_.value.code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    told = capsys.readouterr().err
    assert told.startswith(said)
    assert told.count("\n") == (1 if said else 0)
