"""Predictions against clocks and networks whose speed is known, and against the bytes of a real run."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sample_runs import command, make_run, random_dit, run

from dit_eval import cost as cost_module
from dit_eval.cost import evaluation_cost, full_load, sampling_cost
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.features.network import FeatureBatch
from dit_eval.images.npz import open_batch
from dit_eval.results.settings import EvaluationSettings
from dit_eval.sampling import batches_left, disk_bytes, sample_npz
from dit_eval.system.seals import TRAILER
from dit_eval.system.switches import using_threads


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeNetwork:
    """An extractor that takes `seconds` of a clock for each image, and ten times that in its first call."""

    name, backend, precision, weights_sha256, device = "fake", "torch", "fp32", "0" * 64, "cpu"
    pool_dim, spatial_dim = 6, 5

    def __init__(self, clock, seconds):
        self._clock, self._seconds, self.batches = clock, seconds, []

    def __call__(self, images):
        self._clock.now += len(images) * self._seconds * (1 if self.batches else 10)
        self.batches.append(len(images))
        rng = np.random.default_rng(len(self.batches))
        probs = rng.dirichlet(np.ones(4), len(images)).astype(np.float32)
        pool, spatial = (rng.standard_normal((len(images), d)).astype(np.float32) for d in (6, 5))
        return FeatureBatch(pool=pool, spatial=spatial, class_probs=probs)


@pytest.fixture
def images(tmp_path):
    def make(name, count):
        rng = np.random.default_rng(count)
        np.savez(tmp_path / f"{name}.npz", arr_0=rng.integers(0, 256, (count, 8, 8, 3), np.uint8))
        return open_batch(tmp_path / f"{name}.npz", role=name)

    return make


ALL = ("fid", "sfid", "is", "precision", "recall")


@pytest.mark.parametrize(("count", "batch_size"), [(100, 8), (20, 64), (9, 4)])
def test_the_network_is_tried_on_three_batches_and_multiplied(images, count, batch_size):
    clock = Clock()
    network = FakeNetwork(clock, 0.25)
    gen, ref = images("gen", count), images("ref", 70)
    settings = EvaluationSettings(metrics=ALL, batch_size=batch_size)
    cost = evaluation_cost(gen=gen, ref=ref, network=network, settings=settings, clock=clock)
    assert sum(network.batches) <= 3 * batch_size
    assert cost.seconds["gen features"] == pytest.approx(0.25 * count, rel=1e-9), "without the first, slow call"
    assert cost.seconds["ref features"] == pytest.approx(0.25 * 70, rel=1e-9)
    assert cost.seconds_per_1000 == pytest.approx(250, rel=1e-9)
    assert cost.images == count + 70
    assert cost.total == pytest.approx(0.25 * (count + 70), rel=1e-9), "nothing else moves this clock"
    assert cost.memory_per_1000 == 1000 * 4 * (6 + 4)


def test_what_the_reference_costs_depends_on_what_is_asked_for(images, tmp_path):
    gen, ref = images("gen", 64), images("ref", 70)
    np.savez(tmp_path / "stored.npz", arr_0=ref.array(), mu=np.zeros(6), sigma=np.eye(6))
    stored = open_batch(tmp_path / "stored.npz", role="ref")
    phases = {}
    for name, reference, metrics in (
        ("fid", ref, ("fid",)),
        ("fid, stored", stored, ("fid",)),
        ("precision, stored", stored, ("fid", "precision")),
        ("is", ref, ("is",)),
    ):
        clock = Clock()
        network = FakeNetwork(clock, 1.0)
        settings = EvaluationSettings(metrics=metrics, batch_size=8)
        cost = evaluation_cost(gen=gen, ref=reference, network=network, settings=settings, clock=clock)
        phases[name] = cost.seconds.get("ref features")
    assert phases == {"fid": 70, "fid, stored": None, "precision, stored": 70, "is": None}


def test_more_images_than_are_there_can_be_predicted(images):
    clock = Clock()
    cost = evaluation_cost(
        gen=images("gen", 40),
        ref=images("ref", 70),
        network=FakeNetwork(clock, 0.5),
        settings=EvaluationSettings(metrics=ALL, batch_size=8, num_images=50_000),
        clock=clock,
    )
    assert cost.seconds["gen features"] == pytest.approx(25_000, rel=1e-9)
    assert cost.memory_bytes > 50_000 * 4 * (6 + 4)


def test_each_metric_is_scaled_by_its_growth(images, monkeypatch):
    clock = Clock()

    def takes(seconds):
        def metric(*_, **sets):
            clock.now += seconds(**sets)
            return SimpleNamespace()

        return metric

    monkeypatch.setattr(cost_module, "_PAIRS", 10)
    monkeypatch.setattr(cost_module, "_ROWS", 10)
    # True costs: 2 s of a Fréchet distance at 6 dimensions, 1e-3 s a pair, 0.1 s an image of the Inception Score.
    monkeypatch.setattr(cost_module, "frechet_distance", takes(lambda gen, ref: 2.0))
    monkeypatch.setattr(
        cost_module,
        "precision_recall",
        takes(lambda gen, ref, **_: 1e-3 * (len(gen) ** 2 + len(ref) ** 2 + len(gen) * len(ref))),
    )
    monkeypatch.setattr(
        cost_module, "inception_score", lambda probs: setattr(clock, "now", clock.now + 0.1 * len(probs))
    )
    options = {"gen": images("gen", 64), "ref": images("ref", 70), "network": FakeNetwork(clock, 1.0)}
    cost = evaluation_cost(**options, settings=EvaluationSettings(metrics=ALL), clock=clock)
    pairs = 1e-3 * (64**2 + 70**2 + 64 * 70)
    assert cost.seconds["metrics"] == pytest.approx(2 + 2 * (5 / 6) ** 3 + 6.4 + pairs, rel=1e-9)


@pytest.mark.parametrize(("processes", "share"), [(1, 100), (2, 56), (3, 40), (13, 8), (20, 8)])
def test_processes_share_whole_batches(processes, share):
    # 100 images are 13 batches of 8.
    assert cost_module._share(100, 8, processes) == share


class CountingSampler(ImageSampler):
    """Counts forward passes, each of which takes a second of a clock for 8 images."""

    def __init__(self, clock, *arguments, **options):
        super().__init__(*arguments, **options)
        self._clock, self.passes = clock, []
        plain = self._conditional._network

        def counted(x, time, label):
            self.passes.append(len(x))
            clock.now += len(x) / 8
            return plain(x, time, label)

        self._conditional._network = counted


@pytest.mark.parametrize(("images_", "batch_size"), [(40, 8), (40, 16), (21, 7), (5, 32), (100, 32)])
def test_sampling_is_predicted_from_its_forward_passes(tmp_path, images_, batch_size):
    model, clock = random_dit(), Clock()
    settings = make_run(model.config, num_images=images_, cfg_scale=1.5, cfg_channels=3)
    tried = CountingSampler(clock, model, settings)
    cost = sampling_cost(sampler=tried, out=tmp_path / "samples.npz", batch_size=batch_size, clock=clock)
    assert not list(tmp_path.iterdir()), "nothing is written"
    real = CountingSampler(clock, model, settings)
    begin = clock()
    sample_npz(tmp_path / "samples.npz", sampler=real, labels=np.zeros(images_, np.int64), batch_size=batch_size)
    assert cost.seconds["steps"] == pytest.approx(clock() - begin, rel=1e-6)
    assert cost.images == images_
    assert cost.disk_bytes == (tmp_path / "samples.npz").stat().st_size


def test_a_slow_batch_is_scaled_from_eight_images_a_core(tmp_path):
    with using_threads(3):
        model, clock = random_dit(), Clock()
        sampler = CountingSampler(clock, model, make_run(model.config, num_images=64))
        slow = sampling_cost(sampler=sampler, out=tmp_path / "a.npz", batch_size=64, clock=clock)
        assert "a step of 24 images: 3.000 s" in slow.trials[0], "three cores are busy with 24 images"
        assert slow.seconds["steps"] == 64
        guided = make_run(model.config, num_images=64, cfg_scale=1.5, cfg_channels=3)
        assert full_load(CountingSampler(clock, model, guided)) == 16, "32 forward passes"


@pytest.fixture
def one_core():
    with using_threads(1):
        yield


@pytest.mark.usefixtures("one_core")
def test_a_slow_batch_is_scaled_from_eight_images(tmp_path):
    model, clock = random_dit(), Clock()
    sampler = CountingSampler(clock, model, make_run(model.config, num_images=64))
    slow = sampling_cost(sampler=sampler, out=tmp_path / "a.npz", batch_size=64, clock=clock)
    assert "a step of 8 images: 1.000 s" in slow.trials[0], "four steps of 64 would take 32 seconds"
    sampler = CountingSampler(clock, model, make_run(model.config, num_images=64))
    quick = sampling_cost(sampler=sampler, out=tmp_path / "a.npz", batch_size=32, clock=clock)
    assert "a step of 32 images: 4.000 s" in quick.trials[0]
    assert slow.seconds["steps"] == quick.seconds["steps"] == 64


def test_only_what_is_left_to_draw_is_predicted(tmp_path):
    model, clock, out = random_dit(), Clock(), tmp_path / "samples.npz"

    def sampler(count):
        return CountingSampler(clock, model, make_run(model.config, num_images=count))

    sample_npz(out, sampler=sampler(24), labels=np.zeros(24, np.int64), batch_size=8)
    cost = sampling_cost(sampler=sampler(40), out=out, batch_size=8, clock=clock)
    assert (cost.images, cost.seconds["steps"]) == (16, pytest.approx(2 * 8, rel=1e-6))
    done = sampling_cost(sampler=sampler(24), out=out, batch_size=8, clock=clock)
    assert (done.images, done.total, done.trials) == (0, 0, ())
    other = make_run(model.config, num_images=40, global_seed=3)
    with pytest.raises(ValueError, match="global_seed: 3, 0"):
        batches_left(out, other, 8)


def test_disk_is_what_a_real_run_writes(tmp_path, capsys, monkeypatch):
    out, sizes = tmp_path / "samples.npz", {}
    discard = "dit_eval.sampling._Parts._discard"

    def measured(parts):
        sizes["peak"] = out.stat().st_size + sum(piece.stat().st_size - TRAILER for piece in parts.folder.glob("*.u8"))

    monkeypatch.setattr(discard, measured)
    assert run(capsys, *command(out, "--per-proc-batch-size", 16))[0] == 0
    final, peak = disk_bytes(out, open_batch(out, role="gen").run)
    assert (final, peak) == (out.stat().st_size, sizes["peak"])


# ---- the command line


def test_a_dry_run_of_sampling_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ImageSampler, "draw", lambda *_, **__: pytest.fail("images were drawn"))
    code, output, _ = run(capsys, *command(tmp_path / "samples.npz", "--dry-run"))
    assert code == 0
    assert not list(tmp_path.iterdir())
    assert output.startswith("to draw 40 images of dit-digits, 8 steps, cfg 1.50, seed 0, in one process: about ")
    for said in (
        "  steps  ",
        "  decoding  ",
        "1,000 images through the network",
        "0.19 MB of disk",
        "measured now: a step",
    ):
        assert said in output, output


def test_a_dry_run_refuses_what_the_run_would(tmp_path, capsys, monkeypatch):
    out = tmp_path / "samples.npz"
    assert run(capsys, *command(out, "--per-proc-batch-size", 8))[0] == 0
    monkeypatch.setattr(cost_module, "try_batch", lambda *_, **__: pytest.fail("the network ran"))
    for wrong, said in ((["--global-seed", "1"], "of another run"), (["--cfg-scale", "0"], "needed 1.0 or more")):
        code, output, error = run(capsys, *command(out, "--dry-run"), *wrong)
        assert (code, output) == (2, "")
        assert said in error


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory, digits):
    path = tmp_path_factory.mktemp("digits") / "samples.npz"
    np.savez(path, arr_0=digits.images)
    return path


def evaluation(path, digits_ref, *more):
    return ["evaluate", str(path), "--ref", str(digits_ref), "--extractor", "digits", "--device", "cpu", *more]


def test_a_dry_run_of_an_evaluation_writes_nothing(digits_file, digits_ref, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = run(capsys, *evaluation(digits_file, digits_ref, "--dry-run"))
    assert code == 0
    assert not list(tmp_path.iterdir())
    assert output.startswith("to score 500 samples, in one process: about ")
    for said in ("checksums", "ref features", "gen features", "metrics", "measured now: digits on 192 images"):
        assert said in output, output
    code, output, _ = run(
        capsys, *evaluation(digits_file, digits_ref, "--dry-run", "--num-samples", "50000", "--json", "-")
    )
    told = json.loads(output)
    assert (code, told["images"], told["processes"]) == (0, 50_000 + 1297, 1)
    assert told["total_seconds"] == pytest.approx(sum(told["seconds"].values()))
    assert told["memory_per_1000"] == 1000 * 4 * (64 + 10)
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_an_evaluation_refuses_what_the_evaluation_would(digits_file, digits_ref, tmp_path, capsys):
    for more, said in (
        (["--num-samples", "0"], "needed at least 1"),
        (["--metrics", "fiid"], "Unknown metric"),
        (["--batch-size", "0"], "needed at least 1"),
    ):
        code, output, error = run(capsys, *evaluation(digits_file, digits_ref, "--dry-run", *more))
        assert (code, output) == (2, "")
        assert said in error


def test_two_processes_predict_their_share(forks, digits_file, digits_ref, tmp_path):
    here, told = tmp_path / "here", tmp_path / "told.json"
    here.mkdir()
    ended = forks(evaluation(digits_file, digits_ref, "--dry-run", "--json", told), ranks=2, cwd=str(here))
    assert ended["statuses"] == [0, 0], ended["stderr"]
    told = json.loads(told.read_text())
    assert told["processes"] == 2
    # 500 images are 8 batches of 64, 256 images for the one with more; 1,297 are 21, 704 images.
    each = told["seconds_per_1000"] / 1000
    assert told["seconds"]["gen features"] == pytest.approx(256 * each)
    assert told["seconds"]["ref features"] == pytest.approx(704 * each)
    assert not list(here.iterdir())


@pytest.mark.slow
def test_memory_of_sampling_is_that_of_the_run(tmp_path):
    # A process of its own for each: the peak of a process never falls.
    code = """\
import contextlib, sys
from dit_eval.cli import main
from dit_eval.system.environment import peak_memory_bytes
with contextlib.suppress(SystemExit):
    main(sys.argv[1:])
sys.stderr.write(f"peak {peak_memory_bytes()}")
"""

    def peak(*arguments):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        return int(done.stderr.rpartition("peak ")[2]), done.stdout

    arguments = command(tmp_path / "samples.npz", "--per-proc-batch-size", 512, images=512)
    _, told = peak(*arguments, "--dry-run")
    number, unit = told.partition("at its peak: ")[2].split()[:2]
    predicted = float(number) * {"MB": 1e6, "GB": 1e9}[unit]
    real, _ = peak(*arguments)
    assert predicted == pytest.approx(real, rel=0.15)
