"""The streams of the KL autoencoder: where its residual sum runs, and what lies inside its residual blocks.

    conv_in ─▶ s ─┬─▶ norm1 ─▶ SiLU ─▶ conv1 ─▶ t ─▶ norm2 ─▶ SiLU ─▶ conv2 ─┬─▶ s ─▶ … ─▶ conv_norm_out ─▶ SiLU
                  └────────────────────── as it is ──────────────────────────┘

Where a convolution changes the width or the resolution of s (`conv_shortcut`, samplers), s ends and the next begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.families.autoencoder_steps import Step, steps_of
from sdmobile.families.streams import Streams

if TYPE_CHECKING:
    from torch import nn

_WITHOUT_TIME = ("default", "group")  # Diffusers' encoder and decoder: where there is no timestep, nothing but norm2


def streams_of(module: nn.Module) -> Streams:
    """Returns the streams of one half of an autoencoder behind its file's interface.

    There are none where a block is of a kind that is not known: nothing is said of a network that is another.
    """
    half = "encoder" if hasattr(module, "encoder") else "decoder"
    steps = steps_of(half, [name for name, _ in module.named_parameters()])
    known = all(_is_known(step, module.get_submodule(step.path)) for step in steps)
    return streams_along(steps) if known else Streams()


def streams_along(steps: Sequence[Step]) -> Streams:
    """Returns the streams of a half of those steps."""
    layers: dict[str, tuple[str | None, str]] = {}
    norms: dict[str, str] = {}
    stream = ""

    def begin(path: str, reads: str | None) -> str:
        layers[path] = (reads, path)
        return path

    for kind, path, shortcut in ((step.kind, step.path, step.shortcut) for step in steps):
        if kind == "enter":
            stream = begin(f"{path}.conv_in", None)
        elif kind == "residual":
            norms[f"{path}.norm1"] = stream
            norms[f"{path}.norm2"] = begin(f"{path}.conv1", None)
            stream = begin(f"{path}.conv_shortcut", stream) if shortcut else stream
            layers[f"{path}.conv2"] = (None, stream)
        elif kind == "attention":
            norms[f"{path}.group_norm"] = stream
            layers[f"{path}.to_out.0"] = (None, stream)
        elif kind == "leave":
            norms[f"{path}.conv_norm_out"] = stream
        else:
            stream = begin(f"{path}.conv", stream)
    return Streams(layers, norms)


def _is_known(step: Step, module: Any) -> bool:
    """Returns whether a module computes the step that its weights' names tell, and leaves a stream's scale alone."""
    if step.kind == "residual":
        plain = module.time_emb_proj is None and module.time_embedding_norm in _WITHOUT_TIME
        kept = not module.upsample and not module.downsample and module.output_scale_factor == 1.0
        return plain and kept and _are_norms(module.norm1, module.norm2) and _are_silu(module.nonlinearity)
    if step.kind == "attention":
        plain = module.residual_connection and module.rescale_output_factor == 1.0 and module.heads == 1
        return plain and module.spatial_norm is None and _are_norms(module.group_norm)
    if step.kind in ("down", "up"):
        return type(module).__name__ in ("Downsample2D", "Upsample2D") and module.norm is None
    return step.kind == "enter" or (_are_norms(module.conv_norm_out) and _are_silu(module.conv_act))


def _are_norms(*modules: Any) -> bool:
    from torch import nn

    return all(isinstance(module, nn.GroupNorm) for module in modules)


def _are_silu(*modules: Any) -> bool:
    from torch import nn

    return all(isinstance(module, nn.SiLU) for module in modules)
