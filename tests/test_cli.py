"""The command line as a user meets it, above all when something is wrong."""

import dataclasses
import io
import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from dit_eval import assets
from dit_eval.cli import main
from dit_eval.results import read_results


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_network_runs(monkeypatch):
    """Any forward pass is a failure: errors must come before it."""
    from dit_eval.features.digits import DigitsExtractor
    from dit_eval.features.inception import TorchInception

    def refuse(*_):
        raise AssertionError("a network ran")

    monkeypatch.setattr(DigitsExtractor, "__call__", refuse)
    monkeypatch.setattr(TorchInception, "__call__", refuse)


def run(capsys, *arguments):
    """Exit code, stdout, stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


IMAGES = np.random.RandomState(0).randint(0, 256, (20, 8, 8, 3)).astype(np.uint8)
NCHW = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
STATISTICS = {"mu": np.zeros(64), "sigma": np.eye(64), "mu_s": np.zeros(112), "sigma_s": np.eye(112)}


def save(name, **arrays):
    np.savez(name, **arrays)


def objects():
    images = np.empty(2, dtype=object)
    images[:] = [IMAGES[0], IMAGES[1, :4]]  # images of different sizes
    np.savez("bad.npz", arr_0=images)


def truncate():
    save("bad.npz", arr_0=IMAGES)
    with open("bad.npz", "r+b") as file:
        file.truncate(3000)


def garbage():
    with open("bad.npz", "wb") as file:
        file.write(b"these are no images" * 50)


def bare_array():
    with open("bad.npz", "wb") as file:
        np.save(file, IMAGES)


def other_header():
    """A member whose header promises one image more than it has."""
    payload = io.BytesIO()
    np.lib.format.write_array(payload, IMAGES)
    with zipfile.ZipFile("bad.npz", "w") as archive:
        archive.writestr("arr_0.npy", payload.getvalue().replace(b"(20, 8, 8, 3)", b"(21, 8, 8, 3)"))


GEN_ERRORS = {
    "missing file": (lambda: None, r"bad\.npz: no such file; needed an \.npz sample batch"),
    "not a zip": (garbage, r"not a zip file"),
    "a bare npy": (bare_array, r"a single \.npy array, not an \.npz"),
    "truncated zip": (truncate, r"a truncated \.npz \(3,000 bytes\)"),
    "header and size differ": (other_header, r"where its header promises"),
    "no arr_0": (lambda: save("bad.npz", images=IMAGES, labels=np.arange(3)), r"no arr_0.*keys found: images, labels"),
    "object array of mixed sizes": (objects, r"object array.*images of different sizes.*one size"),
    "float images": (lambda: save("bad.npz", arr_0=IMAGES / 255.0), r"arr_0 is float64; needed uint8 in 0\.\.255"),
    "int64 images": (lambda: save("bad.npz", arr_0=IMAGES.astype(np.int64)), r"arr_0 is int64; needed uint8"),
    "grey images": (lambda: save("bad.npz", arr_0=IMAGES[..., :1]), r"with 1 channels; needed N x H x W x 3"),
    "RGBA images": (lambda: save("bad.npz", arr_0=IMAGES[..., [0, 1, 2, 2]]), r"with 4 channels"),
    "NCHW images": (lambda: save("bad.npz", arr_0=NCHW), r"transpose with \(0, 2, 3, 1\)"),
    "three axes": (lambda: save("bad.npz", arr_0=IMAGES[0]), r"shape \(8, 8, 3\); needed four axes"),
    "no images": (lambda: save("bad.npz", arr_0=IMAGES[:0]), r"there are no images to evaluate"),
    "Fortran order": (lambda: save("bad.npz", arr_0=np.asfortranarray(IMAGES)), r"Fortran order"),
    "other size than the reference": (
        lambda: save("bad.npz", arr_0=IMAGES.repeat(2, 1).repeat(2, 2)),
        r"bad\.npz has images of 16x16, .* of 8x8.*--allow-size-mismatch",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("no_network_runs")
@pytest.mark.parametrize("case", GEN_ERRORS)
def test_a_bad_sample_file_gives_one_clear_message(capsys, case):
    make, message = GEN_ERRORS[case]
    make()
    check_error(run(capsys, "evaluate", "bad.npz", "--ref", "digits", "--extractor", "digits"), message)


REF_ERRORS = {
    "missing file": ({}, r"bad\.npz: no such file; needed an \.npz reference batch"),
    "nothing of use": ({"x": np.zeros(3)}, r"keys found: x\. Needed arr_0 .* or mu, sigma"),
    "NaN in statistics": (STATISTICS | {"mu": np.full(64, np.nan)}, r"mu holds NaN"),
    "infinite covariance": (STATISTICS | {"sigma_s": np.full((112, 112), np.inf)}, r"sigma_s holds NaN or infinite"),
    "covariance of another shape": (STATISTICS | {"sigma": np.eye(63)}, r"mu has shape \(64,\) and sigma \(63, 63\)"),
    "mean without covariance": ({"mu": np.zeros(64)}, r"holds mu but no sigma"),
    "asymmetric covariance": (STATISTICS | {"sigma": np.triu(np.ones((64, 64)))}, r"not symmetric"),
    "integer statistics": (STATISTICS | {"mu": np.zeros(64, int)}, r"mu is int64"),
    "another network": (
        {"mu": np.zeros(2048), "sigma": np.eye(2048)},
        r"2048 dimensions; the digits extractor needs 64.*network and layer",
    ),
    "pool and spatial exchanged": (
        {"mu": np.zeros(112), "sigma": np.eye(112), "mu_s": np.zeros(64), "sigma_s": np.eye(64)},
        r"mu, sigma have 112 dimensions",
    ),
    "pickled statistics": ({"mu": np.array([1.0, None]), "sigma": np.eye(2)}, r"mu is an object array.*refused"),
}


@pytest.mark.usefixtures("no_network_runs")
@pytest.mark.parametrize("case", REF_ERRORS)
def test_a_bad_reference_gives_one_clear_message(capsys, case):
    arrays, message = REF_ERRORS[case]
    save("good.npz", arr_0=IMAGES)
    if arrays:
        save("bad.npz", **arrays)
    check_error(run(capsys, "evaluate", "good.npz", "--ref", "bad.npz", "--extractor", "digits"), message)


DIGITS = ("--ref", "digits", "--extractor", "digits")
OPTION_ERRORS = {
    "more images than there are": ((*DIGITS, "--num-samples", 21), r"holds 20 images, 21 were.*the missing 1"),
    "zero images": ((*DIGITS, "--num-samples", 0), r"0 images asked for"),
    "unknown metric": ((*DIGITS, "--metrics", "fid,vendi"), r"Unknown metric vendi; known: fid, sfid, is"),
    "no metric": ((*DIGITS, "--metrics", ""), r"Unknown metric \(none\)"),
    "unknown reference": (("--ref", "imagenet257", "--extractor", "digits"), r"nor a known reference.*imagenet256"),
    "no reference": (("--extractor", "digits"), r"required: --ref"),
    "unknown extractor": (("--ref", "digits", "--extractor", "inceptoin"), r"Did you mean 'inception'"),
    "batch size": ((*DIGITS, "--batch-size", 0), r"needed at least 1"),
    "no such GPU": ((*DIGITS, "--device", "cuda:99"), r"PyTorch sees \d+ GPU"),
    "no such device": ((*DIGITS, "--device", "gpu"), r"not a device; use cpu, cuda"),
    "weights for digits": ((*DIGITS, "--weights", "x.pth"), r"carries its own weights"),
    "no weights file": (("--ref", "good.npz", "--weights", "x.pth"), r"--weights x\.pth: no such file"),
    "corrupt weights": (("--ref", "good.npz", "--weights", "corrupt.pth"), r"corrupt\.pth: not a PyTorch state dict"),
    "corrupt graph": (("--ref", "good.npz", "--weights", "corrupt.pb"), r"corrupt\.pb: not a frozen TensorFlow graph"),
    "graph engine without graph": (
        ("--ref", "good.npz", "--weights", "corrupt.pth", "--backend", "tensorflow"),
        r"needs classify_image_graph_def\.pb",
    ),
    "digits statistics for Inception": (("--ref", "digits"), r"64 dimensions; the inception extractor needs 2048"),
    "unreachable download": (("--ref", "good.npz"), r"could not be downloaded from http://127\.0\.0\.1:9/.*put it at"),
}  # fmt: skip


@pytest.mark.usefixtures("no_network_runs")
@pytest.mark.parametrize("case", OPTION_ERRORS)
def test_a_bad_option_gives_one_clear_message(capsys, monkeypatch, tmp_path, case):
    options, message = OPTION_ERRORS[case]
    save("good.npz", arr_0=IMAGES)
    for name in ("corrupt.pth", "corrupt.pb"):
        (tmp_path / name).write_bytes(np.random.RandomState(1).bytes(4000))
    nowhere = [dataclasses.replace(a, url=f"http://127.0.0.1:9/{a.filename}") if a.url else a for a in assets.assets()]
    monkeypatch.setattr(assets, "assets", lambda: tuple(nowhere))
    check_error(run(capsys, "evaluate", "good.npz", *options), message)


def check_error(outcome, message):
    code, out, err = outcome
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert re.search(message, err), err
    assert err.count("error:") == 1


@pytest.fixture
def samples(digits):
    save("samples.npz", arr_0=digits.images[:300])
    return "samples.npz"


def test_evaluate_prints_a_table_and_appends_the_result(capsys, samples):
    code, out, _ = run(capsys, "evaluate", samples, *DIGITS)
    assert code == 0
    for row in (
        "FID-300 (digits)",
        "sFID-300 (digits)",
        "Inception Score (digits)",
        "Precision (digits)",
        "Recall (digits)",
    ):
        assert row in out
    assert "appended to results.jsonl" in out
    run(capsys, "evaluate", samples, *DIGITS, "--no-results")
    (result,) = read_results("results.jsonl")
    assert result.num_samples == 300
    assert f"{result.fid:.4f}" in out


def test_json_alone_goes_to_stdout(capsys, samples):
    code, out, _ = run(capsys, "evaluate", samples, *DIGITS, "--json", "-", "--metrics", "fid,is", "--no-results")
    assert code == 0
    found = json.loads(out)
    assert found["fid"] > 0
    assert (found["sfid"], found["precision"], found["recall"]) == (None, None, None)
    assert {"num_samples", "num_reference", "protocol", "extractor", "environment"} <= found.keys()
    code, out, _ = run(capsys, "evaluate", samples, *DIGITS, "--json", "out.json", "--no-results")
    assert "FID-300" in out
    with open("out.json") as file:
        assert json.load(file)["fid"] == found["fid"]


def test_warnings_go_to_stderr(capsys, samples):
    save("ref.npz", **STATISTICS)
    code, out, err = run(capsys, "evaluate", samples, "--ref", "ref.npz", "--extractor", "digits")
    assert code == 0
    assert "warning: precision: not computed" in err
    assert "warning" not in out
    assert "Precision" not in out


def test_stats_makes_a_reference_that_evaluate_takes(capsys, samples):
    code, out, _ = run(capsys, "stats", samples, "--out", "ref.npz", "--extractor", "digits", "--num-images", 50)
    assert code == 0
    assert "statistics of 300 images, 50 images kept" in out
    code, out, _ = run(capsys, "evaluate", samples, "--ref", "ref.npz", "--extractor", "digits")
    assert code == 0
    assert "0.0000" in out


@pytest.mark.usefixtures("no_network_runs")
@pytest.mark.parametrize(("count", "keep"), [(1, 10), (20, -1)])
def test_stats_refuses_what_it_cannot_make(capsys, count, keep):
    save("real.npz", arr_0=IMAGES[:count])
    outcome = run(capsys, "stats", "real.npz", "--out", "r.npz", "--extractor", "digits", "--num-images", keep)
    check_error(outcome, r"statistics need at least 2 images")


def test_weights_are_listed_and_verified(capsys):
    code, out, _ = run(capsys, "weights", "list")
    assert code == 0
    assert "inception " in out
    assert "imagenet256" in out
    check_error(
        run(capsys, "weights", "verify", "inception"), r"not there\. Get it with `dit-eval weights fetch inception`"
    )
    check_error(run(capsys, "weights", "fetch", "inceptionn"), r"No file called 'inceptionn'; known: inception")
    check_error(
        run(capsys, "weights", "fetch", "inception", "--url", "http://127.0.0.1:9/x"), r"could not be downloaded"
    )


def test_the_package_runs_as_a_module_and_tells_its_version():
    done = subprocess.run([sys.executable, "-m", "dit_eval", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("dit-eval 0.")


def test_a_precision_is_refused_where_it_does_not_belong(capsys, no_network_runs):
    save("gen.npz", arr_0=IMAGES)
    for options, message in (
        (["--extractor", "digits", "--precision", "bf16"], "--extractor digits carries its own weights"),
        (["--extractor", "dinov2", "--precision", "bf16"], "--extractor dinov2 runs on torch and in fp32 only"),
        (["--backend", "tensorflow", "--precision", "bf16"], "--precision bf16 needs --backend torch"),
        (["--device", "cpu", "--precision", "tf32"], "tf32 is arithmetic of NVIDIA GPUs"),
    ):
        code, out, error = run(capsys, "evaluate", "gen.npz", "--ref", "gen.npz", *options)
        assert (code, out) == (2, "")
        assert message in error


def test_features_in_half_precision_are_never_called_adms_protocol(capsys, inception_files):
    save("gen.npz", arr_0=IMAGES)
    arguments = ["gen.npz", "--ref", "gen.npz", "--weights", inception_files.pth, "--metrics", "is", "--json", "-"]
    code, out, error = run(capsys, "evaluate", *arguments, "--precision", "bf16", "--no-results")
    assert code == 0
    result = json.loads(out)
    assert result["protocol"] == "adm-2021 except features in bf16, weights (unknown), reference (own)"
    assert result["extractor"]["precision"] == "bf16"
    assert "features in bf16 move every metric" in error


@pytest.mark.parametrize("network", ["dinov2", "clip"])
def test_other_networks_get_no_precision(capsys, no_network_runs, network):
    # They have one; it was handed to them once, which ended in a traceback.
    save("gen.npz", arr_0=IMAGES)
    save("weights.npz", arr_0=IMAGES)
    code, out, error = run(
        capsys, "evaluate", "gen.npz", "--ref", "gen.npz", "--extractor", network, "--weights", "weights.npz"
    )
    assert (code, out) == (2, "")
    assert "weights.npz" in error
    assert "Traceback" not in error
