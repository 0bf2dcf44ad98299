"""Weights from anywhere: nothing in a file is run, and it takes no more memory than it has bytes."""

from __future__ import annotations

import io
import itertools
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dit_eval.system.archives import open_zip
from dit_eval.system.files import check_plain
from dit_eval.system.reading import tensor_header_size

_MAX_DIRECTORY = 1 << 22  # bytes of a checkpoint's directory: tens of thousands of tensors
_MAX_STEPS = 1 << 22  # instructions of a pickle, each of which makes up to some 60 bytes; optimizers have 100,000
_MAX_PICKLE = 1 << 26  # bytes of a pickle; tensors are not in it
_PICKLES = 5  # at the beginning of a file of PyTorch before 1.6; tensors follow
_SHARED = 4  # times that all values of a file may be there, in tensors that share them
_SLACK = 1 << 20  # bytes that tensors may have beyond those of their storages
# What PyTorch's reader says of a class or function that it does not make.
_REFUSED = re.compile(r"GLOBAL (.+?) (?:was not an allowed|whose module)", re.DOTALL)
_READER = "WeightsUnpickler error:"  # before its reason


def load_tensors(path: Path, *, containers: tuple[type, ...] = (), mapped: bool = False) -> object:
    """What a `.safetensors` or PyTorch file holds: tensors on the CPU, and plain containers of them.

    Parameters
    ----------
    containers : classes beside PyTorch's own that the file may name, which do nothing when they are made
    mapped : leave the values on the disk until they are looked at, for names and shapes

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is neither, is damaged, or needs anything else to be unpickled. The message is the reason alone; it names
        a class that was refused.
    """
    check_plain(path, "a file of weights")
    try:
        if path.suffix == ".safetensors":
            _check_header(path)
            return dict(load_file(path))
        if _is_zip(path):
            _check_members(path)
        else:
            _check_old(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(containers)):
            warnings.simplefilter("ignore")  # about foreign pickles, which end in the error below
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and _is_zip(path))
        _check_sizes(loaded, path.stat().st_size, containers)
    # The readers of both formats let errors of every kind out, at damage that they do not expect.
    except Exception as error:
        raise ValueError(_reason(path, error)) from None
    for name, value in loaded.items() if isinstance(loaded, dict) else ():
        if isinstance(value, Tensor) and (value.device.type != "cpu" or value.layout != torch.strided):
            raise ValueError(f"{str(name)[:80]!r} is a tensor without values, or a sparse one")
    return loaded


def stored_texts(path: Path) -> dict[str, str]:
    """The texts that a safetensors file carries by name, its metadata.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged. The message is the reason alone.
    """
    check_plain(path, "a safetensors file")
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # as in `load_tensors`
        raise ValueError(_reason(path, error)) from None


def _check_header(path: Path) -> None:
    """That the header of a safetensors file is of a size that people's files have; ValueError with the reason alone."""
    with open(path, "rb") as file:
        tensor_header_size(file)


def _reason(path: Path, error: Exception) -> str:
    """Why a file was not read, in one line without characters that move the cursor."""
    text = str(error)
    refused = _REFUSED.search(text)
    if refused is None and _READER in text:
        # A pickle that `torch.save` did not write ends at its first unknown instruction, before any class.
        names = [] if _is_zip(path) else _globals(path)
        name = names[0] if names else None
        text = text.partition(_READER)[2].strip()
    else:
        name = refused[1] if refused else None
    if name is not None:
        name = _clean(name if "." in name else f"builtins.{name}")
        return (
            f"its pickle needs {name}, which is refused because it could run code; if you trust the file, load it "
            "where it was made and save its state dict alone, best by safetensors.torch.save_file"
        )
    if "DTensor" in text:
        return "its tensors are shards of parallel training (DTensor); save the full state dict"
    if text.startswith("Unsupported operand"):  # the number of an instruction tells nobody anything
        return "torch.save did not write it"
    return _clean(text.partition("\n")[0]) or type(error).__name__


def _clean(text: str) -> str:
    text = text[:300]
    return text if text.isprintable() else ascii(text)[1:-1]


def _globals(path: Path) -> list[str]:
    """Classes and functions that a pickle names, in order; its instructions are read, none is carried out."""
    names: list[str] = []
    texts: list[str] = []
    memo: dict[int, object] = {}
    last: object = None
    with open(path, "rb") as file:
        try:
            for code, value, _ in itertools.islice(pickletools.genops(file), _MAX_STEPS):
                if code.name == "GLOBAL":
                    names.append(str(value).replace(" ", ".", 1))
                elif code.name == "STACK_GLOBAL":
                    names.append(".".join(texts[-2:]))
                elif code.name == "MEMOIZE":
                    memo[len(memo)] = last
                    continue
                last = memo.get(value) if code.name in ("BINGET", "LONG_BINGET") and isinstance(value, int) else value
                if isinstance(last, str):
                    texts.append(last)
        except Exception:  # damage of any kind: what was found until then is named
            return names
    return names


def _is_zip(path: Path) -> bool:
    """Whether PyTorch, by the first bytes, or Python, by the last ones, takes a file for a zip."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\3\4" or zipfile.is_zipfile(path)


def _check_members(path: Path) -> None:
    """PyTorch stores tensors as they are, but reads packed ones as well, of any size that they claim to have."""
    with open_zip(path, max_directory=_MAX_DIRECTORY) as archive:
        members = archive.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in members):
            raise ValueError("its tensors are packed, which PyTorch never does")
        if sum(info.file_size for info in members) > path.stat().st_size:
            raise ValueError("it promises more bytes than it has")
        for info in members:
            if info.filename.endswith(".pkl"):
                if info.file_size > _MAX_PICKLE:
                    raise _too_much(_MAX_PICKLE, "bytes")
                _check_pickle(io.BytesIO(archive.read(info)), _MAX_STEPS)


def _check_old(path: Path) -> None:
    """As PyTorch before 1.6 wrote files: pickles one after the other, then what tensors hold."""
    with open(path, "rb") as file:
        left = _MAX_STEPS
        for _ in range(_PICKLES):
            left -= _check_pickle(file, left)


def _check_pickle(file: IO[bytes], most: int) -> int:
    """The number of a pickle's instructions, which are read and not carried out, if they take no memory without bounds.

    Lists, numbers and texts have bytes in it, and tensors in the file; a `bytearray` of any size has one number.
    """
    count = 0
    try:
        for code, value, _ in pickletools.genops(file):
            count += 1
            if count > most:
                break
            if code.name == "GLOBAL" and str(value).endswith(" bytearray"):
                raise _Refused("its pickle makes a bytearray, which may be of any size; save its state dict alone")
    except _Refused:
        raise
    except Exception:  # damage of any kind, of which PyTorch's own reader says more
        return count
    if count > most:
        raise _too_much(_MAX_STEPS, "instructions")
    return count


class _Refused(ValueError):
    """A file that could be read, and is not."""


def _too_much(allowed: int, what: str) -> _Refused:
    return _Refused(f"its pickle has more than {allowed:,} {what}; save its state dict alone")


def _check_sizes(loaded: object, size: int, containers: tuple[type, ...]) -> None:
    """That tensors have their values in the file, of so many bytes: a view may claim any number on a few bytes."""
    storages: dict[int, int] = {}
    views: dict[tuple[object, ...], int] = {}
    for name, tensor in _tensors(loaded, containers):
        storage, taken = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        if taken > max(storage.nbytes(), _SLACK):
            raise _Refused(
                f"{name[:80]!r} is a view of {taken:,} bytes on {storage.nbytes():,}; save it as a tensor of its own "
                "(contiguous, cloned)"
            )
        storages[storage.data_ptr()] = storage.nbytes()
        views[storage.data_ptr(), tensor.storage_offset(), tuple(tensor.shape), tensor.stride()] = taken
    if sum(storages.values()) > size:
        raise _Refused("its tensors have more bytes than the file")
    if sum(views.values()) > _SHARED * size + _SLACK:
        raise _Refused("its tensors share their values many times over; save each as a tensor of its own")


def _tensors(loaded: object, containers: tuple[type, ...]) -> Iterator[tuple[str, Tensor]]:
    """All plain tensors on the CPU, in containers at any depth, each container once, with the name that leads there."""
    seen, stack = set[int](), [("", loaded)]
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            plain = type(value) in (Tensor, torch.nn.Parameter)  # others, such as shards, have no storage to ask
            if plain and value.device.type == "cpu" and value.layout == torch.strided:
                yield name, value
        elif isinstance(value, (dict, list, tuple, set, *containers)) and id(value) not in seen:
            seen.add(id(value))
            inner: Any = vars(value) if isinstance(value, containers) else value
            if isinstance(inner, dict):
                stack += [(str(key) if isinstance(key, str) else name, each) for key, each in inner.items()]
            else:
                stack += [(name, each) for each in inner]


class Unfilled(TorchFunctionMode):
    """A context in which modules get no first values: a file has those that they will have, or nobody reads any.

    Drawing hundreds of millions of numbers takes seconds, and on the meta device, where there are none to draw, PyTorch
    loads its compiler for it, which takes more than a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


_DRAWS = frozenset(
    {nn.init.uniform_, nn.init.normal_, nn.init.trunc_normal_, nn.init.xavier_uniform_, nn.init.kaiming_uniform_}
    | {Tensor.uniform_, Tensor.normal_}
)
