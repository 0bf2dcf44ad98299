"""Make ``flow_training.json``: the losses of training steps of SiT's and REPA's trainers, with given draws.

    python tests/goldens/make_flow_training_goldens.py PATH/TO/SiT PATH/TO/REPA

The paths are checkouts at the commits below, whose modules and losses are imported unchanged; the step is that of both
their ``train.py``, of which only AdamW is in question. Needed: torch, timm, torchdiffeq. See README.md.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parents[1])]

from dit_goldens import seeded_state
from flow_training_goldens import MODEL, REPA, SIT, flow_batches, name_of
from make_flow_goldens import checked, loaded

SOURCES = {
    "SiT": ("https://github.com/willisma/SiT", "947f95bd3a510e9af441d38c1e9f72e0eee873c5",
            ("models.py", "transport/*.py"), "3445f460a15cf46535770911dca877526069ad24571374fd58881be2b4e15013"),
    "REPA": ("https://github.com/sihyun-yu/REPA", "67f714503e3892f993844aab088ffc5791c92613",
             ("models/sit.py", "loss.py"), "c3474f54c75baa38beb6069f15977a9a9b8e6b2be2e00e137525fbec6f5e1e5f"),
}  # fmt: skip
Batch = dict[str, torch.Tensor]


@contextmanager
def given_draws(batch: Batch) -> Iterator[None]:
    """Let a trainer draw what the batch has."""
    kept = torch.rand, torch.randn, torch.randn_like
    torch.rand = lambda shape: batch["uniform"].view(shape)
    torch.randn = lambda shape: batch["normal"].view(shape)
    torch.randn_like = lambda x: batch["noise"]
    try:
        yield
    finally:
        torch.rand, torch.randn, torch.randn_like = kept


def steps(model: Any, loss_of: Callable[[Any, Batch], torch.Tensor]) -> list[float]:
    """The loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    losses = []
    for batch in flow_batches():
        with given_draws(batch):
            loss = loss_of(model, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def sits(models: Any, transport: Any, case: dict[str, str]) -> list[float]:
    model = models.SiT(
        **MODEL, learn_sigma=True
    ).eval()  # training mode would drop labels; the batches have dropped some
    model.load_state_dict(seeded_state(model.state_dict()))
    path = {"linear": "Linear", "gvp": "GVP", "vp": "VP"}[case["path"]]
    weight = None if case["loss_weight"] == "none" else case["loss_weight"]
    made = transport.create_transport(path, case["prediction"], weight)
    return steps(model, lambda model, batch: made.training_losses(model, batch["x0"], {"y": batch["labels"]})["loss"])


def repas(theirs: Any, losses: Any, case: dict[str, str]) -> list[float]:
    extra = {"decoder_hidden_size": 16, "encoder_depth": 1, "z_dims": [8], "projector_dim": 8, "qk_norm": False}
    model = theirs.SiT(**MODEL, **extra).eval()
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("projectors.")}
    model.load_state_dict(seeded_state(own), strict=False)
    made = losses.SILoss(
        path_type={"linear": "linear", "gvp": "cosine"}[case["path"]],
        weighting={"uniform": "uniform", "logit-normal": "lognormal"}[case["time_sampling"]],
    )
    zs = [torch.zeros(8, 4, 8)]  # of the encoder, for the projection loss, which is left out
    return steps(model, lambda model, batch: made(model, batch["x0"], {"y": batch["labels"]}, zs)[0])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sit", type=Path)
    parser.add_argument("repa", type=Path)
    paths = parser.parse_args()
    made_of = {name: checked(SOURCES[name], path) for name, path in (("SiT", paths.sit), ("REPA", paths.repa))}
    models, transport = loaded(paths.sit, "models", "transport")
    theirs, losses = loaded(paths.repa, "models.sit", "loss")
    found = {name_of(case): sits(models, transport, case) for case in SIT}
    found |= {name_of(case): repas(theirs, losses, case) for case in REPA}
    made_with = {
        "sources": {
            name: {"repository": repository, "commit": commit, "files": files, "sha256": made_of[name]}
            for name, (repository, commit, files, _) in SOURCES.items()
        },
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "timm", "numpy")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "losses": found,
    }
    (HERE / "flow_training.json").write_text(json.dumps(made_with, indent=2) + "\n")


if __name__ == "__main__":
    main()
