"""The original engine: ADM's frozen Inception graph, run by TensorFlow itself."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dit_eval.features.graph_def import read_constants
from dit_eval.features.inception_weights import convolutions_sha256, state_from_constants
from dit_eval.features.network import FeatureBatch
from dit_eval.system.assets import sha256_of
from dit_eval.system.files import Watch

# Read when TensorFlow is first imported: without it, its C++ side fills stderr with notes about the machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_POOL, _SPATIAL, _INPUT = "pool_3:0", "mixed_6/conv:0", "ExpandDims:0"


class TensorflowInception:
    """ADM's Inception features from the frozen graph itself; same interface as `TorchInception`.

    Parameters
    ----------
    weights : `classify_image_graph_def.pb`
    device : "cpu", or "cuda" for the first GPU that TensorFlow sees

    Raises
    ------
    ModuleNotFoundError
        If TensorFlow is not installed (`pip install "dit-eval[tensorflow]"`).
    ValueError
        If the file is not the graph.
    """

    name = "inception"
    backend = "tensorflow"
    precision = "fp32"
    pool_dim = 2048
    spatial_dim = 2023

    def __init__(self, *, weights: str | os.PathLike[str], device: str = "cpu") -> None:
        path = Path(weights)
        if path.suffix != ".pb":
            raise ValueError(
                f"{path}: the TensorFlow backend runs the frozen graph itself and needs classify_image_graph_def.pb: "
                "`dit-eval weights fetch inception-graph`."
            )
        watch = Watch(path)
        constants = read_constants(path)  # a clear error for a wrong file, before TensorFlow starts
        if constants.get("softmax/weights", np.zeros(0)).shape != (2048, 1008):
            raise ValueError(f"{path}: not ADM's Inception graph: softmax/weights (2048, 1008) is missing.")
        # TensorFlow and Triton (which PyTorch imports on many paths) each carry LLVM; with TensorFlow loaded first,
        # Triton's LLVM aborts the process. The other order works.
        if "tensorflow" not in sys.modules:
            with suppress(ImportError):
                importlib.import_module("triton")
        try:
            import tensorflow.compat.v1 as tf
        except ModuleNotFoundError as error:
            if error.name != "tensorflow":
                raise
            raise ModuleNotFoundError(
                'TensorFlow is not installed. Add it with `pip install "dit-eval[tensorflow]"`, '
                "or use `backend` torch, which gives the same numbers."
            ) from None
        self.device = device
        self.weights_sha256 = sha256_of(path)
        self.convolutions_sha256 = convolutions_sha256(state_from_constants(constants, path))
        self._switches: Any = tf.config.experimental
        graph = tf.Graph()
        with graph.as_default(), graph.device("/cpu:0" if device == "cpu" else "/gpu:0"):
            definition = tf.GraphDef()
            definition.ParseFromString(path.read_bytes())
            watch.check()
            self._images = tf.placeholder(tf.float32, (None, None, None, 3))
            pool, spatial, matmul = tf.import_graph_def(
                definition,
                input_map={_INPUT: self._images},
                return_elements=[_POOL, _SPATIAL, "softmax/logits/MatMul"],
                name="inception",
            )
            # The graph fixes a batch of 1 in the reshape behind pool_3; the classifier is therefore applied anew to
            # the pool features, without its bias, as ADM does.
            flat = tf.reshape(pool, (-1, self.pool_dim))
            probs = tf.nn.softmax(tf.matmul(flat, matmul.inputs[1]))
            self._outputs = (flat, spatial[..., :7], probs)
        config = tf.ConfigProto(allow_soft_placement=True)
        config.gpu_options.allow_growth = True
        self._session: Any = tf.Session(graph=graph, config=config)

    def __call__(self, images: np.ndarray) -> FeatureBatch:
        # TensorFlow takes TF32 on GPUs unless told otherwise; the switch is the process's, so it is set back.
        before = self._switches.tensor_float_32_execution_enabled()
        self._switches.enable_tensor_float_32_execution(False)
        try:
            pool, spatial, probs = self._session.run(self._outputs, {self._images: images.astype(np.float32)})
        finally:
            self._switches.enable_tensor_float_32_execution(before)
        return FeatureBatch(pool=pool, spatial=spatial.reshape(len(images), -1), class_probs=probs)
