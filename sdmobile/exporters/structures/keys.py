"""Which structure fits a component of a checkpoint, and whether it is what would be written today."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib import metadata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import hash_json
from sdmobile.families.component import Role

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.exporters.structures.structure import Structure
    from sdmobile.formats.bundle.contracts import Contract
    from sdmobile.rewrites.options import RewriteOptions

_ROOT = Path(__file__).resolve().parents[2]
_FORMS = (
    "checkpoints/modules.py",
    "device_profiles/runtime_rules/*.py",
    "exporters/chunk*.py",
    "exporters/component*.py",
    "families/*.py",
    "formats/bundle/contracts.py",
    "models/*.py",
    "reference/capture.py",
    "reference/subject.py",
    "rewrites/*.py",
)
"""The package's files that decide the rewritten graph of a component, given its device's profile."""
_BOTH = (
    "exporters/lowering.py",
    "exporters/structures/bindings.py",
    "exporters/structures/texts.py",
)
_LOWERING = {
    "ios": (*_BOTH, "exporters/coreml/*.py", "formats/mlprogram/write.py"),
    "android": (*_BOTH, "exporters/litert/*.py", "quantize/tflite_float16.py"),
}
"""Those that decide what files and record are made of the graph, by target."""
_PASSED_OVER = (
    "families/array_layers.py",  # tell whether a graph needs scales; then no structure is used
    "families/autoencoder_arrays.py",
    "families/excerpts.py",  # texts and tables beside the models
    "families/few_steps.py",
    "families/joint_block_names.py",  # of LoRAs' tensors
    "families/kept_tables.py",
    "families/model_card.py",
    "families/noisy_tables.py",
    "families/sampler_tables.py",
    "families/scheduler_document.py",
    "families/schedulers.py",
    "families/usual_schedules.py",
    "rewrites/ablation.py",  # judge finished graphs
    "rewrites/rounded.py",
)
_LIBRARIES = {
    "ios": ("torch", "diffusers", "transformers", "coremltools"),
    "android": ("torch", "diffusers", "transformers", "litert-torch", "litert-converter", "ai-edge-quantizer"),
}
STREAMED = tuple(_LIBRARIES)
"""Targets whose files are streamed."""
_END_OF_TEXT = "eos_token_id"
_DOCSTRING = re.compile(r'"""(?:[^"]|"(?!""))*"""')
_COMMENT = re.compile(r"(?m)(?:^|  )\s*#.*$")
# Of a configuration, what no graph depends on.
_NO_SHAPE = {
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dropout",
    "dtype",
    "force_upcast",
    "gradient_checkpointing",
    "initializer_factor",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "label2id",
    "latents_mean",
    "latents_std",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "problem_type",
    "return_dict",
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "upcast_attention",  # of attention that is written out; torch's own attention has no such place
    "torch_dtype",
    "transformers_version",
    "use_cache",
}


def facts_of(
    checkpoint: Checkpoint, contract: Contract, device: str, rewrites: RewriteOptions, chunks: int
) -> dict[str, Any]:
    """Returns what decides the files of a component, but for its configuration, as JSON values.

    Args:
        checkpoint: the checkpoint.
        contract: of the component.
        device: name of a device profile.
        rewrites: what the user changes about its rules.
        chunks: files that the denoiser is cut into.
    """
    from sdmobile.device_profiles import load_profile, profile_hash

    part = checkpoint.family.component(contract.component)
    info = checkpoint.components[part.model]
    facts = {
        "interface": f"{part.wrap.__module__}.{part.wrap.__qualname__}",
        "component": contract.component,
        "class": info.class_name,
        "contract": _unnamed(contract.to_json(), part.role),
        "profile": profile_hash(device),
        "runtime": load_profile(device).runtime,
        "rewrites": rewrites.to_json(),
        "chunks": chunks if part is checkpoint.family.denoiser else 1,
        "tensors": {name: list(one.shape) for name, one in sorted(info.tensors.items())},
    }
    if part.role in (Role.CONTROL, Role.PLUGIN):  # whose files multiply by them
        facts["scales"] = [control.scale for control in checkpoint.family.controls]
    return json.loads(json.dumps(facts))  # as they are read back


def _unnamed(contract: dict[str, Any], role: Role) -> dict[str, Any]:
    """Returns a contract whose file is not called after the user's folder, as Apple's control networks are."""
    if role not in (Role.CONTROL, Role.PLUGIN):
        return contract
    return contract | {"file_name": contract["component"] + PurePath(contract["file_name"]).suffix}


def file_stem(facts: Mapping[str, Any]) -> str:
    """Returns what a structure's file is called, without its suffix."""
    return f"{facts['component']}-{facts['contract']['target']}-{hash_json(facts)[:24]}"


def shaping(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those keys of a configuration that may decide a graph, as JSON values."""
    kept = {k: v for k, v in config.items() if not k.startswith("_") and k not in _NO_SHAPE}
    return json.loads(json.dumps(kept, sort_keys=True, default=str))


def config_difference(structure: Structure, config: Mapping[str, Any]) -> str | None:
    """Returns where a configuration asks for another graph than a structure's, None if it does not.

    A key that is not there has the default of the class.
    """
    own, defaults = structure.config["own"], structure.config["defaults"]
    asked = shaping(config)
    for key in sorted({*own, *asked}):
        if key == _END_OF_TEXT and not _ends_differ(structure, own, asked):
            continue
        wanted, there = asked.get(key, defaults.get(key)), own.get(key, defaults.get(key))
        if wanted != there:
            return f"{key} is {wanted}, not {there}"
    return None


def _ends_differ(structure: Structure, own: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Returns whether the token that ends a text differs, where its row is returned; it has two notations."""
    from sdmobile.families.clip_pooled import end_token

    pooled = len(structure.facts["contract"]["outputs"]) > 1
    return pooled and end_token(dict(own)) != end_token(dict(asked))


def defaults_of(class_name: str) -> dict[str, Any]:
    """Returns the defaults of a configuration's keys, as the class of Diffusers or Transformers declares them."""
    import inspect

    import diffusers
    import transformers

    from sdmobile import models

    owner: Any = next(
        (getattr(m, class_name) for m in (models, diffusers, transformers) if hasattr(m, class_name)), None
    )
    if owner is None:
        return {}
    if hasattr(owner, "config_class") and owner.config_class is not None:
        return shaping(owner.config_class().to_dict())
    parameters = inspect.signature(owner.__init__).parameters.values()
    return shaping({p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty})


def versions_of(target: str) -> dict[str, Any]:
    """Returns what decides today what is written for a target; libraries that are not installed are left out."""
    libraries = {name: version for name in _LIBRARIES[target] if (version := _installed(name)) is not None}
    return {"forms": code_of(_FORMS), "lowering": code_of(_LOWERING[target]), "libraries": libraries}


@cache
def _installed(name: str) -> str | None:
    try:
        return metadata.version(name).partition("+")[0]  # builds for other processors trace alike
    except metadata.PackageNotFoundError:
        return None


def staleness(structure: Structure) -> str | None:
    """Returns why a structure is not what would be written today, None if it is.

    A converter that is not installed has no version to compare: then the long way cannot be gone at all.
    """
    target = structure.facts["contract"]["target"]
    today = versions_of(target)
    if any(structure.versions[part] != today[part] for part in ("forms", "lowering")):
        return "the package's rules have changed since"
    for name, version in structure.versions["libraries"].items():
        if (installed := today["libraries"].get(name, version)) != version:
            return f"{name} {installed} is installed, it was made with {version}"
    return None


@cache
def code_of(patterns: tuple[str, ...], root: Path = _ROOT) -> str:
    """Returns one SHA-256 of the code in some files; comments, docstrings and layout do not count.

    Args:
        patterns: of their paths in the package.
        root: folder of the package.
    """
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        name = file.relative_to(root).as_posix()
        if name not in _PASSED_OVER and any(fnmatchcase(name, pattern) for pattern in patterns):
            digest.update(f"{name}\0{_code_of(file)}\0".encode())
    return digest.hexdigest()


def _code_of(file: Path) -> str:
    """Returns the code of a file; by patterns, as what Python's own parsers give differs from version to version."""
    text = file.read_text("utf-8")
    return " ".join(_COMMENT.sub("", _DOCSTRING.sub("", text)).split())
