"""From seeds to one npz: the same bytes however the work is cut, killed and continued, and errors that teach."""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from filelock import FileLock
from ports import held_port
from sample_runs import command, make_run, random_dit, run
from small_vae import write_names

from dit_eval.cli import main
from dit_eval.diffusion.labels import draw_labels
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.images.npz import open_batch
from dit_eval.models.checkpoints import save_dit
from dit_eval.models.config import named_config
from dit_eval.models.dit import DiT
from dit_eval.results.sample_run import SampleRun
from dit_eval.results.settings import SamplingSettings
from dit_eval.sampling import _Parts, images_drawn, sample, sample_npz
from dit_eval.system.assets import asset

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The uninterrupted file of one process, batches of 8."""
    out = tmp_path_factory.mktemp("whole") / "samples.npz"
    with pytest.raises(SystemExit) as exit_:
        main(command(out, "--per-proc-batch-size", 8))
    assert not exit_.value.code
    return out


# ---- what is drawn


def test_the_file_holds_images_labels_and_how_they_were_drawn(whole):
    batch = open_batch(whole, role="gen")
    assert (batch.num_images, batch.image_size) == (40, (8, 8))
    np.testing.assert_array_equal(batch.labels, draw_labels("random", num_images=40, num_classes=10, seed=0))
    run = batch.run
    assert (run.model, run.num_sampling_steps, run.cfg_scale, run.global_seed) == ("dit-digits", "8", 1.5, 0)
    assert run.checkpoint_sha256 == hashlib.sha256(asset("dit-digits").path.read_bytes()).hexdigest()
    assert run.environment["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (run.cfg_channels, run.vae, run.labels, run.rounding, run.device) == (1, None, "random", "dit", "cpu")
    assert SampleRun.from_json(run.to_json()) == run
    assert not whole.with_name("samples.npz.parts").exists()


# ---- from Python


def test_from_python_it_is_the_file_of_the_command(whole, tmp_path, capfd):
    settings = SamplingSettings(num_images=40, num_sampling_steps=8)
    out = sample("dit-digits", out=tmp_path / "samples.npz", settings=settings, device="cpu", batch_size=8)
    assert out.read_bytes() == whole.read_bytes()
    told = capfd.readouterr().err
    assert told.startswith("model  dit-digits, 8 px, on cpu: checkpoint ")
    assert "dit-digits images" in told
    quiet = sample(ckpt="dit-digits", out=tmp_path / "quiet.npz", settings=settings, device="cpu", quiet=True)
    assert quiet.read_bytes() == whole.read_bytes()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"model": "DiT-XL2"}, "Unknown model 'DiT-XL2'"),
        ({"model": "dit-digits", "out": "samples.png"}, "ends in .npz"),
        ({"model": "dit-digits", "batch_size": 0}, "Found a batch size of 0"),
        ({"model": "dit-digits", "device": "gpu"}, "`device` gpu: not a device"),
        ({"model": "dit-digits", "settings": SamplingSettings(cfg_channels=3)}, "Guidance on 3 channels"),
        ({"model": "dit-digits", "settings": SamplingSettings(labels="nowhere")}, "`labels` nowhere: no such file"),
    ],
)
def test_mistakes_from_python_name_parameters(tmp_path, monkeypatch, asked, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageSampler, "draw", lambda *_, **__: pytest.fail("the network ran"))
    with pytest.raises((ValueError, OSError), match=said):
        sample(**{"out": "samples.npz", "quiet": True} | asked)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# ---- the same bytes however the work is cut


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_batch_size_does_not_change_a_byte(whole, tmp_path, capsys, batch_size):
    out = tmp_path / "samples.npz"
    assert run(capsys, *command(out, "--per-proc-batch-size", batch_size))[0] == 0
    assert out.read_bytes() == whole.read_bytes()


def torchrun(arguments, *more, **options):
    return subprocess.Popen(
        [*TORCHRUN, *more, "-m", "dit_eval", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.mark.processes
def test_two_processes_by_torchrun_do_not_change_a_byte(whole, tmp_path):
    out = tmp_path / "samples.npz"
    process = torchrun(command(out, "--per-proc-batch-size", 7), "--standalone", "--nproc-per-node=2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert out.read_bytes() == whole.read_bytes()
    assert output.count("40 images, 8 px") == 1, "one process speaks"


def test_a_file_that_a_study_removes_while_its_images_are_counted(whole, tmp_path, monkeypatch):
    out = tmp_path / "samples.npz"
    shutil.copyfile(whole, out)
    assert images_drawn(out) == 40

    def gone(path, **options):
        path.unlink()
        return open_batch(path, **options)

    monkeypatch.setattr("dit_eval.sampling.open_batch", gone)
    assert images_drawn(out) == 0
    monkeypatch.undo()
    out.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"samples\.npz"):
        images_drawn(out)


FLOWS = {
    "ode-heun": ["--sampler", "ode-heun", "--time", "ddpm", "--num-sampling-steps", "3"],
    "sde-euler": ["--sampler", "sde-euler", "--time", "ddpm", "--num-sampling-steps", "4"],
    "ode-dopri5": ["--sampler", "ode-dopri5", "--time", "ddpm", "--rtol", "0.5", "--atol", "0.1"],
}
ALL_FLOWS = """\
import json
import sys
from pathlib import Path

from dit_eval.diffusion.load import choose_and_check, load_sampler
from dit_eval.results.settings import SamplingSettings
from dit_eval.sampling import sample_npz
from dit_eval.system.dist import join

with join() as world:
    for out, size, asked in json.loads(Path(sys.argv[1]).read_text()):
        settings = SamplingSettings(**asked)
        choice = choose_and_check(None, "dit-digits", settings, device="cpu")
        sampler, labels = load_sampler(choice, settings, device="cpu", world=world)
        sample_npz(Path(out), sampler=sampler, labels=labels, batch_size=size, world=world)
"""


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """The uninterrupted files of flows' samplers: one process, one image at a time."""
    folder = tmp_path_factory.mktemp("flows")
    for name, options in FLOWS.items():
        with pytest.raises(SystemExit) as exit_:
            main(command(folder / f"{name}.npz", *options, "--per-proc-batch-size", 1, images=17))
        assert not exit_.value.code
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_killed_in_two_processes_is_continued_to_the_same_bytes(flows, forks, tmp_path, name):
    out = tmp_path / "samples.npz"
    seven, many = (command(out, *FLOWS[name], "--per-proc-batch-size", size, images=17) for size in (7, 32))
    forks(seven, ranks=2, kill_after=0.0, pieces=1, victims="all")
    assert not out.exists()
    assert forks(many, ranks=2)["statuses"] == [0, 0]
    assert out.read_bytes() == (flows / f"{name}.npz").read_bytes()


@pytest.mark.processes
def test_flows_in_two_processes_by_torchrun_do_not_change_a_byte(flows, tmp_path):
    script, jobs = tmp_path / "flows.py", tmp_path / "jobs.json"
    script.write_text(ALL_FLOWS)
    asked = [(tmp_path / f"{name}.npz", size, open_batch(flows / f"{name}.npz", role="gen").run.settings)
             for name, size in zip(FLOWS, (7, 32, 7), strict=True)]  # fmt: skip
    jobs.write_text(json.dumps([(str(out), size, dataclasses.asdict(settings)) for out, size, settings in asked]))
    done = subprocess.run(
        [*TORCHRUN, "--standalone", "--nproc-per-node=2", str(script), str(jobs)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in FLOWS:
        assert (tmp_path / f"{name}.npz").read_bytes() == (flows / f"{name}.npz").read_bytes(), name


SLOW_PACKING = """\
import time
from pathlib import Path

from dit_eval import sampling
from dit_eval.cli import main

pack = sampling._Parts.pack
sample_npz = sampling.sample_npz


def slowly(self, *arguments):
    time.sleep(2)
    pack(self, *arguments)


def watched(out, **options):
    sample_npz(out, **options)
    assert Path(out).is_file(), "a process goes on, and the file is not there"


sampling._Parts.pack, sampling.sample_npz = slowly, watched
main()
"""


@pytest.mark.processes
def test_no_process_goes_on_before_the_file_is_there(tmp_path):
    # A study scores the file in all processes of a run; the last of its pieces may take long to pack.
    script = tmp_path / "slow_packing.py"
    script.write_text(SLOW_PACKING)
    arguments = command(tmp_path / "samples.npz")
    process = subprocess.run(
        [*TORCHRUN, "--standalone", "--nproc-per-node=2", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr


FATAL_FOR_TORCHRUN = """\
import os
import signal
import time

from dit_eval.cli import main
from dit_eval.diffusion.sampler import ImageSampler

draw = ImageSampler.draw


def fatal(self, indices, labels, **more):
    if 8 in indices:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(600)
    return draw(self, indices, labels, **more)


ImageSampler.draw = fatal
main()
"""


@pytest.mark.processes
def test_processes_end_with_torchrun_and_another_run_goes_on(whole, tmp_path, capsys):
    out, script = tmp_path / "samples.npz", tmp_path / "fatal.py"
    script.write_text(FATAL_FOR_TORCHRUN)
    process = subprocess.run(  # until all have closed its pipes
        [*TORCHRUN, "--standalone", "--nproc-per-node=2", str(script), *command(out, "--per-proc-batch-size", 8)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == -signal.SIGKILL
    assert "Traceback" not in process.stderr
    assert not out.exists()
    assert run(capsys, *command(out, "--per-proc-batch-size", 8))[0] == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.processes
def test_two_machines_by_torchrun_do_not_change_a_byte(whole, tmp_path):
    # Two agents as on two machines, meeting over loopback and sharing a folder.
    out = tmp_path / "samples.npz"
    with held_port() as port:
        meeting = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
        agents = [torchrun(command(out, "--per-proc-batch-size", 8), *meeting) for _ in range(2)]
        outputs = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], outputs
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.processes
def test_a_mistake_under_torchrun_is_reported_once(tmp_path):
    arguments = command(tmp_path / "samples.npz", "--num-sampling-steps", "ddim256")
    process = torchrun(arguments, "--standalone", "--nproc-per-node=2")
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert output.count("dit-eval: error: Steps 'ddim256'") == 1
    assert "dit_eval/cli/" not in output, "no traceback of ours"


# ---- written behind


def pieces(tmp_path, monkeypatch, *, save, count=24, draw=None):
    """Draw `count` images, eight at a time, with another `_Parts.save` or `draw`."""
    model = random_dit()
    sampler = ImageSampler(model, make_run(model.config, num_images=count))
    monkeypatch.setattr("dit_eval.sampling._Parts.save", save)
    if draw:
        monkeypatch.setattr(sampler, "draw", draw(sampler.draw))
    done = []
    sample_npz(
        tmp_path / "samples.npz",
        sampler=sampler,
        labels=np.zeros(count, np.int64),
        batch_size=8,
        on_progress=lambda *shown: done.append(shown),
    )
    return done


def test_a_batch_is_written_while_the_next_is_drawn(tmp_path, monkeypatch):
    drawing = [threading.Event() for _ in range(4)]
    drawing[3].set()  # there is no batch after the last
    save = _Parts.save

    def slow_disk(self, begin, images):
        assert drawing[begin // 8 + 1].wait(60), "the next batch waits for the disk"
        save(self, begin, images)

    def watched(draw):
        def drawn(indices, labels, **options):
            drawing[indices[0] // 8].set()
            return draw(indices, labels, **options)

        return drawn

    done = pieces(tmp_path, monkeypatch, save=slow_disk, draw=watched)
    assert open_batch(tmp_path / "samples.npz", role="gen").num_images == 24
    shown = [images for images, _ in done]
    assert shown == sorted(shown), "progress does not go back"
    assert done[-1] == (24, 24)


@pytest.mark.parametrize("failing", [0, 8, 16])
def test_an_error_of_the_writer_is_raised(tmp_path, monkeypatch, failing):
    save = _Parts.save

    def fails(self, begin, images):
        if begin == failing:
            raise OSError(f"images {begin} could not be written")
        save(self, begin, images)

    with pytest.raises(OSError, match=f"images {failing} could not be written"):
        pieces(tmp_path, monkeypatch, save=fails)
    assert not (tmp_path / "samples.npz").exists()
    assert len(list((tmp_path / "samples.npz.parts").glob("*.u8"))) == failing // 8, "those before are kept"


def test_what_is_drawn_is_written_though_the_next_batch_fails(tmp_path, monkeypatch):
    def breaks(draw):
        def drawn(indices, labels, **options):
            if indices[0] == 8:
                raise ValueError("no more")
            return draw(indices, labels, **options)

        return drawn

    with pytest.raises(ValueError, match="no more"):
        pieces(tmp_path, monkeypatch, save=_Parts.save, draw=breaks)
    assert [piece.name for piece in (tmp_path / "samples.npz.parts").glob("*.u8")] == ["000000000-000000008.u8"]


# ---- kill -9


def test_three_kills_at_random_moments_do_not_change_a_byte(forks, tmp_path):
    arguments = {"images": 320}
    whole, out = tmp_path / "whole.npz", tmp_path / "samples.npz"
    done = forks(command(whole, "--per-proc-batch-size", 8, **arguments))
    assert done["statuses"] == [0], done
    argv = command(out, "--per-proc-batch-size", 8, **arguments)
    seed = random.randrange(1 << 32)
    rng, kills, survivors = random.Random(seed), 0, set()
    while kills < 3:
        # The first may fall before any image is drawn, the others each after one more piece.
        moment = {"victims": rng.choice(["one", "all"]), "pieces": kills}
        job = forks(argv, ranks=2, kill_after=rng.uniform(0.0, 0.2), **moment)
        if -9 not in job["statuses"]:  # it was faster than the signal
            assert job["statuses"] == [0, 0], (seed, job)
            assert out.read_bytes() == whole.read_bytes()
            out.unlink()
            continue
        kills += 1
        folder = tmp_path / "samples.npz.parts"
        survivors.add(len(list(folder.glob("*.u8"))) if folder.exists() else 0)
    done = forks(argv, ranks=2)
    assert done["statuses"] == [0, 0], (seed, done)
    assert out.read_bytes() == whole.read_bytes(), seed
    assert len(survivors) > 2, f"the kills fell into different states: {survivors}, seed {seed}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["samples.npz", "whole.npz"]


@pytest.mark.parametrize("moment", ["rmtree"])  # the rename, in-process: tests/system/test_run_folder.py
def test_a_kill_while_packing_does_not_change_a_byte(forks, whole, tmp_path, moment):
    out = tmp_path / "samples.npz"
    job = forks(command(out, "--per-proc-batch-size", 8), die_in=moment)
    assert job["statuses"] == [-9]
    assert out.exists() == (moment == "rmtree")
    assert (tmp_path / "samples.npz.parts").is_dir()
    again = forks(command(out, "--per-proc-batch-size", 8))
    assert again["statuses"] == [0], again
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["samples.npz"], "a half-written file is cleared away"


def test_a_damaged_piece_is_drawn_again(forks, whole, tmp_path):
    out = tmp_path / "samples.npz"
    assert forks(command(out, "--per-proc-batch-size", 8), die_in="replace")["statuses"] == [-9]
    piece = sorted((tmp_path / "samples.npz.parts").glob("*.u8"))[2]
    piece.write_bytes(piece.read_bytes()[:-100])
    assert forks(command(out, "--per-proc-batch-size", 8))["statuses"] == [0]
    assert out.read_bytes() == whole.read_bytes()


def test_a_second_run_into_the_same_output_waits_outside(forks, tmp_path, capsys):
    folder = tmp_path / "samples.npz.parts"
    folder.mkdir()
    with FileLock(folder / "lock"):
        code, _, error = run(capsys, *command(tmp_path / "samples.npz"))
    assert code == 2
    assert "another process is drawing into it" in error


# ---- the same output again


def test_more_images_of_the_same_run_reuse_the_first(whole, tmp_path, capsys, monkeypatch):
    out = tmp_path / "samples.npz"
    assert run(capsys, *command(out, "--per-proc-batch-size", 8, images=24))[0] == 0
    drawn, draw = [], ImageSampler.draw
    monkeypatch.setattr(
        ImageSampler, "draw", lambda self, i, y, **k: (drawn.extend(i.tolist()), draw(self, i, y, **k))[1]
    )
    code, _, error = run(capsys, *command(out, "--per-proc-batch-size", 8))
    assert code == 0
    assert "24 of 40 images are here already" in error
    assert drawn == list(range(24, 40))
    assert out.read_bytes() == whole.read_bytes()


def test_a_complete_file_is_left_alone(whole, capsys):
    before = whole.stat().st_mtime_ns
    code, _, error = run(capsys, *command(whole, "--per-proc-batch-size", 8))
    assert code == 0
    assert "complete already" in error
    assert whole.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--cfg-scale", "4"], "cfg_scale: 4.0, 1.5"),
        (["--num-sampling-steps", "16"], "num_sampling_steps: '16', '8'"),
        (["--global-seed", "1"], "global_seed: 1, 0"),
        (["--labels", "balanced"], "labels: 'balanced', 'random'"),
        (["--sampler", "ddim"], "sampler: 'ddim', 'ddpm'"),
        (["--rounding", "truncate"], "rounding: 'truncate', 'dit'"),
        (["--precision", "bf16"], "precision: 'bf16', 'fp32'"),
    ],
)
def test_another_run_into_the_same_output_is_refused(whole, capsys, changed, said):
    before = whole.read_bytes()
    code, _, error = run(capsys, *command(whole), *changed)
    assert code == 2
    assert "is of another run" in error
    assert said in error
    assert whole.read_bytes() == before


def test_another_run_into_unfinished_parts_is_refused(forks, tmp_path, capsys):
    out = tmp_path / "samples.npz"
    assert forks(command(out), die_in="replace")["statuses"] == [-9]
    code, _, error = run(capsys, *command(out, "--cfg-scale", 2))
    assert code == 2
    assert "samples.npz.parts is of another run: cfg_scale: 2.0, 1.5" in error
    code, _, error = run(capsys, *command(out, images=8))
    assert code == 2
    assert "holds images up to number 40, 8 were asked for" in error


def test_a_foreign_file_is_not_overwritten(tmp_path, capsys):
    out = tmp_path / "samples.npz"
    np.savez(out, arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    before = out.read_bytes()
    code, _, error = run(capsys, *command(out))
    assert (code, out.read_bytes()) == (2, before)
    assert "does not say how it was drawn" in error


def test_fewer_images_than_there_are_is_refused(whole, capsys):
    code, _, error = run(capsys, *command(whole, images=10))
    assert code == 2
    assert "--num-images 10" in error


def test_a_run_continued_elsewhere_says_so(tmp_path):
    model = random_dit()
    run = make_run(model.config, num_images=6)
    older = dataclasses.replace(run, num_images=3, environment={"dit_eval": "0.0.1"})
    out = tmp_path / "samples.npz"
    for now in (older, run):
        sample_npz(out, sampler=ImageSampler(model, now), labels=np.zeros(now.num_images, np.int64))
    written = open_batch(out, role="gen").run
    assert written.environment == run.environment
    assert written.earlier_environments == ({"dit_eval": "0.0.1"},)


# ---- disks


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))  # bytes; a piece of 8 digits has 1,536


def test_a_failing_write_is_reported_and_nothing_is_lost(forks, whole, tmp_path, capsys):
    out = tmp_path / "samples.npz"
    assert forks(command(out, "--per-proc-batch-size", 8), kill_after=None, die_in="replace")["statuses"] == [-9]
    (tmp_path / "samples.npz.parts" / "000000008-000000016.u8").unlink()
    process = subprocess.run(
        [sys.executable, "-m", "dit_eval", *command(out, "--per-proc-batch-size", 8)],
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert "dit-eval: error:" in process.stderr
    assert "Traceback" not in process.stderr
    assert len(list((tmp_path / "samples.npz.parts").glob("*.u8"))) == 4, "what was finished is kept"
    assert run(capsys, *command(out, "--per-proc-batch-size", 8))[0] == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_disk_too_small_is_noticed_before_the_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ImageSampler, "draw", lambda *_, **__: pytest.fail("the network ran"))
    usage = shutil._ntuple_diskusage(total=10**6, used=10**6 - 5000, free=5000)
    monkeypatch.setattr("dit_eval.sampling.shutil.disk_usage", lambda _: usage)
    code, _, error = run(capsys, *command(tmp_path / "samples.npz"))
    assert code == 2
    assert "are free; needed" in error


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root; the two tests above stand for it")
def test_a_really_full_disk(forks, whole, tmp_path, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("this container may not mount; the two tests above stand for it")
    try:
        out, ballast = disk / "samples.npz", disk / "ballast"
        with open(ballast, "wb") as file:  # enough is free at the check, not at the end
            file.write(bytes(24_000))
        job = forks(command(out, "--per-proc-batch-size", 8), die_in="replace")
        assert job["statuses"] == [-9], job
        for stale in disk.glob(".samples.npz.*.part"):
            stale.unlink()
        with open(ballast, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))
        assert shutil.disk_usage(disk).free == 0
        code, _, error = run(capsys, *command(out, "--per-proc-batch-size", 8))
        assert code == 2
        assert "free" in error or "No space left" in error
        assert len(list((disk / "samples.npz.parts").glob("*.u8"))) == 5
        ballast.unlink()
        assert run(capsys, *command(out, "--per-proc-batch-size", 8))[0] == 0
        assert out.read_bytes() == whole.read_bytes()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("place", ["/proc/dit-eval/samples.npz", "FILE/samples.npz"])
def test_a_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch, place):
    monkeypatch.setattr(ImageSampler, "draw", lambda *_, **__: pytest.fail("the network ran"))
    (tmp_path / "file").write_text("no folder")
    code, _, error = run(capsys, *command(place.replace("FILE", str(tmp_path / "file"))))
    assert code == 2
    assert "cannot be written" in error


@pytest.mark.slow
def test_packing_2000_images_of_256_px_takes_little_memory(tmp_path):
    # A process of its own, so that its peak is that of packing; the pieces are as a finished run leaves them.
    code = f"""
import numpy as np
from pathlib import Path
from dit_eval.results.sample_run import SampleRun
from dit_eval.system.environment import peak_memory_bytes
from dit_eval.sampling import _Parts
run = SampleRun.from_json({make_run(random_dit().config, num_images=2000, image_size=256).to_json()!r})
parts = _Parts(Path({str(tmp_path / "samples.npz")!r}), run)
parts.folder.mkdir()
rng = np.random.default_rng(0)
for begin in range(0, 2000, 32):
    count = min(32, 2000 - begin)
    parts.save(begin, rng.integers(0, 256, (count, 256, 256, 3), np.uint8))
before = peak_memory_bytes()
parts.pack(run, np.zeros(2000, np.int64))
print((peak_memory_bytes() - before) / 2**20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 200, "MiB"
    batch = open_batch(tmp_path / "samples.npz", role="gen")
    assert (batch.num_images, batch.image_size) == (2000, (256, 256))
    first = np.random.default_rng(0).integers(0, 256, (32, 256, 256, 3), np.uint8)
    np.testing.assert_array_equal(next(batch.batches(32)), first)


# ---- mistakes


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_dit(folder / "grey.safetensors", random_dit(in_channels=1))
    save_dit(folder / "undropped.safetensors", random_dit(label_dropout=0.0))
    torch.save({"weight": torch.zeros(3)}, folder / "other.pt")
    write_names(folder / "vae.safetensors")
    torch.save(DiT(named_config("DiT-S/8")).state_dict(), folder / "s8.pt")
    (folder / "labels.txt").write_text("1\n" * 39 + "10\n")
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "DiT-XL2"], "Unknown model 'DiT-XL2'.* Did you mean 'DiT-XL/2'?"),
        (["--model", "DiT-B/4"], "No public checkpoint of this model.*pass --ckpt FILE"),
        (["--ckpt", "nowhere.pt", "--model", "DiT-B/4"], "nowhere.pt: no such checkpoint"),
        (["--ckpt", "{}/other.pt"], "does not say which model it is of; pass --model"),
        (["--ckpt", "{}/other.pt", "--model", "DiT-S/8", "--vae", "{}/vae.safetensors"], "not a checkpoint of a DiT"),
        (["--ckpt", "{}/s8.pt", "--model", "DiT-S/4", "--vae", "{}/vae.safetensors"], "this is a DiT-S/8 or a SiT-S/8"),
        (
            ["--ckpt", "{}/s8.pt", "--model", "DiT-S/8", "--image-size", "512", "--vae", "{}/vae.safetensors"],
            "for images of 256 px; this model for 512 px",
        ),
        (["--ckpt", "dit-digits", "--model", "DiT-S/2"], "of another model .*depth 5, asked for 12"),
        (["--ckpt", "dit-digits", "--image-size", "256"], "image_size 8, asked for 256"),
        (["--ckpt", "dit-digits", "--block", "adaln-zer"], "Did you mean 'adaln-zero'"),
        (["--ckpt", "dit-digits", "--cfg-scale", "0"], "needed 1.0 or more. 1.0 is no guidance"),
        (["--ckpt", "dit-digits", "--cfg-scale", "nan"], "Guidance scale nan: needed 1.0 or more"),
        (["--ckpt", "dit-digits", "--cfg-channels", "3"], "Guidance on 3 channels: the model has 1"),
        (["--ckpt", "dit-digits", "--cfg-channels", "0"], "Guidance on 0 channels"),
        (["--ckpt", "{}/undropped.safetensors"], "trained with label dropout"),
        (["--ckpt", "dit-digits", "--num-sampling-steps", "1001"], "a section of 1000 steps cannot give 1001"),
        (["--ckpt", "dit-digits", "--num-sampling-steps", "ddim256"], "nearest are ddim200 and ddim250"),
        (["--ckpt", "dit-digits", "--num-sampling-steps", "many"], "needed a number such as"),
        (["--ckpt", "dit-digits", "--labels", "{}/labels.txt"], "label 10 of image 39 is no class.*0 to 9"),
        (["--ckpt", "dit-digits", "--labels", "nowhere"], 'no such file; needed a file, "random" or "balanced"'),
        (["--ckpt", "dit-digits", "--num-fid-samples", "0"], "0 images asked for"),
        (["--ckpt", "dit-digits", "--global-seed", "-1"], "Seed -1"),
        (["--ckpt", "dit-digits", "--per-proc-batch-size", "0"], "needed at least 1"),
        (["--ckpt", "dit-digits", "--device", "cuda"], "PyTorch sees 0 GPU"),
        (["--ckpt", "dit-digits", "--precision", "tf32"], "tf32 is arithmetic of NVIDIA GPUs"),
        (["--ckpt", "dit-digits", "--out", "samples.png"], "ends in .npz"),
        (["--ckpt", "{}/s8.pt", "--model", "DiT-S/8", "--vae", "emma"], "no autoencoder there.* ema, mse, original"),
    ],
)
def test_mistakes_are_explained_before_any_work(checkpoints, tmp_path, capsys, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(ImageSampler, "draw", lambda *_, **__: pytest.fail("the network ran"))
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "samples.npz")]
    size = [] if "--num-fid-samples" in arguments else ["--num-fid-samples", "40"]
    code, output, error = run(capsys, "sample", *size, *out, *(a.format(checkpoints) for a in arguments))
    assert (code, output) == (2, ""), error
    *progress, message = error.splitlines()  # of what is found in the weights themselves, once they are hashed
    assert message.startswith("dit-eval: error: "), error
    assert all(line.startswith(("sample: ", "model  ", "checksums: ")) for line in progress), error
    assert re.search(said, error), error
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_without_network_the_missing_file_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))

    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("dit_eval.system.assets.download", refuse)
    code, _, error = run(capsys, "sample", "--out", tmp_path / "samples.npz")
    assert code == 2
    assert "DiT-XL-2-256x256.pt" in error


def test_grids(whole, tmp_path, capsys):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    assert run(capsys, "grid", whole, "--out", one)[0] == 0
    other = tmp_path / "other.npz"
    assert run(capsys, *command(other, "--cfg-scale", 4))[0] == 0
    code, _, error = run(capsys, "grid", whole, other, "--out", two, "--first", 8, "--count", 6)
    assert (code, error) == (0, "")
    for path in (one, two):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    apart = tmp_path / "apart.npz"
    assert run(capsys, *command(apart, "--global-seed", 5))[0] == 0
    _, _, error = run(capsys, "grid", whole, apart, "--out", two, "--force")
    assert "differ in seed or labels" in error
    code, _, error = run(capsys, "grid", whole, "--out", two, "--first", 30, "--count", 20, "--force")
    assert (code, "40 images; needed 50" in error) == (2, True)
