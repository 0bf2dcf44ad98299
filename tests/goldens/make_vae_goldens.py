"""Make ``vae.npz`` and ``vae.json``: what VA-VAE's and FLUX's autoencoders do with seeded weights.

    python tests/goldens/make_vae_goldens.py PATH/TO/LightningDiT PATH/TO/flux

The paths are checkouts at the commits below; their modules are imported unchanged. Needed: torch, torchvision, einops,
requests, tqdm, safetensors. See README.md.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import importlib
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parents[1])]

from dit_goldens import seeded_state
from vae_goldens import FLUX, VA_VAE, WIDTH, image, latents, latents_of_images

SOURCES = {
    "LightningDiT": ("https://github.com/hustvl/LightningDiT", "2725fed42a14898744433809949834e26957bcdd",
                     ("tokenizer/autoencoder.py", "datasets/img_latent_dataset.py"),
                     "0bc2e1acf3ea7d15c51c9cef9ceb5ca8c9eb40cc5bcf3fa9f08fd28c15743aae"),
    "flux": ("https://github.com/black-forest-labs/flux", "802fb4713906133fcbd0d8dc5351620ca4773036",
             ("src/flux/modules/autoencoder.py",),
             "cc022bc661b6df332ba542487584a4b53b6bbf80f3dd0e40b6cf9bc6b571b86e"),
}  # fmt: skip


def checked(name: str, path: Path) -> str:
    """The SHA-256 of the files that are run, which has to be the known one."""
    _, commit, files, known = SOURCES[name]
    found = hashlib.sha256(b"".join((path / file).read_bytes() for file in files)).hexdigest()
    if found != known:
        sys.exit(f"{path}: its files have SHA-256 {found}; expected {known}, commit {commit}.")
    return found


def loaded(folder: Path, name: str) -> ModuleType:
    sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def shapes(model: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


@torch.no_grad()
def va_vae(module: Any) -> dict[str, np.ndarray]:
    """Posterior of an image, and the image of latents as its decoder gets them."""
    encoder, decoder = module.Encoder, module.Decoder
    module.Encoder = functools.partial(encoder, ch=WIDTH)
    module.Decoder = functools.partial(decoder, ch=WIDTH)
    model = module.AutoencoderKL(**VA_VAE).eval()
    module.Encoder, module.Decoder = encoder, decoder
    model.load_state_dict(seeded_state(model.state_dict()))
    posterior = model.encode(image())
    images = model.decode(latents(32, 3))
    return {"mean": posterior.mean.numpy(), "std": posterior.std.numpy(), "images": images.numpy()}


@torch.no_grad()
def flux(module: Any) -> dict[str, np.ndarray]:
    """Scaled mean of an image's latents, and the image of scaled latents."""
    model = module.AutoEncoder(module.AutoEncoderParams(**FLUX | {"ch": WIDTH})).eval()
    model.load_state_dict(seeded_state(model.state_dict()))
    return {"scaled": model.encode(image()).numpy(), "images": model.decode(latents(16, 6)).numpy()}


def normalised(module: Any) -> dict[str, np.ndarray]:
    """The statistics of latents that LightningDiT's data set counts, and the first latents as it gives them."""
    with tempfile.TemporaryDirectory() as folder:
        values = torch.from_numpy(latents_of_images())
        tensors = {"latents": values, "latents_flip": values.clone(), "labels": torch.zeros(len(values))}
        save_file(tensors, f"{folder}/latents_rank00_shard000.safetensors")
        data = module.ImgLatentDataset(folder, latent_norm=True, latent_multiplier=1.0)
        mean, std = data.get_latent_stats()
        return {"mean": mean.numpy(), "std": std.numpy(), "first": data[0][0].numpy()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lightningdit", type=Path)
    parser.add_argument("flux", type=Path)
    paths = parser.parse_args()
    made_of = {"LightningDiT": checked("LightningDiT", paths.lightningdit), "flux": checked("flux", paths.flux)}
    theirs = loaded(paths.lightningdit, "tokenizer.autoencoder")
    data = loaded(paths.lightningdit / "datasets", "img_latent_dataset")  # `datasets` is also a library
    fluxes = loaded(paths.flux / "src" / "flux" / "modules", "autoencoder")
    outputs = {"va-vae": va_vae(theirs), "flux": flux(fluxes), "statistics": normalised(data)}
    np.savez_compressed(
        HERE / "vae.npz",
        **{f"{what}/{name}": value for what, found in outputs.items() for name, value in found.items()},
    )
    with torch.device("meta"):
        published = {
            "va-vae": shapes(theirs.AutoencoderKL(**VA_VAE)),
            "flux": shapes(fluxes.AutoEncoder(fluxes.AutoEncoderParams(**FLUX))),
        }
    made_with = {
        "sources": {
            name: {"repository": repository, "commit": commit, "files": files, "sha256": made_of[name]}
            for name, (repository, commit, files, _) in SOURCES.items()
        },
        "packages": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "safetensors")},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "shapes": published,
    }
    (HERE / "vae.json").write_text(json.dumps(made_with) + "\n")


if __name__ == "__main__":
    main()
