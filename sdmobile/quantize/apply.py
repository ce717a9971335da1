"""From a bundle and a recipe to a smaller bundle: whole or not at all, every compressed file read back.

bundle ─▶ check recipe against target and modules ─▶ per component: compress, check ─▶ model card, manifest ─▶ rename
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import copy, hash_of, size_of
from sdmobile.basics.untrusted import inside
from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.errors import OutputError, UnsupportedError
from sdmobile.families import family_of
from sdmobile.families.model_card import model_card
from sdmobile.formats.bundle.writing import Part, check_output, put_in_place, seal, staging
from sdmobile.quantize.backends import Backend, CompressionJob, Destination, backend_for
from sdmobile.quantize.recipes import Recipe, hint_for
from sdmobile.quantize.records import CompressionRecord, NothingToCompressError, Watch, joined, told
from sdmobile.quantize.support import require_components, require_recipe

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.quantize.activations.recorded import RecordedInputs
    from sdmobile.quantize.correction import FittedScales


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
    changes: Changes = UNCHANGED,
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
        changes: that were put on top of the bundle's checkpoint.

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
    family_of(manifest)  # a component that its family has not is refused before any work
    parts = {name: Part(bundle, component.record) for name, component in source.components.items()}
    check_recipe(recipe, destination, parts)
    inputs = _inputs_of(source, reference, changes) if recipe.quantises_activations else None
    fitted = _fitted(source, parts, recipe, reference, changes, watch) if correct else {}
    with staging(out) as folder:
        new = folder / "bundle"
        records: dict[str, Any] = {}
        for name, part in parts.items():
            records[name] = compress_part(part, recipe, destination, new, watch, inputs, fitted.get(name))
        _copy_others(source, parts, new)
        manifest = {**manifest, "components": records, "recipe": recipe.to_json()}
        manifest = seal(manifest, new, model_card(manifest))
        put_in_place(new, out, overwrite)
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
    if recipe.overrides:
        _require_modules(recipe, destination.target, parts)


def _require_modules(recipe: Recipe, target: str, parts: Mapping[str, Part]) -> None:
    """Raises UnsupportedError if a pattern of a recipe matches no module of the components' files."""
    backend = backend_for(target)
    modules = {
        (name, module)
        for name, part in parts.items()
        for file in _model_files(part, target)
        for module in backend.modules(part.path(file))
    }
    unmatched = recipe.unmatched(modules)
    if unmatched:
        known = ", ".join(sorted(module for _, module in modules)[:3])
        fix = hint_for(recipe.name) or f"Modules: {known}, …"
        raise UnsupportedError("every pattern of a recipe must match a module", unmatched[0], fix)


def _inputs_of(bundle: Bundle, reference: Path | None, changes: Changes) -> RecordedInputs:
    from sdmobile.quantize.activations.recorded import RecordedInputs
    from sdmobile.reference.recording_cache import default_recordings_dir
    from sdmobile.reference.resolve import resolve_reference

    checkpoint = resolve_reference(bundle, reference, changes)
    return RecordedInputs(checkpoint, bundle.geometry, bundle.guidance, default_recordings_dir())


def _fitted(
    bundle: Bundle,
    parts: Mapping[str, Part],
    recipe: Recipe,
    reference: Path | None,
    changes: Changes,
    watch: Watch,
) -> dict[str, FittedScales]:
    """Returns the factors of every component that a recipe compresses."""
    from sdmobile.quantize.correction import fit_components
    from sdmobile.reference.resolve import resolve_reference

    if recipe.quantises_activations:
        raise UnsupportedError("a correction is for weights alone", recipe.name, "Leave --correct out")
    backend = backend_for(bundle.target)
    correctable = {
        name: backend.correctable(part.path(file) for file in _model_files(part, bundle.target))
        for name, part in parts.items()
        if recipe.covers(name)
    }
    return fit_components(resolve_reference(bundle, reference, changes), correctable, recipe, watch)


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
    job = CompressionJob(part, recipe, destination, out, inputs, fitted)
    models = _model_files(part, destination.target) if recipe.changes(job.component) else []
    for file in part.record["files"]:
        if file not in models:
            copy(part.path(file), job.target(file))
    if not models:
        return {**part.record, "warnings": list(part.record["warnings"])}
    backend = backend_for(destination.target)
    with told(watch, job.component, "compress"):
        done = [found for file in models if (found := _compressed(job, backend, file)) is not None]
        if not done:
            return {**part.record, "warnings": list(part.record["warnings"])}
        compression = joined(done)
        _require_smaller(job.component, compression)
    return _record(job, compression)


def _compressed(job: CompressionJob, backend: Backend, file: str) -> CompressionRecord | None:
    """Compresses a file; one without matrix products, where the recipe is for these alone, is copied."""
    try:
        return backend.compress(job, file)
    except NothingToCompressError:
        if job.recipe.layers == "all":
            raise
    copy(job.part.path(file), job.target(file))
    return None


def _model_files(part: Part, target: str) -> list[str]:
    """Returns the names of a component's files that hold weights."""
    return [file for file in part.record["files"] if Path(file).suffix == backend_for(target).suffix]


def _require_smaller(component: str, compression: CompressionRecord) -> None:
    before, after = compression.bytes_before, compression.bytes_after
    if after >= before:
        raise OutputError("a compressed file must be smaller", f"{component}: {before} to {after} bytes", "Use fp16")


def _record(job: CompressionJob, compression: CompressionRecord) -> dict[str, Any]:
    """Returns a component's record with what was done to it."""
    files = [job.target(file) for file in job.part.record["files"]]
    return {
        **job.part.record,
        "warnings": [*job.part.record["warnings"], *compression.warnings(job.component)],
        "compression": compression.to_json(),
        "bytes": size_of(files),
        "sha256": hash_of(files),
    }


def _copy_others(bundle: Bundle, parts: Mapping[str, Part], out: Path) -> None:
    """Copies what the manifest lists beside the models: tokenizer, tables, scripts."""
    owned = {file for part in parts.values() for file in part.record["files"]}
    for name, file in bundle.files.items():
        if name.split("/")[0] in owned or name == "README.md":
            continue
        target = inside(out, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy(file, target)
