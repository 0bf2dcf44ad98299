"""What defines a DiT: sizes, block design, space. Needs no torch, so that plans can use it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from dit_eval.models.latent_space import MOST_FACTOR, LatentSpace
from dit_eval.models.names import DIT_NAMES, PATCH_SIZES, SIZES, parse_name
from dit_eval.system.reading import is_number
from dit_eval.system.text import did_you_mean

BlockDesign = Literal["adaln-zero", "adaln", "cross-attention", "in-context"]
BLOCK_DESIGNS: tuple[BlockDesign, ...] = ("adaln-zero", "adaln", "cross-attention", "in-context")

# Limits far beyond what anyone trains.
_MOST = {"depth": 1000, "hidden_size": 1 << 16, "num_heads": 1 << 10, "patch_size": 1 << 10, "input_size": 1 << 12,
         "in_channels": 1 << 10, "num_classes": 1 << 24, "latent_factor": MOST_FACTOR}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """What defines a DiT. The defaults are the paper's for latents of 256 px images.

    Attributes
    ----------
    depth, hidden_size, num_heads : layers, D, attention heads
    patch_size : p
    input_size : H = W of the input, in latent pixels (image size / factor), or in pixels for a pixel-space model
    space : what the input is, latents of an autoencoder or pixels
    in_channels : C; the output has 2 C channels (noise, then variance) if `learn_sigma`
    num_classes : K; label K stands for "no label"
    label_dropout : share of labels replaced by K while training (0: no such row in the label table)
    learn_sigma : also predict the variance
    block : block design, Section 3.2 of the paper
    latent_factor : how many times smaller than the image's a side of latents is; 8 of the Stable Diffusion autoencoder
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
    latent_factor: int = LatentSpace.factor

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
        return self.input_size * (self.latent_factor if self.space == "latent" else 1)

    def to_dict(self) -> dict[str, Any]:
        """Every field, but for those that came later and are as usual: earlier editions know no such fields."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        usual = {each.name: each.default for each in fields(self) if each.name in _LATER}
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}


_LATER = {"latent_factor"}  # fields that the first edition did not have


def named_config(
    name: str, *, image_size: int = 256, block: BlockDesign = "adaln-zero", latents: LatentSpace | None = None
) -> DiTConfig:
    """The paper's configuration of a model such as "DiT-XL/2", on latents: Stable Diffusion's, unless others are named.

    Raises
    ------
    ValueError
        If there is no such model (the message suggests the nearest), or the image size is no multiple of the
        autoencoder's factor.
    """
    parts = parse_name(name)
    if parts is None or name not in DIT_NAMES:
        known, hint = ", ".join(DIT_NAMES), did_you_mean(name, DIT_NAMES)
        raise ValueError(f"Unknown model {name!r}; known: {known}.{hint}")
    latents = latents or LatentSpace()
    depth, hidden_size, num_heads = SIZES[parts.size]
    return DiTConfig(
        depth=depth,
        hidden_size=hidden_size,
        num_heads=num_heads,
        patch_size=parts.patch,
        input_size=latents.input_size(image_size),
        in_channels=latents.channels,
        block=block,
        latent_factor=latents.factor,
    )


def paper_name(config: DiTConfig) -> str | None:
    """Name of a configuration in the paper, such as "DiT-XL/2"; None if it has another shape, or is in pixel space."""
    shape = (config.depth, config.hidden_size, config.num_heads)
    sizes = [size for size, standard in SIZES.items() if standard == shape]
    named = sizes and config.space == "latent" and config.patch_size in PATCH_SIZES
    return f"DiT-{sizes[0]}/{config.patch_size}" if named else None
