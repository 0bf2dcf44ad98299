"""Make ``training.npz`` and ``training.json``: training steps and centre crops of the released trainer.

    python tests/goldens/make_training_goldens.py PATH/TO/DiT

PATH is a checkout of facebookresearch/DiT at the commit below; its ``train.py``, ``models.py`` and ``diffusion/`` are
imported unchanged. Needed: torch, torchvision, diffusers, timm. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib
import importlib.metadata
import json
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import PIL.Image
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from dit_goldens import seeded_state
from training_goldens import CROPS, MODEL, crop_input, training_batches

REPOSITORY = "https://github.com/facebookresearch/DiT"
COMMIT = "ed81ce2229091fd4ecc9a223645f95cf379d582b"
# Of models.py, train.py and diffusion/*.py, sorted by path, one after the other.
SOURCES_SHA256 = "0b89c4a9b21425925cc47ffdb33d94debc3e600691cf3b571b7c0774e6712020"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    sources = sorted([path / "models.py", path / "train.py", *path.glob("diffusion/*.py")])
    found = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if found != SOURCES_SHA256:
        sys.exit(f"The sources in {path} have SHA-256 {found}; needed {SOURCES_SHA256}, commit {COMMIT}.")
    sys.path.insert(0, str(path.resolve()))
    released, trainer = importlib.import_module("models"), importlib.import_module("train")
    diffusion = importlib.import_module("diffusion").create_diffusion(timestep_respacing="")

    # The body of the released loop, with its own functions; only what it draws at random is given.
    model = released.DiT(**MODEL).eval()  # training mode would drop labels at random; the batches have dropped some
    model.load_state_dict(seeded_state(model.state_dict()))
    ema = deepcopy(model)
    trainer.requires_grad(ema, False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    trainer.update_ema(ema, model, decay=0)
    losses = []
    for x0, steps, labels, noise in training_batches():
        terms = diffusion.training_losses(model, x0, steps, {"y": labels}, noise=noise)
        loss = terms["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainer.update_ema(ema, model)
        losses.append([terms[name].mean().item() for name in ("loss", "mse", "vb")])
    arrays = {f"model/{name}": value.numpy() for name, value in model.state_dict().items()}
    arrays |= {f"ema/{name}": value.numpy() for name, value in ema.state_dict().items()}
    np.savez_compressed(HERE / "training.npz", **arrays)

    crops = {}
    for (width, height), size in CROPS:
        image = PIL.Image.fromarray(crop_input(width, height))
        pixels = np.array(trainer.center_crop_arr(image, size))
        crops[f"{width}x{height} to {size}"] = hashlib.sha256(pixels.tobytes()).hexdigest()
    made = {
        "repository": REPOSITORY,
        "commit": COMMIT,
        "files": [str(source.relative_to(path)) for source in sources],
        "sha256": SOURCES_SHA256,
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy", "pillow")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "losses": losses,
        "crops": crops,
    }
    (HERE / "training.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
