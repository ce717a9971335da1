"""Runs every file of an Android bundle with `benchmark_model` on the CPU and the GPU of a phone that adb finds.

This measures time, memory and whether the GPU takes every node; `benchmark_model` feeds made-up inputs and returns no
outputs, so nothing is said about parity.

Its lines are those of tensorflow/lite/tools/benchmark/{benchmark_model,benchmark_tflite_model}.cc and of the delegates'
log (tensorflow/lite/core/subgraph.cc). They may stand behind "INFO: " or "I tflite  : "; large numbers come as 1.2e+06.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.files import hash_file
from sdmobile.basics.tether import tethered
from sdmobile.errors import (
    EXIT_MISSING,
    EXIT_RESOURCES,
    MissingDependencyError,
    ResourceError,
    SdmobileError,
    UnsupportedError,
)
from sdmobile.validate.checks import Checker, ExtraCheck, Status

if TYPE_CHECKING:
    from sdmobile.formats.bundle.reading import Bundle, BundleComponent
    from sdmobile.reference.recording import Recording

TIMEOUT = 600.0  # seconds; a full-size UNet on a slow CPU takes minutes
FOLDER = "/data/local/tmp/sdmobile"
BENCHMARK_MODEL = "https://storage.googleapis.com/litert/binaries/latest/android_arm64/benchmark_model"
"""Where Google keeps it (LiteRT's documentation, benchmark); it changes every night, so that its hash is told."""
BACKENDS = {"cpu": ("--use_xnnpack=true",), "gpu": ("--use_gpu=true",)}
_COMMON = ("--warmup_runs=1", "--num_runs=5", "--min_secs=0", "--max_secs=60", "--verbose=true")
_STATES = {
    "unauthorized": "Allow USB debugging in the dialog on the phone.",
    "offline": "Plug it in again, or run `adb reconnect`.",
}
_NUMBER = r"([0-9.]+(?:e[+-]?[0-9]+)?)"
_TIMINGS = re.compile(
    rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
    rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}"
)
_RUN = re.compile(rf"count=([0-9]+) first={_NUMBER} curr={_NUMBER} min={_NUMBER} max={_NUMBER} avg={_NUMBER}")
_MEMORY = re.compile(
    rf"(?:Memory footprint delta[^:]*|Peak memory footprint) ?\(MB\): init={_NUMBER} overall={_NUMBER}"
)
_DELEGATED = re.compile(
    r"Replacing ([0-9]+) out of ([0-9]+) node\(s\) with delegate \(([^)]*)\) node, yielding ([0-9]+) partitions"
)


def phone_checker(program: Path, serial: str | None = None) -> Checker:
    """Returns the checker that runs a bundle's files on a phone.

    Args:
        program: LiteRT's `benchmark_model` for the phone's processor.
        serial: which phone, if several are connected.

    Raises:
        UnsupportedError: there is no such program.
    """
    if not program.is_file():
        raise UnsupportedError(
            "--benchmark-model names LiteRT's benchmark_model for Android",
            program,
            f"Load {BENCHMARK_MODEL}, or take the one that `litert benchmark --android` keeps in ~/.cache/litert-cli",
        )

    def check(bundle: Bundle, components: Sequence[str], recording: Recording) -> list[ExtraCheck]:
        if bundle.target != "android":
            return [
                ExtraCheck(
                    "adb", "bundle", Status.NOT_RUN, reason=f"a bundle for {bundle.target} does not run on Android"
                )
            ]
        try:
            phone = find_phone(serial)
            phone.shell(["mkdir", "-p", FOLDER])
            phone.push(program, f"{FOLDER}/benchmark_model")
            phone.shell(["chmod", "755", f"{FOLDER}/benchmark_model"])
        except SdmobileError as error:
            status = Status.NOT_RUN if error.exit_code in (EXIT_MISSING, EXIT_RESOURCES) else Status.ERROR
            return [ExtraCheck("adb", "bundle", status, reason=error.message())]
        files = [file for name, file in bundle.components.items() if name in components]
        place = f"{phone.title}, benchmark_model {hash_file(program)[:12]}"
        return [replace(result, place=place) for file in files for result in _check_file(phone, file)]

    return check


def _check_file(phone: Phone, file: BundleComponent) -> list[ExtraCheck]:
    """Pushes one file, runs it on every backend, and removes it again."""
    target = f"{FOLDER}/{file.path.name}"
    try:
        phone.push(file.path, target)
        return [_measured(phone, file, target, backend) for backend in BACKENDS]
    except SdmobileError as error:
        return [ExtraCheck("adb", file.name, Status.ERROR, phone.title, error.message())]
    finally:
        phone.shell(["rm", "-f", target])


def _measured(phone: Phone, file: BundleComponent, target: str, backend: str) -> ExtraCheck:
    checker = f"adb {backend}"
    signature = f"--signature_to_run_for={file.contract.signature}"
    command = [f"{FOLDER}/benchmark_model", f"--graph={target}", signature, *BACKENDS[backend], *_COMMON]
    try:
        text = phone.shell(command)
    except SdmobileError as error:
        return ExtraCheck(checker, file.name, Status.ERROR, phone.title, error.message())
    run = parse_benchmark(text)
    if run is None:
        last = " | ".join(line.strip() for line in text.strip().splitlines()[-3:])
        return ExtraCheck(checker, file.name, Status.ERROR, phone.title, f"benchmark_model printed no timings: {last}")
    objection = _objection(run) if backend == "gpu" else None
    status = Status.PASSED if objection is None else Status.FAILED
    return ExtraCheck(checker, file.name, status, phone.title, objection, figures=run.figures())


def _objection(run: Benchmark) -> str | None:
    """Returns why a run on the GPU was none, or only in part: the program falls back to the CPU without failing."""
    if run.delegated is None or run.nodes is None or "xnnpack" in (run.delegate or "").lower():
        return "no node ran on the GPU; benchmark_model fell back to the CPU"
    if run.delegated < run.nodes:
        return f"the GPU took {run.delegated} of {run.nodes} nodes, in {run.partitions} parts"
    return None


@dataclass(frozen=True)
class Phone:
    """A connected phone.

    Args:
        adb: path of the adb program.
        serial: serial number.
        model: name of the model, as the phone says it.
        android: version of Android.
    """

    adb: str
    serial: str
    model: str
    android: str

    @property
    def title(self) -> str:
        """The phone for people."""
        return f"{self.model} (Android {self.android}, {self.serial})"

    def push(self, file: Path, target: str) -> None:
        """Copies a file to the phone.

        Raises:
            ResourceError: it could not be copied.
        """
        _checked(_run([self.adb, "-s", self.serial, "push", str(file), target], TIMEOUT))

    def reverse(self, port: int) -> None:
        """Lets the phone reach a port of this computer's loopback under its own, by the cable.

        Raises:
            ResourceError: it could not be done.
        """
        _checked(_run([self.adb, "-s", self.serial, "reverse", f"tcp:{port}", f"tcp:{port}"], 30.0))

    def reverse_no_more(self, port: int) -> None:
        """Undoes `reverse`; raises ResourceError where the phone has gone."""
        _checked(_run([self.adb, "-s", self.serial, "reverse", "--remove", f"tcp:{port}"], 30.0))

    def shell(self, command: Sequence[str], timeout: float = TIMEOUT) -> str:
        """Runs a command on the phone and returns what it prints, errors included.

        Raises:
            ResourceError: it failed, or took too long.
        """
        line = shlex.join(command) + " 2>&1"
        return _checked(_run([self.adb, "-s", self.serial, "shell", line], timeout))


def find_phone(serial: str | None = None) -> Phone:
    """Returns the connected phone.

    Args:
        serial: which one, if several are connected.

    Raises:
        MissingDependencyError: there is no adb.
        ResourceError: no phone is connected, it is not ready, or there are several and none was named.
    """
    adb = shutil.which("adb")
    if adb is None:
        raise MissingDependencyError(
            "running files on a phone needs adb",
            "no `adb` on the PATH",
            "Install Android's platform-tools, or leave --benchmark-model out.",
        )
    states = _devices(_checked(_run([adb, "devices"], 30.0)))
    if not states:
        raise ResourceError(
            "a phone must be connected", "adb sees none", "Connect it by USB and switch USB debugging on."
        )
    if serial is None and len(states) > 1:
        raise ResourceError("one phone must be chosen", ", ".join(states), "Name it: --adb-serial SERIAL.")
    chosen = serial or next(iter(states))
    state = states.get(chosen)
    if state is None:
        raise ResourceError("the phone must be connected", f"{chosen}; adb sees {', '.join(states)}")
    if state != "device":
        raise ResourceError("the phone must be ready", f"{chosen} is {state}", _STATES.get(state))
    model, android = (
        _checked(_run([adb, "-s", chosen, "shell", f"getprop {name}"], 30.0)).strip()
        for name in ("ro.product.model", "ro.build.version.release")
    )
    return Phone(adb, chosen, model, android)


def _devices(listing: str) -> dict[str, str]:
    """Returns serial number to state from what `adb devices` prints: a title, then one line per device."""
    rows = (line.split() for line in listing.splitlines() if not line.startswith(("List of devices", "*")))
    return {row[0]: row[1] for row in rows if len(row) >= 2}


def _run(command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            tethered(command),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceError("the phone must answer in time", f"{timeout:.0f} s passed: {' '.join(command)}") from error
    return subprocess.CompletedProcess(command, done.returncode, done.stdout, done.stderr)


def _checked(result: subprocess.CompletedProcess[str]) -> str:
    if result.returncode != 0:
        last = (result.stderr.strip() or result.stdout.strip()).splitlines()[-3:]
        raise ResourceError(
            f"`{' '.join(result.args[1:])}` must succeed", f"exit code {result.returncode}: {' | '.join(last)}"
        )
    return result.stdout


@dataclass(frozen=True)
class Benchmark:
    """Figures of one run.

    Args:
        init_ms: loading and compiling.
        first_ms: first inference.
        average_ms: mean of the timed inferences.
        best_ms: shortest of them, None if it was not printed.
        runs: timed inferences, None if it was not printed.
        memory_mb: memory that the run took at most, None if it was not printed.
        delegated: nodes that the delegate took, None if none said so.
        nodes: all nodes, None likewise.
        partitions: parts that the delegate cut the graph into, None likewise.
        delegate: its name, None likewise.
    """

    init_ms: float
    first_ms: float
    average_ms: float
    best_ms: float | None = None
    runs: int | None = None
    memory_mb: float | None = None
    delegated: int | None = None
    nodes: int | None = None
    partitions: int | None = None
    delegate: str | None = None

    def figures(self) -> dict[str, float]:
        """Returns the numbers by name."""
        named = {
            "init_ms": self.init_ms,
            "first_ms": self.first_ms,
            "average_ms": self.average_ms,
            "best_ms": self.best_ms,
            "runs": self.runs,
            "memory_mb": self.memory_mb,
            "delegated_nodes": self.delegated,
            "nodes": self.nodes,
            "partitions": self.partitions,
        }
        return {name: float(value) for name, value in named.items() if value is not None}


def parse_benchmark(text: str) -> Benchmark | None:
    """Returns the figures of a finished run, or None if the output has no timings.

    Args:
        text: everything that `benchmark_model` printed.
    """
    timings = _TIMINGS.search(text)
    if timings is None:
        return None
    init, first, _, average = (1e-3 * float(value) for value in timings.groups())
    runs = list(_RUN.finditer(text))  # a warm-up of several runs prints such a line too; the last is the timed one
    memory, delegated = _MEMORY.search(text), _largest(text)
    return Benchmark(
        init,
        first,
        average,
        best_ms=1e-3 * float(runs[-1][4]) if runs else None,
        runs=int(runs[-1][1]) if runs else None,
        memory_mb=float(memory[2]) if memory else None,
        delegated=int(delegated[1]) if delegated else None,
        nodes=int(delegated[2]) if delegated else None,
        partitions=int(delegated[4]) if delegated else None,
        delegate=delegated[3] if delegated else None,
    )


def _largest(text: str) -> re.Match[str] | None:
    """Returns what the delegate of the largest subgraph says; XNNPACK takes what a GPU delegate leaves."""
    matches = list(_DELEGATED.finditer(text))
    gpu = [match for match in matches if "xnnpack" not in match[3].lower()]
    return max(gpu or matches, key=lambda match: int(match[2]), default=None)
