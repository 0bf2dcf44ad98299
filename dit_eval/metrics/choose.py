"""Which metrics a request means, and whether its files can give them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dit_eval.images.pair import TwoReferences
from dit_eval.metrics import METRICS, PROTOCOLS
from dit_eval.metrics.metric import ADM
from dit_eval.results.badge import NUM_SAMPLES
from dit_eval.system.text import did_you_mean

if TYPE_CHECKING:
    from dit_eval.images import ImageSet
    from dit_eval.metrics.metric import Metric
    from dit_eval.results.settings import EvaluationSettings
    from dit_eval.summary import GaussianStats

_MOMENTS = {"pool": "mu, sigma", "spatial": "mu_s, sigma_s"}  # as files of statistics call them


class FeatureSizes(Protocol):
    """Name and feature dimensions; every network has them before it is loaded."""

    @property
    def name(self) -> str: ...

    @property
    def pool_dim(self) -> int: ...

    @property
    def spatial_dim(self) -> int | None: ...


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What will be computed of two sets of images, which can give it.

    Attributes
    ----------
    metrics : in the order of `METRICS`
    warnings : what a user should know of the two sets
    stored : whether the stored statistics of the reference stand for its images
    reads_ref : whether images of the reference pass through the network
    """

    metrics: tuple[Metric, ...]
    warnings: tuple[str, ...]
    stored: bool
    reads_ref: bool

    @property
    def takes_spatial(self) -> bool:
        """Whether a metric compares spatial features, whose rows its interval takes."""
        return any(metric.needs.moments == "spatial" for metric in self.metrics)

    @property
    def names(self) -> tuple[str, ...]:
        """By which a user asks for them."""
        return tuple(metric.name for metric in self.metrics)

    @property
    def protocol(self) -> str | None:
        """Of other protocols' versions with none of ADM's numbers beside them: which, in words. Else None."""
        versions = dict.fromkeys(metric.version_of for metric in self.metrics if metric.version_of)
        return None if any(ADM in metric.suites for metric in self.metrics) else " and ".join(versions) or None


def choose(
    names: Sequence[str] | None = None,
    *,
    gen: ImageSet,
    ref: ImageSet,
    network: FeatureSizes,
    protocols: Sequence[str] | None = None,
    allow_size_mismatch: bool = False,
) -> Choice:
    """What will be computed, and what the user should know, found out before any network runs.

    An iterable of unknown length is taken to be long enough.

    Parameters
    ----------
    names : of `METRICS`; a metric asked for by name must be possible. None: all that the files can give of ADM's
        five, or of those that are defined on another network
    protocols : of `PROTOCOLS`, in place of names: all that the files can give of their metrics
    allow_size_mismatch : accept gen and ref images of different sizes, as ADM silently does

    Raises
    ------
    ValueError
        If a metric or protocol is unknown or impossible or not defined on this network, or the sizes differ.
    """
    check_metrics(names, network.name, protocols)
    usual, stored = _usual(network.name, protocols), _serves(ref, network)
    _check_dimensions(ref, network, stored)
    reasons = {m.name: why for m in _defined(network.name) if (why := _why_not(m, gen, ref, network, stored))}
    impossible = [name for name in names or () if name in reasons]
    if impossible:
        raise ValueError(f"{', '.join(impossible)}: {reasons[impossible[0]]}.")
    if not allow_size_mismatch:
        _check_sizes(gen, ref)
    wanted = usual if names is None else names
    metrics = tuple(metric for metric in METRICS if metric.name in wanted and metric.name not in reasons)
    missing = {name: why for name, why in reasons.items() if name in usual}
    if not metrics:
        raise ValueError(f"Nothing can be computed: {'; '.join(dict.fromkeys(missing.values()))}.")
    not_asked = [f"{name}: not computed, {why}." for name, why in missing.items() if names is None]
    return Choice(
        metrics=metrics,
        warnings=(*not_asked, *_warnings(metrics, gen, ref, network, stored)),
        stored=stored,
        reads_ref=_reads_ref(metrics, stored),
    )


def chosen(settings: EvaluationSettings, *, gen: ImageSet, ref: ImageSet, network: FeatureSizes) -> Choice:
    """`choose`, by the settings of an evaluation.

    Raises
    ------
    ValueError
        As `choose`; or if it is to stop when intervals are narrow, and a metric has none.
    """
    choice = choose(
        settings.metrics,
        gen=gen,
        ref=ref,
        network=network,
        protocols=settings.protocol,
        allow_size_mismatch=settings.allow_size_mismatch,
    )
    if settings.until is not None:
        _check_until(choice.metrics, settings.until)
    return choice


def _check_until(metrics: Sequence[Metric], until: float) -> None:
    without = [metric.name for metric in metrics if metric.interval is None]
    if without:
        have = ",".join(metric.name for metric in metrics if metric.interval is not None) or "fid,is"
        raise ValueError(
            f"`until` {until:g}: expected metrics that have an interval; got {', '.join(without)} without one. "
            f"Leave them out: `metrics` {have}."
        )


def _check_sizes(gen: ImageSet, ref: ImageSet) -> None:
    """That the images of both sides are of one size."""
    if gen.image_size != ref.image_size and ref.image_size is not None:
        raise ValueError(
            f"{gen.path} has images of {_size(gen)}, {ref.path} of {_size(ref)}. Take the reference of the samples' "
            "resolution, or pass `allow_size_mismatch` to score them as they are (the network resizes both)."
        )


def _warnings(
    metrics: Sequence[Metric], gen: ImageSet, ref: ImageSet, network: FeatureSizes, stored: bool
) -> Iterator[str]:
    """What a user should know of two sets before these metrics are computed of them."""
    if gen.pool or gen.spatial:
        yield f"{gen.path} carries statistics; they are ignored, its {gen.num_images:,} images are scored."
    if (ref.pool or ref.spatial) and not stored:
        for metric in metrics:
            if metric.needs.moments:
                about = f"{metric.label} is against its {ref.num_images:,} images."
                yield f"{ref.path}: its statistics are of another network; {about}"
    if gen.image_size != ref.image_size and ref.image_size is not None:
        yield f"gen images are {_size(gen)}, ref images {_size(ref)}: not a published comparison."
    yield from _few_images(metrics, gen, ref, network.name)
    yield from _singular(metrics, gen, "samples", network)
    if not stored:
        yield from _singular(metrics, ref, "reference images", network)


def uses_reference_images(names: Sequence[str], *, ref: ImageSet, sizes: FeatureSizes) -> bool:
    """Whether images of the reference pass through the network for these metrics."""
    return _reads_ref([metric for metric in METRICS if metric.name in names], _serves(ref, sizes))


def _reads_ref(metrics: Sequence[Metric], stored: bool) -> bool:
    return any(metric.needs.ref_images or (metric.needs.moments and not stored) for metric in metrics)


def check_metrics(names: Sequence[str] | None, network: str, protocols: Sequence[str] | None = None) -> None:
    """Find unknown metrics and protocols, and those that are not defined on a network, before any file is there.

    Raises
    ------
    ValueError
        With those that are known, or the network to take.
    """
    if protocols is not None:
        _check_protocols(protocols, names, network)
    if names is None:
        return
    known = {metric.name: metric for metric in METRICS}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        also = {other: metric.name for metric in METRICS for other in metric.other_names}
        hint = did_you_mean(unknown[0], known, also=also) if unknown else ""
        raise ValueError(f"Unknown metric {', '.join(unknown) or '(none)'}; known: {', '.join(known)}.{hint}")
    defined = [metric.name for metric in _defined(network)]
    other = next((name for name in names if name not in defined), None)
    if other is not None:
        raise ValueError(
            f"{other} is not defined on the features of {network}, which give {', '.join(defined)}. "
            f"Pass `network` {known[other].networks[0]} for {other}, in a run of its own."
        )


def _check_protocols(protocols: Sequence[str], names: Sequence[str] | None, network: str) -> None:
    unknown = [protocol for protocol in protocols if protocol not in PROTOCOLS]
    if unknown or not protocols:
        hint = did_you_mean(unknown[0], PROTOCOLS) if unknown else ""
        raise ValueError(f"Unknown protocol {', '.join(unknown) or '(none)'}; known: {', '.join(PROTOCOLS)}.{hint}")
    given = _usual(network, protocols)
    if names is not None:
        raise ValueError(
            f"`protocol` names the metrics {', '.join(given)}, and `metrics` {', '.join(names)}. Pass one of the two; "
            "`metrics` takes all of these names."
        )
    if not given or _kind(network) != "inception":
        raise ValueError(
            f"`protocol` {', '.join(protocols)}: is about the features of Inception, not of {network}, whose metrics "
            "have one definition each. Leave it out."
        )


def _defined(network: str) -> list[Metric]:
    """The metrics that are defined on a network. One that no metric names gives what Inception gives."""
    kind = _kind(network)
    return [metric for metric in METRICS if kind in metric.networks]


def _usual(network: str, protocols: Sequence[str] | None) -> list[str]:
    """Names of the metrics that a network gives without being asked, or by these protocols."""
    kind = _kind(network)
    if protocols is None:
        return [metric.name for metric in METRICS if kind in metric.by_default]
    return [m.name for m in METRICS if kind in m.networks and not set(protocols).isdisjoint(m.suites)]


def _kind(network: str) -> str:
    return network if any(network in metric.networks for metric in METRICS) else "inception"


def _serves(ref: ImageSet, network: FeatureSizes) -> bool:
    """Whether the stored statistics of the reference stand for its images.

    A network without spatial features passes those of another by, so that ADM's files serve it by their images; those
    that were named as the statistics of two references are never passed by.
    """
    if network.spatial_dim is None and ref.num_images and not isinstance(ref, TwoReferences):
        return ref.pool is not None and ref.pool.dim == network.pool_dim
    return ref.pool is not None or ref.spatial is not None


def _moments(ref: ImageSet, metric: Metric) -> GaussianStats | None:
    return ref.pool if metric.needs.moments == "pool" else ref.spatial


def _check_dimensions(ref: ImageSet, network: FeatureSizes, stored: bool) -> None:
    """That stored statistics are of this network and layer."""
    for metric in _defined(network.name) if stored else []:
        stats, dim = _moments(ref, metric), _dim(metric, network)
        if metric.needs.moments and stats is not None and stats.dim != dim:
            raise ValueError(
                f"{ref.path}: {_MOMENTS[metric.needs.moments]} have {stats.dim} dimensions; the {network.name} "
                f"extractor needs {dim}. Statistics serve only the network and layer they were made with (Inception: "
                "2048 and 2023)."
            )
        if metric.needs.moments and stats is not None:
            _check_network(ref, stats, network)


def _check_network(ref: ImageSet, stats: GaussianStats, network: FeatureSizes) -> None:
    """That statistics are not of another network, which dimensions do not tell.

    Files of Inception's rarely say so, as ADM's do not; on other networks a file must.
    """
    again = f"Make statistics of this network with `dit-eval stats`, which notes it; this run is of {network.name}."
    if stats.network not in (None, network.name):
        raise ValueError(f"{ref.path}: its statistics are of the network {stats.network}, not {network.name}. {again}")
    if stats.network is None and _kind(network.name) != "inception":
        raise ValueError(
            f"{ref.path}: it does not say which network its statistics are of, and {stats.dim:,} dimensions are those "
            f"of several. {again}"
        )


def _dim(metric: Metric, network: FeatureSizes) -> int | None:
    return {"pool": network.pool_dim, "spatial": network.spatial_dim}.get(metric.needs.moments or "")


def _why_not(metric: Metric, gen: ImageSet, ref: ImageSet, network: FeatureSizes, stored: bool) -> str | None:
    """Why these two sets cannot give a metric; None if they can. Reads no image."""
    needs = metric.needs
    if needs.moments and stored:
        if _few(gen, needs.least_gen):
            return _too_few(gen, needs.because)
        if _moments(ref, metric) is None:
            return f"{ref.path} holds statistics but not {_MOMENTS[needs.moments]}"
        return None
    # Of two sides that are too small the reference is named: a file of statistics alone holds no image.
    for images, least in ((ref, needs.least_ref), (gen, needs.least_gen)):
        if _few(images, least):
            return _too_few(images, needs.because)
    return None


def _few(images: ImageSet, least: int) -> bool:
    """Whether there are too few images; an iterable is asked again once it has been read."""
    return images.num_images is not None and images.num_images < least


def _too_few(images: ImageSet, because: str) -> str:
    found = "no images (arr_0)"
    if images.num_images:
        found = "1 image" if images.num_images == 1 else f"{images.num_images:,} images"
    return f"{images.path} holds {found}; {because}"


def _few_images(metrics: Sequence[Metric], gen: ImageSet, ref: ImageSet, network: str) -> list[str]:
    """What having few images does to the metrics, in the words of each."""
    found: list[str | None] = []
    if gen.num_images is not None and gen.num_images < NUM_SAMPLES:
        found += [metric.few_samples(gen.num_images, network) for metric in metrics if metric.few_samples]
    if ref.num_images is not None:
        found += [metric.few_reference(ref.num_images, network) for metric in metrics if metric.few_reference]
    return [text for text in dict.fromkeys(found) if text]


def _singular(metrics: Sequence[Metric], images: ImageSet, what: str, network: FeatureSizes) -> Iterator[str]:
    """A warning if there are no more images than dimensions: centred features of N span at most N - 1 directions."""
    dims = {metric.label: _dim(metric, network) for metric in metrics}
    few = {label: dim for label, dim in dims.items() if dim is not None and _few(images, dim + 1)}
    if few:
        yield (
            f"{images.num_images:,} {what} and {' and '.join(f'{dim:,}' for dim in few.values())} feature dimensions: "
            f"the covariance behind {' and '.join(few)} is singular, and the distance hangs on their number. Take more "
            f"than {max(few.values()):,}."
        )


def _size(images: ImageSet) -> str:
    return "x".join(str(n) for n in reversed(images.image_size or ()))
