"""What may be asked for when images are drawn, and the record that is made of it."""

import dataclasses
import json

import pytest

from dit_eval.results.sample_run import RunFiles, SampleRun
from dit_eval.results.settings import SamplingSettings
from dit_eval.system.settings import settings_of

FILES = RunFiles(
    model="DiT-XL/2",
    network={"in_channels": 4, "num_classes": 1000},
    image_size=256,
    checkpoint="x.pt",
    checkpoint_sha256="1" * 64,
    weights="ema",
    vae="ema",
    vae_sha256="2" * 64,
)
# The keys of the JSON in a sample file, in their order, as the first files had them.
KEYS = (
    "model", "network", "checkpoint", "checkpoint_sha256", "image_size", "weights", "num_images", "num_sampling_steps",
    "sampler", "cfg_scale", "cfg_channels", "vae", "vae_sha256", "vae_tiling", "labels", "labels_sha256", "rounding",
    "global_seed", "noise", "precision", "compiled", "device", "training_steps", "training_batch_size", "environment",
    "earlier_environments",
)  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_images": 0}, "0 images asked for"),
        ({"num_images": "3"}, "num_images: expected an integer, at least 1 and at most 10,000,000; got '3'"),
        ({"cfg_scale": 0.5}, "Guidance scale 0.5: needed 1.0 or more"),
        ({"cfg_scale": float("nan")}, "Guidance scale nan"),
        ({"cfg_scale": float("inf")}, "Guidance scale inf"),
        ({"cfg_channels": 0}, "Guidance on 0 channels"),
        ({"global_seed": -1}, "Seed -1"),
        ({"global_seed": 1 << 63}, "Seed 9223372036854775808"),
        ({"sampler": "euler"}, "Unknown sampler 'euler'"),
        ({"precision": "fp16"}, "precision: .*'fp16'"),
        ({"rounding": "up"}, "rounding: .*'up'"),
        ({"image_size": 0}, "image_size: expected at least 1; got 0"),
        ({"compiled": 1}, "compiled: expected true or false; got 1"),
    ],
)
def test_wrong_settings_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        SamplingSettings(**wrong)


def test_every_setting_has_its_help():
    assert all(setting.help for setting in settings_of(SamplingSettings))


def test_a_record_has_every_setting_that_moves_a_pixel():
    choice = {"num_classes", "block"}  # they are in the network
    settings = {field.name for field in dataclasses.fields(SamplingSettings)}
    assert settings - choice <= {field.name for field in dataclasses.fields(SampleRun)}


def test_the_record_of_a_run():
    asked = SamplingSettings(
        num_images=5, num_sampling_steps=50, cfg_scale=4, sampler="ddim", vae_tiling=True, labels="labels.npy",
        rounding="truncate", global_seed=3, precision="bf16", compiled=True,
    )  # fmt: skip
    run = SampleRun.of(asked, FILES, device="cuda:1")
    assert tuple(json.loads(run.to_json())) == KEYS
    assert (run.num_sampling_steps, run.cfg_scale, run.cfg_channels, run.labels) == ("50", 4.0, 3, "file")
    assert isinstance(run.cfg_scale, float)
    assert (run.device, run.vae_tiling, run.environment["dit_eval"]) == ("cuda", True, "0.1.0")
    assert SampleRun.from_json(run.to_json()) == run
    again = SampleRun.of(dataclasses.replace(run.settings, labels=asked.labels), FILES, device="cuda")
    assert again.differences(run) == []


def test_without_guidance_and_in_pixel_space_nothing_is_recorded_of_either():
    pixels = dataclasses.replace(FILES, vae=None, vae_sha256=None, network={"in_channels": 1})
    run = SampleRun.of(SamplingSettings(cfg_scale=1.0, cfg_channels=2, vae_tiling=True), pixels, device="cpu")
    assert (run.cfg_channels, run.vae, run.vae_tiling) == (None, None, False)
    assert SampleRun.of(SamplingSettings(), pixels, device="cpu").cfg_channels == 1, "no more than there are"


def test_a_record_of_an_older_version_is_read():
    old = {"model": "x", "network": {}, "checkpoint": "x.pt", "checkpoint_sha256": "0" * 64, "image_size": 8}
    run = SampleRun.from_json(json.dumps(old))
    assert (run.cfg_scale, run.sampler, run.training_steps) == (1.0, "ddpm", None), "what it meant, not today's default"
