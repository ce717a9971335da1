"""What every lowering is told and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile import __version__
from sdmobile.formats.bundle.writing import created

if TYPE_CHECKING:
    from torch import Tensor

    from sdmobile.checkpoints import Checkpoint

CONVERSION_DATE = "com.github.apple.coremltools.conversion_date"


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from; lowerings write it into the file's metadata.

    Args:
        name: the checkpoint's name for people.
        content_hash: its SHA-256.
        license: its licence, None where it does not say.
        scaling_factor: latents are divided by it before decoding.
        prediction_type: what the denoiser predicts.
        version: sdmobile's version.
        shift_factor: is added to latents after the division.
    """

    name: str
    content_hash: str
    license: str | None
    scaling_factor: float
    prediction_type: str
    version: str
    shift_factor: float = 0.0

    def entries(self, component: str) -> dict[str, str]:
        """Returns the facts as the key-value metadata of `component`'s file."""
        return {
            "sdmobile.version": self.version,
            "sdmobile.component": component,
            "sdmobile.source": self.name,
            "sdmobile.source_hash": self.content_hash,
            "sdmobile.license": self.license or "unknown",
            "sdmobile.scaling_factor": repr(self.scaling_factor),
            **({"sdmobile.shift_factor": repr(self.shift_factor)} if self.shift_factor else {}),
            "sdmobile.prediction_type": self.prediction_type,
        }


@dataclass(frozen=True)
class LoweringOptions:
    """Choices of the device profile, and what goes into the metadata.

    Args:
        provenance: where the weights come from.
        deployment_target: the oldest system that must load the file ("iOS17"); Core ML only.
        recorded_inputs: of several calls of a sampling run, in the order of the contract; values that overflow float16
            on them are computed in float32 where the target can say so.
        summary: what the component is, in one sentence.
    """

    provenance: Provenance
    deployment_target: str | None = None
    recorded_inputs: tuple[tuple[Tensor, ...], ...] = ()
    summary: str = "One component of a diffusion model"


@dataclass(frozen=True)
class LoweringRecord:
    """What a lowering wrote.

    Args:
        path: the file or folder.
        operators: number of run-time operators of each type in the file.
        details: facts of the backend (opset, deployment target, precision).
    """

    path: Path
    operators: dict[str, int]
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the record without the path as a JSON object."""
        total = sum(self.operators.values())
        return {"operators": dict(sorted(self.operators.items())), "operator_count": total, **self.details}


def described(provenance: Provenance, summary: str) -> dict[str, str]:
    """Returns the texts of a Core ML model by the names of its specification.

    Args:
        provenance: where the weights come from.
        summary: what the component is, in one sentence.
    """
    return {
        "shortDescription": f"{summary}. From {provenance.name}.",
        "versionString": provenance.version,
        "author": f"{provenance.name}; converted by sdmobile",
        "license": provenance.license or "unknown; see the source of the checkpoint",
    }


def conversion_date() -> str:
    """Returns the day that a file says it was made on: today, or that of SOURCE_DATE_EPOCH."""
    return created()[:10]


def provenance_of(checkpoint: Checkpoint, known: str | None = None) -> Provenance:
    """Returns what a file says about its checkpoint, whose files are read and hashed if the hash is not known."""
    return Provenance(
        checkpoint.name,
        known or checkpoint.content_hash,
        checkpoint.license,
        checkpoint.scaling_factor,
        checkpoint.prediction_type,
        __version__,
        checkpoint.shift_factor,
    )
