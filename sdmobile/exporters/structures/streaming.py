"""Writes the files of a component from its structure and a checkpoint's weights.

    read ─▶ check ─▶ transform ─▶ cast        some tensors ahead, in two threads
                                    └─▶ write ─▶ hash        in the order of the file

Peak memory is a few tensors. Each is read when it is written; a file's hash is ready with its last byte.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.files import joined_hash
from sdmobile.basics.untrusted import inside
from sdmobile.exporters.structures.bindings import Binding
from sdmobile.exporters.structures.guard import Guard
from sdmobile.exporters.structures.structure import Segment, StoredFile, Structure, StructureError
from sdmobile.exporters.structures.texts import metadata_field, varint_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

Read = Callable[[str, bool], "NDArray[Any]"]
"""Returns a parameter by name, in float32; in the type that it is stored in, if the flag says that this will do."""
Texts = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Returns the texts of a file for the checkpoint, from those in its structure."""
THREADS = 2
_AHEAD_BYTES = 192 << 20
_PIECE = 16 << 20


@dataclass(frozen=True)
class Written:
    """What was written.

    Args:
        files: of the component, in the order of its hash.
        bytes: of all.
        sha256: as `basics.files.hash_of` gives it.
    """

    files: tuple[Path, ...]
    bytes: int
    sha256: str


def write_files(structure: Structure, folder: Path, read: Read, texts: Texts) -> Written:
    """Writes all files of a component.

    Args:
        structure: of the component.
        folder: where they appear; it is empty.
        read: the checkpoint's weights.
        texts: what the files say of the checkpoint.

    Raises:
        CheckpointError: what reading a weight raises.
        StructureError: a tensor has another size than the structure says.
        OSError: a file cannot be written.
    """
    names: list[tuple[str, str]] = []
    paths: list[Path] = []
    total = 0
    guard = Guard()
    with ThreadPoolExecutor(THREADS) as pool:
        for file in structure.files:
            path = inside(folder, file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            digest, size = _write(file, path, pool, read, texts, guard)
            path.chmod(file.mode)
            names.append((file.path, digest))
            paths.append(path)
            total += size
    return Written(tuple(paths), total, joined_hash(names))


def _write(
    file: StoredFile, path: Path, pool: ThreadPoolExecutor, read: Read, texts: Texts, guard: Guard
) -> tuple[str, int]:
    """Writes one file and returns its SHA-256 and size."""
    digest = hashlib.sha256()
    size = 0
    with path.open("wb", buffering=0) as stream:
        for content in _contents(file, pool, read, texts, guard):
            view = memoryview(content).cast("B") if len(content) else memoryview(b"")
            for start in range(0, len(view), _PIECE):
                piece = view[start : start + _PIECE]
                _write_all(stream, piece)
                digest.update(piece)
            size += len(view)
    return digest.hexdigest(), size


def _write_all(stream: Any, piece: memoryview) -> None:
    while len(piece):
        piece = piece[stream.write(piece) :]


def _contents(file: StoredFile, pool: ThreadPoolExecutor, read: Read, texts: Texts, guard: Guard) -> Iterator[Any]:
    """Yields the pieces of a file in order; tensors are made ahead."""
    metadata = metadata_field(texts(file.metadata)) if file.metadata else b""
    tensors = _ahead([segment for segment in file.segments if segment.kind == "tensor"], pool, read, guard)
    position = 0
    for segment in file.segments:
        if segment.kind == "bytes":
            yield file.literal[position : position + segment.size]
            position += segment.size
        elif segment.kind == "tensor":
            yield next(tensors)
        else:
            yield metadata if segment.kind == "metadata" else varint_bytes(segment.size + len(metadata))


def _ahead(segments: Sequence[Segment], pool: ThreadPoolExecutor, read: Read, guard: Guard) -> Iterator[NDArray[Any]]:
    """Yields stored tensors in order; those in the making are few and take a bounded amount of memory."""
    waiting: deque[tuple[int, Future[NDArray[Any]]]] = deque()
    upcoming = iter(segments)
    following = next(upcoming, None)
    held = 0
    while waiting or following is not None:
        while following is not None and (not waiting or held + following.size <= _AHEAD_BYTES):
            assert following.binding is not None
            waiting.append((following.size, pool.submit(_tensor, following.binding, following.size, read, guard)))
            held += following.size
            following = next(upcoming, None)
        size, future = waiting.popleft()
        yield future.result()
        held -= size


def _tensor(binding: Binding, size: int, read: Read, guard: Guard) -> NDArray[Any]:
    """Returns the bytes of a stored tensor."""
    half = binding.moves_alone and binding.dtype == "float16"
    value = binding.value([read(name, half) for name in binding.parameters])
    flat = contiguous(value).reshape(-1)
    guard.check(binding, flat)
    content = flat.view(np.uint8)
    if content.size != size:
        raise StructureError(
            "a stored tensor must have its structure's size", f"{binding.parameters[0]}: {content.size}"
        )
    return content


def contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """Returns an array's elements in order; a transposition is copied in blocks that fit the processor's cache."""
    if array.flags.c_contiguous or array.ndim < 2 or array.size < 1 << 16:
        return np.ascontiguousarray(array)
    result = np.empty(array.shape, array.dtype)
    fastest = int(
        np.argmin(
            [stride if length > 1 else 1 << 62 for stride, length in zip(array.strides, array.shape, strict=True)]
        )
    )
    if fastest == array.ndim - 1:
        np.copyto(result, array)
        return result
    block = 64
    for start in range(0, array.shape[fastest], block):
        part = (slice(None),) * fastest + (slice(start, start + block),)
        for inner in range(0, array.shape[-1], block):
            piece = (*part, *(slice(None),) * (array.ndim - fastest - 2), slice(inner, inner + block))
            result[piece] = array[piece]
    return result
