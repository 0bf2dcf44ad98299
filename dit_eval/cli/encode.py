"""`dit-eval encode`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from dit_eval.cli.options import EVERYDAY, Option
from dit_eval.cli.output import bring, header, say_note
from dit_eval.cli.shared import DeviceEach, KnownBy, OnCorrupt, Pixels, check_destination, is_folder
from dit_eval.system.dist import World, join
from dit_eval.system.files import Watch
from dit_eval.system.progress import Progress
from dit_eval.system.text import shown

if TYPE_CHECKING:
    import numpy as np

    from dit_eval.diffusion.data import ImageFolder


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Encode each image of a folder, and its mirror image, to the mean and standard deviation of its posterior.

    Example: dit-eval encode images --out latents --image-size 256

    On one process or many (torchrun). The same command goes on after a crash.
    """

    folder: Annotated[Path, Option("images, or a folder of them for each class", name="FOLDER")]
    out: Annotated[Path, Option("a folder; for `train --data`", metavar="LATENTS", check=is_folder)]
    image_size: Annotated[Pixels, Option("centre crop", metavar="PX", group=EVERYDAY)] = 256
    vae: Annotated[str, Option("the first three have one encoder", metavar="ema|mse|original|flux|FILE")] = "ema"
    half: Annotated[bool, Option("store float16: half the size, rounded")] = False
    on_corrupt: OnCorrupt = "refuse"
    identity: KnownBy = "times"
    num_workers: Annotated[int, Option("threads that read")] = 4
    device: DeviceEach = "auto"


def encode(arguments: Encode) -> None:
    with join() as world:
        header(f"encode: images of {arguments.folder}, into {arguments.out}")
        from dit_eval.encoding import Encoder, EncodingSettings, encode

        settings = world.from_first(
            lambda: EncodingSettings(
                dtype="float16" if arguments.half else "float32",
                on_corrupt=arguments.on_corrupt,
                num_workers=arguments.num_workers,
            )
        )
        watch = Watch()
        folder, vae, sha256 = world.from_first(lambda: _encode_setup(arguments, watch))
        world.share_cores()
        import torch

        from dit_eval.models.vae import Autoencoder

        device = world.device(arguments.device)
        note = say_note if world.rank == 0 else None
        autoencoder = world.first_then_all(lambda: Autoencoder(vae, device=device, on_note=note))
        world.barrier()
        world.from_first(watch.check)  # of the checksum and of what all processes have loaded

        def posterior(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.inference_mode():
                mean, std = autoencoder.encode(torch.from_numpy(images).to(device))
            return mean.cpu().numpy(), std.cpu().numpy()

        with Progress() as progress:
            kept = encode(
                folder,
                arguments.out,
                encoder=Encoder(
                    encode=posterior,
                    vae=shown(Path(arguments.vae).name),
                    vae_sha256=sha256,
                    latents=autoencoder.latents,
                ),
                settings=settings,
                world=world,
                on_progress=partial(progress.update, "encoded"),
                on_note=progress.note,
            )
        if world.rank == 0:
            classes = f"{len(folder.classes):,} classes" if folder.classes else "no class folders"
            left_out = f", {len(folder) - kept:,} skipped" if kept < len(folder) else ""
            sys.stdout.write(f"{arguments.out}: {kept:,} images and their mirror images, {classes}{left_out}\n")


def _encode_setup(arguments: Encode, watch: Watch) -> tuple[ImageFolder, Path, str]:
    """Images, autoencoder and its SHA-256: everything a user may have got wrong."""
    from dit_eval.diffusion.data import list_images
    from dit_eval.diffusion.latents import check_latents_folder
    from dit_eval.models.choose import choose_decoder
    from dit_eval.models.vae_files import latents_of
    from dit_eval.system.assets import sha256_of

    World().device(arguments.device)
    check_latents_folder(arguments.out)
    decoder = choose_decoder(arguments.vae)
    folder = list_images(arguments.folder, image_size=arguments.image_size, identity=arguments.identity)
    check_destination("--out", arguments.out.absolute().parent, folder=True)
    size, factor = arguments.image_size, latents_of(decoder).factor
    if size % factor or size < factor:
        raise ValueError(f"--image-size {size}: needed a multiple of {factor}, the autoencoder's factor.")
    vae = decoder if isinstance(decoder, Path) else bring(decoder)
    watch.see(vae)
    with Progress() as progress:
        report = partial(progress.update, "checksums")
        folder.identify(report)
        return folder, vae, sha256_of(vae, report)
