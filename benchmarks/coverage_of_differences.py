"""How sure is a difference? Coverage of intervals of differences, what pairing saves, power, and stopping early.

python benchmarks/coverage_of_differences.py [--part known|digits|cifar|whole|power|sequential] [--draws 200]
    [--out FOLDER] [--cifar FOLDER]

known: skewed, heavy-tailed features with known mean and covariance, as in `coverage_of_intervals.py`; of a pair, nine
tenths of what makes an image are the same. digits: samples of the embedded DiT at two guidance scales and two numbers
of steps, and of a second DiT that is trained here; each draw takes images of 1,000 at random, with replacement, pairs
together. cifar: features of true weights (`index`, `part`, `pool` of npz files in FOLDER, of test, train and noisy
pictures) on their leading axes; one generator shows test pictures of which some are damaged, the other damages more.
whole: the same in all 2,048 dimensions with 5,000 pictures; a draw takes half a minute of a core.
The expected difference is the mean over these draws and twice as many others. 200 draws tell 95 % to 1.5 %.
power: images for a gap of 1, 2 and 5 %, and whether as many decide in four draws of five. sequential: chance decisions
of 500 comparisons of equal generators that may stop early, coverage of intervals of `--until`, images saved.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from coverage_of_intervals import DIM, GENERATORS, Features, moments
from generators import Case, Known, cifar_cases, cifar_features, digits_cases, digits_features, known_cases, summary
from harness import log, print_environment

from dit_eval.metrics import FID
from dit_eval.metrics.differences import differences, variations
from dit_eval.metrics.influence import frechet_variation
from dit_eval.metrics.intervals import frechet_estimates
from dit_eval.metrics.metric import Sides
from dit_eval.results.comparison import Difference, Pairing
from dit_eval.sequential import COMPARISONS, INTERVALS, looks_at
from dit_eval.summary import FeatureSummary

FIGURES = Path(__file__).with_suffix(".json")
REACH = 2.8016  # standard errors: 5 % two-sided, found four times in five
GAPS = (0.01, 0.02, 0.05)


def scores(case: Case, gen: FeatureSummary) -> dict[str, float]:
    found: dict[str, float] = {}
    for compute in dict.fromkeys(metric.score for metric in case.metrics):
        found |= compute(Sides(gen=gen, ref=case.ref, distances="float32")).values
    return {metric.key: found[metric.key] for metric in case.metrics}


def compared(case: Case, a: FeatureSummary, b: FeatureSummary, level: float = 0.05) -> dict[str, Difference]:
    sides = [Sides(gen=gen, ref=case.ref, distances="float32") for gen in (a, b)]
    results: Any = [SimpleNamespace(scores=scores(case, gen), num_samples=len(gen.pool_features)) for gen in (a, b)]
    varied = [variations(case.metrics, each) for each in sides]
    pairing = Pairing(a=0, b=1, paired=case.paired, reason="")
    return {each.metric: each for each in differences(results, varied, [pairing], level=level)}


def coverage(case: Case, draws: int) -> dict[str, dict[str, float]]:
    """By metric: share of intervals that hold the expected difference, standard errors, and spread over draws."""
    rng = np.random.default_rng(4)
    found = [compared(case, *case.draw(rng)) for _ in range(draws)]
    others = [[scores(case, gen) for gen in case.draw(rng)] for _ in range(2 * draws)]
    figures = {}
    for key in others[0][0]:
        own = [each[key] for each in found]
        values = np.array([a[key] - b[key] for a, b in others] + [each.value for each in own])
        if any(each.low is None for each in own):
            raise SystemExit(f"{case.name}, {key}: {own[0].missing}")
        inside = float(np.mean([each.low <= values.mean() <= each.high for each in own]))
        ratio = [each.variance_ratio for each in own if each.variance_ratio]
        figures[key] = {
            "coverage": inside,
            "expected": float(values.mean()),
            "standard_error": math.sqrt(np.mean([each.standard_error**2 for each in own])),
            "spread": float(values.std(ddof=1)),
            "variance_ratio": float(np.median(ratio)) if ratio else None,
        }
        ratio_text = f"   pairing saves x {figures[key]['variance_ratio']:.2f}" if ratio else ""
        sys.stdout.write(
            f"  {case.name:<44} {key:<16} coverage {inside:6.1%}   expected {values.mean():9.4f}   standard error "
            f"{figures[key]['standard_error']:.4f}, spread over draws {values.std(ddof=1):.4f}{ratio_text}\n"
        )
        sys.stdout.flush()
    return figures


# ---- CIFAR-10 in all dimensions


def whole_features(folder: Path, draws: int, num: int = 5_000) -> dict[str, dict[str, dict[str, float]]]:
    """Coverage in all 2,048 dimensions, where one set takes as long as a thousand draws of few dimensions.

    Both generators show training pictures, of which one has 2 % and the other 5 % replaced by noisy ones. A draw's
    second set is compared with the first of the same draw, which is its pair, and of the next one.
    """
    sets, shares, rng = cifar_features(folder), (0.02, 0.05), np.random.default_rng(11)
    ref = FeatureSummary(pool=moments(sets["reference"]))
    drawn = []
    for _ in range(draws):
        rows = rng.integers(len(sets["train"]), size=num)
        pair = []
        for share in shares:
            of_noisy = (rng.random(num) < share)[:, None]
            pool = np.where(of_noisy, sets["noisy"][rows % len(sets["noisy"])], sets["train"][rows])
            side = Sides(gen=summary(pool), ref=ref)
            result = SimpleNamespace(scores=FID.score(side).values, num_samples=num)
            pair.append((result, variations((FID,), side)))
        drawn.append(pair)
    expected = float(np.mean([one[0].scores["fid"] - other[0].scores["fid"] for one, other in drawn]))
    figures = {}
    for word, at in (("paired", 0), ("unpaired", 1)):
        found = []
        for number, (one, _) in enumerate(drawn):
            other = drawn[(number + at) % draws][1]
            pairing = Pairing(a=0, b=1, paired=word == "paired", reason="")
            results: Any = [one[0], other[0]]
            found += differences(results, [one[1], other[1]], [pairing], level=0.05)
        inside = float(np.mean([each.low <= expected <= each.high for each in found]))
        ratio = [each.variance_ratio for each in found if each.variance_ratio]
        figures[f"cifar: 2 % and 5 % noisy, all 2,048 axes, {word}, N = {num:,}"] = {
            "fid": {
                "coverage": inside,
                "expected": expected,
                "standard_error": math.sqrt(np.mean([each.standard_error**2 for each in found])),
                "spread": float(np.std([each.value for each in found], ddof=1)),
                "variance_ratio": float(np.median(ratio)) if ratio else None,
                "draws": draws,
            }
        }
        sys.stdout.write(f"  all 2,048 axes, {word}, {draws} draws: {list(figures.values())[-1]['fid']}\n")
    return figures


# ---- power


def needed(one: np.ndarray, other: np.ndarray, ref: Any, value: float) -> dict[str, list[float]]:
    """Images for gaps of 1, 2 and 5 % of a FID, found four times in five: paired and unpaired."""
    varied = [frechet_variation(gen, ref) for gen in (one, other)]
    return {
        name: [
            REACH**2 * varied[0].of_difference(varied[1], paired=name == "paired").all * len(one) / (gap * value) ** 2
            for gap in GAPS
        ]
        for name in ("paired", "unpaired")
    }


def power(folder: Path, stored: int, cifar: Path | None, draws: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"gaps": GAPS, "needed": {}, "decided": {}}
    sets, ref = digits_features(folder, stored)
    base = sets["base"].pool_features
    fid = float(FID.score(Sides(gen=sets["base"], ref=ref)).values["fid"])
    for name in ("no guidance", "12 steps", "second DiT"):
        figures["needed"][f"digits, {name}"] = needed(base, sets[name].pool_features, ref.pool, fid)
    if cifar is not None:
        case = cifar_cases(cifar)[0]
        damaged = [each.pool_features for each in case.draw(np.random.default_rng(5))]
        value = scores(case, summary(damaged[0]))["fid"]
        figures["needed"]["CIFAR-10, 2 and 5 % damaged"] = needed(*damaged, case.ref.pool, value)
    # A generator whose FID is larger by the gap, and as many images as that takes: 80 % of draws are to decide.
    far = GENERATORS["far"]
    for gap in GAPS[2:]:
        known = Known(far, _larger(far, gap))
        one, other = known.draw(np.random.default_rng(6), 20_000, shared=0.9)
        value = float(FID.score(Sides(gen=one, ref=known.ref)).values["fid"])
        found = needed(one.pool_features, other.pool_features, known.ref.pool, value)
        independent = known.draw(np.random.default_rng(7), 20_000, shared=0.0)
        apart = needed(*(each.pool_features for each in independent), known.ref.pool, value)
        for word, numbers, shared in (("paired", found["paired"], 0.9), ("unpaired", apart["unpaired"], 0.0)):
            num, rng = round(numbers[GAPS.index(gap)]), np.random.default_rng(8)
            case = Case(name=word, draw=lambda _: None, ref=known.ref, metrics=(FID,), paired=word == "paired")
            verdicts = [compared(case, *known.draw(rng, num, shared=shared))["fid"].verdict for _ in range(draws)]
            right = float(np.mean([verdict == "better" for verdict in verdicts]))
            figures["decided"][f"{gap:.0%}, {word}"] = {"images": num, "share": right}
            sys.stdout.write(f"  known, gap {gap:.0%}, {word}: {num:,} images decide in {right:.1%} of {draws} draws\n")
    for name, of in figures["needed"].items():
        for word, numbers in of.items():
            text = ", ".join(f"{gap:.0%}: {number:,.0f}" for gap, number in zip(GAPS, numbers, strict=True))
            sys.stdout.write(f"  {name:<30} {word:<9} images for a gap of {text}\n")
    return figures


def _larger(generator: tuple[float, float], gap: float) -> tuple[float, float]:
    """The generator with a larger shift whose FID is larger by a gap."""
    from scipy.optimize import brentq

    from dit_eval.metrics.frechet import frechet_distance

    def fid(shift: float) -> float:
        features = Features(DIM, 0, shift=shift, scale=generator[1])
        return frechet_distance(gen=features.true, ref=features.ref).value

    target = (1 + gap) * fid(generator[0])
    return brentq(lambda shift: fid(shift) - target, generator[0], 2 * generator[0]), generator[1]


# ---- stopping early


def stopped(case: Case, a: FeatureSummary, b: FeatureSummary) -> tuple[int, str]:
    """Images used and verdict of FID, by the looks of `dit_eval.sequential`."""
    looks = looks_at(len(a.pool_features), error=COMPARISONS, least=2 * (a.pool_features.shape[1] + 1))
    for number, level in zip(looks.numbers, looks.levels, strict=True):
        rows = looks.rows(number)
        parts = [summary(each.pool_features[rows]) for each in (a, b)]
        verdict = compared(case, *parts, level=level)["fid"].verdict or ""
        if verdict != "undecided":
            break
    return number, verdict


def sequential(folder: Path, stored: int, num: int, comparisons: int) -> dict[str, Any]:
    sets, ref = digits_features(folder, stored)
    one, other = sets["base"], sets["no guidance"]
    figures: dict[str, Any] = {"images": num}

    def drawn(rng: np.random.Generator, paired: bool, null: bool) -> list[FeatureSummary]:
        rows = [rng.integers(stored, size=num) for _ in range(2)]
        rows = [rows[0], rows[0]] if paired else rows
        if not null:
            return [summary(each.pool_features[at]) for each, at in zip((one, other), rows, strict=True)]
        # Each image, or pair, is of either generator by chance, so that the two sets are alike.
        first = rng.random((2, num, 1)) < 0.5
        chosen = (first[0], ~first[0]) if paired else first
        return [
            summary(np.where(of_one, one.pool_features[at], other.pool_features[at]))
            for of_one, at in zip(chosen, rows, strict=True)
        ]

    for paired in (True, False):
        word = "paired" if paired else "unpaired"
        case = Case(name=word, draw=lambda _: None, ref=ref, metrics=(FID,), paired=paired)
        rng = np.random.default_rng(9)
        ends = [stopped(case, *drawn(rng, paired, null=True)) for _ in range(comparisons)]
        wrong = float(np.mean([verdict != "undecided" for _, verdict in ends]))
        gap = [stopped(case, *drawn(rng, paired, null=False)) for _ in range(comparisons // 5)]
        used = float(np.mean([number for number, _ in gap])) / num
        right = float(np.mean([verdict != "undecided" for _, verdict in gap]))
        figures[word] = {"comparisons": comparisons, "errors": wrong, "images_used": used, "decided": right}
        sys.stdout.write(
            f"  {word}: {wrong:.1%} of {comparisons} null comparisons decided by chance; of guidance 1.5 and none "
            f"{right:.0%} decided, with {used:.0%} of {num:,} images\n"
        )
    figures["until"] = until(one, ref, stored, num, comparisons)
    return figures


def until(one: FeatureSummary, ref: FeatureSummary, stored: int, num: int, runs: int) -> dict[str, float]:
    """How often the interval of FID at which `evaluate --until` stops holds the expected value at that N."""
    from statistics import NormalDist

    from dit_eval.metrics.frechet import frechet_distance

    rng, target = np.random.default_rng(10), 0.25
    looks = looks_at(num, error=INTERVALS, least=2 * (one.pool_features.shape[1] + 1))
    expected = {
        number: np.mean([
            frechet_distance(gen=moments(one.pool_features[rng.integers(stored, size=number)]), ref=ref.pool).value
            for _ in range(1000)
        ])
        for number in looks.numbers
    }  # fmt: skip
    inside, used = [], []
    for _ in range(runs):
        rows = rng.integers(stored, size=num)
        for number, level in zip(looks.numbers, looks.levels, strict=True):
            pool = one.pool_features[rows[looks.rows(number)]]
            value = frechet_distance(gen=moments(pool), ref=ref.pool).value
            z = NormalDist().inv_cdf(1 - level / 2)
            found = frechet_estimates(value, gen=pool, ref=ref.pool, z=z).here
            if (found.high - found.low) / 2 <= target * value:
                break
        inside.append(found.low <= expected[number] <= found.high)
        used.append(number)
    held, share = float(np.mean(inside)), float(np.mean(used)) / num
    sys.stdout.write(f"  evaluate --until {target}: {held:.1%} of {runs} intervals hold; {share:.0%} of images used\n")
    return {"target": target, "runs": runs, "coverage": held, "images_used": share}


# ---- the figure


def draw_figure(figures: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=(1, 1.1))
    groups = [name for name in ("known", "digits", "cifar", "whole") if name in figures]
    left.axvspan(92, 98, color="#e8f0e4")
    left.axvline(95, color="#9a9a9a", linewidth=0.8)
    rows = []
    for group in groups:
        for case, metrics in figures[group].items():
            for key, of in metrics.items():
                rows.append((group, case, key, 100 * of["coverage"]))
    keys = list(dict.fromkeys(key for _, _, key, _ in rows))
    colours = dict(zip(groups, ("#1c5a9e", "#b9610f", "#3e9a5c", "#5b2a86"), strict=False))
    for group in groups:
        for paired, marker in ((True, "o"), (False, "s")):
            points = [
                (value, keys.index(key) + 0.22 * (groups.index(group) - 1) + (0.05 if paired else -0.05))
                for of, case, key, value in rows
                if of == group and ("unpaired" not in case) is paired
            ]
            if points:
                label = f"{group}, {'paired' if paired else 'unpaired'}"
                fill = colours[group] if paired else "none"
                left.scatter(*zip(*points, strict=True), s=26, marker=marker, facecolor=fill,
                             edgecolor=colours[group], label=label)  # fmt: skip
    names = {"fid": "FID", "sfid": "sFID"}
    left.set_yticks(range(len(keys)), [names.get(key, key.replace("_", " ")) for key in keys])
    left.set(xlim=(86, 100.5), ylim=(len(keys) - 0.4, -0.6))
    left.set_xlabel("coverage of 95 % intervals of differences, %")
    left.legend(fontsize=7, loc="lower left", frameon=False)
    styles = ("#1c5a9e", "#6bb8e8", "#5b2a86", "#3e9a5c")
    for colour, (name, of) in zip(styles, figures["power"]["needed"].items(), strict=False):
        for word, line in (("paired", "-"), ("unpaired", "--")):
            right.plot([100 * gap for gap in GAPS], of[word], line, color=colour, marker="o", markersize=3,
                       label=f"{name}, {word}")  # fmt: skip
    right.set(xscale="log", yscale="log", xlabel="gap, % of FID", ylabel="images of each set, found 4 times in 5")
    right.set_xticks([1, 2, 5], ["1", "2", "5"])
    right.minorticks_off()
    right.grid(color="#e4e4e4")
    right.legend(fontsize=7, frameon=False, handlelength=4.5)
    fig.savefig(path, dpi=130)


PARTS = ("known", "digits", "cifar", "whole", "power", "sequential")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--images", type=int, default=480, help="N of each draw of known and digits")
    parser.add_argument("--stored", type=int, default=1_000, help="digits that are drawn")
    parser.add_argument("--comparisons", type=int, default=500, help="null comparisons that may stop early")
    parser.add_argument("--out", type=Path, default=None, help="keep digits here, to go on with")
    parser.add_argument("--cifar", type=Path, default=None, help="features of true weights")
    arguments = parser.parse_args(words)
    print_environment()
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        for part in arguments.part or PARTS:
            begin = time.process_time()
            sys.stdout.write(f"{part}, {arguments.draws} draws\n")
            if part == "power":
                found = power(folder, arguments.stored, arguments.cifar, arguments.draws)
            elif part == "sequential":
                found = sequential(folder, arguments.stored, 800, arguments.comparisons)
            elif part in {"cifar", "whole"} and arguments.cifar is None:
                sys.stdout.write("  no --cifar FOLDER: left out\n")
                continue
            elif part == "whole":
                found = whole_features(arguments.cifar, arguments.draws)
            else:
                cases = {
                    "known": lambda: known_cases(arguments.images),
                    "digits": lambda: digits_cases(folder, arguments.images, arguments.stored),
                    "cifar": lambda: cifar_cases(arguments.cifar),
                }[part]()
                found = {case.name: coverage(case, arguments.draws) for case in cases}
            figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}  # of other runs, too
            figures[part] = found
            log(f"Differences, {part}", {"draws": arguments.draws, "figures": found})
            FIGURES.write_text(f"{json.dumps(figures, indent=1)}\n", encoding="utf-8")
            sys.stdout.write(f"  {time.process_time() - begin:.0f} s of a core\n")
    if {"known", "power"} <= figures.keys():
        draw_figure(figures, Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main()
