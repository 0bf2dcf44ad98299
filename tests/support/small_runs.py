"""Runs of parts of a second: a training, an encoding, a sampling."""

import numpy as np
from PIL import Image
from sample_runs import make_run, random_dit

from dit_eval.diffusion.data import ArrayData, list_images
from dit_eval.diffusion.recipe import Recipe, Schedule
from dit_eval.diffusion.sampler import ImageSampler
from dit_eval.encoding import Encoder, encode
from dit_eval.models.config import DiTConfig
from dit_eval.models.latent_space import LatentSpace
from dit_eval.sampling import sample_npz
from dit_eval.training import TrainingRun


def training():
    rng = np.random.default_rng(0)
    data = ArrayData(
        images=rng.integers(0, 256, (40, 8, 8, 1), np.uint8), labels=rng.integers(0, 10, 40), identity={"test": 1}
    )
    config = DiTConfig(
        depth=1, hidden_size=16, num_heads=2, patch_size=2, input_size=8, num_classes=10, in_channels=1, space="pixel"
    )
    recipe = Recipe(learning_rate=1e-3, batch_size=4, ema_decay=0.9)
    schedule = Schedule(steps=12, save_at=(5, 9), log_every=4)
    return TrainingRun(config=config, data=data, recipe=recipe, schedule=schedule)


def draw_pictures(folder):
    rng = np.random.default_rng(0)
    for number in range(11):
        path = folder / ("cat" if number % 2 else "ant") / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def encoding(pictures, out, on_note=None, by="times"):
    def posterior(images):
        small = images[:, :, ::8, ::8]
        return np.concatenate([small, small[:, :1]], 1), np.full((len(small), 4, 4, 4), 0.5, np.float32)

    encoder = Encoder(encode=posterior, vae="test", vae_sha256="0" * 64, latents=LatentSpace(scale=1.0))
    folder = list_images(pictures, image_size=32, identity=by)
    return encode(folder, out, encoder=encoder, on_note=on_note)


def sampling(out, on_note=None, seed=0):
    model = random_dit(depth=1, hidden_size=16)
    sampler = ImageSampler(model, make_run(model.config, num_images=20, num_sampling_steps="2", global_seed=seed))
    return sample_npz(out, sampler=sampler, labels=np.arange(20) % 10, batch_size=8, on_note=on_note)
