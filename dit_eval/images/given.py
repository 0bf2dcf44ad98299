"""Whatever a caller of the Python interface holds, as an image set."""

from __future__ import annotations

import os
from typing import Any, Literal

from dit_eval.images import ImageSet, open_images
from dit_eval.images.stream import from_batches


def given_images(
    source: Any, *, role: Literal["gen", "ref"], num_images: int | None = None, network: str = "inception"
) -> ImageSet:
    """An image set of what stands for images: a path, a uint8 array or tensor (N, H, W, 3), or an image set.

    Parameters
    ----------
    role : "gen" must hold images; "ref" may be statistics only
    num_images : use the first ones; of a set that is open already, its own number stands
    network : see `open_images`

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ValueError
        If it cannot be taken for images; the message says what was found.
    """
    if isinstance(source, str | os.PathLike):
        return open_images(source, role=role, num_images=num_images, network=network)
    if hasattr(source, "shape") and hasattr(source, "dtype"):  # an array or a tensor
        return from_batches([source], num_images=num_images, name=role)
    if isinstance(source, type) or not all(hasattr(source, name) for name in ("batches", "sha256", "num_images")):
        raise ValueError(
            f"`{role}`: expected a path, a uint8 array (N, H, W, 3), or what `dit_eval.open_images` or "
            f"`dit_eval.from_batches` returns; got {type(source).__name__}."
        )
    images: ImageSet = source
    if num_images is not None and images.num_images != num_images:
        raise ValueError(
            f"`{role}`: these images are open already, {images.num_images} of them. Give `num_images` {num_images} "
            "where they are opened."
        )
    if role == "gen" and images.num_images == 0:
        raise ValueError(f"`gen`: {images.path} holds no images to score. Are `gen` and `ref` swapped?")
    return images
