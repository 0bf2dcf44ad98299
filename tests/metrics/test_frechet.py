import numpy as np
import pytest
from scipy import linalg

from dit_eval.metrics import frechet
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.summary import GaussianStats


def fit(features):
    return GaussianStats(mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False), num=len(features))


def spd(rng, dim):
    a = rng.normal(size=(dim, dim + 5))
    return a @ a.T / dim


def test_closed_form_of_diagonal_covariances():
    rng = np.random.RandomState(0)
    a, b = rng.uniform(0.1, 4, 300), rng.uniform(0.1, 4, 300)
    gen = GaussianStats(mu=rng.normal(size=300), sigma=np.diag(a))
    ref = GaussianStats(mu=rng.normal(size=300), sigma=np.diag(b))
    exact = np.sum((gen.mu - ref.mu) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert frechet_distance(gen=gen, ref=ref).value == pytest.approx(exact, rel=1e-10)


def test_closed_form_of_scaled_and_commuting_covariances():
    rng = np.random.RandomState(1)
    sigma, c = spd(rng, 200), 2.5
    mu = rng.normal(size=200)
    exact = (1 - np.sqrt(c)) ** 2 * np.trace(sigma)
    distance = frechet_distance(gen=GaussianStats(mu=mu, sigma=c * sigma), ref=GaussianStats(mu=mu, sigma=sigma))
    assert distance.value == pytest.approx(exact, rel=1e-10)


def test_a_shift_alone_counts_with_its_square():
    sigma = spd(np.random.RandomState(2), 100)
    shifted = frechet_distance(
        gen=GaussianStats(mu=np.full(100, 3.0), sigma=sigma), ref=GaussianStats(mu=np.zeros(100), sigma=sigma)
    )
    assert shifted.value == pytest.approx(900.0, rel=1e-10)


def test_general_covariances_agree_with_scipys_matrix_square_root():
    rng = np.random.RandomState(3)
    gen = GaussianStats(mu=rng.normal(size=150), sigma=spd(rng, 150))
    ref = GaussianStats(mu=rng.normal(size=150), sigma=spd(rng, 150))
    root = linalg.sqrtm(gen.sigma @ ref.sigma)
    exact = np.sum((gen.mu - ref.mu) ** 2) + np.trace(gen.sigma + ref.sigma - 2 * root.real)
    assert frechet_distance(gen=gen, ref=ref).value == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize(("num_gen", "num_ref"), [(60, 90), (60, 2000), (2000, 60), (2, 3)])
def test_fewer_images_than_dimensions_stay_real_finite_and_right(num_gen, num_ref):
    # Independent reference for rank-deficient sets: tr((S_g S_r)^(1/2)) is the nuclear norm of the product of the
    # two centred, scaled data matrices, which has no null space to go wrong.
    rng = np.random.RandomState(4)
    scale = rng.uniform(0.01, 2.0, 256)
    gen, ref = rng.normal(size=(num_gen, 256)) * scale, rng.normal(size=(num_ref, 256)) * scale + 0.1
    factors = [(x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (gen, ref)]
    nuclear = linalg.svdvals(factors[0] @ factors[1].T).sum()
    exact = np.sum((gen.mean(axis=0) - ref.mean(axis=0)) ** 2) + sum(np.sum(f**2) for f in factors) - 2 * nuclear
    distance = frechet_distance(gen=fit(gen), ref=fit(ref))
    assert np.isfinite(distance.value)
    assert distance.value == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("num", [5, 300, 5000])
def test_equal_sets_give_zero_and_keep_the_raw_value(num):
    features = np.random.RandomState(5).gamma(0.5, size=(num, 400))
    distance = frechet_distance(gen=fit(features), ref=fit(features))
    assert distance.value == 0.0
    assert abs(distance.raw) < 1e-11 * 2 * np.trace(fit(features).sigma)


def test_a_tiny_true_distance_is_not_taken_for_zero():
    sigma = spd(np.random.RandomState(6), 100)
    mu = np.zeros(100)
    near = frechet_distance(gen=GaussianStats(mu=mu + 1e-4, sigma=sigma), ref=GaussianStats(mu=mu, sigma=sigma))
    assert near.value == pytest.approx(1e-6, rel=1e-3)


def test_the_distance_is_symmetric():
    rng = np.random.RandomState(7)
    a, b = fit(rng.normal(size=(50, 80))), fit(rng.normal(size=(500, 80)) + 1)
    assert frechet_distance(gen=a, ref=b).value == pytest.approx(frechet_distance(gen=b, ref=a).value, rel=1e-11)


def test_swapped_pool_and_spatial_statistics_are_named():
    pool = GaussianStats(mu=np.zeros(2048), sigma=np.eye(2048))
    spatial = GaussianStats(mu=np.zeros(2023), sigma=np.eye(2023))
    with pytest.raises(ValueError, match=r"2048-dimensional.*pool features.*2023 .spatial features"):
        frechet_distance(gen=pool, ref=spatial)


@pytest.fixture(scope="module")
def few():
    """Two sets of 60 images in 400 dimensions, and their distance from the singular values of the two data sets."""
    rng = np.random.RandomState(8)
    scale = np.arange(1, 401) ** -0.7
    gen, ref = (rng.gamma(0.5, size=(60, 400)) * scale + shift for shift in (0.0, 0.02))
    factors = [(x - x.mean(axis=0)) / np.sqrt(59) for x in (gen, ref)]
    traces = sum(np.sum(f**2) for f in factors)
    exact = np.sum((gen.mean(axis=0) - ref.mean(axis=0)) ** 2) + traces
    return gen, ref, exact - 2 * linalg.svdvals(factors[0] @ factors[1].T).sum(), traces


def as_stored(stats, dtype):
    """Statistics as a file of that type holds them, which does not say the number of images."""
    return GaussianStats(mu=stats.mu.astype(dtype), sigma=stats.sigma.astype(dtype))


def summed_in_float32(features):
    centred = (features - features.mean(axis=0)).astype(np.float32)
    return GaussianStats(mu=features.mean(axis=0), sigma=centred.T @ centred / np.float32(len(features) - 1))


@pytest.mark.parametrize("stored", [lambda x: as_stored(fit(x), np.float32), summed_in_float32])
def test_statistics_of_float32_pass_though_their_eigenvalues_go_below_0(few, stored):
    gen, ref, exact, traces = few
    rounded = stored(ref)
    assert linalg.eigvalsh(rounded.sigma)[0] < -1e-11 * np.trace(rounded.sigma), "what float64 never gives"
    assert frechet_distance(gen=fit(gen), ref=rounded).value == pytest.approx(exact, rel=2e-6)
    assert frechet_distance(gen=rounded, ref=as_stored(fit(gen), np.float64)).value == pytest.approx(exact, rel=2e-5)
    itself = frechet_distance(gen=rounded, ref=rounded)
    assert itself.value == 0.0
    assert -20 * 2**-23 * traces < itself.raw < 0.0, "sqrt(400) times the rounding of float32"


def test_statistics_of_float16_are_too_coarse(few):
    with pytest.raises(ValueError, match=r"no covariance: its eigenvalues go from -\S+ to \S+, .* in float64"):
        as_stored(fit(few[1]), np.float16)


def test_a_distance_clearly_below_0_is_an_error(few, monkeypatch):
    gen = fit(few[0])
    true = frechet._trace_of_root
    monkeypatch.setattr(frechet, "_trace_of_root", lambda a, b: true(a, b) + 1e-7 * np.trace(a.sigma))
    assert frechet_distance(gen=gen, ref=gen).value == 0.0, "sqrt(400) x 2^-23 x 2 tr is 4.8e-6 tr"
    monkeypatch.setattr(frechet, "_trace_of_root", lambda a, b: 1.001 * true(a, b))
    with pytest.raises(ValueError, match=r"The distance comes out as -0\.\d+, and rounding explains no less than -"):
        frechet_distance(gen=gen, ref=gen)
