"""Kinds of tokenizers, as families state them: which files hold one, and what is done to a text before it is split."""

from __future__ import annotations

from dataclasses import dataclass

from sdmobile.families import clip, gemma2, t5

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
        class_name: of Transformers, that reads it.
        files: those that make a folder a tokenizer; `tokenizer.json` alone always does.
        where: a sentence on where the usual one is found.
        model: what `tokenizer.json` calls the way of splitting; None for CLIP's, which is kept in plain files.
        pad: identifier that fills up a text, None for the one that the files say.
        padding_side: "right" where a text is filled up at its end whatever the files say.
        takes_words: whether learned words may be added.
        lowers: whether a text becomes lower case, without white space at both ends, before it is split.
        instruction: is put before every text that was so prepared.
    """

    name: str
    title: str
    class_name: str
    files: tuple[str, ...]
    where: str
    model: str | None = None
    pad: int | None = None
    padding_side: str | None = None
    takes_words: bool = False
    lowers: bool = False
    instruction: str = ""

    def prepared(self, text: str) -> str:
        """Returns a text as the tokenizer is given it."""
        return self.instruction + (text.lower().strip() if self.lowers else text)

    @property
    def preparation(self) -> str | None:
        """What an app does to a text first, None for nothing."""
        steps = ["lower case, then without white space at both ends"] if self.lowers else []
        steps += ["then `instruction` is put before it"] if self.instruction else []
        return "; ".join(steps) or None

    @property
    def forms(self) -> str:
        """Files of which one or all make a folder a tokenizer of the kind."""
        own = " and ".join(self.files)
        return WHOLE if own == WHOLE else f"{own}, or with {WHOLE}"

    @property
    def rule(self) -> str:
        """What a folder of the kind holds."""
        return f"a tokenizer is a folder with {self.forms}"


CLIP = TokenizerKind(
    "clip",
    "CLIP byte-pair encoding, lower case",
    "CLIPTokenizer",
    clip.TOKENIZER_FILES,
    clip.WHERE_TO_FIND,
    takes_words=True,
)
T5 = TokenizerKind(
    "t5",
    "SentencePiece unigram, of T5",
    "T5Tokenizer",
    (SENTENCEPIECE,),
    "It is the folder `tokenizer` of the checkpoint's repository, or the tokenizer of google/t5-v1_1-xxl",
    model="Unigram",
    pad=t5.PAD,
)
GEMMA = TokenizerKind(
    "gemma",
    "byte-pair encoding with single bytes for what is unknown, of Gemma",
    "GemmaTokenizer",
    (WHOLE,),
    "It is the folder `tokenizer` of the checkpoint's repository, or the tokenizer of google/gemma-2-2b-it",
    model="BPE",
    pad=gemma2.PAD,
    padding_side="right",
)
