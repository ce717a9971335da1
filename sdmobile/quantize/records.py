"""What was compressed, as the manifest of a bundle keeps it, and what is told while it happens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sdmobile.basics.memory import peak_resident_bytes
from sdmobile.errors import OutputError

Watch = Callable[[str, dict[str, Any]], None]
"""Sees the name of a component and an event."""


@contextmanager
def told(watch: Watch, component: str, stage: str) -> Iterator[None]:
    """Tells that a stage of a component starts, and when it is done how long it took and the largest memory so far."""
    started = time.perf_counter()
    watch(component, {"stage": stage, "event": "start", "seconds": 0.0, "peak_rss_bytes": 0})
    yield
    seconds = round(time.perf_counter() - started, 3)
    watch(component, {"stage": stage, "event": "end", "seconds": seconds, "peak_rss_bytes": peak_resident_bytes()})


class NothingToCompressError(OutputError):
    """A recipe changes no weight of a file."""


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

    def warnings(self, component: str) -> list[str]:
        """Returns what a user of the component should know: a newer system, layers and factors kept, weights left."""
        details, lines = self.details or {}, list[str]()
        if "raised_from" in details:
            needs, had = details["deployment_target"], details["raised_from"]
            lines.append(f"{component}: {self.recipe} needs {needs}; the uncompressed file loads from {had} on")
        if "activations" in details:
            layers = details["activations"]["layers"]
            quantized = sum(layer["decision"] == "w8a8" for layer in layers)
            lines.append(f"{component}: {quantized} of {len(layers)} layers passed their gate and compute in int8")
        if "correction" in details:
            factors = details["correction"]
            kept = f"{factors['kept']} of {factors['tried']} factors kept"
            gain = f"{factors['held_out_before_db']} to {factors['held_out_after_db']} dB on held-out inputs with them"
            lines.append(f"{component}: {kept}, {gain}")
        if misfits := [tensor for tensor in self.tensors if tensor.reason]:
            share = sum(tensor.elements for tensor in misfits) / sum(tensor.elements for tensor in self.tensors)
            first = misfits[0].reason
            lines.append(f"{component}: {len(misfits)} weights ({share:.1%}) stay fp16, the first as {first}")
        return lines


def joined(records: Sequence[CompressionRecord]) -> CompressionRecord:
    """Returns the record of a component that lies in one or several files."""
    return replace(
        records[0],
        tensors=tuple(tensor for record in records for tensor in record.tensors),
        bytes_before=sum(record.bytes_before for record in records),
        bytes_after=sum(record.bytes_after for record in records),
        seconds=sum(record.seconds for record in records),
        peak_rss_bytes=max(record.peak_rss_bytes for record in records),
        checked=sum(record.checked for record in records),
        details=_joined_details([record.details or {} for record in records]),
    )


def _joined_details(details: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the facts of the file that needs the newest system, and the layers of all of them."""
    newest = max(details, key=lambda facts: facts.get("deployment_target", ""))
    activations = [facts["activations"] for facts in details if "activations" in facts]
    if not activations:
        return newest
    layers = [layer for facts in activations for layer in facts["layers"]]
    return {**newest, "activations": {**activations[-1], "layers": layers}}
