"""Autoencoders of 16 and 32 channels: equal to the published ones and to diffusers, told apart, and never guessed."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from PIL import Image
from safetensors.torch import save_file
from small_autoencoders import GOLDENS, dc, kl16, published_shapes, quarter, write_flux, write_va_vae
from vae_goldens import image, latents, latents_of_images

from dit_eval.cli import main
from dit_eval.diffusion.latents import Latents
from dit_eval.images.npz import open_batch
from dit_eval.models.checkpoints import save_dit, stored_config, training_notes
from dit_eval.models.choose import choose_decoder, choose_model
from dit_eval.models.config import DiTConfig, named_config
from dit_eval.models.dit import DiT
from dit_eval.models.latent_space import LatentSpace
from dit_eval.models.vae import Autoencoder
from dit_eval.models.vae_files import latents_of, open_autoencoder
from dit_eval.models.vae_names import in_diffusers_names, ldm_config
from dit_eval.results.sample_run import SampleRun
from dit_eval.system.assets import asset

THEIRS = np.load(GOLDENS / "vae.npz")
SD = LatentSpace()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def va_vae(tmp_path_factory):
    return write_va_vae(tmp_path_factory.mktemp("va-vae"))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    """A folder that diffusers wrote."""
    folder = tmp_path_factory.mktemp("vae") / "sd3"
    kl16().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dc_ae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "dc-ae"
    dc().save_pretrained(folder)
    return folder


def per_channel(values):
    return torch.tensor(values)[:, None, None]


def close(found, expected):
    return np.abs(np.asarray(found) - expected).max() < 1e-5 * np.abs(expected).max()


# ---- equal to the published ones


@torch.inference_mode()
def test_va_vae_is_the_released_one(va_vae):
    notes = []
    ours = Autoencoder(va_vae, on_note=notes.append)
    assert notes == [f"{va_vae}: took the weights under 'state_dict'; left out 'linear_proj', 'loss'"]
    mean, std = ours.encode(image())
    assert mean.shape == (1, 32, 3, 3)
    assert close(mean, THEIRS["va-vae/mean"])
    assert close(std, THEIRS["va-vae/std"])
    space = ours.latents
    scaled = (latents(32, 3) - per_channel(space.shift)) * per_channel(space.scale)
    assert close(ours.decode(scaled), THEIRS["va-vae/images"])


def test_latents_are_normalised_as_lightningdits_data_are(va_vae):
    space = latents_of(va_vae)
    assert (space.channels, space.factor) == (32, 16)
    first = (latents_of_images()[0] - np.array(space.shift)[:, None, None]) * np.array(space.scale)[:, None, None]
    assert close(first, THEIRS["statistics/first"])
    # Its `inference.py`: samples * latent_std / latent_multiplier + latent_mean, with a multiplier of 1.
    back = THEIRS["statistics/first"] * THEIRS["statistics/std"][0] + THEIRS["statistics/mean"][0]
    assert close(first / np.array(space.scale)[:, None, None] + np.array(space.shift)[:, None, None], back)


@torch.inference_mode()
def test_flux_is_the_released_one_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path))
    path = write_flux(tmp_path / "flux-ae.safetensors")
    assert choose_decoder("flux") == asset("flux-ae")
    ours = Autoencoder(path)
    assert ours.latents == latents_of(asset("flux-ae")) == LatentSpace(channels=16, scale=0.3611, shift=0.1159)
    mean, _ = ours.encode(image())
    assert close((mean - 0.1159) * 0.3611, THEIRS["flux/scaled"])
    assert close(ours.decode(latents(16, 6)), THEIRS["flux/images"])


@torch.inference_mode()
def test_sd3s_layout_is_diffusers(sd3):
    theirs, ours = kl16(), Autoencoder(sd3)
    assert ours.latents == LatentSpace(channels=16, scale=1.5305, shift=0.0609)
    mean, std = ours.encode(image())
    expected = theirs.encode(image()).latent_dist
    assert close(mean, expected.mean.numpy())
    assert close(std, expected.std.numpy())
    x = latents(16, 6)
    assert close(ours.decode(x), theirs.decode(x / 1.5305 + 0.0609).sample.numpy())


@torch.inference_mode()
def test_dc_aes_layout_is_diffusers(dc_ae):
    theirs, ours = dc(), Autoencoder(dc_ae)
    assert ours.latents == LatentSpace(channels=32, factor=8, scale=0.3189)
    mean, std = ours.encode(image())
    assert close(mean, theirs.encode(image()).latent.numpy())
    assert not std.any(), "its encoder gives one latent, not a Gaussian"
    x = latents(32, 6)
    assert close(ours.decode(x), theirs.decode(x / 0.3189).sample.numpy())


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["sd3", "va_vae"])
def test_batches_do_not_change_images(kind, request):
    ours = Autoencoder(request.getfixturevalue(kind))
    x = torch.randn(3, ours.latents.channels, 2, 2, generator=torch.Generator().manual_seed(0))
    together = ours.decode(x)
    assert torch.equal(together, torch.cat([ours.decode(each[None]) for each in x]))
    ours._batch = 2  # as on a GPU, where a few go through at once
    torch.testing.assert_close(ours.decode(x), together, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_half_precision_files_are_computed_in_float32(sd3, tmp_path):
    kl16().to(torch.bfloat16).save_pretrained(tmp_path)
    images = Autoencoder(tmp_path).decode(latents(16, 2))
    assert images.dtype == torch.float32
    assert 0 < (images - Autoencoder(sd3).decode(latents(16, 2))).abs().max() < 0.1


# ---- names and shapes of the published files, on the meta device


@pytest.mark.parametrize(("name", "space"), [("va-vae", (32, 16)), ("flux", (16, 8))])
def test_published_names_are_those_of_a_network_of_diffusers(name, space):
    shapes = published_shapes(name)
    config = ldm_config(shapes)
    assert (config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1)) == space
    with torch.device("meta"):
        needed = {each: tuple(value.shape) for each, value in AutoencoderKL.from_config(config).state_dict().items()}
        theirs = {each: torch.empty(shape) for each, shape in shapes.items()}
    assert {each: tuple(value.shape) for each, value in in_diffusers_names(theirs).items()} == needed
    if name == "flux":
        values = 4 * sum(map(np.prod, shapes.values()))
        assert 0 < 335_304_388 - values < 1 << 16, "the size of ae.safetensors, which has a header besides"


# The published config.json of mit-han-lab/dc-ae-f32c32-in-1.0-diffusers and dc-ae-f64c128-in-1.0-diffusers.
DC_AES = {
    "f32c32": ([128, 256, 512, 512, 1024, 1024], 32, 0.3189),
    "f64c128": ([128, 256, 512, 512, 1024, 1024, 2048], 128, 0.2889),
}


@pytest.mark.parametrize("name", DC_AES)
def test_dc_aes_of_full_size_are_known_by_their_config(name, tmp_path):
    widths, channels, scale = DC_AES[name]
    blocks = ["ResBlock"] * 3 + ["EfficientViTBlock"] * (len(widths) - 3)
    attention = [[], [], []] + [[]] * (len(widths) - 3)
    config = {"_class_name": "AutoencoderDC", "latent_channels": channels, "scaling_factor": scale}
    for side, layers in (("encoder", [0, 4, 8, 2, 2, 2, 2]), ("decoder", [0, 5, 10, 2, 2, 2, 2])):
        config |= {
            f"{side}_block_out_channels": widths,
            f"{side}_block_types": blocks,
            f"{side}_layers_per_block": layers[: len(widths)],
            f"{side}_qkv_multiscales": attention,
        }
    config |= {"downsample_block_type": "Conv", "upsample_block_type": "interpolate"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    found = open_autoencoder(tmp_path)
    assert found.latents == LatentSpace(channels=channels, factor=int(name[1:3]), scale=scale)
    with torch.device("meta"):
        model = AutoencoderDC.from_config(found.config)
        images = model.decode(torch.empty(1, channels, 4, 4)).sample
    assert images.shape == (1, 3, 4 * found.latents.factor, 4 * found.latents.factor)


# ---- what stands beside the weights


def rewritten(sd3, folder, **changes):
    """The folder with another config.json; a change to None takes a name away."""
    shutil.copytree(sd3, folder)
    config = json.loads((sd3 / "config.json").read_text()) | changes
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_means_and_deviations_of_a_config_are_those_of_diffusers_pipelines(sd3, tmp_path):
    mean, std = [0.5 * k for k in range(16)], [1.0 + k for k in range(16)]
    folder = rewritten(sd3, tmp_path / "vae", scaling_factor=0.5, shift_factor=None, latents_mean=mean, latents_std=std)
    space = latents_of(folder)
    x = latents(16, 2)
    with torch.inference_mode():
        # StableDiffusionXLPipeline: latents * latents_std / scaling_factor + latents_mean
        expected = kl16().decode(x * per_channel(std) / 0.5 + per_channel(mean)).sample.numpy()
        assert close(Autoencoder(folder).decode(x), expected)
    assert space.shift == tuple(mean)


def test_stable_diffusions_scale_is_told_to_be_taken_for_granted(tmp_path):
    ldm = dict(quarter("flux"))  # with Stable Diffusion's 4 channels
    ldm["decoder.conv_in.weight"] = ldm["decoder.conv_in.weight"][:, :4].contiguous()
    ldm |= {each: ldm[each][:8].contiguous() for each in ("encoder.conv_out.weight", "encoder.conv_out.bias")}
    path = tmp_path / "alone.safetensors"
    save_file(ldm, path)
    notes = []
    assert Autoencoder(path, on_note=notes.append).latents == SD
    assert "0.18215 is taken, Stable Diffusion's" in notes[-1]


def wrong(case, folder, sd3, dc_ae):
    """A path of an autoencoder that is not taken."""
    folder.mkdir()
    if case == "statistics missing":
        return write_va_vae(folder, statistics=False)
    if case == "statistics of another":
        torch.save({"mean": torch.zeros(1, 16, 1, 1), "std": torch.ones(1, 16, 1, 1)}, folder / "latents_stats.pt")
        return write_va_vae(folder, statistics=False)
    if case == "statistics of zero":
        torch.save({"mean": torch.zeros(1, 32, 1, 1), "std": torch.zeros(1, 32, 1, 1)}, folder / "latents_stats.pt")
        return write_va_vae(folder, statistics=False)
    if case == "statistics twice":
        write_va_vae(folder)
        shutil.copytree(sd3, folder, dirs_exist_ok=True)
        torch.save({"mean": torch.zeros(1, 16, 1, 1), "std": torch.ones(1, 16, 1, 1)}, folder / "latents_stats.pt")
        return folder
    if case == "sd3 or flux":
        return write_flux(folder / "ae.safetensors")
    if case == "sd3 or flux, diffusers":
        return shutil.copy(sd3 / "diffusion_pytorch_model.safetensors", folder / "sd3.safetensors")
    if case == "dc-ae without config":
        return shutil.copy(dc_ae / "diffusion_pytorch_model.safetensors", folder / "dc.safetensors")
    if case == "another class":
        return rewritten(sd3, folder / "vae", _class_name="AutoencoderTiny")
    if case == "no scale":
        return rewritten(sd3, folder / "vae", scaling_factor=None)
    if case == "a scale below 0":
        return rewritten(sd3, folder / "vae", scaling_factor=-1.5)
    if case == "a mean alone":
        return rewritten(sd3, folder / "vae", shift_factor=None, latents_mean=[0.0] * 16)
    if case == "other channels":
        return rewritten(sd3, folder / "vae", latents_mean=None, latent_channels=8)
    if case == "mit's names":
        save_file({"decoder.stages.1.op_list.0.main.conv.conv.bias": torch.zeros(3)}, folder / "model.safetensors")
        return folder / "model.safetensors"
    if case == "vq":
        save_file({"quantize.embedding.weight": torch.zeros(3, 4)}, folder / "vq.safetensors")
        return folder / "vq.safetensors"
    if case == "a level without a shape":
        save_file(quarter("flux") | {"encoder.down.1.block.0.conv1.weight": torch.zeros(())}, folder / "ae.safetensors")
        return folder / "ae.safetensors"
    assert case == "a pipeline"
    shutil.copytree(sd3, folder / "vae")
    return folder


WRONG = {
    "statistics missing": r"32 channels at 1/16 .* nothing says how its latents are scaled\. Put latents_stats\.pt",
    "statistics of another": r"found \(1, 16, 1, 1\); expected a mean and a std of 32 channels",
    "statistics of zero": "a std that is not above 0",
    "statistics twice": r"and so does latents_stats\.pt beside it\. Keep the one",
    "sd3 or flux": r"look alike: put the config\.json .*or pass `vae` flux",
    "sd3 or flux, diffusers": r"an AutoencoderKL of 16 channels; expected its config\.json beside it",
    "dc-ae without config": r"an AutoencoderDC; expected its config\.json beside it",
    "another class": "describes AutoencoderTiny; expected AutoencoderKL or AutoencoderDC",
    "no scale": "says no `scaling_factor`; expected it there",
    "a scale below 0": r"Found scale -1\.5 of latents; expected more than 0",
    "a mean alone": "latents_mean and latents_std: expected both",
    "other channels": r"decoder\.conv_in\.weight: found \(16, 16, 3, 3\); the network .* has \(16, 8, 3, 3\)",
    "mit's names": "a DC-AE in the names of its own code; take the folder whose name ends in -diffusers",
    "vq": "a VQ autoencoder",
    "a level without a shape": r"encoder\.down\.1\.block\.0\.conv1\.weight: found nothing; expected the weights",
    "a pipeline": r"The autoencoder of a pipeline is its folder .*vae",
}


@pytest.mark.parametrize("case", WRONG)
def test_other_files_are_named(case, tmp_path, sd3, dc_ae):
    path = wrong(case, tmp_path / "wrong", sd3, dc_ae)
    with pytest.raises((ValueError, FileNotFoundError), match=WRONG[case]) as error:
        Autoencoder(path)
    assert str(error.value).isprintable()
    assert str(tmp_path) in str(error.value)


# ---- latents of a space


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"channels": 0}, "channels 0"),
        ({"factor": 2048}, "factor 2048"),
        ({"scale": 0.0}, "scale 0.0"),
        ({"scale": float("nan")}, "scale nan"),
        ({"scale": (1.0, 2.0)}, "2 numbers as scale of latents; expected 4"),
        ({"shift": "0"}, "shift 0"),
    ],
)
def test_latents_that_there_are_not(values, said):
    with pytest.raises(ValueError, match=said):
        LatentSpace(**values)


def test_latents_come_back_from_their_record():
    assert SD.record is None, "what earlier editions wrote stays as it is"
    assert LatentSpace.of(None) == SD
    for space in (LatentSpace(channels=16, shift=0.1), LatentSpace(channels=2, factor=16, scale=(1.0, 0.1))):
        assert LatentSpace.of(json.loads(json.dumps(space.record))) == space
    with pytest.raises(ValueError, match="'odd' of latents"):
        LatentSpace.of({"odd": 1})


def test_a_networks_input_follows_from_autoencoder_and_size():
    config = named_config("DiT-B/2", image_size=512, latents=LatentSpace(channels=32, factor=32))
    assert (config.in_channels, config.input_size, config.image_size) == (32, 16, 512)
    assert DiTConfig(**config.to_dict()) == config
    assert "latent_factor" not in named_config("DiT-B/2").to_dict(), "earlier editions know no such field"
    with pytest.raises(ValueError, match="multiple of 16, the autoencoder's factor"):
        named_config("DiT-B/2", image_size=264, latents=LatentSpace(factor=16))


@pytest.mark.slow
def test_a_checkpoint_that_says_nothing_takes_what_the_autoencoder_makes(tmp_path):
    path = tmp_path / "theirs.pt"
    torch.save(DiT(DiTConfig(depth=12, hidden_size=384, num_heads=6, patch_size=8, input_size=8)).state_dict(), path)
    choice = choose_model("DiT-S/8", path, image_size=256)
    there = choice.on(LatentSpace(channels=32, factor=16), vae="va-vae")
    assert (there.config.in_channels, there.config.input_size, there.config.image_size) == (32, 16, 256)
    with pytest.raises(ValueError, match=r"takes 4 channels, and the autoencoder makes 32\. Pass by `vae`"):
        there.open()


def test_a_public_checkpoint_does_not_take_other_latents():
    with pytest.raises(ValueError, match=r"`vae` flux: makes latents of 16 channels at 1/8 .* takes 4 channels at 1/8"):
        choose_model(image_size=256).on(LatentSpace(channels=16), vae="flux")


# ---- the commands


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return exit_.value.code or 0, captured.err


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        folder = root / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        pixels = np.random.RandomState(number).randint(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


SIZES = ["--depth", 1, "--hidden-size", 16, "--num-heads", 2, "--patch-size", 1]


@pytest.mark.parametrize(
    ("kind", "shape", "factor"),
    [("sd3", (16, 4, 4), 8), pytest.param("va_vae", (32, 2, 2), 16, marks=pytest.mark.slow)],
)
def test_encode_train_and_sample_on_other_latents(kind, shape, factor, request, pictures, tmp_path, capsys):
    path = request.getfixturevalue(kind)
    data, trained, out = tmp_path / "latents", tmp_path / "run", tmp_path / "samples.npz"
    code, error = run(capsys, "encode", pictures, "--out", data, "--image-size", 32, "--vae", path, "--device", "cpu")
    assert code == 0, error
    encoded, space = Latents(data), latents_of(path)
    assert (encoded.shape, encoded.latents, encoded.identity["latents"]) == (shape, space, space.record)
    mean, _ = encoded.moments(0, mirrored=False)
    x, _ = encoded.read(np.array([0]), np.array([False]), [_NoNoise()])
    scale, shift = (np.reshape(each, (-1, 1, 1)) for each in (space.scale, space.shift))
    np.testing.assert_allclose(x[0], (mean - shift) * scale, rtol=1e-5, atol=1e-6)

    options = ["--steps", 1, "--batch-size", 2, "--save-at", 1, "--num-workers", 0, "--device", "cpu"]
    code, error = run(capsys, "train", "--data", data, "--out", trained, *SIZES, *options)
    assert code == 0, error
    weights = trained / "ema-0000001.safetensors"
    config = stored_config(weights)
    assert (config.in_channels, config.input_size, config.latent_factor, config.image_size) == (*shape[:2], factor, 32)
    assert training_notes(weights)["data"]["latents"] == space.record

    draw = ["sample", "--ckpt", weights, "--num-images", 2, "--num-sampling-steps", 2, "--device", "cpu", "--out", out]
    code, error = run(capsys, *draw, "--vae", path)
    assert code == 0, error
    batch = open_batch(out, role="gen")
    assert batch.image_size == (32, 32)
    assert LatentSpace.of(batch.run.vae_latents) == space
    assert SampleRun.from_json(batch.run.to_json()) == batch.run


class _NoNoise:
    def standard_normal(self, shape, dtype):
        return np.zeros(shape, dtype)


def test_an_autoencoder_that_does_not_fit_is_one_error_before_work(sd3, va_vae, dc_ae, pictures, tmp_path, capsys):
    weights, out = tmp_path / "dit.safetensors", tmp_path / "out.npz"
    latent = {"in_channels": 32, "input_size": 2, "latent_factor": 16}
    save_dit(weights, DiT(DiTConfig(depth=1, hidden_size=16, num_heads=2, patch_size=1, num_classes=3, **latent)))
    for path, found in ((sd3, "16 channels at 1/8"), ("ema", "4 channels at 1/8"), (dc_ae, "32 channels at 1/8")):
        code, error = run(capsys, "sample", "--ckpt", weights, "--vae", path, "--out", out, "--device", "cpu")
        assert code == 2
        assert f"makes latents of {found} of the side" in error
        assert "takes 32 channels at 1/16 of the side. Pass the autoencoder that it was trained with" in error
    code, error = run(capsys, "encode", pictures, "--out", tmp_path / "l", "--image-size", 40, "--vae", va_vae)
    assert code == 2
    assert "--image-size 40: needed a multiple of 16, the autoencoder's factor" in error


def test_latents_that_are_scaled_in_another_way_do_not_go_on(sd3, pictures, tmp_path, capsys):
    data, other = tmp_path / "latents", rewritten(sd3, tmp_path / "sd3", shift_factor=None)  # the same weights
    encode = ["encode", pictures, "--out", data, "--image-size", 32, "--device", "cpu", "--vae"]
    for first, second in ((sd3, other), (other, sd3)):
        shutil.rmtree(data, ignore_errors=True)
        assert run(capsys, *encode, first)[0] == 0
        code, error = run(capsys, *encode, second)
        assert code == 2
        assert re.search(r"is of another run: .*shift: ", error), error


@torch.inference_mode()
def test_dc_ae_decodes_in_tiles(dc_ae):
    ours = Autoencoder(dc_ae, tiling=True)
    ours._model.enable_tiling(32, 32, 24, 24)
    x = latents(32, 6)
    tiled = ours.decode(x)
    assert tiled.shape == (1, 3, 48, 48)
    assert not torch.equal(tiled, Autoencoder(dc_ae).decode(x))


def test_latents_scaled_in_another_way_are_refused(sd3, tmp_path):
    choice = choose_model(ckpt=trained_on(tmp_path / "dit.safetensors", latents_of(sd3)))
    assert choice.on(latents_of(sd3), vae="sd3").latents == latents_of(sd3)
    other = latents_of(rewritten(sd3, tmp_path / "other", scaling_factor=0.3611, shift_factor=0.1159))
    with pytest.raises(ValueError, match=r"scale 0\.3611 and shift 0\.1159; .* trained on latents by scale 1\.5305"):
        choice.on(other, vae="other")


def trained_on(path, space):
    """Weights that say which latents they were trained on, as `dit-eval train` writes them."""
    notes = {"step": 1, "weights": "ema", "recipe": {"batch_size": 1}, "config": {}, "environment": {}}
    data = {"kind": "latents", "latents": space.record}
    config = DiTConfig(depth=1, hidden_size=16, num_heads=2, patch_size=1, in_channels=space.channels, input_size=2)
    save_dit(path, DiT(config), notes={"dit_eval.training": json.dumps(notes | {"data": data})})
    return path


def test_an_index_of_other_latents_than_the_files_is_refused(sd3, pictures, tmp_path, capsys):
    data = tmp_path / "latents"
    code, error = run(capsys, "encode", pictures, "--out", data, "--image-size", 32, "--vae", sd3, "--device", "cpu")
    assert code == 0, error
    index = json.loads((data / "latents.json").read_text())
    assert {name: index[name] for name in ("scale", "channels", "factor", "shift")} == {
        "scale": 1.5305, "channels": 16, "factor": 8, "shift": 0.0609,
    }  # fmt: skip
    (data / "digests.json").unlink()
    for change, said in (
        ({"channels": 4}, r"latents \(16, 4, 4\); latents.json says \(4, 4, 4\)"),
        ({"shift": "0"}, "shift 0"),
    ):
        (data / "latents.json").write_text(json.dumps(index | change))
        with pytest.raises(ValueError, match=said):
            Latents(data)
