"""Whatever a manifest says, opening it gives checked paths or one error; nothing else may join its text to a folder."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sdmobile
from sdmobile.basics.untrusted import UntrustedError, check_tree, checked_parts, inside, parse_json, read_bounded
from sdmobile.errors import EXIT_CHECKPOINT
from sdmobile.formats.bundle.reading import Bundle, BundleError, open_bundle
from tests.fuzz.bundles import HOSTILE, damaged_manifest, small_bundle

_PACKAGE = Path(sdmobile.__file__).parent
_KEYS = ("file", "files", "path", "device", "name", "fileName")
"""What records, manifests, indexes and programs call the text that names a file."""


def _all_inside(bundle: Bundle) -> None:
    root = bundle.path.resolve()
    components = [part for component in bundle.components.values() for part in (component, *component.chain)]
    for path in (*bundle.files.values(), *(part.path for part in components)):
        assert path.resolve().is_relative_to(root)
        assert not path.is_symlink()
        assert path.exists()


@pytest.mark.parametrize("target", ["ios", "android", "onnx"])
def test_the_small_bundles_are_good(target: str, tmp_path: Path) -> None:
    _all_inside(open_bundle(small_bundle(tmp_path / "bundle", target)))


@pytest.mark.parametrize("harm", HOSTILE)
@pytest.mark.parametrize("verify", [True, False])
def test_a_hostile_bundle_is_refused_in_one_line(harm: str, verify: bool, tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "a/b/bundle")
    HOSTILE[harm](folder)
    with pytest.raises(BundleError) as refusal:
        open_bundle(folder, verify)
    assert refusal.value.exit_code == EXIT_CHECKPOINT
    assert refusal.value.fix
    assert "\n" not in refusal.value.message()
    assert refusal.value.message().isprintable()
    assert len(refusal.value.message()) < 1500


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("damaged") / "bundle", "android")


def _open(folder: Path) -> None:
    try:
        bundle = open_bundle(folder)
    except BundleError:  # anything else would be "a fault of sdmobile"
        return
    _all_inside(bundle)


def test_random_damage_of_a_manifest_is_an_error_or_harmless(folder: Path) -> None:
    file = folder / "manifest.json"
    good = file.read_text("utf-8")
    manifest = json.loads(good)
    for seed in range(300):
        file.write_text(damaged_manifest(manifest, seed), "utf-8")
        _open(folder)
    file.write_text(good, "utf-8")
    open_bundle(folder)


_TEXTS = st.text() | st.sampled_from(
    ["..", "../x", "a/../../x", "/x", "C:x", "a\\b", "a\0b", "unet.tflite", "vocab.json"]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(["file", "files", "contract", "chain", "sha256", "stages", "compression"]), value=_VALUES)
def test_no_value_of_a_component_leads_outside(folder: Path, place: str, value: Any) -> None:
    file = folder / "manifest.json"
    good = file.read_text("utf-8")
    manifest = json.loads(good)
    manifest["components"]["unet"][place] = value
    file.write_text(json.dumps(manifest), "utf-8")
    try:
        _open(folder)
    finally:
        file.write_text(good, "utf-8")


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "b.c", "C:", "\\", "\0"])).map("/".join))
def test_a_checked_path_leads_down(text: str) -> None:
    try:
        parts = checked_parts(text)
    except UntrustedError:
        return
    root = Path("/a/b")
    path = inside(root, text)
    assert Path(os.path.normpath(path)) == path
    assert path.relative_to(root).parts == parts


@given(st.binary(max_size=60) | _VALUES.map(lambda value: json.dumps(value).encode()))
def test_json_of_any_bytes_is_plain_or_refused(data: bytes) -> None:
    try:
        value = parse_json(data)
    except UntrustedError:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")


def test_only_regular_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"12345")
    for name, reason in (
        ("pipe", "a pipe is no regular file"),
        ("large", "5 bytes; at most 4"),
        (".", "a folder is no"),
    ):
        with pytest.raises((UntrustedError, OSError), match=reason):
            read_bounded(tmp_path / name, 4)
    assert read_bounded(tmp_path / "large", 5) == b"12345"
    with pytest.raises(UntrustedError, match="'pipe' is a pipe"):
        check_tree(tmp_path)


def _joins(tree: ast.AST) -> list[int]:
    """Returns the lines where `/` or `joinpath` takes what a record, manifest or index calls a file."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            joined: list[ast.expr] = [node.right]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("joinpath", "with_name"):
            joined = list(node.args)
        else:
            continue
        for part in (item for expression in joined for item in ast.walk(expression)):
            key = part.slice.value if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant) else None
            if key in _KEYS or getattr(part, "attr", "") == "fileName":
                lines.append(node.lineno)
    return lines


def test_nothing_else_joins_a_documents_text_to_a_folder() -> None:
    found = {}
    for file in sorted(_PACKAGE.rglob("*.py")):
        text = file.read_text("utf-8")
        if any(f'["{key}"]' in text or f".{key}" in text for key in _KEYS) and (lines := _joins(ast.parse(text))):
            found[file.relative_to(_PACKAGE).as_posix()] = lines
    assert found == {}
