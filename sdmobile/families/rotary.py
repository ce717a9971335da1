"""By what angles features turn from place to place, and how networks say and keep that: Su et al., arXiv 2104.09864.

pair k of d/2 turns by p·θ^(−2k/d) at place p
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families.schedulers import finite_positive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from sdmobile.families.component import Config

_USUAL = 10_000.0
_BUFFERS = ("inv_freq", "original_inv_freq")


def base_of(config: Config, usual: float = _USUAL) -> float:
    """Returns θ, which older and newer configurations keep in different places.

    Args:
        config: of a network.
        usual: where none is stated.

    Raises:
        CheckpointError: it is no finite number above zero.
    """
    base = _parameters(config).get("rope_theta", config.get("rope_theta", usual))
    if not finite_positive(base):
        raise CheckpointError("rope_theta of a network must be a finite number above zero", base)
    return float(base)


def check(config: Config, rule: str) -> None:
    """Raises UnsupportedError, with a rule, for places that are scaled; CheckpointError for a base of no angles."""
    base_of(config)
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


def phases(places: NDArray[np.int64], widths: Sequence[int], base: float) -> NDArray[np.float64]:
    """Returns the angles of places on several axes, a column for each pair of features, [N, Σ widths/2].

    Args:
        places: of each token on each axis, [N, A].
        widths: d of each axis, [A].
        base: θ.
    """
    import numpy as np

    columns = [
        np.outer(places[:, axis].astype(np.float64), 1.0 / base ** (np.arange(0, width, 2) / width))
        for axis, width in enumerate(widths)
    ]
    return np.concatenate(columns, axis=1)


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
