"""Image folders to folders of latents."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from dit_eval.diffusion.data import CorruptImage, _to_model
from dit_eval.diffusion.latents import _INDEX, Latents, _shard, check_latents_folder
from dit_eval.results.parse import json_text
from dit_eval.system.dist import World
from dit_eval.system.files import atomic_file

if TYPE_CHECKING:
    from dit_eval.diffusion.data import ImageFolder

OnCorrupt = Literal["skip", "refuse"]
# Images float32 (N, 3, H, W) in -1..1 -> means and standard deviations of their posteriors, (N, 4, h, w) each.
Encoder = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_SHARD = 512  # images of a file of latents: 32 MiB at 256 px


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
