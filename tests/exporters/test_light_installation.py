"""Where PyTorch, Diffusers, Transformers and the converters are missing, all but the components is as elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sdmobile.checkpoints.bundled import BUNDLED, bundled_checkpoint
from tests.exporters import light
from tests.lint.corpus.graph import Graph
from tests.validate.bundles import write_exported_bundle

PLANNED = [(name, target) for name in BUNDLED for target in ("ios", "android")]


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_exported_bundle(tmp_path_factory.mktemp("bundles") / "ios", tiny_checkpoint, "ios", ("text_encoder",))


@pytest.fixture(scope="module")
def android_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graph = Graph()
    path = tmp_path_factory.mktemp("files") / "tanh.tflite"
    path.write_bytes(graph.bytes(*graph.op("TANH", [graph.input((1, 8))], (1, 8))))
    return path


@pytest.fixture(scope="module")
def unusual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a known architecture whose schedule no other has."""
    folder = shutil.copytree(bundled_checkpoint("shapes-64"), tmp_path_factory.mktemp("unusual") / "tiny")
    file = folder / "scheduler/scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "beta_end": 0.0123}))
    return folder


@pytest.fixture(scope="module")
def light_process(
    bundle: Path, android_file: Path, unusual: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a process without the libraries did."""
    folder = tmp_path_factory.mktemp("light")
    commands = [
        ["inspect", "shapes-64", "--json"],
        ["inspect", str(unusual), "--json"],
        ["devices", "list", "--json"],
        ["lint", str(bundle), "--json"],
        ["lint", str(android_file), "--json"],
        ["profile", str(bundle), "--json"],
        ["export", "shapes-64", "--target", "ios,android", "--output", str(folder / "both"), "--no-cache", "--json"],
        ["export", "shapes-64", "--target", "onnx", "--output", str(folder / "onnx")],
        ["generate", "--prompt", "a red circle", "--output", str(folder / "picture.png")],
    ]
    order = {"folder": str(folder), "documents": PLANNED, "commands": commands}
    arguments = [sys.executable, "-m", "tests.exporters.light", json.dumps(order)]
    environment = {**os.environ, "SDMOBILE_CACHE": str(folder / "cache"), "SDMOBILE_DATA": str(folder / "data")}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "target"), PLANNED)
def test_plan_and_small_files_are_those_of_a_whole_installation(
    name: str, target: str, light_process: dict[str, Any], tmp_path: Path
) -> None:
    ours, theirs = light_process[f"{name} {target}"], light.documents(name, target, tmp_path / "files")
    assert ours["files"] == theirs["files"]
    assert ours["plan"] == theirs["plan"]
    assert ("scheduler.json" in ours["files"]) is (target == "android")


def test_commands_that_need_no_library_say_the_same(
    light_process: dict[str, Any], bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SDMOBILE_DATA", str(tmp_path / "data"))
    for arguments in (
        ["devices", "list", "--json"],
        ["lint", str(bundle), "--json"],
        ["profile", str(bundle), "--json"],
    ):
        ours, theirs = light_process[" ".join(arguments)], light.command(arguments)
        assert (ours["code"], ours["out"]) == (theirs["code"], theirs["out"]), ours["err"]
        assert ours["code"] == 0


def test_what_a_checkpoint_is_is_said_without_libraries(light_process: dict[str, Any]) -> None:
    ours, theirs = light_process["inspect shapes-64 --json"], light.command(["inspect", "shapes-64", "--json"])
    assert ours["code"] == 0, ours["err"]
    facts, wanted = json.loads(ours["out"]), json.loads(theirs["out"])
    assert "pip install 'sdmobile[onnx]'" in facts["targets"].pop("onnx")["problems"][0]
    wanted["targets"].pop("onnx")
    assert facts == wanted
    assert all(verdict["possible"] for verdict in facts["targets"].values())


def test_a_known_architecture_is_exported_without_libraries(light_process: dict[str, Any], tmp_path: Path) -> None:
    (ours,) = [value for name, value in light_process.items() if "ios,android" in name]
    assert ours["code"] == 0, ours["err"]
    there = {Path(one["bundle"]).name: Path(one["bundle"]) for one in json.loads(ours["out"])}
    done = light.command(
        ["export", "shapes-64", "--target", "ios,android", "--output", str(tmp_path / "both"), "--no-cache", "--json"]
    )
    for one in json.loads(done["out"]):
        here = Path(one["bundle"])
        assert all(record["stages"][0]["name"] == "stream" for record in one["manifest"]["components"].values()), (
            "shapes-64 is one of the architectures that ship"
        )
        files = {path.relative_to(here) for path in here.rglob("*") if path.is_file()} - {Path("manifest.json")}
        assert len(files) > 8
        for file in files:
            assert (here / file).read_bytes() == (there[here.name] / file).read_bytes(), file


def test_what_needs_a_library_names_the_extra(light_process: dict[str, Any]) -> None:
    for start, extra in (("export", "onnx"), ("generate", "torch")):
        done = next(v for n, v in light_process.items() if n.startswith(f"{start} ") and "android" not in n)
        assert done["code"] == 8
        assert f"pip install 'sdmobile[{extra}]'" in done["err"]
        assert done["err"].strip().splitlines()[-1].startswith("error: "), done["err"]
        assert "Traceback" not in done["err"]
    assert light_process["loaded"] == []


def test_an_unusual_schedule_needs_diffusers_once(
    unusual: Path, light_process: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (facts,) = [value for name, value in light_process.items() if str(unusual) in name]
    problems = json.loads(facts["out"])["targets"]["android"]["problems"]
    assert any("unusual scheduler" in line and "pip install 'sdmobile[torch]'" in line for line in problems)
    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path / "cache"))
    whole = light.documents(str(unusual), "android", tmp_path / "here")
    assert len(list((tmp_path / "cache/schedulers").iterdir())) == 1
    order = {"folder": str(tmp_path / "there"), "documents": [(str(unusual), "android")], "commands": []}
    done = subprocess.run(
        [sys.executable, "-m", "tests.exporters.light", json.dumps(order)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[f"{unusual} android"]["files"] == whole["files"]
