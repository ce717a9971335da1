"""Bundles: what is asked for is checked first, nothing is half-written, finished components are reused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdmobile.errors import ComponentError, OutputError, ResourceError, UnsupportedError, UsageError
from sdmobile.exporters import bundle as bundle_module
from sdmobile.exporters.bundle import export_bundle
from sdmobile.exporters.cache import ComponentCache, component_key
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.process import run_component
from sdmobile.exporters.request import ExportPlan, ExportRequest, check_resources, make_plan
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.formats.bundle.writing import check_output, staging
from tests.in_process import exports_in_this_process


def _plan(checkpoint: Path, out: Path, target: str = "onnx", **options: Any) -> ExportPlan:
    return make_plan(ExportRequest(checkpoint, target, out, **options))


@pytest.fixture(scope="session")
def exported(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportPlan, ComponentCache]:
    """An android bundle of one component, through a real process."""
    folder = tmp_path_factory.mktemp("exported")
    plan = _plan(tiny_checkpoint, folder / "bundle", "android", components=("text_encoder",))
    cache = ComponentCache(folder / "cache")
    result = export_bundle(plan, cache, lambda *_: None)
    assert result.reused == ()
    return plan, cache


def test_a_bundle_passes_its_own_check_and_lists_every_file(exported: tuple[ExportPlan, ComponentCache]) -> None:
    out = exported[0].request.out_dir
    bundle = open_bundle(out)  # compares sizes and hashes
    assert set(bundle.components) == {"text_encoder"}
    on_disk = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - {"manifest.json"}
    assert on_disk == set(bundle.manifest["files"])
    assert {"scheduler.json", "noise_golden.json", "metadata.json", "README.md", "tokenizer/vocab.json"} <= on_disk
    for record in bundle.manifest["components"].values():
        assert [stage["name"] for stage in record["stages"]][-2:] == ["lower", "float16"]
        assert all(stage["peak_rss_bytes"] > 0 for stage in record["stages"])


def test_metadata_tells_an_app_what_the_files_take(exported: tuple[ExportPlan, ComponentCache]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    out = exported[0].request.out_dir
    metadata = json.loads((out / "metadata.json").read_text())
    for model in metadata["models"].values():
        runner = Interpreter(str(out / model["file"])).get_signature_runner(model["signature"])
        for spec in model["inputs"]:
            assert list(runner.get_input_details()[spec["name"]]["shape"]) == spec["shape"]
        for spec in model["outputs"]:
            assert list(runner.get_output_details()[spec["name"]]["shape"]) == spec["shape"]


def test_a_profile_of_ones_own_travels_with_the_bundle(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Also after a recipe, and when the file that was named at the export is gone."""
    from sdmobile.device_profiles import profile_path
    from sdmobile.lint.dispatch import lint_bundle
    from sdmobile.quantize.apply import apply_recipe
    from sdmobile.quantize.recipes import named_recipe

    mine = tmp_path / "phone.toml"
    text = profile_path("iphone-15-pro").read_text("utf-8")
    mine.write_text(text.replace('name = "iphone-15-pro"', 'name = "my-phone"'), "utf-8")
    plan = _plan(tiny_checkpoint, tmp_path / "bundle", "ios", components=("text_encoder",), device=str(mine))
    with exports_in_this_process():
        export_bundle(plan, ComponentCache(None), lambda *_: None)
    apply_recipe(tmp_path / "bundle", named_recipe("palette4"), tmp_path / "small")
    mine.unlink()
    for name in ("bundle", "small"):
        moved = (tmp_path / name).rename(tmp_path / f"{name}-moved")
        bundle = open_bundle(moved)
        assert bundle.manifest["device"] == "my-phone.toml"
        assert bundle.device == str(moved / "my-phone.toml")
        assert (moved / "my-phone.toml").read_text("utf-8").count("my-phone") == 1
        assert lint_bundle(moved)
        assert str(tmp_path) not in (moved / "manifest.json").read_text("utf-8")


@pytest.mark.parametrize(
    "target", ["ios", *(pytest.param(name, marks=pytest.mark.slow) for name in ("android", "onnx"))]
)
def test_two_exports_write_the_same_bytes(
    target: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the hash seed; dates and times are in the manifest alone, and SOURCE_DATE_EPOCH settles them."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    contents = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        out = tmp_path / seed
        export_bundle(_plan(tiny_checkpoint, out, target, components=("text_encoder",)), ComponentCache(None), print)
        contents.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()})
    assert [name for name in contents[0] if contents[0][name] != contents[1].get(name)] == []
    assert contents[0].keys() == contents[1].keys()
    places = [
        os.fsencode(place) for place in (tmp_path, tiny_checkpoint.parent, Path(bundle_module.__file__).parents[2])
    ]
    assert [name for name, content in contents[0].items() if any(place in content for place in places)] == []
    assert json.loads(contents[0][Path("manifest.json")])["created"] == "2023-11-14T22:13:20+00:00"


def test_a_date_that_is_none_is_refused_before_anything_is_done(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    monkeypatch.setattr(bundle_module, "run_component", lambda *_: pytest.fail("a component was exported"))
    with pytest.raises(UsageError, match="SOURCE_DATE_EPOCH"):
        export_bundle(_plan(tiny_checkpoint, tmp_path / "out"), ComponentCache(None), print)


def test_a_second_run_reuses_finished_components(
    exported: tuple[ExportPlan, ComponentCache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles and cache share no file, so that changing one changes no other."""
    plan, cache = exported
    monkeypatch.setattr(bundle_module, "run_component", lambda *_: pytest.fail("a component was exported again"))
    other = make_plan(ExportRequest(**{**vars(plan.request), "out_dir": tmp_path / "again"}))
    result = export_bundle(other, cache, lambda *_: None)
    assert set(result.reused) == {"text_encoder"}
    assert cache.root is not None
    for folder in (plan.request.out_dir, other.request.out_dir, cache.root):
        assert [path for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink != 1] == []
    first = json.loads((plan.request.out_dir / "manifest.json").read_text())
    assert {k: v["sha256"] for k, v in first["files"].items() if k.endswith("tflite")} == {
        k: v["sha256"] for k, v in result.manifest["files"].items() if k.endswith("tflite")
    }


def test_a_damaged_cache_entry_is_not_used(exported: tuple[ExportPlan, ComponentCache], tmp_path: Path) -> None:
    plan, cache = exported
    key = component_key(plan, "text_encoder")
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()
    record = cache.take(key, first)
    assert record is not None
    copy = ComponentCache(tmp_path / "cache")
    copy.store(key, first, record)
    damaged = copy.root / key / "text_encoder.tflite"  # pyright: ignore[reportOptionalOperand]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert copy.take(key, second) is None
    assert list(second.iterdir()) == []
    assert cache.take(key, third) == record


def test_the_key_depends_on_what_decides_the_file(tiny_checkpoint: Path, tmp_path: Path) -> None:
    plan = _plan(tiny_checkpoint, tmp_path / "a")
    separate = _plan(tiny_checkpoint, tmp_path / "b", guidance="separate")
    larger = _plan(tiny_checkpoint, tmp_path / "c", resolution=2 * plan.checkpoint.image_size[0])
    assert component_key(plan, "unet") != component_key(separate, "unet")
    assert component_key(plan, "vae_decoder") == component_key(separate, "vae_decoder")
    assert component_key(plan, "vae_decoder") != component_key(larger, "vae_decoder")
    assert component_key(plan, "unet") != component_key(_plan(tiny_checkpoint, tmp_path / "d", "ios"), "unet")


def test_an_existing_folder_is_untouched(tiny_checkpoint: Path, tmp_path: Path) -> None:
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "cat.png").write_bytes(b"meow")
    with pytest.raises(OutputError, match="must not exist"):
        check_output(precious, overwrite=False)
    with pytest.raises(OutputError, match="replaces bundles only"):
        check_output(precious, overwrite=True)
    assert (precious / "cat.png").read_bytes() == b"meow"


def test_a_failed_component_leaves_the_old_bundle(
    exported: tuple[ExportPlan, ComponentCache], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = exported
    before = (plan.request.out_dir / "manifest.json").read_bytes()

    def fail(*_: object) -> None:
        raise ComponentError("the process was killed", "SIGSEGV")

    monkeypatch.setattr(bundle_module, "run_component", fail)
    again = make_plan(ExportRequest(**{**vars(plan.request), "overwrite": True}))
    with pytest.raises(ComponentError):
        export_bundle(again, ComponentCache(None), lambda *_: None)
    assert (plan.request.out_dir / "manifest.json").read_bytes() == before
    assert [path.name for path in plan.request.out_dir.parent.iterdir() if path.name.startswith(".")] == []


def test_too_little_memory_and_disk_are_said_before_anything_starts(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _plan(tiny_checkpoint, tmp_path / "bundle")
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=1 << 20))
    with pytest.raises(ResourceError, match="GiB of memory"):
        export_bundle(plan, ComponentCache(None), lambda *_: None)
    check_resources(plan, frozenset(part.name for part in plan.components))  # all reused: no memory needed
    monkeypatch.undo()
    usage = type("Usage", (), {"free": 1})
    monkeypatch.setattr("sdmobile.exporters.request.shutil.disk_usage", lambda _: usage)
    with pytest.raises(ResourceError, match="disk space"):
        export_bundle(plan, ComponentCache(None), lambda *_: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "windows"}, "target must be one of"),
        ({"device": "nokia-3310"}, "nokia-3310"),
        ({"target": "ios", "device": "galaxy-s23-ultra"}, "android"),
        ({"components": ("unet", "hat")}, "hat"),
        ({"resolution": 37}, "multiple"),
        ({"guidance": "triple"}, "triple"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        _plan(tiny_checkpoint, tmp_path / "bundle", **options)


def test_a_killed_process_is_reported_with_its_signal(tiny_checkpoint: Path, tmp_path: Path) -> None:
    job = ExportJob(tiny_checkpoint, "vae_decoder", "onnx", None, "batch2", None, tmp_path / "out")

    def kill_the_child(event: dict[str, Any]) -> None:
        for child in psutil.Process().children():
            if "sdmobile.exporters.worker" in child.cmdline():
                child.send_signal(signal.SIGKILL)

    with pytest.raises(ComponentError, match="SIGKILL"):
        run_component(job, tmp_path, kill_the_child)


@pytest.mark.parametrize(
    "ending", ["echo 'LLVM ERROR: IO failure: No space left on device' >&2; exit 1", "kill -BUS $$"]
)
def test_native_code_that_meets_a_full_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    job = ExportJob(tmp_path, "unet", "android", None, "batch2", None, tmp_path / "out")
    monkeypatch.setattr("sdmobile.exporters.workers.tethered", lambda _: ["sh", "-c", ending])
    monkeypatch.setattr("sdmobile.exporters.process.has_room", lambda _: "LLVM" in ending)
    with pytest.raises(ResourceError, match="unet: the disk must have room"):
        run_component(job, tmp_path, lambda _: None)


def test_the_error_of_a_component_keeps_its_kind(tmp_path: Path) -> None:
    from sdmobile.errors import CheckpointError

    job = ExportJob(tmp_path / "nowhere", "unet", "onnx", None, "batch2", None, tmp_path / "out")
    with pytest.raises(CheckpointError, match="nowhere"):
        run_component(job, tmp_path, lambda _: None)


def _heed_interrupts() -> None:
    """Undoes what a shell does to background jobs: they ignore SIGINT, and hand that on to their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGHUP,
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_export_leaves_nothing_behind(tiny_checkpoint: Path, tmp_path: Path, number: signal.Signals) -> None:
    """After SIGKILL the worker is gone, too, and the next run clears the folder away."""
    out = tmp_path / "out" / "bundle"
    command = [sys.executable, "-m", "sdmobile.cli.app", "export", str(tiny_checkpoint), "--target", "onnx"]
    command += ["--output", str(out), "--no-cache"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=_heed_interrupts)
    workers: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    while len(workers) < 2 and time.monotonic() < deadline:  # the server, and what it forks
        time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in children if "sdmobile.exporters.fork_server" in child.cmdline()]
    assert len(workers) >= 2
    process.send_signal(number)
    code = process.wait(timeout=30)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []
    if number == signal.SIGKILL:
        assert len(list(out.parent.iterdir())) == 1
        with staging(out):
            assert len(list(out.parent.iterdir())) == 1  # its own, not that of the dead
    assert list(out.parent.iterdir()) == []
