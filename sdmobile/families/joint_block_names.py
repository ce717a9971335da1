"""Layers of Stable Diffusion 3 by their names in the original layout, as a LoRA of kohya's sd-scripts has them.

    lora_unet_joint_blocks_3_x_block_attn_qkv    attn.to_q, to_k and to_v of block 3: a third of the rows each
    lora_unet_final_layer_adaLN_modulation_1     norm_out.linear, whose scale comes before its shift here

Source: the conversion of Diffusers' single files (convert_sd3_transformer_checkpoint_to_diffusers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

    import numpy as np
    from numpy.typing import NDArray

_PREFIX = "lora_unet_"
_BLOCK = re.compile(r"joint_blocks_(0|[1-9][0-9]{0,3})_(x|context)_block_(.+)")
_QKV = {
    ("x", "attn_qkv"): ("attn.to_q", "attn.to_k", "attn.to_v"),
    ("x", "attn2_qkv"): ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    ("context", "attn_qkv"): ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_IN_BLOCK = {
    ("x", "attn_proj"): "attn.to_out.0",
    ("x", "attn2_proj"): "attn2.to_out.0",
    ("x", "mlp_fc1"): "ff.net.0.proj",
    ("x", "mlp_fc2"): "ff.net.2",
    ("x", "adaLN_modulation_1"): "norm1.linear",
    ("context", "attn_proj"): "attn.to_add_out",
    ("context", "mlp_fc1"): "ff_context.net.0.proj",
    ("context", "mlp_fc2"): "ff_context.net.2",
    ("context", "adaLN_modulation_1"): "norm1_context.linear",
}
_ELSEWHERE = {
    "x_embedder_proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder_mlp_0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder_mlp_2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder_mlp_0": "time_text_embed.text_embedder.linear_1",
    "y_embedder_mlp_2": "time_text_embed.text_embedder.linear_2",
    "final_layer_linear": "proj_out",
    "final_layer_adaLN_modulation_1": "norm_out.linear",
}


@dataclass(frozen=True)
class Rows:
    """Which rows of a LoRA's change are those of a weight: equal parts of them, in this order.

    Args:
        parts: numbers of the parts.
        of: how many there are.
    """

    parts: tuple[int, ...] = (0,)
    of: int = 1

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the whole change of which a weight of this shape, [o, …], has its rows."""
        if not shape or self.of == len(self.parts):
            return shape
        return (shape[0] * self.of // len(self.parts), *shape[1:])

    def divides(self, shape: tuple[int, ...]) -> bool:
        """Whether the rows of the whole change of a weight of this shape are equal parts."""
        whole = self.whole(shape)
        return self.of == 1 or (whole != () and whole[0] % self.of == 0)

    def take(self, change: NDArray[np.float32]) -> NDArray[np.float32]:
        """Returns the weight's rows of a whole change, whose rows divide into the parts (`divides`)."""
        import numpy as np

        if self.of == 1:
            return change

        split = np.split(change, self.of)
        return np.concatenate([split[number] for number in self.parts])


ALL, _SWAPPED = Rows(), Rows((1, 0), 2)


def layers_of(base: str, modules: Container[str]) -> tuple[tuple[str, Rows], ...]:
    """Returns the modules that a change belongs to, and which of its rows; nothing where its name is of no such form.

    Args:
        base: what the names of the change's tensors begin with.
        modules: of the transformer.
    """
    own = base.removeprefix(_PREFIX)
    if own in _ELSEWHERE:
        module = _ELSEWHERE[own]
        return ((module, _SWAPPED if module == "norm_out.linear" else ALL),)
    if (match := _BLOCK.fullmatch(own)) is None:
        return ()
    block, layer = f"transformer_blocks.{match[1]}", (match[2], match[3])
    if layer in _QKV:
        return tuple((f"{block}.{name}", Rows((number,), 3)) for number, name in enumerate(_QKV[layer]))
    if layer not in _IN_BLOCK:
        return ()
    # The last block reads its text only: a scale and a shift, which Diffusers has the other way round.
    last = f"{block}.attn.to_add_out" not in modules
    return ((f"{block}.{_IN_BLOCK[layer]}", _SWAPPED if last and _IN_BLOCK[layer] == "norm1_context.linear" else ALL),)
