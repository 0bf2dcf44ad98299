import numpy as np
import pytest
from scipy import linalg

from dit_eval.metrics.frechet import frechet_distance
from dit_eval.stats import GaussianStats


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
