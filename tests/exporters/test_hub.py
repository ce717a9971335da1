"""A bundle of a checkpoint from the Hub says so, and a bundle is pushed there: from and to a server on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from sdmobile.cli.app import run
from sdmobile.errors import CheckpointError
from sdmobile.formats.bundle.reading import open_bundle
from sdmobile.reference.resolve import resolve_reference
from tests.hub_server import Hub, read_files
from tests.in_process import exports_in_this_process

NAME = "somebody/bundle"


def test_a_bundle_is_named_after_its_repository_and_says_the_commit(
    hub: Hub, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commit = hub.add("someone/tiny-sd", read_files(tiny_checkpoint))
    with exports_in_this_process():
        code = run(["export", "someone/tiny-sd@main", "--target", "onnx", "--components", "text_encoder", "--no-cache"])
    assert code == 0
    bundle = open_bundle(tmp_path / "tiny-sd-onnx")
    assert (bundle.source["repository"], bundle.source["commit"]) == ("someone/tiny-sd", commit)
    card = (bundle.path / "README.md").read_text("utf-8")
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "someone/tiny-sd"
    assert f"from `someone/tiny-sd` at commit `{commit}`, whose content hash" in card
    with pytest.raises(CheckpointError, match=f"--reference someone/tiny-sd@{commit}"):
        resolve_reference(bundle, None)
    assert resolve_reference(bundle, Path(f"someone/tiny-sd@{commit}")).content_hash == bundle.source_hash


def test_a_plan_can_be_made_and_nothing_is_written(
    hub: Hub, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    hub.add("someone/tiny-sd", read_files(tiny_checkpoint))
    assert run(["export", "someone/tiny-sd", "--target", "ios", "--dry-run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["output"] == "tiny-sd-ios"
    assert captured.err == ""  # no bars where there is no terminal
    assert list(Path.cwd().iterdir()) == []


def _push(*more: str) -> int:
    return run(["push", *more])


@pytest.fixture
def token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_TOKEN", hub.writer)
    return hub


def _listed(bundle: Path) -> dict[str, bytes]:
    names = [*json.loads((bundle / "manifest.json").read_text())["files"], "manifest.json"]
    return {name: (bundle / name).read_bytes() for name in names}


def test_a_bundle_is_pushed_and_can_be_read_back(
    token: Hub, onnx_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = shutil.copytree(onnx_bundle, tmp_path / "bundle")
    (bundle / "notes.txt").write_text("the user's own")
    assert _push(str(bundle), NAME) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{token.endpoint}/{NAME}/commit/")
    assert captured.err == ""
    there = token.repositories[NAME].revisions["main"]
    assert there == _listed(onnx_bundle)
    assert not token.repositories[NAME].private
    for name, data in there.items():
        (tmp_path / "back" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / name).write_bytes(data)
    assert open_bundle(tmp_path / "back").source_hash == open_bundle(onnx_bundle).source_hash
    uploads = len(token.large)
    assert _push(str(bundle), NAME) == 0  # the same again
    assert len(token.large) == uploads
    assert token.repositories[NAME].revisions["main"] == there


def test_a_branch_and_what_else_is_in_the_repository(token: Hub, onnx_bundle: Path) -> None:
    token.add(NAME, {"LICENSE": b"mine"})
    assert _push(str(onnx_bundle), NAME, "--revision", "android") == 0
    revisions = token.repositories[NAME].revisions
    assert revisions["main"] == {"LICENSE": b"mine"}
    assert revisions["android"] == {"LICENSE": b"mine", **_listed(onnx_bundle)}


def test_a_private_repository_stays_one(token: Hub, onnx_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _push(str(onnx_bundle), NAME, "--private") == 0
    assert token.repositories[NAME].private
    assert _push(str(onnx_bundle), NAME, "--private") == 0
    token.add("somebody/open", {})
    assert _push(str(onnx_bundle), "somebody/open", "--private") == 6
    assert "--private must not upload to a public repository: somebody/open" in capsys.readouterr().err
    assert token.repositories["somebody/open"].revisions == {"main": {}}


def test_a_changed_bundle_is_not_pushed(token: Hub, onnx_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(onnx_bundle, tmp_path / "bundle")
    with (bundle / "unet.onnx").open("ab") as stream:
        stream.write(b"\0")
    assert _push(str(bundle), NAME) == 4
    assert token.requests == []


def test_refusals_are_told(
    hub: Hub, onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(code: int, *arguments: str) -> str:
        assert _push(str(onnx_bundle), *arguments) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return line

    for wrong in ("bundle", f"{NAME}@main", f"{NAME}/folder"):
        assert "is named owner/name" in told(2, wrong)
    assert "Invalid username or password. To do so, log in with `hf auth login`, or set HF_TOKEN." in told(6, NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "You don't have the rights" in told(6, NAME)
    assert NAME not in hub.repositories
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer" in told(6, NAME)
