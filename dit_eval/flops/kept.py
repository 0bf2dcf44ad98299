"""Gflops and parameters of the models in a report, counted by `dit_eval.flops`; the only place where it needs torch.

Counting all models of the paper takes about a minute, so counts are kept in the cache folder, under a name that changes
with the code that counts, the models and the packages.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import dit_eval
from dit_eval.models.names import DIT_NAMES
from dit_eval.system.assets import cache_dir
from dit_eval.system.files import atomic_file, remove_left
from dit_eval.system.reading import is_count, read_json

_MAX_FILE = 1 << 24  # bytes of counts kept: a hundred thousand models


@dataclass(frozen=True, kw_only=True)
class Count:
    """Gflops of one forward pass in the paper's convention, and trainable parameters in millions."""

    gflops: float
    params_m: float


def count_named(name: str, image_size: int | None = None, block: Any = None) -> Count:
    """Count a model of the paper; see `dit_eval.flops.count_model`."""
    if name in DIT_NAMES:  # what is not given is what the paper has
        image_size, block = 256 if image_size is None else image_size, block or "adaln-zero"
    key = json.dumps([name, image_size, block])
    if not _is_known(key):
        from dit_eval.flops.count import count_model

        counted = count_model(name, image_size=image_size, block=block)
        _keep(key, [counted.total("paper"), counted.params])
    operations, params = _kept()[key]
    return Count(gflops=operations / 1e9, params_m=params / 1e6)


def paper_name(network: dict[str, Any]) -> str | None:
    """Name of a network of the paper, with a block design other than adaLN-Zero after it; None if it is none of it.

    Raises
    ------
    TypeError, ValueError
        If the network is no DiT's.
    """
    from dit_eval.models import config as dit  # without torch

    config = dit.DiTConfig(**network)
    name = dit.paper_name(config)
    return name if name is None or config.block == "adaln-zero" else f"{name} {config.block}"


def count_network(network: dict[str, Any]) -> Count | None:
    """Count a network that a `SampleRun` describes; None if it is no DiT."""
    key = json.dumps(network, sort_keys=True)
    if not _is_known(key):
        import torch

        from dit_eval.flops.count import count_flops
        from dit_eval.models.config import DiTConfig, named_config
        from dit_eval.models.config import paper_name as dit_name
        from dit_eval.models.lightning import network as built
        from dit_eval.models.lightning import network_config

        try:
            config = network_config(network)
        except (TypeError, ValueError):
            return None
        name = dit_name(config) if type(config) is DiTConfig else None
        if name is not None and config == named_config(name, image_size=config.image_size, block=config.block):
            count = count_named(name, config.image_size, config.block)
            _keep(key, [round(count.gflops * 1e9), round(count.params_m * 1e6)])
            return count
        with torch.device("meta"):
            x = torch.empty(1, config.in_channels, config.input_size, config.input_size)
            counted = count_flops(built(config), (x, torch.zeros(1), torch.zeros(1, dtype=torch.long)))
        _keep(key, [counted.total("paper"), counted.params])
    operations, params = _kept()[key]
    return Count(gflops=operations / 1e9, params_m=params / 1e6)


def _is_known(key: str) -> bool:
    """Whether a model is counted, here or meanwhile by another process."""
    if key not in _kept():
        _kept().update(_read(counts_file("gflops")))
    return key in _kept()


def _kept() -> dict[str, list[int]]:
    """Counts made before by the same code and packages, by model; a count takes seconds and always gives the same."""
    return _kept_in(counts_file("gflops"))


@functools.cache
def _kept_in(path: Path) -> dict[str, list[int]]:
    remove_left(path)
    return _read(path)


def _read(path: Path) -> dict[str, list[int]]:
    try:
        kept = read_json(path, "counts", max_size=_MAX_FILE)
    except (OSError, ValueError):
        return {}
    return {key: entry[:2] for key, entry in kept.items() if _is_count(key, entry)}


def _is_count(key: str, entry: object) -> bool:
    """Whether an entry is one that `_keep` wrote: two numbers of something, and their check."""
    if not isinstance(entry, list) or len(entry) != 3 or not all(is_count(number) and number for number in entry[:2]):
        return False
    return entry[2] == _check(key, entry[:2])


def _check(key: str, count: list[int]) -> str:
    return hashlib.sha256(json.dumps([key, *count]).encode()).hexdigest()[:16]


def _keep(key: str, count: list[int]) -> None:
    path, counts = counts_file("gflops"), _kept()
    counts.update(_read(path))  # what other processes counted meanwhile
    counts[key] = count
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, own=True) as file:
            entries = {key: [*count, _check(key, count)] for key, count in counts.items()}
            file.write(json.dumps(entries, sort_keys=True).encode())


def counts_file(what: str) -> Path:
    """Where counts of a kind are kept, under a name that changes with what decides them."""
    return cache_dir() / f"{what}-{_version()}.json"


@functools.cache
def _version() -> str:
    digest = hashlib.sha256()
    package = Path(dit_eval.__file__).parent
    for source in (
        *sorted(package.glob("flops/*.py")),
        package / "models/config.py",
        package / "models/dit.py",
        package / "models/lightning.py",
        package / "models/unet.py",
    ):
        digest.update(source.read_bytes())
    digest.update(" ".join(metadata.version(name) for name in ("torch", "fvcore")).encode())
    return digest.hexdigest()[:16]
