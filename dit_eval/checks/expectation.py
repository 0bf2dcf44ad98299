"""Published results, with the settings that they were made with: what `diagnose` compares with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dit_eval.system.text import did_you_mean

PUBLISHED_SAMPLES = 50_000  # of the published protocol


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """A published number and the setting it was made with; what its source does not say is not in `setting`.

    Attributes
    ----------
    name, source : what it is called here, where it is printed
    setting : field of `SampleRun` -> value
    metrics : metric -> published value
    num_samples : images it was computed from; None: 50,000, unless the reference is of another network than Inception
    """

    name: str
    source: str
    setting: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    num_samples: int | None = None


def expectations() -> dict[str, Expectation]:
    """The paper's results with DiT-XL/2, with their settings (Tables 2 and 3 and the text around them)."""
    from dit_eval.paper import PRINTED_METRICS, load_table

    known = {}
    for table, size in ((2, 256), (3, 512)):
        for row in load_table(table).itertuples():
            if not str(row.model).startswith("DiT-XL/2"):
                continue
            scale = float(str(row.model).rpartition("=")[2].rstrip(")")) if "=" in str(row.model) else 1.0
            name = f"dit-xl-2{'' if size == 256 else '-512'}{'' if scale == 1.0 else f'-cfg{scale:g}'}"
            guided = {"cfg_channels": 3} if scale != 1.0 else {}
            known[name] = Expectation(
                name=name,
                source=str(row.source),
                setting={
                    **{"model": "DiT-XL/2", "image_size": size, "cfg_scale": scale, **guided},
                    **{"num_sampling_steps": "250", "sampler": "ddpm", "vae": "ema", "weights": "ema"},
                    **{"labels": "random", "rounding": "dit", "vae_tiling": False},
                    **{"guidance_interval": None, "guide_ckpt": None},
                },
                metrics={metric: float(getattr(row, metric)) for metric in PRINTED_METRICS},
                num_samples=PUBLISHED_SAMPLES,
            )
    return known


def expectation(name: str) -> Expectation:
    """The published result of that name.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    """
    known = expectations()
    if name not in known:
        raise ValueError(
            f"No published result called {name!r}; known: {', '.join(known)}. Or pass --expect-fid X."
            f"{did_you_mean(name, known)}"
        )
    return known[name]
