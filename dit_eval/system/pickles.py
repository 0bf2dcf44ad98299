"""Pickles of statistics, read and never run.

A pickle is a program: it names functions and calls them. Here its instructions are decoded by the standard library and
followed by a machine of our own that knows containers, numbers, texts and how NumPy writes arrays; there is no
instruction in it that imports or calls anything. What else a pickle asks for is a ValueError.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from warnings import catch_warnings, simplefilter

import numpy as np

from dit_eval.system.files import check_plain
from dit_eval.system.reading import is_number
from dit_eval.system.text import reason, shown

MAX_PICKLE = 1 << 30  # bytes; the largest public bundle, six spaces of up to 2,048 dimensions, has some 150 MB
_MAX_STEPS = 100_000  # instructions, and values; such a bundle takes some hundreds
_MAX_LINE = 1 << 16  # bytes of an instruction's text
_MAX_DEPTH = 16  # of containers within containers
_ONLY = "dict, list, tuple, str, int, float, and NumPy arrays and numbers"
_DTYPE = re.compile(r"([<>=|]?)([fiu][1248]|b1)")


def read_pickle(path: Path, needed: str) -> Any:
    """What a pickle holds: dict, list, tuple, str, int, float, NumPy arrays and numbers; nothing of it is run.

    Arrays are read-only views of the bytes that were read.

    Parameters
    ----------
    needed : what the file should be, for messages: "a pickle of statistics"

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no plain file, no pickle, larger than a limit, damaged, or holds anything else.
    """
    check_plain(path, needed)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_PICKLE:
            raise ValueError(f"{path}: {size:,} bytes; expected {needed}, of at most {MAX_PICKLE:,}.")
        try:
            with catch_warnings():
                simplefilter("ignore")  # Python's parser warns of escapes in texts that are none
                return _Values().plain(_run(_Bounded(file, size), room=2 * size))
        except _Refused as error:
            raise ValueError(f"{path}: {error}; expected {needed}: {_ONLY} alone. Nothing was run.") from None
        # Instructions of a damaged pickle find values of every kind.
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            said = shown(reason(error))[:200]
            again = "Copy or download it again."
            raise ValueError(f"{path}: not a whole pickle ({said}); expected {needed}. {again}") from None


class _Refused(Exception):
    """What a pickle asks for that no file of statistics needs."""


class _Bounded:
    """A file for `pickletools`, which asks for as many bytes as an instruction claims to have."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._left))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline(_MAX_LINE)
        self._left -= len(data)
        return data


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names."""

    module: str
    name: str


@dataclass(frozen=True)
class _Type:
    """An array's dtype as it is being put together."""

    code: str
    order: str = "="

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.order.replace("|", "=") + self.code)


class _Slot:
    """Something that is put together after it was referred to: a dtype or an array."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


class _Machine:
    """The stack of a pickle, and what it keeps for later.

    Attributes
    ----------
    room : bytes that texts may still become, so that no text becomes bytes again and again
    """

    def __init__(self, room: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.room = room

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("it takes from an empty stack")
        return self.stack.pop()

    def take(self) -> list[Any]:
        """All values since the last mark."""
        begin = self.marks.pop()
        values = self.stack[begin:]
        del self.stack[begin:]
        return values

    def raw(self, value: Any) -> bytes:
        """Bytes, or a text that stands for them as Python 2 wrote it."""
        if isinstance(value, str):
            self.room -= len(value)
            if self.room < 0:
                raise _Refused("its texts become more bytes than it has")
            return value.encode("latin-1")
        if not isinstance(value, bytes | bytearray):
            raise ValueError("an array without bytes")
        return bytes(value) if isinstance(value, bytearray) else value

    def remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def append(self, values: Sequence[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise _Refused("it appends to what is no list")
        target.extend(values)

    def store(self, values: Sequence[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise _Refused("it stores in what is no dict")
        target.update(_pairs(values))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        known = _CALLS.get((function.module, function.name)) if isinstance(function, _Name) else None
        if known is None or type(arguments) is not tuple:
            raise _Refused(f"it calls {_called(function)}")
        self.push(known(self, *arguments))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if not isinstance(target, _Slot) or type(state) is not tuple:
            raise _Refused(f"it sets the state of {_called(target)}")
        if isinstance(target.value, _Type):
            target.value = _Type(target.value.code, _order(state[1]))
        elif target.value is None:
            shape, of, fortran, data = state[-4:]  # before them its version, in most
            target.value = _array(self.raw(data), of, shape, fortran=bool(fortran))
        else:
            raise _Refused("it sets the state of an array twice")


def _run(file: _Bounded, *, room: int) -> Any:
    """The value that a pickle ends with."""
    machine = _Machine(room)
    for step, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", file))):
        if step >= _MAX_STEPS:
            raise _Refused(f"it has more than {_MAX_STEPS:,} instructions")
        if opcode.name == "STOP":
            return machine.pop()
        if opcode.name in _LITERALS:
            machine.push(argument)
            continue
        if opcode.name not in _ACTIONS:
            raise _Refused(f"it has the instruction {opcode.name}")
        _ACTIONS[opcode.name](machine, argument)
    raise ValueError("it has no end")


def _called(value: object) -> str:
    return shown(f"{value.module}.{value.name}")[:100] if isinstance(value, _Name) else "what is no function"


def _pairs(values: Sequence[Any]) -> dict[Any, Any]:
    keys = values[::2]
    if len(values) % 2 or not all(type(key) in (str, int) for key in keys):
        raise _Refused("a dict has keys that are no texts")
    return dict(zip(keys, values[1::2], strict=True))


def _named(machine: _Machine, module: object, name: object) -> _Name:
    """A name, if it is one of those by which NumPy writes arrays."""
    if not (isinstance(module, str) and isinstance(name, str)):
        raise _Refused("it asks for something that has no name")
    found = _Name(module.replace("numpy._core.", "numpy.core."), name)
    if (found.module, found.name) not in _CALLS and found != _NDARRAY:
        raise _Refused(f"it asks for {shown(f'{module}.{name}')[:100]}")
    return found


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.push(_named(machine, module, name))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(_named(machine, module, name))


def _new_array(machine: _Machine, kind: object, shape: object, code: object) -> _Slot:
    """An array whose state is yet to come."""
    if kind != _NDARRAY:
        raise _Refused("it makes an array of another class")
    return _Slot()


def _buffer_array(
    machine: _Machine, data: object, of: object, shape: object, order: object, axes: object = None
) -> _Slot:
    if axes is not None or order not in ("C", "F"):
        raise _Refused("an array's axes are in an order of their own")
    return _Slot(_array(machine.raw(data), of, shape, fortran=order == "F"))


def _scalar(machine: _Machine, of: object, data: object) -> Any:
    return _array(machine.raw(data), of, ())[()]


def _dtype(machine: _Machine, code: object, align: object = False, copy: object = True) -> _Slot:
    said = code if isinstance(code, str) else ""
    found = _DTYPE.fullmatch(said)
    if found is None:
        raise _Refused(f"an array is of {shown(said)[:60]!r}, no plain numbers")
    return _Slot(_Type(found[2], _order(found[1] or "=")))


def _encoded(machine: _Machine, text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("it encodes a text in another way than NumPy's bytes are")
    return machine.raw(text)


def _order(sign: object) -> str:
    if sign not in ("<", ">", "=", "|"):
        raise ValueError("an unknown byte order")
    return str(sign)


def _array(data: bytes, of: object, shape: object, *, fortran: bool = False) -> np.ndarray:
    """The array of these bytes, if they are as many as its shape has."""
    kind = of.value if isinstance(of, _Slot) else None
    if not isinstance(kind, _Type) or type(shape) is not tuple or len(shape) > 4:
        raise ValueError("an array without dtype or shape")
    if not all(type(length) is int and 0 <= length < 1 << 40 for length in shape):
        raise ValueError("an array of a shape that no array has")
    dtype = kind.dtype
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of {len(data):,} bytes where its shape promises {math.prod(shape)} numbers")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


class _Values:
    """What the machine has made, as plain values, each thing that is referred to twice counted each time."""

    def __init__(self) -> None:
        self._seen = 0

    def plain(self, value: Any, depth: int = 0) -> Any:
        self._seen += 1
        if self._seen > _MAX_STEPS or depth > _MAX_DEPTH:
            raise _Refused("it holds more values, or deeper ones, than a file of statistics does")
        if type(value) in (list, tuple):
            return type(value)(self.plain(each, depth + 1) for each in value)
        if type(value) is dict:
            return {key: self.plain(each, depth + 1) for key, each in value.items()}
        if isinstance(value, _Slot) and isinstance(value.value, np.ndarray):
            return value.value
        if isinstance(value, str | np.generic | bool) or is_number(value) or isinstance(value, float):
            return value
        raise _Refused(f"it holds {_called(value) if isinstance(value, _Name) else type(value).__name__.strip('_')}")


def _tuple(length: int) -> Callable[[_Machine, Any], None]:
    def make(machine: _Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(length)]
        machine.push(tuple(reversed(values)))

    return make


_NDARRAY = _Name("numpy", "ndarray")
_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _buffer_array,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): lambda machine: b"",  # without an argument: of an array without numbers
}
_LITERALS = frozenset({
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
})  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, argument: None,
    "FRAME": lambda machine, argument: None,
    "NONE": lambda machine, argument: machine.push(None),
    "NEWTRUE": lambda machine, argument: machine.push(True),
    "NEWFALSE": lambda machine, argument: machine.push(False),
    "MARK": lambda machine, argument: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, argument: machine.pop(),
    "POP_MARK": lambda machine, argument: machine.take(),
    "EMPTY_LIST": lambda machine, argument: machine.push([]),
    "EMPTY_DICT": lambda machine, argument: machine.push({}),
    "EMPTY_TUPLE": lambda machine, argument: machine.push(()),
    "LIST": lambda machine, argument: machine.push(machine.take()),
    "TUPLE": lambda machine, argument: machine.push(tuple(machine.take())),
    "DICT": lambda machine, argument: machine.push(_pairs(machine.take())),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": lambda machine, argument: machine.append([machine.pop()]),
    "APPENDS": lambda machine, argument: machine.append(machine.take()),
    "SETITEM": lambda machine, argument: machine.store([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, argument: machine.store(machine.take()),
    "PUT": lambda machine, argument: machine.remember(argument),
    "BINPUT": lambda machine, argument: machine.remember(argument),
    "LONG_BINPUT": lambda machine, argument: machine.remember(argument),
    "MEMOIZE": lambda machine, argument: machine.remember(len(machine.memo)),
    "GET": lambda machine, argument: machine.push(machine.memo[argument]),
    "BINGET": lambda machine, argument: machine.push(machine.memo[argument]),
    "LONG_BINGET": lambda machine, argument: machine.push(machine.memo[argument]),
    "GLOBAL": _global,
    "STACK_GLOBAL": lambda machine, argument: _stack_global(machine),
    "REDUCE": lambda machine, argument: machine.call(),
    "BUILD": lambda machine, argument: machine.build(),
}
