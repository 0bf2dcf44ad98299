"""Published numbers of pictures that anyone can have: the table, how its numbers are computed, and the pictures."""

import dataclasses
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
import real
from evaluating import evaluate

from dit_eval.checks import anchors as page
from dit_eval.checks import cifar10 as pictures
from dit_eval.checks.anchors import Anchor, Rows, anchors, check_true, cifar10_parts, verify_anchors
from dit_eval.checks.cifar10 import FOLDER, TEST, TRAIN
from dit_eval.cli import main
from dit_eval.images.npz import open_batch
from dit_eval.metrics import METRICS
from dit_eval.system.assets import asset
from dit_eval.system.where import Where

SIZES = {"train": 50_000, "test": 10_000, "noisy": 5_000}
IMAGES, DRAWN = 20, 5  # of a file, and of each set, in place of 10,000 and 5,000


def test_the_table_says_of_each_number_what_it_is_of_and_where_it_stands():
    chosen = anchors()
    assert len(chosen) >= 6
    keys = {key for metric in METRICS for key in (metric.key, *metric.details)}
    for anchor in chosen:
        assert anchor.metric in keys
        assert 0 < anchor.tolerance <= 0.02 * max(abs(anchor.value), 0.02)
        assert anchor.reason
        assert anchor.source
        assert len(anchor.what) <= 62, "a column of the printed table"
        for rows in (anchor.gen, anchor.ref):
            assert 0 <= rows.first < rows.last <= SIZES[rows.part]
            assert rows.first % page.PIECE == rows.last % page.PIECE == 0
    assert asset("cifar10", "images").sha256, "the archive is pinned"
    assert set(page._table()["cifar10"]["sha256"]) == {*TRAIN, TEST}
    assert all(other["why"] and other["source"] for other in page._table()["elsewhere"])


# --- how numbers are computed, on digits in place of pictures


class Counting:
    """The digits network, which counts its images and may give up."""

    def __init__(self, extractor, most=10**9):
        self._extractor, self.most, self.count = extractor, most, 0

    def __getattr__(self, name):
        return getattr(self._extractor, name)

    def __call__(self, images):
        self.count += len(images)
        if self.count > self.most:
            raise KeyboardInterrupt
        return self._extractor(images)


@pytest.fixture
def parts(digits, monkeypatch):
    monkeypatch.setattr(page, "PIECE", 50)
    return {"train": digits.images[:300], "test": digits.images[300:]}


def anchor(metric, gen, ref, value=0.0, tolerance=1e-6):
    return Anchor(what=f"{metric} of {gen}", gen=Rows(part="train", first=0, last=gen),
                  ref=Rows(part="test", first=0, last=ref), metric=metric, value=value, tolerance=tolerance,
                  reason="none", source="nowhere")  # fmt: skip


def test_the_numbers_are_those_of_an_evaluation(parts, digits_extractor, tmp_path):
    expected = {}
    for gen, ref in ((100, 100), (300, 200)):
        for role, images in (("gen", parts["train"][:gen]), ("ref", parts["test"][:ref])):
            np.savez(tmp_path / f"{role}.npz", arr_0=images)
        sets = {role: open_batch(tmp_path / f"{role}.npz", role=role) for role in ("gen", "ref")}
        expected[gen] = evaluate(**sets, extractor=digits_extractor)
    chosen = [
        anchor("fid", 100, 100, expected[100].fid),
        anchor("precision", 100, 100, expected[100].precision),
        anchor("recall", 100, 100, expected[100].recall),
        anchor("fid", 300, 200, expected[300].fid),
        anchor("fid", 300, 200, expected[300].fid + 1),
    ]
    network, told, seen = Counting(digits_extractor), [], []
    found = verify_anchors(
        chosen,
        parts=parts,
        network=network,
        where=Where(on_progress=lambda *how: told.append(how)),
        on_check=seen.append,
    )
    assert [check.passed for check in found.checks] == [True] * 4 + [False], found.text()
    assert network.count == 500, "each image once"
    assert seen == list(found.checks), "each is told as soon as it is known"
    assert told[:2] == [("train", 0, 300), ("test", 0, 200)]
    assert [how for how in told if how[1] == how[2]][-2:] == [("train", 300, 300), ("test", 200, 200)]
    for part in parts:
        assert (done := [how[1] for how in told if how[0] == part]) == sorted(done)
    assert "Verdict: FAILED: run `dit-eval verify --offline`" in found.text()
    assert "fid of 100: nowhere" in found.text()
    assert "not here: precision 0.6852" in found.text()


def test_a_run_that_ended_early_goes_on_with_the_next_piece(parts, digits_extractor, tmp_path):
    chosen = [anchor("fid", 100, 100), anchor("fid", 300, 200)]
    ended = Counting(digits_extractor, most=320)
    with pytest.raises(KeyboardInterrupt):
        verify_anchors(chosen, parts=parts, network=ended, batch_size=10, where=Where(cache=tmp_path))
    second = Counting(digits_extractor)
    found = verify_anchors(chosen, parts=parts, network=second, batch_size=10, where=Where(cache=tmp_path))
    assert second.count == 500 - 300
    third = Counting(digits_extractor)
    again = verify_anchors(chosen, parts=parts, network=third, where=Where(cache=tmp_path))
    assert third.count == 0
    assert again == found


def test_another_network_is_refused(digits_extractor):
    with pytest.raises(ValueError, match=r"not the Inception of 2015-12-05.* weights fetch inception"):
        check_true(digits_extractor)


# --- the pictures


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Files of 20 pictures in the cache, and their SHA-256."""
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path))
    monkeypatch.setattr(pictures, "_IMAGES", IMAGES)
    monkeypatch.setattr(pictures, "_SIZE", IMAGES * 3073)
    monkeypatch.setattr(pictures, "DRAWN", DRAWN)
    draws = np.random.RandomState(0)
    files = {name: draws.randint(0, 256, IMAGES * 3073).astype(np.uint8).tobytes() for name in (*TRAIN, TEST)}
    return files, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def put(files, folder):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def nothing_to_bring(item):
    raise AssertionError("the files are here")


def test_pictures_are_those_of_the_files_with_the_drawn_ones_first(small, tmp_path):
    files, sha256 = small
    put(files, tmp_path / FOLDER)
    found = pictures.cifar10(sha256=sha256, bring=nothing_to_bring)
    assert {part: images.shape for part, images in found.items()} == {
        "train": (5 * IMAGES, 32, 32, 3), "test": (IMAGES, 32, 32, 3), "noisy": (DRAWN, 32, 32, 3)
    }  # fmt: skip

    def picture(name, k):  # byte by byte
        data, image = files[name][3073 * k : 3073 * (k + 1)], np.zeros((32, 32, 3), np.uint8)
        for at, value in enumerate(data[1:]):
            image[at % 1024 // 32, at % 32, at // 1024] = value
        return image

    draws = np.random.RandomState(2020)
    drawn = draws.choice(IMAGES, DRAWN, replace=False)
    rest = [k for k in range(IMAGES) if k not in drawn]
    for k, index in enumerate([*sorted(drawn), *rest]):
        assert np.array_equal(found["test"][k], picture(TEST, index))
    noisy = {}
    for index in drawn:  # as torch-fidelity's tool does it, one after the other; its cast wraps round
        values = picture(TEST, index).astype(np.float32)
        values += draws.randn(32, 32, 3) * 64
        noisy[index] = np.trunc(values).astype(np.int64) % 256
    assert np.array_equal(found["noisy"], [noisy[index] for index in sorted(drawn)])
    drawn = np.random.RandomState(2020).choice(5 * IMAGES, DRAWN, replace=False)
    for k, index in enumerate(sorted(drawn)):
        assert np.array_equal(found["train"][k], picture(TRAIN[index // IMAGES], index % IMAGES))


def archive_of(files, path, prefix=f"{FOLDER}/"):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_the_archive_is_unpacked_once(small, tmp_path):
    files, sha256 = small
    archive_of({"readme.html": b"x", **files}, tmp_path / "archive")
    brought = []
    first = pictures.cifar10(sha256=sha256, bring=lambda item: brought.append(item.name) or tmp_path / "archive")
    again = pictures.cifar10(sha256=sha256, bring=nothing_to_bring)
    assert brought == ["cifar10"]
    assert all(np.array_equal(first[part], again[part]) for part in first)
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == sorted(files)


def test_damaged_and_hostile_files_are_refused(small, tmp_path):
    files, sha256 = small

    def refused(match):
        with pytest.raises(ValueError, match=match):
            pictures.cifar10(sha256=sha256, bring=lambda item: tmp_path / "archive")
        assert not (tmp_path / "escaped").exists()

    (tmp_path / "archive").write_bytes(b"<html>a login page</html>")
    refused(r"archive: damaged \(.*Delete it")
    archive_of(files, tmp_path / "archive", prefix="../")
    refused(r"archive: holds no data_batch_1\.bin, .* of 61,460 bytes")
    archive_of(files | {TEST: files[TEST][:-1]}, tmp_path / "archive")
    refused(r"archive: holds no test_batch\.bin of 61,460 bytes")
    archive_of(files | {TEST: bytes(len(files[TEST]))}, tmp_path / "archive")
    refused(r"archive: test_batch\.bin: not CIFAR-10 as published: its SHA-256 is [0-9a-f]{64}, expected")
    archive_of(files, tmp_path / "archive")
    (tmp_path / "archive").write_bytes((tmp_path / "archive").read_bytes()[:-2000])
    refused(r"archive: damaged")
    with tarfile.open(tmp_path / "archive", "w:gz") as tar:
        link = tarfile.TarInfo(f"{FOLDER}/{TEST}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    refused(r"archive: holds no data_batch_1\.bin")

    put(files, tmp_path / FOLDER)
    (tmp_path / FOLDER / TEST).write_bytes(b"short")
    refused(r"test_batch\.bin: 5 bytes, expected 61,460\. Delete it")
    (tmp_path / FOLDER / TEST).write_bytes(bytes(len(files[TEST])))
    refused(r"test_batch\.bin: not CIFAR-10 as published")


# --- the command


def run(capsys, *words):
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    return exit_.value.code, *capsys.readouterr()


def test_what_does_not_go_together_is_said(capsys):
    code, _, err = run(capsys, "verify", "--published", "cifar10", "--golden", "adm-g-128")
    assert (code, "drop it, or --published cifar10" in err) == (2, True)
    code, _, err = run(capsys, "verify", "--published", "cifar10", "--offline")
    assert (code, "drop --published" in err) == (2, True)
    code, _, err = run(capsys, "verify", "--published", "cifar")
    assert (code, "cifar10" in err) == (2, True)


@pytest.fixture
def command(monkeypatch, digits_extractor, parts):
    """`verify --published cifar10` with the digits network, and numbers that digits give."""
    monkeypatch.setattr("dit_eval.cli.verify.load_extractor", lambda arguments: digits_extractor)
    monkeypatch.setattr(page, "check_true", lambda network: None)
    monkeypatch.setattr(page, "cifar10_parts", lambda bring: parts)
    chosen = [anchor("fid", 100, 100), anchor("precision", 100, 100, 1.0, 1.0)]
    (found,) = verify_anchors(chosen, parts=parts, network=digits_extractor).checks[0].found
    chosen[0] = dataclasses.replace(chosen[0], value=found)
    monkeypatch.setattr(page, "anchors", lambda: tuple(chosen))
    return chosen


@pytest.mark.parametrize("right", [True, False])
def test_the_command_prints_expected_found_and_verdict(capsys, command, tmp_path, right):
    if not right:
        command[0] = dataclasses.replace(command[0], value=command[0].value + 1)
    kept = tmp_path / "kept"
    code, out, err = run(capsys, "verify", "--published", "cifar10", "--cache", kept)
    assert code == (0 if right else 1)
    assert f"Verdict: {'passed' if right else 'FAILED'}" in out
    assert "features of train" in err
    assert "fid of 100" in err
    assert len(list(kept.glob("features-*.npz"))) == 4
    code, out, _ = run(capsys, "verify", "--published", "cifar10", "--cache", kept, "--json", "-")
    report = json.loads(out)
    assert (code, report["passed"]) == (0 if right else 1, right)
    assert report["verifications"][0]["checks"][1]["expected"] == [1.0]


def test_without_network_it_says_where_to_put_the_archive(capsys, monkeypatch, tmp_path, digits_extractor):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path))
    monkeypatch.setattr("dit_eval.cli.verify.load_extractor", lambda arguments: digits_extractor)
    monkeypatch.setattr(page, "check_true", lambda network: None)
    nowhere = dataclasses.replace(asset("cifar10"), url="http://127.0.0.1:9/cifar-10-binary.tar.gz")
    monkeypatch.setattr(pictures, "asset", lambda name: nowhere)
    code, out, err = run(capsys, "verify", "--published", "cifar10")
    assert (code, out) == (2, "")
    assert f"put it at {tmp_path / 'cifar-10-binary.tar.gz'}" in err


# --- the true network, and the true pictures


@pytest.fixture(scope="module")
def true_parts(real_cifar10):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIT_EVAL_CACHE", str(real_cifar10))
        return cifar10_parts(nothing_to_bring)


def test_the_packages_pictures_are_the_published_ones(true_parts):
    """The files are official by their SHA-256; these are the means and first pixels that everybody knows."""
    assert {part: len(images) for part, images in true_parts.items()} == SIZES
    means = true_parts["train"].mean(axis=(0, 1, 2)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    drawn = np.sort(np.random.RandomState(2020).choice(10_000, 5_000, replace=False))
    at = np.flatnonzero(drawn == 0)[0] if 0 in drawn else 5_000  # of the first picture of the test set
    assert true_parts["test"][at, 0, 0].tolist() == [158, 112, 49]


def test_features_of_real_pictures_are_torch_fidelitys(true_inception, true_parts):
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    check_true(true_inception)
    images = np.concatenate([true_parts[part][:8] for part in ("train", "noisy")])
    theirs = FeatureExtractorInceptionV3("true", ["2048"], str(real.inception()))
    with torch.no_grad():
        (expected,) = theirs(torch.tensor(images).permute(0, 3, 1, 2))
    found = true_inception(images).pool
    assert found == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    assert 0.2 < found.mean() < 0.8, "features of a trained network"


def test_the_network_remembers_what_it_saw(true_parts, tmp_path, monkeypatch):
    monkeypatch.setattr(real, "_seen", lambda: tmp_path)
    first, images = real.Remembered(), true_parts["test"][[0, 1, 0]]
    found = first(images)
    assert [len(file["sha256"]) for file in map(np.load, tmp_path.iterdir())] == [2], "each picture once"
    assert np.array_equal(found.pool[0], found.pool[2])
    assert found.class_probs is None

    def compute(self, images):
        raise AssertionError(f"{len(images)} pictures pass through the network again")

    monkeypatch.setattr(real.TorchInception, "__call__", compute)
    again = real.Remembered()(images[::-1])
    assert np.array_equal(again.pool, found.pool[::-1])
    assert np.array_equal(again.spatial, found.spatial[::-1])


@pytest.mark.long
def test_torch_fidelitys_published_values_come_out(true_inception, true_parts):
    """FID within 1e-4, KID and its standard deviation within 1e-7, of 5,000 pictures of each set."""
    chosen = [each for each in anchors() if each.gen.last == each.ref.last == 5_000 and each.gen.part == "train"]
    assert [each.metric for each in chosen] == ["fid", "kid", "kid_std"]
    found = verify_anchors(
        chosen, parts=true_parts, network=true_inception, where=Where(cache=real.folder() / "features")
    )
    assert found.passed, found.text()


@pytest.mark.long
def test_all_published_numbers_come_out_of_kept_features(true_inception, true_parts):
    """Training set against test set and the rest, where the features of all 65,000 pictures are kept already."""
    kept = real.folder() / "features"
    try:
        found = verify_anchors(
            anchors(), parts=true_parts, network=Counting(true_inception, most=0), where=Where(cache=kept)
        )
    except KeyboardInterrupt:
        command = f"dit-eval verify --published cifar10 --weights {real.inception()} --cache {kept}"
        pytest.skip(f"takes two hours of a core: DIT_EVAL_CACHE={real.cifar10()} {command}")
    assert found.passed, found.text()
