"""One tiny model set, captured and lowered once per session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.families import SD

if TYPE_CHECKING:
    import torch

    from sdmobile.exporters.lowering import LoweringRecord, Provenance
    from sdmobile.formats.bundle.contracts import Contract


@dataclass(frozen=True)
class Lowered:
    """A lowered component with the means to check it."""

    path: Path
    contract: Contract
    module: torch.nn.Module
    record: LoweringRecord

    def inputs(self, seed: int = 1) -> dict[str, np.ndarray]:
        """Returns random inputs of the file; other ones than those of the capture."""
        from sdmobile.reference.capture import example_inputs

        arrays = {
            spec.name: tensor.numpy()
            for spec, tensor in zip(self.contract.inputs, example_inputs(self.contract, seed), strict=True)
        }
        if "timestep" in arrays:
            arrays["timestep"] = np.full_like(arrays["timestep"], 951.0)
        return arrays

    def expected(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Returns what PyTorch makes of them in float32."""
        import torch

        with torch.no_grad():
            return self.module(*(torch.from_numpy(inputs[spec.name]) for spec in self.contract.inputs)).numpy()


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    from sdmobile.exporters.lowering import Provenance

    return Provenance("tiny", "0123abcd", "Apache-2.0", 0.18215, "epsilon", "0.1.0")


@pytest.fixture(scope="session")
def lowered(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, provenance: Provenance
) -> Callable[[str, str], Lowered]:
    """Returns a function from target and component to the lowered file; each is made once."""

    @cache
    def make(target: str, component: str) -> Lowered:
        from sdmobile.checkpoints import open_checkpoint
        from sdmobile.device_profiles import default_profile
        from sdmobile.exporters.component import lower_to_file
        from sdmobile.exporters.lowering import LoweringOptions
        from sdmobile.families.contracts import contract_for
        from sdmobile.reference.capture import capture
        from sdmobile.reference.geometry import geometry_for
        from sdmobile.reference.subject import wrapped_component
        from sdmobile.rewrites.engine import rewrite
        from sdmobile.rewrites.registry import rules_for

        checkpoint = open_checkpoint(tiny_checkpoint)
        contract = contract_for(SD, target, component, geometry_for(checkpoint, "batch2"))
        module = wrapped_component(checkpoint, target, component)
        program = rewrite(capture(module, contract)[0], rules_for(default_profile(target))).program
        path = tmp_path_factory.mktemp(f"{target}-{component}") / contract.file_name
        record = lower_to_file(program, contract, path, LoweringOptions(provenance))
        return Lowered(path, contract, module, record)

    return make
