"""coremltools predicts through the evaluator, and everything of it that is Python stays in use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdmobile.runtimes.mlprogram import MLProgram
from tests.runtimes.mlprogram.support import builder, save_program

X = np.arange(6).reshape(2, 3)


def test_importing_it_needs_nothing_that_coremltools_does_not() -> None:
    script = (
        "import sys, numpy, torch, coremltools\n"
        "before = set(sys.modules)\n"
        "import sdmobile.coremltools_backend\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert new - sys.stdlib_module_names == {'sdmobile', 'coremltools'}, new\n"
        "assert 'diffusers' not in sys.modules\n"
        "assert coremltools.models.model._MLModelProxy is not None\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "given",
    [X.astype(np.float64), X, X.astype(np.float16), X.tolist(), torch.tensor(X, dtype=torch.float32), X > -1],
    ids=["float64", "int64", "float16", "list", "torch", "bool"],
)
def test_inputs_of_any_numbers(given: Any, coremltools: Any, doubled: Path) -> None:
    model = coremltools.models.MLModel(str(doubled))
    found = model.predict({"x0": given})
    expected = np.asarray(given, np.float32)
    assert {name: value.dtype for name, value in found.items()} == {"y": np.float32, "total": np.float32}
    assert found["total"].shape == (1,)
    np.testing.assert_array_equal(found["y"], 2 * expected)
    np.testing.assert_array_equal(found["total"], [expected.sum()])


def test_a_list_of_inputs_gives_a_list_of_outputs(coremltools: Any, doubled: Path) -> None:
    model = coremltools.models.MLModel(str(doubled))
    found = model.predict([{"x0": X}, {"x0": X + 1}])
    assert [output["y"].tolist() for output in found] == [(2 * X).tolist(), (2 * X + 2).tolist()]
    assert model.last_predict_duration_in_nano_seconds > 0
    assert model.load_duration_in_nano_seconds > 0


def test_what_is_wrong_is_said_as_on_a_mac(coremltools: Any, doubled: Path, tmp_path: Path) -> None:
    model = coremltools.models.MLModel(str(doubled))
    with pytest.raises(KeyError, match="does not match any of the model input name"):
        model.predict({"z": X})
    with pytest.raises(TypeError, match="must be either a dict or list of dict"):
        model.predict(X)
    with pytest.raises(RuntimeError, match=r"must have the shape \(2, 3\)"):
        model.predict({"x0": X[:1]})
    with pytest.raises(RuntimeError, match="value type not convertible"):
        model.predict({"x0": np.array([["a"] * 3] * 2)})
    with pytest.raises(RuntimeError, match="inputs must be those of the program"):
        model.predict({})
    bad = shutil.copytree(doubled, tmp_path / "bad.mlpackage")
    spec = coremltools.utils.load_spec(str(bad))
    spec.mlProgram.functions["main"].block_specializations["CoreML8"].operations[-1].type = "unheard_of"
    (bad / "Data/com.apple.CoreML/model.mlmodel").write_bytes(spec.SerializeToString())
    with pytest.warns(RuntimeWarning, match="unheard_of"):
        refused = coremltools.models.MLModel(str(bad))
    with pytest.raises(RuntimeError, match="unheard_of"):
        refused.predict({"x0": X})


def test_a_model_converted_here_predicts_pictures(coremltools: Any) -> None:
    ct = coremltools
    module = torch.jit.trace(torch.nn.ReLU().eval(), torch.zeros(1, 3, 4, 5))
    given = ct.ImageType(name="x", shape=(1, 3, 4, 5), bias=[-10.0, -20.0, -30.0])
    outputs = [ct.ImageType(name="y", color_layout=ct.colorlayout.RGB)]
    target = ct.target.iOS16
    model = ct.convert(module, inputs=[given], outputs=outputs, minimum_deployment_target=target)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    found = np.asarray(model.predict({"x": Image.fromarray(pixels)})["y"])
    np.testing.assert_array_equal(found[..., :3], np.clip(pixels - np.array([10, 20, 30]), 0, None))
    with pytest.raises(TypeError, match=r"must be of type PIL\.Image"):
        model.predict({"x": pixels})


def test_states_and_compiled_models(coremltools: Any, tmp_path: Path) -> None:
    ct = coremltools
    mb = builder()
    from coremltools.converters.mil.mil import types as mil_types

    half: Any = mil_types.fp16

    @mb.program(input_specs=[mb.StateTensorSpec((3,), half), mb.TensorSpec((3,), half)], opset_version=ct.target.iOS18)
    def program(kept: Any, x: Any) -> Any:
        return mb.coreml_update_state(state=kept, value=mb.add(x=mb.read_state(input=kept), y=x), name="y")

    kind = {"source": "milinternal", "convert_to": "mlprogram", "minimum_deployment_target": ct.target.iOS18}
    model = ct.convert(program, **kind)
    copy = ct.models.utils.compile_model(model.package_path, str(tmp_path / "copy.mlmodelc"))
    for each in (model, ct.models.CompiledMLModel(copy)):
        state = each.make_state()
        x = np.array([1, 2, 3], np.float32)
        sums = [each.predict({"x": x}, state=state)["y"].tolist() for _ in range(3)]
        assert sums == [[1, 2, 3], [2, 4, 6], [3, 6, 9]]
        assert state.read_state("kept").tolist() == [3, 6, 9]
        assert state.read_state("kept").dtype == np.float32
        state.write_state("kept", np.array([10.0, 10.0, 10.0]))
        assert each.predict({"x": x}, state=state)["y"].tolist() == [11, 12, 13]
        with pytest.raises(RuntimeError, match="with states must be given one"):
            each.predict({"x": x})


def test_compute_units_choose_the_precision(coremltools: Any, tmp_path: Path) -> None:
    ct = coremltools
    path = save_program(
        lambda x: builder().reduce_sum(x=x, axes=[1]), [(32, 512)], tmp_path / "m.mlpackage", float16=True
    )
    x = np.random.default_rng(0).standard_normal((32, 512)).astype(np.float32)
    sums = set()
    for units, low, precision in (
        ("CPU_ONLY", True, "float32"),
        ("CPU_AND_NE", True, "float16-float32acc"),
        ("ALL", False, "float16-float32acc"),
        ("ALL", True, "float16"),
    ):
        hints = {"allowLowPrecisionAccumulationOnGPU": low}
        model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[units], optimization_hints=hints)
        (found,) = model.predict({"x0": x}).values()
        (expected,) = MLProgram(path, precision).predict({"x0": x}).values()  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(found, expected.astype(np.float32))
        sums.add(found.tobytes())
    assert len(sums) == 3


def test_it_can_be_taken_away_again(coremltools: Any, doubled: Path) -> None:
    from sdmobile.coremltools_backend import install, remove

    assert coremltools.utils._is_macos()
    install(precision="float16")
    assert coremltools.models.MLModel(str(doubled)).predict({"x0": X})["y"].tolist() == (2 * X).tolist()
    remove()
    assert not coremltools.utils._is_macos()
    assert coremltools.utils._macos_version() == ()
    with pytest.raises(Exception, match=r"Unable to load CoreML.framework|only supported on macOS"):
        coremltools.models.MLModel(str(doubled)).predict({"x0": X})
