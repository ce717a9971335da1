"""The tokenizer files of a bundle against the checkpoint's tokenizer: the whole vocabulary, and ids of many texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.checkpoints.tokenizers import tokenizer_from

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint
    from sdmobile.formats.bundle.reading import Bundle
    from sdmobile.reference.pipeline import PipelineSpec
    from sdmobile.validate.app_files import Findings

TEXTS = (
    "",
    " ",
    "a",
    "a photo of an astronaut riding a horse on mars",
    "A Photo OF an Astronaut, riding a HORSE!",
    "a large red circle in the center on a white background",
    "it's the artist's dog; they'd say \"don't\" (twice) [sic] {really}",
    "f/1.8, 35mm, 4k, 8K, ISO-400, #trending @artstation & co. 100%",
    "0 1 22 333 4444 55555 3.14159 1,000,000",
    "tab\there, newline\nthere,  two  spaces   and  a trailing one ",
    "naïve café, Ångström, Żółć, ﬁne, ½, №5, ™",
    "cafe\u0301 and caf\u00e9",
    "красная площадь зимой, вечер",
    "一只坐在月亮上的猫,水墨画",
    "ネオンの街、雨、夜",
    "قطة على القمر",
    "एक बाघ जंगल में",
    "🐱🚀 on the 🌕, 👩‍🎨 👍🏽 🇪🇺",
    "x²+y²=z², ∑∫√∞ ≈ ≠ ±",
    "<|startoftext|> in the middle <|endoftext|> and after",
    "<not a token> <|almost|> </w> ##",
    "a!!!!! b????? c..... -- --- ----",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "zqxjkvbp wvutsrq aaaaaaaaaaaaaaaaaaaaaaaa",
    "\u200bzero\u200bwidth\u00a0no-break\ufeff",
    ", ".join(["a very long prompt of many words"] * 20),
)
_SHOWN = 3
_BATCH = 1024


def tokenizer_findings(bundle: Bundle, _checkpoint: Checkpoint, spec: PipelineSpec) -> Findings:
    """Compares the vocabulary, added tokens, padding, and ids of texts, of every word of the vocabulary too."""
    expected = spec.tokenizer()
    try:
        found = tokenizer_from(bundle.tokenizer_dir, kind=spec.family.tokenizer_kind)
    except Exception as error:  # the tokenizer is native code and raises what it likes
        return [f"the tokenizer's files cannot be read: {error}"], {}
    faults = _vocabulary(found.get_vocab(), expected.get_vocab())
    faults += _merges(found, expected)
    if found.pad_token_id != expected.pad_token_id:
        faults.append(
            f"it pads with {found.pad_token!r} ({found.pad_token_id}), the checkpoint with "
            f"{expected.pad_token!r} ({expected.pad_token_id})"
        )
    wrong = [text for text, here, there in _ids(found, expected, spec.geometry.context_length) if here != there]
    if wrong:
        shown = ", ".join(repr(text[:30]) for text in wrong[:_SHOWN])
        faults.append(f"{len(wrong)} texts get other ids, such as {shown}")
    return faults, {"texts": len(TEXTS), "words": len(expected.get_vocab())}


def _vocabulary(found: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    other = [word for word, number in expected.items() if found.get(word) != number]
    more = [word for word in found if word not in expected]
    faults = []
    if other:
        first = other[0]
        stated = f"{found[first]}" if first in found else "not there"
        faults.append(f"{len(other)} words have another number, such as {first!r}: {stated}, not {expected[first]}")
    if more:
        faults.append(f"{len(more)} words are not the checkpoint's, such as {more[0]!r}")
    return faults


def _merges(found: Any, expected: Any) -> list[str]:
    """Compares what decides between possible splits: merges in their order, or pieces with their scores."""
    models = [json.loads(tokenizer.backend_tokenizer.to_str())["model"] for tokenizer in (found, expected)]
    if [model.get("type") for model in models] == ["Unigram", "Unigram"]:
        scores = [dict(map(tuple, model["vocab"])) for model in models]
        other = [piece for piece, score in scores[1].items() if scores[0].get(piece) != score]
        return [f"{len(other)} pieces have another score, such as {other[0]!r}"] if other else []
    here, there = (model.get("merges", []) for model in models)
    if here == there:
        return []
    first = next((i for i, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), None)
    where = f"{len(here)} for {len(there)}" if first is None else f"the first is number {first + 1}"
    return [f"its merges are others than the checkpoint's: {where}"]


def _ids(found: Any, expected: Any, length: int) -> Iterator[tuple[str, list[int], list[int]]]:
    """Yields texts, and words of the vocabulary, with the padded ids that both tokenizers give."""
    words = [word.removesuffix("</w>").replace("\u2581", " ") for word in expected.get_vocab()]
    added = [f"a picture of {token} on mars" for token in expected.get_added_vocab()]
    texts = list(dict.fromkeys([*TEXTS, *added, *words]))
    settings = {"padding": "max_length", "max_length": length, "truncation": True}
    for start in range(0, len(texts), _BATCH):
        batch = texts[start : start + _BATCH]
        yield from zip(
            batch, found(batch, **settings)["input_ids"], expected(batch, **settings)["input_ids"], strict=True
        )
