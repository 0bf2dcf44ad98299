"""CIFAR-10 as its authors publish it, in the order in which published numbers take its pictures.

The six files of its binary version lie in the cache, in the folder that the archive has. They come from the archive,
which is fetched, or may be brought by hand; each is checked by its SHA-256, and none is run.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dit_eval.system.assets import Asset, asset, cache_dir
from dit_eval.system.files import atomic_file
from dit_eval.system.text import shown

FOLDER = "cifar-10-batches-bin"
TRAIN, TEST = tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"
_IMAGES, _SIDE = 10_000, 32  # of a file; of an image
_SIZE = _IMAGES * (1 + 3 * _SIDE**2)  # a byte for the class, then red, green and blue, row by row
# torch-fidelity's tests take this many of each set, drawn by this seed, and the same with noise on them
# (`utils/util_dump_dataset_as_images.py`).
DRAWN, _SEED, _NOISE = 5_000, 2020, 64


def cifar10(*, sha256: Mapping[str, str], bring: Callable[[Asset], Path]) -> dict[str, np.ndarray]:
    """The pictures of CIFAR-10 by part; torch-fidelity's 5,000 come first, by their index, the others behind them.

    Parameters
    ----------
    sha256 : of the six files, by name
    bring : brings the archive where the files are not here yet, and returns where it is

    Returns
    -------
    "train" (50,000, 32, 32, 3), "test" (10,000, 32, 32, 3) and "noisy" (5,000, 32, 32, 3), uint8. "noisy" are the first
    5,000 of "test" with torch-fidelity's noise.

    Raises
    ------
    OSError
        If the archive cannot be brought, or the files cannot be written into the cache.
    ValueError
        If a file is not the published one.
    """
    folder = cache_dir() / FOLDER
    if any(not (folder / name).is_file() for name in sha256):
        _unpack(bring(asset("cifar10")), folder, sha256)
    files = {name: _pictures(_checked(folder / name, sha256[name])) for name in (*TRAIN, TEST)}
    train, test = np.concatenate([files[name] for name in TRAIN]), files[TEST]
    return {"train": train[_order(len(train))], "test": test[_order(len(test))], "noisy": _noisy(test)}


def _unpack(archive: Path, folder: Path, sha256: Mapping[str, str]) -> None:
    """Write the six files of the archive into the folder; anything else in it is passed over."""
    found = set()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix(f"{FOLDER}/")
                if name not in sha256 or not member.isreg() or member.size != _SIZE:
                    continue
                content = tar.extractfile(member)
                data = b"" if content is None else content.read(_SIZE)
                _check(archive, f"{archive}: {name}", data, sha256[name])
                folder.mkdir(parents=True, exist_ok=True)
                with atomic_file(folder / name) as file:
                    file.write(data)
                found.add(name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive}: damaged ({error}). Delete it, and run the same command again.") from None
    if missing := sorted(set(sha256) - found):
        raise ValueError(
            f"{archive}: holds no {', '.join(missing)} of {_SIZE:,} bytes; expected the binary version of CIFAR-10. "
            "Delete it, and run the same command again."
        )


def _checked(path: Path, sha256: str) -> bytes:
    size = path.stat().st_size
    if size != _SIZE:
        raise ValueError(f"{path}: {size:,} bytes, expected {_SIZE:,}. Delete it, and run the same command again.")
    data = path.read_bytes()
    _check(path, f"{path}", data, sha256)
    return data


def _check(path: Path, where: str, data: bytes, sha256: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise ValueError(
            f"{shown(where)}: not CIFAR-10 as published: its SHA-256 is {found}, expected {sha256}. "
            f"Delete {shown(path)}, and run the same command again."
        )


def _pictures(data: bytes) -> np.ndarray:
    """Images of a file, uint8 (10000, 32, 32, 3)."""
    rows = np.frombuffer(data, np.uint8).reshape(_IMAGES, -1)
    return rows[:, 1:].reshape(_IMAGES, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)


def _order(num: int) -> np.ndarray:
    """Indices of all images: those drawn, by their index, as their files are sorted there; then the others."""
    drawn = np.sort(_draws(num)[0])
    return np.concatenate([drawn, np.setdiff1d(np.arange(num), drawn)])


def _draws(num: int) -> tuple[np.ndarray, np.random.RandomState]:
    """The indices in the order of their drawing, and what draws the noise after them."""
    draws = np.random.RandomState(_SEED)
    return draws.choice(num, DRAWN, replace=False), draws


def _noisy(test: np.ndarray) -> np.ndarray:
    """The drawn images with noise that was drawn in the order of their drawing; sorted by their index.

    Values are not clipped: what lies outside of 0..255 comes in at the other end, as a cast of a float to a byte does
    it on x86.
    """
    drawn, draws = _draws(len(test))
    images = test[drawn].astype(np.float32)
    images += draws.randn(*images.shape) * _NOISE
    return images.astype(np.int32).astype(np.uint8)[np.argsort(drawn)]
