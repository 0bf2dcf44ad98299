import numpy as np
import pytest

from dit_eval.summary import GaussianStats, RunningStats


@pytest.fixture(scope="module")
def features():
    rng = np.random.RandomState(1)
    # A large common offset: naive sums of squares in one pass would lose half the digits here.
    return (rng.normal(size=(1003, 23)) * rng.uniform(0.1, 3.0, 23) + 1e4).astype(np.float32)


def assert_is_numpys(stats, features):
    exact = features.astype(np.float64)
    np.testing.assert_allclose(stats.mu, exact.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(stats.sigma, np.cov(exact, rowvar=False), rtol=1e-10, atol=1e-10)
    assert stats.num == len(features)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1003])
def test_streaming_equals_numpy_whatever_the_batch_size(features, batch_size):
    running = RunningStats(23)
    for i in range(0, len(features), batch_size):
        running.update(features[i : i + batch_size])
    assert_is_numpys(running.finalize(), features)


def test_merging_parts_equals_one_pass_and_order_does_not_matter(features):
    parts = []
    for part in (features[500:], features[:10], features[10:500], features[:0]):
        running = RunningStats(23)
        running.update(part)
        parts.append(running)
    total = RunningStats(23)
    for part in parts:
        total.merge(part)
    assert_is_numpys(total.finalize(), features)


def test_what_cannot_be_right_is_refused(features):
    running = RunningStats(23)
    with pytest.raises(ValueError, match=r"needed \(B, 23\)"):
        running.update(features[:, :5])
    with pytest.raises(ValueError, match="Found 5 feature dimensions; needed 23"):
        running.merge(_with_one_row(5))
    running.update(features[:1])
    with pytest.raises(ValueError, match="at least 2"):
        running.finalize()
    running.update(np.full((1, 23), np.nan))
    with pytest.raises(ValueError, match="the mean of the features holds NaN"):
        running.finalize()


def equal_correlations(dim, correlation):
    """Eigenvalues 1 - correlation, and 1 + (dim - 1) correlation once."""
    return (1 - correlation) * np.eye(dim) + correlation * np.ones((dim, dim))


EYE = np.eye(3)
NO_COVARIANCES = {
    "shapes": (np.zeros((2, 2)), r"mean of shape \(3,\) and the covariance of shape \(2, 2\) do not belong together"),
    "standard deviations": (np.ones(3), r"of shape \(3,\) do not belong together; needed \(D,\) and \(D, D\)"),
    "complex": (1j * EYE, r"the covariance is complex128; needed real numbers"),
    "texts": (np.full((3, 3), "1"), r"the covariance is <U1; needed real numbers"),
    "NaN": (np.full((3, 3), np.nan), r"the covariance holds NaN or infinite values; needed finite numbers"),
    "large": (1e160 * EYE, r"holds numbers whose squares are beyond float64"),
    "asymmetric": (EYE + np.diag([0.5, 0], 1), r"not symmetric, entry 0, 1 is 0\.5 and 1, 0 is 0\."),
    "opposite": (EYE + np.diag([0.5, 0], 1) - np.diag([0.5, 0], -1), r"entry 0, 1 is 0\.5 and 1, 0 is -0\.5\."),
    "negative variance": (np.diag([1, 1, -0.5]), r"the variance of feature 2 is -0\.5, and none is below 0"),
    "negative variances": (-EYE, r"the variance of feature 0 is -1,"),
    "correlation above 1": (equal_correlations(3, 1.5), r"entry 0, 1 is 1\.5, .* allow 1 \(a correlation above 1\)"),
    "correlation below -1": (equal_correlations(2, -1.01), r"entry 0, 1 is -1\.01, .*\(a correlation above 1\)"),
    "covariance without variance": (np.array([[4, 0, 1], [0, 1, 0], [1, 0, 0]]), r"is 1, .* 4 and 0 of .* allow 0 \("),
    "just above 1": (equal_correlations(2, 1 + 1e-5), r"entry 0, 1 is 1\.00001, where the variances 1 and 1"),
    "three that avoid each other": (equal_correlations(3, -0.9), r"its eigenvalues go from -0\.8 to 1\.9, and none is"),
    "differences of covariances": (
        np.cov(np.eye(5)[:, :3] + 2, rowvar=False) - 0.3 * EYE, r"the variance of feature 0 is -0\.1,",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_COVARIANCES)
def test_what_is_no_covariance_is_refused(case):
    sigma, message = NO_COVARIANCES[case]
    with pytest.raises(ValueError, match=message):
        GaussianStats(mu=np.zeros(3 if sigma.shape != (2, 2) or case == "shapes" else 2), sigma=sigma)


COVARIANCES = {
    "no variance at all": np.zeros((3, 3)),
    "a feature without variance": np.diag([1.0, 0.0, 2.0]),
    "correlation 1": equal_correlations(3, 1.0),
    "correlation 1 after rounding": equal_correlations(2, 1 + 1e-7),
    "avoid each other as far as three can": equal_correlations(3, -0.5),
    "tiny": 1e-200 * equal_correlations(3, 0.5),
    "large": 1e100 * equal_correlations(3, 0.5),
    "integers": np.array([[2, 1, 0], [1, 2, 1], [0, 1, 2]]),
    "scaled by N": 50_000 * equal_correlations(3, 0.5),
}


@pytest.mark.parametrize("case", COVARIANCES)
def test_what_may_be_a_covariance_is_taken(case):
    sigma = COVARIANCES[case]
    stats = GaussianStats(mu=np.zeros(len(sigma)), sigma=sigma)
    assert stats.sigma.dtype == np.float64
    np.testing.assert_array_equal(stats.sigma, sigma)


def test_the_least_eigenvalue_that_passes_is_that_of_float32():
    # Eigenvalues -e and 2 + e; the bound is 2^-23 times the trace of 2, 2.4e-7.
    GaussianStats(mu=np.zeros(2), sigma=equal_correlations(2, 1 + 2.2e-7))
    with pytest.raises(ValueError, match="no covariance"):
        GaussianStats(mu=np.zeros(2), sigma=equal_correlations(2, 1 + 2.6e-7))


def _with_one_row(dim):
    running = RunningStats(dim)
    running.update(np.zeros((1, dim)))
    return running
