"""What an opened checkpoint is, as plain values that two processes can compare; run without PyTorch, too."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from sdmobile.checkpoints import Changes, open_checkpoint
from sdmobile.checkpoints.arrays import model_arrays


def told(path: str, changes: str) -> dict[str, Any]:
    """Returns facts of a checkpoint and a hash of every weight.

    Args:
        path: of the checkpoint.
        changes: as JSON.
    """
    checkpoint = open_checkpoint(Path(path), changes=Changes.from_json(json.loads(changes)))
    weights: dict[str, dict[str, str]] = {}
    for name in checkpoint.components:
        arrays = model_arrays(checkpoint, name)
        weights[name] = {key: hashlib.sha256(value.tobytes()).hexdigest() for key, value in arrays}
    found = {
        "family": checkpoint.family.name,
        "notes": list(checkpoint.notes),
        "configs": {name: info.config for name, info in checkpoint.components.items()},
        "parameters": {name: info.parameters for name, info in checkpoint.components.items()},
        "content_hash": checkpoint.content_hash,
        "loras": [[layer.model, layer.weight, layer.factor] for lora in checkpoint.loras for layer in lora.layers],
        "words": [[list(one.tokens), one.first_row] for one in checkpoint.embeddings],
        "weights": weights,
    }
    return json.loads(json.dumps(found))


def loaded() -> list[str]:
    """Returns which of the heavy libraries this process has imported."""
    return [name for name in ("torch", "diffusers", "transformers") if name in sys.modules]
