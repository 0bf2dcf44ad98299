"""Images to train on: in memory, in a folder, or as latents that `dit-eval encode` has made of one.

All three answer the same question: the images of these indices, mirrored or not, as a model sees them. What is random
about an image (its mirroring, the sample of its posterior) is drawn from generators that the caller gives, so that a
batch depends on nothing else.

N images, C channels, H = W side; latents have C = 4 and an eighth of the side.
"""

from __future__ import annotations

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image

from dit_eval.images.decoding import decode, to_rgb
from dit_eval.images.folder import read_file
from dit_eval.images.listing import IMAGE_SUFFIXES
from dit_eval.images.npz import open_batch
from dit_eval.results.parse import json_text
from dit_eval.system.dist import World
from dit_eval.system.files import atomic_file
from dit_eval.system.text import shown

OnCorrupt = Literal["skip", "refuse"]
# Images float32 (N, 3, H, W) in -1..1 -> means and standard deviations of their posteriors, (N, 4, h, w) each.
Encoder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

_INDEX = "latents.json"  # in a folder of latents; its being there says that all of them are
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")  # whatever the names of the files say
_MAX_PIXELS = 178_956_970  # of an image; Pillow's own limit
_MAX_FILE = 1 << 30  # bytes of an image file: more than so many pixels, RGB, without compression
_SHARD = 512  # images of a file of latents: 32 MiB at 256 px


class TrainingData(Protocol):
    """What a training run reads.

    Attributes
    ----------
    space : "pixel", or "latent" for latents of the Stable Diffusion autoencoder
    shape : (C, H, W) of what a model sees
    num_classes : one more than the largest label
    identity : what tells these data from others, for JSON
    """

    @property
    def space(self) -> Literal["latent", "pixel"]: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def num_classes(self) -> int: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def __len__(self) -> int: ...

    def read(
        self, indices: np.ndarray, mirrored: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Images float32 (N, C, H, W), nominally of unit scale, and labels int64 (N,).

        Parameters
        ----------
        indices, mirrored : (N,) which images, and which of them left to right
        generators : one for each image, for what is random about it
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ArrayData:
    """Images in memory, or mapped: pixel space.

    Attributes
    ----------
    images : uint8 (N, H, W, C), C = 1 or 3
    labels : int64 (N,)
    identity : see `TrainingData`
    """

    images: np.ndarray
    labels: np.ndarray
    identity: dict[str, Any]

    def __post_init__(self) -> None:
        shape = self.images.shape
        if self.images.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or shape[1] != shape[2]:
            raise ValueError(f"Found images {self.images.dtype} {shape}; needed uint8 (N, H, H, 1 or 3).")
        if self.labels.shape != shape[:1] or self.labels.dtype.kind not in "iu" or self.labels.min(initial=0) < 0:
            raise ValueError(f"Found labels {self.labels.dtype} {self.labels.shape}; needed ({shape[0]},), 0 or more.")

    @property
    def space(self) -> Literal["latent", "pixel"]:
        return "pixel"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.images.shape[3], *self.images.shape[1:3])

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def __len__(self) -> int:
        return len(self.images)

    def read(
        self, indices: np.ndarray, mirrored: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        return _to_model(self.images[indices], mirrored), self.labels[indices].astype(np.int64)


def open_data(
    path: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    channels: Literal[1, 3] = 3,
    on_progress: Callable[[int, int], None] | None = None,
) -> TrainingData:
    """Training data of any kind: latents, an npz of images, or a folder of images.

    Parameters
    ----------
    image_size : side of the crop, for a folder of images
    channels : 1 to take the grey images of an npz as one channel
    on_progress : called with (bytes, bytes in all) while the checksum of an npz is computed

    Raises
    ------
    FileNotFoundError, ValueError
        If it is none of these, or `image_size` is missing.
    """
    path = Path(path)
    parts = path.with_name(path.name + ".parts")  # of an encoding that has not finished; opening it says so
    if (path / _INDEX).is_file() or (not path.exists() and parts.exists()):
        return Latents(path)
    if path.is_file():
        return open_npz(path, channels=channels, on_progress=on_progress)
    if not path.exists():
        raise FileNotFoundError(f"{path}: neither latents, nor an npz, nor a folder of images.")
    if image_size is None:
        raise ValueError(f"{path}: a folder of images needs --image-size, the side of the centre crop.")
    return list_images(path, image_size=image_size)


def open_npz(
    path: str | os.PathLike[str],
    *,
    channels: Literal[1, 3] = 3,
    on_progress: Callable[[int, int], None] | None = None,
) -> ArrayData:
    """The images of an ADM batch file with labels in `arr_1`; without labels, all are of class 0.

    Parameters
    ----------
    channels : 1 to take grey images (three equal channels) as one channel
    on_progress : see `open_data`

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no such images.
    """
    batch = open_batch(path, role="gen")
    images = batch.array()
    if channels == 1:
        if any((part != part[..., :1]).any() for part in batch.batches(1024)):
            raise ValueError(f"{path}: its images have colours; needed three equal channels for one input channel.")
        images = images[..., :1]
    if images.shape[1] != images.shape[2]:
        raise ValueError(f"{path}: images of {images.shape[2]} x {images.shape[1]} px; needed squares.")
    if batch.labels_problem:
        raise ValueError(f"{path}: {batch.labels_problem}. Without arr_1, all images are of one class.")
    labels = np.zeros(len(images), np.int64) if batch.labels is None else batch.labels
    if labels.min() < 0:
        raise ValueError(f"{path}: label {labels.min()} in arr_1; needed 0 or more.")
    identity = {"kind": "npz", "sha256": batch.sha256(on_progress), "images": len(images), "channels": channels}
    return ArrayData(images=images, labels=labels, identity=identity)


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """Images in files, read when they are needed and cropped as ADM did: pixel space.

    Attributes
    ----------
    root : the folder
    files : paths in it, sorted by class, then by name
    labels : int64 (N,), numbers of `classes`
    classes : names of the class folders, sorted; empty if the images lie in `root` itself, all of class 0
    image_size : side of the crop
    """

    root: Path
    files: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    image_size: int

    @property
    def space(self) -> Literal["latent", "pixel"]:
        return "pixel"

    @property
    def shape(self) -> tuple[int, int, int]:
        return (3, self.image_size, self.image_size)

    @property
    def num_classes(self) -> int:
        return max(1, len(self.classes))

    @property
    def identity(self) -> dict[str, Any]:
        names = "\n".join([*self.classes, "", *self.files]).encode(errors="surrogateescape")  # the bytes of the names
        listing = hashlib.sha256(names).hexdigest()
        return {"kind": "folder", "listing_sha256": listing, "images": len(self), "image_size": self.image_size}

    def __len__(self) -> int:
        return len(self.files)

    def read(
        self, indices: np.ndarray, mirrored: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        return _to_model(np.stack([self.image(i) for i in indices]), mirrored), self.labels[indices]

    def image(self, index: int) -> np.ndarray:
        """One image, uint8 (H, H, 3).

        Raises
        ------
        CorruptImage
            With the path, if the file cannot be read as an image.
        """
        return read_image(self.root / self.files[index], self.image_size)

    def without_corrupt(self, on_note: Callable[[str], None], *, num_workers: int = 4) -> ImageFolder:
        """The folder without the files that cannot be read: each is opened once, and each lost one is noted."""

        def readable(index: int) -> bool:
            try:
                self.image(index)
            except CorruptImage as error:
                on_note(f"skipped: {error}")
                return False
            return True

        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            kept = [i for i, good in enumerate(pool.map(readable, range(len(self)))) if good]
        if not kept:
            raise ValueError(f"{self.root}: none of the {len(self):,} images can be read.")
        files = tuple(self.files[i] for i in kept)
        return ImageFolder(
            root=self.root, files=files, labels=self.labels[kept], classes=self.classes, image_size=self.image_size
        )


class CorruptImage(ValueError):
    """A file that cannot be read as an image; the message has its path."""


def list_images(root: str | os.PathLike[str], *, image_size: int) -> ImageFolder:
    """Find the images of a folder; each folder in it is a class, in alphabetical order.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If there are no images, a class has none, or images lie beside class folders and so have no class.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; needed one with images, or with a folder for each class.")
    if image_size < 1:
        raise ValueError(f"Image size {image_size}: needed at least 1.")
    visible = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    loose = [path.name for path in visible if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    files: list[str] = []
    labels: list[int] = []
    classes: list[str] = []
    for folder in (path for path in visible if path.is_dir()):
        found = sorted(
            path.relative_to(root).as_posix()
            for path in folder.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        if not found:
            raise ValueError(
                f"{folder}: a class without images; remove the folder. Read are {', '.join(IMAGE_SUFFIXES)}."
            )
        files += found
        labels += [len(classes)] * len(found)
        classes.append(folder.name)
    if loose and classes:
        raise ValueError(f"{root / loose[0]}: an image beside class folders has no class; move it into one.")
    if not (loose or classes):
        raise ValueError(
            f"{root}: no images there. Read are {', '.join(IMAGE_SUFFIXES)}, also in a folder for each class."
        )
    return ImageFolder(
        root=root,
        files=tuple(files or loose),
        labels=np.array(labels or [0] * len(loose), np.int64),
        classes=tuple(classes),
        image_size=image_size,
    )


def read_image(path: Path, image_size: int) -> np.ndarray:
    """An image file as RGB, cropped to its centre as `centre_crop` does; uint8 (H, H, 3).

    `dit_eval.decoding` says what other colours and depths become.

    Raises
    ------
    CorruptImage
        With the path, if it cannot be read as an image.
    """
    where = shown(str(path))
    try:
        data = read_file(path, where, max_size=_MAX_FILE)
        image = decode(data, where, formats=_FORMATS, max_pixels=_MAX_PIXELS)
        return centre_crop(to_rgb(image, where), image_size)
    except ValueError as error:
        raise CorruptImage(str(error)) from None


def centre_crop(image: Image.Image, size: int) -> np.ndarray:
    """The square in the middle of an image, scaled to `size`; uint8 (size, size, 3).

    ADM's rule, with which DiT was trained: halve by box averages while the shorter side is at least twice the size,
    then scale it to the size by bicubic interpolation, then cut.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


class Latents:
    """Latents that `encode` has made, mapped from disk: means and standard deviations, sampled when they are read.

    Parameters
    ----------
    path : the folder

    Raises
    ------
    FileNotFoundError
        If it is none, or not complete.
    ValueError
        If it is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / _INDEX).is_file():
            begun = self.path.with_name(self.path.name + ".parts").exists()
            raise FileNotFoundError(
                f"{self.path}: no latents there; "
                + ("`dit-eval encode` has not finished, run it again." if begun else "make them by `dit-eval encode`.")
            )
        try:
            index = json.loads((self.path / _INDEX).read_text(encoding="utf-8"))
            numbers, counts = zip(*index["shards"], strict=True)
            self._scale, self._index = float(index["scale"]), index
            # One mapping a file; nothing is read before it is asked for.
            self._shards = [np.load(self.path / _shard(k), mmap_mode="r", allow_pickle=False) for k in numbers]
            self.labels = np.load(self.path / "labels.npy", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path}: not a folder of latents, or damaged ({error}); encode again.") from None
        shapes = {shard.shape[1:] for shard in self._shards}
        if tuple(map(len, self._shards)) != counts or len(shapes) != 1 or len(self.labels) != sum(counts):
            raise ValueError(f"{self.path}: files of other lengths than {_INDEX} says; damaged, encode again.")
        self._ends = np.cumsum(counts).tolist()
        self._moments = shapes.pop()  # (2, 2, C, h, w): image and mirror image, mean and standard deviation

    @property
    def space(self) -> Literal["latent", "pixel"]:
        return "latent"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._moments[2:]

    @property
    def num_classes(self) -> int:
        return max(1, len(self._index["classes"]))

    @property
    def identity(self) -> dict[str, Any]:
        kept = ("listing_sha256", "image_size", "vae_sha256", "dtype")
        return {"kind": "latents", "images": len(self), **{name: self._index[name] for name in kept}}

    def __len__(self) -> int:
        return self._ends[-1]

    def moments(self, index: int, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of an image's posterior, float32 (4, h, w) each, not scaled."""
        shard = bisect_right(self._ends, index)
        row = self._shards[shard][index - (self._ends[shard - 1] if shard else 0), int(mirrored)]
        mean, std = np.asarray(row, np.float32)
        return mean, std

    def read(
        self, indices: np.ndarray, mirrored: np.ndarray, generators: Sequence[np.random.Generator]
    ) -> tuple[np.ndarray, np.ndarray]:
        latents = np.empty((len(indices), *self.shape), np.float32)
        for place, (index, mirror, generator) in enumerate(zip(indices, mirrored, generators, strict=True)):
            mean, std = self.moments(int(index), bool(mirror))
            latents[place] = (mean + std * generator.standard_normal(self.shape, np.float32)) * np.float32(self._scale)
        return latents, self.labels[indices]


def encode(
    folder: ImageFolder,
    out: Path,
    *,
    encoder: Encoder,
    vae: str,
    vae_sha256: str,
    scale: float,
    dtype: Literal["float32", "float16"] = "float32",
    on_corrupt: OnCorrupt = "refuse",
    world: World | None = None,
    num_workers: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> int:
    """Encode each image of a folder and its mirror image; called by every process of a run.

    Means and standard deviations are kept, not a sample, so that each visit of an image in training draws another
    sample of its posterior, as training on images does. `out` is a folder that appears when all is done; until then
    it is `OUT.parts`, and what is finished there is not done again.

    Parameters
    ----------
    encoder : see `Encoder`; images go to it in groups that depend on the folder only
    vae, vae_sha256 : name of the autoencoder and SHA-256 of its weights
    scale : what sampled latents are multiplied with
    dtype : as stored; float16 halves the size and rounds by a part in 2,000
    on_corrupt : leave a file that cannot be read out and note it, or stop at it

    Returns
    -------
    Number of images kept.

    Raises
    ------
    CorruptImage
        With the path, if a file cannot be read and is not to be skipped. Finished files are kept.
    ValueError
        If `out` is of other images or another autoencoder, or another process is at it.
    """
    world, note = world or World(), on_note or (lambda _: None)
    parts = out.with_name(out.name + ".parts")
    settings = {
        "listing_sha256": folder.identity["listing_sha256"],
        "image_size": folder.image_size,
        "vae": vae,
        "vae_sha256": vae_sha256,
        "scale": scale,
        "dtype": dtype,
    }
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        begun = world.from_first(lambda: _begin(out, parts, settings, lock, note))
        if begun is not None:
            return begun
        if not parts.is_dir():
            raise FileNotFoundError(f"{parts}: not seen by process {world.rank}; all machines need to share it.")
        shards = [
            (k, range(first, min(first + _SHARD, len(folder)))) for k, first in enumerate(range(0, len(folder), _SHARD))
        ]
        with ThreadPoolExecutor(max(1, num_workers)) as pool:
            for k, indices in shards[world.rank :: world.size]:
                if (parts / _shard(k)).exists():
                    continue
                done = min(len(folder), _SHARD * len(list(parts.glob("moments-*.npy"))))  # by all processes

                def report(count: int, done: int = done) -> None:
                    if on_progress and world.rank == 0:
                        on_progress(min(len(folder), done + count), len(folder))

                _encode_shard(folder, indices, parts, k, encoder, dtype, on_corrupt, pool, note, report)
        world.barrier()
        return world.from_first(lambda: _finish(folder, out, parts, settings, len(shards)))
    finally:
        lock.release()


def check_latents_folder(out: Path) -> None:
    """ValueError if something else than latents is where latents are to be written."""
    if out.exists() and not (out / _INDEX).is_file():
        raise ValueError(f"{out}: exists and is no folder of latents; name another --out.")


def _begin(out: Path, parts: Path, settings: dict[str, Any], lock: FileLock, note: Callable[[str], None]) -> int | None:
    """Keep other runs away, and compare what is there with what is asked for; the number of images if all is done."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"{out}: another process is encoding into it; wait for it, or name another.") from None
    except OSError as error:
        raise OSError(f"{out}: cannot be written ({error.strerror}); name another --out.") from None
    check_latents_folder(out)
    described = out / _INDEX if out.exists() else parts / "settings.json"
    if described.exists():
        there = json.loads(described.read_text(encoding="utf-8"))
        wrong = [f"{k} {v!r}, there {there.get(k)!r}" for k, v in settings.items() if there.get(k) != v]
        if wrong:
            raise ValueError(
                f"{described.parent}: of another run ({'; '.join(wrong)}). Name another --out, or remove it."
            )
    if out.exists():
        note(f"{out}: complete already")
        return len(Latents(out))
    parts.mkdir(exist_ok=True)
    for stale in parts.glob(".*.part"):  # of a killed process
        stale.unlink()
    with atomic_file(parts / "settings.json") as file:
        file.write(json.dumps(settings).encode())
    if finished := len(list(parts.glob("moments-*.npy"))):
        note(f"{out}: going on; {finished} files of up to {_SHARD} images are here already")
    return None


def _encode_shard(
    folder: ImageFolder,
    indices: range,
    parts: Path,
    number: int,
    encoder: Encoder,
    dtype: str,
    on_corrupt: OnCorrupt,
    pool: ThreadPoolExecutor,
    note: Callable[[str], None],
    report: Callable[[int], None],
) -> None:
    kept: list[int] = []
    skipped: dict[str, str] = {}
    moments: list[np.ndarray] = []
    for images in _groups(folder, indices, on_corrupt, pool, kept, skipped, note):
        sides = (_to_model(images, np.full(len(images), mirrored)) for mirrored in (False, True))
        both = [np.stack(encoder(side), axis=1) for side in sides]  # (B, 2, C, h, w) each
        moments.append(np.stack(both, axis=1).astype(dtype))
        report(len(kept) + len(skipped))
    with atomic_file(parts / f"shard-{number:06d}.json") as file:
        file.write(json.dumps({"kept": kept, "skipped": skipped}).encode())
    # Last: its being there says that this part is done. Without any image it is not listed in the index.
    with atomic_file(parts / _shard(number)) as file:
        np.lib.format.write_array(file, np.concatenate(moments) if moments else np.empty(0, dtype), allow_pickle=False)


def _groups(
    folder: ImageFolder,
    indices: range,
    on_corrupt: OnCorrupt,
    pool: ThreadPoolExecutor,
    kept: list[int],
    skipped: dict[str, str],
    note: Callable[[str], None],
) -> Iterator[np.ndarray]:
    """Images in groups of up to 64, uint8 (B, H, H, 3), and which they are."""

    def load(index: int) -> np.ndarray | CorruptImage:
        try:
            return folder.image(index)
        except CorruptImage as error:
            return error

    for begin in range(indices.start, indices.stop, 64):
        group = range(begin, min(begin + 64, indices.stop))
        images = []
        for index, image in zip(group, pool.map(load, group), strict=True):
            if isinstance(image, np.ndarray):
                images.append(image)
                kept.append(index)
            elif on_corrupt == "skip":
                skipped[folder.files[index]] = str(image)
                note(f"skipped: {image}")
            else:
                raise CorruptImage(
                    f"{image} Replace the file, or pass --on-corrupt skip. What is encoded is kept."
                ) from None
        if images:
            yield np.stack(images)


def _finish(folder: ImageFolder, out: Path, parts: Path, settings: dict[str, Any], num_shards: int) -> int:
    """Write labels and index, and give the folder its name."""
    missing = [k for k in range(num_shards) if not (parts / _shard(k)).exists()]
    if missing:
        raise OSError(f"{parts}: {_shard(missing[0])} is missing though all processes have finished. Run it again.")
    told = [json.loads((parts / f"shard-{k:06d}.json").read_text(encoding="utf-8")) for k in range(num_shards)]
    kept = [index for shard in told for index in shard["kept"]]
    if not kept:
        raise ValueError(f"{folder.root}: none of the {len(folder):,} images can be read.")
    index = {
        **settings,
        "classes": folder.classes,
        "shards": [(k, len(shard["kept"])) for k, shard in enumerate(told) if shard["kept"]],
        "skipped": {path: why for shard in told for path, why in shard["skipped"].items()},
    }
    with atomic_file(parts / "labels.npy") as file:
        np.lib.format.write_array(file, folder.labels[kept], allow_pickle=False)
    with atomic_file(parts / "files.txt") as file:
        file.write("".join(f"{folder.files[i]}\n" for i in kept).encode(errors="surrogateescape"))
    with atomic_file(parts / _INDEX) as file:
        file.write(json_text(index).encode())
    os.replace(parts, out)
    return len(kept)


def _shard(number: int) -> str:
    return f"moments-{number:06d}.npy"


def _to_model(images: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in -1..1, some mirrored."""
    images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1.0)
