"""The embedded "digits" network: a small CNN whose weights ship with the package.

It lets the whole pipeline run, and be tested, with no download. It plays the part of the Inception network on 8x8 and
16x16 grey digits and returns the same three kinds of features. Its numbers are **digits numbers**: they follow the same
formulas as FID, sFID, Inception Score, precision and recall, and are never comparable with Inception's. Results say
`extractor = "digits"` for that reason.

The weights were trained by `reference_stats/make_digits.py` on scikit-learn's copy of the UCI handwritten digits;
the header of `digits.safetensors` records how.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from dit_eval.features.network import FeatureBatch
from dit_eval.system.switches import arithmetic

WEIGHTS_PATH = Path(__file__).with_name("digits.safetensors")
INPUT_SIZE = 16
SPATIAL_CHANNELS = 7  # as many channels as ADM keeps of Mixed_6d for sFID
SPATIAL_SIZE = 4


class DigitsCNN(nn.Module):
    """Four convolutions without normalisation, global mean, linear classifier.

    There is no normalisation layer on purpose: batch norm would tie an image to its batch, and group norm would remove
    contrast, which a measure of image quality has to notice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 24, 3, padding=1)
        self.conv2 = nn.Conv2d(24, 32, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(32, 48, 3, padding=1, stride=2)
        self.conv4 = nn.Conv2d(48, 64, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of a batch of grey images.

        Parameters
        ----------
        x : (B, 1, 16, 16), values in 0..1

        Returns
        -------
        Pool (B, 64), non-negative; spatial (B, 48, 4, 4), non-negative, the map before the last convolution; logits
        (B, 10).
        """
        x = F.relu(self.conv1(x))  # (B, 24, 16, 16)
        x = F.relu(self.conv2(x))  # (B, 32, 8, 8)
        spatial = F.relu(self.conv3(x))  # (B, 48, 4, 4)
        pool = F.relu(self.conv4(spatial)).mean(dim=(2, 3))  # (B, 64)
        return pool, spatial, self.head(pool)


def prepare_images(images: np.ndarray) -> Tensor:
    """Grey 16x16 network input from uint8 images of any size.

    Bilinear with half-pixel centres, antialiased when the image is larger than 16x16: 8x8 digits are upsampled and
    16x16 images pass unchanged. This always runs on the CPU in float64, so every device sees the same input.

    Parameters
    ----------
    images : (B, H, W, 3) uint8

    Returns
    -------
    (B, 1, 16, 16) float64, values in 0..1.

    Raises
    ------
    ValueError
        If the array is not a non-empty uint8 NHWC batch with three channels.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(
            f"found images of shape {images.shape} and type {images.dtype}, the digits network needs (B, H, W, 3) "
            "uint8 in 0..255.\nRepeat a grey image over three channels; move channels last; scale floats to 0..255."
        )
    grey = torch.from_numpy(images.mean(axis=-1, dtype=np.float64) / 255)[:, None]  # (B, 1, H, W)
    return F.interpolate(grey, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear", align_corners=False, antialias=True)


@torch.inference_mode()
def digits_features(model: DigitsCNN, images: np.ndarray) -> FeatureBatch:
    """Pool features, spatial features and class probabilities of a batch, on the model's device and in its dtype.

    Parameters
    ----------
    images : (B, H, W, 3) uint8

    Returns
    -------
    `pool` (B, 64), `spatial` (B, 112), which are 7 channels of a 4x4 map flattened in NHWC order, `class_probs`
    (B, 10); all float32.
    """
    x = prepare_images(images).to(model.head.weight)  # the weight's device and dtype
    with arithmetic("fp32", x.device):  # float64 products know no other, but those of MPS do
        pool, spatial, logits = model(x)
    spatial = spatial[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)  # (B, 4 * 4 * 7)
    return FeatureBatch(
        pool=pool.float().cpu().numpy(),
        spatial=spatial.float().cpu().numpy(),
        class_probs=logits.softmax(dim=1).float().cpu().numpy(),
    )


class DigitsExtractor:
    """The digits network with its committed weights, as a function from images to features.

    It computes in float64 and rounds the results to float32. The network is small enough for that to cost little, and
    neither the batch an image is in nor TF32 on a GPU then changes its features beyond the last float32 digit. Apple's
    MPS has no float64 and computes in float32.

    Raises
    ------
    FileNotFoundError
        If the weights are missing from the installation.
    ValueError
        If the weights file is not the one this version was released with.
    """

    name = "digits"
    backend = "torch"
    precision = "fp64"
    pool_dim = 64
    spatial_dim = SPATIAL_CHANNELS * SPATIAL_SIZE * SPATIAL_SIZE
    num_classes = 10
    weights_sha256 = "44c80fb29c06220e5d4d8ccfcf8f7cd69a725d2b985999e3a7475418ed82483d"

    def __init__(self, *, device: str = "cpu") -> None:
        if not WEIGHTS_PATH.is_file():
            raise FileNotFoundError(f"{WEIGHTS_PATH} is part of dit-eval and is missing.\nInstall dit-eval again.")
        content = WEIGHTS_PATH.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != self.weights_sha256:
            raise ValueError(
                f"{WEIGHTS_PATH} has SHA-256 {found}, this version of dit-eval needs {self.weights_sha256}.\n"
                "Install dit-eval again; or, after retraining with reference_stats/make_digits.py, write the new "
                "value into DigitsExtractor.weights_sha256."
            )
        self.device = device
        if torch.device(device).type == "mps":
            self.precision = "fp32"
        with torch.device("meta"):  # values that nobody needs would be drawn from the caller's generator
            model = DigitsCNN()
        model.load_state_dict(load_safetensors(content), assign=True)
        model.requires_grad_(False).eval()
        self._model = model.to(device, torch.float32 if self.precision == "fp32" else torch.float64)

    def __call__(self, images: np.ndarray) -> FeatureBatch:
        """Features of a batch of images; see `digits_features`."""
        return digits_features(self._model, images)
