"""Recognise and load diffusion checkpoints.

Importing this package is cheap: torch, Diffusers and Transformers are imported by the functions that load weights.
"""

from __future__ import annotations

from sdmobile.checkpoints.load import load_component
from sdmobile.checkpoints.recognise import bundled_checkpoint, open_checkpoint
from sdmobile.checkpoints.schedulers import SCHEDULERS, load_scheduler
from sdmobile.checkpoints.tokenizers import load_tokenizer
from sdmobile.checkpoints.types import Checkpoint, ComponentInfo
from sdmobile.families.components import COMPONENTS

__all__ = [
    "COMPONENTS",
    "SCHEDULERS",
    "Checkpoint",
    "ComponentInfo",
    "bundled_checkpoint",
    "load_component",
    "load_scheduler",
    "load_tokenizer",
    "open_checkpoint",
]
