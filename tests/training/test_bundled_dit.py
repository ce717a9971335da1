"""`shapes-64-dit` as it ships: size, committed figure, and that it draws what a prompt asks for, on both phones too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from sdmobile.checkpoints import bundled_checkpoint, open_checkpoint
from sdmobile.checkpoints.shapes64.held_out import held_out_captions
from sdmobile.cli.app import app
from sdmobile.training.dit.config import GUIDANCE_SCALE, STEPS
from sdmobile.training.evaluate import drawer, measure_obedience
from tests.in_process import exports_in_this_process

NAME = Path("shapes-64-dit")
FOLDER = bundled_checkpoint(str(NAME))
PROMPTS = {3: 2, 40: 32}
"""Fewest that must be obeyed of so many held-out prompts; 90 % are."""


def test_the_weights_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.safetensors")) <= 12_000_000


def test_no_two_of_its_weights_are_the_same() -> None:
    """Else its structures would be of no use (`training.dit.run.tell_norms_apart`)."""
    weights = load_file(FOLDER / "transformer" / "diffusion_pytorch_model.safetensors")
    stored = [value.numpy().tobytes() for value in weights.values()]
    assert len(set(stored)) == len(stored)


def test_the_committed_figure_is_of_these_weights_and_these_prompts() -> None:
    record = json.loads((FOLDER / "training" / "obedience.json").read_text("utf-8"))
    assert record["model_hash"] == open_checkpoint(NAME).content_hash
    assert [one["prompt"] for one in record["all"]] == [caption.text for caption in held_out_captions(300)]
    assert record["obeyed"] == sum(not one["wrong"] for one in record["all"])
    assert (record["steps"], record["guidance"]) == (STEPS, GUIDANCE_SCALE)
    assert record["share"] >= 0.9


@pytest.mark.parametrize("prompts", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_held_out_prompts_are_obeyed(prompts: int) -> None:
    draw, settings = drawer(NAME, "torch", steps=None, guidance=None)
    assert (settings["steps"], settings["guidance"]) == (STEPS, GUIDANCE_SCALE)
    assert measure_obedience(draw, prompts, settings, lambda *_: None).obeyed >= PROMPTS[prompts]


@pytest.mark.slow
@pytest.mark.parametrize(("target", "runtime"), [("ios", "evaluator-fp16"), ("android", "litert")])
def test_the_files_of_both_phones_obey(target: str, runtime: str, tmp_path: Path) -> None:
    out = tmp_path / target
    with exports_in_this_process():
        result = CliRunner().invoke(app, ["export", str(NAME), "--target", target, "--output", str(out)])
    assert result.exit_code == 0, result.output
    draw, settings = drawer(out, runtime, steps=None, guidance=None)
    assert measure_obedience(draw, 40, settings, lambda *_: None).obeyed >= PROMPTS[40]
