"""How an encoding is written down in an ML Program: the `constexpr_*` operation and the messages of its stored arrays.

Importing coremltools' generated classes takes seconds, so late.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.errors import UnsupportedError
from sdmobile.formats.mlprogram.blob_writer import PACKED_BITS, pack_bits
from sdmobile.formats.mlprogram.opsets import FLOAT16_IOS, ios_of_integers, ios_of_tables
from sdmobile.formats.mlprogram.write import WEIGHT_FILE
from sdmobile.quantize.encodings import HalfEncoding
from sdmobile.quantize.linear import LinearEncoding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.formats.mlprogram.blob_writer import BlobWriter
    from sdmobile.quantize.encodings import Encoding

_IN_PROGRAM = 10
"""Arrays of fewer elements are written into the program, as coremltools does."""
_LISTS = {"float32": "floats", "int32": "ints", "bool": "bools"}

Values = dict[str, Any]
"""Parameter name to Value message, with the arrays already in the weight file."""


@dataclass(frozen=True, eq=False)
class Parameter:
    """A stored array and its element type; elements of fewer than eight bits are int8 or uint8 in the array."""

    array: NDArray[Any]
    dtype: str


@dataclass(frozen=True, eq=False)
class Form:
    """An operation with constant parameters; "const" has only `val`."""

    type: str
    parameters: dict[str, Parameter]


def minimum_ios(encoding: Encoding) -> int:
    """Returns the iOS version from which an encoding can be written."""
    if isinstance(encoding, LinearEncoding):
        return ios_of_integers(encoding.bits, per_channel=_per_channel(encoding))
    if isinstance(encoding, HalfEncoding):
        return FLOAT16_IOS
    tables, entries = _lut(encoding).shape
    return ios_of_tables(entries.bit_length() - 1, one_table=tables == 1)


def form_of(encoding: Encoding, ios: int, dtype: str) -> Form:
    """Returns what to write for an encoding.

    Args:
        encoding: of one weight.
        ios: version of the operation set of the program.
        dtype: element type of the weight in the program, "float16" or "float32".

    Raises:
        UnsupportedError: the operation set cannot express it.
    """
    if ios < minimum_ios(encoding):
        raise UnsupportedError(f"this encoding needs iOS {minimum_ios(encoding)}", f"the program is for iOS {ios}")
    values = np.dtype(dtype)
    if isinstance(encoding, HalfEncoding):
        return Form("const", {"val": Parameter(encoding.weight.astype(values), dtype)})
    if isinstance(encoding, LinearEncoding):
        return (_blockwise if ios >= 18 else _affine)(encoding, values)
    return (_table_ios18 if ios >= 18 else _table_ios16)(encoding, values)


def _affine(encoding: LinearEncoding, values: np.dtype[Any]) -> Form:
    stored = encoding.data.dtype.name
    zero = np.zeros(encoding.scale.shape, encoding.data.dtype) if encoding.offset is None else encoding.offset
    parameters = {
        "quantized_data": Parameter(encoding.data, stored),
        "zero_point": Parameter(zero.reshape(-1), stored),
        "scale": Parameter(encoding.scale.reshape(-1).astype(values), values.name),
        "axis": Parameter(np.array(0, np.int32), "int32"),
    }
    return Form("constexpr_affine_dequantize", parameters)


def _blockwise(encoding: LinearEncoding, values: np.dtype[Any]) -> Form:
    stored = f"{'int' if encoding.offset is None else 'uint'}{encoding.bits}"
    parameters = {
        "data": Parameter(encoding.data, stored),
        "scale": Parameter(encoding.scale.astype(values), values.name),
    }
    if encoding.offset is not None:
        parameters["offset"] = Parameter(encoding.offset, stored)
    return Form("constexpr_blockwise_shift_scale", parameters)


def _table_ios16(encoding: Any, values: np.dtype[Any]) -> Form:
    lut = _lut(encoding)
    bits = lut.shape[1].bit_length() - 1
    parameters = {
        "indices": Parameter(pack_bits(encoding.indices, bits), "uint8"),
        "lut": Parameter(lut[0].astype(values), values.name),
        "shape": Parameter(np.array(encoding.indices.shape, np.uint32), "uint32"),
    }
    return Form("constexpr_lut_to_dense", parameters)


def _table_ios18(encoding: Any, values: np.dtype[Any]) -> Form:
    lut = _lut(encoding)
    groups, entries = lut.shape
    ones = (1,) * (encoding.indices.ndim - 1)
    parameters = {
        "indices": Parameter(encoding.indices, f"uint{entries.bit_length() - 1}"),
        "lut": Parameter(lut.astype(values).reshape(groups, *ones, entries, 1), values.name),
    }
    return Form("constexpr_lut_to_dense", parameters)


def _per_channel(encoding: LinearEncoding) -> bool:
    return encoding.scale.size == encoding.shape[0]


def _lut(encoding: Any) -> NDArray[np.float16]:
    """Returns the tables of a palette [groups, 2**bits]."""
    return encoding.lut


def store(form: Form, writer: BlobWriter) -> Values:
    """Writes the arrays of a form and returns the messages that name them."""
    return {name: _value(parameter, writer) for name, parameter in form.parameters.items()}


def fill(operation: Any, form: Form, values: Values, ios: int) -> None:
    """Turns a "const" operation message into the one that decodes the stored arrays; its result keeps name and type.

    Args:
        operation: the Operation message, changed in place.
        form: what it becomes.
        values: what `store` returned.
        ios: version of the operation set; before 18 the parameters are attributes, then inputs.
    """
    operation.type = form.type
    del operation.attributes["val"]
    for name, value in values.items():
        if ios >= 18 and form.type != "const":
            operation.inputs[name].arguments.add().value.CopyFrom(value)
        else:
            operation.attributes[name].CopyFrom(value)


def _value(parameter: Parameter, writer: BlobWriter) -> Any:
    from coremltools.proto import MIL_pb2

    types: Any = MIL_pb2
    array, dtype = parameter.array, parameter.dtype
    message: Any = types.Value()
    kind = message.type.tensorType
    kind.dataType, kind.rank = types.DataType.Value(dtype.upper()), array.ndim
    for size in array.shape:
        kind.dimensions.add().constant.size = size
    if array.size >= _IN_PROGRAM:
        message.blobFileValue.fileName = WEIGHT_FILE
        message.blobFileValue.offset = writer.add(array, dtype)
    elif dtype in _LISTS:
        getattr(message.immediateValue.tensor, _LISTS[dtype]).values.extend(array.reshape(-1).tolist())
    else:
        packed = pack_bits(array, PACKED_BITS[dtype]) if dtype in PACKED_BITS else np.ascontiguousarray(array)
        message.immediateValue.tensor.bytes.values = packed.tobytes()
    return message
