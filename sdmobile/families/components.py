"""The models of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass


ComponentName = Literal["text_encoder", "unet", "vae"]


COMPONENTS: tuple[ComponentName, ...] = ("text_encoder", "unet", "vae")
