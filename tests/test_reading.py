"""Files that dit-eval reads back: each damaged or hostile one is one message, or counts as not there, within bounds."""

import ast
import dataclasses
import io
import json
import os
import random
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import dit_eval
import dit_eval.flops.kept as kept
from dit_eval.diffusion.data import ArrayData
from dit_eval.diffusion.labels import read_labels
from dit_eval.diffusion.latents import Latents
from dit_eval.diffusion.recipe import Recipe, Schedule
from dit_eval.diffusion.written import steps_done
from dit_eval.features.cache import CacheEntry
from dit_eval.flops.counts import Counts, FlopCount
from dit_eval.models.config import DiTConfig
from dit_eval.report.points import read_losses
from dit_eval.study.folder import Study
from dit_eval.study.plan_file import load_plan
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system.assets import Asset, recorded_sha256
from dit_eval.system.reading import read_json
from dit_eval.system.run_folder import read_settings
from dit_eval.system.seals import file_digest
from dit_eval.training import TrainingRun, parse_log_line, train

DEEP = b"[" * 200_000
EDITION = Path(__file__).parent / "goldens" / "first_edition"


def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape, descr="<i8", data=b""):
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


def npz(packing=zipfile.ZIP_DEFLATED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return file.getvalue()


def encrypted():
    data = bytearray(npz(arr_1=npy(np.arange(5))))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


def unknown_packing():
    data = bytearray(npz(arr_1=npy(np.arange(5))))
    at = data.index(b"PK\1\2") + 10
    data[at : at + 2] = struct.pack("<H", 14)
    return bytes(data)


def twice():
    return npz(arr_1=npy(np.arange(5)), arr_2=npy(np.arange(5))).replace(b"arr_2", b"arr_1")


def peak(run):
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---- label files

LABELS = {
    "a cut zip": ("x.npz", npz(arr_1=npy(np.arange(5)))[:-30], r"a truncated \.npz"),
    "half a zip": ("x.npz", npz(arr_1=npy(np.arange(5)))[:90], r"a truncated \.npz"),
    "an encrypted zip": ("x.npz", encrypted(), "arr_1 cannot be read .*encrypted"),
    "an unknown packing": ("x.npz", unknown_packing(), "arr_1 is packed by method 14"),
    "an empty npz": ("x.npz", b"", "not a zip file"),
    "an empty npy": ("x.npy", b"", "the array cannot be read"),
    "a header of 2^40": ("x.npy", header((1 << 40,)), "a shape that no array has"),
    "a header of 2^39": ("x.npy", header((1 << 39,)), "where its header promises 4,398,046,"),
    "a header of 2^40 in a zip": ("x.npz", npz(arr_1=header((1 << 40,))), "a shape that no array has"),
    "a negative length": ("x.npy", header((-5,)), "a shape that no array has|cannot be read"),
    "a cut npy": ("x.npy", npy(np.arange(5))[:-3], r"165 bytes where its header promises 168"),
    "code in a header": ("x.npy", header("__import__('os').mkdir('ran')"), "the array cannot be read"),
    "objects": ("x.npy", npy(np.array([1, None, 2])), "an object array, which needs pickle and is refused"),
    "no arr_1": ("x.npz", npz(arr_0=npy(np.arange(5))), "holds arr_0; needed labels in arr_1"),
    "arr_1 twice": ("x.npz", twice(), "holds arr_1 twice"),
    "floats": ("x.npy", npy(np.arange(5.0)), r"labels are float64 \(5,\); needed integers"),
    "a table": ("x.npy", npy(np.zeros((5, 2), int)), r"labels are int64 \(5, 2\)"),
    "a single number": ("x.npy", npy(np.int64(5)), r"labels are int64 \(\)"),
    "texts": ("x.npy", npy(np.array(["a", "b"])), r"labels are <U1 \(2,\)"),
    "structures": ("x.npy", npy(np.zeros(5, [("a", int), ("b", int)])), r"labels are \[\('a', '<i8'\)"),
    "uint64 beyond int64": ("x.npy", npy(np.full(5, 2**64 - 1, np.uint64)), "label 18446744073709551615 of image 0"),
    "-1": ("x.npy", npy(np.array([0, 1, -1, 2])), "label -1 of image 2 is no class; the model knows 0 to 9"),
    "beyond the classes": ("x.txt", b"1\n2\n10\n", "label 10 of image 2 is no class"),
    "20 digits": ("x.txt", b"1\n2\n" + b"9" * 20, "label 99999999999999999999 of image 2 is no class"),
    "5,000 digits": ("x.txt", b"1\n2\n" + b"9" * 5000, "'9{40}' is no label; needed one integer a line"),
    "5,000,000 digits": ("x.txt", b"9" * 5_000_000, "'9{40}' is no label"),
    "words": ("x.txt", b"1\n2\n\x1b[2J\n", r"'\\x1b\[2J' is no label".replace("\\\\", r"\\+")),
    "a float": ("x.txt", b"1\n2\n3.0", r"'3\.0' is no label"),
    "not UTF-8": ("x.txt", b"1\n2\n\xff\xfe", "not UTF-8 text"),
    "too few": ("x.txt", b"1\n2", "2 labels; needed 3, one per image"),
    "nothing": ("x.txt", b"", "0 labels; needed 3"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_hostile_files(tmp_path, name, recwarn, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file, data, said = LABELS[name]
    Path(file).write_bytes(data)
    with pytest.raises(ValueError, match=said) as error:
        read_labels(tmp_path / file, num_images=3, num_classes=10)
    assert str(error.value).startswith(str(tmp_path / file))
    assert str(error.value).isprintable()
    assert os.listdir() == [file], "nothing ran"


def test_labels_take_memory_in_proportion_to_those_used(tmp_path):
    (tmp_path / "x.npz").write_bytes(npz(arr_1=npy(np.zeros(1 << 23, np.int64))))  # 64 kB that become 64 MB
    (tmp_path / "x.npy").write_bytes(npy(np.zeros(1 << 22, np.int64)))
    (tmp_path / "x.txt").write_bytes(b"1\n" * (1 << 18))
    for name in ("x.npz", "x.npy", "x.txt"):
        taken = peak(lambda name=name: read_labels(tmp_path / name, num_images=100, num_classes=10))
        assert taken < 1 << 23, name


def test_labels_of_every_kind_are_the_same(tmp_path):
    wanted = np.array([3, 1, 4, 1, 5])
    for dtype in ("u1", "<i2", ">i4", "<u8"):
        np.save(tmp_path / "x.npy", wanted.astype(dtype))
        np.savez_compressed(tmp_path / "x.npz", arr_1=wanted.astype(dtype), other=np.arange(3.0))
        for name in ("x.npy", "x.npz"):
            labels, _ = read_labels(tmp_path / name, num_images=4, num_classes=10)
            assert labels.dtype == np.int64
            assert labels.tolist() == [3, 1, 4, 1]
    for text in ("3 1 4 1 5", "3\r\n1\r\n4\r\n1\r\n", "\n3\n\n1 4\t1"):
        (tmp_path / "x.txt").write_text(text)
        assert read_labels(tmp_path / "x.txt", num_images=4, num_classes=10)[0].tolist() == [3, 1, 4, 1]


# ---- latents

INDEX = {
    "listing_sha256": "0" * 64, "image_size": 16, "vae": "test", "vae_sha256": "1" * 64, "scale": 0.18215,
    "dtype": "float32", "classes": ["cat", "dog"], "shards": [[0, 3], [2, 2]], "skipped": {},
}  # fmt: skip


def latents(folder, *, index=None, arrays=None, without=()):
    """A folder of latents, changed: fields of its index, files of it by name."""
    folder.mkdir()
    moments = np.ones((5, 2, 2, 4, 2, 2), np.float32)
    files = {"moments-000000.npy": npy(moments[:3]), "moments-000002.npy": npy(moments[3:])}
    files["labels.npy"] = npy(np.array([0, 1, 0, 1, 1]))
    described = index if isinstance(index, bytes) else json.dumps(INDEX | (index or {})).encode()
    for name, data in (files | {"latents.json": described} | (arrays or {})).items():
        if name not in without:
            (folder / name).write_bytes(data)
    return folder


def index_without(name):
    return json.dumps({key: value for key, value in INDEX.items() if key != name}).encode()


LATENTS = {
    **{
        f"no {name}": ({"index": index_without(name)}, f"{name} is missing")
        for name in ("listing_sha256", "image_size", "vae_sha256", "scale", "dtype", "classes", "shards")
    },
    "an index of a list": ({"index": b"[]"}, "holds a list"),
    "an index of a number": ({"index": b"1"}, "holds a number"),
    "an index of nothing": ({"index": b""}, "not JSON"),
    "an index of brackets": ({"index": DEEP}, "not JSON"),
    "an index of 5,000 digits": ({"index": b"9" * 5000}, "not JSON"),
    "an index that is no text": ({"index": b"\xff\xfe{}"}, "not UTF-8"),
    "a scale of NaN": ({"index": {"scale": float("nan")}}, "scale is nan"),
    "an infinite scale": ({"index": {"scale": float("inf")}}, "scale is inf"),
    "a scale of text": ({"index": {"scale": "1"}}, "scale is '1'"),
    "a scale of 0": ({"index": {"scale": 0}}, "scale is 0"),
    "a scale of 400 digits": ({"index": {"scale": 10**400}}, "scale is 1000"),
    "shards of text": ({"index": {"shards": "ab"}}, "shards is 'ab'"),
    "shards of numbers": ({"index": {"shards": [0, 3]}}, r"shards is \[0, 3\]"),
    "shards of three": ({"index": {"shards": [[0, 3, 1]]}}, r"shards is \[\[0, 3, 1\]\]"),
    "no shards": ({"index": {"shards": []}}, r"shards is \[\]"),
    "a shard twice": ({"index": {"shards": [[0, 3], [0, 3]]}}, "shards is"),
    "a shard of -1": ({"index": {"shards": [[0, -3]]}}, "shards is"),
    "a shard of 2^70 images": ({"index": {"shards": [[0, 2**70]]}}, "shards is"),
    "a shard elsewhere": ({"index": {"shards": [["/../../x", 3]]}}, "shards is"),
    "classes of numbers": ({"index": {"classes": [1, 2]}}, r"classes is \[1, 2\]"),
    "classes of a number": ({"index": {"classes": 10**9}}, "classes is 1000000000"),
    "a missing shard": ({"without": ["moments-000002.npy"]}, "no such file"),
    "no labels": ({"without": ["labels.npy"]}, r"labels\.npy: no such file"),
    "labels of floats": ({"arrays": {"labels.npy": npy(np.zeros(5))}}, r"labels\.npy: float64 \(5,\)"),
    "labels of text": ({"arrays": {"labels.npy": npy(np.array(["a"] * 5))}}, r"labels\.npy: <U1"),
    "labels of objects": ({"arrays": {"labels.npy": npy(np.array([None] * 5))}}, "object array"),
    "a label of -1": ({"arrays": {"labels.npy": npy(np.array([0, 1, -1, 0, 0]))}}, "label -1 of image 2; .* 0 to 1"),
    "a label beyond": ({"arrays": {"labels.npy": npy(np.array([0, 1, 2, 0, 0]))}}, "label 2 of image 2"),
    "a label of uint64": ({"arrays": {"labels.npy": npy(np.full(5, 2**63, np.uint64))}}, "label 9223372036854775808"),
    "too few labels": ({"arrays": {"labels.npy": npy(np.zeros(4, int))}}, "other lengths"),
    "a shard cut": ({"arrays": {"moments-000000.npy": npy(np.ones((3, 2, 2, 4, 2, 2)))[:-8]}}, "header promises"),
    "a shard of 2^40": ({"arrays": {"moments-000000.npy": header((1 << 40, 2, 2, 4, 2, 2), "<f4")}}, "no array has"),
    "integers": ({"arrays": {"moments-000000.npy": npy(np.ones((3, 2, 2, 4, 2, 2), int))}}, "int64 .*floats"),
    "a shard of another form": ({"arrays": {"moments-000000.npy": npy(np.ones((3, 2, 4, 2, 2)))}}, "expected floats"),
    "shards of two sizes": ({"arrays": {"moments-000000.npy": npy(np.ones((3, 2, 2, 4, 4, 4)))}}, "other lengths"),
}  # fmt: skip


@pytest.mark.parametrize("name", LATENTS)
def test_hostile_latents(tmp_path, name):
    changes, said = LATENTS[name]
    folder = latents(tmp_path / "x", **changes)
    with pytest.raises(ValueError, match=said) as error:
        Latents(folder)
    assert str(error.value).startswith(f"{folder}: ")
    assert str(error.value).isprintable()
    assert "encode again" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_no_numbers_are_found_when_they_are_read(tmp_path, value):
    moments = np.ones((3, 2, 2, 4, 2, 2), np.float32)
    moments[1, 1, 0, 2, 1, 0] = value
    found = Latents(latents(tmp_path / "x", arrays={"moments-000000.npy": npy(moments)}))
    found.moments(1, mirrored=False)
    with pytest.raises(ValueError, match="latents of image 1 are no means and deviations"):
        found.moments(1, mirrored=True)


def test_a_deviation_below_0_is_found(tmp_path):
    moments = np.ones((3, 2, 2, 4, 2, 2), np.float32)
    moments[2, 0, 1] = -1
    found = Latents(latents(tmp_path / "x", arrays={"moments-000000.npy": npy(moments)}))
    with pytest.raises(ValueError, match="image 2 are no means and deviations"):
        found.moments(2, mirrored=False)


def test_good_latents_are_read(tmp_path):
    found = Latents(latents(tmp_path / "x"))
    assert (len(found), found.shape, found.num_classes, found.labels.tolist()) == (5, (4, 2, 2), 2, [0, 1, 0, 1, 1])
    assert isinstance(found._shards[0], np.memmap)


# ---- the feature cache


@pytest.fixture
def entry(tmp_path):
    rows = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    notes = []
    made = CacheEntry(
        path=tmp_path / "features-0.npz", made_from='{"images": "a"}', num_images=12, pool_dim=3, on_note=notes.append
    )
    pool = GaussianStats(mu=rows.mean(0), sigma=np.cov(rows.T), num=12)
    made.write(FeatureSummary(pool=pool, pool_features=rows, class_probs=np.full((12, 4), 0.25, np.float32)))
    return made, rows, notes


def test_a_flipped_bit_in_a_cache_entry_is_found_or_does_not_matter(entry):
    made, rows, notes = entry
    data, draw, found = made.path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        place = draw.randrange(8 * len(data))
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        made.path.write_bytes(flipped)
        notes.clear()
        summary = made.read()
        if summary is None:
            found += 1
            assert len(notes) == 1
            assert notes[0].startswith(f"{made.path}: damaged, or of something else (")
            assert notes[0].isprintable()
        else:
            np.testing.assert_array_equal(summary.pool_features, rows)
            assert summary.class_probs is not None
    assert found > 200


CACHE = {
    "of other images": ({"made_from": np.array('{"images": "b"}')}, "made from other images"),
    "of nobody": ({"made_from": np.array("[" * 60_000)}, "damaged, or of something else"),
    "of a number": ({"made_from": np.array(1)}, "made_from is int64"),
    "without features": ({"pool_features": None}, "it holds class_probs, made_from, mu, sigma"),
    "with something else": ({"evil": np.zeros(3)}, "it holds class_probs, evil"),
    "of fewer images": ({"pool_features": np.zeros((11, 3), np.float32)}, r"pool_features is float32 \(11, 3\)"),
    "of another width": (
        {"mu": np.zeros(2), "sigma": np.eye(2), "pool_features": np.zeros((12, 2), np.float32)},
        "do not belong together",
    ),
    "of two widths": ({"pool_features": np.zeros((12, 2), np.float32)}, "do not belong together"),
    "of half a covariance": ({"sigma": np.eye(3)[:2]}, r"sigma is float64 \(2, 3\)"),
    "without a covariance": ({"sigma": None}, "do not belong together"),
    "of integers": ({"pool_features": np.zeros((12, 3), int)}, "pool_features is int64"),
    "with NaN": ({"pool_features": np.full((12, 3), np.nan, np.float32)}, "pool_features holds NaN"),
    "with NaN in classes": ({"class_probs": np.full((12, 4), np.inf, np.float32)}, "class_probs holds NaN or infinite"),
    "of no covariance": ({"sigma": -np.eye(3)}, "no covariance"),
    "of a scalar": ({"class_probs": np.float32(1)}, r"class_probs is float32 \(\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", CACHE)
def test_a_forged_cache_entry_is_made_again(entry, name):
    made, _, notes = entry
    changes, said = CACHE[name]
    with np.load(made.path) as file:
        arrays = {**file, "made_from": np.array(made.made_from)} | changes  # without checksums
    np.savez(made.path, **{key: array for key, array in arrays.items() if array is not None})
    assert made.read() is None
    assert len(notes) == 1
    assert said.replace("\\", "") in notes[0]


def test_an_array_of_another_entry_is_found(entry):
    made, _, notes = entry
    with np.load(made.path) as file:
        arrays = {**file} | {"class_probs": np.full((12, 4), 0.125, np.float32)}
    np.savez(made.path, **arrays)
    assert made.read() is None
    assert "its arrays were not written together" in notes[0]
    np.savez(made.path, **arrays | {"made_from": np.array(made.made_from)})  # as an earlier version wrote it
    assert made.read() is not None


def test_an_entry_that_lacks_what_is_asked_for_is_not_damaged(entry):
    made, _, notes = entry
    assert made.read() is not None
    assert made.read(keep_spatial=True) is None
    assert dataclasses.replace(made, path=made.path.with_name("none.npz")).read() is None
    assert notes == []


# ---- kept counts, records of downloads


@pytest.fixture
def counts(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path))
    kept._keep("a", OWN)
    return kept.counts_file()


def a_count(macs, params):
    parts = {"linear": Counts(macs=macs)}
    return FlopCount(macs=macs, params=params, by_operator=parts, by_module={}, negligible={})


OWN, OTHER, MORE = a_count(1_000_000, 2_000), a_count(3, 4), a_count(5, 6)


COUNTS = (
    *([number, 0, 0] for number in (-1, float("nan"), float("inf"), 1e300, 10**30, 0, True, "1", [1], None, 1_000_001)),
    [5], [5, 5], [5, 5, 5, 5], {}, "text", None, 7,
)  # fmt: skip


@pytest.mark.parametrize("forged", COUNTS, ids=repr)
def test_forged_counts_are_not_believed(counts, forged):
    entry, check = json.loads(counts.read_text())["a"]
    entries = [forged, [forged, check], [entry | {"params": forged}, check]]
    for parts in ({"": forged}, {"": [1_000_000, 0, 0], "linear": forged}):
        false = entry | {"parts": parts}
        entries += [false, [false, check], [false]]
        if forged != [1_000_001, 0, 0] and (forged != [0, 0, 0] or "linear" not in parts):  # a number as good as any
            entries += [[false, kept._check("a", false)]]
    for value in entries:
        counts.write_text(json.dumps({"a": value}))
        kept._kept_in.cache_clear()
        assert kept._kept() == {}, value


@pytest.mark.parametrize("data", [b"", b"[]", b"1", DEEP, b'{"a": ' + b"9" * 5000 + b"}", b"\xff", b"{" * 10])
def test_counts_that_cannot_be_read_are_made_again(counts, data):
    counts.write_bytes(data)
    kept._kept_in.cache_clear()
    assert kept._kept() == {}
    kept._keep("b", OTHER)
    kept._kept_in.cache_clear()
    assert kept._kept() == {"b": OTHER}


def test_counts_of_another_process_stay(counts):
    own = counts.read_bytes()
    kept._kept_in.cache_clear()
    kept._keep("of another", OTHER)
    others = counts.read_bytes()
    counts.write_bytes(own)
    kept._kept_in.cache_clear()
    assert "of another" not in kept._kept()
    counts.write_bytes(others)  # while this one has what it read before
    kept._keep("b", MORE)
    kept._kept_in.cache_clear()
    assert kept._kept() == {"a": OWN, "of another": OTHER, "b": MORE}


RECORDS = (
    b"", b"[]", b"1", DEEP, b"\xff", b"{}", b'{"url": "u"}', b'{"url": "u", "sha256": 1}',
    b'{"url": "u", "sha256": "z"}',
    b'{"url": ["u"], "sha256": "' + b"0" * 64 + b'"}', b'{"url": "v", "sha256": "' + b"0" * 64 + b'"}',
    b'{"url": "u", "sha256": "' + b"0" * 65 + b'"}',
    b" " * (1 << 20) + b'{"url": "u", "sha256": "' + b"0" * 64 + b'"}',
)  # fmt: skip


@pytest.mark.parametrize("data", RECORDS, ids=range(len(RECORDS)))
def test_forged_records_of_downloads_are_not_believed(tmp_path, monkeypatch, data):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path))
    item = Asset(name="x", kind="weights", filename="x.bin", url="u", sha256=None, note="")
    item.record_path.write_bytes(data)
    assert recorded_sha256(item) is None
    item.record_path.write_text(json.dumps({"url": "u", "sha256": "0" * 64}))
    assert recorded_sha256(item) == "0" * 64


# ---- trainings

STATES = (b"", b"x", b"\xff" * 100, struct.pack("<Q", 1 << 40) + b"{}", struct.pack("<Q", 2) + b"{}",
          *(struct.pack("<Q", len(text)) + text for text in (
              b'{"__metadata__": {"step": "-1"}}', b'{"__metadata__": {"step": "1e9"}}',
              b'{"__metadata__": {"step": "' + b"9" * 40 + b'"}}', b'{"__metadata__": {"pace": "1"}}',
              b'{"__metadata__": {"step": 1}}', b'{"__metadata__": []}', b'{"__metadata__": {"step": "1\\n"}}',
          )))  # fmt: skip


@pytest.mark.parametrize("data", STATES, ids=range(len(STATES)))
def test_a_damaged_state_of_a_training_is_one_message(tmp_path, data):
    (tmp_path / "state.safetensors").write_bytes(data)
    with pytest.raises(
        ValueError, match=r"state\.safetensors: damaged .*Put a good copy in its place, or remove the folder"
    ):
        steps_done(tmp_path)


@pytest.mark.parametrize("data", [b"", b"[]", b"1", b"null", DEEP, b"\xff", b'{"a": ' + b"9" * 5000 + b"}"])
def test_settings_of_another_program(tmp_path, data):
    (tmp_path / "run.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"run\.json: written by another program; name another `out`\. Found: "):
        read_settings(tmp_path / "run.json")


def test_settings_that_are_no_file(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(ValueError, match=r"run\.json"):
        read_settings(tmp_path / "run.json")


LINES = ("", "[]", "1", "null", '"x"', "{", "{}", '{"step": -1, "loss": 1}', '{"step": 1.5, "loss": 1}',
         '{"step": "1", "loss": 1}', '{"step": 1}', '{"step": 1, "loss": NaN}', '{"step": 1, "loss": "1"}',
         '{"step": 1, "loss": [1]}', '{"step": 1, "loss": 1, "mse": {}}', '{"step": true, "loss": 1}',
         f'{{"step": {10**20}, "loss": 1}}', f'{{"step": 1, "loss": {"9" * 5000}}}', "[" * 200_000,
         '{"a": ' * 100_000)  # fmt: skip


@pytest.mark.parametrize("text", LINES, ids=range(len(LINES)))
def test_lines_that_are_none_of_a_log(tmp_path, text):
    with pytest.raises(ValueError):
        parse_log_line(text)
    (tmp_path / "log.jsonl").write_text(text + '\n{"step": 2, "loss": 0.5}\n')
    if text not in ('{"step": -1, "loss": 1}', '{"step": 1.5, "loss": 1}'):  # of other programs, which may be drawn
        said = []
        assert read_losses(tmp_path, on_bad_line=said.append)["step"].tolist() == [2]
        assert len(said) == (1 if text else 0), "an empty line is nothing"


@pytest.mark.parametrize(
    "data", [b"", b"[]", DEEP, b"\xff", b'{"config": []}', b'{"config": {"depth": 0}}', b'{"config": 1}']
)
def test_a_log_beside_settings_of_another_program_is_named_by_its_folder(tmp_path, data):
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 0.5}\n')
    (tmp_path / "run.json").write_bytes(data)
    assert read_losses(tmp_path)["model"].tolist() == [tmp_path.name]


# ---- studies


@pytest.fixture
def study(tmp_path):
    shutil.copytree(EDITION / "study" / "whole", tmp_path / "study")
    return Study(load_plan(tmp_path / "study" / "plan.toml"), tmp_path / "study")


def changed(**changes):
    return lambda about: json.dumps(about | changes).encode()


DONE = {
    "a list": lambda _: b"[]",
    "a text": lambda _: b'"done"',
    "a number": lambda _: b"1",
    "nothing": lambda _: b"",
    "half": lambda about: json.dumps(about).encode()[:200],
    "brackets": lambda _: DEEP,
    "objects": lambda _: b'{"a":' * 100_000,
    "no UTF-8": lambda _: b"\xff\xfe",
    "5,000 digits": lambda _: b'{"seconds": ' + b"9" * 5000 + b"}",
    "an empty object": lambda _: b"{}",
    "of another task": changed(task={"key": "other"}),
    "of a task of text": changed(task="other"),
    "no seconds": changed(seconds=None),
    "seconds of a list": changed(seconds=[1, 2]),
    "seconds of text": changed(seconds={"sampling": "1", "evaluation": "2"}),
    "seconds of NaN": changed(seconds={"sampling": float("nan"), "evaluation": 1}),
    "seconds below 0": changed(seconds={"sampling": -1, "evaluation": 1}),
    "other seconds": changed(seconds={"training": 1}),
    "Gflops of text": changed(gflops="1"),
    "endless Gflops": changed(gflops=float("inf")),
    "a share of null": changed(share=None),
    "no result": changed(result=None),
    "a result of a list": changed(result=[]),
    "a result of text": changed(result={"fid": "1"}),
}


@pytest.mark.parametrize("name", DONE)
def test_a_damaged_record_of_a_cell_costs_the_cell_alone(study, name):
    cell, *others = study.plan.cells
    path = study.done_file(cell)
    path.write_bytes(DONE[name](json.loads(path.read_text())))
    assert (study.is_done(cell), study.result(cell)) == (False, None)
    assert all(study.is_done(other) for other in others)
    assert study.missing() == [cell]
    (line,) = study.unfit()
    assert line.startswith(f"warning: {path}: ")
    assert line.endswith("So the cell is done again.")
    assert line.isprintable()
    states = {row.task.key: row.state for row in study.status()}
    assert states.pop(cell.key) == "ready"
    assert set(states.values()) == {"done"}
    assert study.collect() == len(others)
    assert study.told(cell, 1, 2).startswith("[1/2]")


@pytest.mark.parametrize("name", ["a list", "half", "brackets", "no seconds", "of another task"])
def test_a_damaged_record_of_a_training_costs_its_time_alone(study, name):
    run = study.plan.trainings[0]
    path = study.done_file(run)
    path.write_bytes(DONE[name](json.loads(path.read_text())))
    assert study.is_done(run)
    assert study.missing() == []
    assert [line.endswith("So how long it took is not known.") for line in study.unfit()] == [True]
    assert {row.state for row in study.status()} == {"done"}


@pytest.mark.parametrize("data", [b"", b"[]", b"1", DEEP, b"\xff", b'{"a": 1}', b'{"a": ["b"]}'])
def test_damaged_reasons_of_failures_are_told(study, data):
    (study.folder / "failures.json").write_bytes(data)
    assert {row.state for row in study.status()} == {"done"}
    (line,) = study.unfit()
    assert "Why tasks failed is not known" in line


def test_reasons_of_failures_move_no_cursor(study):
    cell = study.plan.cells[0]
    study.done_file(cell).unlink()
    (study.folder / "failures.json").write_text(json.dumps({cell.key: "a\x1b[2J\nb"}))
    (row,) = [row for row in study.status() if row.task == cell]
    assert (row.state, row.reason) == ("failed", "a\\x1b[2J\nb")


SOURCES = (b"", b"[]", b"1", DEEP, b"\xff", b"{}", b'{"sources": []}', b'{"sources": {"train": 1}}',
           b'{"sources": {"train": "a", "ref": "b", "weights": 3, "decoders": {}, "device": "cpu"}}',
           b'{"sources": {"train": "a", "ref": "b", "weights": null, "decoders": ["x"], "device": "cpu"}}')  # fmt: skip


@pytest.mark.parametrize("data", SOURCES, ids=range(len(SOURCES)))
def test_damaged_sources_of_a_study(study, data):
    (study.folder / "study.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"study\.json: damaged .*`dit-eval study run` writes it anew"):
        _ = study.sources


def test_a_damaged_line_of_a_log_is_left_out(study):
    run = study.plan.trainings[0]
    log = study.training_folder(run.key) / "log.jsonl"
    whole = log.read_text()
    study.collect()
    before = study.losses.read_text()
    log.write_text("[]\n" + whole + '{"step": []}\n' + '{"step": 99999')
    study.collect()
    assert study.losses.read_text() == before


# ---- JSON of any file


def test_a_file_beyond_its_bound_is_not_read(tmp_path):
    with open(tmp_path / "x.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than 1,000 bytes, which no such file has; expected settings"):
        read_json(tmp_path / "x.json", "settings", max_size=1000)


def test_a_path_that_is_no_utf8_stays_in_json(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"train": "\udce9"}))
    assert read_json(tmp_path / "x.json", "settings") == {"train": "\udce9"}


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": {"a": 1, "a\\u0000": 1, "\\u0061": 2}}'])
def test_a_name_that_stands_twice_in_json_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match="a stands in it twice"):
        read_json(tmp_path / "x.json", "settings")


# ---- pipes, which nobody fills


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "ema-0000002.safetensors")
    with pytest.raises(ValueError, match=r"ema-0000002\.safetensors: not a plain file"):
        file_digest(tmp_path / "ema-0000002.safetensors")


def test_a_pipe_in_the_place_of_results_is_not_waited_for(study):
    for name in ("results.jsonl", "losses.jsonl", "failures.json"):
        (study.folder / name).unlink(missing_ok=True)
        os.mkfifo(study.folder / name)
        with pytest.raises(FileExistsError, match=name):
            study.note_failures({}) if name == "failures.json" else study.collect()
        (study.folder / name).unlink()


def test_a_pipe_in_the_place_of_a_cache_entry_is_not_waited_for(entry):
    made, rows, notes = entry
    made.path.unlink()
    os.mkfifo(made.path)
    assert made.read() is None
    made.write(FeatureSummary(pool_features=rows))
    (line,) = notes
    assert line.startswith(f"warning: {made.path}: the features could not be kept")


def test_half_a_character_in_the_settings_of_a_run_is_written_as_json_has_it(tmp_path):
    forged = {"environments": [{"gpu": "\ud800"}]}
    run = TrainingRun(
        config=DiTConfig(depth=1, hidden_size=8, num_heads=2, patch_size=4, input_size=8, num_classes=3, in_channels=3,
                         space="pixel"),
        data=ArrayData(images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.zeros(4, np.int64), identity={"kind": "x"}),
        recipe=Recipe(batch_size=2),
        schedule=Schedule(steps=1),
    )  # fmt: skip
    train(tmp_path / "run", run)
    file = tmp_path / "run" / "run.json"
    said = json.loads(file.read_text())
    del said["digest"]  # as an earlier version has it: with one, the file would be written anew
    file.write_text(json.dumps(said | forged))
    train(tmp_path / "run", dataclasses.replace(run, schedule=Schedule(steps=2)))
    assert json.loads(file.read_text())["environments"][0] == forged["environments"][0]


# ---- nothing is read elsewhere

READING = {"system/reading.py", "system/pickles.py", "system/tensors.py", "system/toml.py", "images/decoding.py"}
PARSERS = {
    *("json.load", "json.loads", "tomllib.load", "tomllib.loads", "pickle.load", "pickle.loads", "json.decode"),
    "pickletools.genops",
    *("np.load", "np.fromfile", "np.memmap", "np.loadtxt", "np.genfromtxt", "format.read_array", "torch.load"),
    *("jit.load", "load_file", "safe_open", "Image.open", "zipfile.ZipFile", "tarfile.open", "gzip.open"),
    *("datasets.load_from_disk", "arrow.memory_map", "ParseFromString", "pandas.read_csv", "pandas.read_json"),
}
PACKAGED = "comes with the package"
CHECKED = "of a member whose header was found good"
ELSEWHERE = {
    ("checks/findings/effects.py", "json.loads"): PACKAGED,
    (
        "checks/cifar10.py",
        "tarfile.open",
    ): "an archive of pinned SHA-256, of which as many bytes are read as are needed",
    ("checks/verify.py", "json.loads"): PACKAGED,
    ("checks/verify.py", "np.load"): PACKAGED,
    ("paper/__init__.py", "pandas.read_csv"): PACKAGED,
    ("features/cache.py", "json.loads"): "what this process says that an entry is made from",
    ("features/tensorflow.py", "ParseFromString"): "a graph that `read_constants` has read within bounds",
    ("images/huggingface.py", "datasets.load_from_disk"): "only the package knows the format; its files are checked",
    ("images/huggingface.py", "arrow.memory_map"): "the check of those files",
    ("images/npz.py", "np.memmap"): CHECKED,
    ("images/npz_file.py", "np.memmap"): CHECKED,
    ("images/npz_file.py", "zipfile.ZipFile"): CHECKED,
    ("sampling.py", "json.loads"): "settings that this process has, on their way into a file",
    ("sampling.py", "np.fromfile"): "a piece, of which as many bytes are read as its images have",
    ("system/download.py", "json.loads"): "a note, bounded; without NumPy, and without following links",
    ("system/archives.py", "zipfile.ZipFile"): "where every zip is opened, its directory bounded",
}


def parsed_in(source):
    """The calls of a source that make values of a file's bytes."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("json", "pickle", "tomllib"):
            yield f"{node.module}.{node.names[0].name}"
        if not isinstance(node, ast.Call):
            continue
        name, arguments = ast.unparse(node.func), [ast.unparse(each) for each in node.args]
        found = next((each for each in PARSERS if f".{name}".endswith(f".{each}")), None)
        written, own = "'w'" in arguments, arguments and arguments[0].startswith("json.dumps(")
        if found and not written and not own:
            yield found


def test_files_are_parsed_by_the_reading_modules_alone():
    package = Path(dit_eval.__file__).parent
    sources = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    assert sources.keys() >= READING
    found = {
        (name, call)
        for name, path in sources.items()
        for call in parsed_in(path.read_text(encoding="utf-8"))
        if name not in READING
    }
    assert found == ELSEWHERE.keys(), "add a bounded reader to system/reading, or say here why not"


@pytest.mark.parametrize(
    "source",
    ["json.loads(path.read_text())", "np.lib.format.read_array(file)", "from json import loads", "Image.open(path)",
     "definition.ParseFromString(data)", "safetensors.torch.load_file(path)", "zipfile.ZipFile(path)"],
)  # fmt: skip
def test_a_new_place_that_parses_files_is_found(source):
    assert list(parsed_in(source))
    assert not list(parsed_in("json.loads(json.dumps(own)); zipfile.ZipFile(path, 'w'); read_json(path, 'x')"))
