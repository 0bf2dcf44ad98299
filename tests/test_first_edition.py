"""What dit-eval wrote before its redesign is read and gone on with: files that commit 8b3f93e made, see
`goldens/first_edition/README.md`.

Work that goes on is bit for bit the work that was never interrupted, on a processor like the one of the files. On
another, float32 kernels round differently. So each test looks whether today's uninterrupted run gives the old bits
here; if it does, so must the resumed one. If not, rounding is allowed, as much as between two processors.
"""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import inline_engine
import numpy as np
import pytest
import torch
from inline_engine import InlineEngine
from PIL import Image
from safetensors.torch import load_file

from dit_eval.cli import main

FILES = Path(__file__).parent / "goldens" / "first_edition"
DIGITS = Path(__file__).parent.parent / "reference_stats" / "digits.npz"
SAMPLE = "sample --ckpt dit-digits --num-sampling-steps 8 --device cpu --num-fid-samples 40 --per-proc-batch-size 8"
TRAIN = (
    "train --data digits.npz --grey --no-flips --depth 1 --hidden-size 8 --num-heads 2 --patch-size 4 "
    "--steps 12 --batch-size 8 --lr 1e-3 --log-every 4 --save-at 6 --device cpu"
)
ENCODE = "encode pictures --image-size 8 --vae vae --device cpu"
EVALUATE = "evaluate samples/whole.npz --ref sixty.npz --extractor digits --device cpu"
STUDY = "study run plan.toml --device cpu"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As the files were made."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A copy of the files, and the current folder."""
    folder = tmp_path / "first"
    shutil.copytree(FILES, folder)
    shutil.copy(DIGITS, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def dit_eval(capsys):
    """Runs a command that must succeed; what it says on stdout and stderr."""

    def run(command, *more):
        with pytest.raises(SystemExit) as exit_:
            main([*command.split(), *map(str, more)])
        captured = capsys.readouterr()
        assert not exit_.value.code, captured.err
        return captured.out, captured.err

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def says(now, then):
    """Whether a JSON value holds all that another one does; it may hold more keys."""
    if isinstance(then, dict) and isinstance(now, dict):
        return all(key in now and says(now[key], value) for key, value in then.items())
    return now == then


def images(path):
    with np.load(path, allow_pickle=False) as file:
        return file["arr_0"]


def same_images(fresh, old, resumed):
    """Of three sample files: `resumed` is `old`, as exactly as `fresh` is."""
    fresh, old, resumed = map(images, (fresh, old, resumed))
    if np.array_equal(fresh, old):
        np.testing.assert_array_equal(resumed, old)
    # Latents differ by some 1e-6 between processors, so a value that lies between two integers may become the other.
    difference = np.abs(resumed.astype(int) - old)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= difference.size / 100


def same_weights(fresh, old, resumed):
    """Of three weight files, as `same_images`."""
    fresh, old, resumed = map(load_file, (fresh, old, resumed))
    assert fresh.keys() == old.keys() == resumed.keys()
    if all(torch.equal(fresh[name], old[name]) for name in old):
        assert all(torch.equal(resumed[name], old[name]) for name in old)
    for name, weights in old.items():
        found, expected = resumed[name], weights
        if name.endswith("qkv.bias"):  # softmax cancels the keys' biases, so that their gradient is rounding
            (query, _, value), (old_query, _, old_value) = found.chunk(3), weights.chunk(3)
            found, expected = torch.cat([query, value]), torch.cat([old_query, old_value])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=name)


def same_log(path, other):
    for line, expected in zip(lines(path), lines(other), strict=True):
        assert line.pop("model", None) == expected.pop("model", None)
        assert line == pytest.approx(expected, rel=1e-4)


# ---- results

RESULTS = [
    # path of the samples, N, protocol, then the metrics
    ("samples/whole.npz", 40, "digits", {"fid": 17.373133866957623, "sfid": 21.364534089590393}),
    (
        "/elsewhere/dit-eval/reference_stats/digits-heldout.npz",
        500,
        "digits",
        {"inception_score": 7.573673633707246, "precision": 0.928, "recall": 0.9028527370855821, "density": 1.0848},
    ),
    ("digits.npz", 1297, "digits", {"fid": None, "kid": -0.08863107431697018, "kid_std": 0.006225455610948647}),
    ("samples/whole.npz", 20, "digits", {"fid": 24.409909348939337, "sfid": None, "recall": 0.9666666666666667}),
    ("Bilder_»½«_☃\u202e", 57, "digits", {"fid": 27.862142324136755, "inception_score": 1.0644370433790382}),
    ("gen.npz", 12, "adm-2021", {"fid": 10.42186637130282, "sfid": 499.88566282338707, "precision": 1.0}),
    ("gen.npz", 12, "adm-2021, features in bf16", {"fid": 10.377396261011539, "sfid": None}),
    ("small.npz", 9, "adm-2021 with float32 distances", {"fid": 17.6282771472856, "recall": 0.0}),
]


def test_results_are_read():
    from dit_eval.results.lines import read_results

    results = read_results(FILES / "results.jsonl")
    assert len(results) == len(RESULTS)
    for result, (path, count, protocol, metrics) in zip(results, RESULTS, strict=True):
        assert (result.gen.path, result.num_samples, result.protocol) == (path, count, protocol)
        assert {name: getattr(result, name) for name in metrics} == metrics
        assert result.environment["commit"] == "8b3f93e64165f9a71855a1ccbf55b1f9074c0fcb"
        assert (result.badge, result.reference_protocol) == (None, None), "not known of these"
    run = results[0].gen.run
    assert (run.model, run.num_sampling_steps, run.cfg_scale, run.training_steps) == ("dit-digits", "8", 1.5, None)
    assert results[0].uncertainty.fid is None
    assert results[0].uncertainty.missing["recall"] == "40 generated and 60 reference images; needed at least 50"
    interval = results[1].uncertainty.fid
    assert (interval.value, interval.standard_error) == (0.887557350549649, 0.0727635974066257)
    assert (interval.low, interval.high) == (0.7558112364457131, 1.042268244408793)
    assert results[3].distances == results[7].distances == "float32"
    assert results[7].warnings[0] == "gen images are 16x16, ref images 32x32: not a published comparison."
    # Written again, a line still says all that it said.
    for line, result in zip(lines(FILES / "results.jsonl"), results, strict=True):
        assert says(json.loads(result.to_json()), line)


@pytest.mark.slow
def test_results_and_losses_are_reported(here, dit_eval):
    dit_eval("report --results results.jsonl --losses study/whole/losses.jsonl --out report")
    with open(here / "report" / "tables" / "measured.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [f"results.jsonl, line {number}" for number in range(1, 9)]
    distances = ["17.373", "0.888", "", "24.410", "27.862", "10.422", "10.377", "17.628"]
    assert [row["fid"] and f"{float(row['fid']):.3f}" for row in rows] == distances
    assert [row["protocol"] for row in rows[5:]] == [
        "adm-2021, not verified",
        "adm-2021, features in bf16",
        "adm-2021 with float32 distances",
    ]
    assert [row["badge"] for row in rows[5:]] == ["not known"] * 3
    assert [row["model"] for row in rows[:2]] == ["dit-digits", "digits-heldout.npz"]
    assert (here / "report" / "index.html").is_file()


# ---- samples


def test_a_sample_file_is_read_with_its_run(here, dit_eval):
    with np.load(DIGITS) as file:
        np.savez(here / "sixty.npz", arr_0=file["arr_0"][:60])
    output, _ = dit_eval(f"{EVALUATE} --no-results --json -")
    now, then = json.loads(output), lines(here / "results.jsonl")[0]
    assert now["gen"]["run"] == then["gen"]["run"]
    assert now["gen"]["sha256"] == then["gen"]["sha256"]
    for name in ("fid", "sfid", "inception_score", "precision", "recall"):
        assert now[name] == pytest.approx(then[name], rel=1e-6), name
    dit_eval("grid samples/whole.npz --out grid.png")
    assert (here / "grid.png").is_file()


def test_a_complete_sample_file_is_not_drawn_again(here, dit_eval):
    before = (here / "samples" / "whole.npz").read_bytes()
    _, error = dit_eval(f"{SAMPLE} --out samples/whole.npz")
    assert "complete already, 40 images of this run" in error
    assert (here / "samples" / "whole.npz").read_bytes() == before


def test_an_interrupted_sampling_goes_on(here, dit_eval):
    kept = b"".join(path.read_bytes() for path in sorted((here / "samples" / "killed.npz.parts").glob("0*.u8")))
    assert len(kept) == 16 * 8 * 8 * 3
    _, error = dit_eval(f"{SAMPLE} --out samples/killed.npz")
    assert "going on; 16 of 40 images are here already" in error
    dit_eval(f"{SAMPLE} --out samples/fresh.npz")
    same_images("samples/fresh.npz", "samples/whole.npz", "samples/killed.npz")
    assert images("samples/killed.npz")[:16].tobytes() == kept, "taken over, not drawn again"
    np.testing.assert_array_equal(images("samples/killed.npz")[16:], images("samples/fresh.npz")[16:])
    with np.load("samples/killed.npz") as file, np.load("samples/whole.npz") as other:
        np.testing.assert_array_equal(file["arr_1"], other["arr_1"])
        run, old = (json.loads(str(each["sample_run"])) for each in (file, other))
    assert run["earlier_environments"] == [old["environment"]]
    assert not (here / "samples" / "killed.npz.parts").exists()


# ---- trainings


def test_a_complete_training_is_not_done_again(here, dit_eval):
    before = {path.name: path.read_bytes() for path in (here / "training" / "whole").iterdir()}
    _, error = dit_eval(f"{TRAIN} --out training/whole")
    assert "complete already, 12 steps of this run" in error
    assert {path.name: path.read_bytes() for path in (here / "training" / "whole").iterdir()} == before


def test_an_interrupted_training_goes_on(here, dit_eval):
    assert [line["step"] for line in lines(here / "training" / "killed" / "log.jsonl")] == [4, 8]
    _, error = dit_eval(f"{TRAIN} --out training/killed")
    assert "going on after step 6 of 12" in error
    dit_eval(f"{TRAIN} --out training/fresh")
    fresh, old, resumed = (here / "training" / name for name in ("fresh", "whole", "killed"))
    names = sorted(path.name for path in old.glob("*.safetensors"))
    assert len(names) == 5
    for folder in (fresh, resumed):
        assert sorted(path.name for path in folder.glob("*.safetensors")) == names
    for name in names[:-1]:
        same_weights(fresh / name, old / name, resumed / name)
    same_log(resumed / "log.jsonl", old / "log.jsonl")
    first, *others = json.loads((resumed / "run.json").read_text())["environments"]
    assert [first] == json.loads((old / "run.json").read_text())["environments"]
    assert len(others) == 1


def test_weights_of_a_training_are_sampled(here, dit_eval):
    dit_eval("sample --ckpt training/whole/ema-0000012.safetensors --num-sampling-steps 2 --device cpu", "--cfg-scale",
             1.0, "--num-fid-samples", 8, "--out", "drawn.npz")  # fmt: skip
    assert images("drawn.npz").shape == (8, 8, 8, 3)


# ---- latents


def pictures(folder):
    """The PNGs that were encoded, in class folders."""
    with np.load(DIGITS) as file:
        digits, labels = file["arr_0"][:600], file["arr_1"][:600]
    for number, (image, label) in enumerate(zip(digits, labels, strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def test_an_interrupted_encoding_goes_on(here, dit_eval):
    pictures(here / "pictures")
    _, error = dit_eval(f"{ENCODE} --out latents/whole")
    assert "complete already" in error
    _, error = dit_eval(f"{ENCODE} --out latents/killed")
    assert "going on; 1 files of up to 512 images are here already" in error
    resumed, old = here / "latents" / "killed", here / "latents" / "whole"
    for name in ("latents.json", "files.txt", "labels.npy", "shard-000000.json", "moments-000000.npy"):
        assert (resumed / name).read_bytes() == (old / name).read_bytes(), name
    moments = [np.load(folder / "moments-000001.npy") for folder in (resumed, old)]
    assert moments[0].shape == (88, 2, 2, 4, 1, 1)
    np.testing.assert_allclose(*moments, rtol=1e-4, atol=1e-5)  # means and deviations of the order of 1
    assert not (here / "latents" / "killed.parts").exists()


def test_old_latents_are_trained_on(here, dit_eval):
    sizes = "--depth 1 --hidden-size 8 --num-heads 2 --patch-size 1"
    dit_eval(f"train --data latents/whole {sizes} --steps 2 --batch-size 8 --device cpu --out run")
    identity = json.loads((here / "run" / "run.json").read_text())["data"]
    assert (identity["kind"], identity["images"]) == ("latents", 600)


# ---- studies


@pytest.fixture
def serial(monkeypatch):
    """Tasks run in this process; the list of the keys of those that are done."""
    inline_engine.install(monkeypatch.setattr)
    monkeypatch.setattr(InlineEngine, "done", [])
    return InlineEngine.done


def files_of(folder):
    """What a finished study is made of: weights, images, what tasks gave."""
    kinds = ("trainings/*/*.safetensors", "samples/*.npz", "done/*.json", "results.jsonl", "losses.jsonl")
    return {path.relative_to(folder): path.read_bytes() for kind in kinds for path in folder.glob(kind)}


def test_a_complete_study_has_nothing_to_do(here, dit_eval, serial):
    before = files_of(here / "study" / "whole")
    assert len(before) == 2 * 5 + 4 + 6 + 2
    _, error = dit_eval(f"{STUDY} --out study/whole")
    assert "going on; 6 of 6 tasks are done already" in error
    assert serial == []
    now = files_of(here / "study" / "whole")
    assert now.keys() == before.keys()
    for name in before:
        if name.name != "results.jsonl":
            assert now[name] == before[name], name
    # Lines of results are written anew; they may say more than they did.
    results = lines(here / "study" / "whole" / "results.jsonl"), lines(FILES / "study" / "whole" / "results.jsonl")
    for line, old in zip(*results, strict=True):
        assert says(line, old)


def test_an_interrupted_study_does_what_is_missing(here, dit_eval, serial):
    half, whole = here / "study" / "half", here / "study" / "whole"
    done = {path: path.read_bytes() for path in half.glob("done/*.json")}
    kept = sorted((half / "samples").glob("*.parts/0*.u8"))
    assert (len(done), len(kept)) == (2, 2)
    front = b"".join(path.read_bytes() for path in kept)
    tasks = json.loads(dit_eval("study status plan.toml --out study/half --json")[0])["tasks"]
    states = {task["key"]: task["state"] for task in tasks}
    assert sorted(states.values()) == ["done"] * 2 + ["ready"] * 3 + ["waiting"]
    _, error = dit_eval(f"{STUDY} --out study/half")
    assert "going on; 2 of 6 tasks are done already" in error
    assert sorted(serial) == sorted(key for key, state in states.items() if state != "done")
    assert {path: path.read_bytes() for path in done} == done
    assert not [path for path in half.rglob("*.part")]

    dit_eval(f"{STUDY} --out study/fresh")
    fresh = here / "study" / "fresh"
    assert files_of(half).keys() == files_of(whole).keys() == files_of(fresh).keys()
    for path in whole.glob("samples/*.npz"):
        same_images(fresh / "samples" / path.name, path, half / "samples" / path.name)
    (cell,) = {path.parent.name.removesuffix(".parts") for path in kept}
    assert images(half / "samples" / cell)[:8].tobytes() == front, "taken over, not drawn again"
    for path in whole.glob("trainings/*/[em]*.safetensors"):
        name = path.relative_to(whole)
        same_weights(fresh / name, path, half / name)
    same_log(half / "losses.jsonl", whole / "losses.jsonl")
    results = zip(lines(half / "results.jsonl"), lines(whole / "results.jsonl"), strict=True)
    for now, then in results:
        assert now["gen"]["path"] == then["gen"]["path"]
        assert now["gen"]["run"]["training_steps"] == then["gen"]["run"]["training_steps"]
        assert now["fid"] == pytest.approx(then["fid"], rel=1e-3)  # of images that may differ by 1 here and there


# ---- what is kept to save time


@pytest.mark.parametrize("damaged", [False, True])
def test_kept_features_are_taken_or_made_again(here, dit_eval, damaged):
    (entry,) = (here / "cache").iterdir()
    if damaged:
        entry.write_bytes(entry.read_bytes()[:1000])
    os.utime(entry, (0, 0))
    with np.load(DIGITS) as file:
        np.savez(here / "sixty.npz", arr_0=file["arr_0"][:60])
    output, _ = dit_eval(f"{EVALUATE} --intervals --no-results --json - --cache cache")
    now, then = json.loads(output), lines(here / "results.jsonl")[0]
    for name in ("fid", "sfid", "inception_score", "precision", "recall"):
        assert now[name] == pytest.approx(then[name], rel=1e-6), name
    assert (entry.stat().st_mtime > 0) is damaged, "written again only if it has to be"
    assert len(list((here / "cache").iterdir())) == 2, "no entry of its own for the same samples, one for the reference"


def test_kept_gflops_of_other_code_are_not_believed(here):
    """The file's name says which code counted; a wrong count in it shows that it is not looked at."""
    (kept,) = (here / "kept").iterdir()
    counts = json.loads(kept.read_text())
    assert len(counts) == 2
    kept.write_text(json.dumps({key: [1, 1] for key in counts}))
    command = ["study", "status", "plan.toml", "--out", "study/whole", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "dit_eval", *command],
        env=os.environ | {"DIT_EVAL_CACHE": "kept"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    tasks = json.loads(done.stdout)["tasks"]
    assert {task["state"] for task in tasks} == {"done"}
    for task in tasks:
        about = json.loads((here / "study" / "whole" / "done" / f"{task['key']}.json").read_text())
        assert math.isclose(task["gflops"], about["gflops"], rel_tol=1e-12)
