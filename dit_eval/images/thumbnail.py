"""Images as a small strip for a page."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

_SIDE = 64  # pixels of the longer side of an image in a strip
_LARGEST = 4096  # pixels of a side; larger images have none


def strip(images: np.ndarray) -> tuple[str, bytes] | None:
    """The images beside each other, made small.

    Parameters
    ----------
    images : uint8 (N, H, W, 3)

    Returns
    -------
    The media type and the file: PNG of images that are small already, else JPEG; None of images without a pixel, or of
    images that are too large to be made small in no time.
    """
    height, width = images.shape[1:3]
    if not images.size or max(height, width) > _LARGEST:
        return None
    share = min(1.0, _SIDE / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)) for image in images]
    target = io.BytesIO()
    whole = Image.fromarray(np.concatenate(small, axis=1))
    if share < 1:
        whole.save(target, "JPEG", quality=82)
        return "image/jpeg", target.getvalue()
    whole.save(target, "PNG", optimize=True)
    return "image/png", target.getvalue()
