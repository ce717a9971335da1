"""Assembles bundles for tests without the exporters, from small ONNX files."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sdmobile.basics.files import hash_file
from sdmobile.checkpoints import Checkpoint, open_checkpoint
from sdmobile.exporters.job import ExportJob
from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.formats.bundle.file_list import FILE_LIST, GOLDEN, file_list_text
from sdmobile.formats.bundle.reading import KIND, MANIFEST, SCHEMA_VERSION
from sdmobile.reference.geometry import geometry_for
from sdmobile.reference.subject import wrapped_component
from sdmobile.rewrites.options import RewriteOptions


def write_onnx(checkpoint: Checkpoint, component: str, geometry: Geometry, file: Path) -> None:
    """Exports one component with the TorchScript exporter, which takes a second where the newer one takes ten."""
    import torch

    contract = contract_for(checkpoint.family, "onnx", component, geometry)
    module = wrapped_component(checkpoint, "onnx", component)
    inputs = tuple(torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in contract.inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            inputs,
            str(file),
            dynamo=False,
            opset_version=18,
            input_names=[spec.name for spec in contract.inputs],
            output_names=[spec.name for spec in contract.outputs],
        )


def write_bundle(
    folder: Path, checkpoint_path: Path, components: tuple[str, ...] | None = None, guidance: str | None = None
) -> Path:
    """Writes an onnx bundle of the tiny checkpoint, laid out as `sdmobile export` does."""
    checkpoint = open_checkpoint(checkpoint_path)
    geometry = geometry_for(checkpoint, guidance)
    folder.mkdir(parents=True)
    records: dict[str, Any] = {}
    guidance = checkpoint.family.guidance(guidance).name
    for name in checkpoint.family.names if components is None else components:
        contract = contract_for(checkpoint.family, "onnx", name, geometry)
        write_onnx(checkpoint, name, geometry, folder / contract.file_name)
        records[name] = _record(name, contract.file_name, contract.to_json(), folder / contract.file_name)
    return _finish(folder, checkpoint, "onnx", guidance, records)


def write_exported_bundle(
    folder: Path,
    checkpoint_path: Path,
    target: str,
    components: tuple[str, ...],
    without: tuple[str, ...] = (),
    plain_ops: bool = False,
) -> Path:
    """Writes a bundle whose files come from the project's exporters, without some rewrites or without composites."""
    from sdmobile.exporters.component import export_component

    folder.mkdir(parents=True)
    options = RewriteOptions(plain_ops, without)
    jobs = (
        ExportJob(checkpoint_path, name, target, None, "batch2", None, folder, rewrites=options) for name in components
    )
    records = {job.component: export_component(job) for job in jobs}
    return _finish(folder, open_checkpoint(checkpoint_path), target, "batch2", records)


def write_paper_bundle(folder: Path, checkpoint_path: Path, target: str) -> Path:
    """Writes a bundle with everything that an app reads beside the models, and a file that is no model."""
    from sdmobile.exporters.phone_files import write_phone_files

    checkpoint = open_checkpoint(checkpoint_path)
    geometry, guidance = geometry_for(checkpoint, None), checkpoint.family.guidance(None).name
    folder.mkdir(parents=True)
    name = checkpoint.family.denoiser.name
    contract = contract_for(checkpoint.family, target, name, geometry)
    file = folder / contract.file_name
    if target == "ios":
        file.mkdir()
        file /= "Manifest.json"
    file.write_bytes(b"no model")
    records = {name: _record(name, contract.file_name, contract.to_json(), file)}
    plan: Any = SimpleNamespace(
        checkpoint=checkpoint, request=SimpleNamespace(target=target), guidance=guidance, geometry=geometry
    )
    write_phone_files(plan, records, folder)
    return _finish(folder, checkpoint, target, guidance, records)


def _finish(
    folder: Path, checkpoint: Checkpoint, target: str, guidance: str, records: dict[str, dict[str, Any]]
) -> Path:
    """Adds the tokenizer and the manifest."""
    assert checkpoint.tokenizer_dir is not None
    tokenizer = folder if target == "ios" else folder / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(checkpoint.tokenizer_dir / name, tokenizer / name)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "family": checkpoint.family.name,
        "target": target,
        "device": None,
        "created": "2026-01-01T00:00:00Z",
        "sdmobile_version": "0.1.0",
        "source": {
            "name": "tiny",
            "path_name": checkpoint.path.name,
            "content_hash": checkpoint.content_hash,
            "license": checkpoint.license,
            "prediction_type": checkpoint.prediction_type,
        },
        "geometry": geometry_for(checkpoint, guidance).to_json(),
        "guidance": guidance,
        "pipeline": {
            "scaling_factor": checkpoint.scaling_factor,
            "vae_scale_factor": checkpoint.vae_scale_factor,
            "guidance_scale": checkpoint.guidance_scale,
            "scheduler": checkpoint.scheduler_config,
        },
        "components": records,
        "files": {},
        "versions": {"torch": "2.13.0"},
    }
    write_manifest(folder, manifest)
    return folder


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest with the hashes that the files have now."""
    manifest["files"] = _entries(folder)
    if (folder / FILE_LIST).exists():  # of an export: it says the same
        (folder / FILE_LIST).write_text(file_list_text(manifest["files"]), "utf-8")
        manifest["files"] = _entries(folder)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        file.relative_to(folder).as_posix(): {"sha256": hash_file(file), "bytes": file.stat().st_size}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in (MANIFEST, *GOLDEN)
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST).read_text("utf-8"))


def copy_bundle(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    return folder


def damage_weights(folder: Path, file_name: str, scale: float) -> None:
    """Multiplies every float weight of an ONNX file, as a broken conversion might, and makes the manifest agree."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(folder / file_name))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array((array * np.float32(scale)).astype(np.float32), tensor.name))
    onnx.save(model, str(folder / file_name))
    write_manifest(folder, read_manifest(folder))


def _record(name: str, file_name: str, contract: dict[str, Any], file: Path) -> dict[str, Any]:
    return {
        "component": name,
        "file": file_name,
        "contract": contract,
        "parameters": 1000,
        "stages": [
            {"name": "load", "seconds": 0.2, "peak_rss_bytes": 300_000_000},
            {"name": "lower", "seconds": 1.5, "peak_rss_bytes": 500_000_000},
        ],
        "rewrites": [],
        "warnings": [],
        "bytes": file.stat().st_size,
        "sha256": hash_file(file),
    }
