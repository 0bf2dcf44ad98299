import numpy as np
import pytest

from dit_eval.stats import GaussianStats, RunningStats


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
    with pytest.raises(ValueError, match="do not belong together"):
        GaussianStats(mu=np.zeros(3), sigma=np.zeros((2, 2)))


def _with_one_row(dim):
    running = RunningStats(dim)
    running.update(np.zeros((1, dim)))
    return running
