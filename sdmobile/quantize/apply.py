"""From a bundle and a recipe to a smaller bundle: whole or not at all, every compressed file read back.

bundle ─▶ check recipe against target and modules ─▶ per component: compress, check ─▶ model card, manifest ─▶ rename
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import hash_of, link_or_copy, size_of
from sdmobile.errors import OutputError, UnsupportedError
from sdmobile.formats.bundle.writing import Part, check_output, put_in_place, seal, staging
from sdmobile.quantize.recipes import Recipe, hint_for
from sdmobile.quantize.records import CompressionRecord
from sdmobile.quantize.schemes import W8A8, Float16
from sdmobile.quantize.support import require_components, require_recipe

if TYPE_CHECKING:
    from types import ModuleType

    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.quantize.activations.recorded import RecordedInputs
    from sdmobile.quantize.correction_fit import FittedScales

    Watch = Callable[[str, dict[str, Any]], None]

_SUFFIXES = {"ios": ".mlpackage", "android": ".tflite"}


@dataclass(frozen=True)
class Destination:
    """What a bundle is for.

    Args:
        target: "ios" or "android".
        device: name of the device profile.
        deployment_target: oldest system that must load the files ("iOS17"); None to raise it where a scheme needs it.
    """

    target: str
    device: str | None = None
    deployment_target: str | None = None


@dataclass(frozen=True)
class AppliedRecipe:
    """A finished bundle: its folder, its manifest, what a user should know, and the time it took."""

    path: Path
    manifest: dict[str, Any]
    warnings: tuple[str, ...]
    seconds: float


def apply_recipe(
    bundle: Path,
    recipe: Recipe,
    out: Path,
    overwrite: bool = False,
    deployment_target: str | None = None,
    watch: Watch = lambda *_: None,
    reference: Path | None = None,
    correct: bool = False,
) -> AppliedRecipe:
    """Writes a bundle whose weights are stored as a recipe says; the source stays untouched.

    Args:
        bundle: folder of an uncompressed bundle.
        recipe: what each weight becomes.
        out: folder of the new bundle.
        overwrite: replace an existing bundle.
        deployment_target: as in `Destination`.
        watch: called with component and event.
        reference: the bundle's checkpoint, for W8A8 and `correct`; None for the one that sdmobile ships.
        correct: fit a factor on each layer's weight to recorded inputs, where that helps on others (iOS).

    Raises:
        BundleError: the source is no whole bundle.
        CheckpointError: the checkpoint is needed and is another than the bundle's.
        UnsupportedError: the recipe names components or modules that the bundle lacks, a scheme that the device does
            not take, or the bundle is compressed already.
        OutputError: the output exists, or a file did not get smaller.
        ComponentError: a weight read back is another than the one encoded.
    """
    from sdmobile.formats.bundle.reading import open_bundle

    started = time.perf_counter()
    check_output(out, overwrite)
    source = open_bundle(bundle)
    manifest = dict(source.manifest)
    destination = Destination(source.target, source.device, deployment_target)
    parts = {name: Part(bundle, component.record) for name, component in source.components.items()}
    check_recipe(recipe, destination, parts)
    inputs = _inputs_of(source, reference) if needs_inputs(recipe) else None
    fitted = _fitted(source, parts, recipe, reference, watch) if correct else {}
    with staging(out) as folder:
        new = folder / "bundle"
        records: dict[str, Any] = {}
        for name, part in parts.items():
            records[name] = compress_part(part, recipe, destination, new, watch, inputs, fitted.get(name))
        _copy_others(bundle, manifest, parts, new)
        manifest = seal({**manifest, "components": records, "recipe": recipe.to_json()}, new)
        put_in_place(new, out)
    known = {line for part in parts.values() for line in part.record["warnings"]}
    warnings = tuple(line for record in records.values() for line in record["warnings"] if line not in known)
    return AppliedRecipe(out, manifest, warnings, time.perf_counter() - started)


def check_recipe(recipe: Recipe, destination: Destination, parts: Mapping[str, Part]) -> None:
    """Checks a recipe against finished components before anything is written.

    Raises:
        UnsupportedError: as `apply_recipe`.
    """
    require_recipe(recipe, destination.target, destination.device, destination.deployment_target)
    require_components(recipe, parts)
    done = [name for name, part in parts.items() if part.record.get("compression")]
    if done:
        raise UnsupportedError(
            "a bundle is compressed once", f"{', '.join(done)} already compressed", "Use the uncompressed bundle"
        )
    if not recipe.overrides:
        return
    backend = _backend(destination.target)
    modules = {
        (name, module) for name, part in parts.items() for path in _models(part) for module in backend.modules(path)
    }
    unmatched = recipe.unmatched(modules)
    if unmatched:
        known = ", ".join(sorted(module for _, module in modules)[:3])
        fix = hint_for(recipe.name) or f"Modules: {known}, …"
        raise UnsupportedError("every pattern of a recipe must match a module", unmatched[0], fix)


def needs_inputs(recipe: Recipe) -> bool:
    """Returns whether a recipe quantises activations, whose ranges come from recorded inputs."""
    return any(isinstance(scheme, W8A8) for scheme in recipe.schemes())


def _inputs_of(bundle: Bundle, reference: Path | None) -> RecordedInputs:
    from sdmobile.quantize.activations.recorded import RecordedInputs
    from sdmobile.reference.recording_cache import default_recordings_dir
    from sdmobile.reference.resolve import resolve_reference

    checkpoint = resolve_reference(bundle, reference)
    return RecordedInputs(checkpoint, bundle.geometry, bundle.guidance, default_recordings_dir())


def _fitted(
    bundle: Bundle, parts: Mapping[str, Part], recipe: Recipe, reference: Path | None, watch: Watch
) -> dict[str, FittedScales]:
    from sdmobile.quantize.coreml.corrections import fit_bundle

    return fit_bundle(bundle, {name: _models(part) for name, part in parts.items()}, recipe, reference, watch)


def compress_part(
    part: Part,
    recipe: Recipe,
    destination: Destination,
    out: Path,
    watch: Watch = lambda *_: None,
    inputs: RecordedInputs | None = None,
    fitted: FittedScales | None = None,
) -> dict[str, Any]:
    """Writes the files of one component, compressed if the recipe is for it.

    Args:
        part: the uncompressed component.
        recipe: what each weight becomes.
        destination: what it is for.
        out: the folder that gets the files.
        watch: called with component and event.
        inputs: recorded inputs, for a recipe with W8A8.
        fitted: factors on the weights, for Core ML.

    Returns:
        The component's record with `compression`, one entry per model file, and the new size and hash.
    """
    record = {**part.record, "warnings": list(part.record["warnings"])}
    name = record["component"]
    models = _models(part) if recipe.covers(name) and recipe.schemes() != (Float16(),) else []
    compressed: list[CompressionRecord] = []
    started = time.perf_counter()
    if models:
        watch(name, {"stage": "compress", "event": "start", "seconds": 0.0, "peak_rss_bytes": 0})
    for file in record["files"]:
        source = part.folder / file
        if source not in models:
            link_or_copy(source, out / file)
            continue
        if inputs is not None and needs_inputs(recipe):
            from sdmobile.quantize.activations.apply import compress_with_activations

            compressed.append(compress_with_activations(part, file, out, recipe, inputs, destination.deployment_target))
            continue
        if fitted is not None:
            from sdmobile.quantize.coreml.apply import compress_package

            target = destination.deployment_target
            compressed.append(compress_package(source, out / file, recipe, name, target, fitted=fitted))
            continue
        backend = _backend(destination.target)
        compressed.append(
            backend.compress(source, out / file, recipe, name, destination.device, destination.deployment_target)
        )
    if not models:
        return record
    _check_smaller(name, compressed)
    joined = _joined(compressed)
    seconds = time.perf_counter() - started
    peak = joined.peak_rss_bytes
    watch(name, {"stage": "compress", "event": "end", "seconds": round(seconds, 3), "peak_rss_bytes": peak})
    files = [out / file for file in record["files"]]
    record.update(compression=joined.to_json(), bytes=size_of(files), sha256=hash_of(files))
    record["warnings"] += _warnings(name, joined)
    return record


def _backend(target: str) -> ModuleType:
    """Returns the module that compresses a target's files: `compress` and `modules`."""
    if target == "ios":
        from sdmobile.quantize.coreml import apply as backend
    else:
        from sdmobile.quantize.litert import apply as backend
    return backend


def _models(part: Part) -> list[Path]:
    return [part.folder / file for file in part.record["files"] if Path(file).suffix in _SUFFIXES.values()]


def _check_smaller(component: str, records: list[CompressionRecord]) -> None:
    before, after = sum(r.bytes_before for r in records), sum(r.bytes_after for r in records)
    if after >= before:
        raise OutputError("a compressed file must be smaller", f"{component}: {before} to {after} bytes", "Use fp16")


def _joined(records: list[CompressionRecord]) -> CompressionRecord:
    """Returns the record of a component in one or several files."""
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
    newest = max(details, key=lambda d: d.get("deployment_target", ""))
    found = [d["activations"] for d in details if "activations" in d]
    if not found:
        return newest
    layers = [line for each in found for line in each["layers"]]
    return {**newest, "activations": {**found[-1], "layers": layers}}


def _warnings(component: str, record: CompressionRecord) -> list[str]:
    details = record.details or {}
    kept = [tensor for tensor in record.tensors if tensor.reason]
    lines = []
    if "raised_from" in details:
        needs, had = details["deployment_target"], details["raised_from"]
        lines.append(f"{component}: {record.recipe} needs {needs}; the uncompressed file loads from {had} on")
    if "activations" in details:
        found = details["activations"]
        quantized = sum(line["decision"] == "w8a8" for line in found["layers"])
        lines.append(f"{component}: {quantized} of {len(found['layers'])} layers passed their gate and compute in int8")
    if "correction" in details:
        found = details["correction"]
        kept_of = f"{found['kept']} of {found['tried']} factors kept"
        gain = f"{found['held_out_before_db']} to {found['held_out_after_db']} dB on held-out inputs with them"
        lines.append(f"{component}: {kept_of}, {gain}")
    if kept:
        share = sum(tensor.elements for tensor in kept) / sum(tensor.elements for tensor in record.tensors)
        lines.append(f"{component}: {len(kept)} weights ({share:.1%}) stay fp16, the first as {kept[0].reason}")
    return lines


def _copy_others(bundle: Path, manifest: Mapping[str, Any], parts: Mapping[str, Part], out: Path) -> None:
    """Copies what the manifest lists beside the models: tokenizer, tables, scripts."""
    owned = {file for part in parts.values() for file in part.record["files"]}
    for name in manifest["files"]:
        if name.split("/")[0] in owned or name == "README.md":
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(bundle / name, out / name)
