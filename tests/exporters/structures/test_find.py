"""Which structure is used: one that fits, is whole and is what would be written today; else the long way is gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdmobile.basics.files import files_of
from sdmobile.checkpoints import open_checkpoint
from sdmobile.checkpoints.control import ControlFolder
from sdmobile.device_profiles import profile_path
from sdmobile.exporters.bundle import export_bundle
from sdmobile.exporters.cache import ComponentCache
from sdmobile.exporters.estimates import STREAMING_BYTES
from sdmobile.exporters.request import ExportPlan, ExportRequest, make_plan
from sdmobile.exporters.structures import find, keys, listing
from sdmobile.exporters.structures.find import find_structures
from sdmobile.exporters.structures.structure import read_structure, write_structure
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.reference.geometry import geometry_for
from tests.exporters.structures.conftest import Made
from tests.in_process import exports_in_this_process
from tests.synthetic import write_checkpoint, write_control_network

NO_CACHE = ComponentCache(None)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of structures, in which exports keep what they make."""
    folder = tmp_path / "kept"
    monkeypatch.setattr(find, "kept_folder", lambda: folder)
    monkeypatch.setattr(listing, "places", find.places)
    return folder


@pytest.fixture
def placed(made: Made, kept: Path) -> Path:
    """The structure of the tiny denoiser, where it is looked for."""
    place = kept / f"{keys.file_stem(made.structure.facts)}.structure"
    kept.mkdir()
    shutil.copyfile(made.path, place)
    return place


def _reason(made: Made, checkpoint: Path, **options: Any) -> str | None:
    request = ExportRequest(checkpoint, made.plan.request.target, Path("b"), **options)
    opened = open_checkpoint(checkpoint)
    plan = made.plan
    (fit,) = find_structures(opened, request, plan.device, plan.geometry, ["unet"]).values()
    assert (fit.structure is None) == (fit.reason is not None)
    return fit.reason


def test_one_that_fits_is_found_for_other_weights(made: Made, placed: Path, tmp_path: Path) -> None:
    assert _reason(made, write_checkpoint(tmp_path / "other", seed=5)) is None


def test_one_of_another_width_is_not(made: Made, placed: Path, tmp_path: Path) -> None:
    wider = write_checkpoint(tmp_path / "wide", changes={"unet": {"block_out_channels": [32, 96]}})
    assert "none of this architecture" in str(_reason(made, wider))


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({"norm_eps": 1e-6}, False),
        ({"attention_head_dim": 8}, False),
        ({"flip_sin_to_cos": False}, False),
        (
            {
                "act_fn": "silu",
                "only_cross_attention": False,
                "_name_or_path": "x",
                "resnet_time_scale_shift": "default",
            },
            True,
        ),
    ],
)
def test_a_configuration_that_asks_for_another_graph_is_noticed(
    made: Made, placed: Path, tmp_path: Path, change: dict[str, Any], fits: bool
) -> None:
    folder = write_checkpoint(tmp_path / "other")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, **change}))
    reason = _reason(made, folder)
    assert (reason is None) == fits, reason
    if not fits:
        assert next(iter(change)) in str(reason)


def test_what_needs_a_sampling_run_goes_the_long_way(made: Made, placed: Path, tiny_checkpoint: Path) -> None:
    assert "sampling run" in str(_reason(made, tiny_checkpoint, float32_islands=True))


@pytest.mark.parametrize("part", ["forms", "lowering"])
def test_one_of_other_rules_is_never_used(made: Made, placed: Path, tiny_checkpoint: Path, part: str) -> None:
    write_structure(replace(made.structure, versions={**made.structure.versions, part: "older"}), placed)
    find._read.cache_clear()
    assert "rules have changed" in str(_reason(made, tiny_checkpoint))


def test_one_of_another_converter_is_never_used(made: Made, placed: Path, tiny_checkpoint: Path) -> None:
    library = next(iter(made.structure.versions["libraries"]))
    libraries = {**made.structure.versions["libraries"], library: "0.1"}
    write_structure(replace(made.structure, versions={**made.structure.versions, "libraries": libraries}), placed)
    find._read.cache_clear()
    assert f"{library} " in str(_reason(made, tiny_checkpoint))


def test_a_converter_that_is_not_installed_makes_none_stale(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_installed", lambda name: None)
    assert keys.staleness(made.structure) is None


def test_a_damaged_one_is_noticed_and_not_used(
    made: Made, placed: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = bytearray(placed.read_bytes())
    content[-9] ^= 1
    placed.write_bytes(content)
    find._read.cache_clear()
    assert _reason(made, tiny_checkpoint) == "the stored one is damaged"
    assert "hash" in caplog.text


def test_a_control_network_of_another_scale_has_a_structure_of_its_own(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = write_control_network(tmp_path / "control", tiny_checkpoint)
    names: list[dict[str, str]] = []
    for scale in (1.0, 0.5):
        controls = (ControlFolder(folder, scale),)
        opened = open_checkpoint(tiny_checkpoint, controls=controls)
        request = ExportRequest(tiny_checkpoint, "ios", Path("b"), controls=controls)
        geometry = geometry_for(opened, None, None)
        fits = find_structures(opened, request, "iphone-15-pro", geometry, opened.family.names)
        names.append({name: fit.path.name for name, fit in fits.items()})
    assert {name for name in names[0] if names[0][name] != names[1][name]} == {"controlnet"}


def test_code_is_told_from_comments(tmp_path: Path) -> None:
    (tmp_path / "rewrites").mkdir()
    file = tmp_path / "rewrites" / "a.py"
    hashes = []
    for text in ('"""Doc."""\nx = 1  # why\n', '"""Another\ntext."""\n# and more\nx =  1\n', "x = 2\n"):
        file.write_text(text)
        hashes.append(keys.code_of.__wrapped__(("rewrites/*.py",), tmp_path))
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.fixture
def exports(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets exports keep structures, as they do outside of the tests."""

    def place_of(plan: ExportPlan, component: str) -> Path | None:
        fit = plan.structures.get(component)
        return fit.path if fit is not None and fit.wanted else None

    monkeypatch.setattr(ExportPlan, "place_of", place_of)
    with exports_in_this_process():
        yield


@pytest.mark.parametrize("target", ["ios", "android"])
def test_the_first_export_keeps_a_structure_and_the_next_one_streams(
    target: str, exports: None, kept: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    def export(checkpoint: Path, name: str, structures: bool = True) -> Path:
        request = ExportRequest(
            checkpoint, target, tmp_path / name, components=("text_encoder",), structures=structures
        )
        return export_bundle(make_plan(request), NO_CACHE, lambda *_: None).path

    export(tiny_checkpoint, "first")
    (path,) = kept.iterdir()
    other = write_checkpoint(tmp_path / "other", seed=3)
    streamed, long = export(other, "streamed"), export(other, "long", structures=False)
    record = open_bundle(streamed).manifest["components"]["text_encoder"]
    assert [stage["name"] for stage in record["stages"]] == ["stream"]
    assert record["structure"] == path.stem
    files = {p.relative_to(long).as_posix(): p.read_bytes() for p in files_of(long) if p.name != "manifest.json"}
    again = {
        p.relative_to(streamed).as_posix(): p.read_bytes() for p in files_of(streamed) if p.name != "manifest.json"
    }
    assert again.keys() == files.keys()
    assert [name for name in files if files[name] != again[name]] == []


def test_a_device_that_is_given_as_a_file_has_structures_too(
    exports: None, kept: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    mine = tmp_path / "phone.toml"
    mine.write_text(profile_path("iphone-15-pro").read_text("utf-8").replace('"iphone-15-pro"', '"mine"'), "utf-8")
    for name in ("first", "second"):
        plan = ExportRequest(tiny_checkpoint, "ios", tmp_path / name, components=("text_encoder",), device=str(mine))
        export_bundle(make_plan(plan), NO_CACHE, lambda *_: None)
    first, second = (
        open_bundle(tmp_path / name).manifest["components"]["text_encoder"] for name in ("first", "second")
    )
    assert [stage["name"] for stage in second["stages"]] == ["stream"]
    assert first["sha256"] == second["sha256"]


def test_unusual_weights_go_the_long_way_with_a_word(
    exports: None, made: Made, placed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.numpy import load_file, save_file

    folder = write_checkpoint(tmp_path / "other", seed=9)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_norm_out.weight"][:] = 1.0
    save_file(tensors, weights)
    request = ExportRequest(folder, made.plan.request.target, tmp_path / "b", components=("unet",))
    plan = make_plan(request)
    (component,) = plan.components
    assert component.streamed
    assert plan.is_streamed("unet")
    assert plan.memory_bytes == STREAMING_BYTES < component.memory_bytes
    whole = make_plan(replace(request, structures=False))
    assert whole.disk_bytes - plan.disk_bytes == component.disk_bytes - component.kept_bytes > 0
    assert whole.memory_bytes == component.memory_bytes
    result = export_bundle(plan, NO_CACHE, lambda *_: None)
    stages = [stage["name"] for stage in result.manifest["components"]["unet"]["stages"]]
    assert "lower" in stages
    assert "exported the long way" in caplog.text


def test_a_forged_one_is_damaged_for_every_command(
    made: Made, placed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its hash is right, what it says is not."""
    from sdmobile.cli.app import run

    write_structure(replace(made.structure, record={**made.structure.record, "files": ["../x"]}), placed)
    assert run(["structures", "verify", str(placed)]) == 3
    assert "damaged" in capsys.readouterr().out
    assert run(["structures", "list"]) == 0
    assert run(["structures", "verify", "nowhere"]) == 6


def test_onnx_has_no_structures(tiny_checkpoint: Path, kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sdmobile.cli.app import run

    assert run(["structures", "make", str(tiny_checkpoint), "--target", "onnx"]) == 5
    assert "ios and android" in capsys.readouterr().err
    assert not kept.exists()


def test_the_list_says_what_is_there_and_in_what_state(made: Made, placed: Path) -> None:
    (placed.parent / "bad.structure").write_bytes(b"nothing")
    found = {Path(entry.path).name: entry for entry in listing.entries() if not entry.shipped}
    assert found[placed.name].state == "current"
    assert found[placed.name].parameters == made.structure.record["parameters"]
    assert found["bad.structure"].state.startswith("damaged")
    assert read_structure(placed) == made.structure
