"""Does this installation give ADM's numbers? Against published sample batches, or against a golden set made here.

Everything that is compared with is data: `reference_stats/verify.toml` has published numbers, tolerances with their
reasons, and what a deviation means; `reference_stats/verify.npz` has the numbers of the golden set. They are those of
ADM's own program, as are the numbers of known mistakes, which were made in it on purpose: where a deviation equals one
of these, the mistake is named.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.checks.golden import image_set, probes, write_seeded_weights
from dit_eval.evaluation import score
from dit_eval.features.cache import cache_entry, cached_features
from dit_eval.features.inception import TorchInception
from dit_eval.features.inception_weights import NUM_CLASSES, POOL_DIM, SPATIAL_DIM
from dit_eval.features.network import FeatureExtractor
from dit_eval.images import ImageSet
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.metrics import METRICS
from dit_eval.metrics.inception_score import inception_score
from dit_eval.results.parse import json_text
from dit_eval.results.settings import EvaluationSettings
from dit_eval.summary import GaussianStats
from dit_eval.system.assets import embedded_dir
from dit_eval.system.environment import environment
from dit_eval.system.text import did_you_mean
from dit_eval.system.toml import parse_toml
from dit_eval.system.where import Where

_EVERY = 5  # the golden file keeps one value in so many of a long vector
_REPEATS = 100  # of each image's probabilities, for an Inception Score of two splits
# A deviation is that of a known mistake if no more than this share of it is left.
_ALIKE = 0.25


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison.

    Attributes
    ----------
    name, what : short, and in words
    expected, found : the numbers, where there are at most two; empty for vectors of features
    deviation : between them, in the unit of the tolerance; None if it was not computed, since an earlier check failed
    tolerance, reason : how large it may be, and why it is not 0
    relative : whether these are shares of the largest expected number
    hint : what the deviation means; None if the check passed
    """

    name: str
    what: str
    expected: tuple[float, ...]
    found: tuple[float, ...]
    deviation: float | None
    tolerance: float
    reason: str
    relative: bool
    hint: str | None

    @property
    def passed(self) -> bool:
        return self.deviation is not None and self.deviation <= self.tolerance

    def lines(self) -> list[str]:
        """The comparison, and its hint if there is one, as people read them."""
        state = "ok" if self.passed else "-" if self.deviation is None else "FAIL"
        line = f"  {state:<5} {self.what:<62}"
        if self.deviation is not None:
            numbers = ", ".join(f"{f:.6g} ({e:.6g})" for f, e in zip(self.found, self.expected, strict=True))
            unit = " relative" if self.relative else ""
            line += f" off by {self.deviation:.1e}, may be {self.tolerance:.1e}{unit}  {numbers}"
        return [line.rstrip()] + ([] if self.hint is None else [f"        {self.hint}"])


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All comparisons with one golden set, in the order of the computation.

    Attributes
    ----------
    name : of the golden set
    source : where the expected numbers are from
    notes : what else to know, such as checksums of files whose publisher states none
    """

    name: str
    source: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def hint(self) -> str | None:
        """That of the first check that failed: what follows may be a consequence."""
        return next((check.hint for check in self.checks if not check.passed), None)

    def text(self) -> str:
        """The comparisons and the verdict, as people read them."""
        lines = [f"{self.name}: {self.source}"]
        for check in self.checks:
            lines += check.lines()
        lines += [f"  {note}" for note in self.notes]
        failed = sum(not check.passed for check in self.checks)
        verdict = "passed" if self.passed else f"FAILED: {self.hint}"
        lines.append(
            f"{self.name}: {len(self.checks) - failed} of {len(self.checks)} checks passed. Verdict: {verdict}"
        )
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A published sample batch: names of both files in the manifest, and the published metrics."""

    name: str
    gen: str
    ref: str
    source: str
    metrics: dict[str, float]


def goldens(names: Sequence[str] = ()) -> list[Golden]:
    """The published batches of these names; all without any.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    known = {entry["name"]: Golden(**entry) for entry in _table()["published"]}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ValueError(f"No golden set called {name!r}; known: {', '.join(known)}. Or pass --offline.{hint}")
    return [known[name] for name in names or known]


def verify_published(
    golden: Golden,
    *,
    gen: ImageSet,
    ref: ImageSet,
    extractor: FeatureExtractor,
    batch_size: int = 64,
    where: Where | None = None,
) -> Verification:
    """Score a published sample batch and compare with the published numbers.

    Parameters
    ----------
    gen, ref : the two files, opened
    extractor : with the published weights
    batch_size, where : see `dit_eval.evaluation.evaluate`
    """
    names = tuple(metric.name for metric in METRICS if metric.key in golden.metrics)
    result = score(
        gen=gen,
        ref=ref,
        network=extractor,
        settings=EvaluationSettings(metrics=names, batch_size=batch_size),
        where=where,
    )
    found = {metric: float(getattr(result, metric)) for metric in golden.metrics}
    hint = "run `dit-eval verify --offline`: it tells where the computation goes wrong; if it passes, compare the files"
    if _swapped(golden.metrics, found):
        hint = _offline_check("precision and recall")["mistakes"]["swapped"]
    checks = []
    for metric, expected in golden.metrics.items():
        rule = _table()["tolerance"][metric]
        deviation = abs(found[metric] - expected)
        checks.append(
            Check(
                name=metric,
                what=f"{metric} of {result.num_samples:,} images",
                expected=(expected,),
                found=(found[metric],),
                deviation=deviation,
                tolerance=rule["absolute"],
                reason=rule["reason"],
                relative=False,
                hint=None if deviation <= rule["absolute"] else hint,
            )
        )
    notes = [f"{source.path}: sha256 {source.sha256}" for source in (result.gen, result.ref)]
    notes += [f"as published: {result.badge.text()}"] if result.badge is not None else []
    notes.append("The publisher states no SHA-256 of these files; compare with those of another download.")
    return Verification(name=golden.name, source=golden.source, checks=tuple(checks), notes=tuple(notes))


def _swapped(expected: dict[str, float], found: dict[str, float]) -> bool:
    """Whether precision and recall are each what the other should be."""
    pair, limit = ("precision", "recall"), 0.01
    if not set(pair) <= expected.keys():
        return False
    exchanged = max(abs(found[a] - expected[b]) for a, b in (pair, pair[::-1]))
    return exchanged < limit < abs(found["precision"] - expected["precision"])


def verify_offline(
    *,
    device: str = "cpu",
    extractor: FeatureExtractor | None = None,
    on_step: Callable[[str], None] = lambda text: None,
) -> Verification:
    """Run the whole chain on the golden set that is made here, and compare each stage with ADM's program.

    Without download: a full-size Inception with seeded random weights, 132 images of 64 pixels, three of other sizes.
    Where the features are wrong already, no metric is computed.

    Parameters
    ----------
    device : where the network runs
    extractor : in place of `TorchInception`; with the seeded weights of `dit_eval.checks.golden`
    on_step : called with a line on what is being done

    Raises
    ------
    ValueError
        If the golden set cannot be made: NumPy draws other numbers.
    """
    drawn = [*probes(), image_set("gen-64"), image_set("ref-64")]
    _same(hashlib.sha256(b"".join(images.tobytes() for images in drawn)).hexdigest(), "images_sha256")
    with tempfile.TemporaryDirectory(prefix="dit-eval-verify-") as name:
        folder = Path(name)
        if extractor is None:
            on_step("drawing the weights of the network")
            _same(write_seeded_weights(folder / "weights.pth"), "weights_sha256")
            extractor = TorchInception(weights=folder / "weights.pth", device=device)
        on_step("features of four images")
        checks = _checked(_feature_numbers(extractor), [])
        if all(check.passed for check in checks):
            on_step("features of 132 images, and metrics")
            for role, images in (("gen", drawn[-2]), ("ref", drawn[-1])):
                write_batch(folder / f"{role}.npz", images=[images], shape=images.shape)
            found = _metric_numbers(extractor, folder)
        else:
            found = {}
    named = {check.name for check in checks}
    rest = [entry["name"] for entry in _table()["offline"]["check"] if entry["name"] not in named]
    checks = _checked({name: found.get(name) for name in rest}, checks)
    made_with = json.loads(str(_numbers()["made_with"]))
    source = (
        f"ADM's evaluator ({made_with['evaluator']['commit'][:7]}, TensorFlow {made_with['packages']['tensorflow']})"
    )
    notes = (f"by {extractor.name} on {extractor.backend}, {extractor.device}; random weights: no published numbers",)
    return Verification(name="offline", source=source, checks=tuple(checks), notes=notes)


def report_json(verifications: Sequence[Verification]) -> str:
    """All comparisons as one JSON object."""

    def one(item: Verification) -> dict[str, Any]:
        checks = [{"passed": check.passed, **asdict(check)} for check in item.checks]
        return {"passed": item.passed, "hint": item.hint, **asdict(item), "checks": checks}

    report = {
        "passed": all(item.passed for item in verifications),
        "verifications": [one(item) for item in verifications],
        "environment": environment(),
    }
    return json_text(report)


def _feature_numbers(extractor: FeatureExtractor) -> dict[str, np.ndarray | None]:
    """What the extractor says of the probes, by the name of the check."""
    small, exact, large = (extractor(images) for images in probes())
    parts: dict[str, tuple[int, list[np.ndarray | None]]] = {
        "network": (POOL_DIM, [exact.pool]),
        "resize": (POOL_DIM, [small.pool, large.pool]),
        "spatial": (SPATIAL_DIM, [exact.spatial]),
        "classes": (NUM_CLASSES, [exact.class_probs]),
    }
    found: dict[str, np.ndarray | None] = {}
    for name, (dim, arrays) in parts.items():
        kept = _kept(*arrays)
        whole = all(part is not None and part.shape[1:] == (dim,) for part in arrays)
        # With a value too few, those that the golden file keeps can still be right.
        found[name] = kept if whole or kept.shape != _expected(name).shape else np.full_like(kept, np.nan)
    return found


def _metric_numbers(extractor: FeatureExtractor, folder: Path) -> dict[str, np.ndarray]:
    """Statistics and metrics of the golden sets, by the name of the check."""
    gen, ref = (open_batch(folder / f"{role}.npz", role=role) for role in ("gen", "ref"))
    result = score(gen=gen, ref=ref, network=extractor, where=Where(cache=folder))
    kept = cache_entry(gen, extractor, images_sha256=gen.sha256(), cache=folder)
    summary, _ = cached_features(gen, extractor, entry=kept)
    found: dict[str, np.ndarray] = {}
    for part, stats in (("pool", summary.pool), ("spatial", summary.spatial)):
        if isinstance(stats, GaussianStats):
            found[f"mean of {part}"] = _kept(stats.mu)
            found[f"covariance of {part}"] = _kept(np.diag(stats.sigma), stats.sigma[0])
    found["fid"] = np.array([result.fid], np.float64)
    found["sfid"] = np.array([result.sfid], np.float64)
    if summary.class_probs is not None:
        many = inception_score(np.repeat(summary.class_probs, _REPEATS, axis=0))
        found["inception score"] = np.array([result.inception_score, many], np.float64)
    found["precision and recall"] = np.array([result.precision, result.recall], np.float64)
    return found


def _kept(*parts: np.ndarray | None) -> np.ndarray:
    """What the golden file keeps of vectors; of a part that the extractor does not give, nothing."""
    kept = [np.ravel(part)[::_EVERY].astype(np.float64) for part in parts if part is not None]
    return np.concatenate([*kept, np.zeros(0)])


def _checked(found: dict[str, np.ndarray | None], before: list[Check]) -> list[Check]:
    """The checks so far, and one of each of these numbers; None for one that was not computed."""
    checks = list(before)
    for name, numbers in found.items():
        failed = next((check.name for check in checks if not check.passed), None)
        failed_names = {check.name for check in checks if not check.passed}
        checks.append(_check(name, numbers, failed, failed_names))
    return checks


def _check(name: str, found: np.ndarray | None, first_failed: str | None, failed: set[str]) -> Check:
    entry, expected = _offline_check(name), _expected(name)
    deviation: float | None = None
    hint: str | None = None
    if found is None:
        hint = f"not computed: the check {first_failed!r} failed"
    else:
        deviation = _deviation(found, expected)
        if not deviation <= entry["tolerance"]:
            hint = _mistake(name, found, expected)
            if hint is None and entry.get("follows") in failed:
                hint = f"follows from the failed check {entry['follows']!r}"
            hint = hint or entry["hint"]
    short = expected.size <= 2
    return Check(
        name=name,
        what=entry["what"],
        expected=tuple(expected.tolist()) if short and found is not None else (),
        found=tuple(found.tolist()) if short and found is not None else (),
        deviation=deviation,
        tolerance=entry["tolerance"],
        reason=entry["reason"],
        relative=True,
        hint=hint,
    )


def _deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest expected value; infinite for another shape or NaN."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _mistake(name: str, found: np.ndarray, expected: np.ndarray) -> str | None:
    """The known mistake that gives these numbers."""
    best, text = _ALIKE, None
    for key, hint in _offline_check(name).get("mistakes", {}).items():
        wrong = np.atleast_1d(_numbers()[f"{name}/{key}"]).astype(np.float64)
        left = _deviation(found, wrong) / _deviation(expected, wrong)
        if left < best:
            best, text = left, hint
    return text


def _expected(name: str) -> np.ndarray:
    return np.atleast_1d(_numbers()[f"{name}/expected"]).astype(np.float64)


def _offline_check(name: str) -> dict[str, Any]:
    return next(entry for entry in _table()["offline"]["check"] if entry["name"] == name)


def _same(found: str, key: str) -> None:
    if found != _table()["offline"][key]:
        raise ValueError(
            f"This NumPy ({np.__version__}) draws other golden {key.partition('_')[0]} than those that the expected "
            f"numbers belong to (SHA-256 {found[:12]}). Please report it, and run `dit-eval verify`."
        )


def _table() -> dict[str, Any]:
    path = embedded_dir() / "verify.toml"
    return parse_toml(path.read_text(encoding="utf-8"), path)


def _numbers() -> dict[str, np.ndarray]:
    with np.load(embedded_dir() / "verify.npz", allow_pickle=False) as file:
        return dict(file)
