"""The feature network that the options mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dit_eval.cli.output import bring, header
from dit_eval.features.load import check_network, load_network
from dit_eval.system.dist import World

if TYPE_CHECKING:
    from dit_eval.cli.shared import NetworkOptions
    from dit_eval.cli.verify import Verify
    from dit_eval.features.network import FeatureExtractor, Network


def check_extractor(arguments: NetworkOptions | Verify, world: World | None = None) -> Network:
    """What is known of the network, if its options are right: before any images are opened and anything is fetched."""
    if arguments.batch_size < 1:
        raise ValueError(f"--batch-size {arguments.batch_size}: needed at least 1.")
    return check_network(
        arguments.network,
        weights=arguments.weights,
        backend=arguments.backend,
        precision=arguments.precision,
        device=arguments.device,
        world=world,
    )


def load_extractor(arguments: NetworkOptions | Verify, world: World | None = None) -> FeatureExtractor:
    """The network, loaded; its weights are fetched if none are given."""
    check_extractor(arguments, world)
    device = (world or World()).device(arguments.device)
    header(f"device  {device}")
    return load_network(
        arguments.network,
        weights=arguments.weights,
        backend=arguments.backend,
        precision=arguments.precision,
        device=device,
        fetch=bring,
    )
