"""`dit-eval weights`."""

from __future__ import annotations

import argparse
import json
import sys

from dit_eval.cli.output import _fetch
from dit_eval.system.text import size_text


def _weights_list(arguments: argparse.Namespace) -> None:
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


def _weights_fetch(arguments: argparse.Namespace) -> None:
    from dit_eval.system.assets import asset

    sys.stdout.write(f"{_fetch(asset(arguments.name), arguments.url)}\n")


def _weights_verify(arguments: argparse.Namespace) -> None:
    from dit_eval.system.assets import asset, verify

    item = asset(arguments.name)
    found = verify(item)
    state = "as pinned" if item.sha256 else "the publisher states no checksum to compare with"
    sys.stdout.write(f"{item.path}\nsha256 {found}: {state}\n")
