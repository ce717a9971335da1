"""Checkpoints are opened where neither PyTorch nor Diffusers nor Transformers can be imported, as anywhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sdmobile.checkpoints import Changes, Checkpoint, LoraFile, open_checkpoint
from sdmobile.checkpoints.embeddings import EmbeddingFile
from tests.checkpoints.single import REGULAR, tensors_of, write_single
from tests.synthetic import write_checkpoint

BLOCKED = ("torch", "diffusers", "transformers", "tokenizers", "peft", "accelerate")
_PROGRAM = """
import json, sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)

sys.meta_path.insert(0, Blocked())
from tests.checkpoints.opened import told
print(json.dumps(told(*sys.argv[1:])))
"""


def _in_another_process(path: Path, changes: Changes) -> Any:
    arguments = [sys.executable, "-c", _PROGRAM.format(blocked=BLOCKED), str(path), json.dumps(changes.to_json())]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
