"""Which feature network the options mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dit_eval.cli.output import _fetch, _header
from dit_eval.system.dist import World

if TYPE_CHECKING:
    from dit_eval.features.network import FeatureExtractor


def _extractor_class(arguments: Any) -> Any:
    """The chosen class, which knows its feature sizes before any weights are loaded."""
    if arguments.extractor == "digits":
        if arguments.weights or arguments.backend != "torch" or arguments.precision != "fp32":
            raise ValueError(
                "--extractor digits carries its own weights, runs on torch and has one precision; drop --weights, "
                "--backend and --precision."
            )
        from dit_eval.features.digits import DigitsExtractor

        return DigitsExtractor
    if arguments.extractor in ("dinov2", "clip"):
        if arguments.backend != "torch" or arguments.precision != "fp32":
            raise ValueError(
                f"--extractor {arguments.extractor} runs on torch and in fp32 only; drop --backend and --precision."
            )
        from dit_eval.features.clip import ClipVision
        from dit_eval.features.dinov2 import DinoV2

        return DinoV2 if arguments.extractor == "dinov2" else ClipVision
    if arguments.backend == "tensorflow":
        if arguments.precision != "fp32":
            raise ValueError(
                f"--precision {arguments.precision} needs --backend torch; TensorflowInception runs in fp32."
            )
        from dit_eval.features.tensorflow import TensorflowInception

        return TensorflowInception
    from dit_eval.features.inception import TorchInception

    return TorchInception


def _check_extractor(arguments: Any, world: World | None = None) -> Any:
    """The chosen class, if its options are right: before any images are opened and anything is fetched."""
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size}: needed at least 1.")
    extractor, device = _extractor_class(arguments), (world or World()).device(arguments.device)
    if arguments.extractor == "inception" and arguments.backend == "torch":
        from dit_eval.features.inception import check_precision

        check_precision(arguments.precision, device)
    if arguments.weights is not None and not arguments.weights.is_file():
        raise FileNotFoundError(
            f"--weights {arguments.weights}: no such file. Leave the option out to download it, or see `dit-eval "
            "weights list`."
        )
    return extractor


def _extractor(arguments: Any, world: World | None = None) -> FeatureExtractor:
    from dit_eval.system.assets import asset

    extractor, device = _check_extractor(arguments, world), (world or World()).device(arguments.device)
    _header(f"device  {device}")
    if arguments.extractor == "digits":
        return extractor(device=device)
    options = {"device": device}
    if arguments.extractor == "inception" and arguments.backend == "torch":
        options["precision"] = arguments.precision
    weights = arguments.weights
    if weights is None:
        name = "inception-graph" if arguments.backend == "tensorflow" else arguments.extractor
        weights = _fetch(asset(name, "weights"))
    return extractor(weights=weights, **options)
