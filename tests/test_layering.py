"""The arrows of the architecture point down, and heavy packages stay where they belong."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dit_eval"
BENCHMARKS = PACKAGE.with_name("benchmarks")
OPTIONAL = {
    "MNN",
    "cleanfid",
    "prdc",
    "pytorch_fid",
    "torchmetrics",
    "fvcore",
    "torch_fidelity",
    "torchvision",
    "diffusers",
}

# From the top. A module may import modules of lower layers only, or of its own package.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"quickstart"},
    {"study", "checks", "cost"},
    {"comparison", "evaluation", "sequential", "scoring", "reference", "sampling", "training", "encoding", "report"},
    {"features", "metrics", "diffusion", "flops"},
    {"images", "models"},
    {"summary", "results", "paper"},
    {"system"},
    {""},  # dit_eval itself: the version, and names that are loaded when they are used
]
# Among pages of one layer, who may call whom.
PAGES = {
    *(("evaluation", page) for page in ("reference", "scoring", "sequential")),
    *(("comparison", page) for page in ("reference", "scoring", "sequential")),
    ("sequential", "scoring"),
}
# Imports within a function that point up: a result prints itself, by the names that metrics have.
LATE = {
    ("results/eval_result.py", "dit_eval.metrics.printed"),
    ("results/comparison.py", "dit_eval.metrics.compared"),
}
GENERATE, MEASURE = (
    {"models", "diffusion", "sampling", "training", "encoding", "flops"},
    {"features", "metrics", "comparison", "evaluation", "sequential", "scoring", "reference", "checks"},
)
ONLY_IN = {
    "tensorflow": {"features/tensorflow.py"},
    "torch_fidelity": {"features/inception.py", "metrics/kid.py", "checks/golden.py"},
    "timm": {"features/vit.py"},
    "torchdiffeq": {"diffusion/steps.py"},
    "matplotlib": {"report/figures/"},
    "argparse": {"models/checkpoints.py"},
    "cyclopts": {"cli/"},
    "torch": {"features/", "metrics/", "models/", "diffusion/", "flops/", "sampling.py", "training.py", "encoding.py",
              "cost.py", "checks/golden.py", "cli/", "system/"},
    "fvcore": {"flops/operators.py"},
    "jinja2": {"report/templating.py"},
    "PIL": {"diffusion/data.py", "images/", "features/clip.py", "features/vit.py"},
    "diffusers": {"models/vae.py"},
    "submitit": {"study/slurm.py", "study/slurm_job.py"},
    "torch.distributed": {"system/dist.py"},
    "pandas": {"paper/__init__.py", "report/"},
}  # fmt: skip


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "dit_eval":
                yield from (f"dit_eval.{alias.name}" for alias in node.names)


def layer_of(module):
    return next(i for i, layer in enumerate(LAYERS) if module in layer)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    name = path.relative_to(PACKAGE).as_posix()
    if name == "__init__.py":
        return  # the names of the Python interface, loaded when they are used; tests/test_api.py
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imports(path):
        if module.split(".")[0] == "dit_eval" and (name, module) not in LATE:
            other = module.split(".")[1] if "." in module else ""
            below = layer_of(other) > layer_of(own)
            assert other == own or below or (own, other) in PAGES, f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_stay_where_they_belong(path):
    name = path.relative_to(PACKAGE).as_posix()
    for module in imports(path):
        for package in (module.split(".")[0], ".".join(module.split(".")[:2])):
            allowed = ONLY_IN.get(package)
            places = [
                place for place in allowed or () if name == place or (place.endswith("/") and name.startswith(place))
            ]
            assert allowed is None or places, f"{name} imports {module}"


def test_generating_and_measuring_do_not_know_each_other():
    for path in FILES:
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        others = MEASURE if part in GENERATE else GENERATE if part in MEASURE else set()
        for module in imports(path):
            assert not any(module.startswith(f"dit_eval.{other}") for other in others), f"{path} imports {module}"


def test_no_print_outside_the_command_line():
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert not calls, f"{path} prints"


LIGHT = (
    "dit_eval.metrics",
    "dit_eval.features",
    "dit_eval.models",
    "dit_eval.report.page",
    "dit_eval.results.lines",
    "dit_eval.paper",
    "dit_eval.summary",
    "dit_eval.flops.kept",
    "dit_eval.study.plan_file",
)


@pytest.mark.parametrize("module", LIGHT)
def test_records_and_reports_load_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_loads_nothing_heavy():
    code = (
        "import sys, dit_eval.cli\n"
        "try: dit_eval.cli.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'numpy', 'tensorflow', 'scipy', 'pandas', 'matplotlib', 'torch_fidelity', 'fvcore'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_benchmarks_import_of_each_other_is_there(script):
    # hours_of_fid50k.py imported a file by its old name, and nothing noticed.
    for node in ast.walk(ast.parse(script.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        beside = [folder / f"{node.module}.py" for folder in (BENCHMARKS, Path(__file__).parent / "support")]
        found = [path for path in beside if path.is_file()]
        if not found:
            package = node.module.partition(".")[0]
            assert package in OPTIONAL or importlib.util.find_spec(package), node.module
            continue
        tree = ast.parse(found[0].read_text())
        names = {each.name for each in tree.body if hasattr(each, "name")}
        names |= {name.id for each in tree.body for name in ast.walk(each) if isinstance(name, ast.Name)}
        assert {alias.name for alias in node.names} <= names
