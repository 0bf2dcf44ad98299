"""Damaged and hostile files by the thousand for every reader: `python tests/support/fuzz_readers.py`, or `make fuzz`.

Each case is a small valid file with some of its bytes, its text or its structure changed, and is the same whenever it
has the same seed, reader and number. A reader must take it or refuse it: by one of the errors that it documents, with
a message that names the file, in time, and with no more memory than the bound. Anything else is a finding, as is a
process that dies. Cases run in processes of their own, which are replaced when they die or hang.

    python tests/support/fuzz_readers.py --cases 10500 --seed 0 --processes 2
    python tests/support/fuzz_readers.py --reader npz --first 17 --cases 1 --seed 0    # one again, by its numbers
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import os
import re
import resource
import signal
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

SECONDS = 5.0  # that a case may take; all but a few take hundredths of one
MEMORY = 256 << 20  # bytes that a case may add to what its process has held before
_STARTED = 512 << 20  # bytes of address space beyond the bound, so that a larger request fails instead of swapping
_CHUNK = 100  # cases handed to a process at a time

Mutation = Callable[[bytes, np.random.Generator], bytes]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What is fuzzed: how to make its valid files, how to change them, and how to read one.

    Attributes
    ----------
    suffix : of the file
    seeds : valid files
    mutate : one changed file of a valid one
    read : opens the file and reads all of it
    share : of all cases
    """

    name: str
    suffix: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutation
    read: Callable[[Path], object]
    share: float


@dataclass(kw_only=True)
class Tally:
    """What became of a reader's cases."""

    cases: int = 0
    taken: int = 0
    slowest: float = 0.0
    memory: int = 0
    findings: list[str] = field(default_factory=list)


class TooLong(BaseException):
    """Not an Exception, so that no reader takes it for damage."""


# ---- changes of bytes, of text, and of what lies inside containers

_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


def change_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, repeat, insert, remove, or write a telling number over a length."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 8]))):
        size = len(changed)
        at = int(rng.integers(size)) if size else 0
        end = min(size, at + int(2 ** rng.uniform(0, 10)))
        kind = rng.integers(7)
        if kind == 0 and size:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and size:
            changed[at] = int(rng.choice([0, 1, 127, 128, 255, 10, 34, 40, 91, 123]))
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at:end]
        elif kind == 4:
            changed[at:at] = changed[at:end] * int(rng.choice([1, 2, 50]))
        elif kind == 5:
            changed[at:at] = rng.bytes(end - at)
        else:
            width = int(rng.choice([1, 2, 4, 8]))
            number = int(_NUMBERS[rng.integers(len(_NUMBERS))]) % (1 << 8 * width)
            changed[at : at + width] = number.to_bytes(width, str(rng.choice(["little", "big"])))
    return bytes(changed)


_TOKENS = (
    "0", "-1", "1", "3.5", "-0.0", "1e308", "1e999", "NaN", "nan", "inf", "-inf", "Infinity", "2147483648", "1" * 30,
    "1" * 5000, "0x" + "f" * 4000, "true", "True", "false", "null", "None", "[]", "{}", "()", '""', '"x"', "'|O'",
    "'<u1'", "'|V0'", "'<U1000000'", '"²"', '"\\u0000"', '"\\ud800"', '"\\u001b[2J"', "\x00", "é",
    "[" * 3000, "[" * 100_000, '{"a":' * 3000, "(" * 200, "-" * 3000, " " * 5000, "1979-05-27", "99999999999999999999",
    "65536", "1000000000", "(1,) * 10", "__import__('os')", "lambda: 0", "\\", ",", ":", "=", "\n", "[[cells]]\n",
    "a.b.c = 1\n", '"' + "a" * 9000 + '"',
)  # fmt: skip
_TOKEN = re.compile(rb"\"[^\"\n]*\"|'[^'\n]*'|-?[0-9][0-9.eE+-]*|[A-Za-z_]+|[^\sA-Za-z0-9_]")


def change_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace, repeat or drop words, numbers, strings, brackets and lines."""
    if rng.random() < 0.15:
        return change_bytes(data, rng)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        kind = rng.integers(8)
        if kind < 6:
            tokens = list(_TOKEN.finditer(data))
            if not tokens:
                return data
            token = tokens[rng.integers(len(tokens))]
            other = tokens[rng.integers(len(tokens))][0]
            new = other if kind == 5 else _TOKENS[rng.integers(len(_TOKENS))].encode()
            data = data[: token.start()] + (b"" if kind == 4 else new) + data[token.end() :]
        else:
            lines = data.split(b"\n")
            at, there = rng.integers(len(lines)), rng.integers(len(lines))
            line = lines.pop(at)
            lines[there:there] = [line, line] if kind == 6 else []
            data = b"\n".join(lines)
    return data


_VALUES = (None, True, False, 0, -1, 3, 2.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**400, "", "x",
           "²", "\0", "\ud800", "ddim²", "a" * 5000, [], {}, [1, 2], [[]], {"a": 1}, [None],
           "DiT-XL/2", "250,²")  # fmt: skip


def change_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Put another value, of any type, at a place of a JSON text; or change its words."""
    if rng.random() < 0.3:
        return change_text(data, rng)
    try:
        value = json.loads(data)
    except ValueError:
        return change_text(data, rng)
    places: list[tuple[object, object]] = []

    def visit(node: object) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            visit(node[key])

    visit(value)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        node, key = places[rng.integers(len(places))]
        kind = rng.integers(8)
        with contextlib.suppress(LookupError):
            if kind == 0:
                del node[key]
            elif kind == 1 and isinstance(node, dict):
                node[str(_VALUES[rng.integers(len(_VALUES))])] = 1
            else:
                node[key] = _VALUES[rng.integers(len(_VALUES))]
    return json.dumps(value).encode()


def in_zip(inner: Mutation, data: bytes, rng: np.random.Generator) -> bytes:
    """A zip with a member changed and its checksums right, so that readers get to see it; or its bytes changed."""
    if rng.random() < 0.35:
        return change_bytes(data, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that is there twice
        infos = old.infolist()
        changed = rng.integers(len(infos))
        for number, info in enumerate(infos):
            content, name = old.read(info), info.filename
            if number == changed:
                content = inner(content, rng)
                if rng.random() < 0.05:
                    name = infos[rng.integers(len(infos))].filename
                elif rng.random() < 0.05:
                    name = str(rng.choice(["../x.npy", "/x.png", "a\x1b[2J.png", "mu.npy", "é.npy", "x" * 300]))
            packing = info.compress_type if rng.random() < 0.9 else int(rng.choice([0, 8, 12, 14]))
            new.writestr(name, content, packing)
    return made.getvalue()


def in_gzip(inner: Mutation, data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.3:
        return change_bytes(data, rng)
    return gzip.compress(inner(gzip.decompress(data), rng), 1)


def change_tar(data: bytes, rng: np.random.Generator) -> bytes:
    """A field of a header or some bytes of a tar, with the header's checksum right more often than not."""
    changed = bytearray(data if rng.random() < 0.5 else change_bytes(data, rng))
    headers = [at for at in range(0, len(changed) - 511, 512) if changed[at + 257 : at + 262] == b"ustar"]
    if headers and rng.random() < 0.9:
        at = headers[rng.integers(len(headers))]
        begin, end = [(0, 100), (124, 136), (156, 157), (345, 500), (0, 512)][rng.integers(5)]
        field_ = change_bytes(bytes(changed[at + begin : at + end]), rng)[: end - begin].ljust(end - begin, b"\0")
        changed[at + begin : at + end] = field_
        if rng.random() < 0.8:
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


def change_npy(data: bytes, rng: np.random.Generator) -> bytes:
    """The header of an array as text, with its length right; or its bytes."""
    if not data.startswith(b"\x93NUMPY") or rng.random() < 0.3:
        return change_bytes(data, rng)
    size = int.from_bytes(data[8:10], "little")
    if data[10 + size :].startswith(b"{") or rng.random() < 0.2:
        return data[: 10 + size] + change_json(data[10 + size :], rng)
    header = change_text(data[10 : 10 + size], rng)
    if rng.random() < 0.3 or len(header) > 65535:
        return data[:6] + b"\2\0" + len(header).to_bytes(4, "little") + header + data[10 + size :]
    return data[:8] + len(header).to_bytes(2, "little") + header + data[10 + size :]


def change_png(data: bytes, rng: np.random.Generator) -> bytes:
    """A chunk of a PNG, with its checksum right; or any bytes."""
    if not data.startswith(b"\x89PNG") or rng.random() < 0.3:
        return change_bytes(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    number = rng.integers(len(chunks))
    kind, content = chunks[number]
    chunks[number] = (kind, change_bytes(content, rng))
    if rng.random() < 0.2:
        chunks.insert(number, chunks[rng.integers(len(chunks))])
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(parts)


def change_safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.3:
        return change_bytes(data, rng)
    size = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


# ---- valid files


def _npz(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def _images() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3)).astype(np.uint8)


def _run() -> dict[str, object]:
    from dit_eval.models.config import DiTConfig
    from dit_eval.results.sample_run import SampleRun

    network = asdict(DiTConfig(depth=1, hidden_size=16, num_heads=2, patch_size=4, input_size=8, num_classes=3))
    fields = {"model": "mini-S/4", "network": network, "checkpoint": "0000100.pt", "checkpoint_sha256": "0" * 64}
    return json.loads(SampleRun(**fields, image_size=64, training_steps=100, training_batch_size=8).to_json())


def npz_seeds() -> list[bytes]:
    mu, sigma = np.zeros(4), np.eye(4)
    run = np.array(json.dumps(_run()))
    return [
        _npz(np.savez, arr_0=_images(), arr_1=np.arange(3), sample_run=run),
        _npz(np.savez_compressed, arr_0=_images(), arr_1=np.arange(3)),
        _npz(np.savez, mu=mu, sigma=sigma, mu_s=mu.astype(np.float32), sigma_s=sigma),
        _npz(np.savez_compressed, mu=mu, sigma=sigma, arr_0=_images()),
    ]


def graph_seeds() -> list[bytes]:
    def number(value: int) -> bytes:
        parts = []
        while value > 127:
            parts.append(value & 127 | 128)
            value >>= 7
        return bytes([*parts, value])

    def part(key: int, content: bytes) -> bytes:
        return bytes([key << 3 | 2]) + number(len(content)) + content

    def constant(name: str, shape: tuple[int, ...], values: bytes) -> bytes:
        dims = b"".join(part(2, b"\x08" + number(size)) for size in shape)
        value = part(5, part(1, b"value") + part(2, part(8, b"\x08\x01" + part(2, dims) + values)))
        return part(1, part(1, name.encode()) + part(2, b"Const") + value)

    array = np.arange(12, dtype="<f4").tobytes()
    whole = constant("a/b", (3, 4), part(4, array)) + part(1, part(1, b"x") + part(2, b"Conv2D"))
    return [whole + constant("c", (4,), part(5, array[:16])), constant("one", (30,), b"\x2d" + array[4:8])]


def _tiny_dit() -> dict[str, object]:
    import torch

    from dit_eval.models.dit import DiT

    torch.manual_seed(0)
    return dict(DiT(_tiny_config()).state_dict())


def _tiny_config() -> object:
    from dit_eval.models.config import DiTConfig

    return DiTConfig(depth=1, hidden_size=8, num_heads=2, patch_size=4, input_size=8, num_classes=3)


def pytorch_seeds() -> list[bytes]:
    import torch

    made, state = [], _tiny_dit()
    for content, zipped in (
        (state, True),
        ({"ema": state, "args": argparse.Namespace(model="x")}, True),
        ({"x_embedder.proj.weight": torch.zeros(3)}, False),
        ({"x_embedder.proj.weight": torch.zeros(3, 4), "y": torch.ones(2, dtype=torch.int8)}, True),
    ):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        made.append(file.getvalue())
    return made


def safetensors_seeds() -> list[bytes]:
    from safetensors.torch import save

    state = {name: value.contiguous() for name, value in _tiny_dit().items()}
    notes = {"step": 3, "weights": "ema", "recipe": {"batch_size": 8}}
    metadata = {"dit_eval.config": json.dumps(asdict(_tiny_config())), "dit_eval.training": json.dumps(notes)}
    return [save(state, metadata=metadata), save({"x_embedder.proj.weight": state["x_embedder.proj.weight"]})]


def plan_seeds() -> list[bytes]:
    return [
        b"""name = "small"
about = "a plan"
[data]
train = "digits"
space = "pixel"
image_size = 8
channels = 1
num_classes = 10
extractor = "digits"
[models."mini-S/4"]
depth = 1
hidden_size = 8
num_heads = 2
patch_size = 4
[training]
batch_size = 8
learning_rate = 1e-3
betas = [0.9, 0.99]
label_dropout = 0.1
[sampling]
num_samples = 16
sampler = "ddim"
[[cells]]
models = ["mini-S/4"]
training_steps = [10, 20]
sampling_steps = [5, "ddim10"]
cfg_scales = [1.0, 1.5]
seeds = [0, 1]
[[resources]]
task = "training"
processes = 2
slurm = {partition = "gpu"}
[cost]
device = "a GPU"
tflops = 10.5
source = "measured"
"""
    ]


def result_seeds() -> list[bytes]:
    from dit_eval.results.eval_result import Estimate, EvalResult, ExtractorInfo, ImageSource, Uncertainty
    from dit_eval.results.sample_run import SampleRun

    images = {"sha256": "1" * 64, "num_images": 16, "image_size": (64, 64), "statistics": "computed"}
    known = Estimate(value=2.5, standard_error=0.1, low=2.3, high=2.7)
    result = EvalResult(
        scores={"fid": 2.5, "sfid": None, "inception_score": 3.0, "precision": 0.5, "recall": 0.5},
        **{
            "num_samples": 16,
            "num_reference": 16,
            "protocol": "adm-2021",
            "seconds": {"gen": 1.0},
            "warnings": ("few",),
        },
        extractor=ExtractorInfo(name="inception", weights_sha256="2", backend="torch", precision="fp32", device="cpu"),
        gen=ImageSource(path="x.npz", run=SampleRun.from_json(json.dumps(_run())), **images),
        ref=ImageSource(path="ref.npz", **images),
        uncertainty=Uncertainty(estimates={"fid": known, "fid_infinity": known}),
    )
    return [result.to_json().encode()]


def loss_seeds() -> list[bytes]:
    lines = [{"model": "DiT-B/4", "step": 100 * k, "loss": 0.1 + k, "mse": 0.1, "vb": None} for k in range(4)]
    return ["\n".join(map(json.dumps, lines)).encode() + b"\n"]


def _png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(_images()[0]).save(file, "PNG")
    return file.getvalue()


def image_seeds() -> list[bytes]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(_images()[0]).save(file, "JPEG")
    return [_png(), _png(), file.getvalue()]


def zip_seeds() -> list[bytes]:
    made = []
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", packing) as archive:
            for name in ("0/0.png", "0/1.png", "1/2.png", "args.json"):
                archive.writestr(name, _png() if name.endswith("png") else b"{}")
        made.append(file.getvalue())
    return made


def tar_seeds() -> list[bytes]:
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name in ("a/0.png", "a/" + "n" * (60 if form == tarfile.USTAR_FORMAT else 150) + "é.png"):
                info = tarfile.TarInfo(name)
                info.size = len(_png())
                archive.addfile(info, io.BytesIO(_png()))
        made.append(file.getvalue())
    return made


def tgz_seeds() -> list[bytes]:
    return [gzip.compress(data, 1) for data in tar_seeds()]


# ---- readers


def read_npz(path: Path) -> None:
    from dit_eval.images.npz import open_batch

    refused: ValueError | None = None
    for role in ("gen", "ref"):
        try:
            batch = open_batch(path, role=role)
            for images in batch.batches(2):
                assert images.shape[1:] == (*(batch.image_size or ()), 3)
            batch.sha256()
            if batch.run is not None:
                batch.run.summary()
        except ValueError as error:
            refused = error
    if refused is not None:
        raise refused


def read_graph(path: Path) -> None:
    from dit_eval.features.inception_weights import read_state_dict

    read_state_dict(path)  # says what is missing in the small ones; the reader of constants has done its part by then


def read_constants(path: Path) -> None:
    from dit_eval.features.graph_def import read_constants

    for array in read_constants(path).values():
        array.sum()


def read_pytorch(path: Path) -> None:
    from dit_eval.models.checkpoints import load_dit

    load_dit(path, _tiny_config())


def read_safetensors(path: Path) -> None:
    from dit_eval.models.checkpoints import load_dit, stored_config, training_notes

    training_notes(path)
    config = stored_config(path)
    load_dit(path, _tiny_config())
    assert config is None or config.depth > 0


def read_feature_weights(path: Path) -> None:
    from dit_eval.features.inception_weights import read_state_dict
    from dit_eval.features.vit import read_weights

    read_state_dict(path)
    read_weights(path, "dinov2")


def read_plan(path: Path) -> None:
    from dit_eval.study.plan_file import load_plan

    plan = load_plan(path)
    for task in plan.tasks:
        plan.resources(task)


def read_results(path: Path) -> None:
    from dit_eval.flops.kept import count_network
    from dit_eval.report.points import read_measured
    from dit_eval.report.setting import settings

    points, _ = read_measured(path, count=count_network)
    settings(points)


def read_losses(path: Path) -> None:
    from dit_eval.report.points import read_losses

    read_losses(path)


def read_images(path: Path) -> None:
    from dit_eval.images import open_images

    images = open_images(path, role="gen")
    images.sha256()
    for batch in images.batches(2):
        assert batch.dtype == np.uint8


def read_folder(path: Path) -> None:
    read_images(path.parent)


READERS = (
    Reader(name="npz", suffix=".npz", seeds=npz_seeds, mutate=partial(in_zip, change_npy), read=read_npz, share=0.24),
    Reader(name="GraphDef", suffix=".pb", seeds=graph_seeds, mutate=change_bytes, read=read_constants, share=0.14),
    Reader(name="Inception graph", suffix=".pb", seeds=graph_seeds, mutate=change_bytes, read=read_graph, share=0.02),
    Reader(name="PyTorch checkpoint", suffix=".pt", seeds=pytorch_seeds, mutate=partial(in_zip, change_bytes),
           read=read_pytorch, share=0.1),
    Reader(name="safetensors checkpoint", suffix=".safetensors", seeds=safetensors_seeds, mutate=change_safetensors,
           read=read_safetensors, share=0.07),
    Reader(name="feature weights", suffix=".pth", seeds=pytorch_seeds, mutate=partial(in_zip, change_bytes),
           read=read_feature_weights, share=0.04),
    Reader(name="plan", suffix=".toml", seeds=plan_seeds, mutate=change_text, read=read_plan, share=0.06),
    Reader(name="results", suffix=".jsonl", seeds=result_seeds, mutate=change_json, read=read_results, share=0.12),
    Reader(name="loss log", suffix=".jsonl", seeds=loss_seeds, mutate=change_text, read=read_losses, share=0.04),
    Reader(name="folder", suffix=".png", seeds=image_seeds, mutate=change_png, read=read_folder, share=0.05),
    Reader(name="zip", suffix=".zip", seeds=zip_seeds, mutate=partial(in_zip, change_png), read=read_images,
           share=0.05),
    Reader(name="tar", suffix=".tar", seeds=tar_seeds, mutate=change_tar, read=read_images, share=0.04),
    Reader(name="tar.gz", suffix=".tar.gz", seeds=tgz_seeds, mutate=partial(in_gzip, change_tar), read=read_images,
           share=0.03),
)  # fmt: skip


# ---- one case, and a process of cases


def case_bytes(reader: Reader, seeds: list[bytes], seed: int, number: int) -> bytes:
    rng = np.random.default_rng([seed, zlib.crc32(reader.name.encode()), number])
    data = seeds[rng.integers(len(seeds))]
    try:
        return reader.mutate(data, rng)
    except (ValueError, IndexError, zipfile.BadZipFile):  # what is inside cannot be changed so
        return change_bytes(data, rng)


def run_case(reader: Reader, path: Path, tally: Tally) -> str | None:
    """Read one file; what is wrong with how that went, or None."""

    def stop(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    begun, held = time.perf_counter(), _peak()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    problem = None
    try:
        reader.read(path)
        tally.taken += 1
    except (ValueError, OSError) as error:
        message = str(error)
        if path.name not in message and path.parent.name not in message:
            problem = f"a message that does not name the file: {type(error).__name__}: {message[:200]!r}"
        elif len(message) > 5000:
            problem = f"a message of {len(message):,} characters"
        elif not message.replace("\n", "").isprintable():
            problem = f"a message with control characters: {message[:200]!r}"
    except TooLong:
        problem = f"more than {SECONDS:g} seconds"
    except BaseException as error:
        problem = f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    tally.cases += 1
    tally.slowest = max(tally.slowest, time.perf_counter() - begun)
    grown = _peak() - held
    tally.memory = max(tally.memory, grown)
    if problem is None and grown > MEMORY:
        problem = f"{grown >> 20} MiB of memory"
    return problem


def _peak() -> int:
    from dit_eval.system.environment import peak_memory_bytes

    return peak_memory_bytes() or 0


def _work(pipe: object, state: object, reader: Reader, seed: int) -> None:
    """Run cases that come through the pipe until it closes; `state` says which one is under way since when."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("error")  # a reader warns by its own means, if at all
    np.seterr(all="ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIT_EVAL_CACHE"] = f"{folder}/cache"
        seeds = reader.seeds()
        path = Path(folder) / "case" / f"x{reader.suffix}"
        path.parent.mkdir()
        # What the readers load and keep is not a case's own.
        for data in seeds:
            path.write_bytes(data)
            with contextlib.suppress(ValueError):
                reader.read(path)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY + _STARTED,) * 2)
        while (cases := pipe.recv()) is not None:
            tally = Tally()
            for number in cases:
                path.write_bytes(case_bytes(reader, seeds, seed, number))
                state[0], state[1] = number, time.monotonic()
                if problem := run_case(reader, path, tally):
                    tally.findings.append(f"{reader.name}, seed {seed}, case {number}: {problem}")
            state[0] = -1
            pipe.send(tally)


def fuzz(
    readers: tuple[Reader, ...], *, cases: int, seed: int, processes: int, first: int = 0, until: float | None = None
) -> dict[str, Tally]:
    """Run so many cases, shared among the readers, in processes of their own.

    Parameters
    ----------
    first : number of each reader's first case
    until : `time.monotonic()` after which no more are begun
    """
    from concurrent.futures import ThreadPoolExecutor

    whole = sum(reader.share for reader in readers)
    counts = [max(1, round(cases * reader.share / whole)) for reader in readers]
    jobs = [(reader, range(first, first + count)) for reader, count in zip(readers, counts, strict=True)]
    jobs.sort(key=lambda job: -len(job[1]))
    with ThreadPoolExecutor(processes) as threads:
        tallies = list(threads.map(lambda job: _supervise(*job, seed, until), jobs))
    by_name = {reader.name: tally for (reader, _), tally in zip(jobs, tallies, strict=True)}
    return {reader.name: by_name[reader.name] for reader in readers}


def _supervise(reader: Reader, numbers: range, seed: int, until: float | None) -> Tally:
    """All cases of a reader; a process that dies, or hangs where no signal reaches it, is a finding and is replaced."""
    context, tally, left = multiprocessing.get_context("spawn"), Tally(), list(numbers)
    while left and (until is None or time.monotonic() < until):
        pipe, theirs = context.Pipe()
        state = context.Array("d", [-1.0, time.monotonic()], lock=False)
        process = context.Process(target=_work, args=(theirs, state, reader, seed), daemon=True)
        process.start()
        theirs.close()
        alive = True
        while alive and left and (until is None or time.monotonic() < until):
            chunk = left[:_CHUNK]
            pipe.send(chunk)
            lost = None
            while lost is None and not pipe.poll(0.2):
                if not process.is_alive() and not pipe.poll(0):
                    lost = f"the process died ({process.exitcode})"
                elif state[0] >= 0 and time.monotonic() - state[1] > 3 * SECONDS:
                    lost = f"more than {3 * SECONDS:g} seconds, out of reach of a signal"
            try:
                found = pipe.recv() if lost is None else None
            except EOFError:
                process.join(5)
                found, lost = None, f"the process died ({process.exitcode})"
            if found is None:
                number = int(state[0])
                if number < 0:
                    raise RuntimeError(f"{reader.name}: the process ended before a case began")
                tally.findings.append(f"{reader.name}, seed {seed}, case {number}: {lost}")
                tally.cases += chunk.index(number) + 1
                left = left[chunk.index(number) + 1 :]
                alive = False
                continue
            left = left[len(chunk) :]
            tally.cases += found.cases
            tally.taken += found.taken
            tally.slowest = max(tally.slowest, found.slowest)
            tally.memory = max(tally.memory, found.memory)
            tally.findings += found.findings
        with contextlib.suppress(OSError):
            pipe.send(None)
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_500)
    parser.add_argument("--first", type=int, default=0, help="number of each reader's first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=300, help="no case is begun after so many")
    parser.add_argument("--reader", choices=[reader.name for reader in READERS], help="this one alone")
    arguments = parser.parse_args()
    readers = tuple(reader for reader in READERS if arguments.reader in (None, reader.name))
    begun = time.monotonic()
    tallies = fuzz(
        readers,
        cases=arguments.cases,
        seed=arguments.seed,
        processes=arguments.processes,
        first=arguments.first,
        until=begun + arguments.seconds - 3 * SECONDS,
    )
    print(f"{'reader':24}{'cases':>8}{'refused':>9}{'read':>7}{'slowest':>10}{'memory':>9}{'findings':>10}")
    for name, tally in tallies.items():
        print(
            f"{name:24}{tally.cases:8,}{tally.cases - tally.taken:9,}{tally.taken:7,}{tally.slowest:8.2f} s"
            f"{tally.memory / 2**20:5.0f} MiB{len(tally.findings):10}"
        )
    total = sum(tally.cases for tally in tallies.values())
    findings = [finding for tally in tallies.values() for finding in tally.findings]
    print(f"{total:,} cases in {time.monotonic() - begun:.0f} s, seed {arguments.seed}; {len(findings)} finding(s)")
    for finding in findings[:60]:
        print(finding)
    if total < arguments.cases * 0.999:
        print(f"Only {total:,} of {arguments.cases:,} cases were run in {arguments.seconds:g} s.")
    return 1 if findings or total < arguments.cases * 0.999 else 0


if __name__ == "__main__":
    sys.exit(main())
