"""`dit-eval sample`."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_eval.cli.generator import (
    _check_checkpoint_name,
    _decoder_path,
    _load_decoder,
    _load_generator,
    _local_decoder,
    _network,
)
from dit_eval.cli.grid import _draw_grid
from dit_eval.cli.options import _check_destination, _file
from dit_eval.cli.output import _File, _format_cost_of_run, _header, _tell
from dit_eval.system.dist import World, join
from dit_eval.system.files import Watch
from dit_eval.system.progress import Progress
from dit_eval.system.text import shown

if TYPE_CHECKING:
    import numpy as np

    from dit_eval.models.dit import DiT
    from dit_eval.results.sample_run import SampleRun


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


def _sample_run(arguments: argparse.Namespace, world: World) -> tuple[SampleRun, Path]:
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


def _sample_labels(arguments: argparse.Namespace, run: SampleRun) -> tuple[np.ndarray, str | None]:
    """The label of each image, and the SHA-256 of their file, if they come from one."""
    from dit_eval.diffusion.labels import draw_labels, read_labels

    size: dict[str, Any] = {"num_images": run.num_images, "num_classes": run.network["num_classes"]}
    if run.labels == "file":
        return read_labels(arguments.labels, **size)
    return draw_labels("balanced" if run.labels == "balanced" else "random", seed=run.global_seed, **size), None


def _loaded_run(
    arguments: argparse.Namespace, run: SampleRun, checkpoint: Path, model: DiT, weights: str | None, watch: Watch
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
