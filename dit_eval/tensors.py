"""Weights from anywhere: nothing in a file is run, and it takes no more memory than it has bytes."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dit_eval.files import check_plain, open_zip

_MAX_DIRECTORY = 1 << 22  # bytes of a checkpoint's directory: tens of thousands of tensors


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
        If it is neither, is damaged, or needs anything else to be unpickled. The message is the reason alone.
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
        text = str(error).partition("\n")[0][:300]
        raise ValueError((text if text.isprintable() else ascii(text)[1:-1]) or type(error).__name__) from None
    for name, value in loaded.items() if isinstance(loaded, dict) else ():
        if isinstance(value, Tensor) and (value.device.type != "cpu" or value.layout != torch.strided):
            raise ValueError(f"{str(name)[:80]!r} is a tensor without values, or a sparse one")
    return loaded


def _check_members(path: Path) -> None:
    """PyTorch stores tensors as they are, but reads packed ones as well, of any size that they claim to have."""
    with open_zip(path, max_directory=_MAX_DIRECTORY) as archive:
        members = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise ValueError("its tensors are packed, which PyTorch never does")
    if sum(info.file_size for info in members) > path.stat().st_size:
        raise ValueError("it promises more bytes than it has")
