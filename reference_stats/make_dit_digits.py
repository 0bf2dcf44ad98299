"""Train the embedded DiT on handwritten digits: reference_stats/dit-digits.safetensors.

    python reference_stats/make_dit_digits.py [--steps 12000]

A DiT in pixel space, small enough for two cores: 8x8 grey digits, patch size 2, adaLN-Zero, learned variance. Data are
the 1,297 images of `digits.npz`, so the 500 held-out digits stay unseen. The recipe is the paper's in kind (AdamW
without decay, MSE plus variational term, label dropout 0.1, averaged weights) with what so small a scale needs: a
higher learning rate that decays, a shorter average, and no flips, since a mirrored 2 is no digit. How it was trained
is kept in the file's metadata. Retraining gives the same weights on the same machine and PyTorch only.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from copy import deepcopy

import numpy as np
import torch

from dit_eval.assets import asset, embedded_dir
from dit_eval.diffusion import NUM_TRAIN_STEPS, Diffusion
from dit_eval.models.checkpoints import save_dit
from dit_eval.models.dit import DiT, DiTConfig
from dit_eval.npz import open_batch

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
BATCH, LEARNING_RATE, EMA, WARM_UP, SEED = 128, 2e-3, 0.9995, 200, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12_000)
    steps = parser.parse_args().steps
    batch = open_batch(asset("digits").path, role="ref")
    images = torch.from_numpy(np.concatenate(list(batch.batches(500)))[..., :1]).permute(0, 3, 1, 2)
    data, labels = images.float() / 127.5 - 1.0, torch.from_numpy(batch.labels)

    torch.manual_seed(SEED)
    model, diffusion = DiT(CONFIG).train(), Diffusion()
    average = deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    begin, shown = time.perf_counter(), 0.0
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        chosen = torch.randint(len(data), (BATCH,))
        x0, y, t = data[chosen], labels[chosen], torch.randint(NUM_TRAIN_STEPS, (BATCH,))
        losses = diffusion.training_losses(lambda x, s, y=y: model(x, s, y), x0, t, torch.randn_like(x0))
        optimizer.zero_grad()
        losses["loss"].mean().backward()
        optimizer.step()
        with torch.no_grad():
            decay = min(EMA, (1 + step) / (10 + step))
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                if new.requires_grad:
                    kept.lerp_(new, 1 - decay)
        shown += 0.01 * (losses["mse"].mean().item() - shown)
        if (step + 1) % 500 == 0:
            sys.stderr.write(f"step {step + 1:6d}  mse {shown:.4f}  {time.perf_counter() - begin:.0f} s\n")
    notes = {
        "data": "1,297 digits of digits.npz (scikit-learn's copy of the UCI digits), 8x8, grey in -1..1",
        "training": f"{steps} steps, batch {BATCH}, AdamW {LEARNING_RATE} with cosine decay and {WARM_UP} warm-up "
        f"steps, EMA {EMA}, label dropout {CONFIG.label_dropout}, no flips, seed {SEED}; MSE plus variational term",
        "made by": "reference_stats/make_dit_digits.py",
        "torch": torch.__version__,
    }
    path = embedded_dir() / "dit-digits.safetensors"
    save_dit(path, average.eval(), notes=notes)
    sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes, mse {shown:.4f}\n")


if __name__ == "__main__":
    main()
