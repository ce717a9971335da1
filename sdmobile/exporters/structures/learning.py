"""From the files of a probe to a structure's files, proved on a second set of weights.

    files of the probe ─▶ which tensors differ from those of the proof ─▶ the binding of each ─▶ the proof's, too

What does not differ is a constant of the structure; what differs and has no binding is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.files import files_of
from sdmobile.errors import ComponentError
from sdmobile.exporters.structures.bindings import Binding, Step
from sdmobile.exporters.structures.matching import Parameters, bindings_of, same_bytes
from sdmobile.exporters.structures.slots import Slot, mapped, slots_of
from sdmobile.exporters.structures.structure import Segment, StoredFile
from sdmobile.exporters.structures.texts import cut_metadata, metadata_field, varint_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

Draw = Callable[[str], "NDArray[np.float32]"]
_MODEL_SUFFIX = ".mlmodel"
_MOST_INLINE = 64
"""Elements of a tensor that converters keep in the program itself."""
_SHOWN = 3


@dataclass(frozen=True)
class Weights:
    """One set of weights, and the files that were made of it.

    Args:
        folder: of the files.
        draw: returns a parameter by its name in the model.
    """

    folder: Path
    draw: Draw


def learn_files(
    names: Sequence[str], shapes: dict[str, tuple[int, ...]], probe: Weights, proof: Weights
) -> tuple[StoredFile, ...]:
    """Returns the files of a component as rows of segments.

    Args:
        names: of its files and packages, in the order of its hash.
        shapes: of the parameters, by name.
        probe: random weights, from which bindings are found.
        proof: other weights, on which each is tried.

    Raises:
        ComponentError: a stored tensor is neither a constant nor made of parameters in a known way; or the proof
            contradicts.
    """
    parameters = Parameters(shapes, probe.draw)
    return tuple(
        _learned(path, probe.folder / name, probe.folder, proof, parameters)
        for name in names
        for path in files_of(probe.folder / name)
    )


def _learned(path: Path, item: Path, root: Path, proof: Weights, parameters: Parameters) -> StoredFile:
    relative = path.relative_to(root)
    other = proof.folder / relative
    sizes = path.stat().st_size, other.stat().st_size
    if sizes[0] != sizes[1]:
        raise ComponentError(
            "a structure's files must have the same size for all weights",
            f"{relative}: {sizes[0]} and {sizes[1]} bytes",
        )
    content, proved = mapped(path), mapped(other)
    differs = np.frombuffer(content, np.uint8) != np.frombuffer(proved, np.uint8)
    metadata, marks = _texts(bytes(content)) if path.suffix == _MODEL_SUFFIX else ({}, [])
    for start, end, _ in marks:
        differs[start:end] = False  # an export puts its own texts there: the day may have changed between the two
    found = list(_bound_slots(slots_of(path, item), content, proved, differs, parameters, proof))
    if differs.any():
        found += _inline(content, proved, differs, parameters, proof)
    found.sort(key=lambda pair: pair[0].offset)
    if differs.any():
        places = np.flatnonzero(differs)
        raise ComponentError(
            "what depends on weights must be a stored tensor of known origin",
            f"{relative}: {len(places)} bytes from {places[0]} on",
        )
    segments, literal = _segments(content, found, marks)
    return StoredFile(relative.as_posix(), segments, literal, metadata, path.stat().st_mode & 0o755)


def _bound_slots(
    slots: Sequence[Slot],
    content: memoryview,
    proved: memoryview,
    differs: NDArray[np.bool_],
    parameters: Parameters,
    proof: Weights,
) -> Iterator[tuple[Slot, Binding]]:
    """Yields the stored tensors that depend on weights, and marks their bytes as explained."""
    found: list[tuple[Slot, list[Binding]]] = []
    for slot in slots:
        place = slice(slot.offset, slot.offset + slot.bytes)
        if differs[place].any():
            candidates = bindings_of(slot.read(content), parameters)
            found.append((slot, [one for one in candidates if _holds(one, slot, proved, proof)]))
            differs[place] = False
    unknown = [f"{slot.name} {slot.dtype}{list(slot.shape)}" for slot, candidates in found if not candidates]
    if unknown:
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise ComponentError(
            "a stored tensor must be a constant, or parameters under known transforms",
            ", ".join(unknown[:_SHOWN]) + more,
            "Add the transform to `exporters/structures/bindings.py`",
        )
    # Of a small tensor several scales may still be possible: a converter does alike everywhere.
    usual = Counter(_scales(one) for _, candidates in found for one in candidates)
    for slot, candidates in found:
        yield slot, max(candidates, key=lambda one: usual[_scales(one)])


def _scales(binding: Binding) -> tuple[Step, ...]:
    return tuple(step for step in binding.steps if step[0] == "scale")


def _holds(binding: Binding, slot: Slot, proved: memoryview, proof: Weights) -> bool:
    """Returns whether a binding gives the proof's bytes, too."""
    return same_bytes(binding.value([proof.draw(name) for name in binding.parameters]), slot.read(proved))


def _inline(
    content: memoryview, proved: memoryview, differs: NDArray[np.bool_], parameters: Parameters, proof: Weights
) -> Iterator[tuple[Slot, Binding]]:
    """Yields small parameters that lie in a program itself, found by their bytes where the files differ."""
    whole = bytes(content)
    for name, shape in parameters.shapes.items():
        if not 0 < prod(shape) <= _MOST_INLINE:
            continue
        for dtype in ("float16", "float32"):
            binding = Binding((name,), (("reshape", (prod(shape),)),) if len(shape) != 1 else (), dtype)
            needle = binding.value([parameters.read(name)]).tobytes()
            position = whole.find(needle)
            while position >= 0:
                slot = Slot(name, position, dtype, (prod(shape),))
                place = slice(position, position + len(needle))
                if differs[place].any() and _holds(binding, slot, proved, proof):
                    differs[place] = False
                    yield slot, binding
                position = whole.find(needle, position + 1)


def _texts(content: bytes) -> tuple[dict[str, Any], list[tuple[int, int, Segment]]]:
    """Returns the texts of a model, and the pieces of the file that take their place: where each begins and ends."""
    length, begin, start, end, texts = cut_metadata(content)
    again = metadata_field(texts)
    rest = end - begin - len(again)
    if again != content[start:end] or varint_bytes(end - begin) != content[length:begin]:
        raise ComponentError("the texts of a model must be written as protocol buffers write them", texts)
    return texts, [(length, begin, Segment("length", rest)), (start, end, Segment("metadata", 0))]


def _segments(
    content: memoryview, found: Sequence[tuple[Slot, Binding]], marks: Sequence[tuple[int, int, Segment]]
) -> tuple[tuple[Segment, ...], bytes]:
    pieces = [(slot.offset, slot.offset + slot.bytes, Segment("tensor", slot.bytes, b)) for slot, b in found]
    segments: list[Segment] = []
    literal: list[bytes] = []
    position = 0
    for start, end, segment in sorted([*pieces, *marks], key=lambda piece: piece[0]):
        if start > position:
            segments.append(Segment("bytes", start - position))
            literal.append(bytes(content[position:start]))
        segments.append(segment)
        position = end
    if position < len(content):
        segments.append(Segment("bytes", len(content) - position))
        literal.append(bytes(content[position:]))
    return tuple(segments), b"".join(literal)
