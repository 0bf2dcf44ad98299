"""How long would FID-50K at 256 and 512 px, and the paper's grid of 72 cells, take on this machine?

python benchmarks/hours_of_fid50k.py [--device cuda --precision bf16 --compile --batch 64] [--patience 3]

Every model whose step is short enough is run for some steps, with random weights; the others are scaled by Gflops from
the largest that was run at that size. Decoder and Inception network, with random weights as well, are run on a few
images. `dit-eval sample --dry-run` and `dit-eval evaluate --dry-run` predict one run in the same way.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from harness import log, print_environment
from speed_sampling import random_model

from dit_eval.cost import evaluation_cost, try_batch
from dit_eval.diffusion.sampler import Decoder, ImageSampler
from dit_eval.features.inception import TorchInception
from dit_eval.flops.kept import count_named
from dit_eval.images.npz import open_batch
from dit_eval.models import vae_files
from dit_eval.models.config import named_config
from dit_eval.models.names import DIT_NAMES
from dit_eval.models.vae import Autoencoder
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import EvaluationSettings
from dit_eval.study.plan_file import load_plan
from dit_eval.summary import GaussianStats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from seeded_inception import seeded_weights, write_state_dict

IMAGES, STEPS, REFERENCE = 50_000, 250, 10_000  # of FID-50K as the paper has it
METRICS = ("fid", "sfid", "is", "precision", "recall")


@dataclass(frozen=True)
class Pace:
    """Seconds of a forward pass for an image, and the Gflops (multiply-adds) of it; measured, or scaled by them."""

    seconds: float
    gflops: float
    measured: bool


def sampler(name: str, size: int, options: argparse.Namespace, decode: Decoder | None = None) -> ImageSampler:
    config = named_config(name, image_size=size)
    run = SampleRun(
        model=name,
        network=dataclasses.asdict(config),
        checkpoint="random",
        checkpoint_sha256="",
        image_size=size,
        vae="random",
        precision=options.precision,
        compiled=options.compile,
        device=options.device,
    )
    # Without a decoder, three channels of the latents stand for the pixels.
    return ImageSampler(random_model(config, options.device), run, decode=decode or (lambda latents: latents[:, :3]))


def paces(size: int, options: argparse.Namespace) -> Iterator[tuple[str, Pace]]:
    """Every model of the paper, the smallest first."""
    largest: Pace | None = None
    for gflops, name in sorted((count_named(name, size).gflops, name) for name in DIT_NAMES):
        expected = 0.0 if largest is None else largest.seconds / largest.gflops * gflops
        if largest is not None and options.batch * expected > options.patience:
            yield name, Pace(expected, gflops, measured=False)
            continue
        trial = try_batch(sampler(name, size, options), options.batch)
        largest = Pace(trial.step / trial.filled, gflops, measured=True)
        yield name, largest


def decoding(folder: Path, size: int, options: argparse.Namespace) -> float:
    """Seconds of the Stable Diffusion decoder for an image."""
    if not folder.exists():
        AutoencoderKL.from_config(vae_files.SD_CONFIG).save_pretrained(folder)
    decoder = Autoencoder(folder, device=options.device)
    return try_batch(sampler("DiT-S/8", size, options, decoder.decode), options.batch).finish


def scoring(weights: Path, size: int, count: int, options: argparse.Namespace) -> float:
    """Seconds of all metrics of `count` images against stored statistics and 10,000 images."""
    if not weights.exists():
        write_state_dict(weights, seeded_weights(0))
    batch = 64 if options.device != "cpu" else 16
    path = weights.with_name(f"{size}.npz")
    np.savez(path, arr_0=np.random.default_rng(0).integers(0, 256, (3 * batch, size, size, 3), np.uint8))
    extractor = TorchInception(weights=weights, device=options.device)
    stored = GaussianStats(mu=np.zeros(extractor.pool_dim), sigma=np.eye(extractor.pool_dim))
    ref = dataclasses.replace(open_batch(path, role="ref"), num_images=REFERENCE, pool=stored)
    gen = open_batch(path, role="gen")
    settings = EvaluationSettings(metrics=METRICS, batch_size=batch, num_images=count)
    cost = evaluation_cost(gen=gen, ref=ref, network=extractor, settings=settings)
    return cost.total


def grid_hours(found: dict[str, Pace], decode: float, score: float) -> dict[str, float]:
    """Figure 10: twelve models, six numbers of steps. Scoring counts the features of the reference each time."""
    cells = [cell for cell in load_plan("paper-256").cells if cell.num_samples < IMAGES]
    drawn = sum(cell.num_samples for cell in cells)
    steps = sum(cell.workload.sampling / cell.gflops * found[cell.model].seconds for cell in cells)
    hours = {"steps": steps / 3600, "decoding": decode * drawn / 3600, "scoring": score * len(cells) / 3600}
    sys.stdout.write(f"  the paper's grid of {len(cells)} cells, {drawn:,} images at 256 px: {in_words(hours)}\n")
    return hours


def in_words(hours: dict[str, float]) -> str:
    return ", ".join(f"{value:,.2f} h of {name}" for name, value in hours.items())


def measure(size: int, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Print and return all figures of an image size."""
    sys.stdout.write(f"{size} px: {STEPS} steps without guidance, {options.precision}, batch {options.batch}\n")
    found = {}
    for name, pace in paces(size, options):
        found[name], each = pace, pace.seconds * STEPS
        how = "measured" if pace.measured else "scaled"
        sys.stdout.write(
            f"  {name:<9}{pace.gflops:8.2f} Gflops {1 / each:10.4f} images/s {IMAGES * each / 3600:12,.1f} h for "
            f"{IMAGES:,} {2 * pace.gflops / pace.seconds:10,.0f} Gflop/s, {how}\n"
        )
    decode = decoding(folder / "vae", size, options)
    full = {
        "steps": 2 * found["DiT-XL/2"].seconds * STEPS * IMAGES / 3600,
        "decoding": decode * IMAGES / 3600,
        "scoring": scoring(folder / "inception.pth", size, IMAGES, options) / 3600,
    }
    sys.stdout.write(f"  FID-50K of DiT-XL/2 at {size} px with guidance: {in_words(full)}\n")
    told: dict[str, object] = {
        "paces": {name: dataclasses.asdict(pace) for name, pace in found.items()},
        "fid-50k": full,
    }
    if size == 256:
        told["grid"] = grid_hours(found, decode, scoring(folder / "inception.pth", size, 10_000, options))
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patience", type=float, default=3.0, metavar="SECONDS", help="longest step that is tried")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512], metavar="PX")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    print_environment()
    with tempfile.TemporaryDirectory() as folder:
        sizes = {str(size): measure(size, Path(folder), options) for size in options.sizes}
    sys.stdout.write(f"a multiply-add counts as two in Gflop/s; {torch.get_num_threads()} threads\n")
    log("scale", {**vars(options), "hours": sizes})


if __name__ == "__main__":
    main()
