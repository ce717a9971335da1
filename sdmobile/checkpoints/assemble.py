"""Put a checkpoint together from its parts, whatever format they came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from sdmobile.checkpoints.facts import correct, shapes_of
from sdmobile.checkpoints.tokenizer_search import find_tokenizer
from sdmobile.checkpoints.tokenizers import text_length
from sdmobile.checkpoints.types import Checkpoint, ComponentInfo, Given
from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import sampled_by
from sdmobile.families.component import Role

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.families.component import Model
    from sdmobile.families.family import Family


@dataclass(frozen=True)
class Parts:
    """What a format's reader found; the rest of a Checkpoint follows from it."""

    family: Family
    path: Path
    name: str
    format: Literal["diffusers", "single_file"]
    components: dict[str, ComponentInfo]
    scheduler_config: dict[str, Any]
    license: str | None
    notes: list[str]
    hashed_files: tuple[Path, ...]
    given: Given = field(default_factory=Given)
    called: tuple[str, ...] = ()
    own_tokenizer: Path | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    vae_files: tuple[Path, ...] = ()
    index: dict[str, Any] = field(default_factory=dict)


def component_info(
    model: Model,
    path: Path,
    class_name: str,
    config: dict[str, Any],
    tensors: dict[str, TensorInfo],
    files: tuple[Path, ...],
) -> tuple[ComponentInfo, list[str]]:
    """Returns what one model is, with its configuration corrected from its tensors, and the corrections."""
    weights = {key: info for key, info in tensors.items() if info.is_float}
    if not weights:
        raise CheckpointError("a component must hold weights", f"{path} has none for {model.name}")
    model.check(class_name, config)
    corrected, notes = correct(model.name, config, model.derive(shapes_of(weights)))
    precisions: Counter[str] = Counter()
    for info in weights.values():
        precisions[info.dtype] += info.elements
    if len(precisions) > 1:
        notes.append(f"{model.name}: weights are stored in several precisions: {', '.join(sorted(precisions))}")
    info = ComponentInfo(
        name=model.name,
        path=path,
        class_name=class_name,
        config=corrected,
        parameters=sum(info.elements for info in weights.values()),
        dtype=precisions.most_common(1)[0][0],
        bytes=sum(info.bytes for info in weights.values()),
        weight_files=files,
        tensors=tensors,
    )
    return info, notes


def assemble(parts: Parts) -> Checkpoint:
    """Checks that the models fit each other and returns the checkpoint; raises as `Family.facts`."""
    if parts.given.vae is not None:
        from sdmobile.checkpoints.vae import with_vae  # reads a format as it is read for a whole checkpoint

        parts = with_vae(parts, parts.given.vae)
    notes = list(parts.notes)
    configs = {name: info.config for name, info in parts.components.items()}
    parts = _distilled(parts, notes)
    scheduler_config = _with_prediction(parts.scheduler_config, parts.given.prediction_type, notes)
    family = sampled_by(parts.family, scheduler_config, parts.guidance_scale)
    facts = family.facts(configs, scheduler_config, notes)
    facts = replace(facts, zeros_where_empty=family.zeros_where_empty(parts.index))
    text = configs[family.of_role(Role.TEXT_ENCODER)[0].model]
    own, given = parts.own_tokenizer, parts.given.tokenizer_dir
    tokenizer_dir = find_tokenizer(parts.path, given, own, text.get("vocab_size"), notes, family.tokenizer_kind)
    length = text_length(tokenizer_dir, family.tokenizer_kind, facts.context_length)
    facts = replace(facts, context_length=length)
    steps, guidance_scale = parts.steps, parts.guidance_scale
    if steps is None and guidance_scale is None:
        steps, guidance_scale = family.usual_sampling(configs, scheduler_config, notes)
    return Checkpoint(
        **vars(facts),
        family=family,
        path=parts.path,
        name=parts.name,
        format=parts.format,
        components=parts.components,
        tokenizer_dir=tokenizer_dir,
        pad_token=family.pad_token(configs),
        given=parts.given,
        called=parts.called if parts.steps is None else (),
        license=parts.license,
        steps=steps,
        guidance_scale=guidance_scale,
        notes=tuple(notes),
        hashed_files=parts.hashed_files,
        vae_files=parts.vae_files,
    )


def _distilled(parts: Parts, notes: list[str]) -> Parts:
    """Returns the parts with the sampler of what the user says that they were distilled by.

    A name may complete what is said: a number of steps, or that Euler with trailing timesteps is Lightning's.

    Raises:
        UnsupportedError: the family has a sampler of its own.
    """
    from sdmobile.families.few_steps import NONE, Distillation, completed

    distilled = completed(parts.given.distilled, parts.called, parts.scheduler_config, parts.steps)
    if distilled is None:
        return parts
    if distilled.kind == NONE:
        return replace(parts, given=replace(parts.given, distilled=Distillation(NONE)))
    if not parts.family.distillable:
        raise UnsupportedError(
            f"{parts.family.title} is sampled in its own way", f"--distilled {distilled}", "Leave it out."
        )
    if parts.steps is not None or parts.guidance_scale is not None:
        notes.append(f"scheduler: --distilled {distilled} takes the place of what the model card says")
    return replace(
        parts,
        given=replace(parts.given, distilled=distilled),
        scheduler_config=distilled.schedule(parts.scheduler_config),
        steps=None,
        guidance_scale=None,
    )


def _with_prediction(config: dict[str, Any], given: str | None, notes: list[str]) -> dict[str, Any]:
    """Returns the noise schedule with what the user says that the denoiser predicts."""
    if given is None:
        return config
    stated = config.get("prediction_type", given)
    if stated != given:
        notes.append(f"scheduler: config says prediction_type = {stated}, --prediction-type says {given}; it is used")
    return {**config, "prediction_type": given}
