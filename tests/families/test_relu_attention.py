"""A checkpoint that declares ReLU attention is computed with it, everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.errors import UnsupportedError
from sdmobile.models.attention import AttnProcessor


def declaring(source: Path, folder: Path, normaliser: str) -> Path:
    copy = shutil.copytree(source, folder / "relu")
    config = copy / "unet/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "relu_attention": normaliser}))
    return copy


def by_definition(q: Tensor, k: Tensor, v: Tensor, normaliser: str) -> Tensor:
    """One head, one query at a time, in float64."""
    q, k, v = q.double(), k.double(), v.double()
    weights = torch.stack([torch.clamp(k @ row / q.shape[-1] ** 0.5, min=0) for row in q])
    return weights @ v / (len(k) if normaliser == "length" else 1)


@pytest.mark.parametrize("normaliser", ["none", "length"])
def test_the_processor_computes_the_definition(tiny_checkpoint: Path, tmp_path: Path, normaliser: str) -> None:
    unet = load_model(open_checkpoint(declaring(tiny_checkpoint, tmp_path, normaliser)), "unet")
    attention: Any = unet.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    assert isinstance(attention.processor, AttnProcessor)
    generator = torch.Generator().manual_seed(0)
    x, context = torch.randn(2, 9, 32, generator=generator), torch.randn(2, 5, 32, generator=generator)
    with torch.no_grad():
        found = attention(x, context)
        q, k, v = attention.to_q(x), attention.to_k(context), attention.to_v(context)
        size = q.shape[-1] // attention.heads
        rows = []
        for b in range(2):
            slices = [slice(h * size, (h + 1) * size) for h in range(attention.heads)]
            rows.append(torch.cat([by_definition(q[b, :, s], k[b, :, s], v[b, :, s], normaliser) for s in slices], -1))
        expected = attention.to_out[0](torch.stack(rows).float())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_it_is_another_function_than_softmax_and_can_be_captured(tiny_checkpoint: Path, tmp_path: Path) -> None:
    inputs = (torch.randn(1, 4, 16, 16), torch.tensor([500.0]), torch.randn(1, 77, 32))
    plain = load_model(open_checkpoint(tiny_checkpoint), "unet")
    relu = load_model(open_checkpoint(declaring(tiny_checkpoint, tmp_path, "length")), "unet")
    with torch.no_grad():
        a, b = plain(*inputs, return_dict=False)[0], relu(*inputs, return_dict=False)[0]
        program = torch.export.export(relu, inputs, {"return_dict": False})
        assert (a - b).abs().max() > 1e-3
        torch.testing.assert_close(program.module()(*inputs, return_dict=False)[0], b)
    targets = {str(node.target) for node in program.graph.nodes}
    assert "aten.relu.default" in targets
    assert not any("softmax" in target or "scaled_dot_product" in target for target in targets)


def test_an_unknown_normaliser_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"none, length.*sum"):
        load_model(open_checkpoint(declaring(tiny_checkpoint, tmp_path, "sum")), "unet")
