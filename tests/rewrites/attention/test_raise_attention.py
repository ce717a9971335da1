"""Attention that is written out is recognised, whoever wrote it, and what is not attention is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.rewrites.attention.raise_attention import RaiseAttention
from tests.rewrites.attention.reference import outcomes, rewritten, targets

SDPA = "aten.scaled_dot_product_attention.default"
Code = Callable[..., Tensor]


class Written(nn.Module):
    """Attention as a function writes it."""

    def __init__(self, code: Code) -> None:
        super().__init__()
        self.code = code

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.code(*tensors)


def scaled_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.transpose(-1, -2) * 0.3).softmax(-1) @ v


def divided(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matmul(torch.softmax(torch.matmul(q, k.mT) / math.sqrt(q.shape[-1]), dim=3), v)


def both_scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """OpenAI's: half of the scale on either operand, for float16's sake."""
    scale = q.shape[-1] ** -0.25
    return ((q * scale) @ (k * scale).permute(0, 1, 3, 2)).float().softmax(-1).type_as(q) @ v


def scaled_key(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ (k.transpose(2, 3) / 3.0)).softmax(-1) @ v


def named_axes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bhij,bhjd->bhid", (torch.einsum("bhid,bhjd->bhij", q, k) * 0.4).softmax(-1), v)


def split_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Apple's: keys on the second axis."""
    q, k, v = q.permute(0, 3, 1, 2), k.transpose(1, 2), v.permute(0, 3, 1, 2)
    w = (torch.einsum("bchq,bkhc->bkhq", q, k) * 0.5).softmax(1)
    return torch.einsum("bkhq,bchk->bchq", w, v)


def merged_baddbmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Diffusers' classic processor: batch and heads in one axis."""
    b, h, m, d = q.shape
    q, k, v = (x.reshape(b * h, -1, d) for x in (q, k, v))
    empty = torch.empty(b * h, m, k.shape[1])
    scores = torch.baddbmm(empty, q, k.transpose(-1, -2), beta=0, alpha=0.7)
    return torch.bmm(scores.softmax(-1), v).reshape(b, h, m, d)


def compvis_decoder(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """CompVis' AttnBlock: channels first, and the product with the value transposed."""
    q, k, v = q[:, 0], k[:, 0], v[:, 0].transpose(1, 2)
    w = (torch.bmm(q, k.permute(0, 2, 1)) * 0.2).softmax(dim=2)
    return torch.bmm(v, w.permute(0, 2, 1))


CODES: list[Code] = [
    scaled_after,
    divided,
    both_scaled,
    scaled_key,
    named_axes,
    split_einsum,
    merged_baddbmm,
    compvis_decoder,
]


def inputs(b: int = 2, h: int = 3, m: int = 7, n: int = 5, d: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(b * 1000 + m)
    return tuple(torch.randn(b, h, rows, d, generator=generator) for rows in (m, n, n))  # type: ignore[return-value]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.__name__)
def test_becomes_one_operator_of_the_same_value(code: Code) -> None:
    result = rewritten(Written(code), inputs(), RaiseAttention())
    assert outcomes(result) == [("raise_attention", "applied")]
    assert targets(result.program).count(SDPA) == 1
    assert not {"aten.softmax.int", "aten.bmm.default", "aten.baddbmm.default"} & set(targets(result.program))
    assert result.checks[0].psnr_db > 110


@pytest.mark.parametrize("code", [merged_baddbmm], ids=lambda code: code.__name__)
def test_merged_heads_are_separated(code: Code) -> None:
    """Or no later rule would know how many heads there are."""
    program = rewritten(Written(code), inputs(), RaiseAttention()).program
    node = next(n for n in program.graph.nodes if str(n.target) == SDPA)
    assert tuple(node.meta["val"].shape) == (2, 3, 7, 8)
    assert targets(program) == [SDPA]


def added(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return ((q @ k.mT) * 0.3 + mask).softmax(-1) @ v


def mask_before_scale(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return ((mask + q @ k.mT) * 0.3).softmax(-1) @ v


def added_in_baddbmm(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    b, h, _, d = q.shape
    q, k, v = (x.reshape(b * h, -1, d) for x in (q, k, v))
    scores = torch.baddbmm(mask.repeat(b * h, 1, 1), q, k.mT, beta=0.5, alpha=0.3)
    return torch.bmm(scores.softmax(-1), v)


def old_clip(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Transformers before 4.40: the mask is added between two views."""
    b, h, m, d = q.shape
    q, k, v = (x.reshape(b * h, -1, d) for x in (q * 0.3, k, v))
    scores = torch.bmm(q, k.transpose(1, 2)).view(b, h, m, -1) + mask[None, None]
    return torch.bmm(scores.view(b * h, m, -1).softmax(-1), v)


def filled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return (q @ k.mT).masked_fill(mask > 0.5, -math.inf).softmax(-1) @ v


def selected(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask < 0.5, q @ k.mT, -1e9).softmax(-1) @ v


@pytest.mark.parametrize(
    "code", [added, mask_before_scale, added_in_baddbmm, old_clip, filled, selected], ids=lambda code: code.__name__
)
def test_masks(code: Code) -> None:
    mask = torch.randn(7, 5, generator=torch.Generator().manual_seed(3))
    mask[:, 0] = 0.0  # every query may attend to one key at least
    result = rewritten(Written(code), (*inputs(), mask), RaiseAttention())
    assert outcomes(result) == [("raise_attention", "applied")]
    assert result.checks[0].psnr_db > 110


def two_masks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT
    return (scores + torch.ones(5).cumsum(0) + torch.ones(5)).softmax(-1) @ v


def other_axis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-2) @ v


def capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A soft cap of the scores, as some language models have."""
    return (torch.tanh(q @ k.mT) * 5).softmax(-1) @ v


def broadcast_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k[:, :1].mT).softmax(-1) @ v[:, :1]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(two_masks, "two masks"), (other_axis, "axis -2"), (capped, "tanh"), (broadcast_heads, "broadcast")],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_refusal_names_what_is_in_the_way(code: Code, reason: str) -> None:
    result = rewritten(Written(code), inputs(), RaiseAttention())
    assert [record.outcome for record in result.records] == ["refused"]
    assert reason in str(result.records[0].reason)
    assert SDPA not in targets(result.program)


def test_a_softmax_without_a_value_product_is_no_attention() -> None:
    result = rewritten(Written(lambda x: (x @ x.mT).softmax(-1)), (torch.randn(2, 3, 4),), RaiseAttention())
    assert outcomes(result) == [("raise_attention", "unmatched")]


@given(
    sizes=st.tuples(*[st.integers(1, 6)] * 5),
    code=st.sampled_from([scaled_after, both_scaled, named_axes, split_einsum, merged_baddbmm]),
)
@settings(max_examples=6, deadline=None)
def test_any_size(sizes: tuple[int, ...], code: Code) -> None:
    given_ = inputs(*sizes)
    result = rewritten(Written(code), given_, RaiseAttention())
    assert outcomes(result) == [("raise_attention", "applied")]
    torch.testing.assert_close(result.program.module()(*given_), code(*given_), rtol=1e-4, atol=1e-5)


def unet() -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32,),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
    ).eval()


class Sample(nn.Module):
    """A UNet whose forward returns one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        return self.model(sample, timestep, context).sample


def test_classic_processors_of_diffusers() -> None:
    from diffusers.models.attention_processor import AttnProcessor

    model = unet()
    given_ = (torch.randn(2, 4, 8, 8), torch.ones(2), torch.randn(2, 7, 16))
    model.set_attn_processor(AttnProcessor())
    result = rewritten(Sample(model), given_, RaiseAttention())
    assert {record.outcome for record in result.records} == {"applied"}
    assert targets(result.program).count(SDPA) == len(model.attn_processors) == len(result.records)
    assert "aten.softmax.int" not in targets(result.program)


def test_eager_attention_of_transformers() -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = CLIPTextModel._from_config(config, attn_implementation="eager").eval()
    result = rewritten(TextFeatures(model), (torch.arange(11)[None],), RaiseAttention())
    assert outcomes(result) == [("raise_attention", "applied")] * 2
    assert [record.details["mask"] for record in result.records] == ["added"] * 2


class TextFeatures(nn.Module):
    """A text encoder whose forward returns one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids).last_hidden_state
