"""Counts by operator of named models, kept beside those of `dit_eval.flops.kept`, so that they are told at once."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_eval.flops.counts import Counts, FlopCount
from dit_eval.flops.kept import counts_file
from dit_eval.system.files import atomic_file
from dit_eval.system.reading import NOT_OURS, is_count, read_json

if TYPE_CHECKING:
    from dit_eval.models.config import BlockDesign

_MAX_FILE = 1 << 24  # bytes: some thousands of models


def count_in_parts(name: str, *, image_size: int | None = None, block: BlockDesign | None = None) -> FlopCount:
    """`count_model`, whole and by operator, counted once on this machine; what its modules count is not kept."""
    key = json.dumps([name, image_size, block])
    if key not in _kept():
        from dit_eval.flops.count import count_model

        counted = count_model(name, image_size=image_size, block=block)
        _keep(key, _entry(counted))
    return _count(_kept()[key])


def is_kept(name: str, *, image_size: int | None = None, block: BlockDesign | None = None) -> bool:
    """Whether `count_in_parts` will answer without counting, and so without loading PyTorch."""
    return json.dumps([name, image_size, block]) in _kept()


def _entry(count: FlopCount) -> dict[str, Any]:
    parts = {name: _three(part) for name, part in count.by_operator.items()}
    return {"params": count.params, "whole": _three(count), "by_operator": parts}


def _three(counts: Counts) -> list[int]:
    return [counts.macs, counts.norm_elements, counts.fvcore]


def _count(entry: dict[str, Any]) -> FlopCount:
    def counts(three: list[int]) -> dict[str, int]:
        return dict(zip(("macs", "norm_elements", "fvcore"), three, strict=True))

    parts = {name: Counts(**counts(three)) for name, three in entry["by_operator"].items()}
    return FlopCount(**counts(entry["whole"]), params=entry["params"], by_operator=parts, by_module={}, negligible={})


def _kept() -> dict[str, dict[str, Any]]:
    return _kept_in(_file())


@functools.cache
def _kept_in(path: Path) -> dict[str, dict[str, Any]]:
    return _read(path)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        kept = read_json(path, "counts by operator", max_size=_MAX_FILE)
        return {key: entry for key, (entry, check) in kept.items() if check == _check(key, entry) and _is_sound(entry)}
    except (OSError, *NOT_OURS):  # none yet, or of another program
        return {}


def _is_sound(entry: dict[str, Any]) -> bool:
    every = [entry["whole"], *entry["by_operator"].values()]
    return is_count(entry["params"]) and all(len(three) == 3 and all(map(is_count, three)) for three in every)


def _check(key: str, entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([key, entry]).encode()).hexdigest()[:16]


def _keep(key: str, entry: dict[str, Any]) -> None:
    _kept().update(_read(_file()))  # what other processes counted meanwhile
    _kept()[key] = entry
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time only
        _file().parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(_file(), own=True) as file:
            file.write(json.dumps({key: [entry, _check(key, entry)] for key, entry in _kept().items()}).encode())


def _file() -> Path:
    return counts_file("operators")
