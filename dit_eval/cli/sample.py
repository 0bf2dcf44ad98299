"""`dit-eval sample`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group

from dit_eval.cli.grid import draw_grid
from dit_eval.cli.options import EVERYDAY, Option, Panel
from dit_eval.cli.output import File, format_cost_of_run, header, tell
from dit_eval.cli.shared import AtOnce, DeviceEach, check_destination, grid_file, has_ending
from dit_eval.results.settings import SamplingSettings
from dit_eval.system.dist import World, join

if TYPE_CHECKING:
    from dit_eval.models.choose import ModelChoice


MODEL, WHAT = Group("model", sort_key=2), Group("what to draw", sort_key=3)
FLOW = Group("flows (--sampler ode-..., sde-...)", sort_key=4)
WHAT_TO_DRAW = Panel(
    group=WHAT,
    options={
        "weights": Option(group=MODEL),
        "image_size": Option(metavar="PX", group=MODEL),
        "num_classes": Option(metavar="K", group=MODEL),
        "block": Option(group=MODEL),
        "num_images": Option(also=("--num-fid-samples",), group=EVERYDAY),
        "num_sampling_steps": Option(metavar="S", group=EVERYDAY),
        "cfg_scale": Option(metavar="W", group=EVERYDAY),
        "cfg_channels": Option(metavar="C"),
        "guidance_interval": Option(metavar="LOW HIGH", several="words"),
        "guide_ckpt": Option(metavar="FILE"),
        **{
            name: Option(group=FLOW)
            for name in (
                "path",
                "prediction",
                "time",
                "diffusion_form",
                "diffusion_norm",
                "last_step",
                "last_step_size",
                "timestep_shift",
                "atol",
                "rtol",
            )
        },
        "vae": Option("decoder of latents; a pixel-space model needs none", metavar="ema|mse|original|flux|FILE"),
        "labels": Option(
            "classes: uniform as in the paper (default), in turn, or from text, .npy or the arr_1 of an .npz",
            metavar="random|balanced|FILE",
        ),
        "global_seed": Option(metavar="SEED", group=EVERYDAY),
        "compiled": Option(name="--compile"),
    },
)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw images from a DiT into one sample npz, on one process or many.

    Example: dit-eval sample --num-images 10000 --out samples.npz

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
    settings: Annotated[SamplingSettings, WHAT_TO_DRAW]
    batch_size: Annotated[
        AtOnce | None,
        Option(
            "images at once in a process (default: 32, or more where a CPU has many cores: 8 for each)",
            also=("--per-proc-batch-size",),
            metavar="B",
        ),
    ] = None
    device: DeviceEach = "auto"
    grid: Annotated[Path | None, grid_file("the first images")] = None
    dry_run: Annotated[bool, Option("predict time, memory and disk from a short trial")] = False


def sample(arguments: Sample) -> None:
    with join() as world:
        what = arguments.ckpt or arguments.model or "DiT-XL/2"
        header(f"sample: {arguments.settings.num_images:,} images of {what}, into {arguments.out}")
        settings = arguments.settings
        choice = world.from_first(lambda: _choice(arguments, world))
        world.share_cores()
        from dit_eval.diffusion.load import load_sampler
        from dit_eval.diffusion.sampler import usual_batch_size
        from dit_eval.sampling import draw_samples

        device = world.device(arguments.device)
        size = arguments.batch_size or usual_batch_size(device)
        sampler, labels = load_sampler(choice, settings, device=device, world=world)
        run = sampler.run
        if arguments.dry_run:
            from dit_eval.cost import sampling_cost

            cost = sampling_cost(sampler=sampler, out=arguments.out, batch_size=size, world=world)
            if world.rank == 0:
                sys.stdout.write(format_cost_of_run(f"to draw {cost.images:,} images of {run.summary()}", cost))
            return
        draw_samples(arguments.out, sampler=sampler, labels=labels, batch_size=size, world=world)
        if world.rank == 0:
            images = f"{run.num_images:,} images, {run.image_size} px"
            tell(f"{arguments.out}: {images}, {run.summary()}\n", *_sample_grid(arguments, min(36, run.num_images)))


def _choice(arguments: Sample, world: World) -> ModelChoice:
    """The model and its checkpoint, which may have to be fetched: everything a user may have got wrong."""
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise ValueError(f"`batch_size` {arguments.batch_size}: needed at least 1.")
    if not arguments.dry_run:
        check_destination("--out", arguments.out)
        check_destination("--grid", arguments.grid)
    from dit_eval.diffusion.load import choose_and_check

    device = world.device(arguments.device)
    return choose_and_check(arguments.model, arguments.ckpt, arguments.settings, device=device)


def _sample_grid(arguments: Sample, count: int) -> list[File]:
    """The picture of `sample --grid`, if one is asked for."""
    if arguments.grid is None:
        return []
    return [
        File(
            option="--grid",
            path=arguments.grid,
            write=lambda path: draw_grid([arguments.out], path, first=0, count=count),
        )
    ]
