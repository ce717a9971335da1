"""What an app hands to a function as arrays, and what a function computed as an app gets it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.mlprogram.errors import InputError, PackageError
from sdmobile.runtimes.mlprogram.pictures import from_picture, to_picture

if TYPE_CHECKING:
    import torch

    from sdmobile.formats.mlprogram.classifier import Classifier
    from sdmobile.formats.mlprogram.features import Feature
    from sdmobile.formats.mlprogram.ir import Function


def taken(function: Function, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the inputs of a function as arrays; those that are left out are filled with their default value.

    Raises:
        InputError: one is missing, unknown, or not what a picture must be.
    """
    expected = function.features
    missing = {name for name, feature in expected.items() if feature.default is None} - set(inputs)
    if missing or not set(inputs) <= set(expected):
        raise InputError("The inputs must be those of the program", sorted(inputs), f"Give {sorted(expected)}")
    return {name: _array(feature, inputs.get(name)) for name, feature in expected.items()}


def _array(feature: Feature, value: Any) -> np.ndarray:
    if feature.color:
        return from_picture(value, feature)
    return np.full(feature.shape, feature.default, feature.dtype) if value is None else np.asarray(value)


def answers(function: Function, results: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Returns the outputs as an app gets them: a class with its table, PIL images, arrays of the declared type.

    Raises:
        PackageError: there are not as many probabilities as classes.
    """
    classifier = function.classifier
    outputs = function.outputs[:-1] if classifier else function.outputs
    found = {} if classifier is None else _class(classifier, results[classifier.probabilities])
    for item in outputs:
        # A copy, since a result may share the memory of an input or of the weight file.
        array = np.array(results[item.name].numpy(), item.type.dtype)
        feature = function.results[item.name]
        found[item.name] = to_picture(array, feature) if feature.color else array
    return found


def _class(classifier: Classifier, probabilities: torch.Tensor) -> dict[str, Any]:
    numbers = probabilities.flatten().tolist()
    if len(numbers) != len(classifier.classes):
        what = f"{len(numbers)} for {len(classifier.classes)} classes"
        raise PackageError("A classifier must compute one probability for each class", what, "Export the model again")
    best = classifier.classes[int(np.argmax(numbers))]
    return {classifier.label: best, classifier.table: dict(zip(classifier.classes, numbers, strict=True))}
