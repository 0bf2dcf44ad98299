"""How fast are features extracted, against the programs that people run today?

    python benchmarks/speed_features.py [--size 256] [--batch 64] [--only dit-eval,torch-fidelity]

The peers run in turn on the same images, with the same random weights where they take any: torch-fidelity's extractor
as it is, ADM's frozen graph in TensorFlow, and pytorch-fid's network if that package is installed (it downloads its own
weights, so its module is built without them). The share of the machine's own speed is that of a plain float32 matrix
product of 4,096 x 4,096, measured in the same run, with 11.43 GFLOP for each image.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import alternate, log, print_environment, report

from dit_eval.features.inception import TorchInception
from dit_eval.features.inception_weights import POOL_DIM, SPATIAL_DIM
from dit_eval.summary import RunningStats

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from seeded_inception import seeded_weights, write_graph_def, write_state_dict

GFLOP = 11.43  # of an image of 299 x 299 px, a multiply-add counted as two


def _channels_first(images: np.ndarray) -> torch.Tensor:
    """As both programs' loaders hand batches to their networks: uint8 (B, 3, H, W), contiguous."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def torch_fidelity(weights: Path) -> Callable[[np.ndarray], Any]:
    """Its own extractor, asked for what FID, IS and precision/recall need."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("peer", ["2048", "logits_unbiased"], str(weights)).eval()

    def extract(images: np.ndarray) -> Any:
        with torch.no_grad():
            return net(_channels_first(images))

    return extract


def pytorch_fid() -> Callable[[np.ndarray], Any] | None:
    """Its InceptionV3 with random weights of its own; it resizes by itself."""
    try:
        from pytorch_fid import inception
    except ModuleNotFoundError:
        return None
    load = inception.load_state_dict_from_url
    inception.load_state_dict_from_url = lambda *_, **__: inception._inception_v3(
        num_classes=1008, aux_logits=False, weights=None
    ).state_dict()
    try:
        # The published file has the layout of its patched network, which this makes anew.
        net = inception.InceptionV3([3])
    except RuntimeError as error:
        sys.stdout.write(f"pytorch-fid left out: {str(error).splitlines()[0]}\n")
        return None
    finally:
        inception.load_state_dict_from_url = load
    net.eval()

    def extract(images: np.ndarray) -> Any:
        with torch.no_grad():
            return net(_channels_first(images) / 255)

    return extract


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--only", help="some of the programs, by name, with commas")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print_environment()
    images = np.random.RandomState(0).randint(
        0, 256, (arguments.batch, arguments.size, arguments.size, 3), dtype=np.uint8
    )
    with tempfile.TemporaryDirectory() as folder:
        pth, pb = Path(folder) / "weights.pth", Path(folder) / "classify_image_graph_def.pb"
        weights = seeded_weights(0)
        write_state_dict(pth, weights)
        write_graph_def(pb, weights)
        extractors: dict[str, Callable[[np.ndarray], Any] | None] = {
            "dit-eval": TorchInception(weights=pth),
            "torch-fidelity": torch_fidelity(pth),
            "pytorch-fid": pytorch_fid(),
        }
        try:
            from dit_eval.features.tensorflow import TensorflowInception

            extractors["ADM's graph (TensorFlow)"] = TensorflowInception(weights=pb)
        except ModuleNotFoundError as error:
            sys.stdout.write(f"{error}\n")
    wanted = arguments.only.split(",") if arguments.only else list(extractors)
    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)
    candidates: dict[str, Callable[[], Any]] = {"matrix product, 4,096": lambda: a @ b}
    for name, extract in extractors.items():
        if extract is not None and name in wanted:
            candidates[name] = lambda extract=extract: extract(images)
    seconds = alternate(candidates, arguments.repeats)
    product = statistics.median(seconds.pop("matrix product, 4,096"))
    question = f"Features of {arguments.batch} images of {arguments.size} px"
    report(question, seconds, "dit-eval")
    rate = 2 * 4096**3 / product / 1e9
    for name, values in seconds.items():
        reached = arguments.batch * GFLOP / statistics.median(values)
        sys.stdout.write(
            f"  {name:<42} {arguments.batch / statistics.median(values):8.2f} images/s, {reached:.0f} of the "
            f"{rate:.0f} GFLOP/s of a matrix product ({reached / rate:.0%})\n"
        )
    log(f"{question}: matrix product", {"gflops_per_second": rate})
    if "dit-eval" in seconds:
        moments(arguments.batch, statistics.median(seconds["dit-eval"]), arguments.repeats)


def moments(batch: int, extraction: float, repeats: int) -> None:
    """What the streaming moments of pool and spatial features cost beside the network."""
    features = [np.random.RandomState(0).rand(batch, dim).astype(np.float32) for dim in (POOL_DIM, SPATIAL_DIM)]
    running = [RunningStats(part.shape[1]) for part in features]

    def update() -> None:
        for stats, part in zip(running, features, strict=True):
            stats.update(part)

    question = f"Moments of {batch} images"
    seconds = alternate({"streaming": update}, repeats)
    report(question, seconds, "streaming")
    sys.stdout.write(f"  {statistics.median(seconds['streaming']) / extraction:.1%} of the time of the network\n")


if __name__ == "__main__":
    main()
