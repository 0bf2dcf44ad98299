"""Single files beside samples and checkpoints, as the fuzzer reads them: labels, images and batches to train on, and
what dit-eval keeps in its caches."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from functools import cache, partial
from pathlib import Path

import numpy as np
from fuzz_changes import change_json, change_npy, change_png, change_text, in_zip
from fuzz_engine import Reader
from fuzz_seeds import images, npz_bytes, tiny_config

# ---- labels


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def label_text_seeds() -> list[bytes]:
    return ["".join(f"{k % 10}\n" for k in range(40)).encode(), b"3 1 4 1 5 9 2 6 5 3 5 8 9"]


def label_npy_seeds() -> list[bytes]:
    return [_npy(np.arange(40, dtype=kind) % 10) for kind in (np.int64, np.uint8, np.uint64, np.int32)]


def label_npz_seeds() -> list[bytes]:
    labels = np.arange(40) % 10
    return [
        npz_bytes(np.savez, arr_0=np.zeros((40, 2, 2, 3), np.uint8), arr_1=labels),
        npz_bytes(np.savez_compressed, arr_1=labels.astype(np.uint64)),
    ]


def read_label_file(path: Path) -> None:
    from dit_eval.diffusion.labels import read_labels

    labels, sha256 = read_labels(path, num_images=10, num_classes=10)
    assert (labels.dtype, labels.shape) == (np.int64, (10,)), "labels of another form"
    assert set(labels) <= set(range(10)), "labels of no class"
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest(), "the checksum of other labels"


# ---- what is trained on


def training_npz_seeds() -> list[bytes]:
    grey = np.repeat(images()[..., :1], 3, axis=3)
    return [
        npz_bytes(np.savez, arr_0=grey, arr_1=np.arange(3)),
        npz_bytes(np.savez_compressed, arr_0=grey, arr_1=np.arange(3, dtype=np.uint64)),
        npz_bytes(np.savez, arr_0=grey),
    ]


def read_training_npz(path: Path) -> None:
    from dit_eval.diffusion.data import open_data

    refused: ValueError | None = None
    for channels in (1, 3):
        try:
            data = open_data(path, channels=channels)
            count = min(len(data), 8)
            generators = [np.random.default_rng(k) for k in range(count)]
            x, labels = data.read(np.arange(count), np.arange(count) % 2 == 1, generators)
            assert (x.dtype, x.shape) == (np.float32, (count, *data.shape)), "images of another form"
            assert (labels.dtype, labels.shape) == (np.int64, (count,)), "labels of another form"
            assert all(0 <= label < data.num_classes for label in labels), "labels of no class"
            json.dumps(data.identity)
        except ValueError as error:
            refused = error
    if refused is not None:
        raise refused


def training_image_seeds() -> list[bytes]:
    from PIL import Image

    made = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "EPS", "ICO"):
        file = io.BytesIO()
        Image.fromarray(images()[0]).save(file, kind)
        made.append(file.getvalue())
    return made


def read_training_image(path: Path) -> None:
    from dit_eval.diffusion.data import list_images

    folder = list_images(path.parent, image_size=16)
    image = folder.image(0)
    assert (image.dtype, image.shape) == (np.uint8, (16, 16, 3)), "an image of another form"
    data = path.read_bytes()
    assert not data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")), "PostScript was drawn"


# ---- caches


class _Network:
    """Four features of an image, without weights."""

    name, backend, precision, device, weights_sha256 = "test", "torch", "fp32", "cpu", "0" * 64
    pool_dim, spatial_dim, num_classes = 4, 3, 5

    def __call__(self, batch: np.ndarray) -> object:
        from dit_eval.features.network import FeatureBatch

        rows = batch.reshape(len(batch), -1).astype(np.float32)
        probabilities = rows[:, :5] + 1
        return FeatureBatch(
            pool=rows[:, :4], spatial=rows[:, 4:7], class_probs=probabilities / probabilities.sum(1, keepdims=True)
        )


@cache
def _entry() -> tuple[object, object, object]:
    """Images, the place of their features in a cache, and the features."""
    from dit_eval.features.cache import cache_entry, cached_features
    from dit_eval.images.npz import open_batch

    folder = Path(os.environ["DIT_EVAL_CACHE"], "features")
    folder.mkdir(parents=True, exist_ok=True)
    folder.with_name("images.npz").write_bytes(npz_bytes(np.savez, arr_0=images()))
    batch = open_batch(folder.with_name("images.npz"), role="gen")
    entry = cache_entry(batch, _Network(), images_sha256=batch.sha256(), cache=folder)
    summary, _ = cached_features(batch, _Network(), entry=entry, keep_spatial=True)
    return batch, entry, summary


def cache_entry_seeds() -> list[bytes]:
    return [_entry()[1].path.read_bytes()]


def read_cache_entry(path: Path) -> None:
    """Whatever lies there: the features are those of the images."""
    from dit_eval.features.cache import cached_features

    batch, entry, summary = _entry()
    shutil.copyfile(path, entry.path)
    for keep_spatial in (False, True):
        found, _ = cached_features(batch, _Network(), entry=entry, keep_spatial=keep_spatial)
        for name in ("pool_features", "class_probs", *(["spatial_features"] if keep_spatial else [])):
            assert np.array_equal(getattr(found, name), getattr(summary, name)), f"{name} of other images"
        assert np.array_equal(found.pool.mu, summary.pool.mu), "means of other images"
        assert np.array_equal(found.pool.sigma, summary.pool.sigma), "covariances of other images"


@cache
def _counts() -> tuple[Path, object, object]:
    """Where counts are kept, a network, and its count."""
    from dataclasses import asdict

    from dit_eval.flops import count as counting
    from dit_eval.flops import kept

    whole, made = counting.count_flops, []

    def count_once(*request: object) -> object:
        """To count takes far longer than to read what is kept, and is not what is tried."""
        made[:] = made or [whole(*request)]
        return made[0]

    counting.count_flops = count_once
    network = asdict(tiny_config())
    count = kept.count_network(network)
    (file,) = Path(os.environ["DIT_EVAL_CACHE"]).glob("gflops-*.json")
    return file, network, count


def kept_count_seeds() -> list[bytes]:
    return [_counts()[0].read_bytes()]


def read_kept_counts(path: Path) -> None:
    """Whatever lies there: the count is right."""
    from dit_eval.flops import kept

    file, network, count = _counts()
    shutil.copyfile(path, file)
    for each in vars(kept).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()
    assert kept.count_network(network) == count, "a count that nobody counted"


def _fetched() -> object:
    from dit_eval.system.assets import Asset

    return Asset(name="x", kind="weights", filename="x.bin", url="https://example.org/x", sha256=None, note="")


def record_seeds() -> list[bytes]:
    record = {"url": _fetched().url, "size": 3, "sha256": "0" * 64, "time": "2026-01-01T00:00:00+00:00"}
    return [json.dumps(record).encode() + b"\n"]


def read_record(path: Path) -> None:
    from dit_eval.system.assets import recorded_sha256

    item = _fetched()
    item.record_path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, item.record_path)
    found = recorded_sha256(item)
    assert found is None or isinstance(found, str)


def job_seeds() -> list[bytes]:
    array = {"name": "dit-eval-0123456789abcdef", "submitted": 1.5, "nodes": 1, "size": 2, "throttle": 1}
    return [json.dumps([array | {"keys": {"a": 0, "b": 1}, "job": "17"}, array | {"keys": {}, "job": None}]).encode()]


def read_jobs(path: Path) -> None:
    from dit_eval.study.slurm import read_arrays

    for array in read_arrays(path):
        assert "/" not in array.name, "the name of another folder"
        assert all(0 <= place < 1000 for place in array.keys.values()), "a place in no array"


def exit_seeds() -> list[bytes]:
    return [b'{"code": 0, "told": false, "reason": ""}', b'{"code": null, "told": true, "reason": "ended by SIGTERM"}']


def read_exit(path: Path) -> None:
    from dit_eval.study.slurm_job import Exit, code_of_failure

    found = Exit.read(path)
    assert found is None or (found.code is None or isinstance(found.code, int)), "a code that is no number"
    code_of_failure([found] if found else [])


def config_seeds() -> list[bytes]:
    from dit_eval.models import vae_files

    return [json.dumps(vae_files.SD_CONFIG).encode()]


def read_config(path: Path) -> None:
    from dit_eval.models.vae_files import described

    assert described(path).get("layers_per_block", 1) < 100


BESIDE = (
    Reader(name="labels, text", suffix=".txt", seeds=label_text_seeds, mutate=change_text, read=read_label_file),
    Reader(name="labels, npy", suffix=".npy", seeds=label_npy_seeds, mutate=change_npy, read=read_label_file),
    Reader(name="labels, npz", suffix=".npz", seeds=label_npz_seeds, mutate=partial(in_zip, change_npy),
           read=read_label_file),
    Reader(name="npz to train on", suffix=".npz", seeds=training_npz_seeds, mutate=partial(in_zip, change_npy),
           read=read_training_npz),
    Reader(name="image to train on", suffix=".png", seeds=training_image_seeds, mutate=change_png,
           read=read_training_image, weight=1.5),
    Reader(name="features in the cache", suffix=".npz", seeds=cache_entry_seeds, mutate=partial(in_zip, change_npy),
           read=read_cache_entry),
    Reader(name="kept counts", suffix=".json", seeds=kept_count_seeds, mutate=change_json, read=read_kept_counts),
    Reader(name="record of jobs", suffix=".json", seeds=job_seeds, mutate=change_json, read=read_jobs),
    Reader(name="record of an exit", suffix=".json", seeds=exit_seeds, mutate=change_json, read=read_exit),
    Reader(name="autoencoder's config", suffix=".json", seeds=config_seeds, mutate=change_json, read=read_config),
    Reader(name="record of a download", suffix=".json", seeds=record_seeds, mutate=change_json, read=read_record),
)  # fmt: skip
