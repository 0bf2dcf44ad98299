"""What a report is made of: published points, measured points and loss curves, in one shape.

A point is one evaluation of one model: a row with the columns `COLUMNS`. What is not known is NaN, or None where the
column is text; it is never guessed. Whether a point is the paper's or measured stands in its column `source`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dit_eval.diffusion.guidance import Evaluations, evaluations
from dit_eval.flops.compute import sampling_gflops, training_gflops
from dit_eval.flops.kept import Count, paper_name
from dit_eval.metrics import METRICS
from dit_eval.paper import PRINTED_METRICS, load_statements, load_table
from dit_eval.report.words import is_papers_model, model_name
from dit_eval.results.eval_result import PROTOCOL, EvalResult, Selection
from dit_eval.results.lines import read_lines
from dit_eval.results.references import NOT_RECORDED, OWN, UNKNOWN, reference_title
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import is_flow
from dit_eval.system.reading import NOT_OURS, is_number, parse_json, read_json
from dit_eval.system.text import reason, shown

# Every metric of a result has a column. Those that the paper prints stand in its tables and figures too, the others
# among measured results alone.
PAPERS_METRICS = tuple(metric for metric in METRICS if metric.key in PRINTED_METRICS)
ADDITIONAL_METRICS = tuple(metric for metric in METRICS if metric.key not in PRINTED_METRICS)
COLUMNS = (
    "source",  # "paper" or "measured"
    "origin",  # where the number stands: a table of the paper, or a line of the user's file
    "model",  # "DiT-XL/2"; the file's name where the samples do not say
    "family",  # "DiT", or whatever stands before the size in the name of a user's own models; None for another network
    "size",  # S, B, L or XL
    "patch",  # 2, 4 or 8, in families of the user's also 1 or 16
    "block",  # block design
    "image_size",  # pixels
    "params_m",  # trainable parameters, millions
    "gflops",  # 1e9 multiply-adds of one forward pass
    "training_steps",
    "batch_size",
    "training_gflops",  # gflops x batch size x steps x 3
    "sampling_steps",
    "sampler",
    "objective",  # "flow" where the weights were trained as one
    "evaluations",  # of the network for an image, where they are not one a step
    "guided_evaluations",  # of these, where they are not all or none
    "guide_gflops",  # of a second network that guides
    "sampling_tflops",  # per image: gflops x steps (of a flow: evaluations) / 1000, guidance not counted
    "cfg_scale",  # 1 without guidance
    "decoder",
    "num_samples",
    *(metric.key for metric in PAPERS_METRICS),
    "protocol",
    "reference",  # whose, as texts call it; with the beginning of its checksum where it is not a public one
    "badge",  # what of a measured result is as published
    "seed",
    "note",
    # Standard error and 95 % interval of each metric, and FID of infinitely many images, where a result has them.
    *(f"{metric.key}_{part}" for metric in PAPERS_METRICS for part in ("error", "low", "high")),
    "fid_infinity",
    *(metric.key for metric in ADDITIONAL_METRICS),
    # Of several seeds, which `report.seeds` puts together: how many, and of each metric the standard deviation and the
    # degrees of freedom of the standard error of its mean.
    "seeds",
    *(f"{metric.key}_{part}" for metric in PAPERS_METRICS for part in ("sd", "degrees")),
    "selected_by",  # how its settings were chosen by their scores, if they were
    "weights",  # where they are not the averaged ones, and the checkpoint, where the model was measured with several
    "checkpoint",
    *(
        f"{metric.key}_{part}"
        for metric in ADDITIONAL_METRICS
        if metric.interval is not None
        for part in ("error", "low", "high", "sd", "degrees")
    ),
)
CONFIRMED = "confirmed on fresh noise"
UNVERIFIED = f"{PROTOCOL}, not verified"  # of results whose badge does not bear their protocol out, or that have none
_TEXT_COLUMNS = (
    *(
        "source",
        "origin",
        "model",
        "family",
        "size",
        "block",
        "sampler",
        "objective",
        "decoder",
        "protocol",
        "reference",
    ),
    *("badge", "note", "seeds", "selected_by", "weights", "checkpoint"),
)
PAPERS_SIZES = (256, 512)  # pixels
_LOSSES = ("loss", "mse", "vb")
_LOSS_COLUMNS = ["model", "step", *_LOSSES]
_LOGS = ("log.jsonl", "losses.jsonl")  # of a training, of a study
# A network of a SampleRun -> its Gflops and parameters; None if it cannot be counted.
CountNetwork = Callable[[dict[str, Any]], Count | None]


def published_points() -> pd.DataFrame:
    """Every evaluation of a DiT that the paper prints: Tables 2 to 5 and the two points of Figure 10."""
    points = _frame([*_rows_of_table4(), *_rows_of_tables_2_and_3(), *_rows_of_table5(), *_rows_of_figure10()])
    table4 = load_table(4)
    gflops = table4.drop_duplicates(["model", "image_size", "block"]).set_index(["model", "image_size", "block"])
    for index, row in points[points["gflops"].isna()].iterrows():
        same = gflops.loc[(row["model"], row["image_size"], row["block"])]
        points.loc[index, ["gflops", "params_m"]] = [same["gflops"], same["params_m"]]
    return _with_compute(points)


def shown_protocol(result: EvalResult) -> str:
    """The protocol by which a result is grouped: the paper's only where its badge says so.

    Results of versions before the badge call themselves "adm-2021" whatever their weights and their reference were.
    """
    verified = result.badge is not None and result.badge.comparable
    return UNVERIFIED if result.protocol == PROTOCOL and not verified else shown(result.protocol)


def shown_reference(result: EvalResult) -> str | None:
    """Whose reference a result is against; None of another network than ADM's where the result does not say."""
    whose, file = result.reference_protocol, result.ref.sha256[:8]
    pair = f", single images against {shown(Path(result.pr_ref.path).name)}" if result.pr_ref else ""
    if whose is None:
        return f"{NOT_RECORDED} ({shown(file)})" if result.protocol.startswith(PROTOCOL) else None
    return f"{reference_title(whose)}{f' ({shown(file)})' if whose in (OWN, UNKNOWN) else ''}{pair}"


def measured_points(results: Iterable[tuple[str, EvalResult]], *, count: CountNetwork) -> pd.DataFrame:
    """A point for each result, in order.

    Parameters
    ----------
    results : where each stands ("results.jsonl, line 3"), and the result
    count : `flops.kept.count_network`
    """
    rows = []
    for origin, result in results:
        run = result.gen.run
        row: dict[str, Any] = {
            "source": "measured",
            "origin": origin,
            "model": run.model if run else Path(result.gen.path).name,
            "image_size": max(result.gen.image_size) if result.gen.image_size else None,
            "num_samples": result.num_samples,
            "protocol": shown_protocol(result),
            "reference": shown_reference(result),
            "badge": result.badge.text() if result.badge else None,
            "selected_by": None if result.selected_by is None else selection_text(result.selected_by),
            **{metric.key: result.scores.get(metric.key) for metric in METRICS},
            **_estimates(result),
        }
        if run is not None:
            row |= _parts_of_name(run.model, row["protocol"], row["image_size"])
            row |= _made_by(run, count(run.network))
            row["guide_gflops"] = _gflops_of(run.guide_network, count)
        rows.append(row)
    _tell_checkpoints_apart(rows)
    return _with_compute(_frame(rows))


def number_of_steps(spacing: str) -> int | None:
    """How many steps a sampler takes that was asked for "250", "10,15,20" or "ddim50"; None for any other text."""
    counts = spacing.removeprefix("ddim").split(",")
    return sum(map(int, counts)) if all(re.fullmatch("[0-9]{1,9}", count) for count in counts) else None


def read_measured(
    path: str | os.PathLike[str], *, count: CountNetwork, on_bad_line: Callable[[str], None] | None = None
) -> tuple[pd.DataFrame, list[EvalResult]]:
    """The points of a results file, and the results themselves; bad lines as in `results.lines.read_lines`."""
    name = shown(Path(path).name)
    lines = read_lines(path, EvalResult.from_json, on_bad_line=on_bad_line)
    points = measured_points([(f"{name}, line {number}", result) for number, result in lines], count=count)
    return points, [result for _, result in lines]


def read_losses(
    logs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    on_bad_line: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Loss logs of trainings: JSON lines such as `{"model": "DiT-B/4", "step": 100, "loss": 0.16, "mse": 0.15}`.

    `model` names the curve, `step` counts training steps, `loss` is the training loss there; `mse` (of the predicted
    noise) and `vb` (the variational bound, bits) are optional. Other keys are ignored. Lines without `model`, as
    `dit-eval train` writes them, are of the model that `run.json` beside the log describes, if it is one of the paper;
    else they have the name of the run's folder, or of a log that is not called log.jsonl.

    Parameters
    ----------
    logs : one or several, see `loss_log`. A name that several of them have gets the name of its folder or file in
        brackets: they are curves of their own.

    Returns
    -------
    pandas.DataFrame
        Columns model, step, loss, mse, vb, ordered by model and step. Of two lines of a log with one model and step,
        as a training that was resumed writes, the later counts.

    Raises
    ------
    FileNotFoundError
        If there is no such log.
    ValueError
        As `dit_eval.results.lines.read_lines`.
    """
    given = [logs] if isinstance(logs, str | os.PathLike) else logs
    files = {path.resolve(): path for path in map(loss_log, given)}.values()  # each once
    frames = {path: _read_log(path, on_bad_line=on_bad_line) for path in files}
    _tell_apart(frames)
    filled = [frame for frame in frames.values() if len(frame)]
    whole = pd.concat(filled) if filled else pd.DataFrame(columns=_LOSS_COLUMNS)
    return whole.sort_values(["model", "step"], kind="stable").reset_index(drop=True)


def _tell_apart(frames: dict[Path, pd.DataFrame]) -> None:
    """Add the place of a log to each name that another log has too."""
    seen = Counter(name for frame in frames.values() for name in frame["model"].unique())
    several = {name for name, count in seen.items() if count > 1}
    places = Counter(map(_place, frames))
    for path, frame in frames.items():
        place = str(path) if places[_place(path)] > 1 else _place(path)
        frame["model"] = [f"{name} ({place})" if name in several else name for name in frame["model"]]


def _read_log(path: Path, *, on_bad_line: Callable[[str], None] | None) -> pd.DataFrame:
    rows = [row for _, row in read_lines(path, _loss_line, on_bad_line=on_bad_line)]
    frame = pd.DataFrame(rows, columns=_LOSS_COLUMNS)
    if frame["model"].isna().any():
        frame["model"] = frame["model"].fillna(_name_of_run(path))
    return frame.drop_duplicates(["model", "step"], keep="last")


def loss_log(path: str | os.PathLike[str]) -> Path:
    """The log that a path means: itself, or in a folder log.jsonl (of a training) or losses.jsonl (of a study).

    Raises
    ------
    FileNotFoundError
        If there is neither.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"`losses` {path}: no such file or folder.")
    if not path.is_dir():
        return path
    for name in _LOGS:
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(
        f"`losses` {path}: holds neither log.jsonl, as the folder of a training does, nor losses.jsonl of a study."
    )


def _rows_of_table4() -> Iterator[dict[str, Any]]:
    for row in load_table(4).itertuples():
        yield (
            _published(row.model, row.image_size, row.block, row.training_steps_k, "Table 4", decoder="ft-MSE")
            | {"params_m": row.params_m, "gflops": row.gflops, "fid": row.fid_50k, "note": row.note or None}
        )


def _rows_of_tables_2_and_3() -> Iterator[dict[str, Any]]:
    for number, image_size, steps in ((2, 256, 7000), (3, 512, 3000)):
        table = load_table(number)
        for row in table[table["model"].str.startswith("DiT-")].itertuples():
            guided = re.search(r"cfg=([\d.]+)", row.model)
            yield (
                _published("DiT-XL/2", image_size, "adaln-zero", steps, f"Table {number}", decoder="ft-EMA")
                | {name: getattr(row, name) for name in PRINTED_METRICS}
                | {"cfg_scale": float(guided[1]) if guided else 1.0}
            )


def _rows_of_table5() -> Iterator[dict[str, Any]]:
    for row in load_table(5).itertuples():
        yield (
            _published("DiT-XL/2", 256, "adaln-zero", 7000, "Table 5", decoder=row.decoder)
            | {name: getattr(row, name) for name in PRINTED_METRICS}
            | {"cfg_scale": 1.5}
        )


def _rows_of_figure10() -> Iterator[dict[str, Any]]:
    statements = load_statements()
    for row in statements[statements["quantity"] == "FID-10K"].itertuples():
        yield (
            _published(row.model, int(row.image_size), row.block, row.training_steps_k, "Figure 10", decoder="ft-MSE")
            | {"fid": row.value, "num_samples": 10_000, "sampling_steps": row.sampling_steps}
        )


def _published(model: str, image_size: int, block: str, steps_k: float, origin: str, *, decoder: str) -> dict[str, Any]:
    return {
        "source": "paper",
        "origin": origin,
        "model": model,
        **_parts_of_name(model, PROTOCOL, image_size),
        "block": block,
        "image_size": image_size,
        "training_steps": steps_k * 1000,
        "batch_size": 256,
        "sampling_steps": 250,
        "sampler": "ddpm",
        "cfg_scale": 1.0,
        "decoder": decoder,
        "num_samples": 50_000,
        "protocol": PROTOCOL,
        "reference": reference_title(PROTOCOL),
    }


def _made_by(run: SampleRun, counted: Count | None) -> dict[str, Any]:
    """What a sample file says of its model and of how it was drawn."""
    block = run.network.get("block")
    return {
        "block": block if isinstance(block, str) else None,
        "gflops": counted.gflops if counted else None,
        "params_m": counted.params_m if counted else None,
        "training_steps": run.training_steps or _steps_in_name(run.checkpoint),
        "batch_size": run.training_batch_size,
        "sampling_steps": number_of_steps(run.num_sampling_steps) if run.rtol is None else None,  # it chooses its own
        "sampler": _sampler_of(run),
        "objective": "flow" if is_flow(run.sampler) and run.time != "ddpm" else None,
        **_evaluations_of(run, counted),
        "cfg_scale": run.cfg_scale,
        "decoder": {"ema": "ft-EMA", "mse": "ft-MSE"}.get(run.vae, run.vae) if run.vae else None,
        "seed": run.global_seed,
        "weights": None if run.weights == "ema" else run.weights,
        "checkpoint": run.checkpoint,
    }


def _tell_checkpoints_apart(rows: list[dict[str, Any]]) -> None:
    """Keep the name of a checkpoint only where a model of one training length was measured with several."""
    names: dict[tuple[object, ...], set[str]] = {}
    keys = [tuple(row.get(name) for name in ("model", "block", "training_steps")) for row in rows]
    for key, row in zip(keys, rows, strict=True):
        names.setdefault(key, set()).add(row.get("checkpoint", ""))
    for key, row in zip(keys, rows, strict=True):
        row["checkpoint"] = row.get("checkpoint") if len(names[key]) > 1 else None


def selection_text(by: Selection) -> str:
    """How settings were chosen: "FID-10K, best of 12, confirmed on fresh noise"."""
    metric = next((metric for metric in METRICS if metric.key == by.metric), None)
    name = by.metric if metric is None else metric.label
    count = f"{by.num_samples / 1000:g}K" if by.num_samples % 1000 == 0 else f"{by.num_samples}"
    noise = CONFIRMED if by.fresh_noise else "on the noise of the search"
    return f"{shown(name)}-{count}, best of {by.candidates}, {noise}"


def _estimates(result: EvalResult) -> dict[str, float]:
    known: dict[str, float] = {}
    for metric in (metric.key for metric in METRICS):
        estimate = getattr(result.uncertainty, metric, None)
        if estimate is not None:
            known |= {f"{metric}_error": estimate.standard_error}
            known |= {f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    infinity = result.uncertainty.fid_infinity if result.uncertainty else None
    return known | ({"fid_infinity": infinity.value} if infinity else {})


def _parts_of_name(model: str, protocol: str, image_size: float | None) -> dict[str, Any]:
    """Family, size and patch of a model. Where numbers compare with the paper's, a DiT-S is the paper's or none."""
    beside_papers = protocol == PROTOCOL and image_size in PAPERS_SIZES
    name = None if beside_papers and not is_papers_model(model) else model_name(model)
    return {} if name is None else {"family": name.family, "size": name.size, "patch": name.patch}


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    # No text of a results file moves a cursor, breaks a line of a table or turns the direction of what follows.
    plain = [{key: shown(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows]
    frame = pd.DataFrame(plain, columns=list(COLUMNS))
    numbers = frame[[name for name in COLUMNS if name not in _TEXT_COLUMNS]].astype(float)
    texts = frame[list(_TEXT_COLUMNS)].astype(object)
    return pd.concat([numbers, texts.where(texts.notna(), None)], axis=1)[list(COLUMNS)]


def _with_compute(points: pd.DataFrame) -> pd.DataFrame:
    gflops = points["gflops"]
    points["training_gflops"] = training_gflops(gflops, steps=points["training_steps"], batch_size=points["batch_size"])
    by_steps = points["sampler"].map(lambda sampler: not is_flow(sampler or "ddpm")).astype(bool)
    compute = sampling_gflops(gflops, num_sampling_steps=points["sampling_steps"]) / 1000
    points.loc[by_steps, "sampling_tflops"] = compute
    return points


def _sampler_of(run: SampleRun) -> str:
    """The sampler, with what else sets its points apart from those of the same guidance scale."""
    said = [run.sampler]
    said += [] if run.guidance_interval is None else ["guided in {:g} to {:g}".format(*run.guidance_interval)]
    said += [] if run.guide_ckpt is None else [f"guided by {run.guide_ckpt}"]
    return ", ".join(said)


def _evaluations_of(run: SampleRun, counted: Count | None) -> dict[str, float]:
    """How often an image asks the network, where that is not once a step, and Tflops of it without guidance."""
    if not is_flow(run.sampler) and run.guidance_interval is None:
        return {}
    found: Evaluations | None
    if run.evaluations is not None:
        found = Evaluations(number=run.evaluations, guided=run.guided_evaluations or 0.0)
    else:
        try:
            found = evaluations(run.settings)
        except ValueError:  # of another program, which counts its steps in another way
            found = None
    if found is None:
        return {}
    told = {"evaluations": found.number, "guided_evaluations": found.guided}
    return told | (
        {"sampling_tflops": counted.gflops * found.number / 1000} if counted and is_flow(run.sampler) else {}
    )


def _gflops_of(network: dict[str, Any] | None, count: CountNetwork) -> float | None:
    counted = count(network) if network else None
    return counted.gflops if counted else None


def _steps_in_name(checkpoint: str) -> int | None:
    """DiT's trainer names a checkpoint by its step, in seven digits: `0400000.pt`."""
    name = re.fullmatch(r"(\d{7})\.(pt|pth|safetensors)", checkpoint)
    return int(name[1]) if name else None


def _name_of_run(log: Path) -> str:
    """What to call the model of a loss log that does not name it."""
    try:
        name = paper_name(read_json(log.parent / "run.json", "settings of a run")["config"])
    except (OSError, *NOT_OURS):  # none there, or of another program
        name = None
    return name or _place(log)


def _place(log: Path) -> str:
    """The name that tells a log from others: its folder's if it is called as all are."""
    path = log.resolve()
    return path.parent.name if path.name in _LOGS and path.parent.name else path.stem


def _loss_line(line: str) -> dict[str, Any]:
    try:
        data = parse_json(line)
        row = {"model": data.get("model"), "step": data["step"], **{name: data.get(name) for name in _LOSSES}}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"Not a line of a loss log ({reason(error)}): {line[:80]!r}") from None
    numbers = [row["step"], row["loss"], *(row[name] for name in ("mse", "vb") if row[name] is not None)]
    if not all(map(is_number, numbers)) or not isinstance(row["model"], str | None):
        raise ValueError(f"Not a line of a loss log (expected a step, a finite loss, a model's name): {line[:80]!r}")
    return row
