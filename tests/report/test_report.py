"""The report: files that are read, the command, and the page that comes of them."""

import csv
import dataclasses
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from report_runs import (
    mini_gflops,
    mini_results,
    result,
    rough_count,
    sample_run,
    synthetic_results,
    write_grid,
    write_losses,
    write_mini_losses,
    write_results,
)

from dit_eval.cli import main
from dit_eval.flops.kept import Count, count_network
from dit_eval.report import page
from dit_eval.report.figures import FIGURES
from dit_eval.report.points import measured_points, number_of_steps, read_losses
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.lines import read_results
from dit_eval.results.sample_run import SampleRun


def test_runs_without_training_length_are_not_guessed():
    run = dataclasses.replace(sample_run(), training_steps=None, training_batch_size=None)
    named = dataclasses.replace(run, checkpoint="0400000.pt")
    points = measured_points([("a", result(run, 9.0)), ("b", result(named, 9.0)), ("c", result(None, 9.0))],
                             count=rough_count)  # fmt: skip
    assert np.isnan(points.loc[0, "training_steps"])
    assert points.loc[1, "training_steps"] == 400_000, "DiT's trainer names its files so"
    assert points["training_gflops"].isna().all()
    assert points.loc[2, "model"] == "synthetic.npz"
    assert points.loc[2, ["size", "block", "sampler"]].tolist() == [None] * 3


def test_older_sample_files_still_read():
    data = sample_run().to_json()
    for name in ("training_steps", "training_batch_size"):
        data = re.sub(rf'"{name}": \d+, ', "", data)
    assert "training_steps" not in data
    assert SampleRun.from_json(data).training_steps is None


@pytest.mark.parametrize(("spacing", "steps"), [("250", 250), ("10,15,20", 45), ("ddim50", 50), ("all", None)])
def test_sampling_steps_are_counted(spacing, steps):
    assert number_of_steps(spacing) == steps


def test_a_measured_network_is_counted_from_what_the_sample_file_says():
    count = count_network(sample_run("DiT-S/8").network)
    assert (f"{count.gflops:.4f}", f"{count.params_m:.6f}") == ("0.3581", "33.142016")
    assert count_network({"depth": 3}) is None
    small = {"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 2, "input_size": 8, "in_channels": 3,
             "num_classes": 10, "space": "pixel"}  # fmt: skip
    assert 0 < count_network(small).gflops < 0.01


GOOD = result(None, 9.0).to_json()
BAD_LINES = {
    '{"fid": 1.0, "sf': "Not an evaluation result",
    "[1, 2]": "Not an evaluation result",
    '{"model": "DiT-B/4", "step": 1, "loss": 0.1}': "Not an evaluation result",
    GOOD.replace('"fid": 9.0', '"fid": "nine"'): "fid is 'nine', needed a number",
    GOOD.replace('"num_samples": 50000', '"num_samples": null'): "num_samples is None",
    GOOD.replace('"gen": {', '"gen": "x", "other": {'): "Not an evaluation result",
    "\udcff": "codec can't decode",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_and_refused_or_skipped(line, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_bytes(f"{GOOD}\n{line}\n{GOOD}\n".encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=rf"results.jsonl, line 2: .*{re.escape(BAD_LINES[line])}"):
        read_results(path)
    said = []
    assert read_results(path, on_bad_line=said.append) == [EvalResult.from_json(GOOD)] * 2
    assert len(said) == 1
    assert "line 2: " in said[0]


def test_a_bad_line_of_a_loss_log_is_named(tmp_path):
    path = tmp_path / "losses.jsonl"
    good = '{"model": "DiT-B/4", "step": %d, "loss": 0.5}\n'
    path.write_text(good % 1 + '{"model": "DiT-B/4", "step": 2, "loss": NaN}\n' + '{"step": 3}\n' + good % 1)
    with pytest.raises(ValueError, match=r"line 2: .*finite loss(.|\n)*line 3: "):
        read_losses(path)
    assert len(read_losses(path, on_bad_line=lambda _: None)) == 1, "of two lines for one step the later counts"


def run_command(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["report", *map(str, arguments)])
    return exit_.value.code


@pytest.fixture
def quick_files(monkeypatch):
    """The command without its figures: what it reads and where it writes."""
    real = page.report_files

    def files(**request):
        monkeypatch.setattr(page, "FIGURES", ())
        monkeypatch.setattr(page, "count_network", rough_count)
        return real(**request)

    monkeypatch.setattr(page, "report_files", files)


def test_nothing_is_overwritten_without_force(tmp_path, capsys, quick_files):
    out = tmp_path / "out"
    assert run_command("--out", out) == 0
    assert capsys.readouterr().out == f"{out / 'index.html'}\n"
    (out / "index.html").write_text("mine")
    assert run_command("--out", out) == 2
    assert "--force" in capsys.readouterr().err
    assert (out / "index.html").read_text() == "mine"
    (out / "index.html").unlink()
    assert run_command("--out", out) == 2, "a table is there"
    assert run_command("--out", out, "--force") == 0
    assert "<!DOCTYPE html>" in (out / "index.html").read_text()
    assert not list(out.rglob("*.part"))


def test_bad_lines_are_refused_or_skipped_as_asked(tmp_path, capsys, quick_files):
    path = write_results(tmp_path / "results.jsonl", [result(sample_run("DiT-S/8"), 150.0)])
    with open(path, "a") as file:
        file.write('\n[]\n{"fid": 1.0, "sf\n')
    assert run_command("--results", path, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "line 2: " not in error, "an empty line is nothing"
    assert "line 3: Not an evaluation result" in error
    assert "line 4: Not an evaluation result" in error
    assert not (tmp_path / "out").exists()
    assert run_command("--results", path, "--out", tmp_path / "out", "--skip-bad-lines") == 0
    assert "warning: left out" in capsys.readouterr().err
    text = (tmp_path / "out" / "index.html").read_text()
    assert "1 measured result beside" in text
    assert "line 3: Not an evaluation result" in text, "the page says what was left out"


@pytest.mark.parametrize("option", ["--results", "--losses"])
def test_a_missing_file_is_a_mistake_of_the_user(option, tmp_path, capsys):
    assert run_command(option, tmp_path / "no.jsonl", "--out", tmp_path / "out") == 2
    assert f"{option} {tmp_path / 'no.jsonl'}: no such file" in capsys.readouterr().err


def test_an_empty_file_is_refused(tmp_path, capsys):
    path = write_results(tmp_path / "results.jsonl", [])
    assert run_command("--results", path, "--out", tmp_path / "out") == 2
    assert "holds no result" in capsys.readouterr().err


def test_the_report_loads_without_torch():
    code = "import sys, dit_eval.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_program_that_draws_figures_keeps_its_own_backend():
    code = "import sys, dit_eval.report.page, matplotlib; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A whole report, of invented results, losses and samples."""
    folder = tmp_path_factory.mktemp("report")
    results = [
        *synthetic_results(),
        *write_grid(folder),
        *(result(None, fid, num_samples=500, protocol="digits", path=f"blur-{fid}.npz") for fid in (1.0, 2.0)),
    ]
    path = write_results(folder / "results.jsonl", results)
    losses = write_losses(folder / "losses.jsonl")
    return page.write_report(out=folder / "out", results=path, losses=losses)


def test_the_report_has_every_table_and_figure(written):
    figures = {p.stem for p in (written.parent / "figures").iterdir()}
    assert figures == {"figure2-left", "figure2-right", "figure5", "figure6", "figure7", "figure8", "figure9",
                       "figure10", "figure12", "figure13", "guidance", "sampling-steps", "epochs"}  # fmt: skip
    for name in figures:
        data = set() if name == "figure7" else {".csv"}
        assert {p.suffix for p in written.parent.glob(f"figures/{name}.*")} == {".pdf", ".png", ".svg", *data}
    made = {p.name for p in (written.parent / "tables").iterdir()}
    for number in range(1, 7):
        assert {f"table{number}.{ending}" for ending in ("md", "tex", "csv", "html")} <= made
    with open(written.parent / "data" / "points.csv", encoding="utf-8") as file:
        points = list(csv.DictReader(file))
    assert Counter(p["source"] for p in points) == {"paper": 30, "measured": 111}


@pytest.fixture(scope="module")
def mini_page(tmp_path_factory):
    """The report of the study in miniature: its page, and the page's sections by their headings."""
    folder = tmp_path_factory.mktemp("mini")
    results = [r for r in mini_results() if r.gen.run.network["patch_size"] > 1]  # 8 models, which are faster to draw
    path, losses = write_results(folder / "results.jsonl", results), write_mini_losses(folder / "losses.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "count_network", lambda n: Count(gflops=mini_gflops(n), params_m=0.1))
        written = page.write_report(out=folder / "out", results=path, losses=losses)
    parts = re.findall(r'<section id="part-\w+"><h2>(.*?)</h2>(.*?)</section>', written.read_text("utf-8"), re.S)
    return written, dict(parts)


def test_a_study_has_a_section_and_files_of_its_own(mini_page):
    written, sections = mini_page
    figures = {p.stem for p in (written.parent / "figures").iterdir()}
    own = {f"figure{n}-digits-8" for n in ("2-left", "5", "6", "8", "9", "10", "12", "13")}
    own |= {"guidance-digits-8", "sampling-steps-digits-8"}
    assert {name for name in figures if "digits" in name} == own
    assert "figure13" not in figures, "no loss of a model of the paper"
    made = {p.name for p in (written.parent / "tables").iterdir()}
    assert {f"{name}-digits-8.csv" for name in ("scaling-law", "scaling-law-exceptions", "sampling-pairs")} <= made
    section = sections["8 px, protocol digits"]
    assert all(f'id="{name}"' in section for name in own)
    assert "needs a loss log" not in "".join(sections.values())


def test_findings_of_the_paper_stand_beside_its_own_points_only(mini_page):
    _, sections = mini_page
    claims = [item.claim for item in FIGURES if item.claim and item.name != "figure6"]  # which needs curves
    assert len(claims) == 4
    assert all(f"The paper: {claim}" in sections["Figures"] for claim in claims)
    assert not [claim for claim in claims if claim in sections["8 px, protocol digits"]]
    assert "The paper:" not in sections["8 px, protocol digits"]


def test_the_law_is_told_where_its_points_are(mini_page):
    _, sections = mini_page
    paper, own = sections["Quality and model compute"], sections["8 px, protocol digits"]
    assert "r = -0.930 over 12 models at 400K training steps" in paper
    assert "9 of 9 pairs. (paper points)" in paper
    assert "measured points" not in paper
    assert re.search(r"r = -0\.\d+ over 8 models at 800 training steps", own)
    assert "Not so: mini-XL/4 (" in own
    assert "paper points" not in own
