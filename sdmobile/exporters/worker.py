"""`python -m sdmobile.exporters.worker JOB.json RESULT.json`: exports one component in this process.

Standard output carries one JSON object per line and nothing else: stage events, and the error if there is one. What the
converters print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdmobile.basics.files import write_json
from sdmobile.errors import EXIT_OK, EXIT_USAGE, ComponentError, SdmobileError
from sdmobile.exporters.component import run_stages
from sdmobile.exporters.job import ExportJob


def main(arguments: list[str]) -> int:
    """Runs the job of the first argument and writes its record to the second; returns the exit code."""
    if len(arguments) != 2:
        print("usage: python -m sdmobile.exporters.worker JOB.json RESULT.json", file=sys.stderr)
        return EXIT_USAGE
    job_path, result_path = map(Path, arguments)
    emit = _claim_stdout()
    try:
        job = ExportJob.from_json(json.loads(job_path.read_text(encoding="utf-8")))
        record = run_stages(job, lambda *event: emit(_event(*event)))
        write_json(result_path, record)
    except SdmobileError as error:
        return _report(error, emit)
    except Exception as error:
        return _report(ComponentError("the export process failed", f"{type(error).__name__}: {error}"), emit)
    return EXIT_OK


def _claim_stdout() -> Callable[[dict[str, Any]], None]:
    """Returns a writer of JSON lines to standard output; what else is printed, by native code too, goes to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def emit(line: dict[str, Any]) -> None:
        stream.write(json.dumps(line) + "\n")
        stream.flush()

    return emit


def _event(stage: str, event: str, seconds: float, peak: int) -> dict[str, Any]:
    return {"stage": stage, "event": event, "seconds": round(seconds, 3), "peak_rss_bytes": peak}


def _report(error: SdmobileError, emit: Callable[[dict[str, Any]], None]) -> int:
    """Passes the error to the parent and its traceback to standard error; returns the exit code."""
    traceback.print_exception(error, file=sys.stderr)
    emit({"error": error.to_json()})
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
