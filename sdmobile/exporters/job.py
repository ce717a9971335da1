"""The order to export one component, as it travels to a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from sdmobile.checkpoints.changes import UNCHANGED, Changes
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.reference.geometry import Resolution
from sdmobile.rewrites.options import RewriteOptions

_PATHS = ("checkpoint", "out_dir", "tokenizer", "structure")


@dataclass(frozen=True)
class ExportJob:
    """What to export, for what, and where to.

    Args:
        checkpoint: the folder or single file.
        component: of the checkpoint's family.
        target: "ios", "android" or "onnx".
        device: name of a device profile, None for the target's default.
        guidance: one of the family's, such as "batch2" (both guidance rows in one call).
        resolution: of the picture, None for what the checkpoint was trained on.
        out_dir: the folder that gets the file.
        rewrites: what the user changes about the device's rules.
        chunks: number of files that a UNet is cut into.
        float32_islands: sample a little and keep in float32 what overflows float16 then.
        tokenizer: folder of the tokenizer, for a checkpoint that has none.
        prediction_type: what the denoiser predicts, for a checkpoint that does not say.
        changes: what is put on top of it.
        controls: control networks that go with it.
        probe: seed of random weights that take the place of the checkpoint's own.
        structure: where to keep the structure of the files, None to make none.
        graph_only: write nothing; the record is the hash of the rewritten graph.
        content_hash: of the checkpoint, if it is known: then its files are not read for it.
    """

    checkpoint: Path
    component: str
    target: str
    device: str | None
    guidance: str
    resolution: Resolution | None
    out_dir: Path
    rewrites: RewriteOptions = field(default_factory=RewriteOptions)
    chunks: int = 1
    float32_islands: bool = False
    tokenizer: Path | None = None
    prediction_type: str | None = None
    changes: Changes = UNCHANGED
    controls: tuple[ControlFolder, ...] = ()
    probe: int | None = None
    structure: Path | None = None
    graph_only: bool = False
    content_hash: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as a JSON object."""
        paths = {name: None if getattr(self, name) is None else str(getattr(self, name)) for name in _PATHS}
        controls = [folder.to_json() for folder in self.controls]
        return {**asdict(self), **paths, "changes": self.changes.to_json(), "controls": controls}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ExportJob:
        """Returns the job that `to_json` wrote; other keys are passed over."""
        known = {item.name: data[item.name] for item in fields(cls)}
        paths = {name: Path(known[name]) for name in _PATHS if known[name] is not None}
        sides = known["resolution"]
        rebuilt = {
            "resolution": tuple(sides) if isinstance(sides, list) else sides,
            "changes": Changes.from_json(known["changes"]),
            "rewrites": RewriteOptions.from_json(known["rewrites"]),
            "controls": tuple(map(ControlFolder.from_json, known["controls"])),
        }
        return cls(**{**known, **paths, **rebuilt})
