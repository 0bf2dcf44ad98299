"""Tasks as jobs of a real Slurm: limits, restarts, failures, and engines that are killed."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from inline_engine import InlineEngine
from small_plan import TINY_DIT_ON_DIGITS

from dit_eval.cli import main
from dit_eval.study.engine import Outcome, Resources, torchrun
from dit_eval.study.slurm import Delays, SlurmEngine
from dit_eval.study.slurm_job import Exit

ONE = Resources(minutes=10)
PATIENCE = 90
ENDED = {"done", "failed", "lost"}
SAY_NAME = "sed -n 's/^#SBATCH --job-name=//p' $1"  # of the script that sbatch is given
BAD_END = Exit(code=1, told=False, reason="exit code 1")


def shell(text):
    return ["bash", "-c", text]


def until(engine, condition):
    """Poll until a condition on all news so far holds; the last news of each task."""
    news, deadline = {}, time.monotonic() + PATIENCE
    while True:
        news |= engine.poll()
        if condition(news):
            return news
        assert time.monotonic() < deadline, news
        time.sleep(0.2)


def until_ended(engine, *keys):
    return until(engine, lambda news: all(k in news and news[k].state in ENDED for k in keys))


def slurm_says(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wait_for(path):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path}"
        time.sleep(0.05)


@pytest.fixture
def folder(slurm, tmp_path):
    yield tmp_path / "jobs"
    subprocess.run(["scancel", f"--user={os.getuid()}"], check=True)
    while slurm_says("squeue", "-h"):
        time.sleep(0.1)


def most_at_once(spans):
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    level = most = 0
    for _, change in changes:
        level += change
        most = max(most, level)
    return most


# ---- on a real Slurm


def test_an_array_keeps_the_limit_and_uses_it(folder, tmp_path):
    # Room for four at once, a limit of two; two kinds of resources share it.
    tasks = {f"a{i}": ONE for i in range(4)} | {f"b{i}": Resources(minutes=11) for i in range(3)}
    engine = SlurmEngine(folder, limit=2)
    engine.submit(
        tasks, lambda key: shell(f"date +%s.%N > {tmp_path}/{key}; sleep 1.5; date +%s.%N >> {tmp_path}/{key}")
    )
    assert engine.outstanding == set(tasks)
    news = until_ended(engine, *tasks)
    assert {outcome.state for outcome in news.values()} == {"done"}
    assert {outcome.code for outcome in news.values()} == {0}
    assert engine.outstanding == set()
    assert engine.poll() == {}, "an end is told once"
    assert len({news[f"a{i}"].job.partition("_")[0] for i in range(4)}) == 1, "one job array"
    spans = [tuple(map(float, (tmp_path / key).read_text().split())) for key in tasks]
    assert most_at_once(spans) == 2


def test_a_requeued_task_starts_again(folder, tmp_path):
    engine = SlurmEngine(folder, limit=2)
    script = f"echo begun $SLURM_RESTART_COUNT; test -e {tmp_path}/first && exit 0; touch {tmp_path}/first; sleep 600"
    engine.submit({"x": ONE, "y": ONE}, lambda key: shell(script if key == "x" else "true"))
    wait_for(tmp_path / "first")
    job = until(engine, lambda news: news["x"].state == "running")["x"].job
    slurm_says("scontrol", "requeue", job)
    states = set()
    while not states & ENDED:
        outcome = engine.poll().get("x")
        states.add(outcome.state)
        time.sleep(0.2)
    assert "pending" in states, "it went back to the queue"
    assert outcome == Outcome(state="done", code=0, reason="exit code 0", job=job, log=outcome.log)
    text = outcome.log.read_text()
    assert text.count("begun") == 2, "both starts in one log"
    assert "begun 1" in text


def test_a_task_at_its_time_limit_goes_on_in_a_second_start(folder, tmp_path):
    # Slurm's warning of the end, which submitit answers by a requeue. All processes of the command must be gone before
    # the next start, one that does not listen too.
    engine = SlurmEngine(folder, limit=1)
    worker = f"trap '' TERM USR2; cd {tmp_path}; echo $$ > pid; mv pid worker; while true; do sleep 0.1; done"
    again = f"kill -0 $(cat {tmp_path}/worker) && exit 9; exit 0"
    script = f"if test -e {tmp_path}/worker; then {again}; fi; bash -c {shlex.quote(worker)} & wait"
    engine.submit({"x": ONE}, lambda key: shell(script))
    wait_for(tmp_path / "worker")
    job = until(engine, lambda news: news["x"].state == "running")["x"].job
    slurm_says("scancel", "--signal=USR2", job)
    outcome = until_ended(engine, "x")["x"]
    assert (outcome.state, outcome.code, outcome.job) == ("done", 0, job)
    text = outcome.log.read_text()
    assert "Requeued job" in text
    assert "No such process" in text, "the second start found the worker gone"


def test_a_failure_names_code_and_log(folder):
    engine = SlurmEngine(folder, limit=2)
    engine.submit({"bad": ONE, "good": ONE}, lambda key: shell("echo some words; exit 3" if key == "bad" else "exit 0"))
    news = until_ended(engine, "bad", "good")
    assert (news["bad"].state, news["bad"].code, news["bad"].reason) == ("failed", 3, "exit code 3")
    assert "some words" in news["bad"].log.read_text()
    assert news["good"].state == "done"
    slurms = slurm_says("squeue", "-h", "--states=all", "-r", "-o", "%F_%K %T")
    assert f"{news['bad'].job} FAILED" in slurms, "Slurm's own books say so too"


def test_a_task_that_the_system_ends_is_lost_not_failed(folder, tmp_path):
    commands = {
        "cancelled": shell(f"trap 'exit 2' TERM; echo $$ > {tmp_path}/cancelled; while true; do sleep 0.1; done"),
        "stubborn": shell(f"trap '' TERM; echo $$ > {tmp_path}/stubborn; while true; do sleep 0.1; done"),
        "killed": shell(f"echo $$ > {tmp_path}/killed; exec sleep 600"),
    }
    engine = SlurmEngine(folder, limit=3)
    engine.submit(dict.fromkeys(commands, ONE), commands.__getitem__)
    for key in commands:
        wait_for(tmp_path / key)
    news = until(engine, lambda news: all(outcome.state == "running" for outcome in news.values()))
    pids = {key: int((tmp_path / key).read_text()) for key in commands}
    slurm_says("scancel", news["cancelled"].job, news["stubborn"].job)
    os.kill(pids["killed"], signal.SIGKILL)
    news = until_ended(engine, *commands)
    assert {key: (outcome.state, outcome.code) for key, outcome in news.items()} == dict.fromkeys(
        commands, ("lost", None)
    )
    assert news["killed"].reason == "FAILED: ended by SIGKILL"
    assert news["cancelled"].reason.startswith("CANCELLED")
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids.values()):
        assert time.monotonic() < deadline, "the command outlives its job"
        time.sleep(0.1)


ENGINE = """
import os, signal, subprocess, sys
from pathlib import Path
from dit_eval.study.engine import Resources
from dit_eval.study.slurm import SlurmEngine
folder, out, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
engine = SlurmEngine(folder, limit=2)
if moment == "before":
    SlurmEngine._executor = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    SlurmEngine.check = lambda *_: None
if moment == "after":  # sbatch has answered, and nobody has written it down
    import submitit
    submit_array = submitit.SlurmExecutor.submit_array
    def deadly(self, calls):
        submit_array(self, calls)
        os.kill(os.getpid(), signal.SIGKILL)
    submitit.SlurmExecutor.submit_array = deadly
command = "echo x >> {0}/{1}; while ! test -e {0}/go; do sleep 0.1; done"
keys = ["a", "b", "c"]
one = Resources(minutes=10)
engine.submit(dict.fromkeys(keys, one), lambda key: ["bash", "-c", command.format(out, key)])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["after", "later"])
def test_a_second_engine_goes_on_with_the_jobs_of_a_killed_one(folder, tmp_path, moment):
    arguments = [str(folder), str(tmp_path), moment]
    first = subprocess.run([sys.executable, "-c", ENGINE, *arguments], capture_output=True, check=False)
    assert first.returncode == -signal.SIGKILL, first.stderr
    engine = SlurmEngine(folder, limit=2)
    assert engine.outstanding == {"a", "b", "c"}
    outcomes = engine.poll()
    assert set(outcomes) == {"a", "b", "c"}
    assert None not in {outcome.job for outcome in outcomes.values()}, "found by the name on record"
    with pytest.raises(ValueError, match=r"'b' is submitted already"):
        engine.submit({"b": ONE}, lambda key: shell("true"))
    (tmp_path / "go").touch()
    news = until_ended(engine, "a", "b", "c")
    assert {outcome.state for outcome in news.values()} == {"done"}
    assert [(tmp_path / key).read_text() for key in "abc"] == ["x\n"] * 3, "each task ran once"
    assert SlurmEngine(folder, limit=2).outstanding == set()


def test_a_submission_that_never_came_to_be_is_lost_after_a_while(folder, tmp_path):
    first = subprocess.run(
        [sys.executable, "-c", ENGINE, str(folder), str(tmp_path), "before"], capture_output=True, check=False
    )
    assert first.returncode == -signal.SIGKILL, first.stderr
    engine = SlurmEngine(folder, limit=2)
    assert {outcome.reason for outcome in engine.poll().values()} == {"being submitted"}
    engine = SlurmEngine(folder, limit=2, delays=Delays(submit=0.0, record=0.0))
    assert {outcome.state for outcome in engine.poll().values()} == {"lost"}
    assert engine.outstanding == set()


def test_jobs_that_slurm_has_forgotten_are_judged_by_their_record(folder, monkeypatch):
    engine = SlurmEngine(folder, limit=3)
    codes = {"zero": 0, "five": 5, "none": 0}
    engine.submit(dict.fromkeys(codes, ONE), lambda key: shell(f"exit {codes[key]}"))
    while slurm_says("squeue", "-h"):
        time.sleep(0.1)
    record = json.loads((folder / "jobs.json").read_text())[0]
    (folder / record["name"] / f"exit-{record['keys']['none']}-0.json").unlink()
    monkeypatch.setattr(SlurmEngine, "_queue", lambda self: {})
    first = engine.poll()
    assert {key: (o.state, o.code) for key, o in first.items()} == {
        "zero": ("done", 0), "five": ("failed", 5), "none": ("running", None),
    }  # fmt: skip
    lost = SlurmEngine(folder, limit=3, delays=Delays(record=0.0)).poll()
    assert lost["none"].state == "lost"
    assert lost["none"].reason == "no longer known to Slurm: it left no exit code"


@pytest.mark.parametrize(("nodes", "processes"), [(1, 2), (2, 2)])
def test_processes_find_their_places(folder, tmp_path, nodes, processes):
    script = (
        f"echo $RANK $WORLD_SIZE $LOCAL_RANK $LOCAL_WORLD_SIZE $SLURM_NODEID > {tmp_path}/$RANK; exit $(($RANK / {{}}))"
    )
    engine = SlurmEngine(folder, limit=2)
    resources = Resources(nodes=nodes, processes=processes, minutes=10)
    engine.submit({"good": resources}, lambda key: shell(script.format(99)))
    outcome = until_ended(engine, "good")["good"]
    assert outcome.state == "done", outcome.log.read_text()
    size = nodes * processes
    places = sorted([int(word) for word in (tmp_path / str(rank)).read_text().split()] for rank in range(size))
    assert [place[:4] for place in places] == [[r, size, r % processes, processes] for r in range(size)]
    assert len({place[4] for place in places}) == nodes


def test_one_of_two_nodes_fails(folder):
    engine = SlurmEngine(folder, limit=2)
    engine.submit({"bad": Resources(nodes=2, minutes=10)}, lambda key: shell("test $RANK = 0 && sleep 600; exit 4"))
    outcome = until_ended(engine, "bad")["bad"]
    assert (outcome.state, outcome.code) == ("failed", 1), "torchrun's code"


def test_sbatch_refuses(folder):
    engine = SlurmEngine(folder, limit=2)
    with pytest.raises(OSError, match=r"(?s)sbatch refused 1 tasks.*invalid partition"):
        engine.submit({"x": Resources(slurm={"partition": "nowhere"})}, lambda key: shell("true"))
    assert engine.outstanding == set()
    assert SlurmEngine(folder, limit=2).outstanding == set()


def test_options_reach_sbatch(folder, tmp_path):
    options = {"cpus_per_task": 2, "partition": "all", "additional_parameters": {"nice": 7}}
    engine = SlurmEngine(folder, limit=2)
    show = f"scontrol show job $SLURM_JOB_ID > {tmp_path}/job; env > {tmp_path}/env"
    engine.submit({"x": Resources(minutes=77, slurm=options)}, lambda key: shell(show))
    assert until_ended(engine, "x")["x"].state == "done"
    job = (tmp_path / "job").read_text()
    for word in ("Requeue=1", "TimeLimit=01:17:00", "CPUs/Task=2", "Partition=all", "Nice=7"):
        assert word in job
    assert "SLURM_STEP_NUM_TASKS=1\n" in (tmp_path / "env").read_text()
    assert "SLURM_CPUS_PER_TASK=2\n" in (tmp_path / "env").read_text()


# ---- without Slurm


def test_torchrun_only_where_there_are_processes():
    assert torchrun(["a", "b"], ONE) == ["a", "b"]
    assert torchrun(["a", "b"], Resources(processes=2)) == [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python", "a", "b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nodes": 0}, "nodes: expected at least 1; got 0"),
        ({"minutes": 1.5}, "minutes: expected an integer, at least 1 and at most 527,040; got 1.5"),
        ({"slurm": {"time": 3}}, "Option 'time' of Slurm is not free"),
    ],
)
def test_impossible_resources(values, message):
    with pytest.raises(ValueError, match=message):
        Resources(**values)


def test_without_submitit(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'dit-eval\[slurm\]'"):
        SlurmEngine(tmp_path, limit=1)


def test_without_slurm(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="sbatch is not on PATH"):
        SlurmEngine(tmp_path, limit=1)


@pytest.fixture
def any_engine(monkeypatch, tmp_path):
    """An engine where there are programs of Slurm's names, which do nothing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "srun"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return lambda **options: SlurmEngine(tmp_path / "jobs", **options)


def test_a_limit_of_none(any_engine):
    with pytest.raises(ValueError, match="limit on tasks at once is 0"):
        any_engine(limit=0)


def test_unknown_options_submit_nothing(any_engine):
    engine = any_engine(limit=1)
    tasks = {"good": ONE, "bad": Resources(slurm={"partitoin": "a"})}
    with pytest.raises(ValueError, match="partitoin"):
        engine.submit(tasks, lambda key: shell("true"))
    assert engine.outstanding == set()


RECORD = {"name": "dit-eval-0123456789abcdef", "submitted": 1.5, "nodes": 1, "size": 2, "throttle": 1,
          "keys": {"a": 0, "b": 1}, "job": "17"}  # fmt: skip
RECORDS = (
    b"[{]", b"", b"{}", b"1", b"[1]", b"[{}]", b"[" * 200_000, b"\xff", b'[{"name": "a", "name": "b"}]',
    *(json.dumps([RECORD | change]).encode() for change in (
        {"name": "../../x"}, {"name": "dit-eval-0123456789abcdef\n"}, {"name": 1}, {"submitted": float("nan")},
        {"submitted": "now"}, {"nodes": 0}, {"nodes": 10**9}, {"size": -1}, {"throttle": 1.5}, {"keys": ["a"]},
        {"keys": {"a": -1}}, {"keys": {"a": 10**30}}, {"job": 17}, {"job": "17; rm"},
    )),
)  # fmt: skip


@pytest.mark.parametrize("data", RECORDS, ids=range(len(RECORDS)))
def test_a_damaged_record_is_named(any_engine, tmp_path, data):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "jobs.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"jobs\.json is not a record of jobs \(.*delete the file\.$") as error:
        any_engine(limit=1)
    assert str(error.value).isprintable()


def test_a_record_of_an_earlier_run_is_taken_up(any_engine, tmp_path):
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "jobs.json").write_text(json.dumps([RECORD, RECORD | {"keys": {"c": 0}, "job": None}]))
    assert any_engine(limit=1).outstanding == {"a", "b", "c"}


EXITS = (
    b"", b"[]", b"1", b"{}", b"[" * 200_000, b"\xff", b'{"code": "0", "told": false, "reason": ""}',
    b'{"code": 0.5, "told": false, "reason": ""}', b'{"code": 0, "told": 1, "reason": ""}',
    b'{"code": 0, "told": false}', b" " * (1 << 20) + b'{"code": 0, "told": false, "reason": ""}',
)  # fmt: skip


@pytest.mark.parametrize("data", EXITS, ids=range(len(EXITS)))
def test_a_damaged_record_of_an_exit_counts_as_not_there(tmp_path, data):
    Exit(code=3, told=True, reason="why").write(tmp_path / "exit.json")
    assert Exit.read(tmp_path / "exit.json") == Exit(code=3, told=True, reason="why")
    (tmp_path / "exit.json").write_bytes(data)
    assert Exit.read(tmp_path / "exit.json") is None


def program(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_a_controller_that_is_away_loses_nothing(any_engine, tmp_path):
    program(tmp_path / "bin", "sbatch", "echo Submitted batch job 7")
    engine = any_engine(limit=1)
    engine.submit({"x": ONE, "y": Resources(minutes=3)}, lambda key: shell("true"))
    away, there = "echo squeue: error: Unable to contact slurm controller >&2; exit 1", "true"
    program(tmp_path / "bin", "squeue", away)
    with pytest.raises(OSError, match="Unable to contact slurm controller\nIs Slurm's controller up"):
        engine.poll()
    program(tmp_path / "bin", "squeue", there)
    assert engine.poll()["x"].state == "running", "its exit code may come"
    program(tmp_path / "bin", "squeue", away)
    assert {outcome.reason for outcome in engine.poll().values()} == {"Slurm's controller does not answer"}
    assert engine.outstanding == {"x", "y"}
    impatient = any_engine(limit=1, delays=Delays(silence=0.0))
    program(tmp_path / "bin", "squeue", there)
    assert impatient.poll()["x"].state == "running"
    program(tmp_path / "bin", "squeue", away)
    with pytest.raises(OSError, match="Unable to contact"):
        impatient.poll()


GONE = ["BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"]


@pytest.mark.parametrize("state", GONE)
@pytest.mark.parametrize("ends", [[], [Exit(code=None, told=True, reason="ended by SIGTERM")], [BAD_END]])
def test_what_slurm_ends_is_lost_and_the_message_says_how(any_engine, tmp_path, state, ends):
    # Whatever the nodes that were left have noted: without the others they end badly.
    program(
        tmp_path / "bin",
        "sbatch",
        f"sed -n 's/^#SBATCH --job-name=//p' $1 > {tmp_path}/name; echo Submitted batch job 7",
    )
    engine = any_engine(limit=1)
    engine.submit({"x": Resources(nodes=2)}, lambda key: shell("true"))
    name = (tmp_path / "name").read_text().strip()
    for node, end in enumerate(ends):
        end.write(tmp_path / "jobs" / name / f"exit-0-{node}.json")
    program(tmp_path / "bin", "squeue", f'echo "{name}|7|N/A|RUNNING|None"')
    assert engine.poll()["x"].state == "running"
    program(tmp_path / "bin", "squeue", f'echo "{name}|7|N/A|{state}|None"')
    outcome = engine.poll()["x"]
    assert (outcome.state, outcome.code, outcome.job) == ("lost", None, "7")
    assert outcome.reason.startswith(f"{state}: "), "and another try is sensible"
    assert engine.outstanding == set()


def test_a_task_whose_nodes_fail_is_started_three_times_and_then_told(tmp_path, monkeypatch, capsys):
    started = Counter()

    class Failing(InlineEngine):
        def poll(self):
            news = {key: Outcome(state="lost", reason="NODE_FAIL: it left no exit code") for key in self._waiting}
            started.update(self._waiting)
            self._waiting = []
            return news

    monkeypatch.setattr("dit_eval.study.tasks.LocalEngine", Failing)
    (tmp_path / "plan.toml").write_text(
        TINY_DIT_ON_DIGITS + "[training]\nbatch_size = 4\n"
        "[sampling]\nnum_samples = 8\n[[cells]]\nmodels = 'all'\ntraining_steps = [2]\nsampling_steps = [2]\n"
    )
    with pytest.raises(SystemExit) as exit_:
        main(["study", "run", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "study"), "--device", "cpu"])
    assert exit_.value.code == 2
    assert [*started.values()] == [3], "the cell waits for its training"
    told = capsys.readouterr().err
    assert len(re.findall("started again: .*: NODE_FAIL: it left no exit code", told)) == 2
    assert len(re.findall("failed: .*: NODE_FAIL: it left no exit code", told)) == 1
    assert "Run the same command again when the reason is gone" in told


@pytest.mark.parametrize("state", ["PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"])
def test_what_slurm_puts_back_after_a_node_has_failed_is_waited_for(any_engine, tmp_path, state):
    program(
        tmp_path / "bin",
        "sbatch",
        f"sed -n 's/^#SBATCH --job-name=//p' $1 > {tmp_path}/name; echo Submitted batch job 7",
    )
    engine = any_engine(limit=1, delays=Delays(record=0.0, submit=0.0))
    engine.submit({"x": ONE}, lambda key: shell("true"))
    program(tmp_path / "bin", "squeue", f'echo "$(cat {tmp_path}/name)|7|N/A|{state}|BeginTime"')
    assert engine.poll()["x"] == Outcome(
        state="pending", reason="BeginTime", job="7", log=tmp_path / "jobs" / "7_0_log.out"
    )


@pytest.mark.parametrize("jump", [-1e8, 1e8])
def test_a_clock_that_jumps_loses_no_submission(any_engine, tmp_path, monkeypatch, jump):
    late = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"
    program(tmp_path / "bin", "sbatch", late)
    engine = any_engine(limit=1, delays=Delays(submit=5.0, record=0.0))
    with pytest.raises(OSError, match="Socket timed out"):
        engine.submit({"x": ONE}, lambda key: shell("true"))
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + jump)
    assert engine.poll()["x"].reason == "being submitted"
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 6.0)
    assert engine.poll()["x"].state == "lost"


def test_a_submission_without_an_answer_is_found_by_its_name(any_engine, tmp_path):
    programs = tmp_path / "bin"
    late = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"
    program(programs, "sbatch", f"{SAY_NAME} > {tmp_path}/name; {late}")
    program(programs, "squeue", f'echo "$(cat {tmp_path}/name)|7|N/A|PENDING|Resources"')
    engine = any_engine(limit=1)
    with pytest.raises(OSError, match="Socket timed out"):
        engine.submit({"x": ONE}, lambda key: shell("true"))
    for each in (engine, any_engine(limit=1)):
        (outcome,) = each.poll().values()
        assert (outcome.state, outcome.job, outcome.reason) == ("pending", "7", "Resources")


def test_a_refusal_while_polling_does_not_swallow_the_news(any_engine, tmp_path):
    program(tmp_path / "bin", "sbatch", "echo Submitted batch job 7")
    engine = any_engine(limit=1, delays=Delays(record=0.0))
    engine.submit({"x": ONE, "y": Resources(minutes=3)}, lambda key: shell("true"))
    program(tmp_path / "bin", "sbatch", "echo sbatch: error: QOSMaxSubmitJobPerUserLimit >&2; exit 1")
    news = engine.poll()  # squeue knows nothing of x
    assert (news["x"].state, news["x"].job) == ("lost", "7")
    assert news["y"].state == "lost"
    assert "QOSMaxSubmitJobPerUserLimit" in news["y"].reason
    assert engine.outstanding == set()


def test_inside_a_job_the_options_of_that_job_are_not_taken_over(any_engine, monkeypatch, tmp_path):
    program(tmp_path / "bin", "sbatch", f"env > {tmp_path}/env; echo Submitted batch job 7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "64")
    monkeypatch.setenv("SLURM_CONF", "/there")
    any_engine(limit=1).submit({"x": ONE}, lambda key: shell("true"))
    environment = (tmp_path / "env").read_text()
    assert "SLURM_CPUS_PER_TASK" not in environment
    assert "SLURM_CONF=/there\n" in environment
    assert os.environ["SLURM_CPUS_PER_TASK"] == "64"


def test_what_an_array_leaves_of_the_limit_goes_to_the_next(any_engine, tmp_path):
    programs = tmp_path / "bin"
    program(programs, "sbatch", "echo Submitted batch job 7")
    engine = any_engine(limit=3, delays=Delays(record=0.0))
    engine.submit({"a0": ONE, "a1": ONE}, lambda key: shell("true"))
    program(programs, "sbatch", f"cp $1 {tmp_path}/script; echo Submitted batch job 8")
    engine.submit({f"b{i}": Resources(minutes=3) for i in range(4)}, lambda key: shell("true"))
    script = (tmp_path / "script").read_text()
    assert "#SBATCH --array=0-3%1\n" in script
    assert "#SBATCH --requeue\n" in script
    program(programs, "scontrol", f"echo $@ >> {tmp_path}/updates")
    (name,) = [line.partition("=")[2] for line in script.splitlines() if "--job-name" in line]
    lines = "".join(f"{name}|8|{i}|PENDING|JobArrayTaskLimit\n" for i in range(4))
    program(programs, "squeue", f"cat <<END\n{lines}END")  # a0 and a1 are gone
    for _ in range(2):
        news = engine.poll()
    assert {key: outcome.job for key, outcome in news.items()} == {f"b{i}": f"8_{i}" for i in range(4)}
    assert (tmp_path / "updates").read_text() == "update JobId=8 ArrayTaskThrottle=3\n", "told once"
