"""verify: passes as it is, fails with the right hint for each deliberate mistake."""

import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from golden_sets import batch_arrays, image_set
from seeded_inception import seeded_weights

from dit_eval.checks import verify
from dit_eval.checks.verify import (
    Check,
    Golden,
    Verification,
    _numbers,
    _table,
    goldens,
    report_json,
    verify_offline,
    verify_published,
)
from dit_eval.features import inception
from dit_eval.images.npz import open_batch
from dit_eval.metrics import frechet, manifold
from dit_eval.metrics import inception_score as scores
from dit_eval.metrics import precision_recall as neighbours
from dit_eval.summary import RunningStats
from dit_eval.system.assets import asset

ADM = json.loads((Path(__file__).parents[1] / "goldens" / "adm.json").read_text())


class Broken:
    """What `before` makes of the images, and `after` of their features."""

    def __init__(self, network, before=lambda images: images, after=lambda batch: batch):
        self._network, self._before, self._after = network, before, after

    def __getattr__(self, name):
        return getattr(self._network, name)

    def __call__(self, images):
        return self._after(self._network(self._before(images)))


@pytest.mark.slow
def test_the_healthy_one_passes(kept_inception):
    verification = verify_offline(extractor=kept_inception)
    assert verification.passed, verification.text()
    assert verification.hint is None
    assert len(verification.checks) == 12
    assert all(check.reason for check in verification.checks)
    assert "Verdict: passed" in verification.text()
    report = json.loads(report_json([verification]))
    assert report["passed"] is True
    assert [check["name"] for check in report["verifications"][0]["checks"]] == [c.name for c in verification.checks]


def test_the_expected_metrics_are_those_of_the_goldens():
    adm = ADM["evaluate"]["gen-64 against ref-64"]
    numbers = _numbers()
    assert numbers["fid/expected"] == pytest.approx(adm["fid"], rel=1e-6)
    assert numbers["sfid/expected"] == pytest.approx(adm["sfid"], rel=1e-6)
    assert list(numbers["precision and recall/expected"]) == [adm["precision"], adm["recall"]]


def test_every_number_of_a_mistake_has_a_hint():
    checks = {check["name"]: set(check.get("mistakes", {})) for check in _table()["offline"]["check"]}
    made = {key for key in _numbers() if key != "made_with"}
    assert made == {f"{name}/{key}" for name, keys in checks.items() for key in keys | {"expected"}}


def resized(**how):
    def resize(images, size):
        return F.interpolate(images.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear", **how)

    return resize


RESIZES = {
    "half-pixel centres": resized(align_corners=False),
    "aligns the corners": resized(align_corners=True),
    "antialiased": resized(align_corners=False, antialias=True),
}


@pytest.mark.parametrize("hint", RESIZES)
def test_a_wrong_resize_is_named(torch_inception, monkeypatch, hint):
    monkeypatch.setattr(inception, "resize_like_tensorflow", RESIZES[hint])
    assert_fails(verify_offline(extractor=torch_inception), "resize", hint)


def test_pools_that_count_the_padding_are_named(torch_inception, monkeypatch):
    pool = F.avg_pool2d
    monkeypatch.setattr(F, "avg_pool2d", lambda x, *a, **how: pool(x, *a, **how | {"count_include_pad": True}))
    assert_fails(verify_offline(extractor=torch_inception), "network", "count the padding")


def changed(part, change):
    return lambda batch: replace(batch, **{part: change(getattr(batch, part))})


@cache
def biases():
    return seeded_weights(0)["softmax/biases"]


def biased(probs):
    weighted = probs * np.exp(biases())
    return weighted / weighted.sum(1, keepdims=True)


def nchw(spatial):
    return spatial.reshape(-1, 17, 17, 7).transpose(0, 3, 1, 2).reshape(len(spatial), -1)


@pytest.mark.parametrize(
    ("name", "hint", "broken"),
    [
        ("network", "BGR order", {"before": lambda x: np.ascontiguousarray(x[..., ::-1])}),
        ("network", "divided by 255", {"before": lambda x: (x // 255).astype(np.uint8)}),
        ("network", "the network itself is off", {"after": changed("pool", lambda x: x * 1.001)}),
        ("spatial", "NCHW order", {"after": changed("spatial", nchw)}),
        ("spatial", "the spatial features are off", {"after": changed("spatial", lambda x: x[:, ::-1])}),
        ("spatial", "the spatial features are off", {"after": changed("spatial", lambda x: x[:, :2022])}),
        ("classes", "class probabilities are off", {"after": changed("class_probs", np.sqrt)}),
        ("classes", "bias is added", {"after": changed("class_probs", biased)}),
    ],
)
@pytest.mark.slow
def test_a_wrong_network_is_named(kept_inception, name, hint, broken):
    assert_fails(verify_offline(extractor=Broken(kept_inception, **broken)), name, hint)


def population(self):
    stats = FINALIZE(self)
    return replace(stats, sigma=stats.sigma * (self.num - 1) / self.num)


FINALIZE, DISTANCE, MANIFOLD = RunningStats.finalize, frechet.frechet_distance, manifold.precision_recall
SCORE = scores.inception_score


def distance_without_root(*, gen, ref):
    whole = DISTANCE(gen=gen, ref=ref)
    traces = float(np.trace(gen.sigma) + np.trace(ref.sigma) + np.sum((gen.mu - ref.mu) ** 2))
    return replace(whole, value=traces - 2 * float(np.sum(gen.sigma * ref.sigma)))


@pytest.mark.parametrize(
    ("name", "hint", "where", "what"),
    [
        ("covariance of pool", "divided by N;", (RunningStats, "finalize"), population),
        ("fid", "square root of the product", (frechet, "frechet_distance"), distance_without_root),
        ("precision and recall", "swapped", (manifold, "precision_recall"),
         lambda *, gen, ref, **how: MANIFOLD(gen=ref, ref=gen, **how)),
        ("precision and recall", "second neighbour", (neighbours, "NEIGHBOURS"), 2),
        ("precision and recall", "fourth neighbour", (neighbours, "NEIGHBOURS"), 4),
        ("inception score", "all images at once", (verify, "inception_score"), partial(SCORE, split_size=10**6)),
        ("inception score", "the Inception Score is off", (scores, "inception_score"),
         lambda probs, **how: SCORE(probs, **how) * 1.001),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_a_wrong_pipeline_is_named(kept_inception, monkeypatch, name, hint, where, what):
    monkeypatch.setattr(*where, what)
    assert_fails(verify_offline(extractor=kept_inception), name, hint)


def assert_fails(verification: Verification, name, hint):
    assert not verification.passed
    first = next(check for check in verification.checks if not check.passed)
    assert first.name == name, verification.text()
    assert hint in first.hint, verification.text()
    assert verification.hint == first.hint
    assert f"FAILED: {first.hint}" in verification.text()


def test_golden_images_of_another_numpy_are_refused(monkeypatch):
    monkeypatch.setattr(verify, "image_set", lambda name: image_set(name)[::-1])
    with pytest.raises(ValueError, match="draws other golden images"):
        verify_offline()


def test_published_batches_are_in_the_manifest():
    for published in goldens():
        assert asset(published.gen, "samples").sha256 is None, "then it is said to be pinned"
        assert asset(published.ref, "reference")
        assert set(published.metrics) == {"fid", "sfid", "inception_score", "precision", "recall"}
    with pytest.raises(ValueError, match="known: adm-g-u-256, adm-g-128"):
        goldens(["adm"])


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.slow
def test_a_published_batch_is_compared_within_its_tolerances(kept_inception, tmp_path, swapped):
    adm = ADM["evaluate"]["gen-64 against ref-64"]
    metrics = {metric: adm[metric] for metric in ("fid", "sfid", "inception_score", "precision", "recall")}
    if swapped:
        metrics |= {"precision": adm["recall"], "recall": adm["precision"]}
    for role in ("gen", "ref"):
        np.savez(tmp_path / f"{role}.npz", **batch_arrays(f"{role}-64"))
    found = verify_published(
        Golden(name="x", gen="gen", ref="ref", source="goldens", metrics=metrics),
        gen=open_batch(tmp_path / "gen.npz", role="gen"),
        ref=open_batch(tmp_path / "ref.npz", role="ref"),
        extractor=kept_inception,
    )
    assert found.passed is not swapped, found.text()
    assert [check.name for check in found.checks if not check.passed] == (["precision", "recall"] if swapped else [])
    assert not swapped or "swapped" in found.hint
    assert "states no SHA-256" in found.text()


def test_exit_codes_of_the_command(monkeypatch, capsys):
    from dit_eval.cli import main

    def run(passed, *options):
        check = Check(name="a", what="a", expected=(), found=(), deviation=0.0 if passed else 1.0, tolerance=0.5,
                             reason="r", relative=True, hint=None if passed else "because")  # fmt: skip
        found = Verification(name="offline", source="s", checks=(check,))
        monkeypatch.setattr(verify, "verify_offline", lambda **how: found)
        with pytest.raises(SystemExit) as exit_:
            main(["verify", *options])
        return exit_.value.code, capsys.readouterr().out

    assert run(True, "--offline")[0] == 0
    code, text = run(False, "--offline")
    assert (code, "FAILED: because" in text) == (1, True)
    code, text = run(False, "--offline", "--json", "-")
    assert (code, json.loads(text)["passed"]) == (1, False)
    assert run(True, "--offline", "--golden", "adm-g-128")[0] == 2
    assert run(True, "--golden", "no-such")[0] == 2
