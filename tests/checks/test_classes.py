"""Per-class scores: closed forms, another program, draws; the command on real digits."""

import json

import numpy as np
import pytest
from torch_fidelity.metric_kid import kernel_mmd

from dit_eval.checks.classes import images_of_class, score_classes
from dit_eval.cli import main
from dit_eval.images import from_batches, open_images
from dit_eval.images.npz import write_batch
from dit_eval.metrics.per_class import class_scores

KERNEL = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}


def write(path, images, **arrays):
    write_batch(path, images=[images], shape=images.shape, arrays=arrays)
    return path


def scored(gen, ref):
    """The only class of these features."""
    labels = [np.zeros(len(side), np.int64) for side in (gen, ref)]
    (score,) = class_scores(gen=gen, gen_labels=labels[0], ref=ref, ref_labels=labels[1])
    return score


def test_equals_torch_fidelity_where_both_sides_have_as_many_images():
    rng = np.random.RandomState(0)
    gen, ref = rng.normal(0.2, 1, (30, 64)), rng.normal(0, 1, (30, 64))
    assert scored(gen, ref).kid == pytest.approx(kernel_mmd(gen, ref, **KERNEL), rel=1e-12)


def test_equals_the_sums_over_pairs_that_define_it():
    rng = np.random.RandomState(1)
    gen, ref = rng.normal(0.5, 1, (5, 8)), rng.normal(0, 1, (3, 8))

    def k(a, b):
        return (a @ b / 8 + 1) ** 3

    within = [np.mean([k(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]) for x in (gen, ref)]
    across = np.mean([k(a, b) for a in gen for b in ref])
    assert scored(gen, ref).kid == pytest.approx(sum(within) - 2 * across, rel=1e-12)


def kernel_mean(a, b, dim):
    """E (x.y / dim + 1)^3 for independent x ~ N(a, I), y ~ N(b, I), from the moments of x_d y_d."""
    mean, variance = a * b, 1 + a**2 + b**2
    third = (a**3 + 3 * a) * (b**3 + 3 * b) - 3 * mean * (1 + a**2) * (1 + b**2) + 2 * mean**3
    return (1 + mean) ** 3 + 3 * (1 + mean) * variance / dim + third / dim**2


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.4])
def test_expected_value_and_standard_error_hold_over_draws(shift):
    """As of a class of 50 samples and 10 reference images, in more dimensions than images."""
    rng, dim = np.random.RandomState(2), 128
    drawn = [scored(rng.normal(shift, 1, (50, dim)), rng.normal(0, 1, (10, dim))) for _ in range(600)]
    values = np.array([score.kid for score in drawn])
    expected = kernel_mean(shift, shift, dim) + kernel_mean(0, 0, dim) - 2 * kernel_mean(shift, 0, dim)
    assert abs(values.mean() - expected) < 4 * values.std(ddof=1) / np.sqrt(600)
    error = np.sqrt(np.mean([score.standard_error**2 for score in drawn]))
    # Right where the sides differ, too large where they do not.
    assert 0.9 < error / values.std(ddof=1) < (1.25 if shift > 0.3 else 2.0)


def test_classes_are_told_apart_and_counted():
    rng = np.random.RandomState(4)
    ref, ref_labels = rng.normal(0, 1, (90, 16)), np.repeat([0, 1, 2], 30)
    gen, gen_labels = rng.normal(0, 1, (64, 16)), np.repeat([0, 1, 3, 4], [30, 30, 3, 1])
    gen[30:60] += 1
    scores = class_scores(gen=gen, gen_labels=gen_labels, ref=ref, ref_labels=ref_labels)
    assert [(s.label, s.num_gen, s.num_ref) for s in scores] == [
        *((0, 30, 30), (1, 30, 30)),
        *((2, 0, 30), (3, 3, 0), (4, 1, 0)),
    ]
    assert [s.kid is None for s in scores] == [False, False, True, True, True]
    assert scores[1].kid > 10 * abs(scores[0].kid)
    assert abs(scores[0].kid) < 3 * scores[0].standard_error
    mixed = rng.permutation(64)
    again = class_scores(gen=gen[mixed], gen_labels=gen_labels[mixed], ref=ref, ref_labels=ref_labels)
    assert again[1].kid == pytest.approx(scores[1].kid, rel=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gen_labels": np.zeros(3, int)}, "gen has features of shape"),
        ({"ref": np.zeros((4, 9))}, "Feature dimensions differ: gen 8, ref 9"),
        ({"ref": np.full((4, 8), np.nan)}, "ref holds NaN"),
    ],
)
def test_bad_features_are_refused(change, message):
    sides = {"gen": np.zeros((4, 8)), "gen_labels": np.zeros(4, int), "ref": np.zeros((4, 8))}
    with pytest.raises(ValueError, match=message):
        class_scores(**sides | {"ref_labels": np.zeros(4, int)} | change)


# --- files and the command ----------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(tmp_path, digits):
    """The held-out digits, threes turned upside down and fives upside down in part."""
    images = digits.images.copy()
    images[digits.labels == 3] = images[digits.labels == 3][:, ::-1, ::-1] // 2
    some = np.flatnonzero(digits.labels == 5)[::2]
    images[some] = 255 - images[some]
    return write(tmp_path / "gen.npz", images, arr_1=digits.labels)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["classes", *map(str, arguments)])
    return ended.value.code


def test_the_worst_classes_of_spoilt_digits(spoilt, digits, digits_ref, digits_extractor, tmp_path):
    gen, ref = open_images(spoilt, role="gen"), open_images(digits_ref, role="ref")
    report = score_classes(gen=gen, ref=ref, extractor=digits_extractor, cache=tmp_path / "cache")
    assert {score.label for score in report.worst(2)} == {3, 5}
    assert [score.num_gen for score in report.scores] == list(np.bincount(digits.labels))
    assert [score.num_ref for score in report.scores] == list(np.bincount(ref.labels))
    others = [score for score in report.scores if score.label not in (3, 5)]
    assert all(abs(score.kid) < 4 * score.standard_error for score in others)
    assert report.gen.sha256 == gen.sha256()
    assert report.warnings == ()


def test_a_missing_class_is_said(digits, digits_ref, digits_extractor, tmp_path):
    kept = digits.labels != 7
    gen = open_images(write(tmp_path / "gen.npz", digits.images[kept], arr_1=digits.labels[kept]), role="gen")
    report = score_classes(gen=gen, ref=open_images(digits_ref, role="ref"), extractor=digits_extractor)
    assert report.scores[7].kid is None
    assert any("1 of 10 classes have no samples" in warning for warning in report.warnings)
    assert "1 classes without a distance" in report.text()


def test_the_command(spoilt, digits_ref, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    with pytest.raises(SystemExit):
        main(["evaluate", str(spoilt), "--ref", str(digits_ref), "--extractor", "digits", "--cache", str(cache)])
    entries = sorted(path.name for path in cache.iterdir())
    capsys.readouterr()
    options = [spoilt, "--ref", digits_ref, "--extractor", "digits", "--cache", cache]
    assert run(*options, "--worst", 3, "--grid", tmp_path / "worst.png", "--images", 4) == 0
    out, err = capsys.readouterr()
    assert sorted(path.name for path in cache.iterdir()) == entries, "the features of evaluate serve"
    lines = out.splitlines()
    assert lines[0] == "10 classes, features of digits"
    assert [line.split()[0] for line in lines[-3:-1]] in (["3", "5"], ["5", "3"])
    assert "worst.png" in err
    assert (tmp_path / "worst.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "worst.pdf").read_bytes().startswith(b"%PDF")
    assert run(*options, "--json", "-") == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["scores"]) == 10
    assert report["extractor"]["name"] == "digits"
    assert report["environment"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--worst", "0"], "needed at least 1 of each"),
        (["--num-samples", "501"], "501"),
    ],
)
def test_mistakes(spoilt, digits_ref, capsys, arguments, message):
    assert run(spoilt, "--ref", digits_ref, "--extractor", "digits", *arguments) == 2
    assert message in capsys.readouterr().err


def test_sets_without_classes_are_refused(digits, digits_ref, digits_extractor, tmp_path):
    ref = open_images(digits_ref, role="ref")
    plain = open_images(write(tmp_path / "plain.npz", digits.images), role="gen")
    beyond = open_images(write(tmp_path / "beyond.npz", digits.images, arr_1=digits.labels + 10), role="gen")
    below = open_images(write(tmp_path / "below.npz", digits.images, arr_1=digits.labels - 1), role="gen")
    stream = from_batches([digits.images])
    for gen, message in (
        (plain, "has no labels"),
        (beyond, "no class in common"),
        (below, "labels below 0"),
        (stream, "can be read again"),
    ):
        with pytest.raises(ValueError, match=message):
            score_classes(gen=gen, ref=ref, extractor=digits_extractor)
    with pytest.raises(ValueError, match="no image of class 11"):
        images_of_class(ref, 11, 2)


def test_images_of_a_class_are_read_one_by_one(digits, tmp_path):
    images = open_images(write(tmp_path / "gen.npz", digits.images, arr_1=digits.labels), role="gen")
    found = images_of_class(images, 4, 5)
    assert np.array_equal(found, digits.images[digits.labels == 4][:5])
