"""What a feature network is: uint8 images in, features out; and what is known of one before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the command line reads `NETWORKS` for its help, and loads no NumPy for that
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A program that runs a network.

    Attributes
    ----------
    name : how users call the program
    loaded_from : module and class of the network, `module:Class`; imported when it is loaded
    precisions : of its arithmetic that a user may ask for, the protocol's first
    weights : name of its weights in the manifest; None where the package carries them
    needs, extra : a Python module beyond dit-eval's own, and the extra that installs it; None without
    """

    name: str
    loaded_from: str
    precisions: tuple[str, ...] = ("fp32",)
    weights: str | None = None
    needs: str | None = None
    extra: str | None = None


@dataclass(frozen=True, kw_only=True)
class Network:
    """All that is known of a feature network before it is loaded.

    Attributes
    ----------
    name : how users call it; results name it
    label : as a text names it
    about : what it is and serves, for help
    pool_dim, spatial_dim, num_classes : dimensions D, S and K of its features; None for those that it does not give
    protocol : whose network it is, and how an image enters it
    backends : programs that run it, the usual one first
    """

    name: str
    label: str
    about: str
    pool_dim: int
    spatial_dim: int | None = None
    num_classes: int | None = None
    protocol: str
    backends: tuple[Backend, ...]

    def backend(self, name: str) -> Backend:
        """The program of that name; ValueError if it does not run this network."""
        for backend in self.backends:
            if backend.name == name:
                return backend
        known = ", ".join(backend.name for backend in self.backends)
        raise ValueError(f"`backend` {name}: does not run the network {self.name}; expected one of: {known}.")


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
