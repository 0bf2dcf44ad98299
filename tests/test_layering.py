"""The arrows of the architecture point down, and heavy packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dit_eval"

# From the top. A module may import modules of lower layers only, or of its own where listed together.
LAYERS = [
    {"__main__"},
    {"cli"},
    {"quickstart", "verify"},
    {"study", "cost"},
    {"plan"},
    {"classes"},
    {"evaluate", "diagnose", "sampling", "training", "report"},
    {"data"},
    {"flops"},
    {"flop_operators", "flop_trace"},
    {"features", "metrics", "models", "diffusion", "paper"},
    {"pixels"},
    {"images"},
    {"npz", "decoding"},
    {"workers", "badge"},
    {"stats", "results", "assets", "engines", "sources", "tensors", "golden"},
    {"files", "dist", "progress", "suggest"},
    {"switches"},
    {""},  # dit_eval itself: the version
]
GENERATE, MEASURE = (
    {"models", "diffusion", "sampling", "training", "data", "flops", "flop_operators", "flop_trace"},
    {"features", "metrics", "evaluate", "pixels", "diagnose", "classes"},
)
ONLY_IN = {
    "tensorflow": {"features/adm_tensorflow.py"},
    "torch_fidelity": {"features/inception.py", "metrics/kernel.py"},
    "timm": {"features/vit.py"},
    "matplotlib": {"report/figures.py", "report/paper_figures.py"},
    "argparse": {"cli.py", "models/checkpoints.py"},
    "torch": {
        "features/inception.py",
        "features/digits.py",
        "features/vit.py",
        "metrics/density_coverage.py",
        "metrics/kernel.py",
        "metrics/manifold.py",
        "metrics/uncertainty.py",
        "tensors.py",
        "models/dit.py",
        "models/unet.py",
        "models/checkpoints.py",
        "models/wrappers.py",
        "models/vae.py",
        "diffusion.py",
        "sampling.py",
        "training.py",
        "dist.py",
        "switches.py",
        "flops.py",
        "flop_operators.py",
        "flop_trace.py",
        "report/counts.py",
        "cli.py",
    },
    "fvcore": {"flop_operators.py"},
    "PIL": {"data.py", "decoding.py", "images.py", "features/vit.py"},
    "diffusers": {"models/vae.py"},
    "submitit": {"engines.py"},
    "torch.distributed": {"dist.py"},
    "pandas": {
        "paper/__init__.py",
        "report/data.py",
        "report/compute.py",
        "report/law.py",
        "report/tables.py",
        "report/paper_figures.py",
        "report/page.py",
    },
}


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
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    own = "" if part == "__init__" else part
    for module in imports(path):
        if module.split(".")[0] == "dit_eval":
            other = module.split(".")[1] if "." in module else ""
            assert other == own or layer_of(other) > layer_of(own) or {own, other} in LAYERS, f"{own} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_packages_stay_where_they_belong(path):
    name = path.relative_to(PACKAGE).as_posix()
    for module in imports(path):
        for package in (module.split(".")[0], ".".join(module.split(".")[:2])):
            allowed = ONLY_IN.get(package)
            assert allowed is None or name in allowed, f"{name} imports {module}"


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


def test_the_report_loads_torch_in_one_place_only_and_late():
    """`report/counts.py` imports torch and the counter inside its functions."""
    for path in (PACKAGE / "report").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                late = ("torch", "dit_eval.flops", "dit_eval.models", "dit_eval.sampling", "dit_eval.features")
                assert not any(name.startswith(late) for name in names), f"{path} imports {names}"


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
