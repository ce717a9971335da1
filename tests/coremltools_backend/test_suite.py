"""coremltools' own tests predict rightly through the evaluator, and a planted fault is felt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.coremltools_suite import sample, share, stable, summary

ROOT = Path(__file__).parents[2]


def test_the_sample_depends_on_the_names_alone() -> None:
    names = [stable(f"test_{index % 7}.py::test[{index}-<f at 0x7f{index:02x}>]") for index in range(50)]
    drawn = sample(names, 10)
    assert drawn == sorted(drawn) == sample(reversed(names), 10)
    assert set(drawn) < set(sample(names, 20))
    assert stable("t[<f at 0x7f09a16d9760>]") == "t[<f at 0x>]"


def test_what_does_not_predict_counts_for_nothing() -> None:
    outcomes = {"a": ("passed", True), "b": ("failed", True), "c": ("failed", False), "d": ("skipped", False)}
    found = {name: {"outcome": outcome, "predicted": ran} for name, (outcome, ran) in outcomes.items()}
    counts = summary([*outcomes, "e"], found)
    assert share(counts) == 0.5
    assert counts["not predicting and failed"] == counts["skipped"] == counts["not run"] == 1


def _suite(*options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("coremltools", reason="needs the extra ios")
    command = [sys.executable, "-m", "benchmarks.coremltools_suite", f"--results={cwd / 'results.jsonl'}", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_few_hundred_of_them_pass(tmp_path: Path) -> None:
    done = _suite("--limit=300", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_a_planted_fault_is_felt(tmp_path: Path) -> None:
    done = _suite("--limit=100", "--plant=add", cwd=tmp_path)
    assert done.returncode == 1, done.stdout[-4000:]
    assert "FAILED (predicting)" in done.stdout
