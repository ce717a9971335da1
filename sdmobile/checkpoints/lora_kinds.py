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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

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


def parts_by_module(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns, for each module of LyCORIS' names, its parts beside A and B, with their stored names.

    Args:
        names: stored, such as `lora_unet_mid_block_resnets_0_conv1.hada_w1_a`.
    """
    beside = {*_LOHA, *_LOHA_MIDDLES, *_LOKR}
    found: dict[str, dict[str, str]] = {}
    for name in names:
        module, _, part = name.partition(".")
        if part in beside or part == f"{_MID}.weight":
            found.setdefault(module, {})[part.removesuffix(".weight")] = name
    return found


def is_whole(parts: Iterable[str]) -> bool:
    """Whether parts make up one of the kinds, none missing and none left over."""
    given = frozenset(parts)
    return any(needed <= given <= needed | further for needed, further in _KINDS)


def rank_of(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Returns r, by which alpha is divided; None where the kind has none."""
    shape = next((shapes[part] for part in _RANKED if part in shapes), None)
    return None if shape is None else (shape[0] if shape else 0)


def delta(parts: Mapping[str, Tensor], shape: tuple[int, ...]) -> Tensor:
    """Returns the change of a weight [o, …] before its factor.

    Args:
        parts: by LyCORIS' names, which make up one kind; tensors of the meta device tell whether they fit.
        shape: of the weight.

    Raises:
        ValueError, RuntimeError: they do not fit each other, or the weight.
    """
    import torch

    if _DOWN in parts:
        down, up = parts[_DOWN], parts[_UP].flatten(1)
        change = _with_middle(parts[_MID], up.T, down.flatten(1)) if _MID in parts else up @ down.flatten(1)
    elif _LOHA[0] in parts:
        factors = [_loha_factor(parts, number) for number in (1, 2)]
        if factors[0].shape != factors[1].shape:
            raise ValueError(f"the factors are {list(factors[0].shape)} and {list(factors[1].shape)}")
        change = factors[0] * factors[1]
    else:
        first, second = _lokr_factor(parts, 1), _lokr_factor(parts, 2)
        if first.ndim != 2 or second.ndim < 2:
            raise ValueError(f"the factors have {first.ndim} and {second.ndim} axes")
        change = torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())
    if not shape or change.shape[:1] != shape[:1] or change.numel() != torch.Size(shape).numel():
        raise ValueError(f"the change is {list(change.shape)}")
    return change.reshape(shape)


def _loha_factor(parts: Mapping[str, Tensor], number: int) -> Tensor:
    a, b = parts[f"hada_w{number}_a"], parts[f"hada_w{number}_b"]
    return _with_middle(parts[f"hada_t{number}"], a, b) if f"hada_t{number}" in parts else a @ b


def _lokr_factor(parts: Mapping[str, Tensor], number: int) -> Tensor:
    if (whole := parts.get(f"lokr_w{number}")) is not None:
        return whole
    a, b, middle = parts[f"lokr_w{number}_a"], parts[f"lokr_w{number}_b"], parts.get(f"lokr_t{number}")
    return a @ b if middle is None else _with_middle(middle, a, b)


def _with_middle(middle: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Returns [o, i, kh, kw] of a middle [r, r, kh, kw] between up [r, o] and down [r, i]."""
    import torch

    return torch.einsum("ijkl,ip,jq->pqkl", middle, up, down)
