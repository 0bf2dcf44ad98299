"""What `evaluate` prints of one, three and twelve files: with and without intervals, on a terminal and in a log."""

import csv
import dataclasses
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from report_runs import badge, result, sample_run

import dit_eval
from dit_eval.cli import main
from dit_eval.cli.scores import results_json, results_text
from dit_eval.features.digits import DigitsExtractor
from dit_eval.metrics.printed import result_text
from dit_eval.metrics.published import published, published_beside
from dit_eval.paper import load_table
from dit_eval.report.tables.leaderboard import leaderboard
from dit_eval.results.eval_result import Estimate, EvalResult, Uncertainty
from dit_eval.results.lines import read_results
from dit_eval.system.assets import find_reference
from dit_eval.system.style import PLAIN, Style

COLOURED = Style(coloured=True)
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def made(number, *, intervals, fid=None, **run):
    """A result as of Inception: the numbered of several samples, all of which the paper's badge fits."""
    settings = {"cfg_scale": 1.5, "cfg_channels": 3, "vae": "ema", "training_steps": 7_000_000}
    fid = 2.30 + 0.2 * number if fid is None else fid
    scores = {"sfid": 4.63, "inception_score": 277.8, "precision": 0.83, "recall": 0.57}
    found = result(
        sample_run(**settings | run), fid, path=f"runs/{number:02}/samples-of-a-model-{number}.npz", **scores
    )
    found = dataclasses.replace(found, extractor=dataclasses.replace(found.extractor, name="inception"))
    if not intervals:
        return found
    errors = {"fid": (fid, 0.02), "sfid": (4.63, 0.03), "inception_score": (277.8, 1.2), "precision": (0.83, 0.004)}
    estimates = {
        key: Estimate(value=value, standard_error=error, low=value - 1.96 * error, high=value + 1.96 * error)
        for key, (value, error) in errors.items()
    }
    missing = {"recall": "too few images"}
    return dataclasses.replace(found, uncertainty=Uncertainty(estimates=estimates, missing=missing))


@pytest.mark.parametrize("intervals", [False, True])
@pytest.mark.parametrize("count", [1, 3, 12])
def test_results_fit_a_terminal_and_are_plain_in_a_log(count, intervals):
    results = [made(number, intervals=intervals) for number in range(count)]
    shown = results_text(results, "table", style=COLOURED, width=80)
    logged = results_text(results, "table", style=PLAIN, width=None)
    assert "\x1b[1m" in shown
    assert "\x1b" not in logged
    assert max(len(line) for line in ESCAPE.sub("", shown).splitlines()) <= 80
    for text in (ESCAPE.sub("", shown), logged):
        for name in ("FID-50K", "sFID-50K", "Precision", "Recall", "DiT-XL/2-G (cfg=1.50)"):
            assert name in text
        assert all(f"{2.30 + 0.2 * number:.2f}" in text for number in range(count))
        assert re.search("[Aa]s published", text)
        assert ("within noise" in text) is intervals
        assert "+0.03" in text
        assert ("±0.02" in text) is (intervals and count > 1)
        assert ("2.26 to 2.34" in text) is (intervals and count == 1)
    assert "beyond noise" in logged or not (intervals and count > 1)


def test_several_results_are_bold_where_one_is_significantly_better():
    # FID 2.30, 2.50, 2.70 with a standard error of 0.02: apart. Other numbers are the same, and recall has no error.
    results = [made(number, intervals=True) for number in range(3)]
    table = leaderboard(results)
    assert {cell for cell in table.best if table.rows[cell[0]].measured} == {
        (0, "fid"),
        *((n, "recall") for n in range(3)),
    }
    assert table.ties == {(n, key) for n in range(3) for key in ("sfid", "inception_score", "precision")}
    shown = results_text(results, "table", style=COLOURED, width=80)
    assert "\x1b[1m     2.30" in shown or re.search("\x1b\\[1m *2\\.30", shown)
    assert re.search("\x1b\\[1m *≈?4\\.63", shown) is None
    logged = results_text(results, "table", style=PLAIN, width=None)
    assert logged.count("≈277.80") == 3
    assert "Bold: better than every other number of its column" in logged
    near = [made(0, intervals=True), made(0, intervals=True, fid=2.31)]
    assert [cell for cell in leaderboard(near).best if cell[1] == "fid"] == []
    assert leaderboard(near).ties >= {(0, "fid"), (1, "fid")}
    assert "≈" in results_text(near, "markdown", style=PLAIN, width=None)
    # Without intervals the best is bold, as in reports.
    plain = leaderboard([made(number, intervals=False) for number in range(2)])
    assert (0, "fid") in plain.best
    assert "Bold" not in results_text([made(number, intervals=False) for number in range(2)], "table", style=PLAIN,
                                      width=None)  # fmt: skip


def test_what_does_not_compare_fits_a_terminal_too():
    many = {"protocol": "network digits", "weights": "digits", "reference": "unknown statistics"}
    results = [dataclasses.replace(made(number, intervals=False), badge=badge(300, **many)) for number in range(2)]
    for shown in (results_text(results[:1], "table", style=COLOURED, width=80),
                  results_text(results, "table", style=COLOURED, width=80)):  # fmt: skip
        plain = ESCAPE.sub("", shown)
        assert max(map(len, plain.splitlines())) <= 80
        assert "not: protocol (network digits), weights (digits)" in " ".join(plain.split())


def test_one_result_stands_beside_the_papers_row():
    lines = result_text(made(0, intervals=True)).splitlines()
    (heads,) = [n for n, line in enumerate(lines) if line.endswith("published  difference")]
    rows = [line.split() for line in lines[heads + 1 : heads + 6]]
    assert rows[0] == ["FID-50K", "↓", "2.30", "2.26", "to", "2.34", "2.27", "+0.03,", "within", "noise"]
    assert rows[2] == ["Inception", "Score", "↑", "277.80", "275.45", "to", "280.15", "278.24", "−0.44,", "within",
                       "noise"]  # fmt: skip
    assert rows[4] == ["Recall", "↑", "0.57", "no", "interval:", "too", "few", "images", "0.57", "+0.00"]
    assert "  published: DiT-XL/2-G (cfg=1.50), Table 2" in lines


CASES = {
    "final": ({}, ("DiT-XL/2-G (cfg=1.50)", "Table 2", True)),
    "released": ({"training_steps": None}, ("DiT-XL/2-G (cfg=1.50)", "Table 2", True)),
    "another decoder": ({"vae": "mse"}, ("DiT-XL/2-G (cfg=1.50), ft-MSE decoder", "Table 5", True)),
    "400K steps": (
        {"cfg_scale": 1.0, "cfg_channels": None, "vae": "mse", "training_steps": 400_000},
        ("DiT-XL/2, 400K training steps", "Table 4", True),
    ),
    "512 px": ({"image_size": 512, "training_steps": 3_000_000}, ("DiT-XL/2-G (cfg=1.50)", "Table 3", True)),
    "other steps": ({"num_sampling_steps": "50"}, ("ft-MSE", "", False)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_number_beside_is_of_the_same_model_and_settings_or_the_nearest(case):
    run, (name, source, same) = CASES[case]
    beside = published_beside(made(0, intervals=False, **run))
    assert beside.is_same is same
    if same:
        assert (beside.published.name, beside.published.source) == (name, source)
    else:
        nearest = min(abs(float(p.values["fid"]) - 2.30) for p in published() if p.image_size == 256)
        assert abs(float(beside.published.values["fid"]) - 2.30) == pytest.approx(nearest)
        assert ", the nearest FID" in result_text(made(0, intervals=False, **run))


@pytest.mark.parametrize("part", ["protocol", "weights", "reference", "N", "no badge", "protocol's name"])
def test_nothing_published_stands_beside_what_does_not_compare(part):
    found = made(0, intervals=False)
    changes = {
        "N": {"num_samples": 5_000, "badge": badge(5_000)},
        "no badge": {"badge": None},
        "protocol's name": {"protocol": "adm-2021 except features in bf16"},
    }.get(part) or {"badge": badge(**{part: "other"})}
    found = dataclasses.replace(found, **changes)
    assert published_beside(found) is None
    assert "published  difference" not in result_text(found)


def test_fid_10k_stands_beside_figure_10():
    run = {"cfg_scale": 1.0, "cfg_channels": None, "vae": "mse", "training_steps": 400_000}
    found = made(0, intervals=False, fid=23.9, num_sampling_steps="128", **run)
    beside = published_beside(dataclasses.replace(found, num_samples=10_000, badge=badge(10_000)))
    assert (beside.published.source, beside.published.values["fid"]) == ("Figure 10", "23.7")


def test_published_evaluations_are_those_of_the_tables():
    every = [*published()]
    for number, size in ((2, 256), (3, 512)):
        mine = [each for each in every if each.source == f"Table {number}"]
        assert [float(each.values["fid"]) for each in mine] == load_table(number)["fid"].tolist()
        assert {each.image_size for each in mine} == {size}
    table4 = [float(each.values["fid"]) for each in every if each.source == "Table 4"]
    assert table4 == load_table(4)["fid_50k"].tolist()


def test_noise_is_that_of_two_draws_and_of_rounding():
    table2 = next(each for each in published() if each.values["fid"] == "2.27")

    def is_noise(value, error):
        estimate = Estimate(value=value, standard_error=error, low=value - 1.96 * error, high=value + 1.96 * error)
        return table2.is_within_noise("fid", estimate)

    # Draws of two equal models differ by less than 1.96 sqrt(2) standard errors in 95 of 100 pairs.
    rng = np.random.default_rng(0)
    pairs = 2.27 + rng.normal(0, 0.05, 4000) - rng.normal(0, 0.05, 4000)
    assert np.mean([is_noise(value, 0.05) for value in pairs]) == pytest.approx(0.955, abs=0.012)
    assert is_noise(2.2749, 1e-9), "2.27 may be 2.2749"
    assert not is_noise(2.2751, 1e-9)


def test_every_format_of_three_results():
    results = [made(number, intervals=True) for number in (1, 0, 2)]
    markdown = results_text(results, "markdown", style=PLAIN, width=80)
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    assert rendered.count("<tr>") == 1 + 3 + 1, "the paper's row below"
    assert "<strong>2.30 ± 0.02</strong>" in rendered
    latex = results_text(results, "latex", style=PLAIN, width=80)
    assert r"\begin{table*}" in latex
    assert r"\textbf{2.30 $\pm$ 0.02}" in latex
    rows = list(csv.DictReader(io.StringIO(results_text(results, "csv", style=PLAIN, width=80))))
    assert [row["samples"] for row in rows][:2] == ["samples-of-a-model-0.npz", "samples-of-a-model-1.npz"]
    assert float(rows[0]["fid_high"]) == 2.30 + 1.96 * 0.02
    found = json.loads(results_text(results, "json", style=PLAIN, width=80))
    assert [EvalResult.from_json(json.dumps(each)) for each in found] == results, "in the order of the files"
    assert results_json(results[:1]) == results[0].to_json()


def test_names_of_files_are_told_apart():
    results = [made(number, intervals=False) for number in range(2)]
    same = [
        dataclasses.replace(each, gen=dataclasses.replace(each.gen, path=f"{folder}/x.npz"))
        for each, folder in zip(results, ("a/b", "c/b"), strict=True)
    ]
    assert [row.cells["samples"] for row in leaderboard(same).rows if row.measured] == ["a/b/x.npz", "c/b/x.npz"]


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Style.of(Terminal()).coloured
    assert not Style.of(io.StringIO()).coloured
    assert not Style.of(None).coloured
    monkeypatch.setenv("TERM", "dumb")
    assert not Style.of(Terminal()).coloured
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Style.of(Terminal()).coloured


# The command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three sample files, and a folder of its own for results and cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    with np.load(find_reference("digits", bring=None)) as digits:
        images = digits["arr_0"][:200]
    for name, noise in (("b", 60), ("a", 0), ("c", 20)):
        noisy = images + np.random.default_rng(0).normal(0, noise, images.shape)
        np.savez(f"{name}.npz", arr_0=np.clip(noisy, 0, 255).astype(np.uint8))
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *arguments, "--ref", "digits", "--extractor", "digits", "--device", "cpu"])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


FILES = ("b.npz", "a.npz", "c.npz")


def test_several_files_make_a_leaderboard_with_one_pass_over_the_reference(folder, capsys, monkeypatch):
    passed = []
    real = DigitsExtractor.__call__
    monkeypatch.setattr(DigitsExtractor, "__call__", lambda self, x: passed.append(len(x)) or real(self, x))
    code, out, err = run(capsys, *FILES, "--json", "all.json")
    assert code == 0
    assert sum(passed) == 1297 + 3 * 200
    body = [line.split()[0] for line in out.splitlines() if line.startswith(("a.npz", "b.npz", "c.npz"))]
    assert body == ["a.npz", "c.npz", "b.npz"], "the best first"
    assert out.endswith("appended to results.jsonl\n")
    assert err.count("scored   ") == 3
    kept = read_results("results.jsonl")
    assert [each.gen.path for each in kept] == [*FILES]
    assert json.loads(Path("all.json").read_text()) == [json.loads(each.to_json()) for each in kept]
    alone = dit_eval.evaluate("c.npz", ref="digits", network="digits", quiet=True)
    assert kept[2].scores == alone.scores
    passed.clear()
    run(capsys, "a.npz")
    assert sum(passed) == 200, "features of the reference are kept"
    assert [path.name for path in (folder / "cache").iterdir()] == ["features"]
    assert len([*(folder / "cache" / "features").iterdir()]) == 1, "and those of samples are not"


def test_no_cache_keeps_nothing(folder, capsys):
    code, *_ = run(capsys, "a.npz", "--no-cache", "--metrics", "precision")
    assert code == 0
    assert not (folder / "cache").exists()
    code, out, err = run(capsys, "a.npz", "--no-cache", "--cache", "here")
    assert (code, out) == (2, "")
    assert "pass one of the two" in err


@pytest.mark.parametrize("form", ["markdown", "latex", "csv", "json"])
def test_a_format_for_pasting_stands_alone_on_stdout(folder, capsys, form):
    code, out, _ = run(capsys, "a.npz", "c.npz", "--metrics", "fid", "--format", form)
    assert code == 0
    assert "appended" not in out
    assert len(read_results("results.jsonl")) == 2
    if form == "json":
        assert [each["gen"]["path"] for each in json.loads(out)] == ["a.npz", "c.npz"]
    else:
        assert "a.npz" in out.replace(r"\allowbreak ", "")


def test_json_of_one_file_is_what_it_was(folder, capsys):
    _, out, _ = run(capsys, "a.npz", "--json", "-")
    (kept,) = read_results("results.jsonl")
    assert out == f"{kept.to_json()}\n"
    _, same, _ = run(capsys, "a.npz", "--format", "json")
    assert (list(json.loads(same)), json.loads(same)["fid"]) == (list(json.loads(out)), kept.fid)


def test_a_mistake_in_one_of_several_is_told_before_any_is_scored(folder, capsys, monkeypatch):
    monkeypatch.setattr(DigitsExtractor, "__call__", lambda *_: pytest.fail("a network runs"))
    code, out, err = run(capsys, "a.npz", "no.npz")
    assert (code, out) == (2, "")
    assert "no.npz: no such file" in err
    code, out, err = run(capsys, "a.npz", "c.npz", "--dry-run")
    assert (code, out) == (2, "")
    assert "expected one SAMPLES" in err


def test_what_was_scored_is_kept_when_a_later_file_fails(folder, capsys, monkeypatch):
    real = DigitsExtractor.__call__
    seen = []

    def fails_late(self, images):
        seen.append(len(images))
        if sum(seen) > 1297 + 200:
            raise OSError("the disk is gone")
        return real(self, images)

    monkeypatch.setattr(DigitsExtractor, "__call__", fails_late)
    code, out, err = run(capsys, *FILES)
    assert (code, out) == (2, "")
    assert "the disk is gone" in err
    assert [each.gen.path for each in read_results("results.jsonl")] == ["b.npz"]


def test_a_stdout_without_arrows_gets_letters(folder, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    with pytest.raises(SystemExit):
        main(["evaluate", "a.npz", "--ref", "digits", "--extractor", "digits", "--metrics", "fid", "--device", "cpu"])
    assert re.search(rb"FID-200 \(digits\) v +\d", written.getvalue())
