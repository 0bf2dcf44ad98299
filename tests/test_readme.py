"""The first page: each of its command lines and Python blocks runs, and what it shows is what is printed.

What needs the network or ImageNet runs on a stand-in of the same layout in a folder of its own: digits in place of
ImageNet and the network that comes with them, a model and a decoder of a few numbers in place of the released ones.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from golden_sets import image_set
from PIL import Image
from small_plan import TINY_DIT_ON_DIGITS
from small_vae import SMALL, random_vae

from dit_eval.checks import verify
from dit_eval.cli import main
from dit_eval.features.inception import TorchInception
from dit_eval.flops.kept import Count
from dit_eval.images.npz import write_batch
from dit_eval.metrics import METRICS
from dit_eval.report import page
from dit_eval.report.tables import paper, stated
from dit_eval.system.assets import asset

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.removeprefix("$ ").partition("#")[0].strip()
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S)
    for line in block.splitlines()
    if line.startswith("$ ")
]
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)

DIGITS = "--ref digits --extractor digits"
# What stands in a line, and what runs in its place.
STAND_INS = {
    "evaluate samples.npz --ref imagenet256": f"evaluate samples.npz {DIGITS}",
    "diagnose samples.npz --ref imagenet256": f"diagnose samples.npz {DIGITS}",
    "classes samples.npz --ref imagenet256": f"classes samples.npz {DIGITS}",
    "--model DiT-XL/2 --cfg-scale": "--ckpt dit-digits --num-images 4 --num-sampling-steps 2 --cfg-scale",
    "encode imagenet/train": "encode imagenet/train --vae vae --image-size 32",
    "train --model DiT-B/4": "train --depth 1 --hidden-size 32 --num-heads 2 --patch-size 2 --steps 2 --batch-size 2",
    "flops DiT-XL/2 --image-size": "flops DiT-S/8 --image-size",  # the walk below counts the larger one
    "digits-small": "small.toml",
    "paper-256": "digits-small",
}
# Lines that run elsewhere.
ELSEWHERE = {
    "pip install .": "Makefile, whose tests run what it installs",
}
REAL_PYTHON = {'ref="imagenet256"': 'ref="digits", network="digits"'}
PLAN = """
[training]
batch_size = 8

[sampling]
num_samples = 8

[[cells]]
models = "all"
training_steps = [2]
sampling_steps = [2]
"""


@pytest.fixture(scope="module")
def network_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    random_vae(SMALL).save_pretrained(folder / "vae")
    return folder / "vae"


@pytest.fixture
def place(tmp_path, monkeypatch, network_files, digits):
    """The folder that a reader would stand in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    images, labels = digits.images[:100], digits.labels[:100]
    write_batch(tmp_path / "samples.npz", images=[images], shape=images.shape, arrays={"arr_1": labels})
    for number in range(4):
        path = tmp_path / "imagenet" / "train" / f"n0{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    (tmp_path / "vae").symlink_to(network_files)
    (tmp_path / "small.toml").write_text(TINY_DIT_ON_DIGITS + PLAN)
    return tmp_path


def run(line):
    for said, instead in STAND_INS.items():
        line = line.replace(said, instead)
    with pytest.raises(SystemExit) as exit_:
        main(shlex.split(line)[1:])
    return exit_.value.code or 0


def loaded(kept, **how):
    """The network that `verify` loads, or rather another with the same weights, whose features are kept."""
    images = image_set("gen-64", 2)
    assert np.array_equal(TorchInception(**how)(images).pool, kept(images).pool)
    return kept


def of_page(line):
    slow = "--out study" in line or " verify " in line  # one starts a process, one runs the whole Inception
    return pytest.param(line, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("line", [of_page(line) for line in LINES if line not in ELSEWHERE])
def test_a_command_of_the_first_page_runs(place, capsys, monkeypatch, request, line):
    assert line.startswith("dit-eval ")
    if " verify " in line:
        monkeypatch.setattr(verify, "TorchInception", partial(loaded, request.getfixturevalue("kept_inception")))
    if " sample " in line:
        (place / "samples.npz").unlink()  # what it draws
    if " report " in line:  # of results, which `evaluate` adds to that file
        monkeypatch.setattr(page, "FIGURES", ())
        for tables in (paper, stated):
            monkeypatch.setattr(tables, "count_named", lambda *_: Count(gflops=1.0, params_m=1.0))
        assert run(next(other for other in LINES if " evaluate " in other)) == 0
    if " train " in line:
        assert run(next(other for other in LINES if " encode " in other)) == 0
    assert run(line) == 0, capsys.readouterr().err


def test_what_runs_elsewhere_is_on_the_page():
    assert ELSEWHERE.keys() <= set(LINES)


@pytest.mark.parametrize("block", BLOCKS)
def test_python_of_the_first_page_runs(place, capsys, digits, block):
    for said, instead in REAL_PYTHON.items():
        block = block.replace(said, instead)
    exec(block, {"sampler": lambda: np.array_split(digits.images[:60], 3)})
    assert capsys.readouterr().out


def test_the_metrics_of_the_first_page_are_known():
    (names,) = re.findall(r'metrics="([^"]+)"', PAGE)
    assert set(names.split(",")) <= {metric.name for metric in METRICS}


def test_a_newcomer_has_a_number_by_three_commands():
    """A clone, and the two lines of the first block."""
    assert LINES[:2] == ["pip install .", "dit-eval evaluate samples.npz --ref imagenet256"]


def shown():
    return re.search(r"^```text\n(gen .*?)^```", PAGE, re.M | re.S)[1]


def printed(capsys, place, steps):
    """What `evaluate` prints of 500 digits, drawn in so many steps, without its last lines."""
    draw = ["--num-images", "500", "--labels", "balanced", "--num-sampling-steps", str(steps), "--cfg-scale", "1.0"]
    (place / "samples.npz").unlink()
    (place / "digits.npz").symlink_to(asset("digits").path)
    for words in (["sample", "--ckpt", "dit-digits", *draw, "--out", "samples.npz"],
                  ["evaluate", "samples.npz", "--ref", "digits.npz", "--extractor", "digits"]):  # fmt: skip
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(words)
    text = capsys.readouterr().out
    return text[: text.index("\n", text.index("as published")) + 1]


def test_what_the_first_page_shows_has_the_layout_of_what_is_printed(place, capsys):
    def layout(text):
        return re.sub(r" +", " ", re.sub(r"\d[\d,.]*", "0", text))

    assert layout(printed(capsys, place, steps=2)) == layout(shown())


@pytest.mark.slow  # draws in 64 steps
def test_what_the_first_page_shows_is_what_is_printed(place, capsys):
    def numbers(text):
        return [float(number.replace(",", "")) for number in re.findall(r"(?<![\w-])\d[\d,.]*\d|\b\d\b", text)]

    assert numbers(printed(capsys, place, steps=64)) == pytest.approx(numbers(shown()), rel=0.02)


WALK = (ROOT / "reports" / "README.md").read_text(encoding="utf-8")


def test_the_walk_counts_what_it_says(place, capsys):
    """Of the steps whose output is the same everywhere."""
    block, told = re.search(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", WALK, re.M | re.S).groups()
    exec(block, {})
    assert capsys.readouterr().out == told
    line, told = re.search(r"^\$ (dit-eval flops .*)\n((?:.*\n)*?)```", WALK, re.M).groups()
    assert run(line) == 0
    assert capsys.readouterr().out == told


def test_the_figure_shows_what_was_measured(monkeypatch):
    """Its bars end at the committed numbers, and its file was drawn from them."""
    monkeypatch.syspath_prepend(ROOT / "reports")
    import beside_others

    rows = beside_others.measured().set_index("program")
    programs = json.loads((ROOT / "reports" / "beside_others.json").read_text(encoding="utf-8"))["programs"]
    assert list(rows.index) == list(programs)
    assert rows.loc[beside_others.REFERENCE, "features_off"] == 0
    picture = beside_others.beside_others(beside_others.measured())
    off, speed = picture.figure.axes
    assert [bar.get_width() for bar in speed.patches] == [of["images_per_processor_second"] for of in programs.values()]
    ends = [float(line.get_xdata()[0]) for line in off.lines if len(line.get_xdata()) == 1]
    assert ends == [of["features_off"] for name, of in programs.items() if name != beside_others.REFERENCE]
    sys.modules.pop("beside_others")
