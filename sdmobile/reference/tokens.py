"""The tokenizer of a bundle or checkpoint folder."""

from __future__ import annotations

from sdmobile.checkpoints.tokenizers import tokenizer_from

__all__ = ["tokenizer_from"]
