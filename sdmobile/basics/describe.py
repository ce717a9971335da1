"""Words that several checks share."""

from __future__ import annotations

from sdmobile.errors import SdmobileError


def describe(error: Exception) -> str:
    """Returns an error as one line; unexpected ones with their type."""
    return error.message() if isinstance(error, SdmobileError) else f"{type(error).__name__}: {error}"
