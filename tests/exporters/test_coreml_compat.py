"""coremltools' passes take operators in the order of the program, so that a conversion writes the same bytes again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.exporters.coreml.compat import InOrder, ordered_transpositions
from sdmobile.exporters.coreml.lower import lower
from sdmobile.exporters.lowering import LoweringOptions, Provenance
from sdmobile.formats.bundle.contracts import Contract
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.raising.rms_norm import RaiseRmsNorm
from sdmobile.rewrites.rms_norm import RmsNormAmax
from tests.families.tiny.stable_diffusion_3 import MEDIUM
from tests.rewrites.litert_files import spec_of


class Blocks(nn.Module):
    """Joint attention of normalised queries and keys: two transposed streams are joined in each block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = SD3Transformer2DModel(**{**MEDIUM, "num_layers": 4}).transformer_blocks

    def forward(self, picture: Tensor, text: Tensor, time: Tensor) -> Tensor:
        for block in self.blocks:
            text, picture = block(picture, text, time)
        return picture


def test_joint_attention_becomes_the_same_file_again(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 16, 32), torch.randn(1, 12, 32), torch.randn(1, 32))
    module = Blocks().eval().requires_grad_(False)
    program = rewrite(torch.export.export(module, inputs, strict=False), [RaiseRmsNorm(), RmsNormAmax()]).program
    specs = tuple(spec_of(f"x{i}", x) for i, x in enumerate(inputs))
    contract = Contract("ios", "unet", "file.mlpackage", "main", specs, (spec_of("y", inputs[0]),))
    options = LoweringOptions(Provenance("small", "0", None, 1.0, "flow", "0"))
    files: list[bytes] = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.mlpackage"
        kept = [nn.Linear(9, 9) for _ in range(50 * len(files))]  # so that operators get other addresses
        lower(program, contract, path, options)
        files.append((path / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
        del kept
    assert files[0] == files[1]


def test_the_library_is_as_before_afterwards() -> None:
    from coremltools.converters.mil.mil.passes.defs import optimize_repeat_ops

    with ordered_transpositions():
        assert vars(optimize_repeat_ops)["set"] is InOrder
    assert "set" not in vars(optimize_repeat_ops)

    def broken() -> None:
        with ordered_transpositions():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert "set" not in vars(optimize_repeat_ops)


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)))
def test_elements_are_those_of_a_set_in_the_order_of_coming(first: list[int], second: list[int]) -> None:
    ours = InOrder(first)
    for element in first[:1]:
        ours.add(element)
    ours.update(second)
    assert list(ours) == sorted({*first, *second}, key=[*first, *second].index)
    assert len(ours) == len({*first, *second})
