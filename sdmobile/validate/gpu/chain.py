"""A component as the files that a GPU has to take one by one, each with inputs and outputs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.validate.recording import RecordedSample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.validate.bundle import BundleComponent


@dataclass(frozen=True)
class Subject:
    """One file to check.

    Args:
        name: the component's, or for a part of it the file's.
        file: where it is and what it takes.
        samples: inputs, and the outputs that are expected; empty where nothing was recorded.
        reference: where the outputs come from: "torch", or "litert" on the CPU.
    """

    name: str
    file: BundleComponent
    samples: list[RecordedSample]
    reference: str


def parts_of(file: BundleComponent, samples: Sequence[RecordedSample]) -> list[Subject]:
    """Returns a component's files: itself, or every part of its chain.

    Values between parts are computed by LiteRT on the CPU, from the recorded inputs; what the last part returns is
    compared with PyTorch.

    Args:
        file: the component.
        samples: recorded calls of it.
    """
    if not file.chain:
        return [Subject(file.name, file, list(samples), "torch" if samples else "litert")]
    values: list[dict[str, NDArray[Any]]] = [dict(sample.inputs) for sample in samples]
    subjects = []
    for part in file.chain:
        last = part is file.chain[-1]
        calls = []
        for known, sample in zip(values, samples, strict=True):
            inputs = {spec.canonical: known[spec.canonical] for spec in part.contract.inputs}
            outputs = sample.outputs if last else _on_cpu(part, inputs)
            known.update(outputs)
            calls.append(RecordedSample(sample.component, sample.label, inputs, outputs))
        reference = "torch" if last and samples else "litert"
        subjects.append(Subject(part.path.stem, part, calls, reference))
    return subjects


def _on_cpu(part: BundleComponent, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Returns what LiteRT on the CPU makes of a part's inputs."""
    from sdmobile.validate.runners.litert import LiteRTRunner

    return LiteRTRunner({part.name: part}).run(part.name, inputs)
