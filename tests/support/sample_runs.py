"""Small runs of `dit-eval sample`, and networks of random weights for them."""

import dataclasses

import pytest
import torch

from dit_eval.cli import main
from dit_eval.models.config import DiTConfig
from dit_eval.models.dit import DiT
from dit_eval.results.sample_run import RunFiles, SampleRun
from dit_eval.results.settings import SamplingSettings
from dit_eval.system.environment import environment

DIGITS = ["sample", "--ckpt", "dit-digits", "--num-sampling-steps", "8", "--cfg-scale", "1.5", "--device", "cpu"]


def command(out, *more, images=40):
    return [*DIGITS, "--num-fid-samples", str(images), "--out", str(out), *map(str, more)]


def run(capsys, *arguments):
    """Exit code, stdout, stderr of a command."""
    with pytest.raises(SystemExit) as exit_:
        main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return exit_.value.code or 0, captured.out, captured.err


def make_run(config, **settings):
    standard = SampleRun(
        model="test",
        network=dataclasses.asdict(config),
        checkpoint="test.safetensors",
        checkpoint_sha256="0" * 64,
        image_size=config.image_size,
        num_images=10,
        num_sampling_steps="8",
        environment=environment(),
    )
    return dataclasses.replace(standard, **settings)


def make_flow_run(config, **settings):
    """A run of `SamplingSettings`, all filled in as `SampleRun.of` does; without guidance unless asked for."""
    standard = make_run(config)
    files = RunFiles(
        model="test",
        network=dataclasses.asdict(config),
        image_size=config.image_size,
        checkpoint="test.safetensors",
        checkpoint_sha256="0" * 64,
        weights="ema",
        **({} if "guide_ckpt" not in settings else {"guide_ckpt": "guide", "guide_ckpt_sha256": "1" * 64}),
    )
    asked = SamplingSettings(**{"num_images": 10, "num_sampling_steps": "8", "cfg_scale": 1.0, **settings})
    return dataclasses.replace(SampleRun.of(asked, files, device="cpu"), environment=standard.environment)


def random_dit(**settings):
    """A pixel-space DiT whose every parameter is random: no block is the identity."""
    config = DiTConfig(
        **{"depth": 2, "hidden_size": 32, "num_heads": 2, "patch_size": 2, "input_size": 8, "num_classes": 10}
        | {"in_channels": 3, "space": "pixel"}
        | settings
    )
    torch.manual_seed(0)
    model = DiT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.05)
    return model
