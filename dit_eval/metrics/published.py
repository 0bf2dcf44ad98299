"""The published number that stands nearest to a result, where badge and protocol let the two be compared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dit_eval.paper import PRINTED_METRICS, printed_rows
from dit_eval.results.eval_result import PROTOCOL, Estimate, EvalResult
from dit_eval.results.sample_run import SampleRun

_NUM_SAMPLES = 50_000
_FINAL_STEPS = {256: 7_000_000, 512: 3_000_000}  # of the models of Tables 2, 3 and 5
_DECODERS = {"ft-EMA": "ema", "ft-MSE": "mse", "original": "original"}


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published evaluation.

    Attributes
    ----------
    name, source : the model with its guidance, and where its numbers are printed
    image_size, num_samples : pixels, N
    values : by metric, as printed
    made_by : how its samples were drawn, by the fields of `SampleRun`; None where that is another program's affair
    """

    name: str
    source: str
    image_size: int
    values: Mapping[str, str]
    num_samples: int = _NUM_SAMPLES
    made_by: Mapping[str, Any] | None = None

    def difference(self, key: str, value: float | None) -> float | None:
        """A value less the published one; None where either is unknown."""
        printed = self.values.get(key)
        return None if value is None or not printed else value - float(printed)

    def is_within_noise(self, key: str, estimate: Estimate) -> bool:
        """Whether two draws of as many samples often differ as much.

        The interval is that of one draw. The published number is another, and has been rounded: the difference of the
        two varies by the square root of 2 more, and by half a digit. How far two trainings differ is not in it.
        """
        printed = self.values[key]
        difference = estimate.value - float(printed)
        reach = estimate.value - estimate.low if difference > 0 else estimate.high - estimate.value
        return abs(difference) <= math.sqrt(2) * reach + 0.5 * 10.0 ** -len(printed.partition(".")[2])


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A published evaluation beside a result: of the same model and settings, or only the nearest by FID."""

    published: Published
    is_same: bool

    def compared(self) -> tuple[str, ...]:
        """The metrics that are compared: of another model, FID alone."""
        return PRINTED_METRICS if self.is_same else ("fid",)


def published_beside(result: EvalResult) -> Beside | None:
    """What is published of the same model and settings; else, at FID-50K, the nearest number of the same size.

    None where the badge does not bear out that protocol, weights and reference are as published.
    """
    if result.protocol != PROTOCOL or result.badge is None or not result.badge.comparable or not result.gen.image_size:
        return None
    size = max(result.gen.image_size)
    known = [p for p in published() if (p.image_size, p.num_samples) == (size, result.num_samples)]
    run = result.gen.run
    for each in known:
        if run is not None and each.made_by is not None and _is_made_by(run, each.made_by):
            return Beside(published=each, is_same=True)
    fid = result.scores.get("fid")
    if fid is None or result.num_samples != _NUM_SAMPLES:
        return None
    near = min(known, key=lambda each: abs(float(each.values["fid"]) - fid), default=None)
    return None if near is None else Beside(published=near, is_same=False)


def published() -> Iterator[Published]:
    """Every published evaluation: Tables 2 to 5 of the paper, Figure 10, later papers."""
    for number, image_size in ((2, 256), (3, 512)):
        for row in printed_rows(f"table{number}"):
            yield _of_table_2_or_3(row, number, image_size)
    for row in printed_rows("table5"):
        made_by = _made_by("DiT-XL/2", 7000, cfg_scale=1.5) | {"vae": _DECODERS[row["decoder"]]}
        name = f"DiT-XL/2-G (cfg=1.50), {row['decoder']} decoder"
        yield Published(name=name, source="Table 5", image_size=256, values=_values(row), made_by=made_by)
    for row in printed_rows("table4"):
        made_by = _made_by(row["model"], float(row["training_steps_k"]), block=row["block"]) | {"vae": "mse"}
        design = "" if row["block"] == "adaln-zero" else f" {row['block']}"
        yield Published(
            name=f"{row['model']}{design}, {row['training_steps_k']}K training steps",
            source="Table 4",
            image_size=int(row["image_size"]),
            values={"fid": row["fid_50k"]},
            made_by=made_by,
        )
    for row in printed_rows("statements"):
        if row["quantity"] == "FID-10K":
            made_by = _made_by(row["model"], float(row["training_steps_k"])) | {"vae": "mse"}
            yield Published(
                name=f"{row['model']}, {row['sampling_steps']} steps",
                source="Figure 10",
                image_size=int(row["image_size"]),
                values={"fid": row["value"]},
                num_samples=10_000,
                made_by=made_by | {"num_sampling_steps": row["sampling_steps"]},
            )
    for row in printed_rows("later"):
        guidance = {"none": "", "yes": ", guided"}.get(row["guidance"], f", cfg {row['guidance']}")
        size, values = int(row["image_size"]), _values(row)
        yield Published(name=f"{row['model']}{guidance}", source=row["source"], image_size=size, values=values)


def _of_table_2_or_3(row: Mapping[str, str], number: int, image_size: int) -> Published:
    model, _, guidance = row["model"].partition("-G (cfg=")
    made_by = None
    if model == "DiT-XL/2":
        scale = float(guidance.rstrip(")")) if guidance else 1.0
        made_by = _made_by(model, _FINAL_STEPS[image_size] / 1000, cfg_scale=scale) | {"vae": "ema"}
    return Published(
        name=row["model"], source=f"Table {number}", image_size=image_size, values=_values(row), made_by=made_by
    )


def _made_by(model: str, steps_k: float, *, cfg_scale: float = 1.0, block: str = "adaln-zero") -> dict[str, Any]:
    return {
        "model": model,
        "block": block,
        "training_steps": round(1000 * steps_k),
        "num_sampling_steps": "250",
        "sampler": "ddpm",
        "cfg_scale": cfg_scale,
        "cfg_channels": 3 if cfg_scale > 1 else None,
        "guidance_interval": None,
        "guide_ckpt": None,
    }


def _is_made_by(run: SampleRun, made_by: Mapping[str, Any]) -> bool:
    """Whether a run says what the paper says; released weights, of which no steps are known, are the final ones."""
    steps = run.training_steps or _FINAL_STEPS.get(run.image_size)
    said = {name: getattr(run, name) for name in made_by if name not in ("block", "training_steps")}
    return said | {"block": run.network.get("block"), "training_steps": steps} == dict(made_by)


def _values(row: Mapping[str, str]) -> dict[str, str]:
    return {key: row[key] for key in PRINTED_METRICS if row[key]}
