"""`dit-eval sample`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group

from dit_eval.cli.declare import EVERYDAY, Option
from dit_eval.cli.generator import (
    _check_checkpoint_name,
    _decoder_path,
    _load_decoder,
    _load_generator,
    _local_decoder,
    _network,
)
from dit_eval.cli.grid import _draw_grid
from dit_eval.cli.options import DeviceEach, _check_destination, grid_file, has_ending
from dit_eval.cli.output import _File, _format_cost_of_run, _header, _tell
from dit_eval.system.dist import World, join
from dit_eval.system.files import Watch
from dit_eval.system.progress import Progress
from dit_eval.system.text import shown

if TYPE_CHECKING:
    import numpy as np

    from dit_eval.models.dit import DiT
    from dit_eval.results.sample_run import SampleRun


MODEL, WHAT = Group("model", sort_key=2), Group("what to draw", sort_key=3)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw images from a DiT into one sample npz, on one process or many.

    Example: dit-eval sample --num-fid-samples 10000 --out samples.npz

    With many: torchrun --nproc_per_node=N -m dit_eval sample ... The same command goes on after a crash.
    """

    out: Annotated[Path, Option("the file to write", metavar="SAMPLES.npz", check=has_ending(".npz"))]
    model: Annotated[
        str | None,
        Option(
            "DiT-XL/2 and so on (default: what the checkpoint says, else DiT-XL/2), or a name such as mini-XL/4 for a "
            "checkpoint of your own",
            group=EVERYDAY,
        ),
    ] = None
    ckpt: Annotated[
        str | None,
        Option(
            "checkpoint, or a name of `dit-eval weights list` (default: the public one of DiT-XL/2 at 256 or 512)",
            metavar="FILE",
            group=EVERYDAY,
        ),
    ] = None
    weights: Annotated[Literal["ema", "model"], Option("which set of a trainer's file", group=MODEL)] = "ema"
    image_size: Annotated[
        int | None, Option("default: what the checkpoint says, else 256", metavar="PX", group=MODEL)
    ] = None
    num_classes: Annotated[
        int | None, Option("default: what the checkpoint says, else 1000", metavar="K", group=MODEL)
    ] = None
    block: Annotated[str | None, Option("block design of --model (default: adaln-zero)", group=MODEL)] = None
    num_fid_samples: Annotated[int, Option("images to draw", group=EVERYDAY)] = 50_000
    num_sampling_steps: Annotated[str, Option('steps of 1000, or "ddimS"', metavar="S", group=EVERYDAY)] = "250"
    cfg_scale: Annotated[float, Option("guidance; 1.0: none", metavar="W", group=EVERYDAY)] = 1.5
    cfg_channels: Annotated[
        int | None, Option("channels guided (default: 3, as the paper)", metavar="C", group=WHAT)
    ] = None
    sampler: Annotated[Literal["ddpm", "ddim"], Option("rule of a step", group=WHAT)] = "ddpm"
    vae: Annotated[
        str,
        Option("decoder of latents; a pixel-space model needs none", metavar="ema|mse|original|FILE", group=WHAT),
    ] = "ema"
    vae_tiling: Annotated[bool, Option("decode in tiles; needs less memory, changes pixels", group=WHAT)] = False
    labels: Annotated[
        str,
        Option(
            "classes: uniform as in the paper (default), in turn, or from text, .npy or the arr_1 of an .npz",
            metavar="random|balanced|FILE",
            group=WHAT,
        ),
    ] = "random"
    rounding: Annotated[
        Literal["dit", "truncate"], Option("to 8 bits: nearest (default), or ADM's rule", group=WHAT)
    ] = "dit"
    global_seed: Annotated[int, Option("image i depends on it and i alone", metavar="SEED", group=EVERYDAY)] = 0
    per_proc_batch_size: Annotated[
        int | None, Option("default: 32, or more where a CPU has many cores: 8 for each", metavar="B")
    ] = None
    precision: Annotated[Literal["fp32", "tf32", "bf16"], Option("of the model")] = "fp32"
    compile: Annotated[bool, Option("run the model through torch.compile")] = False
    device: DeviceEach = "auto"
    grid: Annotated[Path | None, grid_file("the first images")] = None
    dry_run: Annotated[bool, Option("predict time, memory and disk from a short trial")] = False


def sample(arguments: Sample) -> None:
    with join() as world:
        what = arguments.ckpt or arguments.model or "DiT-XL/2"
        _header(f"sample: {arguments.num_fid_samples:,} images of {what}, into {arguments.out}")
        watch = Watch()
        # What can be judged without a file comes first, then the checkpoint, then the download of the decoder.
        run, checkpoint = world.from_first(lambda: _sample_run(arguments, world))
        world.share_cores()
        from dit_eval.diffusion.sampler import ImageSampler, usual_batch_size
        from dit_eval.sampling import sample_npz

        device = world.device(arguments.device)
        size = arguments.per_proc_batch_size or usual_batch_size(device)
        model, weights = world.first_then_all(lambda: _load_generator(arguments, run, checkpoint, world, watch))
        run, labels, vae = world.from_first(lambda: _loaded_run(arguments, run, checkpoint, model, weights, watch))
        model, decode = model.to(device), world.first_then_all(lambda: _load_decoder(run, vae, device, world))
        world.barrier()
        world.from_first(watch.check)  # of the run's checksums and of what all processes have loaded
        if arguments.dry_run:
            from dit_eval.cost import sampling_cost

            sampler = ImageSampler(model, run, decode=decode)
            cost = sampling_cost(sampler=sampler, out=arguments.out, batch_size=size, world=world)
            if world.rank == 0:
                sys.stdout.write(_format_cost_of_run(f"to draw {cost.images:,} images of {run.summary()}", cost))
            return
        with Progress(names={run.model: f"{run.model} images"}) as progress:
            sample_npz(
                arguments.out,
                sampler=ImageSampler(model, run, decode=decode),
                labels=labels,
                batch_size=size,
                world=world,
                on_progress=partial(progress.update, run.model),
                on_note=progress.note,
            )
        if world.rank == 0:
            images = f"{run.num_images:,} images, {run.image_size} px"
            _tell(f"{arguments.out}: {images}, {run.summary()}\n", *_sample_grid(arguments, min(36, run.num_images)))


def _sample_grid(arguments: Sample, count: int) -> list[_File]:
    """The picture of `sample --grid`, if one is asked for."""
    if arguments.grid is None:
        return []
    return [
        _File(
            option="--grid",
            path=arguments.grid,
            write=lambda path: _draw_grid([arguments.out], path, first=0, count=count),
        )
    ]


def _sample_run(arguments: Sample, world: World) -> tuple[SampleRun, Path]:
    """What to draw and the checkpoint, which may have to be fetched: all mistakes that show without reading tensors."""
    import dataclasses

    _check_checkpoint_name(arguments.ckpt)
    if arguments.per_proc_batch_size is not None and arguments.per_proc_batch_size < 1:
        raise ValueError(f"--per-proc-batch-size {arguments.per_proc_batch_size}: needed at least 1.")
    if not arguments.dry_run:
        _check_destination("--out", arguments.out)
        _check_destination("--grid", arguments.grid)
    from dit_eval.diffusion.sampler import check_run
    from dit_eval.models.checkpoints import training_notes
    from dit_eval.results.sample_run import SampleRun
    from dit_eval.system.environment import environment

    device = world.device(arguments.device)
    name, config, checkpoint = _network(arguments)
    latent = config.space == "latent"
    if latent:
        _local_decoder(arguments.vae)
    channels = min(3, config.in_channels) if arguments.cfg_channels is None else arguments.cfg_channels
    here = checkpoint.is_file()  # a public one may not be
    trained = training_notes(checkpoint) if here else None
    weights = arguments.weights
    if trained and trained["weights"] != weights:  # a file of `dit-eval train` holds one set, and says which
        if weights == "model":
            raise ValueError(
                f"{checkpoint} holds averaged weights (ema), and --weights model asks for the others: pass the file "
                f"{checkpoint.name.replace('ema-', 'model-')} beside it."
            )
        weights = trained["weights"]
    run = SampleRun(
        model=shown(name),
        network=dataclasses.asdict(config),
        checkpoint=shown(checkpoint.name),
        checkpoint_sha256="",  # of files that are read or fetched later
        weights=weights,
        image_size=config.image_size,
        num_images=arguments.num_fid_samples,
        num_sampling_steps=arguments.num_sampling_steps,
        sampler=arguments.sampler,
        cfg_scale=arguments.cfg_scale,
        cfg_channels=None if arguments.cfg_scale == 1.0 else channels,
        vae=shown(Path(arguments.vae).name) if latent else None,
        vae_tiling=latent and arguments.vae_tiling,
        labels=arguments.labels if arguments.labels in ("random", "balanced") else "file",
        rounding=arguments.rounding,
        global_seed=arguments.global_seed,
        precision=arguments.precision,
        compiled=arguments.compile,
        device=device.split(":")[0],
        training_steps=trained["step"] if trained else None,
        training_batch_size=trained["recipe"]["batch_size"] if trained else None,
        environment=environment(),
    )
    check_run(run)
    if not here:  # the classes of a public checkpoint are known; those of another file are looked for in it
        _sample_labels(arguments, run)
    return run, checkpoint


def _sample_labels(arguments: Sample, run: SampleRun) -> tuple[np.ndarray, str | None]:
    """The label of each image, and the SHA-256 of their file, if they come from one."""
    from dit_eval.diffusion.labels import draw_labels, read_labels

    size: dict[str, Any] = {"num_images": run.num_images, "num_classes": run.network["num_classes"]}
    if run.labels == "file":
        return read_labels(arguments.labels, **size)
    return draw_labels("balanced" if run.labels == "balanced" else "random", seed=run.global_seed, **size), None


def _loaded_run(
    arguments: Sample, run: SampleRun, checkpoint: Path, model: DiT, weights: str | None, watch: Watch
) -> tuple[SampleRun, np.ndarray, Path | None]:
    """The run with what its checkpoint says, its labels, and the decoder, which is fetched when all else is right."""
    import dataclasses

    from dit_eval.system.assets import sha256_of

    run = dataclasses.replace(run, network=dataclasses.asdict(model.config), weights=weights or run.weights)
    labels, labels_sha256 = _sample_labels(arguments, run)
    vae = _decoder_path(arguments.vae) if run.vae is not None else None
    if vae is not None:
        watch.see(vae)
    with Progress() as progress:
        report = partial(progress.update, "checksums")
        run = dataclasses.replace(
            run,
            labels_sha256=labels_sha256,
            checkpoint_sha256=sha256_of(checkpoint, report),
            vae_sha256=sha256_of(vae, report) if vae else None,
        )
    return run, labels, vae
