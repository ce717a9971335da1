"""The small files beside the models: tokenizer, scheduler tables, noise definition, build script, metadata."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError
from sdmobile.families import clip
from sdmobile.families.family import Role

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.exporters.request import ExportPlan

METADATA_SCHEMA = 1


_LAYOUTS = {
    "ios": "images and latents are channels-first (NCHW); the denoiser takes text as [batch, features, 1, tokens]",
    "android": "images and latents are channels-last (NHWC); text features are [batch, tokens, features]",
}
_TRANSPOSED = {"ios": "", "android": ", then transposed to NHWC"}


def write_phone_files(plan: ExportPlan, records: dict[str, Any], folder: Path) -> None:
    """Writes everything of a bundle that is not a model.

    Args:
        plan: the export.
        records: component records by name.
        folder: the bundle under construction.

    Raises:
        CheckpointError: the checkpoint has no tokenizer.
    """
    target = plan.request.target
    family = plan.checkpoint.family
    _copy_tokenizer(plan, folder / _tokenizer_folder(plan))
    if target in family.app_scripts:
        name, text = family.app_scripts[target]
        (folder / name).write_text(text, "utf-8")
        (folder / name).chmod(0o755)
    if target != "onnx" and target not in family.app_use:
        _write_documents(plan, records, folder)


def _tokenizer_folder(plan: ExportPlan) -> str:
    return plan.checkpoint.family.app_tokenizer.get(plan.request.target, "tokenizer")


def _copy_tokenizer(plan: ExportPlan, folder: Path) -> None:
    """Copies what a tokenizer needs; into a folder of its own, also what its library reads."""
    source = plan.checkpoint.tokenizer_dir
    missing = [name for name in clip.TOKENIZER_FILES if source is None or not (source / name).is_file()]
    if source is None or missing:
        raise CheckpointError(
            "a bundle needs the tokenizer's vocab.json and merges.txt",
            f"{plan.checkpoint.path} lacks {', '.join(missing)}",
            "Put a `tokenizer` folder with both files beside the checkpoint",
        )
    folder.mkdir(exist_ok=True)
    names = [*clip.TOKENIZER_FILES, *(clip.OPTIONAL_TOKENIZER_FILES if _tokenizer_folder(plan) != "." else ())]
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _write_documents(plan: ExportPlan, records: dict[str, Any], folder: Path) -> None:
    """Writes what an app needs that runs the loop itself: tables, noise, names and shapes."""
    from sdmobile.reference.noise import golden_vectors

    checkpoint = plan.checkpoint
    documents = {
        "scheduler.json": checkpoint.family.scheduler_document(checkpoint.scheduler_config, checkpoint.scaling_factor),
        "noise_golden.json": golden_vectors(),
        "metadata.json": _metadata(plan, records),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def _metadata(plan: ExportPlan, records: dict[str, Any]) -> dict[str, Any]:
    """Returns what an app needs to know to drive the files."""
    checkpoint, target = plan.checkpoint, plan.request.target
    config = checkpoint.components[checkpoint.family.of_role(Role.TEXT_ENCODER)[0].model].config
    models = {
        name: {
            "file": record["file"],
            "signature": record["contract"]["signature"],
            "inputs": record["contract"]["inputs"],
            "outputs": record["contract"]["outputs"],
            # A component in several files: each takes original inputs and what the files before it returned.
            "chain": [
                {"file": c["file_name"], **{key: c[key] for key in ("signature", "inputs", "outputs")}}
                for c in record.get("chain", [])
            ],
        }
        for name, record in records.items()
    }
    return {
        "schema_version": METADATA_SCHEMA,
        "name": checkpoint.name,
        "license": checkpoint.license,
        "source_hash": checkpoint.content_hash,
        "guidance": plan.guidance,
        "guidance_scale": checkpoint.guidance_scale or checkpoint.family.default_guidance_scale,
        "geometry": plan.geometry.to_json(),
        "scaling_factor": checkpoint.scaling_factor,
        "prediction_type": checkpoint.prediction_type,
        "image_range": [-1.0, 1.0],
        "layouts": _LAYOUTS[target],
        "tokenizer": {
            "folder": _tokenizer_folder(plan),
            "kind": "CLIP byte-pair encoding, lower case",
            "length": checkpoint.context_length,
            "bos_token_id": config.get("bos_token_id"),
            "eos_token_id": config.get("eos_token_id"),
            "padding": "<|endoftext|>",
        },
        "noise": {"definition": "noise_golden.json", "order": "N, C, H, W with W fastest" + _TRANSPOSED[target]},
        "scheduler": "scheduler.json",
        "models": models,
        **checkpoint.family.app_facts(checkpoint),
    }
