"""What commands write: the endings they take, and nothing of a user's written over unasked."""

import re

import numpy as np
import pytest
from commands import DIGITS, IMAGES, check_error, save
from PIL import Image
from sample_runs import run

pytestmark = pytest.mark.usefixtures("own_folder")


FORMATS = {
    ("stats", "real.npz", "--out"): ("ref", "ref.txt", "ref.NPZ"),
    ("sample", "--ckpt", "dit-digits", "--out"): ("samples", "samples.png"),
    ("sample", "--ckpt", "dit-digits", "--out", "s.npz", "--grid"): ("grid", "grid.jpg"),
    ("grid", "real.npz", "--out"): ("grid", "grid.jpg", "grid.svg", ".png"),
    ("classes", "real.npz", *DIGITS, "--grid"): ("grid.npz",),
    ("evaluate", "real.npz", *DIGITS, "--json"): ("result", "result.txt", "real.npz"),
    ("evaluate", "real.npz", *DIGITS, "--results"): ("results.json", "real.npz"),
    ("diagnose", "real.npz", *DIGITS, "--json"): ("result.txt",),
    ("classes", "real.npz", *DIGITS, "--json"): ("result.txt",),
    ("flops", "DiT-S/2", "--json"): ("flops.csv",),
    ("verify", "--offline", "--json"): ("verify.txt",),
    ("report", "--out"): ("report.html", "real.npz"),
    ("train", "--data", "x", "--out"): ("model.pt", "run.safetensors", "real.npz"),
    ("encode", "x", "--out"): ("latents.npz",),
    ("study", "run", "digits", "--out"): ("study.pdf",),
    ("quickstart", "--out"): ("index.html",),
    ("evaluate", "real.npz", *DIGITS, "--cache"): ("features.npz",),
}


@pytest.mark.usefixtures("no_network_runs")
@pytest.mark.parametrize("line", FORMATS, ids=lambda line: f"{line[0]} {line[-1]}")
def test_another_ending_than_the_formats_is_refused_before_any_work(capsys, tmp_path, line):
    save("real.npz", arr_0=IMAGES)
    before = (tmp_path / "real.npz").read_bytes()
    for name in FORMATS[line]:
        told = rf"{re.escape(name)}: (expected (a|the) name .*such as [\w.]+|is a file; expected a folder)\."
        code, out, err = run(capsys, *line, name)
        assert (code, out) == (2, "")
        assert re.fullmatch(rf"dit-eval: error: {told}\n", err), err
    assert [path.name for path in tmp_path.iterdir()] == ["real.npz"], "nothing is made under that name or another"
    assert (tmp_path / "real.npz").read_bytes() == before


@pytest.mark.usefixtures("no_network_runs")
@pytest.mark.parametrize(
    ("line", "there"),
    [
        (("stats", "real.npz", "--extractor", "digits", "--out", "ref.npz"), "ref.npz"),
        (("grid", "real.npz", "--count", 4, "--out", "g.png"), "g.png"),
        (("grid", "real.npz", "--count", 4, "--out", "g.png"), "g.pdf"),
        (("grid", "real.npz", "--count", 4, "--out", "g.pdf"), "g.png"),
        (("report", "--out", "r"), "r/index.html"),
        (("sample", "--ckpt", "dit-digits", "--num-fid-samples", 1, "--out", "s.npz"), "s.npz"),
        (("encode", "pictures", "--vae", "vae.safetensors", "--out", "l"), "l/notes.txt"),
        (("quickstart", "--out", "q"), "q/results.jsonl"),
        (("study", "run", "digits-small", "--out", "q"), "q/results.jsonl"),
        (("study", "run", "digits-small", "--out", "q"), "q/plan.toml"),
        (("study", "report", "digits-small", "--out", "q"), "q/results.jsonl"),
        (("study", "status", "digits-small", "--out", "q"), "q/results.jsonl"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else value,
)
def test_what_is_there_is_not_written_over(capsys, tmp_path, line, there):
    save("real.npz", arr_0=IMAGES)
    (tmp_path / "pictures").mkdir()
    Image.fromarray(IMAGES[0]).save("pictures/0.png")
    (tmp_path / "vae.safetensors").write_bytes(b"")
    mine = tmp_path / there
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"mine")
    check_error(
        run(capsys, *line), r"exists|of no (study|quickstart)|no study there|s\.npz: not a zip|no folder of latents"
    )
    assert mine.read_bytes() == b"mine"
    assert [path for path in mine.parent.iterdir() if path.name.startswith((mine.stem, "index"))] == [mine]


def test_a_name_that_the_system_refuses_is_a_mistake_too(capsys):
    check_error(run(capsys, "report", "--out", "x" * 5000), r"^dit-eval: error: .*File name too long")


def test_force_writes_over_an_earlier_file_and_never_over_the_images(capsys, tmp_path):
    save("real.npz", arr_0=IMAGES)
    for name in ("ref.npz", "g.png", "g.pdf"):
        (tmp_path / name).write_bytes(b"mine")
    assert run(capsys, "stats", "real.npz", "--extractor", "digits", "--out", "ref.npz", "--force")[0] == 0
    with np.load("ref.npz") as file:
        assert np.array_equal(file["arr_0"], IMAGES)
    code, out, _ = run(capsys, "grid", "real.npz", "--count", 4, "--out", "g.pdf", "--force")
    assert (code, out) == (0, "g.png g.pdf\n")
    assert (tmp_path / "g.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "g.pdf").read_bytes().startswith(b"%PDF")
    before = (tmp_path / "real.npz").read_bytes()
    outcome = run(capsys, "stats", "real.npz", "--extractor", "digits", "--out", "real.npz", "--force")
    check_error(outcome, r"real\.npz: the images are read from it; name another")
    assert (tmp_path / "real.npz").read_bytes() == before


def test_pictures_keep_dots_of_their_names(capsys, tmp_path):
    save("real.npz", arr_0=IMAGES)
    code, out, _ = run(capsys, "grid", "real.npz", "--count", 1, "--out", "cfg1.5.png")
    assert (code, out) == (0, "cfg1.5.png cfg1.5.pdf\n")
    assert {path.name for path in tmp_path.iterdir()} == {"real.npz", "cfg1.5.png", "cfg1.5.pdf"}


def test_json_is_written_anew(capsys, tmp_path):
    (tmp_path / "flops.json").write_text("of an earlier run")
    assert run(capsys, "flops", "DiT-S/8", "--json", "flops.json")[0] == 0
    assert '"DiT-S/8"' in (tmp_path / "flops.json").read_text()


def test_the_rule_of_outputs_is_in_the_help(capsys):
    code, out, _ = run(capsys, "--help")
    words = " ".join(out.split())
    assert not code
    assert "The ending of a file to write says its format; another ending is refused." in words
    assert "What --out names is never written over" in words
