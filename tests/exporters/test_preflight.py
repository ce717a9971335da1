"""One judgement before any work: whatever is wrong is refused with its code, and nothing has been made."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdmobile.checkpoints import open_checkpoint
from sdmobile.device_profiles.model import DeviceProfile
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError
from sdmobile.exporters.estimates import PlannedComponent
from sdmobile.exporters.preflight import Check, Level, PreflightReport, preflight
from sdmobile.exporters.request import ExportRequest, make_plan
from sdmobile.rewrites.options import RewriteOptions
from tests.fuzz.checkpoints import damage

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def judged(folder: Path, target: str = "android", **request: Any) -> PreflightReport:
    return preflight(open_checkpoint(folder), ExportRequest(folder, target, folder.parent / "out", **request))


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / UNET)
        change(tensors)
        save_file(tensors, folder / UNET)

    return edit


def config(name: str, **values: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        stated = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**stated, **values}))

    return edit


REFUSED: dict[str, tuple[Callable[[Path], object], Check, int]] = {
    "missing weight": (weights(lambda t: t.pop("conv_in.bias")), Check.WEIGHTS, 4),
    "further weight": (weights(lambda t: t.update(more=torch.ones(1))), Check.WEIGHTS, 4),
    "shape": (weights(lambda t: t.update({"conv_norm_out.bias": torch.zeros(7)})), Check.WEIGHTS, 4),
    "integers": (weights(lambda t: t.update({"conv_in.bias": torch.ones(32).short()})), Check.WEIGHTS, 4),
    "groups": (config("unet/config.json", norm_num_groups=0), Check.WEIGHTS, 5),
    "half a group": (config("vae/config.json", norm_num_groups=0.5), Check.WEIGHTS, 5),
    "activation": (config("text_encoder/config.json", hidden_act="nonsense"), Check.WEIGHTS, 5),
    "NaN": (weights(lambda t: t["conv_in.bias"].fill_(float("nan"))), Check.VALUES, 4),
    "vocabulary": (lambda folder: (folder / "tokenizer/vocab.json").write_text("{}"), Check.TOKENIZER, 4),
    "no tokenizer": (lambda folder: shutil.rmtree(folder / "tokenizer"), Check.TOKENIZER, 4),
    "sigmas": (
        config(
            "scheduler/scheduler_config.json",
            _class_name="EulerDiscreteScheduler",
            use_karras_sigmas=True,
            use_beta_sigmas=True,
        ),
        Check.SAMPLER,
        4,
    ),
    "scheduler": (config("scheduler/scheduler_config.json", _class_name="MyScheduler"), Check.SAMPLER, 5),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_fail_later_is_refused_now(copy: Path, case: str) -> None:
    change, check, code = REFUSED[case]
    change(copy)
    refusal = next(finding for finding in judged(copy).findings if finding.level is Level.REFUSED)
    assert (refusal.check, refusal.error and refusal.error.exit_code) == (check, code)
    with pytest.raises(SdmobileError) as raised:
        make_plan(ExportRequest(copy, "android", copy.parent / "out"))
    assert raised.value.exit_code == code
    assert not (copy.parent / "out").exists()


@pytest.mark.parametrize("target", ["ios", "android", "onnx"])
def test_a_sound_checkpoint_passes(tiny_checkpoint: Path, target: str) -> None:
    report = judged(tiny_checkpoint, target)
    assert report.possible
    assert report.about_bundle == ()
    report.require()


def test_components_that_are_not_asked_for_are_not_judged(copy: Path) -> None:
    weights(lambda tensors: tensors.pop("conv_in.bias"))(copy)
    assert judged(copy, components=("vae_decoder",)).possible


def test_a_stand_in_for_the_scheduler_is_a_note(tiny_checkpoint: Path) -> None:
    assert any("PNDMScheduler" in note and "dpm++" in note for note in judged(tiny_checkpoint).notes)
    assert judged(tiny_checkpoint, "ios").notes == ()


def test_what_apples_package_cannot_tokenise_is_a_warning(copy: Path) -> None:
    config("tokenizer/tokenizer_config.json", pad_token="!")(copy)
    (copy / "tokenizer/special_tokens_map.json").unlink()
    assert any("filled up with '!'" in line for line in judged(copy, "ios").about_bundle)
    assert judged(copy, "android").about_bundle == ()


def test_memory_grows_with_the_resolution_and_has_an_end(tiny_checkpoint: Path) -> None:
    def memory(pixels: int) -> int:
        return make_plan(ExportRequest(tiny_checkpoint, "ios", Path("x"), resolution=pixels)).memory_bytes

    assert memory(4096) > memory(32)
    with pytest.raises(UnsupportedError, match="at most 8192 pixels"):
        memory(10**30)


@pytest.mark.parametrize("target", ["ios", "android"])
def test_a_component_in_parts_takes_what_its_largest_part_takes(tiny_checkpoint: Path, target: str) -> None:
    def planned(chunks: int) -> dict[str, PlannedComponent]:
        request = ExportRequest(tiny_checkpoint, target, Path("x"), chunks=chunks)
        return {component.name: component for component in make_plan(request).components}

    whole, halves = planned(1), planned(2)
    assert {name for name in whole if whole[name] != halves[name]} == {"unet"}  # the one that is cut
    unet, cut = whole["unet"], halves["unet"]
    factor = {"ios": 2.2, "android": 3.3}[target]  # of docs/benchmarks.md; a part holds 1.25 times its half at most
    left = {"ios": 0.2, "android": 1.7}[target]  # behind by the parts before
    saved = (factor - (factor + left) * 1.25 / 2) * 4 * unet.parameters
    assert unet.memory_bytes - cut.memory_bytes == pytest.approx(saved, abs=2)
    assert unet.kept_bytes == cut.kept_bytes < cut.disk_bytes < unet.disk_bytes


@pytest.mark.parametrize("options", [{"float32_islands": True}, {"rewrites": RewriteOptions(check=True)}])
def test_what_runs_the_whole_reference_takes_its_weights_however_many_parts(
    tiny_checkpoint: Path, options: dict[str, Any]
) -> None:
    def memory(chunks: int, **changes: Any) -> int:
        request = ExportRequest(tiny_checkpoint, "ios", Path("x"), chunks=chunks, components=("unet",), **changes)
        return make_plan(request).memory_bytes

    unet = open_checkpoint(tiny_checkpoint).components["unet"].parameters
    held = 2 if "rewrites" in options else 1  # constants that rules fold stand beside the weights they are checked with
    assert memory(20, **options) - memory(20) == pytest.approx(4 * unet * (held - 2.4 * 1.25 / 20), abs=2)
    assert memory(1, **options) == memory(1)  # the converter takes more


def test_more_parts_than_apples_package_reads_are_for_other_apps(tiny_checkpoint: Path) -> None:
    assert any("UnetChunk2; 8 files" in line for line in judged(tiny_checkpoint, "ios", chunks=8).about_bundle)
    assert judged(tiny_checkpoint, "ios", chunks=2).about_bundle == ()
    assert judged(tiny_checkpoint, "android", chunks=8).about_bundle == ()


def test_little_memory_and_disk_are_warned_of(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("sdmobile.exporters.preflight.shutil.disk_usage", lambda path: usage(1, 1, 0))
    monkeypatch.setattr("psutil.virtual_memory", lambda: namedtuple("memory", "available")(1))
    report = judged(tiny_checkpoint)
    assert report.possible
    assert any("of memory to export" in line for line in report.warnings)
    assert any(line.startswith("the output needs") for line in report.warnings)
    assert any(line.startswith("the cache needs") for line in report.warnings)
    assert report.about_bundle == ()


@pytest.mark.parametrize("seed", range(12))
def test_no_damage_ends_as_a_fault_of_ours(copy: Path, seed: int) -> None:
    """Whatever is wrong with a checkpoint, it is read or refused; any other exception fails this test."""
    damage(Random(seed), copy)
    with contextlib.suppress(CheckpointError, UnsupportedError):
        judged(copy)


def test_a_denoiser_too_large_for_one_file_is_to_be_cut(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = open_checkpoint(tiny_checkpoint).components["unet"].parameters
    monkeypatch.setattr(DeviceProfile, "max_file_bytes", int(0.9 * parameters))
    report = judged(tiny_checkpoint)
    assert [text for text in report.problems if "unet takes" in text and text.endswith("Cut it: --chunks 4.")], report
    assert not any("unet takes" in text for text in judged(tiny_checkpoint, chunks=4).problems)
