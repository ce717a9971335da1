"""What a bundle's manifest says about its pipeline, against the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.changes import KINDS, nameless
from sdmobile.families.contracts import contract_for
from sdmobile.families.control import controls_to_json
from sdmobile.validate.app_files.comparison import differences

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.validate.app_files import Findings

_OPTIONAL = ("guidance_scale", "steps", "vae_scale_factor")
"""Entries of `pipeline` that not every version wrote."""


def manifest_findings(bundle: Bundle, checkpoint: Checkpoint, spec: PipelineSpec) -> Findings:
    """Compares what decides pictures; what the export noted about itself (times, rewrites) is not compared.

    Args:
        bundle: its target, guidance and resolution were the exporter's choice and are taken as they are.
        checkpoint: the reference.
        spec: its pipeline at this guidance and resolution.
    """
    stated = {**bundle.manifest, "source": {**bundle.source, **nameless(_changes(bundle.source))}}
    expected: dict[str, Any] = {
        "source": {"prediction_type": checkpoint.prediction_type, "license": checkpoint.license},
        "geometry": spec.geometry.to_json(),
        "pipeline": _pipeline(bundle.pipeline, checkpoint, spec),
    }
    if checkpoint.family.controls:
        expected["control"] = controls_to_json(checkpoint.family.controls)
    expected["source"] |= nameless(checkpoint.changes)  # under another file name it is no other
    if checkpoint.clip_skip is not None:
        expected["source"]["given"] = {"clip_skip": checkpoint.clip_skip}
    if "family" in stated:
        expected["family"] = checkpoint.family.name
    found = differences(stated, expected)
    more = set(stated["geometry"]) - set(expected["geometry"])
    found += [f"geometry.{name} is {stated['geometry'][name]}; the checkpoint has none" for name in sorted(more)]
    for name, component in bundle.components.items():
        contract = contract_for(checkpoint.family, bundle.target, name, spec.geometry)
        found += _interface(name, component.contract.to_json(), contract.to_json(), bool(component.chain))
    return found, {"components": len(bundle.components)}


def _changes(source: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: source[kind] for kind in KINDS if source.get(kind)}


def _pipeline(stated: Mapping[str, Any], checkpoint: Checkpoint, spec: PipelineSpec) -> dict[str, Any]:
    expected = {
        "scaling_factor": checkpoint.scaling_factor,
        "vae_scale_factor": checkpoint.vae_scale_factor,
        "guidance_scale": checkpoint.guidance_scale,
        "steps": getattr(checkpoint, "steps", None),
        "scheduler": _plain(spec.scheduler_config),
    }
    if checkpoint.zeros_where_empty or "zeros_where_empty" in stated:
        expected["zeros_where_empty"] = checkpoint.zeros_where_empty
    if checkpoint.shift_factor or "shift_factor" in stated:
        expected["shift_factor"] = checkpoint.shift_factor
    return {name: value for name, value in expected.items() if name not in _OPTIONAL or name in stated}


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a scheduler's configuration as JSON gives it back, without what is not finite: "clip nothing"."""
    import json

    return {key: value for key, value in json.loads(json.dumps(dict(config))).items() if value != float("-inf")}


def _interface(name: str, stated: Mapping[str, Any], expected: Mapping[str, Any], cut: bool) -> list[str]:
    """Compares the names, shapes, types and layouts of a component's interface."""
    keys = ("name", "shape", "dtype", "canonical", "layout")
    found = [] if cut else differences(stated, {key: expected[key] for key in ("file_name", "signature")}, name)
    for side in ("inputs", "outputs"):
        here, there = ([{key: spec.get(key) for key in keys} for spec in c[side]] for c in (stated, expected))
        if here != there:
            found.append(f"{name}.{side} are {_names(here)}; the checkpoint's are {_names(there)}")
    return found


def _names(specs: list[dict[str, Any]]) -> str:
    return ", ".join(f"{spec['name']} {spec['dtype']}{spec['shape']} {spec['layout']}" for spec in specs)
