"""Which metrics a request means, and whether its files can give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from dit_eval.images.open import ImageSet
from dit_eval.metrics.density_coverage import NEIGHBOURS
from dit_eval.metrics.kid import KID_SEED, KID_SUBSET_SIZE, KID_SUBSETS
from dit_eval.results.badge import NUM_SAMPLES
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


class FeatureSizes(Protocol):
    """Name and feature dimensions, of a network or of what is known of it before it is loaded."""

    @property
    def name(self) -> str: ...

    @property
    def pool_dim(self) -> int: ...

    @property
    def spatial_dim(self) -> int | None: ...


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


_PROTOCOLS = {
    "kid": f"torch-fidelity: kernel (u.v / D + 1)^3, {KID_SUBSETS} subsets of {KID_SUBSET_SIZE:,}, seed {KID_SEED}",
    "density": f"prdc: k = {NEIGHBOURS}",
    "coverage": f"prdc: k = {NEIGHBOURS}",
    "fd-dinov2": "dgm-eval: DINOv2 ViT-L/14, class token, 224 px",
    "cmmd": "google-research/cmmd: CLIP ViT-L/14-336, Gaussian kernel of bandwidth 10, biased, times 1,000",
}


def _size(batch: ImageSet) -> str:
    return "x".join(str(n) for n in reversed(batch.image_size or ()))


def _known(value: _T | None) -> _T:
    """Narrow a part of a summary that `check_request` has made sure of."""
    if value is None:
        raise RuntimeError("A part of the features is missing that the request had been checked for.")
    return value
