"""The small files beside the models: tokenizer, scheduler tables, noise definition, build script, metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sdmobile.families.component import Role

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.checkpoints.tokenizers import Vocabulary
    from sdmobile.exporters.request import ExportPlan
    from sdmobile.families.family import Family

METADATA_SCHEMA = 1
_TURNS = {
    Role.TEXT_ENCODER: "once per text",
    Role.IMAGE_ENCODER: "once per picture that is put in",
    Role.PLUGIN: "once per picture",
    Role.CONTROL: "at every step",
    Role.DENOISER: "at every step",
    Role.DECODER: "once per picture, at the end",
}
"""When the files of a component are in memory, in the order of a picture."""


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
    vocabulary = _write_tokenizer(plan, folder / _tokenizer_folder(plan))
    if target in family.app_scripts:
        name, text = family.app_scripts[target]
        (folder / name).write_text(text, "utf-8")
        (folder / name).chmod(0o755)
    if target != "onnx" and target not in family.app_use:
        _write_documents(plan, records, folder, vocabulary)


def _tokenizer_folder(plan: ExportPlan) -> str:
    return plan.checkpoint.family.app_tokenizer.get(plan.request.target, "tokenizer")


def _write_tokenizer(plan: ExportPlan, folder: Path) -> Vocabulary:
    """Writes the checkpoint's tokenizer as plain files, which apps and libraries read alike; returns what it knows."""
    from sdmobile.checkpoints.tokenizers import require_tokenizer, write_vocabulary

    checkpoint = plan.checkpoint
    source, kind = require_tokenizer(checkpoint), checkpoint.family.tokenizer_kind
    return write_vocabulary(folder, source, checkpoint.pad_token, checkpoint.added_tokens, kind)


def _write_documents(plan: ExportPlan, records: dict[str, Any], folder: Path, vocabulary: Vocabulary) -> None:
    """Writes what an app needs that runs the loop itself: tables, noise, names and shapes."""
    from sdmobile.reference.noise import golden_vectors

    documents = {
        "scheduler.json": _scheduler(plan),
        "noise_golden.json": golden_vectors(),
        "metadata.json": _metadata(plan, records, vocabulary),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", "utf-8")


def turns(family: Family, records: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns which files are in memory when, for an app that has room for one at a time.

    Each entry is one component, in the order of a picture: its files as they are loaded, called and freed one after the
    other, and how often that is.

    Args:
        family: of the checkpoint.
        records: component records by name.
    """
    found: list[dict[str, Any]] = []
    for part in sorted(family.components, key=lambda part: list(_TURNS).index(part.role)):
        if (record := records.get(part.name)) is None:
            continue
        files = [str(one["file_name"]) for one in record.get("chain", [])] or [str(record["file"])]
        found.append({"component": part.name, "files": files, "when": _TURNS[part.role]})
    return found


def _scheduler(plan: ExportPlan) -> dict[str, Any]:
    """Returns the loop as tables, with the checkpoint's usual number of steps for default where there is a table."""
    checkpoint, family = plan.checkpoint, plan.checkpoint.family
    config = family.schedule_at(checkpoint.scheduler_config, plan.geometry.latent_size)
    document = family.scheduler_document(config, checkpoint.scaling_factor, checkpoint.shift_factor)
    tables, steps = document["solvers"][document["default_solver"]]["steps"], checkpoint.usual_steps
    return {**document, "default_steps": steps} if str(steps) in tables else document


def _metadata(plan: ExportPlan, records: dict[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns what an app needs to know to drive the files."""
    checkpoint, target = plan.checkpoint, plan.request.target
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
        "guidance_scale": checkpoint.usual_guidance_scale,
        "steps": checkpoint.usual_steps,
        "geometry": plan.geometry.to_json(),
        "scaling_factor": checkpoint.scaling_factor,
        **({"shift_factor": checkpoint.shift_factor} if checkpoint.shift_factor else {}),
        "prediction_type": checkpoint.prediction_type,
        "image_range": [-1.0, 1.0],
        "layouts": _LAYOUTS[target],
        "tokenizer": {"folder": _tokenizer_folder(plan), **_tokenizer_facts(checkpoint, vocabulary)},
        "noise": {"definition": "noise_golden.json", "order": "N, C, H, W with W fastest" + _TRANSPOSED[target]},
        "scheduler": "scheduler.json",
        "models": models,
        "turns": turns(checkpoint.family, records),
        **checkpoint.family.app_facts(checkpoint),
    }


def _tokenizer_facts(checkpoint: Checkpoint, vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns what an app needs to know to make identifiers of a text."""
    kind, first = checkpoint.family.tokenizer_kind, vocabulary.bos_token
    return {
        "kind": kind.title,
        **({"preparation": kind.preparation} if kind.preparation else {}),
        **({"instruction": kind.instruction} if kind.instruction else {}),
        **({"ending": kind.ending} if kind.ending else {}),
        "length": checkpoint.context_length,
        **({} if first is None else {"bos_token_id": vocabulary.identifier(first)}),
        "eos_token_id": vocabulary.identifier(vocabulary.eos_token),
        "padding": vocabulary.pad_token,
        "pad_token_id": vocabulary.identifier(vocabulary.pad_token),
        # Looked for in a text before anything is split.
        "added_tokens": dict(vocabulary.added),
        # What takes the place of such a token in a text, where it stands for several vectors.
        **({"expansions": vocabulary.expansions} if vocabulary.expansions else {}),
    }
