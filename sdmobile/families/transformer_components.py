"""Components that families of transformers have alike: what encodes the tokens of a text, and what denoises patches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.families.autoencoder import latent_shape
from sdmobile.families.component import Component, FileNames, Kind, Role, Value

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdmobile.formats.bundle.contracts import Geometry

    Wrap = Callable[[nn.Module, bool], nn.Module]
    Reference = Callable[[Any, Mapping[str, Tensor]], Tensor]

VELOCITY = "Velocity for each row, before guidance"
NOISE_LEVEL = "1000 times the noise level, the same in every row"


def text_context(description: str = "Text features, {rows}") -> Value:
    """Returns the input of a denoiser that has the features of a text's tokens."""
    return Value(
        "encoder_hidden_states",
        Kind.CONTEXT,
        lambda g: (g.batch, g.context_length, g.context_dim),
        description,
    )


def token_encoder(
    filled: str,
    output: str,
    description: str,
    wrap: Wrap,
    reference: Reference,
    rows: Callable[[Geometry], int] = lambda g: g.context_length,
) -> Component:
    """Returns the component `text_encoder`, of a network that takes identifiers and returns features.

    Args:
        filled: how a text is filled up, for people.
        output: name of the features.
        description: of them.
        wrap, reference: as `Component` has them.
        rows: of features.
    """
    return Component(
        name="text_encoder",
        role=Role.TEXT_ENCODER,
        model="text_encoder",
        summary="Text encoder: token ids to text features",
        inputs=(Value("input_ids", Kind.TOKEN_IDS, lambda g: (1, g.context_length), f"Token ids, {filled}"),),
        outputs=(Value(output, Kind.FEATURES, lambda g: (1, rows(g), g.context_dim), description),),
        files={
            "ios": FileNames("TextEncoder.mlpackage", "main", ("input_ids",), (output,)),
            "android": FileNames("text_encoder.tflite", "encode", ("tokens",), (output,)),
            "onnx": FileNames("text_encoder.onnx", "main", ("input_ids",), (output,)),
        },
        wrap=wrap,
        reference=reference,
    )


def patch_denoiser(
    summary: str, timestep: str, further: Sequence[Value], output: str, wrap: Wrap, reference: Reference
) -> Component:
    """Returns the component `transformer`, which takes latents, timesteps and what a family adds.

    Args:
        summary: what it makes of what, for people.
        timestep: what the timestep is, for people.
        further: the other inputs.
        output: what it returns, for people.
        wrap, reference: as `Component` has them.
    """
    inputs = (
        Value("sample", Kind.PIXELS, lambda g: (g.batch, *latent_shape(g)), "Noisy latents, {rows}"),
        Value("timestep", Kind.TIMESTEPS, lambda g: (g.batch,), timestep),
        *further,
    )
    names, outputs = tuple(one.name for one in inputs), ("noise_pred",)
    return Component(
        name="transformer",
        role=Role.DENOISER,
        model="transformer",
        summary=f"Denoiser: {summary}",
        inputs=inputs,
        outputs=(Value(outputs[0], Kind.PIXELS, lambda g: (g.batch, *latent_shape(g)), output),),
        files={
            "ios": FileNames("Transformer.mlpackage", "main", names, outputs),
            "android": FileNames("transformer.tflite", "denoise", names, outputs),
            "onnx": FileNames("transformer.onnx", "main", names, outputs),
        },
        wrap=wrap,
        reference=reference,
    )
