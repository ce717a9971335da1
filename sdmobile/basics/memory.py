"""Resident memory of this process, and the errors of libraries that could have no more."""

from __future__ import annotations

import re
import resource
import sys

_WORDS = re.compile(
    r"(can(no|')t|unable to) allocate|bad_alloc|out of memory|could not create a primitive", re.IGNORECASE
)


def resident_bytes() -> int:
    """Returns the present resident set of this process."""
    import psutil

    return psutil.Process().memory_info().rss


def peak_resident_bytes() -> int:
    """Returns the largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, says that there was no memory; PyTorch's are RuntimeErrors."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | OSError) and _WORDS.search(str(error))):
            return True
        error = error.__cause__ or error.__context__
    return False
