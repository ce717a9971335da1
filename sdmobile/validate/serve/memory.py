"""What a browser can hold of a bundle, before a phone downloads anything.

A file stays in the runtime's WebAssembly memory after it was compiled. Measured with LiteRT.js 2.5.3 in Chromium on the
18.6 MiB UNet of shapes-64, in float16, loaded four times: 4.8 times the file for each, 2.7 times with weights placed in
the runtime's own file system. Weights of 8 bits are widened (in int8d 7.6 and 4.2 times the file), so that each of them
counts as two bytes; that is more than was measured (4.8 · 2 > 7.6).

Only the runtime's build for JSPI takes weights from there, which Chrome has from version 137 on and Safari has not. Its
builds declare at most 2 GiB. What an iPhone's browser gives is not known well: WebKit ends a page at some 1.5 GB in
all, so 1 GiB is reckoned with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdmobile.basics.words import size

if TYPE_CHECKING:
    from pathlib import Path

PLAIN_FACTOR = 4.8
EXTERNAL_FACTOR = 2.7
LIMIT_BYTES = 2 << 30
IOS_LIMIT_BYTES = 1 << 30

Parts = Mapping[str, Sequence[int]]
"""Bytes of each file of a component, by component; several files are loaded one after the other."""


def memory_figures() -> dict[str, Any]:
    """Returns the figures of a job, by which the page refuses before it downloads."""
    return {
        "plain_factor": PLAIN_FACTOR,
        "external_factor": EXTERNAL_FACTOR,
        "limit_bytes": LIMIT_BYTES,
        "ios_limit_bytes": IOS_LIMIT_BYTES,
    }


def fits_plainly(parts: Parts) -> bool:
    """Whether an Android phone's browser is predicted to hold all files at once, each with its weights inside."""
    return PLAIN_FACTOR * sum(map(sum, parts.values())) <= LIMIT_BYTES


def widened_bytes(path: Path) -> int:
    """Returns by how many bytes the weights of a `.tflite` file grow in the runtime's memory, before any factor."""
    from sdmobile.formats.tflite.reader import read_model

    graphs = read_model(path).graphs
    stored = {t.buffer: t for graph in graphs for t in graph.tensors if t.constant and t.dtype == "INT8"}
    return sum(tensor.elements for tensor in stored.values())


def held(entry: Mapping[str, Any]) -> float:
    """Returns the bytes that a browser holds of a file of a job, with its weights apart if they are served."""
    if (pieces := entry.get("external")) is None:
        return PLAIN_FACTOR * (entry["size"] + entry.get("widened", 0))
    apart = pieces["weights"]["size"] + entry.get("widened", 0)
    return PLAIN_FACTOR * pieces["model"]["size"] + EXTERNAL_FACTOR * apart


def what_fits(parts: Parts, apart: Mapping[str, Sequence[float]] | None = None) -> list[str]:
    """Returns lines about what a browser is predicted to hold.

    Args:
        parts: bytes of files.
        apart: bytes that are held of each if its weights are served apart, None if they are not.
    """
    inside = {name: [PLAIN_FACTOR * one for one in sizes] for name, sizes in parts.items()}
    plain = f"{PLAIN_FACTOR} × the files"
    lines = [_line(inside, plain, "Android", LIMIT_BYTES)]
    if apart is not None:
        told = f"{EXTERNAL_FACTOR} × weights apart, {PLAIN_FACTOR} × the rest"
        lines.append(_line(apart, told, "Android with JSPI (Chrome 137 or newer)", LIMIT_BYTES))
    return [*lines, _line(inside, plain, "iPhone", IOS_LIMIT_BYTES)]


def _line(parts: Mapping[str, Sequence[float]], how: str, where: str, limit: int) -> str:
    together = sum(map(sum, parts.values()))
    largest = max(map(max, parts.values()))
    told = f"memory, predicted ({how}), {where}, of {size(limit)}:"
    if together <= limit:
        return f"{told} {size(together)} for all at once; fits"
    if largest <= limit:
        return (
            f"{told} {size(together)} for all at once do not fit, so no picture; one file at a time takes "
            f"{size(largest)} and fits"
        )
    names = [name for name, sizes in parts.items() if max(sizes) > limit]
    return f"{told} not even a file of {', '.join(names)} fits; export with more --chunks"
