"""What compresses the files of one target: a backend per file format, all behind the same few methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sdmobile.basics.untrusted import inside
from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from sdmobile.formats.bundle.writing import Part
    from sdmobile.quantize.activations.recorded import RecordedInputs
    from sdmobile.quantize.correction import FittedScales
    from sdmobile.quantize.recipes import Recipe
    from sdmobile.quantize.records import CompressionRecord


@dataclass(frozen=True)
class Destination:
    """What a bundle is for.

    Args:
        target: "ios" or "android".
        device: name of the device profile.
        deployment_target: oldest system that must load the files ("iOS17"); None to raise it where a scheme needs it.
    """

    target: str
    device: str | None = None
    deployment_target: str | None = None


@dataclass(frozen=True)
class CompressionJob:
    """What becomes of one component.

    Args:
        part: the uncompressed component.
        recipe: what each weight becomes.
        destination: what it is for.
        out: the folder that gets the files.
        inputs: recorded inputs, for a recipe with W8A8.
        fitted: factors on the weights, for Core ML.
    """

    part: Part
    recipe: Recipe
    destination: Destination
    out: Path
    inputs: RecordedInputs | None = None
    fitted: FittedScales | None = None

    @property
    def component(self) -> str:
        """Canonical name, by which the recipe's overrides tell components apart."""
        return self.part.record["component"]

    def target(self, file: str) -> Path:
        """Returns where a file of the component is written: in the output folder and nowhere else."""
        return inside(self.out, file)


class Backend(Protocol):
    """Reads and writes the model files of one target."""

    @property
    def suffix(self) -> str:
        """Ending of a model file's name."""
        ...

    def modules(self, path: Path) -> tuple[str, ...]:
        """Returns the modules of a file that have weights to compress, as the file spells them."""
        ...

    def compress(self, job: CompressionJob, file: str) -> CompressionRecord:
        """Writes one file of a component with its weights as the recipe says, and reads every one of them back.

        Raises:
            UnsupportedError: a scheme is not for these files, for the device or for the oldest system.
            OutputError: the file did not get smaller.
            ComponentError: a weight read back is another than the one encoded.
        """
        ...

    def correctable(self, paths: Iterable[Path]) -> set[str]:
        """Returns the modules of a component's files whose decoded weight may get a factor.

        Raises:
            UnsupportedError: no factor can be written to such files.
        """
        ...


class CoreMLBackend:
    """Writes `.mlpackage` folders; the imports are late because those of W8A8 load torch."""

    suffix = ".mlpackage"

    def modules(self, path: Path) -> tuple[str, ...]:
        """As `Backend.modules`, with underscores for dots."""
        from sdmobile.quantize.coreml.apply import modules

        return modules(path)

    def compress(self, job: CompressionJob, file: str) -> CompressionRecord:
        """As `Backend.compress`; activations are quantised too where the recipe asks for it."""
        target = job.destination.deployment_target
        if job.inputs is not None and job.recipe.quantises_activations:
            from sdmobile.quantize.activations.apply import compress_with_activations

            return compress_with_activations(job.part, file, job.out, job.recipe, job.inputs, target)
        from sdmobile.quantize.coreml.apply import compress_package

        source = job.part.path(file)
        return compress_package(source, job.target(file), job.recipe, job.component, target, fitted=job.fitted)

    def correctable(self, paths: Iterable[Path]) -> set[str]:
        """As `Backend.correctable`: those that exactly one weight of the packages is known to belong to."""
        from sdmobile.quantize.coreml.apply import correctable

        return correctable(paths)


class LiteRTBackend:
    """Writes `.tflite` files."""

    suffix = ".tflite"

    def modules(self, path: Path) -> tuple[str, ...]:
        """As `Backend.modules`, with dots."""
        from sdmobile.quantize.litert.apply import modules

        return modules(path)

    def compress(self, job: CompressionJob, file: str) -> CompressionRecord:
        """As `Backend.compress`."""
        from sdmobile.quantize.litert.apply import compress_tflite

        source, device = job.part.path(file), job.destination.device
        return compress_tflite(source, job.target(file), job.recipe, job.component, device)

    def correctable(self, paths: Iterable[Path]) -> set[str]:
        """Refuses: nothing writes factors to these files."""
        raise UnsupportedError("corrections are written to Core ML packages", "the bundle is for android")


_BACKENDS: dict[str, Backend] = {"ios": CoreMLBackend(), "android": LiteRTBackend()}


def backend_for(target: str) -> Backend:
    """Returns what compresses the files of a target.

    Raises:
        UnsupportedError: nothing does.
    """
    if target not in _BACKENDS:
        raise UnsupportedError(f"weights are compressed for {' and '.join(_BACKENDS)}", target)
    return _BACKENDS[target]
