"""Small valid files of each kind that is read from anywhere, for the fuzzer to change."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import asdict

import numpy as np


def npz_bytes(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def images() -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3)).astype(np.uint8)


def run_notes() -> dict[str, object]:
    from dit_eval.models.config import DiTConfig
    from dit_eval.results.sample_run import SampleRun

    network = asdict(DiTConfig(depth=1, hidden_size=16, num_heads=2, patch_size=4, input_size=8, num_classes=3))
    fields = {"model": "mini-S/4", "network": network, "checkpoint": "0000100.pt", "checkpoint_sha256": "0" * 64}
    return json.loads(SampleRun(**fields, image_size=64, training_steps=100, training_batch_size=8).to_json())


def npz_seeds() -> list[bytes]:
    mu, sigma = np.zeros(4), np.eye(4)
    run = np.array(json.dumps(run_notes()))
    return [
        npz_bytes(np.savez, arr_0=images(), arr_1=np.arange(3), sample_run=run),
        npz_bytes(np.savez_compressed, arr_0=images(), arr_1=np.arange(3)),
        npz_bytes(np.savez, mu=mu, sigma=sigma, mu_s=mu.astype(np.float32), sigma_s=sigma),
        npz_bytes(np.savez_compressed, mu=mu, sigma=sigma, arr_0=images()),
    ]


def pickle_seeds() -> list[bytes]:
    one = {"mu": np.arange(4.0), "sigma": np.eye(4)}
    edm2 = {"num_images": 9, "fid": one, "fd_dinov2": one}
    bundle = {"jit_in256_stats.npz": one | {"about": ["a text", 1, 0.5, (2,)], "scalar": np.float32(1)}}
    return [pickle.dumps(each, protocol=protocol) for each in (edm2, bundle, one) for protocol in (0, 2, 4, 5)]


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


def tiny_state() -> dict[str, object]:
    import torch

    from dit_eval.models.dit import DiT

    torch.manual_seed(0)
    return dict(DiT(tiny_config()).state_dict())


def tiny_config() -> object:
    from dit_eval.models.config import DiTConfig

    return DiTConfig(depth=1, hidden_size=8, num_heads=2, patch_size=4, input_size=8, num_classes=3)


def pytorch_seeds() -> list[bytes]:
    import torch

    made, state = [], tiny_state()
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

    state = {name: value.contiguous() for name, value in tiny_state().items()}
    notes = {"step": 3, "weights": "ema", "recipe": {"batch_size": 8}}
    metadata = {"dit_eval.config": json.dumps(asdict(tiny_config())), "dit_eval.training": json.dumps(notes)}
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

    about = {"sha256": "1" * 64, "num_images": 16, "image_size": (64, 64), "statistics": "computed"}
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
        gen=ImageSource(path="x.npz", run=SampleRun.from_json(json.dumps(run_notes())), **about),
        ref=ImageSource(path="ref.npz", **about),
        uncertainty=Uncertainty(estimates={"fid": known, "fid_infinity": known}),
    )
    return [result.to_json().encode()]


def loss_seeds() -> list[bytes]:
    lines = [{"model": "DiT-B/4", "step": 100 * k, "loss": 0.1 + k, "mse": 0.1, "vb": None} for k in range(4)]
    return ["\n".join(map(json.dumps, lines)).encode() + b"\n"]


def png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(images()[0]).save(file, "PNG")
    return file.getvalue()


def image_seeds() -> list[bytes]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(images()[0]).save(file, "JPEG")
    return [png(), png(), file.getvalue()]


def zip_seeds() -> list[bytes]:
    made = []
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", packing) as archive:
            for name in ("0/0.png", "0/1.png", "1/2.png", "args.json"):
                data = png() if name.endswith("png") else b"{}"
                archive.writestr(zipfile.ZipInfo(name), data, packing)
        made.append(file.getvalue())
    return made


def tar_seeds() -> list[bytes]:
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name in ("a/0.png", "a/" + "n" * (60 if form == tarfile.USTAR_FORMAT else 150) + "é.png"):
                info = tarfile.TarInfo(name)
                info.size = len(png())
                archive.addfile(info, io.BytesIO(png()))
        made.append(file.getvalue())
    return made


def tgz_seeds() -> list[bytes]:
    return [gzip.compress(data, 1, mtime=0) for data in tar_seeds()]
