"""What names, checkpoints and decoders mean together, for a caller in Python: messages name parameters."""

import dataclasses
from pathlib import Path

import pytest
import torch

from dit_eval.models.checkpoints import save_dit
from dit_eval.models.choose import check_block, choose_decoder, choose_model, is_checkpoint
from dit_eval.models.dit import DiT, DiTConfig, named_config
from dit_eval.system.assets import asset

SMALL = DiTConfig(depth=1, hidden_size=8, num_heads=2, patch_size=4, input_size=8, num_classes=10, space="pixel")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    torch.save({"weight": torch.zeros(3)}, "other.pt")
    save_dit("own.safetensors", DiT(SMALL))
    return tmp_path


def test_by_default_the_public_checkpoint(folder):
    choice = choose_model()
    assert (choice.name, choice.config, choice.public.name) == ("DiT-XL/2", named_config("DiT-XL/2"), "dit-xl-2-256")
    assert (choice.path, choice.described) == (asset("dit-xl-2-256").path, True)
    assert choose_model(image_size=512).public.name == choose_model(ckpt="dit-xl-2-512").public.name == "dit-xl-2-512"


def test_a_checkpoint_of_ours_says_what_it_is(folder):
    choice = choose_model(ckpt="own.safetensors")
    assert (choice.name, choice.config, choice.public, choice.described) == ("own", SMALL, None, True)
    assert choose_model("mini-S/4", "own.safetensors").name == "mini-S/4"
    assert choose_model(ckpt="dit-digits").name == "dit-digits"


def test_another_file_is_what_the_name_says(folder):
    choice = choose_model("DiT-S/8", Path("other.pt"), num_classes=10, block="adaln")
    expected = dataclasses.replace(named_config("DiT-S/8"), num_classes=10, block="adaln")
    assert (choice.name, choice.config, choice.described, choice.weights) == ("DiT-S/8", expected, False, "ema")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"model": "DiT-XL2"}, "Unknown model 'DiT-XL2'.*Did you mean 'DiT-XL/2'"),
        ({"model": "DiT-B/4"}, "No public checkpoint of this model .*pass `ckpt` FILE"),
        ({"image_size": 128}, "No public checkpoint of this model"),
        ({"num_classes": 10}, "No public checkpoint of this model"),
        ({"ckpt": "dit-digit"}, "`ckpt` dit-digit: neither a file nor a public checkpoint.*Did you mean 'dit-digits'"),
        ({"ckpt": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
        ({"ckpt": "other.pt"}, "does not say which model it is of; pass `model`, such as `model` DiT-XL/2"),
        ({"ckpt": "other.pt", "model": "mini-S/4"}, "mini-S/4 is no model of the paper"),
        ({"ckpt": "own.safetensors", "model": "mini-S/2"}, "patch_size 4, asked for 2"),
        ({"ckpt": "own.safetensors", "model": "DiT-S/2"}, "own.safetensors: of another model .depth 1, asked for 12"),
        ({"ckpt": "own.safetensors", "image_size": 16}, "image_size 8, asked for 16"),
        ({"ckpt": "dit-xl-2-256", "num_classes": 10}, "dit-xl-2-256: of another model .num_classes 1000, asked for 10"),
        ({"block": "adaln-zer"}, "`block` adaln-zer: unknown.*Did you mean 'adaln-zero'"),
    ],
)
def test_what_does_not_go_together(folder, asked, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        choose_model(**asked)


def test_a_block_design_or_none():
    check_block(None)
    check_block("in-context")


def test_decoders(folder):
    assert choose_decoder("mse") == asset("sd-vae-ft-mse")
    Path("mse").touch()
    assert choose_decoder("mse") == Path("mse"), "a file goes first"
    with pytest.raises(FileNotFoundError, match="nowhere: no autoencoder there"):
        choose_decoder("nowhere")


def test_names_and_checkpoints_are_told_apart(folder):
    assert all(map(is_checkpoint, ("dit-digits", "dit-digit", "own.safetensors", "nowhere.pt")))
    assert not any(map(is_checkpoint, ("DiT-XL/2", "DiT-XL2", "mini-S/4")))
