"""The whole path from files to a result, on real digits with the embedded extractor."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from evaluating import evaluate

import dit_eval
from dit_eval.cli import main
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.images.pair import TwoReferences
from dit_eval.reference import write_reference
from dit_eval.results.eval_result import EvalResult
from dit_eval.results.lines import append_result, read_results
from dit_eval.system.where import Where

VALUES = ("fid", "sfid", "inception_score", "precision", "recall")


@pytest.fixture(scope="module")
def sample_file(tmp_path_factory, digits):
    path = tmp_path_factory.mktemp("samples") / "noisy.npz"
    noise = np.random.RandomState(0).randint(-40, 41, (*digits.images.shape[:3], 1))
    np.savez(path, arr_0=(digits.images + noise).clip(0, 255).astype(np.uint8), arr_1=digits.labels)
    return path


def run(gen, ref, extractor, **options):
    return evaluate(gen=open_batch(gen, role="gen"), ref=open_batch(ref, role="ref"), extractor=extractor, **options)


@pytest.fixture(scope="module")
def result(sample_file, digits_ref, digits_extractor):
    return run(sample_file, digits_ref, digits_extractor)


def assert_same(a, b, names=VALUES, rel=1e-9):
    for name in names:
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=rel), name


@pytest.mark.parametrize("batch_size", [3, 500])
def test_batch_size_does_not_matter(result, sample_file, digits_ref, digits_extractor, batch_size):
    # Features are rounded to float32 after the network; its own batching may move their last digit.
    again = run(sample_file, digits_ref, digits_extractor, batch_size=batch_size)
    assert_same(again, result, rel=1e-6)


def test_compression_does_not_matter(result, sample_file, tmp_path, digits_ref, digits_extractor):
    with np.load(sample_file) as stored:
        np.savez_compressed(tmp_path / "x.npz", **stored)
    assert_same(run(tmp_path / "x.npz", digits_ref, digits_extractor), result)


def test_order_does_not_matter(result, sample_file, tmp_path, digits_ref, digits_extractor):
    with np.load(sample_file) as stored:
        np.savez(tmp_path / "x.npz", arr_0=stored["arr_0"][np.random.RandomState(1).permutation(500)])
    again = run(tmp_path / "x.npz", digits_ref, digits_extractor)
    assert_same(again, result, ("fid", "sfid", "inception_score_order_free", "precision", "recall"), rel=1e-6)


class Counting:
    """An extractor that counts the images it is shown."""

    def __init__(self, extractor):
        self.extractor, self.seen = extractor, 0

    def __getattr__(self, name):
        return getattr(self.extractor, name)

    def __call__(self, images):
        self.seen += len(images)
        return self.extractor(images)


def test_a_second_run_with_a_cache_skips_the_network(result, sample_file, tmp_path, digits_ref, digits_extractor):
    counting = Counting(digits_extractor)
    first = run(sample_file, digits_ref, counting, cache=tmp_path)
    assert counting.seen == 500 + 1297
    second = run(sample_file, digits_ref, counting, cache=tmp_path, batch_size=9)
    assert counting.seen == 500 + 1297, "the second run used the cache"
    assert_same(first, result)
    assert_same(second, first, rel=0)
    # Fewer samples, or other weights, are other features.
    gen = open_batch(sample_file, role="gen", num_images=400)
    evaluate(gen=gen, ref=open_batch(digits_ref, role="ref"), extractor=counting, cache=tmp_path)
    assert counting.seen == 500 + 1297 + 400
    for entry in tmp_path.glob("features-*.npz"):
        entry.write_bytes(entry.read_bytes()[:1000])
    third = run(sample_file, digits_ref, counting, cache=tmp_path)
    assert counting.seen == 2 * (500 + 1297) + 400, "damaged entries are made again"
    assert_same(third, first, rel=0)


def test_kept_statistics_that_are_no_covariance_are_made_again(sample_file, tmp_path, digits_ref, digits_extractor):
    gen = open_batch(sample_file, role="gen", num_images=40)
    first = evaluate(gen=gen, ref=open_batch(digits_ref, role="ref"), extractor=digits_extractor, cache=tmp_path)
    for entry in tmp_path.glob("features-*.npz"):
        with np.load(entry) as kept:
            arrays = {**kept}
        np.savez(entry, **arrays | {"sigma": arrays["sigma"] - np.eye(len(arrays["sigma"]))})
    counting = Counting(digits_extractor)
    again = evaluate(gen=gen, ref=open_batch(digits_ref, role="ref"), extractor=counting, cache=tmp_path)
    assert counting.seen == 40 + 1297
    assert_same(again, first, rel=0)


def test_stored_statistics_stand_for_the_reference(result, sample_file, tmp_path, digits_ref, digits_extractor):
    with np.load(digits_ref) as ref:
        images, statistics = ref["arr_0"], {key: ref[key] for key in ("mu", "sigma", "mu_s", "sigma_s")}
    np.savez(tmp_path / "images.npz", arr_0=images)
    computed = run(sample_file, tmp_path / "images.npz", digits_extractor)
    assert (computed.ref.statistics, result.ref.statistics) == ("computed", "stored")
    assert_same(computed, result, rel=1e-6)

    np.savez(tmp_path / "statistics.npz", **statistics)
    counting = Counting(digits_extractor)
    only = run(sample_file, tmp_path / "statistics.npz", counting)
    assert counting.seen == 500, "a reference of statistics needs no network"
    assert_same(only, result, ("fid", "sfid", "inception_score"))
    assert only.precision is None
    assert only.recall is None
    assert only.num_reference is None
    assert sum("holds no images (arr_0)" in w for w in only.warnings) == 2
    with pytest.raises(ValueError, match=r"precision: .*holds no images \(arr_0\)"):
        run(sample_file, tmp_path / "statistics.npz", digits_extractor, metrics=["fid", "precision"])

    # Stored statistics win over those of the file's images, as in ADM's suite.
    shifted = statistics | {"mu": statistics["mu"] + 1.0}
    np.savez(tmp_path / "shifted.npz", arr_0=images, **shifted)
    moved = run(sample_file, tmp_path / "shifted.npz", digits_extractor)
    assert moved.fid > result.fid + 1
    assert moved.precision == result.precision


def test_pool_statistics_alone_serve_fid_and_say_what_sfid_lacks(sample_file, tmp_path, digits_ref, digits_extractor):
    with np.load(digits_ref) as ref:
        np.savez(tmp_path / "ref.npz", arr_0=ref["arr_0"], mu=ref["mu"], sigma=ref["sigma"])
    found = run(sample_file, tmp_path / "ref.npz", digits_extractor)
    assert found.fid is not None
    assert found.sfid is None
    assert any(w.startswith("sfid: not computed") and "mu_s, sigma_s" in w for w in found.warnings)


def test_a_sample_file_with_statistics_is_scored_by_its_images(
    result, sample_file, tmp_path, digits_ref, digits_extractor
):
    with np.load(sample_file) as stored:
        np.savez(tmp_path / "x.npz", arr_0=stored["arr_0"], mu=np.zeros(64), sigma=np.eye(64))
    found = run(tmp_path / "x.npz", digits_ref, digits_extractor)
    assert_same(found, result)
    assert any("carries statistics; they are ignored" in w for w in found.warnings)


@pytest.fixture
def two_files(tmp_path, digits_ref):
    """Statistics of the digits, and other images of them."""
    with np.load(digits_ref) as stored:
        np.savez(tmp_path / "stats.npz", **{key: stored[key] for key in ("mu", "sigma", "mu_s", "sigma_s")})
        np.savez(tmp_path / "images.npz", arr_0=stored["arr_0"][:200])
    return tmp_path / "stats.npz", tmp_path / "images.npz"


def test_statistics_of_one_file_and_images_of_another(sample_file, two_files, tmp_path, digits_extractor):
    stats, images = two_files
    alone = {path: run(sample_file, path, digits_extractor) for path in two_files}
    extractor = Counting(digits_extractor)
    where = Where(cache=tmp_path / "cache", cache_gen=False)

    def both():
        pair = (str(stats), open_batch(images, role="ref"))
        return dit_eval.evaluate(sample_file, ref=pair, network=extractor, where=where, quiet=True)

    found = both()
    assert_same(found, alone[stats], ("fid", "sfid", "inception_score"), rel=1e-12)
    assert_same(found, alone[images], ("precision", "recall"), rel=1e-12)
    assert (found.ref.path, found.ref.sha256, found.ref.statistics, found.ref.num_images) == (
        str(stats), alone[stats].ref.sha256, "stored", 0)  # fmt: skip
    assert (found.pr_ref.path, found.pr_ref.sha256, found.num_reference) == (str(images), alone[images].ref.sha256, 200)
    assert found.reference_protocol == "unknown-statistics"
    assert found.badge.reference.reason == "unknown statistics, with other images for precision and recall"
    assert EvalResult.from_json(found.to_json()) == found
    assert f"pr-ref  {images}" in found.text()
    assert extractor.seen == 700
    assert_same(both(), found, rel=1e-12)
    assert extractor.seen == 1200, "the features of the images were kept"
    line = json.loads(found.to_json())
    del line["pr_ref"]
    assert EvalResult.from_json(json.dumps(line)).pr_ref is None, "a line of an earlier version"


def test_two_references_are_statistics_and_images(sample_file, two_files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ref, told in {
        two_files[::-1]: r"images.npz: holds no statistics \(mu, sigma\), which `ref` must beside `pr_ref`",
        (two_files[0], two_files[0]): r"`pr_ref` .*stats.npz: holds no images",
        (*two_files, two_files[1]): r"expected one reference, or a pair of statistics and images; got 3",
        (): r"expected one reference, or a pair of statistics and images; got 0",
    }.items():
        with pytest.raises(ValueError, match=told):
            dit_eval.evaluate(sample_file, ref=ref, network="digits", quiet=True)
    line = ["evaluate", str(sample_file), "--extractor", "digits", "--json", "-", "--ref", str(two_files[0])]
    for more, code in (["--dry-run"], 0), ([], 0), (["--no-results"], 0):
        with pytest.raises(SystemExit) as exit_:
            main([*line, "--pr-ref", str(two_files[1]), *more])
        assert exit_.value.code == code
        found = json.loads(capsys.readouterr().out)
    assert found["pr_ref"]["path"] == str(two_files[1])
    for given in (str(two_files[0]), "imagenet25", "hf://one/x.npz"):
        with pytest.raises(SystemExit):
            main([*line, "--pr-ref", given])
        assert f"error: --pr-ref {given}: " in capsys.readouterr().err


def test_equal_sets_give_zero_and_keep_the_raw_value(tmp_path, digits, digits_extractor):
    np.savez(tmp_path / "x.npz", arr_0=digits.images)
    same = run(tmp_path / "x.npz", tmp_path / "x.npz", digits_extractor)
    assert (same.fid, same.sfid, same.precision, same.recall) == (0.0, 0.0, 1.0, 1.0)
    line = json.loads(same.to_json())
    assert 0 < abs(line["fid_raw"]) < 1e-8


@pytest.mark.parametrize(("num_gen", "num_ref"), [(3, 100), (100, 3)])
def test_fewer_than_four_images_refuse_precision_and_recall(tmp_path, digits, digits_extractor, num_gen, num_ref):
    np.savez(tmp_path / "gen.npz", arr_0=digits.images[:num_gen])
    np.savez(tmp_path / "ref.npz", arr_0=digits.images[-num_ref:])
    found = run(tmp_path / "gen.npz", tmp_path / "ref.npz", digits_extractor)
    assert found.precision is None
    assert found.fid > 0
    with pytest.raises(ValueError, match=r"recall: .*holds 3 images; .*at least 4 on each side"):
        run(tmp_path / "gen.npz", tmp_path / "ref.npz", digits_extractor, metrics=["recall"])


def test_one_sample_gives_no_fid(tmp_path, digits, digits_ref, digits_extractor):
    np.savez(tmp_path / "gen.npz", arr_0=digits.images[:1])
    found = run(tmp_path / "gen.npz", digits_ref, digits_extractor)
    assert found.fid is None
    assert found.inception_score == pytest.approx(1.0)


def test_other_sizes_are_refused_unless_wanted(sample_file, tmp_path, digits, digits_ref, digits_extractor):
    np.savez(tmp_path / "large.npz", arr_0=digits.images.repeat(2, axis=1).repeat(2, axis=2))
    with pytest.raises(ValueError, match=r"images of 16x16, .*of 8x8.*`allow_size_mismatch`"):
        run(tmp_path / "large.npz", digits_ref, digits_extractor)
    found = run(tmp_path / "large.npz", digits_ref, digits_extractor, allow_size_mismatch=True)
    assert any("not a published comparison" in w for w in found.warnings)


def test_only_the_metrics_asked_for_are_computed(sample_file, digits_ref, digits_extractor):
    counting = Counting(digits_extractor)
    found = run(sample_file, digits_ref, counting, metrics=["fid", "is"])
    assert counting.seen == 500, "with stored statistics, FID and IS need no reference image"
    assert found.sfid is None
    assert found.precision is None
    assert found.fid is not None


def test_a_class_ordered_file_is_noticed(tmp_path, digits, digits_ref, digits_extractor):
    # 5,500 images make two splits; the second holds the last class only.
    labels = np.tile(digits.labels, 11)
    order = np.argsort(labels, kind="stable")
    np.savez(tmp_path / "x.npz", arr_0=np.tile(digits.images, (11, 1, 1, 1))[order], arr_1=labels[order])
    found = run(tmp_path / "x.npz", digits_ref, digits_extractor, metrics=["is"])
    assert found.inception_score < 0.7 * found.inception_score_order_free
    assert any("looks class-ordered (its labels are sorted)" in w for w in found.warnings)


def test_a_result_survives_json_and_names_its_extractor(result, tmp_path, digits_extractor):
    assert EvalResult.from_json(result.to_json()) == result
    line = json.loads(result.to_json())
    assert line["protocol"] == "digits", "never to be mistaken for ADM's protocol"
    assert line["extractor"]["name"] == "digits"
    assert line["extractor"]["weights_sha256"] == digits_extractor.weights_sha256
    assert line["num_samples"] == 500
    assert line["num_reference"] == 1297
    assert len(line["ref"]["sha256"]) == 64
    assert line["environment"]["packages"]["torch"]
    assert line["peak_memory_bytes"] > 1e7
    path = tmp_path / "results.jsonl"
    append_result(path, result)
    with open(path, "a") as file:
        file.write('{"fid": 1.0, "sf')  # a run that was killed while writing
    append_result(path, result)
    lines = path.read_text().splitlines()
    assert [EvalResult.from_json(lines[0]), EvalResult.from_json(lines[2])] == [result, result]
    with pytest.raises(ValueError, match="line 2: Not an evaluation result"):
        read_results(path)


def test_a_reference_is_made_and_used(tmp_path, digits, sample_file, digits_extractor):
    order = np.argsort(digits.labels, kind="stable")
    np.savez(tmp_path / "real.npz", arr_0=digits.images[order], arr_1=digits.labels[order])
    real = open_batch(tmp_path / "real.npz", role="gen")
    assert write_reference(images=real, out=tmp_path / "ref.npz", extractor=digits_extractor, num_images=100) == 100
    with np.load(tmp_path / "ref.npz") as ref:
        assert ref["arr_0"].shape == (100, 8, 8, 3)
        assert set(ref["arr_1"]) == set(range(10)), "images are kept from all over a class-ordered file"
        features = digits_extractor(digits.images).pool.astype(np.float64)
        np.testing.assert_allclose(ref["mu"], features.mean(axis=0), rtol=1e-6)
        np.testing.assert_allclose(ref["sigma"], np.cov(features, rowvar=False), rtol=1e-5, atol=1e-8)
    assert run(sample_file, tmp_path / "ref.npz", digits_extractor).num_reference == 100
    assert write_reference(images=real, out=tmp_path / "small.npz", extractor=digits_extractor, num_images=0) == 0
    assert open_batch(tmp_path / "small.npz", role="ref").num_images == 0


MEMORY = """
import sys
import numpy as np
from dit_eval.evaluation import score
from dit_eval.features.digits import DigitsExtractor
import dit_eval
from dit_eval.cli import main
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.images.pair import TwoReferences
from dit_eval.results.settings import EvaluationSettings
from dit_eval.system.environment import peak_memory_bytes
result = score(gen=open_batch(sys.argv[1], role="gen", num_images=int(sys.argv[2])),
               ref=open_batch(sys.argv[3], role="ref"), network=DigitsExtractor(),
               settings=EvaluationSettings(allow_size_mismatch=True))
print(peak_memory_bytes())
"""


def test_peak_memory_is_not_that_of_the_program_that_launched_this_one():
    asked = [
        sys.executable,
        "-c",
        "from dit_eval.system.environment import peak_memory_bytes; print(peak_memory_bytes())",
    ]
    large = np.ones(1 << 29, np.uint8)
    peak = int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    assert 1e6 < peak < large.nbytes / 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, digits_ref):
    """2,000 images of 256 px are 393 MB; reading them must not leave them in memory."""
    noise = np.random.RandomState(2).randint(0, 256, (100, 256, 256, 3), dtype=np.uint8)
    write_batch(tmp_path / "x.npz", images=[noise] * 20, shape=(2000, 256, 256, 3))
    peaks = []
    for num in (500, 2000):
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, str(tmp_path / "x.npz"), str(num), str(digits_ref)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 100e6


# ---- several processes


def by_torchrun(processes, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, "-m", "dit_eval", "evaluate", *map(str, arguments), "--device", "cpu"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=600,
    )


@pytest.fixture
def by_processes(forks):
    """An evaluation by several processes."""

    def run_them(processes, *arguments):
        ended = forks(["evaluate", *arguments, "--device", "cpu"], ranks=processes)
        assert ended["statuses"] == [0] * processes, ended["stderr"]

    return run_them


def results_of_one(tmp_path):
    """Options for a result and a cache of their own."""
    return ["--results", tmp_path / "results.jsonl", "--cache", tmp_path / "cache"]


def assert_one_result(tmp_path, result):
    (found,) = read_results(tmp_path / "results.jsonl")
    assert_same(found, result, rel=1e-9)
    assert found.num_samples == 500
    # The cache that process 0 wrote serves one process as well.
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.processes
def test_two_processes_by_torchrun_give_the_result_of_one(result, sample_file, digits_ref, tmp_path):
    # 500 images do not divide among them.
    arguments = [sample_file, "--ref", digits_ref, "--extractor", "digits", "--batch-size", 64]
    process = by_torchrun(2, *arguments, *results_of_one(tmp_path))
    assert process.returncode == 0, process.stderr
    assert_one_result(tmp_path, result)


def test_three_processes_give_the_result_of_one(by_processes, result, sample_file, digits_ref, tmp_path):
    # 3 batches of 200, one each, the last one short.
    with np.load(sample_file) as file:
        np.savez_compressed(tmp_path / "samples.npz", **file)
    arguments = [tmp_path / "samples.npz", "--ref", digits_ref, "--extractor", "digits", "--batch-size", 200]
    by_processes(3, *arguments, *results_of_one(tmp_path))
    assert_one_result(tmp_path, result)


def test_two_processes_share_the_images_of_two_references(
    by_processes, sample_file, two_files, tmp_path, digits_extractor
):
    pair = TwoReferences(statistics=open_batch(two_files[0], role="ref"), images=open_batch(two_files[1], role="ref"))
    alone = evaluate(gen=open_batch(sample_file, role="gen"), ref=pair, extractor=digits_extractor)
    arguments = [sample_file, "--ref", two_files[0], "--pr-ref", two_files[1], "--extractor", "digits"]
    by_processes(2, *arguments, "--json", tmp_path / "result.json", "--no-results")
    found = EvalResult.from_json((tmp_path / "result.json").read_text())
    assert_same(found, alone, rel=1e-9)
    assert (found.ref, found.pr_ref, found.num_reference) == (alone.ref, alone.pr_ref, 200)


def test_more_processes_than_batches(by_processes, result, sample_file, digits_ref, tmp_path):
    arguments = [sample_file, "--ref", digits_ref, "--extractor", "digits", "--batch-size", 500]
    by_processes(2, *arguments, "--json", tmp_path / "result.json", "--no-results")
    assert_same(EvalResult.from_json((tmp_path / "result.json").read_text()), result, rel=1e-9)


def test_a_mistake_of_several_processes_is_told_once(forks, sample_file, tmp_path):
    ended = forks(["evaluate", sample_file, "--ref", tmp_path / "missing.npz", "--extractor", "digits"], ranks=2)
    assert all(ended["statuses"])
    assert ended["stderr"].count("no such file") == 1


def test_inception_by_two_processes(by_processes, tmp_path, digits, inception_files, torch_inception):
    # ADM's network and protocol: 22 images in batches of 8, against statistics made by one process.
    images = np.repeat(np.repeat(digits.images[:22], 4, 1), 4, 2)
    for name, part in (("gen", images[:22]), ("ref", images[5:15])):
        write_batch(tmp_path / f"{name}.npz", images=[part], shape=part.shape)
    alone = run(tmp_path / "gen.npz", tmp_path / "ref.npz", torch_inception, batch_size=8)
    arguments = [tmp_path / "gen.npz", "--ref", tmp_path / "ref.npz", "--weights", inception_files.pth]
    by_processes(2, *arguments, "--batch-size", 8, "--json", tmp_path / "two.json", "--no-results")
    two = EvalResult.from_json((tmp_path / "two.json").read_text())
    assert_same(two, alone, rel=1e-9)
    assert two.protocol == "adm-2021 except weights (unknown), reference (own)"
