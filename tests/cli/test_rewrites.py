"""`sdmobile rewrites`: what it lists, explains and measures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sdmobile.cli.rewrites import rewrites_app
from sdmobile.device_profiles import default_profile, list_profiles
from sdmobile.errors import OutputError, UnsupportedError
from sdmobile.rewrites.registry import RULES, rule_class, rules_for


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(rewrites_app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_list_has_every_rule_with_its_claim_and_devices() -> None:
    rows = {row["name"]: row for row in json.loads(invoke("list", "--json"))}
    assert list(rows) == list(RULES)
    assert rows["group_norm_instance_norm"]["devices"] == ["iphone-14-pro-max", "iphone-15-pro"]
    assert all(row["title"] and row["source"] for row in rows.values())


def test_list_of_a_device_is_in_the_order_of_application() -> None:
    rows = json.loads(invoke("list", "--device", "galaxy-s23-ultra", "--json"))
    assert [row["name"] for row in rows] == [rule.name for rule in rules_for(default_profile("android"))]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_what_the_registry_says(name: str) -> None:
    rule = rule_class(name)
    assert rule.name == name
    assert rule.exactness in ("exact", "exact-up-to-rounding", "changes-function")
    assert rule.title
    assert rule.source
    assert rule.__doc__


def test_explain_counts_places_and_says_why_not(tiny_checkpoint: Path) -> None:
    (found,) = json.loads(
        invoke("explain", str(tiny_checkpoint), "--component", "vae_decoder", "--device", "iphone-15-pro", "--json")
    )
    steps = {step["rule"]: step["records"] for step in found["steps"]}
    norms = steps["group_norm_instance_norm"]
    assert len(norms) == found["before"]["operators"]["aten.group_norm"]
    assert {record["outcome"] for record in norms} == {"applied"}
    assert "aten.group_norm" not in found["steps"][-1]["cost"]["operators"]
    assert any(record["outcome"] == "unmatched" for records in steps.values() for record in records)


def test_explain_one_rule_gives_its_words_and_every_place(tiny_checkpoint: Path) -> None:
    text = invoke(
        "explain", str(tiny_checkpoint), "--component", "vae_decoder", "--rule", "group_norm_instance_norm",
        "--device", "iphone-15-pro",
    )  # fmt: skip
    assert "instance_norm operator" in text
    assert "Source: Wu and He" in text
    assert "decoder.mid_block.attentions.0" in text


def test_ablate_shows_each_rule_in_turn(tiny_checkpoint: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.md"
    rows = json.loads(
        invoke(
            "ablate",
            str(tiny_checkpoint),
            "--component",
            "vae_decoder",
            "--device",
            "iphone-15-pro",
            "--graph-only",
            "--rounds",
            "1",
            "--repeats",
            "1",
            "--output",
            str(table),
            "--json",
        )
    )
    assert rows[0]["rule"] == "as captured"
    assert rows[0]["float32_db"] is None  # no difference, hence no finite level
    assert all(row["applied"] > 0 and row["float32_db"] > 100 for row in rows[1:])
    assert all(row["measured"]["median_ms"] > 0 for row in rows)
    lines = table.read_text("utf-8").splitlines()
    assert sum(line.startswith("| + ") for line in lines) == len(rows) - 1


def test_unknown_names_are_errors_that_list_what_is_known() -> None:
    for arguments in (["explain", "--without", "nonsense"], ["explain", "--rule", "nonsense"]):
        result = CliRunner().invoke(rewrites_app, arguments)
        assert isinstance(result.exception, UnsupportedError)
        assert "group_norm_instance_norm" in str(result.exception)


def test_ablate_looks_for_the_folder_of_its_table_first(tmp_path: Path) -> None:
    result = CliRunner().invoke(rewrites_app, ["ablate", "--output", str(tmp_path / "missing/table.md")])
    assert isinstance(result.exception, OutputError)


def test_every_profile_is_among_the_devices() -> None:
    used = {device for row in json.loads(invoke("list", "--json")) for device in row["devices"]}
    assert used <= set(list_profiles())
