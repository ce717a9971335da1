"""Several control networks at once: latents as Diffusers' pipeline makes them, bundles old and new, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.errors import UnsupportedError, UsageError
from sdmobile.families import family_named, family_of
from sdmobile.families.component import Role
from sdmobile.families.control import Control, controls_from_json, controls_to_json
from sdmobile.formats.bundle.reading import BundleError, open_bundle
from sdmobile.prediction.assess import assess
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.reference.noise import standard_normal
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.resolve import reference_pipeline, resolve_reference
from sdmobile.reference.sampling import ComponentCall, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from sdmobile.runtimes import bundle_runner
from sdmobile.validate.app_files.manifest import manifest_findings
from tests.families.cards import check_bundle
from tests.families.diffusers_latents import assert_same, diffusers_latents
from tests.families.test_control import invoke, refused
from tests.families.test_unet_control import write_controlnet
from tests.families.tiny.control import write_control
from tests.families.tiny.mobile_diffusion import write as write_mobile
from tests.families.tiny.stable_diffusion import write
from tests.in_process import exports_in_this_process

PICTURES = tuple(np.random.default_rng(5).random((2, 1, 3, 32, 32), np.float32))
REQUEST = SampleRequest("a red circle", "blue", 3, 4, 3.0, "ddim", control=PICTURES)
SCALES = (0.5, 1.5)
MAPS = ((8, 1), (8, 2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("controls")
    checkpoint = write(root / "tiny")
    networks = {name: write_controlnet(checkpoint, root / name, seed) for seed, name in enumerate(("edges", "depth"))}
    return {"checkpoint": checkpoint, **networks}


def _given(folders: dict[str, Path], scales: tuple[float, ...] = SCALES) -> list[ControlFolder]:
    return [ControlFolder(folders[name], scale) for name, scale in zip(("edges", "depth"), scales, strict=True)]


def _opened(folders: dict[str, Path], scales: tuple[float, ...] = SCALES) -> Any:
    return open_checkpoint(folders["checkpoint"], controls=_given(folders, scales))


@pytest.fixture(scope="module")
def bundle_for(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns a function from a target to a bundle of both networks and the UNet; each is made once."""

    @cache
    def export(target: str) -> Path:
        out = tmp_path_factory.mktemp("bundles") / target
        with exports_in_this_process():
            invoke(
                "export", folders["checkpoint"], "--control", f"{folders['edges']}:0.5",
                "--control", f"{folders['depth']}:1.5", "--target", target, "--output", out,
                "--components", "controlnet,controlnet_2,unet", "--no-cache",
            )  # fmt: skip
        return out

    return export


@pytest.mark.parametrize("guidance", ["batch2", "separate"])
def test_latents_are_those_of_diffusers(folders: dict[str, Path], guidance: str) -> None:
    """Two networks with a picture and a scale each: what they add is multiplied, then summed."""
    from diffusers import ControlNetModel, DDIMScheduler, StableDiffusionControlNetPipeline

    checkpoint = _opened(folders)
    spec = PipelineSpec.from_checkpoint(checkpoint, guidance)
    calls: list[ComponentCall] = []
    ours = sample(TorchRunner(checkpoint), spec, REQUEST, calls.append).latents
    networks = [ControlNetModel.from_pretrained(folders[name]) for name in ("edges", "depth")]
    pipeline: Any = StableDiffusionControlNetPipeline.from_pretrained(
        str(folders["checkpoint"]), controlnet=networks, torch_dtype=torch.float32
    )
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    start = torch.from_numpy(standard_normal(REQUEST.seed, spec.latent_shape).astype(np.float32))
    theirs = diffusers_latents(
        pipeline,
        REQUEST,
        [torch.from_numpy(picture) for picture in PICTURES],
        height=32,
        width=32,
        latents=start,
        controlnet_conditioning_scale=list(SCALES),
    )
    assert len(theirs) == REQUEST.steps
    assert_same(ours, theirs)
    counted = [call.component for call in calls]
    expected = {part.name: spec.family.calls_of(part, spec.guidance, REQUEST.steps) for part in spec.family.components}
    assert {name: counted.count(name) for name in expected} == expected
    assert expected["controlnet_2"] == expected["unet"] > 0
    for change in (replace(REQUEST, control=PICTURES[::-1]), replace(REQUEST, control=())):
        assert np.abs(sample(TorchRunner(checkpoint), spec, change).latents[-1] - ours[-1]).max() > 1e-3


@pytest.mark.parametrize(
    "target", ["ios", *(pytest.param(name, marks=pytest.mark.slow) for name in ("android", "onnx"))]
)
def test_exported_files_compute_what_pytorch_does(folders: dict[str, Path], bundle_for: Any, target: str) -> None:
    check_bundle(bundle_for(target))
    checkpoint, bundle = _opened(folders), open_bundle(bundle_for(target))
    files = {
        "ios": ["ControlNet_edges.mlpackage", "ControlNet_depth.mlpackage", "ControlledUnet.mlpackage"],
        "android": ["controlnet.tflite", "controlnet_2.tflite", "controlled_unet.tflite"],
        "onnx": ["controlnet.onnx", "controlnet_2.onnx", "controlled_unet.onnx"],
    }
    assert [part.path.name for part in bundle.components.values()] == files[target]
    assert family_of(bundle.manifest).controls == checkpoint.family.controls
    assert bundle.source_hash == checkpoint.content_hash
    spec = PipelineSpec.from_checkpoint(checkpoint)
    calls: list[ComponentCall] = []
    sample(TorchRunner(checkpoint, spec.geometry), spec, REQUEST, calls.append)
    runner = bundle_runner(bundle, "auto")
    for name in bundle.components:
        call = [one for one in calls if one.component == name][-1]
        given = runner.run(name, call.inputs)
        for key, wanted in call.outputs.items():
            peak = float(np.abs(wanted).max())
            assert peak > 0
            np.testing.assert_allclose(given[key], wanted, atol=peak * (1e-2 if target == "ios" else 2e-3))


def test_a_bundle_is_validated_and_sampled_with_both(folders: dict[str, Path], bundle_for: Any, tmp_path: Path) -> None:
    bundle = bundle_for("ios")
    usual = ("validate", bundle, "--reference", folders["checkpoint"], "--steps", 2, "--max-samples", 2, "--no-cache")
    models = ("--control-model", f"{folders['edges']}:0.5", "--control-model", f"{folders['depth']}:1.5")
    said = invoke(*usual, *models, "--json")
    report = json.loads(said[said.index("{") :])
    assert report["passed"]  # the weights are the checkpoint's too, times the scale where a converter put it into them
    assert {check["component"]: check["status"] for check in report["components"]} == dict.fromkeys(
        ("controlnet", "controlnet_2", "unet"), "passed"
    )
    wanted = "Give --control-model FOLDER:0.5 --control-model FOLDER:1.5"
    assert wanted.replace("Give", "Give its folder:") in refused(UsageError, *usual)
    assert wanted in refused(UsageError, *usual, *models[:2])
    assert wanted in refused(UsageError, *usual, *models[2:], *models[:2])
    data = json.loads(invoke("lint", bundle, "--json"))
    assert data["verdict"] == "accepted"
    both, one = (assess(open_bundle(bundle), choose_unit("iphone-15-pro"), 4, way) for way in ("batch2", "separate"))
    assert [part.calls for part in both.components] == [4, 4, 4]
    assert [part.calls for part in one.components] == [8, 8, 8]

    for name, pixels in zip(("one", "two"), PICTURES, strict=True):
        Image.fromarray((pixels[0].transpose(1, 2, 0) * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    controls = ("--control", tmp_path / "one.png", "--control", tmp_path / "two.png")
    draw = ("generate", folders["checkpoint"], "--prompt", "a red circle", "--steps", 2)
    invoke(*draw, *models, *controls, "--output", tmp_path / "drawn.png")
    told = Image.open(tmp_path / "drawn.png").info
    assert told["control"] == "one.png, two.png"
    assert len(told["control_hash"]) == 2 * 64 + 2
    draw = (*draw, "--output", tmp_path / "none.png")
    assert "edges, depth" in refused(UsageError, *draw, *models, *controls[:2])
    assert "Add --control IMAGE" in refused(UsageError, *draw, *models)
    assert "finite number" in refused(UsageError, *draw, "--control-model", f"{folders['edges']}:nan", *controls[:2])
    assert not (tmp_path / "none.png").exists()


def test_inspect_and_plans_tell_of_both(folders: dict[str, Path], tmp_path: Path) -> None:
    controls = ("--control", f"{folders['edges']}:0.5", "--control", folders["depth"])
    data = json.loads(invoke("inspect", folders["checkpoint"], *controls, "--json"))
    assert [(one["name"], one.get("scale")) for one in data["control"]] == [("edges", 0.5), ("depth", None)]
    assert {"controlnet", "controlnet_2"} <= set(data["components"])
    assert "edges × 0.5, depth × 1" in invoke("inspect", folders["checkpoint"], *controls)
    assert json.loads(invoke("inspect", folders["checkpoint"], "--json"))["control"] is None
    plan = invoke(
        "export", folders["checkpoint"], *controls, "--target", "android", "-o", tmp_path / "x", "--dry-run", "--json"
    )
    names = [one["name"] for one in json.loads(plan)["components"]]
    assert names == ["text_encoder", "controlnet", "controlnet_2", "unet", "vae_decoder", "vae_encoder"]


def test_an_app_is_told_who_sums(folders: dict[str, Path]) -> None:
    checkpoint = _opened(folders, (0.5, 1.0))
    first, second = checkpoint.family.app_facts(checkpoint)["control"]
    assert (first["component"], first["scale"], second["component"]) == ("controlnet", 0.5, "controlnet_2")
    assert "sums over all control networks of the outputs of one name" in second["residuals"]
    assert "scale" not in second
    script = checkpoint.family.app_scripts["ios"][1]
    for name in ("Edges", "Depth"):
        assert f'"Resources/controlnet/{name}.mlmodelc"' in script
    assert r"controlNet: [\"Edges\", \"Depth\"])" in script


def test_one_network_is_written_as_before_and_old_bundles_are_read(folders: dict[str, Path], bundle_for: Any) -> None:
    """One at scale 1 is an object without a scale, has the content hash that it had, and no number in its names."""
    one = Control("controlnet", "edges", MAPS)
    assert controls_to_json((one,)) == {"kind": "controlnet", "name": "edges", "maps": [[8, 1], [8, 2]]}
    assert controls_from_json(controls_to_json((one,))) == (one,)
    assert controls_to_json(()) is None
    assert controls_from_json(None) == ()
    both = (one, Control("controlnet", "depth", MAPS, 0.5))
    assert controls_from_json(json.loads(json.dumps(controls_to_json(both)))) == both
    family = family_named("stable-diffusion").with_controls(both)
    assert [part.name for part in family.of_role(Role.CONTROL)] == ["controlnet", "controlnet_2"]
    plain, *others = (
        open_checkpoint(folders["checkpoint"], controls=given).content_hash
        for given in ((), _given(folders), _given(folders)[::-1], _given(folders, (0.5, 1.0)), _given(folders)[:1])
    )
    assert len({plain, *others}) == 5


def test_a_bundles_list_of_networks_is_bounded(bundle_for: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(bundle_for("ios"), tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    opened = open_bundle(copy)
    checkpoint = resolve_reference(opened, folders["checkpoint"], controls=_given(folders))
    spec = reference_pipeline(opened, checkpoint)
    assert manifest_findings(opened, checkpoint, spec)[0] == []
    changed = [{**manifest["control"][0], "scale": 0.75}, manifest["control"][1]]
    found, _ = manifest_findings(replace(opened, manifest={**opened.manifest, "control": changed}), checkpoint, spec)
    assert any(line.startswith("control is ") for line in found)
    for control in ([], manifest["control"] * 5, [{**manifest["control"][0], "scale": "much"}] * 2):
        (copy / "manifest.json").write_text(json.dumps({**manifest, "control": control}))
        with pytest.raises(BundleError):
            open_bundle(copy, verify=False)


def test_names_are_the_networks_own(folders: dict[str, Path], tmp_path: Path) -> None:
    """Apple's package finds a network by its name's words in capitals; two of a name would be one file."""
    twins = [shutil.copytree(folders["edges"], tmp_path / str(n) / name) for n, name in enumerate(("sd_a", "sd-A"))]
    opened: Any = open_checkpoint(folders["checkpoint"], controls=[ControlFolder(folder) for folder in twins])
    assert [control.name for control in opened.family.controls] == ["sd_a", "sd_A_2"]
    files = [part.files["ios"].file for part in opened.family.of_role(Role.CONTROL)]
    assert files == ["ControlNet_sd_a.mlpackage", "ControlNet_sd_A_2.mlpackage"]


def test_networks_that_do_not_go_together_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    mobile = write_mobile(tmp_path / "mobile", up_transformer_layers_per_block=[0, 0])
    kinds = [ControlFolder(write_control(kind, tmp_path / kind)) for kind in ("controlnet", "plugin")]
    with pytest.raises(UnsupportedError, match="must be of one kind: controlnet and plugin"):
        open_checkpoint(mobile, controls=kinds)
    with pytest.raises(UsageError, match="at most 8 control networks"):
        open_checkpoint(folders["checkpoint"], controls=_given(folders) * 5)
    opened = _opened(folders)
    spec, one = PipelineSpec.from_checkpoint(opened), replace(REQUEST, control=PICTURES[:1])
    with pytest.raises(UsageError, match="each of 2 control networks"):
        sample(TorchRunner(opened), spec, one)


def test_several_plugins_are_summed(tmp_path: Path) -> None:
    checkpoint = write_mobile(tmp_path / "mobile", up_transformer_layers_per_block=[0, 0])
    plugin = ControlFolder(write_control("plugin", tmp_path / "plugin"), 0.5)
    drawn = []
    for controls, pictures in (([plugin, plugin], PICTURES[:1] * 2), ([ControlFolder(plugin.path)], PICTURES[:1])):
        opened = open_checkpoint(checkpoint, controls=controls)
        request = replace(REQUEST, control=pictures, steps=2)
        drawn.append(sample(TorchRunner(opened), PipelineSpec.from_checkpoint(opened), request).latents[-1])
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-5, atol=1e-5)
