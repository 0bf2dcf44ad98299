"""Make ``unet.npz`` and ``unet.json``: outputs of the original ADM and LDM U-Nets, layout of the full-size ones.

    python tests/goldens/make_unet_goldens.py PATH/TO/guided-diffusion PATH/TO/latent-diffusion

Both are checkouts at the commits below; their modules are imported unchanged. Needed: torch, einops, omegaconf, PyYAML.
See README.md beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib
import importlib.metadata
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from unet_goldens import CASES, inputs, layout, seeded_state

SOURCES = {
    "openai/guided-diffusion": (
        "22e0df8183507e13a7813f8d38d51b072ca1e67c",
        ["README.md", "guided_diffusion/nn.py", "guided_diffusion/script_util.py", "guided_diffusion/unet.py"],
        "ADM",
    ),
    "CompVis/latent-diffusion": (
        "a506df5756472e2ebaf9078affdde2c4f1502cd4",
        [
            "configs/latent-diffusion/cin256-v2.yaml",
            "ldm/modules/attention.py",
            "ldm/modules/diffusionmodules/openaimodel.py",
            "ldm/modules/diffusionmodules/util.py",
            "models/ldm/cin256/config.yaml",
        ],
        "LDM",
    ),
}
SHA256 = {
    "ADM": "bf42055f33c222b925a37c9934a0a1d535e07be6a4a82fca4a801bebceddc658",
    "LDM": "b57da7953a8318c905c4cbcac48ca27890c37fc2af53ce2717d41d3f93d61f24",
}
# Our names of the class-conditional models, by the line of model flags in the README (counted from 0).
FLAGS = {
    "ADM-64": 0, "ADM-128": 1, "ADM-256": 2, "ADM-512": 4, "ADM-U-256-upsampler": 5, "ADM-U-512-upsampler": 6,
}  # fmt: skip
YAMLS = {"LDM-4": "configs/latent-diffusion/cin256-v2.yaml", "LDM-8": "models/ldm/cin256/config.yaml"}


def digest(root: Path, files: list[str]) -> str:
    return hashlib.sha256(b"".join((root / file).read_bytes() for file in files)).hexdigest()


def original(case: dict[str, Any], adm: Any, ldm: Any) -> torch.nn.Module:
    """The original module of a small configuration, written in our words."""
    arguments = {
        "image_size": case["image_size"],
        "in_channels": case.get("in_channels", 3),
        "model_channels": case["channels"],
        "out_channels": case.get("out_channels", 6),
        "num_res_blocks": case["num_res_blocks"],
        "attention_resolutions": case["attention_at"],
        "channel_mult": case["channel_mult"],
        "num_heads": case.get("num_heads", -1),
        "num_head_channels": case.get("head_channels", -1),
        "dropout": case.get("dropout", 0.0),
    }
    if case.get("context_dim"):
        return ldm.UNetModel(**arguments, use_spatial_transformer=True, context_dim=case["context_dim"])
    return (adm.SuperResModel if case.get("low_res_size") else adm.UNetModel)(
        **arguments,
        num_classes=case["num_classes"],
        resblock_updown=True,
        use_scale_shift_norm=True,
        use_new_attention_order=case.get("new_attention_order", False),
    )


def released(name: str, flags: list[str], adm_root: Path, ldm_root: Path, ldm: Any) -> torch.nn.Module:
    """The full-size module, from the repository's own flags or configuration file."""
    if name in YAMLS:
        parameters = yaml.safe_load((ldm_root / YAMLS[name]).read_text())["model"]["params"]["unet_config"]["params"]
        return ldm.UNetModel(**parameters)
    script = importlib.import_module("guided_diffusion.script_util")
    upsampler = "upsampler" in name
    defaults = script.sr_model_and_diffusion_defaults() if upsampler else script.model_and_diffusion_defaults()
    parser = argparse.ArgumentParser()
    script.add_dict_to_argparser(parser, defaults)
    chosen = vars(parser.parse_args(shlex.split(flags[FLAGS[name]])))
    create = script.sr_create_model if upsampler else script.create_model
    names = create.__code__.co_varnames[: create.__code__.co_argcount]
    return create(**{key: chosen[key] for key in names if key in chosen})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("adm", type=Path)
    parser.add_argument("ldm", type=Path)
    arguments = parser.parse_args()
    roots = {"ADM": arguments.adm.resolve(), "LDM": arguments.ldm.resolve()}
    for repository, (commit, files, key) in SOURCES.items():
        found = digest(roots[key], files)
        if found != SHA256[key]:
            sys.exit(f"{repository}: these files have SHA-256 {found}; needed {SHA256[key]}, commit {commit}.")
        sys.path.insert(0, str(roots[key]))
    adm = importlib.import_module("guided_diffusion.unet")
    ldm = importlib.import_module("ldm.modules.diffusionmodules.openaimodel")

    outputs = {}
    with torch.no_grad():
        for name, case in CASES.items():
            model = original(case, adm, ldm).eval()
            model.load_state_dict(seeded_state(model.state_dict()))
            given = inputs(case)
            outputs[name] = model(given.pop("x"), given.pop("t"), **given).numpy()
            sys.stdout.write(f"{name}: {outputs[name].shape}, largest {np.abs(outputs[name]).max():.3f}\n")
    np.savez_compressed(HERE / "unet.npz", **outputs)

    lines = (roots["ADM"] / "README.md").read_text().splitlines()
    flags = [line.split("=", 1)[1].strip('"') for line in lines if line.startswith("MODEL_FLAGS=")]
    sizes = {}
    for name in [*FLAGS, *YAMLS]:
        with torch.device("meta"):
            model = released(name, flags, roots["ADM"], roots["LDM"], ldm)
        sizes[name] = {
            "params": sum(p.numel() for p in model.parameters()),
            "layout_sha256": hashlib.sha256(layout(model.state_dict()).encode()).hexdigest(),
        }
        sys.stdout.write(f"{name}: {sizes[name]['params']:,} parameters\n")
    made = {
        "sources": [
            {"repository": repository, "commit": commit, "files": files, "sha256": SHA256[key]}
            for repository, (commit, files, key) in SOURCES.items()
        ],
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "einops", "numpy")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "full size": sizes,
    }
    (HERE / "unet.json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
