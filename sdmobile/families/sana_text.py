"""How SANA makes features of a text: behind an instruction, of whose tokens only the first and the last are kept.

    ids = tokens(instruction + text), filled up to L = I + 300 − 2        I tokens of the instruction, with <bos>
    c = [h₀, h_{L−299}, …, h_{L−1}]                                       h of Gemma 2, [L, D]

Xie et al., "SANA", arXiv 2410.10629, section 2.3. The instruction is that of Diffusers' SanaPipeline and
SanaSprintPipeline (`complex_human_instruction`, Apache 2.0): networks were trained with it, so that every word counts.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sdmobile.families import gemma2
from sdmobile.families.tokenizer_kinds import GEMMA

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS = 300
"""Rows of features that the denoiser takes, the first token's included."""
INSTRUCTION = "\n".join(
    (
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for "
        "image generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
        "relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
        "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing "
        "street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering "
        "glass skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:",
        "User Prompt: ",
    )
)
"""What is put before every text."""
TOKENIZER = dataclasses.replace(GEMMA, lowers=True, instruction=INSTRUCTION)
"""Gemma's, of texts in small letters behind the instruction."""
TEXT_ENCODER = gemma2.text_encoder(ROWS)
"""Takes all tokens and returns the rows that the denoiser takes."""


def mask_of(token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns 1 for each kept row that is no padding, else 0, [1, 300].

    Args:
        token_ids: of the instruction and a text, [1, L].
    """
    import numpy as np

    kept = np.concatenate([token_ids[:, :1], token_ids[:, 1 - ROWS :]], axis=1)
    return (kept != gemma2.PAD).astype(np.float32)
