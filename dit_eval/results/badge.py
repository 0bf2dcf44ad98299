"""What of a result is as for the published numbers, and what is not: decided from what the files are.

Published ImageNet numbers are by ADM's suite of 2021: its network, arithmetic and rules (protocol), the Inception of
2015-12-05 (weights), ADM's reference batch of the samples' resolution (reference), 50,000 samples (N). Names of files
and options of the command line prove nothing of it. Checksums do: those that the manifest pins, those that `fetch`
noted of what the official address sent, and that of the network's tensors, which is the same in every file format.
"""

from __future__ import annotations

from dataclasses import replace

from dit_eval.results.eval_result import PROTOCOL, Badge, BadgePart, ExtractorInfo, ImageSource
from dit_eval.results.references import known_reference, reference_protocol
from dit_eval.system.assets import identify

NUM_SAMPLES = 50_000
# `dit_eval.features.inception.convolutions_sha256` of the network of 2015-12-05, as reference_stats/
# make_inception_fingerprint.py finds it. The classifier, which the Inception Score alone needs, is not in it.
CONVOLUTIONS_SHA256 = "9886ad8445a8cf3d7ff03cc996e76be8a64a4ccbc77b8b7ab8f77a2d0ffcfb4e"


def precision_warnings(extractor: ExtractorInfo) -> list[str]:
    """A warning where the Inception network did not compute in fp32."""
    if extractor.name != "inception" or extractor.precision == "fp32":
        return []
    return [
        f"features in {extractor.precision} move every metric; published numbers, and the statistics stored in "
        "reference files, are of fp32."
    ]


def make_badge(
    *,
    extractor: ExtractorInfo,
    gen: ImageSource,
    ref: ImageSource,
    distances: str,
    needs_classifier: bool,
    pr_ref: ImageSource | None = None,
    whole_reference: bool = True,
) -> Badge:
    """The badge of a result with this provenance.

    Parameters
    ----------
    distances : rule of the precision and recall distances
    needs_classifier : whether the Inception Score is among the metrics
    pr_ref : images that precision and recall are against; None if those of ref
    whole_reference : False if only some images of the reference file were used
    """
    return Badge(
        protocol=_protocol(extractor, distances),
        weights=_weights(extractor, needs_classifier=needs_classifier),
        reference=_with_images(_reference(gen, ref, whole=whole_reference), pr_ref),
        num_samples=_part(gen.num_images == NUM_SAMPLES, f"{gen.num_images:,}"),
    )


def by_other_protocol(badge: Badge, protocol: str) -> Badge:
    """The badge of a result that has numbers of another protocol alone, of which `badge` holds but for that."""
    differs = "" if badge.protocol.as_published else f" with {badge.protocol.reason}"
    return replace(badge, protocol=_part(False, f"{protocol}{differs}"))


def protocol_name(badge: Badge, network: str, protocol: str | None = None) -> str:
    """The label of a result: "adm-2021", or that with what differs; that of another network is the network's name.

    N is no part of it: it stands in the metric's own name, FID-10K. Where a result has numbers of another `protocol`
    alone, it is that one's name; the reference, which such a protocol leaves open, is no part of it either.
    """
    if network != "inception":
        return network  # never to be mistaken for ADM's protocol
    if protocol is not None:
        weights = "" if badge.weights.as_published else f" except weights ({badge.weights.reason})"
        return f"{badge.protocol.reason}{weights}"
    others = [badge.protocol.reason] if not badge.protocol.as_published else []
    others += [
        f"{name} ({part.reason})"
        for name, part in (("weights", badge.weights), ("reference", badge.reference))
        if not part.as_published
    ]
    return f"{PROTOCOL} except {', '.join(others)}" if others else PROTOCOL


def _part(as_published: bool, reason: str) -> BadgePart:
    return BadgePart(as_published=as_published, reason=reason)


def _protocol(extractor: ExtractorInfo, distances: str) -> BadgePart:
    if extractor.name != "inception":
        return _part(False, f"network {extractor.name}")
    others = [] if distances == "adm-float16" else [f"{distances} distances"]
    others += [] if extractor.precision == "fp32" else [f"features in {extractor.precision}"]
    return _part(not others, " and ".join(others) or PROTOCOL)


def _weights(extractor: ExtractorInfo, *, needs_classifier: bool) -> BadgePart:
    if extractor.name != "inception":
        return _part(False, extractor.name)
    known = identify(extractor.weights_sha256, "weights")
    if known is not None and known.name in ("inception", "inception-graph"):
        return _part(True, known.name)
    if extractor.convolutions_sha256 != CONVOLUTIONS_SHA256:
        return _part(False, "unknown")
    # The file is neither of the two, and its classifier could be any.
    return _part(not needs_classifier, "classifier unknown" if needs_classifier else "inception, another file")


def _with_images(reference: BadgePart, pr_ref: ImageSource | None) -> BadgePart:
    """The part of two references: ADM's numbers are of the statistics and the images of one file."""
    if pr_ref is None:
        return reference
    known = known_reference(pr_ref)
    return _part(False, f"{reference.reason}, with {known.name if known else 'other'} images for precision and recall")


def _reference(gen: ImageSource, ref: ImageSource, *, whole: bool) -> BadgePart:
    known = known_reference(ref)
    if known is None or known.protocol != PROTOCOL:
        return _part(False, known.name if known else reference_protocol(ref).replace("-", " "))
    if gen.image_size != (ref.image_size or known.image_size):
        return _part(False, f"{known.name}, samples of another size")
    return _part(whole, known.name if whole else f"{ref.num_images:,} images of {known.name}")
