"""An autoencoder whose values pass float16's range: right by scales, and nothing else passes for them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sdmobile.basics.metrics import psnr
from sdmobile.checkpoints import Checkpoint, open_checkpoint
from sdmobile.errors import UnsupportedError
from sdmobile.exporters.float16_range import scale_streams
from sdmobile.families.autoencoder import DECODER as PART
from sdmobile.families.contracts import contract_for
from sdmobile.families.streams import Streams, observe
from sdmobile.formats.bundle.manifest import ComponentEntry
from sdmobile.formats.bundle.reading import BundleComponent
from sdmobile.reference.drawn_scales import drawn_scales
from sdmobile.reference.float16_scales import LIMIT, MOST, apply_scales, exponent_for, exponents_of, scales_for
from sdmobile.reference.geometry import geometry_for
from sdmobile.reference.subject import wrapped_component
from sdmobile.rewrites.options import FLOAT16_SCALES
from sdmobile.runtimes.mlprogram import MLProgram
from sdmobile.validate.checks import Status
from sdmobile.validate.weights.check import _check_component
from tests.families import SD
from tests.validate.scaled import DECODER, drawn_case, exported_decoder, planted_checkpoint


@pytest.fixture(scope="module")
def planted(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("planted") / "tiny", 17)


@pytest.fixture(scope="module")
def scaled(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> BundleComponent:
    return exported_decoder(planted, "ios", tmp_path_factory.mktemp("ios"))


def levels(component: BundleComponent, checkpoint: Path) -> dict[str, float]:
    inputs, expected = drawn_case(checkpoint, component.contract)
    found = {}
    for precision in ("float32", "float16-float32acc", "float16"):
        (output,) = MLProgram(component.path, precision=precision).predict(inputs).values()
        found[precision] = psnr(expected, output)
    return found


def test_the_iphones_file_is_right_in_float16(planted: Path, scaled: BundleComponent, tmp_path: Path) -> None:
    plain = levels(exported_decoder(planted, "ios", tmp_path, (FLOAT16_SCALES,)), planted)
    assert plain["float32"] > 90  # the file is right, only float16 is too small
    assert not np.isfinite(plain["float16-float32acc"])
    right = levels(scaled, planted)
    assert right["float32"] > 90
    assert right["float16-float32acc"] >= 55
    assert right["float16"] >= 50


def test_the_record_says_what_overflowed_and_how_far(scaled: BundleComponent) -> None:
    entries = scaled.record[FLOAT16_SCALES]["streams"]
    for entry in entries:
        assert entry["largest"] > LIMIT
        assert LIMIT / 2 < entry["largest"] * 2.0 ** -entry["exponent"] <= LIMIT
    assert "decoder.conv_in" in exponents_of(scaled.record)
    ComponentEntry.model_validate({key: value for key, value in scaled.record.items() if key != "component"})


def test_the_record_is_what_is_told_without_pytorch(planted: Path, scaled: BundleComponent) -> None:
    checkpoint = open_checkpoint(planted)
    found = drawn_scales(checkpoint, (DECODER,), geometry_for(checkpoint, None, None))[DECODER]
    assert scaled.record[FLOAT16_SCALES] == found.to_json()


def test_validate_takes_the_recorded_scales_and_no_others(planted: Path, scaled: BundleComponent) -> None:
    checkpoint = open_checkpoint(planted)

    def status(change: Any) -> tuple[Status, tuple[str, ...]]:
        record = deepcopy(scaled.record)
        change(record)
        changed = BundleComponent(DECODER, scaled.path, scaled.contract, record)
        check = _check_component(changed, "ios", checkpoint)
        return check.status, check.findings

    assert status(lambda record: None) == (Status.PASSED, ())
    assert status(lambda record: record.pop(FLOAT16_SCALES))[0] == Status.FAILED
    for number in range(len(scaled.record[FLOAT16_SCALES]["streams"])):

        def other(record: Any, number: int = number) -> None:
            record[FLOAT16_SCALES]["streams"][number]["exponent"] += 1

        assert status(other)[0] == Status.FAILED
    with pytest.raises(UnsupportedError, match=r"streams of the component.*decoder\.conv_out"):
        status(lambda record: record[FLOAT16_SCALES]["streams"][0].update(stream="decoder.conv_out"))


@pytest.mark.parametrize(
    "change",
    [
        {"exponent": 0},
        {"exponent": 25},
        {"exponent": 1.5},
        {"exponent": "3"},
        {"stream": "../x"},
        {"largest": float("nan")},
        {"largest": -1.0},
        {"factor": 3},
        {"stream": "decoder.mid_block.resnets.0.conv1"},
    ],
    ids=str,
)
def test_a_manifest_scales_by_powers_of_two_and_each_stream_once(scaled: BundleComponent, change: Any) -> None:
    record = deepcopy({key: value for key, value in scaled.record.items() if key != "component"})
    record[FLOAT16_SCALES]["streams"][0].update(change)
    with pytest.raises(ValidationError):
        ComponentEntry.model_validate(record)


@pytest.mark.parametrize("target", ["ios", "android"])
@pytest.mark.parametrize("component", ["vae_decoder", "vae_encoder"])
def test_nothing_changes_where_nothing_overflows(checkpoint: Checkpoint, component: str, target: str) -> None:
    geometry = geometry_for(checkpoint, None, None)
    module = wrapped_component(checkpoint, target, component)
    before = {name: value.clone() for name, value in module.named_parameters()}
    streams = SD.component(component).streams(module)
    contract = contract_for(SD, target, component, geometry)
    found, scaled = scale_streams(lambda: module, streams, checkpoint, contract, geometry, ())
    assert scaled is None
    assert found.streams == ()
    assert 0 < found.largest < LIMIT
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())
    assert {m.eps for m in module.modules() if isinstance(m, torch.nn.GroupNorm)} == {1e-6}


def test_a_wrong_idea_of_the_network_scales_nothing(planted: Path) -> None:
    module = wrapped_component(open_checkpoint(planted), "onnx", DECODER)
    right = PART.streams(module)
    before = {name: value.clone() for name, value in module.named_parameters()}
    layers = {path: pair for path, pair in right.layers.items() if not path.endswith("conv2")}
    wrong, calls = Streams(layers, right.norms), [(torch.randn(1, 4, 4, 4),)]
    found = apply_scales(module, wrong, scales_for(observe(module, wrong, calls)[0], "noise"), calls)
    assert found.streams == ()
    assert "differs" in (found.refused or "")
    assert all(torch.equal(value, before[name]) for name, value in module.named_parameters())


@pytest.mark.parametrize(
    ("largest", "exponent"),
    [(0.0, 0), (LIMIT, 0), (LIMIT * 1.001, 1), (LIMIT * 8, 3), (LIMIT * 8.001, 4), (float("inf"), 0), (1e12, 0)],
)
def test_the_exponent_takes_the_largest_value_below_an_eighth_of_the_range(largest: float, exponent: int) -> None:
    assert exponent_for(largest) == exponent
    assert exponent_for(LIMIT * 2.0**MOST) == MOST


def test_what_a_sampling_run_had_counts_too(planted: Path) -> None:
    checkpoint = open_checkpoint(planted)
    geometry = geometry_for(checkpoint, None, None)
    contract = contract_for(SD, "onnx", DECODER, geometry)
    module = wrapped_component(checkpoint, "onnx", DECODER)
    streams, recorded = PART.streams(module), [(torch.full((1, 4, 16, 16), 50.0),)]
    further, _ = observe(module, streams, recorded)
    drawn = drawn_scales(checkpoint, (DECODER,), geometry)[DECODER]
    found, scaled = scale_streams(lambda: module, streams, checkpoint, contract, geometry, recorded)
    assert scaled is module
    assert found.measured_on == "a drawn picture and 1 calls of a sampling run"
    assert found.largest == max(drawn.largest, *further.values()) > drawn.largest
    assert all(exponent >= drawn.exponents.get(stream, 0) for stream, exponent in found.exponents.items())
