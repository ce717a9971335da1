"""Bundles: `export --quantize` is `export` and then `quantize apply`; whole or not at all; manifest and files agree."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdmobile.basics.files import hash_of, size_of
from sdmobile.cli.app import run
from sdmobile.device_profiles import profile_path
from sdmobile.errors import OutputError, ResourceError, UnsupportedError
from sdmobile.exporters.bundle import ExportResult, export_bundle
from sdmobile.exporters.cache import ComponentCache
from sdmobile.exporters.request import ExportRequest, make_plan
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.quantize.apply import apply_recipe
from sdmobile.quantize.recipes import Override, Recipe, named_recipe, save_recipe
from sdmobile.quantize.schemes import Linear, Palette
from tests import in_process
from tests.in_process import exports_in_this_process

COMPONENTS = ("vae_decoder", "vae_encoder")
Export = Callable[..., ExportResult]


@pytest.fixture(scope="session")
def export(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Returns a function that exports two components of the tiny checkpoint, finished ones from a cache."""
    cache = ComponentCache(tmp_path_factory.mktemp("cache"))

    def make(out: Path, recipe: Recipe | None = None, components: tuple[str, ...] = COMPONENTS) -> ExportResult:
        request = ExportRequest(tiny_checkpoint, "ios", out, components=components, recipe=recipe)
        with exports_in_this_process():
            return export_bundle(make_plan(request), cache, lambda *_: None)

    return make


@pytest.fixture(scope="session")
def plain(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uncompressed iOS bundle."""
    return export(tmp_path_factory.mktemp("plain") / "bundle").path


def _files(bundle: Path) -> dict[str, str]:
    models = [path for path in bundle.rglob("*") if path.is_file() and path.suffix in (".bin", ".mlmodel")]
    return {path.relative_to(bundle).as_posix(): hash_of([path]) for path in models}


def test_export_with_a_recipe_is_export_and_then_apply(
    plain: Path, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the uncompressed component is in the cache")

    monkeypatch.setattr(in_process, "run_stages", never)
    recipe = Recipe("mixed", Palette(4), (Override("*.mid_block.*", Palette(6)),), 64, ("vae_decoder",))
    exported = export(tmp_path / "exported", recipe)
    applied = apply_recipe(plain, recipe, tmp_path / "applied")
    assert _files(exported.path) == _files(applied.path)
    bundle = open_bundle(applied.path)  # compares sizes and hashes
    before, after = open_bundle(plain).components, bundle.components
    compression = after["vae_decoder"].record["compression"]
    assert compression["schemes"]["palette4"] > compression["schemes"]["palette6"] > 0
    assert compression["checked"] == compression["schemes"]["palette4"] + compression["schemes"]["palette6"]
    package = [after["vae_decoder"].path]
    assert after["vae_decoder"].record["bytes"] == size_of(package) < before["vae_decoder"].record["bytes"]
    assert after["vae_decoder"].record["sha256"] == hash_of(package)
    assert after["vae_encoder"].record == before["vae_encoder"].record
    assert Recipe.from_json(bundle.manifest["recipe"]) == recipe
    for name in ("vocab.json", "compile.sh"):
        assert (applied.path / name).read_bytes() == (plain / name).read_bytes()

    def no_compression(*_: Any) -> None:
        raise AssertionError("the compressed component is in the cache")

    monkeypatch.setattr("sdmobile.quantize.apply.compress_part", no_compression)
    assert _files(export(tmp_path / "again", recipe).path) == {**_files(exported.path)}


def test_a_raised_system_is_said(plain: Path, tmp_path: Path) -> None:
    recipe = Recipe("three", Palette(3), components=("vae_encoder",))
    result = apply_recipe(plain, recipe, tmp_path / "out")
    assert [line for line in result.warnings if "needs iOS18" in line] != []
    with pytest.raises(UnsupportedError, match="deployment target is iOS17"):
        apply_recipe(plain, recipe, tmp_path / "other", deployment_target="iOS17")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_bad_recipes_leave_nothing_behind(plain: Path, tmp_path: Path) -> None:
    pattern = Recipe("r", Palette(4), (Override("vae_decoder/nowhere.*", Palette(6)),))
    with pytest.raises(UnsupportedError, match=r"nowhere\.\*"):
        apply_recipe(plain, pattern, tmp_path / "out")
    with pytest.raises(UnsupportedError, match="unet not among"):
        apply_recipe(plain, Recipe("r", Palette(4), components=("unet",)), tmp_path / "out")
    compressed = apply_recipe(plain, named_recipe("palette6"), tmp_path / "once").path
    with pytest.raises(UnsupportedError, match="compressed once"):
        apply_recipe(compressed, named_recipe("palette4"), tmp_path / "out")
    with pytest.raises(OutputError, match="must not exist"):
        apply_recipe(plain, named_recipe("palette4"), compressed)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once"]
    assert open_bundle(compressed).manifest["recipe"]["name"] == "palette6"


def test_an_export_refuses_before_it_starts(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def plan(target: str, recipe: str, components: tuple[str, ...] | None = None) -> None:
        loaded = named_recipe(recipe) if components is None else Recipe(recipe, Palette(4), components=("unet",))
        make_plan(ExportRequest(tiny_checkpoint, target, tmp_path / "x", components=components, recipe=loaded))

    with pytest.raises(UnsupportedError, match="only fp16 and int8d are known to work"):
        plan("android", "int8c")
    with pytest.raises(UnsupportedError, match="unet not among vae_decoder"):
        plan("ios", "r", ("vae_decoder",))


def test_commands(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", "recipes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {"palette6", "int8c"} <= {recipe["name"] for recipe in data["recipes"]}
    assert data["support"][0]["runtime"] == "Core ML"
    file = tmp_path / "r.json"
    save_recipe(Recipe("mine", Palette(2), components=("vae_decoder",)), file)
    out = tmp_path / "out"
    assert run(["quantize", "apply", str(plain), "--recipe", str(file), "-o", str(out), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["compression"]["vae_encoder"] is None
    found = summary["compression"]["vae_decoder"]
    assert found["recipe"] == "mine"
    assert found["schemes"]["palette2"] == found["checked"] > 0
    assert 2 < found["bits_per_weight"] < 16
    assert (
        summary["bytes"]
        == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        - (out / "manifest.json").stat().st_size
    )
    again = ["quantize", "apply", str(plain), "--recipe", str(file), "-o", str(out), "--overwrite"]
    assert run(again) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "palette2" in captured.err
    assert run(["quantize", "apply", str(plain), "--recipe", "palete6", "-o", str(tmp_path / "x")]) == 5
    assert "Known names: palette6" in capsys.readouterr().err
    assert run(["export", "--target", "ios", "--quantize", "int8d", "-o", str(tmp_path / "x"), "--dry-run"]) == 5
    assert "at run time" in capsys.readouterr().err


@pytest.mark.slow
def test_a_phones_cpu_takes_integers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(profile_path("android-cpu").read_text("utf-8").replace("android-cpu", "my-cpu"), "utf-8")
    request = ExportRequest(
        tiny_checkpoint, "android", tmp_path / "out", str(mine), ("vae_decoder",), recipe=named_recipe("int8c")
    )
    result = export_bundle(make_plan(request), ComponentCache(tmp_path / "cache"), lambda *_: None)
    component = open_bundle(result.path).components["vae_decoder"]
    compression = component.record["compression"]
    assert compression["schemes"]["int8c"] == compression["checked"] > 0
    assert component.path.stat().st_size == compression["bytes_after"] < compression["bytes_before"]


@pytest.mark.parametrize("room", [0, 4_000, 40_000])
def test_a_full_disk_is_told_and_leaves_nothing(plain: Path, tmp_path: Path, room: int) -> None:
    """A file cannot grow beyond `room` bytes here: for the libraries that write, a full disk."""
    before = _files(plain)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(ResourceError, match="must have room"):
            apply_recipe(plain, named_recipe("palette4"), tmp_path / "small")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    assert _files(plain) == before
    assert apply_recipe(plain, named_recipe("palette4"), tmp_path / "small").path.is_dir()


def test_a_recipe_for_products_leaves_a_component_without_any(tmp_path: Path) -> None:
    """The decoder of shapes-64-mobile is of convolutions alone."""
    from sdmobile.checkpoints import bundled_checkpoint

    request = ExportRequest(
        bundled_checkpoint("shapes-64-mobile"), "android", tmp_path / "plain", components=COMPONENTS
    )
    plain = export_bundle(make_plan(request), ComponentCache(tmp_path / "cache"), lambda *_: None).path
    applied = apply_recipe(plain, named_recipe("gpu-int8"), tmp_path / "gpu")
    decoder, encoder = (open_bundle(applied.path).components[name].record for name in COMPONENTS)
    assert decoder["sha256"] == open_bundle(plain).components["vae_decoder"].record["sha256"]
    assert "compression" not in decoder
    assert encoder["compression"]["schemes"]["int8d"] == 4
    with pytest.raises(OutputError, match="changes no weight"):
        apply_recipe(plain, Recipe("rare", Linear(8, dynamic=True), min_elements=10**9), tmp_path / "none")
