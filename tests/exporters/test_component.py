"""Jobs, geometry, records, and that nothing half-written is ever seen."""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.errors import CheckpointError, ComponentError, MissingDependencyError, ResourceError, UnsupportedError
from sdmobile.exporters import component as component_module
from sdmobile.exporters.component import export_component
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.lowering import LoweringRecord
from sdmobile.formats.bundle.contracts import Contract, Geometry
from sdmobile.reference.geometry import geometry_for


def job(checkpoint: Path, out: Path, target: str = "onnx", component: str = "vae_encoder") -> ExportJob:
    return ExportJob(checkpoint, component, target, None, "batch2", None, out)


def test_job_json_round_trip(tmp_path: Path) -> None:
    order = ExportJob(tmp_path / "model", "unet", "ios", "iphone", "separate", 768, tmp_path)
    controlled = replace(order, controls=(ControlFolder(tmp_path / "net", 0.5),))
    assert ExportJob.from_json(json.loads(json.dumps(controlled.to_json()))) == controlled
    assert ExportJob.from_json(json.loads(json.dumps(order.to_json()))) == order


def test_geometry_follows_checkpoint_guidance_and_resolution(tiny_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(tiny_checkpoint)
    assert geometry_for(checkpoint, "batch2") == Geometry(2, 4, 16, 16, 32, 32, 77, 32)
    assert geometry_for(checkpoint, "separate", 48) == Geometry(1, 4, 24, 24, 48, 48, 77, 32)


@pytest.mark.parametrize("resolution", [0, -32, 33])
def test_a_resolution_between_latent_cells_names_the_nearest(tiny_checkpoint: Path, resolution: int) -> None:
    with pytest.raises(UnsupportedError, match=rf"multiple of 2 pixels.*{resolution}.*Use \d+"):
        geometry_for(open_checkpoint(tiny_checkpoint), "batch2", resolution)


def test_unknown_guidance(tiny_checkpoint: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"batch2, separate.*none"):
        geometry_for(open_checkpoint(tiny_checkpoint), "none")


def test_the_record_tells_what_was_done(tiny_checkpoint: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    record = export_component(job(tiny_checkpoint, tmp_path / "out"), lines.append)
    assert json.loads(json.dumps(record)) == record
    written = tmp_path / "out" / "vae_encoder.onnx"
    assert list((tmp_path / "out").iterdir()) == [written]
    assert record["file"] == "vae_encoder.onnx"
    assert record["files"] == ["vae_encoder.onnx"]
    assert record["bytes"] == written.stat().st_size
    assert record["sha256"] == hashlib.sha256(written.read_bytes()).hexdigest()
    assert [stage["name"] for stage in record["stages"]] == ["open", "capture", "rewrite", "load", "lower"]
    assert all(stage["seconds"] >= 0 and stage["peak_rss_bytes"] > 1 << 20 for stage in record["stages"])
    assert record["stages"][-1]["operator_count"] == sum(record["stages"][-1]["operators"].values())
    assert Contract.from_json(record["contract"]).file_name == "vae_encoder.onnx"
    assert len(lines) == 2 * len(record["stages"])


def _fake_package(program: Any, contract: Contract, path: Path, options: Any) -> LoweringRecord:
    path.mkdir()
    (path / "weights").write_text("new")
    return LoweringRecord(path, {"conv": 1})


def test_an_older_package_is_replaced_whole(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "VAEEncoder.mlpackage"
    old.mkdir()
    (old / "stale").write_text("old")
    monkeypatch.setattr(component_module, "lower_to_file", _fake_package)
    record = export_component(job(tiny_checkpoint, tmp_path, "ios"))
    assert [path.name for path in old.iterdir()] == ["weights"]
    norms = [r for r in record["rewrites"] if r["rule"] == "group_norm_instance_norm"]
    assert [r["outcome"] for r in norms] == ["applied"] * 10
    assert norms[0]["module"] == "encoder.down_blocks.0.resnets.0.norm1"
    assert record["warnings"] == []
    assert record["parameters"] > 0


@pytest.mark.parametrize(
    ("raised", "expected", "said"),
    [
        (RuntimeError("no lowering for aten.foo"), ComponentError, r"vae_encoder.*`lower`.*aten\.foo"),
        (MemoryError(), ResourceError, r"not enough memory.*--guidance separate"),
        (ModuleNotFoundError(name="onnxscript"), MissingDependencyError, r"onnxscript.*sdmobile\[onnx\]"),
        (OSError(errno.ENOSPC, "No space left on device"), ResourceError, "No space left"),
    ],
)
def test_a_failing_stage_leaves_what_was_there(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    expected: type[Exception],
    said: str,
) -> None:
    def fail(program: Any, contract: Contract, path: Path, options: Any) -> LoweringRecord:
        path.write_text("half")
        raise raised

    (tmp_path / "vae_encoder.onnx").write_text("older")
    monkeypatch.setattr(component_module, "lower_to_file", fail)
    with pytest.raises(expected, match=said):
        export_component(job(tiny_checkpoint, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["vae_encoder.onnx"]
    assert (tmp_path / "vae_encoder.onnx").read_text() == "older"


def test_a_device_of_another_target(tiny_checkpoint: Path, tmp_path: Path) -> None:
    order = ExportJob(tiny_checkpoint, "unet", "android", "iphone-15-pro", "batch2", None, tmp_path)
    with pytest.raises(UnsupportedError, match=r"iphone-15-pro takes the target ios.*android"):
        export_component(order)


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        export_component(job(tmp_path / "nowhere", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
