"""Reads the one kind of PNG that a page sends, pixels of 8 bits in RGB or RGBA, without believing anything it says.

W3C's PNG specification, third edition: chunks (5), filters (9). What is larger than was asked for is not unpacked.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

MAGIC = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 6: 4}
_OPAQUE = 255


class PictureError(ValueError):
    """Bytes that are no such picture; the text says why."""


def png_pixels(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Returns the pixels of a picture, [H, W, 3].

    Args:
        data: the file.
        width, height: that it must have.

    Raises:
        PictureError: no PNG, of another size or kind, damaged, or not opaque.
    """
    if not data.startswith(MAGIC):
        raise PictureError("no PNG")
    header, packed = b"", []
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            header = content
        elif kind == b"IDAT":
            packed.append(content)
    channels = _channels(header, width, height)
    rows = _unpacked(b"".join(packed), height * (1 + width * channels)).reshape(height, 1 + width * channels)
    pixels = _unfiltered(rows, channels).reshape(height, width, channels)
    if channels == 4 and (pixels[..., 3] != _OPAQUE).any():
        raise PictureError("a picture with transparent pixels")
    return np.ascontiguousarray(pixels[..., :3])


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(MAGIC)
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + 8 + length]
        if len(content) < length or place + 12 + length > len(data):
            break
        (stated,) = struct.unpack_from(">I", data, place + 8 + length)
        if zlib.crc32(kind + content) != stated:
            raise PictureError("a chunk is damaged")
        yield kind, content
        if kind == b"IEND":
            return
        place += 12 + length
    raise PictureError("it ends too early")


def _channels(header: bytes, width: int, height: int) -> int:
    if len(header) != 13:
        raise PictureError("it has no header")
    found_width, found_height, depth, colour, packing, filters, interlaced = struct.unpack(">IIBBBBB", header)
    if (found_width, found_height) != (width, height):
        raise PictureError(f"{found_width} × {found_height} pixels; {width} × {height} were to be drawn")
    if depth != 8 or colour not in _CHANNELS or (packing, filters, interlaced) != (0, 0, 0):
        raise PictureError("other than 8 bits of RGB or RGBA, row by row")
    return _CHANNELS[colour]


def _unpacked(packed: bytes, size: int) -> NDArray[np.uint8]:
    unpacker = zlib.decompressobj()
    try:
        rows = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise PictureError(f"its pixels cannot be unpacked: {error}") from error
    if len(rows) != size or not unpacker.eof:
        raise PictureError("it has more or fewer pixels than its header says")
    return np.frombuffer(rows, np.uint8)


def _unfiltered(rows: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Returns the bytes of all rows, each from its difference to what is left of it and above it."""
    above = np.zeros(rows.shape[1] - 1, np.uint8)
    result = np.empty((len(rows), len(above)), np.uint8)
    for number, row in enumerate(rows):
        kind, values = int(row[0]), row[1:]
        if kind > 4:
            raise PictureError(f"a row with the filter {kind}")
        above = result[number] = _row(kind, values, above, channels)
    return result


def _row(kind: int, values: NDArray[np.uint8], above: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    if kind == 0:
        return values
    if kind == 1:
        return np.cumsum(values.reshape(-1, channels), axis=0, dtype=np.uint8).reshape(-1)
    if kind == 2:
        return values + above
    left, corner = [0] * channels, [0] * channels
    row: list[int] = []
    for place, (value, up) in enumerate(zip(values.tolist(), above.tolist(), strict=True)):
        channel = place % channels
        guess = (left[channel] + up) // 2 if kind == 3 else _nearest(left[channel], up, corner[channel])
        left[channel], corner[channel] = (value + guess) & 255, up
        row.append(left[channel])
    return np.array(row, np.uint8)


def _nearest(left: int, up: int, corner: int) -> int:
    """Returns Paeth's guess: which of the three is nearest to left + up − corner."""
    guess = left + up - corner
    distances = abs(guess - left), abs(guess - up), abs(guess - corner)
    return (left, up, corner)[distances.index(min(distances))]
