"""A small autoencoder of random weights, in the released layout."""

import torch
from diffusers import AutoencoderKL

from dit_eval.models import vae_files

SMALL = vae_files.SD_CONFIG | {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "sample_size": 64}


def random_vae(config):
    torch.manual_seed(0)
    return AutoencoderKL.from_config(config).eval()
