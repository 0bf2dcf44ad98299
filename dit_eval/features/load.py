"""Which network a name means, whether it can run here, and the network itself.

Messages name parameters in backticks; the command line puts its options in their place.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dit_eval.features import NETWORKS
from dit_eval.features.network import Backend, FeatureExtractor, Network
from dit_eval.system.assets import Asset, asset
from dit_eval.system.assets import fetch as fetch_asset
from dit_eval.system.dist import World
from dit_eval.system.text import did_you_mean


def network_named(name: str) -> Network:
    """What is known of a network.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists those there are.
    """
    known = {network.name: network for network in NETWORKS}
    if name not in known:
        hint = did_you_mean(name, known, also={network.label: network.name for network in NETWORKS})
        raise ValueError(f"`network` {name}: unknown; expected one of: {', '.join(known)}.{hint}")
    return known[name]


def check_network(
    name: str = "inception",
    *,
    weights: str | os.PathLike[str] | None = None,
    backend: str = "torch",
    precision: str = "fp32",
    device: str = "auto",
    world: World | None = None,
) -> Network:
    """Find what keeps a network from being loaded, before anything is fetched or read.

    Parameters
    ----------
    name, weights, backend, precision, device, world : see `load_network`

    Returns
    -------
    What is known of the network.

    Raises
    ------
    ValueError
        If there is no such network, backend, precision or device, or they do not go together.
    FileNotFoundError
        If the weights file is not there.
    ModuleNotFoundError
        If a package is missing that the network needs; the message says how to install it.
    """
    network = network_named(name)
    program = _backend(network, weights=weights, name=backend, precision=precision)
    _check_device(program, precision, (world or World()).device(device))
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(
            f"`weights` {os.fspath(weights)}: no such file. Leave it out to download the public file, or see "
            "`dit-eval weights list`."
        )
    if program.needs is not None and find_spec(program.needs) is None:
        others = [each.name for each in network.backends if each.needs is None]
        raise ModuleNotFoundError(
            f"`network` {network.name} on {program.name} needs {program.needs}, which is not installed. Add it with "
            f'`pip install "dit-eval[{program.extra}]"`{"".join(f", or use `backend` {name}" for name in others)}.',
            name=program.needs,
        )
    return network


def load_network(
    name: str = "inception",
    *,
    weights: str | os.PathLike[str] | None = None,
    backend: str = "torch",
    precision: str = "fp32",
    device: str = "auto",
    world: World | None = None,
    fetch: Callable[[Asset], Path] = fetch_asset,
) -> FeatureExtractor:
    """Load a feature network.

    Parameters
    ----------
    name : "inception", "dinov2", "clip" or "digits"; see `NETWORKS`
    weights : its weights file; None to fetch the public one, or where the package carries them
    backend : "torch"; for Inception also "tensorflow", the original engine
    precision : "fp32", the protocol's; for Inception on "torch" also "tf32", "bf16" and "fp16", which move every metric
    device : "cpu", "cuda", "cuda:1", ...; "auto" for a GPU if there is one
    world : the processes of this run, of which each takes a GPU of its own
    fetch : brings a public file, and returns where it is

    Raises
    ------
    ValueError, FileNotFoundError, ModuleNotFoundError
        As `check_network`; and ValueError if the file does not hold the weights of this network.
    OSError
        If the weights cannot be fetched.
    """
    world = world or World()
    network = check_network(name, weights=weights, backend=backend, precision=precision, device=device, world=world)
    program = network.backend(backend)
    options: dict[str, Any] = {"device": world.device(device)}
    if program.weights is not None:
        options["weights"] = fetch(asset(program.weights, "weights")) if weights is None else weights
    if len(program.precisions) > 1:
        options["precision"] = precision
    module, _, name_of_class = program.loaded_from.partition(":")
    extractor: FeatureExtractor = getattr(import_module(module), name_of_class)(**options)
    return extractor


def _backend(network: Network, *, weights: object, name: str, precision: str) -> Backend:
    """The program that is to run a network, if it can with these weights and in this precision."""
    _check_choices(network, weights=weights, name=name, precision=precision)
    program = network.backend(name)
    if precision in program.precisions:
        return program
    able = next((each.name for each in network.backends if precision in each.precisions), None)
    if able is None:
        known, hint = ", ".join(program.precisions), did_you_mean(precision, program.precisions)
        raise ValueError(f"`precision` {precision}: unknown; expected one of: {known}.{hint}")
    raise ValueError(
        f"`precision` {precision} needs `backend` {able}; {program.name} runs {network.name} in "
        f"{', '.join(program.precisions)}."
    )


def _check_choices(network: Network, *, weights: object, name: str, precision: str) -> None:
    """That nothing is chosen of a network that leaves no choice."""
    usual = network.backends[0]
    others = name != usual.name or precision not in usual.precisions
    if usual.weights is None and (weights is not None or others):
        raise ValueError(
            f"`network` {network.name} carries its own weights, runs on {usual.name} and has one precision; drop "
            "`weights`, `backend` and `precision`."
        )
    if len(network.backends) == len(usual.precisions) == 1 and others:
        raise ValueError(
            f"`network` {network.name} runs on {usual.name} and in {usual.precisions[0]} only; drop `backend` and "
            "`precision`."
        )


def _check_device(program: Backend, precision: str, device: str) -> None:
    """That the device has this precision."""
    if precision == "tf32" and not device.startswith("cuda"):
        *others, last = (each for each in program.precisions if each != precision)
        raise ValueError(f"tf32 is arithmetic of NVIDIA GPUs; {device} has {', '.join(others)} and {last}.")
