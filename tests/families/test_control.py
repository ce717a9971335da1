"""Control networks beside MobileDiffusion: the pipeline, the files' interfaces, exports, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from sdmobile.checkpoints import load_model, open_checkpoint
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.cli.app import app
from sdmobile.errors import CheckpointError, SdmobileError, UnsupportedError, UsageError
from sdmobile.families import family_named, family_of
from sdmobile.families.contracts import contract_for
from sdmobile.families.control import Control
from sdmobile.families.mobile_control import controlnet_maps
from sdmobile.families.model_card import model_card
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.prediction.assess import assess
from sdmobile.prediction.assess_device import choose_unit
from sdmobile.reference.noise import standard_normal
from sdmobile.reference.pipeline import PipelineSpec
from sdmobile.reference.resolve import reference_pipeline, resolve_reference
from sdmobile.reference.sampling import ComponentCall, SampleRequest, sample
from sdmobile.reference.torch_runner import TorchRunner
from sdmobile.runtimes import bundle_runner
from sdmobile.validate.app_files.manifest import manifest_findings
from sdmobile.validate.gpu.bundle import record_inputs
from tests.families.cards import check_bundle
from tests.families.tiny import write_tiny
from tests.families.tiny.control import KINDS, write_control
from tests.families.tiny.mobile_diffusion import UNET, write
from tests.in_process import exports_in_this_process
from tests.report.samples import manifest

PICTURE = np.random.default_rng(5).random((1, 3, 32, 32), np.float32)
GEOMETRY = Geometry(2, 4, 16, 16, 64, 64, 77, 128)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny checkpoint and its control networks."""
    root = tmp_path_factory.mktemp("control")
    networks = {kind: write_control(kind, root / f"{kind}-small") for kind in KINDS}
    return {"checkpoint": write(root / "tiny", up_transformer_layers_per_block=[0, 0]), **networks}


@pytest.fixture(scope="module")
def exported(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Returns a function from target and kind to a bundle of the controlled UNet and its network; each is made once."""

    @cache
    def export(target: str, kind: str) -> Path:
        out = tmp_path_factory.mktemp("bundles") / f"{target}-{kind}"
        network = "controlnet" if kind == "controlnet" else "control_plugin"
        with exports_in_this_process():
            invoke(
                "export", folders["checkpoint"], "--control", folders[kind], "--target", target, "--output", out,
                "--components", f"{network},unet", "--no-cache",
            )  # fmt: skip
        return out

    return export


def invoke(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def refused(error: type[SdmobileError], *arguments: object) -> str:
    """Returns what a command says that ends in an error of sdmobile's."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert type(result.exception) is error, result.output
    return str(result.exception)


def _opened(folders: dict[str, Path], kind: str) -> Any:
    return open_checkpoint(folders["checkpoint"], controls=[ControlFolder(folders[kind])])


@pytest.mark.parametrize("guidance", ["batch2", "separate"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_is_the_loop_by_hand(folders: dict[str, Path], kind: str, guidance: str) -> None:
    """A ControlNet is asked at every call of the UNet, a plugin once; both rows get the same picture."""
    checkpoint = _opened(folders, kind)
    spec = PipelineSpec.from_checkpoint(checkpoint, guidance)
    request = SampleRequest("a red circle", "blue", 3, 4, 3.0, "ddim", control=(PICTURE,))
    calls: list[ComponentCall] = []
    given = sample(TorchRunner(checkpoint), spec, request, calls.append)

    text, unet, network = (load_model(checkpoint, name) for name in ("text_encoder", "unet", kind))
    scheduler = spec.family.scheduler(spec.scheduler_config, "ddim", 3)
    tokenizer_ids = [call.inputs["input_ids"] for call in calls if call.component == "text_encoder"]
    states = torch.cat([text(input_ids=torch.from_numpy(ids)).last_hidden_state for ids in tokenizer_ids])
    latent = torch.from_numpy(standard_normal(4, spec.latent_shape).astype(np.float32))
    picture = torch.from_numpy(PICTURE)
    for timestep in scheduler.timesteps:
        rows, times = torch.cat([latent, latent]), timestep.repeat(2)
        if kind == "controlnet":
            down, mid = network(rows, times, states, picture.repeat(2, 1, 1, 1), return_dict=False)
            more = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        else:
            more = {"down_intrablock_additional_residuals": network(picture)}
        without, with_text = unet(rows, times, states, **more).sample.chunk(2)
        latent = scheduler.step(without + 3.0 * (with_text - without), timestep, latent).prev_sample
    np.testing.assert_allclose(given.latents[-1], latent.numpy(), rtol=1e-4, atol=1e-4)

    counted = Counter(call.component for call in calls)
    per_step = 2 if guidance == "separate" else 1
    assert counted["unet"] == 3 * per_step
    assert counted.get("controlnet", 0) == (3 * per_step if kind == "controlnet" else 0)
    assert counted.get("control_plugin", 0) == (1 if kind == "plugin" else 0)
    expected = {part.name: spec.guidance.calls_of(part.role, 3) for part in spec.family.components}
    assert {name: counted.get(name, 0) for name in expected} == expected

    other = sample(TorchRunner(checkpoint), spec, SampleRequest("a red circle", "blue", 3, 4, 3.0, "ddim"))
    assert np.abs(other.latents[-1] - given.latents[-1]).max() > 1e-3  # the picture matters


@pytest.mark.parametrize("target", ["ios", "android"])
def test_interfaces_of_the_files(target: str) -> None:
    control = Control("controlnet", "sd-controlnet_canny", ((48, 1), (96, 2), (96, 2)))
    family = family_named("mobile-diffusion").with_controls([control])
    unet, network = (contract_for(family, target, name, GEOMETRY) for name in ("unet", "controlnet"))
    residuals = [f"additional_residual_{index}" for index in range(3)]
    first = ["sample", "timestep", "encoder_hidden_states"]
    assert [spec.name for spec in unet.inputs] == [*first, *residuals]
    assert [spec.name for spec in unet.outputs] == ["noise_pred"]
    assert [spec.name for spec in network.inputs] == [*first, "controlnet_cond"]
    assert [spec.name for spec in network.outputs] == residuals
    assert [spec.shape for spec in network.outputs] == [spec.shape for spec in unet.inputs[3:]]
    ios = target == "ios"
    assert unet.inputs[4].shape == ((2, 96, 8, 8) if ios else (2, 8, 8, 96))
    assert network.inputs[3].shape == ((2, 3, 64, 64) if ios else (2, 64, 64, 3))
    files = ("ControlledUnet.mlpackage", "ControlNet_sd-controlnet_canny.mlpackage")
    assert (unet.file_name, network.file_name) == (files if ios else ("controlled_unet.tflite", "controlnet.tflite"))

    plugin = family_named("mobile-diffusion").with_controls([Control("plugin", "x", ((48, 1), (96, 2)))])
    light = contract_for(plugin, target, "control_plugin", GEOMETRY)
    assert [spec.name for spec in light.inputs] == ["controlnet_cond"]
    assert [spec.shape[0] for spec in (*light.inputs, *light.outputs)] == [1, 1, 1]
    taken = contract_for(plugin, target, "unet", GEOMETRY).inputs[3:]
    assert [spec.name for spec in taken] == [spec.name for spec in light.outputs]
    assert [spec.shape[0] for spec in taken] == [2, 2]


def test_apples_package_finds_the_controlnet() -> None:
    """Names as torch2coreml.py makes them: Resources/controlnet/<Name>.mlmodelc, asked for by name."""
    control = Control("controlnet", "sd-controlnet_canny", ((8, 1),) * 2)
    family = family_named("mobile-diffusion").with_controls([control])
    script = family.app_scripts["ios"][1]
    assert (
        'mv "Resources/ControlNet_sd-controlnet_canny.mlmodelc" "Resources/controlnet/SdControlnetCanny.mlmodelc"'
        in (script)
    )
    assert r"controlNet: [\"SdControlnetCanny\"])" in script
    assert 'controlNet: ["SdControlnetCanny"]' in family.app_use["ios"]
    assert "controlNetInputs" in family.app_use["ios"]
    assert family_named("mobile-diffusion").controls == ()
    few = family_named("mobile-diffusion-few-steps")
    assert "ios" in few.app_use
    for kind in KINDS:  # the package passes two timesteps, and knows no plugins: the app runs the loop itself
        alone = few.with_controls([Control(kind, "x", ((8, 1),) * 2)])
        assert "ios" not in alone.app_use
        assert "StableDiffusionPipeline" not in alone.app_scripts["ios"][1]
    assert 'if [ -e "Resources/ControlNet_sd-controlnet_canny.mlmodelc" ]' in script  # it may not have been exported


def test_card_and_metadata_say_what_controls(folders: dict[str, Path]) -> None:
    checkpoint = _opened(folders, "plugin")
    facts = checkpoint.family.app_facts(checkpoint)["control"]
    assert (facts["component"], facts["called"]) == ("control_plugin", "once per picture")
    plain = {**manifest("android"), "family": "mobile-diffusion"}
    assert "controls" not in model_card(plain)
    controlled = {**plain, "control": {"kind": "controlnet", "name": "edges", "maps": [[8, 1], [8, 2]]}}
    assert "by the control network `edges` in a file that was not exported" in model_card(controlled)
    with pytest.raises(UnsupportedError, match=r"Latent consistency takes no control network.*controlnet"):
        family_of({**controlled, "family": "latent-consistency"})


def test_a_bundle_of_one_row_says_what_apples_package_lacks(folders: dict[str, Path], tmp_path: Path) -> None:
    few = write_tiny("mobile-diffusion-few-steps", tmp_path / "few")
    network = write_control("controlnet", tmp_path / "net", relu_attention={"self": "length", "cross": "length"})
    for control, said in ((network, "shape [2]"), (folders["plugin"], "no control plugins")):
        plan = invoke("export", few, "--control", control, "--target", "ios", "-o", tmp_path / "out", "--dry-run")
        assert said in " ".join(plan.split())
    usual = _opened(folders, "controlnet")
    assert not any("shape [2]" in line for line in usual.family.app_differences("ios", usual))


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("ios", "controlnet"),
        pytest.param("android", "controlnet", marks=pytest.mark.slow),
        pytest.param("ios", "plugin", marks=pytest.mark.slow),
        pytest.param("android", "plugin", marks=pytest.mark.slow),
    ],
)
def test_exported_files_compute_what_pytorch_does(
    folders: dict[str, Path], exported: Callable[[str, str], Path], target: str, kind: str
) -> None:
    check_bundle(exported(target, kind))
    checkpoint, bundle = _opened(folders, kind), open_bundle(exported(target, kind))
    spec = PipelineSpec.from_checkpoint(checkpoint)
    family = family_of(bundle.manifest)
    assert family.controls == checkpoint.family.controls
    assert bundle.source_hash == checkpoint.content_hash
    reference, files = TorchRunner(checkpoint, spec.geometry), bundle_runner(bundle, "auto")
    calls: list[ComponentCall] = []
    request = SampleRequest("a red circle", steps=2, guidance_scale=3.0, control=(PICTURE,))
    sample(reference, spec, request, calls.append)
    for name in bundle.components:
        call = [one for one in calls if one.component == name][-1]
        given = files.run(name, call.inputs)
        assert list(given) == [value.name for value in family.component(name).outputs]
        for key, wanted in call.outputs.items():
            peak = np.abs(wanted).max()
            assert peak > 0
            np.testing.assert_allclose(given[key], wanted, atol=float(peak) * (1e-2 if target == "ios" else 2e-3))


def test_what_the_gpu_is_asked_is_recorded_with_the_network(
    folders: dict[str, Path], exported: Callable[[str, str], Path]
) -> None:
    bundle = open_bundle(exported("ios", "controlnet"))
    names = tuple(bundle.components)
    with pytest.raises(UsageError, match="--control-model"):
        record_inputs(bundle, names, folders["checkpoint"], 1, 1)
    networks = [ControlFolder(folders["controlnet"])]
    recording = record_inputs(bundle, names, folders["checkpoint"], 1, 1, controls=networks)
    assert {name: len(samples) for name, samples in recording.samples.items()} == dict.fromkeys(names, 1)


def test_adapters_that_do_not_fit_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    wide = write_control("plugin", tmp_path / "wide", block_out_channels=(16, 48))
    with pytest.raises(CheckpointError, match=r"made for the checkpoint's UNet.*48 at 1/2"):
        open_checkpoint(folders["checkpoint"], controls=[ControlFolder(wide)])
    coarse = write_control("plugin", tmp_path / "coarse", conditioning_stride=4)
    with pytest.raises(CheckpointError, match=r"2 pixels.*one latent cell.*4"):
        open_checkpoint(folders["checkpoint"], controls=[ControlFolder(coarse)])
    text = write_control("controlnet", tmp_path / "text", cross_attention_dim=16)
    with pytest.raises(CheckpointError, match=r"cross_attention_dim is 16; the UNet's is 32"):
        open_checkpoint(folders["checkpoint"], controls=[ControlFolder(text)])
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(folders["checkpoint"], controls=[ControlFolder(tmp_path)])
    with pytest.raises(
        UnsupportedError, match=r"Stable Diffusion.*must be one of ControlNetModel.*MobileControlPlugin"
    ):
        open_checkpoint(controls=[ControlFolder(folders["plugin"])])
    lcm = write_tiny("latent-consistency", tmp_path / "lcm")
    with pytest.raises(UnsupportedError, match=r"Latent consistency takes no control network.*MobileControlPlugin"):
        open_checkpoint(lcm, controls=[ControlFolder(folders["plugin"])])
    config = json.loads((wide / "config.json").read_text())
    (wide / "config.json").write_text(json.dumps({**config, "_class_name": "ControlNetModel"}))
    with pytest.raises(UnsupportedError, match=r"MobileControlNetModel, MobileControlPlugin.*ControlNetModel"):
        open_checkpoint(folders["checkpoint"], controls=[ControlFolder(wide)])


def test_the_network_is_part_of_what_a_checkpoint_is(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = open_checkpoint(folders["checkpoint"])
    hashes = {plain.content_hash, *(_opened(folders, kind).content_hash for kind in KINDS)}
    assert len(hashes) == 3
    copied = write_control("controlnet", tmp_path / "elsewhere")
    assert open_checkpoint(folders["checkpoint"], controls=[ControlFolder(copied)]).content_hash in hashes
    assert _opened(folders, "controlnet").family.controls[0].maps == controlnet_maps(UNET)
    assert _opened(folders, "controlnet").family.controls[0].name == "controlnet_small"


def test_generate_with_a_picture(folders: dict[str, Path], tmp_path: Path) -> None:
    """Resized where the ratio is right; the picture decides what is drawn."""
    big = np.zeros((64, 64, 3), np.uint8)
    big[8:32, 8:40] = 255
    pictures = {"one": big, "other": big[::-1], "wide": big[:32]}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    made = {}
    usual = ("generate", folders["checkpoint"], "--prompt", "a red circle", "--steps", 2)
    for name in ("one", "other"):
        out = tmp_path / f"{name}-drawn.png"
        invoke(*usual, "--control-model", folders["controlnet"], "--control", tmp_path / f"{name}.png", "--output", out)
        made[name] = np.asarray(Image.open(out)).astype(int)
    assert np.abs(made["one"] - made["other"]).max() > 0

    network = ("--control-model", folders["controlnet"])
    usual = (*usual, "--output", tmp_path / "none.png")
    one = ("--control", tmp_path / "one.png")
    assert "Add --control IMAGE" in refused(UsageError, *usual, *network)
    assert "--control-model FOLDER" in refused(UsageError, *usual, *one)
    assert "64 × 32" in refused(UsageError, *usual, *network, "--control", tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    assert "one of PNG" in refused(UsageError, *usual, *network, "--control", tmp_path / "text.png")
    assert not (tmp_path / "none.png").exists()


def test_a_prediction_of_other_guidance_is_of_all_that_is_called_with_the_unet(
    exported: Callable[[str, str], Path],
) -> None:
    """One row instead of two halves the arithmetic of both, and both are called twice as often."""
    bundle = open_bundle(exported("ios", "controlnet"), verify=False)
    unit = choose_unit("iphone-15-pro")
    both, one = (assess(bundle, unit, 4, way).components for way in ("batch2", "separate"))
    for doubled, single in zip(both, one, strict=True):
        macs = [sum(kernel.macs for kernels in part.kernels for kernel in kernels) for part in (doubled, single)]
        assert macs[1] < 0.6 * macs[0]
        assert (doubled.calls, single.calls) == (4, 8)


def test_a_bundle_with_control_needs_a_picture(
    folders: dict[str, Path], exported: Callable[[str, str], Path], tmp_path: Path
) -> None:
    bundle = exported("ios", "controlnet")
    usual = ("generate", bundle, "--prompt", "a red circle", "--output", tmp_path / "none.png")
    model = ("--control-model", folders["controlnet"])
    assert "Add --control IMAGE" in refused(UsageError, *usual)
    assert "a bundle has its own" in refused(UnsupportedError, *usual, *model)
    validate = ("validate", bundle, "--reference", folders["checkpoint"])
    assert "--control-model FOLDER" in refused(UsageError, *validate)
    said = invoke(*validate, *model, "--steps", 2, "--max-samples", 2, "--no-cache", "--json")
    report = json.loads(said[said.index("{") :])
    assert {check["component"]: check["status"] for check in report["components"]} == {
        "controlnet": "passed",
        "unet": "passed",
    }
    # A copy of the network under another name is the same network.
    copy = shutil.copytree(folders["controlnet"], tmp_path / "another name")
    opened, reference = open_bundle(bundle), folders["checkpoint"]
    checkpoint = resolve_reference(opened, reference, controls=[ControlFolder(copy)])
    assert manifest_findings(opened, checkpoint, reference_pipeline(opened, checkpoint))[0] == []
    other = replace(opened, manifest={**opened.manifest, "control": {**opened.manifest["control"], "maps": [[1, 1]]}})
    found, _ = manifest_findings(other, checkpoint, reference_pipeline(opened, checkpoint))
    assert any("control.maps" in line for line in found)


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": [10**20]},
        {"layers_per_block": [4 * 10**9, 1]},
        {"block_out_channels": [16] * 20_000},
        {"block_out_channels": "wide"},
        {"conditioning_embedding_out_channels": [8] * 20_000},
    ],
    ids=["10^20", "4e9 blocks", "20000 levels", "text", "20000 convolutions"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_that_no_network_has_is_refused(
    kind: str, change: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:
    """With tensors that say nothing else: the configuration alone would decide what is built."""
    folder = shutil.copytree(folders[kind], tmp_path / "network")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **change}), "utf-8")
    for file in folder.glob("*.safetensors"):
        save_file({"x.weight": torch.zeros(2)}, file)
    with pytest.raises((CheckpointError, UnsupportedError)) as caught:
        load_model(open_checkpoint(folders["checkpoint"], controls=[ControlFolder(folder)]), kind)
    assert len(str(caught.value)) < 3000


def test_inpainting_with_a_plugin_tells_of_both(folders: dict[str, Path], tmp_path: Path) -> None:
    repainting = write_tiny("mobile-diffusion-inpainting", tmp_path / "inpaint")
    checkpoint = open_checkpoint(repainting, controls=[ControlFolder(folders["plugin"])])
    assert {"inpainting", "control"} <= set(checkpoint.family.app_facts(checkpoint))
    assert any("no control plugins" in line for line in checkpoint.family.app_differences("ios", checkpoint))


def test_a_picture_tells_what_controlled_it(folders: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "white").save(tmp_path / "edges.png")
    invoke(
        "generate", folders["checkpoint"], "--control-model", folders["plugin"], "--control", tmp_path / "edges.png",
        "--prompt", "a red circle", "--steps", 1, "-o", tmp_path / "out.png",
    )  # fmt: skip
    told = Image.open(tmp_path / "out.png").info
    assert (told["control"], len(told["control_hash"])) == ("edges.png", 64)
