"""Every README: its links and paths lead somewhere, its commands parse, its Python imports names that exist."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
from command_line import parse

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("dit_eval", "tests", "benchmarks", "reference_stats", "reports")
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "DECISIONS.md")),
    ROOT / "reports" / "why_fid_differs.md",
    *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("README.md")),
]
READMES = [page for page in PAGES if page.name not in ("CHANGELOG.md", "DECISIONS.md")]  # these tell of the past, too
ELSEWHERE = {"sample_ddp.py", "evaluations/evaluator.py", "figures/figure14.py"}  # scripts of DiT and ADM, an example
LONGEST = 1_300  # words of the first page


def _named(pages):
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def _blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _commands(page):
    """The words of each dit-eval line of a console block, torchrun's and a redirection apart."""
    for block in _blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if not line.startswith("$ "):
                continue
            words = shlex.split(line[2:], comments=True)
            words = words[: words.index(">")] if ">" in words else words
            if words[0] == "dit-eval":
                yield words[1:]
            elif "dit_eval" in words:
                yield words[words.index("dit_eval") + 1 :]


@pytest.mark.parametrize("page", _named(PAGES))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r' (?:src|srcset)="([^"]+)"', text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert there.is_relative_to(ROOT), target
        assert not anchor or anchor in _anchors(there), target


@pytest.mark.parametrize("page", _named(READMES))
def test_paths_and_modules_exist(page):
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]", text):
        assert (ROOT / found[0]).exists(), found[0]
    for name in re.findall(r"\bdit_eval(?:\.\w+)+\b", text):
        _resolve(name)


@pytest.mark.parametrize("page", _named([page for page in READMES if page.is_relative_to(ROOT / "dit_eval")]))
def test_files_beside_the_code_exist(page):
    for name in set(re.findall(r"`([\w/]+\.py)`", page.read_text(encoding="utf-8"))) - ELSEWHERE:
        assert (ROOT / name).exists() or any(page.parent.rglob(name)), name


@pytest.mark.parametrize("page", _named(READMES))
def test_python_imports_what_exists(page):
    for block in _blocks(page, "python"):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    _resolve(f"{node.module}.{alias.name}")
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)


@pytest.mark.parametrize("page", _named(READMES))
def test_commands_parse(page):
    for words in _commands(page):
        assert parse(words)["command"], words


def test_the_commands_of_the_first_page_are_seen():
    seen = {words[0] for words in _commands(ROOT / "README.md")}
    assert {"evaluate", "sample", "train", "flops", "report", "study", "verify", "diagnose"} <= seen


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= LONGEST


def test_every_test_file_holds_a_promise():
    promises = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)?test_\w+\.py)`", promises))
    there = {str(path.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("test_*.py")}
    assert named == there


def _resolve(name):
    """Import `dit_eval.a.b.name`, whatever part of it is a module."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name and not name.startswith(error.name):
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return
