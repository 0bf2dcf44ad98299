"""How many networks of timm, torchvision and diffusers does `count_flops` count, and does any end in a traceback?

python benchmarks/flops_coverage.py [--library timm] [--only PART_OF_A_NAME] [--list]

One small model of each file of the library, on the meta device (detection on the CPU, since its control flow depends
on values). The independent value is PyTorch's own counter, asked here without dit-eval: its total, halved. After each
count the model is compared with what it was. A refusal is a ValueError that names an operator; anything else that is
raised is a traceback, and a fault of dit-eval. Models of diffusers take inputs of many kinds: those that none of the
tried inputs fit are listed as not fed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import itertools
import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from harness import log, print_environment
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dit_eval.flops import count_flops


@dataclass(frozen=True, kw_only=True)
class Network:
    """A model with inputs that it takes; `inputs` is None if no inputs were found."""

    library: str
    name: str
    module: nn.Module
    inputs: tuple[Any, ...] | None
    keywords: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """counted, refused, not fed, or traceback; a reason; whether the model is as before; equal to PyTorch's counter."""

    library: str
    name: str
    kind: str
    reason: str = ""
    gmacs: float = 0.0
    unchanged: bool = True
    equal: bool = True


SMALL = (
    "test_",
    "femto",
    "atto",
    "pico",
    "nano",
    "xxs",
    "xxt",
    "_tiny",
    "tiny",
    "_xs",
    "_t0",
    "_s0",
    "small",
    "_s",
    "_b0",
    "s12",
)


def timm_networks(only: str) -> Iterator[Network]:
    timm = importlib.import_module("timm")
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(timm.models.model_entrypoint(name).__module__.rpartition(".")[2], []).append(name)
    for family, names in sorted(families.items()):
        rank = {name: next((i for i, part in enumerate(SMALL) if part in name), len(SMALL)) for name in names}
        name = min(names, key=lambda name: (name.startswith("test_"), rank[name], len(name), name))
        if only not in f"{family}/{name}":
            continue
        with torch.device("meta"):
            module = timm.create_model(name)
        size = module.default_cfg.get("input_size", (3, 224, 224))
        yield Network(
            library="timm", name=f"{family}/{name}", module=module, keywords={},
            inputs=(torch.empty(1, *size, device="meta"),),
        )  # fmt: skip


def torchvision_networks(only: str) -> Iterator[Network]:
    torchvision = importlib.import_module("torchvision")
    models = torchvision.models
    families: dict[str, list[str]] = {}
    for name in models.list_models():
        families.setdefault(models.get_model_builder(name).__module__.partition("models.")[2], []).append(name)
    for family, names in sorted(families.items()):
        if "quantization" in family:
            continue
        name = min(
            names, key=lambda name: (not any(p in name for p in ("small", "_b0", "tiny", "_s", "18", "0_5")), len(name))
        )
        if only not in f"{family}/{name}":
            continue
        detection = family.startswith("detection")
        # RegNet reads its widths from tensors while it is built.
        with torch.device("cpu" if detection or family == "regnet" else "meta"):
            given = {"weights": None}
            if family.startswith(("detection", "segmentation")):
                given["weights_backbone"] = None
            module = models.get_model(name, **given)
            image = torch.rand(1, 3, 299 if "inception" in name else 224, 224 if "inception" not in name else 299)
            if detection:
                inputs: tuple[Any, ...] = ([torch.rand(3, 224, 224)],)
            elif family.startswith("optical"):
                inputs = (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))
            elif family.startswith("video"):
                inputs = (
                    torch.rand(1, 3, 16, 224, 224)
                    if "mvit" in name or "swin" in name
                    else torch.rand(1, 3, 8, 112, 112),
                )
            else:
                inputs = (image,)
        yield Network(library="torchvision", name=f"{family}/{name}", module=module, inputs=inputs, keywords={})


def diffusers_networks(only: str) -> Iterator[Network]:
    for package in ("transformers", "unets"):
        folder = importlib.import_module(f"diffusers.models.{package}")
        importlib.import_module("diffusers.models.modeling_utils")
        files = sorted(p for path in folder.__path__ for p in _files(path))
        for file in files:
            try:
                python = importlib.import_module(f"diffusers.models.{package}.{file}")
            except ImportError:
                continue
            for name, kind in sorted(vars(python).items()):
                if not _is_model(kind, python) or only not in f"{file}/{name}":
                    continue
                module = _small(kind)
                if module is not None:
                    yield _fed(f"{file}/{name}", module)


def _files(path: str) -> list[str]:
    import os

    return [name.removesuffix(".py") for name in os.listdir(path) if name.endswith(".py") and not name.startswith("_")]


def _is_model(kind: Any, python: Any) -> bool:
    from diffusers.models.modeling_utils import ModelMixin

    return inspect.isclass(kind) and issubclass(kind, ModelMixin) and kind.__module__ == python.__name__


DEPTH = re.compile(r"^(num|n)_.*(layers|blocks)$|^depth$|^num_.*layers.*$|^.*_depth$")


def _small(kind: type[nn.Module]) -> nn.Module | None:
    """With its default sizes but few blocks; by default many have dozens."""
    defaults = {k: p.default for k, p in inspect.signature(kind.__init__).parameters.items()}
    few = {
        k: 2 for k, v in defaults.items() if DEPTH.match(k) and isinstance(v, int) and not isinstance(v, bool) and v > 2
    }
    for given in ({**few}, {}):
        with contextlib.suppress(Exception), torch.device("meta"):
            return kind(**given, **EXTRA.get(kind.__name__, {}))
    return None


def _e(*shape: int) -> Tensor:
    return torch.empty(shape)


def _n(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long)


# Options of those that have no defaults.
EXTRA: dict[str, dict[str, Any]] = {
    "DiTTransformer2DModel": {"sample_size": 32, "out_channels": 8, "num_attention_heads": 6, "attention_head_dim": 64},
    "Transformer2DModel": {"in_channels": 32, "num_attention_heads": 4, "cross_attention_dim": 24},
    "TransformerTemporalModel": {"in_channels": 32, "num_attention_heads": 4, "norm_num_groups": 8},
    "LatteTransformer3DModel": {
        "sample_size": 32, "patch_size": 2, "in_channels": 4, "out_channels": 8, "cross_attention_dim": 1152,
        "num_attention_heads": 16, "attention_head_dim": 72, "caption_channels": 4096, "norm_type": "ada_norm_single",
        "video_length": 4,
    },
    "HunyuanDiT2DModel": {"in_channels": 4, "sample_size": 32, "patch_size": 2, "hidden_size": 1408},
    "LuminaNextDiT2DModel": {"num_kv_heads": 8},
    "UNetMotionModel": {"motion_num_attention_heads": 8},
}  # fmt: skip
# Inputs of those that names of arguments do not tell; without gradients, on the meta device.
INPUTS: dict[str, Callable[[], dict[str, Any]]] = {
    "AceStepTransformer1DModel": lambda: {
        "hidden_states": _e(1, 64, 64), "context_latents": _e(1, 64, 128), "timestep": _e(1), "timestep_r": _e(1),
        "encoder_hidden_states": _e(1, 16, 2048),
    },
    "CogVideoXTransformer3DModel": lambda: {
        "hidden_states": _e(1, 4, 16, 60, 90), "encoder_hidden_states": _e(1, 226, 4096), "timestep": _n(1),
    },
    "PixArtTransformer2DModel": lambda: {
        "hidden_states": _e(1, 4, 128, 128), "encoder_hidden_states": _e(1, 16, 1152), "timestep": _n(1),
        "added_cond_kwargs": {"resolution": _e(1, 2), "aspect_ratio": _e(1, 1)},
    },
    "PriorTransformer": lambda: {
        "hidden_states": _e(1, 768), "timestep": _n(1), "proj_embedding": _e(1, 768),
        "encoder_hidden_states": _e(1, 77, 768),
    },
    "SanaTransformer2DModel": lambda: {
        "hidden_states": _e(1, 32, 32, 32), "encoder_hidden_states": _e(1, 16, 2304), "timestep": _n(1),
    },
    "SanaVideoTransformer3DModel": lambda: {
        "hidden_states": _e(1, 16, 4, 30, 52), "encoder_hidden_states": _e(1, 16, 2304), "timestep": _n(1),
    },
    "StableAudioDiTModel": lambda: {
        "hidden_states": _e(1, 64, 1024), "timestep": _e(1), "encoder_hidden_states": _e(1, 16, 768),
        "global_hidden_states": _e(1, 1, 1536), "rotary_embedding": (_e(1025, 32), _e(1025, 32)),
    },
    "LatteTransformer3DModel": lambda: {
        "hidden_states": _e(1, 4, 4, 32, 32), "timestep": _n(1), "encoder_hidden_states": _e(1, 16, 4096),
    },
    "HunyuanDiT2DModel": lambda: {
        "hidden_states": _e(1, 4, 32, 32), "timestep": _e(1), "encoder_hidden_states": _e(1, 77, 1024),
        "text_embedding_mask": _e(1, 77), "encoder_hidden_states_t5": _e(1, 256, 2048),
        "text_embedding_mask_t5": _e(1, 256), "image_meta_size": _e(1, 6), "style": _n(1),
        "image_rotary_emb": (_e(256, 88), _e(256, 88)),
    },
    "LuminaNextDiT2DModel": lambda: {
        "hidden_states": _e(1, 4, 32, 32), "timestep": _e(1), "encoder_hidden_states": _e(1, 16, 2048),
        "encoder_mask": torch.ones(1, 16, dtype=torch.bool), "image_rotary_emb": torch.zeros(384, 384, 36).cfloat(),
        "cross_attention_kwargs": {},
    },
    **dict.fromkeys(("BriaTransformer2DModel", "FluxTransformer2DModel"), lambda: {
        "hidden_states": _e(1, 64, 64), "encoder_hidden_states": _e(1, 16, 4096), "pooled_projections": _e(1, 768),
        "timestep": _e(1), "img_ids": _e(64, 3), "txt_ids": _e(16, 3),
    }),
    "Flux2Transformer2DModel": lambda: {
        "hidden_states": _e(1, 64, 128), "encoder_hidden_states": _e(1, 16, 15360), "timestep": _e(1),
        "img_ids": _e(64, 4), "txt_ids": _e(16, 4), "guidance": _e(1),
    },
    "CosmosTransformer3DModel": lambda: {
        "hidden_states": _e(1, 16, 4, 32, 32), "timestep": _e(1), "encoder_hidden_states": _e(1, 16, 1024), "fps": 24,
        "padding_mask": _e(1, 1, 32, 32),
    },
    "GlmImageTransformer2DModel": lambda: {
        "hidden_states": _e(1, 16, 32, 32), "encoder_hidden_states": _e(1, 16, 1472), "prior_token_id": _n(1, 256),
        "prior_token_drop": torch.zeros(1, 256, dtype=torch.bool), "timestep": _n(1), "target_size": _e(1, 2),
        "crop_coords": _e(1, 2),
    },
    "MochiTransformer3DModel": lambda: {
        "hidden_states": _e(1, 12, 4, 32, 32), "encoder_hidden_states": _e(1, 16, 4096), "timestep": _n(1),
        "encoder_attention_mask": torch.ones(1, 16, dtype=torch.bool),
    },
    "PRXTransformer2DModel": lambda: {
        "hidden_states": _e(1, 16, 32, 32), "timestep": _e(1), "encoder_hidden_states": _e(1, 16, 2304),
    },
    "QwenImageTransformer2DModel": lambda: {
        "hidden_states": _e(1, 64, 64), "encoder_hidden_states": _e(1, 16, 3584), "timestep": _e(1),
        "img_shapes": [(1, 8, 8)],
    },
    "LTX2VideoTransformer3DModel": lambda: {
        "hidden_states": _e(1, 256, 128), "audio_hidden_states": _e(1, 32, 128),
        "encoder_hidden_states": _e(1, 16, 3840), "audio_encoder_hidden_states": _e(1, 16, 3840),
        "timestep": _e(1, 256),
        "audio_timestep": _e(1, 32), "num_frames": 4, "height": 8, "width": 8, "audio_num_frames": 32,
    },
    "Kandinsky5Transformer3DModel": lambda: {
        "hidden_states": _e(1, 4, 16, 16, 4), "encoder_hidden_states": _e(1, 16, 3584), "timestep": _e(1),
        "pooled_projections": _e(1, 768), "visual_rope_pos": [torch.arange(n) for n in (4, 8, 8)],
        "text_rope_pos": torch.arange(16),
    },
    "TransformerTemporalModel": lambda: {"hidden_states": _e(4, 32, 16, 16), "num_frames": 4},
    "WanVACETransformer3DModel": lambda: {
        "hidden_states": _e(1, 16, 4, 32, 32), "timestep": _n(1), "encoder_hidden_states": _e(1, 16, 4096),
        "control_hidden_states": _e(1, 96, 4, 32, 32), "control_hidden_states_scale": torch.ones(8, device="cpu"),
    },
    "ZImageTransformer2DModel": lambda: {"x": [_e(16, 1, 32, 32)], "t": _e(1), "cap_feats": [_e(16, 2560)]},
    "UNet2DModel": lambda: {"sample": _e(1, 3, 64, 64), "timestep": _n(1)},
    "I2VGenXLUNet": lambda: {
        "sample": _e(1, 4, 4, 32, 32), "timestep": _n(1), "fps": _n(1), "image_latents": _e(1, 4, 4, 32, 32),
        "image_embeddings": _e(1, 1024), "encoder_hidden_states": _e(1, 16, 1024),
    },
    "UNetMotionModel": lambda: {
        "sample": _e(1, 4, 4, 32, 32), "timestep": _n(1), "encoder_hidden_states": _e(1, 16, 1280),
    },
    "UNetSpatioTemporalConditionModel": lambda: {
        "sample": _e(1, 4, 8, 32, 32), "timestep": _n(1), "encoder_hidden_states": _e(1, 1, 1024),
        "added_time_ids": _e(1, 3),
    },
    "StableCascadeUNet": lambda: {
        "sample": _e(1, 16, 24, 24), "timestep_ratio": _e(1), "clip_text_pooled": _e(1, 1, 1280),
    },
    "Krea2Transformer2DModel": lambda: {
        "hidden_states": _e(1, 64, 64), "encoder_hidden_states": _e(1, 16, 2, 2560), "timestep": _e(1),
        "position_ids": _e(80, 3),
    },
    "ErnieImageTransformer2DModel": lambda: {
        "hidden_states": _e(1, 128, 16, 16), "timestep": _e(1), "text_bth": _e(1, 16, 2560), "text_lens": _n(1) + 16,
    },
}  # fmt: skip


def _fed(name: str, module: nn.Module) -> Network:
    """The first inputs, of those that names of arguments and the configuration suggest, with which the module runs."""
    module.eval()
    if (exact := INPUTS.get(type(module).__name__)) is not None:
        with torch.device("meta"):
            keywords = exact()
        with torch.no_grad():
            try:
                module(**keywords)
            except Exception as error:
                sys.stdout.write(f"  {name} takes other inputs: {type(error).__name__}: {str(error)[:200]!r}\n")
                return Network(library="diffusers", name=name, module=module, inputs=None, keywords={})
        return Network(library="diffusers", name=name, module=module, inputs=(), keywords=keywords)
    config = dict(module.config)
    parameters = inspect.signature(module.forward).parameters
    needed = [
        k for k, p in parameters.items() if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    optional = [k for k, p in parameters.items() if p.default is not p.empty and k in USUALLY_NEEDED]
    channels = _number(
        config, "in_channels", "in_chans", "out_channels", "input_channels", "sample_channels", default=4
    )
    names = [
        "cross_attention_dim",
        "joint_attention_dim",
        "text_embed_dim",
        "text_dim",
        "caption_channels",
        "context_dim",
        "caption_dim",
        "text_states_dim",
        "embed_dim",
        "llm_dim",
        "text_hidden_dim",
        "encoder_hid_dim",
        "cap_feat_dim",
        "caption_projection_dim",
        "hidden_size",
        "inner_dim",
        "text_feature_dim",
        "condition_dim",
        "conditioning_dim",
        "context_in_dim",
    ]
    widths = list(dict.fromkeys(v[0] if isinstance(v, list | tuple) else v for n in names if (v := config.get(n))))
    pooled = _number(config, "pooled_projection_dim", "clip_embed_dim", "text_embed_2_dim", "pooled_dim", default=768)
    size = _number(config, "sample_size", "sample_height", default=32)
    latents = [
        (1, channels, 32, 32),
        (1, channels, 4, 32, 32),
        (1, 64, channels),
        (1, 4, channels, 32, 32),
        (1, channels, size, size),
    ]
    with torch.device("meta"):
        choices = itertools.product(latents, [*widths, channels][:6], (False, True), (optional, []))
        for latent, width, long, chosen in choices:
            sizes = Sizes(latent=latent, width=width, pooled=pooled, time_is_long=long, tokens=64)
            keywords = {k: ARGUMENTS[k](sizes) for k in [*needed, *chosen] if k in ARGUMENTS}
            with contextlib.suppress(Exception), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module(**keywords)
                return Network(library="diffusers", name=name, module=module, inputs=(), keywords=keywords)
    return Network(library="diffusers", name=name, module=module, inputs=None, keywords={})


def _number(config: dict[str, Any], *names: str, default: int) -> int:
    for name in names:
        value = config.get(name)
        value = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(value, int) and value > 0:
            return value
    return default


@dataclass(frozen=True, kw_only=True)
class Sizes:
    latent: tuple[int, ...]
    width: int
    pooled: int
    time_is_long: bool
    tokens: int


def _time(s: Sizes) -> Tensor:
    return torch.zeros(1, dtype=torch.long) if s.time_is_long else torch.zeros(1)


def _context(s: Sizes) -> Tensor:
    return torch.empty(1, 16, s.width)


def _ids(s: Sizes) -> Tensor:
    return torch.zeros(s.latent[1] if len(s.latent) == 3 else 64, 3)


ARGUMENTS: dict[str, Callable[[Sizes], Any]] = {
    **dict.fromkeys(("hidden_states", "sample", "x", "latent_model_input", "latents"), lambda s: torch.empty(s.latent)),
    **dict.fromkeys(("timestep", "timesteps", "t", "time", "r", "timestep_ratio", "timestep_r"), _time),
    **dict.fromkeys(("encoder_hidden_states", "context", "text_embeds", "prompt_embeds"), _context),
    "encoder_attention_mask": lambda s: torch.ones(1, 16, dtype=torch.bool),
    "encoder_hidden_states_mask": lambda s: torch.ones(1, 16, dtype=torch.bool),
    "pooled_projections": lambda s: torch.empty(1, s.pooled),
    "class_labels": lambda s: torch.zeros(1, dtype=torch.long),
    "guidance": lambda s: torch.ones(1),
    "img_ids": _ids,
    "txt_ids": lambda s: torch.zeros(16, 3),
    "img_shapes": lambda s: [(1, 8, 8)],
    "txt_seq_lens": lambda s: [16],
    "image_rotary_emb": lambda s: None,
    "added_cond_kwargs": lambda s: {
        "text_embeds": torch.empty(1, 1280),
        "time_ids": torch.empty(1, 6),
        "image_embeds": torch.empty(1, 1280),
        "resolution": None,
        "aspect_ratio": None,
    },
    "added_time_ids": lambda s: torch.empty(1, 3),
    "fps": lambda s: torch.ones(1),
    "image_latents": lambda s: torch.empty(s.latent),
    "image_embeddings": lambda s: torch.empty(1, s.width),
    "num_frames": lambda s: 1,
    "frame_rate": lambda s: 25,
    "height": lambda s: 8,
    "width": lambda s: 8,
    "target_size": lambda s: torch.full((1, 2), 256.0),
    "original_size": lambda s: torch.full((1, 2), 256.0),
    "crop_coords": lambda s: torch.zeros(1, 2),
    "global_hidden_states": lambda s: torch.empty(1, 1, s.width),
    "micro_conds": lambda s: torch.empty(1, 5),
    "pooled_text_emb": lambda s: torch.empty(1, s.pooled),
    "input_ids": lambda s: torch.zeros(1, 16, 16, dtype=torch.long),
}
USUALLY_NEEDED = set(
    [
        "timestep",
        "encoder_hidden_states",
        "class_labels",
        "pooled_projections",
        "guidance",
        "img_ids",
        "txt_ids",
        "img_shapes",
        "txt_seq_lens",
        "added_cond_kwargs",
        "encoder_attention_mask",
        "height",
        "width",
        "num_frames",
        "encoder_hidden_states_mask",
        "text_embeds",
        "fps",
    ]
)

LIBRARIES = {"timm": timm_networks, "torchvision": torchvision_networks, "diffusers": diffusers_networks}


def state(module: nn.Module) -> list[Any]:
    """What must be the same after a count: modules, hooks, flags, parameters, buffers, attributes, random numbers."""
    parts = [
        (name, id(part), {k: (v if isinstance(v, bool) else id(v)) for k, v in vars(part).items()},
         [[id(each) for each in v.values()] for v in vars(part).values() if isinstance(v, dict)])
        for name, part in module.named_modules()
    ]  # fmt: skip
    named = [*module.named_parameters(), *module.named_buffers()]
    tensors = [(name, id(tensor), tensor.requires_grad, tensor._version) for name, tensor in named]
    flags = [torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()]
    return [parts, tensors, torch.get_rng_state().tolist(), flags]


def count(network: Network) -> Outcome:
    about = {"library": network.library, "name": network.name}
    if network.inputs is None:
        return Outcome(**about, kind="not fed")
    network.module.train()
    before = state(network.module)
    try:
        found = count_flops(network.module, network.inputs, keywords=network.keywords)
    except ValueError as error:
        return Outcome(**about, kind="refused", reason=str(error), unchanged=state(network.module) == before)
    except Exception:
        return Outcome(
            **about, kind="traceback", reason=traceback.format_exc(), unchanged=state(network.module) == before
        )
    unchanged = state(network.module) == before
    counter = FlopCounterMode(display=False)
    network.module.eval().requires_grad_(False)
    with torch.no_grad(), counter, sdpa_kernel(SDPBackend.MATH):
        network.module(*network.inputs, **network.keywords)
    return Outcome(
        **about,
        kind="counted",
        gmacs=found.macs / 1e9,
        unchanged=unchanged,
        equal=2 * found.macs == counter.get_total_flops(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=LIBRARIES, action="append")
    parser.add_argument("--only", default="", help="networks with this in their name")
    parser.add_argument("--list", action="store_true", help="print a line for each network")
    arguments = parser.parse_args()
    torch.backends.mha.set_fastpath_enabled(False)
    warnings.simplefilter("ignore")
    print_environment()
    for library in arguments.library or LIBRARIES:
        outcomes = []
        for network in LIBRARIES[library](arguments.only):
            outcome = count(network)
            outcomes.append(outcome)
            if arguments.list:
                marks = ("" if outcome.unchanged else " CHANGED") + ("" if outcome.equal else " DIFFERS")
                sys.stdout.write(
                    f"  {outcome.kind:<10} {outcome.name} {outcome.gmacs:.3f}{marks} {outcome.reason[:1000]}\n"
                )
                sys.stdout.flush()
        show(library, outcomes)


def show(library: str, outcomes: list[Outcome]) -> None:
    kinds = Counter(outcome.kind for outcome in outcomes)
    differ = [outcome.name for outcome in outcomes if not outcome.equal]
    changed = [outcome.name for outcome in outcomes if not outcome.unchanged]
    sys.stdout.write(
        f"| {library} | {len(outcomes)} | {kinds['counted']} | {kinds['refused']} | {kinds['not fed']} "
        f"| {kinds['traceback']} | {len(changed)} | {len(differ)} |\n"
    )
    for kind in ("refused", "traceback", "not fed"):
        for outcome in outcomes:
            if outcome.kind == kind:
                sys.stdout.write(f"    {kind}: {outcome.name}: {outcome.reason.partition(chr(10))[0]}\n")
    sys.stdout.write(
        "".join(f"    changed: {name}\n" for name in changed) + "".join(f"    differs: {name}\n" for name in differ)
    )
    log("flops coverage", {"library": library, "kinds": dict(kinds), "differ": differ, "changed": changed})


if __name__ == "__main__":
    main()
