"""Folders of runs: one run at a time, the same settings, and what is on the disk is enough to go on.

A run is killed for real once for each kind of file that is written. Where in a training, an encoding, a sampling or a
study it is killed is tried without killing: each state of the disk that it may leave is kept while it runs, and the
same command goes on from there.
"""

import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import inline_engine
import numpy as np
import pytest
import torch
from filelock import FileLock
from kill_points import fail_once, states_of_disk
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_plan import tiny_plan
from small_runs import draw_pictures, encoding, sampling, training

import dit_eval.encoding
import dit_eval.sampling
from dit_eval.cli import main
from dit_eval.diffusion.data import list_images
from dit_eval.diffusion.latents import Latents
from dit_eval.diffusion.recipe import Recipe, Schedule
from dit_eval.diffusion.trainer import Trainer
from dit_eval.features.cache import CacheEntry
from dit_eval.images import open_images
from dit_eval.images.npz import open_batch
from dit_eval.models.config import DiTConfig
from dit_eval.results.parse import json_text
from dit_eval.study.folder import Study
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system.assets import asset, fetch
from dit_eval.system.dist import World
from dit_eval.system.run_folder import RunFolder, differences, is_claimed, read_settings, refuse_other
from dit_eval.system.seals import TRAILER, read_sealed, sealed
from dit_eval.training import TrainingRun, train


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are slower on several threads, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---- the folder


def test_one_run_at_a_time(tmp_path):
    with RunFolder(tmp_path / "run", doing="testing there") as first:
        first.claim()
        assert is_claimed(tmp_path / "run" / "lock")
        with pytest.raises(ValueError, match="run: another process is testing there; wait for it, or name another"):
            RunFolder(tmp_path / "run", doing="testing there").claim()
    assert not is_claimed(tmp_path / "run" / "lock")
    with RunFolder(tmp_path / "run", doing="testing there") as second:
        second.claim()
    assert not is_claimed(tmp_path / "nowhere")


@pytest.mark.parametrize("years", [-30, 30])
def test_a_lock_is_the_systems_whatever_its_file_says(tmp_path, years):
    lock = tmp_path / "lock"
    lock.write_text(f"{os.getpid()}\nanother-machine\n")  # a process of another machine, or of a number used again
    then = time.time() + years * 365 * 86_400  # of a clock that was wrong
    os.utime(lock, (then, then))
    assert not is_claimed(lock)
    with RunFolder(tmp_path, doing="testing there") as folder:
        folder.claim()
        assert is_claimed(lock)
    assert lock.read_text().endswith("another-machine\n")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, code):
    # A library would take a file's being there for a lock, which a killed process on another machine leaves for ever.
    def fails(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fails)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    why = rf"its file system cannot lock files \({os.strerror(code)}\)"
    with pytest.raises(OSError, match=rf"run: cannot be written \({why}.*; name another `out`"):
        RunFolder(tmp_path / "run", doing="testing there").claim()
    assert not is_claimed(tmp_path / "run" / "lock")
    with pytest.raises(OSError, match=rf"{why}.*Set DIT_EVAL_CACHE to another folder"):
        fetch(asset("inception"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size] == []


def test_a_lock_beside_the_folder_leaves_the_folder_to_its_run(tmp_path):
    out = tmp_path / "made" / "latents"
    folder = RunFolder(out.with_name("latents.parts"), doing="at it", out=out, lock=out.with_name(".latents.lock"))
    with folder:
        folder.claim()
        assert not folder.path.exists()
        with pytest.raises(FileNotFoundError, match=r"latents\.parts: not seen by process 3"):
            folder.check_seen(World(rank=3, size=4))
        with pytest.raises(ValueError, match=r"made/latents: another process is at it"):
            RunFolder(folder.path, doing="at it", out=out, lock=out.with_name(".latents.lock")).claim()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"file/run: cannot be written \(.*\); name another `out`"):
        RunFolder(tmp_path / "file" / "run", doing="at it").claim()


def test_files_that_had_not_taken_their_names_are_removed(tmp_path):
    names = [".a.npy.12.part", ".b.json.34.part", "c.part", ".hidden", "kept.npy"]
    for name in names:
        (tmp_path / name).write_text("")
    with RunFolder(tmp_path, doing="at it") as folder:
        folder.claim()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[2:], "lock"])


def test_a_rename_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, doing="at it")
    folder.write("state", b"old")
    folder.write_array("array.npy", np.arange(3))
    for name, write in (
        ("state", lambda: folder.write("state", b"new")),
        ("array.npy", lambda: folder.write_array("array.npy", np.zeros(3))),
    ):
        fail_once(monkeypatch, name)
        with pytest.raises(OSError, match="No space left"):
            write()
    assert (tmp_path / "state").read_bytes() == b"old"
    assert np.load(tmp_path / "array.npy").tolist() == [0, 1, 2]
    assert len(list(tmp_path.iterdir())) == 2
    folder.write("state", b"new")
    assert (tmp_path / "state").read_bytes() == b"new"


def test_another_run_is_told_by_what_differs(tmp_path):
    now, there = {"a": 1, "b": (2,), "new": None}, {"a": 1, "b": 3, "old": "x"}
    assert differences(now, there) == ["b: (2,), 3", "old: None, 'x'"]
    refuse_other(tmp_path, differences(now, now))
    with pytest.raises(ValueError, match=r"is of another run: b: \(2,\), 3; .* \(now, there\). Name another `out`"):
        refuse_other(tmp_path, differences(now, there))


def test_settings_of_another_program(tmp_path):
    path = tmp_path / "run.json"
    assert read_settings(path) is None
    for text in ("{", "[]", "\x00", "1"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"run\.json: written by another program; name another `out`"):
            read_settings(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="another program"):
        read_settings(path)
    path.write_text('{"a": 1}')
    assert read_settings(path) == {"a": 1}


# ---- kill -9, once for each kind of file

KILLED = """\
import os, signal, sys
from pathlib import Path
import numpy as np
from dit_eval.system.run_folder import RunFolder

kind, name = sys.argv[2:]
folder = RunFolder(Path(sys.argv[1]), doing="testing there")
folder.claim()


def write(content):
    if kind == "bytes":
        folder.write(name, content.encode())
    elif kind == "array":
        folder.write_array(name, np.array([content]))
    elif kind == "samples":
        from dit_eval.images.npz import write_batch

        images = np.full((2, 4, 4, 3), len(content), np.uint8)
        write_batch(folder.path / name, images=[images], shape=images.shape, arrays={})
    elif kind == "weights":
        from dit_eval.models.checkpoints import save_dit
        from dit_eval.models.config import DiTConfig
        from dit_eval.models.dit import DiT

        small = DiTConfig(depth=1, hidden_size=16, num_heads=2, patch_size=2, input_size=4, num_classes=2)
        save_dit(folder.path / name, DiT(small), notes={"content": content})
    elif kind == "folder":
        (folder.path / "parts").mkdir()
        (folder.path / "parts" / "file").write_text(content)
        os.replace(folder.path / "parts", folder.path / name)


if kind != "folder":  # which is there once, and never replaced
    write("first")
before = (folder.path / name).read_bytes() if kind != "folder" else b""
(folder.path / "before").write_bytes(before)
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write("the second")
"""


@pytest.mark.parametrize("kind", ["bytes", "array", "samples", "weights", "folder"])
def test_killed_before_a_file_takes_its_name(tmp_path, kind):
    name = {"bytes": "run.json", "array": "moments.npy", "samples": "samples.npz"}.get(kind, kind)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), kind, name], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not is_claimed(tmp_path / "lock"), "the system lets go of the lock"
    if kind == "folder":
        assert not (tmp_path / name).exists()
        assert (tmp_path / "parts" / "file").read_text() == "the second"
    else:
        assert (tmp_path / name).read_bytes() == (tmp_path / "before").read_bytes(), "the earlier file is whole"
        assert len(list(tmp_path.glob(f".{name}.*.part"))) == 1
    with RunFolder(tmp_path, doing="testing there") as folder:
        folder.claim()
    assert not list(tmp_path.glob(".*.part"))


# ---- a training


def same_training(one, other):
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    assert sum(name.endswith(".safetensors") for name in names) == 7
    for name in names:
        if name.endswith(".safetensors"):
            first, second = load_file(one / name), load_file(other / name)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first), name
    for name in ("log.jsonl", "run.json"):
        assert (one / name).read_text() == (other / name).read_text()


def test_a_training_goes_on_from_each_state_of_the_disk(tmp_path, monkeypatch):
    run, whole = training(), tmp_path / "now" / "run"
    stop = states_of_disk(monkeypatch, tmp_path / "now", tmp_path / "kept")
    train(whole, run)
    states = stop()
    renamed = [state.name.split(":")[-1] for state in states]
    checkpoints = [
        name
        for step in (5, 9, 12)
        for name in (f"model-{step:07d}.safetensors", f"ema-{step:07d}.safetensors", "state.safetensors")
    ]
    assert renamed == ["run.json", "log.jsonl", *checkpoints]
    for state in states:
        notes = []
        end = train(state / "run", run, on_note=notes.append)
        assert end.steps == 12
        done = (state.name[:3] >= "005") * 5 + (state.name[:3] >= "008") * 4
        assert notes == ([f"{state / 'run'}: going on after step {done} of 12"] if done else [])
        same_training(whole, state / "run")


def test_a_log_that_was_cut_short_is_mended(tmp_path, monkeypatch):
    run, whole = training(), tmp_path / "now" / "run"
    stop = states_of_disk(monkeypatch, tmp_path / "now", tmp_path / "kept")
    train(whole, run)
    for state in stop()[4::4]:  # before the states of steps 5 and 9
        with open(state / "run" / "log.jsonl", "a") as file:
            file.write('{"step": 12, "lo')  # as a power cut leaves it
        train(state / "run", run)
        same_training(whole, state / "run")


@pytest.mark.parametrize("name", ["run.json", "ema-0000005.safetensors", "state.safetensors"])
def test_a_training_goes_on_when_a_file_could_not_be_written(tmp_path, monkeypatch, name):
    run = training()
    train(tmp_path / "whole", run)
    fail_once(monkeypatch, name)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "run", run)
    train(tmp_path / "run", run)
    same_training(tmp_path / "whole", tmp_path / "run")


# ---- an encoding


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_encoding_that_was_killed_when_it_had_its_name(tmp_path):
    """What shards have until the folder is finished was still there: random kills found it."""
    draw_pictures(tmp_path / "pictures")
    encoding(tmp_path / "pictures", tmp_path / "latents")
    whole = contents(tmp_path / "latents")
    (tmp_path / "latents" / "shard-000000.seal").write_text("{}")
    assert encoding(tmp_path / "pictures", tmp_path / "latents") == 11
    assert contents(tmp_path / "latents") == whole


def test_an_encoding_goes_on_from_each_state_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(dit_eval.encoding, "_SHARD", 4)
    draw_pictures(tmp_path / "pictures")
    stop = states_of_disk(monkeypatch, tmp_path / "now", tmp_path / "kept")
    assert encoding(tmp_path / "pictures", tmp_path / "now" / "latents") == 11
    states = stop()
    shards = [name for k in range(3) for name in (f"shard-{k:06d}.seal", f"shard-{k:06d}.json", f"moments-{k:06d}.npy")]
    renamed = [state.name[4:].split(":")[-1] for state in states]
    assert renamed == ["settings.json", *shards, "labels.npy", "files.txt", "latents.json", "digests.json", "latents"]
    whole = contents(tmp_path / "now" / "latents")
    for number, state in enumerate(states):
        parts, notes = state / "latents.parts", []
        begun = {path.name: path.stat().st_mtime_ns for path in parts.glob("moments-*")}
        assert len(begun) == min(3, max(0, (number - 1) // 3))
        assert encoding(tmp_path / "pictures", state / "latents", on_note=notes.append) == 11
        assert [f"going on; {len(begun)} files" in note for note in notes] == [True] * bool(begun)
        assert contents(state / "latents") == whole
        assert not parts.exists()
        assert {name: (state / "latents" / name).stat().st_mtime_ns for name in begun} == begun, "not done again"


# ---- a sampling


def test_a_sampling_goes_on_from_each_state_of_the_disk(tmp_path, monkeypatch):
    stop = states_of_disk(monkeypatch, tmp_path / "now", tmp_path / "kept")
    whole = sampling(tmp_path / "now" / "samples.npz")
    states = stop()
    pieces = ["000000000-000000008.u8", "000000008-000000016.u8", "000000016-000000020.u8"]
    renamed = [state.name[4:].split(":")[-1] for state in states]
    assert renamed == ["run.json", *pieces, "samples.npz", "samples.npz.parts", "samples.npz.parts"]
    for number, state in enumerate(states):
        notes = []
        out = sampling(state / "samples.npz", on_note=notes.append)
        done = [0, 0, 8, 16, 20][min(number, 4)]
        said = "complete already, 20 images" if number > 4 else f"going on; {done} of 20 images"
        assert [said in note for note in notes] == [True] * (done > 0)
        assert out.read_bytes() == whole.read_bytes()
        assert [path.name for path in state.iterdir()] == ["samples.npz"], "nothing else is left"


# ---- a study

PLAN = tiny_plan([2, 4])


def study(plan, out, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["study", "run", str(plan), "--out", str(out), "--device", "cpu"])
    error = capsys.readouterr().err
    assert not exit_.value.code, error
    return error


def results(folder):
    """Results without what differs between two runs of the same; images are compared beside this."""
    found = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for result in found:
        for name in ("seconds", "peak_memory_bytes", "environment", "time"):
            del result[name]
        del result["gen"]["sha256"]
        for name in ("environment", "earlier_environments", "checkpoint_sha256"):
            del result["gen"]["run"][name]
    return found


def images(folder):
    return {path.name: open_batch(path, role="gen").array().tobytes() for path in (folder / "samples").glob("*.npz")}


@pytest.mark.slow
def test_a_study_goes_on_from_each_state_of_the_disk(tmp_path, monkeypatch, capsys):
    inline_engine.install(monkeypatch.setattr)
    (tmp_path / "plan.toml").write_text(PLAN)
    whole = tmp_path / "now" / "study"
    stop = states_of_disk(monkeypatch, tmp_path / "now", tmp_path / "kept")
    study(tmp_path / "plan.toml", whole, capsys)
    states = stop()
    expected = results(whole)
    assert len(expected) == 2
    own = {}  # a training and a sampling have their own tests
    for state in states:
        if "trainings" not in state.name and ".parts" not in state.name:
            own.setdefault(state.name.split(":", 1)[1].split(":")[0], []).append(state)
    assert own.keys() == {
        *("plan.toml", "study.json", "failures.json", "results.jsonl", "losses.jsonl", "samples", "cache", "done")
    }
    for state in sorted({state for same in own.values() for state in (same[0], same[-1])}):
        out = state / "study"
        done = len(list(out.glob("done/*.json")))
        told = re.search(r"going on; (\d) of 3 tasks", study(tmp_path / "plan.toml", out, capsys))
        # A training is done once its state is there, with the mark that says how long it took or without.
        assert int(told[1] if told else 0) - done in (0, 1)
        assert results(out) == expected
        assert images(out) == images(whole)
        assert (out / "losses.jsonl").read_bytes() == (whole / "losses.jsonl").read_bytes()
        assert not list(out.rglob("*.part"))


def test_a_second_study_in_the_folder_waits_outside(tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "study").mkdir()
    with FileLock(tmp_path / "study" / "lock"), pytest.raises(SystemExit) as exit_:
        main(["study", "run", str(tmp_path / "plan.toml"), "--out", str(tmp_path / "study"), "--device", "cpu"])
    assert exit_.value.code == 2
    assert "another process runs this study. Wait for it, or name another --out" in capsys.readouterr().err


# ---- damage, and pieces of other runs: found and named, done again, or of no matter


def damage(path, at, how="flip"):
    """Change a byte of a file: one bit of it, or all of them."""
    data = bytearray(path.read_bytes())
    at %= len(data)
    changed = 0 if how == "zero" and data[at] else data[at] ^ 1 << at % 8
    assert changed != data[at]
    data[at] = changed
    path.write_bytes(data)


def places(path, count):
    """Bytes of a file, the first and the last among them."""
    size = path.stat().st_size
    return sorted({round(share * (size - 1)) for share in np.linspace(0, 1, count)})


def refusal(run, *arguments):
    """What a ValueError of a run says; nothing if there is none."""
    try:
        run(*arguments)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A sampling that was stopped before it was packed; the file that it will be."""

    def stopped(*_):
        raise OSError("stopped")

    out = tmp_path / "drawn" / "samples.npz"
    with monkeypatch.context() as patch:
        patch.setattr(dit_eval.sampling._Parts, "pack", stopped)
        with pytest.raises(OSError, match="stopped"):
            sampling(out)
    return out


def pieces_of(out):
    return sorted(out.with_name(f"{out.name}.parts").glob("*.u8"))


@pytest.mark.parametrize("sealed_", [True, False])
def test_pieces_of_another_seed_are_not_packed(tmp_path, monkeypatch, sealed_):
    """Killed while the parts are removed; the output is moved, and others are drawn under its name."""
    stop = states_of_disk(monkeypatch, tmp_path / "now", tmp_path / "kept")
    sampling(tmp_path / "now" / "samples.npz")
    states = stop()[-2:]
    expected = sampling(tmp_path / "other.npz", seed=1).read_bytes()
    for state in states:
        out, notes = state / "samples.npz", []
        out.rename(state / "moved.npz")
        left = pieces_of(out)
        assert left
        for piece in left:
            if not sealed_:  # as earlier versions wrote them
                piece.write_bytes(piece.read_bytes()[:-TRAILER])
        sampling(out, notes.append, seed=1)
        assert out.read_bytes() == expected
        why = "of another run" if sealed_ else "of an unknown run"
        assert notes == [f"{piece}: {why}; removed, its images are drawn again" for piece in left]


def test_a_piece_under_another_name_is_drawn_again(tmp_path, drawn):
    notes, expected = [], sampling(tmp_path / "whole.npz").read_bytes()
    first, second, _ = pieces_of(drawn)
    first.write_bytes(second.read_bytes())
    sampling(drawn, notes.append)
    assert drawn.read_bytes() == expected
    assert notes[0] == f"{first}: damaged; removed, its images are drawn again"


@pytest.mark.parametrize("how", ["flip", "zero"])
@pytest.mark.parametrize("at", [0, 1000, -1, -33, -64])
def test_a_damaged_piece_is_drawn_again_and_no_other(tmp_path, drawn, how, at):
    notes, expected = [], sampling(tmp_path / "whole.npz").read_bytes()
    piece = pieces_of(drawn)[1]
    while how == "zero" and piece.read_bytes()[at] == 0:
        at += 1
    damage(piece, at, how)
    sampling(drawn, notes.append)
    assert drawn.read_bytes() == expected
    assert notes == [
        f"{piece}: damaged; removed, its images are drawn again",
        f"{drawn}: going on; 12 of 20 images are here already",
    ]


def test_a_piece_that_is_damaged_during_the_run_is_not_packed(tmp_path, drawn, monkeypatch):
    expected = sampling(tmp_path / "whole.npz").read_bytes()
    damage(pieces_of(drawn)[1], 5)
    with monkeypatch.context() as patch:
        patch.setattr(dit_eval.sampling._Parts, "_drop_unfit", lambda *_: None)
        with pytest.raises(
            ValueError, match=r"8-000000016\.u8: damaged since it was drawn, and removed\. Run the same"
        ):
            sampling(drawn)
    assert len(pieces_of(drawn)) == 2
    assert sampling(drawn).read_bytes() == expected


def test_pieces_of_earlier_versions_are_taken(tmp_path, drawn):
    notes, expected = [], sampling(tmp_path / "whole.npz").read_bytes()
    for piece in pieces_of(drawn)[:2]:
        piece.write_bytes(piece.read_bytes()[:-TRAILER])
    sampling(drawn, notes.append)
    assert notes == [f"{drawn}: going on; 20 of 20 images are here already"]
    assert drawn.read_bytes() == expected


def test_a_damaged_description_of_a_sampling_is_named_or_of_no_matter(tmp_path, drawn):
    expected = open_batch(sampling(tmp_path / "whole.npz"), role="gen").array()
    settings = drawn.with_name("samples.npz.parts") / "run.json"
    for number, at in enumerate(places(settings, 60)):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(drawn.parent, copy)
        damage(copy / settings.relative_to(drawn.parent), at)
        if said := refusal(sampling, copy / "samples.npz"):
            assert "samples.npz.parts" in said
        else:
            np.testing.assert_array_equal(open_batch(copy / "samples.npz", role="gen").array(), expected)


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """Pictures; a finished folder of their latents, and the same before it was given its name."""
    monkeypatch.setattr(dit_eval.encoding, "_SHARD", 4)
    pictures, out = tmp_path / "pictures", tmp_path / "now" / "latents"
    draw_pictures(pictures)
    stop = states_of_disk(monkeypatch, tmp_path / "now", tmp_path / "kept")
    encoding(pictures, out)
    return pictures, out, stop()[-1] / "latents"


def test_damage_in_finished_latents_costs_that_file(tmp_path, encoded):
    pictures, out, _ = encoded
    whole = contents(out)
    assert len(whole) == 3 * 2 + 5
    for name in whole:
        for at in places(out / name, 5):
            damage(out / name, at)
            notes = []
            if name != "files.txt" and not name.startswith("shard-"):  # all others are read
                with pytest.raises(ValueError, match=re.escape(str(out / name))):
                    read_all(out)
            if said := refusal(encoding, pictures, out, notes.append):  # no JSON any more
                assert said.startswith(f"{out / 'settings.json'}: written by another program; name another `out`.")
                (out / name).write_bytes(whole[name])
                continue
            done = "written anew" if name == "settings.json" else "made again"
            assert [note for note in notes if "damaged" in note] == [f"{out / name}: damaged; {done}"]
            assert contents(out) == whole
            read_all(out)


def read_all(folder):
    latents = Latents(folder)
    return [latents.moments(index, mirrored) for index in range(len(latents)) for mirrored in (False, True)]


def test_damage_in_unfinished_latents_costs_that_file(tmp_path, encoded):
    pictures, whole, kept = encoded
    parts = kept.with_name("latents.parts")
    names = sorted(path.name for path in parts.iterdir())
    assert len(names) == 3 * 3 + 5
    for name in names:
        for at in places(parts / name, 5):
            copy = tmp_path / "copy"
            shutil.copytree(kept.parent, copy)
            damage(copy / "latents.parts" / name, at)
            notes = []
            if said := refusal(encoding, pictures, copy / "latents", notes.append):
                assert name == "settings.json"
                assert "latents.parts" in said
            else:
                said = [note for note in notes if "its images are encoded again" in note]
                shard = re.sub(r"\D", "", name)
                assert len(said) == (shard != "")
                assert all(f"moments-{shard}.npy" in note for note in said)
                assert contents(copy / "latents") == contents(whole)
            shutil.rmtree(copy)


def test_latents_of_another_run_are_encoded_again(tmp_path, encoded):
    pictures, whole, kept = encoded
    for name, why in (("shard-000001.seal", "of an unknown run"), (None, "of another run")):
        copy, notes = tmp_path / f"copy {why}", []
        shutil.copytree(kept.parent, copy)
        parts = copy / "latents.parts"
        (parts / "settings.json").unlink()
        if name:
            (parts / name).unlink()
        else:
            seal = read_sealed(parts / "shard-000001.seal") | {"run": "0" * 64}
            (parts / "shard-000001.seal").write_text(json.dumps(sealed(seal)))
        encoding(pictures, copy / "latents", notes.append)
        assert notes[0] == f"{parts / 'moments-000001.npy'}: {why}; removed, its images are encoded again"
        assert "going on; 2 files" in notes[1]
        assert contents(copy / "latents") == contents(whole)


ABOUTS = (b"", b"[]", b"{}", b"[" * 200_000, b"\xff", b'{"kept": [1]}', b'{"kept": [-1], "skipped": {}}',
          b'{"kept": ["0"], "skipped": {}}', b'{"kept": [999], "skipped": {}}', b'{"kept": [], "skipped": {"a": 1}}',
          None)  # fmt: skip


def test_a_damaged_shard_of_an_earlier_version_is_encoded_again(tmp_path, encoded):
    """They have no seals: what a shard says of itself is compared with its images."""
    pictures, whole, kept = encoded
    for number, data in enumerate(ABOUTS):
        copy, notes = tmp_path / f"copy {number}", []
        shutil.copytree(kept.parent, copy)
        parts = copy / "latents.parts"
        (parts / "shard-000001.seal").unlink()
        if data is None:
            (parts / "shard-000001.json").unlink()
        else:
            (parts / "shard-000001.json").write_bytes(data)
        encoding(pictures, copy / "latents", notes.append)
        assert notes[0] == f"{parts / 'moments-000001.npy'}: damaged; removed, its images are encoded again"
        assert contents(copy / "latents") == contents(whole)


KNOWN_BEFORE = ("listing_sha256", "image_size", "vae", "vae_sha256", "scale", "dtype")


def test_images_replaced_under_the_same_names_are_others(tmp_path, encoded):
    pictures, out, kept = encoded
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(pictures / "cat" / "03.png")
    for folder, there in ((out, out), (kept, kept.with_name("latents.parts"))):
        with pytest.raises(ValueError, match=f"{there} is of other images under the same names: their sizes or times"):
            encoding(pictures, folder)
        settings = there / "settings.json"
        earlier = {name: value for name, value in json.loads(settings.read_text()).items() if name in KNOWN_BEFORE}
        settings.write_text(json.dumps(earlier))  # of an earlier version, which did not know
        (there / "digests.json").unlink(missing_ok=True)
        notes = []
        encoding(pictures, folder, notes.append)
        assert "complete already" in notes[0] if folder is out else notes


def touch(path):
    """Give a file another time of change, and the same bytes."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize("work", ["encode", "train"])
def test_images_are_told_apart_by_times_or_by_bytes(tmp_path, work):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    draw_pictures(pictures)
    one = pictures / "cat" / "03.png"

    def run(by, to=out):
        folder = list_images(pictures, image_size=32, identity=by)
        if work == "encode":
            return encoding(pictures, to, by=by)
        config = DiTConfig(
            depth=1, hidden_size=8, num_heads=1, patch_size=16, input_size=32, num_classes=2, space="pixel",
            in_channels=3,
        )  # fmt: skip
        schedule = Schedule(steps=2 if (to / "state.safetensors").exists() else 1)
        return train(to, TrainingRun(config=config, data=folder, recipe=Recipe(batch_size=2), schedule=schedule))

    run("times")
    run("bytes", tmp_path / "bytes")
    run("times")
    for by, other, folder in (("bytes", "times", out), ("times", "bytes", tmp_path / "bytes")):
        with pytest.raises(ValueError, match=f"{folder} knows its images by their {other}: pass `identity` {other}"):
            run(by, folder)
    touch(one)
    with pytest.raises(ValueError, match=r"their sizes or times of change are others\. If they are a copy"):
        run("times")
    run("bytes", tmp_path / "bytes")
    damage(one, -3)  # in the checksum of an empty chunk
    with pytest.raises(ValueError, match="under the same names: their bytes are others"):
        run("bytes", tmp_path / "bytes")


def test_the_bytes_of_a_folder_are_known_as_evaluations_know_them(tmp_path):
    draw_pictures(tmp_path)
    files = [path.read_bytes() for path in sorted(tmp_path.rglob("*.png"))]
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}\n" for data in files)
    told = []
    folder = list_images(tmp_path, image_size=32, identity="bytes")
    assert folder.identify(lambda *progress: told.append(progress)) == {
        "bytes_sha256": hashlib.sha256(lines.encode()).hexdigest()
    }
    assert told[-1] == (sum(map(len, files)), sum(map(len, files)))
    assert open_images(tmp_path, role="gen").sha256() == folder.identity["bytes_sha256"]
    again = dataclasses.replace(folder)
    (tmp_path / "cat" / "03.png").unlink()
    with pytest.raises(ValueError, match=r"cat/03\.png: gone since its folder was listed"):
        again.identify()


def test_a_training_knows_the_images_of_its_latents(tmp_path):
    for name in ("one", "two"):
        draw_pictures(tmp_path / name)
    touch(tmp_path / "two" / "cat" / "03.png")

    def latent(name, steps):
        encoding(tmp_path / name, tmp_path / f"{name}.latents")
        data = Latents(tmp_path / f"{name}.latents")
        config = DiTConfig(depth=1, hidden_size=8, num_heads=1, patch_size=2, input_size=4, num_classes=2)
        run = TrainingRun(config=config, data=data, recipe=Recipe(batch_size=2), schedule=Schedule(steps=steps))
        return train(tmp_path / "run", run)

    latent("one", 1)
    with pytest.raises(ValueError, match=r"run is of other images under the same names: their sizes or times"):
        latent("two", 2)
    path = tmp_path / "run" / "run.json"
    about = read_sealed(path)
    assert len(about["data"].pop("sizes_and_times")) == 64
    path.write_text(json.dumps(about))  # of an earlier version, whose state has no digests
    write_without_digests(tmp_path / "run" / "state.safetensors")
    assert latent("two", 2).steps == 2
    assert "sizes_and_times" in json.loads(path.read_text())["data"]


def write_without_digests(path):
    with safe_open(path, framework="pt") as file:
        notes = {"step": file.metadata()["step"]}
    save_file(load_file(path), path, metadata=notes)


def trained(folder, steps, notes=None):
    run = dataclasses.replace(training(), schedule=Schedule(steps=steps, save_at=(5,), log_every=4))
    train(folder, run, on_note=None if notes is None else notes.append)


def test_damage_in_a_training_is_named(tmp_path):
    trained(tmp_path / "run", 9)
    shutil.copytree(tmp_path / "run", tmp_path / "more")
    trained(tmp_path / "more", 12)
    for path in sorted((tmp_path / "run").iterdir()):
        if path.name == "lock":
            continue
        for at in places(path, 6):
            for steps in (9, 12):
                copy = tmp_path / "copy"
                shutil.copytree(tmp_path / "run", copy)
                damage(copy / path.name, at)
                notes = []
                if said := refusal(trained, copy, steps, notes):
                    assert str(copy / path.name) in said
                else:
                    assert any("run.json: damaged; written anew" in note for note in notes) == (path.name == "run.json")
                    assert path.name in ("run.json", "log.jsonl") or (steps == 12 and "0000005" in path.name)
                    assert any("log.jsonl: damaged" in note for note in notes) == (path.name == "log.jsonl")
                    if steps == 12:
                        same = (f"{kind}-0000012.safetensors" for kind in ("ema", "model"))
                        for name in same:
                            assert (copy / name).read_bytes() == (tmp_path / "more" / name).read_bytes()
                shutil.rmtree(copy)


def test_a_trainer_goes_back_to_nothing_that_is_damaged(tmp_path):
    trained(tmp_path, 5)
    files = {kind: tmp_path / f"{kind}-0000005.safetensors" for kind in ("model", "ema")}
    files["state"] = tmp_path / "state.safetensors"
    run = training()
    trainer = Trainer(run.config, run.recipe)
    assert trainer.restore(5, **files).keys() == {"pending"}
    assert trainer.steps == 5
    for path in files.values():
        whole = path.read_bytes()
        damage(path, len(whole) // 2)
        with pytest.raises(ValueError, match=f"^{path}: .*damaged.* Put a good copy in its place"):
            trainer.restore(5, **files)
        path.write_bytes(whole)
    shutil.copy(tmp_path / "model-0000005.safetensors", tmp_path / "ema-0000005.safetensors")
    with pytest.raises(ValueError, match=r"ema-0000005\.safetensors: not as it was written: damaged, or of another"):
        trainer.restore(5, **files)


def test_weights_of_another_step_or_run_are_not_trained_on(tmp_path):
    run = tmp_path / "run"
    trained(run, 9)
    for kind in ("ema", "model"):
        path = run / f"{kind}-0000009.safetensors"
        whole = path.read_bytes()
        path.write_bytes((run / f"{kind}-0000005.safetensors").read_bytes())
        with pytest.raises(ValueError, match=f"{path}: not as it was written: damaged, or of another step"):
            trained(run, 12)
        path.write_bytes(whole)
    other = dataclasses.replace(training(), recipe=Recipe(learning_rate=2e-3, batch_size=4, ema_decay=0.9))
    train(tmp_path / "other", dataclasses.replace(other, schedule=Schedule(steps=9, save_at=(5,), log_every=4)))
    shutil.copy(tmp_path / "other" / "state.safetensors", run)
    with pytest.raises(ValueError, match=r"state\.safetensors: of another run than the folder's run\.json"):
        trained(run, 12)


def test_damage_in_a_cache_entry_is_named_or_of_no_matter(tmp_path):
    rng = np.random.default_rng(0)
    summary = FeatureSummary(
        pool=GaussianStats(mu=np.ones(3), sigma=np.eye(3), num=5),
        pool_features=rng.random((5, 3), np.float32),
        class_probs=rng.random((5, 2), np.float32),
    )
    notes = []
    entry = CacheEntry(path=tmp_path / "entry.npz", made_from='{"a": 1}', num_images=5, on_note=notes.append)
    entry.write(summary)
    whole = entry.path.read_bytes()
    lost = 0
    for at in range(0, len(whole), 3):
        damage(entry.path, at)
        notes.clear()
        found = entry.read()
        if found is None:
            assert len(notes) == 1
            assert notes[0].startswith(f"{entry.path}: damaged, or of something else (")
            assert notes[0].endswith("; made again")
            lost += 1
        else:
            for name in ("pool_features", "class_probs"):
                np.testing.assert_array_equal(getattr(found, name), getattr(summary, name))
            np.testing.assert_array_equal(found.pool.sigma, np.eye(3))
        entry.path.write_bytes(whole)
    assert lost > len(whole) / 12
    other = dataclasses.replace(entry, made_from='{"a": 2}')
    assert other.read() is None
    assert "made from other images, or by another network" in notes[-1]
    assert dataclasses.replace(entry, num_images=4).read() is None
    assert "class_probs is float32 (5, 2)" in notes[-1]


FIRST_EDITION = Path(__file__).parents[1] / "goldens" / "first_edition"


def test_damage_in_what_a_study_noted_is_named_and_done_again(tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(FIRST_EDITION / "study" / "whole", folder)
    for path in folder.glob("done/*.json"):
        path.write_text(json_text(sealed(json.loads(path.read_text()))), encoding="utf-8")
    study = Study.open(folder)
    results = [study.result(cell) for cell in study.plan.cells]
    assert study.missing() == study.unfit() == []
    for task in (study.plan.cells[0], study.plan.trainings[0]):
        path = study.done_file(task)
        whole = path.read_bytes()
        for at in places(path, 60):
            damage(path, at)
            if unfit := study.unfit():
                assert [line.startswith(f"warning: {path}: ") for line in unfit] == [True]
                assert study.missing() == ([task] if task in study.plan.cells else [])
            else:  # a space, or the name of the digest
                assert [study.result(cell) for cell in study.plan.cells] == results
            path.write_bytes(whole)
        path.write_bytes(b"")
        assert [line.startswith(f"warning: {path}: damaged (") for line in study.unfit()] == [True]
        path.write_bytes(whole)
    one, two, *_ = study.plan.cells
    study.done_file(one).write_bytes(study.done_file(two).read_bytes())
    assert study.missing() == [one]
    (line,) = study.unfit()
    assert line.endswith("of another task. So the cell is done again.")
