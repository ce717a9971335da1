"""What is streamed into a structure is, byte for byte, what the long way writes; of every kind of checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from sdmobile.basics.files import files_of
from sdmobile.checkpoints import Checkpoint, open_checkpoint
from sdmobile.checkpoints.changes import Changes
from sdmobile.checkpoints.lora import LoraFile
from sdmobile.errors import CheckpointError
from sdmobile.exporters.component import export_component
from sdmobile.exporters.request import ExportRequest, make_plan
from sdmobile.exporters.structures.component import stream_component
from sdmobile.exporters.structures.guard import OrdinaryWeightsError
from sdmobile.exporters.structures.probe import PROOF_SEED, probe_array
from tests.exporters.structures.conftest import Made, make
from tests.synthetic import write_checkpoint

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def _contents(folder: Path, names: list[str]) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for name in names for p in files_of(folder / name)}


def _both_ways(made: Made, checkpoint: Checkpoint, folder: Path, changes: Changes | None = None) -> dict[str, Any]:
    """Exports the denoiser of a checkpoint both ways, compares all files, and returns the streamed one's record."""
    target = made.plan.request.target
    request = ExportRequest(checkpoint.path, target, folder / "b", components=("unet",), structures=False)
    plan = make_plan(request if changes is None else replace(request, changes=changes))
    long = export_component(plan.job("unet", folder / "long"))
    (folder / "streamed").mkdir()
    record = stream_component(made.structure, plan.checkpoint, folder / "streamed")
    assert _contents(folder / "streamed", record["files"]) == _contents(folder / "long", long["files"])
    for key in ("bytes", "sha256", "file", "files", "contract", "parameters", "rewrites", "warnings"):
        assert record[key] == long[key], key
    losses = [stage["fp16_losses"] for stage in long["stages"] if "fp16_losses" in stage]
    assert record["stages"][0]["fp16_losses"] == losses[0]
    return record


def test_a_lora_on_float32_weights_gives_the_files_of_the_long_way(made: Made, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "other", seed=7)
    draw = np.random.default_rng(0)
    tensors = {k: v.astype(np.float32) for k, v in load_file(folder / WEIGHTS).items()}
    changed = {k: v * draw.uniform(0.5, 1.5, v.shape).astype(np.float32) for k, v in tensors.items()}
    changed["conv_in.weight"][0, 0, 0, 0] = 1e-9  # which float16 takes for 0
    save_file(changed, folder / WEIGHTS)
    key = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    rows, columns = changed[f"{key}.weight"].shape
    lora = {
        f"unet.{key}.lora_A.weight": draw.standard_normal((4, columns), np.float32),
        f"unet.{key}.lora_B.weight": draw.standard_normal((rows, 4), np.float32),
    }
    save_file(lora, tmp_path / "lora.safetensors")
    changes = Changes(loras=(LoraFile(tmp_path / "lora.safetensors", 0.5),))
    fused = _both_ways(made, open_checkpoint(folder), tmp_path, changes)
    assert fused["structure"].startswith("unet-")
    assert [loss["name"] for loss in fused["stages"][0]["fp16_losses"]] == ["conv_in.weight"]
    assert _streamed(made, folder, tmp_path / "plain")["sha256"] != fused["sha256"]


def test_float16_weights_are_read_as_they_are(made: Made, tmp_path: Path) -> None:
    """The same numbers in float32 go through the same way as those of the test above."""
    half = write_checkpoint(tmp_path / "half", seed=8)
    tensors = load_file(half / WEIGHTS)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float16"}
    wide = Path(shutil.copytree(half, tmp_path / "wide"))
    save_file({name: tensor.astype(np.float32) for name, tensor in tensors.items()}, wide / WEIGHTS)
    found = [_streamed(made, folder, tmp_path / f"{folder.name}-out") for folder in (half, wide)]
    names = [name for name in found[0]["files"] if name.endswith(".tflite")]
    files = [_contents(tmp_path / f"{folder.name}-out", names) for folder in (half, wide)]
    assert files[0] == files[1]
    weights = [next(iter((tmp_path / f"{folder.name}-out").rglob("weight.bin")), None) for folder in (half, wide)]
    assert weights[0] is None or weights[0].read_bytes() == weights[1].read_bytes()  # type: ignore[union-attr]


def _streamed(made: Made, checkpoint: Path, out: Path) -> dict[str, Any]:
    out.mkdir()
    return stream_component(made.structure, open_checkpoint(checkpoint), out)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(heads=st.integers(1, 6), width=st.integers(3, 24), layers=st.integers(1, 3), seed=st.integers(0, 1 << 16))
@pytest.mark.parametrize("target", ["ios", "android"])
def test_any_small_text_encoder_is_streamed_as_the_long_way_writes_it(
    target: str, heads: int, width: int, layers: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    sizes = {"hidden_size": heads * width, "num_attention_heads": heads, "num_hidden_layers": layers}
    changes = {
        "text_encoder": {**sizes, "projection_dim": heads * width},
        "unet": {"cross_attention_dim": heads * width},
    }
    checkpoint = write_checkpoint(folder / "drawn", seed=seed, changes=changes)
    drawn = make(checkpoint, "text_encoder", target, folder)
    long = export_component(drawn.plan.job("text_encoder", folder / "long"))
    (folder / "streamed").mkdir()
    record = stream_component(drawn.structure, drawn.plan.checkpoint, folder / "streamed")
    assert _contents(folder / "streamed", record["files"]) == _contents(folder / "long", long["files"])


def test_the_structure_holds_the_constants_and_the_probe_the_rest(made: Made, tmp_path: Path) -> None:
    from sdmobile.exporters.structures.streaming import write_files

    shapes = made.structure.facts["tensors"]

    def read(name: str, half: bool) -> np.ndarray:
        return probe_array(PROOF_SEED, name, tuple(shapes[name]))

    written = write_files(made.structure, tmp_path, read, lambda texts: texts)
    names = made.structure.record["files"]
    assert _contents(tmp_path, names) == _contents(made.files, names)
    bound = sum(s.size for f in made.structure.files for s in f.segments if s.kind == "tensor")
    assert bound > 0.5 * written.bytes
    assert made.path.stat().st_size < 0.2 * written.bytes


def test_a_weight_that_is_not_finite_is_refused(made: Made, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "other", seed=9)
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_in.weight"][0, 0, 0, 0] = np.inf
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"conv_in\.weight are NaN or infinite"):
        _streamed(made, folder, tmp_path / "out")


def test_weights_that_are_all_one_number_are_left_to_the_long_way(made: Made, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "other", seed=9)
    tensors = load_file(folder / WEIGHTS)
    tensors["conv_norm_out.weight"][:] = 1.0
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(OrdinaryWeightsError, match=r"conv_norm_out\.weight is 1"):
        _streamed(made, folder, tmp_path / "out")
