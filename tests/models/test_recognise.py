"""Checkpoints of SiT, REPA, fast-DiT and LightningDiT: they load as theirs, and none is run as another's."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from later_goldens import CASES, LARGE, later_inputs, weights
from safetensors.torch import save_file

from dit_eval.diffusion.load import choose_and_check, load_sampler
from dit_eval.diffusion.origin import check_answer
from dit_eval.models import find_model
from dit_eval.models.checkpoints import build_dit, labelled_config, load_dit, open_checkpoint, stored_config
from dit_eval.models.choose import choose_model
from dit_eval.models.dit import DiT as SiT
from dit_eval.models.lightning import LightningConfig, network, network_config
from dit_eval.models.names import LIGHTNING_SIZES, SIZES
from dit_eval.models.recognise import foreign, recognised
from dit_eval.results.settings import SamplingSettings
from dit_eval.system.assets import asset

GOLDENS = Path(__file__).parents[1] / "goldens"
MADE = json.loads((GOLDENS / "later.json").read_text())


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch, tmp_path):
    """The published sizes B and L, with the layers and width of the goldens, and no networks in the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    for sizes in (SIZES, LIGHTNING_SIZES):
        monkeypatch.setitem(sizes, "B", (2, 64, 4))
        monkeypatch.setitem(sizes, "L", (3, 64, 4))


def state_of(case):
    return weights(network(network_config(CASES[case][1])).state_dict())


def projectors():
    shapes = {"0": (8, 64), "2": (8, 8), "4": (8, 8)}
    made = {f"projectors.0.{i}.weight": torch.ones(shape) for i, shape in shapes.items()}
    return made | {f"projectors.0.{i}.bias": torch.ones(8) for i in shapes}


def zeros(state):
    return {name: torch.zeros_like(value) for name, value in state.items()}


def trained(state, **more):
    """As SiT's, REPA's, fast-DiT's and LightningDiT's trainers write it."""
    return {"model": zeros(state), "ema": state, "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]}, **more}


def arguments(**values):
    return argparse.Namespace(num_classes=10, image_size=64, **values)


def legacy(state):
    """As REPA's first files: the blocks behind the projectors are counted anew."""
    return {name.replace("blocks.1.", "decoder_blocks.0."): value for name, value in state.items()} | projectors()


SITS = arguments(model="SiT-B/2", path_type="Linear", prediction="velocity", loss_weight=None)
REPAS = arguments(model="SiT-B/2", path_type="linear", prediction="v", proj_coeff=0.5)
LIGHTNINGS = {
    "model": {"model_type": "LightningDiT-B/1", "use_rope": True},
    "transport": {"path_type": "Linear", "prediction": "velocity"},
}
# What is in the file, its network among the goldens, its name there, and what is known of who trained it.
LAYOUTS = {
    "SiT, published": ("SiT-XL-2-256x256.pt", lambda s: s, "SiT", "SiT-B/2", "SiT", "its name"),
    "SiT, trained": ("0400000.pt", lambda s: trained(s, args=SITS), "SiT", "SiT-B/2", "SiT", "the args"),
    "SiT, renamed": ("x.pt", lambda s: s, "SiT", "SiT-B/2", None, None),
    "REPA": ("last.pt", lambda s: s | projectors(), "REPA", "SiT-B/2", "REPA", "its projectors"),
    "REPA, trained, qk-norm": (
        "0050000.pt", lambda s: trained(s | projectors(), args=REPAS, steps=50_000), "REPA, qk-norm", "SiT-B/2",
        "REPA", "the args",
    ),
    "REPA, without projectors": ("x.pt", lambda s: s, "REPA, qk-norm", "SiT-B/2", None, None),
    "REPA, legacy": ("x.pt", legacy, "REPA", "SiT-B/2", "REPA", "its projectors"),
    "fast-DiT, trained": (
        "x.pt", lambda s: trained(s, args=arguments(model="DiT-B/2", feature_path="f")), "fast-DiT", "DiT-B/2", "DiT",
        "the args that its trainer stored (DiT-B/2)",
    ),
    "DiT, published": ("DiT-XL-2-256x256.pt", lambda s: s, "fast-DiT", "DiT-B/2", "DiT", "its name"),
    "LightningDiT, published": (
        "lightningdit-xl-imagenet256-800ep.pt", lambda s: {"ema": s}, "LightningDiT", "LightningDiT-B/1",
        "LightningDiT", "its tensors",
    ),
    "LightningDiT, trained": (
        "x.pt", lambda s: trained({f"module.{k}": v for k, v in s.items()}, config=LIGHTNINGS), "LightningDiT, qk-norm",
        "LightningDiT-B/1", "LightningDiT", "the config",
    ),
    "LightningDiT, no shift": ("x.safetensors", lambda s: s, "LightningDiT, no shift", "LightningDiT-B/1",
                               "LightningDiT", "its tensors"),
}  # fmt: skip


def saved(name, made):
    save_file(made, name) if name.endswith(".safetensors") else torch.save(made, name)
    return name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_and_equals_the_released_module(layout):
    file, make, case, name, program, said_by = LAYOUTS[layout]
    path = saved(file, make(state_of(case)))
    config, notes = CASES[case][1], []
    size = config["input_size"] * (16 if config["patch_size"] == 1 else 8)
    choice = choose_model(name, path, image_size=size, num_classes=10)
    checkpoint, found = choice.open(num_classes=10, on_note=notes.append)
    assert (checkpoint.origin and checkpoint.origin.program) == program
    assert program is None or checkpoint.origin.said_by.startswith(said_by)
    assert found == network_config({**config, **({"latent_factor": 16} if config["patch_size"] == 1 else {})})
    with torch.inference_mode():
        out = build_dit(checkpoint, found)(*later_inputs(config)).numpy()
    with np.load(GOLDENS / "later.npz") as goldens:
        expected = goldens[case]
    assert np.abs(out[:, : expected.shape[1]] - expected).max() < 1e-5 * np.abs(expected).max()
    assert ("left out the projectors of REPA (6 tensors)" in "".join(notes)) == (program == "REPA")


def test_of_one_class():
    state = state_of("REPA") | projectors()
    state["y_embedder.embedding_table.weight"] = state["y_embedder.embedding_table.weight"][:2]
    torch.save(state, "last.pt")
    choice = choose_model("SiT-B/2", "last.pt", image_size=64, num_classes=1)
    _, config = choice.open(num_classes=1)
    assert (config.num_classes, config.label_dropout > 0) == (1, True)
    with pytest.raises(ValueError, match="its label table has 2 rows"):
        choose_model("SiT-B/2", "last.pt", image_size=64).open()


def test_sd_vaes_latents_of_lightningdit():
    config = CASES["LightningDiT"][1] | {"in_channels": 4, "patch_size": 2, "input_size": 8}
    torch.save(weights(network(network_config(config)).state_dict()), "x.pt")
    _, found = choose_model("LightningDiT-B/2", "x.pt", image_size=64).open(num_classes=10)
    assert (found.in_channels, found.input_size, found.image_size, found.latent_factor) == (4, 8, 64, 8)


# ---- names by tensors alone


def shapes_of(config):
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in network(config).state_dict().items()}


@pytest.mark.parametrize("name", [name for name in LARGE if not name.startswith("REPA")])
def test_published_networks_are_named_by_their_tensors(name, monkeypatch):
    monkeypatch.undo()
    found = recognised(shapes_of(find_model(name).config()))
    assert name in found.names
    assert foreign(shapes_of(find_model(name).config())) is None
    plain = "DiT-XL/2 or a SiT-XL/2, whose tensors are the same"
    assert found.words == f"a {plain if name == 'SiT-XL/2' else f'{name} (RMSNorm, SwiGLU, rotations)'}"


def test_parts_are_named(monkeypatch):
    monkeypatch.undo()
    config = {"depth": 28, "hidden_size": 1152, "num_heads": 16, "patch_size": 2}
    words = {
        "a SiT-XL/2 (norms of queries and keys, without a variance)": {"qk_norm": True, "learn_sigma": False},
        "a LightningDiT-XL/2 (RMSNorm, no shift)": {"rms_norm": True, "shift": False},
        "a SiT-XL/2 (without a variance)": {"learn_sigma": False},
        "a LightningDiT (rotations)": {"rope": True, "depth": 5},
        "a DiT of no published size": {"depth": 5},
    }
    for said, fields in words.items():
        assert recognised(shapes_of(LightningConfig(**config | fields))).words == said
    assert recognised({"x_embedder.proj.weight": (3,)}) is None


FOREIGN = {
    "MaskDiT": "this is MaskDiT (Anima-Lab/MaskDiT), which dit-eval does not run: it has a decoder",
    "MaskDiT without its decoder": "this is MaskDiT (Anima-Lab/MaskDiT), which dit-eval does not run: it has EDM's",
    "MDTv2": "this is MDT (sail-sg/MDT)",
    "U-ViT": "this is U-ViT (baofff/U-ViT)",
    "FiT": "this is FiT (whlzy/FiT)",
    "FiT, SwiGLU and LoRA": "this is FiT (whlzy/FiT)",
}


@pytest.mark.parametrize("name", MADE["foreign"])
def test_networks_that_are_not_run_are_named(name):
    said = foreign({key: tuple(shape) for key, shape in MADE["foreign"][name].items()})
    assert said.startswith(FOREIGN[name])
    assert said.endswith("Draw by its own code, and score the images")


@pytest.mark.parametrize("name", ["MDTv2", "U-ViT", "FiT"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_so_are_files_of_them(name, wrapped):
    state = {key: torch.zeros(shape) for key, shape in MADE["foreign"][name].items()}
    torch.save({"ema": state, "model": state, "args": arguments(model="DiT-B/2")} if wrapped else state, "x.pt")
    for call in (lambda: open_checkpoint("x.pt"), lambda: choose_model(None, "x.pt")):
        with pytest.raises(ValueError, match=re.escape(f"x.pt: {FOREIGN[name]}")):
            call()


# ---- mistakes


def without(state, part):
    return {name: value for name, value in state.items() if part not in name}


ODE = {"sampler": "ode-euler"}
REPA_ODE = ODE | {"time": "repa"}
MISTAKES = {
    "velocity for noise, by the arguments": (
        lambda s: trained(s("SiT"), args=SITS), "SiT-B/2", {"sampler": "ddim"},
        "SiT-B/2, x.pt: predicts the velocity of a flow; the settings take it for one that predicts DDPM's noise. "
        "Pass `sampler` sde-euler.",
    ),
    "a SiT as a DiT": (
        lambda s: trained(s("SiT"), args=SITS), "DiT-B/2", ODE,
        "x.pt: trained by SiT's program, by the args that its trainer stored; asked for DiT-B/2. Pass `model` SiT-B/2.",
    ),
    "a DiT as a SiT": (
        lambda s: trained(s("SiT"), args=arguments(model="DiT-B/2")), "SiT-B/2", ODE,
        "x.pt: trained by DiT's program, by the args that its trainer stored (DiT-B/2); asked for SiT-B/2. Pass "
        "`model` DiT-B/2.",
    ),
    "noise for velocity": (
        lambda s: trained(s("SiT"), args=arguments(model="DiT-B/2")), "DiT-B/2", ODE,
        "x.pt: trained by DiT's program, by the args that its trainer stored (DiT-B/2); the settings take it for one "
        "that predicts a velocity at a flow's times. Pass `sampler` ddpm, or one of flows with `time` ddpm.",
    ),
    "REPA's time": (
        lambda s: s("REPA") | projectors(), "SiT-B/2", ODE,
        "x.pt: trained by REPA's program, by its projectors, with `time` repa; asked for sit. Pass `time` repa.",
    ),
    "another path": (
        lambda s: trained(s("SiT"), args=arguments(path_type="GVP", prediction="score")), "SiT-B/2", ODE,
        "x.pt: trained by SiT's program, by the args that its trainer stored, with `path` gvp; asked for linear. Pass "
        "`path` gvp.",
    ),
    "LightningDiT as a SiT": (
        lambda s: {"ema": s("LightningDiT")}, "SiT-B/2", ODE,
        "x.pt: this is a LightningDiT-B/1 (RMSNorm, SwiGLU, rotations); asked for SiT-B/2. Pass `model` "
        "LightningDiT-B/1.",
    ),
    "qk-norm as a DiT": (
        lambda s: s("REPA, qk-norm"), "DiT-B/2", {},
        "x.pt: this is a SiT-B/2 (norms of queries and keys, without a variance); asked for DiT-B/2. Pass `model`",
    ),
    "a norm missing": (
        lambda s: without(s("REPA, qk-norm"), "blocks.1.attn.k_norm"), "SiT-B/2", REPA_ODE,
        "x.pt: not a checkpoint of the model asked for (missing blocks.1.attn.k_norm.bias and 1 more).",
    ),
    "another size": (
        lambda s: s("SiT"), "SiT-L/2", ODE,
        "x.pt: this is a DiT-B/2 or a SiT-B/2, whose tensors are the same; the model asked for has depth 3",
    ),
    "another patch": (
        lambda s: s("LightningDiT"), "LightningDiT-B/2", ODE | {"image_size": 128},
        "x.pt: this is a LightningDiT-B/1 (RMSNorm, SwiGLU, rotations); the model asked for has depth 2, hidden size "
        "64, patch size 2",
    ),
    "projectors alone": (
        lambda s: {"ema": projectors()}, "SiT-B/2", REPA_ODE,
        "x.pt: it holds projectors of REPA alone, without the network. Take the trainer's file as it is.",
    ),
    "classes": (
        lambda s: s("SiT"), "SiT-B/2", ODE | {"num_classes": 12},
        "its label table has 11 rows, and 12 classes have 12 or 13",
    ),
    "no name": (
        lambda s: {"ema": s("LightningDiT")}, None, ODE,
        "x.pt: does not say which model it is of; pass `model`, such as `model` LightningDiT-B/1; by its tensors it is "
        "a LightningDiT-B/1 (RMSNorm, SwiGLU, rotations).",
    ),
    "no name, trained": (
        lambda s: trained(s("SiT"), args=SITS), None, ODE, "pass `model`, such as `model` SiT-B/2; by its tensors it is"
    ),
    "no such size": (lambda s: s("SiT"), "SiT-XL2", ODE, "Unknown model 'SiT-XL2'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_nothing_is_run_as_what_it_is_not(mistake):
    make, model, settings, said = MISTAKES[mistake]
    torch.save(make(state_of), "x.pt")
    size = 128 if "LightningDiT" in (model or "") else 64
    asked = SamplingSettings(**{"image_size": size, "num_images": 1, "num_classes": 10, **settings})
    with pytest.raises(ValueError) as error:
        load_sampler(choose_and_check(model, "x.pt", asked, device="cpu"), asked, device="cpu", quiet=True)
    assert said in str(error.value)


def test_a_file_that_was_cut_off_is_damaged():
    torch.save(state_of("SiT"), "x.pt")
    Path("x.pt").write_bytes(Path("x.pt").read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"x.pt: not a PyTorch or safetensors checkpoint"):
        open_checkpoint("x.pt")


def test_a_name_that_tells_is_that_of_the_published_file():
    state = state_of("SiT")
    for name, program in {"SiT-XL-2-256.pt": "SiT", "my-SiT.pt": None, "DiT-XL-2-512x512.pt": "DiT"}.items():
        origin = open_checkpoint(saved(name, state)).origin
        assert (origin and origin.program) == program


def test_other_settings_beside_the_weights_say_nothing():
    torch.save(trained(state_of("SiT"), args=arguments(model=3), config={"transport": 1}), "x.pt")
    checkpoint = open_checkpoint("x.pt")
    assert checkpoint.origin is None
    assert labelled_config(network_config(CASES["SiT"][1]), checkpoint).num_classes == 10


# ---- networks whose files say nothing


class Answers(torch.nn.Module):
    """A trained network of a program, as far as noise is concerned: told its own times, and lost at DDPM's."""

    def __init__(self, program):
        super().__init__()
        self.program, self.config = program, network_config(CASES["SiT"][1])

    def forward(self, x, t, y):
        if t[0] > 1:
            return torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
        data = torch.full_like(x, 0.5).cumsum(3) / 4
        return data - x if self.program == "SiT" else x - data


FLOWS = {"DiT": {"sampler": "ddim"}, "SiT": ODE, "REPA": REPA_ODE}


def said_of(model, program):
    try:
        check_answer(model, SamplingSettings(**FLOWS[program]), whose="x.pt")
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("trained_by", FLOWS)
def test_a_network_is_known_by_its_answer_to_noise(trained_by):
    digits = asset("dit-digits").path
    model = load_dit(digits, stored_config(digits)) if trained_by == "DiT" else Answers(trained_by)
    for program in FLOWS:
        said = said_of(model, program)
        if program == trained_by:
            assert said is None
        else:
            assert said.startswith(
                f"x.pt: its network answers noise as one of {trained_by}'s program does (correlation "
            )
    assert check_answer(model, SamplingSettings(sampler="ode-heun", path="gvp"), whose="x.pt") is None


def test_networks_that_are_not_trained_pass():
    models = [network(network_config(CASES["SiT"][1])).eval() for _ in range(2)]
    models[0].load_state_dict(state_of("SiT"))
    assert [said_of(model, program) for model in models for program in FLOWS] == [None] * 6


def test_a_file_that_says_nothing_is_asked(monkeypatch):
    torch.save(state_of("SiT"), "x.pt")
    monkeypatch.setattr(SiT, "forward", Answers("SiT").forward)
    asked = SamplingSettings(image_size=64, num_images=1, num_classes=10, num_sampling_steps=4)
    with pytest.raises(ValueError, match=r"x.pt: its network answers noise as one of SiT's program does"):
        load_sampler(choose_and_check("DiT-B/2", "x.pt", asked, device="cpu"), asked, device="cpu", quiet=True)
