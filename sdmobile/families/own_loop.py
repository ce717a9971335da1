"""What families state alike whose bundles no Swift package of Apple's runs: the app has a loop of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from sdmobile.families import apple
from sdmobile.families.component import Config, Shapes
from sdmobile.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from sdmobile.families.facts import Facts


class OwnLoop(StableDiffusion):
    """A Diffusers folder of a transformer whose tokenizer is not CLIP's."""

    control_parts = ()
    distillable = False
    app_use: Mapping[str, str] = {}
    app_scripts: Mapping[str, tuple[str, str]] = {"ios": (apple.SCRIPT, apple.compile_script("", "-R tokenizer"))}
    app_tokenizer: ClassVar[Mapping[str, str]] = {}

    def claims_file(self, shapes: Shapes) -> bool:
        return False

    def pad_token(self, configs: Mapping[str, Config]) -> str | None:
        return None

    def app_differences(self, target: str, facts: Facts) -> list[str]:
        if target != "ios":
            return []
        return [
            f"no Swift package of Apple's runs {self.title}: the app runs the files itself, by scheduler.json and "
            "metadata.json"
        ]
