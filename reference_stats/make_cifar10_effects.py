"""Measure what the usual mistakes do on CIFAR-10, by Inception with its true convolutions; see `make_effects.py`.

    python reference_stats/make_cifar10_effects.py

`tests/support/real.py` brings network and pictures, and keeps the features of every picture, so that a run that ends
early goes on: the first one takes two hours of a core, most of it for the rows of 50,000 pictures. The package of the
network lacks the classifier: there is no Inception Score.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np
import torch
from make_effects import DAMAGES, OTHER_PORT, Damage, effect, jpeg, keep, nchw_order
from torch.nn import functional as F

from dit_eval.checks.cifar10 import DRAWN, FOLDER, TRAIN
from dit_eval.features.network import FeatureBatch
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.kid import kernel_distance
from dit_eval.metrics.manifold import precision_recall
from dit_eval.summary import GaussianStats, RunningStats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import real

CIFAR10 = "Inception with its true convolutions, CIFAR-10"
_COUNT = 1_000  # pictures of most rows
_KID_SUBSETS = 10  # in place of 100: each subset holds all pictures of one side
_ONLY_HERE = (
    Damage("jpeg", "JPEG of quality 95", lambda x: jpeg(x, 95)),
    Damage("orientation", "mirrored", lambda x: np.ascontiguousarray(x[:, :, ::-1])),
)
_BF16 = "bf16"
_PAIRS = ("precision", "recall")


class _Port(real.Remembered):
    """Inception with another resize, or with other functions of torch.nn.functional."""

    def __init__(
        self,
        name: str,
        *,
        resize: Mapping[str, Any] | None = None,
        functions: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        super().__init__(name=name)
        self._resize, self._functions = resize, functions or {}

    def __call__(self, images: np.ndarray) -> FeatureBatch:
        with ExitStack() as changed:
            for name, function in self._functions.items():
                changed.enter_context(mock.patch.object(F, name, function))
            return super().__call__(images)

    def _input(self, images: np.ndarray) -> torch.Tensor:
        if self._resize is None:
            return super()._input(images)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        return (F.interpolate(pixels, (299, 299), **self._resize).clamp(0, 255) - 128) / 128


def _ports() -> dict[str, real.Remembered]:
    """What other programs do with the same weights."""
    average, largest = F.avg_pool2d, F.max_pool2d

    def padded(x: torch.Tensor, **how: Any) -> torch.Tensor:
        return average(x, **how | {"count_include_pad": True})

    def averaged(x: torch.Tensor, *sizes: int, **how: Any) -> torch.Tensor:
        # Only the pool of the last block has stride 1.
        return average(x, **how, count_include_pad=True) if how.get("stride") == 1 else largest(x, *sizes, **how)

    bicubic = {"mode": "bicubic", "antialias": True}
    return {
        "half-pixel bilinear resize": _Port("half-pixel", resize={"mode": "bilinear"}),
        "antialiased bicubic resize, as PIL's": _Port("bicubic", resize=bicubic),
        "torchvision's pools: padding counts, the last block averages": _Port(
            "pools", functions={"avg_pool2d": padded, "max_pool2d": averaged}
        ),
        _BF16: real.Remembered(precision="bf16"),
    }


def _classes(images: np.ndarray) -> np.ndarray:
    """Classes of training pictures, by the pictures themselves."""
    records = [
        record for name in TRAIN for record in np.fromfile(real.cifar10() / FOLDER / name, np.uint8).reshape(-1, 3073)
    ]
    known = {record[1:].tobytes(): record[0] for record in records}
    return np.array([known[image.transpose(2, 0, 1).tobytes()] for image in images])


class _Side(NamedTuple):
    """Features of a set, and their statistics."""

    pool: np.ndarray
    spatial: np.ndarray
    stats: dict[str, GaussianStats]  # "fid" and "sfid"


def _side(network: real.Remembered, images: np.ndarray) -> _Side:
    found, stats = real.features(network, images), {}
    for metric, rows in {"fid": found.pool, "sfid": found.spatial}.items():
        running = RunningStats(rows.shape[1])
        running.update(rows)
        stats[metric] = running.finalize()
    return _Side(found.pool, found.spatial, stats)


def _scores(
    gen: _Side, ref: _Side, *, pairs: bool = True, distances: Literal["adm-float16", "float32"] = "adm-float16"
) -> dict[str, float]:
    """FID and sFID; with `pairs` also KID, precision and recall."""
    found = {metric: frechet_distance(gen=gen.stats[metric], ref=ref.stats[metric]).value for metric in gen.stats}
    if pairs:
        manifold = precision_recall(gen=gen.pool, ref=ref.pool, distances=distances)
        kid = kernel_distance(gen=gen.pool, ref=ref.pool, num_subsets=_KID_SUBSETS, subset_size=_COUNT).mean
        found |= {"kid": kid, "precision": manifold.precision, "recall": manifold.recall}
    return found


class _Effects:
    """Gathers effects; `sound` is the network, and `parts` are the pictures."""

    def __init__(self) -> None:
        self.parts, self.sound = real.parts(), real.Remembered()
        self.test = _side(self.sound, self.parts["test"])
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, damage: str, images: str, before: dict[str, float], after: dict[str, float]) -> None:
        self.rows.append(effect(name, damage, network=CIFAR10, images=images, before=before, after=after))

    def damages(self) -> None:
        """Of the pictures, against the whole test set."""
        train, test = self.parts["train"], self.parts["test"]
        words = f"{_COUNT:,} training pictures, 32 px, against the 10,000 of the test set"
        sound = _side(self.sound, train[:_COUNT])
        before = _scores(sound, self.test)
        seven = train[:DRAWN][_classes(train[:DRAWN]) < 7][:_COUNT]
        half = np.concatenate([train[: _COUNT // 2], test[: _COUNT // 2]])
        for name, damage, apply in (
            Damage("copies-of-reference", "half of them reference pictures", lambda _: half),
            Damage("class-balance", "7 of 10 classes", lambda _: seven),
            *DAMAGES,
            *_ONLY_HERE,
        ):
            self.add(name, damage, words, before, _scores(_side(self.sound, apply(train[:_COUNT])), self.test))
        few = _scores(sound, self.test._replace(pool=self.test.pool[:_COUNT]))
        damage = f"{_COUNT:,} reference pictures in place of 10,000"
        self.add("few-reference", damage, words, before, _only(few, *_PAIRS))
        exact = _scores(sound, self.test, distances="float32")
        damage = "float32 distances in place of float16"
        self.add("result-distances", damage, words, before, _only(exact, *_PAIRS))
        turn, stats = nchw_order(17), self.test.stats["sfid"]
        turned = GaussianStats(mu=stats.mu[turn], sigma=stats.sigma[np.ix_(turn, turn)], num=stats.num)
        swapped = _scores(sound, self.test._replace(stats=self.test.stats | {"sfid": turned}), pairs=False)
        self.add("nchw-statistics", "mu_s, sigma_s in NCHW order", words, before, _only(swapped, "sfid"))

    def ports(self) -> None:
        """Other programs that run the network, for the samples alone and for both sides."""
        words = f"{_COUNT:,} training pictures against {_COUNT:,} of the test set"
        images = {"gen": self.parts["train"][:_COUNT], "ref": self.parts["test"][:_COUNT]}
        sound = {role: _side(self.sound, images[role]) for role in images}
        before = _scores(**sound)
        for name, port in _ports().items():
            gen, ref = (_side(port, images[role]) for role in images)
            one = _scores(gen, sound["ref"], pairs=False)
            self.add("other-statistics", f"{name}; samples only", words, before, one)
            finding = "result-precision" if name == _BF16 else OTHER_PORT
            self.add(finding, f"{name}; samples and reference", words, before, _scores(gen, ref))

    def numbers(self) -> None:
        """Of samples; and another split as reference."""
        train = self.parts["train"]
        others = _side(self.sound, train[DRAWN:][: len(self.parts["test"])])
        sound = _side(self.sound, train[:_COUNT])
        words = f"{_COUNT:,} training pictures against 10,000 others of the training set"
        damage = "the 10,000 of the test set as reference"
        self.add("val-reference", damage, words, _scores(sound, others), _scores(sound, self.test))
        for count, fewer in ((5_000, (2_000, 1_000)), (50_000, (10_000, 5_000))):
            words = f"{count:,} training pictures against the 10,000 of the test set"
            every = _scores(_side(self.sound, train[:count]), self.test)
            for few in fewer:
                less = _scores(_side(self.sound, train[:few]), self.test)
                self.add("few-samples", f"{few:,} in place of {count:,}", words, every, less)


def _only(scores: dict[str, float], *names: str) -> dict[str, float]:
    return {name: scores[name] for name in names}


if __name__ == "__main__":
    effects = _Effects()
    for measure in (effects.damages, effects.ports, effects.numbers):
        measure()
        keep(CIFAR10, effects.rows)
