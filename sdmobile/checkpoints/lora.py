"""LoRA files: changes of low rank to the weights of a checkpoint, found by name and fused when a model is loaded.

    W ← W + scale·(alpha/r)·B A        A [r, in], B [out, r]; of a convolution, A [r, in, kh, kw] and B [out, r, 1, 1]

Hu et al., "LoRA", arXiv 2106.09685; alpha/√r where the file says that its scale is stabilised (Kalajdzievski, arXiv
2312.03732). `lora_names` has the names that are known, `lora_kinds` what takes the place of B A. Only headers and
single numbers are read here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import hash_file
from sdmobile.basics.untrusted import UntrustedError, parse_json
from sdmobile.checkpoints.bundled import ScaledPath, scaled_path
from sdmobile.checkpoints.headers import read_header
from sdmobile.checkpoints.hub import name_of, origin_of
from sdmobile.checkpoints.hub_parts import LORA, located
from sdmobile.checkpoints.lora_kinds import OTHERS, Shape, fits, is_whole, rank_of
from sdmobile.checkpoints.lora_names import TRANSFORMER, places
from sdmobile.checkpoints.weights import normalise
from sdmobile.errors import CheckpointError
from sdmobile.families.joint_block_names import ALL, Rows, layers_of

if TYPE_CHECKING:
    from sdmobile.checkpoints.headers import TensorInfo
    from sdmobile.checkpoints.types import ComponentInfo

_ALPHA = ".alpha"
_KOHYA = "lora_"
_METADATA = "lora_adapter_metadata"
_MOST_RANK = 1 << 14
# Ways to begin that leave the checkpoint's own weights as they are; others (PiSSA, OLoRA, …) change them.
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")
_PATTERN = set("*+?[](){}|\\$")
_UNUSED = "every key of a LoRA must belong to a layer of the checkpoint's denoiser or text encoder"
_SHAPES = "the matrices of a LoRA must fit the weight that they change"


@dataclass(frozen=True)
class LoraFile(ScaledPath):
    """A LoRA as a user names it: a safetensors file, and a factor on the change."""

    @classmethod
    def parse(cls, text: str) -> LoraFile:
        """Reads `FILE` or `FILE:scale`; what has a name on the Hub is downloaded.

        Raises:
            UsageError: the scale is no finite number.
            CheckpointError: the Hub has no such LoRA, or cannot be read.
        """
        path, scale = scaled_path(text, "a LoRA")
        return cls(path if path.exists() else located(path, LORA), scale)

    def __str__(self) -> str:
        """Returns the name and the exact scale, as `--lora` takes them."""
        return f"{name_of(self.path)}:{self.scale!r}".removesuffix(".0")


@dataclass(frozen=True)
class LoraLayer:
    """The change of one weight: factor·B A, or what another kind has in its place.

    Args:
        model: name of the family's model.
        weight: name of the weight in the model's module.
        parts: A and B as "lora_down" and "lora_up", or the parts of another kind; see `lora_kinds`.
        factor: scale·alpha/r.
        rows: of the change that are the weight's.
    """

    model: str
    weight: str
    parts: Mapping[str, TensorInfo]
    factor: float
    rows: Rows = ALL


@dataclass(frozen=True)
class Lora:
    """An opened LoRA, every key of which changes a weight of the checkpoint.

    Args:
        file: as the user named it.
        layers: what it changes.
    """

    file: LoraFile
    layers: tuple[LoraLayer, ...]

    @property
    def name(self) -> str:
        """For people."""
        return name_of(self.file.path)

    @property
    def called(self) -> tuple[str, ...]:
        """Names that may tell that it distils: of its file, and of its repository without the owner."""
        path, origin = self.file.path, origin_of(self.file.path)
        return (path.stem, *((origin.name,) if origin else ()))

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes; read on first use."""
        try:
            return hash_file(self.file.path)
        except OSError as error:
            raise CheckpointError("a LoRA must be readable", error) from error

    @property
    def note(self) -> str:
        """One sentence on what it does."""
        counts = Counter(layer.model for layer in self.layers)
        told = " and ".join(f"{counts[name]} of {name}" for name in sorted(counts, reverse=True))
        return f"lora: {self.name} at scale {self.file.scale:g} changes weights: {told}"

    def to_json(self) -> dict[str, Any]:
        """Returns what a bundle keeps of it."""
        return {"name": self.name, "sha256": self.sha256, "scale": self.file.scale}


def open_lora(file: LoraFile, components: Mapping[str, ComponentInfo]) -> Lora:
    """Reads a LoRA's header and finds the weights that it changes.

    Args:
        file: as the user names it.
        components: the checkpoint's models.

    Raises:
        CheckpointError: damaged, of another model, or with a key that nothing uses or whose shape does not fit.
    """
    tensors, metadata = read_header(file.path)
    if not tensors:
        raise CheckpointError("a LoRA must hold matrices", f"{file.path} has none")
    for name, info in tensors.items():
        if not info.is_float and not name.endswith(_ALPHA):  # which some trainers store as a whole number
            raise CheckpointError(
                "a LoRA must be stored as floating-point numbers", f"{file.path}: {name}: {info.dtype}"
            )
    _refuse_other_kinds(tensors, file.path)
    stated = _adapter_metadata(metadata, file.path)
    layers: dict[tuple[str, str], LoraLayer] = {}
    used: set[str] = set()
    lost: set[str] = set()  # of changes that a weight cannot be given, though others may
    for (model, module, rows, base), sources in _changes(tensors, components).items():
        weight = normalise(f"{module}.weight") or ""
        changed = components[model].tensors.get(weight) if model in components else None
        if changed is None or (model, weight) in layers or not is_whole(sources) or not rows.divides(changed.shape):
            lost.update(sources.values())
            continue
        parts = {part: tensors[name] for part, name in sources.items()}
        rank = _checked_rank(file.path, rows.whole(changed.shape), parts)
        if base.startswith(_KOHYA) and base + _ALPHA in tensors:
            alpha = _number(tensors[base + _ALPHA], file.path) / rank if rank else 1.0
            used.add(base + _ALPHA)
        else:
            alpha = _stated_share(stated, model, module, rank, file.path) if rank else 1.0
        layers[model, weight] = LoraLayer(model, weight, parts, file.scale * alpha, rows)
        used.update(sources.values())
    if unused := sorted(lost | (set(tensors) - used)):
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise CheckpointError(_UNUSED, f"{file.path}: {unused[0]}{more}", "Give a LoRA that was made for this model.")
    return Lora(file, tuple(layers.values()))


def _changes(
    names: Iterable[str], components: Mapping[str, ComponentInfo]
) -> dict[tuple[str, str, Rows, str], dict[str, str]]:
    """Returns the stored name of each part, by model, module, its rows, and what the names of one change begin with."""
    transformer = components[TRANSFORMER].tensors if TRANSFORMER in components else ()
    modules = frozenset(name.rpartition(".")[0] for name in transformer)
    found: dict[tuple[str, str, Rows, str], dict[str, str]] = {}
    for name, place in places(names, components).items():
        joint = layers_of(place.base, modules) if place.model == TRANSFORMER and not place.module else ()
        for module, rows in joint or ((place.module, ALL),):
            found.setdefault((place.model, module, rows, place.base), {})[place.part] = name
    return found


def _refuse_other_kinds(names: Iterable[str], path: Path) -> None:
    """Raises CheckpointError for a kind that is not taken, by its name."""
    for name in names:
        if kind := next((kind for mark, kind in OTHERS.items() if mark in name), None):
            rule = "a LoRA must add to the weights: LoRA, LoCon, LoHa and LoKr are taken"
            raise CheckpointError(rule, f"{path}: {name} is of {kind}", "Merge it into the checkpoint first.")


def _checked_rank(path: Path, weight: Shape, parts: Mapping[str, TensorInfo]) -> int | None:
    """Returns r of a LoRA whose parts fit a weight [out, …] of a matrix or a convolution; None for a kind without."""
    shapes = {part: info.shape for part, info in parts.items()}
    rank = rank_of(shapes)
    ranked = len(weight) >= 2 and (rank is None or 1 <= rank <= _MOST_RANK)
    if not ranked or not (
        _is_pair_for(weight, parts) if len(parts) == 2 and "lora_up" in parts else fits(shapes, weight)
    ):
        shown = ", ".join(f"{info.stored} is {list(info.shape)}" for info in parts.values())
        raise CheckpointError(
            _SHAPES,
            f"{path}: {shown}, the weight {list(weight)}",
            "Give a LoRA that was made for this model.",
        )
    return rank


def _is_pair_for(weight: Shape, parts: Mapping[str, TensorInfo]) -> bool:
    """Whether A is [r, …] and B [out, r, …] for a weight [out, …]."""
    down, up = parts["lora_down"], parts["lora_up"]
    rank, out, rest = down.shape[:1], weight[:1], weight[1:]
    flat = len(down.shape) == len(up.shape) == 2 and down.shape[1:] == (math.prod(rest),)
    whole = len(weight) == len(down.shape) == len(up.shape) and down.shape[1:] == rest
    return (flat or whole) and up.shape[:2] == (*out, *rank) and up.elements == math.prod((*out, *rank))


def _number(info: TensorInfo, path: Path) -> float:
    if info.elements != 1:
        raise CheckpointError("alpha of a LoRA must be one number", f"{path}: {info.stored} is {list(info.shape)}")
    from sdmobile.checkpoints.arrays import read_array, read_bits

    value = read_array(info) if info.is_float else read_bits(info)
    return _finite(float(value.reshape(())), f"{path}: {info.stored}")


def _finite(value: object, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError("alpha of a LoRA must be a finite number", f"{place}: {value!r}")
    return float(value)


def _adapter_metadata(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Returns what Diffusers wrote of PEFT's configuration, empty where it wrote none.

    Raises:
        CheckpointError: it is no JSON object, or the adapter was trained beside changed weights.
    """
    if _METADATA not in metadata:
        return {}
    try:
        stated = parse_json(metadata[_METADATA])
    except UntrustedError as error:
        raise CheckpointError(f"{_METADATA} of a LoRA must be plain JSON", f"{path}: {error}") from error
    if not isinstance(stated, dict):
        raise CheckpointError(f"{_METADATA} of a LoRA must be a JSON object", f"{path}: {type(stated).__name__}")
    for key, value in stated.items():
        if key.rpartition(".")[2] == "init_lora_weights" and value not in _PLAIN_STARTS:
            raise CheckpointError(
                "a LoRA must change the checkpoint's own weights",
                f"{path}: {key} = {value!r}",
                "Convert it to a plain LoRA first (PEFT's path_initial_model_for_weight_conversion).",
            )
    return stated


def _stated_share(stated: Mapping[str, Any], model: str, module: str, rank: int, path: Path) -> float:
    """Returns alpha/r, or alpha/√r, as the metadata has it; 1 without metadata, as Diffusers assumes."""
    prefix = f"{model}."
    own = {key.removeprefix(prefix): value for key, value in stated.items() if key.startswith(prefix)} or stated
    alpha: object = own.get("lora_alpha", rank)
    patterns = own.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or any(_PATTERN & set(key) for key in patterns):
        raise CheckpointError("alpha_pattern of a LoRA must name modules", f"{path}: {patterns!r}"[:400])
    for key, value in patterns.items():
        if f".{module}".endswith("." + key.removeprefix("^")):
            alpha = value
            break
    return _finite(alpha, f"{path}: {model}.lora_alpha") / (math.sqrt(rank) if own.get("use_rslora") else rank)
