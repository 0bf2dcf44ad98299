"""Features kept on disk."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dit_eval.features.extract import extract_features
from dit_eval.images.npz import write_batch
from dit_eval.images.open import ImageSet
from dit_eval.summary import FeatureSummary, GaussianStats
from dit_eval.system.dist import World
from dit_eval.system.files import why_not_written

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor

# Part of every cache key: raise it whenever an extractor's output or the entry's layout changes.
_CACHE_VERSION = 2


def cached_features(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    images_sha256: str | None,
    cache: Path | None,
    batch_size: int = 64,
    keep_spatial: bool = False,
    world: World | None = None,
    on_progress: Callable[[int, int | None], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> tuple[FeatureSummary, bool]:
    """`extract_features`, or its earlier result from the folder `cache`.

    With several processes, process 0 reads and writes the entry and gets the summary, the others an empty one.

    An entry is keyed by the content of the images, the number of images used, the extractor, its weights, backend,
    device kind and precision; the batch size does not matter. An unreadable entry, or
    one without the spatial features that `keep_spatial` asks for, is made again. Images without checksum, of an
    iterable, are not kept. Where an entry cannot be written, `on_note` is called with the reason, and that is all.

    Returns
    -------
    The summary, and whether it came from the cache.
    """
    world = world or World()
    extract = partial(
        extract_features,
        images,
        extractor,
        batch_size=batch_size,
        keep_spatial=keep_spatial,
        world=world,
        on_progress=on_progress,
    )
    if cache is None or images_sha256 is None or images.num_images is None:
        return extract(), False
    parts = {
        "version": _CACHE_VERSION,
        "images": images_sha256,
        "num_images": images.num_images,
        "extractor": extractor.name,
        "weights": extractor.weights_sha256,
        "backend": extractor.backend,
        "device": extractor.device.split(":")[0],
        "precision": extractor.precision,
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    entry = Path(cache) / f"features-{key[:32]}.npz"
    kept = _read_entry(entry, images.num_images, keep_spatial) if world.rank == 0 else None
    if world.from_first(lambda: kept is not None):
        return kept or FeatureSummary(), True
    summary = extract()

    def keep() -> None:
        try:
            write_batch(entry, arrays=_entry_arrays(summary, json.dumps(parts)))
        except OSError as error:
            if on_note:
                on_note(f"warning: {entry}: the features could not be kept ({why_not_written(entry, error)}).")

    world.from_first(keep)
    return summary, False


def _entry_arrays(summary: FeatureSummary, description: str) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {"made_from": np.array(description)}
    if summary.pool is not None:
        arrays |= {"mu": summary.pool.mu, "sigma": summary.pool.sigma}
    if summary.spatial is not None:
        arrays |= {"mu_s": summary.spatial.mu, "sigma_s": summary.spatial.sigma}
    features = {name: getattr(summary, name) for name in ("pool_features", "spatial_features", "class_probs")}
    return arrays | {name: rows for name, rows in features.items() if rows is not None}


def _read_entry(path: Path, num: int, keep_spatial: bool) -> FeatureSummary | None:
    if not path.is_file():
        return None
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as entry:
            known = {key: entry[key] for key in entry.files if key != "spatial_features" or keep_spatial}
        stats = {
            part: GaussianStats(mu=known[mu], sigma=known[sigma], num=num) if mu in known else None
            for part, mu, sigma in (("pool", "mu", "sigma"), ("spatial", "mu_s", "sigma_s"))
        }
        if any(len(known[name]) != num for name in ("pool_features", "class_probs") if name in known):
            return None
        spatial_features = known["spatial_features"] if keep_spatial else None
        if spatial_features is not None and len(spatial_features) != num:
            return None
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
        return None
    return FeatureSummary(
        pool=stats["pool"],
        spatial=stats["spatial"],
        pool_features=known["pool_features"],
        spatial_features=spatial_features,
        class_probs=known.get("class_probs"),
    )
