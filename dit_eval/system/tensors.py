"""Weights from anywhere: nothing in a file is run, and it takes no more memory than it has bytes."""

from __future__ import annotations

import itertools
import pickletools
import re
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dit_eval.system.files import check_plain, open_zip

_MAX_DIRECTORY = 1 << 22  # bytes of a checkpoint's directory: tens of thousands of tensors
_MAX_STEPS = 1 << 20  # instructions of a pickle that are looked at, to say what it needs
# What PyTorch's reader says of a class or function that it does not make.
_REFUSED = re.compile(r"GLOBAL (.+?) (?:was not an allowed|whose module)", re.DOTALL)
_READER = "WeightsUnpickler error:"  # before its reason


def load_tensors(path: Path, *, containers: tuple[type, ...] = ()) -> object:
    """What a `.safetensors` or PyTorch file holds: tensors on the CPU, and plain containers of them.

    Parameters
    ----------
    containers : classes beside PyTorch's own that the file may name, which do nothing when they are made

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
            return dict(load_file(path))
        if zipfile.is_zipfile(path):
            _check_members(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(containers)):
            warnings.simplefilter("ignore")  # about foreign pickles, which end in the error below
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    # The readers of both formats let errors of every kind out, at damage that they do not expect.
    except Exception as error:
        raise ValueError(_reason(path, error)) from None
    for name, value in loaded.items() if isinstance(loaded, dict) else ():
        if isinstance(value, Tensor) and (value.device.type != "cpu" or value.layout != torch.strided):
            raise ValueError(f"{str(name)[:80]!r} is a tensor without values, or a sparse one")
    return loaded


def _reason(path: Path, error: Exception) -> str:
    """Why a file was not read, in one line without characters that move the cursor."""
    text = str(error)
    refused = _REFUSED.search(text)
    if refused is None and _READER in text:
        # A pickle that `torch.save` did not write ends at its first unknown instruction, before any class.
        names = [] if zipfile.is_zipfile(path) else _globals(path)
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


def _check_members(path: Path) -> None:
    """PyTorch stores tensors as they are, but reads packed ones as well, of any size that they claim to have."""
    with open_zip(path, max_directory=_MAX_DIRECTORY) as archive:
        members = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise ValueError("its tensors are packed, which PyTorch never does")
    if sum(info.file_size for info in members) > path.stat().st_size:
        raise ValueError("it promises more bytes than it has")
