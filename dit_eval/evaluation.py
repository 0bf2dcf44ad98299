"""Samples and a reference in, an `EvalResult` out. The page to read first.

    gen = open_images("samples.npz", role="gen")       # or a folder, zip or tar of images, or `from_batches(sampler())`
    ref = open_images("VIRTUAL_imagenet256_labeled.npz", role="ref")
    result = evaluate(gen=gen, ref=ref, extractor=TorchInception(weights="weights-inception-....pth"))

The steps are those of ADM's suite: features of both sets, statistics (stored ones win for the reference),
Fréchet distances, Inception Score of the samples alone, precision and recall between the images of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from dit_eval.features.cache import cache_entry, cached_features
from dit_eval.features.network import FeatureExtractor
from dit_eval.features.provenance import announce, checksums, extractor_info, image_source
from dit_eval.images.npz import ImageBatch
from dit_eval.images.open import ImageSet
from dit_eval.metrics.choose import _K, _PROTOCOLS, _known, _serves, check_request, uses_reference_images
from dit_eval.metrics.cmmd import clip_mmd
from dit_eval.metrics.density_coverage import DensityCoverage, density_coverage
from dit_eval.metrics.frechet import FrechetDistance, frechet_distance
from dit_eval.metrics.inception_score import SPLIT_SIZE, inception_score, order_free_inception_score
from dit_eval.metrics.intervals import estimate_uncertainty
from dit_eval.metrics.kid import KernelDistance, kernel_distance
from dit_eval.metrics.manifold import PrecisionRecall, precision_recall
from dit_eval.reference import make_reference
from dit_eval.results.badge import make_badge, protocol_name, reference_protocol, unproven_name
from dit_eval.results.eval_result import EvalResult, ImageSource, Uncertainty
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system import environment as results
from dit_eval.system.dist import World

if TYPE_CHECKING:
    from dit_eval.features.provenance import Progress

# Relative gap between the two Inception Scores from which a file counts as class-ordered. Mixed files of two splits
# stay within 0.01 (tests/test_inception_score.py); class order costs a factor.
_ORDER_TOLERANCE = 0.05
# Share of the largest value by which means and covariances of the same images differ at most, whatever program and
# machine made them; those of different images of one source differ by some 1 / sqrt(N).
_SAME = 1e-4


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
        folder = cache if cache_gen or role == "ref" else None
        with _timed(seconds, f"{role} features"):
            summary, kept = cached_features(
                images,
                extractor,
                entry=cache_entry(images, extractor, images_sha256=sha256, cache=folder, on_note=on_note),
                batch_size=batch_size,
                keep_spatial=intervals and role == "gen" and "sfid" in chosen,
                world=world,
                on_progress=report,
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


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    seconds[phase] = time.perf_counter() - begin
