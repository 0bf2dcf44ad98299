"""The generators of `coverage_of_differences.py`: known ones, digits DiTs, and true features of CIFAR-10."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from coverage_of_intervals import CLASSES, DIM, GENERATORS, SPATIAL, Features, moments

from dit_eval.metrics import FID, INCEPTION_SCORE, PRECISION, RECALL, SFID
from dit_eval.metrics.density_coverage import DENSITY
from dit_eval.metrics.metric import Metric
from dit_eval.summary import FeatureSummary

FIVE = (FID, SFID, INCEPTION_SCORE, PRECISION, RECALL)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Two generators. `draw` gives the features of N images of each."""

    name: str
    draw: Callable[[np.random.Generator], tuple[FeatureSummary, FeatureSummary]]
    ref: FeatureSummary
    metrics: tuple[Metric, ...]
    paired: bool


def summary(pool: np.ndarray, spatial: np.ndarray | None = None, probs: np.ndarray | None = None) -> FeatureSummary:
    return FeatureSummary(
        pool=moments(pool),
        spatial=None if spatial is None else moments(spatial),
        pool_features=pool,
        spatial_features=spatial,
        class_probs=probs,
    )


# ---- known generators


class Known:
    """Two generators of features whose images are alike as far as `shared` says."""

    def __init__(self, one: tuple[float, float], other: tuple[float, float]) -> None:
        self.pools = [Features(DIM, 0, shift=shift, scale=scale) for shift, scale in (one, other)]
        self.spatials = [Features(SPATIAL, 1, shift=shift, scale=scale) for shift, scale in (one, other)]
        self.head = np.random.default_rng(2).normal(size=(DIM, CLASSES)) * 2
        real = Features(DIM, 0, shift=0.0, scale=1.0).draw(np.random.default_rng(3), 400)
        self.ref = FeatureSummary(pool=self.pools[0].ref, spatial=self.spatials[0].ref, pool_features=real)

    def draw(self, rng: np.random.Generator, num: int, *, shared: float) -> tuple[FeatureSummary, FeatureSummary]:
        def latents(dim: int) -> tuple[np.ndarray, ...]:
            both, one, other = ((rng.gamma(2.0, size=(num, dim)) - 2) / math.sqrt(2) for _ in range(3))
            return tuple(math.sqrt(shared) * both + math.sqrt(1 - shared) * own for own in (one, other))

        sets = []
        for pool, spatial, z, w in zip(self.pools, self.spatials, latents(DIM), latents(SPATIAL), strict=True):
            features = (z @ pool.mixing.T + pool.mean).astype(np.float32)
            odds = np.exp(features @ self.head)
            probs = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
            sets.append(summary(features, (w @ spatial.mixing.T + spatial.mean).astype(np.float32), probs))
        return sets[0], sets[1]


def known_cases(num: int) -> list[Case]:
    pairs = {
        "far, 1/8 nearer": (GENERATORS["far"], (0.35, 1.2)),
        "near, equal": (GENERATORS["near"], GENERATORS["near"]),
    }
    cases = []
    for name, (one, other) in pairs.items():
        known = Known(one, other)
        for paired in (True, False):
            cases.append(
                Case(
                    name=f"known: {name}, {'paired' if paired else 'unpaired'}, N = {num:,}",
                    draw=lambda rng, known=known, paired=paired: known.draw(rng, num, shared=0.9 if paired else 0.0),
                    ref=known.ref,
                    metrics=(*FIVE[:3], DENSITY) if one == other else FIVE,  # recall takes most of the time
                    paired=paired,
                )
            )
    return cases


# ---- digits


def draw_digits(folder: Path, num: int) -> dict[str, Path]:
    """Samples of four runs with the same noise and labels, drawn where they are not there yet."""
    from dit_eval.diffusion.data import open_npz
    from dit_eval.diffusion.recipe import Recipe, Schedule
    from dit_eval.models.config import DiTConfig
    from dit_eval.results.settings import SamplingSettings
    from dit_eval.sampling import sample
    from dit_eval.system.assets import asset
    from dit_eval.training import TrainingRun, train

    second = folder / "second" / "second.safetensors"
    if not second.exists():  # the largest network of the plan `digits-small`, by its recipe
        config = DiTConfig(depth=7, hidden_size=56, num_heads=4, patch_size=4, input_size=8, in_channels=1,
                           num_classes=10, space="pixel")  # fmt: skip
        recipe = Recipe(learning_rate=5e-3, warm_up=100, batch_size=32, ema_decay=0.995, ema_warm_up=True, flip=0.0)
        data, schedule = open_npz(asset("digits").path, channels=1), Schedule(steps=1200)
        ended = train(folder / "second", TrainingRun(config=config, data=data, recipe=recipe, schedule=schedule))
        second.write_bytes(ended.ema.read_bytes())
    runs = {
        "base": ("dit-digits", 1.5, 16),
        "no guidance": ("dit-digits", 1.0, 16),
        "12 steps": ("dit-digits", 1.5, 12),
        "second DiT": (str(second), 1.5, 16),
    }
    found = {}
    for name, (ckpt, scale, steps) in runs.items():
        found[name] = folder / f"{name.replace(' ', '-')}.npz"
        if not found[name].exists():
            settings = SamplingSettings(num_images=num, cfg_scale=scale, num_sampling_steps=steps)
            sample(ckpt=ckpt, out=found[name], settings=settings, device="cpu", batch_size=64, quiet=True)
    return found


def digits_features(folder: Path, num: int) -> tuple[dict[str, FeatureSummary], FeatureSummary]:
    from dit_eval.features.digits import DigitsExtractor
    from dit_eval.features.extract import extract_features
    from dit_eval.images import open_images
    from dit_eval.system.assets import asset

    network = DigitsExtractor()
    found = {
        name: extract_features(open_images(path, role="gen"), network, keep_spatial=True)
        for name, path in draw_digits(folder, num).items()
    }
    return found, extract_features(open_images(asset("digits").path, role="ref"), network, keep_spatial=True)


def some(features: FeatureSummary, rows: np.ndarray) -> FeatureSummary:
    return summary(features.pool_features[rows], features.spatial_features[rows], features.class_probs[rows])


def digits_cases(folder: Path, num: int, stored: int) -> list[Case]:
    sets, ref = digits_features(folder, stored)
    cases = []
    for name in ("no guidance", "12 steps", "second DiT"):
        one, other = sets["base"], sets[name]
        for paired in (True, False):

            def draw(rng, one=one, other=other, paired=paired):
                rows = [rng.integers(len(one.pool_features), size=num) for _ in range(2)]
                return some(one, rows[0]), some(other, rows[0 if paired else 1])

            what = f"digits: {name}, {'paired' if paired else 'unpaired'}, N = {num:,}"
            cases.append(Case(name=what, draw=draw, ref=ref, metrics=FIVE[:3], paired=paired))
    return cases


# ---- CIFAR-10


def cifar_features(folder: Path) -> dict[str, np.ndarray]:
    """Pool features (N, 2048) of train and test pictures, and of 5,000 test pictures clean and noisy, in one order."""
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as piece:
            parts.setdefault(str(piece["part"]), []).append((piece["index"], piece["pool"]))
    rows = {part: [np.concatenate(each) for each in zip(*pieces, strict=True)] for part, pieces in parts.items()}
    order = np.argsort(rows["noisy"][0])
    at = {index: place for place, index in enumerate(rows["test"][0])}
    test = rows["test"][1][[at[index] for index in rows["noisy"][0][order]]]
    noisy = rows["noisy"][1][order]
    return {"train": rows["train"][1], "test": test, "noisy": noisy, "reference": rows["test"][1]}


def cifar_cases(folder: Path) -> list[Case]:
    sets = cifar_features(folder)
    train = moments(sets["train"])
    values, vectors = np.linalg.eigh(train.sigma)
    cases = []
    for dim, num, shares in ((128, 1_000, (0.02, 0.05)), (128, 1_000, (0.05, 0.05))):
        axes = vectors[:, ::-1][:, :dim].astype(np.float32)
        held = values[::-1][:dim].sum() / values.sum()
        clean, noisy = sets["test"] @ axes, sets["noisy"] @ axes
        ref = FeatureSummary(pool=moments(sets["train"] @ axes))
        for paired in (True, False):

            def draw(rng, clean=clean, noisy=noisy, num=num, shares=shares, paired=paired):
                rows = [rng.integers(len(clean), size=num) for _ in shares]
                rows = [rows[0], rows[0]] if paired else rows
                sets = [
                    summary(np.where((rng.random(num) < share)[:, None], noisy[at], clean[at]))
                    for share, at in zip(shares, rows, strict=True)
                ]
                return sets[0], sets[1]

            damage = " and ".join(f"{100 * share:.0f} %" for share in shares)
            what = (
                f"cifar: {damage} damaged, {dim} axes ({held:.0%}), {'paired' if paired else 'unpaired'}, N = {num:,}"
            )
            cases.append(Case(name=what, draw=draw, ref=ref, metrics=(FID,), paired=paired))
    return cases
