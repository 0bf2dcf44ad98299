import dataclasses
import io
import re
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch

from dit_eval.checks.classes import score_classes
from dit_eval.diffusion.data import open_npz
from dit_eval.images import from_batches
from dit_eval.images.npz import open_batch, write_batch
from dit_eval.results.sample_run import SampleRun
from dit_eval.system import reading


@pytest.fixture(scope="module")
def images():
    return np.random.RandomState(0).randint(0, 256, (37, 12, 10, 3)).astype(np.uint8)


def read_all(batch, batch_size):
    return np.concatenate(list(batch.batches(batch_size)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("batch_size", [1, 8, 37, 64])
def test_stored_and_compressed_files_give_the_same_images(tmp_path, images, save, batch_size):
    save(tmp_path / "x.npz", arr_0=images, arr_1=np.arange(37))
    batch = open_batch(tmp_path / "x.npz", role="gen")
    assert (batch.num_images, batch.image_size) == (37, (12, 10))
    np.testing.assert_array_equal(batch.labels, np.arange(37))
    np.testing.assert_array_equal(read_all(batch, batch_size), images)
    assert [len(b) for b in batch.batches(16)] == [16, 16, 5]


@pytest.mark.parametrize("key", ["arr_0", "arr_1", "sample_run"])
def test_a_directory_that_calls_an_array_by_another_name_is_damaged(tmp_path, images, key):
    path = tmp_path / "x.npz"
    np.savez(path, arr_0=images, arr_1=np.arange(37), sample_run=np.array("{}"))
    data = bytearray(path.read_bytes())
    at = data.rindex(key.encode())  # in the directory, which ends the file
    data[at] ^= 8
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"x\.npz: its directory calls {key}\.npy '[^']*'; the file is damaged"):
        open_batch(path, role="gen")


def test_a_header_of_python_2_is_read_without_a_word(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3L,), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("mu.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with reading.open_npz(tmp_path / "x.npz", {"mu"}) as file:
            assert file.header("mu").shape == (3,)
            np.testing.assert_array_equal(file.array("mu"), np.zeros(3))


def test_a_directory_that_points_before_the_file_is_damaged(tmp_path, images):
    path = tmp_path / "x.npz"
    np.savez(path, arr_0=images)
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\5\6")
    start = int.from_bytes(data[end + 16 : end + 20], "little")  # of the directory: later than it is
    data[end + 16 : end + 20] = (start + 7).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npz: its directory points outside of the file\. Copy or download"):
        open_batch(path, role="gen")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_checked_without_their_being_used(tmp_path, images, save):
    path = tmp_path / "x.npz"
    save(path, arr_0=images)
    open_batch(path, role="gen").check_images()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npz: the images are damaged \("):
        open_batch(path, role="gen").check_images()


def test_num_images_takes_the_first_in_file_order(tmp_path, images):
    np.savez(tmp_path / "x.npz", arr_0=images, arr_1=np.arange(37))
    batch = open_batch(tmp_path / "x.npz", role="gen", num_images=10)
    assert (batch.num_images, batch.num_stored) == (10, 37)
    np.testing.assert_array_equal(read_all(batch, 4), images[:10])
    np.testing.assert_array_equal(batch.labels, np.arange(10))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_are_read_in_any_order(tmp_path, images, save):
    save(tmp_path / "x.npz", arr_0=images)
    array = open_batch(tmp_path / "x.npz", role="gen", num_images=30).array()
    np.testing.assert_array_equal(array, images[:30])
    np.testing.assert_array_equal(array[[20, 3, 3]], images[[20, 3, 3]])
    assert isinstance(array, np.memmap) == (save is np.savez), "what is stored as it is needs no memory"
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(ValueError, match="holds statistics only"):
        open_batch(tmp_path / "statistics.npz", role="ref").array()


def test_npy_header_2_0_is_read_as_adm_reads_it(tmp_path, images):
    payload = io.BytesIO()
    np.lib.format.write_array(payload, images, version=(2, 0))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("arr_0.npy", payload.getvalue())
    np.testing.assert_array_equal(read_all(open_batch(tmp_path / "x.npz", role="gen"), 9), images)


def test_images_behind_other_members_and_long_extra_fields_are_found(tmp_path, images):
    # The data offset comes from the local header, whose extra field may differ from the directory's.
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        payload = io.BytesIO()
        np.lib.format.write_array(payload, np.arange(37))
        archive.writestr("arr_1.npy", payload.getvalue())
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as out:
            np.lib.format.write_array(out, images)
    np.testing.assert_array_equal(read_all(open_batch(tmp_path / "x.npz", role="gen"), 10), images)


def test_what_is_written_numpy_and_we_read_alike(tmp_path, images):
    path = tmp_path / "deep" / "x.npz"
    write_batch(
        path, images=(images[i : i + 5] for i in range(0, 37, 5)), shape=images.shape, arrays={"mu": np.ones(3)}
    )
    with np.load(path, allow_pickle=False) as saved:
        np.testing.assert_array_equal(saved["arr_0"], images)
        np.testing.assert_array_equal(saved["mu"], np.ones(3))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, images):
    path = tmp_path / "x.npz"
    write_batch(path, images=[images], shape=images.shape)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="37 images in all; needed 38"):
        write_batch(path, images=[images], shape=(38, 12, 10, 3))
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_batch(path, arrays={"x": np.array([{}, None], dtype=object)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_sha256_is_that_of_the_file_and_damage_is_noticed(tmp_path, images):
    import hashlib

    path = tmp_path / "x.npz"
    np.savez(path, arr_0=images)
    assert open_batch(path, role="gen").sha256() == hashlib.sha256(path.read_bytes()).hexdigest()
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1  # one bit of one pixel
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="do not match the file's own checksum"):
        open_batch(path, role="gen").sha256()


def test_files_that_are_joined_are_refused(tmp_path, images):
    for name in ("a", "b"):
        np.savez(tmp_path / name, arr_0=images)
    a, b = ((tmp_path / f"{name}.npz").read_bytes() for name in ("a", "b"))
    for data, message in (
        (a + b, r"x\.npz: begins with a member that its directory does not list, as archives joined by cat do"),
        (a + b[:9000], r"x\.npz: goes on after its end, at byte 13,"),
    ):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            open_batch(tmp_path / "x.npz", role="gen")


def test_damage_in_a_compressed_file_is_noticed_while_reading(tmp_path, images):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, arr_0=images)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="arr_0 is damaged near image"):
        read_all(open_batch(path, role="gen"), 8)


def test_statistics_are_read_with_and_without_images(tmp_path, images):
    sigma = np.diag([1.0, 2.0])
    np.savez(tmp_path / "ref.npz", mu=np.array([1.0, 2.0]), sigma=sigma)
    ref = open_batch(tmp_path / "ref.npz", role="ref")
    assert (ref.num_images, ref.image_size, ref.spatial) == (0, None, None)
    np.testing.assert_array_equal(ref.pool.sigma, sigma)
    assert ref.pool.num is None, "a reference file does not say how many images are behind its statistics"
    with pytest.raises(ValueError, match=r"no arr_0 in the file; keys found: mu, sigma"):
        open_batch(tmp_path / "ref.npz", role="gen")


def test_labels_that_are_no_labels_are_ignored_as_adm_ignores_them(tmp_path, images):
    np.savez(tmp_path / "x.npz", arr_0=images, arr_1=np.arange(5))
    assert open_batch(tmp_path / "x.npz", role="gen").labels is None


Y = np.arange(37) * 7 % 10
ONE_HOT = np.zeros((37, 10))
ONE_HOT[np.arange(37), Y] = 1
# Each form, and what is said of it where it is not integers (N,).
LABELS = {
    "integers": (Y, None),
    "bytes": (Y.astype(np.uint8), None),
    "of the other byte order": (Y.astype(">i2"), None),
    "a column": (Y[:, None], "arr_1 is int64 (37, 1), one a row; taken as labels"),
    "a row": (Y[None], "arr_1 is int64 (1, 37), one a row; taken as labels"),
    "floats": (Y.astype(np.float16), "arr_1 is float16 (37,), whole numbers; taken as labels"),
    "a column of floats": (Y[:, None] / 1.0, "arr_1 is float64 (37, 1), whole numbers; taken as labels"),
    "one-hot": (ONE_HOT, "arr_1 is float64 (37, 10), one-hot; taken as labels"),
    "one-hot of bytes": (ONE_HOT.astype(np.uint8), "arr_1 is uint8 (37, 10), one-hot; taken as labels"),
    "one-hot, true and false": (ONE_HOT == 1, "arr_1 is bool (37, 10), one-hot; taken as labels"),
}
NO_LABELS = {
    "texts": (Y.astype(str), "arr_1 is <U21 (37,); needed integers (37,), one label an image"),
    "one too few": (Y[1:], "arr_1 is int64 (36,); needed integers (37,), one label an image"),
    "one too many": (np.append(Y, 0), "arr_1 is int64 (38,); needed integers (37,), one label an image"),
    "a number": (np.array(3), "arr_1 is int64 (); needed integers (37,), one label an image"),
    "complex": (Y * 1j, "arr_1 is complex128 (37,); needed integers (37,), one label an image"),
    "fractions": (Y + 0.5, "arr_1 is float64 (37,) of values that are no numbers of classes; needed integers (37,)"),
    "NaN": (np.full(37, np.nan), "arr_1 is float64 (37,) of values that are no numbers of classes; needed integers"),
    "too large": (Y.astype(np.uint64) << 60, "arr_1 is uint64 (37,) of values that are no numbers of classes"),
    "probabilities": (
        ONE_HOT * 0.5 + 0.05,
        "arr_1 is float64 (37, 10) with rows that are not one-hot; needed integers",
    ),
    "rows of two": (np.ones((37, 2)), "arr_1 is float64 (37, 2) with rows that are not one-hot; needed integers (37,)"),
    "rows of none": (np.zeros((37, 5)), "arr_1 is float64 (37, 5) with rows that are not one-hot; needed integers"),
    "latents": (np.zeros((37, 4, 2, 2)), "arr_1 is float64 (37, 4, 2, 2); needed integers (37,), one label an image"),
    "another order": (np.asfortranarray(ONE_HOT), "arr_1 is stored in Fortran order; save np.ascontiguousarray of it"),
    "objects": (np.array([*Y, None], object)[:-1], "arr_1 is an object array, which needs pickle and is refused; save"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("form", LABELS)
def test_labels_of_other_forms_are_used_and_told(tmp_path, images, form, save, monkeypatch):
    labels, told = LABELS[form]
    monkeypatch.setattr(reading, "_CHUNK", 64)  # bytes: some rows at a time
    save(tmp_path / "x.npz", arr_0=images, arr_1=labels)
    batch = open_batch(tmp_path / "x.npz", role="gen", num_images=30)
    assert batch.labels.dtype == np.int64
    np.testing.assert_array_equal(batch.labels, Y[:30])
    assert batch.labels_problem is None
    assert batch.warnings == (() if told is None else (f"{tmp_path / 'x.npz'}: {told}.",))
    np.testing.assert_array_equal(open_npz_labels(tmp_path, images, labels), Y)


def open_npz_labels(tmp_path, images, labels):
    """As training reads them."""
    np.savez(tmp_path / "square.npz", arr_0=images[:, :10], arr_1=labels)
    return open_npz(tmp_path / "square.npz").labels


@pytest.mark.parametrize("form", NO_LABELS)
def test_what_cannot_be_labels_is_told_and_refused_where_labels_are_needed(
    tmp_path, images, form, digits_ref, digits_extractor
):
    labels, problem = NO_LABELS[form]
    np.savez(tmp_path / "x.npz", arr_0=images, arr_1=labels)
    batch = open_batch(tmp_path / "x.npz", role="gen")
    assert batch.labels is None
    assert batch.labels_problem.startswith(problem)
    assert batch.warnings == (f"{tmp_path / 'x.npz'}: {batch.labels_problem}, so that its images have no labels.",)
    ref = open_batch(digits_ref, role="ref")
    with pytest.raises(ValueError, match=re.escape(f"x.npz (gen) has no labels that can be used: {problem}")):
        score_classes(gen=batch, ref=ref, extractor=digits_extractor)
    with pytest.raises(ValueError, match=re.escape(f"square.npz: {problem}")):
        open_npz_labels(tmp_path, images, labels)


def test_labels_take_little_memory(tmp_path):
    labels = np.arange(20_000) % 1000
    arrays = {"arr_0": np.zeros((20_000, 1, 1, 3), np.uint8), "arr_1": np.eye(1000, dtype=np.float32)[labels]}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    tracemalloc.start()
    found = open_batch(tmp_path / "x.npz", role="gen").labels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found, labels)
    assert peak < 32e6, "not the 80 MB of the array"


def test_images_in_several_arrays_are_refused_and_those_beside_are_told(tmp_path, images):
    path = tmp_path / "x.npz"
    np.savez(path, *np.array_split(images, 5))
    for role in ("gen", "ref"):
        with pytest.raises(ValueError, match=r"but in arr_1 \(uint8 8 x 12 x 10 x 3\), .* and 1 more as well"):
            open_batch(path, role=role)
    np.savez(path, images, images[:2, :4])
    with pytest.raises(ValueError, match=r"arr_1 \(uint8 2 x 4 x 10 x 3\) as well; .*np\.concatenate\(batches\)"):
        open_batch(path, role="gen")
    np.savez(path, images, Y, images.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"arr_2 \(uint8 37 x 3 x 12 x 10\) as well"):
        open_batch(path, role="gen")
    np.savez(path, *images)
    with pytest.raises(ValueError, match=r"shape \(12, 10, 3\); .*Of single images, save np\.stack\(images\)"):
        open_batch(path, role="gen")
    np.savez(path, arr_0=images, real=images[:3], floats=images / 255.0, prompts=Y.astype(str), masks=images[..., 0])
    batch = open_batch(path, role="gen")
    assert batch.warnings == (
        f"{path}: holds images in real (uint8 3 x 12 x 10 x 3), floats (float64 37 x 12 x 10 x 3) as well; "
        "arr_0 alone is read.",
    )
    np.testing.assert_array_equal(read_all(batch, 10), images)


def test_the_advice_for_floats_is_the_samplers_rule(tmp_path):
    levels = np.arange(256)
    x = np.linspace(-1.2, 1.2, 4 * 4 * 3 * 100).reshape(100, 4, 4, 3)
    np.savez(tmp_path / "x.npz", arr_0=x)
    with pytest.raises(ValueError, match="arr_0 is float64") as error:
        open_batch(tmp_path / "x.npz", role="gen")
    rules = re.findall(r"\((?:127\.5|255)[^;]*?uint8\)", str(error.value))
    assert rules == [
        "(127.5 * x + 128).clip(0, 255).astype(np.uint8)",
        "(255 * x + 0.5).clip(0, 255).astype(np.uint8)",
    ]
    of_both, of_one = (eval(f"lambda x: {rule}", {"np": np}) for rule in rules)
    sampled = torch.clamp(127.5 * torch.from_numpy(x) + 128.0, 0, 255).to(torch.uint8)  # sample_ddp.py
    np.testing.assert_array_equal(of_both(x), sampled)
    # Whole grey levels come back as they were, and what lies between goes to the nearest.
    np.testing.assert_array_equal(of_both(levels / 127.5 - 1), levels)
    np.testing.assert_array_equal(of_one(levels / 255), levels)
    np.testing.assert_array_equal(of_one((levels[:-1] + 0.49) / 255), levels[:-1])
    np.testing.assert_array_equal(of_one((levels[:-1] + 0.51) / 255), levels[1:])


@pytest.mark.parametrize(
    ("images_of", "advice"),
    [
        (lambda x: x.astype(np.int64), "If they are in 0..255, pass x.astype(np.uint8)"),
        (lambda x: x.astype(np.uint16), "if in 0..65535, (x // 257).astype(np.uint8)"),
        (lambda x: x > 99, "255 * x.astype(np.uint8)"),
    ],
)
def test_integers_get_advice_of_their_own(tmp_path, images, images_of, advice):
    np.savez(tmp_path / "x.npz", arr_0=images_of(images))
    with pytest.raises(ValueError, match=re.escape(advice)) as error:
        open_batch(tmp_path / "x.npz", role="gen")
    assert "127.5" not in str(error.value)
    with pytest.raises(ValueError, match=re.escape(advice.replace(".astype(np.uint8)", ".to(torch.uint8)"))):
        from_batches([torch.from_numpy(images_of(images))])


def test_a_file_says_how_it_was_drawn_or_not(tmp_path, images):
    np.savez(tmp_path / "foreign.npz", arr_0=images)
    assert open_batch(tmp_path / "foreign.npz", role="gen").run is None
    for bad in (np.array("{"), np.array('{"model": "DiT"}'), np.arange(3)):
        np.savez(tmp_path / "bad.npz", arr_0=images, sample_run=bad)
        with pytest.raises(ValueError, match="sample_run"):
            open_batch(tmp_path / "bad.npz", role="gen")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("within", [False, True])
def test_a_run_of_numbers_that_are_no_characters_is_an_error(tmp_path, images, order, within):
    whole = sample_run().to_json()
    letters = np.frombuffer(whole.encode("utf-32-le"), np.uint32).copy()
    letters[whole.index("ddpm") if within else 0] = 0x7FFFFFFF  # in a value, and where JSON begins
    text = letters.astype(f"{order}u4").view(f"{order}U{len(whole)}").reshape(())
    np.savez(tmp_path / "x.npz", arr_0=images, sample_run=text)
    with pytest.raises(ValueError, match=r"x\.npz: sample_run: "):
        open_batch(tmp_path / "x.npz", role="gen")


def test_a_run_that_would_move_the_cursor_is_an_error(tmp_path, images):
    run = dataclasses.replace(sample_run(), model="DiT\x1b[2J")
    np.savez(tmp_path / "x.npz", arr_0=images, sample_run=np.array(run.to_json()))
    with pytest.raises(ValueError, match=r"x\.npz: sample_run: .*model is 'DiT\\x1b\[2J', which is no line of text"):
        open_batch(tmp_path / "x.npz", role="gen")


def test_a_run_in_the_other_byte_order_is_read(tmp_path, images):
    run = sample_run()
    np.savez(tmp_path / "x.npz", arr_0=images, sample_run=np.array(run.to_json()).astype(">U"))
    assert open_batch(tmp_path / "x.npz", role="gen").run == run


def sample_run():
    return SampleRun(model="DiT-S/2", network={}, checkpoint="x.pt", checkpoint_sha256="", image_size=8)
