"""What was compressed, as the manifest of a bundle keeps it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TensorRecord:
    """One weight.

    Args:
        name: of the constant in the file.
        module: path of its module as the file spells it.
        scheme: name of the scheme that it is stored in.
        elements: number of elements.
        bytes_before: bytes of its values in the uncompressed file.
        bytes_after: bytes of everything stored for it.
        mse: mean squared error of the decoded weight.
        reason: why it is not in the scheme that the recipe names; "" if it is.
    """

    name: str
    module: str
    scheme: str
    elements: int
    bytes_before: int
    bytes_after: int
    mse: float
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object, without an empty reason."""
        return {key: value for key, value in vars(self).items() if key != "reason" or value}


@dataclass(frozen=True)
class CompressionRecord:
    """One component.

    Args:
        recipe: name of the recipe.
        recipe_key: hash of its contents.
        tensors: every weight that the recipe could have changed.
        bytes_before: size of the uncompressed files.
        bytes_after: size of the compressed files.
        seconds: wall time of encoding, writing and checking.
        peak_rss_bytes: largest resident memory of the process so far.
        checked: number of weights that were read back from the file and compared.
        details: facts of the backend.
    """

    recipe: str
    recipe_key: str
    tensors: tuple[TensorRecord, ...]
    bytes_before: int
    bytes_after: int
    seconds: float
    peak_rss_bytes: int = 0
    checked: int = 0
    details: dict[str, Any] | None = None

    @property
    def schemes(self) -> dict[str, int]:
        """Number of weights in each scheme."""
        return dict(Counter(tensor.scheme for tensor in self.tensors))

    @property
    def bits_per_weight(self) -> float:
        """Bits stored per element of the weights listed, tables and scales included."""
        elements = sum(tensor.elements for tensor in self.tensors)
        return 8 * sum(tensor.bytes_after for tensor in self.tensors) / elements if elements else 16.0

    def to_json(self) -> dict[str, Any]:
        """Returns the record as the manifest keeps it."""
        return {
            "recipe": self.recipe,
            "recipe_key": self.recipe_key,
            "schemes": self.schemes,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "seconds": round(self.seconds, 3),
            "peak_rss_bytes": self.peak_rss_bytes,
            "checked": self.checked,
            **({"details": self.details} if self.details else {}),
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }
