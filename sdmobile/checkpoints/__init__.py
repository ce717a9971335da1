"""Recognise and load diffusion checkpoints.

Importing this package is cheap: torch, Diffusers and Transformers are imported by the functions that load weights.
"""

from __future__ import annotations

from sdmobile.checkpoints.bundled import BUNDLED, bundled_checkpoint, bundled_path
from sdmobile.checkpoints.changes import Changes
from sdmobile.checkpoints.hub import HubName
from sdmobile.checkpoints.load import load_model
from sdmobile.checkpoints.lora import LoraFile
from sdmobile.checkpoints.recognise import open_checkpoint
from sdmobile.checkpoints.tokenizers import load_tokenizer
from sdmobile.checkpoints.types import Checkpoint, ComponentInfo
from sdmobile.families.schedulers import SCHEDULERS

__all__ = [
    "BUNDLED",
    "SCHEDULERS",
    "Changes",
    "Checkpoint",
    "ComponentInfo",
    "HubName",
    "LoraFile",
    "bundled_checkpoint",
    "bundled_path",
    "load_model",
    "load_tokenizer",
    "open_checkpoint",
]
