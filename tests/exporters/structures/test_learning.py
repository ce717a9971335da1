"""What two exports with other weights may differ in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdmobile.errors import ComponentError
from sdmobile.exporters.lowering import CONVERSION_DATE
from sdmobile.exporters.structures.learning import Weights, learn_files

NAME = "Model.mlpackage"
DAY, NEXT = "2026-11-30", "2026-12-01"


def _package(path: Path) -> Path:
    import coremltools as ct
    from coremltools.converters.mil import Builder

    mb: Any = Builder

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4))])
    def program(x: Any) -> Any:
        return mb.add(x=x, y=np.float32(0.12345), name="sum")

    model = ct.convert(program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS16)
    assert isinstance(model, ct.models.MLModel)
    model.user_defined_metadata[CONVERSION_DATE] = DAY
    model.save(str(path))
    (file,) = path.rglob("*.mlmodel")
    spec: Any = ct.utils.load_spec(str(file))
    file.write_bytes(spec.SerializeToString(deterministic=True))  # texts in their order, as exports write them
    return path


def _learned(folder: Path, old: bytes, new: bytes) -> tuple[str, ...]:
    """Returns the kinds of segments of a model whose second export has other bytes in one place."""
    first = _package(folder / "probe" / NAME)
    second = shutil.copytree(first, folder / "proof" / NAME)
    (file,) = second.rglob("*.mlmodel")
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    files = learn_files(
        [NAME], {}, *(Weights(path.parent, lambda name: np.zeros(0, np.float32)) for path in (first, second))
    )
    (model,) = [one for one in files if one.path.endswith(".mlmodel")]
    return tuple(segment.kind for segment in model.segments)


def test_a_structure_may_be_made_over_midnight(tmp_path: Path) -> None:
    """Its two exports have their dates; a streamed file gets that of its own day."""
    assert "metadata" in _learned(tmp_path, DAY.encode(), NEXT.encode())


def test_another_number_in_the_program_is_an_error(tmp_path: Path) -> None:
    number, other = (np.float16(value).tobytes() for value in (0.12345, 0.54321))
    with pytest.raises(ComponentError, match="stored tensor of known origin"):
        _learned(tmp_path, number, other)
