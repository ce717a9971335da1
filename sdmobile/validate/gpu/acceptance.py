"""Reads ML Drift's acceptance report from what it prints.

The report has the same form on both ways (source: `tflite/delegates/gpu/delegate.cc` and `ml_drift_delegate/` of
google-ai-edge/LiteRT; observed with ai-edge-litert 2.3.0 and @litertjs/core 2.5.3):

    Following operations are not supported by GPU delegate:
    BROADCAST_TO: Operation is not supported.
    28 operations will run on the GPU, and the remaining 642 operations will run on the CPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_START = "Following operations are not supported by GPU delegate"
_COUNTS = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+)")
_NO_GPU = re.compile(r"No operations will run on the GPU, and all (\d+)")
_COMPLAINT = re.compile(r"^\s*([A-Z][A-Z0-9_]+)(?: [^:]*)?: (.+)$")


@dataclass(frozen=True)
class Acceptance:
    """What the report says.

    Args:
        complaints: (operator, reason) in the order of the report.
        on_gpu: operators that would run on the GPU; None if there is no report, as when everything is accepted.
        on_cpu: operators left to the CPU.
    """

    complaints: tuple[tuple[str, str], ...] = ()
    on_gpu: int | None = None
    on_cpu: int | None = None


def read_acceptance(lines: Iterable[str]) -> Acceptance:
    """Returns what the accelerator refused, from the lines that it printed."""
    complaints: dict[tuple[str, str], None] = {}
    on_gpu: int | None = None
    on_cpu: int | None = None
    listing = False
    for line in (part for text in lines for part in text.splitlines()):
        if _START in line:
            listing = True
            line = line.partition(_START)[2].partition(":")[2]
        if counted := _COUNTS.search(line):
            on_gpu, on_cpu, listing = int(counted[1]), int(counted[2]), False
        elif none := _NO_GPU.search(line):
            on_gpu, on_cpu, listing = 0, int(none[1]), False
        elif listing and (complaint := _COMPLAINT.match(line)):
            reason = complaint[2].strip().removeprefix(f"{complaint[1]}: ")  # some checks repeat the operator's name
            complaints[complaint[1], reason] = None
    return Acceptance(tuple(complaints), on_gpu, on_cpu)
