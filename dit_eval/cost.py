"""What a long run will take, from a short trial on the machine that is to do it.

Nothing here is a table of machines, and little is a model: the program itself does a few batches, its clock is read,
and the rest is multiplication. What cannot be tried in full (distances between 50,000 images) is tried in part and
scaled by its known growth.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dit_eval.diffusion.sampler import CPU_BATCH, ImageSampler
from dit_eval.diffusion.steps import Network
from dit_eval.features.extract import extract_features
from dit_eval.features.network import FeatureExtractor
from dit_eval.images.encoded import ImageFiles
from dit_eval.images.npz import ImageBatch
from dit_eval.metrics.choose import uses_reference_images
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.inception_score import inception_score, order_free_inception_score
from dit_eval.metrics.manifold import precision_recall
from dit_eval.results.parse import json_text
from dit_eval.results.settings import EvaluationSettings
from dit_eval.sampling import batches_left, disk_bytes
from dit_eval.summary import GaussianStats
from dit_eval.system.dist import World
from dit_eval.system.environment import peak_memory_bytes
from dit_eval.system.switches import arithmetic, each_core_alone

_BATCHES = 3  # through the network; the first warms up
_PAIRS = 4_000  # images of each set in a trial of precision and recall: two chunks of rows
_ROWS = 1_000  # of class probabilities in a trial of the Inception Score
_HASHED = 1 << 24  # bytes in a trial of checksums
_PATIENCE = 20.0  # seconds for the steps of a sampling trial on a CPU; a larger batch is scaled from 8 images
_SMALL = 8  # images of that trial: a CPU is as fast with them as with more
_LONG = 20.0  # seconds after which a trial has seen enough
_ENOUGH = 1.0  # seconds of repetitions after which three of them are enough

Clock = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Predicted time, memory and disk of a run.

    Attributes
    ----------
    processes : that share the run, each like this one
    images : that pass through the network, of all processes
    seconds : of the run as a whole, by phase; of an evaluation the phases of `EvalResult.seconds`
    seconds_per_1000 : of one process, for 1,000 images through the network
    memory_bytes : peak of process 0; None where the system does not say
    memory_per_1000 : bytes of it that grow with each 1,000 images
    gpu_memory_bytes : peak of a process while sampling, of what PyTorch gives out; None where it was not looked at
    disk_bytes, disk_peak_bytes : of the output, and of that and what lies beside it until it is packed
    disk_per_1000 : bytes of the output for each 1,000 images
    trials : what was measured, in words
    left_out : what is not in the prediction, in words
    """

    processes: int
    images: int
    seconds: dict[str, float]
    seconds_per_1000: float
    memory_bytes: int | None
    memory_per_1000: int
    gpu_memory_bytes: int | None
    disk_bytes: int
    disk_peak_bytes: int
    disk_per_1000: int
    trials: tuple[str, ...]
    left_out: str

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def to_json(self) -> str:
        """One line of JSON with every field and the total seconds."""
        return json_text({"total_seconds": self.total, **dataclasses.asdict(self)})


def evaluation_cost(
    *,
    gen: ImageBatch | ImageFiles,
    ref: ImageBatch | ImageFiles,
    network: FeatureExtractor,
    settings: EvaluationSettings,
    world: World | None = None,
    clock: Clock = time.perf_counter,
) -> Cost:
    """What `dit_eval.evaluation.evaluate` will take, without a cache; called by every process of the run.

    The first three batches pass through the network, in all processes at once as they will; process 0 then tries the
    metrics on random features.

    Parameters
    ----------
    settings : with the metrics that will be computed, by name; its `num_images` is what to predict for, in place of
        those of `gen`, which may be a part of them
    clock : seconds
    """
    world = world or World()
    metrics, batch_size = settings.metrics or (), settings.batch_size
    num = settings.num_images or gen.num_images
    num_ref = ref.num_images if uses_reference_images(metrics, ref=ref, sizes=network) else 0
    tried = dataclasses.replace(gen, num_images=min(gen.num_images, _BATCHES * batch_size))
    world.barrier()
    each, num_classes = _seconds_per_image(tried, network, batch_size, clock)
    each = world.most(round(each * 1e9)) / 1e9  # of the slowest process: all wait for it
    seconds = {"checksums": _checksum_seconds(gen, ref, num, clock)}
    for role, count in (("ref features", num_ref), ("gen features", num)):
        if count:
            seconds[role] = each * _share(count, batch_size, world.size)
    trials = _MetricTrials(network=network, settings=settings, num=num, num_ref=num_ref, clock=clock)
    parts = world.from_first(lambda: trials.seconds(ref, num_classes))
    seconds["metrics"] = sum(spent for spent, _ in parts.values())
    said = [f"{network.name} on {tried.num_images} images: {1 / each:.2f} images/s"]
    said += [f"{name}: {spent:.2f} s, from {about}" for name, (spent, about) in parts.items()]
    row = 4 * (network.pool_dim + num_classes)
    more = num + num_ref - tried.num_images  # rows that stay in memory until the metrics
    if world.size > 1:  # those of a set are there twice while they are collected
        more += max(_share(count, batch_size, world.size) for count in (num, num_ref))
    return Cost(
        processes=world.size,
        images=num + num_ref,
        seconds=seconds,
        seconds_per_1000=1000 * each,
        memory_bytes=_peak_and(row * max(more, 0)),
        memory_per_1000=1000 * row,
        gpu_memory_bytes=None,
        disk_bytes=0,
        disk_peak_bytes=0,
        disk_per_1000=0,
        trials=tuple(said),
        left_out=_left_out(metrics),
    )


_TRIED = {"fid", "sfid", "fd-dinov2", "is", "precision", "recall"}  # metrics that `_MetricTrials` times


def _left_out(metrics: tuple[str, ...]) -> str:
    untried = [f"the time of {metric}" for metric in metrics if metric not in _TRIED]
    return "; ".join(["starting up, and what a cache of features would spare", *untried])


@dataclass(frozen=True, kw_only=True)
class _MetricTrials:
    """Trials of metrics on random features, for `num` samples and `num_ref` reference images."""

    network: FeatureExtractor
    settings: EvaluationSettings
    num: int
    num_ref: int
    clock: Clock

    def seconds(self, ref: ImageBatch | ImageFiles, num_classes: int) -> dict[str, tuple[float, str]]:
        """Seconds of each group of metrics that are asked for, and from what they were found."""
        metrics, parts = set(self.settings.metrics or ()), {}
        if {"fid", "sfid", "fd-dinov2"} & metrics:
            parts["Fréchet distances"] = self._frechet(ref)
        if "is" in metrics:
            parts["Inception Score"] = self._inception_score(num_classes)
        if {"precision", "recall"} & metrics:
            parts["precision and recall"] = self._manifold()
        return parts

    def _frechet(self, ref: ImageBatch | ImageFiles) -> tuple[float, str]:
        """At the first dimension asked for; the other is scaled by the cube."""
        pool, spatial = self.network.pool_dim, self.network.spatial_dim or 0
        spaces = (("fid", pool), ("fd-dinov2", pool), ("sfid", spatial))
        dims = [dim for metric, dim in spaces if metric in (self.settings.metrics or ())]
        rng, stored = np.random.default_rng(0), ref.pool or ref.spatial
        counts = (self.num, (stored.num or 2 * dims[0]) if stored else ref.num_images)
        gen_stats, ref_stats = (_random_statistics(rng, min(count, 2 * dims[0]), dims[0]) for count in counts)
        begin = self.clock()
        frechet_distance(gen=gen_stats, ref=ref_stats)
        trial = self.clock() - begin
        return sum(trial * (dim / dims[0]) ** 3 for dim in dims), f"one at {dims[0]} dimensions, {trial:.2f} s"

    def _inception_score(self, num_classes: int) -> tuple[float, str]:
        probs = np.random.default_rng(0).dirichlet(np.ones(num_classes), min(self.num, _ROWS)).astype(np.float32)
        begin = self.clock()
        inception_score(probs)
        order_free_inception_score(probs)
        return (self.clock() - begin) * self.num / len(probs), f"{len(probs):,} images"

    def _manifold(self) -> tuple[float, str]:
        """Distances within each set and between them: n^2 + m^2 + n m."""
        rng, num, num_ref = np.random.default_rng(0), self.num, self.num_ref
        n, m = min(num, _PAIRS), min(num_ref, _PAIRS)
        gen, ref = (rng.standard_normal((count, self.network.pool_dim), np.float32) for count in (n, m))
        device = self.network.device if self.network.backend == "torch" else "cpu"
        begin = self.clock()
        precision_recall(gen=gen, ref=ref, distances=self.settings.distances, device=device)
        trial = self.clock() - begin
        growth = (num**2 + num_ref**2 + num * num_ref) / (n**2 + m**2 + n * m)
        return trial * growth, f"{n:,} against {m:,}, {trial:.2f} s"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a batch took in a short trial.

    Attributes
    ----------
    size, filled : images of the batch, and those that pass through the network for them
    step : seconds of a sampling step of the batch, guidance and noise included; of the longest, where they differ
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


@torch.inference_mode()
def try_batch(sampler: ImageSampler, size: int, *, clock: Clock = time.perf_counter) -> Trial:
    """Take the time of the first steps of a batch, and of its decoding (on a CPU of an image by each core).

    Three steps after those that warm up, more if they are short, fewer if they take long.
    """
    cuda, filled = sampler.device.type == "cuda", sampler.reserve(size)
    finished = size if cuda else min(size, torch.get_num_threads())
    indices = np.arange(filled)
    noise, labels = sampler.noise(indices), indices % sampler.model.config.num_classes
    last = len(sampler.steps) - 1
    x = noise(last + 1)
    most = max(map(sampler.steps.passes, range(last + 1)))
    first = next(index for index in range(last, -1, -1) if sampler.steps.passes(index) == most)
    if cuda:
        torch.cuda.reset_peak_memory_stats(sampler.device)

    def step(network: Network, count: int) -> None:
        nonlocal x
        index = max(first - count, 0)
        x = sampler.steps.step(network, x, index if sampler.steps.passes(index) == most else first, noise)

    def finish(_: int) -> None:
        # Latents of the first steps may decode to anything.
        sampler.pixels(x[:finished].float().nan_to_num(), indices)

    wait = partial(torch.cuda.synchronize, sampler.device) if cuda else None
    with arithmetic(sampler.run.precision, sampler.device), each_core_alone(sampler.device) as cores:
        warm = 3 if sampler.run.compiled else 1  # a graph is recorded at the second step
        steps = _repeat(partial(step, sampler.network(labels, cores)), warm=warm, wait=wait, clock=clock)
    finishes = _repeat(finish, warm=1, wait=wait, clock=clock)
    return Trial(
        size=size,
        filled=filled,
        step=statistics.median(steps),
        finish=statistics.median(finishes) / finished,
        repeats=len(steps),
        gpu_bytes=torch.cuda.max_memory_allocated(sampler.device) if cuda else None,
    )


def _repeat(
    function: Callable[[int], None], *, warm: int, wait: Callable[[], None] | None, clock: Clock
) -> list[float]:
    """Seconds of a function of the number of the call, as often as it takes to know them; without the first `warm`."""
    times: list[float] = []
    for count in range(warm + 100):
        begin = clock()
        function(count)
        if wait:
            wait()
        times.append(clock() - begin)
        spent = sum(times[warm:])
        if spent > _LONG or (warm == 1 and times[0] > _LONG) or (len(times) >= warm + 3 and spent > _ENOUGH):
            break
    return times[warm:] or times


def _long_steps(sampler: ImageSampler) -> float:
    """Steps of an image, in steps with as many passes through the network as `try_batch` times."""
    passes = [*map(sampler.steps.passes, range(len(sampler.steps)))]
    return sum(passes) / max(passes)


def full_load(sampler: ImageSampler) -> int:
    """Images of the smallest batch that keeps all cores of a CPU busy, or 1 on a GPU."""
    if sampler.device.type != "cpu":
        return 1
    halves = 1 if sampler.run.cfg_channels is None else 2
    return CPU_BATCH * -(-torch.get_num_threads() // halves)


def sampling_cost(
    *,
    sampler: ImageSampler,
    out: Path,
    batch_size: int = 32,
    world: World | None = None,
    clock: Clock = time.perf_counter,
) -> Cost:
    """What `dit_eval.sampling.sample_npz` will take for the images that are still to draw; called by every process.

    Some steps of a batch are done, in all processes at once as they will be, and one image, or on a GPU the batch, is
    decoded. On a CPU eight images a core stand for a larger batch where that would take long.

    Parameters
    ----------
    out : of the run; nothing is written
    clock : seconds

    Raises
    ------
    ValueError
        If `out` or its parts are of another run.
    """
    world, run = world or World(), sampler.run
    batches = world.from_first(lambda: batches_left(out, run, batch_size))
    final, peak_disk = world.from_first(lambda: disk_bytes(out, run))
    size = max((end - begin for begin, end in batches), default=0)
    seconds, each, trials, gpu = {"steps": 0.0, "decoding": 0.0}, 0.0, [], None
    if size:
        world.barrier()
        trial = _representative_trial(sampler, size, world, clock)
        step = world.most(round(1e9 * trial.step)) / trial.filled / 1e9  # of an image; the slowest process
        finish = world.most(round(1e9 * trial.finish)) / 1e9
        shares = [batches[rank :: world.size] for rank in range(world.size)]
        drawn = max(sum(sampler.filled(end - begin) for begin, end in share) for share in shares)
        images = max(sum(end - begin for begin, end in share) for share in shares)
        seconds = {"steps": step * _long_steps(sampler) * drawn, "decoding": finish * images}
        each = sum(seconds.values()) / images
        trials = [
            f"a step of {trial.size} images: {step * trial.filled:.3f} s ({trial.repeats} times)",
            f"from latents to pixels: {finish:.4f} s an image",
        ]
        gpu = trial.gpu_bytes
    # What a batch needs besides activations: decoded images as float32, and pixels twice, once for the writer.
    batch = size * run.image_size**2 * 3 * (4 + 2)
    return Cost(
        processes=world.size,
        images=sum(end - begin for begin, end in batches),
        seconds=seconds,
        seconds_per_1000=1000 * each,
        memory_bytes=_peak_and(batch),
        memory_per_1000=0,
        gpu_memory_bytes=gpu,
        disk_bytes=final,
        disk_peak_bytes=peak_disk,
        disk_per_1000=1000 * 3 * run.image_size**2,
        trials=tuple(trials),
        left_out="starting up and packing the file",
    )


def _representative_trial(sampler: ImageSampler, size: int, world: World, clock: Clock) -> Trial:
    """A trial of a whole batch, or on a CPU of eight images a core where the batch would take long."""
    if sampler.device.type == "cuda":
        return try_batch(sampler, size, clock=clock)
    trial = try_batch(sampler, min(size, max(_SMALL, full_load(sampler))), clock=clock)
    larger = sampler.filled(size) / trial.filled
    if larger > 1 and world.most(round(1e9 * larger * trial.step * 4)) <= 1e9 * _PATIENCE:
        return try_batch(sampler, size, clock=clock)
    return trial


def _seconds_per_image(
    images: ImageBatch | ImageFiles, network: FeatureExtractor, batch_size: int, clock: Clock
) -> tuple[float, int]:
    """Seconds of the network, reading and moments included, for an image; and its number of classes."""
    stamps: list[tuple[float, int]] = []
    summary = extract_features(
        images, network, batch_size=batch_size, on_progress=lambda done, _: stamps.append((clock(), done))
    )
    classes = 0 if summary.class_probs is None else summary.class_probs.shape[1]
    if len(stamps) == 1:  # all images are in one batch; now it is warm
        begin = clock()
        extract_features(images, network, batch_size=batch_size)
        return (clock() - begin) / images.num_images, classes
    (first, warm), (last, done) = stamps[0], stamps[-1]
    return (last - first) / (done - warm), classes


def _checksum_seconds(gen: ImageBatch | ImageFiles, ref: ImageBatch | ImageFiles, num: int, clock: Clock) -> float:
    """Of both files, gen with `num` images; at the speed of memory, which a disk may not reach."""
    block = bytes(_HASHED)
    begin = clock()
    hashlib.sha256(block)
    zlib.crc32(block)
    pixels = 3 * gen.image_size[0] * gen.image_size[1] if gen.image_size else 0
    stored = Path(ref.path)
    ref_bytes = stored.stat().st_size if stored.is_file() else ref.num_images * pixels
    return (clock() - begin) / _HASHED * (num * pixels + ref_bytes)


def _random_statistics(rng: np.random.Generator, num: int, dim: int) -> GaussianStats:
    features = rng.standard_normal((max(num, 2), dim))
    return GaussianStats(mu=features.mean(0), sigma=np.cov(features, rowvar=False), num=len(features))


def _peak_and(more: int) -> int | None:
    """Peak memory of this process with so many bytes more; None where the system does not say."""
    peak = peak_memory_bytes()
    return None if peak is None else peak + more


def _share(images: int, batch_size: int, processes: int) -> int:
    """Images of the process that has most: batches are not cut."""
    batches = -(-images // batch_size)
    return min(images, -(-batches // processes) * batch_size)
