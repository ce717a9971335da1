"""Whether each target can take a checkpoint, judged from facts alone, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdmobile.checkpoints.types import Checkpoint

TARGETS = ("ios", "android", "onnx")
# Modules that a target's exporter imports, and the extra that installs them.
_MODULES = {
    "ios": ("coremltools",),
    "android": ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
}
_HALF = 2  # bytes of a float16 weight


@dataclass(frozen=True)
class Verdict:
    """Whether one target can take a checkpoint.

    Args:
        target: ios, android or onnx.
        problems: what prevents the export, each with what to do.
        warnings: what the app on the phone has to know.
    """

    target: str
    problems: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    @property
    def possible(self) -> bool:
        """Whether the export can be started here."""
        return not self.problems


def judge(checkpoint: Checkpoint, target: str) -> Verdict:
    """Returns whether a target can take a checkpoint on this machine, and why not.

    Args:
        checkpoint: from open_checkpoint.
        target: ios, android or onnx.
    """
    problems = [_missing(target)] if not all(find_spec(name) for name in _MODULES[target]) else []
    if checkpoint.tokenizer_dir is None:
        problems.append("no tokenizer: put a folder `tokenizer` with vocab.json and merges.txt beside the checkpoint")
    if target == "android":
        problems += _too_large(checkpoint)
    warnings = checkpoint.family.app_differences(target, checkpoint)
    return Verdict(target, tuple(problems), tuple(warnings))


def _missing(target: str) -> str:
    names = ", ".join(name for name in _MODULES[target] if not find_spec(name))
    return f"not installed: {names}; run `pip install 'sdmobile[{target}]'`"


def _too_large(checkpoint: Checkpoint) -> list[str]:
    from sdmobile.device_profiles import default_profile

    limit = default_profile("android").max_file_bytes
    return [
        f"{name} takes {_HALF * info.parameters / 1e9:.2f} GB in float16, a .tflite file at most {limit / 1e9:.2f} GB"
        for name, info in checkpoint.components.items()
        if limit is not None and _HALF * info.parameters > limit
    ]
