"""Pickles of statistics, as EDM2 and FD-Loss publish them; none is run.

EDM2: a dict with `num_images`, and for each network a dict of `mu` and `sigma`: `fid` (Inception), `fd_dinov2`.
FD-Loss: the contents of several npz files of statistics by file name. One of a file of several is meant by the network
that scores, or by name: `paper_ref_stats.pkl#jit_in256_stats.npz`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.images.npz import ImageBatch
from dit_eval.images.npz_contents import POOL, check_statistics
from dit_eval.images.reader import Role
from dit_eval.results.references import entry_networks
from dit_eval.summary import GaussianStats
from dit_eval.system.files import Watch
from dit_eval.system.pickles import read_pickle
from dit_eval.system.reading import is_count
from dit_eval.system.text import did_you_mean, shown

_ENDINGS = (".pkl", ".pickle")
_WHOLE = ""  # the name of statistics that have a file to themselves
Entries = dict[str, dict[str, Any]]


def is_statistics(path: Path) -> bool:
    """Whether a path is that of a pickle, or of statistics in it."""
    file, _ = _split(path)
    return file.name.lower().endswith(_ENDINGS) and not file.is_dir()


def open_statistics(path: Path, *, role: Role, network: str) -> ImageBatch:
    """A pickle as a reference without images.

    Parameters
    ----------
    path : the file, with # and a name behind it where it holds statistics of several kinds
    network : whose statistics are meant where none is named

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no pickle of statistics, or holds none of this network, or several.
    """
    file, name = _split(path)
    watch = Watch(file)
    data = read_pickle(file, "a pickle of statistics")
    if role == "gen":
        raise ValueError(f"`gen`: {file} holds statistics and no images to score. Are `gen` and `ref` swapped?")
    entries = _entries(file, data)
    chosen = _chosen(file, entries, network) if name is None else _named(file, entries, name)
    return ImageBatch(
        path=file,
        entry=chosen or None,
        num_images=0,
        num_stored=0,
        image_size=None,
        labels=None,
        labels_problem=None,
        pool=_stats(file, chosen, entries[chosen], data),
        spatial=None,
        run=None,
        _images=None,
        _watch=watch,
    )


def _split(path: Path) -> tuple[Path, str | None]:
    """File and name of the statistics in it."""
    file, sign, name = path.name.partition("#")
    return (path.with_name(file), name) if sign and file and not path.exists() else (path, None)


def _entries(path: Path, data: object) -> Entries:
    """The statistics in a pickle by name."""
    found: Entries = {}
    if isinstance(data, dict):
        found = {_WHOLE: data} if _keys(data) else {str(key): each for key, each in data.items() if _keys(each)}
    if not found:
        held = ", ".join(shown(str(key))[:40] for key in [*data][:8]) if isinstance(data, dict) else type(data).__name__
        raise ValueError(
            f"{path}: no statistics in the pickle; it holds {held or 'nothing'}. Needed mu and sigma, or dicts of "
            "them by name, as EDM2 and FD-Loss write them."
        )
    return found


def _keys(entry: object) -> tuple[str, str] | None:
    """The names of mean and covariance in a dict, if it has them."""
    return next((pair for pair in POOL if isinstance(entry, dict) and set(pair) <= entry.keys()), None)


def _chosen(path: Path, entries: Entries, network: str) -> str:
    """The statistics of a network."""
    known = entry_networks()
    mine = [name for name in entries if known.get(name) == network]
    if len(mine) == 1 or (not mine and len(entries) == 1):
        return (mine or [*entries])[0]
    held = ", ".join(f"{shown(name)} ({known.get(name, 'network not known')})" for name in entries)
    what = "several statistics" if mine else "no statistics"
    raise ValueError(
        f"{path} holds {what} of the network {network}: {held}. Name those that are meant behind #, as in "
        f"{path.name}#{shown((mine or [*entries])[0])}"
    )


def _named(path: Path, entries: Entries, name: str) -> str:
    if name not in entries:
        held = ", ".join(map(shown, entries))
        raise ValueError(f"{path}: no statistics called {shown(name)!r}; it holds {held}.{did_you_mean(name, entries)}")
    return name


def _stats(path: Path, name: str, entry: dict[str, Any], data: dict[str, Any]) -> GaussianStats:
    pair = _keys(entry) or POOL[0]
    mu, sigma = (entry[key] for key in pair)
    names = (f"{name}.{pair[0]}", f"{name}.{pair[1]}") if name else pair
    if not (isinstance(mu, np.ndarray) and isinstance(sigma, np.ndarray)):
        raise ValueError(f"{path}: {names[0]} and {names[1]} are no NumPy arrays, which statistics are.")
    check_statistics(path, names, mu.shape, sigma.shape, (mu.dtype, sigma.dtype))
    num = data.get("num_images")
    num = num if isinstance(num, int) and is_count(num) and num > 1 else None
    try:
        return GaussianStats(
            mu=mu.reshape(-1),
            sigma=sigma,
            num=num,
            network=entry_networks().get(name),
            names=names,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
