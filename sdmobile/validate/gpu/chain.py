"""A component as the files that a GPU has to take one by one, each with inputs and outputs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.reference.recording import RecordedSample
from sdmobile.validate.gpu.check import DEFAULT_TIMEOUT, run_on_gpu

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.reading import BundleComponent
    from sdmobile.validate.gpu.verdict import GpuVerdict, Precision, Way


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


@dataclass(frozen=True)
class ChainRun:
    """A component that ran on the GPU file by file, each on what the GPU had made of the files before.

    Args:
        verdicts: by file name, in order; they end with the first file that gave nothing. Outputs are unjudged.
        outputs: what the last file returned, by canonical name; empty if the chain ended before.
    """

    verdicts: dict[str, GpuVerdict]
    outputs: dict[str, NDArray[Any]]


def run_chain(
    file: BundleComponent,
    inputs: dict[str, NDArray[Any]],
    *,
    way: Way = "browser",
    precision: Precision = "float32",
    timeout: float = DEFAULT_TIMEOUT,
) -> ChainRun:
    """Runs all files of a component on the GPU, so that its outputs hold the error of the whole chain.

    Args:
        file: the component.
        inputs: one call of it, by canonical name and in canonical layout.
        way: "browser" or "wheel".
        precision: "float32" or "float16".
        timeout: seconds for each file.
    """
    known, verdicts = dict(inputs), {}
    for part in file.chain or (file,):
        feeds = part.contract.to_target({spec.canonical: known[spec.canonical] for spec in part.contract.inputs})
        run = run_on_gpu(part.path, [feeds], way=way, precision=precision, timeout=timeout)
        verdicts[part.path.name] = run.verdict
        if not run.outputs:
            return ChainRun(verdicts, {})
        known.update(part.contract.from_target(run.outputs[0]))
    return ChainRun(verdicts, {spec.canonical: known[spec.canonical] for spec in file.contract.outputs})


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
    from sdmobile.runtimes.litert import LiteRTRunner

    return LiteRTRunner({part.name: part}).run(part.name, inputs)
