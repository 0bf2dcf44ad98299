"""Invented results for the tests of the report: plausible in shape, true of nothing, and named so in every field."""

import dataclasses
import json
import math
import os
import shutil

import numpy as np
import pytest

from dit_eval.flops.kept import Count
from dit_eval.images.npz import RUN_KEY, write_batch
from dit_eval.results.eval_result import Badge, BadgePart, EvalResult, ExtractorInfo, ImageSource
from dit_eval.results.sample_run import SampleRun

SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
GFLOPS = {"S/8": 0.36, "S/4": 1.4, "S/2": 6, "B/8": 1.4, "B/4": 5.6, "B/2": 23, "L/8": 5, "L/4": 20, "L/2": 81,
          "XL/8": 7.4, "XL/4": 29, "XL/2": 119}  # fmt: skip


def sample_run(model="DiT-XL/2", *, block="adaln-zero", image_size=256, **changes):
    size, _, patch = model.removeprefix("DiT-").partition("/")
    depth, hidden_size, num_heads = SIZES[size]
    network = {
        "depth": depth, "hidden_size": hidden_size, "num_heads": num_heads, "patch_size": int(patch),
        "input_size": image_size // 8, "in_channels": 4, "num_classes": 1000, "label_dropout": 0.1,
        "learn_sigma": True, "block": block, "space": "latent",
    }  # fmt: skip
    defaults = {
        "model": model, "network": network, "checkpoint": "synthetic.pt", "checkpoint_sha256": "0" * 64,
        "weights": "ema", "image_size": image_size, "num_images": 50_000, "num_sampling_steps": "250",
        "sampler": "ddpm", "cfg_scale": 1.0, "cfg_channels": None, "vae": "mse", "vae_sha256": None,
        "vae_tiling": False, "labels": "random", "labels_sha256": None, "rounding": "dit", "global_seed": 0,
        "noise": "synthetic", "precision": "fp32", "compiled": False, "device": "cpu",
        "training_steps": 400_000, "training_batch_size": 256,
    }  # fmt: skip
    return SampleRun(**defaults | changes)


def badge(num_samples=50_000, **others):
    """All as published, but for N where it is not 50,000, and for these parts: name -> reason."""
    parts = {name: BadgePart(as_published=name not in others, reason=others.get(name, "synthetic"))
             for name in ("protocol", "weights", "reference")}  # fmt: skip
    return Badge(**parts, num_samples=BadgePart(as_published=num_samples == 50_000, reason=f"{num_samples:,}"))


def result(run, fid, *, num_samples=50_000, protocol="adm-2021", path="synthetic.npz", **changes):
    size = (run.image_size, run.image_size) if run else (8, 8)
    defaults = {
        "fid": fid, "sfid": 4.0 + fid / 12, "inception_score": 2000 / (fid + 8), "precision": 0.85 - fid / 250,
        "recall": 0.68 - fid / 400, "num_samples": num_samples, "num_reference": 10_000, "protocol": protocol,
        "extractor": ExtractorInfo(name="synthetic", weights_sha256="0" * 64, backend="torch", precision="float32",
                                   device="cpu"),
        "gen": ImageSource(path=path, sha256="0" * 64, num_images=num_samples, image_size=size, statistics="computed",
                           run=run),
        "ref": ImageSource(path="synthetic-reference.npz", sha256="1" * 64, num_images=10_000, image_size=size,
                           statistics="stored"),
        "environment": {"dit_eval": "synthetic", "commit": None}, "time": "2000-01-01T00:00:00+00:00",
        "warnings": ("synthetic: invented for a test",),
        "badge": badge(num_samples) if protocol == "adm-2021" else None,
    }  # fmt: skip
    given = defaults | changes
    fields = {f.name for f in dataclasses.fields(EvalResult)}
    scores = {name: given.pop(name) for name in list(given) if name not in fields}
    return EvalResult(scores=scores, **given)


def fid_of(gflops, training_steps, shift=1.0):
    return shift * (14 + 105 / (1 + 0.5 * math.sqrt(gflops)) * (1 + 60_000 / training_steps))


def synthetic_results():
    """A scaling study by the paper's protocol: 12 models over training, block designs, a sampling sweep, guidance."""
    results = []
    for name, gflops in GFLOPS.items():
        for steps in (50_000, 100_000, 200_000, 300_000, 400_000):
            run = sample_run(f"DiT-{name}", training_steps=steps)
            results.append(result(run, fid_of(gflops, steps)))
    for block, shift in (("in-context", 1.8), ("cross-attention", 1.4), ("adaln", 1.25)):
        for steps in (100_000, 200_000, 400_000):
            run = sample_run("DiT-XL/2", block=block, training_steps=steps)
            results.append(result(run, fid_of(119, steps, shift)))
    for name in ("S/2", "B/2", "L/2", "XL/2"):
        for steps in (16, 32, 64, 128, 256, 1000):
            run = sample_run(f"DiT-{name}", num_sampling_steps=str(steps), num_images=10_000)
            fid = fid_of(GFLOPS[name], 400_000) * (1 + 14 / steps) + 3
            results.append(result(run, fid, num_samples=10_000))
    for decoder, fid in (("original", 2.61), ("mse", 2.44), ("ema", 2.39)):
        run = sample_run(cfg_scale=1.5, cfg_channels=3, vae=decoder, training_steps=7_000_000)
        results.append(result(run, fid, sfid=4.81, inception_score=271.3, precision=0.82, recall=0.58))
    run = sample_run(image_size=512, training_steps=3_000_000, cfg_scale=1.5, cfg_channels=3, vae="ema")
    return [*results, result(run, 3.21, sfid=5.1, inception_score=236.0, precision=0.84, recall=0.55)]


# A family in miniature: depth, width, heads; on images of 8 px.
MINI_SIZES = {"S": (2, 24, 2), "B": (2, 48, 4), "L": (4, 64, 4), "XL": (5, 72, 6)}
MINI_STEPS, MINI_SWEEP = (100, 200, 400, 800), (16, 32, 64, 128, 256, 1000)


def mini_run(model, **changes):
    size, _, patch = model.removeprefix("mini-").partition("/")
    depth, hidden_size, num_heads = MINI_SIZES[size]
    network = {
        "depth": depth, "hidden_size": hidden_size, "num_heads": num_heads, "patch_size": int(patch), "input_size": 8,
        "in_channels": 1, "num_classes": 10, "label_dropout": 0.1, "learn_sigma": True,
        "block": changes.pop("block", "adaln-zero"), "space": "pixel",
    }  # fmt: skip
    defaults = {
        "network": network, "image_size": 8, "num_images": 500, "num_sampling_steps": "64", "vae": None,
        "training_steps": 800, "training_batch_size": 64,
    }  # fmt: skip
    return dataclasses.replace(sample_run(), model=model, **defaults | changes)


def mini_gflops(network):
    tokens, width = (network["input_size"] / network["patch_size"]) ** 2, network["hidden_size"]
    return network["depth"] * (12 * tokens * width**2 + 2 * tokens**2 * width) / 1e9


def mini_fid(run, shift=1.0):
    """Falls with Gflops and training, and a little with sampling steps and guidance; with some scatter."""
    gflops, scatter = mini_gflops(run.network), np.random.default_rng(len(run.model) + run.training_steps).normal()
    fid = (12 - 4 * math.log10(gflops)) * (1 + 1200 / run.training_steps) * (1 + 0.08 * scatter) * shift
    return fid * (1 + 6 / int(run.num_sampling_steps)) / (1 + 0.2 * (run.cfg_scale - 1))


def mini_results():
    """A study of a family in miniature: 12 models over training, block designs, a sampling sweep, guidance."""
    runs = []
    for name in (f"mini-{size}/{patch}" for size in MINI_SIZES for patch in (4, 2, 1)):
        runs += [(mini_run(name, training_steps=steps), 1.0) for steps in MINI_STEPS]
        runs += [(mini_run(name, num_sampling_steps=str(steps)), 1.0) for steps in MINI_SWEEP if steps != 64]
        runs += [(mini_run(name, cfg_scale=scale, cfg_channels=1), 1.0) for scale in (1.25, 1.5)]
    for block, shift in (("in-context", 1.5), ("cross-attention", 1.3), ("adaln", 1.15)):
        runs += [(mini_run("mini-XL/2", block=block, training_steps=steps), shift) for steps in MINI_STEPS]
    return [result(run, mini_fid(run, shift), num_samples=500, protocol="digits", num_reference=1297)
            for run, shift in runs]  # fmt: skip


def write_mini_losses(path):
    rng = np.random.default_rng(0)
    names = [f"mini-{size}/{patch}" for size in MINI_SIZES for patch in (4, 2, 1)]
    names += [f"mini-XL/2 {block}" for block in ("in-context", "cross-attention", "adaln")]
    lines = []
    for place, name in enumerate(names):
        for step in range(10, 801, 10):
            mse = 0.35 - 0.012 * place + 0.6 / (1 + step / 60) + 0.01 * rng.standard_normal()
            lines.append({"model": name, "step": step, "loss": mse + 0.002, "mse": mse, "vb": 0.002})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_results(path, results):
    path.write_text("".join(r.to_json() + "\n" for r in results), encoding="utf-8")
    return path


def write_losses(path):
    rng = np.random.default_rng(0)
    lines = []
    for name, floor in (("DiT-S/4", 0.175), ("DiT-B/4", 0.162), ("DiT-XL/4", 0.152), ("DiT-XL/2", 0.146)):
        for step in range(500, 100_001, 500):
            mse = floor + 0.6 / (1 + step / 700) + 0.004 * rng.standard_normal()
            lines.append({"model": name, "step": step, "loss": mse + 0.002, "mse": mse, "vb": 0.002})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def write_grid(folder):
    """Sample files of the 12 models with their runs, and results that name them."""
    rng = np.random.default_rng(1)
    results = []
    y, x = np.mgrid[0:64, 0:64] / 64
    clean = np.stack([127 + 120 * np.sin(6 * x + 3 * y), 255 * x, 255 * y], axis=-1)
    for name, gflops in GFLOPS.items():
        noise = 90 / (1 + math.sqrt(gflops)) * rng.standard_normal(clean.shape)
        images = (clean + noise).clip(0, 255).astype(np.uint8)[None]
        run = sample_run(f"DiT-{name}", num_images=1)
        path = folder / f"synthetic-{name.replace('/', '-')}.npz"
        write_batch(path, images=[images], shape=images.shape, arrays={RUN_KEY: np.array(run.to_json())})
        results.append(dataclasses.replace(result(run, fid_of(gflops, 400_000)), gen=dataclasses.replace(
            result(run, 1.0).gen, path=path.name)))  # fmt: skip
    return results


def start_browser(profile):
    """A headless Chromium that logs what it prints and fetches; where there is none, the test is skipped but for CI."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")) and not os.environ.get("CI"):
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def rough_count(network):
    """Gflops that cost no time: right to a few per cent, for tests that are on something else."""
    tokens, width = (network["input_size"] / network["patch_size"]) ** 2, network["hidden_size"]
    return Count(gflops=network["depth"] * (12 * tokens * width**2 + 2 * tokens**2 * width) / 1e9, params_m=1.0)
