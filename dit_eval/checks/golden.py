"""Images and network weights that every machine draws bit for bit, and for which ADM's own numbers are kept.

The images stand in for photographs: they vary from item to item, and `gen` and `ref` are drawn from distributions that
differ but overlap, so that no metric sits at an end of its scale. The weights stand in for the published ones, which
are a download: the full topology, drawn at random. Scores of a random network compare with nobody's; they exercise the
same arithmetic.

All random numbers are integers of the frozen `RandomState` stream. Sums of products are formed from integers small
enough that float32 holds every partial sum exactly, and everything else is one correctly rounded operation at a time
(no sums of floats, no logarithms), so every machine and every BLAS gives the same bits.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dit_eval.features.inception_weights import convolution_scopes, state_from_constants
from dit_eval.system.files import atomic_file


class Style(NamedTuple):
    """What the pictures of one distribution look like; amplitudes in grey levels of 0..255.

    Attributes
    ----------
    colour : lowest and highest value of a channel of the ground colour
    coarse, fine : amplitude of the smooth colour fields on 5 x 5 and 17 x 17 nodes
    stripes : amplitude of the stripes; half of the pictures have some
    blobs : largest number of discs
    noise_bits : pixel noise is uniform over 2 ** noise_bits values
    """

    colour: tuple[int, int]
    coarse: int
    fine: int
    stripes: int
    blobs: int
    noise_bits: int


class SetSpec(NamedTuple):
    """How one set is drawn: each picture has the set's own style, or with `shared` percent chance the common one."""

    seed: int
    num: int
    size: int
    own: Style
    shared: int


COMMON = Style(colour=(56, 200), coarse=60, fine=20, stripes=40, blobs=3, noise_bits=4)
REAL = Style(colour=(24, 232), coarse=90, fine=16, stripes=60, blobs=5, noise_bits=2)
DRAWN = Style(colour=(96, 208), coarse=32, fine=40, stripes=24, blobs=2, noise_bits=6)

IMAGE_SETS = {
    "gen-64": SetSpec(seed=101, num=72, size=64, own=DRAWN, shared=35),  # 72 = 64 + 8: a short last batch
    "ref-64": SetSpec(seed=102, num=60, size=64, own=REAL, shared=35),
    "gen-256": SetSpec(seed=103, num=68, size=256, own=DRAWN, shared=35),
    "ref-256": SetSpec(seed=104, num=44, size=256, own=REAL, shared=35),
}


def _field(rng: np.random.RandomState, nodes: int, size: int, amplitude: int) -> np.ndarray:
    """Smooth random colours: values on `nodes` x `nodes` points, interpolated bilinearly; (size, size, 3) float64."""
    grid = rng.randint(-amplitude, amplitude + 1, size=(nodes, nodes, 3)).astype(np.float64)
    # Tents over the nodes. `size` is a power of two, so weights and products are exact binary fractions.
    centres = (2 * np.arange(size) + 1) * (nodes - 1) / (2 * size)  # pixel centres, in nodes
    weights = np.maximum(1 - np.abs(centres[:, None] - np.arange(nodes)[None, :]), 0)  # (size, nodes)
    rows = (weights @ grid.reshape(nodes, -1)).reshape(size, nodes, 3)
    return weights @ rows  # broadcasts over y: (size, nodes) @ (size, nodes, 3)


def picture(rng: np.random.RandomState, style: Style, size: int) -> np.ndarray:
    """One picture of that style, (size, size, 3) uint8."""
    y, x = np.mgrid[0:size, 0:size].astype(np.int32) * (256 // size)  # in 1/256 of the picture
    picture = rng.randint(style.colour[0], style.colour[1] + 1, size=3).astype(np.int32)[None, None, :]
    field = _field(rng, 5, size, style.coarse) + _field(rng, 17, size, style.fine)
    picture = picture + np.floor(field).astype(np.int32)

    amplitude = rng.randint(-style.stripes, style.stripes + 1, size=3).astype(np.int32)
    across, down = rng.randint(-3, 4, size=2)
    period, phase = 2 * rng.randint(8, 40), rng.randint(0, 256)
    if rng.randint(0, 2):
        wave = np.abs((across * x + down * y + phase) % period - period // 2)  # 0 .. period / 2
        picture = picture + (amplitude * (2 * wave - period // 2)[..., None]) // (period // 2)

    for _ in range(rng.randint(0, style.blobs + 1)):
        centre_y, centre_x = rng.randint(0, 256, size=2)
        radius = rng.randint(16, 72)
        inside = (y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2
        picture = np.where(inside[..., None], rng.randint(0, 256, size=3).astype(np.int32), picture)

    width = 2**style.noise_bits
    noise = rng.randint(0, width, size=(size, size, 3), dtype=np.uint8).astype(np.int32) - width // 2
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def image_set(name: str, count: int | None = None) -> np.ndarray:
    """The images of one set, or the first of them, (N, H, W, 3) uint8.

    Parameters
    ----------
    name : "gen-64" (N = 72), "ref-64" (60), "gen-256" (68) or "ref-256" (44)
    """
    spec = IMAGE_SETS[name]
    rng = np.random.RandomState(spec.seed)
    pictures = np.empty((spec.num if count is None else count, spec.size, spec.size, 3), np.uint8)
    for i in range(len(pictures)):
        style = COMMON if rng.randint(0, 100) < spec.shared else spec.own
        pictures[i] = picture(rng, style, spec.size)
    return pictures


class Probes(NamedTuple):
    """Images that tell mistakes apart, (N, H, W, 3) uint8: smaller than Inception's 299 pixels, of just that, larger.

    Only `exact` passes through the network without a resize. `large` is made smaller, where antialiasing shows.
    """

    small: np.ndarray
    exact: np.ndarray
    large: np.ndarray


def probes() -> Probes:
    """Two images of 64 pixels, one of 299 and one of 512."""
    a, b, c, d = image_set("gen-256", 4)
    large = np.concatenate([np.concatenate([a, b], axis=1), np.concatenate([c, d], axis=1)])[None]
    return Probes(image_set("gen-64", 2), large[:, 100:399, 100:399], large)


# Of these vectors the tests write one with a single `float_val` for the whole shape.
CONSTANT_VECTOR = "mixed_3/conv/batchnorm/beta"
NUM_FEATURES, NUM_CLASSES = 2048, 1008

# Found by trial, so that activations neither die nor explode and the pool features resemble the published network's:
# a gain below 1 makes up for the positive betas, which keep the network from amplifying small differences without
# end; the last layers get low betas, since what rarely fires differs most from image to image.
_GAIN = 0.92
_CLASS_SPREAD = 0.3
_LAST = {f"mixed_10/{path}" for path in ("conv", "tower/mixed/conv", "tower/mixed/conv_1", "tower_1/mixed/conv",
                                        "tower_1/mixed/conv_1", "tower_2/conv")}  # fmt: skip


def _uniform(rng: np.random.RandomState, low: float, high: float, size: int) -> np.ndarray:
    """Uniform values, (size,) float32, the same bits everywhere (`RandomState.uniform` may fuse its two operations)."""
    return (low + rng.random_sample(size) * (high - low)).astype(np.float32)


def _centred(rng: np.random.RandomState, shape: tuple[int, ...], centring: float) -> np.ndarray:
    """Uniform weights of unit variance, `shape` float64, less `centring` x their mean per output (last axis).

    Activations after a Relu are all positive. Weights that sum to zero do not answer to that common level, without
    which deep random layers give nearly the same features for every image. The sum is one of integers, thus exact.
    """
    raw = rng.randint(0, 2**16, size=shape, dtype=np.uint16).reshape(-1, shape[-1])  # (fan in, channels out)
    total = raw.sum(axis=0, dtype=np.int64)
    middle = (2**16 - 1) / 2
    mean = total / raw.shape[0] - middle
    spread = 2**16 / np.sqrt(12.0)
    return ((raw - (middle + centring * mean)) / spread).reshape(shape)


def seeded_weights(
    convolutions: Iterable[tuple[str, tuple[int, int, int, int]]], seed: int = 0
) -> dict[str, np.ndarray]:
    """Random weights of the 2015 Inception, by the names of the TensorFlow constants.

    Parameters
    ----------
    convolutions : name and kernel shape (kh, kw, in, out) of each of the 94, in the graph's order, in which they are
        drawn

    Returns
    -------
    dict of str to ndarray, float32
        `NAME/conv2d_params` (kh, kw, in, out) and `NAME/batchnorm/{beta,gamma,moving_mean,moving_variance}` (out,) for
        each convolution, `softmax/weights` (2048, 1008) and `softmax/biases` (1008,): 472 arrays.
    """
    rng = np.random.RandomState(seed)
    weights: dict[str, np.ndarray] = {}
    for name, shape in convolutions:
        fan_in, channels = shape[0] * shape[1] * shape[2], shape[3]
        # Pixels lie around zero already, and their common level is the picture's colour: leave it to the first layer.
        params = _centred(rng, shape, 0.0 if name == "conv" else 1.0) * (_GAIN * np.sqrt(2.0 / fan_in))
        weights[f"{name}/conv2d_params"] = params.astype(np.float32)
        beta, gamma = ((-0.9, -0.1), (0.7, 1.7)) if name in _LAST else ((0.0, 0.7), (0.6, 1.4))
        weights[f"{name}/batchnorm/beta"] = _uniform(rng, *beta, channels)
        weights[f"{name}/batchnorm/gamma"] = _uniform(rng, *gamma, channels)
        weights[f"{name}/batchnorm/moving_mean"] = _uniform(rng, -0.2, 0.2, channels)
        weights[f"{name}/batchnorm/moving_variance"] = _uniform(rng, 0.5, 1.5, channels)
    weights[CONSTANT_VECTOR] = np.full_like(weights[CONSTANT_VECTOR], 0.125)
    classes = _centred(rng, (NUM_FEATURES, NUM_CLASSES), 1.0) * _CLASS_SPREAD
    weights["softmax/weights"] = classes.astype(np.float32)
    weights["softmax/biases"] = _uniform(rng, -1.0, 1.0, NUM_CLASSES)
    return weights


def write_seeded_weights(path: Path, seed: int = 0) -> str:
    """Write the random weights of `dit_eval.checks.golden` as a state dict that `TorchInception` reads, 96 MB.

    Returns
    -------
    SHA-256 of the arrays, each after its name in the graph, in sorted order.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        """The network as it is built, for the shapes of its weights."""

        def load_state_dict(self, *arguments: Any, **options: Any) -> None:
            """Leaves the weights as they are."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    net = Unloaded("dit-eval", ["2048"], empty)
    kernels = ((scope, net.get_submodule(module).conv.weight) for module, scope in convolution_scopes().items())
    shapes = [
        (scope, (kernel.shape[2], kernel.shape[3], kernel.shape[1], kernel.shape[0])) for scope, kernel in kernels
    ]
    weights = seeded_weights(shapes, seed)
    state = io.BytesIO()  # torch.save takes the error of a full disk for one of its own
    torch.save(state_from_constants(weights, path), state)
    with atomic_file(path) as file:
        file.write(state.getbuffer())
    parts = (part for name in sorted(weights) for part in (name.encode(), weights[name].tobytes()))
    return hashlib.sha256(b"".join(parts)).hexdigest()
