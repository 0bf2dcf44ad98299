"""Features, weights and images on which the witnesses are compared with their sources, from NumPy's frozen stream."""

from __future__ import annotations

import numpy as np
import torch

# A ViT with heads of 64 dimensions and the published input sizes; ViT-L has width 1024, 24 layers and embeds in 768.
WIDTH, DEPTH, EMBEDDING = 128, 3, 96


def features(seed: int, count: int, dim: int, *, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Rows of a few clusters, non-negative like Inception's, (count, dim) float32.

    The clusters are the same for every seed; `shift` moves them all, `scale` spreads the rows around them.
    """
    centres = np.random.RandomState(1000 + dim).gamma(1.0, 0.4, (8, dim))
    rng = np.random.RandomState(seed)
    rows = centres[rng.randint(0, len(centres), count)] + shift + 0.3 * scale * rng.standard_normal((count, dim))
    return np.abs(rows).astype(np.float32)


def unit_features(seed: int, count: int, dim: int, *, shift: float = 0.0) -> np.ndarray:
    """`features` scaled to length 1, as CLIP's embeddings are."""
    rows = features(seed, count, dim, shift=shift).astype(np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


# Metric: gen and ref. Sizes are no multiples of the blocks in which the metrics work.
def kid_features() -> tuple[np.ndarray, np.ndarray]:
    return features(1, 1300, 256, shift=0.02), features(2, 1100, 256)


def prdc_features() -> tuple[np.ndarray, np.ndarray]:
    gen = features(3, 4000, 64, scale=1.05)
    gen = np.concatenate([gen[gen[:, 0] < 0.5][:2100], features(4, 400, 64, shift=0.3)])  # some clusters are missing
    ref = features(5, 2300, 64)
    ref[7] = ref[8]  # equal images: a distance of 0 within the set
    gen[:3] = ref[:3]  # and images that are in both
    return gen, ref


def cmmd_features() -> tuple[np.ndarray, np.ndarray]:
    return unit_features(6, 2500, 768, shift=0.5), unit_features(7, 2200, 768)


def frechet_features() -> tuple[np.ndarray, np.ndarray]:
    return features(8, 900, 128, shift=0.05), features(9, 1000, 128)


def seeded_weights(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Random values for each name: of about unit gain for matrices, around 1 for the scales of norms and layers.

    Position tables and class tokens are as large as the tokens they are added to, so that an error in them shows.
    """
    filled = {}
    for number, name in enumerate(sorted(shapes)):
        shape = shapes[name]
        values = np.random.RandomState(number).standard_normal(shape)
        if ("norm" in name and name.endswith("weight")) or name.endswith("gamma"):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        elif len(shape) > 1 and "pos" not in name and "token" not in name:
            values = values / np.sqrt(np.prod(shape[1:]))
        filled[name] = torch.from_numpy(values.astype(np.float32))
    return filled


def images(size: int, count: int = 4) -> np.ndarray:
    """Smooth pictures with noise, (count, size, size, 3) uint8."""
    rng = np.random.RandomState(size)
    y, x = np.mgrid[0:size, 0:size] / size
    pictures = []
    for _ in range(count):
        phase, across, down = rng.uniform(0, 6, 3), rng.uniform(-9, 9, 3), rng.uniform(-9, 9, 3)
        waves = 128 + 100 * np.sin(phase + x[..., None] * across + y[..., None] * down)
        pictures.append(waves + rng.randint(-20, 21, (size, size, 3)))
    return np.stack(pictures).round().clip(0, 255).astype(np.uint8)


def dinov2_shapes(width: int = WIDTH, depth: int = DEPTH) -> dict[str, list[int]]:
    """Names and shapes of `dinov2_vitl14_pretrain.pth`, at another width and depth."""
    shapes = {
        "cls_token": [1, 1, width],
        "mask_token": [1, width],
        "pos_embed": [1, 1 + 37 * 37, width],
        "patch_embed.proj.weight": [width, 3, 14, 14],
        "patch_embed.proj.bias": [width],
        "norm.weight": [width],
        "norm.bias": [width],
    }
    for number in range(depth):
        block = f"blocks.{number}"
        shapes |= {f"{block}.{norm}.{part}": [width] for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        shapes |= {f"{block}.{scale}.gamma": [width] for scale in ("ls1", "ls2")}
        for layer, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {f"{block}.{layer}.weight": [rows, columns], f"{block}.{layer}.bias": [rows]}
    return shapes


def clip_shapes(width: int = WIDTH, depth: int = DEPTH, embedding: int = EMBEDDING) -> dict[str, list[int]]:
    """Names and shapes of the image tower in openai/clip-vit-large-patch14-336, at another width and depth."""
    model = "vision_model"
    shapes = {
        f"{model}.embeddings.class_embedding": [width],
        f"{model}.embeddings.patch_embedding.weight": [width, 3, 14, 14],
        f"{model}.embeddings.position_embedding.weight": [1 + 24 * 24, width],
        "visual_projection.weight": [embedding, width],
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{model}.{norm}.{part}": [width] for part in ("weight", "bias")}
    for number in range(depth):
        layer = f"{model}.encoder.layers.{number}"
        shapes |= {f"{layer}.layer_norm{i}.{part}": [width] for i in (1, 2) for part in ("weight", "bias")}
        for name, rows, columns in (
            *((f"self_attn.{which}_proj", width, width) for which in ("k", "v", "q", "out")),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
        ):
            shapes |= {f"{layer}.{name}.weight": [rows, columns], f"{layer}.{name}.bias": [rows]}
    return shapes


def openai_layout(state: dict[str, torch.Tensor], depth: int) -> dict[str, torch.Tensor]:
    """The same image tower in the names of OpenAI's own file, which the original CMMD reads."""
    model, image = "vision_model", "visual"
    named = {
        f"{image}.class_embedding": state[f"{model}.embeddings.class_embedding"],
        f"{image}.conv1.weight": state[f"{model}.embeddings.patch_embedding.weight"],
        f"{image}.positional_embedding": state[f"{model}.embeddings.position_embedding.weight"],
        f"{image}.proj": state["visual_projection.weight"].T.contiguous(),
        "logit_scale": torch.zeros(()),  # no part of an embedding
    }
    layers = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
              "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    for part in ("weight", "bias"):
        named[f"{image}.ln_pre.{part}"] = state[f"{model}.pre_layrnorm.{part}"]
        named[f"{image}.ln_post.{part}"] = state[f"{model}.post_layernorm.{part}"]
        for number in range(depth):
            layer, block = f"{model}.encoder.layers.{number}", f"{image}.transformer.resblocks.{number}"
            named |= {f"{block}.{ours}.{part}": state[f"{layer}.{theirs}.{part}"] for theirs, ours in layers.items()}
            named[f"{block}.attn.in_proj_{part}"] = torch.cat(
                [state[f"{layer}.self_attn.{which}_proj.{part}"] for which in "qkv"]
            )
    return named
