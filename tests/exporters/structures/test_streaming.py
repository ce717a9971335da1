"""Files are written whole, in order, with the bytes and the hash that they should have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdmobile.basics.files import hash_of
from sdmobile.errors import CheckpointError
from sdmobile.exporters.structures import streaming
from sdmobile.exporters.structures.bindings import Binding
from sdmobile.exporters.structures.streaming import contiguous, write_files
from sdmobile.exporters.structures.structure import Segment, StoredFile, Structure, StructureError

WEIGHTS = {name: np.random.default_rng(i).standard_normal((64, 48), np.float32) for i, name in enumerate("abcdefgh")}


def _read(name: str, half: bool) -> np.ndarray:
    return WEIGHTS[name].astype(np.float16) if half else WEIGHTS[name]


def _structure(*files: StoredFile) -> Structure:
    return Structure({}, {}, {}, {}, {}, files)


def _file(path: str, bindings: list[Binding], gap: bytes = b"-" * 7) -> tuple[StoredFile, bytes]:
    """Returns a file of tensors with gaps between them, and its content."""
    segments, content = [Segment("bytes", len(gap))], gap
    for binding in bindings:
        stored = np.ascontiguousarray(binding.value([_read(name, False) for name in binding.parameters])).tobytes()
        segments += [Segment("tensor", len(stored), binding), Segment("bytes", len(gap))]
        content += stored + gap
    return StoredFile(path, tuple(segments), gap * (len(bindings) + 1)), content


@pytest.mark.parametrize("ahead", [1, 1 << 20])
def test_the_files_have_the_bytes_and_the_hash_that_they_should_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(streaming, "_AHEAD_BYTES", ahead)
    bindings = [Binding((name,), (("permute", (1, 0)),), "float16") for name in WEIGHTS]
    one, first = _file("x.mlpackage/Data/weight.bin", bindings)
    two, second = _file("x.mlpackage/Manifest.json", [])
    written = write_files(_structure(one, two), tmp_path, _read, dict)
    assert [path.read_bytes() for path in written.files] == [first, second]
    assert written.bytes == len(first) + len(second)
    assert written.sha256 == hash_of([tmp_path / "x.mlpackage"])


def test_a_weight_that_cannot_be_read_ends_it(tmp_path: Path) -> None:
    def read(name: str, half: bool) -> np.ndarray:
        if name == "c":
            raise CheckpointError("every weight must be finite", name)
        return _read(name, half)

    file, _ = _file("x", [Binding((name,), (), "float32") for name in WEIGHTS])
    with pytest.raises(CheckpointError, match="finite"):
        write_files(_structure(file), tmp_path, read, dict)


def test_a_weight_of_another_size_is_refused(tmp_path: Path) -> None:
    file, _ = _file("x", [Binding(("a",), (), "float32")])

    def shorter(name: str, half: bool) -> np.ndarray:
        return WEIGHTS[name][:-1]

    with pytest.raises(StructureError, match="size"):
        write_files(_structure(file), tmp_path, shorter, dict)


@given(
    st.lists(st.integers(1, 80), min_size=2, max_size=4).filter(lambda shape: 1 << 16 <= np.prod(shape) <= 1 << 22),
    st.data(),
)
@settings(max_examples=25, deadline=None)
def test_a_transposition_is_copied_in_order(shape: list[int], data: Any) -> None:
    axes = data.draw(st.permutations(range(len(shape))))
    array = np.arange(np.prod(shape), dtype=np.uint32).reshape(shape).transpose(axes)
    assert np.array_equal(contiguous(array), np.ascontiguousarray(array))
    assert contiguous(array).flags.c_contiguous
