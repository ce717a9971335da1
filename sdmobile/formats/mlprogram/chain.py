"""A pipeline: models that run one after the other and hand their results on by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sdmobile.formats.mlprogram import ir
from sdmobile.formats.mlprogram.errors import PackageError
from sdmobile.formats.mlprogram.features import Feature, feature


@dataclass(frozen=True)
class Pipeline:
    """Functions in the order in which they run.

    Args:
        parts: at least one.
        features: what an app gives.
        outputs: names of what it gets back.
    """

    parts: tuple[ir.Function, ...]
    features: dict[str, Feature]
    outputs: tuple[str, ...]


def build_pipeline(model: dict[str, Any]) -> Pipeline | None:
    """Builds a pipeline from a decoded Model message; None if it is no pipeline.

    Raises:
        PackageError: it has no parts, or lacks a value that one of them takes.
        UnsupportedError: a part is not an ML Program.
    """
    chain = model["pipelineClassifier"].get("pipeline", {}) if "pipelineClassifier" in model else model.get("pipeline")
    if chain is None:
        return None
    parts = tuple(part for each in chain.get("models", []) for part in _parts(each))
    described = model.get("description", {})
    features = {item.get("name", ""): feature(item) for item in described.get("input", [])}
    outputs = tuple(item.get("name", "") for item in described.get("output", []))
    there = set(features)
    for part in parts:
        missing = [name for name, item in part.features.items() if item.default is None and name not in there]
        if missing:
            raise _contradiction(f"{missing} of a part come from nowhere")
        there |= {*part.results, *(part.classifier.outputs if part.classifier else ())}
    if not parts or not there.issuperset(outputs):
        raise _contradiction(f"{len(parts)} parts for {list(outputs)}")
    return Pipeline(parts, features, outputs)


def _parts(model: dict[str, Any]) -> tuple[ir.Function, ...]:
    """Returns the functions of one model of a pipeline, which may be a pipeline."""
    inner = build_pipeline(model)
    return (ir.build(model),) if inner is None else inner.parts


def _contradiction(what: str) -> PackageError:
    return PackageError("A pipeline must hold models that give each other their inputs", what, "Export the model again")
