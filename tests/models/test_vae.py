"""The autoencoder against diffusers itself, its file layouts, and latents through the whole command."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_vae import SMALL, random_vae

from dit_eval.cli import main
from dit_eval.images.npz import open_batch
from dit_eval.models import vae_files
from dit_eval.models.checkpoints import save_dit
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT
from dit_eval.models.vae import Autoencoder
from dit_eval.models.vae_files import DECODERS
from dit_eval.system.assets import asset
from dit_eval.system.switches import using_threads


@pytest.fixture(scope="module")
def small():
    return random_vae(SMALL)


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """diffusers' own layout, written by diffusers."""
    path = tmp_path_factory.mktemp("vae") / "my-vae"
    small.save_pretrained(path)
    return path


@pytest.fixture
def latents():
    return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def decoded(model, latents):
    """One at a time on one thread, as the released sampling does up to rounding."""
    with torch.inference_mode(), using_threads(1):
        return torch.cat([model.decode(z[None] / 0.18215).sample for z in latents])


def test_decoding_is_that_of_diffusers(small, folder, latents):
    with torch.inference_mode():
        images = Autoencoder(folder).decode(latents)
    assert images.shape == (5, 3, 64, 64)
    assert torch.equal(images, decoded(small, latents))


def old_names(state):
    """The names that the public files have for the maps of their attention."""
    pairs = (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
    renamed = {}
    for name, value in state.items():
        for new, old in pairs:
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value.clone()
    assert renamed.keys() != state.keys()
    return renamed


def test_a_public_file_alone_is_enough(latents, tmp_path):
    # The full f8 architecture, in the names of the public files, without the config beside it.
    model = random_vae(vae_files.SD_CONFIG)
    save_file(old_names(model.state_dict()), tmp_path / "sd-vae-ft-mse.safetensors")
    with torch.inference_mode():
        images = Autoencoder(tmp_path / "sd-vae-ft-mse.safetensors").decode(latents[:1])
    assert torch.equal(images, decoded(model, latents[:1]))
    assert sum(p.numel() for p in model.parameters()) == 83_653_863, "the Stable Diffusion f8 autoencoder"


def test_a_state_dict_of_torch_loads_too(small, latents, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    torch.save(small.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with torch.inference_mode():
        assert torch.equal(Autoencoder(tmp_path).decode(latents), decoded(small, latents))


def test_wrapped_weights_are_those_of_the_wrapped_decoder(small, latents, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    wrapped = torch.compile(torch.nn.DataParallel(small))
    path = tmp_path / "diffusion_pytorch_model.bin"
    torch.save({"state_dict": wrapped.state_dict(), "epoch": 3}, path)
    notes = []
    with torch.inference_mode():
        assert torch.equal(Autoencoder(path, on_note=notes.append).decode(latents[:1]), decoded(small, latents[:1]))
    assert notes == [f"{path}: took the weights under 'state_dict'; took '_orig_mod.' and 'module.' off their names"]


def test_short_memory_halves_the_batch_and_changes_nothing(small, folder, latents, monkeypatch):
    autoencoder, sizes = Autoencoder(folder), []
    autoencoder._batch = 8
    decode = autoencoder._model.decode

    def cramped(z):
        sizes.append(len(z))
        if len(z) > 2:
            raise torch.OutOfMemoryError("simulated")
        return decode(z)

    monkeypatch.setattr(autoencoder._model, "decode", cramped)
    with torch.inference_mode():
        images = autoencoder.decode(latents)
    assert sizes == [5, 4, 2, 2, 1]
    torch.testing.assert_close(images, decoded(small, latents), rtol=0, atol=1e-5)
    monkeypatch.setattr(autoencoder._model, "decode", lambda z: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(RuntimeError, match="`vae_tiling`"):
        autoencoder.decode(latents)


def test_tiling_changes_pixels_and_no_more(small, folder):
    large = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(1))  # tiles are of 8 latents here
    with torch.inference_mode():
        whole = Autoencoder(folder).decode(large)
        tiled = Autoencoder(folder, tiling=True).decode(large)
    assert tiled.shape == whole.shape == (1, 3, 192, 192)
    assert not torch.equal(tiled, whole)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code in a weights file was run",))


@pytest.mark.parametrize("kind", ["other", "truncated", "pickle", "missing"])
def test_files_that_are_no_autoencoder(tmp_path, kind):
    path = tmp_path / ("weights.safetensors" if kind != "pickle" else "weights.bin")
    if kind == "other":
        save_file({"weight": torch.zeros(3)}, path)
    elif kind == "truncated":
        path.write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    error, said = (
        (FileNotFoundError, "needed a weights file")
        if kind == "missing"
        else (ValueError, "not the weights|not a PyTorch or safetensors")
    )
    with pytest.raises(error, match=said):
        Autoencoder(path)


def test_latents_of_other_channels_are_refused(folder):
    with pytest.raises(ValueError, match=r"needed \(N, 4, H, W\)"):
        Autoencoder(folder).decode(torch.zeros(1, 3, 8, 8))


def test_the_named_decoders_are_in_the_manifest():
    assert list(DECODERS) == ["ema", "mse", "original", "flux"]
    for name in DECODERS.values():
        item = asset(name, "weights")
        assert item.url.startswith("https://")
        assert item.url.endswith("/diffusion_pytorch_model.safetensors" if name != "flux-ae" else "/ae.safetensors")


@pytest.fixture(scope="module")
def latent_dit(tmp_path_factory):
    path = tmp_path_factory.mktemp("dit") / "latent.safetensors"
    torch.manual_seed(0)
    save_dit(path, DiT(DiTConfig(depth=1, hidden_size=32, num_heads=2, patch_size=2, input_size=8, num_classes=10)))
    return path


def sample(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["sample", *map(str, arguments)])
    return exit_.value.code or 0, capsys.readouterr().err


def test_latents_become_images_the_same_for_any_batch(latent_dit, folder, tmp_path, capsys):
    files = []
    for batch in (1, 5):
        files.append(tmp_path / f"batch-{batch}.npz")
        options = ["--num-fid-samples", 5, "--num-sampling-steps", 4, "--vae", folder, "--per-proc-batch-size", batch]
        code, error = sample(capsys, "--ckpt", latent_dit, *options, "--out", files[-1])
        assert code == 0, error
    assert files[0].read_bytes() == files[1].read_bytes()
    batch = open_batch(files[0], role="gen")
    assert batch.image_size == (64, 64)
    assert (batch.run.vae, batch.run.vae_tiling, batch.run.cfg_channels) == ("my-vae", False, 3)
    assert len(batch.run.vae_sha256) == 64
    images = next(batch.batches(5))
    assert len(np.unique(images)) > 50


def test_without_network_the_decoder_to_bring_is_named(latent_dit, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))

    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("dit_eval.system.assets.download", refuse)
    code, error = sample(capsys, "--ckpt", latent_dit, "--vae", "mse", "--out", tmp_path / "samples.npz")
    assert code == 2
    assert "sd-vae-ft-mse could not be downloaded" in error
    assert str(tmp_path / "cache" / "sd-vae-ft-mse.safetensors") in error


CONFIGS = {
    "nothing": (b"", "not JSON"),
    "a list": (b"[]", "holds a list"),
    "brackets": (b"[" * 50_000, "not JSON"),
    "no text": (b"\xff", "not UTF-8"),
    "megabytes": (b" " * (1 << 20), "more than 65,536 bytes"),
    "a name twice": (b'{"act_fn": "silu", "act_fn": "relu"}', "act_fn stands in it twice"),
    "a billion layers": (json.dumps(SMALL | {"layers_per_block": 10**9}).encode(), "layers_per_block is 1000000000"),
    "layers of text": (json.dumps(SMALL | {"layers_per_block": "2"}).encode(), "layers_per_block is '2'"),
    "many blocks": (json.dumps(SMALL | {"block_out_channels": [8] * 999}).encode(), "has 999 entries"),
}
WRONG = {
    "groups of none": {"norm_num_groups": 0},
    "channels of text": {"block_out_channels": "8"},
    "half a character": {"act_fn": "\ud800"},
    "too few blocks": {"down_block_types": ["DownEncoderBlock2D"]},
    "an unknown block": {"down_block_types": ["x"] * 4},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_is_named(small, tmp_path, name):
    data, said = CONFIGS[name]
    torch.save(small.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ValueError, match=rf"config\.json: .*{said}") as error:
        Autoencoder(tmp_path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", WRONG)
def test_a_config_of_no_autoencoder_is_one_message(small, tmp_path, name):
    torch.save(small.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(SMALL | WRONG[name]))
    with pytest.raises(ValueError, match="not the weights of an autoencoder") as error:
        Autoencoder(tmp_path)
    assert str(error.value).isprintable()
