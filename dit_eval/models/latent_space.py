"""What an autoencoder makes of images: channels, side, and the shift and scale by which a DiT sees them.

Needs no torch, so that records and plans can use it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dit_eval.system.reading import is_count, is_number

MOST_LATENT_CHANNELS = 4096
MOST_FACTOR = 1024
PerChannel = float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """The latents of an autoencoder. The defaults are Stable Diffusion's.

    A DiT sees (z - shift) * scale of the autoencoder's z; the decoder gets x / scale + shift. That is diffusers'
    `scaling_factor` and `shift_factor` (Esser et al. 2024, arXiv 2403.03206), and with scale = multiplier / std and
    shift = mean of each channel LightningDiT's normalisation (Yao et al. 2025, arXiv 2501.01423).

    Attributes
    ----------
    channels : C
    factor : how many times smaller than the image's a side of the latents is
    scale, shift : one number, or one for each channel

    Raises
    ------
    ValueError
        If they are no such numbers.
    """

    channels: int = 4
    factor: int = 8
    scale: PerChannel = 0.18215  # about unit variance (Rombach et al. 2022)
    shift: PerChannel = 0.0

    def __post_init__(self) -> None:
        for name, most in (("channels", MOST_LATENT_CHANNELS), ("factor", MOST_FACTOR)):
            value = getattr(self, name)
            if not is_count(value) or not 1 <= value <= most:
                raise ValueError(f"Found {name} {str(value)[:40]} of latents; expected a number from 1 to {most:,}.")
        for name in ("scale", "shift"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(is_number(each) and math.isfinite(each) for each in numbers):
                raise ValueError(f"Found {name} {str(value)[:80]} of latents; expected finite numbers.")
            if isinstance(value, tuple) and len(value) != self.channels:
                raise ValueError(f"Found {len(value)} numbers as {name} of latents; expected {self.channels}, or one.")
            if name == "scale" and min(numbers) <= 0:
                raise ValueError(f"Found scale {str(value)[:80]} of latents; expected more than 0.")

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> LatentSpace:
        """The space that `record` wrote.

        Raises
        ------
        ValueError
            If it is none.
        """
        values = dict(record or {})
        unknown = sorted(values.keys() - cls.__dataclass_fields__.keys())
        if unknown:
            raise ValueError(f"Found {str(unknown[0])[:40]!r} of latents; expected channels, factor, scale and shift.")
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)

    @property
    def record(self) -> dict[str, Any] | None:
        """The fields for JSON; None for Stable Diffusion's, which earlier editions knew alone and did not write."""
        if self == LatentSpace():
            return None
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def words(self) -> str:
        """Such as "16 channels at 1/8 of the side"."""
        return f"{self.channels} channel{'s' * (self.channels > 1)} at 1/{self.factor} of the side"

    @property
    def scaling(self) -> str:
        """Scale and shift in words."""
        words = {
            name: f"{name}s of each channel, from {min(value):g} to {max(value):g}"
            if isinstance(value, tuple)
            else f"{name} {value:g}"
            for name, value in (("scale", self.scale), ("shift", self.shift))
        }
        return " and ".join(words.values())

    def input_size(self, image_size: int) -> int:
        """Side of the latents of an image.

        Raises
        ------
        ValueError
            If the image's side is no multiple of the factor.
        """
        if image_size % self.factor or image_size < self.factor:
            raise ValueError(f"Image size {image_size}: needed a multiple of {self.factor}, the autoencoder's factor.")
        return image_size // self.factor
