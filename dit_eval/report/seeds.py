"""Results that differ in nothing but the seed of training or of sampling, and what they are together."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dit_eval.metrics import METRICS
from dit_eval.report.variance import Repeats, repeats
from dit_eval.results.eval_result import EvalResult

# Of a run: what tells seeds apart, and what decides no image.
_SEEDS = ("global_seed", "training_seed", "checkpoint", "checkpoint_sha256")
_NO_MATTER = ("num_images", "environment", "earlier_environments", "evaluations", "guided_evaluations")


@dataclass(frozen=True, kw_only=True)
class SeedGroup:
    """Results of two seeds or more.

    Attributes
    ----------
    places : of its results in the file, from 0, in their order
    trainings : of each, the checksum of its weights
    samplings : of each, the seed of its noise
    training_seeds : of the trainings, in the order in which they come; None of weights that do not say
    earlier : places of evaluations that were repeated, and so do not count
    """

    places: tuple[int, ...]
    trainings: tuple[str, ...]
    samplings: tuple[int, ...]
    training_seeds: tuple[int | None, ...]
    earlier: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        """3 × 2: three trainings, each sampled with two seeds; 2 × 1 to 3 where some have more than others."""
        counts = sorted({self.trainings.count(training) for training in self.trainings})
        each = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{len(set(self.trainings))} × {each}"

    @property
    def about(self) -> str:
        """Which seeds."""
        known = ", ".join("?" if seed is None else f"{seed}" for seed in self.training_seeds)
        return f"training {known}; sampling {', '.join(map(str, sorted(set(self.samplings))))}"

    def repeats(self, values: Sequence[float | None]) -> Repeats | None:
        """What the values of its results say together; None if one has none.

        Parameters
        ----------
        values : in the order of its results
        """
        known = [value for value in values if value is not None and not math.isnan(value)]
        if len(known) < len(self.places):
            return None
        return repeats([*zip(self.trainings, self.samplings, known, strict=True)])


def seed_groups(results: Sequence[EvalResult]) -> list[SeedGroup]:
    """The groups of two seeds or more, in the order of their first results; of a repeated evaluation the last counts.

    Trainings are of one group if their weights say the seed, and that all else was the same. Weights that do not say
    it are only of a group with themselves.
    """
    found: dict[str, dict[tuple[str, int], list[int]]] = {}
    for place, result in enumerate(results):
        run = result.gen.run
        if run is not None:
            own = found.setdefault(_common(result), {})
            own.setdefault((run.checkpoint_sha256, run.global_seed), []).append(place)
    return [_group(own, results) for own in found.values() if len(own) > 1]


def _common(result: EvalResult) -> str:
    """All that the results of a group have in common."""
    run = result.gen.run
    assert run is not None
    says = run.training_seed is not None and run.training_recipe is not None
    left_out = {*_NO_MATTER, *(_SEEDS if says else ("global_seed",))}
    record = {name: value for name, value in dataclasses.asdict(run).items() if name not in left_out}
    features = dataclasses.asdict(result.extractor)
    references = [source.sha256 for source in (result.ref, result.pr_ref) if source is not None]
    chosen = None if result.selected_by is None else dataclasses.asdict(result.selected_by)
    measured = [result.num_samples, result.protocol, references, result.distances, features, chosen]
    return json.dumps([record, measured, result.gen.image_size, result.gen.crop], sort_keys=True)


def _group(own: Mapping[tuple[str, int], list[int]], results: Sequence[EvalResult]) -> SeedGroup:
    places = sorted(each[-1] for each in own.values())
    runs = [run for place in places if (run := results[place].gen.run) is not None]
    seeds = dict[str, int | None]()
    for run in runs:
        seeds.setdefault(run.checkpoint_sha256, run.training_seed)
    return SeedGroup(
        places=tuple(places),
        trainings=tuple(run.checkpoint_sha256 for run in runs),
        samplings=tuple(run.global_seed for run in runs),
        training_seeds=tuple(seeds.values()),
        earlier=tuple(place for each in own.values() for place in each[:-1]),
    )


def together(rows: Sequence[Mapping[str, Any]], groups: Iterable[SeedGroup]) -> list[dict[str, Any]]:
    """Measured points, those of a group as one, where its first one stood.

    Of a metric that has the mean, `_sd`, the standard error of the mean and its degrees of freedom, and no interval.
    Other columns are as of the first.

    Parameters
    ----------
    rows : a point for each result, with the columns of `points.COLUMNS`
    """
    of_place = {place: group for group in groups for place in (*group.places, *group.earlier)}
    made = []
    for place, row in enumerate(rows):
        group = of_place.get(place)
        if group is None:
            made.append(dict(row))
        elif place == group.places[0]:
            made.append(_as_one([rows[each] for each in group.places], group))
    return made


def grouped_points(own: pd.DataFrame, groups: Iterable[SeedGroup]) -> pd.DataFrame:
    """`together` of the points of a file."""
    groups = [*groups]
    if not groups:
        return own
    rows = together(own.to_dict("records"), groups)
    return pd.DataFrame(rows, columns=own.columns).astype(own.dtypes)


def _as_one(rows: Sequence[Mapping[str, Any]], group: SeedGroup) -> dict[str, Any]:
    made = dict(rows[0]) | {"seed": math.nan, "seeds": group.words, "origin": _origins([row["origin"] for row in rows])}
    made["fid_infinity"] = sum(row["fid_infinity"] for row in rows) / len(rows)
    for metric in METRICS:
        found = group.repeats([row[metric.key] for row in rows])
        made |= dict.fromkeys((f"{metric.key}_{part}" for part in ("error", "low", "high", "sd", "degrees")), math.nan)
        made[metric.key] = math.nan
        if found is not None:
            made[metric.key], made[f"{metric.key}_sd"] = found.mean.value, found.sd
            made |= {f"{metric.key}_error": found.mean.error, f"{metric.key}_degrees": found.mean.degrees}
    return made


def _origins(origins: Sequence[str]) -> str:
    """results.jsonl, lines 1, 3, 4."""
    name, _, _ = origins[0].rpartition(", line ")
    return f"{name}, lines {', '.join(origin.rpartition(' ')[2] for origin in origins)}"
