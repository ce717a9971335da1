"""Reads an app's JSON file and compares values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdmobile.basics.untrusted import UntrustedError, parse_json, read_bounded

if TYPE_CHECKING:
    from sdmobile.families.family import Family
    from sdmobile.formats.bundle.reading import Bundle

_MOST_BYTES = 1 << 26
_RELATIVE = 1e-9
_LONGEST = 60


def app_document(bundle: Bundle, family: Family, name: str) -> Mapping[str, Any] | str | None:
    """Returns a JSON file for apps that run the loop themselves, or a sentence that says why it could not be read.

    Returns None where there need not be one: for a witness, for a target whose usual app has all that built in, and for
    a bundle that has no denoiser.
    """
    file = bundle.files.get(name)
    if file is None:
        usual = bundle.target == "onnx" or bundle.target in family.app_use
        return None if usual or family.denoiser.name not in bundle.components else f"{name} is missing"
    try:
        document = parse_json(read_bounded(file, _MOST_BYTES))
    except UntrustedError as error:
        return f"{name} is no JSON that an app reads: {error}"
    return document if isinstance(document, dict) else f"{name} holds no JSON object"


def differences(stated: Mapping[str, Any], expected: Mapping[str, Any], place: str = "") -> list[str]:
    """Returns a sentence for each expected entry that is missing or other than stated, entries inside included.

    Whole numbers are compared exactly, others with a relative tolerance of 1e-9.
    """
    found: list[str] = []
    for key, value in expected.items():
        path = f"{place}.{key}" if place else str(key)
        if key not in stated:
            found.append(f"{path} is missing; the checkpoint says {_short(value)}")
        elif isinstance(value, Mapping) and isinstance(stated[key], Mapping):
            found += differences(stated[key], value, path)
        elif not alike(stated[key], value):
            found.append(f"{path} is {_short(stated[key])}; the checkpoint says {_short(value)}")
    return found


def alike(stated: Any, expected: Any) -> bool:
    """Whether two JSON values are the same, numbers but for rounding."""
    if _is_number(stated) and _is_number(expected) and float in (type(stated), type(expected)):
        return bool(stated == expected or math.isclose(stated, expected, rel_tol=_RELATIVE))
    if isinstance(stated, list | tuple) and isinstance(expected, list | tuple):
        return len(stated) == len(expected) and all(map(alike, stated, expected))
    if isinstance(stated, Mapping) and isinstance(expected, Mapping):
        return stated.keys() == expected.keys() and all(alike(stated[key], expected[key]) for key in expected)
    return type(stated) is type(expected) and bool(stated == expected)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
