"""What was done to a parameter is found again from its numbers; what is not in the list is not found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.exporters.structures.bindings import Binding, Step
from sdmobile.exporters.structures.matching import Parameters, bindings_of, same_bytes
from sdmobile.exporters.structures.probe import PROBE_SEED, PROOF_SEED, probe_array
from sdmobile.rewrites.constants import float16_factors

SHAPES = {
    "conv.weight": (8, 4, 3, 3),
    "conv.bias": (8,),
    "to_q.weight": (16, 12),
    "to_k.weight": (16, 12),
    "norm.weight": (16,),
    "geglu.weight": (32, 12),
}


def _parameters(seed: int) -> Parameters:
    return Parameters(SHAPES, lambda name: probe_array(seed, name, SHAPES[name]))


PROBE, PROOF = _parameters(PROBE_SEED), _parameters(PROOF_SEED)


def _found(names: tuple[str, ...], steps: tuple[Step, ...], dtype: str) -> Binding:
    """Plants a tensor, and returns the binding that is found for it once it was tried on other weights."""
    planted = Binding(names, steps, dtype)
    proof = planted.value([PROOF.read(name) for name in names])
    candidates = bindings_of(planted.value([PROBE.read(name) for name in names]), PROBE)
    binding = next(b for b in candidates if same_bytes(b.value([PROOF.read(n) for n in b.parameters]), proof))
    third = _parameters(3)
    again = binding.value([third.read(name) for name in binding.parameters])
    assert same_bytes(again, planted.value([third.read(name) for name in names]))
    return binding


@given(st.sampled_from(sorted(SHAPES)), st.sampled_from(["float16", "float32"]), st.data())
@settings(max_examples=40, deadline=None)
def test_an_order_of_axes_is_found(name: str, dtype: str, data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(len(SHAPES[name]))))
    assert _found((name,), (("permute", tuple(axes)),), dtype).parameters == (name,)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(
    "steps",
    [
        (("scale", 0.25, "float32"), ("reshape", (16, 12, 1, 1))),
        (("scale", 32**-0.5, "float32"),),
        (("scale", 40**-0.25, "float32"), ("permute", (1, 0))),
        tuple(("scale", factor, "float32") for factor in float16_factors(32**-0.5)),
    ],
)
def test_the_scale_of_an_attention_is_found(steps: tuple[Step, ...], dtype: str) -> None:
    assert _found(("to_q.weight",), steps, dtype).parameters == ("to_q.weight",)


def test_a_half_of_a_projection_is_found() -> None:
    found = _found(("geglu.weight",), (("part", 0, 16, 32), ("permute", (1, 0))), "float16")
    assert found.steps[0] == ("part", 0, 16, 32)


def test_two_projections_that_were_joined_are_found() -> None:
    found = _found(("to_q.weight", "to_k.weight"), (("concatenate", 0),), "float16")
    assert found.parameters == ("to_q.weight", "to_k.weight")


@pytest.mark.parametrize("tile", [2, 4])
def test_a_winograd_kernel_is_found(tile: int) -> None:
    found = _found(("conv.weight",), (("winograd", tile, "weight"),), "float16")
    assert found.steps[0] == ("winograd", tile, "weight")


@pytest.mark.parametrize(
    "foreign", [np.sin(np.arange(128.0)), PROBE.read("to_q.weight") ** 2, PROBE.read("conv.weight")[::-1]]
)
def test_what_is_not_in_the_list_is_not_found(foreign: np.ndarray) -> None:
    assert list(bindings_of(foreign.astype(np.float16), PROBE)) == []


@pytest.mark.parametrize("steps", [(("scale", 32**-0.5, "float32"),), (("part", 0, 8, 16), ("permute", (1, 0)))])
def test_parameters_of_one_size_are_not_all_drawn_again(steps: tuple[Step, ...]) -> None:
    """A network of billions has hundreds of projections of one size; each is drawn once, to be known again."""
    shapes = {f"block.{index}.to_q.weight": (16, 12) for index in range(100)}
    drawn: list[str] = []

    def draw(name: str) -> np.ndarray:
        drawn.append(name)
        return probe_array(PROBE_SEED, name, shapes[name])

    parameters = Parameters(shapes, draw)
    assert len(drawn) == 100
    planted = Binding(("block.70.to_q.weight",), steps, "float16").value([draw("block.70.to_q.weight")])
    assert {one.parameters for one in bindings_of(planted, parameters)} == {("block.70.to_q.weight",)}
    assert len(drawn) <= 105
