"""Every operation that coremltools 9 can write is implemented, or named here with the reason why not."""

from __future__ import annotations

import pytest

from sdmobile.runtimes.mlprogram.constexpr import decoder
from sdmobile.runtimes.mlprogram.ops.table import operations
from tests.runtimes.mlprogram.support import prepare_coremltools

BY_THE_READER = {"const", "classify"}
"""Read as constants and as the classes of a model, not run as operations."""
NOT_RUN = {
    "_const_symbolic": "for coremltools' own tests; a saved file holds none",
    "conv_quantized": "declared experimental; nothing in coremltools 9 emits it and its `lut` form has no definition",
}


def _registered() -> set[str]:
    prepare_coremltools()
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    return set(SSAOpRegistry.core_ops)


def _implemented() -> set[str]:
    return {n for n in _registered() if n in operations() or decoder(n, 16) or decoder(n, 18)} | BY_THE_READER


def test_every_operation_of_coremltools_is_implemented_or_named() -> None:
    registered = _registered()
    assert len(registered) == 168
    missing = registered - _implemented() - set(NOT_RUN)
    assert not missing, f"neither implemented nor named: {sorted(missing)}"


@pytest.mark.parametrize("name", sorted(NOT_RUN))
def test_a_named_operation_is_not_implemented(name: str) -> None:
    assert name in _registered()
    assert name not in _implemented(), "take it off the list"
