"""`sdmobile quantize`: what it lists, and what it refuses before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sdmobile.cli.app import run
from sdmobile.quantize.recipes import GPU_INT8, NAMED, SHIPPED
from sdmobile.quantize.sensitivity import DIRECT, Sensitivity


def test_recipes_lists_every_name_with_its_support(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", "recipes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [recipe["name"] for recipe in data["recipes"]] == [*NAMED, GPU_INT8, *SHIPPED]
    assert all(set(row) >= {"scheme", "runtime", "verdict", "since", "note"} for row in data["support"])
    assert run(["quantize", "recipes"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*NAMED, GPU_INT8, *SHIPPED))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("apply", "missing", "--recipe", "palette6", "-o", "out"), 4, "a bundle is a folder"),
        (("apply", "missing", "--recipe", "missing.json", "-o", "out"), 5, "missing.json"),
        (("analyze", "missing"), 4, "the checkpoint must exist"),
        (("analyze", "--component", "decoder"), 5, "the component must be one of text_encoder, unet"),
        (("analyze", "--schemes", "palette5"), 5, "palette5"),
        (("analyze", "--component", "vae_decoder", "--through", "trajectory"), 5, "of a call, or of a UNet's"),
        (("analyze", "--probes", "0"), 5, "probes or direct measurements"),
        (("search", "missing.json", "--bits", "4"), 5, "sensitivities must be readable JSON"),
        (("curve", "missing.json"), 5, "sensitivities must be readable JSON"),
        (("curve", "missing.json", "--uniform", "palette4,palete6"), 5, "palete6"),
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
    assert run(["quantize", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", ["x", "4,-1", "0", "nan"])
def test_sizes_of_the_curve_are_positive_numbers(bits: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", "curve", "missing.json", "--bits", bits]) == 2
    assert "--bits holds positive numbers" in " ".join(capsys.readouterr().err.split())


def _table() -> Sensitivity:
    """Two layers of 100 and 300 weights; the small one is a hundred times as sensitive."""
    return Sensitivity(
        component="unet",
        source_hash="0" * 64,
        schemes=("palette2", "palette8", "fp16"),
        layers=("small", "large"),
        elements=np.array([100, 300]),
        stored_bytes=np.array([[25.0, 100.0, 200.0], [75.0, 300.0, 600.0]]),
        errors={DIRECT: np.array([[1.0, 0.01, 0.0], [0.01, 0.0001, 0.0]])},
        power=1.0,
        peak=1.0,
        settings={"through": "call"},
    )


def test_search_without_measuring_spends_the_bits_where_they_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, recipe = tmp_path / "table.json", tmp_path / "recipe.json"
    table.write_text(json.dumps(_table().to_json()))
    command = ["quantize", "search", str(table), "--bits", "4", "--no-measure", "--name", "mine"]
    assert run([*command, "-o", str(recipe), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert json.loads(recipe.read_text()) == data
    assert data["name"] == "mine"
    # 4 bits of 400 weights are 200 bytes: 8 bits for the sensitive layer leave 100 bytes, which 2 bits take.
    assert data["evidence"]["layers_per_scheme"] == {"palette2": 1, "palette8": 1}
    assert data["evidence"]["stored_bytes"] == 175
    assert data["evidence"]["measured_db"] is None
    assert run(command) == 0
    assert "not measured" in capsys.readouterr().out


def test_measuring_needs_the_checkpoint_that_was_analysed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.json"
    table.write_text(json.dumps(_table().to_json()))
    for command in (["search", str(table), "--bits", "4"], ["curve", str(table)]):
        assert run(["quantize", *command]) == 4
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.endswith("it is not shapes-64. Give it: --checkpoint.\n")
