"""Image files as pixels: the one place that decodes them, for scoring, training and encoding alike.

A file is taken whole or not at all. Pillow, and the libraries below it, draw what they have of some damaged files and
say nothing: rows that a PNG lacks are black, those of a JPEG grey, and scans that a JPEG lacks leave it blurred or
without colour. Here they are errors, at next to no cost for files that are whole.

Readers are those that the caller names, of `FORMATS` at most, and are told by the first bytes, never by the name: of
what else Pillow reads, PostScript would start another program. The size is known, and bounded, before a pixel is.

What is no pixel is not looked at: comments and colour profiles, of any size, and further pictures behind the first,
which phones put into their JPEGs.

What the modes of Pillow become as RGB of 8 bits, where `to_rgb` is asked:

    RGB                            as it is; a transparent colour is a colour
    1, L, P, CMYK, YCbCr, HSV      Pillow's convert("RGB"), as in the released training code
    LA, PA, RGBA (La, RGBa, RGBX)  likewise: alpha is dropped, and hidden colours show
    16 bits (I;16, or I of PNG, PPM)   the upper eight of the bits that the file has, as Pillow reads 16-bit RGB
    I, F, LAB and others           refused: nobody knows which value is white
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dit_eval.images.listing import PNG, is_jpeg, is_png

# All that is ever read, each with its plug-in; those of other formats are not even imported.
FORMATS = {
    "PNG": PngImagePlugin,
    "JPEG": JpegImagePlugin,
    "BMP": BmpImagePlugin,
    "GIF": GifImagePlugin,
    "PPM": PpmImagePlugin,
    "TIFF": TiffImagePlugin,
    "WEBP": WebPImagePlugin,
}
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it writes of damage to stderr; an error says it
_UNUSED = {b"iCCP", b"iTXt", b"zTXt", b"tEXt", b"eXIf"}  # chunks of a PNG that Pillow would unpack
_STEP = 1 << 20  # bytes of pixel data unpacked at once to be counted
# Passes of an interlaced PNG: first column and row, and steps between them.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a PNG, by its colour type
_CONVERTED = {"1", "L", "P", "LA", "PA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"}
_BITS = 258  # tag of a TIFF: bits of each channel
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")  # of a JPEG; those between are part of the pixel data
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_FRAMES, _PROGRESSIVE = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, {0xC2, 0xC6, 0xCA, 0xCE}
# Pixel data that a whole JPEG does not need: some for each of the restart intervals that may be missing.
_MORE = b"".join(b"\xa5\x3c\x96\x0f\x71\xc3" * 8 + bytes([0xFF, 0xD0 + k]) for k in (*range(8), *range(8)))

# What Pillow warns of: tags and chunks that it skips, none of which is a pixel.
_SKIPPED = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
# What Pillow raises at a file that is no image, or a damaged one.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, TypeError, struct.error, zlib.error),
    *(Image.DecompressionBombError, MemoryError),
)


def decode(
    data: bytes,
    where: str,
    *,
    formats: Sequence[str],
    max_pixels: int,
    problem: Callable[[Image.Image], str | None] | None = None,
) -> Image.Image:
    """The first picture of an image file, in the mode that the file has.

    Parameters
    ----------
    data : the file
    where : what messages call it
    formats : of `FORMATS`; readers of all others are kept away
    max_pixels : of an image; known before it is decoded
    problem : says of an image, before it is decoded, why it is not wanted, or None

    Raises
    ------
    ValueError
        If it is not of these formats, is damaged or cut, has more pixels, or has the problem.
    """
    if not data:
        raise ValueError(f"{where}: cannot be read as an image; it is empty.")
    _skip_in_silence()
    try:
        png = is_png(data)
        if "WEBP" in formats and (size := _webp_size(data)):
            _check_size(*size, max_pixels)
        pixels = _png_pixels(data) if png and "PNG" in formats else data
        with _opened(pixels, formats) as image:
            _check_size(image.width, image.height, max_pixels)
            if problem is not None and (why := problem(image)):
                raise _Unwanted(why)
            image.load()
            if png:
                _check_png(image, pixels)
            elif isinstance(image, JpegImagePlugin.JpegImageFile):
                _check_jpeg(image, pixels)
            return image
    except _Unwanted as error:
        raise ValueError(f"{where}: {error}") from None
    except Image.UnidentifiedImageError:
        begin = f"it begins with {data[:8]!r}"
        raise ValueError(
            f"{where}: cannot be read as an image ({begin}); it is damaged or of another kind. Make it again."
        ) from None
    except _UNREADABLE as error:
        raise ValueError(f"{where}: cannot be read as an image ({error}); it is damaged. Make it again.") from None


def to_rgb(image: Image.Image, where: str) -> Image.Image:
    """An image as RGB of 8 bits; the table above says how.

    Raises
    ------
    ValueError
        If the range of its values is not known.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = getattr(image, "tag_v2", {}).get(_BITS, (16,))[0]
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8)).convert("RGB")
    if image.mode not in _CONVERTED:
        raise ValueError(
            f"{where}: an image of mode {image.mode}, of which nobody knows the value that is white; needed 8 or 16 "
            "bits. Scale it to 0..255 and save it as PNG of 8 bits."
        )
    image.info.pop("transparency", None)  # of which Pillow would warn
    return image.convert("RGB")


def too_large(width: int, height: int, max_pixels: int) -> str:
    """What a message says of an image that has more pixels than it may."""
    return f"{width} x {height} px; an image may have {max_pixels:,} pixels."


class _Unwanted(Exception):
    """An image that can be read, and is not wanted."""


def _skip_in_silence() -> None:
    """Let nobody see Pillow's warnings. The filter stays: images are decoded in threads, where `catch_warnings` would
    put filters back that other threads have set meanwhile."""
    if not warnings.filters or warnings.filters[0] != _SKIPPED:  # a filter before it would count
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _Unwanted(too_large(width, height, max_pixels))


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP by its header; None of another file. Pillow takes memory for them as it opens one."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _opened(data: bytes, formats: Sequence[str]) -> Image.Image:
    if "JPEG" in formats and is_jpeg(data):
        # Not by Image.open, which takes a JPEG with further pictures behind it for another format.
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    # Nor by it for the rest: it warns of large images, which `max_pixels` refuses.
    for name in formats:
        if name not in FORMATS:
            raise RuntimeError(f"Found the format {name}; needed one of {', '.join(FORMATS)}.")
        factory, accept = Image.OPEN[name]
        if accept is None or accept(data[:16]) is True:
            with suppress(SyntaxError, IndexError, TypeError, struct.error):
                return factory(io.BytesIO(data), "")
    raise Image.UnidentifiedImageError


# ---- PNG


def _png_pixels(data: bytes) -> bytes:
    """A PNG without the chunks that are no pixels. Checksums are Pillow's and zlib's matter."""
    if len(data) < 33:
        raise ValueError(f"a PNG of {len(data)} bytes")
    view, kept, begin = memoryview(data), list[memoryview](), 0
    for kind, at, end in _png_chunks(data):
        if kind in _UNUSED:
            kept.append(view[begin:at])
            begin = end
    return b"".join([*kept, view[begin:]]) if kept else data


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, beginning and end of each chunk of a PNG, to the one of its end."""
    kind, at = b"", len(PNG)
    while kind != b"IEND":
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise ValueError("it ends before its last chunk")
        yield kind, at, end
        at = end


def _check_png(image: Image.Image, data: bytes) -> None:
    """That no row is missing. Such rows are left at 0, so that only an image with a last row of 0 is looked at."""
    width, height, interlaced = *struct.unpack(">II", data[16:24]), data[28]
    if not interlaced and np.asarray(image.crop((0, height - 1, width, height))).any():
        return
    needed = _png_bytes(data)
    found, stream = 0, zlib.decompressobj()
    for kind, at, end in _png_chunks(data):
        packed = data[at + 8 : end - 4] if kind == b"IDAT" else b""
        while packed and found < needed:
            found += len(stream.decompress(packed, _STEP))
            packed = stream.unconsumed_tail
    if found < needed:
        raise ValueError(f"its pixel data end after {found:,} of {needed:,} bytes")


def _png_bytes(data: bytes) -> int:
    """Bytes of pixel data that a PNG has by its header: of each row of each pass, one and its pixels."""
    width, height, bits, colour, interlaced = *struct.unpack(">II", data[16:24]), data[24], data[25], data[28]
    total = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + -(-columns * bits * _CHANNELS[colour] // 8)) if columns > 0 and rows > 0 else 0
    return total


# ---- JPEG


def _check_jpeg(image: Image.Image, data: bytes) -> None:
    """That nothing is missing before the mark of its end, without which Pillow says so itself.

    Scans say in their headers what they bring. Missing blocks are drawn in medium grey, so that only an image with a
    last pixel of it is looked at further: more pixel data change nothing in one that is whole.
    """
    if not _all_scans(data):
        raise ValueError("a JPEG of which scans are missing")
    last = image.getpixel((image.width - 1, image.height - 1))
    if not {127, 128}.issuperset(last if isinstance(last, tuple) else (last,)):
        return
    *_, (_, end) = _jpeg_markers(data)
    with JpegImagePlugin.JpegImageFile(io.BytesIO(data[:end] + _MORE + b"\xff\xd9")) as more:
        if not np.array_equal(np.asarray(image), np.asarray(more)):
            raise ValueError("its pixel data end early")


def _jpeg_markers(data: bytes) -> Iterator[tuple[int, int]]:
    """Markers of a JPEG and where they are, to the one of its end."""
    at = 0
    while match := _MARKER.search(data, at):
        marker, at = match[1][0], match.end()
        yield marker, at - 2
        if marker == _END_OF_IMAGE:
            return
        if marker not in (0x01, 0xD8):  # which have no length
            at += int.from_bytes(data[at : at + 2], "big")


def _all_scans(data: bytes) -> bool:
    """Whether the scans of a JPEG bring all bits of all 64 coefficients of each component."""
    lowest: dict[int, list[int]] = {}  # by component: the lowest bit there is of each coefficient
    progressive = False
    for marker, at in _jpeg_markers(data):
        header = data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        if marker in _FRAMES:  # which lists the components
            lowest = {header[6 + 3 * k]: [16] * 64 for k in range(header[5])}
            progressive = marker in _PROGRESSIVE
        elif marker == _START_OF_SCAN:
            count = header[0]
            # A scan that is not progressive brings all of a component, whatever else its header says.
            if not progressive and count == len(lowest):
                return True  # the usual one: what follows need not be looked at
            first, last, bit = header[1 + 2 * count : 4 + 2 * count] if progressive else (0, 63, 0)
            for k in range(count):
                lowest[header[1 + 2 * k]][first : last + 1] = [bit & 15] * (last + 1 - first)
    return all(bit == 0 for bits in lowest.values() for bit in bits)
