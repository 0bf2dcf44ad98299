"""Differences of two sets: against derivatives, closed forms, the intervals of one set, and repeated draws."""

import math
from functools import partial

import numpy as np
import pytest
from scipy import stats as distributions

from dit_eval.metrics import METRICS, differences, kid
from dit_eval.metrics.density_coverage import COVERAGE, DENSITY, density_coverage, holders
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.metrics.halves import recall_variation
from dit_eval.metrics.inception_score import INCEPTION_SCORE, score_variation
from dit_eval.metrics.influence import frechet_variation
from dit_eval.metrics.intervals import frechet_influence, inception_score_estimate, recall_estimate
from dit_eval.metrics.manifold import inside_reference, precision_recall
from dit_eval.metrics.meanflow import MEANFLOW_INCEPTION_SCORE
from dit_eval.metrics.metric import Sides
from dit_eval.metrics.permuted_score import permuted_inception_score
from dit_eval.metrics.torch_fidelity import TORCH_FIDELITY_METRICS
from dit_eval.metrics.variation import Halved, Held, Members, NoEstimate, Smooth
from dit_eval.summary import FeatureSummary, GaussianStats


def fit(features):
    return GaussianStats(mu=features.mean(axis=0), sigma=np.cov(features, rowvar=False), num=len(features))


def sides(gen, ref, probs=None, order=None):
    gen, ref = gen.astype(np.float32), ref.astype(np.float32)
    return Sides(
        gen=FeatureSummary(pool=fit(gen), pool_features=gen, class_probs=probs),
        ref=FeatureSummary(pool=fit(ref), pool_features=ref),
        gen_order=order,
        distances="float32",
    )


def probabilities(rng, num, classes=20):
    odds = np.exp(rng.normal(size=(num, classes)) * 2 + rng.normal(size=classes))
    return odds / odds.sum(axis=1, keepdims=True)


ZERO = Smooth(shares=np.zeros(1))  # of a set without any spread


# ---- what each image does


def test_the_shares_of_a_distance_are_its_influence():
    rng = np.random.default_rng(0)
    gen, ref = rng.gamma(2.0, size=(300, 6)), fit(rng.normal(size=(900, 6)) + 1)
    found = frechet_variation(gen, ref)
    influence = frechet_influence(gen, gen=fit(gen), ref=ref)
    assert np.square(found.shares).sum() == pytest.approx(influence.var(ddof=1) / 300, rel=1e-9)
    assert [len(half) for half in found.halves] == [150, 150]
    with pytest.raises(NoEstimate, match=r"13 images; .* needs at least 50"):
        frechet_variation(gen[:13], ref)


def test_the_variance_of_a_paired_difference_is_that_of_theory():
    # Diagonal covariances a and b, c of the reference: the influence of x is 2 dmu.y + sum (1 - sqrt(c / a)) y^2, of y
    # normal; with correlation r between the sets, covariances of the linear parts are r sqrt(ab), of squares 2 r^2 ab.
    rng, num, r = np.random.default_rng(1), 40_000, 0.8
    a, b, c = (rng.uniform(0.5, 2, 5) for _ in range(3))
    means = rng.uniform(0, 1, (2, 5))
    z, w = rng.normal(size=(2, num, 5))
    one, other = z * np.sqrt(a) + means[0], (r * z + math.sqrt(1 - r**2) * w) * np.sqrt(b) + means[1]
    ref = GaussianStats(mu=np.zeros(5), sigma=np.diag(c))
    varied = [frechet_variation(each, ref) for each in (one, other)]
    p, q = 1 - np.sqrt(c / a), 1 - np.sqrt(c / b)
    own = 4 * means[0] ** 2 @ a + 2 * p**2 @ a**2 + 4 * means[1] ** 2 @ b + 2 * q**2 @ b**2
    shared = 4 * r * (means[0] * means[1]) @ np.sqrt(a * b) + 2 * r**2 * (p * q) @ (a * b)
    assert varied[0].of_difference(varied[1], paired=False).all * num == pytest.approx(own, rel=0.03)
    assert varied[0].of_difference(varied[1], paired=True).all * num == pytest.approx(own - 2 * shared, rel=0.04)


def test_a_share_of_the_quadratic_part_is_taken_off_once():
    # J = V1 + 2 V2 of all and 2 V1 + 8 V2 of halves: V1 + V2 is left; no more than half, and never added.
    def smooth(whole, half):
        return Smooth(shares=np.array([whole**0.5]), halves=(np.array([half**0.5]),) * 2)

    for linear, quadratic in ((3.0, 1.0), (0.0, 2.0), (2.0, 0.0)):
        found = smooth(linear + 2 * quadratic, 2 * linear + 8 * quadratic).of_difference(smooth(0, 0), paired=True)
        assert found.all == pytest.approx(linear + quadratic)
    assert smooth(1.0, 1.0).of_difference(smooth(0, 0), paired=True).all == 1.0
    assert smooth(1.0, 9.0).of_difference(smooth(0, 0), paired=True).all == 0.5


def test_the_inception_score_varies_as_its_interval_says():
    probs = probabilities(np.random.default_rng(2), 5200)
    found = INCEPTION_SCORE.variation(sides(np.zeros((5200, 2)) + np.arange(2), np.eye(2), probs))
    expected = inception_score_estimate(1.0, class_probs=probs).standard_error
    alone = Smooth(shares=np.zeros(5200))
    assert found.of_difference(alone, paired=False).all == pytest.approx(expected**2, rel=1e-9)
    with pytest.raises(NoEstimate, match="49 images"):
        INCEPTION_SCORE.variation(sides(np.eye(2), np.eye(2), probs[:49]))


@pytest.mark.parametrize("splits", [1, 2])
def test_a_score_of_sure_images_varies_by_its_quadratic_part_too(splits):
    # One-hot rows: the score is exp(H(counts / n)), of variance S^2 (var(log q) / n + (K - 1) / 2n^2) for classes q;
    # shares alone count the second part twice. Of several splits the score is the mean.
    rng, classes, num = np.random.default_rng(12), 8, 400
    q = np.exp(np.linspace(-0.15, 0.15, classes))
    q /= q.sum()
    counts = rng.multinomial(num, q, size=20_000) / num
    values = np.exp(-(counts * np.log(counts)).sum(axis=1))
    linear, quadratic = q @ (np.log(q) - q @ np.log(q)) ** 2 / num, (classes - 1) / 2 / num**2
    scale = values.mean() ** 2
    assert values.var() == pytest.approx(scale * (linear + quadratic), rel=0.05)
    parts, found, alone = np.split(np.arange(splits * num), splits), [], []
    for _ in range(120):
        probs, other = (np.eye(classes)[rng.choice(classes, p=q, size=splits * num)] for _ in range(2))
        one, two = (score_variation(each, parts) for each in (probs, other))
        found.append(one.of_difference(two, paired=False).all / 2)
        alone.append(np.square(one.shares).sum())
    assert np.mean(found) == pytest.approx(scale * (linear + quadratic) / splits, rel=0.1)
    assert np.mean(alone) == pytest.approx(scale * (linear + 2 * quadratic) / splits, rel=0.1)
    assert one.of_difference(one, paired=True).all == 0


@pytest.mark.parametrize("metric", [MEANFLOW_INCEPTION_SCORE, TORCH_FIDELITY_METRICS[1]], ids=lambda m: m.name)
def test_the_scores_of_permuted_images_follow_their_own_order(metric):
    # The score without one image's weight moves by what its share says: a numerical derivative of each split.
    rng = np.random.default_rng(3)
    probs, order = probabilities(rng, 63), rng.permutation(63)
    plain = order if metric.key.endswith("torch_fidelity") else np.arange(63)
    shares = metric.variation(sides(np.eye(2), np.eye(2), probs, order)).shares
    drop = metric is MEANFLOW_INCEPTION_SCORE
    score = permuted_inception_score(probs[plain], drop_rest=drop).mean
    for image in (0, 17, 62):
        moved = probs.copy()
        moved[image] = 0.999 * moved[image] + 0.001 * probs[(image + 1) % 63]
        change = permuted_inception_score(moved[plain], drop_rest=drop).mean - score
        assert abs(change) < 1e-3
        assert (shares[image] == 0) == (change == 0), "of an image that is left out"
    assert (shares == 0).sum() == (3 if drop else 0)


@pytest.mark.parametrize("distances", ["adm-float16", "float32"])
def test_members_are_those_that_precision_counts(distances):
    rng = np.random.default_rng(4)
    gen, ref = rng.normal(size=(211, 7)) * 1.2, rng.normal(size=(190, 7))
    inside = inside_reference(gen=gen, ref=ref, distances=distances)
    assert inside.sum() == precision_recall(gen=gen, ref=ref, distances=distances).gen_inside


def test_paired_shares_differ_by_discordant_images_alone():
    rng = np.random.default_rng(5)
    one = rng.random(20_000) < 0.8
    other = np.where(rng.random(20_000) < 0.1, ~one, one)
    paired, apart = (Members(inside=one).of_difference(Members(inside=other), paired=word) for word in (True, False))
    assert paired.all == pytest.approx((one.astype(int) - other).var() / 20_000, rel=1e-3)
    assert apart.all == pytest.approx((one.var() + other.var()) / 20_000, rel=1e-3)
    none = Members(inside=np.ones(100, bool))
    for word in (True, False):  # no image outside is no certainty
        assert 0 < none.of_difference(none, paired=word).all < 1e-3


def test_recall_of_halves_gives_what_its_interval_has():
    rng = np.random.default_rng(6)
    gen, ref = rng.normal(size=(90, 3)).astype(np.float32), rng.normal(size=(120, 3)).astype(np.float32) * 1.4
    found = recall_variation(gen=gen, ref=ref)
    assert found.of_difference(found, paired=True).all == 0
    error = recall_estimate(0.6, gen=gen, ref=ref).standard_error
    assert found.of_difference(found, paired=False).all == pytest.approx(2 * error**2, rel=1e-12)
    other = Halved(moves=found.moves[:, ::-1])
    forth, back = (a.of_difference(b, paired=True) for a, b in ((found, other), (other, found)))
    assert forth == back, "exchanged roles"


@pytest.mark.parametrize("rows", [2_000, 17])
def test_the_influence_of_a_kernel_is_the_derivative_of_its_distance(monkeypatch, rows):
    monkeypatch.setattr(kid, "_ROWS", rows)
    rng = np.random.default_rng(7)
    gen, ref = rng.normal(size=(60, 3)) + 0.3, rng.normal(size=(40, 3))

    def kernel(u, v):
        return (u @ v.T / 3 + 1) ** 3

    among, across = kernel(gen, gen), kernel(gen, ref).mean(axis=1)
    np.fill_diagonal(among, 0)

    def distance(weights):  # the unbiased estimator where they are equal
        return weights @ among @ weights * 60 / 59 - 2 * weights @ across

    equal, step = np.full(60, 1 / 60), 1e-5
    slope = np.array([
        (distance(equal + step * (np.eye(60)[i] - equal)) - distance(equal - step * (np.eye(60)[i] - equal)))
        / (2 * step)
        for i in range(60)
    ])  # fmt: skip
    found = kid.kernel_variation(gen, ref, kernel).shares * math.sqrt(60 * 59)
    np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-8)


def test_kid_keeps_what_its_subsets_add(monkeypatch):
    # With few small subsets; 100 of 1,000 images take a while.
    monkeypatch.setattr(kid, "kernel_distance", partial(kid.kernel_distance, num_subsets=12, subset_size=40))
    rng = np.random.default_rng(8)
    gen, other, ref = rng.normal(size=(3, 90, 4))
    one, two = (kid.KID.variation(sides(each, ref)) for each in (gen, other))
    assert one.draws.shape == (12,)
    assert one.draws.mean() == pytest.approx(kid.KID.score(sides(gen, ref)).values["kid"])
    spread = one.of_difference(two, paired=False)
    assert spread.fixed == pytest.approx(np.var(one.draws - two.draws, ddof=1) / 12)
    assert spread.all > spread.fixed


def kid_of(rng, num, ref, *, shifts, shared=0.9, dim=6):
    """KID of sets whose images share some of what makes them, with their variations."""
    both = rng.gamma(2.0, size=(num, dim))
    made = [
        (shared**0.5 * both + (1 - shared) ** 0.5 * rng.gamma(2.0, size=(num, dim))) * 0.4 + shift for shift in shifts
    ]
    every = [sides(each, ref) for each in made]
    return [kid.KID.score(each).values["kid"] for each in every], [kid.KID.variation(each) for each in every], every


def test_the_variance_of_kid_is_that_of_a_closed_form():
    # Of the U-statistic: 4 (n - 2) / n (n - 1) var(h1) + 2 / n (n - 1) var(h), where h(x, y) = k(x, y) - m(x) - m(y), m
    # is the mean kernel with the reference, and h1(x) the mean of h over y.
    rng, num = np.random.default_rng(13), 120

    def kernel(u, v):
        return (u @ v.T / 6 + 1) ** 3

    ref, still = rng.normal(size=(200, 6)) * 0.5 + 0.4, np.zeros(1)
    for shift in (0.4, 0.6):
        many = rng.normal(size=(1500, 6)) * 0.5 + shift
        to_ref = kernel(many, ref).mean(axis=1)
        h = kernel(many, many) - to_ref - to_ref[:, None]
        np.fill_diagonal(h, np.nan)
        linear = 4 * (num - 2) / num / (num - 1) * np.nanmean(h, axis=1).var()
        expected = linear + 2 / num / (num - 1) * np.nanvar(h)
        found, alone = [], []
        for _ in range(60):
            one = kid.kernel_variation(many[rng.integers(1500, size=num)], ref, kernel)
            found.append(one.of_difference(Smooth(shares=still, halves=(still, still)), paired=False).all)
            alone.append(one.spread().all)
        assert np.mean(found) == pytest.approx(expected, rel=0.1), shift
        assert np.mean(alone) == pytest.approx(2 * expected - linear, rel=0.1), shift


@pytest.mark.slow
def test_intervals_of_kid_hold_at_as_few_images_as_it_takes(monkeypatch):
    monkeypatch.setattr(kid, "kernel_distance", partial(kid.kernel_distance, num_subsets=4, subset_size=100))
    rng = np.random.default_rng(14)
    ref = rng.gamma(2.0, size=(300, 6)) * 0.4
    drawn = [kid_of(rng, 100, ref, shifts=(0.6, 0.55)) for _ in range(200)]
    values = np.array([value for value, _, _ in drawn])
    estimates = [kid.KID.interval(value[0], every[0])["kid"] for value, _, every in drawn]
    held = [each.low <= values[:, 0].mean() <= each.high for each in estimates]
    assert 0.92 <= np.mean(held) <= 0.98
    assert {each.value for each in estimates} == set(values[:, 0])
    apart = values[:, 0] - values[:, 1]
    errors = np.sqrt([one.of_difference(other, paired=True).all for _, (one, other), _ in drawn])
    assert 0.92 <= np.mean(np.abs(apart - apart.mean()) <= 1.96 * errors) <= 0.98


def test_density_is_a_mean_over_images():
    rng = np.random.default_rng(9)
    gen, ref = rng.normal(size=(80, 4)), rng.normal(size=(100, 4))
    found = density_coverage(gen=gen, ref=ref)
    assert found.balls.sum() / (5 * 80) == found.density
    variance = DENSITY.variation(sides(gen, ref)).of_difference(Smooth(shares=np.zeros(80)), paired=False).all
    assert variance == pytest.approx(found.balls.var(ddof=1) / 25 / 80)


def test_holders_of_a_ball_are_the_images_in_it():
    rng = np.random.default_rng(15)
    gen, ref = rng.normal(size=(90, 3)).astype(np.float32), rng.normal(size=(70, 3)).astype(np.float32)
    among = np.linalg.norm(ref[:, None] - ref[None], axis=2)
    inside = np.linalg.norm(ref[:, None] - gen[None], axis=2) < np.sort(among, axis=1)[:, 5:6]
    listed, covered = holders(gen=gen, ref=ref)
    np.testing.assert_array_equal(covered, inside.any(axis=1))
    assert covered.sum() == density_coverage(gen=gen, ref=ref).covered
    for row, expected in zip(listed, inside, strict=True):
        images = np.flatnonzero(expected)
        assert list(row[row >= 0]) == (list(images) if len(images) <= 8 else [])
    assert 0 < (listed[:, 0] < 0).sum() < 70


def test_the_variance_of_coverage_is_a_sum_over_balls_that_hold_the_same_images():
    # Far balls of k images each: 1 - q^N of each holds one, with q = 1 - p; without the far terms of the series.
    rng, balls, num = np.random.default_rng(16), 60, 100
    p = rng.uniform(0.001, 0.016, balls)
    found, values = [], []
    for _ in range(300):
        which = rng.choice(balls + 1, p=[*p, 1 - p.sum()], size=num)
        listed = np.full((balls, 8), -1, np.int32)
        for ball in range(balls):
            images = np.flatnonzero(which == ball)
            if len(images) <= 8:
                listed[ball, : len(images)] = images
        values.append((np.bincount(which, minlength=balls + 1)[:balls] > 0).mean())
        of = Held(holders=listed, covered=listed[:, 0] >= 0, num=num)
        found.append(of.of_difference(of, paired=False).all / 2)
    empty = np.exp(num * np.log1p(-p))
    both = np.exp(num * np.log1p(-p[:, None] - p))
    np.fill_diagonal(both, empty)
    expected = (both - np.outer(empty, empty)).sum() / balls**2
    assert np.var(values) == pytest.approx(expected, rel=0.15)
    assert np.mean(found) == pytest.approx(expected, rel=0.06)


def test_a_series_that_is_not_positive_is_no_certainty():
    # A ball that holds two images of one set and none of the other counts against, being even.
    listed, empty = np.full((40, 8), -1, np.int32), np.full((40, 8), -1, np.int32)
    listed[:3, 0], listed[:3, 1] = (1, 3, 5), (2, 4, 6)
    one, other = (Held(holders=each, covered=each[:, 0] >= 0, num=50) for each in (listed, empty))
    paired, apart = (one.of_difference(other, paired=word).all for word in (True, False))
    assert paired == Members(inside=one.covered).of_difference(Members(inside=other.covered), paired=True).all
    assert paired > 3 / 42**2
    assert apart == 2 / 40**2


def test_few_balls_without_an_image_tell_nothing():
    rng = np.random.default_rng(17)
    gen, ref = rng.normal(size=(200, 2)), rng.normal(size=(100, 2))
    with pytest.raises(NoEstimate, match="of 100 reference images are covered; how far that varies"):
        COVERAGE.variation(sides(gen, ref))
    with pytest.raises(NoEstimate, match="49 images"):
        COVERAGE.variation(sides(gen[:49], ref))


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_intervals_of_differences_of_coverage_hold(paired):
    rng = np.random.default_rng(18)
    ref, values, found = rng.gamma(4.0, size=(300, 6)) / 2 - 2, [], []

    def draw():
        both = rng.gamma(4.0, size=(300, 6))
        sets = [0.9**0.5 * both + 0.1**0.5 * rng.gamma(4.0, size=(300, 6)) - 4 * (0.9**0.5 + 0.1**0.5) for _ in "ab"]
        return [1.1 * sets[0] / 2 + 0.8, 1.1 * sets[1] / 2 + 0.7]

    for _ in range(120):
        one, other = draw() if paired else (draw()[0], draw()[1])
        every = [sides(each, ref) for each in (one, other)]
        values.append(np.subtract(*[COVERAGE.score(each).values["coverage"] for each in every]))
        varied = [COVERAGE.variation(each) for each in every]
        found.append(varied[0].of_difference(varied[1], paired=paired).all)
    inside = np.abs(np.array(values) - np.mean(values)) <= 1.96 * np.sqrt(found)
    assert math.sqrt(np.mean(found)) == pytest.approx(np.std(values, ddof=1), rel=0.15)
    assert 0.90 <= inside.mean() <= 0.99


def test_metrics_that_have_an_interval_have_differences():
    assert [metric.name for metric in METRICS if metric.interval and not metric.variation] == []
    assert [metric.name for metric in METRICS if not metric.variation] == ["mind"]


# ---- verdicts


def test_holm_is_the_step_down_rule():
    rng = np.random.default_rng(10)
    for _ in range(50):
        values = list(rng.random(rng.integers(1, 8)) ** 3)
        found = differences.holm(values)
        ordered = sorted(values)
        for value, corrected in zip(values, found, strict=True):
            steps = [min((len(values) - k) * p, 1.0) for k, p in enumerate(ordered) if p <= value]
            assert corrected == max(steps)
    assert differences.holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]


def test_so_many_images_show_it_four_times_in_five():
    num = differences._images_to_decide(0.5, variance=0.09, fixed=0.0, num_images=1000)
    error = math.sqrt(0.09 * 1000 / num)
    found = distributions.norm.sf(1.95996 - 0.5 / error) + distributions.norm.cdf(-1.95996 - 0.5 / error)
    assert found == pytest.approx(0.8, abs=1e-3)
    # Of the variance, a part that no number of images takes away.
    assert differences._images_to_decide(0.5, variance=0.09, fixed=0.0318, num_images=1000) > 100 * num
    assert differences._images_to_decide(0.5, variance=0.09, fixed=0.033, num_images=1000) is None
    assert differences._images_to_decide(0.0, variance=0.09, fixed=0.0, num_images=1000) is None


# ---- repeated draws


class Two:
    """Two generators of skewed features, whose images share nine tenths of what makes them."""

    def __init__(self, dim=8):
        rng = np.random.default_rng(100)
        self.basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * (1 + np.arange(dim)) ** -0.5
        self.ref = self._of(rng, 300, 0.0, 1.0)[0]
        self.ref_stats = GaussianStats(mu=np.zeros(dim), sigma=self.basis @ self.basis.T)

    def _of(self, rng, num, *places):
        both = rng.gamma(4.0, size=(num, 8))
        latent = [(0.9**0.5 * both + 0.1**0.5 * rng.gamma(4.0, size=(num, 8)) - 4 * (0.9**0.5 + 0.1**0.5)) / 2
                  for _ in places]  # fmt: skip
        return [
            (1.15 * each @ self.basis.T + place).astype(np.float32) for each, place in zip(latent, places, strict=True)
        ]

    def draw(self, rng, num, *, paired):
        if paired:
            return self._of(rng, num, 0.3, 0.25)
        return self._of(rng, num, 0.3)[0], self._of(rng, num, 0.25)[0]


@pytest.mark.parametrize("paired", [True, False])
def test_standard_errors_of_differences_are_the_spread_over_draws(paired):
    # benchmarks/coverage_of_differences.py does this at length, for all metrics.
    two, rng, values, found = Two(), np.random.default_rng(11), [], []
    for _ in range(100):
        sets = two.draw(rng, 200, paired=paired)
        one, other = (frechet_distance(gen=fit(each), ref=two.ref_stats).value for each in sets)
        values.append(one - other)
        varied = [frechet_variation(each, two.ref_stats) for each in sets]
        found.append(varied[0].of_difference(varied[1], paired=paired).all)
    inside = np.abs(np.array(values) - np.mean(values)) <= 1.96 * np.sqrt(found)
    assert math.sqrt(np.mean(found)) == pytest.approx(np.std(values, ddof=1), rel=0.25)
    assert 0.88 <= inside.mean() <= 0.99


def test_images_that_are_copies_of_each_other_overflow_nothing():
    # As a network's that fails on one class: the radius of a copy is 0, and its half's a hundred times any other.
    rng = np.random.default_rng(21)
    gen, ref = (rng.normal(size=(100, 8)).astype(np.float32) * 100 for _ in range(2))
    gen[:5] = 1e4
    with_copies, without = (recall_variation(gen=rows, ref=ref).spread().all for rows in (gen, gen[5:]))
    assert 0.25 < with_copies / without < 4, "five far images of a hundred change little"
