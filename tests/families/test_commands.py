"""Every command on the tiny checkpoint of every family."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sdmobile.checkpoints import open_checkpoint
from sdmobile.cli.app import app
from sdmobile.families import FAMILIES, family_named
from sdmobile.families.component import Role
from sdmobile.families.family import Family
from tests.families.cards import check_bundle
from tests.families.tiny import write_tiny
from tests.in_process import exports_in_this_process

TARGETS = ("ios", "android", "onnx")
UNIT = {"ios": "iphone-15-pro", "android": "galaxy-s23-ultra"}
Bundles = Callable[[str], Path]
_INPAINTING, _EDITING = family_named("stable-diffusion-inpainting"), family_named("instruct-pix2pix")


def _each(*targets: str) -> pytest.MarkDecorator:
    """Every family with every target; fast are each set of models for iPhone, those that take pictures too, and Stable
    Diffusion for Android."""
    drawing = [family for family in reversed(FAMILIES) if not family.takes_picture]
    sets = {tuple(id(model) for model in family.models): family for family in drawing}
    usual = [(family, "ios") for family in (*sets.values(), _INPAINTING, _EDITING)] + [(FAMILIES[-1], "android")]
    pairs = [(family, target) for family in FAMILIES for target in targets]
    rows = [pytest.param(*pair, marks=[] if pair in usual else pytest.mark.slow) for pair in pairs]
    ids = [f"{family.name}-{target}" for family, target in pairs]
    return pytest.mark.parametrize(("family", "target"), rows, ids=ids, indirect=["family"])


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    return request.param


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Returns a function from a family's name to its tiny checkpoint; each is written once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name: write_tiny(name, folder / name / "tiny"))


@pytest.fixture(scope="module")
def exported(
    checkpoints: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """Returns a function from a family's name and a target to the exported bundle; each is made once."""
    folder = tmp_path_factory.mktemp("bundles")

    @cache
    def export(name: str, target: str) -> Path:
        out = folder / f"{name}-{target}"
        with exports_in_this_process():
            invoke("export", checkpoints(name), "--target", target, "--output", out, "--no-cache")
        return out

    return export


@pytest.fixture
def checkpoint(family: Family, checkpoints: Callable[[str], Path]) -> Path:
    return checkpoints(family.name)


@pytest.fixture
def bundles(family: Family, exported: Callable[[str, str], Path]) -> Bundles:
    return lambda target: exported(family.name, target)


def invoke(*arguments: object, code: int = 0) -> str:
    """Runs a command in this process and returns what it printed to stdout."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def test_inspect_names_the_models(family: Family, checkpoint: Path) -> None:
    assert open_checkpoint(checkpoint).family is family
    data = json.loads(invoke("inspect", checkpoint, "--json"))
    assert data["family"] == family.name
    assert set(data["components"]) == {model.name for model in family.models}


@pytest.mark.parametrize("target", TARGETS)
def test_a_plan_lists_the_files(family: Family, checkpoint: Path, target: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan = json.loads(invoke("export", checkpoint, "--target", target, "--output", out, "--dry-run", "--json"))
    assert [item["file"] for item in plan["components"]] == [part.files[target].file for part in family.components]
    assert not out.exists()


@_each(*TARGETS)
def test_a_bundle_passes_validation(
    family: Family, checkpoint: Path, bundles: Bundles, target: str, tmp_path: Path
) -> None:
    """Component by component and over a whole picture, in two steps."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n", "utf-8")
    sizes = ("--prompts", prompts, "--steps", "2", "--max-samples", "2")
    options = ("--reference", checkpoint, *sizes, "--no-cache", "--json")
    report: dict[str, Any] = json.loads(invoke("validate", bundles(target), *options))
    assert report["passed"]
    assert report["complete"]
    assert {check["component"] for check in report["components"]} == set(family.names)
    tables = bundles(target) / "scheduler.json"
    if tables.exists():
        assert json.loads(tables.read_text("utf-8"))["default_steps"] == open_checkpoint(checkpoint).usual_steps
    assert all(check["image_psnr_db"] > 35 for check in report["trajectories"])


@_each("ios", "android")
def test_a_picture_from_files_is_that_of_pytorch(
    family: Family, target: str, checkpoint: Path, bundles: Bundles, tmp_path: Path
) -> None:
    options: tuple[object, ...] = ("--prompt", "a red circle", "--seed", "3", "--steps", "3")
    if family.takes_picture:
        pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
        for name, values in zip(("image", "mask") if family.takes_mask else ("image",), pixels, strict=False):
            Image.fromarray(values).save(tmp_path / f"{name}.png")
            options += (f"--{name}", tmp_path / f"{name}.png")
    pictures = []
    for source in (checkpoint, bundles(target)):
        out = tmp_path / f"{source.name}.png"
        invoke("generate", source, *options, "--output", out)
        pictures.append(np.asarray(Image.open(out)).astype(int))
    # An iPhone's file computes in float16, which moves a pixel by a level or two.
    assert np.abs(pictures[0] - pictures[1]).max() <= (1 if target == "android" else 3)


@_each(*TARGETS)
def test_the_card_calls_what_the_files_have(family: Family, target: str, bundles: Bundles) -> None:
    check_bundle(bundles(target))


@_each("ios", "android")
def test_profile_predicts_a_picture(family: Family, target: str, checkpoint: Path, bundles: Bundles) -> None:
    data = json.loads(invoke("profile", bundles(target), "--device", UNIT[target], "--json"))["prediction"]
    steps = open_checkpoint(checkpoint).usual_steps
    assert data["steps"] == steps
    assert data["image"]["seconds"] > 0
    calls = {name: part["calls_per_image"] for name, part in data["components"].items()}
    guidance = family.guidance(None)
    expected = {part.name: family.calls_of(part, guidance, steps) for part in family.components}
    assert calls == expected
    encoded = sum(calls[part.name] for part in family.of_role(Role.IMAGE_ENCODER))
    assert encoded == family.takes_picture


@_each("ios", "android")
def test_lint_reads_every_file(family: Family, target: str, bundles: Bundles) -> None:
    data = json.loads(invoke("lint", bundles(target), "--json"))
    assert data["verdict"] == "accepted"
    assert len(data["files"]) == len(family.components)


@_each("ios")
def test_weights_are_compressed_and_the_family_stays(
    family: Family, target: str, bundles: Bundles, tmp_path: Path
) -> None:
    invoke("quantize", "apply", bundles(target), "--recipe", "palette6", "--output", tmp_path / "small")
    manifest = json.loads((tmp_path / "small" / "manifest.json").read_text())
    assert manifest["family"] == family.name
    assert all(record["compression"] for record in manifest["components"].values())


def test_rules_explain_the_denoiser(family: Family, checkpoint: Path) -> None:
    name = family.denoiser.name
    data = json.loads(invoke("rewrites", "explain", checkpoint, "--device", UNIT["ios"], "--component", name, "--json"))
    assert len(data) == 1
    assert data[0]["component"] == name


def test_components_have_the_roles_of_a_pipeline(family: Family) -> None:
    assert len(family.of_role(Role.DENOISER)) == 1
    assert len(family.of_role(Role.DECODER)) == 1
    assert family.of_role(Role.TEXT_ENCODER)
    assert {part.model for part in family.components} == {model.name for model in family.models}
