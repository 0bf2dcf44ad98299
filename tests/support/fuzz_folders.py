"""Folders that are read as one, for the fuzzer to damage: trainings, latents, studies, saved datasets."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
from fuzz_changes import change_bytes, change_json, change_npy, change_safetensors, change_text
from fuzz_engine import Content, Odd, Reader
from fuzz_seeds import images
from small_plan import TINY_DIT_ON_DIGITS

_BY_SUFFIX = {
    ".json": change_json,
    ".jsonl": change_text,
    ".npy": change_npy,
    ".safetensors": change_safetensors,
    ".toml": change_text,
    ".txt": change_text,
}


def change_folder(files: Content, rng: np.random.Generator) -> Content:
    """One file of a folder changed as befits it, cut to nothing, another's, gone, or no file at all."""
    changed = dict(files)
    names = sorted(changed)
    name = names[rng.integers(len(names))]
    kind = rng.random()
    if kind < 0.01:
        changed[name] = list(Odd)[rng.integers(len(Odd))]
    elif kind < 0.04:
        del changed[name]
    elif kind < 0.06:
        changed[name] = b""
    elif kind < 0.1:
        changed[name] = changed[names[rng.integers(len(names))]]
    else:
        inner = _BY_SUFFIX.get(Path(name).suffix, change_bytes)
        try:
            changed[name] = inner(files[name], rng)
        except (ValueError, IndexError, zipfile.BadZipFile):
            changed[name] = change_bytes(files[name], rng)
    return changed


def folder_content(folder: Path) -> Content:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.name != "lock"}


# ---- training


def _training(steps: int) -> object:
    from dit_eval.diffusion.data import ArrayData
    from dit_eval.diffusion.recipe import Recipe, Schedule
    from dit_eval.models.config import DiTConfig
    from dit_eval.training import TrainingRun

    shape = {"depth": 1, "hidden_size": 8, "num_heads": 2, "patch_size": 4, "input_size": 8, "num_classes": 3}
    identity = {"kind": "npz", "sha256": "0" * 64, "images": 3, "channels": 3}
    return TrainingRun(
        config=DiTConfig(**shape, in_channels=3, space="pixel"),
        data=ArrayData(images=images(), labels=np.arange(3), identity=identity),
        recipe=Recipe(batch_size=2, learning_rate=1e-3),
        schedule=Schedule(steps=steps, save_every=2, log_every=1),
    )


def training_seeds() -> list[Content]:
    from dit_eval.training import train

    with tempfile.TemporaryDirectory() as folder:
        train(f"{folder}/run", _training(2))
        return [folder_content(Path(folder, "run"))]


def read_training(path: Path) -> None:
    """Ask for what is there, then for a step more."""
    from dit_eval.diffusion.written import steps_done
    from dit_eval.training import train

    refused: Exception | None = None
    assert steps_done(path) >= 0
    for steps in (2, 3):
        try:
            done = train(path, _training(steps))
            assert done.loss is None or math.isfinite(done.loss)
        except (ValueError, OSError) as error:
            refused = error
    if refused is not None:
        raise refused


# ---- latents


def latent_seeds() -> list[Content]:
    from PIL import Image

    from dit_eval.diffusion.data import list_images
    from dit_eval.encoding import Encoder, EncodingSettings, encode
    from dit_eval.models.latent_space import LatentSpace

    def posterior(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(group), 4, 2, 2)
        return np.full(shape, group.mean(), np.float32), np.full(shape, 0.5, np.float32)

    made = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(6):
            file = Path(folder, "pictures", "ab"[number % 2], f"{number}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images()[number % 3]).save(file)
            os.utime(file, (0, 0))  # the settings name the time
        listed = list_images(f"{folder}/pictures", image_size=16)
        encoder = Encoder(encode=posterior, vae="test", vae_sha256="0" * 64, latents=LatentSpace(scale=0.18))
        for dtype in ("float32", "float16"):
            encode(listed, Path(folder, dtype), encoder=encoder, settings=EncodingSettings(dtype=dtype))
            made.append(folder_content(Path(folder, dtype)))
    return made


def read_latents(path: Path) -> None:
    from dit_eval.diffusion.data import open_data

    data = open_data(path)
    count = min(len(data), 16)
    generators = [np.random.default_rng(k) for k in range(count)]
    x, labels = data.read(np.arange(count), np.arange(count) % 2 == 1, generators)
    json.dumps(data.identity)
    assert (x.dtype, x.shape) == (np.float32, (count, *data.shape)), "latents of another form"
    assert np.isfinite(x).all(), "latents that are no numbers"
    assert (labels.dtype, labels.shape) == (np.int64, (count,)), "labels of another form"
    assert all(0 <= label < data.num_classes for label in labels), "labels of no class"


@cache
def _pictures() -> tuple[object, object]:
    """Images to encode, which stay until the process ends, and the encoder."""
    from PIL import Image

    from dit_eval.diffusion.data import list_images
    from dit_eval.encoding import Encoder
    from dit_eval.models.latent_space import LatentSpace

    folder = Path(os.environ["DIT_EVAL_CACHE"], "pictures")
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images()):
        Image.fromarray(pixels).save(folder / f"{number}.png")

    def posterior(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return group[:, [0, 1, 2, 0], ::8, ::8], np.full((len(group), 4, 2, 2), 0.5, np.float32)

    encoder = Encoder(encode=posterior, vae="test", vae_sha256="0" * 64, latents=LatentSpace(scale=0.18))
    return list_images(folder, image_size=16), encoder


def unfinished_latent_seeds() -> list[Content]:
    """With a seal, and as earlier versions left it."""
    from dit_eval.encoding import encode

    listed, encoder = _pictures()
    with tempfile.TemporaryDirectory() as folder:
        with (
            mock.patch("dit_eval.encoding._Unfinished.finish", side_effect=KeyboardInterrupt),
            contextlib.suppress(KeyboardInterrupt),
        ):
            encode(listed, Path(folder, "out"), encoder=encoder)
        made = folder_content(Path(folder))
    return [made, {name: data for name, data in made.items() if not name.endswith(".seal")}]


def read_unfinished_latents(path: Path) -> None:
    """Go on; without a seal damage may be taken, as far as it is of the right form."""
    from dit_eval.diffusion.latents import Latents
    from dit_eval.encoding import encode

    listed, encoder = _pictures()
    assert encode(listed, path / "out", encoder=encoder) == len(Latents(path / "out"))
    for index in range(len(Latents(path / "out"))):
        Latents(path / "out").moments(index, mirrored=False)


# ---- studies

_PLAN = f"""{TINY_DIT_ON_DIGITS}[training]
batch_size = 4
log_every = 1
[sampling]
num_samples = 16
[[cells]]
models = "all"
training_steps = [2]
sampling_steps = [2, 4]
"""


def _sources() -> object:
    from dit_eval.study.sources import Sources
    from dit_eval.system.assets import asset

    digits = str(asset("digits").path)
    return Sources(train=digits, ref=digits, weights=None, decoders={}, device="cpu")


def study_seeds() -> list[Content]:
    """A study with its training and one of its two cells done, without the samples."""
    from dit_eval.study.folder import Study
    from dit_eval.study.plan_file import parse_plan
    from dit_eval.study.tasks import work

    with tempfile.TemporaryDirectory() as folder:
        study = Study(parse_plan(_PLAN, Path(folder, "plan.toml")), Path(folder, "study"))
        study.folder.mkdir()
        study.begin(_sources())
        for task in (*study.plan.trainings, study.plan.cells[0]):
            work(study, task.key)
        study.note_failures({study.plan.cells[1].key: "the disk was full"})
        study.collect()
        kept = folder_content(study.folder).items()
        left_out = ("samples", "cache")
        return [{name: data for name, data in kept if Path(name).parts[0] not in left_out}]


def read_study(path: Path) -> None:
    """What `study status` and `study run` read before they begin to work, and what they collect at the end."""
    from dit_eval.study.folder import Study

    study = Study.open(path)
    refused: Exception | None = None
    for step in (lambda: study.sources, study.status, study.collect, lambda: study.begin(_sources()), study.tidy):
        try:
            step()
        except (ValueError, OSError) as error:
            refused = error
    if refused is not None:
        raise refused
    for task in study.plan.tasks:
        study.told(task, 1, 2)
    study.seconds_left(study.missing(), 2)


# ---- saved datasets


def dataset_seeds() -> list[Content]:
    import datasets
    from fuzz_seeds import png

    datasets.disable_progress_bars()
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    rows = {"image": [{"bytes": png(), "path": None}] * 3, "label": [0, 1, 0]}
    with tempfile.TemporaryDirectory() as folder:
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(f"{folder}/saved")
        return [folder_content(Path(folder, "saved"))]


def read_dataset(path: Path) -> None:
    from dit_eval.images import open_images

    found = open_images(path, role="gen")
    for batch in found.batches(2):
        assert batch.dtype == np.uint8
    found.sha256()


_DATASET = Reader(name="saved dataset", suffix=".saved", seeds=dataset_seeds, mutate=change_folder, read=read_dataset)

FOLDERS = (
    Reader(name="training folder", suffix=".run", seeds=training_seeds, mutate=change_folder, read=read_training),
    Reader(name="latents folder", suffix=".latents", seeds=latent_seeds, mutate=change_folder, read=read_latents),
    Reader(
        name="unfinished latents",
        suffix=".begun",
        seeds=unfinished_latent_seeds,
        mutate=change_folder,
        read=read_unfinished_latents,
    ),
    Reader(name="study folder", suffix=".study", seeds=study_seeds, mutate=change_folder, read=read_study),
    *([_DATASET] if importlib.util.find_spec("datasets") else []),
)
