"""What defines a DiT: sizes, block design, space. Needs no torch, so that plans can use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dit_eval.models.names import DIT_NAMES, PATCH_SIZES, SIZES, parse_name
from dit_eval.system.reading import is_number
from dit_eval.system.text import did_you_mean

BlockDesign = Literal["adaln-zero", "adaln", "cross-attention", "in-context"]
BLOCK_DESIGNS: tuple[BlockDesign, ...] = ("adaln-zero", "adaln", "cross-attention", "in-context")

LATENT_FACTOR = 8  # the Stable Diffusion autoencoder shrinks each side by it

# Limits far beyond what anyone trains.
_MOST = {"depth": 1000, "hidden_size": 1 << 16, "num_heads": 1 << 10, "patch_size": 1 << 10, "input_size": 1 << 12,
         "in_channels": 1 << 10, "num_classes": 1 << 24}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """What defines a DiT. The defaults are the paper's for latents of 256 px images.

    Attributes
    ----------
    depth, hidden_size, num_heads : layers, D, attention heads
    patch_size : p
    input_size : H = W of the input, in latent pixels (image size / 8), or in pixels for a pixel-space model
    space : what the input is, latents of the Stable Diffusion autoencoder or pixels
    in_channels : C; the output has 2 C channels (noise, then variance) if `learn_sigma`
    num_classes : K; label K stands for "no label"
    label_dropout : share of labels replaced by K while training (0: no such row in the label table)
    learn_sigma : also predict the variance
    block : block design, Section 3.2 of the paper
    """

    depth: int
    hidden_size: int
    num_heads: int
    patch_size: int
    input_size: int = 32
    in_channels: int = 4
    num_classes: int = 1000
    label_dropout: float = 0.1
    learn_sigma: bool = True
    block: BlockDesign = "adaln-zero"
    space: Literal["latent", "pixel"] = "latent"

    def __post_init__(self) -> None:
        if self.space not in ("latent", "pixel"):
            raise ValueError(f"Unknown space {self.space!r}; known: latent, pixel.")
        if self.block not in BLOCK_DESIGNS:
            hint = did_you_mean(str(self.block), BLOCK_DESIGNS)
            raise ValueError(f"Unknown block design {self.block!r}; known: {', '.join(BLOCK_DESIGNS)}.{hint}")
        self._check_ranges()
        if self.input_size % self.patch_size:
            raise ValueError(f"An input of {self.input_size} pixels does not divide into patches of {self.patch_size}.")
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ValueError(
                f"Hidden size {self.hidden_size}: needed a multiple of 4 (position table) and of "
                f"{self.num_heads} heads."
            )

    def _check_ranges(self) -> None:
        """Whatever a file or a plan says: without these it could ask for a network that no machine builds."""
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not is_number(value) or not isinstance(value, int) or not 1 <= value <= most:  # True is no number
                raise ValueError(f"Found {name} {str(value)[:40]}; needed an integer from 1 to {most:,}.")
        if not is_number(self.label_dropout) or not 0 <= self.label_dropout <= 1:
            raise ValueError(f"Found label_dropout {str(self.label_dropout)[:40]}; needed a number from 0 to 1.")
        if not isinstance(self.learn_sigma, bool):
            raise ValueError(f"Found learn_sigma {str(self.learn_sigma)[:40]}; needed true or false.")

    @property
    def out_channels(self) -> int:
        return self.in_channels * (2 if self.learn_sigma else 1)

    @property
    def image_size(self) -> int:
        """Side of the images, in pixels."""
        return self.input_size * (LATENT_FACTOR if self.space == "latent" else 1)


def named_config(name: str, *, image_size: int = 256, block: BlockDesign = "adaln-zero") -> DiTConfig:
    """The paper's configuration of a model such as "DiT-XL/2", on Stable Diffusion latents.

    Raises
    ------
    ValueError
        If there is no such model (the message suggests the nearest), or the image size is no multiple of 8.
    """
    parts = parse_name(name)
    if parts is None or name not in DIT_NAMES:
        known, hint = ", ".join(DIT_NAMES), did_you_mean(name, DIT_NAMES)
        raise ValueError(f"Unknown model {name!r}; known: {known}.{hint}")
    if image_size % LATENT_FACTOR:
        raise ValueError(f"Image size {image_size}: needed a multiple of {LATENT_FACTOR}, the autoencoder's factor.")
    depth, hidden_size, num_heads = SIZES[parts.size]
    return DiTConfig(
        depth=depth,
        hidden_size=hidden_size,
        num_heads=num_heads,
        patch_size=parts.patch,
        input_size=image_size // LATENT_FACTOR,
        block=block,
    )


def paper_name(config: DiTConfig) -> str | None:
    """Name of a configuration in the paper, such as "DiT-XL/2"; None if it has another shape, or is in pixel space."""
    shape = (config.depth, config.hidden_size, config.num_heads)
    sizes = [size for size, standard in SIZES.items() if standard == shape]
    named = sizes and config.space == "latent" and config.patch_size in PATCH_SIZES
    return f"DiT-{sizes[0]}/{config.patch_size}" if named else None
