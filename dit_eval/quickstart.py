"""The whole pipeline on embedded real data: draw digits from a DiT, see what each metric says of them and of damaged
real ones, and run a small scaling study."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from scipy import ndimage

from dit_eval.evaluation import score
from dit_eval.features.digits import DigitsExtractor
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.report.figures.metric_response import metric_response_figure
from dit_eval.report.figures.samples import sample_grid_figure
from dit_eval.report.figures.style import save_figure
from dit_eval.report.law import measured_laws
from dit_eval.report.page import write_report
from dit_eval.report.points import published_points
from dit_eval.report.tables.paper import paper_tables
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.lines import read_results
from dit_eval.results.settings import SamplingSettings
from dit_eval.sampling import sample
from dit_eval.study.folder import Study
from dit_eval.study.plan_file import load_plan
from dit_eval.study.run import run_study
from dit_eval.study.sources import check_study, find_sources
from dit_eval.study.tasks import local_engine
from dit_eval.system.assets import asset
from dit_eval.system.dist import end_with
from dit_eval.system.files import atomic_file
from dit_eval.system.where import Where

LEVELS = ("none", "weak", "medium", "strong")
_BLUR = (0.5, 0.75, 1.0)  # standard deviation of the Gaussian, pixels of 8
_NOISE = (20.0, 40.0, 80.0)  # standard deviation, grey levels of 255
_CLASSES = (7, 4, 1)  # classes that a collapsed generator still draws
_STEPS = 64  # of the DiT; enough for its samples to score near real digits
_SEED = 0
_DIT = "drawn by the DiT"


def quickstart(out: Path, *, on_step: Callable[[str], None], study: bool = True) -> str:
    """Evaluate held-out, blurred, noisy, class-collapsed and generated digits against the embedded reference.

    The generated ones are drawn here from the embedded DiT. Then runs the plan `digits-small` in `out/study`: four DiTs
    are trained, sampled and scored. Writes the sample files, `results.jsonl`, the figure
    `metrics.png` / `metrics.pdf`, the images `samples.png` / `samples.pdf` and the report page into `out`, and returns
    the table as text. The features are those of the digits extractor: its numbers say how the metrics behave, and
    compare with no Inception number.

    Parameters
    ----------
    on_step : called with a line on what is being done
    study : run the study, which takes most of the time

    Raises
    ------
    FileExistsError
        If `out` holds files that are of no quickstart.
    """
    _refuse_other(out)
    counting = _count_meanwhile()
    images, labels = _real_digits()
    results: dict[str, EvalResult] = {}
    sets = _damaged_sets(images, labels)
    for number, (name, batch) in enumerate(sets.items(), start=1):
        on_step(f"[{number}/{len(sets) + 1}] {name}: {len(batch)} images")
        path = out / "samples" / f"{name.replace(', ', '-').replace(' ', '-')}.npz"
        write_batch(path, images=[batch], shape=batch.shape)
        results[name] = _score(path, out)
    on_step(f"[{len(sets) + 1}/{len(sets) + 1}] {_DIT}: drawing {len(images)} images in {_STEPS} steps")
    drawn = _draw_digits(out / "samples" / "dit.npz", len(images))
    results[_DIT] = _score(drawn, out)
    grid = _save_grid(images, labels, drawn, out / "samples")
    studied = _run_study(out, on_step) if study else None
    lines = _write_results(out / "results.jsonl", results, studied)
    curves = _curves(results)
    figure = _save_figure(curves, out / "metrics")
    losses = studied.losses if studied is not None else None
    counting.join()
    page = write_report(results=lines, losses=losses, out=out, force=True, on_step=on_step)
    verdicts = _verdicts(curves, results[_DIT])
    text = _text(results, verdicts, studied)
    text += f"\nFeatures: digits extractor (not Inception). Figures: {figure} {grid}  Results: {lines}\n"
    text += f"Report: {page} (open it in a browser)\n"
    if not all(verdicts.values()):
        raise ValueError(f"A metric did not move as it must; please report this.\n{text}")
    return text


def _count_meanwhile() -> BaseProcess:
    """Count the paper's models in a process of its own, which keeps the counts where the report page finds them."""
    process = multiprocessing.get_context("spawn").Process(target=_count, args=(os.getpid(),), daemon=True)
    process.start()
    return process


def _count(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, with which this process ends
    end_with(parent)
    with contextlib.suppress(Exception):  # the page counts what it does not find, and then says what is wrong
        paper_tables(published_points())


def _real_digits() -> tuple[np.ndarray, np.ndarray]:
    """The held-out digits, uint8 (N, 8, 8, 3), and their labels (N,)."""
    heldout = open_batch(asset("digits-heldout").path, role="gen")
    if heldout.labels is None:
        raise ValueError(f"{heldout.path} holds no labels; install dit-eval again.")
    return np.concatenate(list(heldout.batches(500))), heldout.labels


def _damaged_sets(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The digits as they are, then with each damage, the weakest first."""
    rng = np.random.RandomState(_SEED)
    return {
        "held-out": images,
        **{f"blurred, {s} px": _blurred(images, s) for s in _BLUR},
        **{f"noisy, {s:.0f} of 255": _noisy(images, s, rng) for s in _NOISE},
        **{f"collapsed to {n} class{'es' if n > 1 else ''}": _collapsed(images, labels, n, rng) for n in _CLASSES},
    }


def _score(samples: Path, out: Path) -> EvalResult:
    gen, ref = open_batch(samples, role="gen"), open_batch(asset("digits").path, role="ref")
    return score(gen=gen, ref=ref, network=DigitsExtractor(), where=Where(cache=out / "cache"))


def _save_grid(images: np.ndarray, labels: np.ndarray, drawn: Path, stem: Path) -> Path:
    """A picture of a real digit of each class above a drawn one."""
    first = np.concatenate([np.flatnonzero(labels == digit)[:1] for digit in range(10)])
    rows = {"real (held-out)": images[first], "drawn by the DiT": next(open_batch(drawn, role="gen").batches(10))}
    return save_figure(sample_grid_figure(rows, columns=[f"class {digit}" for digit in range(10)]), stem)[0]


def _write_results(path: Path, results: dict[str, EvalResult], studied: Study | None) -> Path:
    with atomic_file(path) as file:
        scored = [*results.values(), *(_studied_results(studied) if studied else [])]
        file.write("".join(result.to_json() + "\n" for result in scored).encode())
    return path


def _curves(results: dict[str, EvalResult]) -> dict[str, list[EvalResult]]:
    """The results of each damage, from none to the strongest."""
    none, *damaged = (result for name, result in results.items() if name != _DIT)
    size = len(LEVELS) - 1
    return {
        name: [none, *damaged[i * size : (i + 1) * size]] for i, name in enumerate(("blur", "noise", "class collapse"))
    }


def _save_figure(curves: dict[str, list[EvalResult]], stem: Path) -> Path:
    none = curves["blur"][0]
    figure = metric_response_figure(
        curves,
        levels=LEVELS,
        damaged=f"Damage of {none.num_samples} held-out digits (features of the digits extractor, not of Inception)",
    )
    return save_figure(figure, stem, dpi=300)[0]


def _text(results: dict[str, EvalResult], verdicts: dict[str, bool], studied: Study | None) -> str:
    """The table, what held, and what the study says."""
    text = _table(results) + "\n" + "".join(f"{'yes' if ok else 'NO '}  {claim}\n" for claim, ok in verdicts.items())
    if studied is None:
        return text
    text += "\nStudy: more compute, better samples?\n"
    for law in measured_laws(studied.results).values():
        text += "".join(f"  {sentence}\n" for sentence in law.sentences(most=3))
    return text


def _refuse_other(out: Path) -> None:
    """Refuse a folder of other files, some of which the quickstart might write over; its first file tells its own."""
    if not (out / "samples" / "held-out.npz").is_file():
        for path in out.rglob("*"):
            if path.is_file():
                raise FileExistsError(f"{path}: of no quickstart, which could write over it. Name another --out.")


def _run_study(out: Path, on_step: Callable[[str], None]) -> Study:
    """The plan `digits-small`, or what is missing of it."""
    plan = load_plan("digits-small")
    study, sources = Study(plan, out / "study"), find_sources(plan, device="cpu")
    check_study(plan, sources)
    on_step(f"study: {len(plan.trainings)} trainings, {len(plan.cells)} cells")
    engine, workers = local_engine(study, device="cpu", interval=0.2)
    with engine:
        run_study(study, engine, sources, workers=workers, on_note=on_step)
    return study


def _studied_results(study: Study) -> list[EvalResult]:
    """Its results, with paths as seen from the quickstart's folder."""
    return [
        replace(result, gen=replace(result.gen, path=f"{study.folder.name}/{result.gen.path}"))
        for result in read_results(study.results)
    ]


def _draw_digits(path: Path, count: int) -> Path:
    """Digits from the embedded DiT, as many of each class, without guidance."""
    settings = SamplingSettings(
        num_images=count, num_sampling_steps=_STEPS, cfg_scale=1.0, labels="balanced", global_seed=_SEED
    )
    path.unlink(missing_ok=True)  # of an earlier quickstart, perhaps with another version
    return sample("dit-digits", out=path, settings=settings, device="cpu", batch_size=128, quiet=True)


def _blurred(images: np.ndarray, sigma: float) -> np.ndarray:
    blurred = ndimage.gaussian_filter(images.astype(np.float64), sigma=(0, sigma, sigma, 0))
    return blurred.round().astype(np.uint8)


def _noisy(images: np.ndarray, std: float, rng: np.random.RandomState) -> np.ndarray:
    noise = rng.normal(0.0, std, size=(*images.shape[:3], 1))  # grey: the three channels stay equal
    return (images + noise).clip(0, 255).round().astype(np.uint8)


def _collapsed(images: np.ndarray, labels: np.ndarray, classes: int, rng: np.random.RandomState) -> np.ndarray:
    kept = np.flatnonzero(labels < classes)
    return images[rng.choice(kept, size=len(images), replace=True)]


def _verdicts(curves: dict[str, list[EvalResult]], generated: EvalResult) -> dict[str, bool]:
    """What must hold if the metrics measure what they claim."""
    start = curves["blur"][0]
    blurred, noisy, collapsed = (curves[name][-1] for name in ("blur", "noise", "class collapse"))
    damaged = [result for curve in curves.values() for result in curve[1:]]
    return {
        "FID rises with every step of blur, noise and collapse": _rises(curves, "fid"),
        "sFID rises with every step of blur, noise and collapse": _rises(curves, "sfid"),
        "Inception Score falls from clean to the strongest damage": all(
            _value(curve[-1], "inception_score") < _value(curve[0], "inception_score") for curve in curves.values()
        ),
        "Precision falls with blur and noise, and stays high under collapse": (
            max(_value(blurred, "precision"), _value(noisy, "precision")) < 0.5 < _value(collapsed, "precision")
        ),
        "Recall falls under collapse, though each image is a real digit": (
            _value(collapsed, "recall") < 0.5 * _value(start, "recall")
        ),
        "The DiT's digits are nearer to real ones, by FID, than any damaged set": all(
            _value(generated, "fid") < _value(result, "fid") for result in damaged
        ),
    }


def _rises(curves: dict[str, list[EvalResult]], metric: str) -> bool:
    """Whether a metric rises with every step of every damage."""
    return all(_value(a, metric) < _value(b, metric) for curve in curves.values() for a, b in pairwise(curve))


def _value(result: EvalResult, metric: str) -> float:
    """A metric of a result; 0 if it has none."""
    return getattr(result, metric) or 0.0


def _table(results: dict[str, EvalResult]) -> str:
    width = max(len(name) for name in results)
    lines = [f"{'samples':<{width}}  {'FID':>9}  {'sFID':>9}  {'IS':>6}  {'Prec.':>6}  {'Recall':>6}"]
    for name, r in results.items():
        lines.append(
            f"{name:<{width}}  {r.fid:>9.3f}  {r.sfid:>9.3f}  {r.inception_score:>6.2f}"
            f"  {r.precision:>6.3f}  {r.recall:>6.3f}"
        )
    return "\n".join(lines) + "\n"
