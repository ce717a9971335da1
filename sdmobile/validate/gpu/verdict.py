"""What a GPU check found, as values and as JSON, and ML Drift's acceptance report, read from what it prints.

The report has the same form on both ways (source: `tflite/delegates/gpu/delegate.cc` and `ml_drift_delegate/` of
google-ai-edge/LiteRT; observed with ai-edge-litert 2.3.0 and @litertjs/core 2.5.3):

    Following operations are not supported by GPU delegate:
    BROADCAST_TO: Operation is not supported.
    28 operations will run on the GPU, and the remaining 642 operations will run on the CPU.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdmobile.basics.metrics import Metrics

Way = Literal["browser", "wheel"]
Precision = Literal["float32", "float16"]
WAYS: tuple[Way, ...] = ("browser", "wheel")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16")

_START = "Following operations are not supported by GPU delegate"
_COUNTS = re.compile(r"(\d+) operations will run on the GPU, and the remaining (\d+)")
_NO_GPU = re.compile(r"No operations will run on the GPU, and all (\d+)")
_COMPLAINT = re.compile(r"^\s*([A-Z][A-Z0-9_]+)(?: [^:]*)?: (.+)$")


class GpuStatus(str, Enum):
    """What came of one way of checking."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    CRASHED = "crashed"
    TIMED_OUT = "timed out"
    WRONG = "wrong"
    TOO_LARGE = "too large"
    RUN_FAILED = "run failed"  # it was accepted, but gave no result
    NOT_RUN = "not run"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class RefusedOperator:
    """One complaint of the accelerator about an operator.

    Args:
        operator: its name, as BROADCAST_TO.
        reason: the accelerator's words.
        count: how many of them the file has; the accelerator may mean only some.
        modules: the source modules that their output tensors are named after.
    """

    operator: str
    reason: str
    count: int = 0
    modules: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "operator": self.operator,
            "reason": self.reason,
            "count": self.count,
            "modules": list(self.modules),
        }


@dataclass(frozen=True)
class LargestTensor:
    """The largest tensor of a file beside what one buffer of the device can hold.

    Args:
        name: the tensor.
        bytes: its size at the precision of the check, channels padded to four as the GPU stores them.
        limit: the device's largest storage buffer binding; None if it is not known.
        constant: a weight, which the GPU may hold in another layout.
    """

    name: str
    bytes: int
    limit: int | None
    constant: bool = False

    @property
    def fits(self) -> bool:
        """Whether one buffer can hold it; unknown counts as yes."""
        return self.limit is None or self.bytes <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {"name": self.name, "bytes": self.bytes, "limit": self.limit, "constant": self.constant}


@dataclass(frozen=True)
class GpuVerdict:
    """What one way of checking says about one file at one precision.

    Args:
        way: "browser" or "wheel".
        precision: "float32" or "float16".
        status: what came of it.
        reason: why it is not accepted, or what the verdict leaves open.
        missing: what is missing on this machine to run the check; None if that is not why it was not run.
        adapter: the device that computed, in its own words.
        refused: what the accelerator refused.
        signal: name of the signal that ended the process.
        largest: the largest tensor and the device's limit.
        proof: evidence that the GPU computed: kernel calls, buffers, processor time of the driver's threads.
        worst: the worst of each figure against the expected outputs; None without expected outputs.
        samples: number of inputs that were run.
        seconds: compile, first run and median of the later runs, as far as it came.
        log: the last lines of the runtime, where something went wrong.
    """

    way: Way
    precision: Precision
    status: GpuStatus
    reason: str | None = None
    missing: str | None = None
    adapter: str | None = None
    refused: tuple[RefusedOperator, ...] = ()
    signal: str | None = None
    largest: LargestTensor | None = None
    proof: dict[str, Any] = field(default_factory=dict)
    worst: Metrics | None = None
    samples: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    log: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the GPU took the whole file, ran it and computed what was expected."""
        return self.status == GpuStatus.ACCEPTED

    @property
    def failed(self) -> bool:
        """Whether the check ran and the file is not good for this GPU."""
        return self.status not in (GpuStatus.ACCEPTED, GpuStatus.NOT_RUN)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "way": self.way,
            "precision": self.precision,
            "status": self.status.value,
            "reason": self.reason,
            "missing": self.missing,
            "adapter": self.adapter,
            "refused": [operator.to_json() for operator in self.refused],
            "signal": self.signal,
            "largest_tensor": None if self.largest is None else self.largest.to_json(),
            "proof": dict(self.proof),
            "worst": None if self.worst is None else self.worst.to_json(),
            "samples": self.samples,
            "seconds": dict(self.seconds),
            "log": list(self.log),
        }


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
