"""The files that a plan names: data, reference, weights; found and checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dit_eval.diffusion.data import TrainingData, open_data
from dit_eval.diffusion.recipe import Execution, Schedule
from dit_eval.diffusion.sampler import check_sampling
from dit_eval.features.load import check_network, load_network, network_named
from dit_eval.features.network import FeatureExtractor, Network
from dit_eval.images.npz import ImageBatch, open_batch
from dit_eval.models.choose import check_latents, choose_decoder
from dit_eval.models.vae_files import latents_of
from dit_eval.study.plan import Plan, Training
from dit_eval.system.assets import Asset, assets, fetch
from dit_eval.system.dist import World
from dit_eval.system.text import did_you_mean
from dit_eval.training import TrainingRun, check_training


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a study finds what its plan names; absolute paths.

    Attributes
    ----------
    train, ref : training data, reference batch
    weights : of the feature network; None for one that carries its own
    decoders : autoencoder weights by the plan's name for them
    device : "auto", "cpu" or "cuda", on the machine that does the task
    """

    train: str
    ref: str
    weights: str | None
    decoders: Mapping[str, str]
    device: str


def find_sources(
    plan: Plan,
    *,
    train: str | None = None,
    ref: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    on_note: Callable[[str], None] | None = None,
) -> Sources:
    """Find, or fetch, everything that a plan needs; nothing is fetched before all that is not public is there.

    Parameters
    ----------
    train, ref, weights : in place of what the plan says

    Raises
    ------
    FileNotFoundError, ValueError, OSError
        If something is missing (the message says how to give it), or cannot be trained or drawn.
    """
    check_network(plan.data.extractor, backend=plan.data.backend, device="cpu")  # the device is another machine's
    data = _found(plan, "training data", "`train`", train or plan.data.train)
    reference = _found(plan, "reference batch", "`ref`", ref or plan.data.ref)
    network, decoders = _weights_of_network(plan, weights), _decoders(plan)
    away = [source for source in (reference, network, *decoders.values()) if _is_away(source)]
    note = on_note or (lambda _: None)
    if away and not _is_away(data):
        _check_tasks(plan, _here(data, note), device)
    return Sources(
        train=_here(data, note),
        ref=_here(reference, note),
        weights=None if network is None else _here(network, note),
        decoders={vae: _here(source, note) for vae, source in decoders.items()},
        device=device,
    )


def _found(plan: Plan, what: str, option: str, given: str | None) -> str | Asset:
    """A file or folder that is here, or the public file of a name."""
    if given is None:
        raise ValueError(f"{plan.path} leaves the {what} open; pass {option}.")
    names = {item.name: item for item in assets()}
    if Path(given).exists():
        return os.path.abspath(given)
    if given in names:
        return names[given]
    hint = "" if Path(given).suffix or os.sep in given else did_you_mean(given, names)
    raise FileNotFoundError(f"{option} {given}: no such file or folder ({what}).{hint}")


def _weights_of_network(plan: Plan, weights: str | None) -> str | Asset | None:
    """The weights of the feature network; None where it carries its own."""
    public = network_named(plan.data.extractor).backend(plan.data.backend).weights
    if public is not None:
        return _found(plan, f"weights of the network {plan.data.extractor}", "`weights`", weights or public)
    if weights is not None:
        raise ValueError(f"`weights` {weights}: the plan's extractor, {plan.data.extractor}, carries its own.")
    return None


def _decoders(plan: Plan) -> dict[str, str | Asset]:
    """The autoencoders that cells name."""
    decoders: dict[str, str | Asset] = {}
    for vae, cell in {cell.vae: cell for cell in sorted(plan.cells, key=lambda cell: cell.vae or "")}.items():
        if vae is None:
            continue
        decoder = choose_decoder(vae)
        check_latents(cell.config, latents_of(decoder), vae=vae, whose=str(plan.path))
        decoders[vae] = decoder if isinstance(decoder, Asset) else os.path.abspath(decoder)
    return decoders


def _here(source: str | Asset, on_note: Callable[[str], None]) -> str:
    """Where it is; fetched if it has to be."""
    if isinstance(source, str):
        return source
    if _is_away(source):
        on_note(f"fetching {source.name}")
    return os.path.abspath(fetch(source))


def _is_away(source: str | Asset | None) -> bool:
    """Whether it is a public file that has to be fetched."""
    return isinstance(source, Asset) and source.url is not None and not source.path.is_file()


def check_study(plan: Plan, sources: Sources) -> None:
    """Find what cannot be trained, drawn or scored, before anything runs.

    Raises
    ------
    ValueError, OSError
        With what was found, what is needed, and why.
    """
    _check_tasks(plan, sources.train, sources.device)
    ref = open_batch(sources.ref, role="ref")
    _check_statistics(ref, network_named(plan.data.extractor))
    side = (plan.data.image_size, plan.data.image_size)
    if ref.image_size is not None and ref.image_size != side:
        raise ValueError(
            f"{sources.ref}: images of {ref.image_size[1]} x {ref.image_size[0]} px; the plan draws images of "
            f"{side[0]} px. Take the reference of that resolution."
        )


def _check_statistics(ref: ImageBatch, network: Network) -> None:
    """That stored statistics, if they stand for the images of the reference, are of a network of these sizes."""
    if network.spatial_dim is None and ref.num_images:
        return  # such a network passes statistics of others by, and takes the images
    for stats, dim in ((ref.pool, network.pool_dim), (ref.spatial, network.spatial_dim)):
        if stats is not None and stats.dim != dim:
            raise ValueError(
                f"{ref.path}: its statistics have {stats.dim} dimensions; the {network.name} extractor needs {dim}. "
                "Take a reference that was made with this network."
            )


def _check_tasks(plan: Plan, train: str, device: str) -> None:
    """The part of `check_study` that needs the training data alone. Errors as there."""
    data = _open_training_data(plan, train)
    if data.num_classes == 1 < plan.data.num_classes:
        raise ValueError(
            f"{train}: its images are all of one class; expected {plan.data.num_classes}, as the plan has. Put labels "
            "into an npz as arr_1, and images of a folder into a folder for each class."
        )
    device = "cpu" if device == "cpu" else "cuda"  # what "auto" is, is known where tasks run
    for run in plan.trainings:
        resources = plan.resources(run)
        check_training(
            training_run(run, data, save_at=run.steps),
            execution=Execution(device=device, micro_batch=resources.micro_batch),
            world=World(size=resources.size),
        )
    for cell in plan.cells:
        check_sampling(cell.sampling, cell.config, device=device)


def training_run(run: Training, data: TrainingData, *, save_at: Iterable[int]) -> TrainingRun:
    """A training of a plan, as `dit_eval.training` takes it; `save_at` are the steps that keep their weights."""
    schedule = Schedule(steps=run.steps[-1], save_at=tuple(save_at), save_every=run.save_every, log_every=run.log_every)
    return TrainingRun(config=run.config, data=data, recipe=run.recipe, schedule=schedule)


def training_data(plan: Plan, sources: Sources) -> TrainingData:
    """What the plan's models learn."""
    return _open_training_data(plan, sources.train)


def _open_training_data(plan: Plan, train: str) -> TrainingData:
    return open_data(
        train,
        image_size=plan.data.image_size if plan.data.space == "pixel" else None,
        channels=1 if plan.data.channels == 1 else 3,
    )


def feature_network(plan: Plan, sources: Sources, *, device: str) -> FeatureExtractor:
    """The network behind the metrics of a plan, loaded."""
    return load_network(plan.data.extractor, weights=sources.weights, backend=plan.data.backend, device=device)
