"""The kinds of LoRA by what they store, and the change of a weight that each makes, before its factor.

    LoRA, LoCon          B A                                A [r, …], B [o, r]
    LoCon with a middle  B ∘ M ∘ A, three convolutions      M [r, r, kh, kw]
    LoHa                 (A₁ B₁) ⊙ (A₂ B₂)                  a middle of its own for each factor, or none
    LoKr                 C ⊗ D, each whole or a product     likewise for D

Hyeon-Woo et al., "FedPara", arXiv 2108.06098; Yeh et al., "LyCORIS", arXiv 2309.14859, whose names these are. With a
middle, W[p, q, k, l] = Σ M[i, j, k, l] up[i, p] down[j, q].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

Shape = tuple[int, ...]

_DOWN, _UP, _MID = "lora_down", "lora_up", "lora_mid"
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
_LOHA_MIDDLES = ("hada_t1", "hada_t2")
_LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
# Of each kind what must be there, and what else may be.
_KINDS: tuple[tuple[frozenset[str], frozenset[str]], ...] = (
    (frozenset((_DOWN, _UP)), frozenset((_MID,))),
    (frozenset(_LOHA), frozenset()),
    (frozenset((*_LOHA, *_LOHA_MIDDLES)), frozenset()),
    *(
        (frozenset((*first, *second)), frozenset())
        for first in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for second in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"), ("lokr_w2_a", "lokr_w2_b", "lokr_t2"))
    ),
)
PARTS = frozenset((_DOWN, _UP, _MID, *_LOHA, *_LOHA_MIDDLES, *_LOKR))
"""Every part of some kind."""
# Whose first axis is the rank, the first that is there; a LoKr of two whole factors has none, and no scale by it.
_RANKED = (_DOWN, "hada_w1_b", "lokr_w1_b", "lokr_w2_b")
OTHERS = {
    "dora_scale": "DoRA, which scales whole weights by their norms",
    "lora_magnitude_vector": "DoRA, which scales whole weights by their norms",
    "oft_blocks": "OFT, which rotates weights",
    "oft_diag": "OFT, which rotates weights",
    "boft_R": "BOFT, which rotates weights",
}
"""What only kinds that are not taken store, and why they are not."""


def is_whole(parts: Iterable[str]) -> bool:
    """Whether parts make up one of the kinds, none missing and none left over."""
    given = frozenset(parts)
    return any(needed <= given <= needed | further for needed, further in _KINDS)


def rank_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Returns r, by which alpha is divided; None where the kind has none."""
    shape = next((shapes[part] for part in _RANKED if part in shapes), None)
    return None if shape is None else (shape[0] if shape else 0)


def fits(shapes: Mapping[str, Shape], weight: Shape) -> bool:
    """Whether the change that parts of one kind make is that of a weight [o, …]; nothing is computed.

    Args:
        shapes: of the parts, by LyCORIS' names.
        weight: the weight's.
    """
    try:
        change = _change_shape(shapes)
    except ValueError:
        return False
    return change[:1] == weight[:1] and prod(change) == prod(weight)


def _change_shape(shapes: Mapping[str, Shape]) -> Shape:
    if _DOWN in shapes:
        up, down = _flat(shapes[_UP]), _flat(shapes[_DOWN])
        return _middle_shape(shapes[_MID], up[::-1], down) if _MID in shapes else _product_shape(up, down)
    if _LOHA[0] in shapes:
        factors = {_factor_shape(shapes, f"hada_w{number}", f"hada_t{number}") for number in (1, 2)}
        if len(factors) > 1:
            raise ValueError(f"the factors are {factors}")
        return factors.pop()
    first, second = _factor_shape(shapes, "lokr_w1", "lokr_t1"), _factor_shape(shapes, "lokr_w2", "lokr_t2")
    if len(first) != 2 or len(second) < 2:
        raise ValueError(f"the factors have {len(first)} and {len(second)} axes")
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def _flat(shape: Shape) -> Shape:
    if len(shape) < 2:
        raise ValueError(f"a matrix or a convolution has two axes at least, not {shape}")
    return (shape[0], prod(shape[1:]))


def _factor_shape(shapes: Mapping[str, Shape], factor: str, middle: str) -> Shape:
    if factor in shapes:
        return shapes[factor]
    a, b = shapes[f"{factor}_a"], shapes[f"{factor}_b"]
    return _middle_shape(shapes[middle], a, b) if middle in shapes else _product_shape(a, b)


def _product_shape(a: Shape, b: Shape) -> Shape:
    if len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        raise ValueError(f"{a} and {b} have no product")
    return (a[0], b[1])


def _middle_shape(middle: Shape, up: Shape, down: Shape) -> Shape:
    if len(middle) != 4 or len(up) != 2 or len(down) != 2 or middle[:2] != (up[0], down[0]):
        raise ValueError(f"{middle} does not lie between {up} and {down}")
    return (up[1], down[1], *middle[2:])


def delta(parts: Mapping[str, Array], shape: Shape) -> Array:
    """Returns the change of a weight [o, …] before its factor.

    Args:
        parts: by LyCORIS' names, which make up one kind and fit the weight.
        shape: of the weight.
    """
    import numpy as np

    if _DOWN in parts:
        up, down = (parts[name].reshape(len(parts[name]), -1) for name in (_UP, _DOWN))
        change = _with_middle(parts[_MID], up.T, down) if _MID in parts else up @ down
    elif _LOHA[0] in parts:
        change = _factor(parts, "hada_w1", "hada_t1") * _factor(parts, "hada_w2", "hada_t2")
    else:
        first, second = _factor(parts, "lokr_w1", "lokr_t1"), _factor(parts, "lokr_w2", "lokr_t2")
        change = np.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second)
    return change.reshape(shape)


def _factor(parts: Mapping[str, Array], factor: str, middle: str) -> Array:
    if factor in parts:
        return parts[factor]
    a, b = parts[f"{factor}_a"], parts[f"{factor}_b"]
    return _with_middle(parts[middle], a, b) if middle in parts else a @ b


def _with_middle(middle: Array, up: Array, down: Array) -> Array:
    """Returns [o, i, kh, kw] of a middle [r, r, kh, kw] between up [r, o] and down [r, i]."""
    import numpy as np

    return np.einsum("ijkl,ip,jq->pqkl", middle, up, down, optimize=True)
