"""Results with their provenance, as JSON lines."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from dit_eval.system.files import check_plain, is_stream
from dit_eval.system.text import reason, shown

PROTOCOL = "adm-2021"
# How sampling makes noise; a change of the rule is a change of all images and needs another text.
NOISE_RULE = "numpy Philox, key (seed, index), standard_normal float32; labels from key (seed, 2^63 + index)"
# How standard errors and intervals are estimated; another estimator is another text.
UNCERTAINTY_METHOD = "influence functions and bisections, 2026-11"
_Parsed = TypeVar("_Parsed")
# What text that is not ours can raise while it is read: keys and types of every kind, numbers too long for an int, and
# brackets within brackets.
_NOT_OURS = (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, kw_only=True)
class SampleRun:
    """How a sample file was made; kept in the file as JSON text under the key `sample_run`.

    Everything that decides what image i is, and nothing that does not: batch size, number of processes and time are
    left out, so that the same run gives the same file wherever it was cut in pieces. The defaults are the paper's
    protocol without guidance.

    Attributes
    ----------
    model : name of the paper, or of the file for another network
    network : the fields of its `DiTConfig`
    checkpoint, checkpoint_sha256 : file name, hexadecimal SHA-256
    image_size : side in pixels
    weights : which set of a trainer's file, "ema" or "model"
    num_images : N
    num_sampling_steps : steps as asked for, such as "250" or "ddim50"
    sampler : "ddpm" or "ddim" (eta = 0)
    cfg_scale, cfg_channels : guidance scale, 1.0 = none; channels it acts on, None without guidance
    vae, vae_sha256 : decoder name or file name, SHA-256 of its weights; None in pixel space
    vae_tiling : latents decoded in overlapping tiles, which changes pixels near the seams
    labels, labels_sha256 : "random", "balanced", or "file" and its checksum
    rounding : "dit" (127.5 x + 128, truncated) or "truncate" (127.5 (x + 1), truncated)
    global_seed : with an image's index, all that its noise and random label depend on
    noise : the rule that makes noise from seed and index
    precision : "fp32", "tf32" or "bf16"
    compiled : run through torch.compile
    device : "cpu" or "cuda"
    training_steps, training_batch_size : how long the weights were trained; None where the checkpoint does not say
    environment : versions, commit and machine of the process that wrote the file
    earlier_environments : those of interrupted processes that drew a part of it, where they differ
    """

    model: str
    network: dict[str, Any]
    checkpoint: str
    checkpoint_sha256: str
    image_size: int
    weights: str = "ema"
    num_images: int = 50_000
    num_sampling_steps: str = "250"
    sampler: str = "ddpm"
    cfg_scale: float = 1.0
    cfg_channels: int | None = None
    vae: str | None = None
    vae_sha256: str | None = None
    vae_tiling: bool = False
    labels: str = "random"
    labels_sha256: str | None = None
    rounding: str = "dit"
    global_seed: int = 0
    noise: str = NOISE_RULE
    precision: str = "fp32"
    compiled: bool = False
    device: str = "cpu"
    training_steps: int | None = None
    training_batch_size: int | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    earlier_environments: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> str:
        """One line of JSON with every field."""
        return json_text(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> SampleRun:
        """The run that `to_json` wrote.

        Raises
        ------
        ValueError
            If the text is not such a run.
        """
        try:
            return cls._from_dict(parse_json(text))
        except _NOT_OURS as error:
            raise ValueError(f"Not the description of a sampling run ({reason(error)}): {text[:80]!r}") from None

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> SampleRun:
        run = _checked(cls(**data | {"earlier_environments": tuple(data.get("earlier_environments", ()))}))
        for field_ in dataclasses.fields(run):
            value = getattr(run, field_.name)
            if isinstance(value, str) and not value.isprintable():  # it is shown on terminals
                raise TypeError(f"{field_.name} is {value[:80]!a}, which is no line of text")
        return run

    def differences(self, other: SampleRun) -> list[str]:
        """What makes image i of the two runs differ, as "name: mine, theirs"; environments are not compared."""
        free = ("num_images", "environment", "earlier_environments")
        names = [f.name for f in dataclasses.fields(self) if f.name not in free]
        return [
            f"{name}: {getattr(self, name)!r}, {getattr(other, name)!r}"
            for name in names
            if getattr(self, name) != getattr(other, name)
        ]

    def summary(self) -> str:
        """A few words for a line of output: model, steps, guidance, seed."""
        steps = self.num_sampling_steps
        guidance = "no guidance" if self.cfg_scale == 1.0 else f"cfg {self.cfg_scale:.2f}"
        sampler = "" if self.sampler == "ddpm" else f" {self.sampler.upper()}"
        return f"{self.model}, {steps}{sampler} steps, {guidance}, seed {self.global_seed}"


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
    """What of a result is as for the published numbers of ADM's suite; see `dit_eval.badge`.

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


def json_text(data: Any) -> str:
    """One line of JSON, in characters that every UTF-8 file can take; see `dit_eval.files.shown` for the others.

    Raises
    ------
    ValueError
        If a number is NaN or infinite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    # Of a file name that is no UTF-8. They stand within strings, where a backslash is written twice.
    return re.sub("[\ud800-\udfff]", lambda half: shown(half[0]).replace("\\", "\\\\"), text)


def parse_json(text: str) -> Any:
    """What a JSON text holds, if it can be written again: JSON can spell half a character, which no file may hold.

    Raises
    ------
    ValueError, RecursionError
        If it is none.
    """
    data = json.loads(text)
    json.dumps(data, ensure_ascii=False).encode()
    return data


def is_number(value: object) -> bool:
    """Whether it is a finite number that a float and 64 bits can hold, and no bool."""
    if isinstance(value, int):
        return not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63
    return isinstance(value, float) and math.isfinite(value)


def _checked(data: _Parsed) -> _Parsed:
    """A dataclass that was read from JSON, if each field is of its type; a TypeError otherwise."""
    kind: type = type(data)
    for name, hint in _hints(kind).items():
        if not _is_of(getattr(data, name), hint):
            raise TypeError(f"{name} is {repr(getattr(data, name))[:80]}, needed {_in_words(hint)}")
    return data


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _is_of(value: object, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is types.UnionType:
        return any(_is_of(value, part) for part in parts)
    if origin is tuple and parts[-1] is not ...:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(_is_of, value, parts))
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(each, parts[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(_is_of(each, parts[1]) for each in value.values())
    if hint in (int, float):
        return is_number(value) and isinstance(value, int | hint)
    return isinstance(value, hint)


def _in_words(hint: Any) -> str:
    """Numbers and texts by name, other types as Python writes them."""
    if typing.get_origin(hint) is types.UnionType:
        return " or ".join(_in_words(part) for part in typing.get_args(hint))
    return {float: "a number", int: "an integer", str: "a text", type(None): "null"}.get(hint, str(hint))


def append_result(path: str | os.PathLike[str], result: EvalResult) -> None:
    """Add a result as one line; a line that an earlier crash left unfinished is closed first.

    Raises
    ------
    OSError
        If it cannot be written; the file is then as before.
    """
    path, line = Path(path), result.to_json().encode() + b"\n"
    if is_stream(path):
        with open(path, "ab") as file:
            file.write(line)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        size = written = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            while written < size + len(line):
                written += file.write(line[written - size :])
            os.fsync(file.fileno())
        except OSError:
            if os.fstat(file.fileno()).st_size == written:  # nobody has added a line since
                file.truncate(size)
            raise


def read_results(path: str | os.PathLike[str], *, on_bad_line: Callable[[str], None] | None = None) -> list[EvalResult]:
    """All results of a JSON-lines file, in order; see `read_lines` for lines that are none."""
    return [result for _, result in read_lines(path, EvalResult.from_json, on_bad_line=on_bad_line)]


def read_lines(
    path: str | os.PathLike[str], parse: Callable[[str], _Parsed], *, on_bad_line: Callable[[str], None] | None = None
) -> list[tuple[int, _Parsed]]:
    """Each line of a JSON-lines file as `parse` understands it, with its number, from 1.

    Parameters
    ----------
    parse : raises a ValueError for a line that it does not understand
    on_bad_line : called with a message for an empty, half-written or foreign line, which is then left out; without it
        such lines are an error

    Raises
    ------
    ValueError
        If lines are not understood and `on_bad_line` is None; the message gives the numbers
        of the first ten.
    """
    check_plain(Path(path), "a file of JSON lines")
    parsed, bad = [], []
    # Split at the newline byte alone: a text may hold other characters that Python takes for the end of a line.
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, start=1):
        try:
            if not line.strip():
                raise ValueError("Empty.")
            parsed.append((number, parse(line.decode("utf-8"))))
        except ValueError as error:
            bad.append(f"{path}, line {number}: {error}")
    if bad and on_bad_line is None:
        more = [f"... and {len(bad) - 10:,} more lines"] if len(bad) > 10 else []
        raise ValueError("\n".join([*bad[:10], *more]))
    for message in bad:
        if on_bad_line is not None:
            on_bad_line(message)
    return parsed
