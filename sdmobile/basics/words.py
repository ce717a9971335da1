"""Numbers and errors as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from sdmobile.errors import SdmobileError

_SPELLINGS = {"unet": "UNet", "vae": "VAE", "controlnet": "ControlNet", "clip": "CLIP", "t5": "T5"}
UNKNOWN = "–"


def size(count: float | None) -> str:
    """Returns bytes in binary units, as file managers and memory meters count."""
    if count is None:
        return UNKNOWN
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def megabytes(count: int) -> str:
    """Returns a number of bytes for people, in decimal units as phones and file managers use them."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} GB"
    if count >= 10**6:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB"


def gigabytes(count: int) -> str:
    """Returns what memory is counted in on phones, "2.4 GB" (10⁹ bytes), without digits that no plan has."""
    return f"{count / 1e9:.1f} GB" if count >= 5e7 else f"{count / 1e6:.0f} MB"


def seconds(value: float | None) -> str:
    """Returns a duration, in minutes from two minutes on."""
    if value is None:
        return UNKNOWN
    if value >= 120:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return f"{value:.0f} s" if value >= 20 else f"{value:.2f} s"


def short_time(value: float | None) -> str:
    """Returns a computed time with three digits: "1.23 s", "45.6 ms", "7.8 µs"."""
    if value is None:
        return "unknown"
    for scale, name in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.3g} {name}" if value < 100 * scale else f"{value / scale:.0f} {name}"
    return f"{value * 1e6:.3g} µs"


def decibels(value: float | None) -> str:
    """Returns a level in dB; a missing or non-finite one as a dash."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.1f} dB"


def lowest(values: Sequence[float | None]) -> float | None:
    """Returns the smallest level, or None where one is missing or not finite, since that is worse than any."""
    if not values or any(value is None or not math.isfinite(value) for value in values):
        return None
    return min(value for value in values if value is not None)


def number(value: float | None) -> str:
    """Returns a small number with three digits."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.2e}"


def similarity(value: float | None) -> str:
    """Returns a cosine as its distance from 1, where the digits are."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"1 − {max(0.0, 1.0 - value):.1e}" if value > 0.99 else f"{value:.4f}"


def figure(value: float | None) -> str:
    """Returns any number with four digits at most."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.4g}"


def ssim(value: float | None) -> str:
    """Returns a structural similarity with four digits."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.4f}"


def growth(value: Mapping[str, Any] | None) -> str:
    """Returns how an error grew along a trajectory, and where it grew most."""
    if value is None:
        return UNKNOWN
    return f"×{value['factor']:.3g}, most at step {value['worst_step']} (×{value['worst_factor']:.3g})"


def caption(value: Mapping[str, Any] | None) -> str:
    """Returns whether a picture still shows what its caption says."""
    if value is None:
        return UNKNOWN
    if not value["wrong"]:
        return "obeyed"
    return "not obeyed by the reference either" if value["reference_wrong"] else "no longer obeyed"


def count(value: int | None) -> str:
    """Returns an integer with thin spaces between groups of three digits."""
    return UNKNOWN if value is None else f"{value:,}".replace(",", "\u202f")


def title(component: str) -> str:
    """Returns a component's name as a heading: "vae_decoder" is "VAE decoder"."""
    words = [_SPELLINGS.get(word, word) for word in component.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def nearest(word: object, known: Iterable[str]) -> str | None:
    """Returns "Did you mean NAME?" with the known name that is most like a word, None if none is, or if it is one."""
    names = {name.lower(): name for name in known}
    near = get_close_matches(str(word).lower(), names, 1, 0.6)
    return f"Did you mean {names[near[0]]}?" if near and names[near[0]] != word else None


def meant(word: object, known: Iterable[str], rest: str) -> str:
    """Returns what to do about a word that is none of the known ones: the nearest one, if any, and the rest."""
    near = nearest(word, known)
    return rest if near is None else f"{near} {rest}"


def grouped_rewrites(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Joins the records of one rule that had the same outcome for the same reason.

    Returns:
        Rows with rule, exactness, outcome, reason, count and the modules it happened in.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in records:
        key = tuple(record.get(field) for field in ("rule", "exactness", "outcome", "reason"))
        row = rows.setdefault(
            key,
            {"rule": key[0], "exactness": key[1], "outcome": key[2], "reason": key[3], "count": 0, "modules": []},
        )
        if record.get("outcome") != "unmatched":
            row["count"] += 1
        module = record.get("module") or record.get("node")
        if module and module not in row["modules"]:
            row["modules"].append(module)
    return list(rows.values())


def scaled_streams(record: Mapping[str, Any]) -> str | None:
    """Returns what was done to keep a component within float16's range, None where nothing was."""
    streams = (record.get("float16_scales") or {}).get("streams") or ()
    if not streams:
        return None
    exponents = sorted({entry["exponent"] for entry in streams})
    powers = f"2^-{exponents[0]}" if len(exponents) == 1 else f"2^-{exponents[0]} to 2^-{exponents[-1]}"
    largest = max(entry["largest"] for entry in streams)
    kinds = "1 stream of values was" if len(streams) == 1 else f"{len(streams)} streams of values were"
    return (
        f"{kinds} scaled by {powers}, exactly, in weights and epsilons: they reach {largest:.3g} in the checkpoint, "
        "and float16 ends at 65504"
    )


def describe(error: Exception) -> str:
    """Returns an error as one line; unexpected ones with their type."""
    return error.message() if isinstance(error, SdmobileError) else f"{type(error).__name__}: {error}"
