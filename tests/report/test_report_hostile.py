"""A report of results whose every text is made to do harm: nothing leaves the folder, nothing runs, nothing is lost."""

import base64
import csv
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hostile_texts import LINES, OTHERS
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from report_runs import result, sample_run, start_browser, write_results

from dit_eval.cli import main
from dit_eval.flops.kept import Count
from dit_eval.report import page
from dit_eval.report.figures.figure7 import SeedImages, size_patch_grid
from dit_eval.report.figures.figure13 import loss_curves
from dit_eval.report.figures.samples import sample_grid_figure
from dit_eval.report.figures.style import lettering
from dit_eval.report.points import measured_points, read_losses
from dit_eval.report.tables import paper, stated
from dit_eval.report.tables.measured import measured_table
from dit_eval.report.tables.write import no_formula
from dit_eval.system.text import slug

PROTOCOL = "x/../../../evil <script>document.title='ran'</script>"


def every_text(value, text):
    """A JSON value with a text in the place of all its texts."""
    if isinstance(value, dict):
        return {key: every_text(each, text) for key, each in value.items()}
    if isinstance(value, list):
        return [every_text(each, text) for each in value]
    return text if isinstance(value, str) else value


def hostile_lines():
    """Every text in every field; a sampling run has printable texts only, which its reader sees to."""
    for text in (*LINES, *OTHERS):
        run = sample_run() if text in LINES else None
        line = every_text(json.loads(result(run, 5.0).to_json()), text)
        line["environment"] = {"dit_eval": text, "commit": text, text: {text: [text]}}
        yield line
    # A setting of its own, of one family, and one of three; enough runs for every figure.
    for protocol, families in ((PROTOCOL, ("$x_{$<b>_^&",)), ("$\\frac{", ("_=1|", "-1+1 [", "名$$"))):
        for size, patch, steps, sampling in (
            ("S", 2, 100, 50), ("S", 2, 200, 50), ("B", 2, 100, 50), ("B", 2, 200, 50), ("L", 4, 200, 50),
            ("S", 2, 200, 25), ("B", 2, 200, 25),
        ):  # fmt: skip
            for family in families:
                for block in ("adaln-zero", "adaln") if (size, sampling) == ("B", 50) else ("adaln-zero",):
                    run = sample_run(f"DiT-{size}/{patch}", block=block, image_size=256, training_steps=steps)
                    run = dataclasses.replace(
                        run, model=f"{family}-{size}/{patch}", num_sampling_steps=str(sampling), vae=LINES[7]
                    )
                    fid = 50 - 10 * "SBL".index(size) - steps / 40 - sampling / 50
                    yield json.loads(result(run, fid, num_samples=500, protocol=protocol).to_json())


def write_losses(path):
    losses = [{"model": text, "step": step, "loss": 1 / step} for text in (*LINES, *OTHERS) for step in (1, 2, 3)]
    path.write_text("".join(json.dumps(line) + "\n" for line in losses), encoding="utf-8")
    return path


def outside_of_the_paper(figure):
    """The same figure, but of the paper's own points: these hold no text of the results."""

    def draw(needed, look):
        return None if getattr(needed, "is_papers", False) else figure.draw(needed, look)

    return dataclasses.replace(figure, draw=draw)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The page, the rows of the results file, and what lay in the folder around it before and after."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = list(hostile_lines())
    (folder / "=1+1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_losses(folder / "losses.jsonl")

    def around():
        return {path for path in folder.parent.rglob("*") if folder / "deep" / "out" not in (path, *path.parents)}

    (folder / "deep").mkdir()
    before = around()
    with pytest.MonkeyPatch.context() as patch:
        # Figure 12 has no text that the others have not.
        patch.setattr(page, "FIGURES", [outside_of_the_paper(f) for f in page.FIGURES if f.name != "figure12"])
        patch.setattr(page, "count_network", lambda network: Count(gflops=float(network["hidden_size"]), params_m=1.0))
        written = page.write_report(
            out=folder / "deep" / "out", results=folder / "=1+1.jsonl", losses=folder / "losses.jsonl"
        )
    return written, rows, before, around()


class Parsed(HTMLParser):
    """Elements with their attributes, texts of scripts, and the text of each cell of tables."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.cells, self.text, self._open = [], [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        self.text += data
        if "script" in self._open:
            self.scripts.append(data)
        elif {"td", "th"} & set(self._open):
            self.cells[-1] += data


def visible(text):
    # As Python escapes them, but that \xNN is kept for ASCII and for bytes that are no text.
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped).replace("\\x85", "\\u0085").replace("\\xad", "\\u00ad")


@pytest.mark.slow
def test_nothing_is_written_outside_of_the_folder(hostile):
    written, _, before, after = hostile
    assert after == before
    out = written.parent
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    assert all(re.fullmatch(r"(tables/|figures/|data/)?[a-z0-9][a-z0-9-]*\.[a-z]+", name) for name in files), files
    assert len({name.casefold() for name in files}) == len(files)
    assert max(map(len, files)) < 120
    digest = hashlib.sha256(PROTOCOL.encode()).hexdigest()[:16]
    assert f"figures/figure9-x-evil-script-document-title-ran-script-{digest}-256.svg" in files
    assert len([name for name in files if re.fullmatch(r"figures/figure\d+(-left)?-.*\.png", name)]) == 2 * 6


def test_the_page_has_no_element_that_is_not_its_own(hostile):
    written, rows, *_ = hostile
    pages = {path.name: Parsed(path.read_text("utf-8")) for path in [written, *written.parent.glob("tables/*.html")]}
    index = pages["index.html"]
    script = (Path(page.__file__).parent / "templates" / "page.js").read_text("utf-8")
    assert "".join(index.scripts) == f"\n{script}"
    for name, parsed in pages.items():
        assert {tag for tag, _ in parsed.elements} <= {
            "html", "head", "meta", "title", "link", "style", "body", "header", "h1", "h2", "h3", "p", "ul", "li", "b",
            "span", "nav", "a", "main", "section", "div", "figure", "img", "figcaption", "details", "summary", "dl",
            "dt", "dd", "code", "table", "caption", "thead", "tbody", "tr", "th", "td", "button", "strong", "sup",
            *(["script", "svg", "circle"] if name == "index.html" else []),
        }, name  # fmt: skip
        for tag, attributes in parsed.elements:
            assert not [key for key in attributes if key.startswith("on")], tag
            assert re.fullmatch(r"[a-z0-9-]*", attributes.get("id", ""))
            link = attributes.get("href", attributes.get("src", "#"))
            assert re.match(
                r"#|data:(,$|text/csv;|image/(svg\+xml|png|jpeg);)|(tables|figures)/[a-z0-9-]+\.[a-z]+$", link
            ), link
    ids = [attributes["id"] for _, attributes in index.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    models = {row["gen"]["run"]["model"] for row in rows if row["gen"]["run"]}
    assert models <= set(index.cells), "every text stands there as it is"
    assert {visible(text) for text in OTHERS} <= {cell for cell in index.cells}
    assert all(character.isprintable() or character == "\n" for character in index.text)


@pytest.mark.browser
def test_a_page_that_held_a_script_would_not_run_it(hostile, tmp_path):
    """The policy of the page names its own script; a browser refuses any other, and all that is fetched."""
    written, *_ = hostile
    text = written.read_text("utf-8")
    (policy,) = [a["content"] for tag, a in Parsed(text).elements if tag == "meta" and "http-equiv" in a]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", f"script-src 'sha256-{digest}'",
        "base-uri 'none'", "form-action 'none'",
    ]  # fmt: skip
    browser = start_browser(tmp_path / "profile")
    try:
        browser.get(f"file://{written}")
        decoded = "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
        assert min(browser.execute_script(decoded)) > 0
        assert browser.title == "Diffusion transformers: your results and the paper's"
        assert browser.execute_script("return document.scripts.length") == 1
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        assert {url.partition(":")[0] for url in sent if not url.startswith("chrome")} <= {"file", "data"}
        assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
        bad = "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"
        (tmp_path / "bad.html").write_text(text.replace("</main>", f"{bad}</main>"), encoding="utf-8")
        browser.get(f"file://{tmp_path / 'bad.html'}")
        assert browser.title == "Diffusion transformers: your results and the paper's"
        assert len([e for e in browser.get_log("browser") if "Content Security Policy" in e["message"]]) >= 2
    finally:
        browser.quit()


def test_markdown_has_no_html_link_or_picture(hostile):
    written, rows, *_ = hostile
    for path in written.parent.glob("tables/*.md"):
        text = path.read_text("utf-8")
        assert not re.search(r"https?://|www\.", text), "GitHub makes links of addresses"
        parsed = Parsed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))
        tags = {tag for tag, _ in parsed.elements}
        assert tags <= {"p", "strong", "em", "sup", "table", "thead", "tbody", "tr", "th", "td"}, path.name
        assert not any(set(attributes) - {"style"} for _, attributes in parsed.elements)
    parsed = Parsed(
        MarkdownIt("commonmark", {"html": True})
        .enable("table")
        .render((written.parent / "tables/measured.md").read_text("utf-8"))
    )
    models = [row["gen"]["run"]["model"] for row in rows if row["gen"]["run"]]
    assert {model.strip() for model in models} <= set(parsed.cells), "texts are shown as they are"


def test_spreadsheets_find_no_formula(hostile):
    written, *_ = hostile
    out = written.parent
    number = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?")
    for path in [*out.glob("tables/*.csv"), *out.glob("data/*.csv"), *out.glob("figures/*.csv")]:
        for row in csv.reader(io.StringIO(path.read_text("utf-8"), newline="")):
            for cell in row:
                assert not re.match(r"\s*[=+\-@\t\r\n＝]", cell) or number.fullmatch(cell), (path.name, cell)
    with open(out / "tables" / "measured.csv", newline="", encoding="utf-8") as file:
        cells = [row["model"] for row in csv.DictReader(file)]
    begin = ('\'=HYPERLINK("https://evil.example","x") =', "'+1+1 +1+1", "'＝1+1 ＝", "'-0.5 -0.5")  # model and block
    assert all(any(cell.startswith(each) for cell in cells) for each in begin)
    with open(out / "data" / "losses.csv", newline="", encoding="utf-8") as file:
        names = {row["model"] for row in csv.DictReader(file)}
    assert {
        '\'=HYPERLINK("https://evil.example","x")',
        "'+1+1",
        "'-1+1",
        "'@SUM(1,1)",
        "' =1+1",
        "-0.5",
        "'＝1+1",
    } <= names


FORMULAS = {
    "=1": "'=1", "+1-1": "'+1-1", "-x": "'-x", "@a": "'@a", "\tx": "'\tx", "\r=1": "'\r=1", "  =1": "'  =1", "-": "'-",
    "-1": "-1", "-0.93": "-0.93", "+2.5e-3": "+2.5e-3", "-.5": "-.5", "-1_0": "'-1_0", "-1 ": "'-1 ",
    "-inf": "'-inf", "DiT-XL/2": "DiT-XL/2", "": "", "a=1": "a=1",
}  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_is_a_text_and_a_number_stays_a_number(text):
    assert no_formula(text) == FORMULAS[text]


@pytest.mark.skipif(
    shutil.which("pdflatex") is None and not os.environ.get("CI"), reason="needs pdflatex (texlive-latex-recommended)"
)
@pytest.mark.tex
def test_latex_takes_no_text_for_a_command(hostile, tmp_path):
    written, *_ = hostile
    # Table 2 has measured rows in italics, the others plain ones, at whose beginning a bracket or a star stands.
    names = sorted(path.name for path in written.parent.glob("tables/*.tex") if not path.name.startswith("later"))
    body = "\n\\clearpage\n".join((written.parent / "tables" / name).read_text("utf-8") for name in names)
    document = (
        "\\documentclass{article}\\usepackage{array,booktabs,longtable}\\begin{document}\n" + body + "\\end{document}\n"
    )
    (tmp_path / "tables.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-recorder", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "/etc/passwd" not in (tmp_path / "tables.fls").read_text()
    assert not (tmp_path / "evil").exists()


def test_figures_hold_names_as_they_are(hostile, tmp_path):
    written, *_ = hostile
    drawn = {}
    for path in written.parent.glob("figures/*.svg"):
        parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
        elements = [*ElementTree.parse(path, parser).iter()]
        tags = {element.tag.rpartition("}")[2] for element in elements if isinstance(element.tag, str)}
        assert not tags & {"script", "a", "image", "foreignObject"}, path.name
        # Texts are drawn as shapes, and stand beside them as comments.
        drawn[path.name] = {unescape(element.text.strip()) for element in elements if callable(element.tag)}
    (names,) = [names for name, names in drawn.items() if name.startswith("figure2-left-x-evil")]
    assert {"$x_{$<b>_^&-S", "$x_{$<b>_^&-B"} <= names
    losses = read_losses(write_losses(tmp_path / "losses.jsonl"))
    (axis,) = loss_curves(losses).figure.axes
    legend = [text.get_text() for text in axis.get_legend().get_texts()]
    assert len(legend) == len({*LINES, *OTHERS})
    assert {"<script>document.title='ran'</script>", " _hidden", r"\$\frac{1}{2}\$"} <= set(legend)


LETTERING = {
    "DiT-XL/2": "DiT-XL/2", "$x_{$": "$x_{$", "$\\frac{": "$\\frac{", "5 $": "5 $", "\\$": "\\$", "a\nb": "a\\nb",
    "\x1b[2J": "\\x1b[2J", "\u202eb": "\\u202eb", "名 é": "\ufffd é", "n" * 41: "n" * 37 + "...",
}  # fmt: skip


@pytest.mark.parametrize("text", LETTERING)
def test_matplotlib_draws_the_text_and_no_mathematics(text):
    drawn = Figure().text(0, 0, lettering(text))._preprocess_math(lettering(text))
    assert drawn == (LETTERING[text], False)


def test_grids_are_drawn_whatever_the_names():
    images = {"$x_{$-S/2": np.zeros((8, 8, 3), np.uint8), "$x_{$-B/2": np.zeros((8, 8, 3), np.uint8)}
    for figure in (
        size_patch_grid(SeedImages(images=images, caption="")).figure,
        sample_grid_figure({name * 1000: [image] for name, image in images.items()}, columns=["$x_{$"], title="$_$"),
    ):
        figure.draw_without_rendering()
        assert max(figure.get_size_inches()) < 12


SLUGS = {
    "adm-2021": "adm-2021", "digits": "digits", "a" * 40: "a" * 40,
    "con": "con-{}", "Digits": "digits-{}", "a" * 41: "a" * 40 + "-{}", "": "{}", "..": "{}", "名": "{}",
    "a--b": "a-b-{}",
    "x/../../../evil": "x-evil-{}", "x evil": "x-evil-{}", "a-0123456789abcdef": "a-0123456789abcdef-{}", "-a-": "a-{}",
}  # fmt: skip


@pytest.mark.parametrize("text", SLUGS)
def test_any_text_becomes_a_name(text):
    assert slug(text) == SLUGS[text].format(hashlib.sha256(text.encode()).hexdigest()[:16])


def test_two_texts_have_two_names():
    texts = {*LINES, *OTHERS, *SLUGS, *map(str.upper, SLUGS), *(slug(text) for text in (*LINES, *OTHERS)), "\ud800"}
    names = {slug(text).casefold() for text in texts}
    assert len(names) == len(texts)
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) <= 57 for name in names)


def run_report(*arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["report", *map(str, arguments)])
    return exit_.value.code


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(page, "FIGURES", [item for item in page.FIGURES if item.needs == "losses"])
    for tables in (paper, stated):
        monkeypatch.setattr(tables, "count_named", lambda *_: Count(gflops=1.0, params_m=1.0))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["tables", "figures", "data"])
@pytest.mark.slow
def test_a_link_that_leads_out_of_the_folder_is_not_followed(name, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    losses = tmp_path / "losses.jsonl"
    losses.write_text('{"model": "x", "step": 1, "loss": 1}\n{"model": "x", "step": 2, "loss": 2}\n')
    assert run_report("--out", tmp_path / "out", "--losses", losses, "--force") == 2
    assert f"{tmp_path / 'out' / name} is a link that leads out of {tmp_path / 'out'}" in capsys.readouterr().err
    assert not list((tmp_path / "elsewhere").iterdir())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name], "nothing is written before all is checked"


@pytest.mark.usefixtures("quick")
def test_a_link_to_nothing_is_a_file_that_is_there(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").symlink_to(tmp_path / "evil")
    assert run_report("--out", tmp_path / "out") == 2
    assert "exists already" in capsys.readouterr().err
    assert run_report("--out", tmp_path / "out", "--force") == 0
    assert not (tmp_path / "evil").exists(), "the link is replaced, not followed"


@pytest.mark.usefixtures("quick")
def test_names_that_no_file_can_have_are_files_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "count_network", lambda _: Count(gflops=1.0, params_m=1.0))
    monkeypatch.setattr(page, "FIGURES", ())
    results = [result(sample_run(), 3.0, path=path) for path in ("a" * 9000, "x\x00y", "")]
    path = write_results(tmp_path / "results.jsonl", results)
    assert run_report("--results", path, "--out", tmp_path / "out") == 0


def test_a_block_that_is_no_text_is_not_known():
    odd = [dataclasses.replace(sample_run(), network={"block": block}) for block in (["x"], {"a": 1}, 7, None)]
    points = measured_points([("line", result(run, 3.0)) for run in odd], count=lambda _: None)
    assert points["block"].tolist() == [None] * 4
    assert len(measured_table(points).rows) == 4
