"""Build the torch module of a model without spending memory on its initial weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from sdmobile.errors import SdmobileError, UnsupportedError

if TYPE_CHECKING:
    from torch import nn

    from sdmobile.families.component import Model

# Numbers in a configuration that set how much a module allocates or repeats; no model of these classes comes near.
_MOST = 1_000_000
_KINDS = {"int": int, "float": float}
_CALLED = {int: "a whole number", float: "a finite number"}


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
    for key, (kind, may_be_none) in _numbers(model).items():
        if key in config and not _is_number(config[key], kind, may_be_none):
            raise UnsupportedError(rule, f"{key} = {config[key]!r}"[:200], f"It is {_CALLED[kind]}")
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


def _numbers(model: Model) -> dict[str, tuple[type, bool]]:
    """Returns the settings that a class declares as one number, int or float, and whether each may be none.

    The class takes anything, and fails when it runs, or computes with it.
    """
    import inspect

    own = _class_of(model.classes[0])
    declared = {} if own is None else inspect.signature(own.__init__).parameters
    found: dict[str, tuple[type, bool]] = {}
    for key, parameter in declared.items():
        stated = type(parameter.default) if parameter.annotation is inspect.Parameter.empty else parameter.annotation
        text = stated.__name__ if isinstance(stated, type) else str(stated)
        if (kind_of := _KINDS.get(text.removesuffix(" | None"))) is not None:
            found[key] = kind_of, text.endswith(" | None")
    return found


def _class_of(name: str) -> Any:
    """Returns a class of Diffusers or of this package's own models, None for any other."""
    import diffusers

    from sdmobile.models import autoencoder, controlnet, plugin, unet

    places = (diffusers, unet, autoencoder, controlnet, plugin)
    return next((found for place in places if (found := getattr(place, name, None))), None)


def _is_number(value: object, kind: type, may_be_none: bool) -> bool:
    if value is None:
        return may_be_none
    fits = type(value) is int or (kind is float and type(value) is float)
    return fits and math.isfinite(float(cast("float", value)))
