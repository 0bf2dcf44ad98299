"""The models of the paper, DiTs and the U-Nets that they are compared with, and later networks on the same backbone.

`MODELS` lists them, the paper's first and in its order. A family is one file, which knows its configurations by name
(`named_config`), its network, and what the network takes (`example_inputs`); it is imported when one of its models is
built, since it needs torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dit_eval.models.names import DIT_NAMES, LIGHTNING_FAMILY, LIGHTNING_NAMES, SIT_FAMILY, SIT_NAMES, UNET_NAMES
from dit_eval.system.text import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dit_eval.models.config import DiTConfig
    from dit_eval.models.unet import UNetConfig


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the paper, or a later one.

    Attributes
    ----------
    name : "DiT-XL/2", "ADM-256", "SiT-XL/2", ...
    family : "DiT", "ADM", "LDM", "SiT" or "LightningDiT"
    module, network : the file of the family, and the name of its network there
    """

    name: str
    family: str
    module: str
    network: str

    def config(self, *, image_size: int | None = None, block: str | None = None) -> DiTConfig | UNetConfig:
        """Its configuration as published.

        Parameters
        ----------
        image_size : pixels; that of the paper's first table of the model if not given
        block : block design of a DiT, "adaln-zero" if not given

        Raises
        ------
        ValueError
            If the model has no such size, or no block designs.
        """
        asked = {"image_size": image_size, "block": block}
        given = {name: value for name, value in asked.items() if value is not None}
        return self._file().named_config(self.name, **given)

    def build(self, config: DiTConfig | UNetConfig) -> nn.Module:
        """The network, with fresh weights; under ``torch.device("meta")`` it needs no memory."""
        return getattr(self._file(), self.network)(config)

    def example_inputs(self, config: DiTConfig | UNetConfig) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Positional and keyword arguments of a forward pass of one image, on PyTorch's default device."""
        return self._file().example_inputs(config)

    def _file(self) -> Any:
        return import_module(self.module)


MODELS = (
    *(Model(name=name, family="DiT", module="dit_eval.models.dit", network="DiT") for name in DIT_NAMES),
    *(Model(name=name, family=name[:3], module="dit_eval.models.unet", network="UNet") for name in UNET_NAMES),
    *(Model(name=name, family=SIT_FAMILY, module="dit_eval.models.sit", network="DiT") for name in SIT_NAMES),
    *(
        Model(name=name, family=LIGHTNING_FAMILY, module="dit_eval.models.lightning", network="LightningDiT")
        for name in LIGHTNING_NAMES
    ),
)


def find_model(name: str) -> Model:
    """The model of that name.

    Raises
    ------
    ValueError
        If there is none; the message suggests the nearest.
    """
    known = {model.name: model for model in MODELS}
    if name not in known:
        raise ValueError(f"Unknown model {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}")
    return known[name]
