"""Image files as pixels: what each kind becomes, what is passed over, and damage that decoders draw without a word."""

import io
import itertools
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from dit_eval.diffusion.data import CorruptImage, list_images, read_image
from dit_eval.images import open_images

SIDE = 32
NOISE = np.random.RandomState(0).randint(1, 256, (SIDE, SIDE, 3)).astype(np.uint8)
SMOOTH = np.kron(NOISE[:4, :4], np.ones((8, 8, 1))).astype(np.uint8)  # of which JPEGs are small
RAMP = np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE)


def encoded(image, kind, **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, *, bits=8, colour=2, interlaced=0, size=(SIDE, SIDE), extra=b""):
    """A PNG of these bytes: rows with a filter's number before each."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rows_of(pixels):
    return b"".join(b"\0" + row.tobytes() for row in pixels)


def trained_on(folder, data, name="x.png"):
    (folder / name).write_bytes(data)
    return read_image(folder / name, SIDE)


def scored(folder, data):
    (folder / "x.png").write_bytes(data)
    return next(open_images(folder, role="gen").batches(1))[0]


BOTH = pytest.mark.parametrize("read", [trained_on, scored])


# ---- what each kind becomes


def palette_image(**options):
    image = Image.fromarray(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) % 4).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 0, 255, 255, 255, 0, 0, 1])
    return encoded(image, "PNG", **options)


COLOURS = np.array([[10, 20, 30], [200, 100, 0], [255, 255, 255], [0, 0, 1]], np.uint8)[
    np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 4
]
GREY = NOISE[..., 0]
ALPHA = np.zeros((SIDE, SIDE), np.uint8)
INKS = np.array([[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 255, 0], [0, 0, 0, 255]], np.uint8)
SEEN = np.array([[255, 255, 255], [0, 255, 255], [255, 0, 0], [0, 0, 0]], np.uint8)


def three(grey):
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)


def sixteen(kind, **options):
    return encoded(RAMP.astype(np.uint16), kind, **options)


def pgm(most):
    """A PGM of so many levels, which Pillow brings to 65,536."""
    values = np.round(RAMP / 65535 * most).astype(">u2")
    return b"P5 %d %d %d\n" % (SIDE, SIDE, most) + values.tobytes()


# By name: the file, and its values as RGB of 8 bits, within so many grey levels.
KINDS = {
    "RGB": (encoded(NOISE, "PNG"), NOISE, 0),
    "RGB, a transparent colour": (encoded(NOISE, "PNG", transparency=(1, 2, 3)), NOISE, 0),
    "grey": (encoded(GREY, "PNG"), three(GREY), 0),
    "grey and alpha": (encoded(np.dstack([GREY, ALPHA]), "PNG"), three(GREY), 0),
    "RGBA": (encoded(np.dstack([NOISE, ALPHA]), "PNG"), NOISE, 0),
    "palette": (palette_image(), COLOURS, 0),
    "palette, a transparent entry": (palette_image(transparency=1), COLOURS, 0),
    "palette, transparent entries": (palette_image(transparency=b"\0\x80\xff\1"), COLOURS, 0),
    "1 bit": (encoded(Image.fromarray(GREY > 99), "PNG"), three((GREY > 99) * 255), 0),
    "2 bits": (
        png(b"".join(b"\0" + b"\x1b" * (SIDE // 4) for _ in range(SIDE)), bits=2, colour=0),
        three(np.tile([0, 85, 170, 255], (SIDE, SIDE // 4))), 0,
    ),
    "CMYK": (
        encoded(Image.fromarray(np.tile(INKS, (SIDE, SIDE // 4, 1)), "CMYK"), "TIFF"),
        np.tile(SEEN, (SIDE, SIDE // 4, 1)), 0,
    ),
    "GIF by another name": (encoded(Image.fromarray(GREY), "GIF"), three(GREY), 0),
    "BMP": (encoded(NOISE, "BMP"), NOISE, 0),
    "WebP": (encoded(NOISE, "WEBP", lossless=True), NOISE, 0),
    "PPM": (encoded(NOISE, "PPM"), NOISE, 0),
    "16 bits, PNG": (sixteen("PNG"), three(RAMP / 257), 1),
    "16 bits, TIFF": (sixteen("TIFF"), three(RAMP / 257), 1),
    "16 bits, TIFF, packed": (sixteen("TIFF", compression="tiff_lzw"), three(RAMP / 257), 1),
    "16 bits, PGM": (pgm(65535), three(RAMP / 257), 1),
    "12 bits, PGM": (pgm(4095), three(RAMP / 257), 1),
    "16 bits of 8, PNG": (encoded(GREY.astype(np.uint16) * 257, "PNG"), three(GREY), 0),
    "16 bits, RGB": (
        png(b"".join(b"\0" + row.tobytes() for row in (NOISE.astype(">u2") * 257)), bits=16), NOISE, 0,
    ),
    "16 bits, grey and alpha": (
        png(rows_of(np.dstack([GREY, ALPHA]).astype(">u2") * 257), bits=16, colour=4), three(GREY), 0,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_what_each_kind_of_image_becomes_in_training(tmp_path, kind):
    data, expected, within = KINDS[kind]
    found = trained_on(tmp_path, data)
    assert (found.shape, found.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert np.abs(found.astype(int) - expected).max() <= within


def test_scoring_takes_rgb_of_eight_bits_alone_and_reads_it_as_training_does(tmp_path):
    (tmp_path / "scored").mkdir()
    refused = []
    for kind, (data, *_) in KINDS.items():
        try:
            found = scored(tmp_path / "scored", data)
        except ValueError:
            refused.append(kind)
        else:
            np.testing.assert_array_equal(found, trained_on(tmp_path, data))
    assert set(KINDS) - set(refused) == {"RGB"}
    for data in (encoded(SMOOTH, "JPEG"), encoded(SMOOTH, "JPEG", progressive=True, quality=90)):
        np.testing.assert_array_equal(scored(tmp_path / "scored", data), trained_on(tmp_path, data))


UNKNOWN = {
    "32 bits": (RAMP.astype(np.int32), "I"),
    "floats of 0..1": ((RAMP / 65535).astype(np.float32), "F"),
    "LAB": (Image.new("LAB", (SIDE, SIDE)), "LAB"),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_images_without_a_known_white_are_refused(tmp_path, kind):
    image, mode = UNKNOWN[kind]
    with pytest.raises(CorruptImage, match=rf"x\.tif: an image of mode {mode}, of which nobody knows .*8 or 16 bits"):
        trained_on(tmp_path, encoded(image, "TIFF"), "x.tif")
    notes = []
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        list_images(tmp_path, image_size=SIDE).without_corrupt(notes.append)
    assert [mode in note and note.startswith("skipped: ") for note in notes] == [True]


# ---- what is passed over


BIG = bytes(48 << 20)
METADATA = {
    "a comment": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(BIG)),
    "an international comment": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(BIG)),
    "a colour profile": chunk(b"iCCP", b"icc\0\0" + zlib.compress(BIG)),
    "a plain comment": chunk(b"tEXt", b"parameters\0" + b"x" * (5 << 20)),
    "many comments": b"".join(chunk(b"zTXt", b"C%d\0\0" % k + zlib.compress(bytes(1 << 20))) for k in range(70)),
    "a camera's notes": chunk(b"eXIf", b"MM\0*" + b"\xff" * 999),
}


@BOTH
@pytest.mark.parametrize("kind", METADATA)
def test_what_a_png_says_beside_its_pixels_is_not_unpacked(tmp_path, read, kind):
    plain = png(rows_of(NOISE))
    before, after = png(rows_of(NOISE), extra=METADATA[kind]), plain[:-12] + METADATA[kind] + plain[-12:]
    for data in (before, after):
        tracemalloc.start()
        found = read(tmp_path, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        np.testing.assert_array_equal(found, NOISE)
        assert peak < 4 * len(data) + (1 << 21)


@BOTH
def test_the_first_picture_of_a_phones_jpeg_is_read(tmp_path, read):
    second = Image.fromarray(SMOOTH[::2, ::2])
    both = encoded(SMOOTH, "MPO", save_all=True, append_images=[second], quality=80)
    assert Image.open(io.BytesIO(both)).n_frames == 2
    alone = np.asarray(Image.open(io.BytesIO(encoded(SMOOTH, "JPEG", quality=80))))
    np.testing.assert_array_equal(read(tmp_path, both), alone)


def test_an_animation_gives_its_first_frame_in_training_and_none_in_scoring(tmp_path):
    more = [Image.fromarray(NOISE[::-1].copy())]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(NOISE, kind, save_all=True, append_images=more, **options)
        np.testing.assert_array_equal(trained_on(tmp_path, data), NOISE)
        (tmp_path / kind).mkdir()
        with pytest.raises(ValueError, match=r"has several frames|neither PNG nor JPEG"):
            scored(tmp_path / kind, data)


# ---- damage that a decoder draws


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def interlaced(pixels):
    passes = (pixels[top::down, left::across] for left, top, across, down in ADAM7)
    return [b"\0" + row.tobytes() for part in passes if part.size for row in part]


def is_damaged(read, folder, data):
    with pytest.raises(
        ValueError, match=r"x\.png: cannot be read as an image \(.*\); it is damaged.*\. Make it again\."
    ):
        read(folder, data)


@BOTH
@pytest.mark.parametrize("missing", [1, 2, 17, SIDE - 1])
def test_a_png_whose_pixels_end_on_a_row_is_refused(tmp_path, read, missing):
    whole = rows_of(NOISE)
    cut = whole[: (SIDE - missing) * (1 + 3 * SIDE)]
    black = np.asarray(Image.open(io.BytesIO(png(cut))))
    assert not black[-missing:].any(), "Pillow draws it black"
    is_damaged(read, tmp_path, png(cut))


@pytest.mark.parametrize(
    ("bits", "colour", "width"), [(1, 0, 31), (2, 3, 5), (4, 0, 7), (8, 0, 3), (16, 0, 8), (8, 4, 3), (16, 6, 2)]
)
def test_missing_rows_are_found_at_every_depth(tmp_path, bits, colour, width):
    channels = {0: 1, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" + b"\x55" * -(-width * bits * channels // 8)
    palette = chunk(b"PLTE", bytes(12)) if colour == 3 else b""
    made = {count: png(row * count, bits=bits, colour=colour, size=(width, 9), extra=palette) for count in (8, 9)}
    (tmp_path / "x.png").write_bytes(made[9])
    assert read_image(tmp_path / "x.png", 2).shape == (2, 2, 3)
    (tmp_path / "x.png").write_bytes(made[8])
    with pytest.raises(CorruptImage, match=rf"its pixel data end after {8 * len(row)} of {9 * len(row)} bytes"):
        read_image(tmp_path / "x.png", 2)


@BOTH
def test_black_images_are_whole(tmp_path, read):
    black = np.zeros_like(NOISE)
    np.testing.assert_array_equal(read(tmp_path, png(rows_of(black))), black)
    np.testing.assert_array_equal(read(tmp_path, encoded(black, "JPEG")), black)


@BOTH
def test_interlaced_pngs_are_read_whole_or_refused(tmp_path, read):
    for pixels in (NOISE, np.zeros_like(NOISE)):
        rows = interlaced(pixels)
        np.testing.assert_array_equal(read(tmp_path, png(b"".join(rows), interlaced=1)), pixels)
        for count in (1, 4, len(rows) // 2, len(rows) - 1):
            is_damaged(read, tmp_path, png(b"".join(rows[:count]), interlaced=1))


@BOTH
def test_a_png_with_a_wrong_checksum_or_no_end_is_refused(tmp_path, read):
    whole = png(rows_of(NOISE))
    # Pixel data that are not packed, in chunks of 100 bytes: no packing notices that one is another.
    packed = zlib.compress(rows_of(NOISE), 0)
    chunks = [chunk(b"IDAT", packed[at : at + 100]) for at in range(0, len(packed), 100)]
    stored = whole[:33] + b"".join(chunks) + whole[-12:]
    np.testing.assert_array_equal(read(tmp_path, stored), NOISE)
    for at in (30, 500, 2000, len(stored) - 17):
        damaged = bytearray(stored)
        damaged[at] ^= 1
        is_damaged(read, tmp_path, bytes(damaged))
    for cut in (1, 4, 8, 12, 13, 100):
        is_damaged(read, tmp_path, whole[:-cut])


JPEGS = {
    "plain": {},
    "fine": {"quality": 95, "subsampling": 0},
    "restarts by row": {"restart_marker_rows": 1},
    "restarts by block": {"restart_marker_blocks": 1},
}


@BOTH
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_cut_and_closed_is_refused(tmp_path, read, kind):
    for image in (SMOOTH, SMOOTH[..., 0]) if read is trained_on else (SMOOTH,):
        whole = encoded(image, "JPEG", **JPEGS[kind])
        right = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB"))
        np.testing.assert_array_equal(read(tmp_path, whole), right)
        begin = whole.rindex(b"\xff\xda") + 14
        for part in (0.1, 0.3, 0.5, 0.7):
            cut = whole[: begin + int(part * (len(whole) - begin))].rstrip(b"\xff")
            Image.open(io.BytesIO(cut + b"\xff\xd9")).load()  # Pillow draws it
            is_damaged(read, tmp_path, cut + b"\xff\xd9")
            is_damaged(read, tmp_path, cut)


@BOTH
def test_a_progressive_jpeg_without_its_last_scans_is_refused(tmp_path, read):
    whole = encoded(SMOOTH, "JPEG", progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    assert len(scans) > 5
    np.testing.assert_array_equal(read(tmp_path, whole), np.asarray(Image.open(io.BytesIO(whole))))
    for at in scans[1:]:
        tables = whole.rfind(b"\xff\xc4", 0, at)
        for end in {at, tables if tables > scans[0] else at}:
            Image.open(io.BytesIO(whole[:end] + b"\xff\xd9")).load()  # Pillow draws it
            is_damaged(read, tmp_path, whole[:end] + b"\xff\xd9")


def scans_apart(image):
    """A JPEG that is not progressive, with a scan for each component: three grey ones in a frame."""
    parts = [encoded(channel, "JPEG", quality=90) for channel in Image.fromarray(image).convert("YCbCr").split()]
    begins = [part.index(b"\xff\xda") for part in parts]
    frame = parts[0].index(b"\xff\xc0")
    size = parts[0][frame + 5 : frame + 9]
    three = b"\xff\xc0\0\x11\x08" + size + b"\3" + b"".join(bytes([k, 0x11, 0]) for k in (1, 2, 3))
    head = parts[0][:frame] + three + parts[0][frame + 13 : begins[0]]
    scans = [
        b"\xff\xda\0\x08\1" + bytes([k]) + b"\0\0\x3f\0" + part[begin + 10 : -2]
        for k, part, begin in zip((1, 2, 3), parts, begins, strict=True)
    ]
    return head, scans


@BOTH
def test_a_jpeg_without_the_scan_of_a_colour_is_refused(tmp_path, read):
    head, scans = scans_apart(SMOOTH)
    whole = head + b"".join(scans) + b"\xff\xd9"
    expected = np.asarray(Image.open(io.BytesIO(whole)))
    assert np.abs(expected.astype(int) - SMOOTH).mean() < 12, "put together as meant"
    np.testing.assert_array_equal(read(tmp_path, whole), expected)
    for count in (1, 2):
        cut = head + b"".join(scans[:count]) + b"\xff\xd9"
        Image.open(io.BytesIO(cut)).load()  # Pillow draws it
        is_damaged(read, tmp_path, cut)


@BOTH
@pytest.mark.parametrize("options", [*JPEGS.values(), {"progressive": True}])
def test_jpegs_that_are_grey_at_their_end_are_whole(tmp_path, read, options):
    grey = np.full_like(SMOOTH, 128)
    half = SMOOTH.copy()
    half[16:] = 128
    for image in (grey, half):
        whole = encoded(image, "JPEG", **options)
        np.testing.assert_array_equal(read(tmp_path, whole), np.asarray(Image.open(io.BytesIO(whole))))


def test_other_kinds_that_are_cut_are_refused(tmp_path):
    kinds = (("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("PPM", {}), ("GIF", {}))
    for (kind, options), part in itertools.product(kinds, (0.2, 0.5, 0.9)):
        whole = encoded(NOISE, kind, **options)
        with pytest.raises(CorruptImage, match=r"x\.png: cannot be read as an image \(.*\); it is damaged"):
            trained_on(tmp_path, whole[: int(part * len(whole))])


def test_bombs_are_refused_in_training_too(tmp_path):
    for size in ((60_000, 60_000), (1 << 31, 1 << 31)):
        with pytest.raises(CorruptImage, match=r"px; an image may have 67,108,864 pixels"):
            trained_on(tmp_path, png(bytes(1000), size=size))
    with pytest.raises(CorruptImage, match=r"cannot be read as an image \(it begins with b'%!PS-Ado'\)"):
        trained_on(tmp_path, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")


def broken_tag(data, number, place, value):
    """A TIFF of which a tag has another value: 4 of its count, 8 of where it is."""
    changed, at = bytearray(data), int.from_bytes(data[4:8], "little") + 2
    while int.from_bytes(changed[at : at + 2], "little") != number:
        at += 12
    changed[at + place : at + place + 4] = value.to_bytes(4, "little")
    return bytes(changed)


TIFF_EXTRA = encoded(NOISE, "TIFF", software="x" * 20)
WARNED = {"a text beyond the file": broken_tag(TIFF_EXTRA, 305, 8, 1 << 30),
          "a text larger than the file": broken_tag(TIFF_EXTRA, 305, 4, 1 << 20)}  # fmt: skip


@pytest.mark.parametrize("kind", WARNED)
def test_what_pillow_skips_is_skipped_in_silence(tmp_path, kind):
    with pytest.warns(UserWarning, match="Truncated|larger"), Image.open(io.BytesIO(WARNED[kind])) as image:
        image.load()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(trained_on(tmp_path, WARNED[kind]), NOISE)
        warnings.simplefilter("error")  # as `python -W error` has it
        np.testing.assert_array_equal(trained_on(tmp_path, WARNED[kind]), NOISE)
    assert said == []


def test_pillow_writes_nothing_of_its_own_to_stderr(tmp_path):
    (tmp_path / "x").write_bytes(broken_tag(TIFF_EXTRA, 277, 8, 140))  # samples of a pixel
    code = """
        import sys
        from dit_eval.images.decoding import decode
        try:
            decode(open(sys.argv[1], "rb").read(), "x", formats=["TIFF"], max_pixels=1 << 20)
        except ValueError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("x: cannot be read as an image")
    assert done.stderr == ""
