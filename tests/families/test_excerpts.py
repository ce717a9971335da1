"""The code in a model card names what the files have, of every family, target and form; what can run here is run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sdmobile.cli.app import app
from sdmobile.exporters.chunk_contracts import file_name
from sdmobile.families import FAMILIES, family_named
from sdmobile.families.calls import files_of
from sdmobile.families.component import Guidance
from sdmobile.families.contracts import contract_for
from sdmobile.families.control import KINDS, Control, controls_from_json, controls_to_json
from sdmobile.families.family import Family
from sdmobile.families.model_card import model_card
from sdmobile.formats.bundle.contracts import OPAQUE, TARGETS, Contract, Geometry, TensorSpec
from sdmobile.formats.bundle.reading import open_bundle
from tests.families.cards import Interface, Source, blocks, check_bundle, check_calls
from tests.in_process import exports_in_this_process
from tests.report.samples import manifest

SIZES = (
    ("time_cond_proj_dim", 32),
    ("text_encoder_width", 12),
    ("text_encoder_2_width", 20),
    ("text_encoder_pooled_width", 12),
    ("text_embeds_width", 24),
)
# What StableDiffusionPipeline+Resources.swift of apple/ml-stable-diffusion looks for (release 1.1.1).
APPLE = {"TextEncoder", "Unet", "UnetChunk1", "UnetChunk2", "VAEDecoder", "VAEEncoder", "ControlledUnet"}
APPLE |= {"ControlledUnetChunk1", "ControlledUnetChunk2"}
APPLE |= {"TextEncoder2"}  # StableDiffusionXL+Resources.swift
APPLE |= {"MultiModalDiffusionTransformer"}  # StableDiffusion3Pipeline+Resources.swift, in one file only


def made_up(family: Family, target: str, guidance: Guidance, controls: Sequence[Control] = (), parts: int = 1) -> Any:
    """A manifest as an export writes it, of files that were never made."""
    family = family.with_controls(controls)
    geometry = Geometry(guidance.rows, 4, 16, 8, 64, 32, 77, 32, SIZES)
    records = {}
    for part in family.components:
        contract = contract_for(family, target, part.name, geometry)
        chain = cut(contract) if parts > 1 and part is family.denoiser else []
        files = {"file": (chain or [contract])[0].file_name, "chain": [one.to_json() for one in chain]}
        records[part.name] = {"contract": contract.to_json(), **files}
    stated = {"family": family.name, "guidance": guidance.name, "geometry": geometry.to_json(), "components": records}
    return {**manifest(target), **stated, **({"control": controls_to_json(controls)} if controls else {})}


def cut(contract: Contract) -> list[Contract]:
    """A denoiser in two parts: a feature map crosses, and integers, and a mask where the target passes masks on."""
    kinds = {"float32": (2, 8, 8, 4), "int32" if contract.target != "onnx" else "int64": (3,)}
    kinds |= {} if contract.target == "ios" else {"bool": (2, 5)}
    crossing = tuple(TensorSpec(f"cross_{kind}", shape, kind, "crosses", kind, OPAQUE) for kind, shape in kinds.items())
    first, second = (replace(contract, file_name=file_name(contract, n), signature=f"s{n}") for n in (1, 2))
    return [replace(first, outputs=crossing), replace(second, inputs=(*contract.inputs[1:], *crossing))]


def contracts(stated: Any) -> dict[str, Interface]:
    """What the manifest says of its files."""

    def shapes(specs: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {spec["name"]: (spec["dtype"], tuple(spec["shape"])) for spec in specs}

    return {
        contract["file_name"]: Interface(contract["signature"], shapes(contract["inputs"]), shapes(contract["outputs"]))
        for record in stated["components"].values()
        for contract in files_of(record)
    }


def forms() -> Iterator[tuple[str, Any]]:
    for family in FAMILIES:
        for target in TARGETS:
            for guidance in family.guidances:
                for parts in (1, 2) if target != "ios" else range(1, family.app_chunks + 1):
                    for controls in ((), *(nets[:count] for nets in networks(family) for count in (1, 2))):
                        kind = f"{controls[0].kind}{len(controls)}" if controls else ""
                        name = f"{family.name}-{target}-{guidance.name}-{kind}-{parts}"
                        yield name, made_up(family, target, guidance, controls, parts)


def networks(family: Family) -> list[tuple[Control, ...]]:
    """Returns two control networks of every kind that a family takes."""
    maps = ((8, 1), (8, 2))
    return [(Control(part.kind, "x_y", maps), Control(part.kind, "depth", maps, 0.5)) for part in family.control_parts]


FORMS = dict(forms())


@pytest.mark.parametrize("name", FORMS)
def test_every_name_and_shape_is_the_bundles_own(name: str) -> None:
    stated = FORMS[name]
    card = model_card(stated)
    assert not re.search(r"\{(code|calls|resources|size|sampler|signatures|kind|read|writes|import)\}", card)
    files = contracts(stated)
    for file in files:
        assert f"`{file}`" in card.split("## Files")[1]
    if "import StableDiffusion" not in card:
        check_calls(card, stated["target"], files)
        return
    models = re.findall(r"`([\w-]+)\.mlmodelc`", card)
    assert [f"{model}.mlpackage" for model in models] == list(files)
    count = len(controls_from_json(stated.get("control")))
    assert sorted(set(models) - APPLE) == sorted(["ControlNet_x_y", "ControlNet_depth"][:count])
    asked = ", ".join(('"XY"', '"Depth"')[:count])
    assert f"controlNet: [{asked}]" in card or not count
    assert "of 32 × 64 pixels" in card


def test_a_plugin_is_called_once_and_its_maps_go_to_both_rows() -> None:
    family = family_named("mobile-diffusion")
    control = Control("plugin", "x", ((8, 1), (8, 2)))
    for target in TARGETS:
        stated = made_up(family, target, family.guidances[0], [control])
        calls = {
            call.file.split(".")[0].lower(): call for call in check_calls(model_card(stated), target, contracts(stated))
        }
        unet = next(call for name, call in calls.items() if "unet" in name)
        sources = [value for value in unet.inputs.values() if isinstance(value, Source)]
        assert [source.rows for source in sources] == [2, 2]
        assert {source.name for source in sources} == {f"{KINDS['plugin'].residual}_{n}" for n in (0, 1)}


@pytest.mark.parametrize("target", TARGETS)
def test_what_several_networks_return_is_summed(target: str) -> None:
    """By name, for both rows of a plugin too; one network needs no sum."""
    for name in ("stable-diffusion-inpainting", "stable-diffusion", "mobile-diffusion"):
        family = family_named(name)
        (*_, controls) = networks(family)
        stated = made_up(family, target, family.guidances[0], controls)
        card = model_card(stated)
        if "import StableDiffusion" in card:
            assert 'controlNet: ["XY", "Depth"]' in card
            assert "controlNetInputs = [picture, picture2]" in card
            continue
        called = check_calls(card, target, contracts(stated))
        unet = next(call for call in called if "unet" in call.file.lower())
        sources = [value for value in unet.inputs.values() if isinstance(value, Source)]
        assert len(sources) == 2
        if target != "onnx":  # whose code has no variables: each network is given a picture of its own
            assert set(re.findall(r"\[[\d, ]+\] Picture that controls by (\w+)", card)) == {"x_y", "depth"}
        assert all(len(source.calls) == 2 for source in sources)
        assert "multiplied by 0.5" in card
        alone = model_card(made_up(family, target, family.guidances[0], controls[:1]))
        assert "sum(" not in alone
        assert "multiplied" not in alone


def test_a_name_from_outside_stays_inside_its_quotes() -> None:
    """A manifest is somebody else's text, and its reader pastes the code."""
    stated = made_up(family_named("latent-consistency"), "android", FAMILIES[0].guidances[0])
    contract = stated["components"]["unet"]["contract"]
    contract["file_name"] = 'x".tflite$y")'
    contract["inputs"][0] |= {"name": '9"); evil("', "description": "one\nevil()"}
    (_, code) = blocks(model_card(stated), "kotlin")
    assert r'load(folder, "x\".tflite\$y\")")' in code
    assert r'"9\"); evil(\"" to value9Evil' in code
    assert "one evil()" in code
    assert not re.search(r"^\s*evil", code, re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["float32", "int32", "int64", "bool"])
def test_a_card_is_written_of_whatever_a_manifest_may_state(target: str, dtype: str) -> None:
    """Types, scalars and sizes that no export writes, but that the manifest's schema lets through."""
    control = Control("plugin", "x", ((8, 1),))
    stated = made_up(family_named("mobile-diffusion"), target, FAMILIES[-1].guidances[0], [control, control])
    for contract in (record["contract"] for record in stated["components"].values()):
        for spec, shape in zip([*contract["inputs"], *contract["outputs"]], ([], [3], [], [1, 2]), strict=False):
            spec |= {"dtype": dtype, "shape": shape, "layout": OPAQUE}
    assert "```" in model_card(stated)


def test_android_asks_for_the_gpu_alone_and_says_what_it_needs() -> None:
    """Since LiteRT 2.3.0 the GPU is an artifact of its own; with the CPU beside it its lack would go unnoticed."""
    gradle, code = blocks(model_card(manifest("android")), "kotlin")
    versions = dict(re.findall(r'"com\.google\.ai\.edge\.litert:([\w-]+):([\d.]+)"', gradle))
    assert set(versions) == {"litert", "litert-gpu"}
    assert len(set(versions.values())) == 1
    assert "CompiledModel.Options(Accelerator.GPU)\n" in code
    assert code.count("Environment.create()") == 1
    assert "GpuOptions(precision = CompiledModel.GpuOptions.Precision.FP32)" in code
    used = set(re.findall(r"\b(Accelerator|CompiledModel|Environment|TensorBuffer|TensorType|File)\b", code))
    imported = {line.rsplit(".")[-1] for line in re.findall(r"^import (.+)$", code, re.MULTILINE)}
    assert used == imported


@pytest.mark.parametrize("target", ["onnx", pytest.param("android", marks=pytest.mark.slow)])
def test_the_parts_of_a_cut_unet_are_called_one_after_the_other(
    tiny_checkpoint: Path, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    options = ("--target", target, "--components", "unet", "--chunks", "2", "--no-cache", "--output", str(out))
    with exports_in_this_process():
        result = CliRunner().invoke(app, ["export", str(tiny_checkpoint), *options])
    assert result.exit_code == 0, result.output
    check_bundle(out)
    if target == "onnx":
        made = run_python(out, monkeypatch)
        assert made["unet_2"]["noise_pred"].shape == (2, 4, 16, 16)


def test_python_runs_as_it_is_written(onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_bundle(onnx_bundle)
    names = run_python(onnx_bundle, monkeypatch)
    for component in open_bundle(onnx_bundle).manifest["components"].values():
        (output,) = component["contract"]["outputs"]
        made = names[component["contract"]["component"]][output["name"]]
        assert made.shape == tuple(output["shape"])
        assert np.isfinite(made).all()


def run_python(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs the code of a bundle's card in its folder; returns the variables that it leaves."""
    (code,) = blocks(model_card(open_bundle(bundle).manifest), "python")
    monkeypatch.chdir(bundle)
    names: dict[str, Any] = {}
    exec(compile(code, os.devnull, "exec"), names)
    return names
