"""From seeds to images to one sample `.npz`, on one process or many, in pieces that survive a crash.

Image i depends on (seed, i) only: its noise comes from a counter-based generator keyed by the two, so neither batch
size nor the number of processes moves it. Every finished batch is a file in `OUT.parts/`; the same command continues
after a crash, and packs the pieces into OUT when all are there.

Behind the images of a piece stand digests of its run and of its bytes. A piece that is damaged, or of another run, is
drawn again.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.images.npz import RUN_KEY, batch_bytes, open_batch, write_batch
from dit_eval.results.parse import json_text
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import SamplingSettings
from dit_eval.system.dist import World, join
from dit_eval.system.files import atomic_file, check_ending, check_target, remove_left
from dit_eval.system.progress import Progress
from dit_eval.system.run_folder import RunFolder, refuse_other
from dit_eval.system.seals import TRAILER, fault, read_sealed, run_digest, sealed, trailer
from dit_eval.system.text import reason

if TYPE_CHECKING:
    from dit_eval.diffusion.sampler import ImageSampler

_PIECE = re.compile(r"(\d{9})-(\d{9})\.u8")  # images from .. up to, without the last
_COUNTED = 32  # images whose evaluations are counted, of a sampler that chooses its steps
OnImages = Callable[[int, int], None]  # images done, images in all


def sample(
    model: str | os.PathLike[str] | None = None,
    *,
    out: str | os.PathLike[str],
    ckpt: str | os.PathLike[str] | None = None,
    settings: SamplingSettings | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    quiet: bool = False,
) -> Path:
    """Draw images from a DiT into one sample npz; does what `dit-eval sample` does.

    What is public and not here yet is fetched into the cache. The same call continues an interrupted run.

    Parameters
    ----------
    model : name of the paper, such as "DiT-XL/2" (the default); or a checkpoint: a file, or the name of a public one
    out : file to write, ending in .npz
    ckpt : checkpoint, for a model of the paper, or one that is to be called `model`
    settings : what to draw and how; the defaults are the paper's, with guidance 1.5
    device : "cpu" or "cuda"; by default a GPU if there is one
    batch_size : images at once in each process; by default 32, or more where a CPU has many cores
    quiet : say nothing on stderr

    Returns
    -------
    The path of `out`; `dit_eval.open_images(path, role="gen").run` says how its images were drawn.

    Raises
    ------
    FileNotFoundError
        If there is no such checkpoint, decoder, or file of labels.
    ValueError
        If what is asked for does not go together (before anything is loaded), or `out` is of another run.
    OSError
        If a public file cannot be fetched, or `out` not be written; finished images are kept.
    """
    from dit_eval.diffusion.load import choose_and_check, load_sampler
    from dit_eval.diffusion.sampler import usual_batch_size
    from dit_eval.models.choose import is_checkpoint

    settings, path = settings or SamplingSettings(), Path(out)
    check_ending(path, ".npz")
    check_target(path)
    if model is not None and ckpt is None and is_checkpoint(os.fspath(model)):
        model, ckpt = None, model
    name = None if model is None else os.fspath(model)
    with join() as world:
        where = world.device(device)
        choice = world.from_first(lambda: choose_and_check(name, ckpt, settings, device=where))
        world.share_cores()
        sampler, labels = load_sampler(choice, settings, device=where, world=world, quiet=quiet)
        size = usual_batch_size(where) if batch_size is None else batch_size
        return draw_samples(path, sampler=sampler, labels=labels, batch_size=size, world=world, quiet=quiet)


def draw_samples(
    out: Path, *, sampler: ImageSampler, labels: np.ndarray, batch_size: int, world: World, quiet: bool = False
) -> Path:
    """`sample_npz`, with its progress on stderr."""
    name = sampler.run.model
    with Progress(names={name: f"{name} images"}, stream=io.StringIO() if quiet else None) as progress:
        return sample_npz(
            out,
            sampler=sampler,
            labels=labels,
            batch_size=batch_size,
            world=world,
            on_progress=partial(progress.update, name),
            on_note=progress.note,
        )


def sample_npz(
    out: Path,
    *,
    sampler: ImageSampler,
    labels: np.ndarray,
    batch_size: int = 32,
    world: World | None = None,
    on_progress: OnImages | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Path:
    """Draw images 0..N-1 and write them as one sample batch; called by every process of a run.

    `arr_0` uint8 (N, H, W, 3), `arr_1` labels, and the `SampleRun`. What an interrupted run has finished is taken
    over, and so is a whole file of the same run with fewer images. The file is the same for any batch size, number
    of processes and interruptions.

    A batch is written by a thread while the next one is drawn; two are in memory then, as bytes, besides what
    `ImageSampler.draw` needs. An error of writing is raised when the next batch is drawn.

    Parameters
    ----------
    labels : int64 (N,)
    batch_size : images at once in each process
    on_progress, on_note : called in process 0

    Raises
    ------
    ValueError
        If `out` or its parts are of another run (the message says what differs), or another process is at it.
    OSError
        If nothing can be written there, or the disk is or would be full; finished images are kept.
    """
    world = world or World()
    if batch_size < 1:
        raise ValueError(f"Found a batch size of {batch_size}; needed at least 1.")
    if labels.shape != (sampler.run.num_images,):
        raise ValueError(f"Found labels {labels.shape}; needed ({sampler.run.num_images},), one per image.")
    parts = _Parts(out, sampler.run)
    note = on_note or (lambda _: None)
    with parts.files:
        run = world.from_first(lambda: parts.begin(note))
        if run is None:
            return out
        gaps = world.from_first(parts.gaps)
        parts.files.check_seen(world)
        batches = _cut(gaps, batch_size)[world.rank :: world.size]
        _draw_batches(batches, parts, sampler, labels, on_progress if world.rank == 0 else None)
        world.barrier()
        # Nobody goes on before the file is there.
        world.from_first(lambda: parts.pack(_with_evaluations(run, sampler, labels), labels))
    return out


def _with_evaluations(run: SampleRun, sampler: ImageSampler, labels: np.ndarray) -> SampleRun:
    """The run, with the evaluations of its first images where the sampler chose its steps.

    They are counted when all images are there, in a batch of its own, so that they are the same in whatever pieces the
    images were drawn.
    """
    if run.rtol is None:
        return run
    found = sampler.counted(labels[:_COUNTED])
    return dataclasses.replace(run, evaluations=found.number, guided_evaluations=found.guided)


def _draw_batches(
    batches: Sequence[tuple[int, int]],
    parts: _Parts,
    sampler: ImageSampler,
    labels: np.ndarray,
    on_progress: OnImages | None,
) -> None:
    """Draw the batches of this process, each written while the next one is drawn."""
    with ThreadPoolExecutor(1, "writer") as writer:
        writing: Future[None] | None = None
        behind = (0, 0)  # the batch that is being written
        for begin, end in batches:
            report = _batch_progress(parts.done(behind), end - begin, sampler, on_progress) if on_progress else None
            images = sampler.draw(np.arange(begin, end), labels[begin:end], on_step=report)
            if writing:
                writing.result()
            writing, behind = writer.submit(parts.save, begin, images), (begin, end)
        if writing:
            writing.result()


def images_drawn(out: Path) -> int:
    """Images that a run into a file has finished so far, all of them if the file is there."""
    if out.exists():
        try:
            return open_batch(out, role="gen").num_stored
        except (OSError, ValueError):
            if out.exists():
                raise
            # A study has scored and removed it since.
    names = [path.name for path in out.with_name(out.name + ".parts").glob("*.u8")]
    return sum(int(match[2]) - int(match[1]) for name in names if (match := _PIECE.fullmatch(name)))


def batches_left(out: Path, run: SampleRun, batch_size: int) -> list[tuple[int, int]]:
    """The batches (begin, end) that a run into a file has still to draw, of all processes. Writes nothing.

    Raises
    ------
    ValueError
        If `out` or its parts are of another run, or hold more images.
    """
    parts = _Parts(out, run)
    parts.earlier()
    return _cut(parts.gaps(), batch_size)


def disk_bytes(out: Path, run: SampleRun) -> tuple[int, int]:
    """Size of the file of a run, and of all that is on the disk when it is packed from its pieces."""
    shape = (run.num_images, run.image_size, run.image_size, 3)
    arrays = {"arr_1": np.zeros(run.num_images, np.int64), RUN_KEY: np.array(run.to_json())}
    size = batch_bytes(shape=shape, arrays=arrays)
    return size, size + math.prod(shape)


def _cut(gaps: Sequence[tuple[int, int]], batch_size: int) -> list[tuple[int, int]]:
    return [(begin, min(begin + batch_size, end)) for first, end in gaps for begin in range(first, end, batch_size)]


def _batch_progress(done: int, size: int, sampler: ImageSampler, on_progress: OnImages) -> Callable[[int], None]:
    """Report a batch in parts while its steps go by: images done by all, and a share of this batch."""
    return lambda steps: on_progress(done + size * steps // len(sampler.steps), sampler.run.num_images)


@dataclass(frozen=True)
class _Piece:
    """Images begin..end-1, in a file of `OUT.parts/` or at the front of an earlier OUT."""

    begin: int
    end: int
    path: Path


class _Parts:
    """The finished pieces of an output that is not complete."""

    def __init__(self, out: Path, run: SampleRun) -> None:
        self.out, self._run = out, run
        self.folder = out.with_name(out.name + ".parts")
        self._digest = run_digest(run.identity)
        self._shape = (run.image_size, run.image_size, 3)
        self._image_bytes = math.prod(self._shape)
        self.files = RunFolder(self.folder, doing="drawing into it", out=out)

    def begin(self, note: Callable[[str], None]) -> SampleRun | None:
        """Keep other runs away, and check what is there, and the disk, against what is asked for; process 0 only.

        Returns the run as it will be recorded, or None if the file is complete already.
        """
        _Parts(self.out, self._run).earlier()  # what is refused leaves nothing behind
        self._check_front()
        self.files.claim()
        remove_left(self.out)
        self._drop_unfit(note)
        earlier = self.earlier()
        run = self._run if earlier is None else _continued(self._run, earlier)
        if self._front == run.num_images:
            self._discard()
            note(f"{self.out}: complete already, {run.num_images:,} images of this run")
            return None
        missing = sum(end - begin for begin, end in self.gaps())
        needed = (missing + run.num_images) * self._image_bytes
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OSError(
                f"{self.folder}: {free / 1e9:.3f} GB are free; needed {needed / 1e9:.3f} GB, for the {missing:,} "
                f"images still to draw and once more for all {run.num_images:,} when they are packed."
            )
        self.files.write("run.json", json_text(sealed(json.loads(run.to_json()))).encode())
        if missing < run.num_images:
            note(f"{self.out}: going on; {run.num_images - missing:,} of {run.num_images:,} images are here already")
        return run

    def earlier(self) -> SampleRun | None:
        """The run that began this output, None if none did; ValueError if this run cannot go on with what is there."""
        run, begun = self._run, None
        if self.out.exists():
            whole = open_batch(self.out, role="gen")
            if whole.run is None:
                raise ValueError(f"{self.out} exists and does not say how it was drawn; name another `out`.")
            begun = whole.run
            refuse_other(self.out, run.differences(begun))
            if whole.num_stored > run.num_images:
                raise ValueError(
                    f"{self.out} holds {whole.num_stored:,} images of this run, {run.num_images:,} were asked for. "
                    f"Score its first {run.num_images:,} with `dit-eval evaluate --num-images {run.num_images}`."
                )
            if whole.num_stored == run.num_images:
                return begun
        if self.files.settings.exists():
            there = self._described()
            refuse_other(self.folder, run.differences(there))
            begun = begun or there
        last = max((piece.end for piece in self._pieces()), default=0)
        if last > run.num_images:
            raise ValueError(
                f"{self.folder} holds images up to number {last:,}, {run.num_images:,} were asked for. Finish the "
                f"larger run, or delete the folder."
            )
        return begun

    def _check_front(self) -> None:
        """ValueError if images or labels of an OUT that is there are not as they were written. Reads all of it."""
        if not self.out.exists():
            return
        try:
            whole = open_batch(self.out, role="gen")
            whole.check_images()
            if whole.labels is None:
                raise ValueError(f"{self.out}: {whole.labels_problem or 'no labels'}.")
        except ValueError as error:
            said = reason(error)
            raise ValueError(f"{said} Put a good copy in its place, or remove it to draw the images again.") from None

    def _described(self) -> SampleRun:
        try:
            return SampleRun.from_json(json.dumps(read_sealed(self.files.settings)))
        except ValueError as error:
            raise ValueError(
                f"{self.files.settings}: damaged, so that nobody knows which run its folder is of ({reason(error)}). "
                "Remove the folder, or name another `out`."
            ) from None

    def gaps(self) -> list[tuple[int, int]]:
        """Ranges (begin, end) of the images that are still to draw."""
        gaps, at = [], 0
        for piece in [*self._pieces(), _Piece(self._run.num_images, self._run.num_images, self.out)]:
            if piece.begin > at:
                gaps.append((at, piece.begin))
            at = max(at, piece.end)
        return gaps

    def done(self, also: tuple[int, int] = (0, 0)) -> int:
        """Images finished by all processes, and those of a batch (begin, end), whether it is on the disk or not yet."""
        return sum(end - begin for begin, end in {also, *((piece.begin, piece.end) for piece in self._pieces())})

    def save(self, begin: int, images: np.ndarray) -> None:
        try:
            name = f"{begin:09d}-{begin + len(images):09d}.u8"
            with atomic_file(self.folder / name, own=True) as file:
                file.write(images.data)
                file.write(trailer(images.data, name=name, run=self._digest))
        except OSError as error:
            raise OSError(
                f"{self.folder}: images {begin:,} to {begin + len(images) - 1:,} could not be written "
                f"({error.strerror}). The {self.done():,} finished images are kept; make room and run the same "
                "command again."
            ) from None

    def pack(self, run: SampleRun, labels: np.ndarray) -> None:
        """Write the npz from the pieces, a piece in memory at a time, and remove them."""
        gaps = self.gaps()
        if gaps:
            raise OSError(
                f"{self.folder}: images {gaps[0][0]:,} to {gaps[0][1] - 1:,} are missing though all processes have "
                "finished. Are all machines writing to the same folder? Run the same command again."
            )
        arrays = {"arr_1": labels, RUN_KEY: np.array(run.to_json())}
        try:
            write_batch(self.out, images=self._images(), shape=(run.num_images, *self._shape), arrays=arrays)
        except OSError as error:
            raise OSError(
                f"{self.out} could not be written ({error.strerror}). The images are kept in {self.folder}; make room "
                "and run the same command again."
            ) from None
        self._discard()

    def _images(self) -> Iterator[np.ndarray]:
        at = 0
        for piece in self._pieces():
            if piece.path == self.out:
                for batch in open_batch(self.out, role="gen").batches(64):
                    at += len(batch)
                    yield batch
                continue
            if why := self._fault(piece):
                piece.path.unlink()
                raise ValueError(
                    f"{piece.path}: {why} since it was drawn, and removed. Run the same command again, which draws "
                    "these images once more; is the disk sound?"
                )
            images = np.fromfile(piece.path, np.uint8, count=(piece.end - piece.begin) * self._image_bytes)
            yield images.reshape(-1, *self._shape)[at - piece.begin :]
            at = piece.end

    def _pieces(self) -> list[_Piece]:
        """Finished pieces in order, the front of an earlier OUT first; a file of another size is none."""
        pieces = [piece for piece in self._files() if self._beyond(piece) in (0, TRAILER)]
        if self._front:
            pieces.append(_Piece(0, self._front, self.out))
        return sorted(pieces, key=lambda piece: piece.begin)

    def _files(self) -> Iterator[_Piece]:
        """The files of pieces, good or not."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if match := _PIECE.fullmatch(path.name):
                yield _Piece(int(match[1]), int(match[2]), path)

    def _beyond(self, piece: _Piece) -> int:
        """Bytes of a file behind its images: none in those of earlier versions; negative if images are missing."""
        return piece.path.stat().st_size - (piece.end - piece.begin) * self._image_bytes

    def _fault(self, piece: _Piece) -> str | None:
        """Why a file cannot be a piece of this run; None if it can. Reads it."""
        beyond = self._beyond(piece)
        if beyond == 0 and self.files.settings.exists():
            return None
        if beyond != TRAILER:
            return "of an unknown run" if beyond == 0 else "of another size than its images"
        data = memoryview(piece.path.read_bytes())
        return fault(data[:-TRAILER], bytes(data[-TRAILER:]), name=piece.path.name, run=self._digest)

    def _drop_unfit(self, note: Callable[[str], None]) -> None:
        """Remove files that cannot be pieces of this run, so that their images are drawn again."""
        for piece in sorted(self._files(), key=lambda piece: piece.begin):
            if why := self._fault(piece):
                piece.path.unlink()
                note(f"{piece.path}: {why}; removed, its images are drawn again")

    @cached_property
    def _front(self) -> int:
        """Images of an earlier, shorter OUT."""
        return open_batch(self.out, role="gen").num_stored if self.out.exists() else 0

    def _discard(self) -> None:
        with suppress(OSError):
            self.files.settings.unlink()  # first: pieces that a kill leaves are of no known run then
        shutil.rmtree(self.folder, ignore_errors=True)


def _continued(run: SampleRun, earlier: SampleRun) -> SampleRun:
    """The run as recorded when a part of it was drawn before: environments that differ are all kept."""
    known = [*earlier.earlier_environments, earlier.environment]
    # A round trip through JSON, so that tuples and lists compare as the file has them.
    now = json.loads(json.dumps(run.environment))
    return dataclasses.replace(run, earlier_environments=tuple(e for e in known if e != now))
