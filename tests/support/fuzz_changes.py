"""Changes of valid files for the fuzzer: of their bytes, of their text, and of what lies inside containers.

Each gives one changed file of a valid one, the same for the same generator.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)


def change_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, cut, repeat, insert, remove, or write a telling number over a length."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 8]))):
        size = len(changed)
        at = int(rng.integers(size)) if size else 0
        end = min(size, at + int(2 ** rng.uniform(0, 10)))
        kind = rng.integers(7)
        if kind == 0 and size:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and size:
            changed[at] = int(rng.choice([0, 1, 127, 128, 255, 10, 34, 40, 91, 123]))
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at:end]
        elif kind == 4:
            changed[at:at] = changed[at:end] * int(rng.choice([1, 2, 50]))
        elif kind == 5:
            changed[at:at] = rng.bytes(end - at)
        else:
            width = int(rng.choice([1, 2, 4, 8]))
            number = int(_NUMBERS[rng.integers(len(_NUMBERS))]) % (1 << 8 * width)
            changed[at : at + width] = number.to_bytes(width, str(rng.choice(["little", "big"])))
    return bytes(changed)


_TOKENS = (
    "0", "-1", "1", "3.5", "-0.0", "1e308", "1e999", "NaN", "nan", "inf", "-inf", "Infinity", "2147483648", "1" * 30,
    "1" * 5000, "0x" + "f" * 4000, "true", "True", "false", "null", "None", "[]", "{}", "()", '""', '"x"', "'|O'",
    "'<u1'", "'|V0'", "'<U1000000'", '"²"', '"\\u0000"', '"\\ud800"', '"\\u001b[2J"', "\x00", "é",
    "[" * 3000, "[" * 100_000, '{"a":' * 3000, "(" * 200, "-" * 3000, " " * 5000, "1979-05-27", "99999999999999999999",
    "65536", "1000000000", "(1,) * 10", "__import__('os')", "lambda: 0", "\\", ",", ":", "=", "\n", "[[cells]]\n",
    "a.b.c = 1\n", '"' + "a" * 9000 + '"',
)  # fmt: skip
_TOKEN = re.compile(rb"\"[^\"\n]*\"|'[^'\n]*'|-?[0-9][0-9.eE+-]*|[A-Za-z_]+|[^\sA-Za-z0-9_]")


def change_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Replace, repeat or drop words, numbers, strings, brackets and lines."""
    if rng.random() < 0.15:
        return change_bytes(data, rng)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        kind = rng.integers(8)
        if kind < 6:
            tokens = list(_TOKEN.finditer(data))
            if not tokens:
                return data
            token = tokens[rng.integers(len(tokens))]
            other = tokens[rng.integers(len(tokens))][0]
            new = other if kind == 5 else _TOKENS[rng.integers(len(_TOKENS))].encode()
            data = data[: token.start()] + (b"" if kind == 4 else new) + data[token.end() :]
        else:
            lines = data.split(b"\n")
            at, there = rng.integers(len(lines)), rng.integers(len(lines))
            line = lines.pop(at)
            lines[there:there] = [line, line] if kind == 6 else []
            data = b"\n".join(lines)
    return data


_VALUES = (None, True, False, 0, -1, 3, 2.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**400, "", "x",
           "²", "\0", "\ud800", "ddim²", "a" * 5000, [], {}, [1, 2], [[]], {"a": 1}, [None],
           "DiT-XL/2", "250,²")  # fmt: skip


def change_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Put another value, of any type, at a place of a JSON text; or change its words."""
    if rng.random() < 0.3:
        return change_text(data, rng)
    try:
        value = json.loads(data)
    except ValueError:
        return change_text(data, rng)
    places: list[tuple[object, object]] = []

    def visit(node: object) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            visit(node[key])

    visit(value)
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        node, key = places[rng.integers(len(places))]
        kind = rng.integers(8)
        with contextlib.suppress(LookupError):
            if kind == 0:
                del node[key]
            elif kind == 1 and isinstance(node, dict):
                node[str(_VALUES[rng.integers(len(_VALUES))])] = 1
            else:
                node[key] = _VALUES[rng.integers(len(_VALUES))]
    return json.dumps(value).encode()


def in_zip(inner: Mutation, data: bytes, rng: np.random.Generator) -> bytes:
    """A zip with a member changed and its checksums right, so that readers get to see it; or its bytes changed."""
    if rng.random() < 0.35:
        return change_bytes(data, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that is there twice
        infos = old.infolist()
        changed = rng.integers(len(infos))
        for number, info in enumerate(infos):
            content, name = old.read(info), info.filename
            if number == changed:
                content = inner(content, rng)
                if rng.random() < 0.05:
                    name = infos[rng.integers(len(infos))].filename
                elif rng.random() < 0.05:
                    name = str(rng.choice(["../x.npy", "/x.png", "a\x1b[2J.png", "mu.npy", "é.npy", "x" * 300]))
            packing = info.compress_type if rng.random() < 0.9 else int(rng.choice([0, 8, 12, 14]))
            # A member of 1980: a case is told by its number, not by the time.
            new.writestr(zipfile.ZipInfo(name), content, packing)
    return made.getvalue()


def in_gzip(inner: Mutation, data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.3:
        return change_bytes(data, rng)
    return gzip.compress(inner(gzip.decompress(data), rng), 1, mtime=0)


def change_tar(data: bytes, rng: np.random.Generator) -> bytes:
    """A field of a header or some bytes of a tar, with the header's checksum right more often than not."""
    changed = bytearray(data if rng.random() < 0.5 else change_bytes(data, rng))
    headers = [at for at in range(0, len(changed) - 511, 512) if changed[at + 257 : at + 262] == b"ustar"]
    if headers and rng.random() < 0.9:
        at = headers[rng.integers(len(headers))]
        begin, end = [(0, 100), (124, 136), (156, 157), (345, 500), (0, 512)][rng.integers(5)]
        field_ = change_bytes(bytes(changed[at + begin : at + end]), rng)[: end - begin].ljust(end - begin, b"\0")
        changed[at + begin : at + end] = field_
        if rng.random() < 0.8:
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


def change_npy(data: bytes, rng: np.random.Generator) -> bytes:
    """The header of an array as text, with its length right; or its bytes."""
    if not data.startswith(b"\x93NUMPY") or rng.random() < 0.3:
        return change_bytes(data, rng)
    size = int.from_bytes(data[8:10], "little")
    if data[10 + size :].startswith(b"{") or rng.random() < 0.2:
        return data[: 10 + size] + change_json(data[10 + size :], rng)
    header = change_text(data[10 : 10 + size], rng)
    if rng.random() < 0.3 or len(header) > 65535:
        return data[:6] + b"\2\0" + len(header).to_bytes(4, "little") + header + data[10 + size :]
    return data[:8] + len(header).to_bytes(2, "little") + header + data[10 + size :]


def change_png(data: bytes, rng: np.random.Generator) -> bytes:
    """A chunk of a PNG, with its checksum right; or any bytes."""
    if not data.startswith(b"\x89PNG") or rng.random() < 0.3:
        return change_bytes(data, rng)
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    number = rng.integers(len(chunks))
    kind, content = chunks[number]
    chunks[number] = (kind, change_bytes(content, rng))
    if rng.random() < 0.2:
        chunks.insert(number, chunks[rng.integers(len(chunks))])
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(parts)


def change_safetensors(data: bytes, rng: np.random.Generator) -> bytes:
    if rng.random() < 0.3:
        return change_bytes(data, rng)
    size = int.from_bytes(data[:8], "little")
    header = change_json(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]
