"""Builds the protobuf messages of constants; importing coremltools' generated classes takes seconds, so late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.formats.mlprogram.blob_writer import PACKED_BITS, pack_bits
from sdmobile.formats.mlprogram.write import WEIGHT_FILE

if TYPE_CHECKING:
    from sdmobile.formats.mlprogram.blob_writer import BlobWriter
    from sdmobile.quantize.coreml.forms import Form, Parameter

_IN_PROGRAM = 10
"""Arrays of fewer elements are written into the program, as coremltools does."""
_LISTS = {"float32": "floats", "int32": "ints", "bool": "bools"}

Values = dict[str, Any]
"""Parameter name to Value message, with the arrays already in the weight file."""


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
