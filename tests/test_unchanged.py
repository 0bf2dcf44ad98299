"""Files that are replaced or written to while they are in use: nothing is cached, or told, of two contents at once."""

import gzip
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating import evaluate
from PIL import Image

from dit_eval.checks.pixels import read_pixels
from dit_eval.cli import main
from dit_eval.diffusion import labels
from dit_eval.diffusion.data import open_npz
from dit_eval.diffusion.labels import read_labels
from dit_eval.features import inception
from dit_eval.features.extract import extract_features
from dit_eval.features.inception import TorchInception
from dit_eval.images import from_dataset, open_images
from dit_eval.images.npz import open_batch
from dit_eval.models import choose
from dit_eval.reference import write_reference
from dit_eval.system.assets import asset
from dit_eval.system.dist import World
from dit_eval.system.files import Watch

CHANGED = r"was replaced or written to while it was in use"
COUNT = 12


def images_of(seed):
    return np.random.RandomState(seed).randint(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=0)  # all of one size, whatever is in them
    return file.getvalue()


def npz(path, images):
    np.savez(path, arr_0=images)


def packed_npz(path, images):
    np.savez_compressed(path, arr_0=images)


def folder(path, images):
    path.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        (path / f"{number}.png").write_bytes(png(image))


def zipped(path, images):
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(zipfile.ZipInfo(f"{number}.png"), png(image))


def tarred(path, images):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, image in enumerate(images):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(png(image))
            archive.addfile(info, io.BytesIO(png(image)))
    path.write_bytes(gzip.compress(file.getvalue(), 0, mtime=0) if path.suffix == ".gz" else file.getvalue())


def dataset(path, images):
    datasets = pytest.importorskip("datasets")
    cells = [{"bytes": png(image), "path": None} for image in images]
    rows = datasets.Dataset.from_dict({"image": cells}, features=datasets.Features({"image": datasets.Image()}))
    rows.save_to_disk(path)


KINDS = {"x.npz": npz, "packed.npz": packed_npz, "x": folder, "x.zip": zipped, "x.tar": tarred, "x.tar.gz": tarred}


def replaced(old, new):
    os.replace(new, old)


def written(old, new):
    old.write_bytes(new.read_bytes())


def written_and_dated_back(old, new):
    times = os.stat(old)
    written(old, new)
    os.utime(old, ns=(times.st_atime_ns, times.st_mtime_ns))


WAYS = (replaced, written, written_and_dated_back)


def one_of(path):
    """The file itself, or one in the middle of a folder."""
    return path / "7.png" if path.is_dir() else path


class Interrupted:
    """The digits network; before its first batch, or after its last, something happens."""

    def __init__(self, extractor, happens, *, at):
        self.load_extractor, self._happens, self._left = extractor, happens, at

    def __getattr__(self, name):
        return getattr(self.load_extractor, name)

    def __call__(self, images):
        if self._left == 0:
            self._happens()
        self._left -= 1
        return self.load_extractor(images)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cached_of_images_that_changed_after_their_checksum(
    tmp_path, kind, way, digits_ref, digits_extractor, monkeypatch
):
    path, other = tmp_path / kind, tmp_path / f"other-{kind}"
    KINDS[kind](path, images_of(0))
    KINDS[kind](other, images_of(1))
    if kind != "packed.npz":
        assert one_of(path).stat().st_size == one_of(other).stat().st_size, "size alone tells nothing"
    gen, ref = open_images(path, role="gen"), open_images(digits_ref, role="ref")
    checksum, cache = type(gen).sha256, tmp_path / "cache"

    def checksum_then_change(images, on_progress=None):
        found = checksum(images, on_progress)
        if images is gen:
            way(one_of(path), one_of(other))
        return found

    monkeypatch.setattr(type(gen), "sha256", checksum_then_change)
    with pytest.raises(ValueError, match=CHANGED):
        evaluate(gen=gen, ref=ref, extractor=digits_extractor, metrics=["fid"], cache=cache)
    monkeypatch.undo()
    assert not cache.exists() or not list(cache.iterdir())
    # As a new file, it is scored for what it is.
    again = open_images(path, role="gen")
    expected = images_of(0) if kind == "x" else images_of(1)
    if kind == "x":
        expected[7] = images_of(1)[7]
    np.testing.assert_array_equal(np.concatenate(list(again.batches(5))), expected)
    found = evaluate(gen=again, ref=ref, extractor=digits_extractor, metrics=["fid"], cache=cache)
    npz(tmp_path / "right.npz", expected)
    right = open_images(tmp_path / "right.npz", role="gen")
    assert found.fid == evaluate(gen=right, ref=ref, extractor=digits_extractor, metrics=["fid"]).fid


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [0, 2])
def test_images_that_change_while_the_network_runs_are_refused(tmp_path, kind, at, digits_ref, digits_extractor):
    path, other = tmp_path / kind, tmp_path / f"other-{kind}"
    KINDS[kind](path, images_of(0))
    KINDS[kind](other, images_of(1))
    network = Interrupted(digits_extractor, lambda: replaced(one_of(path), one_of(other)), at=at)
    gen, ref = open_images(path, role="gen"), open_images(digits_ref, role="ref")
    with pytest.raises(ValueError, match=CHANGED):
        evaluate(gen=gen, ref=ref, extractor=network, metrics=["fid"], batch_size=4, cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_are_left_alone_or_only_read_and_looked_at_are_not_refused(
    tmp_path, kind, digits_ref, digits_extractor
):
    path = tmp_path / kind
    KINDS[kind](path, images_of(0))
    os.utime(one_of(path), ns=(1, 1))  # a date in the past, before it is opened
    network = Interrupted(digits_extractor, lambda: (one_of(path).read_bytes(), one_of(path).stat()), at=0)
    (tmp_path / "beside.png").write_bytes(b"")
    gen, ref = open_images(path, role="gen"), open_images(digits_ref, role="ref")
    evaluate(gen=gen, ref=ref, extractor=network, metrics=["fid"], cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_saved_dataset_that_changes_is_refused(tmp_path, capsys):
    dataset(tmp_path / "saved", images_of(0))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    images = open_images(tmp_path / "saved", role="gen")
    images.sha256()
    written(arrow, arrow)
    with pytest.raises(ValueError, match=CHANGED):
        images.check_unchanged()
    datasets = pytest.importorskip("datasets")
    folder(tmp_path / "files", images_of(0))
    paths = [str(tmp_path / "files" / f"{k}.png") for k in range(COUNT)]
    linked = from_dataset(datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image()))
    linked.sha256()
    written(Path(paths[3]), Path(paths[4]))
    with pytest.raises(ValueError, match=rf"3\.png: {CHANGED}"):
        list(linked.batches(4))
    capsys.readouterr()


def test_statistics_and_images_of_a_reference_are_of_one_file(tmp_path, digits_ref, digits_extractor):
    path = tmp_path / "ref.npz"
    shutil.copy(digits_ref, path)
    npz(tmp_path / "x.npz", images_of(0))
    gen, ref = open_images(tmp_path / "x.npz", role="gen"), open_batch(path, role="ref")
    written(path, path)
    with pytest.raises(ValueError, match=rf"ref\.npz: {CHANGED}"):
        evaluate(gen=gen, ref=ref, extractor=digits_extractor, metrics=["fid"])


def test_a_reference_is_not_made_of_two_contents(tmp_path, digits_extractor):
    folder(tmp_path / "x", images_of(0))
    images = open_images(tmp_path / "x", role="gen")
    passes, batches = [], type(images).batches

    def second_pass_differs(self, *arguments, **options):
        passes.append(1)
        if len(passes) == 2:
            written(tmp_path / "x" / "3.png", tmp_path / "x" / "4.png")
        return batches(self, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(images), "batches", second_pass_differs)
        with pytest.raises(ValueError, match=rf"3\.png: {CHANGED}"):
            write_reference(images=images, out=tmp_path / "ref.npz", extractor=digits_extractor)
    assert len(passes) == 2
    assert not (tmp_path / "ref.npz").exists()


def test_pixels_and_training_data_are_of_one_content(tmp_path):
    npz(tmp_path / "x.npz", images_of(0))
    images = open_images(tmp_path / "x.npz", role="gen")
    with pytest.raises(ValueError, match=CHANGED):
        read_pixels(images, on_progress=lambda *_: written(tmp_path / "x.npz", tmp_path / "x.npz"))
    array = type(images).array
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(images), "array", lambda self: (array(self), written(self.path, self.path))[0])
        with pytest.raises(ValueError, match=CHANGED):
            open_npz(tmp_path / "x.npz")


def test_weights_and_their_checksum_are_of_one_file(tmp_path, inception_files, monkeypatch):
    path = tmp_path / "weights.pth"
    os.link(inception_files.pth, path)
    read = inception.read_state_dict

    def read_then_replace(weights):
        state = read(weights)
        torch.save({"another": torch.zeros(1)}, tmp_path / "other.pth")
        os.replace(tmp_path / "other.pth", path)
        return state

    monkeypatch.setattr("dit_eval.features.inception.read_state_dict", read_then_replace)
    with pytest.raises(ValueError, match=rf"weights\.pth: {CHANGED}"):
        TorchInception(weights=path)


def test_a_sample_run_names_the_checkpoint_that_was_loaded(tmp_path, capsys, monkeypatch):
    path = tmp_path / "x.safetensors"
    shutil.copy(asset("dit-digits").path, path)
    load = choose.open_checkpoint

    def replace_then_load(*arguments, **options):
        written(path, path)
        return load(*arguments, **options)

    monkeypatch.setattr(choose, "open_checkpoint", replace_then_load)
    with pytest.raises(SystemExit) as exit_:
        main(
            [
                "sample",
                "--ckpt",
                str(path),
                "--out",
                str(tmp_path / "y.npz"),
                "--num-fid-samples",
                "4",
                "--device",
                "cpu",
            ]
        )
    assert exit_.value.code == 2
    assert f"{path}: was replaced or written to" in capsys.readouterr().err
    assert not (tmp_path / "y.npz").exists()


def test_labels_and_their_checksum_are_of_one_file(tmp_path, monkeypatch):
    path = tmp_path / "labels.npy"
    np.save(path, np.arange(5))
    load = labels._labels_of_array
    monkeypatch.setattr(labels, "_labels_of_array", lambda *given: (load(*given), written(path, path))[0])
    with pytest.raises(ValueError, match=rf"labels\.npy: {CHANGED}"):
        read_labels(path, num_images=5, num_classes=5)


class FirstOfTwo(World):
    """Process 0 of two, without the other."""

    def from_first(self, function):
        return function()

    def most(self, number):
        return number

    def collect(self, rows):
        return rows


def test_the_first_process_looks_again_at_what_others_have_read(tmp_path, digits_extractor):
    folder(tmp_path / "x", images_of(0))
    images, world = open_images(tmp_path / "x", role="gen"), FirstOfTwo(rank=0, size=2)
    images.sha256()
    assert len(extract_features(images, digits_extractor, batch_size=2, world=world).pool_features) == COUNT // 2
    written(tmp_path / "x" / "11.png", tmp_path / "x" / "3.png")  # not of its own half
    with pytest.raises(ValueError, match=rf"11\.png: {CHANGED}"):
        extract_features(images, digits_extractor, batch_size=2, world=world)


def test_a_watch_tells_what_has_become_of_a_file(tmp_path):
    path, gone = tmp_path / "a\x1b[2J", tmp_path / "gone"
    path.write_bytes(b"1")
    watch = Watch(path, gone)
    watch.check()
    watch.see(path)
    gone.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"gone: {CHANGED}"):
        watch.check()
    gone.unlink()
    watch.check()
    path.unlink()
    with pytest.raises(ValueError, match=rf"a\\x1b\[2J: {CHANGED}"):
        watch.check()
