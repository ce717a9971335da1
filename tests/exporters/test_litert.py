"""LiteRT files against PyTorch, run by LiteRT's own interpreter, and what the Android GPU would say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.fx.traceback
from torch import nn

from sdmobile.basics.metrics import psnr
from sdmobile.errors import UnsupportedError
from sdmobile.exporters.gpu_warnings import gpu_warnings
from sdmobile.formats.bundle.contracts import Contract, TensorSpec
from sdmobile.formats.tflite.graph import read_facts
from sdmobile.quantize import tflite_float16
from sdmobile.quantize.tflite_float16 import cast_weights
from sdmobile.rewrites.composites.group_norm import GroupNormComposite
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.rule import source_module
from tests.exporters.conftest import Lowered
from tests.families import COMPONENTS
from tests.validate.breakage import Flatbuffer

Lower = Callable[[str, str], Lowered]
# The larger two are fast tests as a whole bundle: tests/families/test_commands.py.
LARGE = ("unet", "vae_decoder")
EACH = [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in COMPONENTS]


def run(path: Path, contract: Contract, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Returns what the file's signature makes of named inputs."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner(contract.signature)
    return runner(**inputs)[contract.outputs[0].name]


@pytest.mark.parametrize("component", EACH)
def test_numbers_before_and_after_the_cast(lowered: Lower, component: str, tmp_path: Path) -> None:
    case = lowered("android", component)
    inputs = case.inputs()
    expected = case.expected(inputs)
    assert psnr(expected, run(case.path, case.contract, inputs)) > 110
    half = tmp_path / "half.tflite"
    record = cast_weights(case.path, half)
    assert psnr(expected, run(half, case.contract, inputs)) > 60
    assert record.bytes_after == half.stat().st_size < 0.75 * record.bytes_before
    assert read_facts(half).tensor_types["FLOAT16"] > 0


@pytest.mark.parametrize("component", EACH)
def test_interface_is_the_contract(lowered: Lower, component: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    case = lowered("android", component)
    interpreter = Interpreter(str(case.path))
    assert interpreter.get_signature_list() == {
        case.contract.signature: {
            "inputs": sorted(spec.name for spec in case.contract.inputs),
            "outputs": [case.contract.outputs[0].name],
        }
    }
    runner = interpreter.get_signature_runner(case.contract.signature)
    details = {**runner.get_input_details(), **runner.get_output_details()}
    for spec in (*case.contract.inputs, *case.contract.outputs):
        assert tuple(details[spec.name]["shape"]) == spec.shape
        assert np.dtype(details[spec.name]["dtype"]) == spec.dtype


@pytest.mark.parametrize("component", EACH)
def test_nothing_that_the_gpu_refuses(lowered: Lower, component: str) -> None:
    case = lowered("android", component)
    facts = read_facts(case.path)
    assert gpu_warnings(case.path) == ()
    assert "BROADCAST_TO" not in facts.operators
    assert facts.max_rank <= 4
    assert facts.operators == case.record.operators


def test_norms_work_channels_last(lowered: Lower) -> None:
    """One composite per norm, and few transposes: the layouts of norms and convolutions agree."""
    operators = lowered("android", "vae_encoder").record.operators
    assert operators["odml.group_norm"] == 10
    assert operators["TRANSPOSE"] < operators["CONV_2D"]


@pytest.mark.parametrize(
    ("component", "path"),
    [
        pytest.param("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1", marks=pytest.mark.slow),
        ("vae_encoder", "encoder.down_blocks.0.resnets"),
    ],
)
def test_tensors_are_named_after_the_module_that_they_come_from(lowered: Lower, component: str, path: str) -> None:
    """Viewers show these names; the converter's own are those of the class that it is given."""
    from ai_edge_litert.interpreter import Interpreter

    names = [tensor["name"] for tensor in Interpreter(str(lowered("android", component).path)).get_tensor_details()]
    assert any(name.startswith(path) for name in names)
    assert not [name for name in names if "_Named" in name]


class _Named(nn.Module):
    """The documented way: a module of named inputs and outputs, which the converter captures."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.program = program.module(check_guards=False)
        for node in self.program.graph.nodes:
            if (path := source_module(node)) is not None:
                node.meta["nn_module_stack"] = {"source": ("", path)}
        self.training = False

    def forward(self, **tensors: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.fx.traceback.preserve_node_meta():
            return {"y": torch.fx.Interpreter(self.program).run(tensors["picture"])}


def test_files_are_those_of_the_documented_way(tmp_path: Path) -> None:
    """Byte for byte, with composites, views and layouts among the operators."""
    import litert_torch

    from sdmobile.exporters.litert.compat import convert

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(2), nn.Linear(64, 5)
    )
    x = torch.randn(1, 4, 8, 8)
    picture = TensorSpec("picture", (1, 4, 8, 8), "float32", "", "picture", "NCHW")
    contract = Contract(
        "android", "network", "n.tflite", "run", (picture,), (TensorSpec("y", (1, 8, 5), "float32", "", "y", "NCL"),)
    )
    program = rewrite(torch.export.export(network.eval(), (x,)), [GroupNormComposite()]).program
    theirs, ours = tmp_path / "theirs.tflite", tmp_path / "ours.tflite"
    litert_torch.signature("run", _Named(program), sample_kwargs={"picture": x}).convert().export(str(theirs))
    for node in program.graph.nodes:
        if (path := source_module(node)) is not None:
            node.meta["nn_module_stack"] = {"source": ("", path)}
    convert(program, contract, {"picture": x}).export(str(ours))
    assert ours.read_bytes() == theirs.read_bytes()
    assert run(ours, contract, {"picture": x.numpy()}) == pytest.approx(network(x).detach().numpy(), abs=1e-5)


def test_an_export_warns_of_what_the_gpu_is_predicted_to_refuse(lowered: Lower, tmp_path: Path) -> None:
    """One sentence per operator and rule, however many nodes break it."""
    path = Path(shutil.copy(lowered("android", "vae_encoder").path, tmp_path))
    for _ in range(2):
        Flatbuffer(path).insert_broadcast(after="CONV_2D")
    assert read_facts(path).operators["BROADCAST_TO"] == 2
    (warning,) = gpu_warnings(path)
    assert warning.startswith("the Android GPU is predicted to refuse 2 BROADCAST_TO")
    assert gpu_warnings(path, "ml-drift") == (warning,)
    assert gpu_warnings(path, "xnnpack") == ()


def test_a_file_above_two_gigabytes_is_an_error_with_advice(
    lowered: Lower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite_float16, "MAX_TFLITE_BYTES", 1000)
    with pytest.raises(UnsupportedError, match=r"below 2 GB.*big.tflite.*--components"):
        cast_weights(lowered("android", "text_encoder").path, tmp_path / "big.tflite")
