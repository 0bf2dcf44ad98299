"""Folders of images: classes, ADM's centre crop, corrupt files, and latents that survive kill -9."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from filelock import FileLock
from PIL import Image
from training_goldens import CROPS, crop_input

import dit_eval.encoding
from dit_eval.cli import main
from dit_eval.diffusion.data import CorruptImage, list_images, read_image
from dit_eval.diffusion.latents import Latents
from dit_eval.diffusion.recipe import Recipe, Schedule
from dit_eval.diffusion.trainer import draw_batch
from dit_eval.encoding import Encoder, encode
from dit_eval.images.crop import centre_crop
from dit_eval.models import vae_files
from dit_eval.models.checkpoints import stored_config
from dit_eval.models.config import DiTConfig, named_config
from dit_eval.models.latent_space import LatentSpace
from dit_eval.models.vae import Autoencoder
from dit_eval.training import TrainingRun, train

GOLDENS = Path(__file__).parent / "goldens"
SMALL = vae_files.SD_CONFIG | {"block_out_channels": [8, 8, 16, 16], "norm_num_groups": 4, "sample_size": 64}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small are slower on several threads, the more so on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(capsys, *arguments):
    """Exit code, stdout, stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return exit_.value.code or 0, captured.out, captured.err


def save_image(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = 40 + 3 * number, 70 - 2 * number
    pixels = crop_input(width, height)
    pixels[:, : width // 2] //= 1 + number % 3  # so that no mirror image is the image
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pictures(tmp_path):
    """Eleven images in two classes, in several formats."""
    root = tmp_path / "pictures"
    for number in range(11):
        name = f"{number:02d}." + ("png", "JPEG", "bmp")[number % 3]
        save_image(root / ("cat" if number % 2 else "ant") / name, number)
    return root


@pytest.fixture(scope="module")
def small_vae(tmp_path_factory):
    path = tmp_path_factory.mktemp("vae") / "small-vae"
    torch.manual_seed(0)
    AutoencoderKL.from_config(SMALL).save_pretrained(path)
    return path


def command(pictures, out, small_vae, *more):
    options = ["--image-size", 32, "--vae", small_vae, "--device", "cpu", *more]
    return list(map(str, ["encode", pictures, "--out", out, *options]))


# ---- images


def test_the_crop_is_adms():
    # The released function as a black box, on images made by the same rule.
    expected = json.loads((GOLDENS / "training.json").read_text())["crops"]
    assert len(expected) == len(CROPS)
    for (width, height), size in CROPS:
        cropped = centre_crop(Image.fromarray(crop_input(width, height)), size)
        assert cropped.shape == (size, size, 3)
        assert hashlib.sha256(cropped.tobytes()).hexdigest() == expected[f"{width}x{height} to {size}"]


def test_class_folders_become_labels(pictures):
    (pictures / "cat" / "deeper").mkdir()
    save_image(pictures / "cat" / "deeper" / "11.png", 4)
    (pictures / "cat" / ".hidden.png").write_bytes(b"")
    (pictures / "cat" / "notes.txt").write_text("not an image")
    folder = list_images(pictures, image_size=16)
    assert folder.classes == ("ant", "cat")
    assert (len(folder), folder.num_classes, folder.shape, folder.space) == (12, 2, (3, 16, 16), "pixel")
    assert folder.files[0] == "ant/00.png"
    assert folder.labels.tolist() == [name.startswith("cat") for name in folder.files]
    x0, labels = folder.read(np.array([7, 2]), np.array([False, True]), [])
    assert (x0.shape, x0.dtype, labels.tolist()) == ((2, 3, 16, 16), np.float32, [1, 0])
    for row, index, mirrored in ((x0[0], 7, False), (x0[1], 2, True)):
        pixels = read_image(pictures / folder.files[index], 16)
        pixels = pixels[:, ::-1] if mirrored else pixels
        np.testing.assert_allclose(row, pixels.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)


def test_images_without_class_folders_are_of_one_class(tmp_path):
    for number in range(3):
        save_image(tmp_path / f"{number}.png", number)
    folder = list_images(tmp_path, image_size=16)
    assert (folder.classes, folder.num_classes, folder.labels.tolist()) == ((), 1, [0, 0, 0])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_other_colour_modes_become_rgb(tmp_path, mode):
    image = Image.fromarray(crop_input(40, 30))
    if mode == "I;16":
        image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54)
    elif mode != "RGB":
        image = image.convert(mode)
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    image.save(path)
    pixels = read_image(path, 16)
    assert (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)
    assert np.ptp(pixels) > 20


def damage(path, kind):
    whole = path.read_bytes()
    broken = {"empty": b"", "text": b"no image at all", "truncated": whole[: len(whole) // 2]}
    path.write_bytes(broken[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_corrupt_image_is_named(tmp_path, kind, suffix):
    path = tmp_path / f"broken.{suffix}"
    save_image(path, 1)
    damage(path, kind)
    with pytest.raises(CorruptImage, match=rf"broken\.{suffix}: cannot be read as an image"):
        read_image(path, 16)


def test_training_on_a_folder(pictures, tmp_path, capsys):
    sizes = ["--depth", 1, "--hidden-size", 16, "--num-heads", 2, "--patch-size", 4, "--image-size", 8]
    options = [*sizes, "--data", pictures, "--steps", 3, "--batch-size", 6, "--log-every", 1, "--device", "cpu"]
    assert run(capsys, "train", *options, "--out", tmp_path / "run")[0] == 0
    config = stored_config(tmp_path / "run" / "ema-0000003.safetensors")
    assert (config.input_size, config.in_channels, config.num_classes) == (8, 3, 2)
    damage(pictures / "ant" / "06.png", "truncated")
    code, _, error = run(capsys, "train", *options, "--out", tmp_path / "stops")
    assert code == 2
    assert re.search(r"ant/06\.png: cannot be read as an image", error)
    code, _, error = run(capsys, "train", *options, "--out", tmp_path / "skips", "--on-corrupt", "skip")
    assert code == 0
    assert error.count("skipped: ") == 1
    assert "ant/06.png" in error
    written = json.loads((tmp_path / "skips" / "run.json").read_text())
    assert written["data"]["images"] == 10


# ---- latents


def posterior(path, pixels):
    """Mean and standard deviation of one image (H, W, 3) by diffusers itself."""
    model = AutoencoderKL.from_pretrained(path).eval()
    x = torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1)
    with torch.inference_mode():
        found = model.encode(x.float()).latent_dist
    return found.mean[0].numpy(), found.std[0].numpy()


def test_encoding_is_that_of_diffusers(pictures, small_vae, tmp_path, capsys):
    out = tmp_path / "latents"
    code, output, _ = run(capsys, *command(pictures, out, small_vae))
    assert (code, output) == (0, f"{out}: 11 images and their mirror images, 2 classes\n")
    assert not (tmp_path / "latents.parts").exists()
    latents, folder = Latents(out), list_images(pictures, image_size=32)
    assert (len(latents), latents.shape, latents.num_classes, latents.space) == (11, (4, 4, 4), 2, "latent")
    assert isinstance(latents._shards[0], np.memmap)
    np.testing.assert_array_equal(latents.labels, folder.labels)
    assert (out / "files.txt").read_text().split("\n")[:-1] == list(folder.files)
    for index in (0, 7):
        pixels = folder.image(index)
        for mirrored in (False, True):
            expected = posterior(small_vae, pixels[:, ::-1] if mirrored else pixels)
            for ours, theirs in zip(latents.moments(index, mirrored), expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert np.abs(latents.moments(index, True)[0] - latents.moments(index, False)[0]).max() > 1e-3
    assert json.loads((out / "latents.json").read_text())["scale"] == LatentSpace.scale == 0.18215


def test_the_posterior_is_sampled_at_each_visit(pictures, small_vae, tmp_path, capsys):
    out = tmp_path / "latents"
    assert run(capsys, *command(pictures, out, small_vae))[0] == 0
    latents = Latents(out)
    count = 4000
    generators = [np.random.Generator(np.random.Philox(key=np.array([0, i], np.uint64))) for i in range(count)]
    x0, _ = latents.read(np.full(count, 3), np.zeros(count, bool), generators)
    mean, std = latents.moments(3, False)
    error = np.abs(x0.mean(0) / 0.18215 - mean) / std
    assert error.max() < 6 / np.sqrt(count)
    np.testing.assert_allclose(x0.std(0) / 0.18215, std, rtol=0.1)
    config = DiTConfig(depth=1, hidden_size=16, num_heads=2, patch_size=2, input_size=4, num_classes=2)
    recipe = Recipe(batch_size=11)
    first, second = (draw_batch(latents, config, recipe, step=step, positions=range(11)) for step in (0, 1))
    again = draw_batch(latents, config, recipe, step=0, positions=range(11))
    assert torch.equal(first.x0, again.x0)
    flat = torch.cat([first.x0.flatten(1), second.x0.flatten(1)])
    assert torch.pdist(flat).min() > 0, "no two visits see the same latent"


def test_a_named_model_trains_on_latents(pictures, small_vae, tmp_path, capsys, monkeypatch):
    out = tmp_path / "latents"
    assert run(capsys, *command(pictures, out, small_vae, "--image-size", 64, "--half"))[0] == 0
    config = DiTConfig(depth=1, hidden_size=16, num_heads=2, patch_size=4, input_size=8, num_classes=2)
    assert Latents(out)._shards[0].dtype == np.float16
    recipe, schedule = Recipe(batch_size=4), Schedule(steps=2)
    train(tmp_path / "run", TrainingRun(config=config, data=Latents(out), recipe=recipe, schedule=schedule))
    asked = []

    def stand_in(_, asked_for, **more):
        asked.append(asked_for)
        raise ValueError("far enough")

    monkeypatch.setattr("dit_eval.training.train", stand_in)
    options = ["--model", "DiT-XL/2", "--data", out, "--out", tmp_path / "named"]
    assert "far enough" in run(capsys, "train", *options)[2]
    assert asked[0].config == dataclasses.replace(named_config("DiT-XL/2", image_size=64), num_classes=2)
    assert (asked[0].recipe, asked[0].schedule) == (Recipe(), Schedule())
    assert (asked[0].schedule.steps, asked[0].schedule.save_every) == (400_000, 50_000)
    code, _, error = run(capsys, "train", *options, "--image-size", 64)
    assert (code, "has its own size" in error) == (2, True)


def test_encode_checks_its_images(small_vae):
    autoencoder = Autoencoder(small_vae)
    with pytest.raises(ValueError, match="multiples of 8"):
        autoencoder.encode(torch.zeros(1, 3, 12, 16))
    with pytest.raises(ValueError, match=r"needed \(N, 3, H, W\)"):
        autoencoder.encode(torch.zeros(1, 4, 16, 16))


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(dit_eval.encoding, "_SHARD", 4)


def test_corrupt_images_are_skipped_or_refused(small_shards, pictures, small_vae, tmp_path, capsys):
    out = tmp_path / "latents"
    damage(pictures / "cat" / "05.bmp", "truncated")
    damage(pictures / "cat" / "09.png", "empty")
    code, output, error = run(capsys, *command(pictures, out, small_vae))
    assert (code, output) == (2, "")
    assert "cat/05.bmp: cannot be read as an image" in error
    assert "--on-corrupt skip" in error
    assert not out.exists()
    assert len(list((tmp_path / "latents.parts").glob("moments-*.npy"))) == 2, "what is finished is kept"
    code, output, error = run(capsys, *command(pictures, out, small_vae, "--on-corrupt", "skip"))
    assert code == 0
    assert "2 files of up to 4 images are here already" in error
    notes = re.findall(r"^skipped: \S+/cat/(\S+): cannot be read", error.replace("\r", "\n"), re.MULTILINE)
    assert notes == ["05.bmp", "09.png"]
    assert output == f"{out}: 9 images and their mirror images, 2 classes, 2 skipped\n"
    index = json.loads((out / "latents.json").read_text())
    assert list(index["skipped"]) == ["cat/05.bmp", "cat/09.png"]
    latents, files = Latents(out), (out / "files.txt").read_text().split("\n")[:-1]
    assert (len(latents), len(files)) == (9, 9)
    for row, name in enumerate(files):
        expected, _ = posterior(small_vae, read_image(pictures / name, 32))
        np.testing.assert_allclose(latents.moments(row, False)[0], expected, rtol=1e-4, atol=1e-5)
        assert latents.labels[row] == name.startswith("cat")


def test_a_file_of_skipped_images_only(small_shards, pictures, small_vae, tmp_path, capsys):
    for path in (pictures / "ant").iterdir():
        damage(path, "text")
    out = tmp_path / "latents"
    code, output, _ = run(capsys, *command(pictures, out, small_vae, "--on-corrupt", "skip"))
    assert (code, "5 images" in output) == (0, True)
    assert Latents(out).labels.tolist() == [1] * 5
    for path in (pictures / "cat").iterdir():
        damage(path, "text")
    code, _, error = run(capsys, *command(pictures, tmp_path / "none", small_vae, "--on-corrupt", "skip"))
    assert (code, "none of the 11 images can be read" in error) == (2, True)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "settings.json"}


def test_killed_and_continued_gives_the_same_bytes(forks, small_shards, pictures, small_vae, tmp_path, capsys):
    whole = tmp_path / "whole"
    assert run(capsys, *command(pictures, whole, small_vae))[0] == 0
    for at in ("moments-000001.npy", None):  # each other file, in-process: tests/system/test_run_folder.py
        out = tmp_path / f"cut at {at}"
        where = {"die_in": "replace", "shard": 4} | ({"at": at} if at else {})
        assert forks(command(pictures, out, small_vae), **where)["statuses"] == [-9]
        assert not out.exists()
        begun = {path: path.stat().st_mtime_ns for path in Path(f"{out}.parts").glob("moments-*")}
        assert len(begun) == (1 if at else 3)
        code, _, error = run(capsys, *command(pictures, out, small_vae))
        assert code == 0
        assert "going on" in error
        for path, written in begun.items():
            assert (out / path.name).stat().st_mtime_ns == written, "not done again"
        assert contents(out) == contents(whole)
    code, _, error = run(capsys, *command(pictures, whole, small_vae))
    assert (code, "complete already" in error) == (0, True)


def test_two_processes_encode_the_same_bytes(forks, small_shards, pictures, small_vae, tmp_path, capsys):
    whole, two = tmp_path / "whole", tmp_path / "two"
    assert run(capsys, *command(pictures, whole, small_vae))[0] == 0
    job = forks(command(pictures, two, small_vae), ranks=2, shard=4)
    assert job["statuses"] == [0, 0], job["stderr"]
    assert job["stderr"].count("11 images and their mirror images") == 1
    assert contents(two) == contents(whole)


def test_another_run_at_the_output_is_refused(pictures, small_vae, tmp_path, capsys):
    out = tmp_path / "latents"
    assert run(capsys, *command(pictures, out, small_vae))[0] == 0
    code, _, error = run(capsys, *command(pictures, out, small_vae, "--image-size", 40))
    assert (code, "image_size: 40, 32 (now, there)" in error) == (2, True)
    save_image(pictures / "cat" / "new.png", 4)
    code, _, error = run(capsys, *command(pictures, out, small_vae))
    assert (code, "listing_sha256" in error) == (2, True)
    with FileLock(tmp_path / ".latents.lock"):
        code, _, error = run(capsys, *command(pictures, out, small_vae))
    assert (code, "another process is encoding" in error) == (2, True)
    (tmp_path / "other").mkdir()
    code, _, error = run(capsys, *command(pictures, tmp_path / "other", small_vae))
    assert (code, "is no folder of latents" in error) == (2, True)


def test_damaged_latents_are_refused(pictures, tmp_path):
    folder, out = list_images(pictures, image_size=16), tmp_path / "latents"

    def posterior(images):
        return np.zeros((len(images), 4, 2, 2), np.float32), np.ones((len(images), 4, 2, 2), np.float32)

    encode(folder, out, encoder=Encoder(encode=posterior, vae="test", vae_sha256="0", latents=LatentSpace(scale=1.0)))
    assert Latents(out).identity["images"] == 11
    shard = out / "moments-000000.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    with pytest.raises(ValueError, match="damaged"):
        Latents(out)
    shard.write_bytes(whole)
    np.save(out / "labels.npy", np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"labels\.npy: damaged; it is not as it was written"):
        Latents(out)
    (out / "digests.json").unlink()  # as of an earlier version
    with pytest.raises(ValueError, match="other lengths"):
        Latents(out)
    with pytest.raises(FileNotFoundError, match="make them by `dit-eval encode`"):
        Latents(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: "{}/nowhere", "no such folder"),
        (lambda root: (root / "empty").mkdir(), "a class without images"),
        (lambda root: save_image(root / "loose.png", 0), "beside class folders has no class"),
        (lambda root: [path.unlink() for path in root.rglob("*") if path.is_file()], "a class without images"),
    ],
)
def test_odd_folders_are_explained(pictures, small_vae, tmp_path, capsys, change, said):
    changed = change(pictures)
    root = changed.format(tmp_path) if isinstance(changed, str) else pictures
    code, output, error = run(capsys, *command(root, tmp_path / "latents", small_vae))
    assert (code, output) == (2, "")
    assert said in error
    assert not (tmp_path / "latents.parts").exists()


def test_odd_options_are_explained(pictures, small_vae, tmp_path, capsys):
    for options, said in (
        (["--image-size", 30], "--image-size 30: needed a multiple of 8"),
        (["--vae", "emma"], "no autoencoder there"),
        (["--on-corrupt", "ignore"], "unknown choice 'ignore'"),
        (["--device", "cuda:9"], "PyTorch sees"),
        (["--num-workers", -1], "--num-workers: expected at least 0; got -1"),
    ):
        code, output, error = run(capsys, *command(pictures, tmp_path / "latents", small_vae, *options))
        assert (code, output) == (2, "")
        assert said in error
        assert not list(tmp_path.glob("*latents*"))
