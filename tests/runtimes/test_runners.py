from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdmobile.basics import metrics
from sdmobile.checkpoints import Checkpoint
from sdmobile.errors import UnsupportedError
from sdmobile.formats.bundle.reading import BundleComponent, open_bundle
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.torch_runner import TorchRunner
from sdmobile.runtimes import Runner, bundle_runner, default_runtime, validation_runtimes
from sdmobile.runtimes.base import FileRunner, Predict
from sdmobile.runtimes.coreml import CoreMLRunner
from sdmobile.runtimes.mlprogram import MLProgram
from sdmobile.runtimes.mlprogram.precision import EVALUATORS
from tests.families import COMPONENTS
from tests.validate.bundles import write_exported_bundle

GENERATOR = np.random.default_rng(0)


def random_inputs(component: str, spec: PipelineSpec) -> dict[str, np.ndarray]:
    g = spec.geometry

    def normal(*shape: int) -> np.ndarray:
        return GENERATOR.normal(0, 1, shape).astype(np.float32)

    latent = (g.latent_channels, g.latent_height, g.latent_width)
    return {
        "text_encoder": {"input_ids": GENERATOR.integers(0, 90, (1, g.context_length))},
        "unet": {
            "sample": normal(2, *latent),
            "timestep": np.full(2, 501, np.float32),
            "encoder_hidden_states": normal(2, g.context_length, g.context_dim),
        },
        "vae_decoder": {"latent": normal(1, *latent)},
        "vae_encoder": {"image": np.clip(normal(1, 3, g.image_height, g.image_width), -1, 1)},
    }[component]


@pytest.mark.parametrize("component", COMPONENTS)
def test_onnx_runtime_agrees_with_torch(
    onnx_bundle: Path, torch_runner: TorchRunner, spec: PipelineSpec, component: str
) -> None:
    runner = bundle_runner(onnx_bundle, threads=1)
    inputs = random_inputs(component, spec)
    expected, found = torch_runner.run(component, inputs), runner.run(component, inputs)
    assert expected.keys() == found.keys()
    for name in expected:
        assert found[name].dtype == expected[name].dtype == np.float32
        assert metrics.psnr(expected[name], found[name]) > 100


PHONE_COMPONENTS = {"ios": "text_encoder", "android": "vae_decoder"}  # float32 token ids; channels last


@pytest.fixture(scope="module")
def phone_bundles(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("phones")
    return {
        target: write_exported_bundle(root / target, tiny_checkpoint, target, (component,))
        for target, component in PHONE_COMPONENTS.items()
    }


@pytest.mark.parametrize(
    ("target", "runtime", "least_db", "most_db"),
    # The tiny checkpoint's weights are float16 numbers, so only rounding on the way costs decibels.
    [
        ("ios", "evaluator", 90, 200),
        ("ios", "evaluator-fp16", 50, 90),
        ("ios", "evaluator-fp16acc", 40, 90),
        ("android", "litert", 90, 200),
    ],
)
def test_phone_files_agree_with_torch(
    phone_bundles: dict[str, Path],
    torch_runner: TorchRunner,
    spec: PipelineSpec,
    target: str,
    runtime: str,
    least_db: float,
    most_db: float,
) -> None:
    runner = bundle_runner(open_bundle(phone_bundles[target]), runtime, threads=1)
    inputs = random_inputs(PHONE_COMPONENTS[target], spec)
    for name, expected in torch_runner.run(PHONE_COMPONENTS[target], inputs).items():
        found = runner.run(PHONE_COMPONENTS[target], inputs)[name]
        assert found.shape == expected.shape
        assert least_db < metrics.psnr(expected, found) < most_db


@pytest.mark.parametrize("runtime", EVALUATORS)
def test_the_names_of_the_evaluator_say_how_it_rounds(
    phone_bundles: dict[str, Path], spec: PipelineSpec, runtime: str
) -> None:
    """Sums in float32 unless the name says otherwise; to the bit what the evaluator gives in that precision."""
    bundle = open_bundle(phone_bundles["ios"])
    component = bundle.components[PHONE_COMPONENTS["ios"]]
    inputs = random_inputs(component.name, spec)
    found = bundle_runner(bundle, runtime).run(component.name, inputs)
    precision = {"evaluator": "float32", "evaluator-fp16": "float16-float32acc", "evaluator-fp16acc": "float16"}[
        runtime
    ]
    program = MLProgram(component.path, precision=precision)  # pyright: ignore[reportArgumentType]
    expected = component.contract.from_target(program.predict(component.contract.to_target(inputs)))
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_runners_keep_the_protocol(onnx_bundle: Path, torch_runner: TorchRunner) -> None:
    runner = bundle_runner(onnx_bundle)
    assert isinstance(runner, Runner)
    assert isinstance(torch_runner, Runner)
    assert (runner.name, runner.components) == ("ort", COMPONENTS)
    assert (torch_runner.name, torch_runner.components) == ("torch", COMPONENTS)


def test_components_are_loaded_once_and_can_be_released(onnx_bundle: Path, spec: PipelineSpec) -> None:
    runner = bundle_runner(onnx_bundle, threads=1)
    opened: list[str] = []
    original = runner._open
    runner._open = lambda file: opened.append(file.name) or original(file)  # type: ignore[method-assign]
    inputs = random_inputs("text_encoder", spec)
    first = runner.run("text_encoder", inputs)
    runner.run("text_encoder", inputs)
    assert opened == ["text_encoder"]
    runner.release("text_encoder")
    again = runner.run("text_encoder", inputs)
    assert opened == ["text_encoder"] * 2
    np.testing.assert_array_equal(first["last_hidden_state"], again["last_hidden_state"])
    runner.release()
    assert not runner._loaded


class _Doubling(FileRunner):
    """Doubles x in every part, and notes what is loaded when a part is."""

    def __init__(self, components: Mapping[str, Any]) -> None:
        super().__init__("doubling", components)
        self.opened: list[str] = []
        self.beside: list[int] = []
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def _open(self, file: BundleComponent) -> Predict:
        self.opened.append(file.path.name)
        self.beside.append(len(self.alive))
        double = _Double()
        self.alive.add(double)
        return double


class _Double:
    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"x": inputs["x"] * 2}


@pytest.mark.parametrize(("room", "stay"), [(1e9, 3), (960, 2), (959, 1), (0, 0)])
def test_parts_take_turns_where_memory_is_short(tmp_path: Path, room: float, stay: int) -> None:
    """Three parts of 120 bytes, 480 loaded: as many stay as fit, and beside them there is one at a time."""
    contract = SimpleNamespace(
        to_target=lambda values: values, from_target=lambda values: values, outputs=[SimpleNamespace(canonical="x")]
    )
    parts = []
    for index in range(3):
        (tmp_path / f"{index}").write_bytes(bytes(120))
        parts.append(SimpleNamespace(path=tmp_path / f"{index}", contract=contract, chain=()))
    runner = _Doubling({"net": SimpleNamespace(path=parts[0].path, contract=contract, chain=tuple(parts))})
    runner.room = room
    for _ in range(2):
        np.testing.assert_array_equal(runner.run("net", {"x": np.ones(2)})["x"], np.full(2, 8.0))
    assert runner.opened == ["0", "1", "2", *["0", "1", "2"][stay:]]
    assert max(runner.beside) <= stay if stay < 3 else runner.beside == [0, 1, 2]
    runner.release()
    assert not runner.alive


def test_shapes_and_names_are_checked(
    onnx_bundle: Path, checkpoint: Checkpoint, torch_runner: TorchRunner, spec: PipelineSpec
) -> None:
    runner = bundle_runner(onnx_bundle)
    with pytest.raises(UnsupportedError, match="must have the shape"):
        runner.run("vae_decoder", {"latent": np.zeros((1, 4, 8, 8), np.float32)})
    with pytest.raises(UnsupportedError, match="a latent must have the shape"):
        torch_runner.run("vae_decoder", {"latent": np.zeros((1, 4, 8, 8), np.float32)})
    for anyone in (runner, torch_runner):
        with pytest.raises(UnsupportedError, match="vae"):
            anyone.run("vae", {})
    assert TorchRunner(checkpoint).run("vae_decoder", {"latent": np.zeros((1, 4, 8, 8), np.float32)})


def test_runtimes_of_targets(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match="one of auto, ort"):
        bundle_runner(onnx_bundle, "evaluator")
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_runtime("ios") == "evaluator"
    assert validation_runtimes("ios") == ("evaluator", "evaluator-fp16")
    for name in ("coreml", "coreml-cpu", "coreml-gpu", "coreml-ne"):
        with pytest.raises(UnsupportedError, match=f"`{name}` needs macOS"):
            CoreMLRunner({}, name)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_runtime("ios") == "coreml"
    assert validation_runtimes("ios") == ("evaluator", "evaluator-fp16", "coreml-cpu", "coreml-gpu", "coreml-ne")
    assert CoreMLRunner({}, "coreml-ne").name == "coreml-ne"
    assert (default_runtime("android"), default_runtime("onnx")) == ("litert", "ort")
