"""Reading the bytes of a package: against protobuf's own reader, and when they are wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdmobile.errors import SdmobileError, UnsupportedError
from sdmobile.formats.graph import read_graph
from sdmobile.formats.mlprogram import wire
from sdmobile.formats.mlprogram.schema import MESSAGES
from sdmobile.lint.dispatch import lint_file
from sdmobile.runtimes.mlprogram import InputError, MLProgram, PackageError, UnsupportedOpError, read_program
from tests.fuzz.models import damaged
from tests.runtimes.mlprogram.support import builder, save_program

WEIGHT = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")


def _build(x: Any, i: Any) -> Any:
    mb = builder()
    y = mb.linear(x=x, weight=WEIGHT, name="y")
    return y, mb.gather(x=mb.softmax(x=y), indices=i, axis=1, name="z")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a float and an integer input."""
    path = tmp_path_factory.mktemp("package") / "model.mlpackage"
    return save_program(_build, [(3, 8), (2,)], path, dtypes=["float32", "int32"], float16=True)


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy.mlpackage"))


def _good_inputs() -> dict[str, np.ndarray]:
    return {"x0": np.ones((3, 8), np.float32), "x1": np.array([0, 3], np.int32)}


def _compare(decoded: dict[str, Any], message: Any) -> None:
    """Asserts that a decoded message has the fields that protobuf sees and that the schema does not skip."""
    schema = MESSAGES[message.DESCRIPTOR.name]
    seen = set()
    for descriptor, value in message.ListFields():
        field = schema[descriptor.number]
        if field.kind == "skip":
            continue
        assert field.name == descriptor.name
        seen.add(field.name)
        ours = decoded[field.name]
        if field.kind == "map":
            assert set(ours) == set(value)
            for key in ours:
                _compare(ours[key], value[key])
        elif field.kind == "message":
            pairs = zip(ours, value, strict=True) if field.many else [(ours, value)]
            for mine, theirs in pairs:
                if field.message in ("Opaque",):
                    continue
                _compare_renamed(mine, theirs, field.message)
        else:
            assert ours == (list(value) if field.many else value)
    assert set(decoded) == seen


def _compare_renamed(decoded: dict[str, Any], message: Any, name: str) -> None:
    if name in ("Floats", "Ints", "Bools", "Strings", "Doubles", "Bytes"):
        values = decoded.get("values", b"" if name == "Bytes" else [])
        assert values == (message.values if name == "Bytes" else list(message.values))
    else:
        _compare(decoded, message)


def test_every_field_is_read_as_protobuf_reads_it(saved: Path) -> None:
    from coremltools.proto import Model_pb2

    data = (saved / MODEL).read_bytes()
    message: Any = Model_pb2.Model()
    message.ParseFromString(data)
    _compare(wire.decode(memoryview(data), "Model", MESSAGES), message)


def test_the_schema_has_the_numbers_of_the_published_formats() -> None:
    from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2

    files = [file.DESCRIPTOR for file in (Model_pb2, FeatureTypes_pb2, MIL_pb2)]
    for name, fields in MESSAGES.items():
        published = next((f.message_types_by_name[name] for f in files if name in f.message_types_by_name), None)
        if published is None:
            continue
        numbers = {field.number: field.name for field in published.fields}
        assert set(fields) == set(numbers), name
        for number, field in fields.items():
            if field.kind not in ("skip", "refuse"):
                assert field.name == numbers[number]


def test_the_interface_and_the_operations_can_be_listed(saved: Path) -> None:
    program = MLProgram(saved)
    assert program.inputs == {"x0": ((3, 8), "float32"), "x1": ((2,), "int32")}
    assert program.outputs == {"y": ((3, 4), "float32"), "z": ((3, 2), "float32")}
    assert program.specification_version == 8
    linear = next(op for op in program.operations() if op.type == "linear")
    assert linear.dtype == "float16"
    assert linear.outputs[0].type.shape == (3, 4)
    assert set(linear.inputs) == {"x", "weight", "bias"}


def test_reading_a_program_needs_no_torch(saved: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from sdmobile.runtimes.mlprogram import read_program; "
        f"read_program({str(saved)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


Damage = Callable[[Path], None]


def _truncate(part: Path, keep: int) -> Damage:
    def damage(package: Path) -> None:
        data = (package / part).read_bytes()
        (package / part).write_bytes(data[:keep])

    return damage


def _remove(part: str) -> Damage:
    return lambda package: (package / part).unlink()


def _write(part: Path | str, data: bytes) -> Damage:
    def damage(package: Path) -> None:
        (package / part).write_bytes(data)

    return damage


def _patch(offset: int, data: bytes) -> Damage:
    def damage(package: Path) -> None:
        content = bytearray((package / WEIGHTS).read_bytes())
        content[offset : offset + len(data)] = data
        (package / WEIGHTS).write_bytes(bytes(content))

    return damage


def _escape(package: Path) -> None:
    manifest = json.loads((package / "Manifest.json").read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = "../../outside.mlmodel"
    (package / "Manifest.json").write_text(json.dumps(manifest))


DAMAGES: dict[str, tuple[Damage, str]] = {
    "no manifest": (_remove("Manifest.json"), "must contain Manifest.json"),
    "manifest is no json": (_write("Manifest.json", b"{"), "must name the root model"),
    "manifest points outside": (_escape, "must lie inside"),
    "no model": (_remove(str(MODEL)), "must exist"),
    "no weights": (_remove(str(WEIGHTS)), "weight file that the program names must exist"),
    "model is cut": (_truncate(MODEL, -20), "complete Core ML protobuf"),
    "model is text": (_write(MODEL, b"this is not a model"), "protobuf"),
    "weights are cut in a blob": (_truncate(WEIGHTS, -16), "ends inside a blob"),
    "weights are cut at the header": (_truncate(WEIGHTS, 10), "shorter than its header"),
    "weights have no metadata": (_truncate(WEIGHTS, 70), "ends before the metadata"),
    "weights have another version": (_patch(4, b"\x01"), "version"),
    "sentinel is gone": (_patch(64, b"\0\0\0\0"), "no blob at an offset"),
    "blob has another type": (_patch(68, b"\x04"), "another type"),
    "blob has another size": (_patch(72, b"\x08"), "another size"),
}


@pytest.mark.parametrize("name", sorted(DAMAGES))
def test_a_damaged_package_is_refused_with_the_reason(name: str, package: Path) -> None:
    damage, reason = DAMAGES[name]
    damage(package)
    with pytest.raises(PackageError, match=reason):
        MLProgram(package)


def test_a_missing_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="is a folder"):
        MLProgram(tmp_path / "none.mlpackage")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_no_other_exception(data: st.DataObject, saved: Path) -> None:
    content = bytearray((saved / MODEL).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    from sdmobile.formats.mlprogram import ir

    try:
        ir.build(wire.decode(memoryview(content), "Model", MESSAGES))
    except SdmobileError as error:
        assert error.rule  # noqa: PT017


@pytest.mark.parametrize("place", [MODEL, WEIGHTS, Path("Manifest.json")], ids=lambda path: path.name)
def test_a_damaged_package_gives_one_line_or_numbers(place: Path, package: Path) -> None:
    good = (package / place).read_bytes()
    for seed in range(40):
        (package / place).write_bytes(damaged(good, seed))
        for read in (read_graph, lint_file, lambda path: MLProgram(path).predict(_good_inputs())):
            try:
                read(package)
            except SdmobileError as error:
                assert "\n" not in error.message()  # noqa: PT017


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"x0": None}, "inputs must be those"),
        ({"extra": np.zeros(1, np.float32)}, "inputs must be those"),
        ({"x0": np.ones((3, 9), np.float32)}, r"shape \(3, 8\)"),
        ({"x0": np.ones((3, 8), np.float64)}, "must be float32"),
        ({"x1": np.array([0.0, 1.0], np.float32)}, "integers that fit int32"),
        ({"x1": np.array([0, 1 << 40])}, "integers that fit int32"),
    ],
)
def test_wrong_inputs_are_refused(saved: Path, change: dict[str, Any], reason: str) -> None:
    inputs = {name: array for name, array in (_good_inputs() | change).items() if array is not None}
    with pytest.raises(InputError, match=reason):
        MLProgram(saved).predict(inputs)


def test_int64_and_float16_inputs_that_fit_are_taken(saved: Path) -> None:
    program = MLProgram(saved)
    inputs = _good_inputs()
    expected = program.predict(inputs)
    actual = program.predict({"x0": inputs["x0"].astype(np.float16), "x1": inputs["x1"].astype(np.int64)})
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)


def test_an_index_out_of_range_is_an_error_not_a_guess(saved: Path) -> None:
    inputs = _good_inputs() | {"x1": np.array([0, 4], np.int32)}
    with pytest.raises(UnsupportedOpError, match=r"gather '.*an index out of range"):
        MLProgram(saved).predict(inputs)


def test_one_value_may_be_returned_twice(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        y = builder().relu(x=x, name="y")
        return y, y

    path = save_program(build, [(3,)], tmp_path / "twice.mlpackage")
    results = MLProgram(path).predict({"x0": np.array([-1, 0, 2], np.float32)})
    assert {name: array.tolist() for name, array in results.items()} == {"y": [0, 0, 2]}


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        mb = builder()
        return mb.topk(x=x, k=2, name="best")[0]

    path = save_program(build, [(3, 8)], tmp_path / "topk.mlpackage")
    written = (path / MODEL).read_bytes()
    (path / MODEL).write_bytes(written.replace(b"topk", b"topq"))
    with pytest.raises(UnsupportedOpError, match="topq 'best': the operation is not implemented") as caught:
        MLProgram(path)
    assert isinstance(caught.value, UnsupportedError)
    assert (caught.value.op_type, caught.value.op_name) == ("topq", "best")
    assert read_program(path)[1].operations  # reading does not need it


def test_an_unknown_attribute_is_named(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        mb = builder()
        modes = {"interpolation_mode": "NEAREST_NEIGHBOR", "sampling_mode": "OFFSET_CORNERS"}
        return mb.resize(x=x, shape=[8, 8], resized_dims=np.uint32(2), name="r", **modes)

    path = save_program(build, [(1, 3, 4, 4)], tmp_path / "resize.mlpackage")
    program = MLProgram(path)
    with pytest.raises(UnsupportedOpError, match="resize 'r': interpolation_mode NEAREST_NEIGHBOR with sampling_mode"):
        program.predict({"x0": np.ones((1, 3, 4, 4), np.float32)})
