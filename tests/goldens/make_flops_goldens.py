"""Make ``flops.json``: what plain fvcore and PyTorch's counter say about the original DiT, ADM and LDM modules.

    python tests/goldens/make_flops_goldens.py PATH/TO/DiT PATH/TO/guided-diffusion PATH/TO/latent-diffusion

The checkouts are those of make_dit_goldens.py and make_unet_goldens.py. fvcore runs on the CPU with its defaults, as a
user would run it, with unfused attention, and with activation checkpointing replaced by a plain call, which it cannot
trace. A few minutes and 12 GB of memory. Needed: torch, timm, fvcore, einops, omegaconf, PyYAML.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import make_dit_goldens
import make_unet_goldens

DITS = [(f"DiT-{size}/{patch}", 256) for size in ("S", "B", "L", "XL") for patch in (8, 4, 2)] + [("DiT-XL/2", 512)]


def counts(model: torch.nn.Module, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """fvcore's total by operator, and PyTorch's multiply-adds."""
    model.eval()
    with torch.no_grad():
        analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        operators = {name: int(value) for name, value in sorted(analysis.by_operator().items())}
        with FlopCounterMode(display=False) as counter:
            model(*inputs)
    total = int(analysis.total())
    sys.stdout.write(f"  fvcore {total:,}, multiply-adds {counter.get_total_flops() // 2:,}\n")
    sys.stdout.flush()
    return {"fvcore": total, "by_operator": operators, "macs": counter.get_total_flops() // 2}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("dit", "adm", "ldm"):
        parser.add_argument(name, type=Path)
    paths = parser.parse_args()
    sys.path[:0] = [str(path.resolve()) for path in (paths.dit, paths.adm, paths.ldm)]
    logging.disable(logging.WARNING)
    released = importlib.import_module("models")
    adm = importlib.import_module("guided_diffusion.unet")
    ldm = importlib.import_module("ldm.modules.diffusionmodules.openaimodel")
    attention = importlib.import_module("ldm.modules.attention")
    for module in (adm, ldm, attention):
        module.checkpoint = lambda function, inputs, parameters, flag: function(*inputs)

    rows = {}
    time, label = torch.zeros(1), torch.zeros(1, dtype=torch.long)
    for name, size in DITS:
        sys.stdout.write(f"{name} {size}\n")
        model = released.DiT_models[name](input_size=size // 8)
        for block in model.blocks:
            block.attn.fused_attn = False
        rows[f"{name} {size}"] = counts(model, (torch.zeros(1, 4, size // 8, size // 8), time, label))
    lines = (paths.adm / "README.md").read_text().splitlines()
    flags = [line.split("=", 1)[1].strip('"') for line in lines if line.startswith("MODEL_FLAGS=")]
    for name in [*make_unet_goldens.FLAGS, *make_unet_goldens.YAMLS]:
        sys.stdout.write(f"{name}\n")
        model = make_unet_goldens.released(name, flags, paths.adm, paths.ldm, ldm)
        model.dtype = torch.float32  # the flags ask for half precision, which changes no count
        side = model.image_size
        inputs: tuple[Any, ...] = (torch.zeros(1, 3, side, side), time, label)
        if name in make_unet_goldens.YAMLS:
            inputs = (torch.zeros(1, model.in_channels, side, side), time, torch.zeros(1, 1, 512))
        elif "upsampler" in name:
            forward = model.forward
            small = side // 4
            model.forward = lambda x, t, y, low_res, forward=forward: forward(x, t, low_res=low_res, y=y)
            inputs = (*inputs, torch.zeros(1, 3, small, small))
        rows[name] = counts(model, inputs)
    made = {
        "sources": [
            {"repository": make_dit_goldens.REPOSITORY, "commit": make_dit_goldens.COMMIT},
            *({"repository": r, "commit": commit} for r, (commit, _, _) in make_unet_goldens.SOURCES.items()),
        ],
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "timm", "fvcore")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "rows": rows,
    }
    (HERE / "flops.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
