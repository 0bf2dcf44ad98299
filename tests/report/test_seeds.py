"""Several seeds: which results are one, what they say together, and which differences of a table are significant."""

import csv
import dataclasses
import io
import math

import numpy as np
import pandas
import pytest
from matplotlib.lines import Line2D
from report_runs import mini_gflops, mini_run, result, write_results
from scipy import stats

from dit_eval.cli import main
from dit_eval.flops.kept import Count
from dit_eval.report import page
from dit_eval.report.figures.figure8 import fid_against_gflops
from dit_eval.report.figures.style import PAGE
from dit_eval.report.points import measured_points, published_points
from dit_eval.report.seeds import grouped_points, seed_groups
from dit_eval.report.setting import settings
from dit_eval.report.tables.latex import to_latex
from dit_eval.report.tables.runs import runs_tables
from dit_eval.report.tables.seeds import seeds_table
from dit_eval.report.tables.write import to_csv, to_html, to_markdown
from dit_eval.report.variance import Mean, repeats
from dit_eval.results.eval_result import Estimate, EvalResult, Uncertainty


def nested(table):
    """Results of a table whose trainings have noise of their own."""
    return [(f"{i}", 10 * i + j, value) for i, row in enumerate(table) for j, value in enumerate(row)]


def crossed(table):
    """Results of a table whose trainings share their noise."""
    return [(f"{i}", j, value) for i, row in enumerate(table) for j, value in enumerate(row)]


# Components of variance


def test_components_are_those_of_the_analysis_of_variance():
    """The F of SciPy is MS_T / MS_S, so that var(T) = (F - 1) var(S) / n."""
    table = np.random.default_rng(0).normal(size=(4, 3)) + np.arange(4)[:, None]
    found = repeats(nested(table))
    within = np.mean([row.var(ddof=1) for row in table])
    assert found.sampling == pytest.approx(within, rel=1e-12)
    assert found.training == pytest.approx((stats.f_oneway(*table).statistic - 1) * within / 3, rel=1e-12)
    assert found.design == "nested"
    assert found.mean.value == pytest.approx(table.mean(), rel=1e-12)
    assert found.sd == pytest.approx(table.std(ddof=1), rel=1e-12)
    assert found.variation == pytest.approx(found.sd / table.mean(), rel=1e-12)
    assert found.mean.error == pytest.approx(table.mean(axis=1).std(ddof=1) / 2, rel=1e-12)
    assert found.mean.degrees == 3


def test_components_of_trainings_with_different_numbers_of_seeds():
    """By hand: means 2 and 6, grand mean 10/3, MS_T = 64/3 on 1, MS_S = (2 + 0) / 1 on 1 (n0 = 4/3)."""
    found = repeats([("a", 0, 1.0), ("a", 1, 3.0), ("b", 0, 6.0)])
    assert found.sampling == pytest.approx(2.0)
    assert found.training == pytest.approx((32 / 3 - 2.0) / (4 / 3))
    assert found.mean.value == 4.0


@pytest.mark.parametrize("design", [nested, crossed])
def test_estimates_have_no_bias(design):
    """Over 1,500 balanced designs of three trainings and two seeds. Shared noise is no difference of trainings."""
    rng = np.random.default_rng(1)
    training, shared, own = 0.9, 0.7 if design is crossed else 0.0, 0.4
    found = [
        repeats(
            design(5 + training * rng.normal(size=(3, 1)) + shared * rng.normal(size=2) + own * rng.normal(size=(3, 2)))
        )
        for _ in range(1_500)
    ]
    assert {each.design for each in found} == {design.__name__}
    for name, expected in (("training_raw", training**2), ("sampling", shared**2 + own**2)):
        values = np.array([getattr(each, name) for each in found])
        assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values)), name
    errors = np.array([each.mean.error**2 for each in found])
    assert errors.mean() >= 0.95 * np.var([each.mean.value for each in found])


def test_an_estimate_below_zero_is_zero_and_kept():
    found = repeats(nested([[0.0, 2.0], [0.1, 2.1]]))
    assert found.training == 0.0
    assert found.training_raw == pytest.approx((0.01 - 2.0) / 2)


def test_what_a_design_does_not_tell_is_not_said():
    once = repeats([("a", 0, 1.0), ("b", 0, 2.0), ("c", 0, 3.0)])
    assert (once.training, once.sampling, once.design, once.sd) == (None, None, None, 1.0)
    assert (once.mean.error, once.mean.degrees) == (pytest.approx(1 / math.sqrt(3)), 2)
    alone = repeats([("a", 0, 1.0), ("a", 1, 3.0)])
    assert (alone.training, alone.sampling, alone.mean.degrees) == (None, 2.0, 1)
    assert repeats([("a", 0, -1.0), ("b", 0, 1.0)]).variation is None
    with pytest.raises(ValueError, match="1 results; expected at least two"):
        repeats([("a", 0, 1.0)])
    with pytest.raises(ValueError, match="Two results of training a with seed 0; expected one"):
        repeats([("a", 0, 1.0), ("a", 0, 2.0)])


# Significance


def test_means_are_compared_by_welch():
    rng = np.random.default_rng(2)
    for _ in range(200):
        a, b = rng.normal(size=3), 1.5 * rng.normal(size=4) + rng.normal()
        first, second = (repeats([(f"{i}", 0, value) for i, value in enumerate(each)]).mean for each in (a, b))
        assert first.is_apart(second) == (stats.ttest_ind(a, b, equal_var=False).pvalue < 0.05)
    known = Mean(value=1.0, error=0.1)
    assert not known.is_apart(Mean(value=1.27, error=0.1))
    assert known.is_apart(Mean(value=1.28, error=0.1)), "1.96 * 0.1 * sqrt(2)"
    assert Mean(value=1.0, error=0.0).is_apart(Mean(value=1.1, error=0.0))
    assert not Mean(value=1.0, error=0.0).is_apart(Mean(value=1.0, error=0.0))


@pytest.mark.parametrize("rows", [2, 5])
def test_of_equal_models_few_are_called_better(rows):
    """The best of several rows is told apart from the next in at most 5 % of 1,000 tables of equal models."""
    rng, bold = np.random.default_rng(3), 0
    for _ in range(1_000):
        means = [repeats([(f"{i}", 0, value) for i, value in enumerate(rng.normal(size=3))]).mean for _ in range(rows)]
        best, *others = sorted(means, key=lambda mean: mean.value)
        bold += all(best.is_apart(other) for other in others)
    assert bold / 1_000 < 0.05


# Groups


def seeded(model="mini-B/4", training=0, sampling=0, fid=3.0, recipe="r", **changes):
    """A result of a training that says its seed."""
    run = mini_run(
        model, global_seed=sampling, training_seed=training, training_recipe=recipe,
        checkpoint_sha256=f"{model} {training} {recipe}".encode().hex().ljust(64, "0")[:64],
    )  # fmt: skip
    return result(run, fid, num_samples=500, protocol="digits", num_reference=1297, **changes)


def test_results_that_differ_in_seeds_only_are_one_group():
    study = [seeded(training=t, sampling=s) for t in (0, 1, 2) for s in (0, 1)]
    (group,) = seed_groups(study)
    assert group.places == tuple(range(6))
    assert group.words == "3 × 2"
    assert group.about == "training 0, 1, 2; sampling 0, 1"
    assert group.training_seeds == (0, 1, 2)
    others = [
        seeded(recipe="another"), seeded("mini-S/4"), seeded(distances="float32"),
        dataclasses.replace(seeded(), num_samples=400),
    ]  # fmt: skip
    assert seed_groups([study[0], *others]) == []
    (mixed,) = seed_groups([study[0], *others, study[3]])
    assert mixed.places == (0, 5)


def test_weights_that_do_not_say_their_seed_are_grouped_with_themselves_only():
    """Lines of earlier versions have neither seed nor recipe of the training."""
    old = [
        result(mini_run("mini-B/4", global_seed=s, checkpoint_sha256=c * 64), 3.0, num_samples=500, protocol="digits")
        for c in "01"
        for s in (0, 1)
    ]
    assert [group.places for group in seed_groups(old)] == [(0, 1), (2, 3)]
    assert [group.words for group in seed_groups(old)] == ["1 × 2", "1 × 2"]
    assert seed_groups([old[0], old[2]]) == []
    line = old[0].to_json()
    assert "training_seed" not in line
    assert "training_recipe" not in line
    assert EvalResult.from_json(seeded(training=4).to_json()).gen.run.training_seed == 4


def test_of_a_repeated_evaluation_the_last_counts():
    again = [seeded(fid=3.0), seeded(training=1, fid=5.0), seeded(fid=1.0)]
    (group,) = seed_groups(again)
    assert (group.places, group.earlier) == ((1, 2), (0,))
    (row,) = boards(again)[0].rows
    assert row.values["fid"] == 3.0
    assert seed_groups([again[0], again[2]]) == []


# Tables and figures


def points_of(results):
    lines = [(f"r.jsonl, line {number}", each) for number, each in enumerate(results, start=1)]
    return measured_points(lines, count=lambda n: Count(gflops=mini_gflops(n), params_m=1.0))


def boards(results):
    points = pandas.concat([published_points(), points_of(results)], ignore_index=True)
    return [table.judged() for table in runs_tables(points, results, seed_groups(results))]


def study(gap=2.0):
    """Three models: the first two are `gap` apart, the third is far behind; three trainings, two seeds of each."""
    rng, results = np.random.default_rng(4), []
    for model, mean in (("mini-XL/4", 3.0), ("mini-L/4", 3.0 + gap), ("mini-S/4", 30.0)):
        for training in (0, 1, 2):
            shift = 0.3 * rng.normal()
            results += [seeded(model, training, sampling, mean + shift + 0.1 * rng.normal()) for sampling in (0, 1)]
    return results


def test_a_row_of_several_seeds_is_their_mean_and_deviation():
    results = study()
    (table,) = boards(results)
    assert [row.cells["model"] for row in table.rows] == ["mini-XL/4", "mini-L/4", "mini-S/4"]
    first, fids = table.rows[0], [each.fid for each in results[:6]]
    assert first.cells["fid"] == f"{np.mean(fids):.2f} ± {np.std(fids, ddof=1):.2f}"
    assert first.cells["seed"] == "3 × 2"
    assert first.source == "r.jsonl, lines 1, 2, 3, 4, 5, 6"
    row = next(csv.DictReader(io.StringIO(to_csv(table))))
    assert float(row["fid"]) == pytest.approx(np.mean(fids))
    assert float(row["fid_sd"]) == pytest.approx(np.std(fids, ddof=1))
    assert float(row["fid_standard_error"]) > 0
    assert float(row["fid_degrees"]) > 0
    assert table.best == {(0, "fid"), (0, "sfid"), (0, "inception_score"), (0, "precision"), (0, "recall")}
    assert not table.ties
    assert "± the standard deviation" in table.about
    assert "Welch" in table.about


def test_what_is_not_told_apart_is_marked_and_not_bold():
    (table,) = boards(study(gap=0.05))
    assert not table.best
    assert {number for number, key in table.ties if key == "fid"} == {0, 1}
    (mean, _, sd) = table.rows[0].cells["fid"].partition(" ± ")
    assert f"{mean} ± {sd}<sup>≈</sup>" in to_markdown(table)
    assert rf"{mean} $\pm$ {sd}\rlap{{\textsuperscript{{$\approx$}}}}" in to_latex(table)
    assert f'{mean} ± {sd}<sup title="not told apart from the best">≈</sup>' in to_html(table)
    old = dataclasses.replace(table, significance=False)
    assert (0, "fid") in old.best
    assert not old.ties


def single(name, fid, error=None):
    """A result of one seed, with its standard error or without."""
    sure = Estimate(value=fid, standard_error=error, low=fid - error, high=fid + error) if error else None
    mine = result(mini_run(name), fid, num_samples=500, protocol="digits", num_reference=1297)
    return dataclasses.replace(mine, uncertainty=Uncertainty(estimates={"fid": sure}) if sure else None)


def test_single_results_are_compared_by_their_standard_errors():
    (near,) = boards([single("mini-XL/4", 3.0, 0.1), single("mini-L/4", 3.2, 0.1), single("mini-S/4", 4.0, 0.1)])
    assert {key for _, key in near.best} == {"sfid", "inception_score", "precision", "recall"}, (
        "without errors: as ever"
    )
    assert near.ties == {(0, "fid"), (1, "fid")}
    assert "the standard error over draws" in near.about
    (far,) = boards([single("mini-XL/4", 3.0, 0.1), single("mini-L/4", 3.5, 0.1)])
    assert (0, "fid") in far.best
    (plain,) = boards([single("mini-XL/4", 3.0), single("mini-L/4", 3.01)])
    assert (0, "fid") in plain.best
    assert "Welch" not in plain.about
    (unknown,) = boards([single("mini-XL/4", 3.0, 0.1), single("mini-L/4", 9.0)])
    assert "fid" not in {key for _, key in unknown.best | unknown.ties}, "nobody knows how far the other varies"


def test_the_table_of_seeds_has_the_components():
    results = study()
    points = pandas.concat([published_points(), points_of(results)], ignore_index=True)
    (table,) = seeds_table(points, seed_groups(results))
    assert len(table.rows) == 15, "three models, five metrics"
    row = table.rows[0]
    found = repeats([(each.gen.run.checkpoint_sha256, each.gen.run.global_seed, each.fid) for each in results[:6]])
    assert row.values["training_sd"] == pytest.approx(math.sqrt(found.training))
    assert row.values["sampling_sd"] == pytest.approx(math.sqrt(found.sampling))
    assert row.values["training_raw"] == found.training_raw
    assert row.values["variation"] == pytest.approx(100 * found.sd / found.mean.value)
    assert row.cells["design"] == "crossed"
    assert row.cells["seeds"] == "3 × 2 (training 0, 1, 2; sampling 0, 1)"
    assert seeds_table(points, []) == []


def test_a_figure_draws_the_mean_with_a_bar_of_the_deviation():
    results = study()
    own = points_of(results)
    grouped = grouped_points(own, seed_groups(results))
    assert len(grouped) == 3
    assert list(grouped.dtypes) == list(own.dtypes)
    where = settings(pandas.concat([published_points(), grouped], ignore_index=True))
    picture = fid_against_gflops(where[1])
    assert len(picture.data) == 3
    assert "bars of the standard deviation" in picture.caption
    ends = {tuple(np.round(line.get_ydata(), 9)) for line in picture.figure.axes[0].lines if isinstance(line, Line2D)}
    for row in grouped.itertuples():
        assert tuple(np.round([row.fid - row.fid_sd, row.fid + row.fid_sd], 9)) in ends


@pytest.mark.slow
def test_a_report_of_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(page, "FIGURES", ())  # another test draws one
    path = write_results(tmp_path / "results.jsonl", study(gap=0.05))
    files = page.report_files(results=path)
    assert b"3 \xc3\x97 2" in files["tables/runs.md"]
    assert b"\xe2\x89\x88" in files["tables/runs.md"]
    assert files["tables/seeds.csv"].count(b"\n") == 16
    assert len(pandas.read_csv(io.BytesIO(files["data/points.csv"]))["source"].loc[lambda s: s == "measured"]) == 18
    assert len(pandas.read_csv(io.BytesIO(files["tables/measured.csv"]))) == 18
    html = files["index.html"].decode()
    assert 'id="part-seeds"' in html
    assert "not told apart from the best" in html
    with pytest.raises(SystemExit) as exit_:
        main(["report", "--results", str(path), "--out", str(tmp_path / "old"), "--no-significance"])
    assert exit_.value.code == 0
    capsys.readouterr()
    old = (tmp_path / "old" / "tables" / "runs.md").read_text()
    assert "≈" not in old
    assert "**" in old.partition("\n\n")[2]
    singles = write_results(tmp_path / "singles.jsonl", [single("mini-XL/4", 3.0), single("mini-L/4", 3.01)])
    plain = page.report_files(results=singles)
    assert plain == page.report_files(results=singles, look=dataclasses.replace(PAGE, significance=False)), (
        "no number says how far it varies"
    )
