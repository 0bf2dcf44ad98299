"""How near are predicted times to those taken, what do several processes gain, and how long is FID-50K elsewhere?

    python benchmarks/predictions.py [--part runs] [--part processes] [--part paper] [--images 128]

runs: `sample --dry-run` and `evaluate --dry-run` predict by `dit_eval.cost`; here they predict a run, which is then
made, in the same process: digits, DiT-S/4 at 256 px with random weights and decoder, and scores of 256 and 32 px.
processes: `evaluate` of the same images in 1, 2 and 4 processes of a thread each, by torchrun, with empty caches.
paper: hours of FID-50K of DiT-XL/2 at 256 px. Those of this machine are scaled from a trial; those of GPUs are
arithmetic, of published peak rates and an assumed share of them. Nothing was measured on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from harness import log, print_environment
from machine import INCEPTION_GFLOP, best_rate, products
from speed_features import kept_weights, pictures
from speed_sampling import random_model

from dit_eval.cost import Cost, evaluation_cost, sampling_cost, try_batch
from dit_eval.diffusion.load import choose_and_check, load_sampler
from dit_eval.diffusion.sampler import ImageSampler, usual_batch_size
from dit_eval.evaluation import score
from dit_eval.features.inception import TorchInception
from dit_eval.flops import count_flops
from dit_eval.flops.kept import count_named
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.models import vae_files
from dit_eval.models.config import named_config
from dit_eval.models.vae import Autoencoder
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import EvaluationSettings, SamplingSettings
from dit_eval.sampling import sample_npz
from dit_eval.system.where import Where

PARTS = ("runs", "processes", "paper")
METRICS = ("fid", "sfid", "is", "precision", "recall")
# Dense rates of tensor cores, Tflop/s, in bf16 and TF32, as NVIDIA's data sheets print them.
GPUS = {"A100 (data sheet of 2021)": (312, 156), "H100 SXM (data sheet of 2022)": (989, 495)}
SHARE = 0.4  # of a peak rate: assumed


def told(name: str, predicted: float, run: Callable[[], object]) -> None:
    """Make a run, and print what it took beside what was predicted."""
    begin = time.perf_counter()
    run()
    taken = time.perf_counter() - begin
    sys.stdout.write(f"  {name:<52}{predicted:8.2f} s predicted{taken:8.2f} s taken  x{taken / predicted:.2f}\n")
    sys.stdout.flush()
    log(f"predicted: {name}", {"predicted": predicted, "taken": taken})


def digits(count: int) -> tuple[ImageSampler, np.ndarray]:
    """The embedded model of digits, in 50 steps with guidance."""
    settings = SamplingSettings(num_images=count, num_sampling_steps=50)
    choice = choose_and_check(None, "dit-digits", settings, device="cpu")
    return load_sampler(choice, settings, device="cpu", quiet=True)


def random_sampler(name: str, count: int, steps: int, folder: Path, precision: str = "fp32") -> ImageSampler:
    """A model of 256 px and Stable Diffusion's decoder, both with random weights, with guidance."""
    if not folder.exists():
        AutoencoderKL.from_config(vae_files.SD_CONFIG).save_pretrained(folder)
    config = named_config(name)
    run = SampleRun(
        model=name,
        network=dataclasses.asdict(config),
        checkpoint="random",
        checkpoint_sha256="",
        image_size=256,
        vae="random",
        num_images=count,
        num_sampling_steps=str(steps),
        cfg_scale=1.5,
        cfg_channels=3,
        precision=precision,
        device="cpu",
    )
    decode = Autoencoder(folder, device="cpu").decode
    # Random weights drift far from images; what they decode to must be finite.
    return ImageSampler(
        random_model(config, "cpu"), run, decode=lambda latents: decode(latents.nan_to_num().clamp(-4, 4))
    )


def set_of(path: Path, images: np.ndarray) -> Path:
    write_batch(path, images=[images], shape=images.shape)
    return path


def runs(folder: Path, count: int) -> None:
    sys.stdout.write("Predicted, then made\n")
    samplers = {
        f"{4 * count} digits in 50 steps": digits(4 * count),
        "4 images of DiT-S/4, 256 px, in 10 steps": (random_sampler("DiT-S/4", 4, 10, folder / "vae"), np.arange(4)),
    }
    size = usual_batch_size("cpu")
    for place, (name, (sampler, labels)) in enumerate(samplers.items()):
        out = folder / f"{place}.npz"
        cost = sampling_cost(sampler=sampler, out=out, batch_size=size)
        told(name, cost.total, lambda made=(out, sampler, labels): _draw(*made, size))
    network = TorchInception(weights=kept_weights(folder))
    settings = EvaluationSettings(metrics=METRICS, batch_size=32)
    for pixels in (256, 32):
        images = pictures(2 * count, pixels)
        gen = open_batch(set_of(folder / f"gen{pixels}.npz", images[:count]), role="gen")
        ref = open_batch(set_of(folder / f"ref{pixels}.npz", images[count:]), role="ref")
        cost: Cost = evaluation_cost(gen=gen, ref=ref, network=network, settings=settings)
        again = Where(on_progress=lambda *_: None)
        name = f"scores of {count} against {count} images, {pixels} px"
        told(name, cost.total, lambda sets=(gen, ref), again=again: score(
            gen=sets[0], ref=sets[1], network=network, settings=settings, where=again
        ))  # fmt: skip


def _draw(out: Path, sampler: ImageSampler, labels: np.ndarray, size: int) -> None:
    sample_npz(out, sampler=sampler, labels=labels, batch_size=size)


def processes(folder: Path, count: int) -> None:
    """Phases of an evaluation as its result has them, so that starting up is not among them."""
    images = pictures(2 * count, 256)
    files = [set_of(folder / f"{name}.npz", part) for name, part in (("gen", images[:count]), ("ref", images[count:]))]
    cores = os.cpu_count() or 1
    sys.stdout.write(f"evaluate, {count} against {count} images of 256 px, {cores} cores, a thread each\n")
    alone, found = 0.0, {}
    for number in (1, 2, 4):
        words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={number}", "-m", "dit_eval"]
        words += ["evaluate", files[0], "--ref", files[1], "--weights", kept_weights(folder), "--batch-size", "8"]
        words += ["--cache", folder / f"cache-{number}", "--no-results", "--json", folder / "result.json"]
        environ = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*map(str, words)], env=environ, check=True, capture_output=True, cwd=folder)
        phases = json.loads((folder / "result.json").read_text())["seconds"]
        features = sum(spent for phase, spent in phases.items() if "features" in phase)
        alone = alone or features
        sys.stdout.write(
            f"  {number} processes: features {features:6.2f} s, {alone / features:.2f} times as fast as one, "
            f"{alone / features / min(number, cores):.0%} of {min(number, cores)} cores; all phases "
            f"{sum(phases.values()):.2f} s\n"
        )
        found[number] = phases
    log("evaluate in processes", {"phases": found, "cores": cores})


def decoder_gflop() -> float:
    """Of Stable Diffusion's decoder, for an image of 256 px; a multiply-add counted as two."""
    with torch.device("meta"):
        decoder = AutoencoderKL.from_config(vae_files.SD_CONFIG).decoder
    return 2 * count_flops(decoder, torch.empty(1, 4, 32, 32, device="meta")).gflops("paper")


def paper(folder: Path) -> None:
    """50,000 images of DiT-XL/2, 250 steps, guidance; scored against 10,000 images by all metrics."""
    drawn, passes = 50_000, 2 * 250
    work = {  # floating-point operations
        "steps": 2e9 * count_named("DiT-XL/2").gflops * passes * drawn,
        "decoding": 1e9 * decoder_gflop() * drawn,
        "scoring": 1e9 * INCEPTION_GFLOP * (drawn + 10_000),
    }
    sys.stdout.write("FID-50K of DiT-XL/2, 256 px, 250 steps, guidance 1.5: predicted, not measured\n")
    for precision in ("fp32", "bf16"):
        sampler = random_sampler("DiT-S/2", 8, 10, folder / "vae", precision)
        trial = try_batch(sampler, 8)
        rate = 2e9 * count_named("DiT-S/2").gflops * 2 * trial.filled / trial.step
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        plain = products(kind)
        own = best_rate(plain, {name: [_seconds(each.run) for _ in range(3)] for name, each in plain.items()})
        hours = {"steps": work["steps"] / rate / 3600, "decoding": trial.finish * drawn / 3600}
        hours["scoring"] = work["scoring"] / (0.9e9 * own) / 3600 if precision == "fp32" else float("nan")
        _say(f"this machine, {precision}, at {rate / 1e9:.0f} GFLOP/s as DiT-S/2 runs here", hours)
    for name, (bf16, tf32) in GPUS.items():
        for count in (1, 8):
            half, single = (count * SHARE * peak * 1e12 * 3600 for peak in (bf16, tf32))
            hours = {"steps": work["steps"] / half, "decoding": work["decoding"] / single}
            hours["scoring"] = work["scoring"] / single
            _say(f"{count} x {name}, {SHARE:.0%} of its peak assumed; bf16, the rest TF32", hours)


def _say(what: str, hours: dict[str, float]) -> None:
    total = np.nansum([*hours.values()])
    longest = max((phase for phase in hours if hours[phase] == hours[phase]), key=lambda phase: hours[phase])
    parts = ", ".join(f"{value:,.3g} of {phase}" for phase, value in hours.items() if value == value)
    sys.stdout.write(f"  {what}: {total:,.3g} h ({parts}): {hours[longest] / total:.0%} are {longest}\n")
    log(f"predicted hours: {what}", {"hours": hours})


def _seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--images", type=int, default=128, help="of each side of an evaluation")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    print_environment()
    with tempfile.TemporaryDirectory() as place:
        folder, parts = Path(place), options.part or PARTS
        if "runs" in parts:
            runs(folder, options.images)
        if "processes" in parts:
            processes(folder, options.images)
        if "paper" in parts:
            paper(folder)


if __name__ == "__main__":
    main()
