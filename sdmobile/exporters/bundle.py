"""From a plan to a bundle folder: finished components, small files, manifest; whole or not at all.

plan ─▶ check folder and resources ─▶ per component: cache or own process ─▶ small files ─▶ manifest ─▶ rename
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile import __version__
from sdmobile.basics.libraries import library_versions
from sdmobile.basics.untrusted import inside
from sdmobile.exporters.cache import ComponentCache, component_key, compressed_key
from sdmobile.exporters.phone_files import write_phone_files
from sdmobile.exporters.process import run_component
from sdmobile.exporters.request import ExportPlan, check_resources
from sdmobile.families.control import controls_to_json
from sdmobile.families.model_card import model_card
from sdmobile.formats.bundle.reading import KIND, SCHEMA_VERSION
from sdmobile.formats.bundle.writing import (
    Part,
    check_output,
    created,
    fixed_date,
    put_in_place,
    seal,
    staging,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdmobile.checkpoints import Checkpoint

    Watch = Callable[[str, dict[str, Any]], None]

_log = logging.getLogger("sdmobile.export")


@dataclass(frozen=True)
class ExportResult:
    """A finished bundle."""

    path: Path
    manifest: dict[str, Any]
    reused: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...]


def export_bundle(plan: ExportPlan, cache: ComponentCache, watch: Watch, ignore_limits: bool = False) -> ExportResult:
    """Exports every component of a plan and puts the bundle in its place.

    Args:
        plan: what to export.
        cache: where finished components are kept.
        watch: called with component and event; events are those of the component's process, then {"event": "done"}.
        ignore_limits: go on although memory or disk space looks too small.

    Returns:
        The bundle's path, manifest, reused components and warnings.

    Raises:
        SdmobileError: the output exists, resources are too small, or a component failed; nothing is left behind and
            an existing folder is untouched.
    """
    started = time.perf_counter()
    out = plan.request.out_dir
    fixed_date()  # refused now, not when everything is done
    check_output(out, plan.request.overwrite)
    keys = {component.name: component_key(plan, component.name) for component in plan.components}
    present = frozenset(name for name, key in keys.items() if cache.has(key))
    if not ignore_limits:
        check_resources(plan, present)
    with staging(out) as work:
        parts, reused = _finished(plan, keys, cache, work / "work", watch)
        if plan.request.recipe is not None:
            parts = _compressed(plan, parts, keys, cache, work / "work", watch)
        records: dict[str, Any] = {}
        for name, part in parts.items():
            for file in part.record["files"]:
                part.path(file).rename(inside(work / "bundle", file))
            records[name] = part.record
            watch(name, {"event": "done", "record": part.record})
        shutil.rmtree(work / "work", ignore_errors=True)
        write_phone_files(plan, records, work / "bundle")
        manifest = _write_manifest(plan, records, work / "bundle")
        put_in_place(work / "bundle", out, plan.request.overwrite)
    seconds = time.perf_counter() - started
    warnings = [*plan.warnings, *(line for record in records.values() for line in record["warnings"])]
    return ExportResult(out, manifest, reused, seconds, tuple(warnings))


def _finished(
    plan: ExportPlan, keys: dict[str, str], cache: ComponentCache, work: Path, watch: Watch
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Returns every component in a folder of this export's own, and which of them came from the cache."""
    parts: dict[str, Part] = {}
    reused: list[str] = []
    streamed = [name for name, key in keys.items() if plan.is_streamed(name) and not cache.has(key)]
    scaled = _scaled(plan, streamed)
    for name, key in keys.items():
        folder = work / name
        folder.mkdir()
        record = cache.take(key, folder)
        if record is None and name not in scaled and (record := _streamed(plan, name, folder, watch)) is not None:
            parts[name] = Part(folder, record)
            continue
        if record is None:
            record = run_component(plan.job(name, folder), work, lambda e, n=name: watch(n, e))
            cache.store(key, folder, record)
        else:
            reused.append(name)
            watch(name, {"event": "reused"})
        parts[name] = Part(folder, record)
    return parts, tuple(reused)


def _scaled(plan: ExportPlan, components: list[str]) -> frozenset[str]:
    """Returns those components whose values come near float16's range: their graphs get scales, the long way."""
    from sdmobile.reference.drawn_scales import drawn_scales
    from sdmobile.rewrites.options import FLOAT16_SCALES

    if FLOAT16_SCALES in plan.request.rewrites.without:
        return frozenset()
    found = drawn_scales(plan.checkpoint, components, plan.geometry)
    scaled = frozenset(name for name, scales in found.items() if scales.streams)
    for name in scaled:
        _log.warning("note: %s is exported the long way: its values come near the largest float16 number", name)
    return scaled


def _streamed(plan: ExportPlan, name: str, folder: Path, watch: Watch) -> dict[str, Any] | None:
    """Streams a component's weights into its structure; returns None where there is none, or it does not hold."""
    from sdmobile.exporters.structures.component import stream_component
    from sdmobile.exporters.structures.guard import OrdinaryWeightsError

    fit = plan.structures.get(name)
    if fit is None or fit.structure is None:
        return None
    watch(name, {"stage": "stream", "event": "start", "seconds": 0.0, "peak_rss_bytes": 0})
    try:
        record = stream_component(fit.structure, plan.checkpoint, folder)
    except OrdinaryWeightsError as error:
        _log.warning("note: %s is exported the long way: %s", name, error)
        for item in folder.iterdir():
            shutil.rmtree(item) if item.is_dir() else item.unlink()
        return None
    watch(name, {**record["stages"][0], "stage": "stream", "event": "end"})
    return record


def _compressed(
    plan: ExportPlan, parts: dict[str, Part], keys: dict[str, str], cache: ComponentCache, work: Path, watch: Watch
) -> dict[str, Part]:
    """Compresses the finished components by the recipe of the request; each result is kept in the cache too."""
    from sdmobile.quantize.activations.recorded import RecordedInputs
    from sdmobile.quantize.apply import Destination, check_recipe, compress_part
    from sdmobile.reference.recording_cache import default_recordings_dir

    recipe = plan.request.recipe
    assert recipe is not None
    destination = Destination(plan.request.target, plan.device)
    check_recipe(recipe, destination, parts)
    inputs = RecordedInputs(plan.checkpoint, plan.geometry, plan.guidance, default_recordings_dir())
    results: dict[str, Part] = {}
    for name, part in parts.items():
        if not recipe.covers(name):
            results[name] = part
            continue
        key, folder = compressed_key(keys[name], recipe, plan.guidance), work / f"{name}.compressed"
        folder.mkdir()
        record = cache.take(key, folder)
        if record is None:
            record = compress_part(part, recipe, destination, folder, watch, inputs)
            cache.store(key, folder, record)
        results[name] = Part(folder, record)
    return results


def _device_in(device: str, folder: Path) -> str:
    """Returns how a bundle names its device; a user's profile is copied into it, so that it can travel."""
    from sdmobile.device_profiles import is_profile_file, load_profile

    if not is_profile_file(device):
        return device
    name = f"{load_profile(device).name}.toml"
    shutil.copyfile(device, folder / name)
    return name


def _clipping_left_out(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a scheduler's configuration without Diffusers' default "clip below -infinity", which is no JSON."""
    return {key: value for key, value in config.items() if value != -math.inf}


def _given(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns what the user said, which the reference of the bundle must be told too."""
    distilled = checkpoint.given.distilled
    said = {} if distilled is None else {"distilled": str(distilled)}
    return {"prediction_type": checkpoint.given.prediction_type, "clip_skip": checkpoint.clip_skip, **said}


def _write_manifest(plan: ExportPlan, records: dict[str, Any], folder: Path) -> dict[str, Any]:
    checkpoint = plan.checkpoint
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "family": checkpoint.family.name,
        "target": plan.request.target,
        "device": _device_in(plan.device, folder),
        "created": created(),
        "sdmobile_version": __version__,
        "source": {
            "name": checkpoint.name,
            "path_name": checkpoint.path.name,
            "content_hash": checkpoint.content_hash,
            **({} if (origin := checkpoint.origin) is None else vars(origin)),
            "license": checkpoint.license,
            "prediction_type": checkpoint.prediction_type,
            "given": _given(checkpoint),
            "notes": list(checkpoint.notes),
            **checkpoint.changes,
        },
        "geometry": plan.geometry.to_json(),
        "guidance": plan.guidance,
        "pipeline": {
            "scaling_factor": checkpoint.scaling_factor,
            "vae_scale_factor": checkpoint.vae_scale_factor,
            "guidance_scale": checkpoint.guidance_scale,
            "steps": checkpoint.steps,
            "scheduler": _clipping_left_out(checkpoint.scheduler_config),
            **({"zeros_where_empty": True} if checkpoint.zeros_where_empty else {}),
        },
        "components": records,
        "warnings": list(plan.warnings),
        "versions": library_versions(),
    }
    if checkpoint.family.controls:
        manifest["control"] = controls_to_json(checkpoint.family.controls)
    if plan.request.recipe is not None:
        manifest["recipe"] = plan.request.recipe.to_json()
    return seal(manifest, folder, model_card(manifest))
