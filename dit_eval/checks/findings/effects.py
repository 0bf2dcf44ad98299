"""Measured effects of the usual mistakes."""

from __future__ import annotations

import json
from dataclasses import fields

from dit_eval.checks.findings.case import Effect
from dit_eval.system.assets import embedded_dir


def effects() -> dict[str, tuple[Effect, ...]]:
    """Measured effects by the id of the finding; see `reference_stats/make_effects.py`."""
    rows = json.loads((embedded_dir() / "effects.json").read_text(encoding="utf-8"))["effects"]
    known: dict[str, tuple[Effect, ...]] = {}
    names = [f.name for f in fields(Effect)]
    for row in rows:
        known[row["id"]] = (*known.get(row["id"], ()), Effect(**{name: row[name] for name in names}))
    return known
