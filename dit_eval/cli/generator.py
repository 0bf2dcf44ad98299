"""What `--model`, `--ckpt` and `--block` mean together: which network, from which file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dit_eval.cli.output import _fetch, _header, _note
from dit_eval.system.dist import World
from dit_eval.system.files import Watch
from dit_eval.system.text import did_you_mean

if TYPE_CHECKING:
    from dit_eval.cli.sample import Sample
    from dit_eval.diffusion.sampler import Decoder
    from dit_eval.models.dit import DiT, DiTConfig
    from dit_eval.results.sample_run import SampleRun


def _network(arguments: Sample) -> tuple[str, DiTConfig, Path]:
    """Name, configuration and checkpoint of the model; a checkpoint of ours says what it is, others need --model.

    A public checkpoint need not be here yet; what it is of is known. How many classes another file has is settled when
    its tensors are read.
    """
    import dataclasses

    from dit_eval.models.checkpoints import stored_config
    from dit_eval.models.dit import BLOCK_DESIGNS, named_config, paper_name
    from dit_eval.system.assets import asset, assets

    _check_block(arguments.block, BLOCK_DESIGNS)
    public = [item.name for item in assets() if item.kind == "weights" and item.name.startswith("dit-")]
    options = (("block", arguments.block), ("num_classes", arguments.num_classes))
    asked: dict[str, Any] = {field: value for field, value in options if value is not None}
    named = None
    # A name such as mini-XL/4, for a checkpoint that says its configuration: reports read size and patch in it.
    own = re.fullmatch(r"(?!DiT-)[^/]+-(?:S|B|L|XL)/(\d+)", arguments.model or "") if arguments.ckpt else None
    if own is None and (arguments.model or not arguments.ckpt):
        named = named_config(arguments.model or "DiT-XL/2", image_size=arguments.image_size or 256)
        named = dataclasses.replace(named, **asked)
    name, ckpt = arguments.model or "DiT-XL/2", arguments.ckpt
    if ckpt is None:
        ckpt = f"dit-xl-2-{arguments.image_size or 256}"
        if name != "DiT-XL/2" or ckpt not in public or asked:
            raise ValueError(f"No public checkpoint of this model (there are: {', '.join(public)}); pass --ckpt FILE.")
    item = asset(ckpt) if ckpt in public and not Path(ckpt).exists() else None
    path = Path(ckpt) if item is None else item.path
    if item is not None and item.url is not None:  # all public ones but our own are of this model
        stored: DiTConfig | None = named_config("DiT-XL/2", image_size=int(item.name.rpartition("-")[2]))
    else:
        stored = stored_config(path)
    if stored is None:
        if own is not None:
            raise ValueError(f"{path}: does not say its configuration, and {name} is no model of the paper.")
        if named is None:
            raise ValueError(f"{path}: does not say which model it is of; pass --model, such as --model DiT-XL/2.")
        return name, named, path
    if named is not None:
        asked |= {field: getattr(named, field) for field in ("depth", "hidden_size", "num_heads", "patch_size")}
    if own is not None:
        asked["patch_size"] = int(own[1])
    if arguments.image_size is not None:
        asked["image_size"] = arguments.image_size
    wrong = [f"{k} {getattr(stored, k)}, asked for {v}" for k, v in asked.items() if getattr(stored, k) != v]
    if wrong:
        whose = path if item is None else item.name
        raise ValueError(f"{whose}: of another model ({'; '.join(wrong)}). Leave the options out to take what it says.")
    return arguments.model or paper_name(stored) or path.stem, stored, path


def _check_checkpoint_name(ckpt: str | None) -> None:
    """That --ckpt is a public name, or looks like a file; the reader of checkpoints says what is wrong with a file."""
    from dit_eval.system.assets import assets

    public = [item.name for item in assets() if item.kind == "weights" and item.name.startswith("dit-")]
    if ckpt is not None and ckpt not in public and not Path(ckpt).suffix and not Path(ckpt).exists():
        raise FileNotFoundError(
            f"--ckpt {ckpt}: neither a file nor a public checkpoint; known: {', '.join(public)}."
            f"{did_you_mean(Path(ckpt).name, public)}"
        )


def _check_block(block: str | None, known: Sequence[str]) -> None:
    if block is not None and block not in known:
        raise ValueError(f"--block {block}: unknown; known: {', '.join(known)}.{did_you_mean(block, known)}")


def _local_decoder(vae: str) -> Path | None:
    """The file of a decoder; None if it is a public one, by name."""
    from dit_eval.models.vae import DECODERS, weights_file

    return None if vae in DECODERS and not Path(vae).exists() else weights_file(Path(vae))


def _decoder_path(vae: str) -> Path:
    from dit_eval.models.vae import DECODERS
    from dit_eval.system.assets import asset

    return _local_decoder(vae) or _fetch(asset(DECODERS[vae]))


def _load_generator(
    arguments: Sample, run: SampleRun, path: Path, world: World, watch: Watch
) -> tuple[DiT, str | None]:
    """The model, and which set of weights it has, if its checkpoint says that."""
    import dataclasses

    from dit_eval.diffusion.sampler import check_run
    from dit_eval.models.checkpoints import build_dit, labelled_config, open_checkpoint, stored_config
    from dit_eval.models.dit import DiTConfig
    from dit_eval.system.assets import assets

    public = next((item for item in assets() if item.url is not None and item.path == path), None)
    if public is not None:
        _fetch(public)
    watch.see(path)
    _header(f"model  {run.model}, {run.image_size} px, on {run.device}: checkpoint {path}")
    note = _note if world.rank == 0 else None
    checkpoint = open_checkpoint(path, weights="ema" if run.weights == "ema" else "model", on_note=note)
    config = DiTConfig(**run.network)
    if public is None and stored_config(path) is None:
        config = labelled_config(config, checkpoint, num_classes=arguments.num_classes)
        # Once more, before it is built: it may have no label for "no label".
        check_run(dataclasses.replace(run, network=dataclasses.asdict(config)))
    if note and not config.label_dropout:
        note(f'{path}: {config.num_classes} classes, and none for "no label": it draws without guidance')
    return build_dit(checkpoint, config, on_note=note), checkpoint.weights


def _load_decoder(run: SampleRun, vae: Path | None, device: str, world: World) -> Decoder | None:
    if vae is None:
        return None
    from dit_eval.models.vae import Autoencoder

    note = _note if world.rank == 0 else None
    return Autoencoder(vae, device=device, tiling=run.vae_tiling, on_note=note).decode
