"""How language models say and keep by what angles features turn from place to place: Su et al., arXiv 2104.09864.

pair k of d/2 turns by p·θ^(−2k/d) at place p
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.families.component import Config

_USUAL = 10_000.0
_BUFFERS = ("inv_freq", "original_inv_freq")


def base_of(config: Config) -> float:
    """Returns θ, which older and newer configurations keep in different places; 10,000 where none is stated."""
    return float(_parameters(config).get("rope_theta", config.get("rope_theta", _USUAL)))


def check(config: Config, rule: str) -> None:
    """Raises UnsupportedError, with a rule, for places that are scaled."""
    kind, scaling = _parameters(config).get("rope_type", "default"), config.get("rope_scaling")
    if kind != "default":
        raise UnsupportedError(rule, f"rope_type = {kind}: places that are scaled")
    if scaling is not None:
        raise UnsupportedError(rule, f"rope_scaling = {scaling}: places that are scaled")


def frequencies(width: int, base: float) -> Tensor:
    """Returns θ^(−2k/d) for k from 0 to d/2 − 1, as Transformers computes them.

    Args:
        width: d, features of a head.
        base: θ.
    """
    import torch

    return 1.0 / base ** (torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width)


def keep_frequencies(rotary: nn.Module, width: int, base: float) -> None:
    """Puts the frequencies into Transformers' module: they are in no file, and hold numbers though weights do not yet.

    Args:
        rotary: changed.
        width, base: as in `frequencies`.
    """
    for name in _BUFFERS:
        rotary.register_buffer(name, frequencies(width, base), persistent=False)


def _parameters(config: Config) -> Mapping[str, Any]:
    stated = config.get("rope_parameters")
    return stated if isinstance(stated, Mapping) else {}
