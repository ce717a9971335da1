"""What every lowering is told and what it answers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

GIB = 1 << 30


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from; lowerings write it into the file's metadata.

    Args:
        name: the checkpoint's name for people.
        content_hash: its SHA-256.
        license: its licence, None where it does not say.
        scaling_factor: latents are divided by it before decoding.
        prediction_type: what the UNet predicts.
        version: sdmobile's version.
    """

    name: str
    content_hash: str
    license: str | None
    scaling_factor: float
    prediction_type: str
    version: str

    def entries(self, component: str) -> dict[str, str]:
        """Returns the facts as the key-value metadata of `component`'s file."""
        return {
            "sdmobile.version": self.version,
            "sdmobile.component": component,
            "sdmobile.source": self.name,
            "sdmobile.source_hash": self.content_hash,
            "sdmobile.license": self.license or "unknown",
            "sdmobile.scaling_factor": repr(self.scaling_factor),
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
    """

    provenance: Provenance
    deployment_target: str | None = None
    recorded_inputs: tuple[tuple[Tensor, ...], ...] = ()


@dataclass(frozen=True)
class LoweringRecord:
    """What a lowering wrote.

    Args:
        path: the file or folder.
        operators: number of run-time operators of each type in the file.
        details: facts of the backend (opset, deployment target, precision).
        warnings: what a user should know about the file.
    """

    path: Path
    operators: dict[str, int]
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the record without the path as a JSON object."""
        total = sum(self.operators.values())
        return {"operators": dict(sorted(self.operators.items())), "operator_count": total, **self.details}


def files_of(path: Path) -> list[Path]:
    """Returns the file, or every file of the folder in a fixed order."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def size_of(paths: list[Path]) -> int:
    """Returns the bytes that the files and folders take."""
    return sum(file.stat().st_size for path in paths for file in files_of(path))


def hash_of(paths: list[Path]) -> str:
    """Returns one SHA-256 over names and contents: of the bytes alone if there is one file."""
    files = [(file, path.parent) for path in paths for file in files_of(path)]
    if len(files) == 1:
        return _file_digest(files[0][0])
    lines = "".join(f"{_file_digest(file)}  {file.relative_to(base).as_posix()}\n" for file, base in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
