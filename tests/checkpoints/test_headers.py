"""Whatever is wrong with a safetensors file, the answer is a CheckpointError and never a traceback of another kind."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from sdmobile.checkpoints.arrays import read_bits
from sdmobile.checkpoints.headers import read_header
from sdmobile.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b.bias": torch.ones(5, dtype=torch.float16),
    "scalar": torch.tensor(3, dtype=torch.int64),
    "bf": torch.full((2, 2), 0.5, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 4),
}
BYTES = save(TENSORS, metadata={"format": "pt"})


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    tensors, metadata = read_header(path)
    assert metadata == {"format": "pt"}
    assert {name: (info.shape, info.dtype) for name, info in tensors.items()} == {
        name: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in TENSORS.items()
    }
    assert sum(info.bytes for info in tensors.values()) == 24 + 10 + 8 + 8
    for name, expected in load_file(path).items():
        bits = torch.from_numpy(read_bits(tensors[name]))
        assert torch.equal(bits if name != "bf" else bits.view(torch.bfloat16), expected)


def _read(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        read_header(path)


_QUIET = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@_QUIET
@given(length=st.integers(0, len(BYTES) - 1))
def test_truncation_is_always_noticed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(BYTES[:length])
    with pytest.raises(CheckpointError):
        read_header(path)


@_QUIET
@given(bits=st.lists(st.integers(0, len(BYTES) * 8 - 1), min_size=1, max_size=8))
def test_bit_flips_never_crash(tmp_path: Path, bits: list[int]) -> None:
    data = bytearray(BYTES)
    for bit in bits:
        data[bit // 8] ^= 1 << (bit % 8)
    _read(tmp_path / "x.safetensors", bytes(data))


@_QUIET
@given(data=st.binary(max_size=200))
def test_garbage_never_crashes(tmp_path: Path, data: bytes) -> None:
    _read(tmp_path / "x.safetensors", data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "F16"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_ENTRY = st.fixed_dictionaries({"dtype": _JSON, "shape": _JSON, "data_offsets": _JSON})


@_QUIET
@given(header=st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), _ENTRY | _JSON, max_size=3))
def test_any_json_header_never_crashes(tmp_path: Path, header: dict[str, object]) -> None:
    text = json.dumps(header).encode()
    _read(tmp_path / "x.safetensors", len(text).to_bytes(8, "little") + text + bytes(16))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(40), "does not begin with a safetensors header"),
        (BYTES[:60], "ends inside its header"),
        (BYTES[:-3], "must not be truncated"),
    ],
)
def test_the_message_says_what_is_wrong(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.safetensors: No such file"):
        read_header(tmp_path / "no.safetensors")
