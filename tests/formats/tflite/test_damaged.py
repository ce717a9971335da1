"""Whatever bytes a .tflite file has: its readers give a result or one error that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdmobile.errors import SdmobileError
from sdmobile.formats.errors import FormatError, whole
from sdmobile.formats.graph import read_graph
from sdmobile.lint.dispatch import lint_file
from sdmobile.quantize.litert.apply import modules
from sdmobile.validate.gpu.model_facts import read_model
from tests.fuzz.models import damaged, small_tflite


def test_damaged_bytes_give_no_other_exception(tmp_path: Path) -> None:
    file = tmp_path / "damaged.tflite"
    good = small_tflite()
    refused = 0
    for seed in range(300):
        file.write_bytes(damaged(good, seed))
        for read in (read_graph, lint_file, modules, read_model):
            try:
                read(file)
            except SdmobileError as error:
                refused += 1
                assert error.exit_code in (4, 5)  # noqa: PT017
                assert "\n" not in error.message()  # noqa: PT017
    assert refused > 100  # the damage reaches what is read


def test_only_what_speaks_of_the_file_becomes_an_error_of_it(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"x\.tflite: KeyError: 'y'"), whole(tmp_path / "x.tflite"):
        raise KeyError("y")
    for error in (OSError("disk"), ImportError("library"), FormatError("as it is")):
        with pytest.raises(type(error)) as raised, whole(tmp_path):
            raise error
        assert raised.value is error
