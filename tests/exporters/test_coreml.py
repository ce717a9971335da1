"""Core ML packages: interface, operators, metadata, and numbers from the project's own evaluator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sdmobile.basics.metrics import psnr
from sdmobile.errors import UnsupportedError
from tests.exporters.conftest import Lowered
from tests.families import COMPONENTS, SD

Lower = Callable[[str, str], Lowered]
FLOAT32_ARRAY = 65568  # ArrayFeatureType.FLOAT32 of Core ML's FeatureTypes.proto
FLOAT16_TENSOR, FLOAT32_TENSOR = 10, 11  # DataType of Core ML's MIL.proto


def specification(case: Lowered) -> Any:
    import coremltools as ct

    return ct.models.MLModel(str(case.path), skip_model_load=True).get_spec()


def operations(spec: Any) -> list[Any]:
    main = spec.mlProgram.functions["main"]
    return [op for op in main.block_specializations[main.opset].operations if op.type != "const"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_interface_is_the_contract(lowered: Lower, component: str) -> None:
    case = lowered("ios", component)
    description = specification(case).description
    for features, specs in ((description.input, case.contract.inputs), (description.output, case.contract.outputs)):
        assert [f.name for f in features] == [s.name for s in specs]
        for feature, spec in zip(features, specs, strict=True):
            assert tuple(feature.type.multiArrayType.shape) == spec.shape
            assert feature.type.multiArrayType.dataType == FLOAT32_ARRAY
            assert feature.shortDescription == spec.description


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(("precision", "threshold"), [("float32", 65.0), ("float16", 55.0)])
def test_numbers(lowered: Lower, component: str, precision: Any, threshold: float) -> None:
    from sdmobile.runtimes.mlprogram import MLProgram

    case = lowered("ios", component)
    inputs = case.inputs()
    outputs = MLProgram(case.path, precision).predict(inputs)
    name = case.contract.outputs[0].name
    assert list(outputs) == [name]
    assert psnr(case.expected(inputs), outputs[name]) > threshold


@pytest.mark.parametrize(("component", "norms"), [("unet", 21), ("vae_decoder", 14), ("vae_encoder", 10)])
def test_group_norm_is_one_operator_without_a_variance_tensor(lowered: Lower, component: str, norms: int) -> None:
    types = [op.type for op in operations(specification(lowered("ios", component)))]
    assert types.count("instance_norm") == norms
    assert not {"square", "reduce_mean", "sqrt", "real_div"} & set(types)


def test_sinusoids_of_the_timestep_stay_in_float32(lowered: Lower) -> None:
    ops = operations(specification(lowered("ios", "unet")))
    types = {op.type: op.outputs[0].type.tensorType.dataType for op in ops}
    assert types["sin"] == types["cos"] == FLOAT32_TENSOR
    assert types["conv"] == types["linear"] == types["instance_norm"] == FLOAT16_TENSOR
    casts = [op for op in ops if op.type == "cast" and op.inputs["x"].arguments[0].name == "timestep"]
    assert casts == []


@pytest.mark.parametrize("timestep", [0.0, 1.0, 500.5, 999.0])
def test_every_timestep_is_accurate_in_float16(lowered: Lower, timestep: float) -> None:
    from sdmobile.runtimes.mlprogram import MLProgram

    case = lowered("ios", "unet")
    inputs = case.inputs() | {"timestep": np.full(2, timestep, np.float32)}
    output = MLProgram(case.path, "float16").predict(inputs)["noise_pred"]
    assert psnr(case.expected(inputs), output) > 55


def test_metadata(lowered: Lower) -> None:
    metadata = specification(lowered("ios", "unet")).description.metadata
    assert metadata.author == "tiny; converted by sdmobile"
    assert metadata.license == "Apache-2.0"
    assert metadata.versionString == "0.1.0"
    assert "tiny" in metadata.shortDescription
    own = metadata.userDefined
    assert own["sdmobile.component"] == "unet"
    assert own["sdmobile.source_hash"] == "0123abcd"
    assert float(own["sdmobile.scaling_factor"]) == 0.18215


def test_the_record_counts_the_operators_of_the_package(lowered: Lower) -> None:
    case = lowered("ios", "vae_encoder")
    assert sum(case.record.operators.values()) == len(operations(specification(case)))
    assert case.record.details["deployment_target"] == "iOS17"


def test_an_unknown_deployment_target() -> None:
    from sdmobile.exporters.coreml.lower import deployment_target

    with pytest.raises(UnsupportedError, match=r"iOS3.*iOS17"):
        deployment_target("iOS3")


def test_large_vocabulary_is_not_squeezed_into_int16(provenance: Any, tmp_path: Any) -> None:
    """The converter narrows index types; ids above 32767 must survive, and 49407 ends every CLIP prompt."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    from sdmobile.exporters.coreml.lower import lower
    from sdmobile.exporters.lowering import LoweringOptions
    from sdmobile.families.contracts import contract_for, wrap
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.reference.capture import capture
    from sdmobile.runtimes.mlprogram import MLProgram

    torch.manual_seed(0)
    config = CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    contract = contract_for(SD, "ios", "text_encoder", Geometry(1, 4, 8, 8, 64, 64, 77, 8))
    module = wrap("ios", SD.component("text_encoder"), CLIPTextModel(config))
    lower(capture(module, contract)[0], contract, tmp_path / "T.mlpackage", LoweringOptions(provenance))
    ids = np.linspace(0, 49407, 77).round().astype(np.float32)[None]
    with torch.no_grad():
        expected = module(torch.from_numpy(ids)).numpy()
    output = MLProgram(tmp_path / "T.mlpackage").predict({"input_ids": ids})["last_hidden_state"]
    assert psnr(expected, output) > 65


def test_the_converter_still_refuses_alias(provenance: Any, tmp_path: Any) -> None:
    """Why `rewrites.tidy` removes aliases; if this fails, coremltools has learnt the operator."""
    import torch

    from sdmobile.exporters.coreml.lower import lower
    from sdmobile.exporters.lowering import LoweringOptions
    from sdmobile.families.contracts import contract_for
    from sdmobile.formats.bundle.contracts import Geometry

    class Alias(torch.nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten.alias(z) + 1

    contract = contract_for(SD, "ios", "vae_decoder", Geometry(1, 3, 4, 4, 4, 4, 1, 1))
    program = torch.export.export(Alias(), (torch.zeros(1, 3, 4, 4),))
    with pytest.raises(NotImplementedError, match="alias"):
        lower(program, contract, tmp_path / "A.mlpackage", LoweringOptions(provenance))
