"""Parity with ADM's own evaluator, whose outputs are in goldens/ (see goldens/README.md for how they were made)."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating import evaluate
from golden_sets import FEATURE_PAIRS, batch_arrays, features, image_set

from dit_eval.features.graph_def import read_constants
from dit_eval.images.npz import open_batch
from dit_eval.metrics.inception_score import inception_score
from dit_eval.metrics.manifold import _has_float16_products, precision_recall

pytestmark = pytest.mark.parity

GOLDENS = Path(__file__).parent / "goldens"
ADM = json.loads((GOLDENS / "adm.json").read_text())
SIZES = (64, 256)


def assert_is_the_recorded_input(array, recorded):
    """A random stream that changed would make every comparison below meaningless."""
    assert list(array.shape) == recorded["shape"]
    assert hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() == recorded["sha256"]


@pytest.fixture(scope="module")
def results(tmp_path_factory, kept_inception):
    """Our results on the same files, at 64 px and at 256 px."""
    folder = tmp_path_factory.mktemp("batches")
    found = {}
    for size in SIZES:
        for role in ("gen", "ref"):
            arrays = batch_arrays(f"{role}-{size}")
            for key, array in arrays.items():
                assert_is_the_recorded_input(array, ADM["inputs"][f"{role}-{size}"][key])
            np.savez(folder / f"{role}-{size}.npz", **arrays)
        found[size] = evaluate(
            gen=open_batch(folder / f"gen-{size}.npz", role="gen"),
            ref=open_batch(folder / f"ref-{size}.npz", role="ref"),
            extractor=kept_inception,
        )
    return found


# What is left of a difference comes from other float32 arithmetic in the network and from the evaluator's `sqrtm`
# below full rank; see goldens/README.md. The limits leave a factor of 2 to that. The smallest mistake worth catching
# (a covariance over N instead of N - 1) moves FID by 1e-3 of its value.
@pytest.mark.parametrize("size", SIZES)
def test_npz_files_score_as_the_evaluator_scores_them(results, size):
    ours, adm = results[size], ADM["evaluate"][f"gen-{size} against ref-{size}"]
    assert ours.fid == pytest.approx(adm["fid"], abs=3e-4)
    assert ours.sfid == pytest.approx(adm["sfid"], abs=1e-3)
    assert ours.inception_score == pytest.approx(adm["inception_score"], rel=2e-5)
    assert ours.precision == pytest.approx(adm["precision"], abs=2.01 / adm["num_gen"])
    assert ours.recall == pytest.approx(adm["recall"], abs=2.01 / adm["num_ref"])
    reference = {64: "own", 256: "unknown statistics"}[size]  # the second file holds statistics, as ADM's do
    assert ours.protocol == f"adm-2021 except weights (unknown), reference ({reference})"
    assert ours.num_samples == adm["num_gen"]
    assert ours.num_reference == adm["num_ref"]


@pytest.mark.parametrize("size", SIZES)
def test_features_are_those_of_the_evaluators_graph(torch_inception, size):
    with np.load(GOLDENS / "adm_features.npz") as adm:
        found = torch_inception(image_set(f"gen-{size}")[:3])
        for part in ("pool", "spatial"):
            expected = adm[f"gen-{size}/{part}"]
            assert np.abs(getattr(found, part) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("pair", FEATURE_PAIRS)
def test_precision_and_recall_equal_the_evaluators_on_the_same_features(pair):
    gen, ref = features(f"{pair}-gen"), features(f"{pair}-ref")
    assert_is_the_recorded_input(gen, ADM["inputs"][f"{pair}-gen"])
    assert_is_the_recorded_input(ref, ADM["inputs"][f"{pair}-ref"])
    ours, adm = precision_recall(gen=gen, ref=ref), ADM["manifold"][pair]
    # The goldens were made where TensorFlow has oneDNN's float16 kernel. One image of `large` hangs on its last bit.
    exact = pair != "large" or _has_float16_products(torch.device("cpu"))
    assert ours.gen_inside == pytest.approx(adm["gen_inside"], abs=0 if exact else 1)
    assert ours.ref_inside == adm["ref_inside"]
    assert ours.precision == pytest.approx(adm["precision"], abs=0 if exact else 1.01 / adm["num_gen"])
    assert ours.recall == adm["recall"]


def test_inception_score_of_more_than_one_split_equals_the_evaluators(inception_files):
    pool = features("score-gen")  # 11,300 rows: two full splits and a short one
    assert_is_the_recorded_input(pool, ADM["inputs"]["score-gen"])
    weights = read_constants(inception_files.pb)["softmax/weights"]
    logits = pool.astype(np.float64) @ weights
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32)
    adm = ADM["inception_score"]["score-gen"]
    assert inception_score(probs) == pytest.approx(adm["inception_score"], rel=2e-5)
