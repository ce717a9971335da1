"""LiteRT in a process of its own: the same numbers, and one error for whatever becomes of the process."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from sdmobile.errors import EXIT_CHECKPOINT, UnsupportedError
from sdmobile.formats.errors import FormatError
from sdmobile.runtimes.litert_process import LiteRTProcess
from tests.fuzz.models import SIGNATURE, small_tflite

X = np.random.default_rng(0).standard_normal((1, 4, 4, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("litert") / "small.tflite"
    path.write_bytes(small_tflite())
    return path


@pytest.fixture(scope="module")
def process(file: Path) -> LiteRTProcess:
    return LiteRTProcess(file)


def test_the_numbers_are_those_of_the_definition(process: LiteRTProcess) -> None:
    assert process.inputs == {"x": ((1, 4, 4, 2), "float32")}
    weights = np.linspace(-1, 1, 6).reshape(3, 2)
    expected = X.astype(np.float64) @ weights.T + [1.5, 2.25, 3.125]
    for _ in range(2):
        np.testing.assert_allclose(process({"x": X})["y"], expected, atol=1e-5)
        assert process.crossing > 0


def test_wrong_inputs_are_an_error_and_the_process_goes_on(process: LiteRTProcess) -> None:
    for wrong in ({"z": X}, {"x": X.astype(np.float64)}, {}):
        with pytest.raises(FormatError, match=r"able to run the file: .*small\.tflite: \w+") as refusal:
            process(wrong)
        assert "\n" not in refusal.value.message()
    assert process({"x": X})["y"].shape == (1, 4, 4, 3)


def test_an_unknown_signature_is_refused(file: Path) -> None:
    assert LiteRTProcess(file, SIGNATURE, threads=1, delegates=False)({"x": X})["y"].shape == (1, 4, 4, 3)
    with pytest.raises(UnsupportedError, match=r"signature other: \['run'\]"):
        LiteRTProcess(file, "other")


def test_a_file_that_is_none_is_an_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.tflite").write_bytes(file.read_bytes()[:200])
    with pytest.raises(FormatError, match=r"able to load the file: .*cut\.tflite: ValueError") as refusal:
        LiteRTProcess(tmp_path / "cut.tflite")
    assert refusal.value.exit_code == EXIT_CHECKPOINT


def test_a_crash_is_contained_and_named(file: Path) -> None:
    process = LiteRTProcess(file)
    os.kill(process._child.pid, signal.SIGSEGV)
    large = np.zeros((1, 512, 512, 2), np.float32)  # more than a pipe holds
    for x in (large, X):
        with pytest.raises(FormatError, match=r"without a crash: .*small\.tflite: SIGSEGV"):
            process({"x": x})


def test_the_process_ends_with_the_object(file: Path) -> None:
    process = LiteRTProcess(file)
    child = process._child
    del process
    gc.collect()
    assert child.returncode is not None
