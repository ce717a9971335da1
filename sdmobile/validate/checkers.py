"""The checkers that `sdmobile validate` asks besides the comparisons of outputs."""

from __future__ import annotations

from pathlib import Path

from sdmobile.validate.extras import Checker


def standard_checkers(benchmark_model: Path | None = None, serial: str | None = None) -> dict[str, Checker]:
    """Returns what a bundle is asked, by name.

    Args:
        benchmark_model: LiteRT's benchmark program for Android, None to leave phones alone.
        serial: which connected phone.
    """
    checkers: dict[str, Checker] = {}
    if benchmark_model is not None:
        from sdmobile.validate.phone.checker import phone_checker

        checkers["adb"] = phone_checker(benchmark_model, serial)
    return checkers
