"""A bit flipped in any file that work leaves on the disk: found and named, made anew with a line, or of no matter.

Each kind of work is made once, tiny. Then, for each of its files and some places in it, a copy with one flipped bit is
used as anyone would use it. It may be refused, by a message with the name of the file. Else all that comes of it must
be what comes of the undamaged work, but for what a line of the run names.
"""

import dataclasses
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from inline_engine import InlineEngine
from kill_points import states_of_disk
from PIL import Image
from safetensors.torch import load_file
from sample_runs import make_run, random_dit
from small_plan import TINY_DIT_ON_DIGITS

import dit_eval
import dit_eval.encoding
import dit_eval.system.environment
from dit_eval.diffusion.data import ArrayData, list_images, open_data
from dit_eval.diffusion.recipe import Recipe, Schedule
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.encoding import Encoder, encode
from dit_eval.features.cache import CacheEntry
from dit_eval.images.npz import open_batch
from dit_eval.models.config import DiTConfig
from dit_eval.models.latent_space import LatentSpace
from dit_eval.results.settings import SamplingSettings
from dit_eval.sampling import sample_npz
from dit_eval.study.folder import Study
from dit_eval.study.plan_file import parse_plan
from dit_eval.study.run import run_study
from dit_eval.study.sources import Sources
from dit_eval.study.tasks import work
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system.assets import asset
from dit_eval.training import TrainingRun, train

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A kind of work.

    Attributes
    ----------
    make : leaves it in a folder; gets pytest's monkeypatch, too
    use : what comes of it, by the names of what a line may say is lost
    part : files below it are damaged
    bits : of each file at random; of a file of many parts more of them
    ends : whether the first, middle and last bit of each file are tried, too
    """

    make: Callable[[Path, pytest.MonkeyPatch], None]
    use: Callable[[Path, Note], dict[str, object]]
    part: str
    bits: int = 1
    ends: bool = True


# ---- samples


def draw(out, note, count=40):  # some kilobytes of images, of which opening a file reads no more than the first
    model = random_dit(depth=1, hidden_size=8)
    sampler = ImageSampler(model, make_run(model.config, num_images=count, num_sampling_steps="2"))
    sample_npz(out, sampler=sampler, labels=np.arange(count) % 10, batch_size=20, on_note=note)


def score(folder, note):
    open_batch(folder / "samples.npz", role="gen").sha256()  # which an evaluation begins with
    return in_npz(folder / "samples.npz", note)


def in_npz(path, note):
    batch = open_batch(path, role="gen")
    for warning in batch.warnings:
        note(warning)
    labels = None if batch.labels is None else batch.labels.tolist()
    return {"the images": batch.array().tobytes(), path.name: labels, "the run": batch.run}


def begin_samples(folder, monkeypatch):
    stop = states_of_disk(monkeypatch, folder / "now", folder / "kept")
    make_samples(folder / "now", monkeypatch)
    states = stop()
    last = [
        state for state in states if (state / "samples.npz.parts").is_dir() and not (state / "samples.npz").exists()
    ]
    shutil.copytree(last[-1] / "samples.npz.parts", folder / "samples.npz.parts")
    for name in ("now", "kept"):
        shutil.rmtree(folder / name)


def make_samples(folder, _):
    draw(folder / "samples.npz", lambda _: None)


def pack(folder, note):
    draw(folder / "samples.npz", note)
    return in_npz(folder / "samples.npz", note)


def add_to(folder, note):
    draw(folder / "samples.npz", note, count=44)
    return in_npz(folder / "samples.npz", note)


# ---- trainings


def go_on(folder, note, steps):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 8, 8, 3), np.uint8), np.arange(8) % 3
    shape = {"depth": 1, "hidden_size": 8, "num_heads": 2, "patch_size": 4, "input_size": 8, "num_classes": 3}
    run = TrainingRun(
        config=DiTConfig(**shape, in_channels=3, space="pixel"),
        data=ArrayData(images=images, labels=labels, identity={"test": 1}),
        recipe=Recipe(batch_size=2, learning_rate=1e-3),
        schedule=Schedule(steps=steps, save_every=1, log_every=1),
    )
    train(folder / "run", run, on_note=note)


def make_training(folder, _):
    go_on(folder, lambda _: None, 2)


def made_by(folder, pattern):
    weights = {path.name: {k: v.tolist() for k, v in load_file(path).items()} for path in folder.glob(pattern)}
    return weights | {"log.jsonl": (folder / "log.jsonl").read_text()}


def train_more(folder, note):
    go_on(folder, note, 3)
    return made_by(folder / "run", "[ems]*[3e].safetensors")  # earlier weights are looked at when they are used


def ask_again(folder, note):
    go_on(folder, note, 2)
    return made_by(folder / "run", "*.safetensors")


def draw_from(folder, note):
    settings = SamplingSettings(num_images=2, num_sampling_steps=1, cfg_scale=1.0)
    out = folder / "drawn.npz"
    dit_eval.sample(folder / "run" / "ema-0000002.safetensors", out=out, settings=settings, device="cpu", quiet=True)
    return in_npz(out, note)


# ---- latents


def encode_pictures(folder, note):
    def posterior(images):
        small = images[:, :, ::8, ::8]
        return np.concatenate([small, small[:, :1]], 1), np.full((len(small), 4, 2, 2), 0.5, np.float32)

    encoder = Encoder(encode=posterior, vae="test", vae_sha256="0" * 64, latents=LatentSpace(scale=1.0))
    encode(list_images(folder / "pictures", image_size=16), folder / "latents", encoder=encoder, on_note=note)


def make_latents(folder, monkeypatch):
    monkeypatch.setattr(dit_eval.encoding, "_SHARD", 3)
    for number in range(5):
        path = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 50 * number, np.uint8)).save(path)
    encode_pictures(folder, lambda _: None)


def begin_latents(folder, monkeypatch):
    stop = states_of_disk(monkeypatch, folder, folder.with_name("kept"))
    make_latents(folder, monkeypatch)
    last = stop()[-1] / "latents.parts"  # before it was given its name
    shutil.rmtree(folder / "latents")
    shutil.copytree(last, folder / "latents.parts")


def encode_again(folder, note):
    encode_pictures(folder, note)
    return {path.name: path.read_bytes() for path in (folder / "latents").iterdir()}


def read_latents(folder, _):
    data = open_data(folder / "latents")
    x, labels = data.read(np.arange(5), np.arange(5) % 2 == 1, [np.random.default_rng(k) for k in range(5)])
    return {"the latents": x.tobytes(), "the labels": labels.tolist(), "the identity": data.identity}


# ---- features


def entry_in(folder, note=None):
    made_from = json.dumps({"images": "0" * 64})
    return CacheEntry(path=folder / "cache" / "entry.npz", made_from=made_from, num_images=6, on_note=note)


def make_entry(folder, _):
    rows = np.random.default_rng(0).random((6, 4), np.float32)
    stats = GaussianStats(mu=rows.mean(0, np.float64), sigma=np.cov(rows.T), num=6)
    entry_in(folder).write(FeatureSummary(pool=stats, pool_features=rows, class_probs=rows[:, :2]))


def read_entry(folder, note):
    if entry_in(folder, note).read() is None:
        make_entry(folder, None)
    kept = entry_in(folder, note).read()
    arrays = (kept.pool.mu, kept.pool.sigma, kept.pool_features, kept.class_probs)
    return {"the features": [array.tobytes() for array in arrays]}


# ---- studies

PLAN = f"""{TINY_DIT_ON_DIGITS}[training]
batch_size = 4
log_every = 1
[sampling]
num_samples = 8
[[cells]]
models = "all"
training_steps = [2]
sampling_steps = [1]
"""


def study_in(folder):
    few = str(folder / "few.npz")
    sources = Sources(train=few, ref=few, weights=None, decoders={}, device="cpu")
    return Study(parse_plan(PLAN, folder / "plan.toml"), folder / "study"), sources


def begin_study(folder, _):
    study, sources = study_in(folder)
    with np.load(asset("digits").path) as digits:
        np.savez(sources.ref, arr_0=digits["arr_0"][:40], arr_1=digits["arr_1"][:40])
    study.folder.mkdir()
    study.begin(sources)
    work(study, study.plan.trainings[0].key)


def make_study(folder, _):
    begin_study(folder, None)
    run_all(folder, lambda _: None)


def run_all(folder, note):
    study, sources = study_in(folder)
    engine = InlineEngine(lambda key: work(Study.open(study.folder), key))
    run_study(study, engine, sources, on_note=note)
    results = [json.loads(line) for line in study.results.read_text().splitlines()]
    scores = [{name: result[name] for name in ("fid", "sfid", "recall", "num_samples")} for result in results]
    return {"the scores": scores, "log.jsonl": study.losses.read_text()}


WORKS = {
    "samples, begun": Work(make=begin_samples, use=pack, part="samples.npz.parts"),
    "samples, asked for again": Work(make=make_samples, use=pack, part="samples.npz", bits=20),
    "samples, added to": Work(make=make_samples, use=add_to, part="samples.npz", bits=20),
    "samples, scored": Work(make=make_samples, use=score, part="samples.npz", bits=20),
    "training, gone on with": Work(make=make_training, use=train_more, part="run"),
    "training, asked for again": Work(make=make_training, use=ask_again, part="run"),
    "training, drawn from": Work(make=make_training, use=draw_from, part="run"),
    "latents, begun": Work(make=begin_latents, use=encode_again, part="latents.parts"),
    "latents, encoded again": Work(make=make_latents, use=encode_again, part="latents"),
    "latents, read": Work(make=make_latents, use=read_latents, part="latents"),
    "features": Work(make=make_entry, use=read_entry, part="cache", bits=20),
    "study, begun": Work(make=begin_study, use=run_all, part="study", ends=False),
    "study, run again": Work(make=make_study, use=run_all, part="study", ends=False),
}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Nothing is lost at a power cut here, and no environment changes."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(dit_eval.system.environment, "_git_state", lambda: ("0" * 40, False))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bits_of(path, rng, count, *, ends):
    """Bits of a file at random, and its first, middle and last one."""
    size = 8 * path.stat().st_size
    found = {rng.randrange(size) for _ in range(count)} if size else set()
    return sorted(found | {0, size // 2, size - 1} if size and ends else found)


def fault(work_, folder, path, bit, expected):
    """What goes wrong where a bit of a file is flipped; nothing if all is well."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    notes = []
    where = f"bit {bit} of {path.relative_to(folder)}"
    try:
        found = work_.use(folder, notes.append)
    except (ValueError, OSError) as error:
        return "" if path.name in str(error) else f"{where}: refused without its name: {error}"
    lost = [name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name)]
    told = [note for note in notes if "damaged" in note or "cannot be read" in note]
    untold = [name for name in lost if not any(name in note for note in told)]
    return f"{where}: other {', '.join(untold)} without a word; said: {notes}" if untold else ""


def walk(work_, tmp_path, monkeypatch, *, seed, times):
    rng = random.Random(seed)
    whole, copy = tmp_path / "whole", tmp_path / "copy"
    whole.mkdir()
    work_.make(whole, monkeypatch)

    def again():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)

    again()
    expected = work_.use(copy, lambda _: None)
    found, tried = [], 0
    part = whole / work_.part
    for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
        if path.is_file() and path.suffix not in (".lock", ".log") and path.name != "lock":
            for bit in bits_of(path, rng, work_.bits * times, ends=work_.ends):
                again()
                found.append(fault(work_, copy, copy / path.relative_to(whole), bit, expected))
                tried += 1
    assert tried
    assert [why for why in found if why] == []


@pytest.mark.parametrize("name", WORKS)
def test_a_flipped_bit_is_found_or_of_no_matter(tmp_path, monkeypatch, name):
    walk(WORKS[name], tmp_path, monkeypatch, seed=0, times=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_more_flipped_bits_are_found_or_of_no_matter(tmp_path, monkeypatch, name):
    walk(dataclasses.replace(WORKS[name], ends=False), tmp_path, monkeypatch, seed=1, times=3)
