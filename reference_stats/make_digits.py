"""Make the digits study's files: the embedded extractor's weights, its reference batch and a held-out batch.

Run ``python reference_stats/make_digits.py`` in an environment in which this checkout is installed
(``pip install -e .``). It writes ``dit_eval/features/digits.safetensors``, ``reference_stats/digits.npz`` and
``reference_stats/digits-heldout.npz``. With ``--check`` it writes nothing and says whether the files it would write
equal the committed ones, byte for byte.

The data are the 1,797 images of ``sklearn.datasets.load_digits``. Only this script (and a test) needs scikit-learn; the
package never imports it. Training runs on one CPU thread with deterministic algorithms: the same machine and the same
versions give the same bytes. Another processor may round differently and so arrive at slightly different weights.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import math
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from dit_eval.features.digits import (
    INPUT_SIZE,
    SPATIAL_CHANNELS,
    DigitsCNN,
    DigitsExtractor,
    digits_features,
    prepare_images,
)
from dit_eval.features.network import FeatureBatch

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "dit_eval" / "features" / "digits.safetensors"
REFERENCE = ROOT / "reference_stats" / "digits.npz"
HELDOUT = ROOT / "reference_stats" / "digits-heldout.npz"

SEED = 0
NUM_HELDOUT = 500
EPOCHS = 100
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-4
EMA_DECAY = 0.99
MAX_SHIFT = 1  # pixels of the 16x16 input, in each direction


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 8, 8, 3) uint8 and labels (1797,) int64, in scikit-learn's order."""
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise SystemExit("make_digits.py needs scikit-learn for its digit images: pip install scikit-learn") from None
    digits = datasets.load_digits()
    grey = np.round(digits.images * 255 / 16).astype(np.uint8)  # values 0..16 in the source
    return np.repeat(grey[..., None], 3, axis=-1), digits.target.astype(np.int64)


def split(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the reference part (1297,) and of the held-out part (500,).

    A seeded permutation, stably sorted by class, of which 500 evenly spaced rows are held out: every class gives the
    same share to within one image. Both parts keep the order of the permutation, so classes are mixed in the files
    (the Inception Score's contiguous splits depend on that). The permutation sorts raw PCG64 words because NumPy
    promises those never to change, unlike ``Generator.permutation``.
    """
    order = np.argsort(np.random.PCG64(SEED).random_raw(len(labels)), kind="stable")
    by_class = order[np.argsort(labels[order], kind="stable")]
    heldout = np.zeros(len(labels), dtype=bool)
    heldout[by_class[(2 * np.arange(NUM_HELDOUT) + 1) * len(labels) // (2 * NUM_HELDOUT)]] = True
    return order[~heldout[order]], order[heldout[order]]


def random_shift(x: Tensor, *, generator: torch.Generator) -> Tensor:
    """Shift every image (B, 1, 16, 16) by up to MAX_SHIFT pixels each way, with zeros moving in."""
    shift = torch.randint(0, 2 * MAX_SHIFT + 1, (len(x), 2), generator=generator)
    padded = F.pad(x[:, 0], (MAX_SHIFT,) * 4)
    rows = (torch.arange(INPUT_SIZE) + shift[:, :1])[:, :, None]  # (B, 16, 1)
    columns = (torch.arange(INPUT_SIZE) + shift[:, 1:])[:, None, :]  # (B, 1, 16)
    return padded[torch.arange(len(x))[:, None, None], rows, columns][:, None]


def spread_loss(features: Tensor) -> Tensor:
    """Ask for standard deviations of at least 1 and for uncorrelated features (B, D).

    A classifier alone folds its features into about nine directions, one per class less one, and a Fréchet distance on
    those sees little but the class frequencies. These are the variance and covariance terms of VICReg (Bardes et al.
    2022, eqs. 1 and 4).
    """
    centred = features - features.mean(dim=0)
    covariance = centred.T @ centred / (len(features) - 1)
    variance = covariance.diagonal()
    off_diagonal = covariance - torch.diag(variance)
    return F.relu(1 - (variance + 1e-4).sqrt()).mean() + off_diagonal.square().sum() / features.shape[1]


def train(images: np.ndarray, labels: np.ndarray) -> DigitsCNN:
    """The trained network, in float32: an exponential moving average of the weights."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = DigitsCNN()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # without normalisation layers the initial scale has to be right
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    ema = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    x_all, y_all = prepare_images(images).float(), torch.from_numpy(labels)
    num_steps = EPOCHS * (len(x_all) // BATCH_SIZE)
    step = 0
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x_all), generator=generator).split(BATCH_SIZE):
            if len(rows) < BATCH_SIZE:
                continue
            pool, spatial, logits = model(random_shift(x_all[rows], generator=generator))
            loss = F.cross_entropy(logits, y_all[rows]) + spread_loss(pool)
            loss = loss + spread_loss(spatial[:, :SPATIAL_CHANNELS].flatten(1))
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * step / num_steps))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            for name, value in model.state_dict().items():
                ema[name].lerp_(value, 1 - EMA_DECAY)
    model.load_state_dict(ema)
    return model.eval()


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """An uncompressed ``.npz`` without time stamps: the same arrays give the same bytes on every machine."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            member.create_system = 3  # zipfile records the operating system otherwise
            content = io.BytesIO()
            np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(member, content.getvalue())
    return stream.getvalue()


def statistics(batch: FeatureBatch) -> dict[str, np.ndarray]:
    """``mu``, ``sigma`` (pool) and ``mu_s``, ``sigma_s`` (spatial) as in ADM's reference batches, float64."""
    pool, spatial = batch.pool.astype(np.float64), batch.spatial.astype(np.float64)
    return {
        "mu": pool.mean(axis=0),
        "sigma": np.cov(pool, rowvar=False),
        "mu_s": spatial.mean(axis=0),
        "sigma_s": np.cov(spatial, rowvar=False),
    }


def effective_rank(sigma: np.ndarray) -> float:
    """Exponential of the entropy of the normalised eigenvalues (Roy and Vetterli 2007)."""
    share = np.linalg.eigvalsh(sigma).clip(min=0)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def make() -> dict[Path, bytes]:
    """Train, extract and return what belongs into each file."""
    images, labels = load_images()
    reference, heldout = split(labels)
    start = time.perf_counter()
    model = train(images[reference], labels[reference])
    seconds = time.perf_counter() - start

    evaluated = DigitsCNN().eval()  # in float64, as DigitsExtractor does
    evaluated.load_state_dict(model.state_dict())
    evaluated.double()
    reference_features = digits_features(evaluated, images[reference])
    heldout_features = digits_features(evaluated, images[heldout])
    accuracy = float((heldout_features.class_probs.argmax(axis=1) == labels[heldout]).mean())

    how_made = {
        "script": "reference_stats/make_digits.py",
        "data": "sklearn.datasets.load_digits (UCI Optical Recognition of Handwritten Digits, 1,797 images)",
        "split": f"PCG64({SEED}) permutation, stratified: {len(reference)} to train and as reference, "
        f"{len(heldout)} held out",
        "seed": SEED,
        "epochs": EPOCHS,
        "batch_size": BATCH_SIZE,
        "loss": "cross-entropy + variance and covariance terms on pool and spatial features",
        "augmentation": f"shifts of up to {MAX_SHIFT} pixel at {INPUT_SIZE}x{INPUT_SIZE}",
        "optimizer": f"AdamW, learning rate {LEARNING_RATE}, cosine decay, weight decay {WEIGHT_DECAY}",
        "ema_decay": EMA_DECAY,
        "heldout_accuracy": accuracy,
        "torch_version": torch.__version__.split("+")[0],
    }
    # One entry only: safetensors keeps the header's entries in a hash map, whose order differs from run to run.
    metadata = {"dit_eval": json.dumps(how_made, sort_keys=True)}
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    files = {
        WEIGHTS: save_safetensors(tensors, metadata=metadata),
        REFERENCE: npz_bytes(
            {"arr_0": images[reference], "arr_1": labels[reference], **statistics(reference_features)}
        ),
        HELDOUT: npz_bytes({"arr_0": images[heldout], "arr_1": labels[heldout]}),
    }
    ranks = {name: effective_rank(value) for name, value in statistics(reference_features).items() if "sigma" in name}
    print(f"trained in {seconds:.0f} s; held-out accuracy {accuracy:.4f}")
    print(f"effective rank: pool {ranks['sigma']:.1f} of 64, spatial {ranks['sigma_s']:.1f} of 112")
    return files


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the weights and reference batches of the digits study.")
    parser.add_argument("--check", action="store_true", help="write nothing; compare with the files that exist")
    args = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    different = 0
    for path, content in make().items():
        name = path.relative_to(ROOT).as_posix()
        if args.check:
            same = path.is_file() and path.read_bytes() == content
            different += not same
            print(f"{name}: {'equal' if same else 'DIFFERENT'}")
        else:
            path.write_bytes(content)
            print(f"{name}: {len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")
            if path == WEIGHTS and hashlib.sha256(content).hexdigest() != DigitsExtractor.weights_sha256:
                print("These weights are new: write this value into DigitsExtractor.weights_sha256.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
