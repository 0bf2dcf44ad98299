"""Counts of the models in a report, made by `dit_eval.flops.count` once on this machine; the only place where a report
needs torch.

Counting all models of the paper takes 14 seconds, so counts are kept in the cache folder, whole and by operator, under
a name that changes with the code that counts, the models and the packages.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import dit_eval
from dit_eval.flops.counts import Counts, FlopCount
from dit_eval.models.names import DIT_NAMES, UNET_SIZES
from dit_eval.system.assets import cache_dir
from dit_eval.system.files import atomic_file, remove_left
from dit_eval.system.reading import NOT_OURS, is_count, read_json

_MAX_FILE = 1 << 24  # bytes of counts kept: some thousands of models
_FIELDS = ("macs", "norm_elements", "fvcore")


@dataclass(frozen=True, kw_only=True)
class Count:
    """Gflops of one forward pass in the paper's convention, and trainable parameters in millions."""

    gflops: float
    params_m: float


def count_named(name: str, image_size: int | None = None, block: Any = None) -> Count:
    """Count a model of the paper; see `dit_eval.flops.count_model`."""
    return _count(count_in_parts(name, image_size=image_size, block=block))


def count_in_parts(name: str, *, image_size: int | None = None, block: Any = None) -> FlopCount:
    """`count_model`, whole and by operator, counted once on this machine; what its modules count is not kept."""
    key = _key(name, image_size, block)
    if not _is_known(key):
        from dit_eval.flops.count import count_model

        _keep(key, count_model(name, image_size=image_size, block=block))
    return _kept()[key]


def is_kept(name: str, *, image_size: int | None = None, block: Any = None) -> bool:
    """Whether `count_in_parts` will answer without counting, and so without loading PyTorch."""
    return _is_known(_key(name, image_size, block))


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
    from dit_eval.models import config as dit  # without torch

    try:
        config = dit.DiTConfig(**network)
    except (TypeError, ValueError):
        config = _with_later_parts(network)
    if config is None:
        return None
    name = dit.paper_name(config) if type(config) is dit.DiTConfig else None
    if name is not None and config == dit.named_config(name, image_size=config.image_size, block=config.block):
        return count_named(name, config.image_size, config.block)
    key = json.dumps(network, sort_keys=True)
    if not _is_known(key):
        import torch

        from dit_eval.flops.count import count_flops
        from dit_eval.models.dit import example_inputs
        from dit_eval.models.lightning import network as built

        with torch.device("meta"):
            inputs, _ = example_inputs(config)
            counted = count_flops(built(config), inputs)
        _keep(key, counted)
    return _count(_kept()[key])


def _with_later_parts(network: dict[str, Any]) -> Any:
    """The configuration of a network that is no plain DiT, as LightningDiT's; None if it is none of these either."""
    from dit_eval.models.lightning import network_config

    try:
        return network_config(network)
    except (TypeError, ValueError):
        return None


def _count(counted: FlopCount) -> Count:
    return Count(gflops=counted.gflops("paper"), params_m=counted.params / 1e6)


def _key(name: str, image_size: int | None, block: Any) -> str:
    """A model by its name; what is not given is what the paper has."""
    if name in DIT_NAMES:
        image_size, block = 256 if image_size is None else image_size, block or "adaln-zero"
    elif image_size is None:
        image_size = UNET_SIZES.get(name)
    return json.dumps([name, image_size, block])


def _is_known(key: str) -> bool:
    """Whether a model is counted, here or meanwhile by another process."""
    if key not in _kept():
        _kept().update(_read(counts_file()))
    return key in _kept()


def _kept() -> dict[str, FlopCount]:
    """Counts made before by the same code and packages, by model; a count takes seconds and always gives the same."""
    return _kept_in(counts_file())


@functools.cache
def _kept_in(path: Path) -> dict[str, FlopCount]:
    remove_left(path)
    return _read(path)


def _read(path: Path) -> dict[str, FlopCount]:
    try:
        kept = read_json(path, "counts", max_size=_MAX_FILE)
        return {key: _from_entry(entry) for key, (entry, check) in kept.items() if _is_ours(key, entry, check)}
    except (OSError, *NOT_OURS):  # none yet, or of another program
        return {}


def _keep(key: str, count: FlopCount) -> None:
    path, counts = counts_file(), _kept()
    counts.update(_read(path))  # what other processes counted meanwhile
    counts[key] = replace(count, by_module={}, negligible={})
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, own=True) as file:
            entries = {key: _to_entry(count) for key, count in counts.items()}
            checked = {key: [entry, _check(key, entry)] for key, entry in entries.items()}
            file.write(json.dumps(checked, sort_keys=True).encode())


def _to_entry(count: FlopCount) -> dict[str, Any]:
    """Parameters, and the counts of the whole and of each operator as three numbers."""
    parts = {"": count, **count.by_operator}
    return {"params": count.params, "parts": {name: [getattr(c, f) for f in _FIELDS] for name, c in parts.items()}}


def _from_entry(entry: dict[str, Any]) -> FlopCount:
    fields = {name: dict(zip(_FIELDS, numbers, strict=True)) for name, numbers in entry["parts"].items()}
    whole = fields.pop("")
    parts = {name: Counts(**each) for name, each in fields.items()}
    return FlopCount(**whole, params=entry["params"], by_operator=parts, by_module={}, negligible={})


def _is_ours(key: str, entry: dict[str, Any], check: object) -> bool:
    """Whether an entry is one that `_keep` wrote: numbers of something, and their check."""
    numbers = [number for part in entry["parts"].values() for number in part]
    whole = [entry["params"], sum(entry["parts"][""])]
    return all(map(is_count, [*numbers, *whole])) and all(whole) and check == _check(key, entry)


def _check(key: str, entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([key, entry], sort_keys=True).encode()).hexdigest()[:16]


def counts_file() -> Path:
    """Where counts are kept, under a name that changes with what decides them."""
    return cache_dir() / f"gflops-{_version()}.json"


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
