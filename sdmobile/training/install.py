"""Puts a finished run where the package keeps its checkpoints.

python -m sdmobile.training.install RUN                     shapes-64
python -m sdmobile.training.install RUN STAGE OBEDIENCE     shapes-64-mobile, as a stage of `train mobile` left it
python -m sdmobile.training.install RUN dit OBEDIENCE       shapes-64-dit

The adapters that `train mobile` finished go to `adapters/` of shapes-64-mobile, in float16.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from sdmobile.basics.files import write_json
from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.checkpoints import bundled_checkpoint

RECORDS = ("log-vae.jsonl", "log-text.jsonl", "log-unet.jsonl", "config.json", "obedience.json")


def install(
    checkpoint: Path, records: Mapping[str, Path], folder: Path, add: Callable[[Path], None] | None = None
) -> None:
    """Copies a checkpoint with the records of its training; an old one is replaced when the new one is whole.

    Args:
        checkpoint: a Diffusers folder.
        records: logs, configuration and figure, by the name that they get in `training/`.
        folder: where the package keeps its checkpoint.
        add: writes what else belongs into the folder.
    """
    with scratch_beside(folder) as scratch:
        part = scratch / "checkpoint"
        shutil.copytree(checkpoint, part)
        (part / "training").mkdir()
        for name, file in records.items():
            shutil.copy(file, part / "training" / name)
        if add is not None:
            add(part)
        put_in_place(part, folder, overwrite=True)


def write_adapters(run: Path, folder: Path) -> None:
    """Writes what stages "control", "plugin" and "lora" left, in float16; a stage that is not done is left out.

    Args:
        run: folder of `train mobile`.
        folder: where the adapters go.
    """
    from sdmobile.models.controlnet import MobileControlNetModel
    from sdmobile.models.plugin import MobileControlPlugin
    from sdmobile.training.mobile.config import MobileConfig
    from sdmobile.training.mobile.control import CONTROL, PLUGIN
    from sdmobile.training.mobile.lora import lora_file
    from sdmobile.training.mobile.student import finished

    folder.mkdir(exist_ok=True)
    config = MobileConfig(run)
    for stage, kind, name in (
        (CONTROL, MobileControlNetModel, "silhouette"),
        (PLUGIN, MobileControlPlugin, "silhouette-plugin"),
    ):
        if (net := finished(config, stage, kind)) is not None:
            net.half().save_pretrained(folder / name)
            settings = json.loads((folder / name / "config.json").read_text("utf-8"))
            settings.pop("_name_or_path", None)  # the run's folder, of no use to anybody else
            write_json(folder / name / "config.json", settings, 2)
    if lora_file(config).exists():
        _write_half(lora_file(config), folder / "hollow.safetensors")


def _write_half(file: Path, out: Path) -> None:
    """Writes the tensors of a safetensors file in float16, with its metadata."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name).half() for name in opened.keys()}  # noqa: SIM118
        save_file(tensors, out, metadata=opened.metadata())


_ADAPTERS = """
`adapters/` was trained on the base UNet of 20 guided steps and goes with this one unchanged: `silhouette`, a
ControlNet, and `silhouette-plugin`, a light plugin, take a picture of where the shapes are, white on black
(`--control`, `--control-model`); `hollow.safetensors`, a LoRA, puts a hole into every shape (`--lora`).
"""


def complete(run: Path, part: Path) -> None:
    """Adds adapters to a copied checkpoint, and to its card what they are."""
    write_adapters(run, part / "adapters")
    with (part / "README.md").open("a", encoding="utf-8") as card:
        card.write(_ADAPTERS)


def main(run: Path, stage: str | None = None, obedience: Path | None = None) -> None:
    """Installs `shapes-64`, or what a stage is named of, with the figure of `train evaluate`."""
    if (stage is None) != (obedience is None):
        raise SystemExit("a stage is installed with its figure: RUN STAGE OBEDIENCE")
    if stage is None or obedience is None:
        install(run / "checkpoint", {name: run / name for name in RECORDS}, bundled_checkpoint())
        return
    records = {file.name: file for file in [*sorted(run.glob("log-*.jsonl")), run / "config.json"]}
    if stage == "dit":
        install(run / "checkpoint", {**records, "obedience.json": obedience}, bundled_checkpoint("shapes-64-dit"))
        return
    install(
        run / f"checkpoint-{stage}",
        {**records, "obedience.json": obedience},
        bundled_checkpoint("shapes-64-mobile"),
        lambda part: complete(run, part),
    )


if __name__ == "__main__":
    run, *named = sys.argv[1:]
    main(Path(run), named[0] if named else None, Path(named[1]) if named[1:] else None)
