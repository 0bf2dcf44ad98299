"""Make ``dit.npz`` and ``dit.json``: outputs of the released DiT module and sampling loops on seeded weights.

    python tests/goldens/make_dit_goldens.py PATH/TO/DiT

PATH is a checkout of facebookresearch/DiT at the commit below; its ``models.py`` and ``diffusion/`` are imported
unchanged. Needed: torch, timm. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from dit_goldens import (
    CASES,
    LOOP_LABELS,
    LOOP_MODEL,
    LOOPS,
    inputs,
    loop_noise,
    seeded_state,
    training_batch,
)

REPOSITORY = "https://github.com/facebookresearch/DiT"
COMMIT = "ed81ce2229091fd4ecc9a223645f95cf379d582b"
# Of models.py and diffusion/*.py, sorted by path, one after the other.
SOURCES_SHA256 = "8337fb19c3ee9dfaf725a7719d3b0d8f97129da4fea163e5bfdee11abd69a7f7"


def trajectory(diffusion: Any, model: Any, sampler: str, cfg_scale: float) -> np.ndarray:
    """x after every step of the released loop, (S, 2, 4, 4, 4), with the noise that it draws replaced by ours."""
    noise = loop_noise(diffusion.num_timesteps + 1)
    draws = iter(noise[1:])
    start = torch.cat([noise[0], noise[0]])
    labels = torch.cat([LOOP_LABELS, torch.full_like(LOOP_LABELS, LOOP_MODEL["num_classes"])])
    loop = diffusion.p_sample_loop_progressive if sampler == "ddpm" else diffusion.ddim_sample_loop_progressive
    drawn = torch.randn_like
    torch.randn_like = lambda x: torch.cat([half := next(draws), half])
    try:
        steps = loop(
            model.forward_with_cfg,
            start.shape,
            start,
            clip_denoised=False,
            model_kwargs={"y": labels, "cfg_scale": cfg_scale},
            device="cpu",
        )
        return np.stack([step["sample"][:2].numpy() for step in steps])
    finally:
        torch.randn_like = drawn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    sources = sorted([path / "models.py", *path.glob("diffusion/*.py")])
    found = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    if found != SOURCES_SHA256:
        sys.exit(f"models.py and diffusion/ of {path} have SHA-256 {found}; needed {SOURCES_SHA256}, commit {COMMIT}.")
    sys.path.insert(0, str(path.resolve()))
    released = importlib.import_module("models")
    create_diffusion = importlib.import_module("diffusion").create_diffusion

    outputs, losses = {}, {}
    with torch.inference_mode():
        for case, (config, cfg_scale) in CASES.items():
            model = released.DiT(**config).eval()
            model.load_state_dict(seeded_state(model.state_dict()))
            x, t, y = inputs(config)
            out = model(x, t, y) if cfg_scale is None else model.forward_with_cfg(x, t, y, cfg_scale)
            outputs[case] = out.numpy()
        model = released.DiT(**LOOP_MODEL).eval()
        model.load_state_dict(seeded_state(model.state_dict()))
        for name, (spacing, sampler, cfg_scale) in LOOPS.items():
            outputs[name] = trajectory(create_diffusion(spacing), model, sampler, cfg_scale)
        x0, steps, labels, noise = training_batch()
        terms = create_diffusion("").training_losses(model, x0, steps, {"y": labels}, noise=noise)
        losses = {name: terms[name].tolist() for name in ("loss", "mse", "vb")}
    for name, array in outputs.items():
        sys.stdout.write(f"{name}: {array.shape}, largest {np.abs(array).max():.3f}\n")
    np.savez_compressed(HERE / "dit.npz", **outputs)
    made = {
        "repository": REPOSITORY,
        "commit": COMMIT,
        "files": [str(source.relative_to(path)) for source in sources],
        "sha256": SOURCES_SHA256,
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cases": {case: {"config": config, "cfg_scale": scale} for case, (config, scale) in CASES.items()},
        "loops": {name: {"spacing": s, "sampler": m, "cfg_scale": c} for name, (s, m, c) in LOOPS.items()},
        "training_losses": losses,
        "sections 10,15,20 of 300": sorted(importlib.import_module("diffusion").space_timesteps(300, "10,15,20")),
    }
    (HERE / "dit.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
