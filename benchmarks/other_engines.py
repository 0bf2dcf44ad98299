"""Would another engine run the Inception network faster on this CPU, with the same features?

    python benchmarks/other_engines.py [--images 32] [--threads 2] [--only PATTERN]

The same folded network in mini-batches of 8, in turn: as dit-eval runs it, by `torch.compile` with frozen weights, by
TorchScript frozen and optimised for inference, and by OpenVINO, ONNX Runtime, MNN and ncnn, where they are installed
(`pip install openvino onnxruntime onnx onnxscript MNN ncnn pnnx`). Those of PyTorch share each operator among the cores
or work one mini-batch a core, whichever is faster; OpenVINO has a stream for each core, ONNX Runtime a session; in MNN
and in ncnn, which takes one image at a time, the cores share each operator. The last two compute convolutions of 3 x 3
by Winograd's algorithm, with fewer multiplications. Threads of one engine that wait take time from another: ask for one
at a time. Printed are seconds and how far features are from dit-eval's, relative to their largest.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import alternate, print_environment, report
from speed_features import kept_weights, pictures

from dit_eval.features.inception import TorchInception, resize_like_tensorflow
from dit_eval.system.switches import each_core_alone

MINI_BATCH = 8
Extract = Callable[[np.ndarray], Any]


def network(weights: Path) -> torch.nn.Module:
    """The network up to its pool features, batch norms folded, of inputs (8, 3, 299, 299)."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("peer", ["2048"], str(weights)).eval()
    for module in net.modules():
        if isinstance(module, BasicConv2d):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), torch.nn.Identity()
    names = [name for name, _ in net.named_children() if name.startswith(("Conv2d", "MaxPool", "Mixed"))]
    layers = {name: net.get_submodule(name) for name in names}
    layers |= {"pool": torch.nn.AdaptiveAvgPool2d(1), "flat": torch.nn.Flatten()}
    return torch.nn.Sequential(OrderedDict(layers)).eval()


def inputs(images: np.ndarray) -> list[torch.Tensor]:
    """What the first layer gets of each mini-batch."""
    cut = [images[i : i + MINI_BATCH] for i in range(0, len(images), MINI_BATCH)]
    return [((resize_like_tensorflow(torch.from_numpy(part), 299) - 128) / 128) for part in cut]


def by_pytorch(run: Callable[[torch.Tensor], torch.Tensor], *, alone: bool) -> Extract:
    def shared(images: np.ndarray) -> np.ndarray:
        return torch.cat([run(part) for part in inputs(images)]).numpy()

    def each_alone(images: np.ndarray) -> np.ndarray:
        with each_core_alone() as cores:
            return torch.cat(cores.map(run, inputs(images))).numpy()

    return each_alone if alone else shared


def compiled(net: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(net.to(memory_format=torch.channels_last))


def scripted(net: torch.nn.Module, example: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    traced = torch.jit.freeze(torch.jit.trace(net, example))
    return torch.jit.optimize_for_inference(traced)


def openvino(net: torch.nn.Module, example: torch.Tensor, threads: int) -> Extract:
    import openvino

    model = openvino.convert_model(net, example_input=example, input=[tuple(example.shape)])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(threads), "INFERENCE_NUM_THREADS": str(threads)}
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", settings), threads)

    def extract(images: np.ndarray) -> np.ndarray:
        found: dict[int, np.ndarray] = {}
        queue.set_callback(lambda request, i: found.update({i: request.get_output_tensor().data.copy()}))
        for i, part in enumerate(inputs(images)):
            queue.start_async({0: part.contiguous().numpy()}, i)
        queue.wait_all()
        return np.concatenate([found[i] for i in sorted(found)])

    return extract


def onnx_file(net: torch.nn.Module, example: torch.Tensor, folder: Path) -> Path:
    path = folder / "inception.onnx"
    names = {"input_names": ["x"], "output_names": ["y"]}
    torch.onnx.export(net, (example,), str(path), **names, dynamo=True, external_data=False, verbose=False)
    return path


def onnx_runtime(net: torch.nn.Module, example: torch.Tensor, threads: int) -> Extract:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        data = onnx_file(net, example, Path(folder)).read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]) for _ in range(threads)]

    def extract(images: np.ndarray) -> np.ndarray:
        parts = [part.contiguous().numpy() for part in inputs(images)]
        with ThreadPoolExecutor(threads) as pool:
            runs = [pool.submit(sessions[i % threads].run, None, {"x": part}) for i, part in enumerate(parts)]
            return np.concatenate([run.result()[0] for run in runs])

    return extract


def mnn(net: torch.nn.Module, example: torch.Tensor, threads: int) -> Extract:
    import MNN
    from MNN.tools import mnnconvert

    with tempfile.TemporaryDirectory() as folder:
        source, target = str(onnx_file(net, example, Path(folder))), f"{folder}/inception.mnn"
        mnnconvert.convert(["", "-f", "ONNX", "--modelFile", source, "--MNNModel", target])
        runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))
        loaded = MNN.nn.load_module_from_file(target, ["x"], ["y"], runtime_manager=runtime)

    def run(part: torch.Tensor) -> np.ndarray:
        given = MNN.expr.const(part.contiguous().numpy(), [*part.shape], MNN.expr.NCHW)
        return np.array(MNN.expr.convert(loaded.forward([given])[0], MNN.expr.NCHW).read())

    return lambda images: np.concatenate([run(part) for part in inputs(images)])


def ncnn(net: torch.nn.Module, example: torch.Tensor, threads: int) -> Extract:
    import ncnn
    import pnnx

    loaded = ncnn.Net()
    loaded.opt.num_threads = threads
    for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(loaded.opt, f"use_{half}", False)
    with tempfile.TemporaryDirectory() as folder:
        pnnx.export(net, f"{folder}/inception.pt", example[:1], fp16=False)
        loaded.load_param(f"{folder}/inception.ncnn.param")
        loaded.load_model(f"{folder}/inception.ncnn.bin")

    def run(image: torch.Tensor) -> np.ndarray:
        array, extractor = image.contiguous().numpy(), loaded.create_extractor()
        given = ncnn.Mat(array)  # it does not keep the array alive
        extractor.input("in0", given)
        return np.array(extractor.extract("out0")[1]).reshape(-1)

    return lambda images: np.stack([run(image) for part in inputs(images) for image in part])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32, help="a multiple of 8")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", metavar="PATTERN", help="engines beside dit-eval whose names it matches")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    print_environment()
    images = pictures(options.images, 256)
    with tempfile.TemporaryDirectory() as folder:
        weights = kept_weights(Path(folder))
        ours, net = TorchInception(weights=weights), network(weights)
        ours(images)
    example = inputs(images[:MINI_BATCH])[0]
    makers: dict[str, Callable[[], Extract]] = {
        "dit-eval": lambda: lambda images: ours(images).pool,
        "torch.compile, frozen, cores share": lambda: by_pytorch(compiled(net), alone=False),
        "torch.compile, frozen, each core alone": lambda: by_pytorch(compiled(net), alone=True),
        "TorchScript, optimised, cores share": lambda: by_pytorch(scripted(net, example), alone=False),
        "TorchScript, optimised, each core alone": lambda: by_pytorch(scripted(net, example), alone=True),
        "OpenVINO": lambda: openvino(net, example, options.threads),
        "ONNX Runtime": lambda: onnx_runtime(net, example, options.threads),
        "MNN": lambda: mnn(net, example, options.threads),
        "ncnn": lambda: ncnn(net, example, options.threads),
    }
    extractors, features = {}, {}
    for name, make in makers.items():
        if name != "dit-eval" and not re.search(options.only, name):
            continue
        try:
            extractors[name] = make()
            features[name] = extractors[name](images)
        except ModuleNotFoundError as error:
            sys.stdout.write(f"{name} left out: {error}\n")
            extractors.pop(name, None)
    candidates = {name: lambda extract=extract: extract(images) for name, extract in extractors.items()}
    seconds = alternate(candidates, options.repeats)
    report(f"Pool features of {len(images)} images of 256 px, {options.threads} threads", seconds, "dit-eval")
    for name, found in features.items():
        off = np.abs(found - features["dit-eval"]).max() / np.abs(features["dit-eval"]).max()
        sys.stdout.write(f"  {name:<42} features off by {off:.1e}\n")


if __name__ == "__main__":
    main()
