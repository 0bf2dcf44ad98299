"""Samples and a reference in, an `EvalResult` out. The page to read first.

    gen = open_images("samples.npz", role="gen")       # or a folder, zip or tar of images, or `from_batches(sampler())`
    ref = open_images("VIRTUAL_imagenet256_labeled.npz", role="ref")
    result = evaluate(gen=gen, ref=ref, extractor=TorchInception(weights="weights-inception-....pth"))

The steps are those of ADM's suite: features of both sets, statistics (stored ones win for the reference),
Fréchet distances, Inception Score of the samples alone, precision and recall between the images of both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol, TypeVar

import numpy as np

import dit_eval
from dit_eval.features.cache import cached_features
from dit_eval.features.extract import extract_features
from dit_eval.features.network import FeatureExtractor
from dit_eval.images.npz import ImageBatch, write_batch
from dit_eval.images.open import ImageSet
from dit_eval.metrics.density_coverage import NEIGHBOURS, DensityCoverage, density_coverage
from dit_eval.metrics.frechet import FrechetDistance, frechet_distance
from dit_eval.metrics.inception_score import SPLIT_SIZE, inception_score, order_free_inception_score
from dit_eval.metrics.kernel import (
    KID_SEED,
    KID_SUBSET_SIZE,
    KID_SUBSETS,
    KernelDistance,
    clip_mmd,
    kernel_distance,
)
from dit_eval.metrics.manifold import PrecisionRecall, precision_recall
from dit_eval.metrics.uncertainty import estimate_uncertainty
from dit_eval.results.badge import NUM_SAMPLES, make_badge, protocol_name, reference_protocol, unproven_name
from dit_eval.results.eval_result import EvalResult, ExtractorInfo, ImageSource, Uncertainty
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system import environment as results
from dit_eval.system.dist import World
from dit_eval.system.text import did_you_mean

_T = TypeVar("_T")

_ADM = ("fid", "sfid", "is", "precision", "recall")
_WITNESSES = ("kid", "density", "coverage", "fd-dinov2", "cmmd")
METRICS = _ADM + _WITNESSES
# What results, torch-fidelity and others call them; for suggestions.
_OTHER_NAMES = {"inception_score": "is", "isc": "is", "prc": "precision", "fdd": "fd-dinov2"}
# What a network other than Inception gives by default, and at all: a metric is defined on its source's network.
_OF_NETWORK = {"dinov2": ("fd-dinov2", "kid", "density", "coverage"), "clip": ("cmmd",)}
_K = 3  # neighbours of improved precision and recall
# Relative gap between the two Inception Scores from which a file counts as class-ordered. Mixed files of two splits
# stay within 0.01 (tests/test_inception_score.py); class order costs a factor.
_ORDER_TOLERANCE = 0.05
# Share of the largest value by which means and covariances of the same images differ at most, whatever program and
# machine made them; those of different images of one source differ by some 1 / sqrt(N).
_SAME = 1e-4


class FeatureSizes(Protocol):
    """Name and feature dimensions; every extractor class has them before it is built."""

    name: str
    pool_dim: int

    @property
    def spatial_dim(self) -> int | None: ...


class Progress(Protocol):
    """Called with what is being done, how much of it is done, and how much it is (None while unknown).

    First "ref" and "gen", where images pass through the network, with 0 images done. Then "checksums" in bytes; "ref"
    and "gen" in images, at once with all of them where a cache has their features; "metrics", without numbers.
    """

    def __call__(self, role: str, done: int, total: int | None, /) -> None: ...


def _suited(network: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics that a network gives without being asked, and all that are defined on it."""
    if network in _OF_NETWORK:
        return _OF_NETWORK[network], _OF_NETWORK[network]
    return _ADM, (*_ADM, "kid", "density", "coverage")


def _serves(ref: ImageSet, sizes: FeatureSizes) -> bool:
    """Whether the stored statistics of the reference stand for its images.

    A network without spatial features passes those of another by, so that ADM's files serve it by their images.
    """
    if sizes.spatial_dim is None and ref.num_images:
        return ref.pool is not None and ref.pool.dim == sizes.pool_dim
    return ref.pool is not None or ref.spatial is not None


def uses_reference_images(metrics: Sequence[str], *, ref: ImageSet, sizes: FeatureSizes) -> bool:
    """Whether the images of the reference pass through the network for these metrics."""
    from_moments = {"fid", "sfid", "fd-dinov2"}
    return bool(set(metrics) - from_moments - {"is"}) or (bool(from_moments & set(metrics)) and not _serves(ref, sizes))


def _unavailable_metrics(*, gen: ImageSet, ref: ImageSet, sizes: FeatureSizes) -> dict[str, str]:
    """Metrics that these two files cannot give, each with the reason. Reads no image.

    Raises
    ------
    ValueError
        If the stored statistics of the reference are of another network or layer.
    """
    reasons: dict[str, str] = {}
    stored, suited = _serves(ref, sizes), _suited(sizes.name)[1]
    for metric, stats, dim, keys in (
        ("fid", ref.pool, sizes.pool_dim, "mu, sigma"),
        ("sfid", ref.spatial, sizes.spatial_dim, "mu_s, sigma_s"),
        ("fd-dinov2", ref.pool if stored else None, sizes.pool_dim, "mu, sigma"),
    ):
        if metric not in suited:
            continue
        if stats is not None and stats.dim != dim:
            raise ValueError(
                f"{ref.path}: {keys} have {stats.dim} dimensions; the {sizes.name} extractor needs {dim}. "
                "Statistics serve only the network and layer they were made with (Inception: 2048 and 2023)."
            )
        if _fewer(gen, 2):
            reasons[metric] = f"{gen.path} has {gen.num_images} image; a covariance needs at least 2"
        elif stats is None and stored:
            reasons[metric] = f"{ref.path} holds statistics but not {keys}"
        elif stats is None and _fewer(ref, 2):
            reasons[metric] = f"{ref.path} has {ref.num_images} image; a covariance needs at least 2"
    for batch in (gen, ref):
        if _fewer(batch, _K + 1):
            what = "no images (arr_0)" if batch.num_images == 0 else f"{batch.num_images} image(s)"
            reasons["precision"] = reasons["recall"] = (
                f"{batch.path} holds {what}; precision and recall need at least {_K + 1} on each side"
            )
    for batch in (gen, ref):
        if _fewer(batch, KID_SUBSET_SIZE):
            reasons["kid"] = f"{batch.path} holds {batch.num_images:,} images; KID draws subsets of {KID_SUBSET_SIZE:,}"
        if _fewer(batch, 1):
            reasons["cmmd"] = f"{batch.path} holds no images (arr_0)"
    if _fewer(ref, NEIGHBOURS + 1):
        reasons["density"] = reasons["coverage"] = (
            f"{ref.path} holds {ref.num_images} image(s); density and coverage need at least {NEIGHBOURS + 1}"
        )
    return {metric: reason for metric, reason in reasons.items() if metric in suited}


def _fewer(images: ImageSet, least: int) -> bool:
    """Whether there are too few images; an iterable is asked again once it has been read."""
    return images.num_images is not None and images.num_images < least


def check_metrics(metrics: Sequence[str] | None, sizes: FeatureSizes) -> None:
    """Find unknown metrics, and those that are not defined on a network, before any file is there.

    Raises
    ------
    ValueError
        With those that are known, or the network to take.
    """
    unknown = [m for m in metrics or () if m not in METRICS]
    if unknown or (metrics is not None and not metrics):
        hint = did_you_mean(unknown[0], METRICS, also=_OTHER_NAMES) if unknown else ""
        raise ValueError(f"Unknown metric {', '.join(unknown) or '(none)'}; known: {', '.join(METRICS)}.{hint}")
    _, suited = _suited(sizes.name)
    for metric in metrics or ():
        if metric not in suited:
            home = next((network for network, names in _OF_NETWORK.items() if metric in names[:1]), "inception")
            raise ValueError(
                f"{metric} is not defined on the features of {sizes.name}, which give {', '.join(suited)}. "
                f"Pass --extractor {home} for {metric}, in a run of its own."
            )


def check_request(
    *,
    gen: ImageSet,
    ref: ImageSet,
    sizes: FeatureSizes,
    metrics: Sequence[str] | None = None,
    allow_size_mismatch: bool = False,
) -> tuple[tuple[str, ...], list[str]]:
    """What will be computed, and what the user should know, found out before any network runs.

    An iterable of unknown length is taken to be long enough.

    Parameters
    ----------
    metrics : of `METRICS`; a metric asked for by name must be possible. None: all that the files can give of ADM's
        five, or of those that are defined on another network.
    allow_size_mismatch : accept gen and ref images of different sizes, as ADM silently does

    Returns
    -------
    The metrics to compute, and warnings.

    Raises
    ------
    ValueError
        If a metric is unknown or impossible or not defined on this network, or the sizes differ.
    """
    check_metrics(metrics, sizes)
    usual, _ = _suited(sizes.name)
    reasons = _unavailable_metrics(gen=gen, ref=ref, sizes=sizes)
    impossible = [m for m in metrics or () if m in reasons]
    if impossible:
        raise ValueError(f"{', '.join(impossible)}: {reasons[impossible[0]]}.")
    if gen.image_size != ref.image_size and ref.image_size is not None and not allow_size_mismatch:
        raise ValueError(
            f"{gen.path} has images of {_size(gen)}, {ref.path} of {_size(ref)}. Take the reference of the samples' "
            "resolution, or pass --allow-size-mismatch to score them as they are (the network resizes both)."
        )
    chosen = tuple(m for m in METRICS if m in (usual if metrics is None else metrics) and m not in reasons)
    if not chosen:
        why = dict.fromkeys(reason for metric, reason in reasons.items() if metric in usual)
        raise ValueError(f"Nothing can be computed: {'; '.join(why)}.")
    warnings = [
        f"{metric}: not computed, {reason}."
        for metric, reason in reasons.items()
        if metrics is None and metric in usual
    ]
    if gen.pool or gen.spatial:
        count = _known(gen.num_images)
        warnings.append(f"{gen.path} carries statistics; they are ignored, its {count:,} images are scored.")
    if (ref.pool or ref.spatial) and not _serves(ref, sizes) and "fd-dinov2" in chosen:
        count = _known(ref.num_images)
        warnings.append(
            f"{ref.path}: its statistics are of another network; FD-DINOv2 is against its {count:,} images."
        )
    if gen.image_size != ref.image_size and ref.image_size is not None:
        warnings.append(f"gen images are {_size(gen)}, ref images {_size(ref)}: not a published comparison.")
    warnings += _few_warnings(gen, ref, chosen, sizes)
    return chosen, warnings


def _few_warnings(gen: ImageSet, ref: ImageSet, chosen: Sequence[str], sizes: FeatureSizes) -> list[str]:
    """What having few images does to the metrics, in the words of each network."""
    warnings = []
    if _fewer(gen, NUM_SAMPLES):
        count = f"{gen.num_images:,} samples"
        if {"fid", "sfid"} & set(chosen) and sizes.name == "inception":
            warnings.append(
                f"{count}: FID and sFID grow as samples get fewer; compare with FID-{gen.num_images} only, not with "
                "FID-50K."
            )
        elif {"fid", "sfid"} & set(chosen):
            warnings.append(
                f"{count}: FID and sFID of the {sizes.name} network grow as samples get fewer; compare at equal "
                "numbers only."
            )
        if "fd-dinov2" in chosen:
            warnings.append(f"{count}: FD-DINOv2 grows as samples get fewer; compare at equal numbers only.")
        if "cmmd" in chosen:
            warnings.append(
                f"{count}: CMMD counts each image as its own neighbour, which adds the more to it the fewer there are; "
                "compare at equal numbers only."
            )
    if sizes.name == "inception" and {"precision", "recall"} & set(chosen) and _fewer(ref, 10_000):
        warnings.append(
            f"precision and recall against {ref.num_images:,} reference images do not compare with those against "
            "ADM's 10,000."
        )
    dims = {
        "FID": ("fid", sizes.pool_dim),
        "sFID": ("sfid", sizes.spatial_dim),
        "FD-DINOv2": ("fd-dinov2", sizes.pool_dim),
    }
    for images, what in ((gen, "samples"), *([] if _serves(ref, sizes) else [(ref, "reference images")])):
        # Centred features of N images span at most N - 1 directions.
        few = {
            title: dim
            for title, (metric, dim) in dims.items()
            if metric in chosen and dim is not None and _fewer(images, dim + 1)
        }
        if few:
            warnings.append(
                f"{images.num_images:,} {what} and {' and '.join(f'{dim:,}' for dim in few.values())} feature "
                f"dimensions: the covariance behind {' and '.join(few)} is singular, and the distance hangs on their "
                f"number. Take more than {max(few.values()):,}."
            )
    return warnings


def evaluate(
    *,
    gen: ImageSet,
    ref: ImageSet,
    extractor: FeatureExtractor,
    metrics: Sequence[str] | None = None,
    distances: Literal["adm-float16", "float32"] = "adm-float16",
    batch_size: int = 64,
    cache: Path | None = None,
    cache_gen: bool = True,
    intervals: bool = False,
    allow_size_mismatch: bool = False,
    world: World | None = None,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> EvalResult:
    """Score a sample batch against a reference batch by ADM's protocol, and by that of each further witness.

    Parameters
    ----------
    gen, ref : opened by `dit_eval.images.open_images`, or made by its `from_batches` or `from_dataset`
    extractor : `TorchInception`, `TensorflowInception`, `DigitsExtractor`, `DinoV2` or `ClipVision`
    metrics : some of `METRICS`, each of which must be possible; None as in `check_request`
    distances : rule of the precision and recall distances, see `dit_eval.metrics.manifold`
    batch_size : images per pass through the network; does not change the result
    cache : folder for features, so that the same images are not passed through the network again; those of an
        iterable are not kept
    cache_gen : keep the features of gen there too, not of ref alone
    intervals : also estimate standard errors, intervals and FID for infinitely many images (see
        `dit_eval.metrics.uncertainty`): about as long again as the metrics, and 0.4 GB of spatial features for sFID
    allow_size_mismatch : accept gen and ref images of different sizes
    world : the processes that share the images, all of which call this and get the result
    on_progress : see `Progress`
    on_note : called with a line if the features cannot be kept in `cache`, which is no error

    Raises
    ------
    ValueError
        If the files do not fit the request or each other, before any network runs; after it, if a file cannot be
        read, or an iterable had too few images for a metric asked for.
    FirstProcessFailed
        In the other processes, if process 0 fails in what it does alone.
    """
    world = world or World()
    request = partial(
        check_request, gen=gen, ref=ref, sizes=extractor, metrics=metrics, allow_size_mismatch=allow_size_mismatch
    )
    chosen, _ = request()
    seconds: dict[str, float] = {}
    stored, uses_ref_images = _serves(ref, extractor), uses_reference_images(chosen, ref=ref, sizes=extractor)
    if on_progress:
        announce(on_progress, {"ref": ref if uses_ref_images else None, "gen": gen})
    with _timed(seconds, "checksums"):
        # Of an iterable it is known once the images have been read.
        gen_sha256, ref_sha256 = world.from_first(lambda: checksums(gen, ref, on_progress=on_progress))

    def features(role: str, images: ImageSet, sha256: str | None) -> FeatureSummary:
        report = partial(on_progress, role) if on_progress else None
        with _timed(seconds, f"{role} features"):
            summary, kept = cached_features(
                images,
                extractor,
                images_sha256=sha256,
                cache=cache if cache_gen or role == "ref" else None,
                batch_size=batch_size,
                keep_spatial=intervals and role == "gen" and "sfid" in chosen,
                world=world,
                on_progress=report,
                on_note=on_note,
            )
            if kept and report and images.num_images:
                report(images.num_images, images.num_images)
        return summary

    # An iterable is read in any case: nothing but its images tells what it was.
    ref_features = features("ref", ref, ref_sha256) if uses_ref_images or ref.read_once else FeatureSummary()
    if stored:
        ref_features = FeatureSummary(
            pool=ref.pool, spatial=ref.spatial, pool_features=ref_features.pool_features, class_probs=None
        )
    gen_features = features("gen", gen, gen_sha256)
    chosen, warnings = request()  # again: only now is it known how many images an iterable has
    needs_manifold = bool({"precision", "recall"} & set(chosen))

    if extractor.name == "inception" and extractor.precision != "fp32":
        warnings.append(
            f"features in {extractor.precision} move every metric; published numbers, and the statistics stored in "
            "reference files, are of fp32."
        )

    def score() -> EvalResult:
        if on_progress:
            on_progress("metrics", 0, None)
        gen_source = image_source(gen, gen_sha256 or gen.sha256(), "computed")
        ref_source = image_source(ref, ref_sha256 or ref.sha256(), "stored" if stored else "computed")
        warnings.extend(gen.warnings + ref.warnings)
        warnings.extend(against_itself(gen_source, ref_source, gen_features.pool, ref_features.pool))
        warnings.extend(unproven_name(ref_source) if extractor.name == "inception" else [])
        with _timed(seconds, "metrics"):
            fid = _frechet(gen_features.pool, ref_features.pool) if "fid" in chosen else None
            sfid = _frechet(gen_features.spatial, ref_features.spatial) if "sfid" in chosen else None
            fd_dinov2 = _frechet(gen_features.pool, ref_features.pool) if "fd-dinov2" in chosen else None
            kid, density, cmmd = _witnesses(chosen, gen_features, ref_features, extractor)
            scores = (
                _inception_scores(gen_features.class_probs, gen.labels, warnings) if "is" in chosen else (None, None)
            )
            manifold: PrecisionRecall | None = None
            if needs_manifold:
                manifold = precision_recall(
                    gen=_known(gen_features.pool_features),
                    ref=_known(ref_features.pool_features),
                    k=_K,
                    distances=distances,
                    device=extractor.device if extractor.backend == "torch" else "cpu",
                )
                if manifold.clipped_risk and distances == "adm-float16":
                    warnings.append(
                        "features are so large that ADM's float16 distances overflow without notice; precision and "
                        "recall may be near 1 for that reason alone. Compare with --distances float32."
                    )
        metrics: dict[str, float | None] = {
            "fid": fid.value if fid else None,
            "sfid": sfid.value if sfid else None,
            "inception_score": scores[0],
            "precision": manifold.precision if manifold and "precision" in chosen else None,
            "recall": manifold.recall if manifold and "recall" in chosen else None,
        }
        uncertainty: Uncertainty | None = None
        if intervals:
            with _timed(seconds, "intervals"):
                device = extractor.device if extractor.backend == "torch" else "cpu"
                uncertainty = estimate_uncertainty(
                    gen=gen_features, ref=ref_features, metrics=metrics, k=_K, device=device
                )
        network = extractor_info(extractor)
        badge = make_badge(
            extractor=network,
            gen=gen_source,
            ref=ref_source,
            distances=distances,
            needs_classifier="is" in chosen,
            whole_reference=not isinstance(ref, ImageBatch) or ref.num_images == ref.num_stored,
        )
        return EvalResult(
            **metrics,
            num_samples=_known(gen.num_images),
            num_reference=ref.num_images if uses_ref_images else None,
            protocol=protocol_name(badge, network.name),
            extractor=network,
            gen=gen_source,
            ref=ref_source,
            badge=badge,
            reference_protocol=reference_protocol(ref_source),
            fid_raw=fid.raw if fid else None,
            sfid_raw=sfid.raw if sfid else None,
            inception_score_order_free=scores[1],
            kid=kid.mean if kid else None,
            kid_std=kid.std if kid else None,
            density=density.density if density and "density" in chosen else None,
            coverage=density.coverage if density and "coverage" in chosen else None,
            fd_dinov2=fd_dinov2.value if fd_dinov2 else None,
            cmmd=cmmd,
            protocols={metric: _PROTOCOLS[metric] for metric in chosen if metric in _PROTOCOLS},
            distances=distances,
            uncertainty=uncertainty,
            warnings=tuple(warnings),
            seconds={phase: round(duration, 3) for phase, duration in seconds.items()},
            peak_memory_bytes=results.peak_memory_bytes(),
            environment=results.environment(),
            time=results.now(),
        )

    return world.from_first(score)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A reference batch in ADM's layout, not written yet.

    Attributes
    ----------
    images : all of them
    kept : indices of those that the file keeps, ascending
    arrays : what it holds beside them, by key: `mu sigma mu_s sigma_s` (float64), and labels `arr_1`
    comment : what the zip's comment says of its origin, as JSON
    batch_size : images in memory at a time while it is written
    """

    images: ImageSet
    kept: np.ndarray
    arrays: dict[str, np.ndarray]
    comment: str
    batch_size: int

    def write(self, path: Path) -> None:
        """Write the npz atomically; the images are read once more."""
        if not len(self.kept):
            write_batch(path, arrays=self.arrays, comment=self.comment)
            return
        height, width = _known(self.images.image_size)
        shape = (len(self.kept), height, width, 3)
        write_batch(path, images=self._kept_batches(), shape=shape, arrays=self.arrays, comment=self.comment)

    def _kept_batches(self) -> Iterator[np.ndarray]:
        begin = 0
        for batch in self.images.batches(self.batch_size):
            yield batch[self.kept[(self.kept >= begin) & (self.kept < begin + len(batch))] - begin]
            begin += len(batch)
        self.images.check_unchanged()  # since their statistics were made


def write_reference(
    *,
    images: ImageSet,
    out: Path,
    extractor: FeatureExtractor,
    num_images: int = 10_000,
    batch_size: int = 64,
    on_progress: Progress | None = None,
) -> int:
    """Make a reference batch, see `make_reference`, write it atomically, and return how many images it keeps."""
    reference = make_reference(
        images=images, extractor=extractor, num_images=num_images, batch_size=batch_size, on_progress=on_progress
    )
    reference.write(out)
    return len(reference.kept)


def make_reference(
    *,
    images: ImageSet,
    extractor: FeatureExtractor,
    num_images: int = 10_000,
    batch_size: int = 64,
    on_progress: Progress | None = None,
) -> Reference:
    """Make a reference batch in ADM's layout.

    `mu sigma mu_s sigma_s` (float64) cover all images, without the last two where the network has no spatial features;
    `arr_0` keeps `num_images` of them for precision and recall, evenly spaced over the file, so that a class-ordered
    file does not lose its last classes. The comment of the zip says, as JSON, of which images and by which network it
    was made.

    Raises
    ------
    ValueError
        If there are fewer than 2 images, `num_images` is negative, or the images can be read only once; before the
        network runs.
    """
    if images.read_once or images.num_images is None:
        raise ValueError(
            f"{images.path}: an iterable is read once, and a reference needs its images twice. Write them into an npz "
            "(`dit_eval.npz.write_batch`) and open that."
        )
    if images.num_images < 2 or num_images < 0:
        raise ValueError(
            f"{images.path}: {images.num_images} image(s), {num_images} to keep; statistics need at least 2 images, "
            "and the number to keep must not be negative."
        )
    report = partial(on_progress, "ref") if on_progress else None
    summary = extract_features(images, extractor, batch_size=batch_size, on_progress=report)
    pool = _known(summary.pool)
    keep = np.unique(np.linspace(0, images.num_images - 1, min(num_images, images.num_images)).round().astype(int))
    arrays = {"mu": pool.mu, "sigma": pool.sigma}
    if summary.spatial is not None:
        arrays |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    if images.labels is not None and len(keep):
        arrays["arr_1"] = images.labels[keep]
    made_from = {
        "images_sha256": images.sha256(),
        "num_images": images.num_images,
        "extractor": asdict(extractor_info(extractor)),
        "dit_eval": dit_eval.__version__,
    }
    comment = json.dumps({"made_from": made_from})
    return Reference(images=images, kept=keep, arrays=arrays, comment=comment, batch_size=batch_size)


def announce(on_progress: Progress, sets: Mapping[str, ImageSet | None]) -> None:
    """Report the numbers of images that will be passed over, as far as they are known, before anything is done."""
    for role, images in sets.items():
        if images is not None and images.num_images:
            on_progress(role, 0, images.num_images)


def checksums(*sets: ImageSet, on_progress: Progress | None = None) -> list[str | None]:
    """SHA-256 of each set, at the same time; None of one that is read once.

    Parameters
    ----------
    on_progress : called with ("checksums", bytes read of all sets, bytes in all)
    """
    lock, read = Lock(), dict[int, tuple[int, int]]()

    def checksum(number: int) -> str | None:
        def report(done: int, total: int) -> None:
            with lock:
                read[number] = (done, total)
                if on_progress:
                    on_progress("checksums", *map(sum, zip(*read.values(), strict=True)))

        return None if sets[number].read_once else sets[number].sha256(report)

    with ThreadPoolExecutor(len(sets), "checksums") as threads:
        return list(threads.map(checksum, range(len(sets))))


def _frechet(gen: GaussianStats | None, ref: GaussianStats | None) -> FrechetDistance:
    return frechet_distance(gen=_known(gen), ref=_known(ref))


def against_itself(
    gen: ImageSource, ref: ImageSource, gen_pool: GaussianStats | None = None, ref_pool: GaussianStats | None = None
) -> list[str]:
    """A warning if the reference is the samples, or was made of them: by checksums, or because the features say so."""
    advice = "The score says nothing of a model; pass real images, or statistics of them, as the reference."
    if gen.sha256 == ref.sha256:
        return [f"{ref.path} is the same as {gen.path}: the samples are scored against themselves. {advice}"]
    if gen.sha256 == ref.made_from:
        return [f"the statistics of {ref.path} were made of the images of {gen.path}. {advice}"]
    if gen_pool is None or ref_pool is None or gen_pool.dim != ref_pool.dim:
        return []
    alike = all(
        np.abs(mine - theirs).max() <= _SAME * np.abs(theirs).max()
        for mine, theirs in ((gen_pool.mu, ref_pool.mu), (gen_pool.sigma, ref_pool.sigma))
    )
    if alike and ref_pool.sigma.any():
        return [f"{ref.path} has the mean and covariance of {gen.path}: they seem to be the same images. {advice}"]
    return []


_PROTOCOLS = {
    "kid": f"torch-fidelity: kernel (u.v / D + 1)^3, {KID_SUBSETS} subsets of {KID_SUBSET_SIZE:,}, seed {KID_SEED}",
    "density": f"prdc: k = {NEIGHBOURS}",
    "coverage": f"prdc: k = {NEIGHBOURS}",
    "fd-dinov2": "dgm-eval: DINOv2 ViT-L/14, class token, 224 px",
    "cmmd": "google-research/cmmd: CLIP ViT-L/14-336, Gaussian kernel of bandwidth 10, biased, times 1,000",
}


def _witnesses(
    chosen: Sequence[str], gen: FeatureSummary, ref: FeatureSummary, extractor: FeatureExtractor
) -> tuple[KernelDistance | None, DensityCoverage | None, float | None]:
    """KID, density with coverage, and CMMD, as far as they are chosen: all that needs the features of both sides."""
    if not {"kid", "density", "coverage", "cmmd"} & set(chosen):
        return None, None, None
    u, v = _known(gen.pool_features), _known(ref.pool_features)
    device = extractor.device if extractor.backend == "torch" else "cpu"
    return (
        kernel_distance(gen=u, ref=v) if "kid" in chosen else None,
        density_coverage(gen=u, ref=v, device=device) if {"density", "coverage"} & set(chosen) else None,
        clip_mmd(gen=u, ref=v, device=device) if "cmmd" in chosen else None,
    )


def _inception_scores(
    class_probs: np.ndarray | None, labels: np.ndarray | None, warnings: list[str]
) -> tuple[float, float]:
    """ADM's figure and the order-free one; a warning if the file's order alone accounts for the difference."""
    probs = _known(class_probs)
    score, order_free = inception_score(probs), order_free_inception_score(probs)
    if len(probs) > SPLIT_SIZE and score < order_free * (1 - _ORDER_TOLERANCE):
        by_label = " (its labels are sorted)" if labels is not None and (np.diff(labels) >= 0).all() else ""
        warnings.append(
            f"the file looks class-ordered{by_label}: ADM's Inception Score takes contiguous splits of {SPLIT_SIZE:,} "
            f"and gives {score:.2f}; in mixed order it is {order_free:.2f}. Shuffle the file before you publish it."
        )
    return score, order_free


def extractor_info(extractor: FeatureExtractor) -> ExtractorInfo:
    """The network as results name it."""
    return ExtractorInfo(
        name=extractor.name,
        weights_sha256=extractor.weights_sha256,
        backend=extractor.backend,
        precision=extractor.precision,
        device=extractor.device,
        convolutions_sha256=getattr(extractor, "convolutions_sha256", None),  # networks of other kinds have none
    )


def image_source(batch: ImageSet, sha256: str, statistics: str) -> ImageSource:
    """A set of images as results name it; `statistics` is "stored" or "computed"."""
    return ImageSource(
        path=str(batch.path),
        sha256=sha256,
        num_images=_known(batch.num_images),
        image_size=batch.image_size,
        statistics=statistics,
        run=batch.run,
        made_from=getattr(batch, "made_from", None),  # an npz may say so
    )


def _size(batch: ImageSet) -> str:
    return "x".join(str(n) for n in reversed(batch.image_size or ()))


def _known(value: _T | None) -> _T:
    """Narrow a part of a summary that `check_request` has made sure of."""
    if value is None:
        raise RuntimeError("A part of the features is missing that the request had been checked for.")
    return value


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - begin
