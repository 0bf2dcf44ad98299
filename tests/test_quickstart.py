"""The quickstart: the whole pipeline on embedded data, its table, figure and claims."""

import pytest

from dit_eval.cli import main
from dit_eval.quickstart import LEVELS, _verdicts
from dit_eval.results import read_results

DAMAGES = ("blur", "noise", "class collapse")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def results(folder):
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "--out", str(folder)])
    assert exit_.value.code == 0
    return read_results(folder / "results.jsonl")


def test_it_scores_ten_sets_and_draws_them(results, folder):
    assert len(results) == 1 + len(DAMAGES) * (len(LEVELS) - 1)
    assert {r.extractor.name for r in results} == {"digits"}
    assert {r.protocol for r in results} == {"digits"}, "never to be mistaken for Inception numbers"
    assert {(r.num_samples, r.num_reference) for r in results} == {(500, 1297)}
    assert (folder / "metrics.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "metrics.pdf").read_bytes().startswith(b"%PDF")


def curves(results):
    none, *damaged = results
    return {name: [none, *damaged[3 * i : 3 * i + 3]] for i, name in enumerate(DAMAGES)}


def test_each_metric_moves_as_it_must(results):
    assert all(_verdicts(curves(results)).values())
    collapsed, blurred = results[-1], results[3]
    assert collapsed.precision > 0.9 > 0.1 > collapsed.recall, "every image is real, nine classes are missing"
    assert blurred.precision < 0.1
    assert collapsed.inception_score == pytest.approx(1.0, abs=0.1), "one class"


def test_the_claims_fail_where_they_should(results):
    # With damage running backwards, or with two damages exchanged, the checks must notice.
    backwards = {name: curve[::-1] for name, curve in curves(results).items()}
    assert not any(_verdicts(backwards).values())
    exchanged = curves(results)
    exchanged["blur"], exchanged["class collapse"] = exchanged["class collapse"], exchanged["blur"]
    assert sum(_verdicts(exchanged).values()) < 5


def test_it_can_run_again_in_the_same_folder(results, folder):
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "--out", str(folder)])
    assert exit_.value.code == 0
    again = read_results(folder / "results.jsonl")
    assert [(r.fid, r.sfid, r.precision, r.recall) for r in again] == [
        (r.fid, r.sfid, r.precision, r.recall) for r in results
    ]
