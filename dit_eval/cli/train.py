"""`dit-eval train`."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group
from msgspec import Meta

from dit_eval.cli.options import EVERYDAY, Option, Panel
from dit_eval.cli.output import header, say
from dit_eval.cli.shared import DeviceEach, KnownBy, OnCorrupt, Pixels, check_destination, is_folder
from dit_eval.diffusion.recipe import FlowRecipe, Objective, Recipe, Schedule
from dit_eval.results.settings import MOST_CLASSES
from dit_eval.system.dist import World, join
from dit_eval.system.progress import Progress

if TYPE_CHECKING:
    from dit_eval.diffusion.data import TrainingData
    from dit_eval.diffusion.recipe import Execution
    from dit_eval.models.config import DiTConfig
    from dit_eval.training import TrainingRun

_SIZES = ("depth", "hidden_size", "num_heads", "patch_size")


MODEL = Group("model: a name of the paper, on latents; or all four sizes, on what the data are", sort_key=2)
DATA = Group("data", sort_key=3)
RECIPE = Group("recipe: the defaults are the paper's; small models at high rates need more", sort_key=4)
FLOW = Group("flows (--objective flow), as SiT and REPA train them", sort_key=5)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a DiT by the paper's recipe, on one process or many.

    Example: dit-eval train --model DiT-S/2 --data latents --out run

    With many: torchrun --nproc_per_node=N -m dit_eval train ... The same command goes on after a crash.
    """

    data: Annotated[
        Path,
        Option(
            "latents of `dit-eval encode`; images in ADM's npz; or a folder of images, with a folder for each class",
            metavar="LATENTS|NPZ|DIR",
        ),
    ]
    out: Annotated[Path, Option("checkpoints, log.jsonl, run.json", metavar="DIR", check=is_folder)]
    model: Annotated[str | None, Option("DiT-XL/2 and so on", group=EVERYDAY)] = None
    depth: Annotated[int | None, Option("layers", group=MODEL)] = None
    hidden_size: Annotated[int | None, Option("width", group=MODEL)] = None
    num_heads: Annotated[int | None, Option("attention heads", group=MODEL)] = None
    patch_size: Annotated[int | None, Option("side of a patch, in pixels or latents", group=MODEL)] = None
    block: Annotated[str, Option("block design", group=MODEL)] = "adaln-zero"
    num_classes: Annotated[
        Annotated[int, Meta(le=MOST_CLASSES)] | None,
        Option("default: as many as the data have", metavar="K", group=MODEL),
    ] = None
    label_dropout: Annotated[float, Option("share of labels left out", metavar="P", group=MODEL)] = 0.1
    image_size: Annotated[
        Pixels | None, Option("of a folder of images: side of the centre crop", metavar="PX", group=DATA)
    ] = None
    grey: Annotated[bool, Option("take the grey images of an npz as one channel", group=DATA)] = False
    no_flips: Annotated[bool, Option("mirror no images (default: half of them)", group=DATA)] = False
    num_workers: Annotated[int, Option("threads that read ahead", group=DATA)] = 4
    on_corrupt: OnCorrupt = "refuse"
    identity: KnownBy = "times"
    schedule: Annotated[
        Schedule,
        Panel(options={"steps": Option("steps to train, in all", group=EVERYDAY), "save_at": Option(metavar="N,N")}),
    ]
    recipe: Annotated[
        Recipe,
        Panel(
            group=RECIPE,
            options={
                "batch_size": Option(metavar="B", group=EVERYDAY),
                "learning_rate": Option("learning rate of AdamW", name="--lr", metavar="RATE", group=EVERYDAY),
                "weight_decay": Option(metavar="W"),
                "ema_decay": Option(name="--ema", metavar="D"),
                "global_seed": Option(metavar="SEED"),
            },
            # Of them --no-flips, --cosine-decay and --objective say all but the betas.
            left_out=("betas", "flip", "decay_steps", "flow"),
        ),
    ]
    objective: Annotated[Objective, Option("noise and variance as DiT (ddpm), or a flow as SiT", group=EVERYDAY)] = (
        "ddpm"
    )
    flow: Annotated[FlowRecipe, Panel(group=FLOW)]
    cosine_decay: Annotated[bool, Option("bring the rate to 0 at the last step", group=RECIPE)] = False
    micro_batch: Annotated[
        int | None,
        Option("at once in a process (default: its share of the batch)", name="--per-proc-batch-size", metavar="B"),
    ] = None
    device: DeviceEach = "auto"


def train(arguments: Train) -> None:
    with join() as world:
        header(f"train: {arguments.schedule.steps:,} steps on {arguments.data}, in {arguments.out}")
        world.share_cores()
        run, execution = world.first_then_all(lambda: _training_setup(arguments, world))
        from dit_eval.training import train

        with Progress("steps") as progress:
            end = train(
                arguments.out,
                run,
                execution=execution,
                world=world,
                on_progress=lambda done, total, loss: progress.update(
                    "training", done, total, "" if loss is None else f"loss {loss:.4f}"
                ),
                on_note=progress.note,
            )
        if world.rank == 0:
            words = [f"{end.steps:,} steps"]
            words += [] if end.loss is None else [f"loss {end.loss:.4f}"]
            words += [] if end.images_per_second is None else [f"{end.images_per_second:.1f} images/s"]
            sys.stdout.write(f"{end.ema}: {', '.join(words)}\n")


def _training_setup(arguments: Train, world: World) -> tuple[TrainingRun, Execution]:
    """Data, model and recipe as asked for: everything a user may have got wrong."""
    from dit_eval.diffusion.data import ImageFolder
    from dit_eval.diffusion.recipe import Execution
    from dit_eval.diffusion.trainer import check_execution
    from dit_eval.training import TrainingRun, check_training

    execution = Execution(
        device=world.device(arguments.device),
        micro_batch=arguments.micro_batch,
        num_workers=arguments.num_workers,
    )
    schedule = arguments.schedule
    recipe = dataclasses.replace(
        arguments.recipe,
        flip=0.0 if arguments.no_flips else 0.5,
        decay_steps=schedule.steps if arguments.cosine_decay else None,
        flow=_flow(arguments),
    )
    # Before the data are opened, which may take long: options alone, and the model as far as it does not hang on them.
    _check_one_model(arguments)
    check_execution(recipe, execution, world)
    _check_training_model(arguments)
    if world.rank == 0:
        check_destination("--out", arguments.out, folder=True)
    data = _training_data(arguments, world)
    run = TrainingRun(config=_training_config(arguments, data), data=data, recipe=recipe, schedule=schedule)
    check_training(run, execution=execution, world=world)
    readable = _readable(arguments, data, world)
    if isinstance(readable, ImageFolder) and world.rank == 0:
        with Progress() as progress:
            readable.identify(partial(progress.update, "checksums"))
    return dataclasses.replace(run, data=readable), execution


def _flow(arguments: Train) -> FlowRecipe | None:
    """What is learned of a flow, if one is; ValueError if more is said of it than DDPM has."""
    if arguments.objective == "flow":
        return arguments.flow
    usual = FlowRecipe()
    for name, value in dataclasses.asdict(arguments.flow).items():
        if value != getattr(usual, name):
            raise ValueError(f"`{name}` {value}: for flows; pass `objective` flow as well, or leave it out.")
    return None


def _check_one_model(arguments: Train) -> None:
    given = [name for name in _SIZES if getattr(arguments, name) is not None]
    if bool(arguments.model) == bool(given) or (given and len(given) < len(_SIZES)):
        options = " ".join(f"--{name.replace('_', '-')}" for name in _SIZES)
        raise ValueError(f"Name a model of the paper by --model, or give all of {options}; one of the two.")


def _check_training_model(arguments: Train) -> None:
    from dit_eval.models.choose import check_block
    from dit_eval.models.config import DiTConfig, named_config

    check_block(arguments.block)
    if not 0 <= arguments.label_dropout < 1:
        raise ValueError(f"--label-dropout {arguments.label_dropout}: needed 0 or more, and less than 1.")
    if arguments.num_classes is not None and arguments.num_classes < 1:
        raise ValueError(f"--num-classes {arguments.num_classes}: needed at least 1.")
    if arguments.model:
        named_config(arguments.model)
        return
    sizes = {name: getattr(arguments, name) for name in _SIZES}
    if min(sizes.values()) < 1:
        raise ValueError(f"Found {sizes}; needed at least 1 of each.")
    DiTConfig(**sizes, input_size=sizes["patch_size"])  # the smallest such model: only its own sizes can be wrong


def _training_data(arguments: Train, world: World) -> TrainingData:
    from dit_eval.diffusion.data import open_data

    path: Path = arguments.data
    is_folder = path.is_dir() and not (path / "latents.json").is_file()
    if arguments.grey and path.is_dir():
        raise ValueError("--grey is for the grey images of an npz.")
    if arguments.image_size is not None and path.exists() and not is_folder:
        raise ValueError(f"--image-size is for a folder of images; {path} has its own size.")
    if arguments.identity != "times" and not is_folder and path.is_dir():
        raise ValueError(f"--identity is for a folder of images; {path} is known as `dit-eval encode` knew its images.")
    if arguments.model and is_folder:
        raise ValueError(
            f"--data {path}: images, and {arguments.model} is a model of latents. Encode them once: "
            f"dit-eval encode {path} --out LATENTS --image-size {arguments.image_size or 256}"
        )
    with Progress() as progress:
        report = partial(progress.update, "checksums") if world.rank == 0 else None
        return open_data(
            path,
            image_size=arguments.image_size,
            channels=1 if arguments.grey else 3,
            identity=arguments.identity,
            on_progress=report,
        )


def _readable(arguments: Train, data: TrainingData, world: World) -> TrainingData:
    """The data without files that cannot be read, if they are to be left out; each is opened once for that."""
    from dit_eval.diffusion.data import ImageFolder

    if not isinstance(data, ImageFolder) or arguments.on_corrupt != "skip":
        return data
    note = say if world.rank == 0 else (lambda _: None)
    return data.without_corrupt(note, num_workers=arguments.num_workers)


def _training_config(arguments: Train, data: TrainingData) -> DiTConfig:
    """The model that is asked for, on what the data are."""
    from dit_eval.diffusion.latents import Latents
    from dit_eval.models.config import DiTConfig, named_config

    channels, side, _ = data.shape
    fields: dict[str, Any] = {
        "in_channels": channels,
        "input_size": side,
        "block": arguments.block,
        "label_dropout": arguments.label_dropout,
        "num_classes": data.num_classes if arguments.num_classes is None else arguments.num_classes,
    }
    if isinstance(data, Latents):
        fields["latent_factor"] = data.latents.factor
    if arguments.model:
        if data.space != "latent":
            raise ValueError(
                f"--data {arguments.data}: images, and {arguments.model} is a model of latents. Give the sizes of a "
                "pixel-space model, or encode a folder of images by `dit-eval encode`."
            )
        return dataclasses.replace(named_config(arguments.model), **fields)
    sizes = {name: getattr(arguments, name) for name in _SIZES}
    return DiTConfig(**sizes, **fields, space=data.space)
