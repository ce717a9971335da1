"""Which modules of a component have values that float16 cannot hold, on which recorded inputs.

The float32 reference graph is run on recorded inputs and the largest magnitude of every operator's result is kept. What
lies beyond 65504 is infinite on a phone that computes in float16; what comes within a factor of 4 is named as near,
since another prompt may take it over. Operators inside a fused one, such as the scores of attention, are looked at too:
attention is written out for the scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.basics.float16 import MAX_FINITE, ROUNDS_TO_INFINITY
from sdmobile.basics.metrics import json_number

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.contracts import Contract
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.recording import RecordedSample

NEAR_FACTOR = 4.0
OVERFLOWS, NEAR = "overflows", "near"


@dataclass(frozen=True)
class Peak:
    """The largest value of one module.

    Args:
        module: path of the module, empty for the component itself.
        operator: which operator's result it was.
        max_abs: the largest magnitude over all inputs.
        label: the recorded input, which names prompt, step and timestep.
        by_input: the module's largest magnitude by input.
    """

    module: str
    operator: str
    max_abs: float
    label: str
    by_input: dict[str, float]

    @property
    def severity(self) -> str:
        """ "overflows" if float16 makes it infinite, else "near"."""
        return OVERFLOWS if self.max_abs >= ROUNDS_TO_INFINITY else NEAR

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        by_input = {label: json_number(value) for label, value in self.by_input.items()}
        fields = {**asdict(self), "max_abs": json_number(self.max_abs), "by_input": by_input}
        return {**fields, "severity": self.severity}


@dataclass(frozen=True)
class OverflowScan:
    """What a scan of one component found.

    Args:
        component: canonical name.
        largest: largest magnitude of any operator's result.
        peaks: modules within a factor of `NEAR_FACTOR` of the largest float16 number or beyond, largest first.
    """

    component: str
    largest: float
    peaks: tuple[Peak, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence per module that overflows, for files that cannot keep a part of themselves in float32."""
        return tuple(
            f"{peak.module or self.component}: {peak.operator} reaches {peak.max_abs:.3g} ({peak.label}), beyond the "
            f"{MAX_FINITE:.0f} of float16, in which a phone's GPU computes unless the app asks for float32"
            for peak in self.peaks
            if peak.severity == OVERFLOWS
        )

    @property
    def islands(self) -> tuple[str, ...]:
        """Paths of the modules that must not be computed in float16."""
        return tuple(peak.module for peak in self.peaks if peak.severity == OVERFLOWS)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return {
            "component": self.component,
            "largest": json_number(self.largest),
            "islands": list(self.islands),
            "peaks": [peak.to_json() for peak in self.peaks],
        }


def scan_component(
    checkpoint: Checkpoint, bundle: Bundle, component: str, samples: Sequence[RecordedSample]
) -> OverflowScan:
    """Scans the float32 reference of one component on recorded inputs.

    Args:
        checkpoint: the reference.
        bundle: gives shapes and interface.
        component: canonical name.
        samples: recorded calls.
    """
    from sdmobile.reference.subject import captured

    part = bundle.components[component]
    contract: Contract = part.contract
    return scan_samples(captured(checkpoint, contract, part.record), contract, component, samples)


def scan_samples(
    program: ExportedProgram, contract: Contract, component: str, samples: Iterable[RecordedSample]
) -> OverflowScan:
    """Scans a captured program on recorded inputs; see `scan_program`."""
    from sdmobile.reference.component_inputs import as_tensors

    return scan_program(program, component, ((sample.label, as_tensors(contract, sample)) for sample in samples))


def scan_program(
    program: ExportedProgram, component: str, inputs: Iterable[tuple[str, tuple[Tensor, ...]]]
) -> OverflowScan:
    """Runs a program and keeps the largest magnitude of each module's operators.

    Args:
        program: captured, in float32.
        component: canonical name.
        inputs: label and inputs of each call.
    """
    from sdmobile.reference.magnitudes import magnitudes

    tops: dict[str, tuple[float, str, str]] = {}
    by_input: dict[str, dict[str, float]] = {}
    for label, tensors in inputs:
        for found in magnitudes(program, tensors):
            if found.value > tops.get(found.module, (-1.0, "", ""))[0]:
                tops[found.module] = (found.value, found.operator, label)
            seen = by_input.setdefault(found.module, {})
            seen[label] = max(found.value, seen.get(label, 0.0))
    peaks = [
        Peak(module, operator, value, label, by_input[module])
        for module, (value, operator, label) in tops.items()
        if value > MAX_FINITE / NEAR_FACTOR
    ]
    peaks.sort(key=lambda peak: -peak.max_abs)
    return OverflowScan(component, max((value for value, _, _ in tops.values()), default=0.0), tuple(peaks))
