"""A disk that is full at any write: one message with the path, nothing half-written, and the same bytes afterwards."""

import contextlib
import dataclasses
import math
import re
import shutil

import inline_engine
import numpy as np
import pytest
import torch
from full_disk import Disk
from small_plan import tiny_plan
from small_runs import draw_pictures, encoding, sampling, training

import dit_eval.encoding
import dit_eval.flops.kept as kept
from dit_eval.checks import golden
from dit_eval.cli import main
from dit_eval.features.cache import CacheEntry
from dit_eval.flops.counts import FlopCount
from dit_eval.study.slurm_job import Exit
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system.files import append_line
from dit_eval.system.text import told
from dit_eval.training import train

FULL = "No space left on device"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def encode_pictures(root):
    encoding(root.parent / "pictures", root / "latents")


def train_a_little(root):
    run = training()
    schedule = dataclasses.replace(run.schedule, steps=6, save_at=(3,), log_every=2)
    train(root / "run", dataclasses.replace(run, schedule=schedule))


RUNS = {
    "sample": lambda root: sampling(root / "samples.npz"),
    "encode": encode_pictures,
    "train": train_a_little,
}
KINDS = {
    "sample": {"run.json": 4, "-.u": 4, "samples.npz": 4, "samples.npz.parts": 1},
    "encode": {
        **dict.fromkeys(["settings.json", "shard-.seal", "shard-.json", "moments-.npy", "labels.npy", "files.txt"], 4),
        **{"latents.json": 4, "digests.json": 4, "latents": 1, "latents.parts": 1},
    },
    "train": {"run.json": 4, "log.jsonl": 4, "model-.safetensors": 4, "ema-.safetensors": 4, "state.safetensors": 4},
}


@pytest.mark.parametrize("what", RUNS)
def test_a_run_goes_on_when_there_is_room_again(what, tmp_path, monkeypatch):
    monkeypatch.setattr(dit_eval.encoding, "_SHARD", 8)
    draw_pictures(tmp_path / "pictures")
    whole = tmp_path / "whole"
    whole.mkdir()
    disk = Disk(monkeypatch)
    RUNS[what](whole)
    expected, asked, kinds = contents(whole), list(disk.asked), disk.kinds()
    found = [name for _, name in kinds]
    assert {name: found.count(name) for name in KINDS[what]} == KINDS[what]
    for number in sorted({*kinds.values(), *range(0, len(asked), -(-len(asked) // 12))}):
        root, (request, path) = tmp_path / f"{number} {asked[number][0]} {asked[number][1].name}", asked[number]
        root.mkdir()
        disk.left = number
        with pytest.raises(OSError, match=FULL) as error:
            RUNS[what](root)
        assert str(root) in told(error.value), (request, path)
        assert "\n" not in told(error.value)
        assert re.search("[Mm]ake room|name another", told(error.value))
        assert not [*root.rglob("*.part")], (request, path)
        disk.left = math.inf
        RUNS[what](root)
        assert contents(root) == expected, (request, path)
        shutil.rmtree(root)


PLAN = tiny_plan([2])


def study(root, capsys):
    """Exit code and stderr of a study in a folder."""
    with pytest.raises(SystemExit) as exit_:
        main(["study", "run", str(root.parent / "plan.toml"), "--out", str(root), "--device", "cpu"])
    return exit_.value.code or 0, capsys.readouterr().err


@pytest.mark.parametrize("at", ["study.json", "done/*.json", "results.jsonl"])
def test_a_study_goes_on_when_there_is_room_again(at, tmp_path, monkeypatch, capsys):
    inline_engine.install(monkeypatch.setattr)
    (tmp_path / "plan.toml").write_text(PLAN)
    disk, root = Disk(monkeypatch), tmp_path / "study"
    disk.full_at(f"{root}/{at}")
    code, error = study(root, capsys)
    assert code == 2
    assert error.count("dit-eval: error:") == 1
    assert re.search(rf"{root}/.*: {FULL}\. Make room and run the same command again\.", error)
    assert not [*root.rglob("*.part")]
    disk.left = math.inf
    code, error = study(root, capsys)
    assert code == 0, error
    assert len((root / "results.jsonl").read_text().splitlines()) == 1
    assert [*root.rglob("*.part")] == []


SUMMARY = FeatureSummary(
    pool=GaussianStats(mu=np.ones(3), sigma=np.eye(3), num=5), pool_features=np.ones((5, 3), np.float32)
)
NOTES: list[str] = []


def keep_counts(path):
    kept._kept_in.cache_clear()
    kept._keep("a", FlopCount(macs=1_000_000, params=2_000, by_operator={}, by_module={}, negligible={}))


def seeded_weights(path):
    with pytest.MonkeyPatch.context() as patch:  # the rest, without what takes time
        network = type("Network", (), {"__init__": lambda *_: None})
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3", network)
        patch.setattr(golden, "convolution_scopes", dict)
        patch.setattr(golden, "seeded_weights", lambda *_: {})
        patch.setattr(golden, "state_from_constants", lambda *_: {"a": torch.zeros(500)})
        golden.write_seeded_weights(path)


WRITERS = {  # of which these two cost only time when they fail
    "features": lambda path: CacheEntry(
        path=path, made_from='{"a": 1}', num_images=5, on_note=NOTES.append
    ).write(SUMMARY),
    "counts": keep_counts,
    "line": lambda path: append_line(path, b"a line\n"),
    "line of a log": lambda path: append_line(path, b"a line\n", durable=False),
    "weights to verify with": seeded_weights,
    "exit": lambda path: Exit(code=0, told=False, reason="").write(path),
}  # fmt: skip


@pytest.mark.parametrize("old", [None, b"old\n"])
@pytest.mark.parametrize("what", WRITERS)
def test_a_file_is_as_before_and_then_whole(what, old, tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path))
    path = tmp_path / "written" if what != "counts" else kept.counts_file()
    disk = Disk(monkeypatch)

    def prepare():
        path.unlink(missing_ok=True)
        if old is not None:
            path.write_bytes(old)

    prepare()
    WRITERS[what](path)
    whole, requests = path.read_bytes(), len(disk.asked)
    assert requests >= 2
    for number in range(requests):
        prepare()
        NOTES.clear()
        disk.left = number
        quiet = what in ("features", "counts")
        with contextlib.nullcontext() if quiet else pytest.raises(OSError, match=f"{FULL}.*'{path}'"):
            WRITERS[what](path)
        assert ([f"warning: {path}: the features could not be kept ({FULL})."] if what == "features" else []) == NOTES
        assert (path.read_bytes() if path.exists() else None) in (old, old or b"")
        assert [each for each in tmp_path.iterdir() if each != path] == []
        disk.left = math.inf
        WRITERS[what](path)
        assert path.read_bytes() == whole
