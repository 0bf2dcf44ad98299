"""What is drawn follows from what was learned: the settings of sampling beside the training of the weights."""

from __future__ import annotations

import dataclasses
from typing import Any

from dit_eval.diffusion.recipe import FlowRecipe
from dit_eval.results.settings import Sampler, SamplingSettings

USUAL_OF_FLOW: Sampler = "sde-euler"  # with which SiT and REPA report their best
_LEARNED = ("path", "prediction", "time")


def flow_settings(flow: FlowRecipe | None, sampler: Sampler) -> dict[str, Any]:
    """The settings of a sampler that follow from the training: `path`, `prediction` and `time`, None for DDPM's.

    Parameters
    ----------
    flow : as in `Recipe`

    Raises
    ------
    ValueError
        If the sampler cannot draw from such weights.
    """
    if flow is None:
        return {"path": None, "prediction": None, "time": "ddpm" if "-" in sampler else None}
    if "-" not in sampler:
        raise ValueError(
            f"`sampler` {sampler}: the weights were trained as a flow, which predicts no noise of DDPM's steps. "
            f"Take {USUAL_OF_FLOW}, ode-heun or another sampler of flows."
        )
    return {name: getattr(flow, name) for name in _LEARNED}


def as_trained(settings: SamplingSettings, flow: FlowRecipe, *, whose: str) -> SamplingSettings:
    """Settings with what the training of a flow says where they leave it open.

    Parameters
    ----------
    whose : the weights, for messages

    Raises
    ------
    ValueError
        If they say anything else.
    """
    try:
        learned = flow_settings(flow, settings.sampler or USUAL_OF_FLOW)
    except ValueError as error:
        raise ValueError(f"{whose}: {error}") from None
    for name, value in learned.items():
        asked = getattr(settings, name)
        if asked not in (None, value):
            raise ValueError(
                f"{whose}: trained with `{name}` {value}; asked for {asked}. Leave it out: the checkpoint says it."
            )
    return dataclasses.replace(settings, sampler=settings.sampler or USUAL_OF_FLOW, **learned)
