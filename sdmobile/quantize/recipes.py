"""Recipes: which number format each weight of a bundle gets, with names that say it and JSON in and out."""

from __future__ import annotations

import difflib
import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from sdmobile.basics.files import hash_json, write_json
from sdmobile.basics.untrusted import parse_json, read_bounded
from sdmobile.basics.words import meant
from sdmobile.errors import UnsupportedError
from sdmobile.quantize.schemes import W8A8, Float16, Scheme, parse_scheme

RECIPE_SCHEMA = 1
Layers = Literal["all", "linear"]
_MAX_FILE = 1 << 25
MIN_ELEMENTS = 2048
"""Weights of fewer elements stay float16: a table or scales would eat the gain (coremltools' threshold)."""


@dataclass(frozen=True)
class Override:
    """Another scheme for some modules.

    Args:
        pattern: module path, or a pattern of it with `*` and `?`; `unet/` in front restricts it to one component.
        scheme: what they get.
    """

    pattern: str
    scheme: Scheme

    def matches(self, component: str, module: str) -> bool:
        """Returns whether the override is for a module; dots and underscores of a path are the same."""
        head, slash, rest = self.pattern.partition("/")
        if slash and head != component:
            return False
        return fnmatch.fnmatchcase(flat_path(module), flat_path(rest if slash else self.pattern))


@dataclass(frozen=True)
class Recipe:
    """What each weight of a bundle becomes.

    Args:
        name: what the recipe is called.
        default: scheme of every weight that no override names.
        overrides: the first that matches decides.
        min_elements: smaller weights stay float16.
        components: which it is for; None for all. The others stay as they are.
        evidence: scores and where they come from, kept with the recipe.
        layers: "linear" for matrix products alone; convolutions and tables then stay float16.
    """

    name: str
    default: Scheme
    overrides: tuple[Override, ...] = ()
    min_elements: int = MIN_ELEMENTS
    components: tuple[str, ...] | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict, hash=False)
    layers: Layers = "all"

    def covers(self, component: str) -> bool:
        """Returns whether the recipe changes a component."""
        return self.components is None or component in self.components

    def scheme_for(self, component: str, module: str, elements: int, linear: bool = True) -> Scheme:
        """Returns the scheme of one weight.

        Args:
            component: "unet" and the like.
            module: dotted path of the module whose weight it is; underscores instead of dots are the same.
            elements: size of the weight.
            linear: whether it is the weight of a matrix product, not of a convolution or a table.
        """
        if not self.covers(component) or elements < self.min_elements or (self.layers == "linear" and not linear):
            return Float16()
        return next((o.scheme for o in self.overrides if o.matches(component, module)), self.default)

    def schemes(self) -> tuple[Scheme, ...]:
        """Returns every scheme that the recipe mentions, each once."""
        return tuple(dict.fromkeys([self.default, *(override.scheme for override in self.overrides)]))

    @property
    def quantises_activations(self) -> bool:
        """Whether a scheme is W8A8, whose ranges come from recorded inputs."""
        return any(isinstance(scheme, W8A8) for scheme in self.schemes())

    def changes(self, component: str) -> bool:
        """Returns whether a weight of a component may become anything but float16."""
        return self.covers(component) and self.schemes() != (Float16(),)

    def unmatched(self, modules: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Returns the patterns that match none of the (component, module) pairs."""
        pairs = tuple(modules)
        return tuple(o.pattern for o in self.overrides if not any(o.matches(*pair) for pair in pairs))

    def to_json(self) -> dict[str, Any]:
        """Returns the recipe as a JSON object."""
        return {
            "schema_version": RECIPE_SCHEMA,
            "name": self.name,
            "default": self.default.name,
            "overrides": [{"pattern": o.pattern, "scheme": o.scheme.name} for o in self.overrides],
            "min_elements": self.min_elements,
            "components": None if self.components is None else list(self.components),
            **({} if self.layers == "all" else {"layers": self.layers}),
            "evidence": dict(self.evidence),
        }

    @classmethod
    def from_json(cls, data: Any) -> Recipe:
        """Returns the recipe that `to_json` wrote.

        Raises:
            UnsupportedError: a key is unknown or missing, or a value is of the wrong type.
        """
        known = {"schema_version", "name", "default", "overrides", "min_elements", "components", "layers", "evidence"}
        _require(isinstance(data, Mapping), "a recipe is a JSON object", type(data).__name__)
        unknown = sorted(set(data) - known)
        _require(not unknown, f"the keys of a recipe are {', '.join(sorted(known))}", unknown)
        _require(data.get("schema_version", RECIPE_SCHEMA) == RECIPE_SCHEMA, "schema_version must be 1", data)
        for key in ("name", "default"):
            _require(isinstance(data.get(key), str), f"a recipe has the text `{key}`", data.get(key))
        size, components = data.get("min_elements", MIN_ELEMENTS), data.get("components")
        _require(type(size) is int and size >= 1, "`min_elements` is a positive whole number", size)
        _require(components is None or _texts(components), "`components` is a list of names or null", components)
        layers = data.get("layers", "all")
        _require(layers in get_args(Layers), f"`layers` is one of {', '.join(get_args(Layers))}", layers)
        _require(isinstance(data.get("evidence", {}), Mapping), "`evidence` is an object", data.get("evidence"))
        return cls(
            name=data["name"],
            default=parse_scheme(data["default"]),
            overrides=tuple(map(_override, _list(data.get("overrides", [])))),
            min_elements=size,
            components=None if components is None else tuple(components),
            layers=layers,
            evidence=dict(data.get("evidence", {})),
        )

    @property
    def key(self) -> str:
        """SHA-256 over what decides the result: everything but name and evidence."""
        facts = {k: v for k, v in self.to_json().items() if k not in ("name", "evidence")}
        return hash_json(facts)


NAMED = (
    "fp16",
    "palette8",
    "palette6",
    "palette4",
    "palette3",
    "palette2",
    "palette1",
    "palette4g16",
    "int8c",
    "int4b32",
    "int8d",
    "w8a8",
)
"""The uniform recipes listed to users; any other scheme's name is a recipe too."""
GPU_INT8 = "gpu-int8"
"""Matrix products in int8 with activations quantised at run time, all else float16: for the Android GPU."""
SHIPPED = ("mixed-6.0", "mixed-4.0", "mixed-3.0", "mixed-2.0")
"""Searched on shapes-64 by the error of the final latents; the number is the average bits per weight of the UNet."""
ELSEWHERE = "made for the architecture of shapes-64; for another: `sdmobile quantize analyze` and `search`"


def named_recipe(name: str) -> Recipe:
    """Returns the recipe that gives every weight the scheme of this name, or one that ships with shapes-64.

    Raises:
        UnsupportedError: neither has the name; near names are listed.
    """
    if name in SHIPPED:
        return _shipped(name)
    if name == GPU_INT8:
        return Recipe(name, parse_scheme("int8d"), layers="linear")
    try:
        return Recipe(name, parse_scheme(name))
    except UnsupportedError as error:
        known = (*NAMED, GPU_INT8, *SHIPPED)
        near = difflib.get_close_matches(name, known, 3, 0.5) or list(known)
        raise UnsupportedError(
            "a recipe is a known name or a JSON file", repr(name), meant(name, known, f"Known names: {', '.join(near)}")
        ) from error


def _shipped(name: str) -> Recipe:
    """Returns one of the recipes beside the bundled checkpoint; they fit every fine-tune of its architecture."""
    from sdmobile.checkpoints.bundled import bundled_checkpoint

    file = bundled_checkpoint() / "recipes" / f"{name}.json"
    return Recipe.from_json(json.loads(file.read_text("utf-8")))


def hint_for(recipe_name: str) -> str:
    """Returns what to do where a recipe of this name fits no module of a bundle; "" where nothing is known."""
    return f"{recipe_name} is {ELSEWHERE}" if recipe_name in SHIPPED else ""


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Returns a named recipe, or the one in a JSON file.

    Raises:
        UnsupportedError: no such name, or the file is not a recipe.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.suffix != ".json" and not path.is_file():
        return named_recipe(text)
    try:
        data = parse_json(read_bounded(path, _MAX_FILE))
    except (OSError, ValueError) as error:
        raise UnsupportedError("a recipe file must be readable JSON", f"{path}: {error}") from error
    try:
        return Recipe.from_json(data)
    except UnsupportedError as error:
        raise UnsupportedError(f"{path} must be a recipe: {error.rule}", error.value, error.fix) from error


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Writes a recipe as a JSON file, whole or not at all."""
    write_json(path, recipe.to_json())


def flat_path(path: str) -> str:
    """Returns a module path as exported files spell it: with underscores for dots."""
    return path.replace(".", "_")


def _override(data: Any) -> Override:
    good = isinstance(data, Mapping) and set(data) == {"pattern", "scheme"} and _texts(list(data.values()))
    _require(good, "an override is an object with the texts `pattern` and `scheme`", data)
    return Override(data["pattern"], parse_scheme(data["scheme"]))


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(item, str) and item for item in value)


def _list(value: Any) -> list[Any]:
    _require(isinstance(value, list), "`overrides` is a list", value)
    return value


def _require(condition: object, rule: str, value: object) -> None:
    if not condition:
        raise UnsupportedError(rule, value)
