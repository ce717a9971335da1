"""Build the torch module of a model without spending memory on its initial weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import SdmobileError, UnsupportedError

if TYPE_CHECKING:
    from torch import nn

    from sdmobile.families.component import Model

# Numbers in a configuration that set how much a module allocates or repeats; no model of these classes comes near.
_MOST = 1_000_000


def empty_module(model: Model, config: dict[str, Any]) -> nn.Module:
    """Builds a model on torch's meta device, so that no weight takes memory yet.

    Args:
        model: which one of its family.
        config: configuration in Diffusers' or Transformers' keys.

    Raises:
        UnsupportedError: the configuration does not make a model of the class.
    """
    import torch

    rule = f"the configuration of {model.name} must make a {model.classes[0]}"
    for key, value in config.items():
        if any(abs(number) > _MOST for number in _integers(value)):
            raise UnsupportedError(rule, f"{key} = {value}", f"Sizes go up to {_MOST}")
    for key in _whole_numbers(model):
        if isinstance(config.get(key), float):
            raise UnsupportedError(rule, f"{key} = {config[key]}", "It is a whole number")
    try:
        with torch.device("meta"):
            return model.build(config)
    except SdmobileError:
        raise
    except Exception as error:  # whatever a library makes of values that it did not expect
        value = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UnsupportedError(rule, value, "Give the configuration that the checkpoint was made with") from error


def _integers(value: object) -> list[int]:
    """Returns the whole numbers of a configuration's value, those inside lists and mappings included."""
    found: list[int] = []
    left = [value]
    while left:  # not by recursion: a file may nest deeper than Python calls
        item = left.pop()
        if isinstance(item, list | tuple | Mapping):
            left += item.values() if isinstance(item, Mapping) else item
        elif isinstance(item, int):
            found.append(item)
    return found


def _whole_numbers(model: Model) -> list[str]:
    """Returns the keys that a class of Diffusers declares as whole numbers; it takes others, and fails when it runs."""
    import inspect

    import diffusers

    kind = getattr(diffusers, model.classes[0], None)
    parameters = {} if kind is None else inspect.signature(kind.__init__).parameters
    kinds = {key: str(parameter.annotation) for key, parameter in parameters.items()}
    return [
        key for key, text in kinds.items() if "int" in text and not any(n in text for n in ("float", "str", "bool"))
    ]
