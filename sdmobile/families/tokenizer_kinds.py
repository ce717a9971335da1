"""Kinds of tokenizers, as families state them: which files hold one, and what is done to a text before it is split."""

from __future__ import annotations

from dataclasses import dataclass

from sdmobile.families import clip

WHOLE = "tokenizer.json"
"""A tokenizer of any kind in one file, as Transformers 5 saves it."""
SENTENCEPIECE = "spiece.model"
"""The vocabulary of SentencePiece, with a score for each piece."""


@dataclass(frozen=True)
class TokenizerKind:
    """How texts become identifiers of tokens.

    Args:
        name: of the kind.
        title: says it in a bundle's metadata.
        files: without `tokenizer.json`, the files that make a folder a tokenizer.
        where: a sentence on where the usual one is found.
        takes_words: whether learned words may be added.
        lowers: whether a text becomes lower case, without white space at both ends, before it is split.
    """

    name: str
    title: str
    files: tuple[str, ...]
    where: str
    takes_words: bool = False
    lowers: bool = False

    def prepared(self, text: str) -> str:
        """Returns a text as the tokenizer is given it."""
        return text.lower().strip() if self.lowers else text

    @property
    def preparation(self) -> str | None:
        """What an app does to a text first, None for nothing."""
        return "lower case, then without white space at both ends" if self.lowers else None

    @property
    def rule(self) -> str:
        """What a folder of the kind holds."""
        return f"a tokenizer is a folder with {' and '.join(self.files)}, or with {WHOLE}"


CLIP = TokenizerKind(
    "clip", "CLIP byte-pair encoding, lower case", clip.TOKENIZER_FILES, clip.WHERE_TO_FIND, takes_words=True
)
T5 = TokenizerKind(
    "t5",
    "SentencePiece unigram, of T5",
    (SENTENCEPIECE,),
    "It is the folder `tokenizer` of the checkpoint's repository, or the tokenizer of google/t5-v1_1-xxl",
)
