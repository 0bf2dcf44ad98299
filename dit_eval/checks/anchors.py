"""Numbers that others published of pictures that anyone can have: do they come out here?

Everything that is compared with is data: `reference_stats/anchors.toml` has the numbers with sources and tolerances,
and those that cannot be had here, each with the reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.checks.cifar10 import cifar10
from dit_eval.checks.verify import Check, Verification
from dit_eval.features.cache import cache_entry, cached_features
from dit_eval.features.inception import TorchInception
from dit_eval.features.network import FeatureExtractor
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.metrics import METRICS
from dit_eval.metrics.metric import Sides
from dit_eval.results.badge import CONVOLUTIONS_SHA256
from dit_eval.summary import FeatureSummary, RunningStats
from dit_eval.system.assets import Asset, embedded_dir
from dit_eval.system.toml import parse_toml
from dit_eval.system.where import Where

# Images that pass through the network before they are put into the cache: what a run that ends early loses at most.
PIECE = 5_000


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Images of a part, from the first to before the last; both are multiples of `PIECE`."""

    part: str
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A published number.

    Attributes
    ----------
    what : it is, in words
    gen, ref : the images on both sides
    metric : its key in results, such as "fid" or "kid_std"
    value : as published
    tolerance, reason : how far it may be off, and why it is not 0
    source : where it is published
    """

    what: str
    gen: Rows
    ref: Rows
    metric: str
    value: float
    tolerance: float
    reason: str
    source: str


def anchors() -> tuple[Anchor, ...]:
    """The published numbers of CIFAR-10, those of the fewest images first."""
    return tuple(
        Anchor(**entry | {role: _rows(*entry[role]) for role in ("gen", "ref")}) for entry in _table()["anchor"]
    )


def cifar10_parts(bring: Callable[[Asset], Path]) -> dict[str, np.ndarray]:
    """The pictures that the numbers are of; see `dit_eval.checks.cifar10.cifar10`, errors as there."""
    return cifar10(sha256=_table()["cifar10"]["sha256"], bring=bring)


def check_true(network: FeatureExtractor) -> None:
    """That a network is the published one, of which the numbers are, whatever file it was read from.

    Raises
    ------
    ValueError
        If it is another.
    """
    found = network.convolutions_sha256 if isinstance(network, TorchInception) else None
    if found != CONVOLUTIONS_SHA256:
        raise ValueError(
            "`weights`: not the Inception of 2015-12-05, of which the published numbers are: the SHA-256 of its "
            f"convolutions is {found}, expected {CONVOLUTIONS_SHA256}. "
            "Get the right one with `dit-eval weights fetch inception`."
        )


def verify_anchors(
    chosen: Sequence[Anchor],
    *,
    parts: Mapping[str, np.ndarray],
    network: FeatureExtractor,
    batch_size: int = 64,
    where: Where | None = None,
    on_check: Callable[[Check], None] = lambda check: None,
) -> Verification:
    """Compute published numbers from the pictures, one after the other.

    Images pass through the network once, and only those that a number needs. With a folder in `where.cache` a run
    that ended early goes on with the next `PIECE` images.

    Parameters
    ----------
    chosen : of `anchors()`
    parts : uint8 images (N, H, W, 3) by the name of their part
    network : the published one
    batch_size, where : see `dit_eval.evaluation.evaluate`
    on_check : called with each comparison as soon as it is made
    """
    checks, scored = [], dict[tuple[Rows, Rows, str], dict[str, float]]()
    with tempfile.TemporaryDirectory(prefix="dit-eval-verify-") as folder:
        features = _Features(parts, network, folder=Path(folder), batch_size=batch_size, where=where or Where())
        features.announce([rows for anchor in chosen for rows in (anchor.gen, anchor.ref)])
        for anchor in chosen:
            metric = next(m for m in METRICS if anchor.metric in (m.key, *m.details))
            key = (anchor.gen, anchor.ref, metric.key)
            if key not in scored:
                sides = Sides(gen=features.of(anchor.gen), ref=features.of(anchor.ref))
                scored[key] = metric.score(sides).values
            checks.append(_check(anchor, scored[key][anchor.metric]))
            on_check(checks[-1])
    notes = [f"{anchor.what}: {anchor.source}" for anchor in chosen]
    notes += [f"not here: {other['what']}: {other['why']} ({other['source']})" for other in _table()["elsewhere"]]
    return Verification(name="cifar10", source="numbers published by others", checks=tuple(checks), notes=tuple(notes))


class _Features:
    """Features of the images that are asked for; each piece of a part passes through the network once."""

    def __init__(
        self, parts: Mapping[str, np.ndarray], network: FeatureExtractor, *, folder: Path, batch_size: int, where: Where
    ) -> None:
        self._parts, self._network, self._folder = parts, network, folder
        self._batch_size, self._where = batch_size, where
        self._pieces: dict[tuple[str, int], np.ndarray] = {}
        self._total: dict[str, int] = {}

    def announce(self, wanted: Sequence[Rows]) -> None:
        """Say how many images there will be, before the first."""
        pieces = {(rows.part, first) for rows in wanted for first in _firsts(rows)}
        for part in dict.fromkeys(rows.part for rows in wanted):
            firsts = [first for name, first in pieces if name == part]
            self._total[part] = sum(len(self._images(part, first)) for first in firsts)
            self._report(part, 0)

    def of(self, rows: Rows) -> FeatureSummary:
        """The pool features of these images, and their statistics."""
        pieces = [self._piece(rows.part, first) for first in _firsts(rows)]
        running = RunningStats(pieces[0].shape[1])
        for piece in pieces:
            running.update(piece)
        return FeatureSummary(pool=running.finalize(), pool_features=np.concatenate(pieces))

    def _piece(self, part: str, first: int) -> np.ndarray:
        if (part, first) not in self._pieces:
            before = sum(len(piece) for (name, _), piece in self._pieces.items() if name == part)
            path, images = self._folder / f"{part}-{first}.npz", self._images(part, first)
            write_batch(path, images=[images], shape=(len(images), *images.shape[1:]))
            batch = open_batch(path, role="gen")
            entry = cache_entry(
                batch,
                self._network,
                images_sha256=batch.sha256(),
                cache=self._where.cache,
                on_note=self._where.on_note,
            )
            summary, kept = cached_features(
                batch,
                self._network,
                entry=entry,
                batch_size=self._batch_size,
                on_progress=lambda done, _: self._report(part, before + done),
            )
            self._pieces[part, first] = summary.features("pool")
            if kept:
                self._report(part, before + len(images))
        return self._pieces[part, first]

    def _images(self, part: str, first: int) -> np.ndarray:
        return self._parts[part][first : first + PIECE]

    def _report(self, part: str, done: int) -> None:
        if self._where.on_progress:
            self._where.on_progress(part, done, self._total.get(part))


def _rows(part: str, first: int, last: int) -> Rows:
    return Rows(part=part, first=first, last=last)


def _firsts(rows: Rows) -> range:
    return range(rows.first, rows.last, PIECE)


def _check(anchor: Anchor, found: float) -> Check:
    deviation = abs(found - anchor.value)
    passed = deviation <= anchor.tolerance
    return Check(
        name=anchor.metric,
        what=anchor.what,
        expected=(anchor.value,),
        found=(found,),
        deviation=deviation,
        tolerance=anchor.tolerance,
        reason=anchor.reason,
        relative=False,
        hint=None if passed else "run `dit-eval verify --offline`: it tells where the computation goes wrong",
    )


def _table() -> dict[str, Any]:
    path = embedded_dir() / "anchors.toml"
    return parse_toml(path.read_text(encoding="utf-8"), path)
