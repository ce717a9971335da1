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
from sdmobile.exporters.together import run_together
from sdmobile.exporters.workers import Workers, cores
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
AT_ONCE = 2  # components


@dataclass(frozen=True)
class ExportResult:
    """A finished bundle."""

    path: Path
    manifest: dict[str, Any]
    reused: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...]


def export_bundle(
    plan: ExportPlan,
    cache: ComponentCache,
    watch: Watch,
    ignore_limits: bool = False,
    workers: Workers | None = None,
) -> ExportResult:
    """Exports every component of a plan and puts the bundle in its place.

    Args:
        plan: what to export.
        cache: where finished components are kept.
        watch: called with component and event, in any thread; events are those of the component's process, then
            {"event": "done"}.
        ignore_limits: go on although memory or disk space looks too small.
        workers: where the components' processes come from; closed afterwards. Without, they are begun when needed.

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
        parts, reused = _finished(plan, keys, cache, work / "work", watch, workers)
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
    plan: ExportPlan, keys: dict[str, str], cache: ComponentCache, work: Path, watch: Watch, workers: Workers | None
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Returns every component in a folder of this export's own, and which of them came from the cache."""
    folders = {name: work / name for name in keys}
    records: dict[str, dict[str, Any]] = {}
    for name, folder in folders.items():
        folder.mkdir()
        record = cache.take(keys[name], folder)
        if record is not None:
            records[name] = record
            watch(name, {"event": "reused"})
    reused = tuple(records)
    records |= _streamed(plan, {name: folder for name, folder in folders.items() if name not in records}, watch)

    def done(name: str, record: dict[str, Any]) -> None:
        records[name] = record
        cache.store(keys[name], folders[name], record)

    waiting = {name: folder for name, folder in folders.items() if name not in records}
    if waiting:
        with workers or Workers(plan.request.target) as forks:
            _export(plan, waiting, work, watch, forks, done)
    return {name: Part(folder, records[name]) for name, folder in folders.items()}, reused


def _export(
    plan: ExportPlan,
    folders: dict[str, Path],
    work: Path,
    watch: Watch,
    workers: Workers,
    done: Callable[[str, dict[str, Any]], None],
) -> None:
    """Exports components, each in a process of its own, and hands over each record."""
    import psutil

    def run(name: str, threads: int) -> dict[str, Any]:
        return run_component(plan.job(name, folders[name]), work, lambda event: watch(name, event), workers, threads)

    needs = {part.name: part.memory_bytes for part in plan.components if part.name in folders}
    at_once = min(AT_ONCE, cores(), len(needs))
    if at_once == 1:
        for name in needs:
            done(name, run(name, cores()))
    else:
        run_together(needs, psutil.virtual_memory().available, cores(), at_once, run, done, workers.close)


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


def _streamed(plan: ExportPlan, folders: Mapping[str, Path], watch: Watch) -> dict[str, dict[str, Any]]:
    """Streams weights into the structures that fit; returns the records of those components for which they hold."""
    streamed = [name for name in folders if plan.is_streamed(name)]
    scaled = _scaled(plan, streamed) if streamed else frozenset()
    found = {name: _stream(plan, name, folders[name], watch) for name in streamed if name not in scaled}
    return {name: record for name, record in found.items() if record is not None}


def _stream(plan: ExportPlan, name: str, folder: Path, watch: Watch) -> dict[str, Any] | None:
    """Streams one component; returns None where its weights are such that the structure does not hold."""
    from sdmobile.exporters.structures.component import stream_component
    from sdmobile.exporters.structures.guard import OrdinaryWeightsError

    structure = plan.structures[name].structure
    assert structure is not None
    watch(name, {"stage": "stream", "event": "start", "seconds": 0.0, "peak_rss_bytes": 0})
    try:
        record = stream_component(structure, plan.checkpoint, folder)
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
    schedule = checkpoint.family.schedule_at(checkpoint.scheduler_config, plan.geometry.latent_size)
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
            **({"shift_factor": checkpoint.shift_factor} if checkpoint.shift_factor else {}),
            "vae_scale_factor": checkpoint.vae_scale_factor,
            "guidance_scale": checkpoint.guidance_scale,
            "steps": checkpoint.steps,
            "scheduler": _clipping_left_out(schedule),
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
