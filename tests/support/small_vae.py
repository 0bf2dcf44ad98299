"""A small autoencoder of random weights, in the released layout."""

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from dit_eval.models import vae_files

SMALL = vae_files.SD_CONFIG | {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "sample_size": 64}


def write_names(path):
    """A file that looks like Stable Diffusion's autoencoder by its names, until its weights are read."""
    names = {
        "decoder.conv_in.weight": torch.zeros(8, 4, 3, 3),
        "decoder.mid_block.resnets.0.conv1.weight": torch.zeros(1),
    }
    save_file(names, path)


def random_vae(config):
    torch.manual_seed(0)
    return AutoencoderKL.from_config(config).eval()
