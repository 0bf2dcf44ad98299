"""`EvalResult`: the scores of one evaluation, with all that they depend on."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from dit_eval.results.looking import Looking
from dit_eval.results.parse import checked, json_text
from dit_eval.results.sample_run import SampleRun
from dit_eval.system.reading import NOT_OURS, is_number, parse_json
from dit_eval.system.text import reason, shown

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
    fingerprint : of stored statistics, see `dit_eval.summary.GaussianStats.fingerprint`
    git : what git calls a file of statistics alone by
    crop : what each image was cut to, here or when the file was made, as `dit_eval.results.settings.Crop.name`:
        "adm-256"; None if it was taken whole, or where the file does not say
    """

    path: str
    sha256: str
    num_images: int
    image_size: tuple[int, int] | None
    statistics: str
    run: SampleRun | None = None
    made_from: str | None = None
    fingerprint: str | None = None
    git: str | None = None
    crop: str | None = None

    @property
    def cut(self) -> str:
        """How texts say what each image was cut to: "cut to 256 px by ADM's rule"; empty if it was taken whole."""
        if self.crop is None:
            return ""
        rule, _, size = self.crop.rpartition("-")
        return f"cut to {shown(size)} px by {'ADM' if rule == 'adm' else shown(rule)}'s rule"


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


# The estimates that each result with intervals names, null where there is none. Those of further metrics stand in a
# result only where they were made.
ESTIMATES = (
    *("fid", "sfid", "inception_score", "precision", "recall"),
    *("fid_infinity", "sfid_infinity", "fid_50k", "sfid_50k"),
)


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """How far the metrics of a result would vary over draws of as many images, with the reference held fixed.

    Attributes
    ----------
    estimates : by the key of their metric, each about its expected value at this number of images; as fid_infinity and
        sfid_infinity extrapolated to infinitely many images, as fid_50k and sfid_50k to 50,000 (the metric less this is
        the bias of having N images in their place). What was not asked for, or cannot be told from these images, is
        None. Each can also be read as an attribute: `uncertainty.fid`
    missing : estimate -> reason
    method : version of the estimators
    """

    estimates: dict[str, Estimate | None] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    method: str = UNCERTAINTY_METHOD

    def __post_init__(self) -> None:
        object.__setattr__(self, "estimates", dict.fromkeys(ESTIMATES) | self.estimates)

    def __getattr__(self, name: str) -> Estimate | None:
        return _entry(self, "estimates", name)

    def to_dict(self) -> dict[str, Any]:
        """As results keep it: estimates by name beside the other fields."""
        data = dataclasses.asdict(self)
        return data.pop("estimates") | data

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> Uncertainty:
        estimates = {name: value for name, value in data.items() if name not in ("missing", "method")}
        for name, value in estimates.items():
            try:
                estimates[name] = None if value is None else checked(Estimate(**value))
            except TypeError as error:
                raise TypeError(f"the estimate of {name}: {error}") from None
        others = {name: data[name] for name in ("missing", "method") if name in data}
        return checked(cls(estimates=estimates, **others))


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
        return checked(cls(**{name: checked(BadgePart(**part)) for name, part in data.items()}))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How the settings of a result were chosen among several, by their scores.

    The best of many is better by chance too: a result on the noise of the search (`fresh_noise` False) flatters itself,
    one on noise that the search has not seen does not.

    Attributes
    ----------
    metric : key of the metric that decided
    num_samples : images of each candidate
    candidates : settings that were tried
    seed : of the noise of the search
    fresh_noise : whether the images of this result come from other noise
    """

    metric: str
    num_samples: int
    candidates: int
    seed: int
    fresh_noise: bool


# Scores that each line holds, null where there is none: the first stand at its head, the others behind its reference.
# Those of further metrics follow them, in lines where they were computed.
_FIRST = ("fid", "sfid", "inception_score", "precision", "recall")
_OTHERS = (
    *("fid_raw", "sfid_raw", "inception_score_order_free"),
    *("kid", "kid_std", "density", "coverage", "fd_dinov2", "cmmd"),
)

_KEY = re.compile(r"[a-z][a-z0-9_]{0,59}")  # what a later metric may be called; it becomes a column of tables


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """The metrics of a sample batch against a reference batch, and how they were made.

    `protocol` is "adm-2021" only if every choice was ADM's: its Inception network with its weights, fp32, float16
    distances, k = 3, splits of 5,000, its reference batch of the samples' resolution. Otherwise it says what differs,
    or names another network, or the protocol of numbers that are all of another one. Where those stand beside ADM's,
    their keys and `protocols` name theirs. Printed, or shown by a notebook, a result looks as `dit-eval evaluate`
    prints it.

    Attributes
    ----------
    scores : values by the keys of `dit_eval.metrics.METRICS`, and what metrics tell beside them: fid_raw and sfid_raw
        are the numbers before rounding noise around 0 was cut, inception_score_order_free is the same whatever the
        order of the images, kid_std is over the subsets. What was not asked for, or cannot be computed from these
        files, is None. Each can also be read as an attribute: `result.fid`
    protocols : whose definition, with its settings, of each metric that is not ADM's
    badge : what is as published and what is not; None in results of earlier versions, of which it is not known
    reference_protocol : whose reference: "adm-2021", "jit-2025", "digits", "own" images, "unknown-statistics", as
        `dit_eval.results.references` decides; None as of `badge`
    pr_ref : images that precision, recall and what else compares single images are against; None if those of ref
    num_samples : generated images used
    num_reference : reference images that went through the network; None if none did
    distances : rule of the precision and recall distances
    uncertainty : standard errors, intervals and extrapolations; None if they were not asked for
    selected_by : how its settings were chosen by their scores; None if they were not, or nobody says so
    looking : where the run was to stop when intervals are narrow enough; None if it was not, and lines do without it
    seconds : wall time by phase
    peak_memory_bytes : of this process so far
    """

    scores: dict[str, float | None]
    num_samples: int
    num_reference: int | None
    protocol: str
    extractor: ExtractorInfo
    gen: ImageSource
    ref: ImageSource
    protocols: dict[str, str] = field(default_factory=dict)
    badge: Badge | None = None
    reference_protocol: str | None = None
    pr_ref: ImageSource | None = None
    distances: str = "adm-float16"
    uncertainty: Uncertainty | None = None
    selected_by: Selection | None = None
    looking: Looking | None = None
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    time: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", dict.fromkeys((*_FIRST, *_OTHERS)) | self.scores)

    def __getattr__(self, name: str) -> float | None:
        return _entry(self, "scores", name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.scores]

    def __str__(self) -> str:
        return self.text()

    def text(self) -> str:
        """The result as `dit-eval evaluate` prints it, without the newline at the end."""
        from dit_eval.metrics.printed import result_text  # which knows the metrics' names; results know none

        return result_text(self)

    def _repr_html_(self) -> str:
        from dit_eval.metrics.printed import result_html

        return result_html(self)

    def to_dict(self) -> dict[str, Any]:
        """All fields, with the scores by name beside the others, as lines of results hold them."""
        data = dataclasses.asdict(self)
        scores = data.pop("scores")
        for role, source in (("gen", self.gen), ("ref", self.ref)):
            data[role]["run"] = source.run.to_dict() if source.run else None
        if self.uncertainty is not None:
            data["uncertainty"] = self.uncertainty.to_dict()
        if self.selected_by is None:  # of earlier versions, which know no such field
            del data["selected_by"]
        if self.looking is None:
            del data["looking"]
        line: dict[str, Any] = {name: scores.pop(name) for name in _FIRST}
        for name, value in data.items():
            line[name] = value
            if name == "ref":
                line |= scores
        return line

    def to_json(self) -> str:
        """One line of JSON with every field; numbers in full precision."""
        return json_text(self.to_dict())

    @classmethod
    def from_json(cls, line: str) -> EvalResult:
        """The result that `to_json` wrote, in this version or an earlier one.

        Raises
        ------
        ValueError
            If the line is not such a result.
        """
        try:
            data = parse_json(line)
            for role in ("gen", "ref", *(("pr_ref",) if data.get("pr_ref") is not None else ())):
                size, run = data[role]["image_size"], data[role].get("run")
                data[role] = checked(
                    ImageSource(
                        **data[role]
                        | {
                            "image_size": tuple(size) if size else None,
                            "run": SampleRun._from_dict(run) if run else None,
                        }
                    )
                )
            data["extractor"] = checked(ExtractorInfo(**data["extractor"]))
            data["warnings"] = tuple(data["warnings"])
            if data.get("badge") is not None:
                data["badge"] = Badge._from_dict(data["badge"])
            if data.get("uncertainty") is not None:
                data["uncertainty"] = Uncertainty._from_dict(data["uncertainty"])
            if data.get("selected_by") is not None:
                data["selected_by"] = checked(Selection(**data["selected_by"]))
            if data.get("looking") is not None:
                data["looking"] = Looking._from_dict(data["looking"])
            others = {f.name for f in dataclasses.fields(cls)} - {"scores"}
            scores = {name: data.pop(name) for name in list(data) if name not in others}
            _check_scores(scores)
            return checked(cls(scores=scores, **data))
        except NOT_OURS as error:
            raise ValueError(f"Not an evaluation result ({reason(error)}): {line[:80]!r}") from None


def _entry(record: Any, field_name: str, name: str) -> Any:
    """An entry of a dictionary of the record, read as an attribute."""
    entries = vars(record).get(field_name, {})  # none in a record that is being copied
    if name in entries:
        return entries[name]
    raise AttributeError(f"{type(record).__name__} has no {name!r}; its {field_name}: {', '.join(entries)}")


def _check_scores(scores: dict[str, Any]) -> None:
    """That a line has the scores that each line has, and that what it has beside its fields can be scores.

    A metric that this version does not know is kept: the line may be of a later one.
    """
    for name in scores:
        if not _KEY.fullmatch(name):
            raise TypeError(f"{name[:80]!r}: expected a metric's name")
    absent = [name for name in _FIRST if name not in scores]
    if absent:
        raise TypeError(f"{', '.join(absent)}: not there")
    for name, value in scores.items():
        if value is not None and not is_number(value):
            unknown = "" if name in (*_FIRST, *_OTHERS) else "unknown, and "
            raise TypeError(f"{name} is {unknown}{repr(value)[:80]}, needed a number or null")
