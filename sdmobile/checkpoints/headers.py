"""Names, shapes and types of the tensors in a safetensors file, read without torch."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

# Bytes per element, and the name that torch and NumPy use.
DTYPES = {
    "F64": (8, "float64"),
    "F32": (4, "float32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E5M2": (1, "float8_e5m2"),
    "I64": (8, "int64"),
    "I32": (4, "int32"),
    "I16": (2, "int16"),
    "I8": (1, "int8"),
    "U8": (1, "uint8"),
    "BOOL": (1, "bool"),
}
_LFS_MARK = b"version https://git-lfs.github.com/spec/"
_MAX_HEADER = 100 << 20  # the safetensors format's own limit
_RULE = "a safetensors file must be complete and well-formed"


@dataclass(frozen=True)
class TensorInfo:
    """Shape and type of one stored tensor or of some rows of it, the file that holds it and where in it.

    Args:
        shape: its axes.
        dtype: as torch and NumPy name it.
        file: that holds it.
        offset: bytes from the file's start, in safetensors; from the tensor's own start in a pickle.
        stored: its name in the file.
        scale: of a weight that is stored divided by it.
        transposed: whether the file has the axes the other way round.
        added: rows at its end that no file holds: learned words get them.
    """

    shape: tuple[int, ...]
    dtype: str
    file: Path
    offset: int = 0
    stored: str = ""
    scale: TensorInfo | None = None
    transposed: bool = False
    added: int = 0

    @property
    def elements(self) -> int:
        """Number of scalars."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return self.elements * _ITEM_SIZE.get(self.dtype, 0)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Axes as they lie in the file."""
        shape = (self.shape[0] - self.added, *self.shape[1:]) if self.added else self.shape
        return shape[::-1] if self.transposed else shape

    def rows(self, first: int, last: int) -> TensorInfo:
        """Returns rows of it, up to but not including the last; fewer where it has fewer."""
        first, last = min(first, self.shape[0]), min(last, self.shape[0])
        row = prod(self.shape[1:]) * _ITEM_SIZE.get(self.dtype, 0)
        scale = self.scale
        if scale is not None and scale.elements > 1:  # one per row
            scale = scale.rows(first, last)
        shape = (max(0, last - first), *self.shape[1:])
        return replace(self, shape=shape, offset=self.offset + first * row, scale=scale)

    @property
    def is_float(self) -> bool:
        """Whether the tensor can be a weight (rather than an index buffer)."""
        return self.dtype.startswith(("float", "bfloat"))


_ITEM_SIZE = {name: size for size, name in DTYPES.values()}


def check_readable(path: Path, most_bytes: int | None = None) -> None:
    """Raises unless the file is a regular one of bounded size, not empty and not a Git LFS pointer.

    Args:
        path: the file; opening a pipe or a device could wait for ever.
        most_bytes: for files that are read as a whole.

    Raises:
        CheckpointError: with what to do about it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError("every file of the checkpoint must be a regular file", path)
        if most_bytes is not None and status.st_size > most_bytes:
            raise CheckpointError(
                f"a file of this kind has at most {most_bytes / 1e6:g} MB", f"{path} has {status.st_size / 1e6:.0f} MB"
            )
        # Files of the system (`/proc`) say that they have no bytes, and reading one may wait for ever.
        with path.open("rb") as stream:
            head = stream.read(len(_LFS_MARK)) if status.st_size else b""
    except OSError as error:
        raise CheckpointError("every file of the checkpoint must be readable", f"{path}: {error.strerror}") from error
    if not head:
        raise CheckpointError("a file of the checkpoint must not be empty", f"{path} has 0 bytes", "Download it again.")
    if head == _LFS_MARK:
        raise CheckpointError(
            "weights must be present, not only their Git LFS pointer", path, "Run `git lfs pull` in that repository."
        )


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Reads the header of a safetensors file and checks it against the file's size.

    Source: safetensors format: u64 length N, N bytes of JSON, then the tensors without gaps.

    Args:
        path: the file.

    Returns:
        Tensors by name, and the file's metadata.

    Raises:
        CheckpointError: the file is missing, empty, an LFS pointer, truncated or not a safetensors file.
    """
    check_readable(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        brace = stream.read(1)
        if size < 10 or length < 2 or length > _MAX_HEADER or brace != b"{":
            raise CheckpointError(_RULE, f"{path} ({size} bytes) does not begin with a safetensors header", _again())
        if 8 + length > size:
            raise CheckpointError(_RULE, f"{path} ends inside its header ({size} bytes of {8 + length})", _again())
        entries = _parse(path, brace + stream.read(length - 1))
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise CheckpointError(_RULE, f"{path}: __metadata__ is not an object", _again())
    tensors = _check_entries(path, entries, data_start=8 + length, data_size=size - 8 - length)
    return tensors, {str(key): str(value) for key, value in metadata.items()}


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(_RULE, f"{path}: the header is not JSON ({error})", _again()) from error
    if not isinstance(entries, dict):
        raise CheckpointError(_RULE, f"{path}: the header is not a JSON object", _again())
    return entries


def _check_entries(path: Path, entries: dict[str, Any], data_start: int, data_size: int) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        dtype, shape, begin, end = _fields(path, name, entry)
        if end > data_size:
            raise CheckpointError(
                "a weight file must not be truncated",
                f"{path}: tensor {name} ends at byte {end} of the data, the file has {data_size}",
                _again(),
            )
        item, dtype_name = DTYPES[dtype]
        if end - begin != prod(shape) * item:
            raise CheckpointError(_RULE, f"{path}: tensor {name} has {end - begin} bytes for {dtype} {shape}", _again())
        tensors[name] = TensorInfo(shape, dtype_name, path, data_start + begin, name)
        spans.append((begin, end, name))
    _check_spans(path, sorted(spans), data_size)
    return tensors


def _fields(path: Path, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    problem = f"{path}: tensor {name} has a malformed entry"
    if not isinstance(entry, dict):
        raise CheckpointError(_RULE, problem, _again())
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    sizes, span = _sizes(shape), _sizes(offsets)
    if not isinstance(dtype, str) or sizes is None or span is None or len(span) != 2:
        raise CheckpointError(_RULE, problem, _again())
    if dtype not in DTYPES:
        raise CheckpointError("weights must be stored in a known precision", f"{path}: tensor {name} is {dtype}")
    return dtype, sizes, span[0], span[1]


def _sizes(value: object) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(item) is int and item >= 0 for item in value):
        return tuple(value)
    return None


def _check_spans(path: Path, spans: list[tuple[int, int, str]], data_size: int) -> None:
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise CheckpointError(_RULE, f"{path}: tensor {name} begins at {begin}, expected {position}", _again())
        position = end
    if position != data_size:
        raise CheckpointError(_RULE, f"{path}: the tensors end at {position} of {data_size} bytes", _again())


def _again() -> str:
    return "Download or write the file again."
