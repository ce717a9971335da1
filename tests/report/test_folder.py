"""The folder of a report: what is written, and that every status is the plain word that readers look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdmobile.errors import OutputError
from sdmobile.report.folder import write_report
from sdmobile.validate.checks import Cause, CauseKind, Status
from sdmobile.validate.gpu.verdict import GpuStatus
from tests.report.samples import images, manifest, validation


def test_every_form_is_of_the_same_validation(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    write_report(folder, manifest(), validation().to_json(), images(), "# card\n")
    data = json.loads((folder / "validation.json").read_text("utf-8"))
    assert [check["status"] for check in data["components"]] == ["passed", "failed", "error", "not run"]
    assert (folder / "README.md").read_text("utf-8") == "# card\n"
    for name in ("validation.md", "validation.xml", "report.html"):
        text = (folder / name).read_text("utf-8")
        assert "RuntimeError" in text
        assert "Status." not in text
    pictures = {f"prompt-{number}-{name}.png" for number, row in enumerate(images(), 1) for name in row}
    texts = {"validation.json", "validation.md", "validation.xml", "README.md", "report.html"}
    assert {file.name for file in folder.iterdir()} == pictures | texts


def test_a_file_in_the_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("taken")
    with pytest.raises(OutputError):
        write_report(tmp_path / "report", manifest(), validation().to_json(), images(), "")


@pytest.mark.parametrize("word", [*Status, *CauseKind, *GpuStatus])
def test_a_status_is_its_word_wherever_it_is_written(word: Status | CauseKind | GpuStatus) -> None:
    assert f"{word}" == str(word) == word.value == ": ".join([word])
    assert json.loads(json.dumps(word)) == word.value


def test_the_kind_of_a_cause_is_plain_in_json() -> None:
    cause = Cause(CauseKind.JUMP, "the error jumps")
    assert type(cause.to_json()["kind"]) is str
