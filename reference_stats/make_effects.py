"""Measure what the usual mistakes do to each metric: `effects.json`, which `diagnose` quotes.

python reference_stats/make_effects.py            with the digits network (six minutes)
python reference_stats/make_cifar10_effects.py    with Inception on CIFAR-10 (two hours of a core, kept as it goes)

`python reports/make.py why` then makes the page `reports/why_fid_differs.md` of them.

Each damage is done to a sound set, and both are scored by `evaluate`. The digits are real and their network is trained,
so the effects are true ones, of 8 x 8 digits; they are no effects on ImageNet.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from dit_eval.diffusion.data import open_npz
from dit_eval.diffusion.labels import draw_labels
from dit_eval.diffusion.recipe import Recipe, Schedule
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.evaluation import score
from dit_eval.features import digits as digits_network
from dit_eval.features.extract import extract_features
from dit_eval.images import open_images
from dit_eval.images.npz import write_batch
from dit_eval.models.checkpoints import load_dit, stored_config
from dit_eval.models.config import DiTConfig
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import EvaluationSettings
from dit_eval.sampling import sample_npz
from dit_eval.system.assets import asset, embedded_dir, sha256_of
from dit_eval.system.where import Where
from dit_eval.training import TrainingRun, train, weights_of_step

EFFECTS = embedded_dir() / "effects.json"
METRICS = ("fid", "sfid", "kid", "inception_score", "precision", "recall")
DIGITS = "digits network, trained"
_DIGITS = 4  # significant digits that are kept


class Damage(NamedTuple):
    """A damage to pixels: the finding it leads to, words, what it does to uint8 (N, H, W, 3)."""

    id: str
    words: str
    apply: Callable[[np.ndarray], np.ndarray]


def _resized(images: np.ndarray, size: int, rule: Image.Resampling) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(image).resize((size, size), rule)) for image in images])


def enlarged(images: np.ndarray, rule: Image.Resampling) -> np.ndarray:
    """Shrunk to half by area, and back by this rule."""
    half = _resized(images, images.shape[1] // 2, Image.Resampling.BOX)
    return _resized(half, images.shape[1], rule)


def jpeg(images: np.ndarray, quality: int) -> np.ndarray:
    def once(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return np.stack([once(image) for image in images])


def _some(images: np.ndarray, share: float, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """That share of the images, evenly spaced, replaced by what `value` makes of them."""
    changed = images.copy()
    at = np.linspace(0, len(images) - 1, max(round(share * len(images)), 1)).round().astype(int)
    changed[at] = value(images[at])
    return changed


def _saturated(images: np.ndarray) -> np.ndarray:
    return np.where(images.astype(int) > 100, 255, 0).astype(np.uint8)


def _without_red(images: np.ndarray) -> np.ndarray:
    return images * np.array([0, 1, 1], np.uint8)


def _grey(images: np.ndarray) -> np.ndarray:
    luma = np.rint(images @ np.array([0.299, 0.587, 0.114]))
    return np.repeat(luma[..., None], 3, axis=-1).astype(np.uint8)


DAMAGES = (
    Damage("float-range", "floats in 0..1 stored as bytes", lambda x: (x / 255).astype(np.uint8)),
    Damage("half-range", "0..1 taken for -1..1", lambda x: (x / 2 + 128).clip(0, 255).astype(np.uint8)),
    Damage("clipped", "-1..1 taken for 0..1", lambda x: (2 * x.astype(int) - 255).clip(0, 255).astype(np.uint8)),
    Damage("narrow-range", "video range, 16..235", lambda x: np.rint(16 + x * (219 / 255)).astype(np.uint8)),
    Damage("resolution", "half the resolution", lambda x: _resized(x, x.shape[1] // 2, Image.Resampling.BOX)),
    Damage("duplicates", "each image twice", lambda x: np.concatenate([x[: len(x) // 2]] * 2)),
    Damage("blank", "5 % of the images black", lambda x: _some(x, 0.05, np.zeros_like)),
    Damage("saturated", "20 % of the images saturated", lambda x: _some(x, 0.2, _saturated)),
    Damage("constant-channel", "red is 0", _without_red),
    Damage("grey", "converted to grey", _grey),
    Damage("colour-order", "BGR for RGB", lambda x: np.ascontiguousarray(x[..., ::-1])),
    Damage("orientation", "height and width exchanged", lambda x: np.ascontiguousarray(x.swapaxes(1, 2))),
    Damage("orientation", "upside down", lambda x: np.ascontiguousarray(x[:, ::-1])),
    Damage("repeated-pixels", "half the size, pixels doubled", lambda x: enlarged(x, Image.Resampling.NEAREST)),
    Damage("blurred", "half the size, enlarged bicubically", lambda x: enlarged(x, Image.Resampling.BICUBIC)),
    Damage("jpeg", "JPEG of quality 90", lambda x: jpeg(x, 90)),
    Damage("jpeg", "JPEG of quality 75", lambda x: jpeg(x, 75)),
)
CHANCE, OTHER_PORT = "run-seed", "other-port"  # measured for the page alone; no findings
ONLY_COLOUR = ("grey", "colour-order")  # grey digits have none


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def nchw_order(side: int) -> np.ndarray:
    """Where spatial features, 7 channels of a square map, stand when they are flattened in NCHW order."""
    return np.arange(7 * side**2).reshape(side, side, 7).transpose(2, 0, 1).ravel()


def effect(
    name: str, damage: str, *, network: str, images: str, before: dict[str, float], after: dict[str, float]
) -> dict[str, Any]:
    """A line of `effects.json`, with the metrics that are on both sides; it is also said on stderr."""
    shared = [m for m in METRICS if m in before and m in after]
    row = {
        **{"id": name, "damage": damage, "network": network, "images": images},
        "before": {m: _rounded(before[m]) for m in shared},
        "after": {m: _rounded(after[m]) for m in shared},
    }
    sys.stderr.write(f"{name}: {damage}: {row['before']} -> {row['after']}\n")
    return row


class _Bench:
    """Scores arrays by `evaluate`, and gathers what changed."""

    def __init__(self, folder: Path, extractor: Any) -> None:
        self.folder, self.extractor = folder, extractor
        self.effects: list[dict[str, Any]] = []
        self._count = 0

    def file(self, images: np.ndarray, **arrays: np.ndarray) -> Path:
        self._count += 1
        path = self.folder / f"{self._count}.npz"
        write_batch(path, images=[images], shape=images.shape, arrays=arrays)
        return path

    def score(self, gen: Path, ref: Path, *, extractor: Any = None, distances: Any = "adm-float16") -> dict[str, float]:
        result = score(
            gen=open_images(gen, role="gen"),
            ref=open_images(ref, role="ref"),
            network=extractor or self.extractor,
            settings=EvaluationSettings(distances=distances, allow_size_mismatch=True),
            where=Where(cache=self.folder / "cache"),
        )
        found = {metric: getattr(result, metric) for metric in METRICS}
        return {metric: value for metric, value in found.items() if value is not None}

    def add(
        self, name: str, damage: str, images: str, before: dict[str, float], after: dict[str, float], *only: str
    ) -> None:
        wanted = {m: value for m, value in after.items() if m in (only or METRICS)}
        row = effect(name, damage, network=DIGITS, images=images, before=before, after=wanted)
        self.effects.append(row)


@dataclass(frozen=True, kw_only=True)
class _Digits:
    """The held-out digits, with what a sound set of them scores against the others.

    Attributes
    ----------
    images, labels : uint8 (500, 8, 8, 3), int64 (500,)
    ref, stored : the file of the 1,297 others, and its arrays
    sound : a file of `images`; `before` are its scores
    """

    images: np.ndarray
    labels: np.ndarray
    ref: Path
    stored: dict[str, np.ndarray]
    sound: Path
    before: dict[str, float]


_HELD_OUT = "{count} held-out digits, 8 px, against 1,297 others"
_SOUND = _HELD_OUT.format(count=500)


def measure_digits(folder: Path, wanted: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Effects on the 500 held-out digits, and on digits that the embedded DiT draws.

    Parameters
    ----------
    wanted : ids of findings; all by default
    """
    bench = _Bench(folder, digits_network.DigitsExtractor())
    ref = asset("digits").path
    with np.load(asset("digits-heldout").path) as file:
        images, labels = file["arr_0"], file["arr_1"]
    with np.load(ref) as file:
        stored = dict(file)
    sound = bench.file(images)
    digits = _Digits(images=images, labels=labels, ref=ref, stored=stored, sound=sound, before=bench.score(sound, ref))
    for name, damage, apply in DAMAGES:
        if name not in ONLY_COLOUR and (not wanted or name in wanted):
            bench.add(name, damage, _SOUND, digits.before, bench.score(bench.file(apply(images)), ref))
    for name, measure in _OTHER_EFFECTS.items():
        if not wanted or name in wanted:
            measure(bench, digits)
    if not wanted:
        _measure_runs(bench, ref)
    return bench.effects


def _measure_copies(bench: _Bench, digits: _Digits) -> None:
    half = np.concatenate([digits.images[:250], digits.stored["arr_0"][:250]])
    after = bench.score(bench.file(half), digits.ref)
    bench.add("copies-of-reference", "half of them reference images", _SOUND, digits.before, after)


def _measure_few_samples(bench: _Bench, digits: _Digits) -> None:
    for count in (250, 100):
        few = bench.score(bench.file(digits.images[:count]), digits.ref)
        bench.add("few-samples", f"{count} in place of 500", _SOUND, digits.before, few)


def _measure_more_samples(bench: _Bench, digits: _Digits) -> None:
    half = bench.score(bench.file(digits.images[:250]), digits.ref)
    bench.add("more-samples", "500 in place of 250", _HELD_OUT.format(count=250), half, digits.before)


def _measure_few_reference(bench: _Bench, digits: _Digits) -> None:
    images = digits.stored["arr_0"][::10]
    tenth = bench.file(images, **{k: digits.stored[k] for k in ("mu", "sigma", "mu_s", "sigma_s")})
    damage = f"{len(images)} reference images in place of 1,297"
    after = bench.score(digits.sound, tenth)
    bench.add("few-reference", damage, _SOUND, digits.before, after, "precision", "recall")


def _measure_class_balance(bench: _Bench, digits: _Digits) -> None:
    seven = digits.images[digits.labels < 7]
    mixed = bench.score(bench.file(digits.images[: len(seven)]), digits.ref)
    after = bench.score(bench.file(seven), digits.ref)
    bench.add("class-balance", "7 of 10 classes", _HELD_OUT.format(count=len(seven)), mixed, after)


def _measure_nchw(bench: _Bench, digits: _Digits) -> None:
    stored, turn = digits.stored, nchw_order(4)
    wrong = {"mu_s": stored["mu_s"][turn], "sigma_s": stored["sigma_s"][np.ix_(turn, turn)]}
    port = bench.file(stored["arr_0"], **{k: stored[k] for k in ("mu", "sigma")}, **wrong)
    after = bench.score(digits.sound, port)
    bench.add("nchw-statistics", "mu_s, sigma_s in NCHW order", _SOUND, digits.before, after, "sfid")


def _measure_other_resize(bench: _Bench, digits: _Digits) -> None:
    summary = extract_features(open_images(digits.ref, role="ref"), _OtherResize())
    other = {"mu": summary.pool.mu, "sigma": summary.pool.sigma}
    other |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    port = bench.file(digits.stored["arr_0"], **other)
    damage = "reference statistics by a port that resizes by nearest pixels"
    bench.add("other-statistics", damage, _SOUND, digits.before, bench.score(digits.sound, port), "fid", "sfid")


def _measure_order(bench: _Bench, digits: _Digits) -> None:
    every = np.concatenate([digits.images, digits.stored["arr_0"]])
    moved = np.concatenate([every, *(np.roll(every, 1, axis) for axis in (1, 2)), np.roll(every, -1, 2)])
    classes = np.tile(np.concatenate([digits.labels, digits.stored["arr_1"]]), 4)
    shuffled = np.random.RandomState(0).permutation(len(moved))
    mixed, ordered = (
        bench.score(bench.file(moved[o]), digits.ref) for o in (shuffled, np.argsort(classes, kind="stable"))
    )
    words = f"{len(moved):,} digits, real ones and the same moved by a pixel"
    bench.add("order", "sorted by class", words, mixed, ordered, "fid", "inception_score")


class _OtherResize(digits_network.DigitsExtractor):
    """The digits network behind another resize, as another port would have it."""

    def __call__(self, images: np.ndarray) -> Any:
        grey = torch.from_numpy(images.mean(axis=-1, dtype=np.float64))[:, None]
        large = F.interpolate(grey, size=(16, 16), mode="nearest")[:, 0, ..., None]
        return super().__call__(large.round().to(torch.uint8).expand(-1, -1, -1, 3).numpy())


_DRAWN = "500 digits drawn by {model}, 64 steps, no guidance, against 1,297 real ones"


def _draw(bench: _Bench, run: SampleRun, weights: Path, config: DiTConfig) -> Path:
    labels = draw_labels(run.labels, num_images=run.num_images, num_classes=config.num_classes, seed=0)
    path = bench.folder / f"drawn-{hashlib.sha256(run.to_json().encode()).hexdigest()[:16]}.npz"
    sample_npz(path, sampler=ImageSampler(load_dit(weights, config), run), labels=labels, batch_size=100)
    return path


def _run_of(weights: Path, config: DiTConfig) -> SampleRun:
    return SampleRun(
        model="dit-digits",
        network=asdict(config),
        checkpoint=weights.name,
        checkpoint_sha256=sha256_of(weights),
        image_size=config.image_size,
        num_images=500,
        num_sampling_steps="64",
    )


def _embedded() -> tuple[Path, DiTConfig]:
    weights = asset("dit-digits").path
    config = stored_config(weights)
    if config is None:
        raise ValueError(f"{weights} does not say what it is; install dit-eval again.")
    return weights, config


def _measure_weights(bench: _Bench, digits: _Digits) -> None:
    """The trained weights beside their running average, of mini-L/4 of the plan `digits` by its recipe: a minute."""
    config = replace(_embedded()[1], depth=6, hidden_size=52, num_heads=4, patch_size=4)
    recipe = Recipe(learning_rate=5e-3, batch_size=32, ema_decay=0.995, ema_warm_up=True, warm_up=100, flip=0.0)
    folder, steps = bench.folder / "training", 2_000
    schedule = Schedule(steps=steps)
    train(folder, TrainingRun(config=config, data=open_npz(digits.ref, channels=1), recipe=recipe, schedule=schedule))
    scores = {}
    for kind in ("ema", "model"):
        weights = weights_of_step(folder, steps, kind)
        scores[kind] = bench.score(_draw(bench, _run_of(weights, config), weights, config), digits.ref)
    words = _DRAWN.format(model=f"a smaller DiT (mini-L/4) after {steps:,} steps of training")
    bench.add("run-weights", "trained weights in place of their average", words, scores["ema"], scores["model"])


# Effects that are no damage to pixels, by finding, in the order of the page.
_OTHER_EFFECTS = {
    "copies-of-reference": _measure_copies,
    "few-samples": _measure_few_samples,
    "more-samples": _measure_more_samples,
    "few-reference": _measure_few_reference,
    "class-balance": _measure_class_balance,
    "nchw-statistics": _measure_nchw,
    "other-statistics": _measure_other_resize,
    "order": _measure_order,
    "run-weights": _measure_weights,
}


def _measure_runs(bench: _Bench, ref: Path) -> None:
    """How samples of one DiT change with how they are drawn."""
    weights, config = _embedded()
    run = _run_of(weights, config)
    before = bench.score(_draw(bench, run, weights, config), ref)
    words = _DRAWN.format(model="the embedded DiT")
    for name, damage, changes in (
        ("run-guidance", "guidance 1.5 in place of none", {"cfg_scale": 1.5, "cfg_channels": 1}),
        ("run-guidance", "guidance 4.0 in place of none", {"cfg_scale": 4.0, "cfg_channels": 1}),
        ("run-steps", "8 steps in place of 64", {"num_sampling_steps": "8"}),
        ("run-steps", "250 steps in place of 64", {"num_sampling_steps": "250"}),
        ("run-sampler", "DDIM in place of DDPM", {"sampler": "ddim"}),
        ("run-rounding", "truncated in place of rounded", {"rounding": "truncate"}),
        ("run-precision", "bf16 in place of fp32", {"precision": "bf16"}),
        ("run-labels", "balanced labels in place of random ones", {"labels": "balanced"}),
        (CHANCE, "another seed: what chance alone does", {"global_seed": 1}),
    ):
        changed = _draw(bench, replace(run, **changes), weights, config)
        bench.add(name, damage, words, before, bench.score(changed, ref))


def keep(network: str, effects: list[dict[str, Any]]) -> None:
    """Write the effects of this network into `effects.json`, in place of those that it has there."""
    kept = json.loads(EFFECTS.read_text(encoding="utf-8"))["effects"]
    kept = [row for row in kept if row["network"] != network] + effects
    kept.sort(key=lambda row: row["network"] != DIGITS)
    about = (
        "Made by reference_stats/make_effects.py and make_cifar10_effects.py; see there how. Values are rounded to 4 "
        "significant digits."
    )
    lines = ",\n  ".join(json.dumps(row) for row in kept)
    EFFECTS.write_text(f'{{\n"about": {json.dumps(about)},\n"effects": [\n  {lines}\n]\n}}\n', encoding="utf-8")
    sys.stdout.write(f"{EFFECTS}\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        keep(DIGITS, measure_digits(Path(folder)))
