"""The contracts' shapes and names, and that no adapter loses or reorders anything."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.errors import UnsupportedError
from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import TARGETS, Contract, Geometry, TensorSpec
from tests.families import COMPONENTS, SD

GEOMETRY = Geometry(2, 4, 6, 5, 48, 40, 77, 32)

geometries = st.builds(
    Geometry,
    batch=st.sampled_from([1, 2]),
    latent_channels=st.integers(1, 5),
    latent_height=st.integers(1, 6),
    latent_width=st.integers(1, 6),
    image_height=st.integers(1, 9),
    image_width=st.integers(1, 9),
    context_length=st.integers(1, 7),
    context_dim=st.integers(1, 7),
)
contracts = st.builds(contract_for, st.just(SD), st.sampled_from(TARGETS), st.sampled_from(COMPONENTS), geometries)


def canonical_array(spec: TensorSpec, rng: np.random.Generator) -> np.ndarray:
    """Returns random values of the canonical shape; token ids reach the size of CLIP's vocabulary."""
    if spec.canonical == "input_ids":
        return rng.integers(0, 49408, spec.canonical_shape)
    return rng.standard_normal(spec.canonical_shape, dtype=np.float32)


@given(contracts, st.integers(0, 2**31))
@settings(max_examples=100, deadline=None)
def test_to_target_and_back_is_the_identity(contract: Contract, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for spec in (*contract.inputs, *contract.outputs):
        array = canonical_array(spec, rng)
        there = spec.to_file(array)
        assert there.shape == spec.shape
        assert there.dtype == spec.dtype
        assert there.flags.c_contiguous
        np.testing.assert_array_equal(spec.to_canonical(there), array)


@given(contracts)
@settings(max_examples=50, deadline=None)
def test_json_round_trip(contract: Contract) -> None:
    data = contract.to_json()
    assert json.loads(json.dumps(data)) == data
    assert Contract.from_json(data) == contract


def test_nhwc_puts_channels_last() -> None:
    contract = contract_for(SD, "android", "unet", GEOMETRY)
    sample = np.arange(2 * 4 * 6 * 5, dtype=np.float32).reshape(2, 4, 6, 5)
    moved = contract.inputs[0].to_file(sample)
    assert moved.shape == (2, 6, 5, 4)
    assert moved[1, 3, 2, 0] == sample[1, 0, 3, 2]


def test_ios_context_is_batch_channels_one_tokens() -> None:
    contract = contract_for(SD, "ios", "unet", GEOMETRY)
    context = np.random.default_rng(0).standard_normal((2, 77, 32)).astype(np.float32)
    moved = contract.to_target(
        {"sample": np.zeros((2, 4, 6, 5)), "timestep": np.zeros(2), "encoder_hidden_states": context}
    )["encoder_hidden_states"]
    assert moved.shape == (2, 32, 1, 77)
    np.testing.assert_array_equal(moved[1, 3, 0], context[1, :, 3])


@pytest.mark.parametrize(
    ("component", "file_name", "inputs", "output"),
    [
        ("text_encoder", "TextEncoder.mlpackage", {"input_ids": (1, 77)}, ("last_hidden_state", (1, 77, 32))),
        (
            "unet",
            "Unet.mlpackage",
            {"sample": (2, 4, 6, 5), "timestep": (2,), "encoder_hidden_states": (2, 32, 1, 77)},
            ("noise_pred", (2, 4, 6, 5)),
        ),
        ("vae_decoder", "VAEDecoder.mlpackage", {"z": (1, 4, 6, 5)}, ("image", (1, 3, 48, 40))),
        ("vae_encoder", "VAEEncoder.mlpackage", {"x": (1, 3, 48, 40)}, ("latent_dist", (1, 8, 6, 5))),
    ],
)
def test_ios_names_are_those_that_the_swift_package_reads(
    component: str, file_name: str, inputs: dict[str, tuple[int, ...]], output: tuple[str, tuple[int, ...]]
) -> None:
    contract = contract_for(SD, "ios", component, GEOMETRY)
    assert contract.file_name == file_name
    assert {spec.name: spec.shape for spec in contract.inputs} == inputs
    assert [(spec.name, spec.shape) for spec in contract.outputs] == [output]
    assert {spec.dtype for spec in (*contract.inputs, *contract.outputs)} == {"float32"}


def test_another_shape_is_an_error_that_names_both() -> None:
    contract = contract_for(SD, "onnx", "vae_decoder", GEOMETRY)
    with pytest.raises(UnsupportedError, match=r"\(1, 4, 6, 5\).*\(1, 4, 8, 8\)"):
        contract.to_target({"latent": np.zeros((1, 4, 8, 8))})


def test_a_missing_array_is_an_error_that_names_it() -> None:
    contract = contract_for(SD, "onnx", "unet", GEOMETRY)
    with pytest.raises(UnsupportedError, match="timestep"):
        contract.to_target({"sample": np.zeros((2, 4, 6, 5)), "encoder_hidden_states": np.zeros((2, 77, 32))})
    with pytest.raises(UnsupportedError, match="noise_pred"):
        contract.from_target({"something": np.zeros(1)})


@pytest.mark.parametrize(("target", "component"), [("windows", "unet"), ("ios", "tokenizer")])
def test_unknown_target_or_component(target: str, component: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{target}|{component}"):
        contract_for(SD, target, component, GEOMETRY)
