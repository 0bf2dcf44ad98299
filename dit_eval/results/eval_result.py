"""`EvalResult`: the scores of one evaluation, with all that they depend on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dit_eval.results.parse import _NOT_OURS, _checked, json_text, parse_json
from dit_eval.results.sample_run import SampleRun
from dit_eval.system.text import reason

PROTOCOL = "adm-2021"
# How standard errors and intervals are estimated; another estimator is another text.
UNCERTAINTY_METHOD = "influence functions and bisections, 2026-11"


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """Images that went into a result.

    Attributes
    ----------
    path : as given by the user
    sha256 : of the npz file; of other images, see `dit_eval.images`
    num_images : images used; 0 if only its statistics were
    image_size : (H, W) in pixels, or None without images
    statistics : "stored" if the file's own mu and sigma were used, "computed" if they came from its images
    run : how the images were drawn, if the file says so
    made_from : SHA-256 of the images behind stored statistics, if the file says so
    """

    path: str
    sha256: str
    num_images: int
    image_size: tuple[int, int] | None
    statistics: str
    run: SampleRun | None = None
    made_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExtractorInfo:
    """The network behind the features: its name, weights file, the program that ran it, and its arithmetic.

    `convolutions_sha256`, of Inception alone, is that of the tensors behind the features, in whatever file they came.
    """

    name: str
    weights_sha256: str
    backend: str
    precision: str
    device: str
    convolutions_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its standard error and 95 % interval; see `dit_eval.metrics.uncertainty` for what they are about.

    Attributes
    ----------
    value : as in the field of the result that has this name, or an extrapolated number
    standard_error : standard deviation of the value over draws of as many images, as estimated from these
    low, high : ends of the interval, which lie within the metric's range and not always evenly around the value
    """

    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """How far the metrics of a result would vary over draws of as many images, with the reference held fixed.

    What was not asked for, or cannot be told from these images, is None; `missing` says why.

    Attributes
    ----------
    fid, sfid, inception_score, precision, recall : of the metrics, each about its expected value at this number of
        images
    fid_infinity, sfid_infinity : extrapolated to infinitely many images
    fid_50k, sfid_50k : extrapolated to 50,000 images; the metric less this is the bias of having N images in their
        place
    missing : estimate -> reason
    method : version of the estimators
    """

    fid: Estimate | None = None
    sfid: Estimate | None = None
    inception_score: Estimate | None = None
    precision: Estimate | None = None
    recall: Estimate | None = None
    fid_infinity: Estimate | None = None
    sfid_infinity: Estimate | None = None
    fid_50k: Estimate | None = None
    sfid_50k: Estimate | None = None
    missing: dict[str, str] = field(default_factory=dict)
    method: str = UNCERTAINTY_METHOD

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> Uncertainty:
        estimates = {}
        for name in ESTIMATES:
            if data.get(name) is not None:
                try:
                    estimates[name] = _checked(Estimate(**data[name]))
                except TypeError as error:
                    raise TypeError(f"the estimate of {name}: {error}") from None
        return _checked(cls(**data | estimates))


# Names of the estimates of an `Uncertainty`.
ESTIMATES = tuple(f.name for f in dataclasses.fields(Uncertainty) if f.name not in ("missing", "method"))
NOT_PUBLISHED = "   not: "  # between the two halves of a badge's text


@dataclass(frozen=True, kw_only=True)
class BadgePart:
    """Whether one choice is that of the published numbers, and in a few words what it is."""

    as_published: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class Badge:
    """What of a result is as for the published numbers of ADM's suite; see `dit_eval.results.badge`.

    Attributes
    ----------
    protocol : network, arithmetic and rules
    weights : the Inception of 2015-12-05
    reference : ADM's reference batch of the samples' resolution
    num_samples : 50,000 samples
    """

    protocol: BadgePart
    weights: BadgePart
    reference: BadgePart
    num_samples: BadgePart

    @property
    def full(self) -> bool:
        """Whether the result may stand in a table of published numbers."""
        return not self._named(False)

    @property
    def comparable(self) -> bool:
        """Whether it may stand beside published numbers of as many samples, such as FID-10K."""
        return all(part.as_published for part in (self.protocol, self.weights, self.reference))

    def text(self) -> str:
        """As in "protocol, weights, N   not: reference (own)"."""
        published = ", ".join(name for name, _ in self._named(True)) or "nothing"
        others = ", ".join(f"{name} ({part.reason})" for name, part in self._named(False))
        return f"{published}{NOT_PUBLISHED}{others}" if others else published

    def _named(self, as_published: bool) -> list[tuple[str, BadgePart]]:
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown = {"N" if name == "num_samples" else name: part for name, part in parts.items()}
        return [(name, part) for name, part in shown.items() if part.as_published is as_published]

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> Badge:
        return _checked(cls(**{name: _checked(BadgePart(**part)) for name, part in data.items()}))


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The metrics of a sample batch against a reference batch, and how they were made.

    A metric that was not asked for, or cannot be computed from these files, is None. `protocol` is "adm-2021" only
    if every choice was ADM's: its Inception network with its weights, fp32, float16 distances, k = 3, splits of 5,000,
    its reference batch of the samples' resolution. Otherwise it says what differs, or names another network.

    Attributes
    ----------
    fid, sfid : Fréchet distances, squared feature units; fid_raw and sfid_raw are the numbers before rounding noise
        around 0 was cut
    inception_score : ADM's rule, in file order; inception_score_order_free is the same whatever the order
    precision, recall : shares in 0..1
    kid, kid_std : mean and standard deviation over the subsets
    density, coverage : by Naeem et al.; the coverage is a share in 0..1
    fd_dinov2 : Fréchet distance on DINOv2's features, squared feature units
    cmmd : of CLIP embeddings, times 1,000
    protocols : whose definition, with its settings, of each metric that is not ADM's
    badge : what is as published and what is not; None in results of earlier versions, of which it is not known
    reference_protocol : whose reference: "adm-2021", "digits", "own" images, "unknown-statistics"; None as of `badge`
    num_samples : generated images used
    num_reference : reference images that went through the network; None if none did
    distances : rule of the precision and recall distances
    uncertainty : standard errors, intervals and extrapolations; None if they were not asked for
    seconds : wall time by phase
    peak_memory_bytes : of this process so far
    """

    fid: float | None
    sfid: float | None
    inception_score: float | None
    precision: float | None
    recall: float | None
    num_samples: int
    num_reference: int | None
    protocol: str
    extractor: ExtractorInfo
    gen: ImageSource
    ref: ImageSource
    fid_raw: float | None = None
    sfid_raw: float | None = None
    inception_score_order_free: float | None = None
    kid: float | None = None
    kid_std: float | None = None
    density: float | None = None
    coverage: float | None = None
    fd_dinov2: float | None = None
    cmmd: float | None = None
    protocols: dict[str, str] = field(default_factory=dict)
    badge: Badge | None = None
    reference_protocol: str | None = None
    distances: str = "adm-float16"
    uncertainty: Uncertainty | None = None
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    time: str = ""

    def to_json(self) -> str:
        """One line of JSON with every field; numbers in full precision."""
        return json_text(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> EvalResult:
        """The result that `to_json` wrote.

        Raises
        ------
        ValueError
            If the line is not such a result.
        """
        try:
            data = parse_json(line)
            for role in ("gen", "ref"):
                size, run = data[role]["image_size"], data[role].get("run")
                data[role] = _checked(
                    ImageSource(
                        **data[role]
                        | {
                            "image_size": tuple(size) if size else None,
                            "run": SampleRun._from_dict(run) if run else None,
                        }
                    )
                )
            data["extractor"] = _checked(ExtractorInfo(**data["extractor"]))
            data["warnings"] = tuple(data["warnings"])
            if data.get("badge") is not None:
                data["badge"] = Badge._from_dict(data["badge"])
            if data.get("uncertainty") is not None:
                data["uncertainty"] = Uncertainty._from_dict(data["uncertainty"])
            return _checked(cls(**data))
        except _NOT_OURS as error:
            raise ValueError(f"Not an evaluation result ({reason(error)}): {line[:80]!r}") from None
