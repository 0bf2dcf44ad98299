"""Train the embedded DiT on handwritten digits: reference_stats/dit-digits.safetensors.

    python reference_stats/make_dit_digits.py [--steps 12000] [--out FILE]

A DiT in pixel space, small enough for two cores: 8x8 grey digits, patch size 2, adaLN-Zero, learned variance. Data are
the 1,297 images of `digits.npz`, so the 500 held-out digits stay unseen. The recipe is the paper's in kind (AdamW
without decay, MSE plus variational term, label dropout 0.1, averaged weights) with what so small a scale needs: a
higher learning rate that decays, a shorter average, and no flips, since a mirrored 2 is no digit. How it was trained
is kept in the file's metadata.

The committed file was trained by a loop of this script's own, with the same recipe and other random numbers, before
`dit_eval.training` was there. So this script makes a model of the same kind, not the same weights. It gives the same
weights again on the same machine and PyTorch only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from dit_eval.diffusion.data import open_npz
from dit_eval.diffusion.recipe import Recipe, Schedule
from dit_eval.models.checkpoints import load_dit, save_dit
from dit_eval.models.config import DiTConfig
from dit_eval.system.assets import asset, embedded_dir
from dit_eval.training import TrainingRun, train

CONFIG = DiTConfig(
    depth=5,
    hidden_size=64,
    num_heads=4,
    patch_size=2,
    input_size=8,
    in_channels=1,
    num_classes=10,
    space="pixel",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--out", type=Path, default=embedded_dir() / "dit-digits.safetensors")
    arguments = parser.parse_args()
    recipe = Recipe(
        learning_rate=2e-3,
        batch_size=128,
        ema_decay=0.9995,
        flip=0.0,
        warm_up=200,
        decay_steps=arguments.steps,
        ema_warm_up=True,
    )

    def show(step: int, steps: int, loss: float | None) -> None:
        if step % 500 == 0:
            sys.stderr.write(f"step {step:6d} of {steps}  loss {loss:.4f}\n")

    with tempfile.TemporaryDirectory() as folder:
        data, schedule = open_npz(asset("digits").path, channels=1), Schedule(steps=arguments.steps)
        run = TrainingRun(config=CONFIG, data=data, recipe=recipe, schedule=schedule)
        end = train(folder, run, on_progress=show)
        model = load_dit(end.ema, CONFIG)
    notes = {
        "data": "1,297 digits of digits.npz (scikit-learn's copy of the UCI digits), 8x8, grey in -1..1",
        "training": f"{arguments.steps} steps, batch {recipe.batch_size}, AdamW {recipe.learning_rate} with cosine "
        f"decay and {recipe.warm_up} warm-up steps, EMA {recipe.ema_decay}, label dropout {CONFIG.label_dropout}, no "
        f"flips, seed {recipe.global_seed}; MSE plus variational term",
        "made by": "reference_stats/make_dit_digits.py",
        "torch": torch.__version__,
    }
    save_dit(arguments.out, model, notes=notes)
    sys.stdout.write(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes, loss {end.loss:.4f}\n")


if __name__ == "__main__":
    main()
