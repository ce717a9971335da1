from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sdmobile.cli.app import run
from sdmobile.quantize.tradeoff import Kind, Point, curve_svg, gain_over_uniform, markdown


def point(name: str, kind: str, megabytes: float, level: float) -> Point:
    return Point(name, Kind(kind), megabytes, megabytes, level, level - 3)


UNIFORM = [
    point("palette2", "uniform", 2.0, 10.0),
    point("palette4", "uniform", 4.0, 30.0),
    point("int8c", "uniform", 7.0, 28.0),
    point("palette8", "uniform", 8.0, 50.0),
]


@pytest.mark.parametrize(
    ("megabytes", "level", "gain"),
    [
        (4.0, 35.0, 5.0),
        (3.0, 35.0, 15.0),  # half-way between 10 and 30
        (7.0, 50.0, 5.0),  # int8c lies below the line from palette4 to palette8, which passes 45
        (9.0, 49.0, -1.0),
        (1.0, 5.0, None),
    ],
)
def test_the_gain_is_over_the_upper_envelope_of_uniform_recipes(
    megabytes: float, level: float, gain: float | None
) -> None:
    mixed = point("mixed", "mixed", megabytes, level)
    found = gain_over_uniform([*UNIFORM, mixed], mixed)
    assert found == (None if gain is None else pytest.approx(gain))


def test_the_table_is_sorted_by_size_and_says_what_is_unknown() -> None:
    lines = markdown([*UNIFORM, point("mixed-3.0", "mixed", 3.0, 35.0)]).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [
        "palette2",
        "mixed-3.0",
        "palette4",
        "int8c",
        "palette8",
    ]
    assert lines[3] == "| mixed-3.0 | 3.00 | 3.00 | 35.0 | 32.0 | +15.0 | – | – | – |"
    assert len({line.count("|") for line in lines}) == 1


def test_the_plot_puts_points_where_their_figures_are() -> None:
    svg = curve_svg([*UNIFORM, point("<mixed>", "mixed", 4.0, 40.0), point("nan", "mixed", 4.0, math.nan)], "a & b")
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    dots = {(e.findtext(f"{space}title") or "").split(":")[0]: e for e in root.iter(f"{space}circle")}
    assert set(dots) == {"palette2", "palette4", "int8c", "palette8", "<mixed>"}
    x = {name: float(dot.get("cx", "")) for name, dot in dots.items()}
    y = {name: float(dot.get("cy", "")) for name, dot in dots.items()}
    assert x["palette4"] == x["<mixed>"]
    assert x["palette8"] - x["palette4"] == pytest.approx(2 * (x["palette4"] - x["palette2"]), abs=0.2)
    assert y["palette4"] - y["<mixed>"] == pytest.approx(y["<mixed>"] - y["palette8"], abs=0.2)  # 30, 40, 50 dB
    assert y["palette2"] > y["palette4"]


def test_analyze_search_and_curve_on_a_tiny_checkpoint(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SDMOBILE_CACHE", str(tmp_path / "cache"))
    table, checkpoint = str(tmp_path / "table.json"), str(tiny_checkpoint)
    short = ["--steps", "1", "--max-samples", "1"]
    command = ["quantize", "analyze", checkpoint, *short, "--schemes", "palette2,palette4,fp16", "-o", table]
    assert run([*command, "--probes", "2", "--direct", "2"]) == 0
    capsys.readouterr()
    recipe = str(tmp_path / "recipe.json")
    assert run(["quantize", "search", table, "--bits", "4", "--checkpoint", checkpoint, *short, "-o", recipe]) == 0
    evidence = json.loads(Path(recipe).read_text())["evidence"]
    assert evidence["bits_per_weight"] <= 4.0
    assert evidence["measured_db"] == pytest.approx(evidence["predicted_db"], abs=6.0)
    capsys.readouterr()
    folder = tmp_path / "curve"
    command = ["quantize", "curve", table, "--checkpoint", checkpoint, *short, "--uniform", "palette4,palette2,fp16"]
    assert run([*command, "--bits", "4", "--pictures", "1", "--json", "-o", str(folder)]) == 0
    data = json.loads(capsys.readouterr().out)
    points = {p["name"]: p for p in data["points"]}
    assert list(points) == ["palette4", "palette2", "fp16", "mixed-4.0"]
    assert points["mixed-4.0"]["bits"] <= 4.0 < points["palette4"]["bits"] < 4.2
    assert points["palette2"]["output_db"] < points["palette4"]["output_db"] < points["fp16"]["output_db"]
    assert points["palette4"]["latent_db"] > points["palette2"]["latent_db"]
    assert [p["kind"] for p in points.values()] == ["uniform", "uniform", "uncompressed", "mixed"]
    assert all(p["obeyed"] is None and p["pictures"] == 1 for p in points.values())  # no captions to judge
    assert json.loads((folder / "curve.json").read_text()) == data
    assert {file.name for file in folder.iterdir()} == {"curve.json", "curve.md", "curve.svg", "mixed-4.0.json"}


def test_a_search_has_one_goal(tmp_path: Path) -> None:
    assert run(["quantize", "search", str(tmp_path / "none.json")]) == 2
    assert run(["quantize", "search", str(tmp_path / "none.json"), "--bits", "4", "--psnr", "40"]) == 2
