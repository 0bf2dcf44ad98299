"""`import dit_eval`: the public names, and `evaluate` with whatever a user may hand it."""

import inspect
import json
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import dit_eval
from dit_eval.features.digits import DigitsExtractor
from dit_eval.metrics import METRICS
from dit_eval.results.eval_result import EvalResult
from dit_eval.system import assets

NAMES = [
    "METRICS", "MODELS", "NETWORKS", "Comparison", "ComparisonSettings", "EvalResult", "EvaluationSettings",
    "SampleRun", "SamplingSettings", "Where", "__version__", "append_result", "compare", "count_flops", "evaluate",
    "from_batches", "from_dataset", "load_network", "open_images", "read_results", "sample", "stats",
]  # fmt: skip


def test_the_public_names():
    assert sorted(dit_eval.__all__) == sorted(NAMES)
    assert dir(dit_eval) == sorted(NAMES)
    for name in NAMES:
        assert getattr(dit_eval, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fid'"):
        dit_eval.fid  # noqa: B018


def test_editors_see_the_names_that_are_loaded_late():
    seen = inspect.getsource(dit_eval).partition("if TYPE_CHECKING")[2].partition("__version__")[0]
    for name, place in dit_eval._PLACES.items():
        assert f"from {place} import {name} as {name}\n" in seen
    assert seen.count(" as ") == len(dit_eval._PLACES)


LIGHT = """
import sys, dit_eval
dir(dit_eval)
heavy = {"torch", "numpy", "pandas", "scipy", "PIL", "msgspec", "cyclopts"} & set(sys.modules)
assert not heavy, heavy
import dit_eval.metrics, dit_eval.features
assert not {"torch", "numpy", "pandas"} & set(sys.modules), "what help and tables read"
import dit_eval.evaluation, dit_eval.reference, dit_eval.results.settings
from dit_eval.evaluation import score
assert dit_eval.evaluate is dit_eval.evaluation.evaluate and callable(dit_eval.stats)
"""


def test_importing_loads_nothing_and_no_module_hides_a_function():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_says_that_it_is_typed():
    assert (assets.Path(dit_eval.__file__).parent / "py.typed").is_file()


# ---- evaluate


@pytest.fixture(scope="module")
def heldout():
    return assets.asset("digits-heldout").path


@pytest.fixture(scope="module")
def result(heldout):
    return dit_eval.evaluate(str(heldout), ref="digits", network="digits", where=CPU, quiet=True)


CPU = dit_eval.Where(device="cpu")


def test_paths_names_arrays_and_sets_give_the_same(result, heldout, capfd):
    with np.load(heldout) as stored:
        images = stored["arr_0"]
    asked = dit_eval.EvaluationSettings(metrics=("fid", "is"))
    for gen in (heldout, images, dit_eval.open_images(heldout, role="gen"), dit_eval.from_batches([images])):
        found = dit_eval.evaluate(gen, ref="digits", network=DigitsExtractor(), settings=asked, where=CPU, quiet=True)
        assert found.fid == pytest.approx(result.fid, rel=1e-6)
        assert found.sfid is None
    assert capfd.readouterr().err == "", "quiet"
    found = dit_eval.evaluate(heldout, ref="digits", network="digits", metrics="fid, IS", where=CPU)
    assert found.scores == dict.fromkeys(found.scores) | {
        name: getattr(result, name) for name in ("fid", "fid_raw", "inception_score", "inception_score_order_free")
    }
    assert "gen features" in capfd.readouterr().err


def test_a_result_reads_as_the_command_prints_it(result, heldout, capsys):
    from dit_eval.cli import main

    with pytest.raises(SystemExit):
        main(["evaluate", str(heldout), "--ref", "digits", "--extractor", "digits", "--device", "cpu", "--no-results"])
    ref = dit_eval.open_images(assets.asset("digits").path, role="ref")
    assert f"{result}\n" == f"{result.text()}\n" == capsys.readouterr().out
    assert str(ref.path) in str(result)


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f" {data}"


def test_a_notebook_shows_the_same_and_runs_nothing(result):
    import dataclasses

    gen = dataclasses.replace(result.gen, path="<script>alert(1)</script>&amp;.npz")
    page = Cells()
    page.feed(dataclasses.replace(result, gen=gen)._repr_html_())
    assert page.open == []
    assert "<script>alert(1)</script>&amp;.npz" in page.text, "escaped: the parser gives it back as text"
    assert f"{result.fid:.2f}" in page.text
    for word in ("FID-500 (digits)", "as published: nothing", "stored statistics"):
        assert word in page.text


def test_a_score_that_this_version_does_not_know_is_kept(result):
    line = json.loads(result.to_json())
    assert list(line)[:5] == ["fid", "sfid", "inception_score", "precision", "recall"]
    read = EvalResult.from_json(json.dumps(line | {"later_metric": 0.25}))
    assert read.later_metric == 0.25
    assert EvalResult.from_json(read.to_json()) == read
    with pytest.raises(AttributeError, match="no 'later_metric'"):
        result.later_metric  # noqa: B018
    with pytest.raises(ValueError, match="later_metric is unknown"):
        EvalResult.from_json(json.dumps(line | {"later_metric": "x"}))


def test_each_metric_has_a_name_and_a_key_of_its_own():
    for part in ("key", "name", "label"):
        assert len({getattr(metric, part) for metric in METRICS}) == len(METRICS)
    assert all(metric.networks and set(metric.by_default) <= set(metric.networks) for metric in METRICS)


REF = dit_eval.open_images
WRONG = {
    "no file": (("nowhere.npz", {}), FileNotFoundError, "nowhere.npz"),
    "no reference": ((None, {"ref": "nowhere.npz"}), FileNotFoundError, "nowhere.npz"),
    "a reference that nobody knows": ((None, {"ref": "imagenet265"}), ValueError, "Did you mean 'imagenet256'"),
    "a network that nobody knows": ((None, {"network": "dinov3"}), ValueError, "dinov2"),
    "a metric that nobody knows": ((None, {"metrics": ["isc"]}), ValueError, "Did you mean 'is'"),
    "metrics of another type": ((None, {"metrics": 3}), ValueError, "`metrics`: expected names"),
    "no metric": ((None, {"metrics": []}), ValueError, "known: fid, sfid"),
    "a metric of another network": ((None, {"metrics": ["cmmd"]}), ValueError, "not defined on the features of digits"),
    "images of another type": ((3, {}), ValueError, "`gen`: expected a path"),
    "a reference of another type": ((None, {"ref": 3}), ValueError, "`ref`: expected a path"),
    "floats": ((np.zeros((4, 8, 8, 3)), {}), ValueError, "gen, batch 0: found float64"),
    "a network class": ((None, {"network": DigitsExtractor}), ValueError, "`network`: expected a name"),
    "settings of another type": ((None, {"settings": {"metrics": ["fid"]}}), ValueError, "`settings`: expected"),
    "a place of another type": ((None, {"where": "cpu"}), ValueError, "`where`: expected"),
    "a device that is none": ((None, {"where": dit_eval.Where(device="gpu")}), ValueError, "gpu: not a device"),
    "a GPU too many": ((None, {"where": dit_eval.Where(device="cuda:77")}), ValueError, "cuda:77: PyTorch sees"),
    "another size": ((None, {"ref": "imagenet256"}), ValueError, "images of 8x8, imagenet256 of 256x256"),
    "more images than there are": (
        (None, {"settings": dit_eval.EvaluationSettings(num_images=501)}), ValueError, "holds 500 images, 501 were",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_error_before_the_network_runs(case, heldout, monkeypatch):
    (gen, changes), kind, message = WRONG[case]
    monkeypatch.setattr(DigitsExtractor, "__call__", lambda *_: pytest.fail("the network ran"))
    given = {"ref": "digits", "network": "digits", "where": CPU, "quiet": True} | changes
    with pytest.raises(kind, match=message):
        dit_eval.evaluate(heldout if gen is None else gen, **given)


def test_swapped_roles_are_told(tmp_path, heldout):
    dit_eval.stats(heldout, out=tmp_path / "ref.npz", network="digits", num_images=0, where=CPU, quiet=True)
    statistics = dit_eval.open_images(tmp_path / "ref.npz", role="ref")
    for gen in (tmp_path / "ref.npz", statistics):
        with pytest.raises(ValueError, match=r"ref\.npz"):
            dit_eval.evaluate(gen, ref=heldout, network="digits", where=CPU, quiet=True)
    found = dit_eval.evaluate(heldout, ref=tmp_path / "ref.npz", network="digits", where=CPU, quiet=True)
    assert any("were made of the images of" in warning for warning in found.warnings)
    with pytest.raises(FileExistsError, match="exists already"):
        dit_eval.stats(heldout, out=tmp_path / "ref.npz", network="digits", quiet=True)
    with pytest.raises(ValueError, match="an iterable is read once"):
        dit_eval.stats(np.zeros((4, 8, 8, 3), np.uint8), out=tmp_path / "x.npz", network="digits", quiet=True)
