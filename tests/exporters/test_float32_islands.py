from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdmobile.basics.metrics import psnr
from sdmobile.exporters.chunk_contracts import part_contracts
from sdmobile.exporters.chunks import split
from sdmobile.exporters.component import export_component
from sdmobile.exporters.coreml.islands import LIMIT, find_islands
from sdmobile.exporters.coreml.lower import lower
from sdmobile.exporters.float16_range import calls_of, pass_on, values_of
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.lowering import LoweringOptions, Provenance
from sdmobile.reference.component_inputs import as_tensors, recorded_samples
from sdmobile.reference.overflow import NEAR, OVERFLOWS, scan_program, scan_samples
from sdmobile.reference.recording import RecordedSample
from sdmobile.reference.subject import Subject, capture_subject
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.naming import name_by_module
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.registry import rules_for
from sdmobile.runtimes.mlprogram import MLProgram
from tests.validate.scaled import scaled_checkpoint

ATTENTION = "encoder.mid_block.attentions.0"
# The autoencoder of Stable Diffusion XL overflows in the sum that runs through all blocks, attention in its scores.
KINDS = {"residual": (["encoder.conv_in."], 2e5), "scores": ([f"{ATTENTION}.to_q.", f"{ATTENTION}.to_k."], 600.0)}


@pytest.fixture(scope="module", params=list(KINDS))
def overflowing(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Subject, list[RecordedSample]]:
    folder = tmp_path_factory.mktemp("scaled") / request.param
    checkpoint = scaled_checkpoint(tiny_checkpoint, folder, *KINDS[request.param])
    subject = capture_subject(checkpoint, "vae_encoder", "iphone-14-pro-max")
    return request.param, subject, recorded_samples(subject.checkpoint, "vae_encoder", subject.geometry)


def lowered(subject: Subject, options: LoweringOptions, out: Path) -> dict[str, Any]:
    rewritten = rewrite(subject.program, rules_for(subject.profile, RewriteOptions()), ())
    return lower(name_by_module(rewritten.program), subject.contract, out, options).details


def levels(subject: Subject, sample: RecordedSample, package: Path) -> dict[str, float]:
    inputs = subject.contract.to_target(sample.inputs)
    found = {}
    for precision in ("float32", "float16"):
        (output,) = MLProgram(package, precision=precision).predict(inputs).values()
        found[precision] = psnr(sample.outputs["moments"], output)
    return found


def test_an_island_makes_an_overflowing_component_right(
    overflowing: tuple[str, Subject, list[RecordedSample]], tmp_path: Path
) -> None:
    kind, subject, samples = overflowing
    plain = LoweringOptions(Provenance("scaled", "0", None, 1.0, "epsilon", "0"), "iOS17")
    inputs = tuple(as_tensors(subject.contract, sample) for sample in samples)
    assert "float32_islands" not in lowered(subject, plain, tmp_path / "plain.mlpackage")
    before = levels(subject, samples[0], tmp_path / "plain.mlpackage")
    details = lowered(subject, replace(plain, recorded_inputs=inputs), tmp_path / "islands.mlpackage")
    after = levels(subject, samples[0], tmp_path / "islands.mlpackage")
    assert before["float32"] > 90  # the file is right, only float16 is too small
    assert not np.isfinite(before["float16"])
    assert after["float32"] > 90
    assert after["float16"] >= 55
    island = details["float32_islands"]
    assert island["largest"] > 65504
    expected = {"residual": "encoder.mid_block.resnets.0", "scores": ATTENTION}[kind]
    assert expected in island["modules"]
    assert island["operators"] < 30


def test_the_scan_names_modules_and_inputs(overflowing: tuple[str, Subject, list[RecordedSample]]) -> None:
    kind, subject, samples = overflowing
    scan = scan_samples(subject.program, subject.contract, "vae_encoder", samples)
    top = {peak.module: peak for peak in scan.peaks}
    name, operator = {"residual": ("encoder.conv_in", "conv2d"), "scores": (ATTENTION, "attention scores")}[kind]
    assert (top[name].operator, top[name].severity) == (operator, OVERFLOWS)
    assert name in scan.islands
    assert set(top[name].by_input) == {sample.label for sample in samples}
    assert max(top[name].by_input.values()) == top[name].max_abs <= scan.largest
    assert any(name in warning and "65504" in warning for warning in scan.warnings)


class Ladder(torch.nn.Module):
    """Multiplies by known factors, one module each."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = torch.nn.ModuleList(torch.nn.Linear(2, 2, bias=False) for _ in range(4))
        for step, factor in zip(self.steps, (100.0, 300.0, 3.0, 1e-4), strict=True):
            step.weight.data = factor * torch.eye(2)  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = step(x)
        return x


def test_magnitudes_are_those_of_the_reference() -> None:
    x = torch.tensor([[1.0, -0.5]])
    program = name_by_module(torch.export.export(Ladder(), (x,), strict=False))
    scan = scan_program(program, "unet", [("first", (x,)), ("second", (0.1 * x,))])
    found = {peak.module: (peak.max_abs, peak.severity, peak.label) for peak in scan.peaks}
    assert found == {
        "steps.1": (30000.0, NEAR, "first"),
        "steps.2": (90000.0, OVERFLOWS, "first"),
    }
    assert scan.peaks[0].by_input == pytest.approx({"first": 90000.0, "second": 9000.0})
    islands = find_islands(program, [(x,)])
    # What is too large, and what takes it.
    assert islands.modules == ("steps.1", "steps.2", "steps.3")
    assert LIMIT < 30000.0
    assert find_islands(program, [(0.1 * x,)]).modules == ()
    assert find_islands(program, []).nodes == frozenset()


@pytest.mark.parametrize("target", ["ios", pytest.param("android", marks=pytest.mark.slow)])
def test_the_export_keeps_in_float32_or_warns(tiny_checkpoint: Path, tmp_path: Path, target: str) -> None:
    checkpoint = scaled_checkpoint(tiny_checkpoint, tmp_path / "scaled", *KINDS["scores"])
    job = ExportJob(checkpoint, "vae_encoder", target, None, "batch2", None, tmp_path, float32_islands=True)
    record = export_component(ExportJob.from_json(job.to_json()))
    (lower_stage,) = [stage for stage in record["stages"] if stage["name"] == "lower"]
    warned = [line for line in record["warnings"] if line.startswith(ATTENTION) and "65504" in line]
    if target == "ios":
        assert lower_stage["float32_islands"]["modules"] == [ATTENTION]
        assert warned == []
    else:
        assert "float32_islands" not in lower_stage
        assert len(warned) == 1


def test_every_file_of_a_chain_gets_its_own_inputs(tiny_checkpoint: Path) -> None:
    subject = capture_subject(tiny_checkpoint, "unet", "iphone-14-pro-max")
    program = name_by_module(subject.program)
    parts = split(program, 2)
    chain = part_contracts(subject.contract, program, parts)
    samples = recorded_samples(subject.checkpoint, "unet", subject.geometry)
    recorded = [as_tensors(subject.contract, sample) for sample in samples]
    values = values_of(subject.contract, recorded)
    first = calls_of(chain[0], values)
    pass_on(parts[0].program, chain[0], values)
    second = calls_of(chain[1], values)
    assert len(first) == len(second) == len(recorded)
    for sample, inputs in zip(samples, second, strict=True):
        with torch.no_grad():
            output = parts[1].program.module(check_guards=False)(*inputs)
        output = output[0] if isinstance(output, tuple) else output
        assert psnr(sample.outputs["noise_pred"], output.numpy()) > 100
