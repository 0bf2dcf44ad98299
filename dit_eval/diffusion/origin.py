"""What weights were trained for, beside what a sampler takes them for: by their name, by what is in their file, or by
how the network answers noise where neither says it."""

from __future__ import annotations

import math

import torch

from dit_eval.diffusion.spacing import NUM_TRAIN_STEPS
from dit_eval.models.choose import FLOW_FAMILIES
from dit_eval.models.dit import DiT
from dit_eval.models.recognise import Origin, Program
from dit_eval.results.settings import SamplingSettings

# How each program draws, in our words.
_COMMANDS: dict[Program, str] = {
    "DiT": "`sampler` ddpm, or one of flows with `time` ddpm",
    "SiT": "`sampler` sde-euler",
    "REPA": "`sampler` sde-euler `time` repa `cfg_channels` 4",
    "LightningDiT": "`sampler` ode-euler `timestep_shift` 0.3",
}

# What each network is told where all is noise, and the sign by which its answer goes with the noise there: DDPM's
# predicts the noise, SiT's the data less the noise, REPA's the noise less the data. Measured on digits: 1.00 of DDPM's,
# -0.84 of SiT's; of DDPM's at SiT's time 0.81, of SiT's at DDPM's 0.01.
_AT_NOISE: dict[Program, tuple[float, int]] = {"DiT": (NUM_TRAIN_STEPS - 1, 1), "SiT": (0.0, -1), "REPA": (1.0, 1)}
_SURE = 0.95  # of a correlation, with which nothing else is asked
_LEAST, _APART = 0.6, 0.15  # of another program's correlation, and by how much it is above that of the one asked for
_VALUES = 4096  # of noise: a correlation of nothing is then below 0.05


def check_family(family: str, settings: SamplingSettings, *, whose: str) -> None:
    """Refuse a network that predicts a velocity, by the name that was given, as one of DDPM.

    Raises
    ------
    ValueError
        With what to pass.
    """
    if family in FLOW_FAMILIES and (not settings.is_flow or settings.time == "ddpm"):
        program: Program = "SiT" if family == "SiT" else "LightningDiT"
        raise ValueError(f"{whose}: predicts the velocity of a flow; {_taken(settings)}. Pass {_COMMANDS[program]}.")


def check_origin(origin: Origin | None, settings: SamplingSettings, *, whose: str) -> None:
    """Refuse weights as something that they were not trained for, where their file says for what.

    Raises
    ------
    ValueError
        With what says so, and what to pass.
    """
    if origin is None:
        return
    said = f"{whose}: trained by {origin.program}'s program, by {origin.said_by}"
    is_ddpm = not settings.is_flow or settings.time == "ddpm"
    if origin.is_flow == is_ddpm:
        raise ValueError(f"{said}; {_taken(settings)}. Pass {_COMMANDS[origin.program]}.")
    completed = settings.completed()
    for name, value in origin.settings.items():
        if getattr(completed, name) != value:
            raise ValueError(
                f"{said}, with `{name}` {value}; asked for {getattr(completed, name)}. Pass `{name}` {value}."
            )


@torch.inference_mode()
def check_answer(model: DiT, settings: SamplingSettings, *, whose: str) -> None:
    """Refuse a network whose file says nothing of its training, if it answers pure noise as another program's does.

    One that is not trained answers as none does, and passes.

    Raises
    ------
    ValueError
        With the correlations of its answers with the noise.
    """
    asked = _program(settings)
    if asked is None:
        return
    own = _correlation(model, asked)
    if own > _SURE:
        return
    others = {program: _correlation(model, program) for program in _AT_NOISE if program != asked}
    likely = max(others, key=lambda program: others[program])
    if others[likely] > max(_LEAST, own + _APART):
        raise ValueError(
            f"{whose}: its network answers noise as one of {likely}'s program does (correlation {others[likely]:.2f} "
            f"with what that predicts, {own:.2f} with what is asked for); {_taken(settings)}. Pass "
            f"{_COMMANDS[likely]}."
        )


def _program(settings: SamplingSettings) -> Program | None:
    """Whose answer to noise the settings expect; None where noise alone tells nothing, as on the curved paths."""
    if not settings.is_flow or settings.time == "ddpm":
        return "DiT"
    completed = settings.completed()
    if completed.path != "linear" or completed.prediction != "velocity":
        return None
    return "REPA" if completed.time == "repa" else "SiT"


def _correlation(model: DiT, program: Program) -> float:
    """How far the answer to noise goes the way of a program's networks, -1 to 1; 0 of a constant answer."""
    config, (time, sign) = model.config, _AT_NOISE[program]
    shape = (config.in_channels, config.input_size, config.input_size)
    count = min(16, -(-_VALUES // math.prod(shape)))
    noise = torch.randn((count, *shape), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % config.num_classes
    answer = model(noise, torch.full((count,), time), labels)[:, : config.in_channels]
    found = torch.corrcoef(torch.stack([answer.flatten(), noise.flatten()]))[0, 1].item()
    return sign * found if math.isfinite(found) else 0.0


def _taken(settings: SamplingSettings) -> str:
    """What the settings take a network for."""
    if not settings.is_flow or settings.time == "ddpm":
        return "the settings take it for one that predicts DDPM's noise"
    return f"the settings take it for one that predicts a {settings.completed().prediction} at a flow's times"
