"""The output sink: data to stdout, remarks to stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sdmobile.cli
from sdmobile.basics.words import megabytes
from sdmobile.cli.output import Output


def test_json_replaces_what_people_see(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).data({"path": Path("a/b"), "µ": 1.5}, "for people")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"path": "a/b", "µ": 1.5}
    assert captured.err == ""


def test_people_see_the_views(capsys: pytest.CaptureFixture[str]) -> None:
    Output().data({"a": 1}, "one", "two")
    assert capsys.readouterr().out == "one\ntwo\n"


def test_notes_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Output(json=True).note("look")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "look\n")


def test_there_is_no_other_way_to_stderr() -> None:
    """What goes there past the sink is taken for a library's and put aside."""
    files = sorted(Path(sdmobile.cli.__file__).parent.glob("*.py"))
    assert len(files) > 10
    for file in files:
        text = file.read_text("utf-8")
        assert "err=True" not in text, file
        assert ("Console(" in text) == (file.name == "output.py"), file


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0.0 kB"), (74_944, "74.9 kB"), (246_120_960, "246.1 MB"), (1_719_041_928, "1.72 GB")]
)
def test_megabytes(count: int, text: str) -> None:
    assert megabytes(count) == text
