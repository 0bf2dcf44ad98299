"""The weights of a frozen TensorFlow graph, read without TensorFlow.

A `GraphDef` is a protocol buffer; its constants need five message types and the wire format only. Field numbers
are those of tensorflow/core/framework/{graph,node_def,attr_value,tensor,tensor_shape}.proto.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dit_eval.system.files import check_plain

_FLOAT = 1  # DataType.DT_FLOAT
_MAX_FILE = 1 << 29  # bytes; ADM's graph has 91 MiB
_MAX_VALUES = 1 << 26  # floats of all constants together; Inception's network has 24 million
_MAX_REPEATED = 1 << 20  # of them, those that are not in the file: one value may stand for any number
_MAX_FIELDS = 1 << 16  # of a message; each takes some 200 bytes, and may have two in the file


def read_constants(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All float32 constants of a frozen graph, by node name.

    Raises
    ------
    ValueError
        If the file is not a GraphDef, or a constant's data does not fill its shape.
    """
    path = Path(path)
    check_plain(path, "a frozen TensorFlow graph")
    if path.stat().st_size > _MAX_FILE:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes; a frozen graph may have {_MAX_FILE:,}.")
    data = memoryview(path.read_bytes())
    constants: dict[str, np.ndarray] = {}
    left, repeated = _MAX_VALUES, _MAX_REPEATED
    try:
        for field, node in _fields(data):
            if field != 1 or not isinstance(node, memoryview):  # GraphDef.node
                continue
            name, op, value = _node(node)
            if op != "Const" or value is None or (found := _tensor(value)) is None:
                continue
            values, shape = found
            left -= max(values.size, math.prod(shape))
            repeated -= max(0, math.prod(shape) - values.size)
            if left < 0 or repeated < 0:
                raise ValueError(f"constants of more than {_MAX_VALUES:,} values, or {_MAX_REPEATED:,} repeated ones")
            constants[name] = _filled(values, shape, name)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: not a frozen TensorFlow graph ({error}).") from None
    if not constants:
        raise ValueError(f"{path}: not a frozen TensorFlow graph: it holds no float constants.")
    return constants


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message: an int for varints, bytes for the rest."""
    position = count = 0
    while position < len(data):
        count += 1
        if count > _MAX_FIELDS:
            raise ValueError(f"a message of more than {_MAX_FIELDS:,} fields")
        tag, position = _varint(data, position)
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield field, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise IndexError(f"wire type {wire} at byte {position}")
        if position + size > len(data):
            raise IndexError(f"a field of {size} bytes runs over the end at byte {position}")
        yield field, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError(f"a number without an end at byte {position}")


def _split(data: memoryview) -> tuple[defaultdict[int, list[memoryview]], dict[int, int]]:
    """The fields of one message by their numbers: all that are bytes, and of varints the last."""
    parts: defaultdict[int, list[memoryview]] = defaultdict(list)
    numbers: dict[int, int] = {}
    for field, value in _fields(data):
        if isinstance(value, int):
            numbers[field] = value
        else:
            parts[field].append(value)
    return parts, numbers


def _node(data: memoryview) -> tuple[str, str, memoryview | None]:
    """Name, op and the `value` tensor of a NodeDef."""
    parts, _ = _split(data)
    name, op = (bytes(parts[field][-1]).decode() if parts[field] else "" for field in (1, 2))
    tensor: memoryview | None = None
    for attribute in parts[5]:  # a map entry of key (1) and AttrValue (2)
        entry, _ = _split(attribute)
        if entry[1] and entry[1][-1] == b"value" and entry[2]:
            tensors = _split(entry[2][-1])[0][8]
            tensor = tensors[0] if tensors else None
    return name, op, tensor


def _tensor(data: memoryview) -> tuple[np.ndarray, tuple[int, ...]] | None:
    """The values of a float32 TensorProto as they are in the file, and its shape; None for other types."""
    parts, numbers = _split(data)
    if numbers.get(1, 0) != _FLOAT:
        return None
    shape = tuple(_dimension(each) for each in _split(parts[2][-1])[0][2]) if parts[2] else ()
    if parts[4] and parts[4][-1]:
        return np.frombuffer(parts[4][-1], "<f4"), shape
    values = [np.frombuffer(each, "<f4") for each in parts[5]]  # float_val, packed or one by one
    return np.concatenate(values or [np.zeros(0, "<f4")]), shape


def _filled(array: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """A constant's values in its shape; the last value stands for all that follow."""
    count = math.prod(shape)
    if 0 < array.size < count:
        array = np.concatenate([array, np.full(count - array.size, array[-1], "<f4")])
    if array.size != count:
        raise ValueError(f"constant {name[:80]!r} has {array.size} values for another shape; the file is damaged")
    return array.reshape(shape).astype(np.float32)


def _dimension(data: memoryview) -> int:
    size = next((v for f, v in _fields(data) if f == 1 and isinstance(v, int)), 0)
    if size >> 31:
        raise ValueError("a dimension that no constant has")
    return size
