"""Whether recorded calls beside a bundle, which may be anybody's, are such as its files take and the page can draw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.validate.page_picture import has_table
from sdmobile.validate.thresholds import IMAGE_DB

if TYPE_CHECKING:
    from sdmobile.formats.bundle.contracts import TensorSpec
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent

_MOST_SIDE = 1 << 14
_MOST_SEED = 2**32 - 1
_LONGEST = 4000
"""Of a text that comes back with the results (`LONGEST` in web/src/phone/document.js)."""


def check_content(bundle: Bundle, document: Mapping[str, Any], data: bytes) -> None:
    """Checks calls, tokens and picture of golden.json.

    Args:
        bundle: whose files take the calls.
        document: golden.json.
        data: golden.bin.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: something is not as sdmobile writes it.
    """
    for call in _list(document["calls"]):
        _text(call["label"])
        file = bundle.components.get(_text(call["component"]))
        if file is None:
            raise ValueError(f"a call of {call['component']}, which the bundle lacks")
        _check_call(file, call, len(data))
    for entry in _list(document["tokens"]):
        _text(entry["text"])
        for number in _list(entry["ids"]):
            _number(number, 1 << 31)
    if document["picture"] is not None:
        _check_picture(bundle, document["picture"], data)


def _check_call(file: BundleComponent, call: Mapping[str, Any], most: int) -> None:
    """Checks that a call has what the file, or the parts of it together, take and give, and nothing else."""
    parts = file.chain or (file,)
    made = {spec.canonical for part in parts for spec in part.contract.outputs}
    taken = {spec.name: spec for part in parts for spec in part.contract.inputs}
    needed = {name for name, spec in taken.items() if spec.canonical not in made}
    given = {spec.name: spec for spec in parts[-1].contract.outputs}
    if not needed <= set(call["inputs"]) <= set(taken) or set(call["outputs"]) != set(given):
        raise ValueError(f"other inputs or outputs than those of {file.name}")
    for entries, specs in ((call["inputs"], taken), (call["outputs"], given)):
        for name, entry in entries.items():
            _check_array(entry, specs[name], most)


def _check_array(entry: Mapping[str, Any], spec: TensorSpec, most: int) -> None:
    if entry["dtype"] != spec.dtype or entry["shape"] != list(spec.shape):
        raise ValueError(f"{spec.name} is {spec.dtype} {spec.shape}")
    dtype = np.dtype(spec.dtype)
    _check_place(entry, int(np.prod(spec.shape)) * dtype.itemsize, most)


def _check_picture(bundle: Bundle, picture: Mapping[str, Any], data: bytes) -> None:
    expected = picture["expected"]
    sides, place = (expected["width"], expected["height"]), expected["pixels"]
    if not all(_number(side, _MOST_SIDE) for side in sides):
        raise ValueError("sides that no picture has")
    _check_place(place, 3 * sides[0] * sides[1], len(data))
    pixels = data[place["offset"] : place["offset"] + place["bytes"]]
    if hashlib.sha256(pixels).hexdigest() != expected["sha256"]:
        raise ValueError("other pixels than were drawn")
    if expected["psnr_db"] != IMAGE_DB:  # how near is near enough is not the bundle's to say
        raise ValueError(f"{expected['psnr_db']} dB are asked, not {IMAGE_DB}")
    _text(picture["prompt"])
    _text(picture["negative_prompt"])
    _number(picture["seed"], _MOST_SEED)
    if type(picture["guidance_scale"]) not in (int, float):
        raise TypeError("the guidance is a number")
    if not has_table(bundle, _number(picture["steps"], 1000)):
        raise ValueError(f"there is no table for {picture['steps']} steps")


def _check_place(place: Mapping[str, Any], size: int, most: int) -> None:
    offset = _number(place["offset"], most)
    if place["bytes"] != size or offset + size > most:
        raise ValueError("an array outside the file")


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a whole number from 0 to {most}, not {value!r}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise TypeError(f"a text of at most {_LONGEST} characters")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"a list, not {type(value).__name__}")
    return value
