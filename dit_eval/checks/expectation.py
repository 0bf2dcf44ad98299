"""Published results, with the settings that they were made with: what `diagnose` compares with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dit_eval.paper import PRINTED_METRICS, printed_rows
from dit_eval.results.references import reference_title
from dit_eval.system.text import did_you_mean

PUBLISHED_SAMPLES = 50_000  # of the published protocol
INCEPTION_SCORE = "inception_score"
# Key of an Inception Score in results -> the protocol that gives it.
INCEPTION_SCORES = {
    INCEPTION_SCORE: "adm",
    "inception_score_torch_fidelity": "torch-fidelity",
    "inception_score_meanflow": "meanflow",
}
_TITLES = {"adm": "ADM's", "torch-fidelity": "torch-fidelity's", "meanflow": "MeanFlow's"}
_LABELS = {"random": "random labels", "balanced": "as many images of each class"}
_ROUNDING = {"dit": "127.5 x + 128, truncated", "truncate": "127.5 (x + 1), truncated"}


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """A published number and the setting it was made with; what its source does not say is not in `setting`.

    Attributes
    ----------
    name, source : what it is called here, where it is printed
    setting : field of `SampleRun` -> value
    metrics : key of a metric in results -> published value; an Inception Score by another rule has another key
    num_samples : images it was computed from; None: 50,000, unless the reference is of another network than Inception
    reference : the protocol of the reference that it is against, as results have it; None of a number of one's own
    made_by : how it was made, in words: program, reference, labels, rounding, guidance, sampling
    """

    name: str
    source: str
    setting: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    num_samples: int | None = None
    reference: str | None = None
    made_by: tuple[str, ...] = ()

    @property
    def inception_score(self) -> str | None:
        """The key of its Inception Score; None where none is published."""
        return next((key for key in self.metrics if key in INCEPTION_SCORES), None)


def rule_of(key: str) -> str:
    """Whose rule an Inception Score of this key is by, such as "ADM's"."""
    return _TITLES[INCEPTION_SCORES[key]]


def expectations() -> dict[str, Expectation]:
    """The paper's results with DiT-XL/2 (Tables 2 and 3 and the text around them), and those of later programs."""
    programs = {row["program"]: row for row in printed_rows("programs")}
    papers = [
        _paper(row, programs["DiT"], size)
        for table, size in (("table2", 256), ("table3", 512))
        for row in printed_rows(table)
        if row["model"].startswith("DiT-XL/2")
    ]
    presets = [_preset(row, programs[row["program"]]) for row in printed_rows("presets")]
    return {each.name: each for each in (*papers, *presets)}


def _paper(row: Mapping[str, str], program: Mapping[str, str], size: int) -> Expectation:
    """A row of the paper's tables, with guidance as its model's name says: "DiT-XL/2-G (cfg=1.50)"."""
    scale = float(row["model"].rpartition("=")[2].rstrip(")")) if "=" in row["model"] else 1.0
    guided = {"cfg_channels": 3} if scale != 1.0 else {}
    return _expectation(
        row,
        program,
        name=f"dit-xl-2{'' if size == 256 else '-512'}{'' if scale == 1.0 else f'-cfg{scale:g}'}",
        setting={
            **{"model": "DiT-XL/2", "image_size": size, "cfg_scale": scale, **guided},
            **{"num_sampling_steps": "250", "sampler": "ddpm", "vae": "ema", "weights": "ema", "vae_tiling": False},
            **{"guidance_interval": None, "guide_ckpt": None},
        },
        drawn=("no guidance" if scale == 1.0 else f"guidance {scale:g} on 3 channels", "DDPM, 250 steps"),
    )


def _preset(row: Mapping[str, str], program: Mapping[str, str]) -> Expectation:
    """A number of a later program."""
    setting: dict[str, Any] = {"model": row["model"], "image_size": int(row["image_size"])}
    scale = "1.0" if row["guidance"] == "none" else row["guidance"]
    if scale.replace(".", "", 1).isdigit():  # one scale in all steps
        setting["cfg_scale"] = float(scale)
    words = {"none": "no guidance", "yes": "guided", "autoguidance": "autoguidance"}
    guidance = words.get(row["guidance"], f"guidance {row['guidance']}")
    drawn = (guidance, row["sampling"], row["note"])
    return _expectation(row, program, name=row["name"], setting=setting, drawn=drawn)


def _expectation(
    row: Mapping[str, str],
    program: Mapping[str, str],
    *,
    name: str,
    setting: Mapping[str, Any],
    drawn: Sequence[str],
) -> Expectation:
    """A printed row, by the protocol of its program."""
    rule = program["inception_score"]
    made_by = (
        program["repository"],
        f"against {reference_title(program['reference'])}",
        f"{_TITLES[rule]} Inception Score" if rule else "",
        _LABELS.get(program["labels"], ""),
        f"to 8 bits by {_ROUNDING[program['rounding']]}" if program["rounding"] else "",
        *drawn,
        program["note"],
    )
    return Expectation(
        name=name,
        source=row["source"],
        setting={**setting} | {each: program[each] for each in ("labels", "rounding") if program[each]},
        metrics=_metrics(row, rule or "adm"),
        num_samples=PUBLISHED_SAMPLES,
        reference=program["reference"],
        made_by=tuple(part for part in made_by if part),
    )


def _metrics(row: Mapping[str, str], rule: str) -> dict[str, float]:
    """The printed numbers of a row, by their keys in results."""
    inception_score = next(key for key, protocol in INCEPTION_SCORES.items() if protocol == rule)
    keys = {metric: metric for metric in PRINTED_METRICS} | {INCEPTION_SCORE: inception_score}
    return {keys[metric]: float(row[metric]) for metric in PRINTED_METRICS if row[metric]}


def expectation(name: str) -> Expectation:
    """The published result of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists those that begin alike.
    """
    known = expectations()
    if name not in known:
        raise ValueError(
            f"No published result called {name!r}; known: {_offered(name, known)}. Or pass --expect-fid X."
            f"{did_you_mean(name, known)}"
        )
    return known[name]


def _offered(name: str, known: Iterable[str]) -> str:
    """The names that begin as this one does; if there are none, how names begin, for there are many."""
    families: dict[str, list[str]] = {}
    for each in known:
        families.setdefault(each.partition("-")[0], []).append(each)
    near = families.get(name.partition("-")[0].casefold())
    return ", ".join(near) if near else ", ".join(f"{family}-..." for family in families)
