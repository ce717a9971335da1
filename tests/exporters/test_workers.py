"""Workers that are forked from a prepared process: what they return, how they end, and what ends with them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from sdmobile.checkpoints.types import Checkpoint
from sdmobile.errors import CheckpointError, ComponentError
from sdmobile.exporters.component import run_stages
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.process import run_component
from sdmobile.exporters.together import run_together
from sdmobile.exporters.workers import Workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers("ios") as started:
        yield started


def _job(checkpoint: Path, out: Path, component: str = "text_encoder") -> ExportJob:
    return ExportJob(checkpoint, component, "ios", None, "batch2", None, out)


def test_a_fork_writes_what_a_fresh_process_writes(workers: Workers, tiny_checkpoint: Path, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    record = run_component(_job(tiny_checkpoint, tmp_path / "forked"), tmp_path, events.append, workers)
    alone = run_component(_job(tiny_checkpoint, tmp_path / "fresh"), tmp_path, lambda _: None)
    assert (record["sha256"], record["bytes"]) == (alone["sha256"], alone["bytes"])
    assert [event["stage"] for event in events if event["event"] == "end"][-1] == "lower"


def test_errors_keep_their_kind_and_the_server_goes_on(workers: Workers, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(CheckpointError, match="nowhere"):
            run_component(_job(tmp_path / "nowhere", tmp_path / "out"), tmp_path, lambda _: None, workers)


def test_a_killed_fork_is_reported_with_its_signal(workers: Workers, tiny_checkpoint: Path, tmp_path: Path) -> None:
    def kill(_: dict[str, Any]) -> None:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if child.ppid() != os.getpid() and "sdmobile.exporters.fork_server" in child.cmdline():
                    assert os.getsid(child.pid) == child.pid  # Ctrl-C in a terminal does not reach it
                    child.send_signal(signal.SIGSEGV)

    with pytest.raises(ComponentError, match="SIGSEGV"):
        run_component(_job(tiny_checkpoint, tmp_path / "out"), tmp_path, kill, workers)


def test_without_a_server_a_fresh_process_does_it(tmp_path: Path) -> None:
    """As elsewhere than on Linux, or when the server is gone."""
    with Workers("ios") as gone:
        gone.close()
        with pytest.raises(CheckpointError, match="nowhere"):
            run_component(_job(tmp_path / "nowhere", tmp_path / "out"), tmp_path, lambda _: None, gone)


def test_what_is_under_way_ends_with_the_server(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with Workers("ios") as server:

        def stop(_: dict[str, Any]) -> None:
            server.close()

        with pytest.raises(ComponentError, match="SIGKILL"):
            run_component(_job(tiny_checkpoint, tmp_path / "out"), tmp_path, stop, server)


def test_a_known_hash_is_not_computed_again(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(Checkpoint, "content_hash", property(lambda _: pytest.fail("the checkpoint was hashed")))
    job = replace(_job(tiny_checkpoint, tmp_path), content_hash="0123")
    assert ExportJob.from_json(json.loads(json.dumps(job.to_json()))) == job
    run_stages(job, lambda *_: None)
    (package,) = tmp_path.glob("*.mlpackage")
    assert b"0123" in next(package.rglob("*.mlmodel")).read_bytes()


def _together(
    needs: dict[str, int], room: int, failing: str | None = None
) -> tuple[list[str], int, list[tuple[str, int]]]:
    """Runs tasks that take a moment; returns them as they finished, how many ran at once, and threads of each."""
    finished: list[str] = []
    started: list[tuple[str, int]] = []
    running, most, lock, stopped = 0, 0, threading.Lock(), threading.Event()

    def run(name: str, threads: int) -> str:
        nonlocal running, most
        with lock:
            started.append((name, threads))
            running += 1
            most = max(most, running)
        stopped.wait(0.2)
        if name == failing:
            raise ComponentError(name, "SIGSEGV")
        with lock:
            running -= 1
        return name

    run_together(needs, room, 4, 2, run, lambda name, result: finished.append(result), stopped.set)
    return finished, most, started


def test_two_run_at_once_where_both_fit() -> None:
    finished, most, started = _together({"small": 1, "large": 5, "middle": 2}, 7)
    assert most == 2
    assert started[0][0] == "large"
    assert sorted(finished) == ["large", "middle", "small"]
    assert {threads for _, threads in started} == {2}


def test_one_runs_alone_where_two_do_not_fit() -> None:
    finished, most, started = _together({"a": 5, "b": 4}, 8)
    assert (finished, most, started) == (["a", "b"], 1, [("a", 4), ("b", 4)])


def test_a_failure_stops_the_others() -> None:
    begun = time.monotonic()
    with pytest.raises(ComponentError, match="bad"):
        _together({"bad": 2, "good": 1, "later": 1}, 3, failing="bad")
    assert time.monotonic() - begun < 5
