"""The classes of a classifier: its last operation, `classify`, which computes nothing that is a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdmobile.formats.mlprogram.errors import PackageError


@dataclass(frozen=True)
class Classifier:
    """What a classifier returns in place of its probabilities.

    Args:
        probabilities: the tensor that holds one for each class.
        label: name of the output that is the most probable class.
        table: name of the output that maps each class to its probability.
        classes: strings or integers, in the order of the tensor.
    """

    probabilities: str
    label: str
    table: str
    classes: tuple[str | int, ...]

    @property
    def outputs(self) -> tuple[str, str]:
        """Names of both outputs."""
        return self.label, self.table


def split_classifier(operations: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Classifier | None]:
    """Returns decoded Operation messages without `classify`, and what that says.

    Raises:
        PackageError: it is not the last one, or not as the format defines it.
    """
    if not any(operation.get("type") == "classify" for operation in operations):
        return operations, None
    *others, last = operations
    bound = {name: each.get("arguments", []) for name, each in last.get("inputs", {}).items()}
    probabilities = _one(bound.get("probabilities", [])).get("name")
    found = [_class(item) for item in _classes(_one(bound.get("classes", [])))]
    classes = tuple(item for item in found if item is not None)
    names = [output.get("name", "") for output in last.get("outputs", [])]
    kinds = {type(each) for each in found}
    if last.get("type") != "classify" or probabilities is None or len(names) != 2 or kinds not in ({str}, {int}):
        raise PackageError(
            "A classifier must end with classify, of probabilities and a list of strings or of integers",
            last.get("type"),
            "Export the model again",
        )
    return others, Classifier(probabilities, names[0], names[1], classes)


def _one(bindings: list[dict[str, Any]]) -> dict[str, Any]:
    return bindings[0] if len(bindings) == 1 else {}


def _classes(binding: dict[str, Any]) -> list[dict[str, Any]]:
    return binding.get("value", {}).get("immediateValue", {}).get("list", {}).get("values", [])


def _class(value: dict[str, Any]) -> str | int | None:
    """Returns the one string or integer that a decoded Value message holds."""
    tensor = value.get("immediateValue", {}).get("tensor", {})
    found = [each for kind in ("strings", "longInts", "ints") for each in tensor.get(kind, {}).get("values", [])]
    return found[0] if len(found) == 1 else None
