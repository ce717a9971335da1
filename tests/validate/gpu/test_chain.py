"""A component in several files: each gets what the files before it make of the recorded inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdmobile.exporters.litert.lower import lower
from sdmobile.exporters.lowering import LoweringOptions, Provenance
from sdmobile.formats.bundle.contracts import OPAQUE, Contract, TensorSpec
from sdmobile.formats.bundle.reading import BundleComponent
from sdmobile.reference.recording import RecordedSample
from sdmobile.validate.gpu import chain as chain_module
from sdmobile.validate.gpu.chain import parts_of, run_chain
from sdmobile.validate.gpu.check import GpuRun
from sdmobile.validate.gpu.verdict import GpuStatus, GpuVerdict, Way


class First(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2 + 1, torch.tanh(x)


class Second(nn.Module):
    def forward(self, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return x + a * b


def spec(name: str) -> TensorSpec:
    return TensorSpec(name, (2, 3), "float32", "a test value", name, OPAQUE)


def part(folder: Path, number: int, module: nn.Module, inputs: str, outputs: str) -> BundleComponent:
    contract = Contract(
        "android",
        "unet",
        f"unet_{number}.tflite",
        f"denoise_{number}",
        tuple(spec(name) for name in inputs),
        tuple(spec(name) for name in outputs),
    )
    program = torch.export.export(module, tuple(torch.zeros(2, 3) for _ in inputs))
    path = folder / contract.file_name
    lower(program, contract, path, LoweringOptions(Provenance("t", "0", None, 1.0, "epsilon", "0")))
    return BundleComponent("unet", path, contract, {})


def chained(folder: Path) -> BundleComponent:
    """Returns y = x + (2 x + 1) tanh(x) in two files."""
    chain = (part(folder, 1, First(), "x", "ab"), part(folder, 2, Second(), "xab", "y"))
    return replace(chain[0], contract=replace(chain[0].contract, outputs=chain[1].contract.outputs), chain=chain)


def test_every_part_is_a_subject_with_the_values_that_reach_it(tmp_path: Path) -> None:
    whole = chained(tmp_path)
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    y = x + (2 * x + 1) * np.tanh(x)
    first, second = parts_of(whole, [RecordedSample("unet", "step 1", {"x": x}, {"y": y})])
    assert (first.name, first.reference) == ("unet_1", "litert")
    assert (second.name, second.reference) == ("unet_2", "torch")
    np.testing.assert_allclose(first.samples[0].outputs["a"], 2 * x + 1, atol=1e-6)
    np.testing.assert_allclose(second.samples[0].inputs["b"], np.tanh(x), atol=1e-6)
    np.testing.assert_array_equal(second.samples[0].inputs["x"], x)
    np.testing.assert_array_equal(second.samples[0].outputs["y"], y)


def test_a_component_in_one_file_is_itself(tmp_path: Path) -> None:
    file = part(tmp_path, 1, First(), "x", "ab")
    (subject,) = parts_of(file, [])
    assert (subject.name, subject.file, subject.samples, subject.reference) == ("unet", file, [], "litert")


def test_the_gpu_runs_a_chain_on_what_it_computed_itself(needs: Callable[[Way], None], tmp_path: Path) -> None:
    needs("wheel")
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    run = run_chain(chained(tmp_path), {"x": x}, way="wheel", timeout=120)
    assert [(name, verdict.status) for name, verdict in run.verdicts.items()] == [
        ("unet_1.tflite", GpuStatus.ACCEPTED),
        ("unet_2.tflite", GpuStatus.ACCEPTED),
    ]
    np.testing.assert_allclose(run.outputs["y"], x + (2 * x + 1) * np.tanh(x), atol=1e-5)


def test_values_go_from_file_to_file_until_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, seen = chained(tmp_path), []
    x = np.ones((2, 3), np.float32)

    def fake(path: Path, samples: list[dict[str, np.ndarray]], **_: object) -> GpuRun:
        seen.append(samples[0])
        if path.name == "unet_1.tflite":
            return GpuRun(GpuVerdict("browser", "float32", GpuStatus.ACCEPTED), ({"a": 2 * x, "b": 3 * x},))
        return GpuRun(GpuVerdict("browser", "float32", GpuStatus.CRASHED))

    monkeypatch.setattr(chain_module, "run_on_gpu", fake)
    run = run_chain(whole, {"x": x})
    assert {name: float(value.max()) for name, value in seen[1].items()} == {"x": 1.0, "a": 2.0, "b": 3.0}
    assert [verdict.status for verdict in run.verdicts.values()] == [GpuStatus.ACCEPTED, GpuStatus.CRASHED]
    assert run.outputs == {}
