"""The quickstart: the whole pipeline on embedded data, its table, figure and claims."""

import pytest

from dit_eval.cli import main
from dit_eval.images.npz import open_batch
from dit_eval.quickstart import LEVELS, _verdicts
from dit_eval.report import page
from dit_eval.results.lines import read_results
from dit_eval.study.plan_file import load_plan, parse_plan

DAMAGES = ("blur", "noise", "class collapse")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module", autouse=True)
def few_figures():
    """The report's own tests draw the others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "FIGURES", [item for item in page.FIGURES if item.needs == "losses"])
        yield


@pytest.fixture(scope="module")
def results(folder):
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "--no-study", "--out", str(folder)])
    assert exit_.value.code == 0
    return read_results(folder / "results.jsonl")


def test_it_scores_eleven_sets_and_draws_them(results, folder):
    assert len(results) == 1 + len(DAMAGES) * (len(LEVELS) - 1) + 1
    assert {r.extractor.name for r in results} == {"digits"}
    assert {r.protocol for r in results} == {"digits"}, "never to be mistaken for Inception numbers"
    assert {(r.num_samples, r.num_reference) for r in results} == {(500, 1297)}
    assert (folder / "metrics.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "metrics.pdf").read_bytes().startswith(b"%PDF")
    assert (folder / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_it_ends_with_the_report_page(results, folder):
    written = (folder / "index.html").read_text(encoding="utf-8")
    assert written.count("digits") > 10, "the measured results are on it"
    assert f"{results[-1].fid:.2f}" in written


def test_the_last_set_was_drawn_by_the_dit_and_says_how(results, folder):
    *others, drawn = results
    assert all(r.gen.run is None for r in others)
    run = drawn.gen.run
    assert (run.model, run.num_sampling_steps, run.labels) == ("dit-digits", "64", "balanced")
    assert open_batch(folder / "samples" / "dit.npz", role="gen").run == run
    # Near real digits, and not copies of them: held-out digits score 0.89.
    assert 0.5 < drawn.fid < 1.2
    assert drawn.recall > 0.8


def curves(results):
    none, *damaged = results[:-1]
    return {name: [none, *damaged[3 * i : 3 * i + 3]] for i, name in enumerate(DAMAGES)}


def test_each_metric_moves_as_it_must(results):
    assert all(_verdicts(curves(results), results[-1]).values())
    collapsed, blurred = results[-2], results[3]
    assert collapsed.precision > 0.9 > 0.1 > collapsed.recall, "every image is real, nine classes are missing"
    assert blurred.precision < 0.1
    assert collapsed.inception_score == pytest.approx(1.0, abs=0.1), "one class"


def test_the_claims_fail_where_they_should(results):
    # With damage running backwards, or with two damages exchanged, the checks must notice.
    backwards = {name: curve[::-1] for name, curve in curves(results).items()}
    assert not any(_verdicts(backwards, results[-1]).values()), "the last also, against clean digits"
    assert not list(_verdicts(curves(results), results[3]).values())[-1], "a damaged set does not"
    exchanged = curves(results)
    exchanged["blur"], exchanged["class collapse"] = exchanged["class collapse"], exchanged["blur"]
    assert sum(_verdicts(exchanged, results[-1]).values()) < 6


STUDY = """\
name = "tiny"
data = { train = "digits", ref = "digits", extractor = "digits", space = "pixel", image_size = 8, channels = 1, \
num_classes = 10 }
models."tiny-S/4" = { depth = 1, hidden_size = 8, num_heads = 2, patch_size = 4 }
models."tiny-B/4" = { depth = 1, hidden_size = 12, num_heads = 2, patch_size = 4 }
models."tiny-L/4" = { depth = 1, hidden_size = 16, num_heads = 2, patch_size = 4 }
training = { learning_rate = 5e-3, batch_size = 8, flip = 0.0, log_every = 2, ema_decay = 0.5 }
sampling = { num_samples = 16, labels = "balanced" }
cells = [{ models = "all", training_steps = 4, sampling_steps = [2, 3] }]
resources = [{ threads = 1, num_workers = 0 }]
"""


def test_it_runs_again_in_the_same_folder_and_its_study_is_on_the_page(results, folder, capsys, monkeypatch):
    # The plan of the quickstart takes a minute; this one has all its parts.
    monkeypatch.setattr("dit_eval.quickstart.load_plan", lambda name: parse_plan(STUDY, folder / f"{name}.toml"))
    with pytest.raises(SystemExit) as exit_:
        main(["quickstart", "--out", str(folder)])
    assert exit_.value.code == 0
    output = capsys.readouterr().out
    assert f"Report: {folder / 'index.html'}" in output
    assert "FID-16 and the logarithm of Gflops correlate with r = " in output
    assert "The larger of two adjacent sizes" in output
    again = read_results(folder / "results.jsonl")
    assert [r.fid for r in again[: len(results)]] == [r.fid for r in results]
    studied = again[len(results) :]
    assert [(r.gen.run.model, r.gen.run.num_sampling_steps) for r in studied] == [
        (f"tiny-{size}/4", steps) for size in "SBL" for steps in "23"
    ]
    assert all((folder / r.gen.path).is_file() for r in studied)
    written = (folder / "index.html").read_text(encoding="utf-8")
    assert "tiny-L/4" in written
    assert "training loss" in written


def test_the_plan_of_the_study_is_embedded():
    plan = load_plan("digits-small")
    assert len(plan.trainings) == 4
    assert len(plan.cells) == 12
