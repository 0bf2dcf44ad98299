"""Small autoencoders of every known layout, of random weights, as their publishers lay them out."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from dit_goldens import seeded_state
from safetensors.torch import save_file

GOLDENS = Path(__file__).parents[1] / "goldens"

# SD3's and FLUX's layout: 16 channels, a shift, no convolutions beside the encoder and decoder.
KL16 = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 16,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
# DC-AE's: residual blocks, then attention, and 8 times fewer pixels here.
DC = {
    "attention_head_dim": 8,
    "decoder_act_fns": ["relu", "relu", "relu", "silu"],
    "decoder_block_out_channels": [8, 8, 16, 32],
    "decoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
    "decoder_layers_per_block": [1, 1, 1, 1],
    "decoder_norm_types": ["batch_norm", "batch_norm", "batch_norm", "rms_norm"],
    "decoder_qkv_multiscales": [[], [], [], [5]],
    "encoder_block_out_channels": [8, 8, 16, 32],
    "encoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
    "encoder_layers_per_block": [1, 1, 1, 1],
    "encoder_qkv_multiscales": [[], [], [], [5]],
    "latent_channels": 32,
    "scaling_factor": 0.3189,
}


def kl16():
    torch.manual_seed(0)
    return AutoencoderKL(**KL16).eval()


def dc():
    torch.manual_seed(0)
    return AutoencoderDC(**DC).eval()


def published_shapes(name):
    """Names and shapes of a published autoencoder's tensors, as its own module has them."""
    made = json.loads((GOLDENS / "vae.json").read_text())
    return {each: tuple(shape) for each, shape in made["shapes"][name].items()}


@cache
def quarter(name):
    """The weights of the goldens: a published autoencoder of a quarter of the width."""
    shapes = published_shapes(name)
    small = {each: [side // 4 if side % 128 == 0 else side for side in shape] for each, shape in shapes.items()}
    return seeded_state({each: torch.empty(shape, device="meta") for each, shape in small.items()})


def write_va_vae(folder, *, statistics=True):
    """A training's file, with what is not of the autoencoder in it, and the statistics beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    others = {"loss.logvar": torch.zeros(()), "linear_proj.weight": torch.zeros(4, 32, 1, 1)}
    path = folder / "vavae-imagenet256-f16d32-dinov2.pt"
    torch.save({"state_dict": quarter("va-vae") | others}, path)
    if statistics:
        golden = np.load(GOLDENS / "vae.npz")
        torch.save(
            {each: torch.from_numpy(golden[f"statistics/{each}"]) for each in ("mean", "std")},
            folder / "latents_stats.pt",
        )
    return path


def write_flux(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(quarter("flux"), path)
    return path
