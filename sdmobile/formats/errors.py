"""What can go wrong when a file is read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdmobile.errors import EXIT_CHECKPOINT, SdmobileError

_BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,  # of torch and of recursion, too
    TypeError,
    ValueError,
    struct.error,
)
"""What a reader meets in a damaged file: offsets into nowhere, sizes that do not fit, values of another type."""
_LIBRARIES = ("google.protobuf", "onnxruntime")  # whose errors are Exceptions of their own


class FormatError(SdmobileError):
    """The file is missing, truncated or of another format."""

    exit_code = EXIT_CHECKPOINT


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Turns what a library or a reader says of a damaged model file into one line that names the file.

    Args:
        path: the file that is read.

    Raises:
        FormatError: something in it made no sense; `sdmobile --debug` shows where.
    """
    try:
        yield
    except SdmobileError:
        raise
    except Exception as error:
        if not isinstance(error, _BROKEN) and not type(error).__module__.startswith(_LIBRARIES):
            raise
        words = " ".join(str(error).split())[:200]
        raise FormatError(
            "a model file must be whole, and its parts must fit each other",
            f"{path}: {type(error).__name__}: {words}",
            "Export it again, or copy it again and compare the sizes",
        ) from error
