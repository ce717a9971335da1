"""`noise_golden.json` by the definition of the noise, and `metadata.json` against the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from sdmobile.families.component import Role
from sdmobile.families.contracts import contract_for
from sdmobile.reference.noise import DEFINITION, MAX_SEED, golden_vector
from sdmobile.validate.app_files.comparison import differences

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.validate.app_files import Findings

_NOISE = "noise_golden.json"
_NORMALS = 1e-12

# Said here a second time, so that what writes it and what checks it do not share a mistake.
_WHEN = {
    Role.TEXT_ENCODER: "once per text",
    Role.IMAGE_ENCODER: "once per picture that is put in",
    Role.PLUGIN: "once per picture",
    Role.CONTROL: "at every step",
    Role.DENOISER: "at every step",
    Role.DECODER: "once per picture, at the end",
}


def noise_findings(
    document: Mapping[str, Any], _bundle: Bundle, _checkpoint: Checkpoint, _spec: PipelineSpec
) -> Findings:
    """Draws the noise of each seed anew and compares bits, normals, latents and hashes."""
    found = differences(document, {"definition": DEFINITION})
    vectors = document.get("vectors")
    if not isinstance(vectors, list) or not vectors:
        return [*found, "vectors: there is none"], {}
    for vector in vectors:
        seed = vector.get("seed") if isinstance(vector, dict) else None
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            found.append(f"a vector has the seed {seed!r}")
            continue
        found += _vector_findings(vector, golden_vector(seed))
    return found, {"vectors": len(vectors)}


def _vector_findings(stated: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    place = f"seed {expected['seed']}"
    exact = {name: expected[name] for name in ("bits", "float32", "latent")}
    found = differences(stated, exact, place)
    normals = stated.get("normals")
    counted = isinstance(normals, list) and len(normals) == len(expected["normals"])
    if not counted or not all(map(_close, cast("list[Any]", normals), expected["normals"])):
        found.append(f"{place}.normals are not those of the definition")
    return found


def _close(stated: Any, expected: float) -> bool:
    return isinstance(stated, int | float) and math.isclose(stated, expected, rel_tol=_NORMALS, abs_tol=_NORMALS)


def metadata_findings(
    document: Mapping[str, Any], bundle: Bundle, checkpoint: Checkpoint, spec: PipelineSpec
) -> Findings:
    """Compares what an app needs to know to drive the files."""
    expected: dict[str, Any] = {
        "source_hash": checkpoint.content_hash,
        "guidance": spec.guidance.name,
        "guidance_scale": spec.guidance_scale,
        "geometry": spec.geometry.to_json(),
        "scaling_factor": checkpoint.scaling_factor,
        **({"shift_factor": checkpoint.shift_factor} if checkpoint.shift_factor or "shift_factor" in document else {}),
        "prediction_type": checkpoint.prediction_type,
        "image_range": [-1.0, 1.0],
        "noise": {"definition": _NOISE},
        "scheduler": "scheduler.json",
        "tokenizer": _tokenizer(spec),
        "models": {name: _model(bundle, checkpoint, spec, name) for name in bundle.components},
        **({"turns": _turns(bundle, checkpoint)} if "turns" in document else {}),
        **checkpoint.family.app_facts(checkpoint),
    }
    if "steps" in document:
        expected["steps"] = getattr(spec, "steps", document["steps"])
    found = differences(document, expected)
    found += _padding(document.get("tokenizer") or {}, spec)
    return found, {"models": len(bundle.components)}


def _turns(bundle: Bundle, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Returns which files are in memory when, in the order of a picture."""
    files = {name: one.chain or (one,) for name, one in bundle.components.items()}
    return [
        {"component": part.name, "files": [one.path.name for one in files[part.name]], "when": when}
        for role, when in _WHEN.items()
        for part in checkpoint.family.components
        if part.role is role and part.name in files
    ]


def _tokenizer(spec: PipelineSpec) -> dict[str, Any]:
    """Returns length and identifiers by the tokenizer: SD 1.5's text encoder states others, which nothing uses."""
    from sdmobile.checkpoints.tokenizers import read_vocabulary

    tokenizer, kind = spec.tokenizer(), spec.family.tokenizer_kind
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    vocabulary = read_vocabulary(spec.tokenizer_dir, spec.pad_token, spec.added_tokens, kind)
    further = {**tokens, "added_tokens": dict(vocabulary.added), "expansions": vocabulary.expansions}
    lowered = "lower case, then without white space at both ends" if kind.lowers else None
    instructed = "then `instruction` is put before it" if kind.instruction else None
    further["preparation"] = "; ".join(filter(None, (lowered, instructed))) or None
    further["instruction"] = kind.instruction or None
    stated = {name: value for name, value in further.items() if value not in (None, {})}
    return {"length": spec.geometry.context_length, **stated}


def _padding(stated: Mapping[str, Any], spec: PipelineSpec) -> list[str]:
    """Compares what an app fills up with, by the token, its number or both."""
    tokenizer = spec.tokenizer()
    token, number = tokenizer.pad_token, tokenizer.pad_token_id
    found = []
    if stated.get("padding") not in (token, number):
        found.append(f"tokenizer.padding is {stated.get('padding')!r}; the checkpoint pads with {token!r} ({number})")
    if "pad_token_id" in stated and stated["pad_token_id"] != number:
        found.append(f"tokenizer.pad_token_id is {stated['pad_token_id']!r}; the checkpoint pads with {number}")
    return found


def _model(bundle: Bundle, checkpoint: Checkpoint, spec: PipelineSpec, name: str) -> dict[str, Any]:
    """Returns what metadata must say about one component; of one in several files, the whole's interface."""
    contract = contract_for(checkpoint.family, bundle.target, name, spec.geometry).to_json()
    facts = {side: [_facts(item) for item in contract[side]] for side in ("inputs", "outputs")}
    return (
        facts
        if bundle.components[name].chain
        else {"file": contract["file_name"], "signature": contract["signature"], **facts}
    )


def _facts(item: Mapping[str, Any]) -> dict[str, Any]:
    return {**item, "shape": list(item["shape"])}
