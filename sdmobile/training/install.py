"""Puts a finished run where the package keeps its checkpoints.

python -m sdmobile.training.install RUN                     shapes-64
python -m sdmobile.training.install RUN STAGE OBEDIENCE     shapes-64-mobile, as a stage of `train mobile` left it
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.checkpoints import bundled_checkpoint

RECORDS = ("log-vae.jsonl", "log-text.jsonl", "log-unet.jsonl", "config.json", "obedience.json")


def install(checkpoint: Path, records: Mapping[str, Path], folder: Path) -> None:
    """Copies a checkpoint with the records of its training; an old one is replaced when the new one is whole.

    Args:
        checkpoint: a Diffusers folder.
        records: logs, configuration and figure, by the name that they get in `training/`.
        folder: where the package keeps its checkpoint.
    """
    with scratch_beside(folder) as scratch:
        part = scratch / "checkpoint"
        shutil.copytree(checkpoint, part)
        (part / "training").mkdir()
        for name, file in records.items():
            shutil.copy(file, part / "training" / name)
        put_in_place(part, folder, overwrite=True)


def main(run: Path, stage: str | None = None, obedience: Path | None = None) -> None:
    """Installs `shapes-64`, or, where a stage is named, `shapes-64-mobile` with the figure of `train evaluate`."""
    if (stage is None) != (obedience is None):
        raise SystemExit("a stage is installed with its figure: RUN STAGE OBEDIENCE")
    if stage is None or obedience is None:
        install(run / "checkpoint", {name: run / name for name in RECORDS}, bundled_checkpoint())
        return
    records = {file.name: file for file in [*sorted(run.glob("log-*.jsonl")), run / "config.json"]}
    install(
        run / f"checkpoint-{stage}", {**records, "obedience.json": obedience}, bundled_checkpoint("shapes-64-mobile")
    )


if __name__ == "__main__":
    run, *named = sys.argv[1:]
    main(Path(run), named[0] if named else None, Path(named[1]) if named[1:] else None)
