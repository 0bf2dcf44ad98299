"""Make ``dit.npz`` and ``dit.json``: outputs of the released DiT module on seeded weights.

    python tests/goldens/make_dit_goldens.py PATH/TO/DiT

PATH is a checkout of facebookresearch/DiT at the commit below, or its ``models.py``, which is imported unchanged.
Needed: torch, timm. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from dit_goldens import CASES, inputs, seeded_state  # noqa: E402

REPOSITORY = "https://github.com/facebookresearch/DiT"
COMMIT = "ed81ce2229091fd4ecc9a223645f95cf379d582b"
MODELS_SHA256 = "1b8031a1340a3d1045c0bdb382334068f5f20e32edf67b3e6aba961ba91846ca"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    path = path if path.is_file() else path / "models.py"
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != MODELS_SHA256:
        sys.exit(f"{path} has SHA-256 {found}; needed {MODELS_SHA256}, models.py at commit {COMMIT}.")
    spec = importlib.util.spec_from_file_location("released_dit", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} cannot be imported.")
    released = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(released)

    outputs = {}
    for case, (config, cfg_scale) in CASES.items():
        model = released.DiT(**config).eval()
        model.load_state_dict(seeded_state(model.state_dict()))
        x, t, y = inputs(config)
        with torch.inference_mode():
            out = model(x, t, y) if cfg_scale is None else model.forward_with_cfg(x, t, y, cfg_scale)
        outputs[case] = out.numpy()
        sys.stdout.write(f"{case}: {tuple(out.shape)}, largest {out.abs().max():.3f}\n")
    np.savez_compressed(HERE / "dit.npz", **outputs)
    made = {
        "repository": REPOSITORY,
        "commit": COMMIT,
        "file": "models.py",
        "sha256": MODELS_SHA256,
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cases": {case: {"config": config, "cfg_scale": scale} for case, (config, scale) in CASES.items()},
    }
    (HERE / "dit.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
