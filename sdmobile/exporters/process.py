"""Runs one component's export in a process of its own, and ends it when the user does."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from sdmobile.basics.files import has_room, says_disk_full
from sdmobile.errors import (
    EXIT_CHECKPOINT,
    EXIT_MISSING,
    EXIT_OUTPUT,
    EXIT_RESOURCES,
    EXIT_UNSUPPORTED,
    CheckpointError,
    ComponentError,
    MissingDependencyError,
    OutputError,
    ResourceError,
    SdmobileError,
    UnsupportedError,
)
from sdmobile.exporters.workers import fresh

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdmobile.exporters.job import ExportJob
    from sdmobile.exporters.workers import Child, Workers

    StageEvent = Callable[[dict[str, Any]], None]

_ERRORS: dict[int, type[SdmobileError]] = {
    EXIT_CHECKPOINT: CheckpointError,
    EXIT_UNSUPPORTED: UnsupportedError,
    EXIT_OUTPUT: OutputError,
    EXIT_RESOURCES: ResourceError,
    EXIT_MISSING: MissingDependencyError,
}
_TAIL_LINES = 400
_log = logging.getLogger("sdmobile.workers")


def run_component(
    job: ExportJob, scratch: Path, on_event: StageEvent, workers: Workers | None = None, threads: int = 1
) -> dict[str, Any]:
    """Exports one component in a child process and returns its record.

    Args:
        job: what to export; its files appear in `job.out_dir`.
        scratch: folder for the order and the record.
        on_event: called with each stage event of the child.
        workers: where the child comes from; without, it is a process that imports everything itself.
        threads: of PyTorch in a child that comes from there, at most.

    Raises:
        SdmobileError: the error that the child reported.
        ComponentError: the child was killed by a signal or ended without a word; its last lines are in the message.
    """
    order, result = scratch / f"{job.component}.job.json", scratch / f"{job.component}.record.json"
    order.write_text(json.dumps(job.to_json()), "utf-8")
    child = fresh(order, result, scratch) if workers is None else workers.start(order, result, scratch, threads)
    noise: deque[str] = deque(maxlen=_TAIL_LINES)
    reader = threading.Thread(target=_drain, args=(child, noise), daemon=True)
    reader.start()
    try:
        error = _follow(child, on_event)
        code = child.wait()
    except BaseException:
        _end(child)
        raise
    reader.join()
    if error is not None:
        raise error
    if code != 0 or not result.exists():
        raise _out_of_room(job, noise) or _crash(job.component, code, noise)
    return json.loads(result.read_text("utf-8"))


def _follow(child: Child, on_event: StageEvent) -> SdmobileError | None:
    assert child.stdout is not None
    error: SdmobileError | None = None
    for line in child.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # native code that writes to the descriptor itself
        if "error" in event:
            told = event["error"]
            kind = _ERRORS.get(told["exit_code"], ComponentError)
            error = kind(told["rule"], told["value"], told["fix"])
        else:
            on_event(event)
    return error


def _drain(child: Child, noise: deque[str]) -> None:
    assert child.stderr is not None
    for line in child.stderr:
        noise.append(line)
        _log.debug("%s", line.rstrip())


def _end(child: Child) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _out_of_room(job: ExportJob, noise: deque[str]) -> ResourceError | None:
    """Returns an error if the disk is full: native code ends the process then, by exit (LLVM) or SIGBUS (a mapping)."""
    lines = [line.strip() for line in noise if says_disk_full(line)]
    if not lines and has_room(job.out_dir):
        return None
    return ResourceError(
        f"{job.component}: the disk must have room for the output",
        lines[-1] if lines else f"{job.out_dir} is full",
        "Free some space or choose another --output",
    )


def _crash(component: str, code: int, noise: deque[str]) -> ComponentError:
    last = "".join(list(noise)[-15:]).strip()
    if code < 0:
        name = signal.Signals(-code).name
        hint = "The system may have run out of memory" if name == "SIGKILL" else "This is a crash of native code"
        return ComponentError(f"the process that exported {component} was killed", name, f"{hint}. Its end:\n{last}")
    return ComponentError(f"the process that exported {component} ended without a result", f"exit code {code}", last)
