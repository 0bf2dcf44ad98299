"""The whole pipeline on embedded real data: draw digits from a DiT, see what each metric says of them and of damaged
real ones, and run a small scaling study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from dit_eval.diffusion.labels import draw_labels
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.evaluation import score
from dit_eval.features.digits import DigitsExtractor
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.models.checkpoints import load_dit, stored_config
from dit_eval.report.figures.metric_response import metric_response_figure
from dit_eval.report.figures.samples import sample_grid_figure
from dit_eval.report.figures.style import save_figure
from dit_eval.report.law import measured_laws
from dit_eval.report.page import write_report
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.lines import read_results
from dit_eval.results.sample_run import SampleRun
from dit_eval.sampling import sample_npz
from dit_eval.study.folder import Study
from dit_eval.study.plan_file import load_plan
from dit_eval.study.sources import check_study, find_sources
from dit_eval.study.tasks import local_engine
from dit_eval.system.assets import asset, sha256_of
from dit_eval.system.environment import environment
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
    heldout = open_batch(asset("digits-heldout").path, role="gen")
    ref = open_batch(asset("digits").path, role="ref")
    images = np.concatenate(list(heldout.batches(500)))
    labels = heldout.labels
    if labels is None:
        raise ValueError(f"{heldout.path} holds no labels; install dit-eval again.")
    extractor, where = DigitsExtractor(), Where(cache=out / "cache")
    rng = np.random.RandomState(_SEED)
    sets = {
        "held-out": images,
        **{f"blurred, {s} px": _blurred(images, s) for s in _BLUR},
        **{f"noisy, {s:.0f} of 255": _noisy(images, s, rng) for s in _NOISE},
        **{f"collapsed to {n} class{'es' if n > 1 else ''}": _collapsed(images, labels, n, rng) for n in _CLASSES},
    }
    results: dict[str, EvalResult] = {}
    for number, (name, batch) in enumerate(sets.items(), start=1):
        on_step(f"[{number}/{len(sets) + 1}] {name}: {len(batch)} images")
        path = out / "samples" / f"{name.replace(', ', '-').replace(' ', '-')}.npz"
        write_batch(path, images=[batch], shape=batch.shape)
        gen = open_batch(path, role="gen")
        results[name] = score(gen=gen, ref=ref, network=extractor, where=where)
    on_step(f"[{len(sets) + 1}/{len(sets) + 1}] {_DIT}: drawing {len(images)} images in {_STEPS} steps")
    drawn = open_batch(_draw_digits(out / "samples" / "dit.npz", len(images)), role="gen")
    generated = score(gen=drawn, ref=ref, network=extractor, where=where)
    first = np.concatenate([np.flatnonzero(labels == digit)[:1] for digit in range(10)])
    rows = {"real (held-out)": images[first], "drawn by the DiT": next(drawn.batches(10))}
    grid, _ = save_figure(sample_grid_figure(rows, columns=[f"class {digit}" for digit in range(10)]), out / "samples")

    studied = _run_study(out, on_step) if study else None
    lines = out / "results.jsonl"
    with atomic_file(lines) as file:
        scored = [*results.values(), generated, *(_studied_results(studied) if studied else [])]
        file.write("".join(result.to_json() + "\n" for result in scored).encode())
    none, *damaged = results.values()
    size = len(LEVELS) - 1
    curves = {
        name: [none, *damaged[i * size : (i + 1) * size]] for i, name in enumerate(("blur", "noise", "class collapse"))
    }
    figure = metric_response_figure(
        curves,
        levels=LEVELS,
        title="What each metric sees in damaged digits",
        source=f"measured: {none.num_samples} held-out digits against {none.num_reference:,} reference digits, "
        "features of the digits extractor (not Inception: compare with no published number)",
    )
    written = save_figure(figure, out / "metrics")
    verdicts = _verdicts(curves, generated)
    text = (
        _table({**results, _DIT: generated})
        + "\n"
        + "".join(f"{'yes' if ok else 'NO '}  {claim}\n" for claim, ok in verdicts.items())
    )
    if studied is not None:
        text += "\nStudy: more compute, better samples?\n"
        for law in measured_laws(studied.results).values():
            text += "".join(f"  {sentence}\n" for sentence in law.sentences(most=3))
    losses = studied.losses if studied is not None else None
    page = write_report(results=lines, losses=losses, out=out, force=True, on_step=on_step)
    text += f"\nFeatures: digits extractor (not Inception). Figures: {written[0]} {grid}  Results: {lines}\n"
    text += f"Report: {page} (open it in a browser)\n"
    if not all(verdicts.values()):
        raise ValueError(f"A metric did not move as it must; please report this.\n{text}")
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
    engine, workers = local_engine(study, device="cpu")
    with engine:
        study.run(engine, sources, workers=workers, interval=0.2, on_note=on_step)
    return study


def _studied_results(study: Study) -> list[EvalResult]:
    """Its results, with paths as seen from the quickstart's folder."""
    return [
        replace(result, gen=replace(result.gen, path=f"{study.folder.name}/{result.gen.path}"))
        for result in read_results(study.results)
    ]


def _draw_digits(path: Path, count: int) -> Path:
    """Digits from the embedded DiT, as many of each class, without guidance."""
    weights = asset("dit-digits").path
    config = stored_config(weights)
    if config is None:
        raise ValueError(f"{weights} does not say what it is; install dit-eval again.")
    run = SampleRun(
        model="dit-digits",
        network=asdict(config),
        checkpoint=weights.name,
        checkpoint_sha256=sha256_of(weights),
        image_size=config.image_size,
        num_images=count,
        num_sampling_steps=str(_STEPS),
        labels="balanced",
        global_seed=_SEED,
        environment=environment(),
    )
    labels = draw_labels("balanced", num_images=count, num_classes=config.num_classes, seed=_SEED)
    path.unlink(missing_ok=True)  # of an earlier quickstart, perhaps with another version
    return sample_npz(path, sampler=ImageSampler(load_dit(weights, config), run), labels=labels, batch_size=128)


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

    def rises(name: str, metric: str) -> bool:
        values = [getattr(result, metric) for result in curves[name]]
        return all(a < b for a, b in pairwise(values))

    def end(name: str, metric: str) -> float:
        return getattr(curves[name][-1], metric)

    start = curves["blur"][0]
    scores = [[r.inception_score or 0.0 for r in curve] for curve in curves.values()]
    return {
        "FID rises with every step of blur, noise and collapse": all(rises(name, "fid") for name in curves),
        "sFID rises with every step of blur, noise and collapse": all(rises(name, "sfid") for name in curves),
        "Inception Score falls from clean to the strongest damage": all(s[-1] < s[0] for s in scores),
        "Precision falls with blur and noise, and stays high under collapse": (
            max(end("blur", "precision"), end("noise", "precision")) < 0.5 < end("class collapse", "precision")
        ),
        "Recall falls under collapse, though each image is a real digit": (
            end("class collapse", "recall") < 0.5 * (start.recall or 0.0)
        ),
        "The DiT's digits are nearer to real ones, by FID, than any damaged set": all(
            (generated.fid or 0.0) < (result.fid or 0.0) for curve in curves.values() for result in curve[1:]
        ),
    }


def _table(results: dict[str, EvalResult]) -> str:
    width = max(len(name) for name in results)
    lines = [f"{'samples':<{width}}  {'FID':>9}  {'sFID':>9}  {'IS':>6}  {'Prec.':>6}  {'Recall':>6}"]
    for name, r in results.items():
        lines.append(
            f"{name:<{width}}  {r.fid:>9.3f}  {r.sfid:>9.3f}  {r.inception_score:>6.2f}"
            f"  {r.precision:>6.3f}  {r.recall:>6.3f}"
        )
    return "\n".join(lines) + "\n"
