"""Branches, loops and lists beyond their cases: what a file may not do, and what other readers say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.errors import UnsupportedError
from sdmobile.formats.graph import read_graph
from sdmobile.formats.mlprogram.constants import stored_constants
from sdmobile.runtimes.mlprogram import MLProgram, PackageError, UnsupportedOpError, read_program
from sdmobile.runtimes.mlprogram.diagnosis import compare
from sdmobile.runtimes.mlprogram.ops import control
from tests.runtimes.mlprogram.support import builder, prepare_coremltools, save_program

WEIGHT = np.linspace(-0.5, 0.5, 64, dtype=np.float32).reshape(8, 8)


def _repeated(x: Any, n: Any) -> Any:
    """X · Wⁿ with tanh, and whether x was taken as it is."""
    mb = builder()
    limit = mb.squeeze(x=n, axes=[0])

    def body(i: Any, value: Any) -> Any:
        return mb.add(x=i, y=1), mb.tanh(x=mb.linear(x=value, weight=WEIGHT), name="inner")

    _, value = mb.while_loop(_cond=lambda i, v: mb.less(x=i, y=limit), _body=body, loop_vars=(0, x))
    return value


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop around a layer with weights in a file."""
    path = tmp_path_factory.mktemp("flow") / "repeated.mlpackage"
    return save_program(_repeated, [(2, 8), (1,)], path, dtypes=["float32", "int32"], float16=True)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-3), ("float16-float32acc", 4e-3), ("float16", 4e-3)]
)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_loop_runs_as_often_as_its_condition_says(
    repeated: Path, precision: Any, tolerance: float, count: int
) -> None:
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    expected = x
    for _ in range(count):
        expected = np.tanh(expected @ WEIGHT.T)
    program = MLProgram(repeated, precision)
    for _ in range(2):  # nothing is left of the first prediction
        (actual,) = program.predict({"x0": x, "x1": np.array([count], np.int32)}).values()
        np.testing.assert_allclose(actual, expected, atol=tolerance)


def test_other_readers_see_into_blocks_or_refuse_them(repeated: Path) -> None:
    stored = [constant for constant in stored_constants(repeated) if constant.shape == (8, 8)]
    assert [constant.roles for constant in stored] == [("linear.weight",)]
    assert any(operation.name.startswith("inner") for operation in read_program(repeated)[1].every_operation())
    with pytest.raises(UnsupportedError, match="free of branches and loops: while_loop"):
        read_graph(repeated)
    inputs = {"x0": np.ones((2, 8), np.float32), "x1": np.array([3], np.int32)}
    loop = [each for each in compare(repeated, inputs) if each.type == "while_loop"]
    assert len(loop) == 1
    assert loop[0].error < 2e-3


def test_a_loop_without_end_is_an_error(repeated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MOST_ROUNDS", 100)
    with pytest.raises(UnsupportedOpError, match=r"while_loop '.*does not end after 100 rounds"):
        MLProgram(repeated).predict({"x0": np.ones((2, 8), np.float32), "x1": np.array([20000], np.int32)})


def _edited(path: Path, edit: Any) -> Path:
    """Changes the blocks of the loop of a saved package."""
    prepare_coremltools()
    from coremltools.proto import Model_pb2

    file = path / "Data/com.apple.CoreML/model.mlmodel"
    model: Any = Model_pb2.Model()
    model.ParseFromString(file.read_bytes())
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    edit(next(operation for operation in block.operations if operation.type == "while_loop"))
    file.write_bytes(model.SerializeToString())
    return path


def _hide(loop: Any) -> None:
    loop.blocks[1].inputs[0].name = "x0"


def _lose(loop: Any) -> None:
    loop.blocks[1].outputs[0] = "nowhere"


def _leak(loop: Any) -> None:
    # A value of the body is none of the condition.
    loop.blocks[0].outputs[0] = loop.blocks[1].outputs[1]


def _bare(loop: Any) -> None:
    del loop.blocks[:]


def _single(loop: Any) -> None:
    del loop.blocks[1]


def _uneven(loop: Any) -> None:
    del loop.blocks[1].outputs[1]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (_hide, PackageError, "must not hide a value from around it"),
        (_lose, PackageError, "values that were computed before"),
        (_leak, PackageError, "values that were computed before"),
        (_bare, PackageError, "must have blocks"),
        (_single, UnsupportedOpError, "1 blocks instead of 2"),
        (_uneven, UnsupportedOpError, "while_loop"),
    ],
)
def test_blocks_that_make_no_sense_are_refused(
    tmp_path: Path, repeated: Path, edit: Any, error: type[Exception], message: str
) -> None:
    import shutil

    path = _edited(Path(shutil.copytree(repeated, tmp_path / "copy.mlpackage")), edit)
    with pytest.raises(error, match=message):
        MLProgram(path).predict({"x0": np.ones((2, 8), np.float32), "x1": np.array([2], np.int32)})


def test_a_list_does_not_grow_without_bound(tmp_path: Path) -> None:
    def build(x: Any, i: Any) -> Any:
        mb = builder()
        ls = mb.make_list(init_length=2, elem_shape=(3,))
        return mb.list_length(ls=mb.list_write(ls=ls, index=mb.squeeze(x=i, axes=[0]), value=x))

    path = save_program(build, [(3,), (1,)], tmp_path / "long.mlpackage", dtypes=["float32", "int32"])
    program = MLProgram(path)
    assert next(iter(program.predict({"x0": np.ones(3, np.float32), "x1": np.array([6], np.int32)}).values())) == 7
    with pytest.raises(UnsupportedOpError, match=r"list_write .*a list of 2147483647 elements"):
        program.predict({"x0": np.ones(3, np.float32), "x1": np.array([(1 << 31) - 2], np.int32)})


def test_even_the_rank_of_a_value_may_depend_on_an_input(tmp_path: Path) -> None:
    from coremltools.converters.mil.mil import get_new_symbol, types

    ct, mb = prepare_coremltools(), builder()
    integers: Any = types.int32

    @mb.program(input_specs=[mb.TensorSpec((get_new_symbol(),), integers)], opset_version=ct.target.iOS17)
    def program(n: Any) -> Any:
        return mb.fill(shape=n, value=np.float32(2.5))

    size = ct.TensorType(name="n", shape=(ct.RangeDim(1, 4, default=2),), dtype=np.int32)
    options = {"minimum_deployment_target": ct.target.iOS17, "skip_model_load": True, "inputs": [size]}
    path = tmp_path / "fill.mlpackage"
    ct.convert(program, convert_to="mlprogram", compute_precision=ct.precision.FLOAT32, **options).save(str(path))
    for shape in ([3], [2, 1, 3]):
        (result,) = MLProgram(path).predict({"n": np.array(shape, np.int32)}).values()
        np.testing.assert_array_equal(result, np.full(shape, 2.5))


def test_a_list_index_out_of_range_is_an_error(tmp_path: Path) -> None:
    def build(x: Any, i: Any) -> Any:
        mb = builder()
        ls = mb.list_write(ls=mb.make_list(init_length=2, elem_shape=(3,)), index=0, value=x)
        return mb.list_gather(ls=ls, indices=i)

    path = save_program(build, [(3,), (1,)], tmp_path / "list.mlpackage", dtypes=["float32", "int32"])
    for index in (-1, 2):
        with pytest.raises(UnsupportedOpError, match=r"list_gather .*out of range \[0, 2\) of a list"):
            MLProgram(path).predict({"x0": np.ones(3, np.float32), "x1": np.array([index], np.int32)})
