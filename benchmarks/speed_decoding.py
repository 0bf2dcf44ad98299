"""How fast are photographs read and cropped, beside a plain DataLoader?

    python benchmarks/speed_decoding.py [--images 400] [--repeats 5] [--folder IMAGENET_VAL]

Photographs are made: JPEGs of 500 x 375 pixels on average, of some 110 kB, as ImageNet's are. The peer is torchvision's
`ImageFolder` with ADM's crop as a transform, in a `DataLoader` with as many workers as there are cores; its workers are
started before the clock is, and warm. Both give uint8 batches of 64.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from harness import alternate, print_environment, report
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from dit_eval.images import Crop, open_images
from dit_eval.images.crop import centre_crop
from dit_eval.system.dist import cores

SIDE, BATCH = 256, 64


def photographs(folder: Path, count: int) -> None:
    """JPEGs as large as ImageNet's, in two class folders."""
    random = np.random.default_rng(0)
    for number in range(count):
        width, height = ((500, 375), (375, 500), (500, 333), (640, 480))[number % 4]
        coarse = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noise = random.normal(0, 12, pixels.shape)
        path = folder / f"n{number % 2}" / f"{number:05d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)


def _cut(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(centre_crop(image, SIDE).copy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="photographs in class folders (default: made ones)")
    arguments = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made)
        if arguments.folder is None:
            photographs(folder, arguments.images)
        images = open_images(folder, role="ref", crop=Crop(size=SIDE))
        count = images.num_images
        plain = DataLoader(
            ImageFolder(str(folder), _cut), BATCH, num_workers=cores(), persistent_workers=True, prefetch_factor=2
        )

        def ours() -> None:
            for _ in images.batches(BATCH):
                pass

        def loader() -> None:
            for _ in plain:
                pass

        seconds = alternate({"dit-eval": ours, "DataLoader": loader}, arguments.repeats)
        size = sum(path.stat().st_size for path in folder.rglob("*.JPEG")) / count
        report(f"{count:,} JPEGs of {size / 1000:.0f} kB to {SIDE} px, {cores()} cores", seconds, "dit-eval")
        for name, values in seconds.items():
            sys.stdout.write(f"  {name}: {count / median(values):,.0f} images a second\n")


if __name__ == "__main__":
    main()
