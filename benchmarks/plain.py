"""Converts one component with the plain converter, in this process: what a user without sdmobile would run.

    python benchmarks/plain.py CHECKPOINT COMPONENT ios|android OUTPUT

Core ML: `ct.convert` of the exported program at iOS 17 in float16. LiteRT: `litert_torch.convert(...).export`, which
writes float32. No rewrites, no metadata, no check, no repair. Prints one JSON line: seconds and peak memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def main(checkpoint: Path, component: str, target: str, output: Path) -> None:
    """Loads, converts, saves and prints how long each took."""
    import torch

    from sdmobile.basics.memory import peak_resident_bytes
    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.families.contracts import contract_for
    from sdmobile.reference.geometry import geometry_for
    from sdmobile.reference.subject import wrapped_component

    started = time.perf_counter()
    opened = open_checkpoint(checkpoint)
    contract = contract_for(opened.family, target, component, geometry_for(opened, "batch2"))
    wrapped = wrapped_component(opened, target, component)
    inputs = tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in contract.inputs)
    loaded = time.perf_counter()
    with torch.no_grad():
        (_core_ml if target == "ios" else _litert)(wrapped, inputs, output)
    row = {
        "load_seconds": round(loaded - started, 1),
        "convert_seconds": round(time.perf_counter() - loaded, 1),
        "peak_rss_bytes": peak_resident_bytes(),
    }
    print(json.dumps(row))


def _core_ml(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: Path) -> None:
    import coremltools as ct
    import torch

    program = torch.export.export(module, inputs).run_decompositions({})
    model = ct.convert(program, minimum_deployment_target=ct.target.iOS17, compute_precision=ct.precision.FLOAT16)
    model.save(str(output))  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]


def _litert(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: Path) -> None:
    import litert_torch

    litert_torch.convert(module, inputs).export(str(output))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
