"""Mistakes are told before anything is downloaded, and what a checkpoint is before the decoder is."""

import argparse
import dataclasses
import re

import numpy as np
import pytest
import torch
from PIL import Image
from small_vae import SMALL, random_vae

from dit_eval import cli
from dit_eval.images.npz import open_batch
from dit_eval.models import names
from dit_eval.models.config import named_config
from dit_eval.models.dit import DiT


class Downloaded(Exception):
    """Where a download would begin."""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty cache; any download ends the command, with its address in the list that is given here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIT_EVAL_CACHE", str(tmp_path / "cache"))
    addresses = []

    def refuse(url, *_, **__):
        addresses.append(url)
        raise Downloaded(url)

    monkeypatch.setattr("dit_eval.system.assets.download", refuse)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    return addresses


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def refused(capsys, addresses, said, *arguments):
    code, output, error = run(capsys, *arguments)
    assert (code, output, addresses) == (2, "", []), error
    assert re.search(said, error), error
    assert "Traceback" not in error


@pytest.fixture
def small(monkeypatch):
    """DiT-S as a network that is made and saved at once, for images of 64 px."""
    monkeypatch.setitem(names.SIZES, "S", (2, 32, 2))
    torch.manual_seed(0)
    return named_config("DiT-S/2", image_size=64)


def state_of(config, rows=None):
    state = DiT(config).state_dict()
    if rows is not None:
        state["y_embedder.embedding_table.weight"] = torch.randn(rows, config.hidden_size)
    return state


SMALL_MODEL = ("--ckpt", "x.pt", "--model", "DiT-S/2", "--image-size", "64")

# With the public checkpoint and decoder, of which neither is there.
OF_PUBLIC = {
    "steps": (("--num-sampling-steps", "1001"), "a section of 1000 steps cannot give 1001"),
    "steps of DDIM": (("--num-sampling-steps", "ddim256"), "nearest are ddim200 and ddim250"),
    "guidance": (("--cfg-scale", "0.5"), "Guidance scale 0.5: needed 1.0 or more"),
    "channels": (("--cfg-channels", "5"), "Guidance on 5 channels: the model has 4"),
    "number": (("--num-fid-samples", "0"), "0 images asked for"),
    "seed": (("--global-seed", "-1"), "Seed -1"),
    "precision": (("--precision", "tf32", "--device", "cpu"), "tf32 is arithmetic of NVIDIA GPUs"),
    "device": (("--device", "cuda"), "PyTorch sees 0 GPU"),
    "batch": (("--per-proc-batch-size", "0"), "needed at least 1"),
    "no labels there": (("--labels", "nowhere.txt"), "nowhere.txt: no such file"),
    "labels": (("--labels", "labels.txt"), "label 1000 of image 3 is no class; the model knows 0 to 999"),
    "too few labels": (("--labels", "labels.txt", "--num-fid-samples", "9"), "4 labels; needed 9"),
    "decoder": (("--vae", "nowhere.safetensors"), "nowhere.safetensors: no autoencoder there"),
    "block": (("--block", "adaln"), "No public checkpoint of this model"),
    "model by name": (("--ckpt", "dit-xl-2-256", "--model", "DiT-B/4"), "depth 28, asked for 12"),
    "size by name": (("--ckpt", "dit-xl-2-256", "--image-size", "512"), "image_size 256, asked for 512"),
    "size by name, and model": (
        ("--ckpt", "dit-xl-2-512", "--model", "DiT-XL/2", "--image-size", "256"), "image_size 512, asked for 256"
    ),
    "classes by name": (("--ckpt", "dit-xl-2-256", "--num-classes", "10"), "num_classes 1000, asked for 10"),
    "block by name": (("--ckpt", "dit-xl-2-512", "--block", "adaln"), "block adaln-zero, asked for adaln"),
}  # fmt: skip


@pytest.mark.parametrize("case", OF_PUBLIC)
def test_mistakes_cost_no_download_of_a_checkpoint(place, tmp_path, capsys, case):
    options, said = OF_PUBLIC[case]
    (tmp_path / "labels.txt").write_text("0\n999\n5\n1000\n")
    count = () if "--num-fid-samples" in options else ("--num-fid-samples", "4")
    refused(capsys, place, said, "sample", "--out", "out.npz", *count, *options)


@pytest.mark.parametrize("options", [(), ("--ckpt", "dit-xl-2-512"), ("--image-size", "512", "--vae", "mse")])
def test_without_a_mistake_the_checkpoint_is_fetched_first(place, options):
    with pytest.raises(Downloaded):
        cli.main(["sample", "--out", "out.npz", "--num-fid-samples", "4", *options])
    (address,) = place
    assert address.endswith(f"/DiT-XL-2-{'512x512' if options else '256x256'}.pt")


# Of a checkpoint that is there, and the public decoder that is not.
OF_FILES = {
    "no DiT": (lambda c: {"fc.weight": torch.zeros(3)}, (), r"not a checkpoint of a DiT \(found fc.weight"),
    "another size": (
        lambda c: state_of(dataclasses.replace(c, input_size=16)), (), "for images of 128 px; this model for 64 px"
    ),
    "a tensor missing": (
        lambda c: {k: v for k, v in state_of(c).items() if k != "final_layer.linear.bias"}, (), "missing final_layer"
    ),
    "its average has no names": (
        lambda c: {"model": state_of(c), "ema": {"shadow_params": []}}, (), "or take the others \\(--weights model\\)"
    ),
    "labels": (state_of, ("--labels", "labels.txt"), "label 1000 of image 3 is no class; the model knows 0 to 999"),
    "labels of fewer classes": (
        lambda c: {"ema": state_of(c, 11), "args": argparse.Namespace(num_classes=10)}, ("--labels", "labels.txt"),
        "label 999 of image 1 is no class; the model knows 0 to 9",
    ),
    "guidance without the label for it": (
        lambda c: state_of(c, 10), ("--num-classes", "10"), r'no label for "no label".*--cfg-scale 1\.0'
    ),
    "classes that cannot be told": (
        lambda c: state_of(c, 10), (), "Pass --num-classes 10 or --num-classes 9"
    ),
    "other classes than it says": (
        lambda c: {"ema": state_of(c, 10), "args": argparse.Namespace(num_classes=10)}, ("--num-classes", "9"),
        "of 10 classes, as the settings in it say; asked for 9",
    ),
    "steps": (lambda c: {}, ("--num-sampling-steps", "many"), "needed a number such as"),
    "decoder": (lambda c: {}, ("--vae", "nowhere"), "nowhere: no autoencoder there"),
}  # fmt: skip


@pytest.mark.parametrize("case", OF_FILES)
def test_mistakes_cost_no_download_of_a_decoder(place, tmp_path, capsys, small, case):
    make, options, said = OF_FILES[case]
    (tmp_path / "labels.txt").write_text("0\n999\n5\n1000\n")
    torch.save(make(small), "x.pt")
    refused(capsys, place, said, "sample", "--out", "out.npz", "--num-fid-samples", "4", *SMALL_MODEL, *options)


def test_the_decoder_is_fetched_when_the_checkpoint_is_read(place, small):
    torch.save(state_of(small), "x.pt")
    with pytest.raises(Downloaded, match="sd-vae-ft-ema"):
        cli.main(["sample", "--out", "out.npz", "--num-fid-samples", "4", *SMALL_MODEL])


@pytest.mark.parametrize(
    ("rows", "settings", "options", "classes", "dropout"),
    [
        (10, {"args": argparse.Namespace(num_classes=10)}, (), 10, 0.0),
        (10, {}, ("--num-classes", "10"), 10, 0.0),
        (1, {}, (), 1, 0.0),
        (11, {"args": argparse.Namespace(num_classes=10)}, (), 10, 0.1),
    ],
)
def test_classes_are_drawn_as_the_checkpoint_has_them(
    place, tmp_path, capsys, small, rows, settings, options, classes, dropout
):
    random_vae(SMALL).save_pretrained("vae")
    state = {f"_orig_mod.{name}": value for name, value in state_of(small, rows).items()}
    torch.save({"model": state, **settings}, "x.pt")
    guidance = ("--cfg-scale", "1.5" if dropout else "1.0")
    code, _, error = run(
        capsys, "sample", "--out", "out.npz", "--num-fid-samples", 2, "--num-sampling-steps", 2, "--vae", "vae",
        "--labels", "balanced", *guidance, *SMALL_MODEL, *options,
    )  # fmt: skip
    assert code == 0, error
    notes = [line for line in error.splitlines() if line.startswith("note: x.pt: ")]
    assert notes[0] == (
        "note: x.pt: took the weights under 'model'; took '_orig_mod.' off their names; found no averaged weights (ema)"
    )
    none = f'note: x.pt: {classes} classes, and none for "no label": it draws without guidance'
    assert notes[1:] == ([] if dropout else [none])
    batch = open_batch("out.npz", role="gen")
    np.testing.assert_array_equal(batch.labels, np.arange(2) % classes)
    assert (batch.run.network["num_classes"], batch.run.network["label_dropout"]) == (classes, dropout)
    assert batch.run.weights == "model", "not the averaged ones that are asked for where there are both"
    assert place == []


# ---- the same of the other commands

NETWORK = {
    "extractor": (("--extractor", "digits", "--precision", "bf16"), "--extractor digits carries its own weights"),
    "batch": (("--batch-size", "0"), "--batch-size 0: needed at least 1"),
    "weights": (("--weights", "nowhere.pth"), "--weights nowhere.pth: no such file"),
    "device": (("--device", "cuda"), "PyTorch sees 0 GPU"),
    "precision": (("--precision", "tf32", "--device", "cpu"), "tf32 is arithmetic of NVIDIA GPUs"),
}
METRICS = {
    "unknown metric": (("--metrics", "fid,lpips"), "Unknown metric lpips"),
    "metric of another network": (("--metrics", "cmmd"), "cmmd is not defined on the features of inception"),
    "no such samples": ((), "no.npz: no such file"),
    "another size": ((), "images of 8x8, imagenet256 of 256x256"),
}
COMMANDS = {
    "evaluate": (("--ref", "imagenet256", "--no-results"), NETWORK | METRICS),
    "classes": (("--ref", "imagenet256"), NETWORK),
    "diagnose": (("--ref", "imagenet256", "--network"), NETWORK),
    "stats": (("--out", "ref.npz"), NETWORK),
}


@pytest.mark.parametrize(("command", "case"), [(name, case) for name, (_, cases) in COMMANDS.items() for case in cases])
def test_options_of_the_network_cost_no_download(place, capsys, command, case):
    always, cases = COMMANDS[command]
    options, said = cases[case]
    np.savez("s.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8), arr_1=np.arange(4))
    samples = "no.npz" if case == "no such samples" else "s.npz"
    refused(capsys, place, said, command, samples, *always, *options)


def test_the_reference_is_fetched_when_the_samples_are_right(place):
    np.savez("s.npz", arr_0=np.zeros((4, 256, 256, 3), np.uint8))
    with pytest.raises(Downloaded, match="VIRTUAL_imagenet256_labeled"):
        cli.main(["evaluate", "s.npz", "--ref", "imagenet256", "--device", "cpu"])


def images(folder):
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / label / "0.png")


TRAIN = {
    "block": (("--block", "adaln-two"), "--block adaln-two: unknown"),
    "steps": (("--steps", "0"), "--steps: expected at least 1; got 0"),
    "save-at": (("--save-at", "5,99", "--steps", "10"), "--save-at: expected steps from 1 to 10, .*; got 99"),
    "dropout": (("--label-dropout", "1.5"), "--label-dropout 1.5"),
    "heads": (("--num-heads", "3"), "Hidden size 32: needed a multiple of 4 .* and of 3 heads"),
    "classes": (("--num-classes", "1"), "The data have labels up to 1; the model knows 1"),
    "patch": (("--patch-size", "3"), "does not divide into patches of 3"),
    "batch": (("--per-proc-batch-size", "0"), "--per-proc-batch-size: expected at least 1; got 0"),
}


@pytest.mark.parametrize("case", TRAIN)
def test_a_mistake_of_training_is_told_before_all_images_are_opened(place, tmp_path, capsys, monkeypatch, case):
    from dit_eval.diffusion.data import ImageFolder

    monkeypatch.setattr(ImageFolder, "image", lambda *_: pytest.fail("an image was opened"))
    images(tmp_path / "images")
    options, said = TRAIN[case]
    sizes = ("--depth", "1", "--hidden-size", "32", "--num-heads", "2", "--patch-size", "2")
    data = ("--data", "images", "--image-size", "8", "--on-corrupt", "skip", "--batch-size", "2", "--device", "cpu")
    refused(capsys, place, said, "train", "--out", "run", *sizes, *data, *options)


def test_encoding_looks_for_its_decoder_before_the_images(place, tmp_path, capsys, monkeypatch):
    images(tmp_path / "images")
    monkeypatch.setattr("dit_eval.diffusion.data.list_images", lambda *_, **__: pytest.fail("the folder was listed"))
    refused(capsys, place, "nowhere: no autoencoder there", "encode", "images", "--out", "latents", "--vae", "nowhere")


PLAN = """
name = "small"
about = "one small model"
[data]
train = "images"
ref = "imagenet256"
extractor = "inception"
space = "pixel"
image_size = 8
channels = 3
num_classes = 2
[models]
"mini-S/4" = { depth = 1, hidden_size = 32, num_heads = 2, patch_size = 4 }
[training]
batch_size = 2
[sampling]
num_samples = 4
[[cells]]
models = "all"
training_steps = 2
sampling_steps = 4
"""
STUDY = {
    "weights": ("", ("--weights", "nowhere.pth"), "--weights nowhere.pth: no such file"),
    "data": ("", ("--data", "nowhere"), "--data nowhere: no such file"),
    "classes": ("num_classes = 2", (), "The data have labels up to 1; the model knows 1"),
    "images of another kind": ("channels = 3", (), "The data are .*; the model needs"),
}


@pytest.mark.parametrize("case", STUDY)
def test_a_plan_that_does_not_fit_its_data_costs_no_download(place, tmp_path, capsys, case):
    images(tmp_path / "images")
    line, options, said = STUDY[case]
    (tmp_path / "plan.toml").write_text(PLAN.replace(line, line[:-1] + "1") if line else PLAN)
    refused(capsys, place, said, "study", "run", "plan.toml", "--out", "study", *options)


def test_the_reference_of_a_plan_is_fetched_when_the_rest_is_right(place, tmp_path, capsys):
    images(tmp_path / "images")
    (tmp_path / "plan.toml").write_text(PLAN)
    with pytest.raises(Downloaded, match="VIRTUAL_imagenet256_labeled"):
        cli.main(["study", "run", "plan.toml", "--out", "study"])
    assert "fetching imagenet256" in capsys.readouterr().err
