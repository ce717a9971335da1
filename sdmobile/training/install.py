"""Puts a finished run where the package keeps its checkpoint: `python -m sdmobile.training.install RUN`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.checkpoints import bundled_checkpoint

RECORDS = ("log-vae.jsonl", "log-text.jsonl", "log-unet.jsonl", "config.json", "obedience.json")


def install(run: Path, folder: Path) -> None:
    """Copies a run's checkpoint, logs and figure; the old checkpoint is replaced when the new one is whole.

    Args:
        run: output folder of `sdmobile train shapes`.
        folder: where the package keeps its checkpoint.
    """
    with scratch_beside(folder) as scratch:
        part = scratch / "checkpoint"
        shutil.copytree(run / "checkpoint", part)
        (part / "training").mkdir()
        for name in RECORDS:
            shutil.copy(run / name, part / "training" / name)
        put_in_place(part, folder, overwrite=True)


if __name__ == "__main__":
    install(Path(sys.argv[1]), bundled_checkpoint())
