"""From seeds to images to one sample `.npz`, on one process or many, in pieces that survive a crash.

Image i depends on (seed, i) only: its noise comes from a counter-based generator keyed by the two, so neither batch
size nor the number of processes moves it. Every finished batch is a file in `OUT.parts/`; the same command continues
after a crash, and packs the pieces into OUT when all are there.
"""

from __future__ import annotations

import copy
import dataclasses
import glob
import json
import math
import os
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from dit_eval.diffusion import NUM_TRAIN_STEPS, Denoiser, Diffusion, respaced_timesteps
from dit_eval.images.npz import RUN_KEY, batch_bytes, open_batch, write_batch
from dit_eval.models.dit import DiT, guided
from dit_eval.results.sample_run import SampleRun
from dit_eval.system.assets import sha256_of
from dit_eval.system.dist import World
from dit_eval.system.files import Watch, atomic_file
from dit_eval.system.switches import Cores, arithmetic, each_core_alone
from dit_eval.system.text import did_you_mean

_LABEL_STREAM = 1 << 63
_CPU_BATCH = 8  # images at a time through the network on a core of a CPU
_BATCH = 32  # images at once in a process, at least, unless a caller says otherwise
_LONG = 20.0  # seconds after which a trial has seen enough
_PIECE = re.compile(r"(\d{9})-(\d{9})\.u8")  # images from .. up to, without the last

Decoder = Callable[[Tensor], Tensor]  # latents (N, 4, h, w) -> images (N, 3, H, W) in -1..1
Progress = Callable[[int, int], None]  # images done, images in all


def draw_labels(mode: Literal["random", "balanced"], *, num_images: int, num_classes: int, seed: int) -> np.ndarray:
    """Class labels, int64 (N,).

    "random" draws each uniformly, as the paper's samples were drawn; "balanced" counts through the classes over and
    over, so that 50,000 images have 50 of each of 1,000, in an order that does not disturb ADM's Inception Score.
    Label i does not depend on how many there are.
    """
    if mode == "balanced":
        return np.arange(num_images) % num_classes
    return np.array([_generator(seed, _LABEL_STREAM + i).integers(num_classes) for i in range(num_images)], np.int64)


def read_labels(path: str | os.PathLike[str], *, num_images: int, num_classes: int) -> tuple[np.ndarray, str]:
    """The first N labels of a file, int64, and the file's SHA-256.

    Parameters
    ----------
    path : text with one label a line, `.npy`, or the `arr_1` of an `.npz` (another sample file, say)

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds something else, too few labels, or one that is no class.
    """
    path = Path(path)
    if not path.is_file():
        hint = did_you_mean(path.name, ("random", "balanced"))
        raise FileNotFoundError(f'--labels {path}: no such file; needed a file, "random" or "balanced".{hint}')
    watch = Watch(path)
    try:
        if path.suffix in (".npy", ".npz"):
            loaded = np.load(path, allow_pickle=False)
            labels = loaded if isinstance(loaded, np.ndarray) else loaded["arr_1"]
        else:
            labels = np.array([int(line) for line in path.read_text(encoding="utf-8").split()], np.int64)
    except (ValueError, KeyError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a file of labels ({error}); needed one integer a line, or arr_1.") from None
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels are {labels.dtype} {labels.shape}; needed integers (N,).")
    if len(labels) < num_images:
        raise ValueError(f"{path}: {len(labels):,} labels; needed {num_images:,}, one per image.")
    labels = labels[:num_images].astype(np.int64)
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{path}: label {labels[wrong[0]]} of image {wrong[0]} is no class; the model knows 0 to {num_classes - 1}."
        )
    sha256 = sha256_of(path)
    watch.check()
    return labels, sha256


def check_run(run: SampleRun) -> None:
    """Find what cannot be drawn before anything is loaded or run.

    Raises
    ------
    ValueError
        With what was found, what is needed, and why.
    """
    respaced_timesteps(run.num_sampling_steps)
    channels = run.network["in_channels"]
    if run.num_images < 1:
        raise ValueError(f"{run.num_images} images asked for; needed at least 1.")
    if not 0 <= run.global_seed < _LABEL_STREAM:
        raise ValueError(f"Seed {run.global_seed}: needed 0 to 2^63 - 1.")
    if not run.cfg_scale >= 1.0 or math.isinf(run.cfg_scale):
        raise ValueError(
            f"Guidance scale {run.cfg_scale}: needed 1.0 or more. 1.0 is no guidance (the conditional model as it is); "
            "0 would not switch guidance off but draw without labels, and between the two labels count for less than "
            "the model says."
        )
    if (run.cfg_scale == 1.0) != (run.cfg_channels is None):
        raise ValueError(
            f"Guidance scale {run.cfg_scale} on {run.cfg_channels} channels: needed both, or 1.0 and None."
        )
    if run.sampler not in ("ddpm", "ddim"):
        raise ValueError(f"Unknown sampler {run.sampler!r}; known: ddpm, ddim.")
    if run.cfg_channels is not None and not 1 <= run.cfg_channels <= channels:
        raise ValueError(f"Guidance on {run.cfg_channels} channels: the model has {channels}.")
    if run.cfg_scale > 1.0 and not run.network["label_dropout"]:
        raise ValueError(
            'Guidance needs a model trained with label dropout: this one has no label for "no label". Draw without '
            "guidance (--cfg-scale 1.0)."
        )
    if not run.network["learn_sigma"]:
        raise ValueError("The sampler needs a model that predicts its variance (learn_sigma).")
    if run.precision == "tf32" and run.device != "cuda":
        raise ValueError("tf32 is arithmetic of NVIDIA GPUs; on the CPU use fp32 or bf16.")
    if run.vae is None and channels not in (1, 3):
        raise ValueError(f"A pixel-space model of {channels} channels draws no images; needed 1 (grey) or 3.")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a batch took in a short trial.

    Attributes
    ----------
    size, filled : images of the batch, and those that pass through the network for them
    step : seconds of a sampling step of the batch, guidance and noise included
    finish : seconds from latents to pixels, for one image
    repeats : steps that `step` is the median of
    gpu_bytes : peak of the GPU memory that PyTorch gave out; None on a CPU
    """

    size: int
    filled: int
    step: float
    finish: float
    repeats: int
    gpu_bytes: int | None


class ImageSampler:
    """A model ready to draw images by their index.

    What does not change from step to step is computed once: the embeddings of all timesteps here, those of the labels
    for each batch. On a GPU guidance is one forward pass of both halves, and a compiled model is replayed as a CUDA
    graph of the largest batch, which smaller ones are filled up to; nothing in a step waits for the GPU, so the noise
    of the next one is drawn while it works. On a CPU images pass 8 at a time, each eight on a core of its own: more are
    not faster, and need more memory, and eights that cores share would depend on the number of cores. For bf16 a copy
    of the model has its linear maps in that type, which autocast would round at every step.

    Parameters
    ----------
    model : on the device it is to run on, in evaluation mode
    run : what to draw; see `SampleRun`
    decode : the autoencoder's decoder; None for a model in pixel space

    Raises
    ------
    ValueError
        As `check_run`.
    """

    def __init__(self, model: DiT, run: SampleRun, *, decode: Decoder | None = None) -> None:
        check_run(run)
        if run.precision == "bf16":
            model = _rounded(model)
        self.run, self.model, self._decode = run, model, decode
        self.device = next(model.parameters()).device
        self.diffusion = Diffusion(run.num_sampling_steps)
        self._network = model.denoise
        if run.compiled:
            mode = "reduce-overhead" if self.device.type == "cuda" else None  # with CUDA graphs
            self._network = torch.compile(model.denoise, mode=mode)
        self._full = 0  # images of the largest batch so far
        with torch.inference_mode(), arithmetic(run.precision, self.device), each_core_alone(self.device):
            self._times = model.t_embedder(torch.arange(NUM_TRAIN_STEPS, device=self.device))  # (1000, D)

    @torch.inference_mode()
    def draw(
        self, indices: np.ndarray, labels: np.ndarray, *, on_step: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Images of the given indices and labels (N,), uint8 (N, H, W, 3).

        In memory besides the model: activations of one forward pass, of 8 images for each core of a CPU, on a GPU of N,
        or 2 N with guidance; some copies of the latents; then the decoded images of the batch, 12 bytes a pixel, of
        which few are decoded at once, on a CPU one by each core.

        Parameters
        ----------
        on_step : called after each sampling step with the number of steps done (of a GPU, handed to it)

        Raises
        ------
        ValueError
            If the model returns NaN or infinite values.
        """
        self._full = max(self._full, self.filled(len(indices)))
        fill = self.filled(len(indices)) - len(indices)
        noise = self._noise([*indices, *[indices[-1]] * fill])

        def report(step: int, _: Tensor) -> None:
            if on_step:
                on_step(len(self.diffusion) - step)

        with arithmetic(self.run.precision, self.device), each_core_alone(self.device) as cores:
            x = self.diffusion.sample(
                self._denoiser(np.concatenate([labels, np.repeat(labels[-1:], fill)]), cores),
                noise(len(self.diffusion)),
                noise,
                sampler="ddim" if self.run.sampler == "ddim" else "ddpm",
                on_step=report,
            )
        return self._images(x[: len(indices)], indices)

    def filled(self, size: int) -> int:
        """Images that pass through the network for a batch of `size`.

        On a CPU, batches that are no multiple of 8 go through kernels that round differently (about 1e-7). Filled up
        with copies of the last image they do not, and images are the same bytes for any batch size. On a GPU, a
        compiled model would be compiled anew for another size.
        """
        if self.device.type == "cpu":
            return size + -size % _CPU_BATCH
        return max(size, self._full) if self.run.compiled else size

    @property
    def full_load(self) -> int:
        """Images of the smallest batch that keeps all cores of a CPU busy, or 1 on a GPU."""
        if self.device.type != "cpu":
            return 1
        halves = 1 if self.run.cfg_channels is None else 2
        return _CPU_BATCH * -(-torch.get_num_threads() // halves)

    @torch.inference_mode()
    def trial(self, size: int, *, clock: Callable[[], float] = time.perf_counter) -> Trial:
        """Take the time of the first steps of a batch, and of its decoding (on a CPU of an image by each core).

        Three steps after those that warm up, more if they are short, fewer if they take long.
        """
        cuda, filled = self.device.type == "cuda", self.filled(size)
        finished = size if cuda else min(size, torch.get_num_threads())
        self._full = max(self._full, filled)
        indices = np.arange(filled)
        noise, labels = self._noise([*indices]), indices % self.model.config.num_classes
        x = noise(len(self.diffusion))
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

        def step(denoise: Denoiser, count: int) -> None:
            nonlocal x
            index = max(len(self.diffusion) - 1 - count, 0)
            sampler: Literal["ddpm", "ddim"] = "ddim" if self.run.sampler == "ddim" else "ddpm"
            x = self.diffusion.step(denoise, x, index, noise(index), sampler=sampler)

        def finish(_: int) -> None:
            # Latents of the first steps may decode to anything.
            self._images(x[:finished].nan_to_num(), indices)

        def seconds(function: Callable[[int], None], warm: int) -> list[float]:
            times: list[float] = []
            for count in range(warm + 100):
                begin = clock()
                function(count)
                if cuda:
                    torch.cuda.synchronize(self.device)
                times.append(clock() - begin)
                spent = sum(times[warm:])
                if spent > _LONG or (warm == 1 and times[0] > _LONG) or (len(times) >= warm + 3 and spent > 1):
                    break
            return times[warm:] or times

        with arithmetic(self.run.precision, self.device), each_core_alone(self.device) as cores:
            denoise = self._denoiser(labels, cores)
            steps = seconds(partial(step, denoise), 3 if self.run.compiled else 1)  # a graph is recorded at the second
        finishes = seconds(finish, 1)
        return Trial(
            size=size,
            filled=filled,
            step=statistics.median(steps),
            finish=statistics.median(finishes) / finished,
            repeats=len(steps),
            gpu_bytes=torch.cuda.max_memory_allocated(self.device) if cuda else None,
        )

    def _noise(self, indices: Sequence[int]) -> Callable[[int], Tensor]:
        """A source of noise (N, C, H, W), each image's of its own stream; what it is asked for is not looked at."""
        generators = [_generator(self.run.global_seed, i) for i in indices]
        config = self.model.config
        shape = (config.in_channels, config.input_size, config.input_size)

        def draw(_: int) -> Tensor:
            noise = torch.from_numpy(np.stack([g.standard_normal(shape, np.float32) for g in generators]))
            # From pinned memory the copy waits in the GPU's queue, not here.
            return noise.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else noise

        return draw

    def _denoiser(self, labels: np.ndarray, cores: Cores) -> Denoiser:
        """The model, with guidance, as the diffusion sees it for images of these labels."""
        y = torch.from_numpy(labels).to(self.device)
        if self.run.cfg_channels is not None:
            y = torch.cat([y, torch.full_like(y, self.model.config.num_classes)])
        label = self.model.y_embedder(y)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            if self.run.compiled and self.device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()  # the graph may write over its last output
            return self._predict(x, self._times[t], label, cores).float()

        return denoise

    def _predict(self, x: Tensor, time: Tensor, label: Tensor, cores: Cores) -> Tensor:
        """The model's output with guidance, (N, 2 C, H, W), of label embeddings (N, D), or (2 N, D) with guidance."""
        if self.run.cfg_channels is not None:
            x, time = torch.cat([x, x]), torch.cat([time, time])
        size = _CPU_BATCH if self.device.type == "cpu" else len(x)
        cut = list(zip(*(all_.split(size) for all_ in (x, time, label)), strict=True))
        parts = cores.map(lambda part: self._network(*part), cut)
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        return out if self.run.cfg_channels is None else guided(out, self.run.cfg_scale, self.run.cfg_channels)

    def _images(self, x: Tensor, indices: np.ndarray) -> np.ndarray:
        """Pixels of what the last step left, uint8 (N, H, W, 3); they are made on the device."""
        if self._decode is not None:
            # Autocast is for the network of the diffusion alone.
            with arithmetic("fp32" if self.run.precision == "fp32" else "tf32", self.device):
                x = self._decode(x)
        if not torch.isfinite(x).all():
            bad = indices[(~torch.isfinite(x)).flatten(1).any(1).cpu().numpy()]
            raise ValueError(f"Image {bad[0]} (of {len(bad)}) holds NaN or infinite values; try --precision fp32.")
        return to_uint8(x, rounding=self.run.rounding).cpu().numpy()


def usual_batch_size(device: torch.device | str) -> int:
    """Images at once in a process, unless a caller says otherwise: 32, or more to keep all cores of a CPU busy."""
    step = _CPU_BATCH * torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    return step * -(-_BATCH // step)


def to_uint8(images: Tensor, *, rounding: str) -> Tensor:
    """Images (N, C, H, W), nominally in -1..1, as uint8 (N, H, W, 3); grey ones get three equal channels.

    Parameters
    ----------
    rounding : "dit" truncates 127.5 x + 128 as DiT's sample_ddp.py does, which rounds 127.5 x + 127.5 to the nearest;
        "truncate" truncates 127.5 (x + 1) as ADM's image_sample.py does
    """
    if rounding not in ("dit", "truncate"):
        raise ValueError(f"Unknown rounding {rounding!r}; known: dit, truncate.")
    scaled = 127.5 * images + 128.0 if rounding == "dit" else (images + 1.0) * 127.5
    pixels = scaled.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.expand(-1, -1, -1, 3).contiguous()


def sample_npz(
    out: Path,
    *,
    sampler: ImageSampler,
    labels: np.ndarray,
    batch_size: int = 32,
    world: World | None = None,
    on_progress: Progress | None = None,
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
    with parts:
        run = world.from_first(lambda: parts.begin(note))
        if run is None:
            return out
        gaps = world.from_first(parts.gaps)
        if not parts.folder.is_dir():
            raise FileNotFoundError(f"{parts.folder}: not seen by process {world.rank}; all machines need to share it.")
        batches = _cut(gaps, batch_size)
        watched = on_progress if world.rank == 0 else None
        with ThreadPoolExecutor(1, "writer") as writer:
            writing: Future[None] | None = None
            behind = (0, 0)  # the batch that is being written
            for begin, end in batches[world.rank :: world.size]:
                report = _batch_progress(parts.done(behind), end - begin, run, sampler, watched) if watched else None
                images = sampler.draw(np.arange(begin, end), labels[begin:end], on_step=report)
                if writing:
                    writing.result()
                writing, behind = writer.submit(parts.save, begin, images), (begin, end)
            if writing:
                writing.result()
        world.barrier()
        world.from_first(lambda: parts.pack(run, labels))  # nobody goes on before the file is there
    return out


def images_drawn(out: Path) -> int:
    """Images that a run into a file has finished so far, all of them if the file is there."""
    if out.exists():
        return open_batch(out, role="gen").num_stored
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


def _batch_progress(
    done: int, size: int, run: SampleRun, sampler: ImageSampler, on_progress: Progress
) -> Callable[[int], None]:
    """Report a batch in parts while its steps go by: images done by all, and a share of this batch."""
    return lambda steps: on_progress(done + size * steps // len(sampler.diffusion), run.num_images)


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
        self._shape = (run.image_size, run.image_size, 3)
        self._image_bytes = math.prod(self._shape)
        self._settings = self.folder / "run.json"
        self._lock = FileLock(self.folder / "lock")

    def __enter__(self) -> None:
        """Leaving lets other runs at this output."""

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def begin(self, note: Callable[[str], None]) -> SampleRun | None:
        """Keep other runs away, and check what is there, and the disk, against what is asked for; process 0 only.

        Returns the run as it will be recorded, or None if the file is complete already.
        """
        _Parts(self.out, self._run).earlier()  # what is refused leaves nothing behind
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)  # a killed process lets go of it
        except Timeout:
            raise ValueError(f"{self.out}: another process is drawing into it; wait for it, or name another.") from None
        except OSError as error:
            raise OSError(f"{self.folder}: cannot be written ({error.strerror}); name another --out.") from None
        for folder, name in ((self.folder, "*"), (self.out.parent, glob.escape(self.out.name))):
            for stale in folder.glob(f".{name}.*.part"):  # of a killed process
                stale.unlink()
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
        with atomic_file(self._settings) as file:
            file.write(run.to_json().encode())
        if missing < run.num_images:
            note(f"{self.out}: going on; {run.num_images - missing:,} of {run.num_images:,} images are here already")
        return run

    def earlier(self) -> SampleRun | None:
        """The run that began this output, None if none did; ValueError if this run cannot go on with what is there."""
        run, begun = self._run, None
        if self.out.exists():
            whole = open_batch(self.out, role="gen")
            if whole.run is None:
                raise ValueError(f"{self.out} exists and does not say how it was drawn; name another --out.")
            begun = whole.run
            self._refuse_other(begun, self.out)
            if whole.num_stored > run.num_images:
                raise ValueError(
                    f"{self.out} holds {whole.num_stored:,} images of this run, {run.num_images:,} were asked for. "
                    f"Score its first {run.num_images:,} with `dit-eval evaluate --num-samples {run.num_images}`."
                )
            if whole.num_stored == run.num_images:
                return begun
        elif self._settings.exists():
            begun = SampleRun.from_json(self._settings.read_text(encoding="utf-8"))
            self._refuse_other(begun, self.folder)
        last = max((piece.end for piece in self._pieces()), default=0)
        if last > run.num_images:
            raise ValueError(
                f"{self.folder} holds images up to number {last:,}, {run.num_images:,} were asked for. Finish the "
                f"larger run, or delete the folder."
            )
        return begun

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
            with atomic_file(self.folder / f"{begin:09d}-{begin + len(images):09d}.u8") as file:
                file.write(images.data)
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
            images = np.fromfile(piece.path, np.uint8).reshape(-1, *self._shape)
            yield images[at - piece.begin :]
            at = piece.end

    def _pieces(self) -> list[_Piece]:
        """Finished pieces in order, the front of an earlier OUT first; a damaged file is none."""
        pieces = []
        if self._front:
            pieces.append(_Piece(0, self._front, self.out))
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if match := _PIECE.fullmatch(path.name):
                piece = _Piece(int(match[1]), int(match[2]), path)
                if path.stat().st_size == (piece.end - piece.begin) * self._image_bytes:
                    pieces.append(piece)
        return sorted(pieces, key=lambda piece: piece.begin)

    @cached_property
    def _front(self) -> int:
        """Images of an earlier, shorter OUT."""
        return open_batch(self.out, role="gen").num_stored if self.out.exists() else 0

    def _refuse_other(self, other: SampleRun, path: Path) -> None:
        if differences := self._run.differences(other):
            raise ValueError(
                f"{path} is of another run: {'; '.join(differences)} (now, there). Name another --out, or remove it."
            )

    def _discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def _continued(run: SampleRun, earlier: SampleRun) -> SampleRun:
    """The run as recorded when a part of it was drawn before: environments that differ are all kept."""
    known = [*earlier.earlier_environments, earlier.environment]
    # A round trip through JSON, so that tuples and lists compare as the file has them.
    now = json.loads(json.dumps(run.environment))
    return dataclasses.replace(run, earlier_environments=tuple(e for e in known if e != now))


def _rounded(model: DiT) -> DiT:
    """A copy with its linear maps in bf16; under autocast it gives the same numbers."""
    rounded = copy.deepcopy(model)
    for module in rounded.modules():
        if isinstance(module, nn.Linear):
            module.to(torch.bfloat16)
    return rounded


def _generator(seed: int, stream: int) -> np.random.Generator:
    """Random numbers that depend on (seed, stream) only; making one costs microseconds."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], np.uint64)))
