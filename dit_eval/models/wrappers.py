"""Weights in what is put around them: compilers, parallel training, trainers and averages each add keys or prefixes.

A file is searched for dicts of tensors whose names, behind some prefix, are those of the model that is looked for. The
keys that lead to such a dict and the prefix have to be known wrappers: nothing else is taken off, and what is taken off
or left out is told.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from dit_eval.system.text import shown

Weights = Literal["ema", "model"]

# What torch.compile, DDP, FSDP, checkpointing and Lightning Fabric add to the name of a module, at any depth.
_AROUND = {
    "_orig_mod",
    "module",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
}
# Words of the keys and attributes that trainers keep a network under: model, model_state_dict, net, ema_model, ...
_PLAIN = {"state", "dict", "weights", "params", "parameters", "module", "dit", "transformer", "backbone", "denoiser"}
_LATEST = {"model", "net", "network", "online"}
_AVERAGED = {"ema", "swa", "shadow", "averaged", "average"}
# Single numbers that averages keep beside the weights; of the first, nothing else does.
_TELLING = {"n_averaged", "num_updates", "initted", "decay"}
_BOOKKEEPING = _TELLING | {"step"}
_DEPTH = 5  # of dicts in dicts


@dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """The state dict of a model, out of what was around it.

    Attributes
    ----------
    tensors : by the model's own names
    weights : which set they are, averaged ("ema") or the latest ("model"); None if the file does not say
    notes : what was taken off and left out, in words; empty for a plain state dict
    """

    tensors: dict[str, Tensor]
    weights: Weights | None
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Set:
    """One set of weights in a file.

    Attributes
    ----------
    keys : that lead to its dict
    prefix : of its names there
    tensors : by what is left of the names
    around : parts that were taken out of the names
    beside : names of an average's numbers, which are no weights
    strangers : first parts of the names in the same dict that are of no set
    """

    keys: tuple[str, ...]
    prefix: tuple[str, ...]
    tensors: dict[str, Tensor]
    around: frozenset[str]
    beside: tuple[str, ...]
    strangers: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where it is, as a message calls it."""
        return shown("/".join([*self.keys, ".".join(self.prefix)] if self.prefix else self.keys)[:80])

    @property
    def is_known(self) -> bool:
        return all(_words(part) is not None for part in (*self.keys, *self.prefix))

    @property
    def weights(self) -> Weights | None:
        """What numbers of an average beside it say it is, else the innermost key or prefix that tells."""
        if _TELLING.intersection(self.beside):
            return "ema"
        for part in reversed((*self.keys, *self.prefix)):
            words = _words(part) or set()
            if words & (_AVERAGED | _LATEST):
                return "ema" if words & _AVERAGED else "model"
        return None


def unwrap(
    state: Mapping[Any, object], *, roots: Collection[str], anchors: Collection[str], weights: Weights = "ema"
) -> Unwrapped | None:
    """The state dict of a model in what a file holds.

    Parameters
    ----------
    roots : first parts of the model's names, such as "blocks" of "blocks.0.attn.qkv.weight"
    anchors : names that tell the model; one of them is enough
    weights : the set to take where the file has averaged and latest ones

    Returns
    -------
    None if there is no such model in the file, or none at the end of known wrappers.

    Raises
    ------
    ValueError
        If the set asked for is not there while the file has the other, if several fit, or if two tensors would get the
        same name. The message is the reason alone.
    """
    dicts = list(_dicts(state))
    every = [found for keys, mapping in dicts for found in _sets(keys, mapping, frozenset(roots), frozenset(anchors))]
    known = [found for found in every if found.is_known]
    nameless = next((key for keys, mapping in dicts for key in _nameless(keys, mapping, known)), None)
    if not known and (nameless is None or weights == "model"):
        return None
    chosen = _chosen(known, weights, nameless)
    return Unwrapped(tensors=chosen.tensors, weights=chosen.weights, notes=tuple(_notes(chosen, every)))


def found_elsewhere(state: Mapping[Any, object], *, roots: Collection[str], anchors: Collection[str]) -> str | None:
    """Where a file has the model behind something that is no known wrapper; None if it has no such model."""
    for keys, mapping in _dicts(state):
        for found in _sets(keys, mapping, frozenset(roots), frozenset(anchors)):
            return found.place
    return None


def named_shapes(state: Mapping[Any, object]) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in a file, by the keys that lead there and their names."""
    return {
        ".".join([*keys, str(name)]): tuple(value.shape)
        for keys, mapping in _dicts(state)
        for name, value in mapping.items()
        if isinstance(value, Tensor)
    }


def _words(part: str) -> set[str] | None:
    """The words of a key or prefix that is a known wrapper, none of those in names at any depth; None if it is none."""
    if part in _AROUND:
        return set()
    words = {re.sub(r"\d+$", "", word) for word in part.lower().split("_")}
    return words if words <= _PLAIN | _LATEST | _AVERAGED else None


def _dicts(state: Mapping[Any, object]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, object]]]:
    """The dicts in a file, each once, with the keys that lead there."""
    seen = {id(state)}
    level: list[tuple[tuple[str, ...], Mapping[Any, object]]] = [((), state)]
    for _ in range(_DEPTH):
        yield from level
        below = []
        for keys, mapping in level:
            for key, value in mapping.items():
                if isinstance(key, str) and isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    below.append(((*keys, key), value))
        level = below


def _parts(name: object) -> tuple[list[str], set[str]]:
    """The parts of a name without those that wrappers add at any depth, and these."""
    parts = str(name).split(".")
    return [part for part in parts if part not in _AROUND], _AROUND.intersection(parts)


def _sets(
    keys: tuple[str, ...], mapping: Mapping[Any, object], roots: frozenset[str], anchors: frozenset[str]
) -> list[_Set]:
    """The sets of weights in one dict: one, or several behind prefixes of their own."""
    names = {key: _parts(key) for key, value in mapping.items() if isinstance(value, Tensor)}
    prefixes = {prefix for parts, _ in names.values() if (prefix := _prefix(parts, roots, anchors)) is not None}
    # The longest prefix first: a name belongs to the innermost network that holds it.
    ordered = sorted(sorted(prefixes), key=len, reverse=True)
    found = {prefix: _Gathered() for prefix in ordered}
    strangers: set[str] = set()
    for key, (parts, around) in names.items():
        prefix = next((p for p in ordered if tuple(parts[: len(p)]) == p), None)
        if prefix is None:
            strangers.add(parts[0] if parts else str(key))
        else:
            found[prefix].take(".".join(parts[len(prefix) :]), mapping[key], around)
    return [
        _Set(
            keys=keys,
            prefix=prefix,
            tensors=gathered.tensors,
            around=frozenset(gathered.around),
            beside=tuple(sorted(gathered.beside)),
            strangers=tuple(sorted(strangers)),
        )
        for prefix, gathered in found.items()
    ]


def _prefix(parts: list[str], roots: frozenset[str], anchors: frozenset[str]) -> tuple[str, ...] | None:
    """What stands before the model's own name; None if the name is no anchor."""
    first = next((i for i, part in enumerate(parts) if part in roots), None)
    return tuple(parts[:first]) if first is not None and ".".join(parts[first:]) in anchors else None


class _Gathered:
    """What belongs to one set of weights, as it is found."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.around: set[str] = set()
        self.beside: list[str] = []

    def take(self, own: str, value: object, around: set[str]) -> None:
        """Take a tensor by the model's name for it, or a number that an average keeps beside the weights."""
        assert isinstance(value, Tensor)
        if own in _BOOKKEEPING and value.numel() == 1:
            self.beside.append(own)
            return
        if own in self.tensors:
            raise ValueError(f"two of its tensors are {shown(own[:80])} once wrappers are taken off")
        self.tensors[own] = value
        self.around |= around


def _nameless(keys: tuple[str, ...], mapping: Mapping[Any, object], known: list[_Set]) -> Iterator[str]:
    """Keys of averages that are there, but in a form without the model's names: lists, or names of their own."""
    if any(_words(key) is None for key in keys):  # settings, say
        return
    named = {(*found.keys, *found.prefix)[: len(keys) + 1] for found in known}
    for key, value in mapping.items():
        first = next(iter(_parts(key)[0]), "")
        words = _words(first)
        if words and words & _AVERAGED and value is not None and (*keys, first) not in named:
            yield first


def _chosen(known: list[_Set], weights: Weights, nameless: str | None) -> _Set:
    wanted = [found for found in known if found.weights == weights]
    if not wanted:
        _refuse_the_other_set(known, weights, nameless)
        wanted = [found for found in known if found.weights is None] or known
    if len(wanted) > 1:
        places = ", ".join(found.place or "the file itself" for found in wanted)
        raise ValueError(f"several sets of weights fit ({places}). Save the one to use in a file of its own")
    return wanted[0]


def _refuse_the_other_set(known: list[_Set], weights: Weights, nameless: str | None) -> None:
    """Raise a ValueError if a file has the other set of weights, and not the one that is asked for by name."""
    if weights == "ema" and nameless is not None:
        raise ValueError(
            f"without a state dict under {nameless!r}: what is there has no names of the model. Save the averaged "
            "weights by name, or take the others (`weights` model)"
        )
    if weights == "model" and all(found.weights == "ema" for found in known):
        raise ValueError(
            f"its weights{_under(known[0])} are averaged ones (ema), and the others (`weights` model) are not in it"
        )


def _under(found: _Set) -> str:
    return f" under {found.place!r}" if found.place else ""


def _notes(chosen: _Set, every: list[_Set]) -> Iterator[str]:
    if chosen.keys:
        yield f"took the weights under {shown('/'.join(chosen.keys)[:80])!r}"
    off = [f"{part}." for part in sorted(chosen.around)]
    off += [f"{'.'.join(chosen.prefix)}."] if chosen.prefix else []
    if off:
        yield f"took {' and '.join(map(repr, off))} off their names"
    left = [found.place or "the file itself" for found in every if found is not chosen]
    left += [shown(name[:80]) for name in (*chosen.beside, *chosen.strangers)]
    if left:
        yield f"left out {_first_six(left)}"
    if chosen.weights == "model" and all(found.weights != "ema" for found in every):
        yield "found no averaged weights (ema)"


def _first_six(texts: list[str]) -> str:
    more = f" and {len(texts) - 6} more" if len(texts) > 6 else ""
    return ", ".join(map(repr, texts[:6])) + more
