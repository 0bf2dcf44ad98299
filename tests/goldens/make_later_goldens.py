"""Make ``later.npz`` and ``later.json``: what the modules of later programs make of seeded weights.

    python tests/goldens/make_later_goldens.py SiT REPA fast-DiT LightningDiT MaskDiT MDT U-ViT FiT

The paths are checkouts at the commits below, in this order; their modules are imported unchanged. Of fairscale, which
LightningDiT's file with its RMSNorm imports for other classes, empty modules are given. Needed: torch, timm, einops,
torchdiffeq, scipy, tqdm. See README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import importlib
import importlib.metadata
import inspect
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

os.environ["TORCH_COMPILE_DISABLE"] = "1"  # the modules as they are written

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parents[1])]

from later_goldens import (
    CASES,
    LARGE,
    SAMPLED,
    SAMPLED_CASE,
    SAMPLED_LABELS,
    later_inputs,
    start,
    weights,
)

from dit_eval.models.lightning import network, network_config

# Repository, commit, module and the SHA-256 of the files that are run.
SOURCES = {
    "SiT": ("willisma/SiT", "947f95bd3a510e9af441d38c1e9f72e0eee873c5", "models"),
    "REPA": ("sihyun-yu/REPA", "67f714503e3892f993844aab088ffc5791c92613", "models.sit"),
    "fast-DiT": ("chuanyangjin/fast-DiT", "0ddbd642f47057d5ec6145529237e1043a335942", "models"),
    "LightningDiT": ("hustvl/LightningDiT", "2725fed42a14898744433809949834e26957bcdd", "models.lightningdit"),
    "MaskDiT": ("Anima-Lab/MaskDiT", "73cfb96ca9c6d1d78ab567ffeea099f96692a6e4", "models.maskdit"),
    "MDT": ("sail-sg/MDT", "7d26c2162c462bd0b90f97f3a1c36cdaaac616ec", "masked_diffusion.models"),
    "U-ViT": ("baofff/U-ViT", "ce551708dc9cde9818d2af7d84dfadfeb7bd9034", "libs.uvit"),
    "FiT": ("whlzy/FiT", "b22b7b0ac4bf841242711f5c20703d072708270e", "fit.model.fit_model"),
}
OURS_TO_LIGHTNING = {"qk_norm": "use_qknorm", "rms_norm": "use_rmsnorm", "swiglu": "use_swiglu", "rope": "use_rope"}


def given_empty() -> None:
    """Modules that are imported for what is not run here, with nothing in them but names."""
    names = ("fairscale", "fairscale.nn", "fairscale.nn.model_parallel")
    for name in (*names, f"{names[-1]}.initialize", f"{names[-1]}.layers"):
        sys.modules[name] = types.ModuleType(name)
    layers = sys.modules[f"{names[-1]}.layers"]
    layers.ColumnParallelLinear = layers.ParallelEmbedding = layers.RowParallelLinear = None
    sincos = sys.modules["fit.model.sincos"] = types.ModuleType("fit.model.sincos")  # not in FiT's repository
    sincos.get_2d_sincos_pos_embed_from_grid = None


def loaded(path: Path, *names: str) -> list[Any]:
    """Modules of a checkout; several have one that is called models."""
    sys.path.insert(0, str(path.resolve()))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.pop(0)
        ours = ("models", "transport", "libs", "fit", "masked_diffusion")
        for name in [each for each in sys.modules if each.split(".")[0] in ours and each != "fit.model.sincos"]:
            del sys.modules[name]


def theirs(whose: str, module: Any, config: dict[str, Any]) -> Any:
    """The module of one program for one of our configurations."""
    told = {key: value for key, value in config.items() if key not in (*OURS_TO_LIGHTNING, "shift")}
    if whose == "REPA":
        extra = {"decoder_hidden_size": config["hidden_size"], "encoder_depth": 1, "z_dims": [8], "projector_dim": 8}
        return module.SiT(**{k: v for k, v in told.items() if k != "learn_sigma"}, **extra,
                          qk_norm=config.get("qk_norm", False))  # fmt: skip
    if whose == "LightningDiT":
        told |= {name: config.get(ours, False) for ours, name in OURS_TO_LIGHTNING.items()}
        told |= {"learn_sigma": config.get("learn_sigma", True), "in_channels": config.get("in_channels", 4)}
        return module.LightningDiT(**told, wo_shift=not config.get("shift", True))
    return getattr(module, "SiT" if whose == "SiT" else "DiT")(**told)


def with_weights(model: Any, config: dict[str, Any]) -> Any:
    left = model.load_state_dict(weights(network(network_config(config)).state_dict()), strict=False)
    if left.unexpected_keys or any(not key.startswith("projectors.") for key in left.missing_keys):
        sys.exit(f"its module has other tensors: {left}")
    return model.eval()


def layout(model: Any) -> dict[str, Any]:
    """Number of tensors and of numbers that train, and the SHA-256 of the sorted names and shapes."""
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in model.state_dict().items())
    params = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"tensors": len(lines), "params": params, "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def counted(module: Any, name: str, told: dict[str, Any]) -> dict[str, Any]:
    """The layout of a published model, and the multiply-adds of a forward pass by PyTorch's own counter."""
    models = next(value for key, value in vars(module).items() if key.endswith("_models"))
    with torch.device("meta"), no_copies():
        model = models[name](**told).eval()
        x = torch.empty(1, model.in_channels, told.get("input_size", 32), told.get("input_size", 32))
        with FlopCounterMode(display=False) as counter:
            model(x, torch.zeros(1), torch.zeros(1, dtype=torch.long))
    return layout(model) | {"macs": counter.get_total_flops() // 2}


@contextlib.contextmanager
def no_copies() -> Any:
    """Modules on the meta device copy NumPy's tables into parameters, which have no values there."""
    plain = torch.Tensor.copy_
    torch.Tensor.copy_ = lambda self, *_: self
    try:
        yield
    finally:
        torch.Tensor.copy_ = plain


def foreign(modules: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of small networks that are not ours."""
    small = {"depth": 2, "num_heads": 4, "num_classes": 10}
    mask = modules["MaskDiT"]
    with contextlib.redirect_stdout(sys.stderr):
        made = {
            "MaskDiT": mask.EDMPrecond(8, 4, 10, model_type="DiT-S/2", use_decoder=True, mae_loss_coef=0.1),
            "MaskDiT without its decoder": mask.EDMPrecond(8, 4, 10, model_type="DiT-S/2"),
            "MDTv2": modules["MDT"].MDTv2(8, 2, 4, 64, **small | {"depth": 4}, decode_layer=2),
            "U-ViT": modules["U-ViT"].UViT(8, 2, 4, 64, **small, mlp_time_embed=False),
            "FiT": modules["FiT"].FiT(context_size=16, patch_size=2, in_channels=4, hidden_size=64, **small),
            "FiT, SwiGLU and LoRA": modules["FiT"].FiT(
                context_size=16, patch_size=2, in_channels=4, hidden_size=64, **small, use_swiglu=True,
                adaln_type="lora", adaln_lora_dim=16,
            ),
        }  # fmt: skip
    return {name: {key: list(v.shape) for key, v in model.state_dict().items()} for name, model in made.items()}


def sampled(module: Any, transport: Any) -> tuple[np.ndarray, np.ndarray]:
    """The last state of two images by LightningDiT's sampler, and what its network was asked of the first."""
    config = CASES[SAMPLED_CASE][1]
    model = with_weights(theirs("LightningDiT", module, config), config)
    sampler = transport.Sampler(transport.create_transport("Linear", "velocity"))
    run = sampler.sample_ode(
        sampling_method="euler",
        num_steps=SAMPLED["num_sampling_steps"],
        timestep_shift=SAMPLED["timestep_shift"],
    )
    z, y, asked = torch.cat([start(), start()]), torch.cat([SAMPLED_LABELS, torch.tensor([10, 10])]), []

    def seen(x: torch.Tensor, t: torch.Tensor, **keywords: Any) -> torch.Tensor:
        asked.append(x[0].numpy().copy())
        return model.forward_with_cfg(x, t, **keywords)

    with torch.no_grad():
        last = run(z, seen, y=y, cfg_scale=SAMPLED["cfg_scale"], cfg_interval=True,
                   cfg_interval_start=SAMPLED["guidance_interval"][0])[-1]  # fmt: skip
    return last[:2].numpy(), np.stack(asked)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in SOURCES:
        parser.add_argument(name, type=Path)
    paths = {name: Path(path) for name, path in vars(parser.parse_args()).items()}
    given_empty()
    modules, transport = {}, None
    for name, (_, _, module) in SOURCES.items():
        modules[name], *more = loaded(paths[name], module, *(["transport"] if name == "LightningDiT" else []))
        transport = more[0] if more else transport
    digests = {
        name: hashlib.sha256(Path(inspect.getfile(module)).read_bytes()).hexdigest() for name, module in modules.items()
    }
    outputs = {}
    for case, (whose, config) in CASES.items():
        model = with_weights(theirs(whose, modules[whose], config), config)
        with torch.no_grad():
            found = model(*later_inputs(config))
        outputs[case] = (found[0] if isinstance(found, tuple) else found).numpy()
        sys.stdout.write(f"{case}: {outputs[case].shape}, largest {np.abs(outputs[case]).max():.3f}\n")
    outputs["sampled/last"], outputs["sampled/asked"] = sampled(modules["LightningDiT"], transport)
    np.savez_compressed(HERE / "later.npz", **outputs)
    made = {
        "sources": {
            name: {"repository": f"https://github.com/{repository}", "commit": commit, "sha256": digests[name]}
            for name, (repository, commit, _) in SOURCES.items()
        },
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy", "torchdiffeq")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "large": {name: counted(modules[whose], own, told) for name, (whose, own, told) in LARGE.items()},
        "foreign": foreign(modules),
    }
    (HERE / "later.json").write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    main()
