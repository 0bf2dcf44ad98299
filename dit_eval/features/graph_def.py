"""The weights of a frozen TensorFlow graph, read without TensorFlow.

A `GraphDef` is a protocol buffer; its constants need five message types and the wire format only. Field numbers
are those of tensorflow/core/framework/{graph,node_def,attr_value,tensor,tensor_shape}.proto.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dit_eval.system.files import check_plain

_FLOAT = 1  # DataType.DT_FLOAT
_MAX_FILE = 1 << 29  # bytes; ADM's graph has 91 MiB
_MAX_VALUES = 1 << 26  # floats of all constants together; Inception's network has 24 million


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
    left = _MAX_VALUES
    try:
        for field, node in _fields(data):
            if field != 1 or not isinstance(node, memoryview):  # GraphDef.node
                continue
            name, op, value = _node(node)
            if op == "Const" and value is not None and (array := _tensor(value, name, left)) is not None:
                left -= array.size
                constants[name] = array
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: not a frozen TensorFlow graph ({error}).") from None
    if not constants:
        raise ValueError(f"{path}: not a frozen TensorFlow graph: it holds no float constants.")
    return constants


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message: an int for varints, bytes for the rest."""
    position = 0
    while position < len(data):
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


def _node(data: memoryview) -> tuple[str, str, memoryview | None]:
    """Name, op and the `value` tensor of a NodeDef."""
    name = op = ""
    tensor: memoryview | None = None
    for field, value in _fields(data):
        if not isinstance(value, memoryview):
            continue
        if field == 1:
            name = bytes(value).decode()
        elif field == 2:
            op = bytes(value).decode()
        elif field == 5:  # attr: a map entry of key (1) and AttrValue (2)
            entry = dict(_fields(value))
            key, attribute = entry.get(1), entry.get(2)
            if isinstance(key, memoryview) and key == b"value" and isinstance(attribute, memoryview):
                tensor = next((v for f, v in _fields(attribute) if f == 8 and isinstance(v, memoryview)), None)
    return name, op, tensor


def _tensor(data: memoryview, name: str, most: int) -> np.ndarray | None:
    """A float32 TensorProto as an array of at most so many values; None for other types."""
    dtype, content = 0, b""
    shape: tuple[int, ...] = ()
    values: list[np.ndarray] = []
    for field, value in _fields(data):
        if field == 1 and isinstance(value, int):
            dtype = value
        elif field == 2 and isinstance(value, memoryview):
            shape = tuple(_dimension(v) for f, v in _fields(value) if f == 2 and isinstance(v, memoryview))
        elif field == 4 and isinstance(value, memoryview):
            content = bytes(value)
        elif field == 5 and isinstance(value, memoryview):  # float_val, packed or one by one
            values.append(np.frombuffer(value, "<f4"))
    if dtype != _FLOAT:
        return None
    array = np.frombuffer(content, "<f4") if content else np.concatenate(values or [np.zeros(0, "<f4")])
    count = math.prod(shape)
    if max(count, array.size) > most:  # a single value may stand for any number of them
        raise ValueError(f"constants of more than {_MAX_VALUES:,} values")
    if 0 < array.size < count:  # the last value stands for all that follow
        array = np.concatenate([array, np.full(count - array.size, array[-1], "<f4")])
    if array.size != count:
        raise ValueError(f"constant {name[:80]!r} has {array.size} values for another shape; the file is damaged")
    return array.reshape(shape).astype(np.float32)


def _dimension(data: memoryview) -> int:
    size = next((v for f, v in _fields(data) if f == 1 and isinstance(v, int)), 0)
    if size >> 31:
        raise ValueError("a dimension that no constant has")
    return size
