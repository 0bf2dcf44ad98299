"""What a feature network is: uint8 images in, features out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """What a network says of a batch of B images: pool (B, D), spatial (B, S), class_probs (B, K), all float32.

    A network without spatial features, or without a classifier, leaves them None in every batch.
    """

    pool: np.ndarray
    spatial: np.ndarray | None = None
    class_probs: np.ndarray | None = None


class FeatureExtractor(Protocol):
    """A network that turns uint8 images (B, H, W, 3) into features.

    Attributes
    ----------
    name : which features these are; results name it
    backend : the program that runs the network
    precision : of its arithmetic
    weights_sha256 : of the weights file
    device : where it runs
    pool_dim, spatial_dim : feature dimensions D and S; S is None for a network without spatial features
    """

    name: str
    backend: str
    precision: str
    weights_sha256: str
    device: str
    pool_dim: int

    @property  # read only, so that a class may say int, or None
    def spatial_dim(self) -> int | None: ...

    def __call__(self, images: np.ndarray) -> FeatureBatch: ...
