# Written by the lead on main, together with qwen3_encoder.py: do not write it again. Finish Gemma 2, then stop.
"""Qwen3 as a text encoder: Yang et al., arXiv 2505.09388; hidden states of chosen layers are the features of a text.

    h = h + O·softmax(n_q(q)·n_k(k)ᵀ/√d + mask)·V,  h = h + W₂·(silu(W₀·n(h)) · W₁·n(h))

n are norms without mean, n_q and n_k of each head; q and k are turned by their places, several heads share keys and
values, and a token attends to itself and those before it. Layers behind the last chosen one are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError, UnsupportedError
from sdmobile.families import clip, gemma2
from sdmobile.families.component import Component, Config, FileNames, Kind, Model, Role, Shapes, Value
from sdmobile.families.shapes import count_blocks

if TYPE_CHECKING:
    from torch import Tensor, nn

PAD = 151_643
"""Identifier of `<|endoftext|>`, which fills up a text at its end: what is masked."""
_LAYERS = "layers."
_BETA = 10_000.0
_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "attention_bias",
)
# What the forward pass is of, and what other values would mean.
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "hidden_act": ((None, "silu"), "another activation"),
    "use_sliding_window": ((None, False), "layers that do not see the whole text"),
    "rope_scaling": ((None,), "places that are scaled"),
}


def _turning(config: Config) -> Mapping[str, Any]:
    stated = config.get("rope_parameters")
    return stated if isinstance(stated, Mapping) else {}


def _theta(config: Config) -> float:
    """Returns the base of the frequencies, which older and newer configurations keep in different places."""
    return float(_turning(config).get("rope_theta", config.get("rope_theta", _BETA)))


def _build(config: Config) -> nn.Module:
    from transformers import Qwen3Config, Qwen3Model

    settings = {key: config[key] for key in _KEYS if key in config}
    made = Qwen3Config(**settings, rope_parameters={"rope_type": "default", "rope_theta": _theta(config)})
    module: Any = Qwen3Model(made)
    # Computed, and in no file; they have to hold numbers though weights do not yet.
    for name in ("inv_freq", "original_inv_freq"):
        frequencies = gemma2.frequencies(made.head_dim, _theta(config))
        module.rotary_emb.register_buffer(name, frequencies, persistent=False)
    return module


def _derive(shapes: Shapes) -> Config:
    facts: Config = {}
    if (token := shapes.get("embed_tokens.weight")) and len(token) == 2:
        facts |= {"vocab_size": token[0], "hidden_size": token[1]}
    if layers := count_blocks(shapes, _LAYERS):
        facts["num_hidden_layers"] = layers
    if (inner := shapes.get(f"{_LAYERS}0.mlp.gate_proj.weight")) and len(inner) == 2:
        facts["intermediate_size"] = inner[0]
    if (head := shapes.get(f"{_LAYERS}0.self_attn.q_norm.weight")) and len(head) == 1:
        facts["head_dim"] = head[0]
    return facts


def _check(class_name: str, config: Config) -> None:
    clip.MODEL.check(class_name, config)
    rule = "the text encoder must be Qwen3 as it was published"
    for key, (known, meaning) in _FIXED.items():
        if config.get(key) not in known:
            raise UnsupportedError(rule, f"{key} = {config[key]}: {meaning}")
    if (kind := _turning(config).get("rope_type", "default")) != "default":
        raise UnsupportedError(rule, f"rope_type = {kind}: places that are scaled")


def check_layers(config: Config, layers: tuple[int, ...]) -> None:
    """Raises CheckpointError unless an encoder has the layers whose hidden states are taken.

    Args:
        config: of the encoder.
        layers: numbers of hidden states, as `text_encoder` takes them.
    """
    count = config.get("num_hidden_layers")
    if type(count) is not int or any(not 0 < _position(layer, count) < count for layer in layers):
        raise CheckpointError(f"Qwen3 must have layers behind hidden states {layers}", f"{count} layers")


def _position(layer: int, count: int) -> int:
    """Returns how many layers a hidden state has behind it: Transformers counts from the embeddings on."""
    return layer if layer >= 0 else count + 1 + layer


def _reference(module: Any, inputs: Mapping[str, Tensor], layers: tuple[int, ...], pad: int) -> Tensor:
    import torch

    ids = inputs["input_ids"]
    mask = (ids != pad).long()
    out = module(input_ids=ids, attention_mask=mask, use_cache=False, output_hidden_states=True).hidden_states
    return torch.cat([out[layer] for layer in layers], dim=-1)


MODEL = Model(
    name="text_encoder",
    classes=("Qwen3Model", "Qwen3ForCausalLM"),
    build=_build,
    derive=_derive,
    check=_check,
    prefixes=(),
    sources=lambda shapes: {},
    base_config=lambda shapes, names: {},
    unused=("lm_head.",),
    within="model.",
)


def text_encoder(layers: tuple[int, ...], pad: int = PAD) -> Component:
    """Returns the component that encodes texts.

    Args:
        layers: numbers of the hidden states that are joined along the features, from the embeddings (0) on; negative
            ones from the end. The last one, which is under a norm, is none of them.
        pad: identifier that fills up a text.
    """

    def wrap(module: nn.Module, channels_last: bool) -> nn.Module:
        from sdmobile.families.qwen3_encoder import Qwen3TextEncoder

        config: Any = module.config
        return Qwen3TextEncoder(module, tuple(_position(layer, config.num_hidden_layers) for layer in layers), pad)

    outputs = ("hidden_states",)
    return Component(
        name="text_encoder",
        role=Role.TEXT_ENCODER,
        model=MODEL.name,
        summary="Text encoder: token ids to text features",
        inputs=(
            Value(
                "input_ids",
                Kind.TOKEN_IDS,
                lambda g: (1, g.context_length),
                f"Token ids, filled up at the end to the context length with {pad}, which is masked",
            ),
        ),
        outputs=(
            Value(
                outputs[0],
                Kind.FEATURES,
                lambda g: (1, g.context_length, g.context_dim),
                "Text features, one row per token; those of padding mean nothing",
            ),
        ),
        files={
            "ios": FileNames("TextEncoder.mlpackage", "main", ("input_ids",), outputs),
            "android": FileNames("text_encoder.tflite", "encode", ("tokens",), outputs),
            "onnx": FileNames("text_encoder.onnx", "main", ("input_ids",), outputs),
        },
        wrap=wrap,
        reference=lambda module, inputs: _reference(module, inputs, layers, pad),
    )
