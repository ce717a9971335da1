"""Resident memory of this process."""

from __future__ import annotations

import resource
import sys


def resident_bytes() -> int:
    """Returns the present resident set of this process."""
    import psutil

    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int:
    """Returns the largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
