"""A child ends with the process that started it, also when that is killed and cannot do anything about it."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sdmobile.basics import tether
from sdmobile.basics.tether import tethered

# The parent: starts a child that starts a child, tells their numbers, and waits.
_PARENT = """
import subprocess, sys, time
from sdmobile.basics import tether
sleeper = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(60)"]
command = tether.tethered(sleeper)
if sys.argv[1] == "watch":
    call = f"import os, sys; from sdmobile.basics import tether; sys.exit(tether._watch(os.getppid(), {sleeper!r}))"
    command = [sys.executable, "-c", call]
child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("way", ["system", "watch"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_children_end_with_a_parent_that_is_killed(way: str, number: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, way], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        family = [child, *child.children(recursive=True)]
        assert len(family) == (2 if way == "watch" or sys.platform != "linux" else 1)
        assert not any(map(_ended, family))
        parent.send_signal(number)
        parent.wait()
        deadline = time.monotonic() + 10  # a loaded machine; it takes milliseconds
        while not all(map(_ended, family)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all(map(_ended, family))


def test_a_parent_that_was_gone_before_is_noticed(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    done = subprocess.run([sys.executable, "-I", "-S", tether.__file__, "1", "touch", str(trace)], check=False)
    assert done.returncode == 128 + signal.SIGKILL
    assert not trace.exists()


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("kill -SEGV $$", -signal.SIGSEGV), ("kill -PIPE $$; exit 0", -signal.SIGPIPE)]
)
def test_the_ending_of_the_command_is_passed_on(script: str, code: int) -> None:
    assert subprocess.run(tethered(["sh", "-c", script]), check=False).returncode == code


def test_output_arguments_and_input_are_the_command_s() -> None:
    done = subprocess.run(
        tethered(["sh", "-c", 'cat; echo "$0"', "a b"]), input="text ", capture_output=True, text=True
    )
    assert done.stdout == "text a b\n"


def test_a_program_that_is_not_there_is_named() -> None:
    done = subprocess.run(tethered(["no-such-program"]), capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert "no-such-program" in done.stderr


def _calls(*names: str) -> list[tuple[str, ast.Call]]:
    """Returns the package's calls of functions by their written names, with the files that they are in."""
    root = Path(tether.__file__).parents[1]
    calls = []
    for file in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                calls.append((file.relative_to(root).as_posix(), node))
    return calls


def test_every_child_of_the_package_is_tethered() -> None:
    calls = _calls("subprocess.run", "subprocess.Popen", "subprocess.check_output", "subprocess.call", "os.system")
    untied = [
        f"{file}:{call.lineno}"
        for file, call in calls
        if file != "basics/tether.py" and not (call.args and ast.unparse(call.args[0]).startswith("tethered("))
    ]
    assert len(calls) >= 4
    assert untied == []


def test_temporary_folders_are_locked_ones() -> None:
    """So that the next run clears them away; those inside one of these may be plain."""
    calls = _calls("tempfile.mkdtemp", "tempfile.mkstemp", "tempfile.TemporaryDirectory", "tempfile.NamedTemporaryFile")
    assert {file for file, _ in calls} == {"basics/scratch.py", "exporters/component.py"}
