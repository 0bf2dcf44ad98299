"""Why is my number not the published one? Looks at samples, reference, run and result, and ranks what may be wrong.

    for finding in diagnose(gen=gen, ref=ref, expect=expectation("dit-xl-2-cfg1.5")).findings:
        print(finding.certainty, finding.found, finding.advice)

No network is needed, except to see whether stored statistics are of the network at hand. Each finding brings what the
damage did to each metric where `reports/why_fid_differs.py` has measured it (`effects.json`), and nothing where it has
not. Thresholds are set so that a sound file, of whatever model, has no finding; a small damage can stay unseen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dit_eval.features.extract import extract_features
from dit_eval.features.network import FeatureExtractor
from dit_eval.images.open import ImageSet
from dit_eval.images.stream import from_batches
from dit_eval.metrics.inception_score import SPLIT_SIZE
from dit_eval.pixels import PixelFacts, read_pixels
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.parse import json_text
from dit_eval.system.text import did_you_mean

Certainty = Literal["certain", "likely", "possible"]
_RANK: dict[str, int] = {"certain": 0, "likely": 1, "possible": 2}
_METRICS = ("fid", "sfid", "inception_score", "precision", "recall")
_NUM_SAMPLES, _NUM_REFERENCE = 50_000, 10_000  # of the published protocol
_INCEPTION = (2048, 2023)  # dimensions of ADM's statistics
_SIGMAS = 6.0  # a chance in a thousand million, so that the many things looked at do not add up to a false alarm
_NETWORK_IMAGES = 256  # reference images that pass through the network to check its statistics


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a damage did to each metric on a test set, measured.

    Attributes
    ----------
    damage : how much of it, in words
    network, images : which features, and of what images
    before, after : metric -> value on the sound set and on the damaged one
    """

    damage: str
    network: str
    images: str
    before: dict[str, float]
    after: dict[str, float]

    @property
    def size(self) -> float:
        """The largest change of a metric, as |log(after / before)|; values near 0 count as 0.01."""
        pairs = ((self.before[m], self.after[m]) for m in self.after)
        return max((abs(math.log(max(b, 0.01) / max(a, 0.01))) for a, b in pairs), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One likely cause of a number that is off.

    Attributes
    ----------
    id : a fixed name
    certainty : "certain" (seen as such), "likely" or "possible" (something else could look the same)
    found : what was seen, with numbers
    advice : what to do
    share : of the images concerned; 1 where it is not a matter of single images
    effects : of this damage, as measured; empty where it was not
    explains : ids that are consequences of this one and are not reported beside it
    """

    id: str
    certainty: Certainty
    found: str
    advice: str
    share: float = 1.0
    effects: tuple[Effect, ...] = ()
    explains: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """A published number and the setting it was made with; what its source does not say is not in `setting`.

    Attributes
    ----------
    name, source : what it is called here, where it is printed
    setting : field of `SampleRun` -> value
    metrics : metric -> published value
    num_samples : images it was computed from; None: 50,000, unless the reference is of another network than Inception
    """

    name: str
    source: str
    setting: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    num_samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A metric of a result beside the published one; `inside` its 95 % interval, None where the result has none."""

    metric: str
    published: float
    measured: float
    inside: bool | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found, the most certain and largest first; what was compared; and what could not be looked at.

    Attributes
    ----------
    unchecked : what could not be checked, each with the reason
    """

    findings: tuple[Finding, ...]
    comparisons: tuple[Comparison, ...] = ()
    expected: Expectation | None = None
    unchecked: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line of JSON with every field."""
        return json_text(asdict(self))


def expectations() -> dict[str, Expectation]:
    """The paper's results with DiT-XL/2, with their settings (Tables 2 and 3 and the text around them)."""
    from dit_eval.paper import load_table

    known = {}
    for table, size in ((2, 256), (3, 512)):
        for row in load_table(table).itertuples():
            if not str(row.model).startswith("DiT-XL/2"):
                continue
            scale = float(str(row.model).rpartition("=")[2].rstrip(")")) if "=" in str(row.model) else 1.0
            name = f"dit-xl-2{'' if size == 256 else '-512'}{'' if scale == 1.0 else f'-cfg{scale:g}'}"
            guided = {"cfg_channels": 3} if scale != 1.0 else {}
            known[name] = Expectation(
                name=name,
                source=str(row.source),
                setting={
                    **{"model": "DiT-XL/2", "image_size": size, "cfg_scale": scale, **guided},
                    **{"num_sampling_steps": "250", "sampler": "ddpm", "vae": "ema", "weights": "ema"},
                    **{"labels": "random", "rounding": "dit", "vae_tiling": False},
                },
                metrics={metric: float(getattr(row, metric)) for metric in _METRICS},
                num_samples=_NUM_SAMPLES,
            )
    return known


def expectation(name: str) -> Expectation:
    """The published result of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    known = expectations()
    if name not in known:
        raise ValueError(
            f"No published result called {name!r}; known: {', '.join(known)}. Or pass --expect-fid X."
            f"{did_you_mean(name, known)}"
        )
    return known[name]


def effects() -> dict[str, tuple[Effect, ...]]:
    """Measured effects by the id of the finding; see `reports/why_fid_differs.py`."""
    rows = json.loads(Path(__file__).with_name("effects.json").read_text(encoding="utf-8"))["effects"]
    known: dict[str, tuple[Effect, ...]] = {}
    names = [f.name for f in fields(Effect)]
    for row in rows:
        known[row["id"]] = (*known.get(row["id"], ()), Effect(**{name: row[name] for name in names}))
    return known


def diagnose(
    *,
    gen: ImageSet,
    ref: ImageSet,
    expect: Expectation | None = None,
    result: EvalResult | None = None,
    extractor: FeatureExtractor | None = None,
    batch_size: int = 64,
    on_progress: Callable[[str, int, int | None], None] | None = None,
) -> Diagnosis:
    """Look for causes of a number that is off.

    Parameters
    ----------
    gen, ref : opened by `dit_eval.images.open_images`; not iterables, which tell nothing before they are read
    expect : what the number is compared with
    result : the evaluation of these samples
    extractor : also see whether the statistics of ref are of this network, by passing some of its images through it
    on_progress : called with role, images done, images in all

    Raises
    ------
    ValueError
        If there is no sample image, or one of the files cannot be read.
    """
    pixels: dict[str, PixelFacts | None] = {}
    sets = {"ref": ref, "gen": gen}
    for role, images in sets.items():
        if on_progress and images.num_images:
            on_progress(role, 0, images.num_images)  # so that the time left is of both
    for role, images in sets.items():
        report = partial(on_progress, role) if on_progress else None
        pixels[role] = read_pixels(images, batch_size=batch_size, on_progress=report) if images.num_images else None
    own, reference = pixels["gen"], pixels["ref"]
    if own is None:
        raise ValueError(f"{gen.path}: no images to look at; needed sample images.")
    case = _Case(gen=gen, ref=ref, own=own, reference=reference, expect=expect, result=result, extractor=extractor)
    found = [finding for check in _CHECKS for finding in check(case)]
    explained = {name for finding in found for name in finding.explains}
    measured = effects()
    known = [replace(f, effects=measured.get(f.id, ())) for f in found if f.id not in explained]
    # Sorting is stable: where neither certainty nor size tells, the order of _CHECKS stands.
    ranked = sorted(known, key=lambda f: (_RANK[f.certainty], -f.share * max((e.size for e in f.effects), default=0.0)))
    return Diagnosis(
        findings=tuple(ranked),
        comparisons=_comparisons(expect, result),
        expected=expect,
        unchecked=tuple(_unchecked(case)),
    )


@dataclass(frozen=True, kw_only=True)
class _Case:
    gen: ImageSet
    ref: ImageSet
    own: PixelFacts
    reference: PixelFacts | None
    expect: Expectation | None
    result: EvalResult | None
    extractor: FeatureExtractor | None

    @property
    def published(self) -> bool:
        """Whether the number is compared with a published one, of ADM's protocol, and not with one of the user's."""
        return self.expect is not None and bool(self.expect.setting)

    @property
    def of_inception(self) -> bool:
        """Whether the published protocol is meant: not with statistics of another network, such as digits."""
        return self.ref.pool is None or self.ref.pool.dim == _INCEPTION[0]


# --- the samples -------------------------------------------------------------------------------------------------


def _range(case: _Case) -> Iterator[Finding]:
    """Values that floats of another range leave behind when they are stored as bytes."""
    values = case.own.histogram.sum(axis=0)
    levels = np.flatnonzero(values)
    consequences = (
        *("blank", "saturated", "duplicates", "blurred", "constant-channel", "grey", "orientation", "colour-order"),
        *("order", "narrow-range", "half-range", "clipped", "repeated-pixels", "jpeg"),
    )
    reference = None if case.reference is None else case.reference.histogram.sum(axis=0)
    if len(levels) <= 3 and (reference is None or np.count_nonzero(reference) > 3):
        yield Finding(
            id="float-range",
            certainty="certain",
            found=f"{case.gen.path}: pixels take the value{'s' if len(levels) > 1 else ''} "
            f"{', '.join(map(str, levels))} only, as floats in 0..1 or -1..1 do that are stored as bytes unscaled",
            advice="Scale before you convert: from -1..1 by 127.5 x + 128 (DiT), from 0..1 by 255 x + 0.5; clip both "
            "to 0..255 and truncate.",
            explains=consequences,
        )
        return
    if reference is None:
        return
    total, total_ref = values.sum(), reference.sum()
    low, high = int(levels[0]), int(levels[-1])
    # A range that is half of the reference's: 0..1 taken for -1..1 fills 128..255, the other way round half is lost.
    for name, share, share_ref in (
        ("below 120", values[:120].sum() / total, reference[:120].sum() / total_ref),
        ("above 136", values[137:].sum() / total, reference[137:].sum() / total_ref),
    ):
        if share < 1e-3 and share_ref > 0.1:
            yield Finding(
                id="half-range",
                certainty="certain",
                found=f"{case.gen.path}: values lie in {low}..{high}; {share:.2%} are {name}, {share_ref:.0%} of the "
                "reference's are",
                advice="The samples were scaled by the wrong rule: 127.5 x + 128 is for -1..1, 255 x + 0.5 for 0..1.",
                explains=("narrow-range", "clipped"),
            )
            return
    empty = float(case.own.blank.mean())  # told on their own; at worst all of them lie at this end
    for end, name in ((0, "0"), (255, "255")):
        # Of the channel that has least of it: a single channel that is constant is another cause.
        at_end, per_channel = case.own.histogram[:, end], case.own.histogram.sum(axis=1)
        share, share_ref = max(float((at_end / per_channel).min()) - empty, 0.0), reference[end] / total_ref
        # A quarter of all values at one end, three times the reference's: half of a range of -1..1 cut off is more.
        if share > 0.25 and share > 3 * share_ref + 0.05:
            yield Finding(
                id="clipped",
                certainty="certain" if share > 0.4 else "likely",
                found=f"{case.gen.path}: {share:.0%} of the values of each channel are {name}, "
                f"{share_ref:.0%} of the reference's are",
                advice="Values were cut off before they were stored: floats in -1..1 need 127.5 x + 128, not 255 x.",
                explains=("saturated", "constant-channel", "colour-order", "orientation", "narrow-range"),
            )
            return
    ends = np.flatnonzero(reference)[[0, -1]]
    # Fully used in the reference, and 8 levels of each end not once here: a video range (16..235), say.
    if low >= 8 and high <= 247 and ends[0] < 4 and ends[1] > 251 and total > 100_000:
        yield Finding(
            id="narrow-range",
            certainty="likely",
            found=f"{case.gen.path}: values lie in {low}..{high}, the reference's in {ends[0]}..{ends[1]}",
            advice="Look for a conversion to video range (16..235), or a wrong scale between model and file.",
        )


def _size(case: _Case) -> Iterator[Finding]:
    if case.reference is not None and case.own.size != case.reference.size:
        gen, ref = (" x ".join(map(str, reversed(p.size))) for p in (case.own, case.reference))
        yield Finding(
            id="resolution",
            certainty="certain",
            found=f"{case.gen.path} has images of {gen} px, {case.ref.path} of {ref} px",
            advice="Take the reference of the samples' resolution. The network resizes both to its input, and another "
            "size gives other features; published numbers have both alike.",
            explains=("blurred", "repeated-pixels"),
        )


def _copies(case: _Case) -> Iterator[Finding]:
    own = case.own
    distinct, counts = np.unique(own.hashes, return_counts=True)
    if case.reference is not None:
        copied = int(np.isin(own.hashes, case.reference.hashes).sum())
        if copied:
            yield Finding(
                id="copies-of-reference",
                certainty="certain",
                found=f"{copied:,} of {own.num_images:,} samples are images of the reference, pixel by pixel",
                advice="Real images are among the samples, or the reference was passed as the samples. (Held-out real "
                "images must not be in the reference.)",
                share=copied / own.num_images,
            )
    surplus = own.num_images - len(distinct)
    blank = int(own.blank.sum())  # are alike; they are told on their own
    surplus -= max(blank - len(np.unique(own.hashes[own.blank])), 0)
    usual = 0.0
    if case.reference is not None:  # small images of few values can be equal by chance
        usual = 1 - len(np.unique(case.reference.hashes)) / case.reference.num_images
    if surplus / own.num_images > 2 * usual:
        order = np.argsort(own.hashes, kind="stable")
        same = own.hashes[order][1:] == own.hashes[order][:-1]
        lags, times = np.unique(np.abs(np.diff(order))[same], return_counts=True)
        lag = int(lags[times.argmax()])
        regular = surplus > 2 and times.max() > 0.9 * times.sum()
        yield Finding(
            id="duplicates",
            certainty="certain",
            found=f"{surplus:,} of {own.num_images:,} samples repeat another one exactly (the commonest occurs "
            f"{counts[~np.isin(distinct, own.hashes[own.blank])].max():,} times)"
            + (f"; a repeat lies {lag:,} images after the first" if regular else ""),
            advice="Processes that share a seed draw the same images: give each its own, or let `dit-eval sample` "
            "number them. Draw the file again.",
            share=surplus / own.num_images,
        )


def _empty(case: _Case) -> Iterator[Finding]:
    ref = case.reference
    blank, usual = float(case.own.blank.mean()), 0.0 if ref is None else float(ref.blank.mean())
    # A thousandth, beyond what the reference has, is fifty images of 50,000.
    if blank > 2 * usual + 1e-3:
        yield Finding(
            id="blank",
            certainty="certain",
            found=f"{_some(case.own.blank)} are of one colour",
            advice="Not-a-numbers in the sampler or decoder (half precision overflows in Stable Diffusion's) come out "
            "as black or grey images: decode in fp32 or bf16, and draw these again.",
            share=blank,
        )
    # A drawing in black and white is rare, not impossible: a reference of M images without one leaves 3 / M possible.
    saturated, usual = float(case.own.saturated.mean()), 0.0
    if ref is not None:
        usual = min((float(ref.saturated.sum()) + 3) / ref.num_images, 1.0)
    if saturated > 2 * usual + 1e-3:
        yield Finding(
            id="saturated",
            certainty="possible" if ref is None else "likely",
            found=f"{_some(case.own.saturated)} are 0 or 255 nearly everywhere",
            advice="Guidance far too strong, or values scaled twice, saturate images. Look at them with "
            "`dit-eval grid`.",
            share=saturated,
        )


def _some(concerned: np.ndarray) -> str:
    at = np.flatnonzero(concerned)
    return f"{len(at):,} of {len(concerned):,} samples (the first is image {at[0]:,})"


def _colours(case: _Case) -> Iterator[Finding]:
    own, ref = case.own, case.reference
    variances = own.variances
    flat = (variances < 0.5).mean(axis=0)  # share of images in which a channel hardly varies
    if (flat > 0.9).any() and not (flat > 0.9).all() and (ref is None or (ref.variances < 0.5).mean() < 0.5):
        names = [name for name, share in zip(("red", "green", "blue"), flat, strict=True) if share > 0.9]
        yield Finding(
            id="constant-channel",
            certainty="certain",
            found=f"{case.gen.path}: the {' and '.join(names)} channel is constant in nearly all images",
            advice="A channel was lost or overwritten on the way from the model to the file; save all three.",
            explains=("colour-order", "duplicates"),
        )
    if ref is None:
        return
    if own.grey > 0.9 and ref.grey < 0.5:
        yield Finding(
            id="grey",
            certainty="certain",
            found=f"{own.grey:.0%} of the samples looked at are grey, {ref.grey:.0%} of the reference images are",
            advice="Colours were lost: look for a conversion to grey (mode L), or one channel repeated three times.",
            explains=("colour-order",),
        )
    gen_tint, ref_tint = _tint(own), _tint(ref)
    pooled = np.cov(np.concatenate([gen_tint - gen_tint.mean(0), ref_tint - ref_tint.mean(0)]).T)
    if np.linalg.eigvalsh(pooled).min() <= 1e-9 * max(np.trace(pooled), 1e-9):  # grey images have no tint
        return
    whiten = np.linalg.inv(np.linalg.cholesky(pooled))
    g, r = whiten @ gen_tint.mean(axis=0), whiten @ ref_tint.mean(axis=0)
    # In standard deviations of an image. Exchanging red and blue turns the sign of both tints, so the samples' would
    # be near -r. Both must be far from 0 by chance alone, and -r clearly nearer than r: a model of other colours than
    # the reference's has no reason to mirror them.
    error = math.sqrt(1 / len(gen_tint) + 1 / len(ref_tint))
    if min(np.linalg.norm(g), np.linalg.norm(r)) > _SIGMAS * error and np.linalg.norm(g + r) < 0.5 * np.linalg.norm(
        g - r
    ):
        gen_means, ref_means = (p.thumbnails.mean(axis=(0, 1, 2)) for p in (own, ref))
        yield Finding(
            id="colour-order",
            certainty="likely",
            found="mean colours (R, G, B): samples "
            + f"{', '.join(f'{x:.0f}' for x in gen_means)}; reference {', '.join(f'{x:.0f}' for x in ref_means)}; "
            "red and blue fit better when exchanged",
            advice="The samples look like BGR (OpenCV's order). Store RGB: images[..., ::-1].",
        )


def _tint(facts: PixelFacts) -> np.ndarray:
    """Of each image: mean red less mean blue, and how much more red varies between cells than blue; (N, 2)."""
    cells = facts.thumbnails.reshape(facts.num_images, -1, 3).astype(np.float64)
    means, spreads = cells.mean(axis=1), cells.std(axis=1)
    return np.stack([means[:, 0] - means[:, 2], spreads[:, 0] - spreads[:, 2]], axis=1)


_TURNS: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("mirrored left to right", lambda x: x[:, ::-1]),
    ("upside down", lambda x: x[::-1]),
    ("turned by 180 degrees", lambda x: x[::-1, ::-1]),
    ("transposed (height and width exchanged)", lambda x: x.swapaxes(0, 1)),
    ("turned by 90 degrees", lambda x: np.rot90(x, 1)),
    ("turned by 270 degrees", lambda x: np.rot90(x, 3)),
    ("transposed along the other diagonal", lambda x: np.rot90(x, 2).swapaxes(0, 1)),
)


def _orientation(case: _Case) -> Iterator[Finding]:
    """The mean image of a set has a top and a bottom (skies are light); a turned set's fits when it is turned back."""
    own, ref = case.own, case.reference
    if ref is None or own.size[0] != own.size[1] or own.thumbnails.shape[1:] != ref.thumbnails.shape[1:]:
        return
    sets = [p.thumbnails.astype(np.float64).mean(axis=3) for p in (own, ref)]  # (N, h, w)
    error = np.sqrt(sum(x.var(axis=0) / len(x) for x in sets))
    error = np.maximum(error, 0.1)  # grey levels; a cell that is black in every image
    mean, target = (x.mean(axis=0) for x in sets)

    def misfit(image: np.ndarray) -> float:
        difference = image - target
        difference = difference - difference.mean()  # samples may be lighter or darker as a whole
        return float(np.mean((difference / error) ** 2))

    straight = misfit(mean)
    turned = {name: misfit(turn(mean)) for name, turn in _TURNS}
    best = min(turned, key=turned.__getitem__)
    # By chance a misfit is about 1; neighbouring cells are alike, so that it may be that of six free ones only, which
    # stay below 1 + 6 sqrt(2 / 6) = 4.5. And a model that differs from the reference in other ways has no reason to
    # fit four times better when turned.
    if straight > 10 and turned[best] < 0.25 * straight:
        yield Finding(
            id="orientation",
            certainty="likely",
            found=f"the mean sample fits the reference's mean image {straight / turned[best]:.0f} times better (mean "
            f"square) when {best}",
            advice="Look for exchanged axes between the model's (B, C, H, W) and the file's (N, H, W, C).",
        )


def _resized(case: _Case) -> Iterator[Finding]:
    own, ref = case.own, case.reference
    even, odd = own.repeats
    usual = 0.0 if ref is None else ref.repeats[0] - ref.repeats[1]
    # Pairs (2i, 2i + 1) equal and pairs (2i + 1, 2i + 2) not: no picture prefers one phase over the other.
    if even - odd > 0.1 and even > 0.98 and usual < 0.05:
        yield Finding(
            id="repeated-pixels",
            certainty="certain",
            found=f"{case.gen.path}: {even:.0%} of the pixels equal their partner in pairs, {odd:.0%} the next one: "
            f"enlarged without interpolation from {own.size[1] // 2} x {own.size[0] // 2} px or less",
            advice="Draw at the resolution of the reference, or score against the reference of the smaller size.",
            explains=("blurred",),
        )
    if ref is None or own.spectrum is None or ref.spectrum is None or len(own.spectrum) != len(ref.spectrum):
        return
    frequency = np.linspace(0, 0.5, len(own.spectrum))
    ratio = own.spectrum / np.maximum(ref.spectrum, 1e-9)
    coarse = (frequency > 0.03) & (frequency < 0.12)
    ratio = ratio / np.exp(np.log(np.maximum(ratio[coarse], 1e-9)).mean())
    fine = float(np.exp(np.log(np.maximum(ratio[frequency > 0.42], 1e-9)).mean()))
    # A tenth of the reference's power at the finest detail, at equal coarse detail. A factor of 2 or 3 can be the
    # decoder's own softness; linear or cubic enlargement by 1.5 and more leaves a twentieth or less.
    if fine < 0.1:
        yield Finding(
            id="blurred",
            certainty="likely",
            found=f"{case.gen.path}: fine detail (the top sixth of all frequencies) has {fine:.1%} of the power that "
            "the reference's has, at equal coarse detail",
            advice="The images look enlarged or blurred: draw at the resolution of the reference, without a resize "
            "between decoder and file, and store PNG or npz.",
        )


def _jpeg(case: _Case) -> Iterator[Finding]:
    # Sound sets stay near 0, quality 90 is above 0.4 (tests/test_diagnose.py); 95 and above is not seen. Drawings with
    # edges on the grid of blocks can reach some tenths, in the reference as well.
    score = case.own.jpeg
    usual = 0.0 if case.reference is None or case.reference.jpeg is None else case.reference.jpeg
    if score is not None and score > (0.3 if case.reference is None else 0.15 + usual):
        yield Finding(
            id="jpeg",
            certainty="certain" if score > 0.3 else "likely",
            found=f"{case.gen.path}: cosine coefficients of 8 x 8 blocks lie at multiples of a step ({score:.2f} of 1; "
            f"the reference {usual:.2f}): the samples have been JPEG",
            advice="Save samples as PNG or npz; JPEG's loss cannot be undone. Draw the file again.",
            explains=("blurred",),
        )


# --- number, classes and order -----------------------------------------------------------------------------------


def _numbers(case: _Case) -> Iterator[Finding]:
    count = case.own.num_images
    expected = case.expect.num_samples if case.expect else None
    if expected is None and case.of_inception:
        expected = _NUM_SAMPLES
    if expected is not None and count != expected:
        fewer = count < expected
        yield Finding(
            id="few-samples" if fewer else "more-samples",
            certainty="certain",
            found=f"{count:,} samples; the number to compare with is of {expected:,}",
            advice=f"Draw the missing {expected - count:,}: FID and sFID grow as samples get fewer. Until then compare "
            "only with numbers of as many (pass --expect-samples), or see `dit-eval evaluate --intervals`."
            if fewer
            else f"Pass --num-samples {expected} to `dit-eval evaluate`; more samples give a lower FID.",
            # Half of the samples matter more than some that are missing.
            share=min(1.0, abs(math.log(expected / count)) / math.log(100)),
        )
    if not case.of_inception or case.reference is None:
        return
    images, size = case.reference.num_images, case.reference.size
    usual = 1_000 if size == (512, 512) and case.expect else _NUM_REFERENCE
    if images < usual and (case.expect is None or {"precision", "recall"} & set(case.expect.metrics)):
        yield Finding(
            id="few-reference",
            certainty="certain",
            found=f"{case.ref.path} holds {images:,} images"
            + (", as ADM's file for 512 px does" if images == 1_000 and size == (512, 512) else "")
            + f"; those for 256 px hold {_NUM_REFERENCE:,}",
            advice="Compare precision and recall only with numbers against as many reference images: both depend on "
            "how many there are. FID and sFID use the stored statistics, and IS no reference.",
        )


def _classes(case: _Case) -> Iterator[Finding]:
    labels, run = case.gen.labels, case.gen.run
    if labels is None or labels.min() < 0:
        return
    classes = int(labels.max()) + 1
    if case.ref.labels is not None and case.ref.labels.min() >= 0:
        classes = max(classes, int(case.ref.labels.max()) + 1)
    if run is not None:
        classes = max(classes, int(run.network.get("num_classes", 0)))
    if case.expect is not None and "model" in case.expect.setting:
        classes = max(classes, 1000)
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    target = np.full(classes, len(labels) / classes)
    spread = 1.0
    if case.ref.labels is not None and case.ref.labels.min() >= 0:
        theirs = np.bincount(case.ref.labels, minlength=classes)
        # Both counts vary; and a class that the reference lacks says nothing.
        target = np.maximum(theirs / theirs.sum() * len(labels), 0.5)
        spread = 1 + len(labels) / theirs.sum()
    if len(labels) < 2 * classes:
        return
    chi2 = float(((counts - target) ** 2 / target).sum() / spread)
    freedom = classes - 1
    z = (chi2 - freedom) / math.sqrt(2 * freedom) if freedom else 0.0
    missing = int((counts == 0).sum())
    if z > _SIGMAS and chi2 > 2 * freedom:
        share = float(np.abs(counts - target).sum() / 2 / len(labels))
        yield Finding(
            id="class-balance",
            certainty="certain",
            found=f"classes are not drawn alike: {missing:,} of {classes:,} are missing, the commonest has "
            f"{counts.max():,.0f} of {len(labels):,} images; {share:.0%} of the samples would have to be of another",
            advice="Published sets draw labels uniformly: use `dit-eval sample --labels random`.",
            share=share,
        )


def _order(case: _Case) -> Iterator[Finding]:
    """Class order moves the Inception Score alone, and only of files with more than one split."""
    count, labels = case.own.num_images, case.gen.labels
    if count <= SPLIT_SIZE:
        return
    advice = (
        f"ADM's Inception Score takes contiguous splits of {SPLIT_SIZE:,}, each of which must hold all classes: "
        "shuffle the file (images and labels alike). `evaluate --json` has the order-free score as well; FID stays."
    )
    if labels is not None:
        classes = len(np.unique(labels))
        splits = [labels[k : k + SPLIT_SIZE] for k in range(0, count, SPLIT_SIZE)]
        share = np.bincount(np.unique(labels, return_inverse=True)[1]) / count
        held = np.array([len(np.unique(split)) for split in splits])
        due = np.array([(1 - (1 - share) ** len(split)).sum() for split in splits])  # if the file were mixed
        # In a mixed file the classes held differ from their expectation by a few; a fifth is far beyond that.
        if (held / due).mean() < 0.8:
            yield Finding(
                id="order",
                certainty="certain",
                found=f"the file is class-ordered: a split of {SPLIT_SIZE:,} images holds {held.mean():,.0f} of "
                f"{classes:,} classes on average; {due.mean():,.0f} if it were mixed",
                advice=advice,
            )
        return
    cells = case.own.thumbnails.reshape(count, -1).astype(np.float64)
    cells = (cells - cells.mean(axis=0)) / np.maximum(cells.std(axis=0), 1e-3)

    def alike(rows: np.ndarray) -> float:
        return float((rows[1:] * rows[:-1]).mean())

    rng = np.random.RandomState(0)
    mixed = np.array([alike(cells[rng.permutation(count)]) for _ in range(10)])
    # Without labels: neighbours in the file look alike, more than in ten shuffled orders.
    z = (alike(cells) - mixed.mean()) / max(mixed.std(ddof=1), 1e-9)
    if z > 2 * _SIGMAS and alike(cells) > 0.02:
        yield Finding(
            id="order",
            certainty="likely",
            found=f"images look like their neighbours in the file (correlation {alike(cells):.3f}; in mixed order "
            f"{mixed.mean():.3f}), as in a file in class order",
            advice=advice,
        )


# --- the reference -----------------------------------------------------------------------------------------------


def _statistics(case: _Case) -> Iterator[Finding]:
    pool, spatial = case.ref.pool, case.ref.spatial
    if pool is not None and case.published and pool.dim != _INCEPTION[0]:
        yield Finding(
            id="other-statistics",
            certainty="certain",
            found=f"{case.ref.path}: statistics of {pool.dim} dimensions; published FIDs are of {_INCEPTION[0]}",
            advice="These are of another network or layer. Take ADM's reference batch (`dit-eval weights list`).",
        )
    if pool is not None and case.of_inception and pool.mu.min() < 0:
        yield Finding(
            id="other-statistics",
            certainty="certain",
            found=f"{case.ref.path}: mu has values below 0 ({(pool.mu < 0).sum():,} of {pool.dim:,}); the pool "
            "features of Inception come after a Relu and have none",
            advice="These are of another network or layer of 2048 dimensions (a ResNet, logits). Take ADM's batch.",
        )
    if spatial is not None and spatial.dim % 7 == 0 and math.isqrt(spatial.dim // 7) ** 2 == spatial.dim // 7:
        side = math.isqrt(spatial.dim // 7)
        nhwc, nchw = spatial.mu.reshape(side, side, 7), spatial.mu.reshape(7, side, side).transpose(1, 2, 0)
        rough = [float(np.mean(np.diff(x, axis=0) ** 2) + np.mean(np.diff(x, axis=1) ** 2)) for x in (nhwc, nchw)]
        # A channel's mean changes little from one place to the next, and from one channel to the next a lot: the wrong
        # reading is 11 times rougher with three pictures alone (tests/test_diagnose.py), and more with many.
        if rough[1] * 4 < rough[0]:
            yield Finding(
                id="nchw-statistics",
                certainty="certain",
                found=f"{case.ref.path}: mu_s is smooth over the picture when read as channels x rows x columns, and "
                f"{rough[0] / rough[1]:,.0f} times rougher when read as ADM flattens it, rows x columns x channels",
                advice="These spatial statistics were made by a PyTorch port without the transposition; sFID against "
                "them means nothing. Make them again with `dit-eval stats`, or take ADM's file.",
            )
    if case.extractor is not None and pool is not None and case.reference is not None:
        yield from _of_this_network(case)


def _of_this_network(case: _Case) -> Iterator[Finding]:
    """Whether the images of the reference have features that its statistics can be of."""
    extractor, pool = case.extractor, case.ref.pool
    if extractor is None or pool is None or pool.dim != extractor.pool_dim:
        return
    total = case.ref.num_images or 0
    step = max(total // _NETWORK_IMAGES, 1)
    # Evenly spaced, for the file may be in class order.
    wanted = np.arange(0, total, step)[:_NETWORK_IMAGES]
    picked = [next(case.ref.batches(1, first=int(k), last=int(k) + 1)) for k in wanted]
    summary = extract_features(from_batches(picked, num_images=len(picked)), extractor)
    own = summary.pool
    if own is None:
        return
    distance, expected = float(((own.mu - pool.mu) ** 2).sum()), float(np.trace(pool.sigma)) / len(wanted)
    spread = float(np.trace(own.sigma) / np.trace(pool.sigma))
    # The mean of n images lies tr(sigma) / n from that of all, squared, give or take little; images of the validation
    # set in place of the training set's, or a JPEG on the way, stay within a few times that.
    if distance > 10 * expected or not 1 / 3 < spread < 3:
        yield Finding(
            id="other-statistics",
            certainty="certain",
            found=f"{case.ref.path}: its statistics are not those of its images by the {extractor.name} network at "
            f"hand: means differ by {distance:.4g} (squared) where {len(wanted)} images give {expected:.4g}, variances "
            f"by a factor of {spread:.3g}",
            advice="They come from another port of Inception, other weights or another resize. Use ADM's own file, or "
            "make the statistics with `dit-eval stats`.",
        )


# --- the run and the result --------------------------------------------------------------------------------------

# Field of the run -> (id, words, advice); the order is that in which they are told where no effect is measured.
_SETTINGS = {
    "model": ("run-model", "model", "Draw from the model that was published."),
    "image_size": ("run-model", "image size", "Draw at the published resolution."),
    "cfg_scale": ("run-guidance", "guidance scale", "Draw again with the published guidance scale."),
    "cfg_channels": ("run-guidance", "guided channels", "The published number guides the first three channels."),
    "num_sampling_steps": ("run-steps", "sampling steps", "Draw again with the published number of steps."),
    "sampler": ("run-sampler", "sampler", "Draw again with the published sampler."),
    "weights": ("run-weights", "set of weights", "Draw from the averaged weights (EMA)."),
    "vae": ("run-decoder", "decoder", "Decode with the published decoder; the paper's Table 5 compares three."),
    "vae_tiling": ("run-decoder", "tiled decoding", "Decode whole latents; tiles change pixels near the seams."),
    "rounding": ("run-rounding", "rounding to 8 bits", "Round as the published sampler did."),
    "labels": ("run-labels", "labels", "Draw labels as published; balanced ones are not the published protocol."),
}


def _run(case: _Case) -> Iterator[Finding]:
    run = case.gen.run
    if run is None:
        return
    expected = case.expect.setting if case.expect else {}
    for name, (finding, words, advice) in _SETTINGS.items():
        if name == "cfg_channels" and run.cfg_scale == 1.0:  # no guidance, no channels; that is told already
            continue
        if name in expected and getattr(run, name) != expected[name]:
            known = getattr(run, name) is not None
            yield Finding(
                id=finding,
                certainty="certain" if known else "possible",
                found=f"{words}: the samples say {getattr(run, name)!r}, {_name(case.expect)} has {expected[name]!r}",
                advice=advice,
            )
    if not expected and run.weights == "model":
        yield Finding(
            id="run-weights",
            certainty="certain",
            found="the samples are drawn from the trained weights, not from their average (EMA)",
            advice="Published numbers are of the averaged weights: draw again with `--weights ema`.",
        )
    if run.precision != "fp32":
        yield Finding(
            id="run-precision",
            certainty="certain",
            found=f"the samples were drawn in {run.precision}",
            advice="DiT's README warns of TF32; its own figure in PyTorch is of float32. Draw again in fp32.",
        )


def _name(expect: Expectation | None) -> str:
    return expect.name if expect else "the published setting"


def _result(case: _Case) -> Iterator[Finding]:
    result = case.result
    if result is None:
        return
    if result.extractor.name != "inception" and case.published:
        yield Finding(
            id="result-network",
            certainty="certain",
            found=f"the result is of the {result.extractor.name} network; the published number is of Inception",
            advice="Score again with `dit-eval evaluate --extractor inception`.",
        )
    if result.extractor.name == "inception" and result.extractor.precision != "fp32":
        yield Finding(
            id="result-precision",
            certainty="certain",
            found=f"the result's features were computed in {result.extractor.precision}",
            advice="Score again with --precision fp32; published statistics are of fp32.",
        )
    if result.distances != "adm-float16" and (result.precision is not None or result.recall is not None):
        yield Finding(
            id="result-distances",
            certainty="certain",
            found=f"precision and recall are by {result.distances} distances; published ones by ADM's float16",
            advice="Score again with --distances adm-float16.",
        )
    if result.extractor.name == "inception" and result.badge is not None and case.published:
        if not result.badge.weights.as_published:
            yield Finding(
                id="result-weights",
                certainty="likely",
                found=f"the result's weights are not known to be the published ones ({result.badge.weights.reason})",
                advice="Score again without --weights, which fetches the published file and checks it.",
            )
        if not result.badge.reference.as_published:
            yield Finding(
                id="result-reference",
                certainty="likely",
                found=f"the result's reference is not known to be ADM's ({result.badge.reference.reason})",
                advice="Score again with --ref imagenet256 or the like, which fetches ADM's file by its name. Other "
                "statistics of the same images have moved published FIDs by up to 0.2.",
            )
    if result.num_samples != case.own.num_images:
        yield Finding(
            id="result-samples",
            certainty="certain",
            found=f"the result is of {result.num_samples:,} samples, the file has {case.own.num_images:,}",
            advice="Score the whole file, or diagnose the part that was scored.",
        )


_CHECKS = (
    *(_range, _size, _copies, _empty, _colours, _resized, _orientation, _jpeg),
    *(_statistics, _result, _run, _classes, _order, _numbers),
)


def _comparisons(expect: Expectation | None, result: EvalResult | None) -> tuple[Comparison, ...]:
    if expect is None or result is None:
        return ()
    rows = []
    for metric, published in expect.metrics.items():
        value = getattr(result, metric)
        if value is None:
            continue
        estimate = getattr(result.uncertainty, metric, None)
        inside = None if estimate is None else estimate.low <= published <= estimate.high
        rows.append(Comparison(metric=metric, published=published, measured=value, inside=inside))
    return tuple(rows)


def _unchecked(case: _Case) -> Iterator[str]:
    if case.reference is None:
        yield f"{case.ref.path} holds no images: colours, orientation, sharpness and range are not compared."
    if case.gen.labels is None:
        why = case.gen.labels_problem or "holds no labels (arr_1)"
        yield f"{case.gen.path}: {why}: the balance of classes is not known."
    if case.gen.run is None:
        yield (
            f"{case.gen.path} does not say how it was drawn: guidance, steps, decoder, precision and the rule of "
            "rounding to 8 bits are not known, and pixels alone do not tell them."
        )
    elif case.expect is None or not case.expect.setting:
        yield "No published setting was named (--expect): guidance, steps and decoder have nothing to compare with."
    if min(case.own.size) < 32:
        yield f"{case.gen.path}: images below 32 px are too small to look for a resize or JPEG in them."
    if case.extractor is None and case.ref.pool is not None:
        yield f"{case.ref.path}: whether its statistics are of this Inception takes the network (--network)."
    if case.result is None and case.expect is not None:
        yield f"No result of {case.gen.path} is known; score it with `dit-eval evaluate`, or name its --results."
