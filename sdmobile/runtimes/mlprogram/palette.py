"""Look-up tables of few bits, decoded several elements at a time from the packed bytes.

Unpacking indices to one byte each and then looking up one after the other costs a full-size UNet of 6 bits more than a
minute. Here a word of 8 or 12 bits, which holds a whole number of indices, is looked up in a table of all its values.
"""

from __future__ import annotations

import math

import numpy as np

_WORDS_AT_ONCE = 1 << 20
_WORTH_IT = 4
"""Elements per entry of a table of words from which building that table pays."""


def lookup(packed: np.ndarray, bits: int, tables: np.ndarray, count: int) -> np.ndarray | None:
    """Returns table values for packed indices, or None where the plain way is as good.

    Args:
        packed: indices packed from the least significant bit upwards, uint8.
        bits: 1, 2, 3, 4, 6 or 8.
        tables: [T, 2**bits]; table t belongs to the t-th run of count / T elements.
        count: number of elements.

    Returns:
        Array [count] of the type of the tables.
    """
    word = 8 if 8 % bits == 0 else 12
    run = count // len(tables)
    # Each run must consist of whole words and whole bytes.
    if run * len(tables) != count or run * bits % (24 if word == 12 else 8):
        return None
    if run < _WORTH_IT * (1 << word):
        return None
    values = np.empty(count, tables.dtype)
    step = run * bits // 8
    for t, table in enumerate(tables):
        words = _table_of_words(table, bits, word)
        _fill(values[t * run : (t + 1) * run], packed[t * step : (t + 1) * step], words, word)
    return values


def _table_of_words(table: np.ndarray, bits: int, word: int) -> np.ndarray:
    """Returns [2**word, word / bits]: the values of every word."""
    numbers = np.arange(1 << word, dtype=np.uint32)[:, None]
    return table[(numbers >> np.arange(0, word, bits, dtype=np.uint32)) & np.uint32((1 << bits) - 1)]


def _fill(values: np.ndarray, packed: np.ndarray, words: np.ndarray, word: int) -> None:
    per_word = words.shape[1]
    rows = values.reshape(-1, per_word)
    indices = packed if word == 8 else packed.reshape(-1, 3)
    per_index = 1 if word == 8 else 2
    step = _WORDS_AT_ONCE // per_index
    for start in range(0, len(indices), step):
        part = indices[start : start + step]
        chosen = part if word == 8 else _twelve_bits(part)
        # "clip" does without a check of bounds, which no word can exceed.
        np.take(words, chosen, axis=0, out=rows[start * per_index :][: len(chosen)], mode="clip")


def _twelve_bits(packed: np.ndarray) -> np.ndarray:
    """Returns the two words of 12 bits in each three bytes."""
    wide = packed.astype(np.uint16)
    words = np.empty((len(packed), 2), np.uint16)
    words[:, 0] = wide[:, 0] | (wide[:, 1] & 15) << 8
    words[:, 1] = wide[:, 1] >> 4 | wide[:, 2] << 4
    return words.reshape(-1)


def packed_lookup(packed: np.ndarray, bits: int, lut: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Decodes `constexpr_lut_to_dense` of iOS 18 from packed indices, or returns None where `lookup` does not apply.

    Args:
        packed: bytes of the indices.
        bits: width of an index.
        lut: [blocks..., 2**bits, 1].
        shape: shape of the indices.
    """
    blocks, (entries, vector) = lut.shape[:-2], lut.shape[-2:]
    along_first = all(count == 1 for count in blocks[1:])
    if vector != 1 or entries != 1 << bits or len(blocks) != len(shape) or not along_first or shape[0] % blocks[0]:
        return None
    values = lookup(packed, bits, lut.reshape(-1, entries), math.prod(shape))
    return None if values is None else values.reshape(shape)
