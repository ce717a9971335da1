"""What a GPU check found, as values and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sdmobile.basics.metrics import Metrics

Way = Literal["browser", "wheel"]
Precision = Literal["float32", "float16"]
WAYS: tuple[Way, ...] = ("browser", "wheel")
PRECISIONS: tuple[Precision, ...] = ("float32", "float16")

ACCEPTED = "accepted"
REJECTED = "rejected"
CRASHED = "crashed"
TIMED_OUT = "timed out"
WRONG = "wrong"
TOO_LARGE = "too large"
RUN_FAILED = "run failed"
NOT_RUN = "not run"
FAILURES = (REJECTED, CRASHED, TIMED_OUT, WRONG, TOO_LARGE, RUN_FAILED)


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
        status: accepted, rejected, crashed, timed out, wrong, too large, run failed (it was accepted, but gave no
            result) or not run.
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
    status: str
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
        return self.status == ACCEPTED

    @property
    def failed(self) -> bool:
        """Whether the check ran and the file is not good for this GPU."""
        return self.status in FAILURES

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "way": self.way,
            "precision": self.precision,
            "status": self.status,
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
