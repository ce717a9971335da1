"""action.yml: its form, and its scripts run in order with programs that write down how they were called."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.cli.test_github_actions import WORKFLOW, parse

ROOT = Path(__file__).resolve().parents[2]
# The metadata syntax of composite actions, as the schema that GitHub's runner validates them with has it.
ACTION_KEYS = {"name", "author", "description", "branding", "inputs", "outputs", "runs"}
INPUT_KEYS = {"description", "required", "default", "deprecationMessage"}
STEP_KEYS = {"name", "id", "if", "env", "continue-on-error"}
RUN_KEYS = STEP_KEYS | {"run", "shell", "working-directory"}
USES_KEYS = STEP_KEYS | {"uses", "with"}
EXPRESSION = re.compile(r"\$\{\{ *(.+?) *\}\}")
PROGRAM = """\
#!{python}
import json, os, pathlib, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]) + "\\n")
if sys.argv[1:2] == ["validate"]:
    report = pathlib.Path(sys.argv[sys.argv.index("--report-dir") + 1])
    if os.environ["CODE"] in "03":
        report.mkdir()
        (report / "validation.md").write_text("| UNet |\\n")
    sys.exit(int(os.environ["CODE"]))
"""


@pytest.fixture(scope="module")
def action() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))


def steps(action: Mapping[str, Any]) -> list[dict[str, Any]]:
    return action["runs"]["steps"]


def test_it_has_the_form_of_a_composite_action(action: dict[str, Any]) -> None:
    assert set(action) <= ACTION_KEYS
    assert {"name", "description", "inputs", "outputs", "runs"} <= set(action)
    assert set(action["branding"]) == {"icon", "color"}
    for stated in action["inputs"].values():
        assert set(stated) <= INPUT_KEYS
        assert stated["description"]
        assert stated.get("required") is True or isinstance(stated["default"], str)
    for stated in action["outputs"].values():
        assert set(stated) == {"description", "value"}
    assert set(action["runs"]) == {"using", "steps"}
    assert action["runs"]["using"] == "composite"
    for step in steps(action):
        assert ("run" in step) != ("uses" in step)
        assert set(step) <= (RUN_KEYS if "run" in step else USES_KEYS)
        if "run" in step:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"], "a value from outside is no part of a script's text"
        else:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
        assert all(isinstance(value, str) for value in (step.get("env") or step.get("with") or {}).values())


def test_expressions_name_what_there_is(action: dict[str, Any]) -> None:
    written = {step["id"]: set(re.findall(r'echo "(\w+)=', step["run"])) for step in steps(action) if "id" in step}
    known = {f"inputs.{name}" for name in action["inputs"]} | {"runner.temp", "github.sha", "github.action_path"}
    known |= {f"steps.{name}.outputs.{output}" for name, outputs in written.items() for output in outputs}
    text = (ROOT / "action.yml").read_text("utf-8")
    conditions = " ".join(step.get("if", "") for step in steps(action))
    used = re.findall(
        r"\b(?:inputs|steps|runner|github|env)\.[\w.-]+", " ".join([*EXPRESSION.findall(text), conditions])
    )
    assert set(used) <= known
    assert {f"inputs.{name}" for name in action["inputs"]} <= set(used)


def test_every_variable_of_a_script_is_given(action: dict[str, Any]) -> None:
    runner = {"GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "RUNNER_TEMP"}
    for step in steps(action):
        used = set(re.findall(r"\$\{?([A-Z_]+)", step.get("run", "")))
        given = set(step.get("env", {}))
        assert used <= given | runner
        assert given <= used | {"SDMOBILE_CACHE"}


@dataclass
class Ran:
    """What a run of the action came to."""

    failed: int = 0
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    uses: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=list)
    summary: str = ""


def run(action: dict[str, Any], folder: Path, code: int = 0, **given: str) -> Ran:
    """Runs the action's steps as the runner would, with stand-ins for `sdmobile` and `pip`."""
    (folder / "bin").mkdir()
    for name in ("sdmobile", "pip"):
        (folder / "bin" / name).write_text(PROGRAM.replace("{python}", sys.executable), "utf-8")
        (folder / "bin" / name).chmod(0o755)
    (folder / "temp dir").mkdir()
    inputs = {name: stated.get("default", "") for name, stated in action["inputs"].items()}
    inputs |= {name.replace("_", "-"): value for name, value in given.items()}
    ran = Ran()
    for step in steps(action):
        names = _context(inputs, folder, ran)
        condition = step.get("if", "")
        if (ran.failed and "always()" not in condition) or (condition and not _evaluate(condition, names)):
            continue
        if "uses" in step:
            ran.uses.append((step["uses"], {key: _filled(value, names) for key, value in step["with"].items()}))
            continue
        files = {name: folder / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "CALLS")}
        files["GITHUB_OUTPUT"].write_text("", "utf-8")
        environment = {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "RUNNER_TEMP": str(folder / "temp dir"),
            "CODE": str(code),
            **{name: str(file) for name, file in files.items()},
            **{name: _filled(value, names) for name, value in step.get("env", {}).items()},
        }
        script = folder / "script.sh"
        script.write_text(step["run"], "utf-8")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", script], env=environment, cwd=folder, check=False
        )
        ran.failed = ran.failed or done.returncode
        lines = files["GITHUB_OUTPUT"].read_text("utf-8").splitlines()
        ran.outputs[step.get("id", "")] = dict(line.split("=", 1) for line in lines)
        for name, file in files.items():
            if name == "CALLS" and file.exists():
                ran.calls = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
            elif name == "GITHUB_STEP_SUMMARY" and file.exists():
                ran.summary = file.read_text("utf-8")
    return ran


def _context(inputs: dict[str, str], folder: Path, ran: Ran) -> dict[str, Any]:
    found = {"path": "", "report": "", **ran.outputs.get("bundle", {})}
    return {
        "inputs": SimpleNamespace(**{name.replace("-", "_"): value for name, value in inputs.items()}),
        "runner": SimpleNamespace(temp=str(folder / "temp dir")),
        "github": SimpleNamespace(sha="0" * 40, action_path=str(ROOT)),
        "steps": SimpleNamespace(bundle=SimpleNamespace(outputs=SimpleNamespace(**found))),
        "always": lambda: True,
        "format": lambda text, *values: text.format(*values),
    }


def _evaluate(expression: str, names: dict[str, Any]) -> Any:
    """Evaluates the part of GitHub's expressions that the action uses; a hyphen there is part of a name."""
    python = expression.replace("&&", " and ").replace("||", " or ").strip()
    return eval(re.sub(r"inputs\.[\w-]+", lambda found: found[0].replace("-", "_"), python), {}, names)


def _filled(text: str, names: dict[str, Any]) -> str:
    return EXPRESSION.sub(lambda found: str(_evaluate(found[1], names)), text)


def test_a_checkpoint_is_exported_and_judged(action: dict[str, Any], tmp_path: Path) -> None:
    limits = "limits of ours.toml"
    (tmp_path / "my model").mkdir()
    ran = run(
        action, tmp_path, checkpoint="my model", target="ios", thresholds=limits, threshold_db="40", steps="10",
        export_options="--quantize palette6  --chunks 2", validate_options="--bisect", python_version="3.12",
    )  # fmt: skip
    assert ran.failed == 0
    assert [call[0] for call in ran.calls] == ["pip", "pip", "sdmobile", "sdmobile"]
    torch, package = ran.calls[:2]
    assert torch == ["pip", "install", "-c", str(ROOT / "constraints.txt"), "torch"]
    assert package == [*torch[:4], f"{ROOT}[ios]"]
    export, validate = (parse(call[1:]) for call in ran.calls[2:])
    bundle, report = tmp_path / "temp dir" / "sdmobile-ios", tmp_path / "temp dir" / "sdmobile-report-ios"
    assert [call[1] for call in ran.calls[2:]] == ["export", "validate"]
    assert (str(export["checkpoint"]), export["output"]) == ("my model", bundle)
    assert "ios" in export["target"]
    assert (export["quantize"], export["chunks"]) == ("palette6", "2")
    assert (validate["bundle"], str(validate["reference"]), validate["report_dir"]) == (bundle, "my model", report)
    assert (validate["thresholds"], validate["threshold_db"], validate["steps"]) == (Path(limits), 40.0, 10)
    assert validate["bisect"] is True
    assert validate["bisect_dir"] == report / "bisect"
    assert ran.outputs["bundle"] == {"path": str(bundle), "report": str(report)}
    assert ran.summary == "| UNet |\n"
    used = dict(ran.uses)
    assert used["actions/setup-python@v5"] == {"python-version": "3.12"}
    assert used["actions/upload-artifact@v4"]["name"] == "sdmobile-report-ios"
    assert used["actions/upload-artifact@v4"]["path"] == str(report)


def test_a_bundle_is_judged_as_it_is(action: dict[str, Any], tmp_path: Path) -> None:
    """Below a threshold the job fails with validate's exit code, and report and summary are there all the same."""
    ran = run(action, tmp_path, code=3, bundle="out/bundle", target="android", artifact="mine")
    assert ran.failed == 3
    (call,) = [call[1:] for call in ran.calls if call[0] == "sdmobile"]
    validate = parse(call)
    assert (call[0], validate["bundle"], validate["reference"]) == ("validate", Path("out/bundle"), None)
    assert (validate["thresholds"], validate["steps"], validate["bisect"]) == (None, None, False)
    assert ran.summary == "| UNet |\n"
    assert ran.uses[-1][1]["name"] == "mine"


def test_an_end_before_the_report_is_said(action: dict[str, Any], tmp_path: Path) -> None:
    ran = run(action, tmp_path, code=4, bundle="damaged", target="android")
    assert ran.failed == 4
    assert "before there was a report" in ran.summary


@pytest.mark.parametrize(
    ("given", "said"), [({"target": "ios"}, "bundle"), ({"target": "$(id)", "bundle": "b"}, "$(id)")]
)
def test_wrong_inputs_are_refused_before_anything_is_installed(
    action: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str], given: dict[str, str], said: str
) -> None:
    ran = run(action, tmp_path, 0, **given)
    assert (ran.failed, ran.calls, ran.uses, ran.summary) == (2, [], [], "")
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("::error::")
    assert said in line


def test_the_workflow_gives_what_the_action_takes(action: dict[str, Any]) -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    ((name, job),) = workflow["jobs"].items()
    (step,) = [step for step in job["steps"] if step["uses"].startswith("./")]
    assert set(step["with"]) <= set(action["inputs"])
    assert {name for name, stated in action["inputs"].items() if stated.get("required")} <= set(step["with"])
    outputs = re.findall(r"steps\.(\w+)\.outputs\.(\w+)", WORKFLOW.read_text("utf-8"))
    assert outputs
    assert all(found == step["id"] and output in action["outputs"] for found, output in outputs)
    assert name == step["id"] == "parity"


def test_options_over_several_lines_are_all_given(action: dict[str, Any], tmp_path: Path) -> None:
    ran = run(action, tmp_path, checkpoint="tiny", target="ios", export_options="--quantize palette6\n--plain-ops\n")
    export = next(call for call in ran.calls if call[:2] == ["sdmobile", "export"])
    assert export[-3:] == ["--quantize", "palette6", "--plain-ops"]


@pytest.mark.parametrize(
    "given", [{"bundle": "a\npath=/root"}, {"checkpoint": "--debug"}, {"target": "ios\n::warning::x"}]
)
def test_inputs_that_would_be_something_else_are_refused(
    action: dict[str, Any], tmp_path: Path, given: dict[str, str]
) -> None:
    inputs: dict[str, Any] = {"checkpoint": "tiny", "target": "ios", **given}
    ran = run(action, tmp_path, **inputs)
    assert ran.failed == 2
    assert ran.calls == []
