"""The page of a report: the user's runs first, what it can do in a browser, and what of it goes onto the clipboard."""

import csv
import dataclasses
import io
import json
import re
import shutil
import time

import numpy as np
import pandas
import pytest
from hostile_texts import LINES
from report_runs import result, sample_run, start_browser, synthetic_results, write_grid, write_results

from dit_eval.flops.kept import Count
from dit_eval.images.npz import write_batch
from dit_eval.report import page, sample_images
from dit_eval.report.figures.figure8 import fid_against_gflops
from dit_eval.report.figures.marks import marks_of
from dit_eval.report.points import measured_points, published_points
from dit_eval.report.sample_images import thumbnails
from dit_eval.report.setting import select, settings
from dit_eval.report.tables.runs import best_of, runs_tables
from dit_eval.report.tables.table import DASH
from dit_eval.report.tables.write import no_formula, to_csv, to_markdown
from dit_eval.report.templating import markdown, tex
from dit_eval.results.eval_result import Estimate, Uncertainty

TOO_WIDE = """return [...document.querySelectorAll('.block')]
    .filter(block => block.scrollWidth > block.clientWidth + 1).map(block => block.querySelector('table').id)"""
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
SCREEN = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}


def invented_count(network):
    return Count(gflops=float(network["hidden_size"]), params_m=1.0)


def boards(results):
    lines = [(f"r.jsonl, line {number}", each) for number, each in enumerate(results, start=1)]
    points = measured_points(lines, count=invented_count)
    return runs_tables(pandas.concat([published_points(), points], ignore_index=True), results)


# What is on it


def test_numbers_that_do_not_compare_stand_in_different_leaderboards():
    digits = [result(None, fid, num_samples=500, protocol="digits", path=f"{fid}.npz") for fid in (3.0, 1.0, 2.0)]
    few = [result(sample_run(num_images=10_000), 1.5, num_samples=10_000)]
    large = [result(sample_run(image_size=512), 1.2)]
    mine = [result(sample_run(), 9.0), result(sample_run(cfg_scale=1.5), 3.0)]
    tables = boards([*digits, *few, *large, *mine])
    assert [[row.cells["fid"] for row in table.rows] for table in tables] == [
        ["3.00", "9.00"], ["1.50"], ["1.20"], ["1.00", "2.00", "3.00"],
    ], "the paper's protocol first, the largest group first, the best run first"  # fmt: skip
    assert [table.name for table in tables] == ["runs", "runs-2", "runs-3", "runs-4"]
    assert [re.match("[^,]*, FID-[^,]*", table.title)[0] for table in tables] == [
        "256 px, FID-50K", "256 px, FID-10K", "512 px, FID-50K", "8 px, FID-500",
    ]  # fmt: skip
    assert [row.result for row in tables[3].rows] == [1, 2, 0]


def test_a_run_stands_beside_the_published_number():
    run = sample_run(cfg_scale=1.5, cfg_channels=3, vae="ema", training_steps=7_000_000)
    sure = Uncertainty(estimates={"fid": Estimate(value=2.251, standard_error=0.01, low=2.23, high=2.27)})
    (table,) = boards([dataclasses.replace(result(run, 2.251), uncertainty=sure)])
    (row,) = table.rows
    assert (row.cells["fid"], row.cells["difference"]) == ("2.25 ± 0.010", "\N{MINUS SIGN}0.02")
    assert row.cells["published"] == "2.27, DiT-XL/2-G (cfg=1.50) (Table 2)"
    assert row.values["difference"] == pytest.approx(2.251 - 2.27)
    own = boards([result(run, 2.251, protocol="adm-2021, own reference", badge=None)])[0].rows[0]
    assert not {own.cells["difference"], own.cells["published"]} - {DASH}, "against another reference it is no news"


def test_the_best_is_known_by_metric_whichever_way_is_better():
    (table,) = boards([result(sample_run(), 9.0, recall=0.6), result(sample_run(), 4.0, recall=0.5)])
    best = {title: (number, row.cells["fid"]) for title, number, row in best_of(table)}
    assert best["FID ↓"] == ("4.00", "4.00")
    assert best["Recall ↑"] == ("0.60", "9.00")


def samples(folder, name, *, side, count=5):
    images = np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    write_batch(folder / name, images=[images], shape=images.shape)
    return result(None, 3.0, path=name)


def test_thumbnails_are_small_and_of_the_files_that_were_scored(tmp_path, monkeypatch):
    results = [samples(tmp_path, "large.npz", side=256), samples(tmp_path, "tiny.npz", side=8), result(None, 1.0)]
    results += [dataclasses.replace(results[0], gen=dataclasses.replace(results[0].gen, run=sample_run()))]
    (tmp_path / "damaged.npz").write_bytes(b"PK no zip")
    results += [result(None, 2.0, path="damaged.npz")]
    made = thumbnails(results, tmp_path, [0, 1, 2, 3, 4])
    assert {number: (each.kind, each.count, each.tiny) for number, each in made.items()} == {
        0: ("image/jpeg", 4, False), 1: ("image/png", 4, True),
    }, "not of what is gone, of another run, or damaged"  # fmt: skip
    assert len(made[0].content) < 15_000
    monkeypatch.setattr(sample_images, "_MOST_BYTES", len(made[0].content))
    assert [*thumbnails(results, tmp_path, [0, 1])] == [0]
    assert [*thumbnails(results, tmp_path, [1, 0])] == [1], "what matters most first"


def test_marks_lie_where_points_are_drawn_and_say_what_they_are():
    papers = settings(published_points())[0]
    picture = fid_against_gflops(papers)
    found = marks_of(picture)
    (axis,) = picture.figure.axes
    points = select(papers.scaling, block="adaln-zero", training_steps=400_000.0)
    assert (found.width, found.height) == pytest.approx(tuple(72 * picture.figure.get_size_inches()))
    to_data = axis.transData.inverted()
    scale = picture.figure.dpi / 72
    placed = [to_data.transform((m.x * scale, (found.height - m.y) * scale)) for m in found.marks]
    expected = points.sort_values("gflops")
    assert sorted(x for x, _ in placed) == pytest.approx(expected["gflops"].tolist(), rel=0.02)
    for row in expected.itertuples():
        (text,) = [mark.text for mark in found.marks if mark.text.startswith(f"{row.model} (Table 4): ")]
        assert f"FID-50K {row.fid:.4g}," in text


# In a browser


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    grid = write_grid(folder)
    mine = [*grid[:4], *synthetic_results()[-4:], samples(folder, "=1+1|*.npz", side=8)]
    mine += [result(None, fid, num_samples=500, protocol="digits", path=f"blur-{fid:.2f}.npz")
             for fid in np.linspace(2, 1, 60)]  # fmt: skip
    write_results(folder / "results.jsonl", mine)
    return folder, mine


@pytest.fixture(scope="module")
def browser(results, tmp_path_factory):
    """A browser at the page, which lies alone: without the files beside it."""
    driver = start_browser(tmp_path_factory.mktemp("profile"))
    folder, _ = results
    try:
        with pytest.MonkeyPatch.context() as patch:
            some = [item for item in page.FIGURES if item.name in ("figure7", "figure8")]
            patch.setattr(page, "FIGURES", some)
            patch.setattr(page, "count_network", invented_count)
            written = page.write_report(out=folder / "out", results=folder / "results.jsonl")
        lonely = shutil.copy(written, tmp_path_factory.mktemp("alone") / "index.html")
        driver.address = f"file://{lonely}"
        driver.execute_cdp_cmd("Network.enable", {})
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def opened(browser):
    """The page anew, on a screen; what is copied goes to `window.copied`."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SCREEN)
    browser.get(browser.address)
    browser.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async (text) => {window.copied = text}}})"
    )
    return browser


def find(browser, css):
    return browser.find_elements("css selector", css)


def press(browser, css, text):
    """Press the button of an element by its text."""
    (found,) = [each for each in find(browser, f"{css} button, {css} summary") if each.text == text]
    found.click()
    return found


def shown(browser, table="runs"):
    """The names of the rows of a table that can be seen."""
    return [row.text for row in find(browser, f"#{table} tbody tr:not([hidden]) .name") if row.is_displayed()]


def until(condition):
    for _ in range(100):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


def test_the_best_run_is_on_the_first_screen(opened):
    for device in (SCREEN, PHONE):
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
        opened.get(opened.address)
        row = "document.querySelector('#runs tbody tr')"
        assert opened.execute_script(f"return {row}.getBoundingClientRect().bottom") < device["height"]
        assert "2.39" in opened.execute_script(f"return {row}.textContent")
        assert opened.execute_script("return document.documentElement.scrollWidth") <= device["width"], "no scrolling"
        opened.execute_script("document.getElementById('paper').open = true")
        until(lambda: opened.execute_script(TOO_WIDE) == [])  # tables have all of the width, and scroll nowhere


def test_rows_are_searched_bounded_and_sorted(opened):
    everything = shown(opened)
    assert len(everything) == 7
    (search,) = find(opened, "#part-runs .block:first-of-type input[type=search]")
    search.send_keys("fid<10")
    assert len(shown(opened)) == 3
    assert find(opened, "#part-runs [role=status]")[0].text == "3 of 7 rows"
    search.send_keys(" original")
    assert len(shown(opened)) == 1
    search.clear()
    search.send_keys("dit-s/")
    assert shown(opened) == ["DiT-S/2", "DiT-S/4", "DiT-S/8"]
    (head,) = find(opened, "#runs th[data-key=sfid]")
    assert head.get_attribute("aria-sort") is None
    for way, names in (("ascending", ["DiT-S/2", "DiT-S/4", "DiT-S/8"]),
                       ("descending", ["DiT-S/8", "DiT-S/4", "DiT-S/2"])):  # fmt: skip
        head.find_element("tag name", "button").send_keys("\n")
        assert (head.get_attribute("aria-sort"), shown(opened)) == (way, names)


def test_unknown_values_come_last_and_long_tables_are_folded(opened):
    assert len(shown(opened, "runs-4")) == 40
    opened.execute_script("document.querySelector('#runs-4').closest('.block').querySelector('button.all').click()")
    assert len(shown(opened, "runs-4")) == 60
    opened.execute_script("document.getElementById('paper').open = true")
    order = """const head = document.querySelector('#table2 thead tr').cells[2]; head.querySelector('button').click();
        return [...document.querySelectorAll('#table2 tbody tr')].map(row => row.cells[2].textContent)"""
    for direction in (1, -1):
        values = opened.execute_script(order)
        assert values[-values.count("-") :] == ["-"] * 6
        numbers = [float(value) * direction for value in values[:-6]]
        assert numbers == sorted(numbers)


def test_ticked_rows_are_compared_side_by_side(opened):
    for box in find(opened, "#runs tbody input")[:2]:
        box.click()
    press(opened, "#part-runs .block:first-of-type .tools", "Only ticked")
    assert len(shown(opened)) == 2
    press(opened, "#part-runs .block:first-of-type .tools", "Compare 2")
    (dialog,) = find(opened, "dialog[open]")
    assert [head.text for head in dialog.find_elements("css selector", "thead th")] == ["DiT-XL/2", "DiT-XL/2"]
    lines = {row.find_element("tag name", "th").text: row for row in dialog.find_elements("css selector", "tbody tr")}
    assert [cell.text for cell in lines["FID ↓"].find_elements("tag name", "td")] == ["2.39", "2.44 +0.05"]
    assert lines["Decoder"].get_attribute("class") == "differs"
    assert lines["Sampling"].get_attribute("class") == ""
    dialog.send_keys("\ue00c")  # escape
    assert not find(opened, "dialog[open]")


def test_what_is_copied_is_what_is_shown(opened, results):
    _, mine = results
    table = boards(mine)[0]
    (menu,) = find(opened, "#part-runs .block:first-of-type .menu")
    menu.find_element("tag name", "summary").click()
    for box in menu.find_elements("css selector", "input"):
        if not box.is_selected():
            box.click()
    menu.find_element("tag name", "summary").click()
    copied = {}
    for name in ("Markdown", "LaTeX", "CSV"):
        press(opened, "#part-runs .block:first-of-type .copy", name)
        until(lambda name=name: find(opened, "#part-runs [role=status]")[0].text == f"Copied as {name}")
        copied[name] = opened.execute_script("return window.copied")
    columns = [column.key for column in table.columns]
    ours = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    theirs = [line for line in copied["Markdown"].splitlines() if line.startswith("|")]
    for one, other in zip(theirs, ours, strict=True):
        assert one.startswith(other), "the source follows"
    rows = list(csv.DictReader(io.StringIO(copied["CSV"])))
    assert [*rows[0]] == [*columns, "source"]
    full = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [[row[key] for key in columns] for row in rows] == [[row[key] for key in columns] for row in full]
    assert copied["LaTeX"].count(r" \\") == 1 + len(table.rows)
    assert all(line.count("&") == len(columns) for line in copied["LaTeX"].splitlines() if line.endswith(r"\\"))


def test_formats_escape_as_the_files_do(opened):
    texts = [*LINES, "2.5", "-1e3", "a,b", 'say "x"', "x\ny", " *", "5 ± 1", "−0.3", "a\u00a0b"]
    found = opened.execute_script("return arguments[0].map(text => [markdownText(text), texText(text)])", texts)
    assert found == [[markdown(text), tex(text)] for text in texts]
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows([no_formula(text), "x"] for text in texts)
    assert opened.execute_script("return arguments[0].map(text => `${csvText(text)},x\\n`).join('')", texts) == (
        target.getvalue()
    )


def test_runs_and_points_say_what_they_are(opened):
    opened.execute_script("document.querySelector('#runs a.how').focus()")
    (tip,) = find(opened, "#tip")
    assert "checkpoint" in tip.text
    assert "synthetic.pt" in tip.text
    assert find(opened, "#runs a.how")[0].get_attribute("aria-describedby") == "tip"
    opened.switch_to.active_element.send_keys("\ue00c")
    assert not tip.is_displayed()
    first = "document.querySelector('#figure8 circle[tabindex=\"0\"]')"
    opened.execute_script(f"{first}.focus()")
    assert tip.text.startswith("DiT-S/8")
    opened.switch_to.active_element.send_keys("\ue014")  # right
    second = opened.switch_to.active_element
    assert second.get_attribute("tabindex") == "0"
    assert tip.text == second.get_attribute("aria-label")
    assert opened.execute_script("return document.querySelectorAll('#figure8 circle[tabindex=\"0\"]').length") == 1


def test_figures_are_enlarged(opened):
    def width():
        return opened.execute_script("return document.querySelector('#figure8 .plot, dialog .plot').offsetWidth")

    def act(what):
        opened.execute_script(f"document.querySelector('[aria-label^=\"{what}: Figure 8\"]').click()")

    before = width()
    act("Zoom in")
    assert width() == pytest.approx(1.5 * before, abs=30), "less what a scroll bar takes"
    scroll = "const v = document.querySelector('#figure8 .view'); return v.scrollWidth > v.clientWidth"
    assert opened.execute_script(scroll), "its frame scrolls"
    act("Original size")
    assert width() == before
    act("Enlarge")
    assert find(opened, "dialog[open] .view img")
    opened.switch_to.active_element.send_keys("\ue00c")
    until(lambda: find(opened, "#figure8 .view img"))
    assert width() == before


def test_a_key_and_a_link_lead_to_what_is_folded(opened):
    opened.find_element("tag name", "body").send_keys("/")
    assert opened.switch_to.active_element.get_attribute("type") == "search"
    opened.execute_script("location.hash = '#table1'")
    until(lambda: opened.execute_script("return document.getElementById('paper').open"))
    targets = """return [...document.querySelectorAll('a[href^="#"]')]
        .filter(a => !document.getElementById(a.getAttribute('href').slice(1))).length"""
    assert opened.execute_script(targets) == 0, "every link inside the page leads somewhere"


def test_the_browser_finds_nothing_wrong(opened):
    """No error, every image drawn, dark and print; nothing from the network."""
    decoded = "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    widths = opened.execute_script(decoded)
    assert len(widths) == 2 + 4 + 1, "figures, and samples of four runs and of one"
    assert min(widths) > 0
    events = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked = {e["request"]["url"].partition(":")[0] for e in sent if e["documentURL"].startswith("file:")}
    assert asked <= {"file", "data"}
    assert "data" in asked
    ids = opened.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    link = find(opened, "#part-provenance a[download='points.csv']")[0].get_attribute("href")
    assert link.startswith("data:text/csv;charset=utf-8,source,origin,model,")
    colours = set()
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        colours.add(opened.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours == {"rgb(255, 255, 255)", "rgb(16, 18, 22)"}
    assert len(opened.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 50_000
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
