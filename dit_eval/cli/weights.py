"""`dit-eval weights`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Annotated

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import bring
from dit_eval.system.text import size_text

_Name = Annotated[str, Option("a name that `dit-eval weights list` shows", name="name")]


@dataclass(frozen=True, kw_only=True)
class List:
    """List the public files: address, file, path here, size, SHA-256.

    Example: dit-eval weights list

    A machine without network can be brought a file from its address to its path.
    """

    json: Annotated[bool, Option("print one JSON object", group=EVERYDAY)] = False


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """Download a public file into the cache; it goes on where it stopped, and is checked.

    Example: dit-eval weights fetch inception
    """

    name: _Name
    url: Annotated[str | None, Option("another address of the same file (a mirror)", group=EVERYDAY)] = None


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check a file in the cache.

    Example: dit-eval weights verify inception
    """

    name: _Name


def weights_list(arguments: List) -> None:
    from dit_eval.system.assets import assets, cache_dir, sha256_of

    files, lines = [], []
    for item in assets():
        # Embedded files are small, and have no publisher who could state it.
        sha256 = sha256_of(item.path) if item.url is None else item.sha256
        size = item.path.stat().st_size if item.path.is_file() else None
        state = "not here" if size is None else "here"
        files.append(
            {
                "name": item.name,
                "kind": item.kind,
                "state": state,
                "url": item.url,
                "file": item.filename,
                "path": str(item.path),
                "size": item.size,
                "size_bytes": size,
                "sha256": sha256,
                "note": item.note,
            }
        )
        length = item.size or "-" if size is None else size_text(size)
        lines += [
            f"{item.name:<16} {item.kind:<10} {state:<9} {length:>9}  {item.note}",
            f"    address  {item.url or 'none: it comes with dit-eval'}",
            f"    file     {item.filename}",
            f"    path     {item.path}",
            f"    sha256   {sha256 or '- (the publisher states none)'}",
        ]
    if arguments.json:
        sys.stdout.write(json.dumps({"cache": str(cache_dir()), "files": files}, ensure_ascii=False) + "\n")
        return
    sys.stdout.write("\n".join([*lines, f"cache: {cache_dir()} (set DIT_EVAL_CACHE to move it)"]) + "\n")


def weights_fetch(arguments: Fetch) -> None:
    from dit_eval.system.assets import asset

    sys.stdout.write(f"{bring(asset(arguments.name), arguments.url)}\n")


def weights_verify(arguments: Verify) -> None:
    from dit_eval.system.assets import asset, verify

    item = asset(arguments.name)
    found = verify(item)
    state = "as pinned" if item.sha256 else "the publisher states no checksum to compare with"
    sys.stdout.write(f"{item.path}\nsha256 {found}: {state}\n")
