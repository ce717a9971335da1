"""Budget checks: sums by loading plan, resident weights, and advice whose numbers add up."""

from __future__ import annotations

import pytest

from sdmobile.basics.words import gigabytes
from sdmobile.device_profiles.model import Fact
from sdmobile.formats.graph import FileGraph, Operation, Tensor
from sdmobile.prediction.kernels import Kernel
from sdmobile.prediction.memory import Storage
from sdmobile.prediction.memory_budget import (
    ComponentMemory,
    check_budget,
    component_memory,
    needed,
)

_STORAGE = Storage(float_bytes=2, alignment=1)


def _graph(stored: int) -> FileGraph:
    """Attention of 100 queries over 8 channels: scores 100 × 100, and a weight of 4000 numbers."""
    shapes = {"q": (100, 8), "k": (8, 100), "scores": (100, 100), "p": (100, 100), "y": (100, 8)}
    tensors = {name: Tensor(name, shape, "float16", False) for name, shape in shapes.items()}
    tensors["w"] = Tensor("w", (40, 100), "float16", True, stored)
    tensors["same"] = Tensor("same", (40, 100), "float16", True, 0)  # another name of the same blob
    operations = (
        Operation("matmul", "", ("q", "k"), ("scores",)),
        Operation("softmax", "", ("scores",), ("p",)),
        Operation("matmul", "", ("p", "q"), ("y",)),
    )
    return FileGraph("mlprogram", tensors, operations, ("q", "k"), ("y",), stored)


def _component(stored: int = 8000, name: str = "Unet") -> ComponentMemory:
    return component_memory(name, _graph(stored), _STORAGE, "stored")


def _megabytes(value: float | None) -> Fact:
    reliability = "unknown" if value is None else "low"
    return Fact(value=value, unit="MB", source="a table", reliability=reliability)


def test_weights_and_activations_of_a_component() -> None:
    found = _component(3000)
    # q and k 1600 each, two score matrices of 20000 at the softmax
    assert found.activations.lower_bound == found.activations.arena == 2 * 1600 + 2 * 20000
    assert found.activations.naive == 3 * 1600 + 2 * 20000
    assert (found.stored, found.decompressed, found.resident) == (3000, 8000, 3000)
    assert found.peak == 3000 + 43200
    assert found.scores == 40000
    assert component_memory("Unet", _graph(3000), _STORAGE, "decompressed").resident == 8000


def test_transformed_weights_of_winograd_are_counted() -> None:
    kernel = Kernel("winograd", "", (0,), 0, 0, 0, 0, weight_bytes=500)
    found = component_memory("Unet", _graph(8000), _STORAGE, "decompressed", [kernel])
    assert found.resident == 8000 + 500  # its operation has no constant of its own


def test_loading_plans() -> None:
    components = [_component(8000), _component(100, "Text")]
    assert needed(components, "all at once") == 51200 + 43300
    assert needed(components, "one at a time") == 51200
    assert needed([], "one at a time") == 0


def test_what_fits_needs_no_advice() -> None:
    found = check_budget([_component()], _megabytes(1), "one at a time")
    assert found.fits is True
    assert found.advice == ()
    assert found.sentence == "needs 0 MB, an app may use 1 MB"


def test_an_unknown_limit_stays_unknown() -> None:
    for fact in (None, _megabytes(None)):
        found = check_budget([_component()], fact, "one at a time")
        assert found.fits is None
        assert found.allowed is None
        assert "not known" in found.sentence
        assert found.advice


def test_advice_says_what_each_change_leaves() -> None:
    components = [_component(8000), _component(8000, "Decoder")]
    found = check_budget(components, _megabytes(0.05), "all at once")
    assert found.fits is False
    assert found.needed == 102400
    by_text = {advice.text: advice.needed for advice in found.advice}
    assert by_text == {
        "load one component at a time": 51200,
        "store weights as 6-bit palettes": 102400 - 2 * (8000 - 3000),
        "compute attention in blocks of queries": 102400 - 2 * 40000,
    }
    assert [advice.needed for advice in found.advice] == sorted(by_text.values())
    alone = check_budget(components[:1], _megabytes(0.05), "one at a time")
    assert {advice.text: advice.needed for advice in alone.advice}[
        "split Unet into two chunks, loaded in turn"
    ] == 43200 + 4000


def test_compressed_weights_are_not_compressed_again() -> None:
    found = check_budget([_component(4000)], _megabytes(0.001), "one at a time")
    assert "store weights as 6-bit palettes" not in {advice.text for advice in found.advice}


@pytest.mark.parametrize(("count", "text"), [(2_440_000_000, "2.4 GB"), (3_060_000, "3 MB"), (60_000_000, "0.1 GB")])
def test_bytes_in_words(count: int, text: str) -> None:
    assert gigabytes(count) == text
