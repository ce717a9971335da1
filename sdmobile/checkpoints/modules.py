"""Build the torch module of a model without spending memory on its initial weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import nn

    from sdmobile.families.family import Model


def empty_module(model: Model, config: dict[str, Any]) -> nn.Module:
    """Builds a model on torch's meta device, so that no weight takes memory yet.

    Args:
        model: which one of its family.
        config: configuration in Diffusers' or Transformers' keys.

    Raises:
        UnsupportedError: the configuration does not make a model of the class.
    """
    import torch

    try:
        with torch.device("meta"):
            return model.build(config)
    except (TypeError, ValueError, KeyError, IndexError, NotImplementedError, RuntimeError) as error:
        rule = f"the configuration of {model.name} must make a {model.classes[0]}"
        raise UnsupportedError(rule, error, "Give the configuration that the checkpoint was made with") from error
