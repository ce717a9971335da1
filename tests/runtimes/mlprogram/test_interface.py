"""What an app sees besides arrays: pictures, classes, default values, states, pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sdmobile.errors import UnsupportedError
from sdmobile.runtimes.mlprogram import InputError, MLProgram, PackageError
from sdmobile.runtimes.mlprogram.pipeline import Pipeline, open_model
from tests.runtimes.mlprogram.support import builder, prepare_coremltools

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def _converted(
    build: Callable[[Any], Any], shape: tuple[Any, ...], float16: bool = False, outputs: Any = None, **how: Any
) -> Any:
    """Returns the coremltools model of one input `x`."""
    ct = prepare_coremltools()
    mb = builder()

    @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        return build(x)

    program.functions["main"].set_output_types(outputs)
    precision = ct.precision.FLOAT16 if float16 else ct.precision.FLOAT32
    kind = {"source": "milinternal", "convert_to": "mlprogram", "minimum_deployment_target": ct.target.iOS17}
    return ct.convert(program, **kind, compute_precision=precision, skip_model_load=True, **how)


def _saved(model: Any, path: Path) -> Path:
    model.save(str(path))
    return path


def _shifted(x: Any) -> Any:
    return builder().add(x=x, y=np.float32(100), name="y")


@pytest.mark.parametrize("layout", ["RGB", "BGR"])
def test_a_picture_in_colour_is_read_scaled_and_returned(layout: str, tmp_path: Path) -> None:
    ct = prepare_coremltools()
    color = getattr(ct.colorlayout, layout)
    given = ct.ImageType("x", (1, 3, 6, 8), scale=0.5, bias=[1.0, 2.0, 3.0], color_layout=color)
    model = _converted(_shifted, (1, 3, 6, 8), inputs=[given], outputs=[ct.ImageType(name="y", color_layout=color)])
    program = MLProgram(_saved(model, tmp_path / "m.mlpackage"))
    found = program.predict({"x": Image.fromarray(PIXELS)})["y"]
    bias = np.array([1, 2, 3] if layout == "RGB" else [3, 2, 1])  # one for each channel of the tensor
    expected = np.clip(np.rint(PIXELS * 0.5 + bias + 100), 0, 255)
    assert found.mode == "RGBA"
    np.testing.assert_array_equal(np.asarray(found)[..., :3], expected)
    assert (np.asarray(found)[..., 3] == 255).all()
    for wrong in (Image.fromarray(PIXELS[..., 0]), PIXELS):
        with pytest.raises(InputError, match="PIL image of mode RGB"):
            program.predict({"x": wrong})


def test_grey_pictures_of_8_bits_and_of_float16(tmp_path: Path) -> None:
    ct = prepare_coremltools()
    for layout, values in (("GRAYSCALE", PIXELS[..., 0]), ("GRAYSCALE_FLOAT16", PIXELS[..., 0] / np.float32(7))):
        color = getattr(ct.colorlayout, layout)
        types = {"inputs": [ct.ImageType("x", (1, 1, 6, 8), color_layout=color)]}
        types["outputs"] = [ct.ImageType(name="y", color_layout=color)]
        path = _saved(_converted(_shifted, (1, 1, 6, 8), float16=True, **types), tmp_path / f"{layout}.mlpackage")
        picture = Image.fromarray(values.astype(np.uint8 if layout == "GRAYSCALE" else np.float32))
        found = np.asarray(MLProgram(path, "float16-float32acc").predict({"x": picture})["y"])
        exact = values.astype(np.float16) + np.float16(100)
        np.testing.assert_array_equal(found, np.clip(exact, 0, 255) if layout == "GRAYSCALE" else exact)


def test_sizes_of_a_picture_are_listed_or_in_a_range(tmp_path: Path) -> None:
    ct = prepare_coremltools()
    size: Any = ct.RangeDim(4, 16, default=8)
    listed: Any = ct.EnumeratedShapes([(1, 3, 6, 8), (1, 3, 12, 4)], default=(1, 3, 6, 8))
    for shape, good, bad in ((ct.Shape((1, 3, size, size)), (16, 4), (3, 8)), (listed, (12, 4), (8, 6))):
        path = _saved(
            _converted(_shifted, (1, 3, *_free()), inputs=[ct.ImageType("x", shape)]), tmp_path / "m.mlpackage"
        )
        program = MLProgram(path)
        pixels = np.full((*good, 3), 7, np.uint8)
        expected = np.full((1, 3, *good), 107, np.float32)
        np.testing.assert_array_equal(program.predict({"x": Image.fromarray(pixels)})["y"], expected)
        with pytest.raises(InputError, match=r"sizes in their ranges|listed shapes"):
            program.predict({"x": Image.fromarray(np.zeros((*bad, 3), np.uint8))})


def _free() -> tuple[Any, Any]:
    from coremltools.converters.mil.mil import get_new_symbol

    return get_new_symbol(), get_new_symbol()


@pytest.mark.parametrize("classes", [["cat", "dog", "cow"], [30, 10, 20]])
def test_a_classifier_returns_a_class_and_a_table(classes: list[Any], tmp_path: Path) -> None:
    ct = prepare_coremltools()
    build = lambda x: builder().softmax(x=x, axis=-1)  # noqa: E731
    path = _saved(_converted(build, (1, 3), classifier_config=ct.ClassifierConfig(classes)), tmp_path / "m.mlpackage")
    x = np.array([[1, 3, 2]], np.float32)
    found = MLProgram(path).predict({"x": x})
    expected = np.exp(x[0]) / np.exp(x[0]).sum()
    assert list(found) == ["classLabel", "classLabel_probs"]
    assert found["classLabel"] == classes[1]
    assert list(found["classLabel_probs"]) == classes
    np.testing.assert_allclose(list(found["classLabel_probs"].values()), expected, rtol=1e-6)
    model: Any = ct.utils.load_spec(str(path))
    operations = model.mlProgram.functions["main"].block_specializations["CoreML7"].operations
    operations[-1].inputs["classes"].arguments[0].value.immediateValue.list.values.pop()
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match="3 for 2 classes"):
        MLProgram(path).predict({"x": x})
    operations.append(operations[0])
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(model.SerializeToString())
    with pytest.raises(PackageError, match="must end with classify"):
        MLProgram(path)


def test_an_input_that_is_left_out_has_its_default_value(tmp_path: Path) -> None:
    ct = prepare_coremltools()
    given = ct.TensorType("x", (2, 3), default_value=np.full((2, 3), 5, np.float32))
    program = MLProgram(_saved(_converted(_shifted, (2, 3), inputs=[given]), tmp_path / "m.mlpackage"))
    np.testing.assert_array_equal(program.predict({})["y"], np.full((2, 3), 105, np.float32))
    np.testing.assert_array_equal(program.predict({"x": np.zeros((2, 3), np.float32)})["y"], np.full((2, 3), 100))
    with pytest.raises(InputError, match="inputs must be those"):
        program.predict({"z": np.zeros((2, 3), np.float32)})


@pytest.fixture(scope="module")
def accumulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that adds its input to a state twice, and returns what it held between."""
    ct = prepare_coremltools()
    mb = builder()
    from coremltools.converters.mil.mil import types as mil_types

    types: Any = mil_types

    @mb.program(
        input_specs=[mb.StateTensorSpec((3,), dtype=types.fp16), mb.TensorSpec((3,), dtype=types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(kept: Any, x: Any) -> Any:
        once = mb.coreml_update_state(state=kept, value=mb.add(x=mb.read_state(input=kept), y=x))
        mb.coreml_update_state(state=kept, value=mb.add(x=once, y=x))
        return mb.mul(x=once, y=np.float16(2), name="y")

    kind = {"source": "milinternal", "convert_to": "mlprogram", "minimum_deployment_target": ct.target.iOS18}
    path = tmp_path_factory.mktemp("states") / "m.mlpackage"
    return _saved(ct.convert(program, **kind, skip_model_load=True), path)


@pytest.mark.parametrize("precision", ["float32", "float16-float32acc", "float16"])
def test_a_state_is_kept_read_and_written(precision: Any, accumulator: Path) -> None:
    program = MLProgram(accumulator, precision)
    assert program.states == {"kept": ((3,), "float16")}
    first, second = program.make_state(), program.make_state()
    x = np.array([1, 2, 3], np.float16)
    for call in range(3):
        np.testing.assert_array_equal(program.predict({"x": x}, first)["y"], 2 * (2 * call + 1) * x)
        np.testing.assert_array_equal(first.read("kept"), (2 * call + 2) * x)
    np.testing.assert_array_equal(second.read("kept"), np.zeros(3))
    second.write("kept", np.array([10.0, 20.0, 30.0]))
    np.testing.assert_array_equal(program.predict({"x": x}, second)["y"], 22 * x)


def test_a_wrong_state_is_refused(accumulator: Path) -> None:
    program = MLProgram(accumulator)
    state = program.make_state()
    with pytest.raises(InputError, match="with states must be given one"):
        program.predict({"x": np.zeros(3, np.float16)})
    with pytest.raises(InputError, match="must be one of the program: other"):
        state.read("other")
    with pytest.raises(InputError, match=r"shape \[3\]"):
        state.write("kept", np.zeros(4))
    steps = list(program.results({"x": np.ones(3, np.float16)}))
    assert [step.operation.type for step, _ in steps].count("write_state") == 2


def test_a_pipeline_hands_results_on_by_name(tmp_path: Path) -> None:
    ct = prepare_coremltools()
    scaled = _converted(lambda x: builder().mul(x=x, y=np.arange(1, 21, dtype=np.float32), name="h"), (2, 20))
    spec = _converted(lambda x: builder().matmul(x=x, y=np.ones((20, 20), np.float32), name="y"), (2, 20))
    renamed: Any = spec.get_spec()
    ct.utils.rename_feature(renamed, "x", "h")
    second = ct.models.MLModel(renamed, weights_dir=spec.weights_dir, skip_model_load=True)
    path = _saved(ct.utils.make_pipeline(scaled, second), tmp_path / "chain.mlpackage")
    x = np.random.default_rng(1).standard_normal((2, 20)).astype(np.float32)
    program = open_model(path)
    assert isinstance(program, Pipeline)
    expected = (x * np.arange(1, 21)).sum(1, keepdims=True).repeat(20, 1)
    np.testing.assert_allclose(program.predict({"x": x})["y"], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="those of the pipeline"):
        program.predict({"x": x, "h": x})
    with pytest.raises(InputError, match="Only a single program has states"):
        program.make_state()
    with pytest.raises(UnsupportedError, match="no ML Program"):
        MLProgram(path)
    lacking: Any = ct.utils.load_spec(str(path))
    del lacking.pipeline.models[0]
    with pytest.raises(PackageError, match="give each other"):
        open_model(_saved(ct.models.MLModel(lacking, skip_model_load=True), tmp_path / "lacking.mlpackage"))
