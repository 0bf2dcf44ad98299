"""Statistics of images of any number in memory of one size, which a killed run goes on with.

What has been seen so far is kept in a folder from time to time: the number of images and the sums over their features,
float64, with a digest and that of the run. No single features are kept, so that 1.28 million images of ImageNet need as
much memory and disk as 50,000. A run that goes on adds the same batches to the same sums: the statistics are those of a
run that was never stopped, to the last bit, at the same batch size.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import numpy as np

from dit_eval.summary import FeatureSummary, RunningStats
from dit_eval.system.ahead import read_ahead
from dit_eval.system.run_folder import RunFolder, differences, read_settings, refuse_other
from dit_eval.system.seals import TRAILER, fault, read_sealed, run_digest, sealed, trailer

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor
    from dit_eval.images import ImageSet

SECONDS = 60.0  # between two times that the sums are kept: they have 67 MB, and a disk may be slow
_SUMS = "sums"
_ONE = 8  # bytes of a number


class KeptSums:
    """The folder beside a file of statistics that holds what a run has summed, until the file is written.

    It is made when there is something to keep, so that a run of less than a minute leaves nothing behind.

    Parameters
    ----------
    out : the file that is to be written
    about : what decides the sums: images, crop, network
    on_note : told that a run goes on, or why it cannot
    """

    def __init__(self, out: Path, about: dict[str, Any], on_note: Callable[[str], None] | None = None) -> None:
        path = out.with_name(out.name + ".parts")
        self._files = RunFolder(path, doing="making statistics there", out=out)
        self._about, self._run = about, run_digest(about)
        self._note = on_note or (lambda text: None)
        self._claimed, self._kept = False, time.monotonic()

    def read(self, sums: list[RunningStats]) -> list[RunningStats]:
        """What is kept of the same run, or the sums that are given, of no images.

        Raises
        ------
        ValueError
            If the folder is of another run, or another process is at it.
        """
        path = self._files.path / _SUMS
        if not self._files.path.exists():
            return sums
        self._claim()
        if not path.is_file():
            return sums
        shapes = [each.state().shape[0] for each in sums]
        if path.stat().st_size != _ONE * sum(shapes) + TRAILER:
            self._note(f"{path}: damaged; begun again")
            return sums
        data = path.read_bytes()
        if why := fault(data[:-TRAILER], data[-TRAILER:], name=_SUMS, run=self._run):
            self._note(f"{path}: {why}; begun again")
            return sums
        numbers = np.frombuffer(data[:-TRAILER], "<f8")
        found = [RunningStats.from_state(part) for part in np.split(numbers, np.cumsum(shapes)[:-1])]
        self._note(f"{self._files.path}: goes on after {found[0].num:,} images")
        return found

    def keep(self, sums: list[RunningStats], *, now: bool = False) -> None:
        """Write what is summed, if it is time to; `now` if there are older sums."""
        if time.monotonic() - self._kept < SECONDS and not (now and self._claimed):
            return
        self._claim()
        data = np.concatenate([each.state() for each in sums]).astype("<f8").tobytes()
        self._files.write(_SUMS, data + trailer(data, name=_SUMS, run=self._run))
        self._kept = time.monotonic()

    def remove(self) -> None:
        """Remove the folder: the statistics are written."""
        if self._claimed:
            rmtree(self._files.path, ignore_errors=True)
            self.release()

    def release(self) -> None:
        """Let other runs in."""
        self._files.__exit__()
        self._claimed = False

    def _claim(self) -> None:
        """Keep others out of the folder, which is made, and see that it is of this run."""
        if self._claimed:
            return
        self._files.claim()
        self._claimed = True
        if read_settings(self._files.settings) is not None:
            refuse_other(self._files.path, differences(self._about, read_sealed(self._files.settings)))
        else:
            self._files.write(self._files.settings.name, json.dumps(sealed(self._about)).encode())


def sum_features(
    images: ImageSet,
    extractor: FeatureExtractor,
    *,
    kept: KeptSums | None = None,
    batch_size: int = 64,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> FeatureSummary:
    """Statistics of the features of an image set, as `extract_features` gives them, without the features themselves.

    Parameters
    ----------
    kept : where to begin from, and to keep what is done; None to keep nothing
    on_progress : called after each batch with (images done, images in all)

    Raises
    ------
    ValueError
        If a file cannot be read or has changed, or what is kept is of another run.
    """
    dims = [extractor.pool_dim, *([] if extractor.spatial_dim is None else [extractor.spatial_dim])]
    sums = [RunningStats(dim) for dim in dims]
    if kept is not None:
        sums = kept.read(sums)
    for batch in read_ahead(images.batches(batch_size, first=sums[0].num)):
        features = extractor(batch)
        found = [features.pool, features.spatial]
        for each, rows in zip(sums, found, strict=False):
            if rows is not None:
                each.update(rows)
        if kept is not None:
            kept.keep(sums)
        if on_progress:
            on_progress(sums[0].num, images.num_images)
    if kept is not None:
        kept.keep(sums, now=True)
    images.check_unchanged()
    stats = [each.finalize() for each in sums]
    return FeatureSummary(pool=stats[0], spatial=stats[1] if len(stats) > 1 else None)
