"""The former place of `ImageSet` and `open_images`, which `dit_eval.images` has."""

from __future__ import annotations

from dit_eval.images import ImageSet, open_images

__all__ = ["ImageSet", "open_images"]
