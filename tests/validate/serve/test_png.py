"""The reader of pictures, beside Pillow's writer, every filter, and damage of every kind."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from sdmobile.validate.serve.png import MAGIC, PictureError, png_pixels
from tests.validate.serve.site import png_of

_WIDTH, _HEIGHT = 13, 9


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _picture(channels: int = 3) -> np.ndarray:
    pixels = np.random.default_rng(channels).integers(0, 256, (_HEIGHT, _WIDTH, channels), np.uint8)
    if channels == 4:
        pixels[..., 3] = 255
    return pixels


def _filtered(pixels: np.ndarray, kind: int) -> bytes:
    """Returns the rows as the specification's section 9.2 writes them, in plain numbers."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, width * channels).astype(int)
    result = bytearray()
    for y in range(height):
        result.append(kind)
        for x in range(width * channels):
            a = rows[y, x - channels] if x >= channels else 0
            b = rows[y - 1, x] if y else 0
            c = rows[y - 1, x - channels] if y and x >= channels else 0
            p = a + b - c
            nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            guess = (0, a, b, (a + b) // 2, nearest)[kind]
            result.append((rows[y, x] - guess) % 256)
    return bytes(result)


def _file(rows: bytes, header: tuple[int, ...] = (_WIDTH, _HEIGHT, 8, 2, 0, 0, 0), pieces: int = 1) -> bytes:
    packed = zlib.compress(rows)
    cut = -(-len(packed) // pieces)
    data = b"".join(_chunk(b"IDAT", packed[i : i + cut]) for i in range(0, len(packed), cut))
    return MAGIC + _chunk(b"IHDR", struct.pack(">IIBBBBB", *header)) + data + _chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", range(5))
def test_every_filter(kind: int, channels: int) -> None:
    pixels = _picture(channels)
    header = (_WIDTH, _HEIGHT, 8, 2 if channels == 3 else 6, 0, 0, 0)
    found = png_pixels(_file(_filtered(pixels, kind), header, pieces=3), _WIDTH, _HEIGHT)
    np.testing.assert_array_equal(found, pixels[..., :3])


@pytest.mark.parametrize("channels", [3, 4])
def test_what_pillow_writes(channels: int) -> None:
    flat = np.full((40, 30, channels), 255, np.uint8)
    flat[5:20, 7:] = _picture(channels)[0, 0]
    for pixels in (_picture(channels), flat):
        found = png_pixels(png_of(pixels), pixels.shape[1], pixels.shape[0])
        np.testing.assert_array_equal(found, pixels[..., :3])


_GOOD = _filtered(_picture(), 0)
_BAD = {
    "no PNG": b"GIF89a",
    "it ends too early": _file(_GOOD)[:-12],
    "a chunk is damaged": _file(_GOOD)[:20] + b"x" + _file(_GOOD)[21:],
    "it has no header": MAGIC + _chunk(b"IEND", b""),
    "14 × 9 pixels": _file(_GOOD, (14, 9, 8, 2, 0, 0, 0)),
    "4294967295 × 9 pixels": _file(_GOOD, (2**32 - 1, 9, 8, 2, 0, 0, 0)),
    "other than 8 bits": _file(_GOOD, (_WIDTH, _HEIGHT, 16, 2, 0, 0, 0)),
    "row by row": _file(_GOOD, (_WIDTH, _HEIGHT, 8, 2, 0, 0, 1)),
    "of RGB or RGBA": _file(_GOOD, (_WIDTH, _HEIGHT, 8, 3, 0, 0, 0)),
    "more or fewer pixels": _file(_GOOD[:-1]),
    "a row with the filter 5": _file(b"\x05" + _GOOD[1:]),
    "transparent": _file(_filtered(np.zeros((_HEIGHT, _WIDTH, 4), np.uint8), 0), (_WIDTH, _HEIGHT, 8, 6, 0, 0, 0)),
    "cannot be unpacked": MAGIC
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", _WIDTH, _HEIGHT, 8, 2, 0, 0, 0))
    + _chunk(b"IDAT", b"no zlib")
    + _chunk(b"IEND", b""),
}


@pytest.mark.parametrize("words", _BAD)
def test_what_is_no_such_picture(words: str) -> None:
    with pytest.raises(PictureError, match=words):
        png_pixels(_BAD[words], _WIDTH, _HEIGHT)


def test_a_bomb_is_not_unpacked() -> None:
    """200 MB of zeros in 200 kB: as much as the picture has is unpacked, and one byte."""
    import tracemalloc

    bomb = _file(bytes(200 << 20))
    tracemalloc.start()
    with pytest.raises(PictureError, match="more or fewer pixels"):
        png_pixels(bomb, _WIDTH, _HEIGHT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_any_damage_is_a_picture_error_or_a_picture() -> None:
    random = np.random.default_rng(0)
    good = png_of(_picture())
    for _ in range(500):
        data = bytearray(good)
        for place in random.integers(0, len(data), random.integers(1, 4)):
            data[place] = random.integers(0, 256)
        try:
            assert png_pixels(bytes(data[: random.integers(0, len(data) + 1)]), _WIDTH, _HEIGHT).shape == (9, 13, 3)
        except PictureError:
            continue
