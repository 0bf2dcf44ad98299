"""Precision and recall against brute force, against TensorFlow's own operations, and against their definition.

Many sets here are on a grid: their values are multiples of 1/8 below 2, so that products and sums of 2,048 of them are
exact in float32 in whatever order a matrix library adds them. What is then compared for equality is the rule itself
(roundings to float16, `<=`, fallback, clip) and holds on every processor. Sets that are not on a grid are compared
with tolerances, or with decisions that are checked to be clear of rounding.
"""

import platform
import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from dit_eval.metrics import manifold
from dit_eval.metrics.manifold import PrecisionRecall, precision_recall

MODES = ("adm-float16", "float32")


def grid(seed, rows, dim=2048, clusters=6):
    """Rows around a few centres, (rows, dim) float32, multiples of 1/8 from 0 to 15/8; |f|^2 near 900 at 2,048."""
    centres = np.random.RandomState(77).randint(0, 10, size=(clusters, dim))
    rng = np.random.RandomState(seed)
    values = centres[rng.randint(0, clusters, size=rows)] + rng.randint(0, 6, size=(rows, dim))
    return values.astype(np.float32) / 8


def inception_like(seed, rows, dim=2048, length=400.0):
    """Not negative, sparse, uneven rows (rows, dim) float32 whose mean |f|^2 is `length`."""
    centres = np.random.RandomState(78).gamma(0.5, size=(5, dim))
    rng = np.random.RandomState(seed)
    values = centres[rng.randint(0, 5, size=rows)] * rng.lognormal(sigma=0.4, size=(rows, dim))
    return (values * np.sqrt(length / np.square(values).sum(1).mean())).astype(np.float32)


def counts(result):
    return result.gen_inside, result.ref_inside


def exact_counts(gen, ref, k):
    """The definition, in float64 with every distance at once; also how close the closest decision is, relatively."""
    gen, ref = gen.astype(np.float64), ref.astype(np.float64)
    gen_radii = np.sort(cdist(gen, gen, "sqeuclidean"), axis=1)[:, k]
    ref_radii = np.sort(cdist(ref, ref, "sqeuclidean"), axis=1)[:, k]
    across = cdist(gen, ref, "sqeuclidean")
    margin = min(np.abs(across / ref_radii - 1).min(), np.abs(across / gen_radii[:, None] - 1).min())
    return (int((across <= ref_radii).any(1).sum()), int((across <= gen_radii[:, None]).any(0).sum())), margin


# --- the definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distances", MODES)
def test_collapsed_generator_has_high_precision_and_low_recall(distances):
    # The roles gen and ref cannot be exchanged without failing here.
    rng = np.random.RandomState(0)
    ref = rng.standard_normal((400, 16)).astype(np.float32)
    gen = ref[0] + 0.01 * rng.standard_normal((300, 16)).astype(np.float32)
    result = precision_recall(gen=gen, ref=ref, distances=distances)
    assert result.precision == 1.0
    assert result.recall < 0.01
    assert result.gen_inside == 300
    assert result.recall == result.ref_inside / 400


def test_roles_are_keyword_only():
    with pytest.raises(TypeError):
        precision_recall(grid(0, 8), grid(1, 8))


@pytest.mark.parametrize("distances", MODES)
def test_equal_sets_give_one_and_one(distances):
    features = inception_like(0, 150)
    result = precision_recall(gen=features, ref=features.copy(), distances=distances)
    assert (result.precision, result.recall) == (1.0, 1.0)


@pytest.mark.parametrize("distances", MODES)
def test_distant_sets_give_zero_and_zero(distances):
    result = precision_recall(gen=grid(0, 40, dim=32), ref=grid(1, 50, dim=32) + 8, distances=distances)
    assert (result.precision, result.recall) == (0.0, 0.0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_float32_agrees_with_brute_force_in_float64(k):
    rng = np.random.RandomState(2)
    gen = rng.standard_normal((80, 12)).astype(np.float32)
    ref = (0.3 + 0.8 * rng.standard_normal((90, 12))).astype(np.float32)
    expected, margin = exact_counts(gen, ref, k)
    assert margin > 1e-4  # no decision hangs on float32 rounding, about 1e-6 here
    assert counts(precision_recall(gen=gen, ref=ref, k=k, distances="float32")) == expected
    assert 0 < expected[0] < 80
    assert 0 < expected[1] < 90


@pytest.mark.parametrize("distances", MODES)
@pytest.mark.parametrize("k", [1, 3])
def test_ties_are_inside(k, distances):
    # Small integers: every distance is exact in float16 too, and many equal a radius. A strict `<` fails here.
    rng = np.random.RandomState(5)
    gen = rng.randint(0, 4, size=(90, 20)).astype(np.float32)
    ref = rng.randint(0, 4, size=(120, 20)).astype(np.float32)
    expected, margin = exact_counts(gen, ref, k)
    assert margin == 0
    assert counts(precision_recall(gen=gen, ref=ref, k=k, distances=distances)) == expected


def test_smallest_allowed_sets():
    rows = np.arange(4, dtype=np.float32)[:, None] * np.ones(8, dtype=np.float32)
    result = precision_recall(gen=rows, ref=rows + 0.25)
    assert (result.precision, result.recall) == (1.0, 1.0)


# --- what must not matter ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distances", MODES)
def test_order_of_rows_does_not_matter(distances):
    # By the float16 rule the order matters in two ways only: which rows share a block with one that overflows, and,
    # when D is no multiple of 8, where a row's sum is split. Neither applies here, so the counts are equal.
    gen, ref = grid(0, 230), grid(1, 260)
    rng = np.random.RandomState(9)
    expected = precision_recall(gen=gen, ref=ref, distances=distances)
    shuffled = precision_recall(gen=rng.permutation(gen), ref=rng.permutation(ref), distances=distances)
    assert shuffled == expected
    assert 0 < expected.gen_inside < 230
    assert 0 < expected.ref_inside < 260


@pytest.mark.parametrize("distances", MODES)
@pytest.mark.parametrize(("chunk", "block"), [(5, 10_000), (64, 10_000), (64, 100), (33, 33), (2_000, 31)])
def test_chunk_and_block_sizes_do_not_matter(monkeypatch, chunk, block, distances):
    gen, ref = grid(0, 105), grid(1, 132)
    expected = precision_recall(gen=gen, ref=ref, distances=distances)
    monkeypatch.setattr(manifold, "_CHUNK", chunk)
    monkeypatch.setattr(manifold, "_BLOCK", block)
    assert precision_recall(gen=gen, ref=ref, distances=distances) == expected


def test_caller_settings_for_networks_do_not_matter():
    # TF32 on GPUs, bfloat16 products on CPUs that have them, autocast: all coarser than float32.
    # Nine bits a value: bfloat16 (eight) rounds them, while float32 still holds every sum of 64 products exactly.
    rng = np.random.RandomState(3)
    gen = rng.randint(0, 512, size=(220, 64)).astype(np.float32) / 256
    ref = rng.randint(0, 512, size=(240, 64)).astype(np.float32) / 256
    expected = {mode: precision_recall(gen=gen, ref=ref, distances=mode) for mode in MODES}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        for mode in MODES:
            assert precision_recall(gen=gen, ref=ref, distances=mode) == expected[mode]
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for mode in MODES:
            assert precision_recall(gen=gen, ref=ref, distances=mode) == expected[mode]


def test_kind_of_array_does_not_matter():
    gen, ref = grid(0, 60), grid(1, 70)
    expected = precision_recall(gen=gen, ref=ref)
    read_only = gen.copy()
    read_only.setflags(write=False)
    assert precision_recall(gen=read_only, ref=np.asfortranarray(ref), device=torch.device("cpu")) == expected
    assert precision_recall(gen=gen.astype(np.float64), ref=ref[::-1]) == expected


# --- errors -----------------------------------------------------------------------------------------------------------


def with_value(value):
    features = grid(0, 20, dim=16)
    features[7, 3] = value
    return features


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gen": grid(0, 20, dim=15)}, "gen has 15 feature dimensions, ref has 16"),
        ({"gen": grid(0, 3, dim=16)}, "gen has 3 rows, k=3 needs at least 4"),
        ({"ref": grid(0, 5, dim=16), "k": 5}, "ref has 5 rows, k=5 needs at least 6"),
        ({"ref": with_value(np.nan)}, "ref row 7 holds NaN or infinity"),
        ({"gen": with_value(-np.inf)}, "gen row 7 holds NaN or infinity"),
        ({"gen": with_value(1e19)}, r"gen: the largest \|f\|\^2 is"),
        ({"gen": np.zeros((20, 16, 1), np.float32)}, r"gen has shape \(20, 16, 1\)"),
        ({"ref": np.zeros(16, np.float32)}, r"ref has shape \(16,\)"),
        ({"k": 0}, "k=0 gives no neighbour"),
        ({"distances": "float64"}, "distances='float64' is unknown"),
    ],
)
def test_errors_say_what_was_found(changes, message):
    arguments = {"gen": grid(0, 20, dim=16), "ref": grid(1, 20, dim=16)} | changes
    with pytest.raises(ValueError, match=message):
        precision_recall(**arguments)


# --- the evaluator's rule ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside TensorFlow and what it imports
        import tensorflow
    return tensorflow


def tf_distances(tf, u, v):
    """Squared distances of all rows of u and v in one type, (U, V), by the evaluator's operations in its order."""
    u_norms = tf.reduce_sum(tf.square(u), 1)[:, None]
    v_norms = tf.reduce_sum(tf.square(v), 1)[None, :]
    return tf.maximum(u_norms - 2 * tf.matmul(u, v, transpose_b=True) + v_norms, 0)


def tf_block(tf, u, v):
    """One block: in float16, or in float32 if a value is not finite; and which of the two it was."""
    half = tf_distances(tf, tf.cast(u, tf.float16), tf.cast(v, tf.float16)).numpy()
    if np.isfinite(half).all():
        return half.astype(np.float32), False
    return tf_distances(tf, tf.constant(u), tf.constant(v)).numpy(), True


def tf_precision_recall(tf, gen, ref, block):
    """What the evaluator does with blocks of this size: counts, and how many blocks fell back."""
    fallbacks = 0

    def all_distances(u, v):
        nonlocal fallbacks
        out = np.empty((len(u), len(v)), np.float32)
        for i in range(0, len(u), block):
            for j in range(0, len(v), block):
                values, fell_back = tf_block(tf, u[i : i + block], v[j : j + block])
                out[i : i + block, j : j + block] = values
                fallbacks += fell_back
        return out

    gen_radii = np.sort(all_distances(gen, gen), axis=1)[:, 3]
    ref_radii = np.sort(all_distances(ref, ref), axis=1)[:, 3]
    across = all_distances(ref, gen)
    return int((across <= ref_radii[:, None]).any(0).sum()), int((across <= gen_radii).any(1).sum()), fallbacks


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="TensorFlow's packets are of another size")
@pytest.mark.parametrize("dim", [3, 40, 64, 100, 1600, 1608, 2023, 2048, 4096])
def test_norms_equal_tensorflow_bit_for_bit(tf, dim):
    for scale in (0.05, 1.0, 6.0):
        features = (scale * np.random.RandomState(dim).gamma(0.5, size=(203, dim))).astype(np.float16)
        expected = tf.reduce_sum(tf.square(tf.constant(features)), 1).numpy()
        np.testing.assert_array_equal(manifold._norms_float16(torch.from_numpy(features)).numpy(), expected)


def our_block(u, v):
    """Float16 distances of u to v as float32 (U, V), and the rounded products -2 u.v."""
    cpu = torch.device("cpu")
    u_set, v_set = (manifold._FeatureSet(x, "gen", True, cpu) for x in (u, v))
    block = manifold._Block(u_set, slice(0, len(u)), v_set, slice(0, len(v)), torch.float16)
    products = block.products(slice(0, len(u)))
    distances = manifold._distances(products, block.u_norms[:, None], block.v_norms)
    return manifold._as_float32(distances).numpy(), products.float().numpy(), block


@pytest.mark.parametrize("length", [200, 400, 2_000, 12_000])
def test_distances_equal_tensorflow(tf, length):
    u, v = inception_like(1, 500, length=length), inception_like(2, 450, length=length)
    expected, fell_back = tf_block(tf, u, v)
    found, products, block = our_block(u, v)
    assert not fell_back
    if manifold._has_float16_products(torch.device("cpu")):
        np.testing.assert_array_equal(found, expected)
    assert (found == expected).mean() > 0.999
    # A product that is rounded the other way is one step off, and so may be each of the two sums that follow.
    sums = block.u_norms.float().numpy()[:, None] + products
    steps = sum(np.spacing(np.abs(x).astype(np.float16)).astype(np.float32) for x in (products, sums, expected))
    assert (np.abs(found - expected) <= steps).all()


def test_distances_on_a_grid_equal_tensorflow_bit_for_bit(tf):
    u, v = grid(1, 300), grid(2, 250)
    expected, _ = tf_block(tf, u, v)
    found, _, _ = our_block(u, v)
    np.testing.assert_array_equal(found, expected)
    assert (found != cdist(u, v, "sqeuclidean")).mean() > 0.3  # so float16 rounding was put to the test


def test_counts_equal_tensorflow(tf):
    gen, ref = grid(3, 330), grid(4, 300)
    *expected, fallbacks = tf_precision_recall(tf, gen, ref, block=10_000)
    assert fallbacks == 0
    result = precision_recall(gen=gen, ref=ref)
    assert counts(result) == tuple(expected)
    assert counts(result) != counts(precision_recall(gen=gen, ref=ref, distances="float32"))


@pytest.mark.parametrize(("chunk", "block"), [(2_000, 10_000), (16, 10_000), (16, 64)])
@pytest.mark.parametrize(("seed", "dim", "high"), [(0, 1, 141), (18, 1, 141), (7, 2, 50), (28, 3, 40), (6, 8, 50)])
def test_order_of_operations_equals_tensorflow(tf, monkeypatch, seed, dim, high, chunk, block):
    # Integers so large that errors of float16 exceed the distances: radii depend on which norm is added first and on
    # the row's own distance, which is seldom 0. The seeds are among those for which a count depends on it too, or
    # (18) on the clip of negative distances.
    gen = np.random.RandomState(seed).randint(0, high, size=(150, dim)).astype(np.float32)
    ref = np.random.RandomState(seed + 50).randint(0, high, size=(130, dim)).astype(np.float32)
    monkeypatch.setattr(manifold, "_CHUNK", chunk)
    monkeypatch.setattr(manifold, "_BLOCK", block)
    *expected, _ = tf_precision_recall(tf, gen, ref, block)
    assert counts(precision_recall(gen=gen, ref=ref)) == tuple(expected)
    for features in (gen, ref):
        radii, _ = manifold._radii(manifold._FeatureSet(features, "gen", True, torch.device("cpu")), 3)
        full, _ = tf_block(tf, features, features)
        np.testing.assert_array_equal(radii.numpy(), np.sort(full, axis=1)[:, 3])


@pytest.mark.parametrize("chunk", [2_000, 83])  # 500 = 6 x 83 + 2 and 416 = 5 x 83 + 1: a last row must not be alone
def test_counts_off_the_grid_equal_tensorflow(tf, monkeypatch, chunk):
    monkeypatch.setattr(manifold, "_CHUNK", chunk)
    gen, ref = inception_like(3, 500), inception_like(4, 416)
    *expected, _ = tf_precision_recall(tf, gen, ref, block=10_000)
    exact = manifold._has_float16_products(torch.device("cpu"))
    np.testing.assert_allclose(counts(precision_recall(gen=gen, ref=ref)), expected, rtol=0, atol=0 if exact else 1)
    for features in (gen, ref):
        radii, _ = manifold._radii(manifold._FeatureSet(features, "gen", True, torch.device("cpu")), 3)
        full, _ = tf_block(tf, features, features)
        share = (radii.numpy() == np.sort(full, axis=1)[:, 3]).mean()
        assert share == 1 if exact else share > 0.98


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 11])
def test_chunks_cover_all_rows_and_leave_none_alone(monkeypatch, rows):
    monkeypatch.setattr(manifold, "_CHUNK", 5)
    chunks = manifold._chunks(rows)
    assert [i for start, end in chunks for i in range(start, end)] == list(range(rows))
    assert rows == 1 or min(end - start for start, end in chunks) > 1


@pytest.mark.parametrize("long_rows", [[130], [5, 7, 9, 11, 13, 15], [70, 71, 72, 73, 74, 75]])
def test_only_blocks_with_an_overflow_are_redone_in_float32(tf, monkeypatch, long_rows):
    # Blocks of 64 instead of 10,000. The rows are scaled by 16, so their |f|^2 is far above float16's 65,504; a grid
    # that coarse keeps the sums exact in float32.
    gen, ref = grid(5, 140), grid(6, 90)
    gen[long_rows] *= 16
    monkeypatch.setattr(manifold, "_BLOCK", 64)
    *expected, fallbacks = tf_precision_recall(tf, gen, ref, block=64)
    result = precision_recall(gen=gen, ref=ref)
    assert counts(result) == tuple(expected)
    # Of 3 x 3 + 2 x 2 + 2 x 3 blocks: a row and a column of gen with itself, and a column of ref with gen.
    assert result.float32_blocks == fallbacks == 7
    assert result.clipped_risk


def test_overflow_without_an_infinite_norm_is_redone_in_float32(tf):
    # |u|^2 and |v|^2 fit float16, their sum does not.
    rng = np.random.RandomState(8)
    ref = np.hstack([176 + rng.randint(0, 5, size=(40, 1)), rng.randint(0, 6, size=(40, 31))]).astype(np.float32)
    gen = ref[:, ::-1].copy()  # at a right angle, nearly: 31,000 + 31,000 and more
    ref[0, 0] = gen[0, -1] = 196
    *expected, fallbacks = tf_precision_recall(tf, gen, ref, block=10_000)
    result = precision_recall(gen=gen, ref=ref)
    assert counts(result) == tuple(expected)
    assert result.float32_blocks == fallbacks >= 1


def test_silent_clip_is_copied_and_flagged(tf):
    # All rows are nearly parallel with |f|^2 around 38,000: 2 u.v overflows, -inf is clipped to 0, nothing falls back.
    rng = np.random.RandomState(6)
    gen = (24 + rng.randint(0, 3, size=(50, 64))).astype(np.float32)
    ref = gen[:45] + np.tile([2, -2], 32).astype(np.float32)
    assert tf_precision_recall(tf, gen, ref, block=10_000) == (50, 45, 0)
    assert precision_recall(gen=gen, ref=ref) == PrecisionRecall(
        precision=1.0, recall=1.0, gen_inside=50, ref_inside=45, float32_blocks=0, clipped_risk=True
    )
    right = precision_recall(gen=gen, ref=ref, distances="float32")
    assert (right.precision, right.recall) == (0.0, 0.0)
    assert not right.clipped_risk


def test_ordinary_features_are_not_flagged():
    result = precision_recall(gen=inception_like(1, 40), ref=inception_like(2, 40))
    assert result.float32_blocks == 0
    assert not result.clipped_risk
