"""The embedded digits files and the extractor: provenance, quality, and what its features react to."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
from numpy.testing import assert_allclose, assert_array_equal

import dit_eval.features.digits
from dit_eval.features.digits import WEIGHTS_PATH, DigitsExtractor, prepare_images

REFERENCE_STATS = Path(__file__).resolve().parents[2] / "reference_stats"


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE_STATS / "digits.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def heldout():
    with np.load(REFERENCE_STATS / "digits-heldout.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def extractor():
    return DigitsExtractor()


@pytest.fixture(scope="module")
def reference_features(extractor, reference):
    return extractor(reference["arr_0"])


@pytest.fixture(scope="module")
def heldout_features(extractor, heldout):
    return extractor(heldout["arr_0"])


def binomial_blur(images):
    """3x3 kernel (1 2 1) x (1 2 1) / 16 with black around the image."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return np.round((rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4).astype(np.uint8)


def grey_noise(images):
    """Gaussian noise with a standard deviation of 32 grey levels, equal in the three channels."""
    noise = np.random.RandomState(0).normal(0, 32, size=(*images.shape[:3], 1))
    return np.clip(np.round(images + noise), 0, 255).astype(np.uint8)


def frechet(features_a, features_b):
    """Written here, apart from dit_eval.metrics: eigenvalues of the unsymmetric product of the covariances."""
    a, b = features_a.astype(np.float64), features_b.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(min=0))
    return ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum()


def test_files_hold_scikit_learns_digits_under_the_documented_split(reference, heldout):
    digits = importlib.import_module("sklearn.datasets").load_digits()
    # The rule of reference_stats/README.md, written a second time.
    words = np.random.PCG64(0).random_raw(1797)
    order = sorted(range(1797), key=lambda row: words[row])
    by_class = sorted(order, key=lambda row: digits.target[row])
    chosen = {by_class[(2 * i + 1) * 1797 // 1000] for i in range(500)}
    assert len(chosen) == 500
    for part, rows in (
        (reference, [row for row in order if row not in chosen]),
        (heldout, [row for row in order if row in chosen]),
    ):
        expected = np.round(digits.images[rows] * 255 / 16)
        assert part["arr_0"].shape == (len(rows), 8, 8, 3)
        assert part["arr_0"].dtype == np.uint8
        assert part["arr_1"].dtype == np.int64
        assert_array_equal(part["arr_0"], np.stack([expected] * 3, axis=-1))
        assert_array_equal(part["arr_1"], digits.target[rows])
        assert_allclose(np.bincount(part["arr_1"]), np.bincount(digits.target) * len(rows) / 1797, atol=1)


def test_heldout_digits_are_classified(heldout, heldout_features):
    assert_allclose(heldout_features.class_probs.sum(axis=1), 1, atol=1e-6)
    assert (heldout_features.class_probs.argmax(axis=1) == heldout["arr_1"]).mean() >= 0.985


def test_stored_statistics_are_the_extractors(reference, reference_features):
    for features, mu, sigma in (
        (reference_features.pool, "mu", "sigma"),
        (reference_features.spatial, "mu_s", "sigma_s"),
    ):
        features = features.astype(np.float64)
        assert reference[mu].dtype == reference[sigma].dtype == np.float64
        assert_allclose(reference[mu], features.mean(axis=0), rtol=0, atol=1e-5 * np.abs(reference[mu]).max())
        expected = np.cov(features, rowvar=False)
        assert_allclose(reference[sigma], expected, rtol=0, atol=1e-5 * np.abs(reference[sigma]).max())


def test_features_have_the_declared_shapes_and_are_non_negative(extractor, heldout_features):
    assert extractor.name == "digits"
    assert heldout_features.pool.shape == (500, extractor.pool_dim) == (500, 64)
    assert heldout_features.spatial.shape == (500, extractor.spatial_dim) == (500, 7 * 4 * 4)
    assert heldout_features.class_probs.shape == (500, extractor.num_classes) == (500, 10)
    for features in (heldout_features.pool, heldout_features.spatial, heldout_features.class_probs):
        assert features.dtype == np.float32
        assert features.min() >= 0


def test_pool_features_spread_over_many_directions(reference):
    # A plain classifier's features lie near a space of nine dimensions, where FID would see class counts and no more.
    share = np.linalg.eigvalsh(reference["sigma"]) / np.trace(reference["sigma"])
    assert share.min() > 0
    assert np.exp(-(share * np.log(share)).sum()) > 30


def test_an_image_does_not_depend_on_its_batch(extractor, heldout, heldout_features):
    for start, stop in ((0, 1), (17, 18), (100, 133)):
        alone = extractor(heldout["arr_0"][start:stop])
        for name in ("pool", "spatial", "class_probs"):
            assert_allclose(getattr(alone, name), getattr(heldout_features, name)[start:stop], rtol=1e-6, atol=1e-6)


def test_8x8_images_are_upsampled_with_half_pixel_centres(heldout):
    # Along one axis, output 2i lies a quarter of a pixel before input i and output 2i + 1 a quarter behind it.
    matrix = np.zeros((16, 8))
    for i in range(8):
        for offset in (0, 1):
            matrix[2 * i + offset, i] += 0.75
            matrix[2 * i + offset, min(max(i + 2 * offset - 1, 0), 7)] += 0.25
    grey = heldout["arr_0"][:, :, :, 0] / 255
    assert_allclose(prepare_images(heldout["arr_0"])[:, 0].numpy(), matrix @ grey @ matrix.T, atol=1e-12)


def test_16x16_images_pass_unchanged_and_larger_ones_are_antialiased():
    noise = np.random.RandomState(0).randint(0, 256, size=(3, 16, 16, 3), dtype=np.uint8)
    assert_allclose(prepare_images(noise)[:, 0].numpy(), noise.mean(axis=-1) / 255, atol=1e-12)
    # Every fourth column is white: point sampling at a quarter of the size would miss all of them.
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::4] = 255
    assert_allclose(prepare_images(stripes)[..., 1:-1].numpy(), 0.25, atol=1e-12)


def test_a_digit_keeps_its_features_at_16x16(extractor, heldout, heldout_features):
    upsampled = np.round(prepare_images(heldout["arr_0"])[:, 0].numpy() * 255).astype(np.uint8)
    bilinear = extractor(np.repeat(upsampled[..., None], 3, axis=-1))
    assert_allclose(bilinear.pool, heldout_features.pool, atol=0.02 * heldout_features.pool.max())
    nearest = extractor(heldout["arr_0"].repeat(2, axis=1).repeat(2, axis=2))
    same_class = nearest.class_probs.argmax(axis=1) == heldout_features.class_probs.argmax(axis=1)
    assert same_class.mean() > 0.95


# Held-out digits against the reference (pool, spatial); the table in reference_stats/README.md. New weights or another
# resize change these numbers, and that is a breaking change.
FRECHET_DISTANCES = {
    "clean": (0.8876, 1.9439),
    "noisy": (1.9878, 4.4397),
    "five classes": (7.1911, 6.6692),
    "one class": (27.2285, 24.4759),
    "blurred": (43.2218, 30.4754),
}


def test_frechet_distance_grows_with_blur_noise_and_class_collapse(extractor, reference_features, heldout):
    images, labels = heldout["arr_0"], heldout["arr_1"]
    changed = {
        "clean": images,
        "noisy": grey_noise(images),
        "five classes": images[labels < 5],
        "one class": images[labels == 3],
        "blurred": binomial_blur(images),
    }
    features = {name: extractor(batch) for name, batch in changed.items()}
    pool = {name: frechet(f.pool, reference_features.pool) for name, f in features.items()}
    spatial = {name: frechet(f.spatial, reference_features.spatial) for name, f in features.items()}
    for distances in (pool, spatial):
        clean = distances.pop("clean")
        assert min(distances.values()) > 2 * clean
        assert distances["one class"] > 3 * distances["five classes"]
        distances["clean"] = clean
    for name, (expected_pool, expected_spatial) in FRECHET_DISTANCES.items():
        assert_allclose(pool[name], expected_pool, rtol=1e-3)
        assert_allclose(spatial[name], expected_spatial, rtol=1e-3)


def test_weights_file_is_small_and_says_how_it_was_made(heldout, heldout_features):
    assert WEIGHTS_PATH.stat().st_size < 1_000_000
    with safetensors.safe_open(WEIGHTS_PATH, framework="np") as file:
        how_made = json.loads(file.metadata()["dit_eval"])
    assert how_made["script"] == "reference_stats/make_digits.py"
    assert {"seed", "data", "split", "epochs", "torch_version"} <= how_made.keys()
    measured = (heldout_features.class_probs.argmax(axis=1) == heldout["arr_1"]).mean()
    assert how_made["heldout_accuracy"] == pytest.approx(measured)


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(DigitsExtractor, "weights_sha256", "0" * 64)
    with pytest.raises(ValueError, match="SHA-256"):
        DigitsExtractor()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
    ids=["float", "channels first", "one image", "empty"],
)
def test_arrays_that_are_no_image_batch_are_refused(extractor, images):
    with pytest.raises(ValueError, match=r"needs \(B, H, W, 3\)"):
        extractor(images)


def test_scikit_learn_is_not_needed_to_extract(monkeypatch, heldout):
    monkeypatch.setitem(sys.modules, "sklearn", None)  # importing it now fails
    fresh = runpy.run_path(dit_eval.features.digits.__file__)
    assert fresh["DigitsExtractor"]()(heldout["arr_0"][:2]).pool.shape == (2, 64)
