"""`Where`: what a run depends on beside what it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dit_eval.system.dist import World
from dit_eval.system.progress import OnProgress


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where an evaluation runs, what it keeps, and whom it tells; no choice of a protocol is among it.

    Attributes
    ----------
    device : of a network that is given by name: "cpu", "cuda", "cuda:1", ...; "auto" for a GPU if there is one
    world : the processes that share the images, all of which call `evaluate` and get the result
    cache : folder for features, so that the same images are not passed through the network again; those of an iterable
        are not kept
    references : features of references by checksum, for several calls with the same network, each of which adds to it;
        they stay in memory
    cache_gen : keep the features of gen there too, not of ref alone
    on_progress : see `OnProgress`; None to draw it on stderr, unless `quiet`
    on_note : called with a line if the features cannot be kept in `cache`, which is no error
    """

    device: str = "auto"
    world: World = field(default_factory=World)
    cache: str | os.PathLike[str] | None = None
    cache_gen: bool = True
    references: dict[str, Any] | None = None
    on_progress: OnProgress | None = None
    on_note: Callable[[str], None] | None = None


def given_where(where: Where | None) -> Where:
    """The place, or this process alone; ValueError for what is none."""
    if where is not None and not isinstance(where, Where):
        raise ValueError(f"`where`: expected a Where; got {type(where).__name__}.")
    return where or Where()
