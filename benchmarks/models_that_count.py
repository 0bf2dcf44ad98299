"""How many networks of timm, torchvision and diffusers does `count_flops` count, and does any end in a traceback?

python benchmarks/models_that_count.py [--library timm] [--only PART_OF_A_NAME] [--list]

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

from dit_eval.flops.count import count_flops


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
                    if any(part in name for part in ("mvit", "swin", "s3d"))
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
        device = _device(kind)
        with contextlib.suppress(Exception), torch.device(device):
            return kind(**{**given, **EXTRA.get(kind.__name__, {})}).to(device)
    return None


# Models that need a real device: control flow that depends on values, torch.autocast, or flex attention.
ON_CPU = {
    "AnyFlowFARTransformer3DModel",
    "Cosmos3OmniTransformer",
    "ErnieImageTransformer2DModel",
    "HeliosTransformer3DModel",
    "HiDreamImageTransformer2DModel",
    "Ideogram4Transformer2DModel",
    "Kandinsky6SRTransformer3DModel",
    "OmniGenTransformer2DModel",
    "SanaWMTransformer3DModel",
    "MochiTransformer3DModel",
    "Lumina2Transformer2DModel",
    "HunyuanVideoFramepackTransformer3DModel",
    "HunyuanVideo15Transformer3DModel",
    "QwenImage21Transformer2DModel",
}


def _device(kind: type[nn.Module]) -> str:
    return "cpu" if kind.__name__ in ON_CPU else "meta"


def _e(*shape: int) -> Tensor:
    return torch.zeros(shape)


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
    "UNet1DModel": {"extra_in_channels": 64},
    "ConsisIDTransformer3DModel": {"num_attention_heads": 48, "is_train_face": True, "LFE_depth": 5},
    "WanAnimateTransformer3DModel": {"added_kv_proj_dim": 5120, "inject_face_latents_blocks": 2},
    "BriaFibo2Transformer2DModel": {"injection_layer_ids": (1,)},
    "MochiTransformer3DModel": {"num_attention_heads": 2, "pooled_projection_dim": 256, "text_embed_dim": 256},
    "Lumina2Transformer2DModel": {
        "hidden_size": 384, "num_attention_heads": 4, "num_kv_heads": 2, "cap_feat_dim": 256,
    },
    "HunyuanVideoFramepackTransformer3DModel": {
        "num_attention_heads": 2, "text_embed_dim": 256, "has_image_proj": True, "has_clean_x_embedder": True,
    },
    "HunyuanVideo15Transformer3DModel": {"num_attention_heads": 2, "text_embed_dim": 256},
    "QwenImage21Transformer2DModel": {"num_attention_heads": 2, "context_in_dim": 256},
    "SanaWMTransformer3DModel": {"hidden_size": 224, "num_attention_heads": 2, "softmax_every_n": 2},
    "RFD4ProteinaTransformer": {"nlayers": 2},
    "ErnieImageTransformer2DModel": {"hidden_size": 256, "num_attention_heads": 2, "ffn_hidden_size": 512},
    "HeliosTransformer3DModel": {"num_attention_heads": 2, "ffn_dim": 512},
    "AnyFlowFARTransformer3DModel": {"num_attention_heads": 2, "ffn_dim": 512},
    "Ideogram4Transformer2DModel": {
        "attention_head_dim": 128, "num_attention_heads": 2, "intermediate_size": 512, "llm_features_dim": 512,
    },
    "Kandinsky6SRTransformer3DModel": {"model_dim": 128, "ff_dim": 256},
    "Cosmos3OmniTransformer": {
        "hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 512,
        "vocab_size": 1000,
    },
    "OmniGenTransformer2DModel": {
        "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 512,
        "vocab_size": 1000, "pad_token_id": 0, "pos_embed_max_size": 32,
        "rope_scaling": {"short_factor": [1.0] * 32, "long_factor": [1.0] * 32},
    },
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2, "in_channels": 16, "num_attention_heads": 2, "caption_channels": [64, 64], "text_emb_dim": 64,
        "axes_dims_rope": (64, 32, 32), "llama_layers": [0, 1, 2, 3],
    },
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
    "UNet1DModel": lambda: {"sample": _e(1, 2, 4096), "timestep": _e(1)},
    "UNetMotionModel": lambda: {
        "sample": _e(1, 4, 4, 32, 32), "timestep": _n(1), "encoder_hidden_states": _e(4, 16, 1280),
    },
    "UNetSpatioTemporalConditionModel": lambda: {
        "sample": _e(1, 4, 8, 32, 32), "timestep": _n(1), "encoder_hidden_states": _e(1, 1, 1024),
        "added_time_ids": _e(1, 3),
    },
    "T5FilmDecoder": lambda: {
        "encodings_and_masks": [(_e(1, 16, 768), _e(1, 16))], "decoder_input_tokens": _e(1, 256, 128),
        "decoder_noise_time": _e(1),
    },
    "ConsisIDTransformer3DModel": lambda: {
        "hidden_states": _e(1, 4, 16, 60, 90), "encoder_hidden_states": _e(1, 226, 4096), "timestep": _n(1),
        "id_cond": _e(1, 1280), "id_vit_hidden": [_e(1, 577, 1024) for _ in range(5)],
    },
    "Lumina2Transformer2DModel": lambda: {
        "hidden_states": _e(1, 16, 32, 32), "timestep": _e(1), "encoder_hidden_states": _e(1, 16, 256),
        "encoder_attention_mask": torch.ones(1, 16, dtype=torch.bool),
    },
    "MochiTransformer3DModel": lambda: {
        "hidden_states": _e(1, 12, 2, 16, 16), "encoder_hidden_states": _e(1, 16, 256), "timestep": _n(1),
        "encoder_attention_mask": torch.ones(1, 16, dtype=torch.bool),
    },
    "StableAudio3DiTModel": lambda: {
        "hidden_states": _e(1, 256, 64), "timestep": _e(1), "encoder_hidden_states": _e(1, 16, 768),
        "global_hidden_states": _e(1, 768), "local_add_cond": _e(1, 257, 64),
    },
    "HunyuanVideoFramepackTransformer3DModel": lambda: {
        "hidden_states": _e(1, 16, 2, 16, 16), "timestep": _n(1), "encoder_hidden_states": _e(1, 16, 256),
        "encoder_attention_mask": torch.ones(1, 16, dtype=torch.bool), "pooled_projections": _e(1, 768),
        "image_embeds": _e(1, 9, 1152), "indices_latents": torch.arange(2), "guidance": _e(1),
        "latents_clean": _e(1, 16, 2, 16, 16), "indices_latents_clean": torch.arange(2),
        "latents_history_2x": _e(1, 16, 2, 16, 16), "indices_latents_history_2x": torch.arange(2),
        "latents_history_4x": _e(1, 16, 4, 16, 16), "indices_latents_history_4x": torch.arange(4),
    },
    "HunyuanVideo15Transformer3DModel": lambda: {
        "hidden_states": _e(1, 65, 2, 8, 8), "timestep": _e(1), "encoder_hidden_states": _e(1, 16, 256),
        "encoder_attention_mask": _n(1, 16) + 1, "encoder_hidden_states_2": _e(1, 8, 1472),
        "encoder_attention_mask_2": _n(1, 8) + 1, "image_embeds": torch.ones(1, 9, 1152),
    },
    "WanAnimateTransformer3DModel": lambda: {
        "hidden_states": _e(1, 36, 4, 32, 32), "timestep": _n(1), "encoder_hidden_states": _e(1, 512, 4096),
        "encoder_hidden_states_image": _e(1, 257, 1280), "pose_hidden_states": _e(1, 16, 3, 32, 32),
        "face_pixel_values": _e(1, 3, 12, 512, 512),
    },
    "BriaFiboTransformer2DModel": lambda: {
        "hidden_states": _e(1, 64, 64), "encoder_hidden_states": _e(1, 16, 4096), "timestep": _e(1),
        "text_encoder_layers": [_e(1, 16, 2048) for _ in range(4)], "img_ids": _e(64, 3), "txt_ids": _e(16, 3),
    },
    "BriaFibo2Transformer2DModel": lambda: {
        "hidden_states": _e(1, 32, 32, 32), "timestep": _e(1), "encoder_hidden_states": _e(1, 2, 16, 7680),
    },
    "QwenImage21Transformer2DModel": lambda: {
        "hidden_states": _e(1, 64, 64), "encoder_hidden_states": _e(1, 16, 256), "timestep": _e(1),
        "img_shapes": [[(1, 8, 8)]], "img_mask": torch.arange(32)[None] >= 16,
    },
    "GlmImageTransformer2DModel": lambda: {
        "hidden_states": _e(1, 16, 32, 32), "encoder_hidden_states": _e(1, 16, 1472), "prior_token_id": _n(1, 256),
        "prior_token_drop": torch.zeros(1, 256, dtype=torch.bool, device="cpu"), "timestep": _n(1),
        "target_size": _e(1, 2), "crop_coords": _e(1, 2),
    },
    "WanAnimate2Transformer3DModel": lambda: {
        "hidden_states": [_e(16, 2, 16, 16)], "timestep": _n(1), "encoder_hidden_states": [_e(16, 4096)],
        "condition_latents": [_e(20, 2, 16, 16)],
        "kv_cache": importlib.import_module(
            "diffusers.models.transformers.transformer_wan_animate_2"
        ).WanAnimate2KVCache(2),
        "kv_cache_mode": "extract", "seq_len": 128,
        "encoder_hidden_states_image": _e(1, 257, 1280),
        "offset_grid_sizes": torch.tensor([[2, 8, 8]], device="cpu"),
    },
    "AnyFlowTransformer3DModel": lambda: {
        "hidden_states": _e(1, 4, 16, 16, 16), "timestep": _e(1, 4), "r_timestep": _e(1, 4),
        "encoder_hidden_states": _e(1, 16, 4096),
    },
    "Flux3Transformer2DModel": lambda: {
        "hidden_states": _e(1, 64, 128), "encoder_hidden_states": _e(1, 16, 20480), "timestep": _e(1),
        "img_ids": _e(64, 4), "txt_ids": _e(16, 4), "image_cond_hidden_states": _e(1, 32, 128),
        "image_cond_ids": _e(32, 4),
    },
    "JoyImageEditPlusTransformer3DModel": lambda: {
        "hidden_states": _e(1, 128, 16, 1, 2, 2), "timestep": _e(1), "encoder_hidden_states": _e(1, 16, 4096),
        "encoder_hidden_states_mask": _e(1, 16), "shape_list": [[(1, 8, 8), (1, 8, 8)]],
    },
    "Kandinsky6Transformer3DModel": lambda: {
        "hidden_states": _e(1, 4, 16, 16, 33), "encoder_hidden_states": _e(1, 16, 3584), "timestep": _e(1),
        "pooled_projections": _e(1, 768), "audio_hidden_states": _e(1, 32, 20),
    },
    "LongCatAudioDiTTransformer": lambda: {
        "hidden_states": _e(1, 64, 64), "encoder_hidden_states": _e(1, 16, 768), "timestep": _e(1),
        "encoder_attention_mask": torch.ones(1, 16, dtype=torch.bool), "latent_cond": _e(1, 64, 64),
    },
    "MiniMaxH3Transformer3DModel": lambda: {
        "hidden_states": _e(1, 64, 96), "audio_hidden_states": _e(1, 32, 32), "encoder_hidden_states": _e(1, 16, 5120),
        "timestep": _e(2), "timestep_indices": _n(112), "token_tags": _n(112), "position_ids": _n(112, 3),
        "video_indices": _n(64), "audio_indices": _n(32), "text_indices": _n(16),
    },
    "MiniMaxMusic3Transformer1DModel": lambda: {
        "hidden_states": _e(1, 128, 64), "timestep": _e(1), "encoder_hidden_states": _e(1, 64, 2048),
    },
    "MiniMaxMusic3RVQDepthDecoder": lambda: {"inputs_embeds": _e(1, 8, 4096)},
    "SanaWMLTX2RefinerTransformer3DModel": lambda: {
        "hidden_states": _e(1, 64, 128), "encoder_hidden_states": _e(1, 16, 3840), "timestep": _e(1, 64),
        "video_rotary_emb": (_e(1, 64, 4096), _e(1, 64, 4096)),
    },
    "AnyFlowFARTransformer3DModel": lambda: {
        "hidden_states": _e(1, 4, 16, 16, 16), "timestep": _e(1, 4), "r_timestep": _e(1, 4),
        "encoder_hidden_states": _e(1, 16, 4096), "chunk_partition": [1, 1, 1, 1],
    },
    "HeliosTransformer3DModel": lambda: {
        "hidden_states": _e(1, 16, 4, 16, 16), "timestep": _n(1), "encoder_hidden_states": _e(1, 16, 4096),
        "indices_hidden_states": _n(1, 4), "indices_latents_history_short": _n(1, 2),
        "indices_latents_history_mid": _n(1, 2), "indices_latents_history_long": _n(1, 8),
        "latents_history_short": _e(1, 16, 2, 16, 16), "latents_history_mid": _e(1, 16, 2, 16, 16),
        "latents_history_long": _e(1, 16, 8, 16, 16),
    },
    "Ideogram4Transformer2DModel": lambda: {
        "hidden_states": _e(1, 80, 128), "timestep": _e(1), "encoder_hidden_states": _e(1, 80, 512),
        "position_ids": _n(1, 80, 3), "segment_ids": _n(1, 80), "indicator": _n(1, 80) + 2,
    },
    "Kandinsky6SRTransformer3DModel": lambda: {"hidden_states": _e(1, 2, 16, 16, 129), "timestep": _e(1)},
    "Cosmos3OmniTransformer": lambda: {
        "input_ids": _n(16), "text_indexes": _n(16), "position_ids": _n(3, 80), "und_len": 16, "sequence_length": 80,
        "vision_tokens": [_e(1, 48, 4, 8, 8)], "vision_token_shapes": [(4, 4, 4)], "vision_sequence_indexes": _n(64),
        "vision_mse_loss_indexes": _n(64), "vision_timesteps": _e(64), "vision_noisy_frame_indexes": [_n(4)],
    },
    "SanaWMTransformer3DModel": lambda: {
        "hidden_states": _e(1, 128, 4, 8, 8), "timestep": _n(1, 1, 4), "encoder_hidden_states": _e(1, 1, 16, 2304),
        "mask": _n(1, 1, 1, 16) + 1, "chunk_plucker": _e(1, 48, 4, 8, 8),
        "camera_conditions": torch.cat((torch.eye(4).flatten(), torch.ones(4))).expand(1, 4, 20),
    },
    "OmniGenTransformer2DModel": lambda: {
        "hidden_states": _e(1, 4, 16, 16), "timestep": _e(1), "input_ids": _n(1, 80),
        "input_img_latents": [_e(1, 4, 16, 16)], "input_image_sizes": {0: [[8, 72]]},
        "attention_mask": _e(1, 145, 145), "position_ids": _n(1, 145),
    },
    "HiDreamImageTransformer2DModel": lambda: {
        "hidden_states": _e(1, 16, 16, 16), "timesteps": _n(1), "encoder_hidden_states_t5": _e(1, 16, 64),
        "encoder_hidden_states_llama3": _e(4, 1, 16, 64), "pooled_embeds": _e(1, 64),
    },
    "RFD4ProteinaTransformer": lambda: {
        "bb_ca": _e(1, 24, 3), "local_latents": _e(1, 24, 32), "bb_ca_time": _e(1), "local_latents_time": _e(1),
        "padding_mask": torch.ones(1, 24, dtype=torch.bool), "token_type": _n(1, 24), "atom37_mask": _n(1, 24, 37),
        "conditioning": {
            **{k: _n(1, 24) for k in ("is_in_context_conditioning", "supports_local_latent", "molecule_iid")},
            **{k: _n(1, 24) for k in ("molecule_entity_id", "condition_index-group_1_token")},
            **{f"condition_{k}_1_atom": _n(1, 24, 37) for k in ("hbond", "pistack", "pication", "saltbridge")},
            **{f"condition_{k}_1_atom": _n(1, 24, 37) for k in ("hydrophobic", "metal-coord")},
            "token_bond_path_length": _n(1, 24, 24),
        },
        "recycle_depth": 2,
    },
}  # fmt: skip


def _fed(name: str, module: nn.Module) -> Network:
    """The first inputs, of those that names of arguments and the configuration suggest, with which the module runs."""
    module.eval()
    if (exact := INPUTS.get(type(module).__name__)) is not None:
        with torch.device(_device(type(module))):
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
