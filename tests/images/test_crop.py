"""Photographs of any size, mode and turn, cropped: pixel for pixel what torchvision's and ADM's own pipelines give."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from contextlib import suppress

import numpy as np
import pyarrow.parquet
import pytest
from filelock import FileLock
from PIL import Image
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import CenterCrop, Compose, Resize

from dit_eval.cli import main
from dit_eval.evaluation import evaluate
from dit_eval.features import moments
from dit_eval.features.cache import features_of
from dit_eval.features.extract import extract_features
from dit_eval.features.moments import sum_features
from dit_eval.features.network import FeatureBatch
from dit_eval.images import Crop, open_images
from dit_eval.reference import write_reference
from dit_eval.report.tables.leaderboard import crop_lines

MODES = ("RGB", "L", "CMYK", "P", "RGBA")
SIDE = 32


def adm(image):
    """ADM's crop, written again from its description."""
    while min(image.size) >= 2 * SIDE:
        image = image.resize(tuple(x // 2 for x in image.size), Image.BOX)
    scale = SIDE / min(image.size)
    pixels = np.array(image.resize(tuple(round(x * scale) for x in image.size), Image.BICUBIC))
    top, left = ((x - SIDE) // 2 for x in pixels.shape[:2])
    return pixels[top : top + SIDE, left : left + SIDE]


PLAIN = {"adm": adm, "torchvision": Compose([Resize(SIDE), CenterCrop(SIDE), np.array])}


def photograph(path, number):
    """A picture whose size, mode, quality and EXIF turn follow from its number; its true format is that of its mode."""
    random = np.random.default_rng(number)
    width, height = (int(x) for x in random.integers(20, 150, 2))
    small = random.integers(0, 256, (7, 9, 3), np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.BICUBIC).convert(MODES[number % 5])
    exif = Image.Exif()
    if number % 3:
        exif[0x0112] = 1 + number % 8  # orientation
    kind = "PNG" if image.mode in ("P", "RGBA") else "JPEG"
    options = {"transparency": 3} if image.mode == "P" and number % 2 else {}
    options |= {"quality": 60 + number % 40, "progressive": number % 4 == 0} if kind == "JPEG" else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, exif=exif, **options)


def photographs(folder, count, classes=1):
    """So many, in class folders if there are several; the paths in order."""
    paths = []
    for number in range(count):
        # ImageNet too has a PNG under this ending.
        path = folder / (f"n{number * classes // count:08d}" if classes > 1 else "") / f"val_{number:08d}.JPEG"
        photograph(path, number)
        paths.append(path)
    return paths


def plainly(paths, rule):
    return np.stack([PLAIN[rule](pil_loader(path)) for path in paths])


def read(path, rule="adm", **options):
    images = open_images(path, role="ref", crop=Crop(size=SIDE, rule=rule), **options)
    return images, np.concatenate(list(images.batches(17)))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("count", [60, pytest.param(2_000, marks=pytest.mark.slow)])
def test_crops_are_those_of_a_plain_pipeline(tmp_path, count):
    paths = photographs(tmp_path / "raw", count)
    for rule in PLAIN:
        images, pixels = read(tmp_path / "raw", rule)
        assert (images.image_size, images.num_images, images.labels, images.warnings) == ((SIDE, SIDE), count, None, ())
        np.testing.assert_array_equal(pixels, plainly(paths, rule))


def test_a_turn_in_exif_is_not_followed(tmp_path):
    """As ImageFolder, which reads the pixels as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)).save(tmp_path / "a.jpg", exif=exif)
    _, pixels = read(tmp_path)
    np.testing.assert_array_equal(pixels[0], np.array(Image.open(tmp_path / "a.jpg")))


def test_what_has_the_size_stays_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    for rule in PLAIN:
        np.testing.assert_array_equal(read(tmp_path, rule)[1], pixels)


# ---- references


def stats(*options):
    with pytest.raises(SystemExit) as exit_:
        main(["stats", *map(str, options), "--extractor", "digits", "--device", "cpu", "--batch-size", "16"])
    return exit_.value.code


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_a_reference_of_photographs(tmp_path, capsys, digits_extractor):
    paths = photographs(tmp_path / "raw", 60, classes=3)
    out = tmp_path / "ref.npz"
    assert stats(tmp_path / "raw", "--out", out, "--center-crop", SIDE, "--num-images", 50) in (0, None)
    assert "60 images of 32x32 px, cut to it by ADM's rule" in capsys.readouterr().err
    with zipfile.ZipFile(out) as file:
        assert json.loads(file.comment)["made_from"]["crop"] == "adm-32"
    np.savez(tmp_path / "cropped.npz", arr_0=plainly(paths, "adm"))
    expected = extract_features(open_images(tmp_path / "cropped.npz", role="gen"), digits_extractor, batch_size=16)
    with np.load(out) as found:
        np.testing.assert_array_equal(found["mu"], expected.pool.mu)
        np.testing.assert_array_equal(found["sigma"], expected.pool.sigma)
        assert (found["arr_0"].shape, sorted(set(found["arr_1"]))) == ((50, SIDE, SIDE, 3), [0, 1, 2])


def test_the_crop_is_in_results_and_in_keys(tmp_path, digits_extractor):
    photographs(tmp_path / "raw", 12)
    sets = [open_images(tmp_path / "raw", role="ref", crop=Crop(size=SIDE, rule=rule)) for rule in PLAIN]
    keys = [features_of(images, digits_extractor, images_sha256=images.sha256()) for images in sets]
    assert [key.pop("crop") for key in keys] == ["adm-32", "torchvision-32"]
    assert keys[0] == keys[1]
    result = evaluate(sets[0], ref=sets[1], network=digits_extractor, metrics=["fid"], quiet=True)
    assert (result.gen.crop, result.ref.crop) == ("adm-32", "torchvision-32")
    assert type(result).from_json(result.to_json()) == result
    lines = result.text().splitlines()
    assert any(line.endswith("12 images, 32x32 px   cut to 32 px by ADM's rule") for line in lines) or (
        "     cut to 32 px by ADM's rule" in lines
    )
    assert any("cut to 32 px by torchvision's rule" in line for line in lines)
    assert crop_lines([result, result]) == [
        "raw: cut to 32 px by ADM's rule.",
        "raw: cut to 32 px by torchvision's rule.",
    ]


def test_a_result_says_how_the_images_of_a_reference_were_cut(tmp_path, digits_extractor):
    photographs(tmp_path / "raw", 80)
    raw = open_images(tmp_path / "raw", role="ref", crop=Crop(size=SIDE))
    write_reference(images=raw, out=tmp_path / "ref.npz", extractor=digits_extractor, num_images=20)
    ref = open_images(tmp_path / "ref.npz", role="ref")
    result = evaluate(raw, ref=ref, network=digits_extractor, metrics=["fid", "precision"], quiet=True)
    assert result.ref.crop == "adm-32"
    assert "cut to 32 px by ADM's rule" in result.text().partition("ref  ")[2]
    with zipfile.ZipFile(tmp_path / "ref.npz", "a") as file:
        file.comment = file.comment.replace(b"adm-32", b"\\u001b[2")
    assert open_images(tmp_path / "ref.npz", role="ref").made_crop is None, "whatever a file says"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--center-crop", 0], "--center-crop: expected at least 1; got 0"),
        (["--crop-rule", "adm"], "--crop-rule adm: expected --center-crop beside it"),
        (["--center-crop", 8], "--center-crop 8: expected image files, got .*a.npz, whose images have one size"),
    ],
)
def test_a_crop_that_means_nothing_is_refused(tmp_path, capsys, options, said):
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8))
    assert stats(tmp_path / "a.npz", "--out", tmp_path / "b.npz", *options) == 2
    assert re.search(said, capsys.readouterr().err)


# ---- runs that are stopped


class Stopping:
    """A network that fails, or kills its process, at the so-many-th batch."""

    def __init__(self, network, batches, stop):
        self._network, self._left, self._stop = network, batches, stop

    def __getattr__(self, name):
        return getattr(self._network, name)

    def __call__(self, batch):
        self._left -= 1
        if self._left < 0:
            self._stop()
        return self._network(batch)


def interrupted():
    raise KeyboardInterrupt


def made(path):
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def make(folder, out, network, notes=None):
    images = open_images(folder, role="ref", crop=Crop(size=SIDE))
    note = None if notes is None else notes.append
    return write_reference(images=images, out=out, extractor=network, batch_size=8, num_images=5, on_note=note)


@pytest.fixture
def whole(tmp_path, digits_extractor):
    photographs(tmp_path / "raw", 60)
    make(tmp_path / "raw", tmp_path / "whole.npz", digits_extractor)
    assert sorted(os.listdir(tmp_path)) == ["raw", "whole.npz"]  # a short run keeps nothing
    return made(tmp_path / "whole.npz")


def stopped(tmp_path, monkeypatch, network, batches=4):
    monkeypatch.setattr(moments, "SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "raw", tmp_path / "ref.npz", Stopping(network, batches, interrupted))
    return tmp_path / "ref.npz.parts"


def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path, monkeypatch, whole, digits_extractor):
    stopped(tmp_path, monkeypatch, digits_extractor)
    notes, seen = [], Stopping(digits_extractor, 4, interrupted)  # 4 of 8 batches are left
    make(tmp_path / "raw", tmp_path / "ref.npz", seen, notes)
    assert notes == [f"{tmp_path / 'ref.npz.parts'}: goes on after 32 images"]
    found = made(tmp_path / "ref.npz")
    assert found.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(found[name], array)
    assert not (tmp_path / "ref.npz.parts").exists()


@pytest.mark.parametrize("at", [0, 3_000, -1, -40])
def test_damaged_sums_are_made_again(tmp_path, monkeypatch, whole, digits_extractor, at):
    sums = stopped(tmp_path, monkeypatch, digits_extractor) / "sums"
    data = bytearray(sums.read_bytes())
    data[at] ^= 4
    sums.write_bytes(data)
    notes = []
    make(tmp_path / "raw", tmp_path / "ref.npz", digits_extractor, notes)
    assert len(notes) == 1
    assert notes[0].endswith("begun again")
    np.testing.assert_array_equal(made(tmp_path / "ref.npz")["sigma"], whole["sigma"])


def test_one_run_at_a_time_sums(tmp_path, monkeypatch, whole, digits_extractor):
    parts = stopped(tmp_path, monkeypatch, digits_extractor)
    with FileLock(parts / "lock"), pytest.raises(ValueError, match="another process is making statistics there"):
        make(tmp_path / "raw", tmp_path / "ref.npz", digits_extractor)


def test_sums_of_another_run_are_not_taken(tmp_path, monkeypatch, whole, digits_extractor):
    stopped(tmp_path, monkeypatch, digits_extractor)
    images = open_images(tmp_path / "raw", role="ref", crop=Crop(size=SIDE, rule="torchvision"))
    with pytest.raises(ValueError, match=r"is of another run: crop: 'torchvision-32', 'adm-32'"):
        write_reference(images=images, out=tmp_path / "ref.npz", extractor=digits_extractor)
    photograph(tmp_path / "raw" / "val_00000003.JPEG", 1_000)
    with pytest.raises(ValueError, match=r"is of another run: images: "):
        make(tmp_path / "raw", tmp_path / "ref.npz", digits_extractor)


KILLED = """
import os, signal, sys
from pathlib import Path
from dit_eval.features import moments
from dit_eval.features.digits import DigitsExtractor
from dit_eval.images import Crop, open_images
from dit_eval.reference import write_reference

class Killing(DigitsExtractor):
    batches = 0
    def __call__(self, batch):
        self.batches += 1
        if self.batches == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)

moments.SECONDS = 0.0
images = open_images(sys.argv[1], role="ref", crop=Crop(size=32))
write_reference(images=images, out=Path(sys.argv[2]), extractor=Killing(), batch_size=8, num_images=5)
"""


@pytest.mark.processes
def test_a_killed_run_goes_on(tmp_path, whole, digits_extractor):
    command = [sys.executable, "-c", KILLED, str(tmp_path / "raw"), str(tmp_path / "ref.npz")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    notes = []
    make(tmp_path / "raw", tmp_path / "ref.npz", Stopping(digits_extractor, 4, interrupted), notes)
    assert "goes on after 32 images" in notes[0]
    np.testing.assert_array_equal(made(tmp_path / "ref.npz")["sigma"], whole["sigma"])
    assert sorted(os.listdir(tmp_path)) == ["raw", "ref.npz", "whole.npz"]


# ---- archives and tables


def packed(path, members):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, source in members:
            archive.add(source, name)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_imagenets_own_archives(tmp_path):
    """Validation: a tar of 50,000 files. Training: a tar with a tar for each class."""
    paths = photographs(tmp_path / "raw", 30, classes=3)
    packed(tmp_path / "ILSVRC2012_img_val.tar", [(path.name, path) for path in paths])
    images, pixels = read(tmp_path / "ILSVRC2012_img_val.tar")
    assert images.labels is None
    np.testing.assert_array_equal(pixels, plainly(paths, "adm"))

    classes = sorted((tmp_path / "raw").iterdir())
    for folder in classes:
        packed(tmp_path / f"{folder.name}.tar", [(path.name, path) for path in sorted(folder.iterdir())])
    # In no order, as the released one is.
    packed(tmp_path / "train.tar", [(f"{each.name}.tar", tmp_path / f"{each.name}.tar") for each in classes[::-1]])
    images, pixels = read(tmp_path / "train.tar")
    assert images.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    np.testing.assert_array_equal(pixels, plainly(paths, "adm"))
    folder, _ = read(tmp_path / "raw")
    assert images.sha256() == folder.sha256()


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        (b"no tar" * 200, r"no tar header at byte"),
        (b"", r"n1\.tar: ends within a member"),
        ("cut", r"n1\.tar: ends within a member"),
        ("deeper", r"n1/n2\.tar: an archive in the archive"),
        ("leading out", r"leads out of the archive"),
    ],
)
def test_a_bad_archive_in_an_archive_is_named(tmp_path, inside, said):
    photograph(tmp_path / "a.JPEG", 0)
    member = tmp_path / "n1.tar"
    name = {"deeper": "n2.tar", "leading out": "../a.JPEG"}.get(inside, "a.JPEG")
    packed(member, [(name, tmp_path / "a.JPEG")])
    if inside == "cut":
        member.write_bytes(member.read_bytes()[:1_000])
    elif isinstance(inside, bytes):
        member.write_bytes(inside)
    packed(tmp_path / "x.tar", [("n1.tar", member)])
    with pytest.raises(ValueError, match=said):
        open_images(tmp_path / "x.tar", role="gen")


def table(path, paths, labels=None, **options):
    rows = [{"bytes": each.read_bytes(), "path": each.name} for each in paths]
    columns = {"image": rows} | ({} if labels is None else {"label": labels})
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=7, **options)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_parquet_files_as_hugging_face_has_imagenet(tmp_path):
    paths = photographs(tmp_path / "raw", 50)
    (tmp_path / "data").mkdir()
    for k, part in enumerate((paths[:30], paths[30:])):
        table(tmp_path / "data" / f"validation-{k:05d}-of-00002.parquet", part, [each % 4 for each in range(len(part))])
    images, pixels = read(tmp_path / "data")
    expected = plainly(paths, "adm")
    np.testing.assert_array_equal(pixels, expected)
    assert images.labels.tolist() == [*(k % 4 for k in range(30)), *(k % 4 for k in range(20))]
    assert images.sha256() == read(tmp_path / "raw")[0].sha256()
    for first in (5, 13, 29, 30, 44):  # as a run goes on
        np.testing.assert_array_equal(np.concatenate(list(images.batches(4, first=first))), expected[first:])
    table(tmp_path / "test.parquet", paths[:3], [-1] * 3)  # where nobody says what they show
    assert read(tmp_path / "test.parquet")[0].labels is None
    table(tmp_path / "data" / "train-00000-of-00001.parquet", paths[:3])
    with pytest.raises(ValueError, match="several splits: train, validation"):
        read(tmp_path / "data")


def test_bad_parquet_files_are_named(tmp_path):
    paths = photographs(tmp_path / "raw", 8)
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), path)
    with pytest.raises(ValueError, match=r"0 columns of images; needed one, with bytes\. Has: a"):
        read(path)
    table(path, paths, compression="none")
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for cut in (0, 4, 11, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"x\.parquet: cannot be read as a parquet file"):
            read(path)
    for _ in range(60):  # damage ends in an image set or in a message
        data = bytearray(whole)
        data[int(random.integers(len(data) - 900, len(data)))] = int(random.integers(256))
        path.write_bytes(data)
        with suppress(ValueError):
            read(path)


class Wide:
    """A network of 1,024 features."""

    name, weights_sha256, backend, precision, device = "wide", "0" * 64, "torch", "fp32", "cpu"
    pool_dim, spatial_dim, num_classes = 1_024, None, None

    def __call__(self, batch):
        rows = batch.reshape(len(batch), -1)[:, : self.pool_dim].astype(np.float32)
        return FeatureBatch(pool=rows, spatial=None, class_probs=None)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Kept features would be 4 kB an image, decoded images 3 kB, files held 1 to 3 kB."""
    paths, peaks = photographs(tmp_path / "some", 40), []
    for count in (200, 1_200):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(paths[number % 40], folder / f"{number}.JPEG")
        images = open_images(folder, role="ref", crop=Crop(size=SIDE))
        images.sha256()
        tracemalloc.start()
        sum_features(images, Wide(), kept=None, batch_size=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1_000 * 800  # of each image, what tells that its file is still the same
