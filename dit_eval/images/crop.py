"""Images of any size as squares of one size, by the rules that published numbers rest on.

Both begin with what torchvision's `ImageFolder` gives: the pixels as they are stored, whatever EXIF says of how to turn
them, as RGB (`dit_eval.images.decoding` says what other modes become).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

    from dit_eval.results.settings import Crop

# Of an image that is cropped: 8192 x 8192, which takes 256 MiB a thread; ImageNet's have 0.2 million on average.
_MAX_PIXELS = 1 << 26


def cropped(data: bytes, where: str, crop: Crop) -> np.ndarray:
    """An image file of any size, mode and format of `dit_eval.images.decoding`, cut; uint8 (size, size, 3).

    Parameters
    ----------
    data : the file
    where : what messages call it

    Raises
    ------
    ValueError
        If it cannot be read as an image.
    """
    from dit_eval.images.decoding import FORMATS, decode, to_rgb  # brings Pillow

    image = decode(data, where, formats=tuple(FORMATS), max_pixels=_MAX_PIXELS)
    _check_scaled(image, crop.size, where)
    rule = centre_crop if crop.rule == "adm" else torchvision_crop
    return rule(to_rgb(image, where), crop.size)


def centre_crop(image: Image, size: int) -> np.ndarray:
    """The square in the middle of an image, scaled to `size`; uint8 (size, size, 3).

    ADM's rule, with which DiT was trained: halve by box averages while the shorter side is at least twice the size,
    then scale it to the size by bicubic interpolation, then cut.
    """
    from PIL.Image import Resampling

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Resampling.BICUBIC)
    return _cut(image, (image.width - size) // 2, (image.height - size) // 2, size)


def torchvision_crop(image: Image, size: int) -> np.ndarray:
    """As torchvision's `Resize(size)` and `CenterCrop(size)` of a Pillow image; uint8 (size, size, 3).

    The shorter side is scaled to the size by bilinear interpolation with antialiasing, the longer one is rounded down,
    and what is cut is rounded to even.
    """
    from PIL.Image import Resampling

    shorter = min(image.size)
    width, height = (size * side // shorter for side in image.size)
    image = image.resize((width, height), Resampling.BILINEAR)
    return _cut(image, round((image.width - size) / 2), round((image.height - size) / 2), size)


def _cut(image: Image, left: int, top: int, size: int) -> np.ndarray:
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _check_scaled(image: Image, size: int, where: str) -> None:
    """That an image stays within bounds where its shorter side is scaled to `size`: a strip of one row would not."""
    from dit_eval.images.decoding import too_large

    width, height = (side * size // min(image.size) for side in image.size)
    if width * height > _MAX_PIXELS:
        raise ValueError(
            f"{where}: {image.width} x {image.height} px, scaled to {too_large(width, height, _MAX_PIXELS)}"
        )
