"""Google's engine takes matrix products with integer weights that keep their rank, and computes them right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdmobile.quantize.litert import engine
from sdmobile.quantize.litert.apply import compress_tflite
from sdmobile.quantize.recipes import named_recipe
from sdmobile.validate.gpu import check_file
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict
from tests.quantize.litert.blocks import WIDTH, write_block
from tests.validate.gpu.test_browser import Needs


def _checked(folder: Path, name: str) -> GpuVerdict:
    """The verdict of the browser way on a block in int8, beside LiteRT's CPU on the float16 one."""
    from ai_edge_litert.interpreter import Interpreter

    source, out = write_block(folder, name), folder / "int8.tflite"
    compress_tflite(source, out, named_recipe("gpu-int8"), "unet", "galaxy-s23-ultra")
    cpu = Interpreter(model_path=str(source), num_threads=1)
    runner = cpu.get_signature_runner()
    (given,), (result,) = runner.get_input_details(), runner.get_output_details()
    values = np.random.default_rng(0).standard_normal((1, 80, WIDTH)).astype(np.float32)
    expected = runner(**{given: values})[result]
    return check_file(out, {given: values}, {result: expected}, timeout=120)


@pytest.mark.parametrize("name", ["GELU", "a softmax"])
def test_a_batch_of_one_with_biases_is_taken_and_right(needs: Needs, tmp_path: Path, name: str) -> None:
    needs("browser")
    verdict = _checked(tmp_path, name)
    assert verdict.status == GpuStatus.ACCEPTED, verdict.reason
    assert verdict.worst is not None
    assert 45 < verdict.worst.psnr_db < 110


def test_without_its_rank_it_is_refused(needs: Needs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the form is for: if this passes, the engine has learnt it."""
    needs("browser")
    monkeypatch.setattr(engine, "keep_ranks", lambda *_: 0)
    assert _checked(tmp_path, "GELU").status == GpuStatus.REJECTED
