"""The weight file: packing against the evaluator's unpacking, bytes against coremltools' own writer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmobile.formats.mlprogram.blob import BlobFile, unpack_bits
from sdmobile.formats.mlprogram.blob_writer import PACKED_BITS, BlobWriter, pack_bits
from sdmobile.formats.mlprogram.constants import WeightReader
from sdmobile.formats.mlprogram.types import TensorType
from sdmobile.formats.mlprogram.write import WEIGHT_FILE, BlobCopier

WIDE = ("int16", "uint16", "int32", "uint32")


@given(st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(1, 70), st.integers(0, 99))
def test_unpacking_inverts_packing(bits: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << bits, count).astype(np.uint8)
    packed = pack_bits(values, bits)
    assert packed.size == -(-count * bits // 8)
    assert np.array_equal(unpack_bits(packed, bits, count), values)


def test_signed_numbers_keep_their_sign() -> None:
    values = np.arange(-8, 8, dtype=np.int8)
    assert np.array_equal(unpack_bits(pack_bits(values, 4), 4, 16, signed=True), values)


def test_the_file_is_byte_for_byte_that_of_coremltools(tmp_path: Path) -> None:
    import coremltools  # noqa: F401  # the library of the writer is loaded with it
    from coremltools.libmilstoragepython import _BlobStorageWriter

    rng = np.random.default_rng(0)
    half = rng.normal(size=37).astype(np.float16)
    small = {bits: rng.integers(0, 1 << bits, 131).astype(np.uint8) for bits in (1, 2, 3, 4, 6)}
    signed = rng.integers(-8, 8, 77).astype(np.int8)
    theirs, ours = tmp_path / "theirs.bin", tmp_path / "ours.bin"
    writer = _BlobStorageWriter(str(theirs))
    offsets = [writer.write_fp16_data(half.view(np.uint16))]
    offsets += [getattr(writer, f"write_uint{bits}_data")(values) for bits, values in small.items()]
    offsets += [writer.write_int4_data(signed), writer.write_int8_data(signed), writer.write_uint8_data(small[6])]
    offsets += [writer.write_float_data(half.astype(np.float32))]
    offsets += [getattr(writer, f"write_{name}_data")(np.arange(9).astype(name)) for name in WIDE]
    del writer
    with BlobWriter(ours) as mine:
        written = [mine.add(half, "float16")]
        written += [mine.add(values, f"uint{bits}") for bits, values in small.items()]
        written += [mine.add(signed, "int4"), mine.add(signed, "int8"), mine.add(small[6], "uint8")]
        written += [mine.add(half.astype(np.float32), "float32")]
        written += [mine.add(np.arange(9).astype(name), name) for name in WIDE]
    assert written == offsets
    # coremltools leaves out the padding after the last blob.
    assert ours.read_bytes().rstrip(b"\0") == theirs.read_bytes().rstrip(b"\0")


def test_a_file_that_was_not_finished_is_no_weight_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), BlobWriter(tmp_path / "w.bin") as writer:
        writer.add(np.zeros(64, np.float16), "float17")
    with pytest.raises(Exception, match="version"):
        BlobFile(tmp_path / "w.bin")


def test_arrays_come_back(tmp_path: Path) -> None:
    values = np.arange(63, dtype=np.uint8).reshape(7, 9)
    with BlobWriter(tmp_path / "w.bin") as writer:
        first = writer.add(values, "uint6")
        second = writer.add(values.astype(np.float16), "float16")
    file = BlobFile(tmp_path / "w.bin")
    assert np.array_equal(file.read(first, TensorType("uint6", (7, 9))), values)
    assert np.array_equal(file.read(second, TensorType("float16", (7, 9))), values)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bool", "int4", "uint1", "uint3", "uint6", "int8", *WIDE])
def test_a_copied_array_has_its_bytes_and_is_stored_once(tmp_path: Path, dtype: str) -> None:
    package, array = tmp_path / "source.mlpackage", np.arange(77) % 2
    model = package / "Data/com.apple.CoreML/model.mlmodel"
    (model.parent / "weights").mkdir(parents=True)
    model.touch()
    root = {"itemInfoEntries": {"id": {"path": "com.apple.CoreML/model.mlmodel"}}, "rootModelIdentifier": "id"}
    (package / "Manifest.json").write_text(json.dumps(root))
    with BlobWriter(model.parent / "weights/other.bin") as writer:
        writer.add(np.zeros(5, np.float16), "float16")
        offset = writer.add(*((array.astype(np.uint8), dtype) if dtype in PACKED_BITS else _whole(array, dtype)))
    values = [_value("@model_path/weights/other.bin", offset, dtype, (7, 11)) for _ in range(2)]
    with BlobWriter(tmp_path / "copy.bin") as writer:
        copier = BlobCopier(WeightReader(package), writer)
        for value in values:
            copier.move(value)
    assert [(v.blobFileValue.fileName, v.blobFileValue.offset) for v in values] == [(WEIGHT_FILE, 64)] * 2
    before, after = BlobFile(model.parent / "weights/other.bin"), BlobFile(tmp_path / "copy.bin")
    expected = TensorType(dtype, (7, 11))
    assert np.array_equal(after.packed(64, expected), before.packed(offset, expected))
    assert (tmp_path / "copy.bin").read_bytes()[:4] == (1).to_bytes(4, "little")


def _whole(array: np.ndarray, dtype: str) -> tuple[np.ndarray, str]:
    return (array.astype(np.uint8), "uint8") if dtype == "bool" else (array.astype(dtype), dtype)


def _value(file: str, offset: int, dtype: str, shape: tuple[int, ...]) -> Any:
    from coremltools.proto import MIL_pb2

    types: Any = MIL_pb2
    value = types.Value()
    value.type.tensorType.dataType, value.type.tensorType.rank = types.DataType.Value(dtype.upper()), len(shape)
    for size in shape:
        value.type.tensorType.dimensions.add().constant.size = size
    value.blobFileValue.fileName, value.blobFileValue.offset = file, offset
    return value
