"""How near to ADM's features, and how fast, are the programs that papers are scored with?

    python benchmarks/beside_others.py [--images 64] [--out reports/beside_others.json]

Real pictures and true weights: test pictures of CIFAR-10 against training pictures, through the convolutions of 2015
(`tests/support/real.py` brings both). Each program resizes and extracts by its own code, in turn on the same
mini-batches. How near it comes is told of its features, all together: with few pictures the FIDs of two programs may
agree by chance. They stand beside it, by one formula for all, ours. What is timed is processor time of one thread,
which other work on the machine disturbs least.

ADM's graph in TensorFlow is what the others are compared with. clean-fid, torchmetrics and pytorch-fid take part if
they are installed (`pip install clean-fid torchmetrics pytorch-fid`). clean-fid's network is a TorchScript file that no
package brings: its own resize runs before the network code that it ships, with the normalisation of that file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from harness import print_environment

from dit_eval.checks.anchors import cifar10_parts
from dit_eval.features.inception import TorchInception
from dit_eval.features.network import FeatureExtractor
from dit_eval.metrics.frechet import frechet_distance
from dit_eval.summary import RunningStats
from dit_eval.system.environment import environment, now

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
import real
from seeded_inception import CONVS, write_graph_def

Extract = Callable[[np.ndarray], np.ndarray]  # uint8 (B, H, W, 3) to pool features (B, 2048)
ADM = "ADM's TensorFlow graph"
MINI_BATCH = 16


def graph_weights(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The tensors of a state dict by their names in ADM's graph."""
    parts = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {"softmax/weights": state["fc.weight"].numpy().T, "softmax/biases": state["fc.bias"].numpy()}
    for conv in CONVS:
        kernel = state[f"{conv.torch_name}.conv.weight"].numpy()
        found[f"{conv.name}/conv2d_params"] = kernel.transpose(2, 3, 1, 0)  # OIHW to HWIO
        for theirs, ours in parts.items():
            found[f"{conv.name}/batchnorm/{theirs}"] = state[f"{conv.torch_name}.bn.{ours}"].numpy()
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}


def adm_network(state: dict[str, torch.Tensor]) -> FeatureExtractor:
    """ADM's graph with these weights."""
    from dit_eval.features.tensorflow import TensorflowInception

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classify_image_graph_def.pb"
        write_graph_def(path, graph_weights(state))
        return TensorflowInception(weights=path)


def adm(state: dict[str, torch.Tensor]) -> Extract:
    network = adm_network(state)
    return lambda images: network(images).pool


def ours(weights: Path) -> Extract:
    network = TorchInception(weights=weights)
    return lambda images: network(images).pool


def torch_fidelity(weights: Path) -> Extract:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("peer", ["2048"], str(weights)).eval()
    return lambda images: network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())[0].numpy()


def pytorch_fid(state: dict[str, torch.Tensor]) -> Extract:
    from pytorch_fid import inception

    with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
        network = inception.InceptionV3([3]).eval()

    def extract(images: np.ndarray) -> np.ndarray:
        return network(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)[0].flatten(1).numpy()

    return extract


def clean_fid(state: dict[str, torch.Tensor]) -> Extract:
    from cleanfid import inception_pytorch, resize

    with mock.patch.object(inception_pytorch, "load_state_dict_from_url", return_value=state):
        network = inception_pytorch.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    resized = resize.build_resizer("clean")

    def extract(images: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.stack([resized(image) for image in images])).permute(0, 3, 1, 2)
        return network((batch - 128) / 128)[0].flatten(1).numpy()

    return extract


def torchmetrics(weights: Path) -> Extract:
    """Its network as `FrechetInceptionDistance` has it by default."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    network = NoTrainInceptionV3("peer", ["2048"], str(weights))
    return lambda images: network(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).numpy()


def programs(weights: Path) -> dict[str, Extract]:
    """The programs that are here, by name and version."""
    state = torch.load(weights, weights_only=True)
    makers: dict[str, tuple[str, Callable[[], Extract]]] = {
        ADM: ("tensorflow", lambda: adm(state)),
        "dit-eval": ("dit-eval", lambda: ours(weights)),
        "torch-fidelity": ("torch-fidelity", lambda: torch_fidelity(weights)),
        "clean-fid": ("clean-fid", lambda: clean_fid(state)),
        "torchmetrics": ("torchmetrics", lambda: torchmetrics(weights)),
        "pytorch-fid": ("pytorch-fid", lambda: pytorch_fid(state)),
    }
    found = {}
    for name, (package, make) in makers.items():
        try:
            extract = make()
        except ModuleNotFoundError as error:
            sys.stdout.write(f"{name} left out: {error}\n")
            continue
        found[name if package in ("tensorflow", "dit-eval") else f"{name} {metadata.version(package)}"] = extract
    return found


@torch.no_grad()
def measure(extractors: dict[str, Extract], sides: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Of each program: features (N, 2048) of both sides, and the processor seconds of each mini-batch."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], **{side: [] for side in sides}} for name in extractors}
    for extract in extractors.values():
        extract(sides["gen"][:2])  # what a program does once
    for side, images in sides.items():
        for first in range(0, len(images), MINI_BATCH):
            for name, extract in extractors.items():
                begin = time.process_time()
                features = extract(images[first : first + MINI_BATCH])
                found[name]["seconds"].append(time.process_time() - begin)
                found[name][side].append(features)
    return {name: of | {side: np.concatenate(of[side]) for side in sides} for name, of in found.items()}


def fid(of: dict[str, Any]) -> float:
    """The distance of the two sides, by our formula."""
    sums = {side: RunningStats(2048) for side in ("gen", "ref")}
    for side, running in sums.items():
        running.update(of[side])
    return frechet_distance(**{side: running.finalize() for side, running in sums.items()}).value


def compared(of: dict[str, Any], adm: dict[str, Any]) -> dict[str, Any]:
    """A program beside ADM's graph: what of its features is kept."""
    theirs, ours = (np.concatenate([each["gen"], each["ref"]]).astype(np.float64) for each in (adm, of))
    return {
        "features_off": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
        "fid": fid(of),
        "images_per_processor_second": MINI_BATCH / statistics.median(of["seconds"]),
        "seconds": of["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, metavar="N", help="of each side, a multiple of 16")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write what was found as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_environment()
    with mock.patch.dict(os.environ, DIT_EVAL_CACHE=str(real.cifar10())):
        pictures = cifar10_parts(bring=lambda asset: Path(asset.name))  # all are there
    sides = {"gen": pictures["test"][: arguments.images], "ref": pictures["train"][: arguments.images]}
    measured = measure(programs(real.inception()), sides)
    found = {name: compared(of, measured[ADM]) for name, of in measured.items()}
    for name, of in found.items():
        sys.stdout.write(
            f"{name:<24} features off by {of['features_off']:.1e}, FID {of['fid']:.6f}, "
            f"{of['images_per_processor_second']:5.2f} images a processor second\n"
        )
    if arguments.out:
        line = {"images_of_each_side": arguments.images, "mini_batch": MINI_BATCH, "programs": found}
        text = json.dumps({**line, "environment": environment(), "time": now()}, indent=1)
        arguments.out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
