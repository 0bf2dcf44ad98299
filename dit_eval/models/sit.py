"""SiT: DiT's network, trained to predict a flow's velocity (Ma et al. 2024, arXiv 2401.08740); REPA's is the same.

A checkpoint may have later parts (REPA's norms of queries and keys), or no second half of the output, which SiT's code
drops: both are told from its tensors.
"""

from __future__ import annotations

from dit_eval.models import config as dit
from dit_eval.models.config import BlockDesign, DiTConfig
from dit_eval.models.dit import DiT as DiT  # `MODELS` finds network and inputs in a family's file
from dit_eval.models.dit import example_inputs as example_inputs
from dit_eval.models.names import PAPER_FAMILY, SIT_FAMILY


def named_config(name: str, *, image_size: int = 256, block: BlockDesign = "adaln-zero") -> DiTConfig:
    """The released configuration of a model such as "SiT-XL/2": that of "DiT-XL/2". Parameters and errors as there."""
    return dit.named_config(name.replace(SIT_FAMILY, PAPER_FAMILY, 1), image_size=image_size, block=block)
