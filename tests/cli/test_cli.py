"""The command line as a user meets it, above all when something is wrong."""

import dataclasses
import gc
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from commands import DIGITS, IMAGES, check_error, save
from PIL import Image
from sample_runs import run

from dit_eval.results.lines import read_results
from dit_eval.system import assets

pytestmark = pytest.mark.usefixtures("own_folder")


NCHW = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
STATISTICS = {"mu": np.zeros(64), "sigma": np.eye(64), "mu_s": np.zeros(112), "sigma_s": np.eye(112)}


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
    "correlation above 1": (
        STATISTICS | {"sigma": np.eye(64) + np.diag([1.5, *[0.0] * 62], 1) + np.diag([1.5, *[0.0] * 62], -1)},
        r"bad\.npz: sigma is no covariance: entry 0, 1 is 1\.5, where the variances 1 and 1 of the two features allow",
    ),
    "negative variance": (
        STATISTICS | {"sigma_s": np.diag([*[1.0] * 111, -0.25])},
        r"sigma_s is no covariance: the variance of feature 111 is -0\.25",
    ),
    "negative eigenvalue": (
        STATISTICS | {"sigma": 1.1 * np.eye(64) - 0.1 * np.ones((64, 64))},  # 1.1, and 1.1 - 64 x 0.1
        r"sigma is no covariance: its eigenvalues go from -5\.3 to 1\.1, and none is below 0.*in float64",
    ),
    "complex covariance": (STATISTICS | {"sigma": 1j * np.eye(64)}, r"sigma is complex128; needed floating point"),
    "squares beyond float64": (STATISTICS | {"mu": np.full(64, 1e160)}, r"mu or sigma holds numbers whose squares are"),
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
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.parity) if case == "graph engine without graph" else case
        for case in OPTION_ERRORS
    ],
)
def test_a_bad_option_gives_one_clear_message(capsys, monkeypatch, tmp_path, case):
    options, message = OPTION_ERRORS[case]
    save("good.npz", arr_0=IMAGES)
    for name in ("corrupt.pth", "corrupt.pb"):
        (tmp_path / name).write_bytes(np.random.RandomState(1).bytes(4000))
    nowhere = [dataclasses.replace(a, url=f"http://127.0.0.1:9/{a.filename}") if a.url else a for a in assets.assets()]
    monkeypatch.setattr(assets, "assets", lambda: tuple(nowhere))
    check_error(run(capsys, "evaluate", "good.npz", *options), message)


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
    assert f"{result.fid:.2f}" in out


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
    assert " 0.00\n" in out


@pytest.mark.usefixtures("no_network_runs")
@pytest.mark.parametrize(("count", "keep"), [(1, 10), (20, -1)])
def test_stats_refuses_what_it_cannot_make(capsys, count, keep):
    save("real.npz", arr_0=IMAGES[:count])
    outcome = run(capsys, "stats", "real.npz", "--out", "r.npz", "--extractor", "digits", "--num-images", keep)
    check_error(outcome, r"statistics need at least 2 images")


def test_every_row_of_the_weights_says_where_it_is_from_and_where_it_goes(capsys, tmp_path):
    here = tmp_path / "cache" / "VIRTUAL_imagenet64_labeled.npz"
    here.parent.mkdir()
    here.write_bytes(b"x" * 2_500_000)
    code, text, _ = run(capsys, "weights", "list")
    assert code == 0
    address = (
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
    )
    inception = text[: text.index("inception-graph")].split("\n")
    assert re.match(r"inception +weights +not here +95\.6 MB  Inception of 2015-12-05", inception[0])
    assert inception[1:5] == [
        f"    address  {address}",
        "    file     weights-inception-2015-12-05-6726825d.pth",
        f"    path     {tmp_path / 'cache' / 'weights-inception-2015-12-05-6726825d.pth'}",
        "    sha256   6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ]
    assert re.search(r"imagenet64 +reference +here +2\.50 MB  ", text)
    assert re.search(r"imagenet128 +reference +not here +-  ", text), "nobody states its size"
    assert "sha256   - (the publisher states none)" in text
    code, text, _ = run(capsys, "weights", "list", "--json")
    listed = json.loads(text)
    rows = {row["name"]: row for row in listed["files"]}
    assert listed["cache"] == str(tmp_path / "cache")
    assert all(set(row) == set(rows["inception"]) for row in rows.values())
    assert (rows["inception"]["url"], rows["inception"]["state"]) == (address, "not here")
    assert (rows["inception"]["size"], rows["inception"]["size_bytes"]) == ("95.6 MB", None)
    assert (rows["imagenet64"]["state"], rows["imagenet64"]["size_bytes"]) == ("here", 2_500_000)
    with open(rows["digits"]["path"], "rb") as file:
        assert rows["digits"]["sha256"] == hashlib.sha256(file.read()).hexdigest()
    assert rows["digits"]["url"] is None
    # Four bytes for each parameter: 675,129,632 of DiT-XL/2 with its position table (Table 4: 675 M), and 83,653,863 of
    # Stable Diffusion's autoencoder.
    assert rows["dit-xl-2-256"]["size"] == f"{675_129_632 * 4 / 1e9:.1f} GB"
    assert rows["sd-vae-ft-mse"]["size"] == f"{83_653_863 * 4 / 1e6:.0f} MB"


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


def test_a_command_collects_garbage_rarely_and_leaves_it_as_it_was(capsys, monkeypatch):
    usual, seen = gc.get_threshold(), []
    monkeypatch.setattr("dit_eval.cli.follow", lambda _: lambda: seen.append(gc.get_threshold()))
    assert run(capsys, "report")[0] == 0
    assert seen == [(50_000, *usual[1:])]
    assert gc.get_threshold() == usual


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


@pytest.mark.slow
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


# ---- names, options and the order of arguments

LINE_ERRORS = {
    # unknown options, before what is missing
    ("evaluate", "a.npz", "--ref", "digits", "--metric", "fid"): "unknown option '--metric'. Did you mean '--metrics'?",
    ("evaluate", "a.npz", "--Metrics=fid"): "unknown option '--Metrics'. Did you mean '--metrics'?",
    ("evaluate", "a.npz", "--ref", "digits", "--batch_size", 8): "'--batch_size'. Did you mean '--batch-size'?",
    ("evaluate", "a.npz", "--ref_batch", "digits"): "unknown option '--ref_batch'. Did you mean '--ref'?",
    ("evaluate", "--sample_batch", "a.npz"): "SAMPLES stands without an option: dit-eval evaluate SAMPLES",
    ("evaluate", "--input1", "a", "--input2", "b"): "SAMPLES stands without an option: dit-eval evaluate SAMPLES",
    ("evaluate", "a.npz", "--input2", "b.npz"): "unknown option '--input2'. Did you mean '--ref'?",
    ("evaluate", "a.npz", "--gpu", 0): "unknown option '--gpu'. Did you mean '--device cuda'?",
    ("evaluate", "a.npz", "--isc"): "unknown option '--isc'. Did you mean '--metrics is'?",
    ("evaluate", "a.npz", "--feature-extractor", "x"): "Did you mean '--extractor'?",
    ("evaluate", "a.npz", "--xyzzy"): "unknown option '--xyzzy'.\n",
    ("evaluate", "a.npz", "-b", 8): "unknown option '-b'.",
    ("sample", "--out", "a.npz", "--cfg", 4): "unknown option '--cfg'. Did you mean '--cfg-scale'?",
    ("sample", "--out", "a.npz", "--timestep_respacing", 250): "Did you mean '--num-sampling-steps'?",
    ("sample", "--out", "a.npz", "--num-samples", 9): "Did you mean '--num-images'?",
    ("sample", "--sample-dir", "a.npz"): "unknown option '--sample-dir'. Did you mean '--out'?",
    ("sample", "--out", "a.npz", "--seed", 1): "Did you mean '--global-seed'?",
    ("sample", "--out", "a.npz", "--tf32"): "Did you mean '--precision tf32'?",
    ("train", "--data-path", "x", "--out", "y"): "unknown option '--data-path'. Did you mean '--data'?",
    ("train", "--data", "x", "--out", "y", "--global-batch-size", 8): "Did you mean '--batch-size'?",
    ("study", "run", "digits", "--output", "x"): "unknown option '--output'. Did you mean '--out'?",
    ("--verison",): "dit-eval: error: unknown option '--verison'. Did you mean '--version'?",
    ("--ref", "digits", "evaluate", "a.npz"): "unknown option '--ref'. Options of a command come after its name.",
    # arguments
    ("evaluate", "r.npz", "my samples.npz"): "here: dit-eval evaluate 'my samples.npz' --ref r.npz\n",
    ("evaluate", "imagenet256", "--num-samples", 9, "s.npz"): "here: dit-eval evaluate s.npz --ref imagenet256\n",
    ("diagnose", "r.npz", "s.npz"): "here: dit-eval diagnose s.npz --ref r.npz\n",
    ("classes", "r.npz", "s.npz"): "here: dit-eval classes s.npz --ref r.npz\n",
    ("weights", "list", "digits"): "unexpected argument 'digits'; expected none.",
    ("weights", "fetch", "digits", "clip"): "unexpected argument 'clip'; expected name.",
    ("study", "--out", "x", "status", "digits"): "unknown option '--out'. Options of a command come after its name.",
    ("evaluate", "a.npz"): "the following arguments are required: --ref",
    ("evaluate", "--ref", "digits"): "the following arguments are required: SAMPLES",
    # commands and choices
    ("Evaluate", "a.npz"): "unknown choice 'Evaluate'; known: evaluate, compare, .* Did you mean 'evaluate'?",
    ("eval", "a.npz"): "Did you mean 'evaluate'?",
    ("weights", "LIST"): "unknown choice 'LIST'; known: list, fetch, verify. Did you mean 'list'?",
    ("study", "stats", "x"): "Did you mean 'status'?",
    ("evaluate", "a.npz", "--ref", "digits", "--extractor", "DINO_v2"): "Did you mean 'dinov2'?",
    ("sample", "--out", "a.npz", "--sampler", "DDIM"): "Did you mean 'ddim'?",
    ("evaluate", "a.npz", "--ref", "digits", "--distances", "adm_float16"): "Did you mean 'adm-float16'?",
    # names
    ("evaluate", "good.npz", "--ref", "ImageNet-256"): "neither a file nor a known .* Did you mean 'imagenet256'?",
    ("evaluate", "good.npz", "--ref", "x/VIRTUAL_imagenet512.npz"): "no such file.* fetched: --ref imagenet512\n",
    ("classes", "good.npz", "--ref", "Digits_heldout"): "Did you mean 'digits-heldout'?",
    ("evaluate", "good.npz", *DIGITS, "--metrics", "inception_score"): "Unknown metric .* Did you mean 'is'?",
    ("evaluate", "good.npz", *DIGITS, "--metrics", "FID,FD_DINOv2"): "Did you mean 'fd-dinov2'?",
    ("evaluate", "good.npz", *DIGITS, "--metrics", "recal"): "Did you mean 'recall'?",
    ("sample", "--model", "dit-xl-2", "--out", "a.npz"): "Unknown model 'dit-xl-2'; .* Did you mean 'DiT-XL/2'?",
    ("sample", "--ckpt", "dit_xl_2_256", "--out", "a.npz"): "neither a file .* Did you mean 'dit-xl-2-256'?",
    ("sample", "--ckpt", "dit-digits", "--block", "AdaLN_Zero", "--out", "a.npz"): "Did you mean 'adaln-zero'?",
    ("sample", "--ckpt", "dit-digits", "--labels", "Balanced", "--out", "a.npz"): "no such file.* mean 'balanced'?",
    ("encode", "pictures", "--vae", "MSE", "--out", "l"): "MSE: no autoencoder there; .* Did you mean 'mse'?",
    ("train", "--model", "DIT_B_4", "--data", "x", "--out", "y"): "Unknown model 'DIT_B_4'.* Did you mean 'DiT-B/4'?",
    ("flops", "dit_xl_2_256"): "Unknown model 'dit_xl_2_256'; .* Did you mean 'DiT-XL/2'?",
    ("flops", "ADM-u-256"): "Did you mean 'ADM-U-256-upsampler'?",
    ("flops", "DiT-S/2", "--block", "cross_attention"): "Unknown block design .* Did you mean 'cross-attention'?",
    ("weights", "fetch", "DiT-XL/2-512"): "No file called 'DiT-XL/2-512'; .* Did you mean 'dit-xl-2-512'?",
    ("weights", "fetch", "VIRTUAL_imagenet64_labeled.npz"): "Did you mean 'imagenet64'?",
    ("verify", "--golden", "ADM_G_128"): "No golden set called 'ADM_G_128'.* Did you mean 'adm-g-128'?",
    ("diagnose", "good.npz", "--ref", "digits", "--expect", "DiT-XL/2-cfg1.5"): "Did you mean 'dit-xl-2-cfg1.5'?",
    ("study", "show", "Paper_256"): "neither a file nor an embedded plan.* Did you mean 'paper-256'?",
}


@pytest.mark.usefixtures("no_network_runs")
@pytest.mark.parametrize("line", LINE_ERRORS, ids=lambda line: " ".join(map(str, line)))
def test_a_line_that_is_nearly_right_is_told_what_was_meant(capsys, tmp_path, line):
    save("good.npz", arr_0=IMAGES, arr_1=np.arange(20))
    (tmp_path / "pictures").mkdir()
    Image.fromarray(IMAGES[0]).save("pictures/0.png")
    pattern = "".join(".*" if part == ".*" else re.escape(part) for part in re.split(r"(\.\*)", LINE_ERRORS[line]))
    check_error(run(capsys, *line), pattern)


def test_a_value_may_look_like_anything_but_an_option(capsys):
    check_error(run(capsys, "train", "--data", "x", "--out", "y", "--lr", "-1e-4"), r"argument --lr: expected one arg")
    code, _, err = run(capsys, "grid", "--out", "g.png", "--", "--odd.npz")
    assert (code, "--odd.npz: no such file" in err) == (2, True), err
