"""Where results go: asked before the work, printed before they are written, kept where they can be kept."""

import io
import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dit_eval import quickstart, scoring
from dit_eval.checks import verify
from dit_eval.cli import main
from dit_eval.features.digits import DigitsExtractor
from dit_eval.images.npz import open_batch
from dit_eval.results.lines import read_results
from dit_eval.system import assets
from dit_eval.system.assets import asset
from dit_eval.system.files import atomic_file
from dit_eval.system.text import named, shown

# By numpy and scipy.linalg.sqrtm, of the digits network's features of the first 20 held-out digits.
FID = "21.33"
NOWHERE = "/proc/nope"  # a folder that nobody can make


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch, digits):
    """Samples, and a folder for temporary files that holds nothing else."""
    np.savez(tmp_path / "g.npz", digits.images[:20])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("DIT_EVAL_CACHE", NOWHERE)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def network(monkeypatch):
    """Passes of the digits network, and what to do before the first."""
    state = {"passes": 0, "before": lambda: None}
    own = DigitsExtractor.__call__

    def call(self, images):
        if not state["passes"]:
            state["before"]()
        state["passes"] += 1
        return own(self, images)

    monkeypatch.setattr(DigitsExtractor, "__call__", call)
    return state


def run(capsys, *arguments):
    """Exit code, stdout, stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def scored(capsys, *more, samples="g.npz"):
    return run(capsys, "evaluate", samples, "--ref", "digits", "--extractor", "digits", "--metrics", "fid", *more)


def kept_json(err):
    """The result that a warning says where to find."""
    place = re.search(r"could not be written \(.+\)\. It is kept as (\S+)\.\n", err)
    if place:
        return json.loads(Path(place[1]).read_text())
    return json.loads(err.partition("It was to hold:\n")[2])


def small_disk(size="64k"):
    """A disk of its own, below the current folder; the test is left out where nothing may be mounted."""
    Path("disk").mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "disk"], check=False).returncode:
        pytest.skip("mounting a disk needs root")


def fill():
    with open("disk/ballast", "wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(512))
            except OSError:
                return


def full_disk():
    small_disk()
    fill()


def read_only_disk():
    small_disk()
    subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)


def parent_is_a_file():
    Path("file").write_text("no folder")


def dangling():
    Path("link.jsonl").symlink_to("unmounted/results.jsonl")


@pytest.fixture(autouse=True)
def _unmounted(_own_folder):
    yield
    if os.path.ismount("disk"):
        subprocess.run(["umount", "disk"], check=True)


BEFORE = {
    "default, in a folder that cannot be written": (
        lambda: os.chdir("/proc"), [], r"--results results\.jsonl cannot be written: .*/proc.*--no-results",
    ),
    "a folder that cannot be made": (None, ["--results", f"{NOWHERE}/r.jsonl"], r"--results /proc/nope/r\.jsonl can"),
    "a folder": (None, ["--results", "temporary"], r"--results temporary cannot be written: it is a folder"),
    "below a file": (parent_is_a_file, ["--results", "file/r.jsonl"], r"file is a file, not a folder"),
    "a link to a folder that is gone": (
        dangling, ["--results", "link.jsonl"], r"a link to \S+/unmounted/results\.jsonl, and there is no folder",
    ),
    "a full disk": (full_disk, ["--results", "disk/r.jsonl"], r"--results disk/r\.jsonl .*No space left on device"),
    "a read-only disk": (read_only_disk, ["--results", "disk/r.jsonl"], r"disk/r\.jsonl .*Read-only file system"),
    "too long a name": (None, ["--no-results", "--json", "n" * 250 + ".json"], r"--json n+\.json can.*name too long"),
    "JSON, nowhere": (None, ["--no-results", "--json", f"{NOWHERE}.json"], r"--json /proc/nope\.json cannot be"),
    "JSON, a folder": (None, ["--no-results", "--json", "temporary"], r"--json temporary .*it is a folder"),
    "JSON in place of the results": (
        lambda: Path("r.json").symlink_to("results.jsonl"), ["--json", "r.json"], r"--json .*the file of --results",
    ),
    "cache, nowhere": (None, ["--no-results", "--cache", NOWHERE], r"--cache /proc/nope cannot be written"),
    "cache, a file": (parent_is_a_file, ["--no-results", "--cache", "file"], r"file: is a file; expected a folder"),
    "dry run": (None, ["--dry-run", "--json", f"{NOWHERE}.json"], r"--json /proc/nope\.json cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize("form", BEFORE)
def test_a_destination_that_cannot_be_written_is_told_before_the_network_runs(capsys, network, tmp_path, form):
    prepare, options, message = BEFORE[form]
    if prepare:
        prepare()
    code, out, err = scored(capsys, *options, samples=tmp_path / "g.npz")
    assert (code, out, network["passes"]) == (2, "", 0)
    assert re.search(message, err), err
    assert err.count("error:") == 1
    assert list((tmp_path / "temporary").iterdir()) == []


def folder_becomes_a_file():
    shutil.rmtree("out")
    Path("out").write_text("no folder")


def results_become_a_folder():
    Path("r.jsonl").mkdir()


@contextmanager
def limited_files(size):
    """As a quota has it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


AFTER = {
    "JSON, a device that is full": (None, None, ["--no-results", "--json", "/dev/full"], r"--json /dev/full .*No sp"),
    "results, a device that is full": (None, None, ["--results", "/dev/full"], r"--results /dev/full .*No space"),
    "JSON, its folder is gone": (
        lambda: Path("out").mkdir(), folder_becomes_a_file, ["--no-results", "--json", "out/r.json"], r"out is a file",
    ),
    "results, its folder is gone": (
        lambda: Path("out").mkdir(), folder_becomes_a_file, ["--results", "out/r.jsonl"], r"--results out/r\.jsonl",
    ),
    "results, a folder by now": (None, results_become_a_folder, ["--results", "r.jsonl"], r"Is a directory"),
    "results, the disk is full by now": (small_disk, fill, ["--results", "disk/r.jsonl"], r"No space left on device"),
    "JSON, the disk is full by now": (
        small_disk, fill, ["--no-results", "--json", "disk/r.json"], r"--json disk/r\.json .*No space left on device",
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", AFTER)
def test_a_write_that_fails_after_the_work_loses_nothing(capsys, network, form):
    prepare, network["before"], options, message = AFTER[form][0], AFTER[form][1] or (lambda: None), *AFTER[form][2:]
    if prepare:
        prepare()
    code, out, err = scored(capsys, *options)
    assert code == 3
    assert FID in out
    assert re.search(message, err), err
    assert f"{kept_json(err)['fid']:.2f}" == FID
    assert "appended" not in out


def test_a_result_that_no_file_takes_is_on_stderr(capsys, network):
    with limited_files(100) as limit:
        network["before"] = limit
        code, out, err = scored(capsys, "--results", "r.jsonl")
    assert code == 3
    assert FID in out
    assert f"{kept_json(err)['fid']:.2f}" == FID
    assert Path("r.jsonl").read_bytes() == b""


def test_a_line_that_was_written_in_part_is_taken_back(capsys, network):
    assert scored(capsys, "--results", "r.jsonl")[0] == 0
    before = Path("r.jsonl").read_bytes()
    with limited_files(len(before) + 100) as limit:
        network |= {"passes": 0, "before": limit}
        assert scored(capsys, "--results", "r.jsonl")[0] == 3
    assert Path("r.jsonl").read_bytes() == before
    assert scored(capsys, "--results", "r.jsonl")[0] == 0
    assert [f"{result.fid:.2f}" for result in read_results("r.jsonl")] == [FID, FID]


def test_what_could_be_written_is(capsys):
    code, out, err = scored(capsys, "--results", "r.jsonl", "--json", "/dev/full")
    assert code == 3
    assert FID in out
    assert "appended to r.jsonl" in out
    assert len(read_results("r.jsonl")) == 1
    assert f"{kept_json(err)['fid']:.2f}" == FID


def test_a_cache_that_becomes_unwritable_costs_no_more_than_itself(capsys, network):
    Path("out").mkdir()
    network["before"] = folder_becomes_a_file
    code, out, err = scored(capsys, "--no-results", "--cache", "out")
    assert code == 0
    assert FID in out
    assert re.search(r"warning: out/features-\w+\.npz: the features could not be kept \(", err)


# ---- stdout


@contextmanager
def stdout(kind):
    """A stdout that takes nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as unread, open("/dev/full", "w") as full, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", {"full": full, "unread": unread, "closed": None}[kind])
        yield


@pytest.mark.parametrize("kind", ["full", "unread", "closed"])
def test_a_stdout_that_takes_nothing_leaves_the_numbers_on_stderr(capsys, kind):
    with stdout(kind), pytest.raises(SystemExit) as exit_:
        main(["evaluate", "g.npz", "--ref", "digits", "--extractor", "digits", "--metrics", "fid"])
    err = capsys.readouterr().err
    assert exit_.value.code == 3
    assert f"{read_results('results.jsonl')[0].fid:.2f}" == FID
    assert "warning: stdout could not be written" in err
    assert FID in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("kind", "told"), [("full", "warning: stdout could not be written (No space left on device).\n"), ("unread", "")]
)
def test_other_commands_end_quietly_too(capsys, kind, told):
    with stdout(kind), pytest.raises(SystemExit) as exit_:
        main(["weights", "list"])
    assert (exit_.value.code, capsys.readouterr().err) == (3, told)


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"\u56fe\xe9.npz"), ("latin-1", "\\u56fe\xe9.npz")])
def test_a_terminal_without_the_characters_of_a_path(capsys, monkeypatch, encoding, shown):
    os.rename("g.npz", "图é.npz")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    assert scored(capsys, samples="图é.npz")[0] == 0
    printed = out.buffer.getvalue().decode(encoding)
    assert FID in printed
    assert shown in printed
    assert (out.errors, err.errors) == ("strict", "strict")
    out.buffer.truncate(0)
    out.buffer.seek(0)
    assert scored(capsys, "--json", "-", samples="图é.npz")[0] == 0
    assert json.loads(out.buffer.getvalue().decode(encoding))["gen"]["path"] == "图é.npz"
    assert [result.gen.path for result in read_results("results.jsonl")] == ["图é.npz"] * 2


def test_names_that_are_no_utf_8(capsys, monkeypatch):
    name = os.fsdecode(b"n\xe9 \xc3\xa9.npz")
    os.rename("g.npz", name)
    # As a UTF-8 terminal is; capsys lends its streams no strictness.
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr("sys.stdout", out)
    assert scored(capsys, "--json", "j.json", samples=name)[0] == 0
    assert FID in out.buffer.getvalue().decode()
    kept = json.loads(Path("j.json").read_text(encoding="utf-8"))["gen"]["path"]
    assert kept == r"n\xe9 é.npz"
    (result,) = read_results("results.jsonl")
    assert result.gen.path == kept
    assert open_batch(named(kept), role="gen").sha256() == result.gen.sha256


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain \xe5\x9b\xbe.npz", "plain 图.npz"),
        (b"\xff\x80", r"\xff\x80"),
        (b"a\x1b[2Jb\n", r"a\x1b[2Jb\n"),
        ("\x85\u2028\u3000\U000e0001".encode(), r"\u0085\u2028\u3000\U000e0001"),
    ],
)
def test_shown_names_lead_back(name, text):
    assert shown(os.fsdecode(name)) == text
    assert os.fsencode(named(text)) == name


# ---- other commands


def train(out):
    sizes = ["--depth", 1, "--hidden-size", 16, "--num-heads", 2, "--patch-size", 2]
    return ["train", *sizes, "--data", asset("digits").path, "--grey", "--out", out]


DIGITS = ["--ref", "digits", "--extractor", "digits"]
SAMPLE = ["sample", "--ckpt", "dit-digits", "--num-fid-samples", 4, "--cfg-scale", 1.0]
SIBLINGS = {
    "stats --out": ["stats", "g.npz", "--extractor", "digits", "--out", f"{NOWHERE}/ref.npz"],
    "classes --grid": ["classes", "l.npz", *DIGITS, "--grid", f"{NOWHERE}/g.png"],
    "classes --json": ["classes", "l.npz", *DIGITS, "--json", f"{NOWHERE}/c.json"],
    "classes --cache": ["classes", "l.npz", *DIGITS, "--cache", NOWHERE],
    "diagnose --json": ["diagnose", "g.npz", "--ref", "digits", "--json", f"{NOWHERE}/d.json"],
    "flops --json": ["flops", "DiT-S/8", "--json", f"{NOWHERE}/f.json"],
    "verify --json": ["verify", "--offline", "--json", f"{NOWHERE}/v.json"],
    "weights fetch": ["weights", "fetch", "inception"],
    "verify --cache": ["verify", "--cache", NOWHERE],
    "grid --out": ["grid", "g.npz", "--out", f"{NOWHERE}/g.png"],
    "report --out": ["report", "--out", NOWHERE],
    "sample --out": [*SAMPLE, "--out", f"{NOWHERE}/s.npz"],
    "sample --grid": [*SAMPLE, "--out", "s.npz", "--grid", f"{NOWHERE}/g.png"],
    "encode --out": ["encode", "pictures", "--out", f"{NOWHERE}/latents"],
    "train --out": train(NOWHERE),
    "study run --out": ["study", "run", "digits-small", "--out", NOWHERE],
    "quickstart --out": ["quickstart", "--out", NOWHERE],
}


@pytest.mark.parametrize("case", SIBLINGS)
def test_every_command_asks_before_the_work(capsys, monkeypatch, digits, case):
    np.savez("l.npz", arr_0=digits.images, arr_1=digits.labels)
    Path("pictures").mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save("pictures/1.png")

    def work(*_, **__):
        raise AssertionError("the work began")

    for place, name in (
        (DigitsExtractor, "__call__"),
        (assets, "download"),
        (assets, "sha256_of"),
        (scoring, "checksums"),
        (verify, "verify_offline"),
        (quickstart, "quickstart"),
    ):
        monkeypatch.setattr(place, name, work)
    for late in (
        "checks.diagnose.read_pixels",
        "flops.count.count_model",
        "images.npz.ImageBatch.sha256",
        "report.page.report_files",
        "study.sources.find_sources",
    ):
        monkeypatch.setattr(f"dit_eval.{late}", work)
    code, out, err = run(capsys, *SIBLINGS[case])
    assert (code, out) == (2, "")
    option = "" if case == "weights fetch" else f"{case.split()[-1]} "
    assert re.search(rf"error: {option}\S*/proc\S* cannot be written: no file can be made in /proc", err), err


def test_statistics_that_cannot_be_written_are_kept(capsys, network):
    Path("out").mkdir()
    network["before"] = folder_becomes_a_file
    code, out, err = run(capsys, "stats", "g.npz", "--extractor", "digits", "--out", "out/ref.npz")
    assert (code, out) == (3, "")
    place = re.search(r"--out out/ref\.npz could not be written \(.+\)\. It is kept as (\S+)\.\n", err)[1]
    features = DigitsExtractor()(np.load("g.npz")["arr_0"]).pool.astype(np.float64)
    with np.load(place) as reference:
        np.testing.assert_allclose(reference["mu"], features.mean(0), atol=1e-12)
        np.testing.assert_array_equal(reference["arr_0"], np.load("g.npz")["arr_0"])


def test_statistics_that_nothing_takes_are_an_error(capsys, network, monkeypatch, tmp_path):
    Path("out").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "out"))
    network["before"] = folder_becomes_a_file
    code, out, err = run(capsys, "stats", "g.npz", "--extractor", "digits", "--out", "out/ref.npz")
    assert (code, out) == (2, "")
    assert "--out out/ref.npz could not be written" in err
    assert "nor kept elsewhere" in err


def test_a_grid_of_classes_that_cannot_be_drawn_is_kept(capsys, network, digits):
    np.savez("l.npz", arr_0=digits.images, arr_1=digits.labels)
    Path("out").mkdir()
    network["before"] = folder_becomes_a_file
    code, out, err = run(capsys, "classes", "l.npz", *DIGITS, "--grid", "out/g.png", "--worst", 1, "--images", 1)
    assert code == 3
    assert "10 classes, features of digits" in out
    place = Path(re.search(r"It is kept as (\S+)\.\n", err)[1])
    assert place.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("command", "key"),
    [(["diagnose", "g.npz", "--ref", "digits"], "findings"), (["verify"], "passed")],
)
def test_json_that_cannot_be_written_is_kept(capsys, monkeypatch, command, key):
    passed = verify.Verification(name="none", source="nowhere", checks=())
    monkeypatch.setattr("dit_eval.cli.verify._verify_published", lambda _: [passed])
    code, out, err = run(capsys, *command, "--json", "/dev/full")
    assert code == 3
    assert out
    assert key in kept_json(err)


# ---- files


def test_a_link_is_written_through(capsys):
    Path("elsewhere").mkdir()
    Path("j.json").symlink_to("elsewhere/j.json")  # of a file that is not there yet
    for _ in range(2):
        assert scored(capsys, "--no-results", "--json", "j.json")[0] == 0
        assert Path("j.json").is_symlink()
        assert f"{json.loads(Path('elsewhere/j.json').read_text())['fid']:.2f}" == FID


def test_a_device_stays_a_device():
    with atomic_file(Path("/dev/null")) as file:
        file.write(b"text")
    assert Path("/dev/null").is_char_device()


def test_a_pipe_gets_the_json(capsys):
    reading, writing = os.pipe()
    assert scored(capsys, "--no-results", "--json", f"/dev/fd/{writing}")[0] == 0
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert f"{json.load(pipe)['fid']:.2f}" == FID


def test_asking_leaves_nothing_behind(capsys):
    before, options = sorted(Path().iterdir()), ["--results", "new/deep/r.jsonl", "--json", "other/j.json"]
    code, _, err = scored(capsys, *options, "--cache", "kept", "--ref", "missing.npz")
    assert code == 2
    assert "missing.npz: no such file" in err
    assert sorted(Path().iterdir()) == before
    assert scored(capsys, *options, "--cache", "kept")[0] == 0
    assert sorted(map(str, set(Path().iterdir()) - set(before))) == ["kept", "new", "other"]
