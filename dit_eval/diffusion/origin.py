"""What weights were trained for, by their name and by what is in their file, beside what a sampler takes them for."""

from __future__ import annotations

from dit_eval.models.choose import FLOW_FAMILIES
from dit_eval.models.recognise import Origin, Program
from dit_eval.results.settings import SamplingSettings

# How each program draws, in our words.
_COMMANDS: dict[Program, str] = {
    "DiT": "`sampler` ddpm, or one of flows with `time` ddpm",
    "SiT": "`sampler` sde-euler",
    "REPA": "`sampler` sde-euler `time` repa `cfg_channels` 4",
    "LightningDiT": "`sampler` ode-euler `timestep_shift` 0.3",
}


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


def _taken(settings: SamplingSettings) -> str:
    """What the settings take a network for."""
    if not settings.is_flow or settings.time == "ddpm":
        return "the settings take it for one that predicts DDPM's noise"
    return f"the settings take it for one that predicts a {settings.completed().prediction} at a flow's times"
