"""What is refused for which phone, and that the table agrees with the decisions."""

from __future__ import annotations

import pytest

from sdmobile.errors import UnsupportedError
from sdmobile.quantize.recipes import Override, Palette, Recipe, named_recipe, parse_scheme
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


@pytest.mark.parametrize(
    ("name", "target", "device", "reason"),
    [
        ("int8d", "ios", None, "at run time"),
        ("int4b32d", "ios", "iphone-15-pro", "at run time"),
        ("palette6", "android", "android-cpu", "holds fp16 or integer weights"),
        ("w8a8", "android", "android-cpu", "holds fp16 or integer weights"),
        ("int8c", "android", "galaxy-s23-ultra", "only fp16 is known to work"),
        ("int8d", "android", None, "only fp16 is known to work"),
        ("int4b32", "android", "galaxy-s23-ultra", "only fp16 is known to work"),
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
