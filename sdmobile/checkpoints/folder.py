"""Recognise a Diffusers folder: `model_index.json` and one folder per component."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.assemble import Parts, assemble, component_info
from sdmobile.checkpoints.headers import check_readable
from sdmobile.checkpoints.hub import HubName, origin_of
from sdmobile.checkpoints.jsonfile import read_json
from sdmobile.checkpoints.tokenizers import tokenizer_files
from sdmobile.checkpoints.weights import find_weights, laid_out, normalise, read_headers
from sdmobile.errors import CheckpointError
from sdmobile.families import FAMILIES

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.checkpoints.types import Checkpoint, ComponentInfo, Given
    from sdmobile.families.component import Model
    from sdmobile.families.family import Family

MODELS = tuple(dict.fromkeys(model.name for family in FAMILIES for model in family.models))
"""Folders of a checkpoint that may hold weights of some family."""

_COUNTERS = ("position_ids", "num_batches_tracked")
"""What names of tensors end with that no network needs."""


def open_folder(path: Path, given: Given) -> Checkpoint:
    """Recognises a Diffusers folder.

    Args:
        path: the folder.
        given: what the user says about it.

    Raises:
        CheckpointError: something is missing, truncated or corrupt.
        UnsupportedError: an architecture that sdmobile does not export.
    """
    index, family = identify(path)
    notes: list[str] = []
    components: dict[str, ComponentInfo] = {}
    hashed = [path / "model_index.json"]
    for model in family.models:
        info, corrections = read_component(path / model.name, model, str(index[model.name][1]))
        components[model.name] = info
        notes += corrections
        hashed += [info.path / "config.json", *info.weight_files]
    scheduler_file = path / "scheduler" / "scheduler_config.json"
    hashed.append(scheduler_file)
    hashed += tokenizer_files(path / "tokenizer")
    card = _front_matter(path / "README.md")
    # Where model cards on the Hugging Face Hub put them: inference: parameters: guidance_scale.
    guidance = _stated(card, r"^\s+guidance_scale:\s*(\d{1,4}(?:\.\d{1,9})?)\s*$")
    steps = _stated(card, r"^\s+num_inference_steps:\s*([1-9]\d{0,2})\s*$")
    name = origin.name if (origin := origin_of(path)) else path.resolve().name
    parts = Parts(
        family=family,
        path=path,
        name=name,
        format="diffusers",
        components=components,
        scheduler_config=read_json(scheduler_file),
        license=_stated(card, r"^license:\s*[\"']?([^\s\"'#]+)"),
        steps=None if steps is None else int(steps),
        guidance_scale=None if guidance is None else float(guidance),
        notes=notes,
        hashed_files=tuple(hashed),
        given=given,
        called=(name,),
        own_tokenizer=path / "tokenizer",
        index=index,
    )
    return assemble(parts)


def identify(path: Path) -> tuple[dict[str, Any], Family]:
    """Returns a folder's index and its family, from the index and the models' configurations.

    Raises:
        CheckpointError: there is no index, or a configuration is damaged.
        UnsupportedError: an architecture that sdmobile does not export.
    """
    index_file = path / "model_index.json"
    if not index_file.is_file():
        here = " A path that exists goes before a repository of the Hub." if HubName.parse(path) else ""
        raise CheckpointError(
            "a checkpoint folder must hold model_index.json",
            path,
            f"Give the top folder of a Diffusers checkpoint.{here}",
        )
    index = read_json(index_file)
    configs = {name: config for name in MODELS if (config := _config(path, name)) is not None}
    family = next(family for family in FAMILIES if family.claims(index, configs))
    family.check_index(index, path)
    return index, family


def _config(path: Path, name: str) -> dict[str, Any] | None:
    """Returns the configuration of a model, None where there is none to read."""
    file = path / name / "config.json"
    return read_json(file) if file.is_file() else None


def read_component(folder: Path, model: Model, class_name: str) -> tuple[ComponentInfo, list[str]]:
    """Reads what one model in Diffusers' format is, and what had to be corrected or left out.

    Args:
        folder: of its configuration and weights.
        model: of the family.
        class_name: that is to run it.

    Raises:
        CheckpointError: something is missing, truncated or corrupt.
        UnsupportedError: a configuration that is not supported.
    """
    if not folder.is_dir():
        raise CheckpointError("the folder of every component must be present", folder, "Download it completely.")
    config = read_json(folder / "config.json")
    weights = find_weights(folder)
    headers = read_headers(weights.files)
    notes = [f"{model.name}: {note}" for note in headers.notes]
    if weights.variant:
        notes.append(f"{model.name}: of the weights, the variant {weights.variant} is used")
    tensors: dict[str, TensorInfo] = {}
    spare: list[str] = []
    unused = (*model.unused, *model.unused_by(config))
    for stored, tensor in headers.tensors.items():
        if (key := normalise(stored.removeprefix(model.within), unused)) is not None:
            tensors[key] = replace(tensor, shape=laid_out(key, tensor.shape))
        elif not stored.endswith(_COUNTERS):
            spare.append(stored)
    if spare:
        notes.append(f"{model.name}: {len(spare)} tensors are not used, among them {min(spare)}: no text needs them")
    info, corrections = component_info(model, folder, class_name, config, tensors, weights.files)
    return info, [*notes, *corrections]


def _front_matter(readme: Path) -> str:
    """Returns the YAML head of a model card, empty if there is none."""
    if not readme.is_file():
        return ""
    check_readable(readme)
    head = readme.read_text(encoding="utf-8", errors="replace")[:20_000]
    front = re.match(r"---\s*\n(.*?)\n---", head, flags=re.DOTALL)
    return front[1] if front else ""


def _stated(card: str, pattern: str) -> str | None:
    match = re.search(pattern, card, flags=re.MULTILINE)
    return match[1] if match else None
