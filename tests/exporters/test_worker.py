"""The process that exports one component: what it prints and returns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from sdmobile.errors import EXIT_CHECKPOINT, EXIT_OK, EXIT_USAGE
from sdmobile.exporters.job import ExportJob


def work(job: ExportJob, folder: Path) -> tuple[int, list[dict[str, Any]], Path]:
    """Runs a worker; returns its exit code, the JSON lines that it printed and the path of its result."""
    job_path, result = folder / "job.json", folder / "result.json"
    job_path.write_text(json.dumps(job.to_json()))
    command = [sys.executable, "-m", "sdmobile.exporters.worker", str(job_path), str(result)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], result


def test_stdout_is_json_lines_though_the_converter_prints(tiny_checkpoint: Path, tmp_path: Path) -> None:
    job = ExportJob(tiny_checkpoint, "text_encoder", "android", None, "batch2", None, tmp_path / "out")
    code, lines, result = work(job, tmp_path)
    assert code == EXIT_OK
    stages = ["open", "capture", "rewrite", "load", "lower", "float16"]
    assert [(line["stage"], line["event"]) for line in lines] == [(s, e) for s in stages for e in ("start", "end")]
    assert all(line["peak_rss_bytes"] > 0 and line["seconds"] >= 0 for line in lines)
    record = json.loads(result.read_text())
    assert [stage["name"] for stage in record["stages"]] == stages
    assert (tmp_path / "out" / "text_encoder.tflite").stat().st_size == record["bytes"]
    assert record["stages"][-1]["bytes_after"] < record["stages"][-1]["bytes_before"]


def test_an_error_is_the_last_line_and_the_exit_code(tmp_path: Path) -> None:
    job = ExportJob(tmp_path / "nowhere", "unet", "ios", None, "batch2", None, tmp_path / "out")
    code, lines, result = work(job, tmp_path)
    assert code == EXIT_CHECKPOINT
    assert lines[-1]["error"]["exit_code"] == EXIT_CHECKPOINT
    assert {"rule", "value", "fix"} < set(lines[-1]["error"])
    assert not result.exists()


def test_wrong_arguments() -> None:
    done = subprocess.run([sys.executable, "-m", "sdmobile.exporters.worker"], capture_output=True, check=False)
    assert done.returncode == EXIT_USAGE
    assert b"usage" in done.stderr
