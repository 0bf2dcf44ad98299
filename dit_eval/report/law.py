"""Does quality follow compute? Correlation and order, counted over the points of one setting, exceptions included.

Only points that differ in nothing but size, patch size or training length are put in order. Nothing is averaged, and a
tie counts against the order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from dit_eval.flops.kept import count_network
from dit_eval.report.points import published_points, read_measured
from dit_eval.report.sampling import correlation
from dit_eval.report.seeds import grouped_points, seed_groups
from dit_eval.report.setting import Setting, select, settings
from dit_eval.report.words import PATCHES, SIZES, fid_label, steps_text

LEAST_MODELS = 3  # for a correlation
# What two points need to have in common, beside the two of size, patch size and training length that are not compared.
_SAME = (
    "source",
    "family",
    "block",
    "image_size",
    "batch_size",
    "sampling_steps",
    "sampler",
    "cfg_scale",
    "decoder",
    "num_samples",
    "protocol",
    "seed",
)


@dataclass(frozen=True, kw_only=True)
class Correlation:
    """Pearson's r of ln Gflops and FID over models that were trained equally long.

    Attributes
    ----------
    training_steps : of all of them
    models : their number
    r : None with fewer than three models, or where all have the same Gflops or the same FID
    """

    training_steps: float
    models: int
    r: float | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two points of which the second should have the lower FID.

    Attributes
    ----------
    step : what changes from the first to the second: "S to B", "4 to 2", "400 to 800"
    first, second : models
    first_fid, second_fid : their FIDs
    first_steps, second_steps : their training steps
    conditions : what else is to be known of both, such as "64 sampling steps"
    """

    step: str
    first: str
    second: str
    first_fid: float
    second_fid: float
    first_steps: float
    second_steps: float
    conditions: tuple[str, ...]

    @property
    def held(self) -> bool:
        return self.second_fid < self.first_fid

    def text(self) -> str:
        """The two FIDs in words: "mini-L/4 (31.2) above mini-B/4 (29.8) at 800 steps, 64 sampling steps"."""
        decimals = next((n for n in range(1, 7) if round(self.first_fid, n) != round(self.second_fid, n)), 1)
        first, second = (f"{fid:.{decimals}f}" for fid in (self.first_fid, self.second_fid))
        relation = "level with" if self.second_fid == self.first_fid else "below" if self.held else "above"
        if self.first_steps == self.second_steps:
            words = (
                f"{self.second} ({second}) {relation} {self.first} ({first}) at {steps_text(self.second_steps)} steps"
            )
        else:
            words = f"{self.second} at {steps_text(self.second_steps)} steps ({second}) {relation} "
            words += f"{steps_text(self.first_steps)} steps ({first})"
        return ", ".join([words, *self.conditions])


@dataclass(frozen=True, kw_only=True)
class Order:
    """How often an order held; `pairs` are all that could be compared."""

    pairs: tuple[Pair, ...]

    @property
    def total(self) -> int:
        return len(self.pairs)

    @property
    def held(self) -> int:
        return sum(pair.held for pair in self.pairs)

    @property
    def exceptions(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if not pair.held)

    def by_step(self) -> dict[str, Order]:
        """The same for each step, such as "S to B", in their order."""
        steps = dict.fromkeys(pair.step for pair in self.pairs)
        return {step: Order(pairs=tuple(pair for pair in self.pairs if pair.step == step)) for step in steps}


@dataclass(frozen=True, kw_only=True)
class Law:
    """What the points of one source say on quality and compute.

    Attributes
    ----------
    source : "paper" or "measured"
    label : "FID-50K"
    models : number of models
    correlations : one for each training length, shortest first
    common : the one at the training length of the most models, the longer one of two; None without points
    sizes : larger models against the next smaller ones, all else equal
    patches : smaller patches against the next larger ones, all else equal
    training : each evaluation of a model against the one before in training, all else equal
    """

    source: str
    label: str
    models: int
    correlations: tuple[Correlation, ...]
    common: Correlation | None
    sizes: Order
    patches: Order
    training: Order

    def sentences(self, *, most: int | None = None) -> list[str]:
        """What was found, one sentence or two on each question.

        Parameters
        ----------
        most : exceptions to name for each question; None for all
        """
        said = [] if self.common is None or self.common.r is None else [self._correlation_sentence(self.common)]
        questions = (
            ("The larger of two adjacent sizes", self.sizes),
            ("The smaller of two adjacent patch sizes", self.patches),
            ("The longer trained of two consecutive checkpoints", self.training),
        )
        said += [_order_sentence(subject, order, most=most) for subject, order in questions if order.total]
        return [f"{sentence} ({self.source} points)" for sentence in said]

    def _correlation_sentence(self, common: Correlation) -> str:
        text = f"{self.label} and the logarithm of Gflops correlate with r = {common.r:.3f} over "
        text += f"{common.models} models at {steps_text(common.training_steps)} training steps"
        others = [c for c in self.correlations if c is not common and c.r is not None]
        if others:
            text += "; " + ", ".join(f"{c.r:.3f} over {c.models} at {steps_text(c.training_steps)}" for c in others)
        return f"{text}."


def scaling_law(setting: Setting, source: str) -> Law | None:
    """The law in the points of one source; None with fewer than three models.

    The correlation is of the points that the setting's figures of model size show, the order of all its points.
    """
    scaling = select(setting.scaling, source=source, block="adaln-zero")
    scaling = scaling[scaling["size"].notna()]
    points = select(setting.points, source=source)
    models = scaling["model"].nunique()
    if models < LEAST_MODELS:
        return None
    found = correlations(scaling)
    return Law(
        source=source,
        label=fid_label(setting.num_samples),
        models=models,
        correlations=found,
        common=max(found, key=lambda c: (c.models, c.training_steps), default=None),
        sizes=size_order(points),
        patches=patch_order(points),
        training=training_order(points),
    )


def measured_laws(results: str | os.PathLike[str]) -> dict[str, Law]:
    """The law in a results file, for each setting that has at least three measured models; by the setting's name."""
    own, measured = read_measured(results, count=count_network)
    points = pd.concat([published_points(), grouped_points(own, seed_groups(measured))], ignore_index=True)
    found = {setting.name: scaling_law(setting, "measured") for setting in settings(points)}
    return {name: law for name, law in found.items() if law is not None}


def correlations(points: pd.DataFrame) -> tuple[Correlation, ...]:
    """Of ln Gflops and FID at each training length, shortest first; the points should share everything else."""
    known = points[points["gflops"].notna() & points["fid"].notna()]
    found = []
    for steps, own in known.groupby("training_steps"):
        models = own["model"].nunique()
        fit = correlation(own["gflops"], own["fid"]) if models >= LEAST_MODELS else None
        found.append(Correlation(training_steps=float(steps), models=models, r=fit[0] if fit else None))
    return tuple(found)


def size_order(points: pd.DataFrame) -> Order:
    """S against B, B against L, L against XL, at equal patch size, training and sampling."""
    return _neighbours(points, "size", SIZES, common="patch")


def patch_order(points: pd.DataFrame) -> Order:
    """Each patch size against half of it, at equal size, training and sampling."""
    return _neighbours(points, "patch", PATCHES, common="size")


def training_order(points: pd.DataFrame) -> Order:
    """Each training length of a model against the next one that was evaluated, at equal sampling."""
    pairs = []
    for own in _alike(points, ["model"]):
        own = own.drop_duplicates("training_steps", keep="last").sort_values("training_steps", kind="stable")
        pairs += [_pair(*rows, points, "training_steps") for rows in pairwise(own.to_dict("records"))]
    return Order(pairs=tuple(sorted(pairs, key=lambda pair: pair.second_steps)))


def _neighbours(points: pd.DataFrame, column: str, order: tuple[Any, ...], *, common: str) -> Order:
    pairs = []
    named = points[points["size"].notna() & points["patch"].notna()]
    for own in _alike(named, [common, "training_steps"]):
        rows = own.drop_duplicates(column, keep="last").set_index(column, drop=False).to_dict("index")
        pairs += [_pair(rows[a], rows[b], points, column) for a, b in pairwise(order) if a in rows and b in rows]
    places = {_step(column, a, b): number for number, (a, b) in enumerate(pairwise(order))}
    return Order(pairs=tuple(sorted(pairs, key=lambda pair: places[pair.step])))


def _alike(points: pd.DataFrame, more: list[str]) -> Iterable[pd.DataFrame]:
    """Groups of two and more points with all in common that a pair needs; of a point measured twice, the later counts.

    What is not known of either counts as equal, except for the length of training.
    """
    known = points[points["fid"].notna() & points["training_steps"].notna()]
    return (own for _, own in known.groupby([*_SAME, *more], sort=False, dropna=False) if len(own) > 1)


def _pair(first: dict[str, Any], second: dict[str, Any], points: pd.DataFrame, column: str) -> Pair:
    said = [] if second["block"] in (None, "adaln-zero") else [second["block"]]
    said += [] if pd.isna(second["sampling_steps"]) else [f"{second['sampling_steps']:.0f} sampling steps"]
    said += [] if second["sampler"] in (None, "ddpm") else [second["sampler"].upper()]
    said += [] if pd.isna(second["cfg_scale"]) or second["cfg_scale"] == 1.0 else [f"guidance {second['cfg_scale']:g}"]
    for name, words in (("num_samples", "{:,.0f} samples"), ("seed", "seed {:.0f}"), ("decoder", "{} decoder")):
        if points[name].nunique() > 1 and not pd.isna(second[name]):
            said.append(words.format(second[name]))
    return Pair(
        step=_step(column, first[column], second[column]),
        first=first["model"],
        second=second["model"],
        first_fid=first["fid"],
        second_fid=second["fid"],
        first_steps=first["training_steps"],
        second_steps=second["training_steps"],
        conditions=tuple(said),
    )


def _step(column: str, first: Any, second: Any) -> str:
    if column == "training_steps":
        return f"{steps_text(first)} to {steps_text(second)}"
    return f"{first} to {second}" if column == "size" else f"{first:.0f} to {second:.0f}"


def _order_sentence(subject: str, order: Order, *, most: int | None) -> str:
    text = f"{subject}, all else equal, has the lower FID in {order.held} of {_counted(order.total)}."
    named = [pair.text() for pair in order.exceptions[:most]]
    more = len(order.exceptions) - len(named)
    named += [f"and {more} more"] if more else []
    return f"{text} Not so: {'; '.join(named)}." if named else text


def _counted(pairs: int) -> str:
    return f"{pairs} pair{'' if pairs == 1 else 's'}"
