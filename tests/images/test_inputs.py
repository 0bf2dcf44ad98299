"""The same images from wherever they lie give the same results; what is no set of images is refused with its reason."""

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import resource
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluating import evaluate
from PIL import Image

import dit_eval
from dit_eval.cli import main
from dit_eval.diffusion.data import list_images
from dit_eval.images import READERS, from_batches, from_dataset, open_images
from dit_eval.images import tar as sources
from dit_eval.images.listing import in_order
from dit_eval.images.npz import open_batch
from dit_eval.reference import write_reference
from dit_eval.results.eval_result import EvalResult

VALUES = ("fid", "sfid", "inception_score", "inception_score_order_free", "precision", "recall")
COUNT = 70  # a batch of 64 and a short one


def png(image, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", **options)
    return file.getvalue()


def jpeg(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG")
    return file.getvalue()


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files, mode="w", **options):
    with tarfile.open(path, mode, **options) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shuffled(files):
    names = list(files)
    return {names[i]: files[names[i]] for i in np.random.RandomState(1).permutation(len(names))}


def read_all(images, batch_size=16):
    return np.concatenate(list(images.batches(batch_size)))


@pytest.fixture(scope="module")
def images(digits):
    noise = np.random.RandomState(0).randint(-40, 41, (COUNT, 8, 8, 3))
    return (digits.images[:COUNT] + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def files(images):
    """As a sampler counts them, without zeros in front."""
    return {f"{k}.png": png(image) for k, image in enumerate(images)}


@pytest.fixture(scope="module")
def places(tmp_path_factory, images, files):
    """The same images in every kind of file, archives in another order than their names'."""
    path, mixed = tmp_path_factory.mktemp("places"), shuffled(files)
    np.savez(path / "x.npz", arr_0=images)
    write_folder(path / "folder", files)
    write_zip(path / "x.zip", mixed)
    write_tar(path / "x.tar", mixed)
    write_tar(path / "x.tar.gz", mixed, "w:gz")
    write_tar(path / "sorted.tgz", {f"run/{name}": files[name] for name in files}, "w:gz", format=tarfile.USTAR_FORMAT)
    return path


PLACES = ("folder", "x.zip", "x.tar", "x.tar.gz", "sorted.tgz")


def score(gen, ref, extractor, **options):
    return evaluate(gen=gen, ref=ref, extractor=extractor, **options)


@pytest.fixture(scope="module")
def expected(places, digits_ref, digits_extractor):
    gen, ref = open_images(places / "x.npz", role="gen"), open_images(digits_ref, role="ref")
    return score(gen, ref, digits_extractor)


def values(result):
    return {name: getattr(result, name) for name in VALUES}


# ---- formats


def test_readers_are_tried_in_order_and_the_first_that_recognises_a_path_opens_it(places, tmp_path):
    (tmp_path / "saved").mkdir()
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / "saved" / name).write_text("{}", encoding="utf-8")
    chosen = {
        path.name: next(reader.name for reader in READERS if reader.recognises(path))
        for path in (*places.iterdir(), tmp_path / "saved", tmp_path / "nothing there.zip")
    }
    assert chosen == {
        **{"saved": "saved dataset", "folder": "folder", "x.zip": "zip", "x.npz": "npz", "nothing there.zip": "npz"},
        **{"x.tar": "tar", "x.tar.gz": "tar", "sorted.tgz": "tar"},
    }
    assert [reader.name for reader in READERS] == [
        *("saved dataset", "parquet", "folder of tars", "folder", "zip", "tar", "npz"),
    ]


def test_the_order_of_names_is_that_of_their_parts_numbers_by_value():
    """The key is one text, for the memory that it takes; here it is written as lists, as one would say it."""

    def key(name):
        parts = (re.split(r"([0-9]+)", part) for part in name.split("/"))
        return [[int(t) if k % 2 else t for k, t in enumerate(part)] for part in parts], name

    random = np.random.default_rng(5)
    for _ in range(40):
        names = ["".join(random.choice([*"ab0012/\x01.\u00e9"], random.integers(1, 9))) for _ in range(200)]
        names = ["/".join(part for part in name.split("/") if part) or "x" for name in names]
        assert sorted(names, key=in_order) == sorted(names, key=key)


def test_opening_an_npz_loads_neither_pillow_nor_torch(places):
    code = (
        "import sys; from dit_eval.images import open_images\n"
        f"open_images({str(places / 'x.npz')!r}, role='gen').array()\n"
        "sys.exit(','.join({'PIL', 'torch', 'datasets'} & set(sys.modules)) or 0)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(dit_eval.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- the same images


@pytest.mark.parametrize("place", PLACES)
def test_results_do_not_depend_on_where_the_images_lie(places, place, expected, digits_ref, digits_extractor):
    gen = open_images(places / place, role="gen")
    found = score(gen, open_images(digits_ref, role="ref"), digits_extractor)
    assert values(found) == values(expected)
    assert (found.num_samples, found.gen.image_size) == (COUNT, (8, 8))
    # As the reference: moments and manifold of its images.
    ref = {name: open_images(places / name, role="ref") for name in (place, "x.npz")}
    samples = open_images(digits_ref, role="gen", num_images=100)
    a, b = (score(samples, ref[name], digits_extractor) for name in (place, "x.npz"))
    assert values(a) == values(b)
    assert a.num_reference == COUNT


@pytest.mark.parametrize("place", PLACES)
def test_any_part_can_be_read_in_order(places, place, images):
    opened = open_images(places / place, role="gen")
    for batch_size, first, last in ((1, 0, None), (7, 0, None), (64, 64, 70), (5, 33, 48), (100, 0, 100)):
        found = list(opened.batches(batch_size, first=first, last=last))
        np.testing.assert_array_equal(np.concatenate(found), images[first : last or COUNT])
        assert found[0].flags.writeable, "torch warns of arrays that are not"
        assert all(len(batch) == batch_size for batch in found[:-1])
    some = open_images(places / place, role="gen", num_images=11)
    np.testing.assert_array_equal(read_all(some), images[:11])


def test_a_compressed_tar_out_of_order_is_read_in_several_passes_with_little_held(places, images, monkeypatch):
    opened = open_images(places / "x.tar.gz", role="gen")
    assert any("not in order" in w for w in opened.warnings)
    assert not any("order" in w for w in open_images(places / "sorted.tgz", role="gen").warnings)
    begun = []
    stream = sources._Stream
    monkeypatch.setattr(sources, "_WINDOW", 1000)  # some five of these files
    monkeypatch.setattr(sources, "_Stream", lambda *a, **k: (begun.append(1), stream(*a, **k))[1])
    np.testing.assert_array_equal(read_all(opened), images)
    assert 10 < len(begun) < COUNT
    begun.clear()
    np.testing.assert_array_equal(read_all(open_images(places / "sorted.tgz", role="gen")), images)
    assert len(begun) == 3, "to list, to see the first image, to read"


def test_the_checksum_is_of_the_files_and_what_sha256sum_says(places, files, tmp_path):
    lines = "".join(f"{hashlib.sha256(data).hexdigest()}\n" for data in files.values())
    known = hashlib.sha256(lines.encode()).hexdigest()
    assert {open_images(places / place, role="gen").sha256() for place in PLACES} == {known}
    shell = "ls -v | xargs sha256sum | cut -c-64 | sha256sum"
    said = subprocess.run(shell, shell=True, cwd=places / "folder", capture_output=True, text=True, check=True)
    assert said.stdout.split()[0] == known
    renamed = write_folder(tmp_path / "renamed", {f"{k:06d}.png": data for k, data in enumerate(files.values())})
    assert open_images(renamed, role="gen").sha256() == known
    swapped = dict(zip(files, [files["1.png"], files["0.png"], *list(files.values())[2:]], strict=True))
    assert open_images(write_zip(tmp_path / "swapped.zip", swapped), role="gen").sha256() != known
    assert open_images(places / "folder", role="gen", num_images=5).sha256() != known


def test_a_cache_made_of_a_zip_serves_the_folder(places, expected, tmp_path, digits_ref, digits_extractor, monkeypatch):
    options = {"ref": open_images(digits_ref, role="ref"), "cache": tmp_path}
    score(open_images(places / "x.zip", role="gen"), extractor=digits_extractor, **options)
    monkeypatch.setattr(type(digits_extractor), "__call__", lambda *_: pytest.fail("a network ran"))
    found = score(open_images(places / "folder", role="gen"), extractor=digits_extractor, **options)
    assert values(found) == values(expected)


def test_names_are_ordered_by_numbers_and_folder_by_folder():
    names = ["a/2.png", "a/10.png", "a-b/1.png", "10.png", "9.png", "09.png", "x1y20.png", "x1y3.png", "b", "B"]
    assert sorted(names, key=in_order) == [
        "09.png", "9.png", "10.png", "B", "a/2.png", "a/10.png", "a-b/1.png", "b", "x1y3.png", "x1y20.png"
    ]  # fmt: skip
    assert sorted(["9" * 6000, "1" + "0" * 6000], key=in_order)[0][0] == "9", "longer than Python's integers from text"


@pytest.fixture
def tars(tmp_path, files):
    """A folder of tars, one for each class, and the same class folders."""
    for name in ("tars", "folders"):
        (tmp_path / name).mkdir()
    for number, (name, data) in enumerate(shuffled(files).items()):
        write_folder(tmp_path / "folders" / f"n{number % 3:08d}", {name: data})
    for folder in (tmp_path / "folders").iterdir():
        mode, ending = ("w:gz", ".tar.gz") if folder.name.endswith("2") else ("w", ".tar")
        inside = shuffled({file.name: file.read_bytes() for file in folder.iterdir()})
        write_tar(tmp_path / "tars" / f"{folder.name}{ending}", inside, mode)
    return tmp_path


def test_a_folder_of_tars_is_read_as_class_folders(tars, monkeypatch):
    monkeypatch.setattr(sources, "_WINDOW", 1)  # a compressed one in several passes
    one, other = (open_images(tars / name, role="ref") for name in ("tars", "folders"))
    assert one.names == other.names
    np.testing.assert_array_equal(read_all(one), read_all(other))
    np.testing.assert_array_equal(one.labels, other.labels)
    assert (one.sha256(), one.num_images) == (other.sha256(), COUNT)
    assert one.warnings == (
        f"{tars / 'tars'}: 1 of the tars are compressed, and not in order: each takes several passes.",
    )
    middle = np.concatenate(list(one.batches(7, first=20, last=45)))
    np.testing.assert_array_equal(middle, read_all(other)[20:45])
    assert open_images(tars / "tars", role="ref", num_images=9).num_images == 9


def test_a_folder_of_many_tars_keeps_few_files_open(tmp_path, files):
    (tmp_path / "tars").mkdir()
    for number in range(300):
        write_tar(tmp_path / "tars" / f"{number}.tar", {f"x{number}.png": files["0.png"]})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        assert len(read_all(open_images(tmp_path / "tars", role="ref"))) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_shards_are_no_classes(tmp_path, files):
    (tmp_path / "shards").mkdir()
    for number in range(3):
        inside = {
            f"{number}{k}.{kind}": files["0.png"] if kind == "png" else b"7"
            for k in range(2)
            for kind in ("png", "cls")
        }
        write_tar(tmp_path / "shards" / f"train-{number:06d}.tar", inside)
    (tmp_path / "shards" / "sizes.json").write_text("{}", encoding="utf-8")
    opened = open_images(tmp_path / "shards", role="ref")
    assert (opened.num_images, opened.labels) == (6, None)
    assert opened.warnings == (
        f"{tmp_path / 'shards'}: left out 1 file(s) that are no images: sizes.json.",
        f"{tmp_path / 'shards'}: left out 6 file(s) in the tars that are no images.",
    )


def test_a_tar_of_a_folder_that_cannot_be_read_is_named(tars, files):
    for damage, said in (
        ({"n00000001.tgz": b"x"}, "tars: two tars are called n00000001; remove or rename"),
        ({"bad.tar": b"no tar" * 200}, r"tars/bad\.tar: no tar header at byte 0"),
        ({"none.tar": bytes(10240)}, r"tars/none\.tar: no images there"),
    ):
        for name, data in damage.items():
            (tars / "tars" / name).write_bytes(data)
            with pytest.raises(ValueError, match=said):
                open_images(tars / "tars", role="ref")
            (tars / "tars" / name).unlink()
    opened = open_images(tars / "tars", role="ref")
    write_tar(tars / "tars" / "n00000001.tar", {"0.png": files["0.png"]})
    with pytest.raises(ValueError, match="was replaced or written to"):
        read_all(opened)


def test_tars_beside_images_are_left_out_and_told(tars, files):
    write_folder(tars / "tars", {"x.png": files["0.png"]})
    opened = open_images(tars / "tars", role="ref")
    assert (opened.num_images, opened.warnings[0].startswith(f"{tars / 'tars'}: left out 3 file(s)")) == (1, True)


def test_two_processes_share_a_folder_and_a_compressed_tar(forks, places, tmp_path, digits_extractor):
    options = ["--extractor", "digits", "--no-results", "--json", tmp_path / "two.json", "--device", "cpu"]
    options += ["--batch-size", "8"]
    write_folder(places / "jpeg", {f"{k}.png": jpeg(image) for k, image in enumerate(read_jpeg_source(places))})
    ended = forks(["evaluate", places / "jpeg", "--ref", places / "x.tar.gz", *options], ranks=2)
    assert ended["statuses"] == [0, 0], ended["stderr"]
    two = EvalResult.from_json((tmp_path / "two.json").read_text())
    gen, ref = (open_images(places / place, role="gen") for place in ("jpeg", "x.tar.gz"))
    one = score(gen, ref, digits_extractor, batch_size=8)
    for name in VALUES:
        assert getattr(two, name) == pytest.approx(getattr(one, name), rel=1e-9), name
    assert (two.gen.sha256, two.ref.sha256) == (one.gen.sha256, one.ref.sha256)
    assert ended["stderr"].count("70 of 70 images are JPEG") == 1, "of both processes' images"
    assert two.warnings == one.warnings


def read_jpeg_source(places):
    return read_all(open_batch(places / "x.npz", role="gen"))


# ---- labels, and what is left out


def test_class_folders_are_labels_where_every_image_is_in_one(tmp_path, files):
    data = list(files.values())
    classes = {"10/a.png": data[0], "2/b.png": data[1], "2/c/d.png": data[2]}
    folder = write_folder(tmp_path / "x", classes)
    # Class numbers are those of training; images are in the order of numbers.
    np.testing.assert_array_equal(open_images(folder, role="gen").labels, [1, 1, 0])
    training = list_images(folder, image_size=8)
    assert dict(zip(training.files, training.labels, strict=True)) == {"10/a.png": 0, "2/b.png": 1, "2/c/d.png": 1}
    around = {f"samples/run 1/{name}": image for name, image in classes.items()}
    assert open_images(write_zip(tmp_path / "x.zip", around), role="gen").labels.tolist() == [1, 1, 0]
    assert open_images(write_zip(tmp_path / "y.zip", around), role="gen", num_images=2).labels.tolist() == [1, 1]
    for loose in ({"a.png": data[0]}, {"x/a.png": data[0], "x/b.png": data[1]}, classes | {"e.png": data[0]}):
        assert open_images(write_tar(tmp_path / "x.tar", loose), role="gen").labels is None


LITTER = ("__MACOSX/._0.png", "._1.png", ".DS_Store", "Thumbs.db", "a/desktop.ini", ".cache/x.png")


def test_folders_of_a_thousand_numbered_images_are_no_classes(tmp_path, files):
    def folder(name, *members):
        for member, data in zip(members, files.values(), strict=False):
            path = tmp_path / name / member
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return open_images(tmp_path / name, role="gen")

    edm2 = folder("edm2", "000000/000000.png", "000000/000999.png", "001000/001000.png", "012000/012345.png")
    assert (edm2.labels, edm2.num_images) == (None, 4)
    assert folder("inside", "out/000000/000000.png", "out/001000/001000.png").labels is None
    assert folder("classes", "0/0.png", "1/1.png", "1000/1000.png").labels.tolist() == [0, 1, 2]
    assert folder("of 1000", "000000/000001.png", "001000/000001.png").labels.tolist() == [0, 1]
    assert folder("words", "000000/000001.png", "001000/cat.png").labels.tolist() == [0, 1]


def test_litter_is_left_out_and_other_files_are_told(tmp_path, files):
    some = {name: files[name] for name in ("0.png", "1.png")}
    found = [
        open_images(write(tmp_path / name, some | dict.fromkeys(LITTER, b"")), role="gen")
        for name, write in (("x", write_folder), ("x.zip", write_zip), ("x.tar", write_tar))
    ]
    assert [(images.num_images, images.warnings) for images in found] == [(2, ())] * 3
    noted = open_images(write_folder(tmp_path / "y", some | {"args.json": b"{}", "x/labels.txt": b""}), role="gen")
    (warning,) = noted.warnings
    assert "left out 2 file(s) that are no images: args.json, x/labels.txt." in warning


def test_links_in_a_folder_are_followed_but_no_folder_counts_twice(tmp_path, files):
    blobs = write_folder(tmp_path / "blobs", {"1.png": files["0.png"], "sub/2.png": files["1.png"]})
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "0.png").symlink_to(blobs / "1.png")
    (folder / "class").symlink_to(blobs / "sub", target_is_directory=True)
    assert open_images(folder, role="gen").num_images == 2
    (folder / "again").symlink_to(folder, target_is_directory=True)
    with pytest.raises(ValueError, match=r"the link again leads to a folder that is read already"):
        open_images(folder, role="gen")
    (folder / "again").unlink()
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"gone\.png: a link to nothing"):
        open_images(folder, role="gen")


def test_names_that_are_no_utf8_or_would_move_the_cursor_are_read_and_shown_escaped(tmp_path, files):
    folder = write_folder(tmp_path / "x", {"a\x1b[2J\n.png": files["0.png"], "é.png": files["1.png"]})
    with open(os.fsencode(folder) + b"/\xff.png", "wb") as file:
        file.write(b"no image")
    images = open_images(folder, role="gen")
    assert images.num_images == 3
    with pytest.raises(ValueError, match=r"\\xff\.png: neither PNG nor JPEG") as error:
        read_all(images)
    assert str(error.value).isprintable()
    write_tar(tmp_path / "x.tar", {"a\x1b[2J.png": b""})
    with pytest.raises(ValueError, match=r"x\.tar: a\\x1b\[2J\.png: neither PNG nor JPEG; it is empty"):
        open_images(tmp_path / "x.tar", role="gen")


# ---- from Python


BATCHES = {
    "arrays": lambda images: iter(np.array_split(images, 9)),
    "one batch": lambda images: [images],
    "tensors": lambda images: (torch.from_numpy(part) for part in np.array_split(images, 3)),
    "some empty": lambda images: [images[:0], images[:30], images[30:30], images[30:]],
    "read-only": lambda images: (np.frombuffer(part.tobytes(), np.uint8).reshape(-1, 8, 8, 3) for part in [images]),
}


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.slow
def test_an_iterable_gives_the_same_results(kind, images, expected, digits_ref, digits_extractor):
    seen = []
    gen = from_batches(BATCHES[kind](images), name="step 1000")
    assert (gen.num_images, gen.image_size) == (None, (8, 8))
    ref = open_batch(digits_ref, role="ref")
    found = score(gen, ref, digits_extractor, on_progress=lambda *state: seen.append(state))
    assert values(found) == values(expected)
    assert found.warnings == expected.warnings
    assert (found.num_samples, found.gen.path) == (COUNT, "step 1000")
    lines = "".join(f"{hashlib.sha256(image.tobytes()).hexdigest()}\n" for image in images)
    assert found.gen.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert [state for state in seen if state[0] == "gen"] == [("gen", 64, None), ("gen", COUNT, None)]
    assert EvalResult.from_json(found.to_json()) == found
    with pytest.raises(ValueError, match=r"step 1000: read already; an iterable gives its images once"):
        score(gen, ref, digits_extractor)


def test_the_first_images_of_an_iterable_without_end(images, expected, digits_ref, digits_extractor):
    def sampler():
        yield from np.array_split(images, 5)
        while True:
            yield images[:9]

    gen, ref = from_batches(sampler(), num_images=COUNT), open_batch(digits_ref, role="ref")
    assert values(score(gen, ref, digits_extractor)) == values(expected)
    with pytest.raises(ValueError, match=r"ended after 70 images; 71 were asked for"):
        score(from_batches([images], num_images=71), ref, digits_extractor)


def test_an_iterable_as_reference(places, images, digits_ref, digits_extractor):
    def gen():
        return open_images(digits_ref, role="gen", num_images=100)

    found = score(gen(), from_batches([images]), digits_extractor)
    assert values(found) == values(score(gen(), open_images(places / "folder", role="ref"), digits_extractor))
    alone = score(gen(), from_batches([images]), digits_extractor, metrics=["is"])
    assert (alone.ref.num_images, alone.ref.sha256) == (COUNT, found.ref.sha256), "read though no metric needs it"


def test_what_an_iterable_lacks_is_known_afterwards(images, digits_ref, digits_extractor):
    ref = open_batch(digits_ref, role="ref")
    found = score(from_batches([images[:1]], name="few"), ref, digits_extractor)
    assert found.fid is None
    assert found.precision is None
    assert found.inception_score == pytest.approx(1.0)
    assert any(w.startswith("fid: not computed, few holds 1 image") for w in found.warnings)
    with pytest.raises(ValueError, match=r"precision: few holds 3 images; .*at least 4"):
        score(from_batches([images[:3]], name="few"), ref, digits_extractor, metrics=["precision"])


def test_an_iterable_is_not_cached_and_makes_no_reference(images, tmp_path, digits_ref, digits_extractor):
    ref = open_batch(digits_ref, role="ref")
    score(from_batches([images]), ref, digits_extractor, metrics=["fid"], cache=tmp_path)
    assert not list(tmp_path.iterdir())
    for num in (None, COUNT):
        with pytest.raises(ValueError, match=r"batches: an iterable is read once, and a reference needs .* twice"):
            write_reference(
                images=from_batches([images], num_images=num), out=tmp_path / "x.npz", extractor=digits_extractor
            )


def test_an_iterable_is_for_one_process(images, digits_extractor):
    from dit_eval.features.extract import extract_features
    from dit_eval.system.dist import World

    with pytest.raises(ValueError, match=r"batches: an iterable is read by one process, and there are 2"):
        extract_features(from_batches([images]), digits_extractor, world=World(rank=1, size=2))
    with pytest.raises(ValueError, match=r"read as a whole, in one process"):
        next(from_batches([images]).batches(8, first=8))


def test_an_error_of_the_sampler_stays_its_own(images, digits_ref, digits_extractor):
    def sampler():
        yield images
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        score(from_batches(sampler()), open_batch(digits_ref, role="ref"), digits_extractor)


ONES = np.ones((2, 8, 8, 3), np.uint8)
BATCH_ERRORS = {
    "nothing": ([], r"x: an iterable without any image"),
    "empty batches": ([ONES[:0]], r"x: an iterable without any image"),
    "a path": ("samples.npz", r"x: found str; .*`open_images` opens files"),
    "a number": (3, r"x: found int; needed an iterable of uint8 batches"),
    "floats": ([ONES / 255.0], r"x, batch 0: found float64; needed uint8 .*127\.5 \* x \+ 128"),
    "half floats": ([torch.ones(2, 8, 8, 3, dtype=torch.bfloat16)], r"batch 0: found bfloat16; needed uint8"),
    "int64": ([ONES.astype(np.int64)], r"batch 0: found int64; needed uint8"),
    "NCHW": ([torch.ones(2, 3, 8, 8, dtype=torch.uint8)], r"uint8 \(2, 3, 8, 8\); .*use permute\(0, 2, 3, 1\)"),
    "one image": (ONES, r"found uint8 \(8, 8, 3\); .*like one image: pass batches, such as \[images\]"),
    "grey": ([ONES[..., :1]], r"found uint8 \(2, 8, 8, 1\)"),
    "RGBA": ([ONES[..., [0, 1, 2, 2]]], r"found uint8 \(2, 8, 8, 4\)"),
    "pairs": ([(ONES, [0, 1])], r"found tuple; .*\(images for images, _ in loader\)"),
    "lists": ([[[0]]], r"found list; needed uint8"),
    "another size later": ([ONES, ONES[:, :4]], r"batch 1: images of 8 x 4 px, those before of 8 x 8 px"),
    "floats later": ([ONES, ONES / 1.0], r"batch 1: found float64"),
}


@pytest.mark.parametrize("case", BATCH_ERRORS)
def test_batches_of_another_kind_are_refused(case):
    batches, message = BATCH_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        read_all(from_batches(batches, name="x"))
    with pytest.raises(ValueError, match="0 images asked for"):
        from_batches([ONES], num_images=0)
    with pytest.raises(ValueError, match="not been read yet"):
        from_batches([ONES]).sha256()


# ---- the command line


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def test_stats_of_a_folder_are_those_of_its_npz(here, capsys, places):
    for place in ("folder", "x.npz"):
        options = ("--out", f"{place}.npz", "--num-images", 10, "--extractor", "digits")
        code, out, err = run(capsys, "stats", places / place, *options)
        assert (code, out) == (0, f"{place}.npz: statistics of 70 images, 10 images kept\n"), err
    with np.load("folder.npz") as a, np.load("x.npz.npz") as b:
        assert sorted(a.files) == sorted(b.files) == ["arr_0", "mu", "mu_s", "sigma", "sigma_s"]
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])
    code, out, _ = run(capsys, "evaluate", places / "x.zip", "--ref", "folder.npz", "--extractor", "digits")
    assert code == 0
    assert "70 images, 8x8 px" in out


def test_class_folders_become_the_labels_of_a_reference(here, capsys, files):
    write_folder(here / "real", {f"{k % 2}/{k}.png": data for k, data in enumerate(list(files.values())[:10])})
    assert run(capsys, "stats", "real", "--out", "ref.npz", "--extractor", "digits")[0] == 0
    assert open_batch("ref.npz", role="ref").labels.tolist() == [0] * 5 + [1] * 5


def test_jpegs_are_told_whatever_their_names(here, capsys, images):
    # Whoever renames a JPEG has not got rid of its traces.
    named = {f"{k}.{'png' if k < 3 else 'jpg'}": jpeg(image) for k, image in enumerate(images[:10])}
    write_zip(here / "x.zip", named | {"10.png": png(images[10]), "11.jpg": png(images[11])})
    code, out, err = run(capsys, "evaluate", "x.zip", "--ref", "digits", "--extractor", "digits", "--json", "-")
    assert code == 0
    warning = "x.zip: 10 of 12 images are JPEG, whose compression moves FID and sFID"
    assert err.count(warning) == 1
    assert sum(warning in text for text in json.loads(out)["warnings"]) == 1
    _, _, err = run(capsys, "stats", "x.zip", "--out", "ref.npz", "--extractor", "digits")
    assert err.count(f"warning: {warning}") == 1


def test_the_first_samples_alone(here, capsys, places):
    options = ("--ref", "digits", "--extractor", "digits", "--json", "-")
    code, out, _ = run(capsys, "evaluate", places / "x.tar.gz", *options, "--num-samples", 20)
    assert (code, json.loads(out)["num_samples"]) == (0, 20)
    code, _, err = run(capsys, "evaluate", places / "x.tar", *options, "--num-samples", 71)
    assert code == 2
    assert "holds 70 images, 71 were asked for. Draw the missing 1, or pass --num-images 70" in err
    assert "0 images asked for" in run(capsys, "evaluate", places / "folder", *options, "--num-samples", 0)[2]


def test_a_folder_with_the_name_of_a_reference_does_not_hide_it(here, capsys, places, files):
    write_folder(here / "digits", files)
    found = [
        json.loads(run(capsys, "evaluate", places / "x.npz", *options, "--extractor", "digits", "--json", "-")[1])
        for options in (("--ref", "digits"), ("--ref", "./digits"))
    ]
    assert [result["num_reference"] for result in found] == [1297, COUNT]


def test_help_says_what_is_read(capsys):
    for command in ("evaluate", "stats"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        text = " ".join(out.split())
        assert "a folder, .zip, .tar or .tar.gz of PNGs, in the order of their names (2.png before 10.png)" in text
        assert "saved Hugging Face dataset" in text


# ---- what is no set of images


NOISE = np.random.RandomState(0).randint(0, 256, (8, 8, 8, 3), dtype=np.uint8)
FILES = {f"{k}.png": png(image) for k, image in enumerate(NOISE)}
GOOD = FILES["0.png"]


def odd(data):
    """A folder of good images with another one among them."""
    return lambda: write_folder(Path("x"), FILES | {"3.png": data})


def zip_with(change, files=FILES):
    """A zip of which the directory says something else than the members."""

    def make():
        with zipfile.ZipFile("x.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
            change(archive.infolist())
        return "x.zip"

    return make


def zip_named(*names):
    return lambda: write_zip("x.zip", FILES | dict.fromkeys(names, GOOD))


def tar_named(*names, **options):
    return lambda: write_tar("x.tar", FILES | dict.fromkeys(names, GOOD), **options)


def tar_with(name="x.png", data=b"", patch=None, path="x.tar", **fields):
    """A tar with one odd member at its end."""

    def make():
        with tarfile.open(path, "w:gz" if path.endswith("gz") else "w", format=tarfile.GNU_FORMAT) as archive:
            for good, image in FILES.items():
                info = tarfile.TarInfo(good)
                info.size = len(image)
                archive.addfile(info, io.BytesIO(image))
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
            if patch:
                patch(header)
                checksum(header)
            archive.fileobj.write(bytes(header) + data + bytes(-len(data) % 512))
            archive.offset = archive.fileobj.tell()
        return path

    return make


def checksum(header):
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)


def size_of(number):
    def patch(header):
        header[124:136] = (b"\xff" if number < 0 else b"\x80") + number.to_bytes(11, "big", signed=True)

    return patch


def pax(**fields):
    records = b"".join(b"%d %s" % (len(r) + 3, r) for r in (f"{k}={v}\n".encode() for k, v in fields.items()))
    return {"name": "pax", "type": b"x", "size": len(records), "data": records + bytes(-len(records) % 512)}


def pax_tar(**fields):
    made = pax(**fields)
    return tar_with(made["name"], made["data"], type=made["type"], size=made["size"])


def cut(make, by):
    def made():
        path = make()
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) - by)
        return path

    return made


def changed(make, change):
    """A file whose bytes have gone through a function."""

    def made():
        path = make()
        with open(path, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(change(data))
        return path

    return made


def joined(kind):
    """Two archives of different images, one behind the other."""

    def make():
        write = write_zip if kind == "zip" else write_tar
        for name, numbers in (("a", range(8)), ("b", range(8, 16))):
            files = {f"{k}.png": FILES[f"{k % 8}.png"] for k in numbers}
            write(f"{name}.{kind}", files, **({"mode": "w:gz"} if kind == "tar.gz" else {}))
        data = [Path(f"{name}.{kind}").read_bytes() for name in ("a", "b")]
        return raw(f"x.{kind}", b"".join(data))()

    return make


def flip(make, at):
    """A damaged byte; `at` is not negative."""
    return changed(make, lambda data: data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])


def raw(path, data):
    def make():
        with open(path, "wb") as file:
            file.write(data() if callable(data) else data)
        return path

    return make


def gzip_bomb():
    """A tar.gz of 130 KB that goes on for 128 MiB."""
    return gzip.compress(tar_bytes("x.bin", 1 << 27) + bytes(1 << 27), 6)


def tar_bytes(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf()


def png_of(width, height, bits=8, colour=2):
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def frames():
    file = io.BytesIO()
    first, *rest = (Image.fromarray(image) for image in NOISE[:3])
    first.save(file, "PNG", save_all=True, append_images=rest)
    return file.getvalue()


def pipe():
    folder = write_folder(Path("x"), FILES)
    os.mkfifo(folder / "pipe.png")
    return folder


def bound_socket():
    folder = write_folder(Path("x"), FILES)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("x/socket.png")
    return folder


def deep():
    os.makedirs("x")
    here = os.getcwd()
    try:
        os.chdir("x")
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(here)
    return "x"


def link(target, name="x.png"):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16

    def make():
        write_zip("x.zip", FILES)
        with zipfile.ZipFile("x.zip", "a") as archive:
            archive.writestr(info, target)
        return "x.zip"

    return make


def set_all(**fields):
    def change(infos):
        for key, value in fields.items():
            setattr(infos[-1], key, value)

    return change


def overlap(infos):
    infos[-1].header_offset = infos[0].header_offset


GREY, ALPHA = NOISE[0, :, :, 0], np.dstack([NOISE[0], NOISE[0, :, :, 0]])
HOSTILE = {
    # images
    "another size": (odd(png(NOISE[0, :4])), r"x/3\.png: 8 x 4 px; the images before it are 8 x 8 px\. Needed one"),
    "grey": (odd(png(GREY)), r"x/3\.png: a PNG of 8 bits, grey; needed 8 bits, RGB"),
    "RGBA": (odd(png(ALPHA)), r"x/3\.png: a PNG of 8 bits, RGBA; .*without alpha"),
    "palette": (odd(png_of(8, 8, 8, 3)), r"x/3\.png: a PNG of 8 bits, palette"),
    "16 bits": (odd(png_of(8, 8, 16, 2)), r"x/3\.png: a PNG of 16 bits, RGB; needed 8 bits"),
    "transparent colour": (odd(png(NOISE[0], transparency=(1, 2, 3))), r"x/3\.png: an image with a transparent colour"),
    "grey JPEG": (odd(jpeg(GREY)), r"x/3\.png: an image of mode L; needed RGB"),
    "animated": (odd(frames()), r"x/3\.png: has several frames"),
    "empty file": (odd(b""), r"x/3\.png: neither PNG nor JPEG; it is empty"),
    "a web page": (odd(b"<html><body>404"), r"x/3\.png: neither PNG nor JPEG; it begins with b'<html><b'"),
    "PNG cut in its header": (odd(GOOD[:20]), r"x/3\.png: a PNG of 20 bytes; it is truncated"),
    "PNG cut in its pixels": (odd(GOOD[:100]), r"x/3\.png: cannot be read as an image \(.*\); it is damaged"),
    "PNG of other bytes": (odd(GOOD[:60] + bytes(40) + GOOD[100:]), r"x/3\.png: cannot be read as an image"),
    "PNG without chunks": (odd(GOOD[:8] + bytes(16) + b"\x08\x02" + bytes(99)), r"x/3\.png: .*it is damaged"),
    "JPEG cut": (odd(jpeg(NOISE[0])[:300]), r"x/3\.png: .*it is damaged"),
    "PNG bomb": (odd(png_of(60_000, 60_000)), r"x/3\.png: 60000 x 60000 px; an image may have 16,777,216 pixels"),
    "PNG bomb first": (
        lambda: write_folder(Path("x"), FILES | {"0.png": png_of(1 << 31, 1 << 31)}),
        r"x/0\.png: 2147483648 x 2147483648 px; an image may have",
    ),
    "WebP": (lambda: write_folder(Path("x"), FILES | {"9.webp": b""}), r"x: 9\.webp: a \.webp file; needed PNG"),
    # folders
    "no images": (lambda: write_folder(Path("x"), {"a.txt": b""}), r"x: no images there; .*It holds: a\.txt"),
    "an empty folder": (lambda: write_folder(Path("x"), {"y/.z": b""}), r"x: no images there; .*It is empty"),
    "a pipe": (pipe, r"x: pipe\.png: not a plain file"),
    "a socket": (bound_socket, r"x: socket\.png: not a plain file"),
    "a device": (
        lambda: (write_folder(Path("x"), FILES), os.symlink("/dev/zero", "x/z.png"), "x")[2],
        r"x: z\.png: (not a plain file|a link)",
    ),
    "deeper than any": (deep, r"x: .*cannot be read \((File name too long|maximum recursion)"),
    "a single image": (raw("x.png", GOOD), r"x\.png: a single image; pass the folder or archive"),
    # zips
    "zip: no zip": (raw("x.zip", b"no zip" * 100), r"x\.zip: cannot be read \(File is not a zip file\)"),
    "zip: truncated": (cut(zip_named(), 100), r"x\.zip: cannot be read"),
    "zip: its beginning lost": (changed(zip_named(), lambda data: data[900:]), r"x\.zip: cannot be read \(its begin"),
    "zip: damaged image": (flip(zip_named(), 60), r"x\.zip: 0\.png: cannot be read \(.*\); it is damaged"),
    "zip: encrypted": (zip_with(set_all(flag_bits=1)), r"x\.zip: 7\.png: encrypted\. Unlock it"),
    "zip: unknown packing": (zip_with(set_all(compress_type=9)), r"x\.zip: 7\.png: packed by method 9; needed stored"),
    "zip: bomb": (
        lambda: write_zip("x.zip", FILES | {"x.png": bytes((1 << 26) + 1)}),
        r"x\.zip: x\.png: 67,108,865 bytes; an image file may have 67,108,864",
    ),
    "zip: less promised than held": (zip_with(set_all(file_size=50)), r"x\.zip: 7\.png: cannot be read \(Bad CRC-32"),
    "zip: overlapping members": (zip_with(overlap), r"x\.zip: .*shares its bytes with another member, a zip bomb's"),
    "zip: directory of gigabytes": (
        raw("x.zip", b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 1 << 29, 0, 0)),
        r"x\.zip: cannot be read",
    ),
    "zip: path out": (zip_named("../../etc/x.png"), r"x\.zip: a member is called '\.\./\.\./etc/x\.png', a path that"),
    "zip: absolute path": (zip_named("/etc/x.png"), r"x\.zip: a member is called '/etc/x\.png', a path that leads out"),
    "zip: drive": (zip_named("C:/x.png"), r"x\.zip: a member is called 'C:/x\.png'"),
    "zip: backslashes": (zip_named("..\\x.png"), r"x\.zip: a member is called '\.\.\\x\.png'"),
    "zip: NUL in a name": (
        changed(zip_named("a.png_b"), lambda data: data.replace(b"a.png_b", b"a.png\0b")),
        r"x\.zip: a member is called 'a\.png\\x00b'",
    ),
    "zip: a long name": (zip_named("a" * 5000 + ".png"), r"x\.zip: a member's name of 5,004 characters; at most 4,096"),
    "zip: link": (link("/etc/passwd"), r"x\.zip: x\.png: a link; needed plain files"),
    "zip: an archive inside": (zip_named("more.tar.gz"), r"x\.zip: more\.tar\.gz: an archive in the archive"),
    "zip: the same name twice": (zip_named("./0.png"), r"x\.zip: 0\.png: two members have this name"),
    "zip: an npz by another name": (
        lambda: (np.savez("x.npz", arr_0=NOISE), os.rename("x.npz", "x.zip"), "x.zip")[2],
        r"x\.zip: no images there; .*arr_0 it is an \.npz; give it that name",
    ),
    "zip: joined": (joined("zip"), r"x\.zip: begins with a member that its directory does not list, as"),
    "zip: joined with a part": (
        changed(joined("zip"), lambda data: data[: len(data) - 40]),
        r"x\.zip: goes on after its end, at byte",
    ),
    # tars
    "tar: no tar": (raw("x.tar", b"no tar" * 200), r"x\.tar: no tar header at byte 0, where one is needed"),
    "tar: empty file": (raw("x.tar", b""), r"x\.tar: ends within a member, or unfinished; it is truncated"),
    "tar: no members": (lambda: write_tar("x.tar", {}), r"x\.tar: no images there; .*It is empty"),
    "tar: cut in a member": (cut(tar_named(), 9000), r"x\.tar: ends within a member"),
    "tar: cut between members": (
        changed(tar_named(), lambda data: data[: 3 * 1024]),
        r"x\.tar: ends within a member, or unfinished; it is truncated",
    ),
    "tar: damaged header": (flip(tar_named(), 2 * 1024 + 3), r"x\.tar: no tar header at byte 2,048.*it is damaged"),
    "tar: path out": (tar_named("a/../../x.png"), r"x\.tar: a member is called 'a/\.\./\.\./x\.png', a path"),
    "tar: path out in a pax header": (tar_named("../" + "é" * 200 + ".png", format=tarfile.PAX_FORMAT), r"leads out"),
    "tar: path out in a long name": (tar_named("/" + "a" * 200 + ".png", format=tarfile.GNU_FORMAT), r"leads out"),
    "tar: symbolic link": (
        tar_with(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        r"x\.tar: x\.png: a symbolic link; needed plain files\. Pack the images again with --dereference",
    ),
    "tar: hard link": (tar_with(type=tarfile.LNKTYPE, linkname="0.png"), r"x\.png: a hard link; .*--hard-dereference"),
    "tar: device": (tar_with(type=tarfile.CHRTYPE, devmajor=1, devminor=5), r"x\.png: a device, a pipe or another"),
    "tar: pipe": (tar_with(type=tarfile.FIFOTYPE), r"x\.png: a device, a pipe or another special file"),
    "tar: sparse file": (tar_with(type=tarfile.GNUTYPE_SPARSE), r"x\.png: a device, a pipe or another special file"),
    "tar: sparse file in a pax header": (pax_tar(**{"GNU.sparse.major": "1"}), r"a sparse file at byte"),
    "tar: negative size": (tar_with(patch=size_of(-1024)), r"x\.tar: x\.png: no size that can be"),
    "tar: exabytes": (tar_with("x.txt", patch=size_of(1 << 62)), r"x\.tar: ends within a member"),
    "tar: a large image": (tar_with(patch=size_of(1 << 40)), r"x\.png: 1,099,511,627,776 bytes; an image file may"),
    "tar: huge long name": (tar_with(type=b"L", patch=size_of(1 << 34)), r"a header of 17,179,869,184 bytes"),
    "tar: huge pax header": (tar_with(type=b"x", size=1 << 20), r"a header of 1,048,576 bytes at .*at most 65,536"),
    "tar: pax header of nonsense": (tar_with(data=b"9" * 1024, type=b"x", size=1024), r"the pax header at byte"),
    "tar: pax size of nonsense": (
        lambda: raw("x.tar", lambda: pax_member(size="-512"))(), r"x\.png: no size that can be",
    ),
    "tar: the same name twice": (tar_named("./0.png"), r"x\.tar: 0\.png: two members have this name"),
    "tar: an archive inside": (tar_named("more.zip"), r"x\.tar: more\.zip: an archive in the archive"),
    "tar: bzip2": (lambda: write_tar("x.tar", FILES, "w:bz2"), r"x\.tar: compressed by bzip2; needed \.tar or"),
    "tar: xz": (lambda: write_tar("x.tar.xz", FILES, "w:xz"), r"x\.tar\.xz: an archive of a kind that is not read"),
    "tar: joined": (joined("tar"), r"x\.tar: goes on after its end, at byte 8,704, where other programs stop"),
    "tar: an image after an empty block": (
        changed(tar_named(), lambda data: bytes(512) + data), r"x\.tar: goes on after its end, at byte 512, where",
    ),
    "tar: padded without end": (
        changed(tar_named(), lambda data: data + bytes(1 << 26)), r"x\.tar: goes on after its end, at byte 8,704",
    ),
    "tar.gz: joined": (joined("tar.gz"), r"x\.tar\.gz: goes on after its end, at byte 8,704"),
    "tar.gz: joined in one": (
        changed(joined("tar.gz"), lambda data: gzip.compress(gzip.decompress(data))), r"x\.tar\.gz: goes on after it",
    ),
    "tar.gz: something behind": (
        changed(lambda: write_tar("x.tar.gz", FILES, "w:gz"), lambda data: data + b"more"), r"x\.tar\.gz: cannot be",
    ),
    "tar.gz: cut": (
        cut(lambda: write_tar("x.tar.gz", FILES, "w:gz"), 200), r"x\.tar\.gz: cannot be read \(Compressed file ended"
    ),
    "tar.gz: damaged checksum": (
        changed(lambda: write_tar("x.tar.gz", FILES, "w:gz"), lambda data: data[:-6] + b"\0" + data[-5:]),
        r"x\.tar\.gz: cannot be read \(CRC check failed",
    ),
    "tar.gz: damaged": (flip(lambda: write_tar("x.tar.gz", FILES, "w:gz"), 300), r"x\.tar\.gz: "),
    "tar.gz: bomb": (raw("x.tgz", gzip_bomb), r"x\.tgz: expands to more than 200 times its size"),
}  # fmt: skip


def pax_member(**fields):
    """A tar of one image whose pax header says something else."""
    made = pax(**fields)
    header = tarfile.TarInfo("pax")
    header.type, header.size = made["type"], made["size"]
    return header.tobuf() + made["data"] + tar_bytes("x.png", 512) + GOOD.ljust(512, b"\0")[:512] + bytes(1024)


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_broken_input_gives_one_clear_message(here, capsys, case):
    make, message = HOSTILE[case]
    path = make()
    before = {p: p.read_bytes() for p in here.rglob("*") if p.is_file()} if case != "deeper than any" else {}
    tracemalloc.start()
    code, out, err = run(capsys, "evaluate", path, "--ref", "digits", "--extractor", "digits", "--no-results")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    text = err.split("dit-eval: error: ")[-1]
    assert (code, out) == (2, ""), err
    assert re.search(message, text), text
    assert "Traceback" not in err
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert peak < 100e6, "held no more than an image file may have, and the reference's features"
    assert {p: p.read_bytes() for p in before} == before, "nothing is unpacked or changed"
    assert threading.active_count() < 20
    if case == "deeper than any":
        subprocess.run(["rm", "-rf", "x"], check=True)


def test_the_table_of_hostile_input_is_long():
    assert len(HOSTILE) >= 60


def test_a_file_that_vanishes_or_cannot_be_opened(here, monkeypatch):
    images = open_images(write_folder(here / "x", FILES), role="gen")
    (here / "x" / "5.png").unlink()
    with pytest.raises(ValueError, match=r"5\.png: cannot be read \(No such file or directory\)"):
        read_all(images)
    with pytest.raises(ValueError, match=r"5\.png: cannot be read"):
        images.sha256()

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"x: the folder cannot be read \(Permission denied\)"):
        open_images(here / "x", role="gen")


def test_the_first_odd_file_is_named_though_threads_read_ahead(here):
    files = {f"{k}.png": GOOD for k in range(60)} | {"41.png": b"", "17.png": b"?", "50.png": b"!"}
    with pytest.raises(ValueError, match=r"17\.png"):
        read_all(open_images(write_folder(here / "x", files), role="gen"), 32)


def test_no_more_images_are_held_than_a_batch_and_the_next(here, monkeypatch):
    from dit_eval.images import encoded as module

    decoded = []
    decode = module._decode
    monkeypatch.setattr(module, "_decode", lambda *a: (decoded.append(1), decode(*a))[1])
    opened = open_images(write_folder(here / "x", {f"{k}.png": GOOD for k in range(60)}), role="gen")
    decoded.clear()
    batches = opened.batches(8)
    next(batches)
    assert len(decoded) <= 2 * 8 + 1
    batches.close()
    assert threading.active_count() < 20, "its threads have ended"


@pytest.mark.parametrize("fill", [b"\0", b"\x80"])
def test_any_damaged_byte_of_an_archive_is_an_error_or_harmless(here, fill):
    """Every 7th byte of a small zip and tar.gz, changed: the same images, or a ValueError."""
    few = {name: FILES[name] for name in ("0.png", "1.png")}
    for path in (write_zip("x.zip", few), write_tar("x.tar.gz", few, "w:gz"), write_tar("x.tar", few)):
        with open(path, "rb") as file:
            good = file.read()
        for at in range(0, min(len(good), 2600), 7):
            with open(path, "wb") as file:
                file.write(good[:at] + bytes([good[at] ^ 1 ^ fill[0]]) + good[at + 1 :])
            with contextlib.suppress(ValueError):
                assert read_all(open_images(path, role="gen")).shape[1:] == (8, 8, 3)


def test_padding_comments_and_what_stands_before_an_archive_do_no_harm(here):
    expected = read_all(open_images(write_folder(here / "folder", FILES), role="gen"))
    write_zip("x.zip", FILES)
    write_tar("x.tar", FILES)
    zipped, tarred = Path("x.zip").read_bytes(), Path("x.tar").read_bytes()
    with zipfile.ZipFile("commented.zip", "w") as archive:
        archive.comment = b"PNG files " * 6000
        for name, data in FILES.items():
            archive.writestr(name, data)
    middle = len(tarred) // 2
    for path, data in (
        ("padded.zip", zipped + bytes(500)),
        ("program.zip", b"#!/bin/sh\n" + zipped),
        ("commented.zip", None),
        ("padded.tar", tarred + bytes(1 << 20)),
        ("pieces.tar.gz", gzip.compress(tarred[:middle]) + gzip.compress(tarred[middle:]) + bytes(512)),
    ):
        if data is not None:
            Path(path).write_bytes(data)
        np.testing.assert_array_equal(read_all(open_images(path, role="gen")), expected)


# ---- Hugging Face datasets


def test_without_the_package_a_saved_dataset_says_what_to_install(here, capsys, monkeypatch):
    (here / "x").mkdir()
    for name in ("state.json", "dataset_info.json"):
        (here / "x" / name).write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    code, _, err = run(capsys, "evaluate", "x", "--ref", "digits", "--extractor", "digits")
    assert code == 2
    assert "x: a Hugging Face dataset; needed the package datasets: pip install 'dit-eval[datasets]'" in err


def test_splits_of_a_saved_dataset_are_passed_one_at_a_time(here):
    for split in ("train", "test"):
        write_folder(here / "x" / split, {"state.json": b"{}", "dataset_info.json": b"{}"})
    (here / "x" / "dataset_dict.json").write_text("{}")
    with pytest.raises(ValueError, match=r"a dataset of splits; pass one of them: .*x/test\."):
        open_images(here / "x", role="gen")


@pytest.fixture
def dataset(files):
    """The images as a dataset of three columns, and the package itself."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=3), "text": datasets.Value("string")}
    )
    columns = {
        "image": [{"bytes": data, "path": None} for data in files.values()],
        "label": [k % 3 for k in range(COUNT)],
        "text": list(files),
    }
    return datasets, datasets.Dataset.from_dict(columns, features=features)


def test_a_dataset_gives_the_same_results_in_memory_and_saved(
    dataset, places, files, expected, tmp_path, capsys, digits_ref, digits_extractor
):
    _, data = dataset
    data.save_to_disk(tmp_path / "saved")
    folder = open_images(places / "folder", role="gen")
    for gen in (from_dataset(data, name="mine"), open_images(tmp_path / "saved", role="gen")):
        found = score(gen, open_images(digits_ref, role="ref"), digits_extractor)
        assert values(found) == values(expected)
        assert found.gen.sha256 == folder.sha256()
        np.testing.assert_array_equal(gen.labels, np.arange(COUNT) % 3)
    capsys.readouterr()
    # Rows in the dataset's order, whatever has been done to it.
    order = np.random.RandomState(3).permutation(COUNT)
    picked = from_dataset(data.select(order).with_format("numpy"), num_images=20)
    np.testing.assert_array_equal(read_all(picked), read_all(folder)[order[:20]])
    np.testing.assert_array_equal(picked.labels, order[:20] % 3)
    assert from_dataset(data.remove_columns("label")).labels is None


def test_rows_that_name_files_are_read_in_memory_but_not_from_a_saved_dataset(dataset, places, tmp_path, capsys):
    datasets, _ = dataset
    paths = [str(places / "folder" / f"{k}.png") for k in range(COUNT)]
    linked = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    np.testing.assert_array_equal(read_all(from_dataset(linked)), read_all(open_images(places / "x.zip", role="gen")))
    # As whoever means harm would: a dataset whose rows name files of the reader's machine. The package itself would
    # embed them while it saves.
    cells = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    rows = [{"bytes": None, "path": path} for path in paths]
    plain = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": cells}))
    plain.save_to_disk(tmp_path / "saved")
    described = tmp_path / "saved" / "dataset_info.json"
    info = json.loads(described.read_text())
    described.write_text(json.dumps(info | {"features": {"image": {"_type": "Image"}}}))
    with pytest.raises(ValueError, match=r"saved, row 0: no image in it\. Save the dataset again with its images embe"):
        open_images(tmp_path / "saved", role="gen")
    capsys.readouterr()


def test_datasets_that_are_not_clear_are_refused(dataset, tmp_path, capsys):
    datasets, data = dataset
    two = data.add_column("other", data.with_format(None).cast_column("image", datasets.Image(decode=False))["image"])
    two = two.cast_column("other", datasets.Image())
    with pytest.raises(ValueError, match=r"2 columns of images; name one by .*image \(Image\), label \(ClassLabel\)"):
        from_dataset(two)
    assert from_dataset(two, column="other").num_images == COUNT
    for options, message in (
        ({"column": "text"}, r"no column text with the feature Image"),
        ({"label_column": "klass"}, r"no column klass; has: image"),
        ({"label_column": "text"}, r"text holds <U.*; needed integer labels"),
        ({"num_images": 71}, r"dataset holds 70 images, 71 were asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            from_dataset(data, **options)
    with pytest.raises(ValueError, match="the dataset has no rows"):
        from_dataset(data.select([]))
    with pytest.raises(ValueError, match=r"found IterableDataset; .*from_batches"):
        from_dataset(data.to_iterable_dataset())
    with pytest.raises(ValueError, match=r"found DatasetDict; .*dataset\['train'\]"):
        from_dataset(datasets.DatasetDict(train=data))
    data.save_to_disk(tmp_path / "saved")
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"saved: cannot be read as a dataset"):
        open_images(tmp_path / "saved", role="gen")
    (tmp_path / "saved" / "state.json").write_text("[]")
    with pytest.raises(ValueError, match=r"saved: cannot be read as a dataset"):
        open_images(tmp_path / "saved", role="gen")
    capsys.readouterr()


@pytest.mark.parametrize("error", [MemoryError(), SystemError("of C"), RuntimeError("Arrow's\nown"), KeyError("\x1b")])
def test_whatever_the_package_raises_at_a_saved_dataset_is_one_message(tmp_path, monkeypatch, error):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": [Image.fromarray(NOISE[0])]}, features=features).save_to_disk(tmp_path / "x")

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_from_disk", fail)
        with pytest.raises(ValueError, match=r"x: cannot be read as a dataset \(.*\)\. Save it again") as found:
            open_images(tmp_path / "x", role="gen")
        assert str(found.value).isprintable()
    images = open_images(tmp_path / "x", role="gen")
    monkeypatch.setattr(datasets.Dataset, "__getitem__", fail)
    with pytest.raises(ValueError, match=r"x, row 0: cannot be read \(.*\)") as found:
        list(images.batches(1))
    assert str(found.value).isprintable()
