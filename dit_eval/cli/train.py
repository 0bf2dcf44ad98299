"""`dit-eval train`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_eval.cli.options import _add_on_corrupt, _check_destination, _folder, _integers
from dit_eval.cli.output import _header, _say
from dit_eval.system.dist import World, join
from dit_eval.system.progress import Progress

if TYPE_CHECKING:
    from dit_eval.diffusion.data import TrainingData
    from dit_eval.diffusion.recipe import Execution
    from dit_eval.models.config import DiTConfig
    from dit_eval.training import TrainingRun

_SIZES = ("depth", "hidden_size", "num_heads", "patch_size")
# Options that have another name than the parameter.
_OPTIONS = {"learning_rate": "--lr", "ema_decay": "--ema", "micro_batch": "--per-proc-batch-size"}


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a DiT by the paper's recipe",
        description="Train a DiT by the paper's recipe, on one process or many "
        "(torchrun --nproc_per_node=N -m dit_eval train ...). The same command goes on after a crash.",
    )
    model = train.add_argument_group(
        "model", "a name of the paper, on latents; or all four sizes, on what the data are"
    )
    model.add_argument("--model", help="DiT-XL/2 and so on")
    for option, words in (
        ("--depth", "layers"),
        ("--hidden-size", "width"),
        ("--num-heads", "attention heads"),
        ("--patch-size", "side of a patch, in pixels or latents"),
    ):
        model.add_argument(option, type=int, metavar="N", help=words)
    model.add_argument("--block", default="adaln-zero", help="block design (default: %(default)s)")
    model.add_argument("--num-classes", type=int, metavar="K", help="default: as many as the data have")
    model.add_argument("--label-dropout", type=float, default=0.1, metavar="P", help="default: %(default)s")
    data = train.add_argument_group("data")
    data.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="LATENTS|NPZ|DIR",
        help="latents of `dit-eval encode`; images in ADM's npz; or a folder of images, with a folder for each class",
    )
    data.add_argument("--image-size", type=int, metavar="PX", help="of a folder of images: side of the centre crop")
    data.add_argument("--grey", action="store_true", help="take the grey images of an npz as one channel")
    data.add_argument("--no-flips", action="store_true", help="mirror no images (default: half of them)")
    data.add_argument("--num-workers", type=int, default=4, metavar="N", help="threads that read ahead (default: 4)")
    _add_on_corrupt(data)
    recipe = train.add_argument_group("recipe", "the defaults are the paper's; small models at high rates need more")
    recipe.add_argument("--steps", type=int, default=400_000, metavar="N", help="in all (default: %(default)s)")
    recipe.add_argument("--batch-size", type=int, default=256, metavar="B", help="of all processes (default: 256)")
    recipe.add_argument("--lr", type=float, default=1e-4, metavar="RATE", help="of AdamW (default: %(default)s)")
    recipe.add_argument("--weight-decay", type=float, default=0.0, metavar="W", help="default: %(default)s")
    recipe.add_argument("--ema", type=float, default=0.9999, metavar="D", help="decay of the average (default: 0.9999)")
    recipe.add_argument("--warm-up", type=int, default=0, metavar="N", help="steps to the full rate (default: none)")
    recipe.add_argument("--cosine-decay", action="store_true", help="bring the rate to 0 at the last step")
    recipe.add_argument("--ema-warm-up", action="store_true", help="average over less in the first steps")
    recipe.add_argument("--global-seed", type=int, default=0, metavar="SEED", help="default: %(default)s")
    recipe.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="default: %(default)s")
    recipe.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    how = train.add_argument_group("how")
    how.add_argument("--out", type=_folder, required=True, metavar="DIR", help="checkpoints, log.jsonl, run.json")
    how.add_argument("--save-at", type=_integers, default=(), metavar="N,N", help="steps after which to save weights")
    how.add_argument("--save-every", type=int, default=50_000, metavar="N", help="and regularly (default: %(default)s)")
    how.add_argument("--log-every", type=int, default=100, metavar="N", help="default: %(default)s")
    how.add_argument(
        "--per-proc-batch-size", type=int, metavar="B", help="at once in a process (default: its share of the batch)"
    )
    how.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU per process if there are any)")
    train.set_defaults(run=_train, options=_OPTIONS)


def _train(arguments: argparse.Namespace) -> None:
    with join() as world:
        _header(f"train: {arguments.steps:,} steps on {arguments.data}, in {arguments.out}")
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


def _training_setup(arguments: argparse.Namespace, world: World) -> tuple[TrainingRun, Execution]:
    """Data, model and recipe as asked for: everything a user may have got wrong."""
    from dit_eval.diffusion.recipe import Execution, Recipe, Schedule
    from dit_eval.diffusion.trainer import check_execution
    from dit_eval.training import TrainingRun, check_training

    execution = Execution(
        device=world.device(arguments.device),
        micro_batch=arguments.per_proc_batch_size,
        num_workers=arguments.num_workers,
    )
    schedule = Schedule(
        steps=arguments.steps,
        save_at=arguments.save_at,
        save_every=arguments.save_every,
        log_every=arguments.log_every,
    )
    recipe = Recipe(
        learning_rate=arguments.lr,
        weight_decay=arguments.weight_decay,
        batch_size=arguments.batch_size,
        ema_decay=arguments.ema,
        flip=0.0 if arguments.no_flips else 0.5,
        global_seed=arguments.global_seed,
        precision=arguments.precision,
        compile=arguments.compile,
        warm_up=arguments.warm_up,
        decay_steps=schedule.steps if arguments.cosine_decay else None,
        ema_warm_up=arguments.ema_warm_up,
    )
    # Before the data are opened, which may take long: options alone, and the model as far as it does not hang on them.
    _check_one_model(arguments)
    check_execution(recipe, execution, world)
    _check_training_model(arguments)
    if world.rank == 0:
        _check_destination("--out", arguments.out, folder=True)
    data = _training_data(arguments, world)
    run = TrainingRun(config=_training_config(arguments, data), data=data, recipe=recipe, schedule=schedule)
    check_training(run, execution=execution, world=world)
    return dataclasses.replace(run, data=_readable(arguments, data, world)), execution


def _check_one_model(arguments: argparse.Namespace) -> None:
    given = [name for name in _SIZES if getattr(arguments, name) is not None]
    if bool(arguments.model) == bool(given) or (given and len(given) < len(_SIZES)):
        options = " ".join(f"--{name.replace('_', '-')}" for name in _SIZES)
        raise ValueError(f"Name a model of the paper by --model, or give all of {options}; one of the two.")


def _check_training_model(arguments: argparse.Namespace) -> None:
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


def _training_data(arguments: argparse.Namespace, world: World) -> TrainingData:
    from dit_eval.diffusion.data import open_data

    path: Path = arguments.data
    is_folder = path.is_dir() and not (path / "latents.json").is_file()
    if arguments.grey and path.is_dir():
        raise ValueError("--grey is for the grey images of an npz.")
    if arguments.image_size is not None and path.exists() and not is_folder:
        raise ValueError(f"--image-size is for a folder of images; {path} has its own size.")
    if arguments.model and is_folder:
        raise ValueError(
            f"--data {path}: images, and {arguments.model} is a model of latents. Encode them once: "
            f"dit-eval encode {path} --out LATENTS --image-size {arguments.image_size or 256}"
        )
    with Progress() as progress:
        report = partial(progress.update, "checksums") if world.rank == 0 else None
        return open_data(path, image_size=arguments.image_size, channels=1 if arguments.grey else 3, on_progress=report)


def _readable(arguments: argparse.Namespace, data: TrainingData, world: World) -> TrainingData:
    """The data without files that cannot be read, if they are to be left out; each is opened once for that."""
    from dit_eval.diffusion.data import ImageFolder

    if not isinstance(data, ImageFolder) or arguments.on_corrupt != "skip":
        return data
    note = _say if world.rank == 0 else (lambda _: None)
    return data.without_corrupt(note, num_workers=arguments.num_workers)


def _training_config(arguments: argparse.Namespace, data: TrainingData) -> DiTConfig:
    """The model that is asked for, on what the data are."""
    from dit_eval.models.config import DiTConfig, named_config

    channels, side, _ = data.shape
    fields: dict[str, Any] = {
        "block": arguments.block,
        "label_dropout": arguments.label_dropout,
        "num_classes": data.num_classes if arguments.num_classes is None else arguments.num_classes,
    }
    if arguments.model:
        if data.space != "latent":
            raise ValueError(
                f"--data {arguments.data}: images, and {arguments.model} is a model of latents. Give the sizes of a "
                "pixel-space model, or encode a folder of images by `dit-eval encode`."
            )
        return dataclasses.replace(named_config(arguments.model), input_size=side, **fields)
    sizes = {name: getattr(arguments, name) for name in _SIZES}
    return DiTConfig(**sizes, **fields, input_size=side, in_channels=channels, space=data.space)
