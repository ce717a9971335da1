"""ONNX files against PyTorch, run by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.basics.metrics import psnr
from sdmobile.exporters.onnx import lower as onnx_lower
from sdmobile.formats.bundle.contracts import Contract
from tests.exporters.conftest import Lowered
from tests.families import COMPONENTS

Lower = Callable[[str, str], Lowered]


def run(path: Path, contract: Contract, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == [spec.name for spec in contract.inputs]
    assert [tuple(i.shape) for i in session.get_inputs()] == [spec.shape for spec in contract.inputs]
    (output,) = session.run([contract.outputs[0].name], inputs)
    return np.asarray(output)


@pytest.mark.parametrize("component", COMPONENTS)
def test_numbers(lowered: Lower, component: str) -> None:
    case = lowered("onnx", component)
    inputs = case.inputs()
    assert psnr(case.expected(inputs), run(case.path, case.contract, inputs)) > 100


def test_nothing_of_this_machine_is_in_the_file(lowered: Lower) -> None:
    """The exporter would keep the stack of every node, with the folders of the package and of the libraries."""
    content = lowered("onnx", "vae_encoder").path.read_bytes()
    assert os.fsencode(Path(onnx_lower.__file__).parents[3]) not in content
    assert b"site-packages" not in content


def test_opset_and_metadata(lowered: Lower) -> None:
    import onnx

    case = lowered("onnx", "text_encoder")
    model = onnx.load(case.path)
    assert max(entry.version for entry in model.opset_import) >= 18
    assert {entry.key: entry.value for entry in model.metadata_props}["sdmobile.source_hash"] == "0123abcd"
    assert [path.name for path in case.path.parent.iterdir()] == ["text_encoder.onnx"]


def test_large_weights_go_to_a_file_beside(
    lowered: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, provenance: Any
) -> None:
    from sdmobile.exporters.lowering import LoweringOptions
    from sdmobile.reference.capture import capture

    monkeypatch.setattr(onnx_lower, "EXTERNAL_DATA_ABOVE", 1000)
    case = lowered("onnx", "text_encoder")
    program, _ = capture(case.module, case.contract)
    record = onnx_lower.lower(program, case.contract, tmp_path / "model.onnx", LoweringOptions(provenance))
    assert record.details["external_data"] is True
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    inputs = case.inputs()
    assert psnr(case.expected(inputs), run(tmp_path / "model.onnx", case.contract, inputs)) > 100


class Quotient(torch.nn.Module):
    """A quotient that is 0 where both numbers are, as in linear attention."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x / (x + 1e-15)


def test_what_keeps_a_quotient_of_zeros_away_stays(tmp_path: Path, provenance: Any) -> None:
    """The converter's optimizer would take an addend of 1e-15 for 0."""
    from sdmobile.exporters.lowering import LoweringOptions
    from tests.rewrites.litert_files import spec_of

    given = torch.tensor([[0.0, 1.0, 3.0]])
    contract = Contract("onnx", "unet", "q.onnx", "main", (spec_of("x", given),), (spec_of("y", given),))
    program = torch.export.export(Quotient().eval(), (given,))
    onnx_lower.lower(program, contract, tmp_path / "q.onnx", LoweringOptions(provenance))
    output = run(tmp_path / "q.onnx", contract, {"x": given.numpy()})
    np.testing.assert_allclose(output, [[0.0, 2.0, 2.0]])
