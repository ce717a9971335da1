"""`sdmobile devices`: facts, profiles and measurements of the user's own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sdmobile.cli import app as cli
from sdmobile.cli.app import app
from sdmobile.device_profiles import list_profiles, profile_path
from tests.prediction.assessed import sd15

__all__ = ["sd15"]


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_list_and_show_have_every_fact_with_its_source() -> None:
    rows = {row["name"]: row for row in json.loads(invoke("devices", "list", "--json"))}
    assert tuple(rows) == list_profiles()
    assert rows["iphone-14-pro-max"]["predictable"][0] == "neural-engine"
    shown = json.loads(invoke("devices", "show", "iphone-14-pro-max", "--json"))
    facts = shown["facts"].values()
    assert all(fact["source"] and fact["reliability"] for fact in facts)
    known = sum(fact["value"] is not None for fact in facts)
    assert (known, len(facts) - known) == (
        rows["iphone-14-pro-max"]["known"],
        rows["iphone-14-pro-max"]["unknown"],
    )
    text = invoke("devices", "show", "iphone-14-pro-max")
    assert "3.1 GB" in text
    assert "unknown" in text
    assert invoke("devices", "show", "cpu", "--toml") == profile_path("cpu").read_text()


def test_compare_shows_what_differs() -> None:
    data = json.loads(invoke("devices", "compare", "iphone-14-pro-max", "iphone-15-pro", "--json"))
    facts = {row["name"]: row for row in data["facts"]}
    assert facts["hardware.app_memory"]["left"]["value"] == 3.1
    assert facts["hardware.app_memory"]["right"]["value"] == 3.3
    assert not any(row["equal"] for row in facts.values())
    everything = json.loads(invoke("devices", "compare", "iphone-14-pro-max", "iphone-15-pro", "--all", "--json"))
    assert len(everything["facts"]) > len(facts)


def test_check_names_every_problem_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = profile_path("iphone-15-pro").read_text()
    path.write_text(text)
    assert "is a valid profile" in invoke("devices", "check", str(path))
    path.write_text(text.replace("value = 35\n", "").replace('target = "ios"', 'target = "watch"'))
    result = CliRunner().invoke(app, ["devices", "check", str(path), "--json"])
    assert result.exit_code == 4
    data = json.loads(result.stdout)
    assert not data["valid"]
    assert {problem["place"] for problem in data["problems"]} == {"target", "hardware.neural_engine_peak"}
    assert all(problem["fix"] for problem in data["problems"])


@pytest.mark.parametrize(
    ("table", "form"), [("forms", "group_norm"), ("plain", "layer_norm"), ("forms", "convolution")]
)
def test_check_knows_the_forms_that_a_rule_writes(tmp_path: Path, table: str, form: str) -> None:
    path = tmp_path / "mine.toml"
    text = profile_path("galaxy-s23-ultra").read_text()
    head, entry, rest = text.partition(f"[{table}.{form}]")
    assert entry
    path.write_text(head + entry + re.sub(r'value = "[^"]*"', 'value = "composit"', rest, count=1))
    result = CliRunner().invoke(app, ["devices", "check", str(path), "--json"])
    assert result.exit_code == 4
    (problem,) = json.loads(result.stdout)["problems"]
    assert (problem["place"], problem["value"]) == (f"{table}.{form}", "composit")
    assert "must be one of" in problem["rule"]


def test_own_measurements_make_a_profile_that_predicts_them(folder: str, tmp_path: Path) -> None:
    measured = {"unet": 900.0, "text_encoder": 15.0, "vae_decoder": 850.0}
    for component, milliseconds in measured.items():
        invoke(
            "devices", "add-measurement", folder, "--component", component, "--milliseconds", str(milliseconds),
            "--place", "a phone", "--runtime", "adb gpu",
        )  # fmt: skip
    stored = json.loads(invoke("devices", "measurements", "galaxy-s23-ultra", "--json"))
    assert {row["component"]: row["seconds"] for row in stored} == {
        name: pytest.approx(1e-3 * value) for name, value in measured.items()
    }
    output = tmp_path / "mine.toml"
    rows = json.loads(invoke("devices", "fit", "galaxy-s23-ultra", "-o", str(output), "--json"))["rows"]
    assert all(abs(row["predicted_after_seconds"] / row["measured_seconds"] - 1) < 0.15 for row in rows)
    found = json.loads(invoke("profile", folder, "--device", str(output), "--json"))["prediction"]
    unet = next(row for row in rows if row["component"] == "unet")
    assert found["components"]["unet"]["seconds"] == pytest.approx(unet["predicted_after_seconds"])


def test_measurements_of_something_else_are_left_out(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, Any]] = [{"component": "unet", "seconds": 9, "place": "here", "runtime": "LiteRT, XNNPACK"}]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": rows}))
    assert cli.run(["devices", "add-measurement", folder, "--from", str(path)]) == 5
    assert "says nothing about galaxy-s23-ultra, gpu" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
    rows.append({"component": "unet", "seconds": 0.9, "place": "a phone", "runtime": "adb gpu"})
    path.write_text(json.dumps({"rows": rows}))
    (kept,) = json.loads(invoke("devices", "add-measurement", folder, "--from", str(path), "--json"))
    assert kept["seconds"] == 0.9


def test_a_measurement_needs_its_three_parts(folder: str) -> None:
    assert CliRunner().invoke(app, ["devices", "add-measurement", folder, "--component", "unet"]).exit_code == 2


def test_a_fit_never_replaces_a_profile_by_itself(folder: str, tmp_path: Path) -> None:
    output = tmp_path / "mine.toml"
    output.write_text("kept")
    invoke(
        "devices",
        "add-measurement",
        folder,
        "--component",
        "unet",
        "--milliseconds",
        "900",
        "--place",
        "a phone",
        "--runtime",
        "adb gpu",
    )
    assert cli.run(["devices", "fit", "galaxy-s23-ultra", "-o", str(output)]) == 6
    assert output.read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("show", "iphone-15"), 5, "Did you mean iphone-15-pro?"),
        (("compare", "iphone-15-pro", "nothing"), 5, "Known are"),
        (("check", "missing.toml"), 4, "missing.toml"),
        (("measurements", "nothing"), 5, "Known are"),
        (("add-measurement", "missing", "--from", "rows.json"), 4, "a bundle is a folder"),
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
    assert cli.run(["devices", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
