import dataclasses
import io
import zipfile

import numpy as np
import pytest

from dit_eval.npz import open_batch, write_batch
from dit_eval.results import SampleRun


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
