"""MIND equals torch-fidelity's master on the same features, and shows wherever a metric shows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mind_features import CASES, mind_features

import dit_eval
from dit_eval.cli import main
from dit_eval.metrics.mind import monge_inception_distance
from dit_eval.report.points import measured_points
from dit_eval.results.eval_result import EvalResult

THEIRS = json.loads((Path(__file__).parents[1] / "goldens" / "mind.json").read_text())["mind"]


@pytest.mark.parametrize("case", CASES)
def test_it_is_torch_fidelitys(case):
    gen, ref = mind_features(case)
    assert monge_inception_distance(gen=gen, ref=ref) == pytest.approx(THEIRS[case], rel=1e-6)


def test_of_one_dimension_it_is_the_closed_form():
    """One dimension has two directions, 1 and -1: the distance is that of the sorted values."""
    rng = np.random.default_rng(0)
    gen, ref = rng.normal(1, 2, (200, 1)), rng.normal(0, 1, (200, 1))
    expected = 3 * np.mean((np.sort(gen, axis=0) - np.sort(ref, axis=0)) ** 2)
    assert monge_inception_distance(gen=gen, ref=ref) == pytest.approx(expected, rel=1e-9)


def test_a_set_against_itself_is_0():
    gen, _ = mind_features("more gen")
    assert monge_inception_distance(gen=gen, ref=gen) == 0


@pytest.mark.parametrize(
    ("gen", "said"),
    [
        (np.full((5, 64), np.nan), "gen holds NaN"),
        (np.zeros((5, 3)), "dimensions differ"),
        (np.zeros((0, 64)), "gen has"),
    ],
)
def test_features_that_are_none_are_refused(gen, said):
    with pytest.raises(ValueError, match=said):
        monge_inception_distance(gen=gen, ref=np.zeros((5, 64)))


@pytest.fixture(scope="module")
def result(digits):
    return dit_eval.evaluate(digits.images, ref="digits", network="digits", metrics="fid,mind", quiet=True)


def test_it_is_printed_and_kept(result):
    assert result.mind > 0
    assert re.search(rf"^  MIND \(digits\) +↓ +{result.mind:.4f}$", str(result), re.MULTILINE)
    line = json.loads(result.to_json())
    assert line["mind"] == result.mind
    assert line["protocols"]["mind"].startswith("torch-fidelity 5e211a9: 1,000 directions")
    assert EvalResult.from_json(result.to_json()).mind == result.mind


def test_lines_without_it_are_as_before(digits):
    line = dit_eval.evaluate(digits.images, ref="digits", network="digits", metrics="fid", quiet=True).to_json()
    assert "mind" not in line


def test_the_report_has_its_column(result):
    (value,) = measured_points([("one", result)], count=lambda _: None)["mind"]
    assert value == result.mind


def test_the_command_offers_it(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert re.search(r"kid,\s+mind,\s+density", capsys.readouterr().out)
