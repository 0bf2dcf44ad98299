"""Checkpoints in every layout people have them in, and files that are none."""

import argparse
import dataclasses

import pytest
import torch
from dit_goldens import inputs, seeded_state
from safetensors import safe_open
from safetensors.torch import save_file

from dit_eval.assets import asset
from dit_eval.models.checkpoints import load_dit, read_checkpoint, save_dit, stored_config
from dit_eval.models.dit import DiT, DiTConfig, named_config

CONFIG = DiTConfig(depth=2, hidden_size=32, num_heads=2, patch_size=2, input_size=8, num_classes=10)


@pytest.fixture(scope="module")
def state():
    return seeded_state(DiT(CONFIG).state_dict())


def output(model):
    with torch.inference_mode():
        return model(*inputs({"input_size": 8, "num_classes": 10}))


@pytest.fixture(scope="module")
def expected(state):
    model = DiT(CONFIG).eval()
    model.load_state_dict(state)
    return output(model)


def to_diffusers(state):
    """diffusers' names, written from its side: every block repeats the embedders, attention is in three parts."""
    theirs = {
        "pos_embed.proj": "x_embedder.proj",
        "proj_out_1": "final_layer.adaLN_modulation.1",
        "proj_out_2": "final_layer.linear",
    }
    for i in range(CONFIG.depth):
        block = f"transformer_blocks.{i}"
        theirs |= {
            f"{block}.norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
            f"{block}.norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
            f"{block}.norm1.linear": f"blocks.{i}.adaLN_modulation.1",
            f"{block}.attn1.to_out.0": f"blocks.{i}.attn.proj",
            f"{block}.ff.net.0.proj": f"blocks.{i}.mlp.fc1",
            f"{block}.ff.net.2": f"blocks.{i}.mlp.fc2",
        }
    out = {
        f"{name}.{kind}": state[f"{ours}.{kind}"].clone()
        for name, ours in theirs.items()
        for kind in ("weight", "bias")
    }
    for i in range(CONFIG.depth):
        table = f"transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table.weight"
        out[table] = state["y_embedder.embedding_table.weight"].clone()
        for kind in ("weight", "bias"):
            for letter, third in zip("qkv", state[f"blocks.{i}.attn.qkv.{kind}"].chunk(3), strict=True):
                out[f"transformer_blocks.{i}.attn1.to_{letter}.{kind}"] = third.clone()
    return out


def trainer_file(state, **sets):
    options = argparse.Namespace(model="DiT-XL/2", lr=1e-4)
    return {"opt": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "args": options, **sets}


KEY = "transformer_blocks.0.attn1.to_k.bias"
LAYOUTS = {
    "released": lambda state, path: torch.save(state, path),
    "trainer": lambda state, path: torch.save(trainer_file(state, ema=state, model=_zeros(state)), path),
    "trainer, data parallel": lambda state, path: torch.save(
        trainer_file(state, model={f"module.{name}": value for name, value in state.items()}), path
    ),
    "diffusers": lambda state, path: torch.save(to_diffusers(state), path),
    "without positions": lambda state, path: torch.save({k: v for k, v in state.items() if k != "pos_embed"}, path),
    "drifted positions": lambda state, path: torch.save(state | {"pos_embed": state["pos_embed"] * 1.0001}, path),
}
SAFETENSORS = {
    "safetensors": lambda state, path: save_file(state, path),
    "diffusers safetensors": lambda state, path: save_file(to_diffusers(state), path),
}


def _zeros(state):
    return {name: torch.zeros_like(value) for name, value in state.items()}


@pytest.mark.parametrize("layout", [*LAYOUTS, *SAFETENSORS])
def test_every_layout_gives_exactly_the_same_output(tmp_path, state, expected, layout):
    path = tmp_path / ("x.safetensors" if layout in SAFETENSORS else "x.pt")
    (LAYOUTS | SAFETENSORS)[layout](state, path)
    model = load_dit(path, CONFIG)
    assert not model.training
    assert torch.equal(output(model), expected)


def test_a_trainers_other_set_is_there_on_request(tmp_path, state):
    LAYOUTS["trainer"](state, tmp_path / "x.pt")
    assert (output(load_dit(tmp_path / "x.pt", CONFIG, weights="model")) == 0).all()


def test_a_checkpoint_of_another_size_says_for_which_images_it_is(tmp_path, state):
    large = DiT(dataclasses.replace(CONFIG, input_size=16)).state_dict()
    torch.save(state | {"pos_embed": large["pos_embed"]}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"has 64 tokens, this model 16.*for images of 128 px; this model for 64 px"):
        load_dit(tmp_path / "x.pt", CONFIG)


def test_a_checkpoint_of_another_model_says_of_which(tmp_path):
    torch.save({k: v.clone() for k, v in DiT(named_config("DiT-S/4")).state_dict().items()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"a checkpoint of DiT-S/4; .* depth 12, hidden size 768"):
        load_dit(tmp_path / "x.pt", named_config("DiT-B/4"))
    fewer_classes = dataclasses.replace(named_config("DiT-S/4"), num_classes=10)
    with pytest.raises(ValueError, match=r"embedding_table.weight is \(1001, 384\), needed \(11, 384\)"):
        load_dit(tmp_path / "x.pt", fewer_classes)


class Evil:
    def __reduce__(self):
        return (print, ("a pickle ran",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, p: None, r"no such checkpoint"),
        (lambda s, p: p.write_bytes(b"weights"), r"not a PyTorch or safetensors checkpoint"),
        (lambda s, p: torch.save(s | {"x": Evil()}, p), r"not a PyTorch or safetensors checkpoint"),
        (lambda s, p: torch.save([1], p), r"holds list; needed a state dict"),
        (lambda s, p: torch.save({"fc.weight": torch.zeros(3)}, p), r"not a checkpoint of a DiT \(found fc.weight"),
        (lambda s, p: torch.save({"ema": 3}, p), r"without a state dict under 'ema'"),
        (lambda s, p: torch.save(_without(s, "blocks.1.attn.qkv.bias"), p), r"missing blocks.1.attn.qkv.bias"),
        (lambda s, p: torch.save(_without(to_diffusers(s), KEY), p), r"found q, v of q, k, v"),
        (lambda s, p: torch.save(_changed(to_diffusers(s)), p), r"differs between blocks"),
        (lambda s, p: torch.save(to_diffusers(s) | {"norm.x": torch.zeros(1)}, p), r"norm.x is not part of diffusers"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, state, capsys, make, message):
    path = tmp_path / "x.pt"
    make(state, path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load_dit(path, CONFIG)
    assert str(path) in str(error.value)
    assert "a pickle ran" not in capsys.readouterr().out


def _without(state, name):
    return {key: value for key, value in state.items() if key != name}


def _changed(state):
    state["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias"] += 1
    return state


def test_tensors_come_under_their_released_names(tmp_path, state):
    torch.save(to_diffusers(state), tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    assert found.keys() == state.keys() - {"pos_embed"}
    assert all(torch.equal(found[name], state[name]) for name in found)


def test_our_files_say_what_they_are_and_give_exactly_the_same_output(state, expected, tmp_path):
    model = DiT(CONFIG).eval()
    model.load_state_dict(state)
    path = tmp_path / "model.safetensors"
    save_dit(path, model, notes={"training": "none"})
    assert stored_config(path) == CONFIG
    torch.testing.assert_close(output(load_dit(path, stored_config(path))), expected, rtol=0, atol=0)
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_the_same_model_is_the_same_bytes(state, tmp_path):
    # Results name weights by the checksum of their file, so an interrupted study must write the same file again.
    model = DiT(CONFIG).eval()
    model.load_state_dict(state)
    notes = {f"note {i}": "größer" for i in range(8)}
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path in files:
        save_dit(path, model, notes=notes)
    assert len({path.read_bytes() for path in files}) == 1
    with safe_open(files[0], framework="pt") as file:
        assert notes.items() <= file.metadata().items()
        assert all(torch.equal(file.get_tensor(name), value) for name, value in state.items())


def test_files_of_others_do_not_say(state, tmp_path):
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(state, tmp_path / "plain.pt")
    assert stored_config(tmp_path / "plain.safetensors") is None
    assert stored_config(tmp_path / "plain.pt") is None


@pytest.mark.parametrize("text", ["{", '{"depth": 2}', '{"depth": 2, "evil": 1}', "[]"])
def test_a_damaged_configuration_is_an_error(state, tmp_path, text):
    save_file(state, tmp_path / "model.safetensors", metadata={"dit_eval.config": text})
    with pytest.raises(ValueError, match="its configuration cannot be read"):
        stored_config(tmp_path / "model.safetensors")


def test_the_embedded_dit_says_how_it_was_trained():
    path = asset("dit-digits").path
    assert path.stat().st_size < 2_000_000
    config = stored_config(path)
    assert (config.space, config.image_size, config.num_classes) == ("pixel", 8, 10)
    with safe_open(path, framework="pt") as file:
        notes = file.metadata()
    assert "AdamW" in notes["training"]
    assert "1,297 digits" in notes["data"]
    assert notes["made by"] == "reference_stats/make_dit_digits.py"
