"""A component in parts is in memory one part at a time, and its files are those of one that is there as a whole."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from sdmobile.basics.files import hash_of
from sdmobile.checkpoints import arrays, open_checkpoint
from sdmobile.device_profiles import default_profile
from sdmobile.exporters import component
from sdmobile.exporters.chunk_contracts import part_contracts
from sdmobile.exporters.chunks import SLACK, split
from sdmobile.exporters.component import export_component, lower_to_file
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.lowering import LoweringOptions, LoweringRecord, provenance_of
from sdmobile.families.contracts import contract_for
from sdmobile.reference.capture import capture
from sdmobile.reference.geometry import geometry_for
from sdmobile.reference.subject import wrapped_component
from sdmobile.rewrites.engine import rewrite
from sdmobile.rewrites.naming import name_by_module
from sdmobile.rewrites.options import RewriteOptions
from sdmobile.rewrites.registry import rules_for
from tests.synthetic import write_checkpoint

SMALL = 4096  # bytes of a tensor that is none of the large ones
CHANNELS = 128
TABLES = 4 * 1001 * CHANNELS * 4  # bytes of the timestep's tables, which the graph itself holds


def alive() -> int:
    """Returns the bytes of all tensors of this process that have values, each storage once."""
    gc.collect()
    kinds = {torch.Tensor, torch.nn.Parameter}  # and not fake ones
    storages = [one.untyped_storage() for one in gc.get_objects() if type(one) in kinds and one.device.type == "cpu"]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for size in sizes.values() if size > SMALL)


def job(checkpoint: Path, target: str, folder: Path, chunks: int = 1, **options: Any) -> ExportJob:
    return ExportJob(checkpoint, "unet", target, None, "batch2", None, folder, chunks=chunks, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the smallest UNet that has all kinds of layers: one level down, a middle, one level up."""
    unet = {
        "block_out_channels": [CHANNELS],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"],
        "norm_num_groups": 8,
    }
    return write_checkpoint(tmp_path_factory.mktemp("parts") / "one-level", changes={"unet": unet})


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Lowers nothing; notes how much is alive when a part should be, and how much of it is the part's own weights."""
    seen: list[tuple[int, int]] = []

    def lower(program: Any, contract: Any, path: Path, options: Any) -> LoweringRecord:
        own = sum(one.nbytes for one in (*program.state_dict.values(), *program.constants.values()))
        seen.append((alive(), own))
        path.write_bytes(b"")
        return LoweringRecord(path, {})

    monkeypatch.setattr(component, "lower_to_file", lower)
    monkeypatch.setattr(component, "_cast_to_float16", lambda *_: None)
    monkeypatch.setattr(component, "gpu_warnings", lambda *_: ())
    return seen


def assert_one_part_at_a_time(
    record: dict[str, Any], watched: list[tuple[int, int]], before: int, passed_on: int = 0
) -> None:
    (chunk,) = [stage for stage in record["stages"] if stage["name"] == "chunk"]
    shares = [part["float32_weight_bytes"] for part in chunk["parts"]]
    assert len(watched) == len(shares) == 4
    for (found, own), share in zip(watched, shares, strict=True):
        assert own == share <= SLACK * sum(shares) / 4
        assert found - before <= share + TABLES + passed_on + 8 * SMALL
    assert sum(shares) > max(shares) + TABLES + passed_on + 8 * SMALL  # the bound is none that the whole keeps
    assert alive() - before < TABLES + passed_on + 8 * SMALL  # and nothing is left


@pytest.mark.parametrize("target", ["ios", "android"])
def test_one_part_at_a_time_is_alive(folder: Path, tmp_path: Path, watched: list[tuple[int, int]], target: str) -> None:
    before = alive()
    assert_one_part_at_a_time(export_component(job(folder, target, tmp_path, 4)), watched, before)


@pytest.mark.parametrize("options", [{"float32_islands": True}, {"rewrites": RewriteOptions(check=True)}])
def test_what_runs_the_whole_reference_lets_it_go_before_the_parts(
    folder: Path, tmp_path: Path, watched: list[tuple[int, int]], options: dict[str, Any]
) -> None:
    before = alive()
    record = export_component(job(folder, "ios", tmp_path, 4, **options))
    crossing = 2 * 2 * CHANNELS * 16 * 16 * 4  # one value in two calls of two rows
    assert_one_part_at_a_time(record, watched, before, 6 * crossing)
    if "rewrites" in options:
        assert record["rewrite_checks"]
        assert all(check["psnr_db"] is None or check["psnr_db"] > 80 for check in record["rewrite_checks"])


@pytest.mark.parametrize("target", ["ios", pytest.param("android", marks=pytest.mark.slow)])
def test_files_are_those_of_the_whole(folder: Path, tmp_path: Path, target: str) -> None:
    """The other way: all weights are there before the graph is captured, and all parts share them."""
    checkpoint = open_checkpoint(folder)
    record = export_component(job(folder, target, tmp_path / "ours", 2))
    profile = default_profile(target)
    contract = contract_for(checkpoint.family, target, "unet", geometry_for(checkpoint, "batch2"))
    module = wrapped_component(checkpoint, target, "unet")
    program = name_by_module(rewrite(capture(module, contract)[0], rules_for(profile)).program)
    parts = split(program, 2)
    (tmp_path / "whole").mkdir()
    provenance = provenance_of(checkpoint)
    options = LoweringOptions(provenance, profile.deployment_target, (), checkpoint.family.component("unet").summary)
    for part, interface in zip(parts, part_contracts(contract, program, parts), strict=True):
        path = tmp_path / "whole" / interface.file_name
        lower_to_file(part.program, interface, path, options)
        if target == "android":
            from sdmobile.quantize.tflite_float16 import cast_weights

            source = path.rename(path.with_name("float32.tflite"))
            cast_weights(source, path, profile.forms.of("embedding") == "float32")
            source.unlink()
    assert record["files"] == [path.name for path in sorted((tmp_path / "whole").iterdir())]
    for name in record["files"]:
        assert hash_of([tmp_path / "ours" / name]) == hash_of([tmp_path / "whole" / name])


def test_only_the_weights_of_a_part_are_read(
    folder: Path, tmp_path: Path, watched: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []
    original = arrays.model_arrays

    def spy(checkpoint: Any, name: str, wanted: Any = None) -> Any:
        read.append([])
        for key, tensor in original(checkpoint, name, wanted):
            read[-1].append(key)
            yield key, tensor

    monkeypatch.setattr(arrays, "model_arrays", spy)
    record = export_component(job(folder, "ios", tmp_path, 3))
    sizes = {name: info.elements for name, info in open_checkpoint(folder).components["unet"].tensors.items()}
    names = [name for part in read[-3:] for name in part]
    assert len(read[-3:]) == 3
    assert all(read[-3:])
    assert len(names) == len(set(names))  # in this network no weight is in two parts
    assert len(names) == len(sizes)
    assert record["parameters"] == sum(sizes.values())
