"""Checkpoints in every layout people have them in, and files that are none."""

import argparse
import dataclasses
import os
import pathlib
import pickle
import re

import pytest
import torch
from diffusers_layout import CONFIG, to_diffusers
from dit_goldens import inputs, seeded_state
from safetensors import safe_open
from safetensors.torch import save_file

from dit_eval.models.checkpoints import (
    labelled_config,
    load_dit,
    open_checkpoint,
    read_checkpoint,
    save_dit,
    stored_config,
)
from dit_eval.models.config import named_config
from dit_eval.models.dit import DiT, position_table
from dit_eval.system.assets import asset


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
    with pytest.raises(ValueError, match=r"this is a DiT-S/4 or a SiT-S/4, .* depth 12, hidden size 768"):
        load_dit(tmp_path / "x.pt", named_config("DiT-B/4"))
    fewer_classes = dataclasses.replace(named_config("DiT-S/4"), num_classes=10)
    with pytest.raises(ValueError, match=r"embedding_table.weight is \(1001, 384\), needed \(11, 384\)"):
        load_dit(tmp_path / "x.pt", fewer_classes)


# ---- position tables of a file's own


def trained_positions(state):
    return state["pos_embed"] + 0.1 * torch.randn(state["pos_embed"].shape, generator=torch.Generator().manual_seed(1))


def interpolated_positions(_):
    """The table of a 2 x 2 grid, resampled to 4 x 4 as fine-tuning at another resolution does."""
    small = DiT(dataclasses.replace(CONFIG, input_size=4)).pos_embed.detach()
    grid = small.unflatten(1, (2, 2)).permute(0, 3, 1, 2)
    return torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic").flatten(2).transpose(1, 2)


@pytest.mark.parametrize(
    "make", [trained_positions, interpolated_positions, lambda s: torch.zeros_like(s["pos_embed"])]
)
def test_a_position_table_of_its_own_is_used_as_the_plain_module_does(tmp_path, state, expected, make):
    state = state | {"pos_embed": make(state)}
    torch.save(state, tmp_path / "x.pt")
    notes = []
    model = load_dit(tmp_path / "x.pt", CONFIG, on_note=notes.append)
    plain = DiT(CONFIG).eval()
    plain.load_state_dict(state)
    assert torch.equal(output(model), output(plain))
    assert (output(model) - expected).abs().max() > 1e-3
    apart = (state["pos_embed"] - position_table(32, 4)).abs().max().item()
    said = f"its position table is not the sine-cosine one (they differ by up to {apart:.2g}); it is used as stored"
    assert notes == [f"{tmp_path / 'x.pt'}: {said}"]
    save_dit(tmp_path / "again.safetensors", model)
    assert torch.equal(output(load_dit(tmp_path / "again.safetensors", CONFIG)), output(plain)), "and kept"


def test_what_averaging_does_to_the_table_is_no_table_of_its_own(tmp_path, state, expected):
    # 20,000 steps of the released trainer's average, whose fixed point is a rounding away from the table.
    average = state["pos_embed"].clone()
    for _ in range(20_000):
        average.mul_(0.9999).add_(state["pos_embed"], alpha=1 - 0.9999)
    assert not torch.equal(average, state["pos_embed"])
    for table in (average, state["pos_embed"].bfloat16(), state["pos_embed"].half()):
        torch.save(state | {"pos_embed": table}, tmp_path / "x.pt")
        notes = []
        assert torch.equal(output(load_dit(tmp_path / "x.pt", CONFIG, on_note=notes.append)), expected)
        assert notes == []


@pytest.mark.parametrize("shape", [(16, 32), (1, 16, 16), (2, 16, 32), (1, 32, 16), ()])
def test_a_position_table_of_another_shape_is_refused(tmp_path, state, shape):
    torch.save(state | {"pos_embed": torch.zeros(shape)}, tmp_path / "x.pt")
    said = "its position table has " + ("32 tokens" if shape == (1, 32, 16) else f"shape {shape}; needed (1, 16, 32).")
    with pytest.raises(ValueError, match=re.escape(said)):
        load_dit(tmp_path / "x.pt", CONFIG)


# ---- label tables


def with_rows(state, rows):
    return state | {"y_embedder.embedding_table.weight": torch.arange(rows * 32.0).reshape(rows, 32)}


def namespace(**values):
    return argparse.Namespace(model="DiT-XL/2", **values)


# Rows of the table, what the file says of K, K as asked for: K and whether there is "no label", or what is said.
LABELS = [
    (11, {}, 10, (10, True)),
    (10, {}, 10, (10, False)),
    (10, {}, 9, (9, True)),
    (10, {"args": namespace(num_classes=10)}, None, (10, False)),
    (11, {"args": namespace(num_classes=10)}, None, (10, True)),
    (11, {"args": {"num_classes": 10}}, None, (10, True)),
    (3, {"hyper_parameters": {"num_classes": 3}}, None, (3, False)),
    (1, {}, None, (1, False)),
    (1, {}, 1, (1, False)),
    (2, {}, 1, (1, True)),
    (1000, {}, None, (1000, False)),
    (1001, {}, None, (1000, True)),
    (10, {"args": namespace(num_classes=10)}, 9, "of 10 classes, as the settings in it say; asked for 9. Leave"),
    (
        10, {}, None,
        "its label table has 10 rows, and 1000 classes have 1000 or 1001. It is of 10 classes and no row for "
        '"no label" (trained without label dropout), or 9 classes and such a row; the file does not say which. Pass '
        "`num_classes` 10 or `num_classes` 9.",
    ),
    (11, {"args": namespace(num_classes=1000)}, None, "Pass `num_classes` 11 or `num_classes` 10."),
    (11, {"args": namespace(num_classes=1000)}, 10, (10, True)),
    (10, {}, 20, "20 classes have 20 or 21"),
    (1, {}, 5, "5 classes have 5 or 6. It is of 1 classes and no row"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "settings", "asked", "expected"), LABELS)
def test_a_label_table_is_taken_for_what_it_is(tmp_path, state, rows, settings, asked, expected):
    state = with_rows(state, rows)
    torch.save({"ema": state, "model": _zeros(state), **settings}, tmp_path / "x.pt")
    checkpoint = open_checkpoint(tmp_path / "x.pt")
    config = dataclasses.replace(CONFIG, num_classes=1000)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=re.escape(expected)):
            labelled_config(config, checkpoint, num_classes=asked)
        return
    found = labelled_config(config, checkpoint, num_classes=asked)
    assert (found.num_classes, found.label_dropout > 0) == expected
    model = load_dit(tmp_path / "x.pt", found)
    assert torch.equal(model.y_embedder.embedding_table.weight, state["y_embedder.embedding_table.weight"])


def test_the_tenth_class_is_not_made_no_label_against_the_file(tmp_path, state):
    torch.save({"ema": with_rows(state, 10), "args": namespace(num_classes=10)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="of 10 classes, as the settings in it say; asked for 9"):
        load_dit(tmp_path / "x.pt", dataclasses.replace(CONFIG, num_classes=9))


def test_a_table_of_other_rows_says_what_it_can_be_of(tmp_path, state):
    torch.save(with_rows(state, 10), tmp_path / "x.pt")
    said = r"table of 10 rows is of 10 classes without label dropout, or of 9 with it; asked for are 10 with it\."
    with pytest.raises(ValueError, match=said):
        load_dit(tmp_path / "x.pt", CONFIG)


# ---- files that are none


class Evil:
    def __reduce__(self):
        return (print, ("a pickle ran",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, p: None, r"no such checkpoint"),
        (lambda s, p: p.write_bytes(b"weights"), r"not a PyTorch or safetensors checkpoint"),
        (lambda s, p: p.write_bytes(b"weights"), r"\(torch\.save did not write it\)"),
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


class System:
    def __reduce__(self):
        return (os.system, ("touch evil",))


ESCAPE = b"cfar\x1b[2Jaway\nRed\x1b[31mclass\n(tR."  # what a pickle has for such a class

REFUSED = {
    "a function": (lambda p: torch.save({"x": Evil()}, p), "builtins.print"),
    "a function, old format": (
        lambda p: torch.save({"x": Evil()}, p, _use_new_zipfile_serialization=False), "builtins.print"
    ),
    "a command": (lambda p: torch.save({"x": System()}, p), f"{os.system.__module__}.system"),
    "a path": (lambda p: torch.save({"args": pathlib.PurePosixPath("a")}, p), "pathlib.PurePosixPath"),
    "a whole module": (lambda p: torch.save(torch.nn.Linear(2, 2), p), "torch.nn.modules.linear.Linear"),
    "a plain pickle": (lambda p: p.write_bytes(pickle.dumps({"x": Evil()}, protocol=4)), "builtins.print"),
    "an old plain pickle": (lambda p: p.write_bytes(pickle.dumps({"x": Evil()}, protocol=2)), "builtins.print"),
    "a name that moves the cursor": (lambda p: p.write_bytes(ESCAPE), r"far\x1b[2Jaway.Red\x1b[31mclass"),
    "such a name in a plain pickle": (
        lambda p: p.write_bytes(pickle_of("far\x1b[2Jaway", "Class")), r"far\x1b[2Jaway.Class"
    ),
    "a name of two lines": (lambda p: p.write_bytes(pickle_of("a\nb", "c")), r"a\nb.c"),
}  # fmt: skip


def pickle_of(module, name):
    """A pickle of protocol 4 that names a class by two texts."""
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() + b"\x94" for text in (module, name))
    return b"\x80\x04" + texts + b"\x93."


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_pickle_names_the_class_in_plain_characters(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    make, name = REFUSED[case]
    path = tmp_path / "x.pt"
    make(path)
    with pytest.raises(ValueError, match="not a PyTorch or safetensors checkpoint") as error:
        load_dit(path, CONFIG)
    said = (
        f"its pickle needs {name}, which is refused because it could run code; if you trust the file, load it where it "
        "was made and save its state dict alone, best by safetensors.torch.save_file"
    )
    assert said in str(error.value)
    assert str(error.value).isprintable()
    assert "a pickle ran" not in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]


def test_so_do_weights_of_feature_networks(tmp_path):
    from dit_eval.features.inception_weights import read_state_dict
    from dit_eval.features.vit import read_weights

    torch.save({"x": Evil()}, tmp_path / "x.pt")
    for read in (read_state_dict, lambda path: read_weights(path, "dinov2")):
        with pytest.raises(ValueError, match=r"its pickle needs builtins\.print, which is refused") as error:
            read(tmp_path / "x.pt")
        assert str(error.value).isprintable()


def test_a_namespace_is_read_and_runs_nothing(tmp_path):
    # The one class beside PyTorch's own that is made: whatever arguments a file gives it, it keeps values or refuses.
    class Options(argparse.Namespace):
        def __reduce__(self):
            return (argparse.Namespace, (print,))

    for value in (argparse.Namespace(run=Evil()), Options()):
        torch.save({"args": value}, tmp_path / "x.pt")
        with pytest.raises(ValueError, match=r"its pickle needs builtins\.print"):
            read_checkpoint(tmp_path / "x.pt")


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
