"""Writes a package again with other encodings of its weights; everything else of the program stays as it is.

The operations of a program are not converted anew: a constant becomes the `constexpr_*` operation of the same name and
type, and the weight file is written in one pass. That takes seconds where coremltools' graph passes take minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import copy
from sdmobile.basics.scratch import put_in_place, scratch_beside
from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.blob_writer import BlobWriter
from sdmobile.formats.mlprogram.constants import (
    Blob,
    WeightConstant,
    WeightReader,
    stored_constants,
)
from sdmobile.formats.mlprogram.opsets import ios_of, raise_to
from sdmobile.formats.mlprogram.package import open_package
from sdmobile.formats.mlprogram.write import BlobCopier, program_bytes
from sdmobile.quantize.coreml.forms import Form, Values, fill, form_of, minimum_ios, store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.quantize.encodings import Encoding

    Encoder = Callable[[WeightConstant, NDArray[Any]], "Encoding | None"]

_THREADS = 2
_AHEAD = 2
"""Weights that are encoded before they can be written; bounds the memory."""


@dataclass(frozen=True)
class RewrittenPackage:
    """What `rewrite_weights` wrote.

    Args:
        path: the package.
        ios: iOS version of its operation set.
        raised_from: the version that it had before, if it was raised.
        encoded: names of the constants that got another encoding.
    """

    path: Path
    ios: int
    raised_from: int | None
    encoded: tuple[str, ...]


def rewrite_weights(
    source: Path | str,
    out: Path | str,
    encodings: Mapping[str, Encoding] | Encoder,
    ios: int | None = None,
    metadata: Mapping[str, str] | None = None,
    edit: Callable[[Any], object] | None = None,
) -> RewrittenPackage:
    """Writes a package with other encodings of its weights.

    Args:
        source: the `.mlpackage` folder, which stays untouched.
        out: the folder to write; it appears only when it is complete.
        encodings: by name of the constant, or a function of constant and array that returns an encoding, or None to
            keep the constant. The function is called in two threads, for one layer after the other in the order of
            the program, so that a package larger than memory can be written.
        ios: iOS version whose operations may be used; by default what `encodings` by name need, else the program's.
        metadata: user-defined keys to add to the package.
        edit: changes the Model message last, before it is written.

    Raises:
        PackageError: the source is corrupt.
        UnsupportedError: the operation set cannot express an encoding or cannot be raised, or a name is unknown.
    """
    from coremltools.proto import Model_pb2

    package = open_package(Path(source))
    spec: Any = Model_pb2.Model()
    spec.ParseFromString(package.program())
    constants = stored_constants(source)
    before = ios_of(spec)
    if isinstance(encodings, Mapping):
        _check_names(encodings, constants)
        ios = max([before, *map(minimum_ios, encodings.values())]) if ios is None else ios
    after = before if ios is None else max(before, ios)
    if after != before:
        raise_to(spec, after)
    for key, value in (metadata or {}).items():
        spec.description.metadata.userDefined[key] = value
    target = Path(out)
    with scratch_beside(target) as folder:
        copied = folder / target.name
        copy(package.path, copied, leave_out="weights")
        model = copied / package.model.relative_to(package.path)
        weights = model.parent / "weights" / "weight.bin"
        weights.parent.mkdir()
        with BlobWriter(weights) as writer:
            rewriter = _Rewriter(WeightReader(source), writer, after)
            encoded = rewriter.run(spec, constants, encodings)
        if edit is not None:
            edit(spec)
        model.write_bytes(program_bytes(spec))
        put_in_place(copied, target, overwrite=True)
    return RewrittenPackage(target, after, before if after != before else None, tuple(encoded))


class _Rewriter:
    """Copies or encodes each stored array once, and renews every reference to it."""

    def __init__(self, reader: WeightReader, writer: BlobWriter, ios: int) -> None:
        self._reader = reader
        self._writer = writer
        self._ios = ios
        self._copier = BlobCopier(reader, writer)
        self._forms: dict[Blob, tuple[Form, Values]] = {}

    def run(
        self, spec: Any, constants: tuple[WeightConstant, ...], encodings: Mapping[str, Encoding] | Encoder
    ) -> list[str]:
        """Rewrites all functions; returns the names of the constants that got another encoding."""
        if isinstance(encodings, Mapping):
            pairs = iter([(c, encodings[c.name]) for c in constants if c.name in encodings])
        else:
            pairs = self._encoded([c for c in constants if c.is_weight], encodings)
        for constant, encoding in pairs:
            if encoding is not None:
                form = form_of(encoding, self._ios, constant.dtype)
                self._forms[constant.blob] = form, store(form, self._writer)
        for operation in (op for block in blocks(spec) for op in block.operations):
            value = operation.attributes["val"] if operation.type == "const" else None
            blob = None if value is None else (value.blobFileValue.fileName, value.blobFileValue.offset)
            if blob in self._forms:
                fill(operation, *self._forms[blob], self._ios)
                continue
            for stored in _values_of(operation):
                self._copier.move(stored)
        return [constant.name for constant in constants if constant.blob in self._forms]

    def _encoded(
        self, constants: Sequence[WeightConstant], encoder: Encoder
    ) -> Iterator[tuple[WeightConstant, Encoding | None]]:
        """Encodes in threads, some weights ahead of the writer, and yields in order."""
        waiting: list[tuple[WeightConstant, Future[Encoding | None]]] = []
        with ThreadPoolExecutor(_THREADS) as pool:
            for constant in constants:
                waiting.append((constant, pool.submit(self._encode, constant, encoder)))
                if len(waiting) > _AHEAD:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            for constant, future in waiting:
                yield constant, future.result()

    def _encode(self, constant: WeightConstant, encoder: Encoder) -> Encoding | None:
        return encoder(constant, self._reader.read(constant))


def blocks(spec: Any) -> list[Any]:
    """Returns the block of each function of a Model message, the default function first."""
    default = spec.description.defaultFunctionName or "main"
    functions = spec.mlProgram.functions
    names = sorted(functions, key=lambda name: (name != default, name))
    return [functions[name].block_specializations[functions[name].opset] for name in names]


def _values_of(operation: Any) -> Iterator[Any]:
    """Yields the Value messages of an operation: attributes, and inputs that are given as constants."""
    if operation.blocks:
        raise UnsupportedError("a package to compress has no control flow", operation.type, "Export without it")
    yield from operation.attributes.values()
    for argument in operation.inputs.values():
        yield from (binding.value for binding in argument.arguments if binding.HasField("value"))


def _check_names(encodings: Mapping[str, Encoding], constants: tuple[WeightConstant, ...]) -> None:
    unknown = sorted(set(encodings) - {constant.name for constant in constants})
    if unknown:
        raise UnsupportedError("encodings are given for stored constants of the package", unknown[:3])
