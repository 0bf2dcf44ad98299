"""Tables: measured rows, best values, and each format as it is written."""

import csv
import dataclasses
import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markdown_it import MarkdownIt
from report_runs import result, rough_count, sample_run

from dit_eval.flops.kept import count_named
from dit_eval.paper import load_table
from dit_eval.report.figures import FIGURES
from dit_eval.report.law import scaling_law
from dit_eval.report.points import measured_points
from dit_eval.report.setting import select, settings
from dit_eval.report.tables.analysis import law_tables, sampling_tables
from dit_eval.report.tables.later import later_tables
from dit_eval.report.tables.latex import to_latex
from dit_eval.report.tables.measured import measured_table
from dit_eval.report.tables.paper import _metrics_table
from dit_eval.report.tables.stated import stated_table
from dit_eval.report.tables.table import DASH
from dit_eval.report.tables.write import to_csv, to_html, to_markdown
from dit_eval.report.templating import render
from dit_eval.results.eval_result import Estimate, Uncertainty

OF_POINTS = [item for item in FIGURES if item.needs == "points"]


def test_measured_rows_are_marked_rounded_and_compared(measured):
    table = _metrics_table(2, "t", select(measured, image_size=256.0))
    own = [row for row in table.rows if row.measured]
    (row,) = [r for r in own if r.cells["fid"] == "2.39"]
    assert row.cells == {"model": "DiT-XL/2-G (cfg=1.50), 7000K training steps", "fid": "2.39", "sfid": "4.81",
                         "inception_score": "271.30", "precision": "0.82", "recall": "0.58"}  # fmt: skip
    assert row.source.startswith("results.jsonl, line ")
    assert "24 measured results of other than 50,000 samples are left out." in table.about
    assert "*DiT-XL/2-G (cfg=1.50), 7000K training steps* (measured)" in to_markdown(table)
    assert len(own) == 60 + 9 + 3
    assert "DiT-XL/2, in-context, ft-MSE decoder, 400K training steps" in {r.cells["model"] for r in own}


def test_best_values_are_bold_and_only_they(paper_tables):
    table = paper_tables["table2"]
    bold = sorted((table.rows[i].cells["model"], key) for i, key in table.best)
    assert bold == [
        ("BigGAN-deep", "precision"), ("DiT-XL/2", "recall"), ("DiT-XL/2-G (cfg=1.50)", "fid"),
        ("DiT-XL/2-G (cfg=1.50)", "inception_score"), ("LDM-4-G (cfg=1.50)", "precision"), ("StyleGAN-XL", "sfid"),
    ]  # fmt: skip
    assert to_markdown(table).count("**") == 2 * len(bold) + 2
    assert to_latex(table).count(r"\textbf{") == len(bold)
    assert to_html(table).count("<strong>") == len(bold)


@pytest.mark.parametrize("name", ["table.md.j2", "table.tex.j2", "table.html.j2", "live_table.html.j2", "page.html.j2"])
def test_a_template_that_misses_something_is_an_error(name):
    with pytest.raises(UndefinedError, match="undefined"):
        render(name, {})


def test_csv_gives_the_table_back(paper_tables):
    rows = list(csv.DictReader(io.StringIO(to_csv(paper_tables["table3"]))))
    assert [row["fid"] for row in rows] == load_table(3, printed=True)["fid"].tolist()
    assert {row["source"] for row in rows} == {"paper, Table 3"}


def test_csv_has_numbers_in_full_under_names_for_programs(paper_tables, papers, minis, together):
    import pandas

    every = [*paper_tables.values(), stated_table(papers), *later_tables(), *sampling_tables(minis)]
    every += [*law_tables([scaling_law(minis, "measured")]), measured_table(together)]
    for table in every:
        header = to_csv(table).splitlines()[0].split(",")
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in header), table.name
        assert len(set(header)) == len(header), table.name
        frame = pandas.read_csv(io.StringIO(to_csv(table)))
        assert frame.columns.tolist() == header
        assert len(frame) == len(table.rows)
    frame = pandas.read_csv(io.StringIO(to_csv(paper_tables["table4"])))
    assert frame["image_size"].tolist() == load_table(4)["image_size"].tolist(), "numbers, not 256×256"
    assert frame["gflops_counted"][4] == count_named("DiT-B/4", 256).gflops
    estimate = Estimate(value=2.2712345, standard_error=0.0123456, low=2.25, high=2.2999)
    sure = dataclasses.replace(result(sample_run(), 2.2712345), uncertainty=Uncertainty(estimates={"fid": estimate}))
    table = measured_table(measured_points([("line", sure)], count=rough_count))
    frame = pandas.read_csv(io.StringIO(to_csv(table)))
    assert frame.loc[0, ["fid", "fid_standard_error", "fid_low", "fid_high"]].tolist() == [
        2.2712345, 0.0123456, 2.25, 2.2999,
    ]  # fmt: skip
    assert table.rows[0].cells["fid"] == "2.271 ± 0.012"


def test_html_files_are_pages_of_their_own(paper_tables):
    text = to_html(paper_tables["table2"])
    assert text.startswith("<!DOCTYPE html>")
    assert "<button" not in text, "no script sorts here"
    assert text.count("<tr") == 16


def test_latex_is_set_as_venues_set_it(paper_tables, papers, together):
    table2, table4 = (to_latex(paper_tables[name]) for name in ("table2", "table4"))
    assert r"\caption{ImageNet 256$\times$256, class-conditional.}" in table2, "LaTeX gives the number"
    assert table2.count(r"\midrule") == 1 + 4, "below the head, and between GANs, ADM, CDM, LDM and DiT"
    assert r"171.4\phantom{0}" in table2, "decimals in line"
    assert r"CDM & 4.88 & -- & 158.71" in table2
    assert r"Learning Rate $1 \times 10^{-4}$" in table4
    assert table4.count(r"\midrule") == 1 + 6
    assert "$-$0.92985" in to_latex(stated_table(papers)), "a minus, no hyphen"
    assert r"\begin{longtable}" in to_latex(measured_table(together))
    for table in (table2, table4):
        assert r"\begin{table*}[tbp]" in table
        assert "resizebox" not in table


def test_markdown_renders_as_tables(paper_tables):
    for table in paper_tables.values():
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(to_markdown(table))
        assert rendered.count("<table>") == 1
        assert rendered.count("<td") == len(table.rows) * len(table.columns)


@pytest.mark.skipif(
    shutil.which("pdflatex") is None and not os.environ.get("CI"), reason="needs pdflatex (texlive-latex-recommended)"
)
@pytest.mark.tex
def test_latex_compiles(paper_tables, papers, together, minis, tmp_path):
    hard = dataclasses.replace(
        result(sample_run(), 9.0), gen=dataclasses.replace(result(None, 1.0).gen, path="50%_a&b#c$d{e}^~\\x, é↓<1>.npz")
    )
    points = measured_points([("50%_of.jsonl, line 1", hard)], count=rough_count)
    every = [
        *paper_tables.values(), stated_table(papers), *later_tables(),
        *sampling_tables(settings(together)[0]), *law_tables([scaling_law(minis, "measured")]),
        measured_table(together), measured_table(points),
        _metrics_table(2, "100% & more", points),
    ]  # fmt: skip
    body = "\n\\clearpage\n".join(to_latex(table) for table in every)
    head = "\\documentclass[twocolumn]{article}\\usepackage{array,booktabs,longtable}\\begin{document}\n"
    document = f"{head}{body}\\end{{document}}\n"
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall("Overfull.*|.*Float too large.*", done.stdout)
    assert (tmp_path / "tables.pdf").read_bytes().startswith(b"%PDF")


def test_the_tables_in_reports_are_what_the_code_makes(paper_tables, papers):
    folder = Path(__file__).parents[2] / "reports" / "paper" / "tables"
    made = [
        *paper_tables.values(), stated_table(papers), *later_tables(), *sampling_tables(papers),
        *law_tables([scaling_law(papers, "paper")]),
    ]  # fmt: skip
    for table in made:
        assert (folder / f"{table.name}.md").read_text(encoding="utf-8") == to_markdown(table)
        assert (folder / f"{table.name}.tex").read_text(encoding="utf-8") == to_latex(table)
        assert (folder / f"{table.name}.csv").read_text(encoding="utf-8") == to_csv(table)
        assert (folder / f"{table.name}.html").read_text(encoding="utf-8") == to_html(table)
    drawn = {path.stem for path in (folder.parent / "figures").glob("*.pdf")}
    assert drawn == {f.name for f in OF_POINTS if f.draw(papers) is not None}


def test_further_metrics_have_columns_where_a_result_has_them():
    results = [result(sample_run(), 12.0, fd_dinov2=123.4567, kid=0.0001234), result(sample_run(), 12.0)]
    table = measured_table(measured_points([("line", r) for r in results], count=rough_count))
    titles = {column.title: column.key for column in table.columns}
    assert {"FD-DINOv2 ↓", "KID ↓"} <= titles.keys()
    assert not {"Density ↑", "CMMD ↓"} & titles.keys()
    first, second = (row.cells for row in table.rows)
    assert (first["fd_dinov2"], first["kid"]) == ("123.457", "0.00012")
    assert (second["fd_dinov2"], second["kid"]) == (DASH, DASH)
    sure = Uncertainty(estimates={"kid": Estimate(value=0.0123, standard_error=0.0005, low=0.0113, high=0.0133)})
    table = measured_table(
        measured_points([("line", result(sample_run(), 12.0, kid=0.0123, uncertainty=sure))], count=rough_count)
    )
    assert table.rows[0].cells["kid"] == "0.012 ± 0.00050"
    assert table.rows[0].values["kid_low"] == 0.0113
    assert "standard error" in table.about
