"""Samples and a reference in, an `EvalResult` out. The page to read first.

    result = dit_eval.evaluate("samples.npz", ref="imagenet256")      # or a folder, zip or tar of images, an array, ...
    print(result)

The steps are those of ADM's suite: features of both sets, statistics (stored ones win for the reference), then each of
the chosen metrics. What a metric is stands in its file in `dit_eval/metrics`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dit_eval.features.load import load_network
from dit_eval.features.seen import given_sizes
from dit_eval.images.given import given_images
from dit_eval.images.picked import whole
from dit_eval.metrics.choose import check_metrics, chosen
from dit_eval.reference import given_reference
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.settings import EvaluationSettings, with_metrics
from dit_eval.scoring import Scored, scored
from dit_eval.sequential import score_until
from dit_eval.system.assets import fetch, fetch_aloud
from dit_eval.system.progress import Progress
from dit_eval.system.where import Where, given_where

if TYPE_CHECKING:
    import numpy as np

    from dit_eval.features.network import FeatureExtractor
    from dit_eval.images import ImageSet


def evaluate(
    gen: str | os.PathLike[str] | np.ndarray | ImageSet,
    *,
    ref: str | os.PathLike[str] | np.ndarray | ImageSet | tuple[Any, Any],
    network: str | FeatureExtractor = "inception",
    metrics: str | Sequence[str] | None = None,
    settings: EvaluationSettings | None = None,
    where: Where | None = None,
    quiet: bool = False,
) -> EvalResult:
    """Score a sample batch against a reference batch by ADM's protocol, and by that of each further metric.

    Parameters
    ----------
    gen : generated images: a path (npz, folder, zip, tar, saved dataset), a uint8 array (N, H, W, 3), or an image set
        of `open_images`, `from_batches` or `from_dataset`
    ref : real images or their statistics: as gen, the name of a public reference batch such as "imagenet256", or the
        address of a file; or a pair of them, statistics and images: the images are for precision, recall and what else
        compares single images
    network : a name of `NETWORKS`, or a loaded network; public references and weights are fetched into the cache
    metrics : names of `METRICS`, each of which must be possible, here or in `settings`; None as in `choose`
    settings : the other choices that decide a number
    where : device, processes, cache
    quiet : say nothing on stderr

    Raises
    ------
    ValueError
        If an argument is of another type or value than stated, or the files do not fit the request or each other,
        before any network runs; after it, if a file cannot be read, or an iterable had too few images for a metric.
    FileNotFoundError, ModuleNotFoundError, OSError
        If a file or a package is missing, or a public file cannot be fetched.
    FailedElsewhere
        In the other processes, if process 0 fails in what it does alone.
    """
    settings, where = with_metrics(settings, metrics), given_where(where)
    aloud = not quiet and where.world.rank == 0
    bring = fetch_aloud if aloud else fetch
    gen = given_images(gen, role="gen", num_images=settings.num_images)
    sizes = given_sizes(network, where)
    check_metrics(settings.metrics, sizes.name, settings.protocol)
    mismatch = settings.allow_size_mismatch
    ref = given_reference(ref, gen=gen, network=sizes.name, bring=bring, allow_size_mismatch=mismatch)
    chosen(settings, gen=gen, ref=ref, network=sizes)
    if settings.until is not None:
        whole(gen)
    if isinstance(network, str):
        network = load_network(network, device=where.device, world=where.world, fetch=bring)
    if where.on_progress or not aloud:
        return score(gen=gen, ref=ref, network=network, settings=settings, where=where)
    with Progress(names={"ref": "ref features", "gen": "gen features"}) as progress:
        told = replace(where, on_progress=progress.update, on_note=where.on_note or progress.note)
        return score(gen=gen, ref=ref, network=network, settings=settings, where=told)


def score(
    *,
    gen: ImageSet,
    ref: ImageSet,
    network: FeatureExtractor,
    settings: EvaluationSettings | None = None,
    where: Where | None = None,
) -> EvalResult:
    """`evaluate` with what is opened and loaded already; says nothing but by `where`. Errors as there."""
    settings, where = settings or EvaluationSettings(), where or Where()
    if settings.until is not None:
        return score_until(gen=gen, ref=ref, network=network, settings=settings, where=where, then=_result)
    return scored(gen=gen, ref=ref, network=network, settings=settings, where=where, then=_result)


def _result(found: Scored) -> EvalResult:
    return found.result
