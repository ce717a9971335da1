"""Mixed recipes that come with the bundled checkpoint, by name; they fit every fine-tune of its architecture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sdmobile.quantize.recipes import Recipe

SHIPPED = ("mixed-6.0", "mixed-4.0", "mixed-3.0", "mixed-2.0")
"""Searched on shapes-64 by the error of the final latents; the number is the average bits per weight of the UNet."""

ELSEWHERE = "made for the architecture of shapes-64; for another: `sdmobile quantize analyze` and `search`"


def shipped_recipe(name: str) -> Recipe | None:
    """Returns the recipe of a name in `SHIPPED`, None for any other name."""
    from sdmobile.quantize.recipes import Recipe

    if name not in SHIPPED:
        return None
    return Recipe.from_json(json.loads(_file(name).read_text("utf-8")))


def hint_for(recipe_name: str) -> str:
    """Returns what to do where a recipe of this name fits no module of a bundle; "" where nothing is known."""
    return f"{recipe_name} is {ELSEWHERE}" if recipe_name in SHIPPED else ""


def _file(name: str) -> Path:
    from sdmobile.checkpoints.recognise import bundled_checkpoint

    return bundled_checkpoint() / "recipes" / f"{name}.json"
