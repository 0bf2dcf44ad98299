"""A network that is run once on the same batch of images in all tests of a run, whichever process they are in."""

import dataclasses
import hashlib
import os
import tempfile

import numpy as np

from dit_eval.features.network import FeatureBatch


class KeptFeatures:
    """A network whose features are kept in a folder, by its weights and the images of a batch."""

    def __init__(self, network, *, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self._network, self._folder = network, folder

    def __getattr__(self, name):
        return getattr(self._network, name)

    def __call__(self, images):
        network = self._network
        by = (network.name, network.backend, network.precision, network.device, network.weights_sha256)
        key = " ".join([*by, str(images.dtype), str(images.shape)]).encode()
        path = self._folder / f"{hashlib.sha256(key + images.tobytes()).hexdigest()}.npz"
        if not path.exists():
            found = {part: of for part, of in dataclasses.asdict(self._network(images)).items() if of is not None}
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file:
                np.savez(file, **found)
            os.replace(file.name, path)  # another process may be making the same
        with np.load(path, allow_pickle=False) as kept:
            return FeatureBatch(**kept)
