"""Whose reference a result is against: decided from what the file is, never from its name.

ADM's batches and the embedded digits are public files (`manifest.toml`). Statistics that others publish stand in
`reference_stats/references.toml`. What is in neither is "own", if dit-eval computed its statistics, or
"unknown-statistics".
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dit_eval.results.eval_result import PROTOCOL, ImageSource
from dit_eval.system.assets import assets, embedded_dir, identify
from dit_eval.system.text import shown
from dit_eval.system.toml import parse_toml

OWN, UNKNOWN = "own", "unknown-statistics"
NOT_RECORDED = "reference not recorded"  # of results of versions that did not say


@dataclass(frozen=True, kw_only=True)
class KnownReference:
    """A reference that others publish numbers against.

    Attributes
    ----------
    name : how results call it
    protocol : of the numbers that are published against it
    image_size : (H, W) of the images that it is of; None where the file itself says so
    filename : as its publisher calls it
    sha256, git, fingerprint : of its content; None where nobody states it
    """

    name: str
    protocol: str
    image_size: tuple[int, int] | None = None
    filename: str | None = None
    sha256: str | None = None
    git: str | None = None
    fingerprint: str | None = None

    @property
    def is_proved(self) -> bool:
        """Whether a file can be told to be this one, or not to be."""
        return bool(self.sha256 or self.git or self.fingerprint)

    def is_of(self, ref: ImageSource) -> bool:
        """Whether a file is this one, or a copy of its statistics."""
        pairs = ((self.sha256, ref.sha256), (self.git, ref.git), (self.fingerprint, ref.fingerprint))
        return any(mine is not None and mine == theirs for mine, theirs in pairs)


@functools.cache
def _manifest() -> dict[str, Any]:
    path = embedded_dir() / "references.toml"
    return parse_toml(path.read_text(encoding="utf-8"), path)


@functools.cache
def published_statistics() -> tuple[KnownReference, ...]:
    """Those of `references.toml`."""
    return tuple(
        KnownReference(
            name=entry["name"],
            protocol=entry["protocol"],
            image_size=(entry["image_size"], entry["image_size"]),
            filename=entry["filename"],
            sha256=entry.get("sha256"),
            git=entry.get("git"),
            fingerprint=entry.get("fingerprint"),
        )
        for entry in _manifest()["reference"]
    )


def entry_networks() -> dict[str, str]:
    """Name of statistics in a file of several -> the network whose features they are of."""
    return dict(_manifest()["entries"])


def known_reference(ref: ImageSource) -> KnownReference | None:
    """The public reference that a file is, or whose statistics it holds; None for any other."""
    item = identify(ref.sha256, "reference")
    if item is not None and item.protocol is not None:
        return KnownReference(name=item.name, protocol=item.protocol)
    return next((known for known in published_statistics() if known.is_of(ref)), None)


def named_reference(ref: ImageSource) -> KnownReference | None:
    """The published statistics that a file has the name of, where nobody states a checksum: it may be that file."""
    name = Path(ref.path.partition("#")[0]).name
    return next((known for known in published_statistics() if known.filename == name and not known.is_proved), None)


def reference_protocol(ref: ImageSource) -> str:
    """Whose reference it is: the protocol of a public one, "own" for images or statistics of them made by dit-eval, or
    "unknown-statistics"."""
    known = known_reference(ref)
    if known is not None:
        return known.protocol
    return OWN if ref.statistics == "computed" or ref.made_from is not None else UNKNOWN


def reference_title(protocol: str | None) -> str:
    """How texts call the reference of a protocol, such as "JiT's statistics"; None is that of an older result."""
    titles: dict[str, str] = _manifest()["titles"]
    return NOT_RECORDED if protocol is None else titles.get(protocol, shown(protocol))


def foreign_title(protocol: str | None) -> str:
    """The same for statistics that others made; empty for ADM's reference, one's own, and the digits."""
    return "" if protocol in (None, PROTOCOL, OWN, "digits") else reference_title(protocol)


def reference_warnings(ref: ImageSource) -> list[str]:
    """What a user should know of a reference that is not known, or has the name of one that is."""
    if known_reference(ref) is not None:
        return []
    found = [*_names_of_batches(ref), *_names_of_statistics(ref)]
    if not found and reference_protocol(ref) == UNKNOWN and not ref.num_images:
        found.append(
            f"{ref.path}: who made its statistics is not known. Those of pytorch-fid and clean-fid have as many "
            "dimensions as ADM's, and come of another resize; compare with numbers against this very file alone."
        )
    return found


def _names_of_batches(ref: ImageSource) -> Iterator[str]:
    for item in assets():
        if item.kind == "reference" and item.url is not None and Path(ref.path).name == item.filename:
            yield (
                f"{ref.path} has the name of {item.name}, whose publisher states no checksum, and is not what "
                f"`dit-eval weights fetch {item.name}` noted of the official address. To have it known as {item.name}, "
                f"delete or move {item.path} if it is there, and pass --ref {item.name}."
            )


def _names_of_statistics(ref: ImageSource) -> Iterator[str]:
    for known in published_statistics():
        if Path(ref.path.partition("#")[0]).name != known.filename:
            continue
        title = f"{reference_title(known.protocol)} ({known.name})"
        if known.is_proved:
            yield f"{ref.path} has the name of {title}, and is another file. It counts as unknown statistics."
        else:
            yield (
                f"{ref.path} has the name of {title}, whose checksum nobody states: it may be that file, and counts as "
                "unknown statistics."
            )
