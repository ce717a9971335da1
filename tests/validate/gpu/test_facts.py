"""Reading the accelerator's report, a file's tensors, and verdicts as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

import sdmobile
from sdmobile.errors import UnsupportedError
from sdmobile.validate.gpu.model_facts import TensorFacts, read_model, source_modules
from sdmobile.validate.gpu.verdict import (
    Acceptance,
    GpuStatus,
    GpuVerdict,
    LargestTensor,
    RefusedOperator,
    read_acceptance,
)
from tests.validate.gpu.models import Case, write_case

REPORT = """INFO: something before
ERROR: Following operations are not supported by GPU delegate:
BROADCAST_TO: Operation is not supported.
BATCH_MATMUL: Not supported batched mat mul case: non-constant tensor
EMBEDDING_LOOKUP: EMBEDDING_LOOKUP: Empty quantization params.
28 operations will run on the GPU, and the remaining 642 operations will run on the CPU.
WARNING: something after
"""


def test_acceptance_report() -> None:
    expected = Acceptance(
        (
            ("BROADCAST_TO", "Operation is not supported."),
            ("BATCH_MATMUL", "Not supported batched mat mul case: non-constant tensor"),
            ("EMBEDDING_LOOKUP", "Empty quantization params."),
        ),
        28,
        642,
    )
    assert read_acceptance(REPORT.splitlines()) == expected
    assert read_acceptance([REPORT]) == expected  # a browser's console hands over several lines at once


def test_nothing_is_read_into_other_lines() -> None:
    assert read_acceptance(["WARNING: no report here", "ERROR: nor here"]) == Acceptance()


def test_complaints_name_source_modules(refused: Case) -> None:
    facts = read_model(refused.path)
    (operator,) = facts.explain(read_acceptance([REPORT]))[:1]
    assert operator.count == 2
    assert operator.modules == ("torch.nn.modules.normalization.GroupNorm_norm",)


def test_file(plain: Case, composite: Case) -> None:
    facts = read_model(plain.path)
    assert (facts.inputs, facts.outputs, facts.composites) == (("args_0",), ("output_0",), ())
    assert [name for name, _ in facts.operators].count("CONV_2D") == 2
    largest = facts.largest("float32", 8191)
    assert largest is not None
    assert largest.bytes == 16 * 16 * 8 * 4
    assert not largest.fits
    assert read_model(composite.path).composites == ("odml.group_norm",)


@pytest.mark.parametrize(
    ("channels", "size", "stride", "transformed"),
    [(64, 24, 1, 36 * 64 * 72), (64, 20, 1, None), (60, 24, 1, None), (64, 48, 2, None)],
)
def test_weights_that_the_engine_transforms_are_counted(
    tmp_path: Path, channels: int, size: int, stride: int, transformed: int | None
) -> None:
    """ML Drift takes F(4×4) from 32 tiles and 64 channels on, for a stride of 1."""
    convolution = nn.Conv2d(channels, 72, 3, stride, padding=1)
    facts = read_model(write_case(tmp_path, "conv", convolution, (1, channels, size, size)).path)
    assert [copy.bytes_on_gpu("float16") for copy in facts.copies] == ([2 * transformed] if transformed else [])
    largest = facts.largest("float32", None)
    assert largest is not None
    assert (largest.bytes == 4 * (transformed or 0)) == (transformed is not None)
    assert largest.name.endswith("(transformed)") == (transformed is not None)


def test_other_and_broken_files_are_refused(plain: Case, tmp_path: Path) -> None:
    whole = plain.path.read_bytes()
    for name, content in (("text", b"no flatbuffer at all"), ("cut", whole[: len(whole) // 2]), ("empty", b"")):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(content)
        with pytest.raises(UnsupportedError, match=name):
            read_model(path)


def test_size_on_the_gpu_counts_padded_channels() -> None:
    tensor = TensorFacts("x", (1, 5, 7, 3), "FLOAT32", False)
    assert tensor.bytes_on_gpu("float32") == 5 * 7 * 4 * 4
    assert tensor.bytes_on_gpu("float16") == 5 * 7 * 4 * 2
    assert TensorFacts("n", (), "INT32", True).bytes_on_gpu("float16") == 4 * 4


def test_module_names() -> None:
    names = ("mid_block.resnets.0.norm1;3", "a.B/c.D_x;1", "mid_block.resnets.0.norm1;4")
    assert source_modules(names) == ("mid_block.resnets.0.norm1", "c.D_x")
    assert source_modules(f"m{i};0" for i in range(9))[-1] == "… and 3 more"


def test_verdict_is_plain_json() -> None:
    verdict = GpuVerdict(
        "wheel",
        "float16",
        GpuStatus.REJECTED,
        refused=(RefusedOperator("X", "no", 1, ("m",)),),
        largest=LargestTensor("t", 9, 8),
    )
    data = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert data["refused"] == [{"operator": "X", "reason": "no", "count": 1, "modules": ["m"]}]
    assert data["largest_tensor"]["limit"] == 8
    assert data["worst"] is None


def test_lock_file_holds_no_download_addresses() -> None:
    text = (Path(sdmobile.__file__).parent / "web" / "package-lock.json").read_text("utf-8")
    packages = json.loads(text)["packages"]
    assert packages["node_modules/@litertjs/core"]["integrity"].startswith("sha512-")
    assert "resolved" not in text
    assert "://" not in text
