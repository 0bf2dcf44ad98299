"""Make ``flow.npz`` and ``flow.json``: what SiT's and REPA's samplers do with seeded weights and given noise.

    python tests/goldens/make_flow_goldens.py PATH/TO/SiT PATH/TO/REPA

The paths are checkouts at the commits below; their modules and samplers are imported unchanged, and seen through the
network alone: what they ask it is kept, and how often. Needed: torch, timm, torchdiffeq, tqdm. See README.md.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parents[1])]

from dit_goldens import seeded_state
from flow_goldens import CASES, LABELS, MODEL, STEPS, flow_noise

from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT

SOURCES = {
    "SiT": ("https://github.com/willisma/SiT", "947f95bd3a510e9af441d38c1e9f72e0eee873c5",
            ("models.py", "transport/*.py"), "3445f460a15cf46535770911dca877526069ad24571374fd58881be2b4e15013"),
    "REPA": ("https://github.com/sihyun-yu/REPA", "67f714503e3892f993844aab088ffc5791c92613",
             ("models/sit.py", "samplers.py"), "f7f4e7170b6b0e3f3c837be525b4cca31792a672f1879cd94645ae1d4d3a2226"),
}  # fmt: skip
SITS_WORDS = {"sbdm": "SBDM", "increasing-decreasing": "inccreasing-decreasing"}


class Seen:
    """A network, what it was asked for image 0, and how often."""

    def __init__(self, network: Callable[..., Any]) -> None:
        self._network, self.asked = network, []

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **keywords: Any) -> Any:
        self.asked.append(x[0].numpy().copy())
        return self._network(x, t, **keywords)


@contextmanager
def given_noise(twice: bool) -> Iterator[None]:
    """Let the samplers draw our noise."""
    drawn, drawn_like, draws = torch.randn, torch.randn_like, iter(flow_noise()[1:])
    torch.randn = lambda *_: torch.cat([half := next(draws), half]) if twice else next(draws)
    torch.randn_like = lambda x: next(draws).to(x.dtype)
    try:
        yield
    finally:
        torch.randn, torch.randn_like = drawn, drawn_like


def sits(model: Any, transport: Any, settings: dict[str, Any]) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """The last state (2, 4, 4, 4), what image 0 was asked at, and the calls; of dopri5 for each image alone."""
    kind, method = settings["sampler"].split("-")
    path = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}[settings.get("path", "linear")]
    sampler = transport.Sampler(transport.create_transport(path, settings.get("prediction", "velocity")))
    if kind == "ode":
        words = {"euler": "euler", "heun": "heun2", "dopri5": "dopri5"}
        run = sampler.sample_ode(sampling_method=words[method], num_steps=STEPS, rtol=settings.get("rtol", 1e-3))
    else:
        form, last = settings.get("diffusion_form", "sigma"), settings.get("last_step", "mean")
        run = sampler.sample_sde(
            sampling_method=method.capitalize(),
            diffusion_form=SITS_WORDS.get(form, form),
            diffusion_norm=settings.get("diffusion_norm", 1.0),
            last_step=None if last == "none" else last.capitalize(),
            last_step_size=settings.get("last_step_size", 0.04),
            num_steps=STEPS,
        )
    scale, start = settings.get("cfg_scale", 1.0), flow_noise()[0]
    rows = [[0], [1]] if method == "dopri5" else [[0, 1]]
    found, asked, calls = [], [], []
    for these in rows:
        x, y = start[these], LABELS[these]
        seen = Seen(model.forward if scale == 1.0 else model.forward_with_cfg)
        keywords: dict[str, Any] = {"y": y}
        if scale != 1.0:
            x, keywords = torch.cat([x, x]), {"y": torch.cat([y, torch.full_like(y, 1000)]), "cfg_scale": scale}
        with given_noise(twice=scale != 1.0):
            found.append(run(x, seen, **keywords)[-1][: len(these)])
        asked, calls = asked or seen.asked, [*calls, len(seen.asked)]
    return torch.cat(found).numpy(), asked, calls


def repas(model: Any, samplers: Any, settings: dict[str, Any]) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    seen = Seen(model)
    run = samplers.euler_sampler if settings["sampler"].startswith("ode") else samplers.euler_maruyama_sampler
    low, high = settings.get("guidance_interval", (0.0, 1.0))
    with given_noise(twice=False):
        found = run(
            seen,
            flow_noise()[0],
            LABELS,
            num_steps=STEPS,
            heun=settings["sampler"].endswith("heun"),
            cfg_scale=settings.get("cfg_scale", 1.0),
            guidance_low=low,
            guidance_high=high,
            path_type={"linear": "linear", "gvp": "cosine"}[settings.get("path", "linear")],
        )
    return found.float().numpy(), seen.asked, [len(seen.asked)]


def checked(source: tuple[str, str, tuple[str, ...], str], path: Path) -> str:
    """The SHA-256 of the files that are run, which has to be the known one."""
    _, commit, patterns, known = source
    files = sorted(file for pattern in patterns for file in path.glob(pattern))
    found = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    if found != known:
        sys.exit(f"{path}: its files have SHA-256 {found}; expected {known}, commit {commit}.")
    return found


def loaded(path: Path, *names: str) -> list[Any]:
    """Modules of a checkout; both have one that is called models."""
    sys.path.insert(0, str(path.resolve()))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.pop(0)
        for name in [each for each in sys.modules if each.split(".")[0] == "models"]:
            del sys.modules[name]


def weights(*, learn_sigma: bool) -> dict[str, torch.Tensor]:
    return seeded_state(DiT(DiTConfig(**MODEL, learn_sigma=learn_sigma)).state_dict())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sit", type=Path)
    parser.add_argument("repa", type=Path)
    paths = parser.parse_args()
    made_of = {name: checked(SOURCES[name], path) for name, path in (("SiT", paths.sit), ("REPA", paths.repa))}
    models, transport = loaded(paths.sit, "models", "transport")
    sit_model = models.SiT(**MODEL, learn_sigma=True).eval()
    sit_model.load_state_dict(weights(learn_sigma=True))
    theirs, samplers = loaded(paths.repa, "models.sit", "samplers")
    extra = {"decoder_hidden_size": 32, "encoder_depth": 1, "z_dims": [8], "projector_dim": 8, "qk_norm": False}
    repa_model = theirs.SiT(**MODEL, **extra).eval()
    left = repa_model.load_state_dict(weights(learn_sigma=False), strict=False)
    if left.unexpected_keys or any(not key.startswith("projectors.") for key in left.missing_keys):
        sys.exit(f"REPA's module has other tensors: {left}")

    outputs, calls = {}, {}
    for name, settings in CASES.items():
        with torch.no_grad():
            made = sits(sit_model, transport, settings) if settings["time"] == "sit" else None
            last, asked, calls[name] = made or repas(repa_model, samplers, settings)
        # SiT's SDE asks twice at each place, for the velocity and for the score.
        places = [x for x, before in zip(asked, [None, *asked], strict=False) if not np.array_equal(x, before)]
        outputs[f"{name}/last"], outputs[f"{name}/asked"] = last, np.stack(places)
        sys.stdout.write(f"{name}: {calls[name]} calls, largest {np.abs(last).max():.3f}\n")
    np.savez_compressed(HERE / "flow.npz", **outputs)
    made_with = {
        "sources": {
            name: {"repository": repository, "commit": commit, "files": files, "sha256": made_of[name]}
            for name, (repository, commit, files, _) in SOURCES.items()
        },
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy", "torchdiffeq")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "steps": STEPS,
        "calls": calls,
    }
    (HERE / "flow.json").write_text(json.dumps(made_with, indent=2) + "\n")


if __name__ == "__main__":
    main()
