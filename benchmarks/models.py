"""Every family through every command, for both phones: the rows of docs/models.md.

    python -m benchmarks.models run WORK [FAMILY] [TARGET]     exports, lints, checks and samples; stores the rows
    python -m benchmarks.models report                         writes the table from the stored rows

A row is a tiny checkpoint of random weights, the one that the family's tests use, through the commands that a user
runs: `export`, `lint`, `gpu-check` (Android, Google's engine on a software GPU, needs `make gpu-setup`) and `validate`
(iPhone: our evaluator, float32 and float16; Android: LiteRT on the CPU). One to five minutes a row on two cores, as
much else runs.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdmobile.basics.files import write_json
from sdmobile.families import FAMILIES
from tests.families.tiny import write_tiny

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
ROWS = Path(__file__).with_name("models.json")
BEGIN, END = "<!-- models: begin -->", "<!-- models: end -->"
TARGETS = ("ios", "android")
_RUNTIMES = {"ios": ("evaluator", "evaluator-fp16"), "android": ("litert",)}
_HEAD = (
    "family",
    "phone",
    "export",
    "lint",
    "GPU check",
    "files",
    "files in float16",
    "pictures",
    "pictures in float16",
    "command",
)


def run(work: Path, family: str, target: str) -> dict[str, Any]:
    """Returns the row of a family and target.

    Args:
        work: folder for the checkpoint and its bundle; what is there of the same name is replaced.
        family: its name.
        target: "ios" or "android".
    """
    checkpoint, bundle = work / family, work / f"{family}-{target}"
    for folder in (checkpoint, bundle):
        shutil.rmtree(folder, ignore_errors=True)
    write_tiny(family, checkpoint)
    options = ["--target", target, "--no-cache", "--no-structure", "-o", str(bundle)]
    code, exported = _call("export", str(checkpoint), *options)
    row: dict[str, Any] = {"family": family, "target": target, "export": {"code": code}}
    if code:
        return row
    parts = exported["manifest"]["components"]
    row["export"] |= {"files": len(parts), "bytes": exported["bytes"]}
    _, linted = _call("lint", str(bundle))
    row["lint"] = linted["verdict"]
    reference = ("--reference", str(checkpoint))
    if target == "android":
        _, checked = _call("gpu-check", str(bundle), *reference)
        row["gpu"] = _gpu(checked["checks"])
    row["validate"] = {}
    for runtime in _RUNTIMES[target]:
        code, found = _call("validate", str(bundle), *reference, "--runtime", runtime, "--lint", "off")
        row["validate"][runtime] = _parity(code, found)
    return row


def _call(command: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Returns a command's exit code and what it prints as JSON."""
    line = [sys.executable, "-m", "sdmobile.cli.app", command, *arguments, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode and not done.stdout:
        print(f"{' '.join(line)}\n{done.stderr}", file=sys.stderr)
    return done.returncode, json.loads(done.stdout or "{}")


def _gpu(checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns how many files the accelerator took and the worst output of those, in dB."""
    taken = [check for check in checks if check["status"] == "accepted"]
    worst = [check["worst"]["psnr_db"] for check in taken if check["worst"]]
    return {"accepted": len(taken), "of": len(checks), "worst_db": min(worst, default=None)}


def _parity(code: int, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the worst output of a component and the worst picture of a whole run, in dB."""
    files = [one["worst"]["psnr_db"] for one in found.get("components", []) if one["worst"]]
    pictures = [one["image_psnr_db"] for one in found.get("trajectories", []) if one["image_psnr_db"] is not None]
    return {"code": code, "worst_db": min(files, default=None), "picture_db": min(pictures, default=None)}


def stored() -> list[dict[str, Any]]:
    """Returns the stored rows."""
    return json.loads(ROWS.read_text("utf-8")) if ROWS.exists() else []


def keep(row: Mapping[str, Any]) -> None:
    """Stores a row in place of the one of its family and target."""
    places = [(family.name, target) for family in FAMILIES for target in TARGETS]
    rows = {(one["family"], one["target"]): one for one in (*stored(), row)}
    write_json(ROWS, [rows[place] for place in places if place in rows])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the rows as a Markdown table."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    return "\n".join([*lines, *("| " + " | ".join(_cells(row)) + " |" for row in rows)])


def _cells(row: Mapping[str, Any]) -> list[str]:
    target, exported = row["target"], row["export"]
    command = f"`python -m benchmarks.models run WORK {row['family']} {target}`"
    name = [f"`{row['family']}`", {"ios": "iPhone", "android": "Android"}[target]]
    if exported["code"]:
        return [*name, f"exit code {exported['code']}", *["–"] * 6, command]
    checks = [row["validate"].get(runtime, {}) for runtime in (*_RUNTIMES[target], "")[:2]]
    gpu = row.get("gpu")
    seen = "–" if gpu is None else f"{gpu['accepted']} of {gpu['of']}, {_db(gpu['worst_db'])}"
    figures = [_db(check.get(key)) for key in ("worst_db", "picture_db") for check in checks]
    return [*name, f"{exported['files']} files", row["lint"], seen, *figures, command]


def _db(value: float | None) -> str:
    return "–" if value is None else "equal" if math.isinf(value) else f"{value:.1f} dB"


def report() -> None:
    """Writes the table into the page."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(stored())}\n{END}{after}", "utf-8")


def main(arguments: Sequence[str]) -> int:
    """Runs what the arguments say and returns the exit code."""
    if list(arguments) == ["report"]:
        report()
        return 0
    if len(arguments) not in (2, 3, 4) or arguments[0] != "run":
        print(__doc__, file=sys.stderr)
        return 2
    work, *chosen = arguments[1:]
    for family in [one.name for one in FAMILIES if one.name in chosen[:1]] or [one.name for one in FAMILIES]:
        for target in chosen[1:] or TARGETS:
            row = run(Path(work), family, target)
            keep(row)
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
