from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sdmobile.errors import EXIT_CHECKPOINT
from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import Geometry
from sdmobile.formats.bundle.reading import BundleError, is_bundle, open_bundle
from tests.families import SD
from tests.validate.bundles import read_manifest, write_manifest

GEOMETRY = Geometry(2, 4, 16, 16, 32, 32, 77, 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle that is whole on paper: its one file holds no model, which reading a bundle does not ask for."""
    root = tmp_path / "bundle"
    (root / "tokenizer").mkdir(parents=True)
    (root / "unet.onnx").write_bytes(b"model")
    manifest: dict[str, Any] = {
        "schema_version": 1,
        "kind": "sdmobile-bundle",
        "target": "onnx",
        "device": "pixel-9",
        "source": {"name": "tiny", "content_hash": "abc", "license": None},
        "geometry": GEOMETRY.to_json(),
        "guidance": "batch2",
        "pipeline": {"scaling_factor": 0.18215, "scheduler": {}},
        "components": {"unet": {"file": "unet.onnx", "contract": contract_for(SD, "onnx", "unet", GEOMETRY).to_json()}},
        "files": {},
    }
    write_manifest(root, manifest)
    return root


def change(folder: Path, **fields: Any) -> None:
    manifest = read_manifest(folder) | fields
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")


def test_what_is_read(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert is_bundle(folder)
    assert (bundle.target, bundle.guidance, bundle.device, bundle.source_hash) == ("onnx", "batch2", "pixel-9", "abc")
    assert bundle.geometry == GEOMETRY
    assert bundle.components["unet"].contract == contract_for(SD, "onnx", "unet", GEOMETRY)
    assert bundle.components["unet"].path == folder / "unet.onnx"
    assert bundle.tokenizer_dir == folder / "tokenizer"


def test_ios_keeps_its_tokenizer_at_the_top(folder: Path) -> None:
    (folder / "tokenizer").rmdir()
    assert open_bundle(folder).tokenizer_dir == folder


@pytest.mark.parametrize("content", [b"m0del", b"model and more", b""])
def test_a_changed_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "unet.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"unet\.onnx was changed or damaged") as caught:
        open_bundle(folder)
    assert caught.value.exit_code == EXIT_CHECKPOINT
    open_bundle(folder, verify=False)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "unet.onnx").unlink()
    with pytest.raises(BundleError, match=r"must exist: unet\.onnx"):
        open_bundle(folder, verify=False)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "..\\secret"])
def test_a_path_that_leaves_the_bundle_is_refused(folder: Path, path: str) -> None:
    change(folder, files={path: {"sha256": "", "bytes": 0}})
    with pytest.raises(BundleError, match="inside the bundle only"):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema_version": 2}, "Update sdmobile"),
        ({"schema_version": 0}, "Export the bundle again"),
        ({"kind": "something"}, "of the kind sdmobile-bundle"),
        ({"target": "windows"}, "ios, android, onnx"),
        ({"components": {}}, "at least one exported component"),
        ({"components": {"unet": {"file": "unet.onnx"}}}, "contract"),
        ({"geometry": {"batch": 2}}, r"geometry\.latent_channels: Field required"),
    ],
)
def test_a_manifest_that_says_otherwise(folder: Path, fields: dict[str, Any], message: str) -> None:
    change(folder, **fields)
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)


def test_a_manifest_without_a_field(folder: Path) -> None:
    manifest = read_manifest(folder)
    del manifest["guidance"]
    (folder / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match=r"missing: \['guidance'\]"):
        open_bundle(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_manifest_that_is_no_object(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text, "utf-8")
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(folder)


def test_no_bundle_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is a folder"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"holds manifest\.json"):
        open_bundle(tmp_path)
    assert not is_bundle(tmp_path)
