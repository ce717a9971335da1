"""What a browser can hold of a bundle, before a phone downloads anything.

A file stays in the runtime's WebAssembly memory after it was compiled. Measured with LiteRT.js 2.5.3 in Chromium on the
18.6 MiB UNet of shapes-64, in float16, loaded four times: 4.8 times the file for each, 2.7 times with weights placed in
the runtime's own file system. Its builds declare at most 2 GiB. What an iPhone's browser gives is not known well:
WebKit ends a page at some 1.5 GB in all, so 1 GiB is reckoned with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdmobile.basics.words import size

PLAIN_FACTOR = 4.8
EXTERNAL_FACTOR = 2.7
LIMIT_BYTES = 2 << 30
IOS_LIMIT_BYTES = 1 << 30


def memory_figures() -> dict[str, Any]:
    """Returns the figures of a job, by which the page refuses before it downloads."""
    return {
        "plain_factor": PLAIN_FACTOR,
        "external_factor": EXTERNAL_FACTOR,
        "limit_bytes": LIMIT_BYTES,
        "ios_limit_bytes": IOS_LIMIT_BYTES,
    }


def what_fits(parts: Mapping[str, Sequence[int]]) -> list[str]:
    """Returns lines about what a browser is predicted to hold.

    Args:
        parts: bytes of each file of a component, by component; several files are loaded one after the other.
    """
    together = PLAIN_FACTOR * sum(sum(sizes) for sizes in parts.values())
    largest = PLAIN_FACTOR * max(max(sizes) for sizes in parts.values())
    lines = []
    for where, limit in (("Android", LIMIT_BYTES), ("iPhone", IOS_LIMIT_BYTES)):
        told = f"memory, predicted ({PLAIN_FACTOR} × the files), {where}, of {size(limit)}:"
        if together <= limit:
            lines.append(f"{told} {size(together)} for all at once; fits")
        elif largest <= limit:
            lines.append(
                f"{told} {size(together)} for all at once do not fit, so no picture; one file at a time takes "
                f"{size(largest)} and fits"
            )
        else:
            names = [name for name, sizes in parts.items() if PLAIN_FACTOR * max(sizes) > limit]
            lines.append(f"{told} not even a file of {', '.join(names)} fits; export with more --chunks")
    return lines
