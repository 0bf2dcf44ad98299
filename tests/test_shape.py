"""The code stays easy to enter: short files, plain functions, few parameters, no circles."""

import ast
from pathlib import Path

import pytest
from radon.complexity import cc_visit

PACKAGE = Path(__file__).parents[1] / "dit_eval"
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES, MOST_PARAMETERS, PLAIN, MOST_COMPLEX = 500, 7, 10, 20


def name_of(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def functions(path):
    """All functions of a file, methods and inner ones too, with their complexity."""

    def of(blocks):
        for block in blocks:
            if hasattr(block, "methods"):
                yield from of([*block.methods, *block.inner_classes])
            else:
                yield block
                yield from of(block.closures)

    found = {(block.name, block.lineno): block for block in of(cc_visit(path.read_text(encoding="utf-8")))}
    return [(f"{name_of(path)}.{name}", block.complexity) for (name, _), block in found.items()]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_page_of_evaluation_is_read_in_a_minute():
    assert len((PACKAGE / "evaluation.py").read_text(encoding="utf-8").splitlines()) <= 200


def test_functions_branch_little():
    found = [each for path in FILES for each in functions(path)]
    assert len(found) > 1000
    branching = [(name, complexity) for name, complexity in found if complexity > PLAIN]
    assert [each for each in branching if each[1] > MOST_COMPLEX] == []
    assert len(branching) < 0.04 * len(found), sorted(branching, key=lambda each: -each[1])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_take_few_parameters(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = node.args
            given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            own = [each.arg for each in given if each.arg not in ("self", "cls")]
            assert len(own) <= MOST_PARAMETERS, f"{node.name} takes {', '.join(own)}"


def test_modules_import_each_other_in_no_circle():
    """At import; what a function imports when it runs is free."""
    names = {name_of(path): path for path in FILES}
    graph = {}
    for name, path in names.items():
        graph[name] = set()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                found = {f"{node.module}.{each.name}" for each in node.names}
                graph[name] |= {each if each in names else node.module for each in found} & names.keys() - {name}
            elif isinstance(node, ast.Import):
                graph[name] |= {each.name for each in node.names} & names.keys() - {name}
    while leaves := {name for name, below in graph.items() if not below}:
        graph = {name: below - leaves for name, below in graph.items() if name not in leaves}
    assert graph == {}, "these are in a circle, or above one"
