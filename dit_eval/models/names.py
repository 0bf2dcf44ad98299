"""Names of models, and the one grammar that reads them. Needs no torch, so that reports and plans can use it.

A DiT is called by its family, its size and its patch size: "DiT-XL/2", "SiT-XL/2", or "mini-S/4" for one of a user's
own. The U-Nets of Table 6 have names without such parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dit_eval.system.text import did_you_mean

# Table 1 of the paper: layers, hidden size, heads.
SIZES = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
PATCH_SIZES = (2, 4, 8)
PAPER_FAMILY = "DiT"
DIT_NAMES = tuple(f"{PAPER_FAMILY}-{size}/{patch}" for size in SIZES for patch in PATCH_SIZES)
# Later networks on the same backbone: SiT's and REPA's, in all of DiT's sizes, and LightningDiT's as released.
SIT_FAMILY, LIGHTNING_FAMILY = "SiT", "LightningDiT"
SIT_NAMES = tuple(f"{SIT_FAMILY}-{size}/{patch}" for size in SIZES for patch in PATCH_SIZES)
LIGHTNING_SIZES = SIZES | {"1p0B": (24, 1536, 24), "1p6B": (28, 1792, 28)}
LIGHTNING_NAMES = tuple(
    f"{LIGHTNING_FAMILY}-{each}"
    for each in ("B/1", "B/2", "L/2", "XL/1", "XL/2", "1p0B/1", "1p0B/2", "1p6B/1", "1p6B/2")
)
UNET_SIZES = {  # pixels of the images that each makes
    **{"ADM-64": 64, "ADM-128": 128, "ADM-256": 256, "ADM-512": 512},
    **{"ADM-U-256-upsampler": 256, "ADM-U-512-upsampler": 512, "LDM-4": 256, "LDM-8": 256},
}
UNET_NAMES = tuple(UNET_SIZES)
DEFAULT_MODEL = "DiT-XL/2"

# Four digits of a patch size are more than any model has, and what a file says is read as a number only up to there.
_NAME = re.compile(r"([^/]+)-(S|B|L|XL)/([1-9][0-9]{0,3})")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A name such as "DiT-XL/2" or "mini-S/4" in its parts."""

    family: str
    size: str
    patch: int

    @property
    def is_papers(self) -> bool:
        """Whether the name is for models of the paper alone; not every such name is one of them ("DiT-XL/1")."""
        return self.family == PAPER_FAMILY or self.family.startswith(f"{PAPER_FAMILY}-")

    @property
    def is_plain(self) -> bool:
        """Whether the family is of letters, digits, - and _ alone, as file names need it."""
        return _PLAIN.fullmatch(self.family) is not None


def parse_name(text: str) -> ModelName | None:
    """The parts of a model's name; None if it names neither size nor patch."""
    found = _NAME.fullmatch(text)
    return ModelName(family=found[1], size=found[2], patch=int(found[3])) if found else None


def parse_lightning(text: str) -> tuple[str, int]:
    """Size and patch of a LightningDiT's name, such as "LightningDiT-1p0B/2".

    Raises
    ------
    ValueError
        If there is no such LightningDiT (the message suggests the nearest).
    """
    if text not in LIGHTNING_NAMES:
        hint = did_you_mean(text, LIGHTNING_NAMES)
        raise ValueError(f"Unknown model {text!r}; known: {', '.join(LIGHTNING_NAMES)}.{hint}")
    size, _, patch = text.removeprefix(f"{LIGHTNING_FAMILY}-").partition("/")
    return size, int(patch)
