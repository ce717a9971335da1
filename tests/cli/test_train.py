"""`sdmobile train`: what is refused before any work, and where the results of judging go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdmobile.cli.app import run


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("shapes", "--steps", "0"), 2, "--steps"),
        (("shapes", "--quick", "0"), 2, "--quick is a number of steps"),
        (("shapes", "--threads", "0"), 2, "--threads"),
        (("evaluate", "--prompts", "0"), 2, "--prompts"),
        (("evaluate", "missing"), 4, "the checkpoint must exist"),
        (("evaluate", "--pictures", "7"), 2, "--pictures is 0 or at least 8"),
        (("mobile", "relu", "--from", "shapes-64-mobile"), 2, "--from is for the stages lora"),
        (("mobile", "lora", "--from", "missing"), 4, "the checkpoint must exist"),
        (("mobile", "lora", "--from", "shapes-64"), 4, "that of shapes-64 is another"),
        (("features", "-o", "/dev/null/x"), 6, "/dev/null"),
    ],
)
def test_what_is_refused(
    arguments: tuple[str, ...],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["train", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert list(tmp_path.iterdir()) == []


def test_evaluate_says_how_many_are_obeyed_and_prints_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "judged"
    assert run(["train", "evaluate", "-o", str(output), "--prompts", "1", "--steps", "1"]) == 0
    captured = capsys.readouterr()
    record = json.loads((output / "obedience.json").read_text("utf-8"))
    assert record["prompts"] == 1
    assert f"{record['obeyed']} of 1 held-out prompts obeyed" in captured.err
    assert captured.out == f"{output}\n"
    assert (output / "samples.png").is_file()


def test_evaluate_compares_pictures_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is measured, and how, is the matter of tests/training/test_distribution.py."""
    asked: list[tuple[object, int]] = []

    def measured(_draw: object, autoencoder: object, pictures: int, _progress: object) -> dict[str, object]:
        asked.append((type(autoencoder).__name__, pictures))
        row = {"kid": [0.01, 0.002], "precision": 0.9, "recall": 0.8}
        return {**row, "floors": {"renderer": row}, "bits": {"background": [1.5, 1.9]}}

    monkeypatch.setattr("sdmobile.training.distribution.measure_distribution", measured)
    output = tmp_path / "judged"
    assert run(["train", "evaluate", "-o", str(output), "--prompts", "1", "--steps", "1", "--pictures", "9"]) == 0
    told = capsys.readouterr().err
    assert asked == [("AutoencoderKL", 9)]
    assert "shapes-KID 0.0100 ± 0.0020, precision 0.900, recall 0.800" in told
    assert "background left open: 1.50 bits, 1.90 if chosen evenly" in told
    assert "95 % interval" in told
    assert json.loads((output / "obedience.json").read_text("utf-8"))["distribution"]["recall"] == 0.8


def test_pictures_of_another_size_are_not_judged(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert run(["train", "evaluate", str(tiny_checkpoint), "-o", str(tmp_path / "judged"), "--prompts", "1"]) == 5
    assert list(tmp_path.iterdir()) == []


def test_a_trained_network_replaces_no_file_unasked(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"precious")
    assert run(["train", "features", "-o", str(file), "--steps", "1"]) == 6
    assert file.read_bytes() == b"precious"
    assert run(["train", "features", "-o", str(file), "--steps", "1", "--overwrite"]) == 0
    assert file.stat().st_size > 500_000
