"""Whose network a file holds, by names and shapes of its tensors, settings in it and its name, before anything runs.

A DiT and a SiT have the same tensors, and so do their trainers' files but for the settings that are stored beside the
weights. Where neither these nor the name of the file tell them apart, nothing here does: `Recognised` then names both,
and whoever asks for the network says which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dit_eval.models.layouts import PROJECTORS
from dit_eval.models.names import LIGHTNING_FAMILY, LIGHTNING_SIZES, PAPER_FAMILY, SIT_FAMILY
from dit_eval.system.text import shown

Shapes = Mapping[str, tuple[int, ...]]
Program = Literal["DiT", "SiT", "REPA", "LightningDiT"]
_EMBEDDER, _LABELS = "x_embedder.proj.weight", "y_embedder.embedding_table.weight"
_SETTINGS = ("args", "config")  # where these trainers keep what they were asked for
_PATHS = {"linear": "linear", "gvp": "gvp", "vp": "vp", "cosine": "gvp"}  # SiT's words, and REPA's
_PREDICTIONS = {"velocity": "velocity", "score": "score", "noise": "noise", "v": "velocity"}
_PARTS = {"qk_norm": "norms of queries and keys", "rms_norm": "RMSNorm", "swiglu": "SwiGLU", "rope": "rotations"}


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A network that is not run here.

    Attributes
    ----------
    name : of the network and whose code it is of
    parts : of the names of its tensors, all of them there
    why : it is not run
    """

    name: str
    parts: frozenset[str]
    why: str


# By the tensors of the released modules; tests/goldens/make_later_goldens.py lists those that were built.
FOREIGN = (
    Foreign(
        name="MaskDiT (Anima-Lab/MaskDiT)",
        parts=frozenset({"decoder_layer", "decoder_blocks"}),
        why="it has a decoder of its own, and EDM's preconditioning and sampler",
    ),
    Foreign(
        name="MDT (sail-sg/MDT)",
        parts=frozenset({"sideblocks", "x_embedder"}),
        why="its blocks have side blocks, long skips and relative positions",
    ),
    Foreign(
        name="U-ViT (baofff/U-ViT)",
        parts=frozenset({"in_blocks", "mid_block", "out_blocks"}),
        why="its blocks have long skips, and time and label are tokens",
    ),
    Foreign(
        name="JiT (LTH14/JiT)",
        parts=frozenset({"proj1", "proj2", "x_embedder"}),
        why="it predicts clean pixels and has tokens of the class",
    ),
    Foreign(
        name="MMDiT (Stable Diffusion 3, REPA's of text)",
        parts=frozenset({"joint_blocks"}),
        why="it draws from text",
    ),
    Foreign(
        name="a U-Net (ADM's or latent diffusion's)",
        parts=frozenset({"input_blocks", "middle_block", "output_blocks"}),
        why="here its multiply-adds are counted alone",
    ),
)
_FIT = "FiT (whlzy/FiT)", "it takes images of any shape as sequences of tokens, with rotations of its own"
_MASKDIT_PLAIN = "MaskDiT (Anima-Lab/MaskDiT)", "it has EDM's preconditioning and sampler, and no label of its own"


def foreign(shapes: Shapes) -> str | None:
    """What a network is that is not run here, and why, in words; None if it is none of the known ones."""
    parts = {part for name in shapes for part in name.split(".")}
    for each in FOREIGN:
        if each.parts <= parts:
            return _is_foreign(each.name, each.why)
    embedder, labels = _ending(shapes, _EMBEDDER), _ending(shapes, _LABELS)
    if embedder is not None and len(embedder) == 2:
        return _is_foreign(*_FIT)
    # Its label table is a linear map of one-hot labels, and so lies on its side.
    if embedder and labels and len(labels) == 2 and labels[0] == embedder[0] != labels[1]:
        return _is_foreign(*_MASKDIT_PLAIN)
    if PROJECTORS in parts and "x_embedder" not in parts:
        return "it holds projectors of REPA alone, without the network. Take the trainer's file as it is"
    return None


def _is_foreign(name: str, why: str) -> str:
    return f"this is {name}, which dit-eval does not run: {why}. Draw by its own code, and score the images"


def _ending(shapes: Shapes, name: str) -> tuple[int, ...] | None:
    return next((shape for key, shape in shapes.items() if key == name or key.endswith(f".{name}")), None)


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A network of the DiT family, by its tensors under their released names.

    Attributes
    ----------
    sizes : such as "XL/1"; None if no published network has its depth and width
    parts : fields of a `LightningConfig` that are not a plain DiT's, and their values
    channels : C
    learn_sigma : whether the output has 2 C channels
    """

    sizes: str | None
    parts: dict[str, bool]
    channels: int
    learn_sigma: bool

    @property
    def is_lightning(self) -> bool:
        """Whether only LightningDiT's module has all of its parts."""
        return bool(self.parts.keys() - {"qk_norm"})

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what it may be; empty if no published network has its depth and width."""
        if self.sizes is None:
            return ()
        if self.is_lightning:
            return (f"{LIGHTNING_FAMILY}-{self.sizes}",)
        plain = self.learn_sigma and not self.parts
        return tuple(f"{family}-{self.sizes}" for family in ((PAPER_FAMILY, SIT_FAMILY) if plain else (SIT_FAMILY,)))

    @property
    def words(self) -> str:
        """What it is, such as "a LightningDiT-XL/1 (RMSNorm, SwiGLU, rotations)"."""
        if len(self.names) > 1:
            return f"a {' or a '.join(self.names)}, whose tensors are the same"
        notes = [word for part, word in _PARTS.items() if self.parts.get(part)]
        notes += ["no shift"] if "shift" in self.parts else []
        notes += [] if self.learn_sigma or self.is_lightning else ["without a variance"]
        name = self.names[0] if self.names else LIGHTNING_FAMILY if self.is_lightning else "DiT of no published size"
        return f"a {name}" + (f" ({', '.join(notes)})" if notes else "")


def recognised(shapes: Shapes) -> Recognised | None:
    """The network of a state dict by its released names; None if it has no patch embedding, blocks or output."""
    embedder, output = shapes.get(_EMBEDDER, ()), shapes.get("final_layer.linear.weight", ())
    blocks = {int(block[1]) for name in shapes if (block := re.match(r"blocks\.(\d{1,4})\.", name))}
    if len(embedder) != 4 or len(output) != 2 or not blocks or 0 in embedder:
        return None
    dim, channels, patch, _ = embedder
    depth = 1 + max(blocks)
    parts = {
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "rms_norm": "final_layer.norm_final.weight" in shapes and "final_layer.norm_final.bias" not in shapes,
        "swiglu": "blocks.0.mlp.w12.weight" in shapes,
        "rope": "feat_rope.freqs_cos" in shapes,
    }
    found = {name: True for name, there in parts.items() if there}
    # A plain adaLN block has four vectors as well: two shifts and two scales.
    if found.keys() - {"qk_norm"} and shapes.get("blocks.0.adaLN_modulation.1.weight", ())[:1] == (4 * dim,):
        found["shift"] = False
    sizes = {(layers, width): size for size, (layers, width, _) in LIGHTNING_SIZES.items()}
    size = sizes.get((depth, dim))
    return Recognised(
        sizes=None if size is None else f"{size}/{patch}",
        parts=found,
        channels=channels,
        learn_sigma=output[0] == 2 * channels * patch**2,
    )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Whose program trained weights, as far as a file says it.

    Attributes
    ----------
    program : "DiT", whose networks predict DDPM's noise, or one of flows
    said_by : what of the file says so, in words
    settings : of a flow, what the network is told and predicts: `path`, `prediction` and `time`, those that are known
    """

    program: Program
    said_by: str
    settings: dict[str, str]

    @property
    def is_flow(self) -> bool:
        return self.program != PAPER_FAMILY

    @property
    def family(self) -> str:
        """As names of models have it; REPA trains SiTs."""
        return SIT_FAMILY if self.program == "REPA" else self.program


_TIMES = {"SiT": "sit", "REPA": "repa", "LightningDiT": "sit"}


def origin(state: Mapping[Any, object], names: Iterable[str], found: Recognised | None, path: Path) -> Origin | None:
    """Whose program trained the weights in a file; None if nothing says it.

    The settings that trainers store go first, then tensors that one program alone has, then the name that a published
    file has.

    Parameters
    ----------
    state : all that is in the file
    names : of the network's tensors, projectors included
    found : what the tensors are
    """
    has_projectors = any(name.startswith(f"{PROJECTORS}.") for name in names)
    for key in _SETTINGS:
        settings = state.get(key)
        values = settings if isinstance(settings, Mapping) else getattr(settings, "__dict__", {})
        said = _by_settings(values, f"the {key} that its trainer stored", has_projectors)
        if said is not None:
            return said
    if has_projectors:
        return _flow("REPA", "its projectors", {"prediction": "velocity"})
    if found is not None and found.is_lightning:
        return _flow("LightningDiT", "its tensors", {"path": "linear", "prediction": "velocity"})
    published = re.match(r"(DiT|SiT)-(S|B|L|XL)-\d", path.name)
    if published is None:
        return None
    if published[1] == PAPER_FAMILY:
        return Origin(program="DiT", said_by="its name", settings={})
    return _flow("SiT", "its name", {"path": "linear", "prediction": "velocity"})


def _by_settings(values: Mapping[Any, object], said_by: str, has_projectors: bool) -> Origin | None:
    """What the settings of SiT's, REPA's, DiT's, fast-DiT's or LightningDiT's trainer say."""
    transport, model = values.get("transport"), values.get("model")
    if isinstance(transport, Mapping) and isinstance(model, Mapping):
        return _flow("LightningDiT", said_by, _words(transport))
    if "path_type" in values and "prediction" in values:
        is_repa = has_projectors or "proj_coeff" in values or values["prediction"] == "v"
        return _flow("REPA" if is_repa else "SiT", said_by, _words(values))
    if isinstance(model, str) and model.startswith(f"{PAPER_FAMILY}-"):
        return Origin(program="DiT", said_by=f"{said_by} ({shown(model[:20])})", settings={})
    return None


def _words(values: Mapping[Any, object]) -> dict[str, str]:
    """Path and prediction in our words, where they are known ones."""
    known = (("path", "path_type", _PATHS), ("prediction", "prediction", _PREDICTIONS))
    said = {name: (words, values.get(key)) for name, key, words in known}
    return {
        name: words[value.lower()]
        for name, (words, value) in said.items()
        if isinstance(value, str) and value.lower() in words
    }


def _flow(program: Program, said_by: str, settings: dict[str, str]) -> Origin:
    return Origin(program=program, said_by=said_by, settings={"time": _TIMES[program], **settings})
