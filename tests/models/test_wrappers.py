"""Weights of a DiT inside of what compilers, parallel training, trainers and averages put around them."""

import argparse
import copy
import re
from collections import OrderedDict

import pytest
import torch
from diffusers_layout import CONFIG, to_diffusers
from dit_goldens import inputs, seeded_state
from safetensors.torch import save_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dit_eval.models.checkpoints import load_dit, open_checkpoint
from dit_eval.models.dit import DiT


@pytest.fixture(scope="module")
def inner():
    """The module that is wrapped; its state dict is what every layout has to give."""
    model = DiT(CONFIG).eval()
    model.load_state_dict(seeded_state(model.state_dict()))
    return model


def moved(model, by=1.0):
    """Another set of weights of the same model."""
    return {name: value + by if value.ndim < 3 else value for name, value in model.state_dict().items()}


def cloned(state):
    return {name: value.clone() for name, value in state.items()}


def compiled_parts(model):
    """Each block compiled, and a part of one once more inside."""
    model = copy.deepcopy(model)
    model.blocks[0].attn = torch.compile(model.blocks[0].attn)
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block)
    return model.state_dict()


def checkpointed_parts(model):
    """Names as they are without the hooks that hide the wrapper: those of `named_parameters`."""
    model = copy.deepcopy(model)
    for i, block in enumerate(model.blocks):
        model.blocks[i] = checkpoint_wrapper(block)
    return dict(nn.Module.named_parameters(model))


class Lightning(nn.Module):
    """What a LightningModule registers: the network, perhaps its average, and other modules."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    def checkpoint(self, **more):
        return {
            "epoch": 3,
            "global_step": 100,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": self.state_dict(),
            "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
            "hyper_parameters": {"lr": 1e-4, "ema": 0.9999},
            **more,
        }


def averaged(model):
    wrapper = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    wrapper.update_parameters(model)  # the first one copies
    return wrapper.state_dict()


def deepspeed(model):
    state = OrderedDict(model.state_dict())
    return {
        "module": state,
        "buffer_names": [],
        "optimizer": None,
        "param_shapes": [OrderedDict((name, value.shape) for name, value in state.items())],
        "frozen_param_shapes": None,
        "shared_params": {},
        "lr_scheduler": None,
        "global_steps": 100,
        "ds_config": {"train_batch_size": 8, "zero_optimization": {"stage": 1}},
        "ds_version": "0.15.0",
    }


def behind(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


# What is saved, of a module; and what the note has to say of it, None where there is nothing to tell.
ONE_SET = {
    "compiled": (lambda m: torch.compile(m).state_dict(), "took '_orig_mod.' off their names"),
    "compiled in parts": (compiled_parts, "took '_orig_mod.' off their names"),
    "data parallel": (lambda m: nn.DataParallel(m).state_dict(), "took 'module.' off their names"),
    "data parallel, compiled": (
        lambda m: torch.compile(nn.DataParallel(m)).state_dict(), "took '_orig_mod.' and 'module.' off their names"
    ),
    "checkpointed blocks": (checkpointed_parts, "took '_checkpoint_wrapped_module.' off their names"),
    "FSDP": (
        lambda m: {
            f"_fsdp_wrapped_module.{name}".replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): value
            for name, value in m.state_dict().items()
        },
        "took '_fsdp_wrapped_module.' off their names",
    ),
    "average": (averaged, "took 'module.' off their names; left out 'n_averaged'"),
    "average of a compiled one": (
        lambda m: averaged(torch.compile(m)), "took '_orig_mod.' and 'module.' off their names; left out 'n_averaged'"
    ),
    "model_state_dict": (
        lambda m: {"model_state_dict": m.state_dict(), "optimizer_state_dict": {}, "epoch": 3},
        "took the weights under 'model_state_dict'; found no averaged weights (ema)",
    ),
    "state_dict": (lambda m: {"state_dict": m.state_dict(), "epoch": 3}, "took the weights under 'state_dict'"),
    "Lightning, model.": (
        lambda m: Lightning(model=m).checkpoint(),
        "took the weights under 'state_dict'; took 'model.' off their names; found no averaged weights (ema)",
    ),
    "Lightning, net., compiled, with other modules": (
        lambda m: Lightning(net=torch.compile(m), loss=nn.Linear(2, 2), vae=nn.Linear(2, 2)).checkpoint(),
        "took the weights under 'state_dict'; took '_orig_mod.' and 'net.' off their names; left out 'loss', 'vae'; "
        "found no averaged weights (ema)",
    ),
    "DeepSpeed": (deepspeed, "took the weights under 'module'"),
    "EMA alone": (lambda m: {"ema_state_dict": m.state_dict()}, "took the weights under 'ema_state_dict'"),
    "EMA with its decay": (
        lambda m: {"ema": {"decay": 0.9999, "shadow": cloned(m.state_dict())}}, "took the weights under 'ema/shadow'"
    ),
    "Accelerate": (lambda m: m.state_dict(), None),
    "diffusers, compiled": (
        lambda m: behind("_orig_mod.", to_diffusers(m.state_dict())), "took '_orig_mod.' off their names"
    ),
    "trainer, data parallel": (
        lambda m: {"model": nn.DataParallel(m).state_dict(), "ema": None, "args": argparse.Namespace(lr=1e-4)},
        "took the weights under 'model'; took 'module.' off their names; found no averaged weights (ema)",
    ),
}  # fmt: skip


def load(path, **options):
    notes = []
    model = load_dit(path, CONFIG, on_note=notes.append, **options)
    assert all(note.startswith(f"{path}: ") for note in notes)
    return model.state_dict(), [note.removeprefix(f"{path}: ") for note in notes]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("layout", ONE_SET)
def test_a_wrapped_model_gives_the_tensors_of_the_inner_one(tmp_path, inner, layout):
    make, said = ONE_SET[layout]
    torch.save(make(inner), tmp_path / "x.pt")
    found, notes = load(tmp_path / "x.pt")
    assert_same(found, inner.state_dict())
    assert notes == ([] if said is None else [said])


@pytest.mark.parametrize("layout", ["compiled", "compiled in parts", "data parallel", "average", "FSDP"])
def test_so_it_is_in_safetensors(tmp_path, inner, layout):
    save_file(cloned(ONE_SET[layout][0](inner)), tmp_path / "x.safetensors")
    found, notes = load(tmp_path / "x.safetensors")
    assert_same(found, inner.state_dict())
    assert notes == [ONE_SET[layout][1]]


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`:UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_names_of_a_real_fsdp_model(tmp_path, inner):
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = copy.deepcopy(inner)
        for i, block in enumerate(model.blocks):
            model.blocks[i] = FSDP(block, use_orig_params=True, device_id=torch.device("cpu"))
        state = {name: value.detach().clone() for name, value in nn.Module.named_parameters(model)}
    finally:
        torch.distributed.destroy_process_group()
    assert "blocks.1._fsdp_wrapped_module.attn.qkv.weight" in state
    torch.save(state, tmp_path / "x.pt")
    assert_same(load(tmp_path / "x.pt")[0], inner.state_dict())


def test_shards_are_told(tmp_path, inner):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = copy.deepcopy(inner)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        torch.save(model.state_dict(), tmp_path / "x.pt")
    finally:
        torch.distributed.destroy_process_group()
    with pytest.raises(ValueError, match=r"x\.pt: .*DTensor"):
        load_dit(tmp_path / "x.pt", CONFIG)


class ShadowModel(nn.Module):
    """An average as a module that has the latest weights, too."""

    def __init__(self, model, average):
        super().__init__()
        self.online_model, self.ema_model = model, average
        self.register_buffer("initted", torch.tensor(True))
        self.register_buffer("step", torch.tensor(100))


def loaded(state):
    model = DiT(CONFIG)
    model.load_state_dict(state)
    return model


# Files with two sets, made of the latest module and the averaged state.
TWO_SETS = {
    "trainer": lambda m, ema: {"model": m.state_dict(), "ema": ema, "opt": {"state": {}}, "args": {"lr": 1e-4}},
    "model_ema": lambda m, ema: {"model": m.state_dict(), "model_ema": ema, "epoch": 3},
    "ema_state_dict": lambda m, ema: {"model_state_dict": m.state_dict(), "ema_state_dict": ema},
    "ema_model": lambda m, ema: {"model": m.state_dict(), "ema_model": behind("module.", ema)},
    "state_dict_ema": lambda m, ema: {"state_dict": m.state_dict(), "state_dict_ema": ema},
    "an average in full": lambda m, ema: {"model": m.state_dict(), "ema": averaged(loaded(ema))},
    "shadow_params": lambda m, ema: {"net": m.state_dict(), "ema": {"decay": 0.999, "shadow_params": ema}},
    "Lightning": lambda m, ema: Lightning(model=torch.compile(m), model_ema=loaded(ema)).checkpoint(),
    "Lightning, ema.": lambda m, ema: Lightning(net=m, ema=AveragedModel(loaded(ema))).checkpoint(),
    "a module of both": lambda m, ema: {"ema": ShadowModel(m, loaded(ema)).state_dict()},
    "beside the names": lambda m, ema: {**m.state_dict(), **behind("ema.", ema)},
}


@pytest.mark.parametrize("layout", TWO_SETS)
def test_of_two_sets_the_one_asked_for_is_taken(tmp_path, inner, layout):
    ema = moved(inner)
    torch.save(TWO_SETS[layout](inner, ema), tmp_path / "x.pt")
    sets = {"ema": ema, "model": inner.state_dict()}
    for weights, expected in sets.items():
        found, notes = load(tmp_path / "x.pt", weights=weights)
        assert_same(found, expected)
        assert "left out" in notes[0]


def test_which_set_it_was_is_known(tmp_path, inner):
    state, path = inner.state_dict(), tmp_path / "x.pt"
    for content, weights, expected in (
        (state, "ema", None),
        ({"state_dict": state}, "model", None),
        ({"model": state, "ema": moved(inner)}, "ema", "ema"),
        ({"model": state, "ema": moved(inner)}, "model", "model"),
        ({"model": state}, "ema", "model"),
        (averaged(inner), "ema", "ema"),
        ({"model": averaged(inner)}, "ema", "ema"),
    ):
        torch.save(content, path)
        assert open_checkpoint(path, weights=weights).weights == expected


REFUSED = {
    "average without names": (
        lambda s: {"model": s, "ema": {"decay": 0.999, "shadow_params": [*s.values()]}}, "ema",
        "without a state dict under 'ema': what is there has no names of the model. Save the averaged weights by name, "
        "or take the others (`weights` model).",
    ),
    "average under names of its own": (
        lambda s: {"state_dict": behind("model.", s) | {f"model_ema.{k.replace('.', '')}": s[k] for k in s}}, "ema",
        "without a state dict under 'model_ema': what is there has no names of the model.",
    ),
    "the average alone, and the other asked for": (
        lambda s: {"ema": s}, "model",
        "its weights under 'ema' are averaged ones (ema), and the others (`weights` model) are not in it.",
    ),
    "two averages": (
        lambda s: {"model": s, "model_ema1": s | {"extra": s["pos_embed"]}, "model_ema2": dict(s)}, "ema",
        "several sets of weights fit (model_ema1, model_ema2). Save the one to use in a file of its own.",
    ),
    "an unknown wrapper": (
        lambda s: behind("teacher.", s), "ema",
        "there is one under 'teacher', which is no wrapper that is known: save it in a file of its own).",
    ),
    "two names for one": (
        lambda s: s | {"module.pos_embed": s["pos_embed"]}, "ema",
        "two of its tensors are pos_embed once wrappers are taken off.",
    ),
    "flattened by FSDP": (
        lambda s: {"_fsdp_wrapped_module._flat_param": torch.zeros(9)}, "ema",
        "FSDP has flattened its tensors: save its full state dict (StateDictType.FULL_STATE_DICT)).",
    ),
    "a key that moves the cursor": (
        lambda s: {"\x1b[2J": s}, "ema", r"there is one under '\\x1b[2J', which is no wrapper",
    ),
    "a tensor too many behind the prefix": (
        lambda s: {"state_dict": behind("model.", s | {"head.weight": s["pos_embed"]})}, "ema", "unknown head.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_told_is_refused(tmp_path, inner, case):
    make, weights, said = REFUSED[case]
    path = tmp_path / "x.pt"
    torch.save(make(cloned(inner.state_dict())), path)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        load_dit(path, CONFIG, weights=weights)
    assert str(error.value).startswith(f"{path}: ")
    assert str(error.value).isprintable()


def test_other_networks_of_the_file_are_left_out_and_named(tmp_path, inner):
    torch.save({"state_dict": Lightning(model=inner, teacher=loaded(moved(inner))).state_dict()}, tmp_path / "x.pt")
    found, notes = load(tmp_path / "x.pt")
    assert_same(found, inner.state_dict())
    assert "left out 'state_dict/teacher'" in notes[0]


def test_a_dict_that_holds_itself_ends(tmp_path, inner):
    state = {"model": inner.state_dict()}
    state["again"] = state
    torch.save(state, tmp_path / "x.pt")
    assert_same(load(tmp_path / "x.pt")[0], inner.state_dict())


def test_a_folder_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"a folder; pass the file of weights in it, such as model\.safetensors"):
        load_dit(tmp_path, CONFIG)


def test_the_output_is_that_of_the_wrapped_module(tmp_path, inner):
    wrapper = nn.DataParallel(inner)
    torch.save({"state_dict": wrapper.state_dict()}, tmp_path / "x.pt")
    arguments = inputs({"input_size": 8, "num_classes": 10})
    with torch.inference_mode():
        assert torch.equal(load_dit(tmp_path / "x.pt", CONFIG)(*arguments), wrapper(*arguments))
