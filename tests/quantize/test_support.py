"""What is refused for which phone, and that the table agrees with the decisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.device_profiles import profile_path
from sdmobile.errors import UnsupportedError
from sdmobile.exporters.request import ExportRequest, make_plan
from sdmobile.quantize.recipes import Override, Recipe, named_recipe
from sdmobile.quantize.schemes import Palette, parse_scheme
from sdmobile.quantize.support import TABLE, minimum_ios, require_components, require_recipe, require_supported

IOS16 = ["palette1", "palette2", "palette4", "palette6", "palette8", "int8c", "uint8c"]
IOS18 = ["palette3", "palette4g16", "palette8g4", "int4c", "int4b32", "uint4b32", "int8b32"]


@pytest.mark.parametrize("name", IOS16 + IOS18)
def test_core_ml_takes_a_scheme_from_its_system_on(name: str) -> None:
    scheme = parse_scheme(name)
    needed = 16 if name in IOS16 else 18
    assert minimum_ios(scheme) == needed
    require_supported(scheme, "ios")
    require_supported(scheme, "ios", deployment_target=f"iOS{needed}")
    with pytest.raises(UnsupportedError, match=f"{name} needs iOS {needed}"):
        require_supported(scheme, "ios", deployment_target=f"iOS{needed - 1}")


def test_the_table_says_the_same_system() -> None:
    since = {row.scheme: row.since for row in TABLE if row.runtime == "Core ML" and row.verdict == "yes"}
    samples = {
        "fp16": ["fp16"],
        "palette1, 2, 4, 6, 8": ["palette1", "palette2", "palette4", "palette6", "palette8"],
        "palette3": ["palette3"],
        "paletteNgG": ["palette4g16", "palette8g4"],
        "int8c, uint8c": ["int8c", "uint8c"],
        "int4c, int4bN, int8bN": ["int4c", "int4b32", "int8b32"],
        "w8a8": ["w8a8"],
    }
    assert {row: {f"iOS {minimum_ios(parse_scheme(name))}" for name in names} for row, names in samples.items()} == {
        row: {system} for row, system in since.items()
    }


@pytest.mark.parametrize(
    ("name", "target", "device", "reason"),
    [
        ("int8d", "ios", None, "at run time"),
        ("int4b32d", "ios", "iphone-15-pro", "at run time"),
        ("palette6", "android", "android-cpu", "holds fp16 or integer weights"),
        ("w8a8", "android", "android-cpu", "holds fp16 or integer weights"),
        ("int8c", "android", "galaxy-s23-ultra", "only fp16 and int8d are known to work"),
        ("int4b32", "android", "galaxy-s23-ultra", "only fp16 and int8d are known to work"),
        ("int4b32d", "android", None, "only fp16 and int8d are known to work"),
        ("int8c", "onnx", None, "keeps float32"),
    ],
)
def test_known_bad_pairs_are_refused_with_the_reason(name: str, target: str, device: str | None, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        require_supported(parse_scheme(name), target, device)


@pytest.mark.parametrize("target", ["ios", "android", "onnx"])
def test_float16_goes_everywhere(target: str) -> None:
    require_supported(parse_scheme("fp16"), target, deployment_target="iOS15")


@pytest.mark.parametrize("name", ["int8c", "int8d", "int4c"])
def test_integers_go_to_a_phones_cpu(name: str) -> None:
    require_supported(parse_scheme(name), "android", "android-cpu")


def test_int8_with_activations_goes_to_the_gpu() -> None:
    require_supported(parse_scheme("int8d"), "android")
    require_recipe(named_recipe("gpu-int8"), "android", "galaxy-s23-ultra")


@pytest.fixture
def cpu_of_ones_own(tmp_path: Path) -> Path:
    """The profile of a phone's CPU under a name that the package does not know."""
    text = profile_path("android-cpu").read_text("utf-8")
    file = tmp_path / "mine.toml"
    file.write_text(text.replace('name = "android-cpu"', 'name = "my-cpu"'), "utf-8")
    return file


@pytest.mark.parametrize("name", ["int8c", "int8d", "int4c", "int4b32"])
def test_integers_go_to_a_cpu_of_ones_own(name: str, cpu_of_ones_own: Path) -> None:
    require_supported(parse_scheme(name), "android", str(cpu_of_ones_own))
    plan = make_plan(ExportRequest(None, "android", Path("out"), str(cpu_of_ones_own), recipe=named_recipe(name)))
    assert plan.device == str(cpu_of_ones_own)


def test_the_profile_decides_not_its_name(cpu_of_ones_own: Path) -> None:
    text = cpu_of_ones_own.read_text("utf-8").replace("my-cpu", "android-cpu")
    cpu_of_ones_own.write_text(text.replace('runtime = "xnnpack"', 'runtime = "ml-drift"'), "utf-8")
    with pytest.raises(UnsupportedError, match=r"only fp16 and int8d are known to work.* whose runtime is ml-drift"):
        require_supported(parse_scheme("int8c"), "android", str(cpu_of_ones_own))


def test_a_profile_without_units_is_told_what_it_lacks(cpu_of_ones_own: Path) -> None:
    text, _, _ = cpu_of_ones_own.read_text("utf-8").partition("[units.cpu]")
    cpu_of_ones_own.write_text(text, "utf-8")
    with pytest.raises(UnsupportedError, match=r"my-cpu, which has no table \[units.NAME\].*\[units.cpu\]"):
        require_supported(parse_scheme("int8c"), "android", str(cpu_of_ones_own))
    require_supported(parse_scheme("fp16"), "android", str(cpu_of_ones_own))


def test_the_way_out_is_a_device_that_takes_the_scheme() -> None:
    with pytest.raises(UnsupportedError) as refused:
        require_supported(parse_scheme("int8c"), "android")
    _, mark, devices = refused.value.message().partition("--device ")
    assert mark
    for device in devices.strip(".\n").split(" or "):
        require_supported(parse_scheme("int8c"), "android", device)


def test_one_bad_scheme_refuses_a_recipe() -> None:
    recipe = Recipe("mixed", Palette(4), (Override("conv_in", Palette(3)),))
    require_recipe(recipe, "ios")
    with pytest.raises(UnsupportedError, match="palette3 needs iOS 18"):
        require_recipe(recipe, "ios", deployment_target="iOS17")


def test_a_recipe_for_missing_components_is_refused() -> None:
    recipe = Recipe("r", Palette(4), components=("unet", "unett"))
    with pytest.raises(UnsupportedError, match="unett not among unet, vae_decoder"):
        require_components(recipe, ["unet", "vae_decoder"])
    require_components(named_recipe("palette4"), ["unet"])


def test_deployment_targets_are_ios_and_a_number() -> None:
    with pytest.raises(UnsupportedError, match="iOS and a number"):
        require_supported(Palette(4), "ios", deployment_target="macOS14")


def test_every_row_of_the_table_has_a_verdict_and_a_source() -> None:
    assert {row.runtime for row in TABLE} == {
        "Core ML",
        "LiteRT CPU",
        "LiteRT GPU (ML Drift)",
        "LiteRT GPU (classic delegate)",
    }
    for row in TABLE:
        assert row.note
        assert row.source or row.verdict != "yes"
        assert bool(row.since) == (row.runtime == "Core ML" and row.verdict == "yes")
