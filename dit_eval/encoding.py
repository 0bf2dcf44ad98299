"""Image folders to folders of latents.

Each file of latents has digests of its run and of its bytes: in a file beside it while the folder is not complete, then
in `digests.json`. One that is damaged, or of another run, is made again.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from dit_eval.diffusion.data import CorruptImage, model_input
from dit_eval.diffusion.latents import INDEX, SETTINGS, Latents, check_latents_folder, shard_name, written
from dit_eval.images.identity import check_identity
from dit_eval.models.latent_space import LatentSpace
from dit_eval.results.parse import json_text
from dit_eval.results.settings import MOST_THREADS
from dit_eval.system.ahead import in_order
from dit_eval.system.dist import World
from dit_eval.system.files import atomic_file
from dit_eval.system.reading import is_count, read_json
from dit_eval.system.run_folder import RunFolder, differences, read_settings, refuse_other
from dit_eval.system.seals import DIGESTS, damaged_files, digest_of, file_digest, read_sealed, run_digest, sealed
from dit_eval.system.settings import check_settings

if TYPE_CHECKING:
    from dit_eval.diffusion.data import ImageFolder

OnImages = Callable[[int, int], None]  # images done, images in all
_SHARD = 512  # images of a file of latents: 32 MiB at 256 px
_GROUP = 64  # images that the network takes at once


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What makes latents of images, and what they depend on.

    Attributes
    ----------
    encode : images float32 (B, 3, H, W) in -1..1 to means and standard deviations of their posteriors, (B, C, h, w)
    vae, vae_sha256 : name of the autoencoder, and SHA-256 of its weights
    latents : C, and the shift and scale by which sampled latents go to a DiT
    """

    encode: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    vae: str
    vae_sha256: str
    latents: LatentSpace = field(default_factory=LatentSpace)


@dataclass(frozen=True, kw_only=True)
class EncodingSettings:
    """How latents are stored, and what is done with images that cannot be read.

    Raises
    ------
    ValueError
        Naming the setting, what was expected, and the value.
    """

    dtype: Annotated[
        Literal["float32", "float16"], Meta(description="as stored; float16 halves the size, rounds by 1 in 2,000")
    ] = "float32"
    on_corrupt: Annotated[
        Literal["skip", "refuse"], Meta(description="leave out an image that cannot be read, or stop at it")
    ] = "refuse"
    num_workers: Annotated[int, Meta(ge=0, le=MOST_THREADS, description="threads that read images")] = 4

    def __post_init__(self) -> None:
        check_settings(self)


def encode(
    folder: ImageFolder,
    out: Path,
    *,
    encoder: Encoder,
    settings: EncodingSettings | None = None,
    world: World | None = None,
    on_progress: OnImages | None = None,
    on_note: Callable[[str], None] | None = None,
) -> int:
    """Encode each image of a folder and its mirror image; called by every process of a run.

    Means and standard deviations are kept, not a sample, so that each visit of an image in training draws another
    sample of its posterior, as training on images does. `out` is a folder that appears when all is done; until then
    it is `OUT.parts`, and what is finished there is not done again.

    Images go to the network in groups that depend on the folder only.

    Parameters
    ----------
    on_progress : called in process 0 with images done by all processes, and their number
    on_note : called with a line for each image that is left out, and if the run goes on

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
    settings, world = settings or EncodingSettings(), world or World()
    note = on_note or (lambda _: None)
    latents = _Unfinished(folder, out, encoder, settings)
    with latents.files:
        kept = world.from_first(lambda: latents.begin(note))
        if kept is not None:
            return kept
        latents.files.check_seen(world)
        for number, indices in list(latents.shards())[world.rank :: world.size]:
            if latents.has(number):
                continue
            report = partial(_report, on_progress, latents.images_done(), len(folder))
            shard = _encode_shard(folder, indices, encoder, settings, note, report if world.rank == 0 else None)
            latents.write(number, shard)
        world.barrier()
        return world.from_first(latents.finish)


@dataclass(frozen=True, kw_only=True)
class _Shard:
    """Images in a row: indices of those that could be read, why others could not, and posteriors of the former.

    `moments` is (B, 2, 2, C, h, w): image and mirror image, mean and standard deviation; or empty without any image.
    """

    kept: list[int]
    skipped: dict[str, str]
    moments: np.ndarray


def _encode_shard(
    folder: ImageFolder,
    indices: range,
    encoder: Encoder,
    settings: EncodingSettings,
    note: Callable[[str], None],
    report: Callable[[int], None] | None,
) -> _Shard:
    kept: list[int] = []
    skipped: dict[str, str] = {}
    moments: list[np.ndarray] = []
    for group in _groups(folder, indices, settings.num_workers):
        images = {index: image for index, image in group if isinstance(image, np.ndarray)}
        for index, error in group:
            if isinstance(error, CorruptImage):
                if settings.on_corrupt == "refuse":
                    raise CorruptImage(
                        f"{error} Replace the file, or pass `on_corrupt` skip. What is encoded is kept."
                    ) from None
                skipped[folder.files[index]] = str(error)
                note(f"skipped: {error}")
        if images:
            kept += images
            moments.append(_moments(encoder, np.stack(list(images.values()))).astype(settings.dtype))
        if report:
            report(len(kept) + len(skipped))
    return _Shard(
        kept=kept, skipped=skipped, moments=np.concatenate(moments) if moments else np.empty(0, settings.dtype)
    )


def _groups(
    folder: ImageFolder, indices: range, num_workers: int
) -> Iterator[list[tuple[int, np.ndarray | CorruptImage]]]:
    """Indices with images uint8 (H, H, 3), or why they cannot be read; the next group is read ahead."""
    tasks = (partial(_image, folder, index) for index in indices)
    with closing(in_order(tasks, threads=num_workers, ahead=_GROUP)) as images:
        for begin in range(indices.start, indices.stop, _GROUP):
            yield list(zip(range(begin, min(begin + _GROUP, indices.stop)), images, strict=False))


def _image(folder: ImageFolder, index: int) -> np.ndarray | CorruptImage:
    try:
        return folder.image(index)
    except CorruptImage as error:
        return error


def _moments(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    """Posteriors of images uint8 (B, H, H, 3) and their mirror images: (B, 2, 2, C, h, w)."""
    sides = (model_input(images, np.full(len(images), mirrored)) for mirrored in (False, True))
    return np.stack([np.stack(encoder.encode(side), axis=1) for side in sides], axis=1)


def _report(on_progress: OnImages | None, before: int, total: int, count: int) -> None:
    if on_progress:
        on_progress(min(total, before + count), total)


class _Unfinished:
    """A folder of latents that is not complete: `OUT.parts`, with a file for each shard that is done."""

    def __init__(self, folder: ImageFolder, out: Path, encoder: Encoder, settings: EncodingSettings) -> None:
        self._folder, self._out, self._parts = folder, out, out.with_name(out.name + ".parts")
        self._settings: dict[str, Any] = {
            "listing_sha256": folder.listing_sha256,
            "image_size": folder.image_size,
            "vae": encoder.vae,
            "vae_sha256": encoder.vae_sha256,
            **written(encoder.latents),
            "dtype": settings.dtype,
        }
        self.files = RunFolder(
            self._parts,
            doing="encoding into it",
            out=out,
            settings=SETTINGS,
            lock=out.with_name(f".{out.name}.lock"),
        )

    def begin(self, note: Callable[[str], None]) -> int | None:
        """Keep other runs away, and compare what is there with what is asked for; process 0 only.

        Returns the number of images if all is done.
        """
        self.files.claim()
        check_latents_folder(self._out)
        now = self._settings | self._folder.identify()
        damaged = damaged_files(self._out)
        known = self._compare(now, damaged, note)
        if self._out.exists():
            if not damaged:
                self._remove_seals()
                note(f"{self._out}: complete already")
                return len(Latents(self._out))
            self._reopen(damaged, note)
        self._parts.mkdir(exist_ok=True)
        self._drop_unfit(run_digest(now), known, note)
        self.files.write(SETTINGS, json.dumps(sealed(now)).encode())
        if finished := self._finished():
            note(f"{self._out}: going on; {finished} files of up to {_SHARD} images are here already")
        return None

    def _compare(self, now: dict[str, Any], damaged: list[str], note: Callable[[str], None]) -> bool:
        """Whether there are settings; ValueError if they are others. Those of earlier versions lack some."""
        folder, found = self._parts, [self._settings_in(self._parts, note)]
        if self._out.exists():
            folder, found = self._out, [self._settings_in(self._out, note)]
            if found == [None]:
                with atomic_file(self._out / self.files.settings.name, own=True) as file:
                    file.write(json.dumps(sealed(now)).encode())
            found.append(None if INDEX in damaged else read_settings(self._out / INDEX))
        compared = {*self._settings, *written(LatentSpace(channels=1))}
        for there in filter(None, found):
            refuse_other(folder, differences(self._settings, {key: there.get(key) for key in compared}))
            check_identity(now, there, folder)
        return any(found)

    def _settings_in(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any] | None:
        path = folder / self.files.settings.name
        if read_settings(path) is None:
            return None
        try:
            return read_sealed(path)
        except ValueError:
            note(f"{path}: damaged; written anew")
            return None

    def _reopen(self, damaged: list[str], note: Callable[[str], None]) -> None:
        """Make a finished folder one that is not complete, without the shards that are damaged."""
        if self._parts.exists():
            raise ValueError(f"{self._out / damaged[0]}: damaged, and {self._parts} is there. Remove one of the two.")
        for name in damaged:
            note(f"{self._out / name}: damaged; made again")
        for number, _ in self.shards():
            if not {_about_name(number), shard_name(number)}.isdisjoint(damaged):
                self._remove(self._out, number)
        os.replace(self._out, self._parts)  # all other files are written anew when it is finished

    def _drop_unfit(self, run: str, known: bool, note: Callable[[str], None]) -> None:
        """Remove shards that cannot be of this run, so that they are encoded again."""
        for number, images in self.shards():
            if self.has(number) and (why := self._fault(number, images, run, known)):
                self._remove(self._parts, number)
                note(f"{self._parts / shard_name(number)}: {why}; removed, its images are encoded again")

    def _fault(self, number: int, images: range, run: str, known: bool) -> str | None:
        """Why a shard cannot be taken, None if it can; one of earlier versions needs settings that are known."""
        seal = self._parts / _seal_name(number)
        if not seal.exists():
            if not known:
                return "of an unknown run"
            try:
                _read_about(self._parts / _about_name(number), images)
            except (FileNotFoundError, ValueError):
                return "damaged"
            return None
        try:
            says = read_sealed(seal)
            files = {name: file_digest(self._parts / name) for name in _names(number)}
        except (FileNotFoundError, ValueError):
            return "damaged"
        if says.get("files") != files:
            return "damaged"
        return None if says.get("run") == run else "of another run"

    def _remove(self, folder: Path, number: int) -> None:
        for name in (shard_name(number), _about_name(number), _seal_name(number)):
            (folder / name).unlink(missing_ok=True)

    @cached_property
    def _run(self) -> str:
        return run_digest(read_sealed(self.files.settings))

    def shards(self) -> Iterator[tuple[int, range]]:
        """Number of each file, and the images that go into it."""
        count = len(self._folder)
        for number, first in enumerate(range(0, count, _SHARD)):
            yield number, range(first, min(first + _SHARD, count))

    def has(self, number: int) -> bool:
        return (self._parts / shard_name(number)).exists()

    def images_done(self) -> int:
        """Images of the finished files, of all processes."""
        return min(len(self._folder), _SHARD * self._finished())

    def write(self, number: int, shard: _Shard) -> None:
        about = json.dumps({"kept": shard.kept, "skipped": shard.skipped}).encode()
        moments = io.BytesIO()
        np.lib.format.write_array(moments, shard.moments, allow_pickle=False)
        contents = {_about_name(number): about, shard_name(number): moments.getvalue()}
        seal = {"run": self._run, "files": {name: digest_of(data) for name, data in contents.items()}}
        self.files.write(_seal_name(number), json.dumps(sealed(seal)).encode())
        # The moments last: their being there says that this part is done. Without any image they are not in the index.
        for name, data in contents.items():
            self.files.write(name, data)

    def finish(self) -> int:
        """Write labels and index, and give the folder its name; the number of images."""
        numbers = [number for number, _ in self.shards()]
        missing = [number for number in numbers if not self.has(number)]
        if missing:
            raise OSError(
                f"{self._parts}: {shard_name(missing[0])} is missing though all processes have finished. Run it again."
            )
        about = [_read_about(self._parts / _about_name(k), images) for k, images in self.shards()]
        kept = [index for shard in about for index in shard["kept"]]
        if not kept:
            raise ValueError(
                f"{self._folder.root}: none of the {len(self._folder):,} images can be read; {self._parts} has why."
            )
        names = "".join(f"{self._folder.files[i]}\n" for i in kept)
        self.files.write_array("labels.npy", self._folder.labels[kept])
        self.files.write("files.txt", names.encode(errors="surrogateescape"))
        self.files.write(INDEX, json_text(self._index(about)).encode())
        self.files.write(DIGESTS, json.dumps(sealed({"files": self._digests(numbers)})).encode())
        os.replace(self._parts, self._out)
        self._remove_seals()
        return len(kept)

    def _remove_seals(self) -> None:
        """Remove what shards had until the folder was finished; `DIGESTS` says the same."""
        for number, _ in self.shards():
            (self._out / _seal_name(number)).unlink(missing_ok=True)

    def _digests(self, numbers: list[int]) -> dict[str, str]:
        """Digests of all files: of a shard as it was when it was made."""
        found: dict[str, str] = {}
        for number in numbers:
            seal = self._parts / _seal_name(number)
            found |= read_sealed(seal)["files"] if seal.exists() else {}
        names = [*(name for number in numbers for name in _names(number)), "labels.npy", "files.txt", INDEX]
        return {name: found.get(name) or file_digest(self._parts / name) for name in names}

    def _index(self, about: list[dict[str, Any]]) -> dict[str, Any]:
        """What all shards say of themselves, by number, and what they were made with."""
        return {
            **self._settings,
            "classes": self._folder.classes,
            "shards": [(k, len(shard["kept"])) for k, shard in enumerate(about) if shard["kept"]],
            "skipped": {path: why for shard in about for path, why in shard["skipped"].items()},
        }

    def _finished(self) -> int:
        return len(list(self._parts.glob("moments-*.npy")))


def _about_name(number: int) -> str:
    return f"shard-{number:06d}.json"


def _read_about(path: Path, images: range) -> dict[str, Any]:
    """What a shard of these images says of itself: those that it keeps, and why it skips others.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged.
    """
    about = read_json(path, "what a file of latents holds")
    kept, skipped = about.get("kept"), about.get("skipped")
    sound = isinstance(kept, list) and all(map(is_count, kept)) and sorted({*kept} & {*images}) == kept
    if not sound or not isinstance(skipped, dict) or not all(isinstance(why, str) for why in skipped.values()):
        raise ValueError(f"{path}: damaged. Rerun the same command to encode its images again.")
    return about


def _seal_name(number: int) -> str:
    return f"shard-{number:06d}.seal"


def _names(number: int) -> tuple[str, str]:
    """The files of a shard, the one that is written last at the end."""
    return _about_name(number), shard_name(number)
