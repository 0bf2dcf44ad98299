import numpy as np
import pytest

from dit_eval.metrics.inception_score import inception_score, order_free_inception_score


def random_probs(num, classes, seed=0, sharpness=3.0):
    logits = np.random.RandomState(seed).normal(size=(num, classes)) * sharpness
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exp / exp.sum(axis=1, keepdims=True)).astype(np.float32)


def test_closed_forms():
    assert inception_score(np.full((10, 5), 0.2)) == pytest.approx(1.0)
    # One-hot over K balanced classes: KL = log K. The zeros make ADM's own float32 formula NaN.
    assert inception_score(np.eye(8)[np.arange(800) % 8]) == pytest.approx(8.0)
    # Two kinds of images, p = (1 - e, e) and (e, 1 - e): KL = log 2 - H(e).
    e = 0.1
    probs = np.array([[1 - e, e], [e, 1 - e]] * 50)
    entropy = -(e * np.log(e) + (1 - e) * np.log(1 - e))
    assert inception_score(probs) == pytest.approx(2 * np.exp(-entropy))


def test_splits_are_contiguous_and_the_last_may_be_short():
    probs = random_probs(1100, 12)
    by_hand = []
    for part in (probs[:500], probs[500:1000], probs[1000:]):
        part = part.astype(np.float64)
        by_hand.append(np.exp(np.mean(np.sum(part * np.log(part / part.mean(axis=0)), axis=1))))
    assert inception_score(probs, split_size=500) == pytest.approx(np.mean(by_hand), rel=1e-12)


def test_class_order_halves_adms_score_and_leaves_the_order_free_one_alone():
    probs = np.repeat(np.eye(10), 1000, axis=0)  # 10,000 certain images, sorted by class: five classes per split
    mixed = probs[np.random.RandomState(1).permutation(len(probs))]
    assert inception_score(probs) == pytest.approx(5.0)
    assert inception_score(mixed) == pytest.approx(10.0, rel=0.01)
    assert order_free_inception_score(probs) == order_free_inception_score(mixed)
    assert order_free_inception_score(probs) == pytest.approx(inception_score(mixed), rel=0.01)


def test_order_free_score_is_invariant_to_any_permutation():
    probs = random_probs(11_000, 30, seed=2)
    scores = {order_free_inception_score(probs[np.random.RandomState(s).permutation(len(probs))]) for s in range(3)}
    assert len(scores) == 1
    assert scores.pop() == pytest.approx(inception_score(probs), rel=0.01)


def test_logits_and_empty_input_are_refused():
    with pytest.raises(ValueError, match="are these logits"):
        inception_score(np.random.RandomState(3).normal(size=(10, 4)))
    with pytest.raises(ValueError, match="N >= 1"):
        inception_score(np.zeros((0, 4)))
