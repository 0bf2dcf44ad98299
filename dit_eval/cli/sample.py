"""`dit-eval sample`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from dit_eval.cli.grid import _draw_grid
from dit_eval.cli.options import _check_destination, _file
from dit_eval.cli.output import _File, _format_cost_of_run, _header, _tell
from dit_eval.system.dist import World, join

if TYPE_CHECKING:
    from dit_eval.models.choose import ModelChoice
    from dit_eval.results.settings import SamplingSettings


def _add_sample(commands: Any) -> None:
    sample = commands.add_parser(
        "sample",
        help="draw images from a DiT into one sample npz",
        description="Draw images from a DiT into one sample npz, on one process or many "
        "(torchrun --nproc_per_node=N -m dit_eval sample ...). The same command goes on after a crash.",
    )
    model = sample.add_argument_group("model")
    model.add_argument(
        "--model",
        help="DiT-XL/2 and so on (default: what the checkpoint says, else DiT-XL/2), or a name such as mini-XL/4 for a "
        "checkpoint of your own",
    )
    model.add_argument(
        "--ckpt",
        metavar="FILE",
        help="checkpoint, or a name of `dit-eval weights list` (default: the public one of DiT-XL/2 at 256 or 512)",
    )
    model.add_argument("--weights", choices=("ema", "model"), default="ema", help="which set of a trainer's file")
    model.add_argument("--image-size", type=int, metavar="PX", help="default: what the checkpoint says, else 256")
    model.add_argument("--num-classes", type=int, metavar="K", help="default: what the checkpoint says, else 1000")
    model.add_argument("--block", help="block design of --model (default: adaln-zero)")
    what = sample.add_argument_group("what to draw")
    what.add_argument("--num-fid-samples", type=int, default=50_000, metavar="N", help="default: %(default)s")
    what.add_argument(
        "--num-sampling-steps", default="250", metavar="S", help='steps of 1000, or "ddimS" (default: %(default)s)'
    )
    what.add_argument("--cfg-scale", type=float, default=1.5, metavar="W", help="1.0: no guidance (default: 1.5)")
    what.add_argument("--cfg-channels", type=int, metavar="C", help="channels guided (default: 3, as the paper)")
    what.add_argument("--sampler", choices=("ddpm", "ddim"), default="ddpm", help="default: %(default)s")
    what.add_argument(
        "--vae",
        default="ema",
        metavar="ema|mse|original|FILE",
        help="decoder of latents (default: %(default)s); a pixel-space model needs none",
    )
    what.add_argument("--vae-tiling", action="store_true", help="decode in tiles; needs less memory, changes pixels")
    what.add_argument(
        "--labels",
        default="random",
        metavar="random|balanced|FILE",
        help="classes: uniform as in the paper (default), in turn, or from text, .npy or the arr_1 of an .npz",
    )
    what.add_argument(
        "--rounding", choices=("dit", "truncate"), default="dit", help="to 8 bits: nearest (default), or ADM's rule"
    )
    what.add_argument("--global-seed", type=int, default=0, metavar="SEED", help="default: %(default)s")
    how = sample.add_argument_group("how")
    how.add_argument(
        "--per-proc-batch-size",
        type=int,
        metavar="B",
        help="default: 32, or more where a CPU has many cores: 8 for each",
    )
    how.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="fp32", help="default: %(default)s")
    how.add_argument("--compile", action="store_true", help="run the model through torch.compile")
    how.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU per process if there are any)")
    how.add_argument("--out", type=_file(".npz"), required=True, metavar="SAMPLES.npz")
    how.add_argument(
        "--grid",
        type=_file(".png", ".pdf"),
        metavar="GRID.png",
        help="also draw the first images: GRID.png and GRID.pdf",
    )
    how.add_argument("--dry-run", action="store_true", help="predict time, memory and disk from a short trial")
    sample.set_defaults(run=_sample)


def _sample(arguments: argparse.Namespace) -> None:
    with join() as world:
        what = arguments.ckpt or arguments.model or "DiT-XL/2"
        _header(f"sample: {arguments.num_fid_samples:,} images of {what}, into {arguments.out}")
        settings, choice = world.from_first(lambda: _request(arguments, world))
        world.share_cores()
        from dit_eval.diffusion.load import load_sampler
        from dit_eval.diffusion.sampler import usual_batch_size
        from dit_eval.sampling import draw_samples

        device = world.device(arguments.device)
        size = arguments.per_proc_batch_size or usual_batch_size(device)
        sampler, labels = load_sampler(choice, settings, device=device, world=world)
        run = sampler.run
        if arguments.dry_run:
            from dit_eval.cost import sampling_cost

            cost = sampling_cost(sampler=sampler, out=arguments.out, batch_size=size, world=world)
            if world.rank == 0:
                sys.stdout.write(_format_cost_of_run(f"to draw {cost.images:,} images of {run.summary()}", cost))
            return
        draw_samples(arguments.out, sampler=sampler, labels=labels, batch_size=size, world=world)
        if world.rank == 0:
            images = f"{run.num_images:,} images, {run.image_size} px"
            _tell(f"{arguments.out}: {images}, {run.summary()}\n", *_sample_grid(arguments, min(36, run.num_images)))


def _request(arguments: argparse.Namespace, world: World) -> tuple[SamplingSettings, ModelChoice]:
    """What to draw, and from which checkpoint, which may have to be fetched: everything a user may have got wrong."""
    if arguments.per_proc_batch_size is not None and arguments.per_proc_batch_size < 1:
        raise ValueError(f"--per-proc-batch-size {arguments.per_proc_batch_size}: needed at least 1.")
    if not arguments.dry_run:
        _check_destination("--out", arguments.out)
        _check_destination("--grid", arguments.grid)
    from dit_eval.diffusion.load import choose_and_check
    from dit_eval.results.settings import SamplingSettings

    device = world.device(arguments.device)
    settings = SamplingSettings(
        weights=arguments.weights,
        image_size=arguments.image_size,
        num_classes=arguments.num_classes,
        block=arguments.block,
        num_images=arguments.num_fid_samples,
        num_sampling_steps=arguments.num_sampling_steps,
        cfg_scale=arguments.cfg_scale,
        cfg_channels=arguments.cfg_channels,
        sampler=arguments.sampler,
        vae=arguments.vae,
        vae_tiling=arguments.vae_tiling,
        labels=arguments.labels,
        rounding=arguments.rounding,
        global_seed=arguments.global_seed,
        precision=arguments.precision,
        compiled=arguments.compile,
    )
    return settings, choose_and_check(arguments.model, arguments.ckpt, settings, device=device)


def _sample_grid(arguments: argparse.Namespace, count: int) -> list[_File]:
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
