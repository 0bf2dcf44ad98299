"""Which points share axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from dit_eval.report.points import PAPERS_SIZES
from dit_eval.results.eval_result import PROTOCOL


def select(points: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    """The points whose columns have the wanted values; a value may be a tuple of several."""
    for column, value in wanted.items():
        points = points[points[column].isin(value if isinstance(value, tuple) else (value,))]
    return points


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Evaluations whose numbers compare with each other, so that they may share an axis.

    Attributes
    ----------
    points : those of one protocol, reference and image size, the paper's among them where it has any
    protocol, image_size : what they have in common
    reference : whose it is, where results of the same protocol are against several; else empty
    num_samples, sampling_steps : of the evaluations that figures of training and of model size show
    sweep_samples : N of the evaluations that figures of sampling compute show
    """

    points: pd.DataFrame
    protocol: str
    reference: str
    image_size: int
    num_samples: int
    sampling_steps: int
    sweep_samples: int

    @property
    def is_papers(self) -> bool:
        """Whether the paper has figures of this setting: its protocol, at 256 px."""
        return self.protocol == PROTOCOL and self.image_size == 256

    @property
    def name(self) -> str:
        against = f", against {self.reference}" if self.reference else ""
        return f"{self.image_size} px, protocol {self.protocol}{against}"

    @property
    def scaling(self) -> pd.DataFrame:
        """Unguided evaluations of DDPM samples, all with the same N and sampling steps."""
        return select(
            self._unguided,
            num_samples=self.num_samples,
            sampling_steps=self.sampling_steps,
            origin=self._scaling_origins,
        )

    @property
    def sweep(self) -> pd.DataFrame:
        """Unguided evaluations of DDPM samples with the same N and training length, whatever the sampling steps.

        The length is that of the most evaluations, the longer one of two; block designs other than adaLN-Zero have no
        part in it.
        """
        points = select(self._unguided, num_samples=self.sweep_samples)
        points = points[~points["block"].isin(["in-context", "cross-attention", "adaln"])]
        measured = select(points, source="measured").drop_duplicates(["model", "training_steps", "sampling_steps"])
        lengths = measured["training_steps"].value_counts(dropna=False)
        if len(lengths) < 2:
            return points
        most = lengths.index[lengths == lengths.max()].max()  # NaN, a length that is not known, only if it is alone
        same = points["training_steps"].isna() if math.isnan(most) else points["training_steps"] == most
        return points[same | (points["source"] == "paper")]

    @property
    def _unguided(self) -> pd.DataFrame:
        points = select(self.points, cfg_scale=1.0, sampler="ddpm")
        return points[points["gflops"].notna() & points["fid"].notna()]

    @property
    def _scaling_origins(self) -> tuple[str, ...]:
        # Tables 2 and 3 repeat models of Table 4, with another decoder.
        return tuple(o for o in self.points["origin"] if not o.startswith("Table") or o == "Table 4")


def settings(points: pd.DataFrame) -> list[Setting]:
    """The paper's setting at 256 px, then one for each other protocol, reference and image size that was measured."""
    found = [_setting(points, PROTOCOL, 256)]
    measured = points[(points["source"] == "measured") & points["gflops"].notna() & points["image_size"].notna()]
    # Of ADM's network: the protocol says "own" or "unknown statistics" of different files.
    several = measured[measured["protocol"].str.startswith(PROTOCOL) & (measured["protocol"] != PROTOCOL)]
    references = several.groupby(["protocol", "image_size"])["reference"].unique().to_dict()
    for protocol, image_size in sorted(set(zip(measured["protocol"], measured["image_size"], strict=True))):
        theirs = sorted(references.get((protocol, image_size), []))
        for reference in theirs if len(theirs) > 1 else [""]:
            found += _measured_setting(points, protocol, int(image_size), reference)
    return found


def _measured_setting(points: pd.DataFrame, protocol: str, image_size: int, reference: str) -> list[Setting]:
    """The setting, if it is not the paper's and there is something measured to show of it."""
    mine = select(points, reference=reference) if reference else points
    setting = _setting(mine, protocol, image_size, reference)
    unguided = select(setting.points, cfg_scale=1.0)
    shown = pd.concat([setting.scaling, setting.sweep, unguided[unguided["evaluations"].notna()]])
    return [] if setting.is_papers or select(shown, source="measured").empty else [setting]


def comparable(points: pd.DataFrame) -> pd.DataFrame:
    """Points that may stand beside the paper's: of its protocol by their badge, and of its two image sizes.

    N may differ; tables take 50,000 samples only, and each figure the number that the paper's has.
    """
    return select(points, protocol=PROTOCOL, image_size=PAPERS_SIZES)


def _setting(points: pd.DataFrame, protocol: str, image_size: int, reference: str = "") -> Setting:
    points = select(points, protocol=protocol, image_size=image_size)
    common = {"points": points, "protocol": protocol, "reference": reference, "image_size": image_size}
    if protocol == PROTOCOL:
        return Setting(num_samples=50_000, sampling_steps=250, sweep_samples=10_000, **common)
    unguided = select(points, cfg_scale=1.0, sampler="ddpm")
    num_samples = int((unguided if len(unguided) else points)["num_samples"].mode().iloc[0])
    steps = unguided["sampling_steps"].mode()
    return Setting(
        num_samples=num_samples,
        sampling_steps=int(steps.iloc[0]) if len(steps) else 250,
        sweep_samples=num_samples,
        **common,
    )
