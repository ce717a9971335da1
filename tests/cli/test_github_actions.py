from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from sdmobile.cli.app import app

DOCS = Path(__file__).resolve().parents[2] / "docs"
WORKFLOW = DOCS / "github-actions.yml"


@pytest.fixture(scope="module")
def workflow() -> dict[Any, Any]:
    return yaml.safe_load(WORKFLOW.read_text("utf-8"))


def commands(text: str) -> list[list[str]]:
    """The sdmobile command lines of a shell text, without redirections; what the runner fills in becomes a word."""
    filled = re.sub(r"\$\{\{.*?\}\}", "ios", text)
    lines = [line.split(" > ")[0] for line in filled.splitlines() if line.startswith("sdmobile ")]
    return [shlex.split(line)[1:] for line in lines]


def parse(words: list[str]) -> dict[str, Any]:
    """Parses a command line as the program would, without running it."""
    group: Any = typer.main.get_command(app)
    command = group.commands[words[0]]
    return command.make_context(words[0], list(words[1:])).params


def test_it_is_a_workflow(workflow: dict[Any, Any]) -> None:
    (job,) = workflow["jobs"].values()
    assert job["runs-on"]
    assert workflow[True] == {"push": None, "pull_request": None}  # YAML 1.1 reads `on` as true
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
    assert set(job["strategy"]["matrix"]["target"]) == {"ios", "android"}


def test_every_command_line_of_the_page_is_understood() -> None:
    text = (DOCS / "validate.md").read_text("utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(line.removeprefix("$ ") for block in blocks for line in block.splitlines())
    found = commands(re.sub(r" +#.*", "", lines))
    assert len(found) >= 8
    for words in found:
        parse(words)


def test_the_thresholds_of_the_page_can_be_read(tmp_path: Path) -> None:
    from sdmobile.validate.thresholds import read_thresholds

    text = (DOCS / "validate.md").read_text("utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "limits.toml"
    file.write_text(block, "utf-8")
    found = read_thresholds(file)
    assert found.limits("unet", "evaluator-fp16").component_db == 45
    assert found.limits("unet", "evaluator").component_db == 90
    assert found.limits("vae_decoder", "evaluator-fp16").component_db == 50
