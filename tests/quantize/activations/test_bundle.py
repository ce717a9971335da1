"""W8A8 for bundles: `export --quantize w8a8` is `export` and then `quantize apply`, with a line per layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.basics.files import hash_of
from sdmobile.errors import CheckpointError
from sdmobile.exporters.bundle import export_bundle
from sdmobile.exporters.cache import ComponentCache
from sdmobile.exporters.request import ExportRequest, make_plan
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.quantize.apply import apply_recipe
from sdmobile.quantize.recipes import Recipe
from sdmobile.quantize.schemes import W8A8

RECIPE = Recipe("w8a8", W8A8(-99.0, -99.0, -99.0), min_elements=64, components=("vae_encoder",))


@pytest.mark.slow
def test_export_and_apply_agree(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path / "recordings"))
    cache = ComponentCache(tmp_path / "cache")

    def export(name: str, recipe: Recipe | None) -> Path:
        request = ExportRequest(
            tiny_checkpoint, "ios", tmp_path / name, "iphone-15-pro", ("vae_encoder",), recipe=recipe
        )
        return export_bundle(make_plan(request), cache, lambda *_: None).path

    plain, exported = export("plain", None), export("exported", RECIPE)
    with pytest.raises(CheckpointError, match="not the checkpoint"):
        apply_recipe(plain, RECIPE, tmp_path / "other")
    result = apply_recipe(plain, RECIPE, tmp_path / "applied", reference=tiny_checkpoint)
    packages = [open_bundle(path).components["vae_encoder"] for path in (exported, result.path)]
    assert hash_of([packages[0].path]) == hash_of([packages[1].path])
    compression = packages[1].record["compression"]
    lines = compression["details"]["activations"]["layers"]
    assert {line["decision"] for line in lines} <= {"w8a8"}
    assert compression["schemes"]["w8a8"] == sum(line["kind"] == "convolution" for line in lines) > 0
    assert compression["bytes_after"] < compression["bytes_before"]
    assert [line for line in result.warnings if "passed their gate" in line] != []
