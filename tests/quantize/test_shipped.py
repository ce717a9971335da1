"""The recipes that come with shapes-64 fit its UNet, and say where they do not."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.writing import Part
from sdmobile.quantize.apply import Destination, check_recipe
from sdmobile.quantize.backends import CoreMLBackend
from sdmobile.quantize.encodings import misfit
from sdmobile.quantize.recipes import SHIPPED, load_recipe, named_recipe
from sdmobile.quantize.schemes import Linear, Palette, Scheme


def stored_bits(shape: tuple[int, ...], scheme: Scheme) -> float:
    """Bits of a weight in the formats that the recipes use, by their definitions."""
    elements = math.prod(shape)
    if misfit(shape, scheme) is not None:
        return 16.0 * elements
    if isinstance(scheme, Palette):
        tables = shape[0] // scheme.group_size if scheme.group_size else 1
        return scheme.bits * elements + 16 * tables * 2**scheme.bits
    if isinstance(scheme, Linear):
        assert scheme.block_size == 0
        return scheme.bits * elements + 16 * shape[0]
    return 16.0 * elements


def tensor_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes in the header of the UNet's weight file."""
    (file,) = open_checkpoint().components["unet"].weight_files
    data = file.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


@pytest.mark.parametrize("name", SHIPPED)
def test_each_fits_the_unet_of_shapes_64_at_the_bits_of_its_name(name: str) -> None:
    recipe = load_recipe(name)
    shapes = {
        key.removesuffix(".weight"): shape
        for key, shape in tensor_shapes().items()
        if key.endswith(".weight") and len(shape) >= 2 and math.prod(shape) >= recipe.min_elements
    }
    assert recipe.unmatched([("unet", module) for module in shapes]) == ()
    total = sum(
        stored_bits(shape, recipe.scheme_for("unet", module, math.prod(shape))) for module, shape in shapes.items()
    )
    average = total / sum(map(math.prod, shapes.values()))
    assert average == pytest.approx(recipe.evidence["bits_per_weight"], abs=1e-4)
    assert abs(average - float(name.removeprefix("mixed-"))) < 0.02


def test_names_are_recipes_and_other_numbers_are_not() -> None:
    assert named_recipe("mixed-4.0").name == "mixed-4.0"
    assert named_recipe("mixed-4.0").components == ("unet",)
    assert named_recipe("palette4").components is None
    with pytest.raises(UnsupportedError, match=r"mixed-4\.0"):
        named_recipe("mixed-4.5")


def test_another_architecture_is_told_to_search_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CoreMLBackend, "modules", lambda self, path: ("some_other_layer",))
    parts = {"unet": Part(Path("x"), {"component": "unet", "files": ["Unet.mlpackage"]})}
    with pytest.raises(UnsupportedError, match="quantize analyze"):
        check_recipe(named_recipe("mixed-4.0"), Destination("ios"), parts)
