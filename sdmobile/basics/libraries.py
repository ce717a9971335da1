"""Libraries that are installed only where an extra asks for them, and their versions."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

from sdmobile.errors import MissingDependencyError

LIBRARIES = ("torch", "diffusers", "transformers", "coremltools", "litert-torch", "ai-edge-quantizer", "onnx")
# Modules that the base installation does not bring, and the extra that does.
_EXTRAS = {
    **dict.fromkeys(("torch", "diffusers", "transformers", "tokenizers", "sentencepiece", "scipy", "PIL"), "torch"),
    "coremltools": "ios",
    **dict.fromkeys(("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), "android"),
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    **dict.fromkeys(("accelerate", "peft"), "train"),
    "playwright": "gpu",
    **dict.fromkeys(("cryptography", "segno"), "phone"),
}


def library_versions() -> dict[str, str]:
    """Returns the installed versions of the libraries that a manifest names."""
    versions: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def missing_library(error: ModuleNotFoundError) -> MissingDependencyError | None:
    """Returns which extra brings the module that an import did not find; None for a module of no extra."""
    module = (error.name or "").partition(".")[0]
    if module not in _EXTRAS:
        return None
    return MissingDependencyError(
        "this needs a library that is not installed", module, f"Run: pip install 'sdmobile[{_EXTRAS[module]}]'"
    )
