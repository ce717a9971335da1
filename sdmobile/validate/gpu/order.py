"""What is asked of the process that talks to the GPU and what it answers, as files in a folder, and how it is run."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.files import write_json
from sdmobile.basics.tether import tethered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

ORDER, ANSWER, LOG = "order.json", "answer.json", "log.txt"
PHASE = "[phase] "
_DTYPES = ("float32", "int32", "uint8")
_GRACE = 5.0
_log = logging.getLogger("sdmobile.workers")


@dataclass(frozen=True)
class Order:
    """One file to run.

    Args:
        model: the `.tflite` file.
        precision: "float32" or "float16".
        signature: key of the signature; None for a file without one.
        samples: number of inputs, each in `input-<sample>.npz`.
        repeat: how often each is run; more than once gives a time without the compilation of kernels.
        accelerator: "gpu"; "cpu" exists to test that a run without the GPU is noticed.
        settings: what one way needs besides: the browser, the page.
    """

    model: str
    precision: str
    signature: str | None
    samples: int
    repeat: int = 1
    accelerator: str = "gpu"
    settings: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path, samples: Sequence[Arrays]) -> None:
        """Writes the order and its inputs."""
        for index, sample in enumerate(samples):
            arrays = {name: _plain(array) for name, array in sample.items()}
            np.savez(folder / f"input-{index}.npz", **arrays)  # pyright: ignore[reportArgumentType]
        (folder / ORDER).write_text(json.dumps(asdict(self)), "utf-8")


@dataclass(frozen=True)
class Answer:
    """What the process found, as far as it came.

    Args:
        accepted: the accelerator took every operator.
        error: what it said when it did not, or when the run failed.
        adapter: the device.
        limit: bytes that one storage buffer may hold; None if the way does not know.
        proof: evidence that the GPU computed.
        errors: errors that the device reported beside the results.
        seconds: compile, first and later.
        unavailable: why this machine cannot do what was asked, which is not the file's fault.
    """

    accepted: bool
    error: str | None = None
    adapter: str | None = None
    limit: int | None = None
    proof: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    unavailable: str | None = None

    def save(self, folder: Path) -> None:
        """Writes the answer; a reader sees all of it or nothing."""
        write_json(folder / ANSWER, asdict(self))


def load_order(folder: Path) -> Order:
    """Reads what `Order.save` wrote."""
    return Order(**json.loads((folder / ORDER).read_text("utf-8")))


def load_answer(folder: Path) -> Answer | None:
    """Reads the answer, or None if the process ended before it wrote one."""
    file = folder / ANSWER
    return Answer(**json.loads(file.read_text("utf-8"))) if file.is_file() else None


def load_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Reads named arrays."""
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def save_outputs(folder: Path, index: int, outputs: Arrays) -> None:
    """Writes the outputs of one sample."""
    np.savez(folder / f"output-{index}.npz", **dict(outputs))  # pyright: ignore[reportArgumentType]


def load_outputs(folder: Path, samples: int) -> list[dict[str, NDArray[Any]]]:
    """Reads the outputs of all samples."""
    return [load_arrays(folder / f"output-{index}.npz") for index in range(samples)]


def tell_phase(text: str) -> None:
    """Notes what happens now, so that a crash or a time limit can say where it came."""
    print(PHASE + text, flush=True)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """Returns the array in a type that both ways take."""
    if array.dtype.name in _DTYPES:
        return np.ascontiguousarray(array)
    wanted = np.float32 if array.dtype.kind == "f" else np.int32
    return np.ascontiguousarray(array, dtype=wanted)


@dataclass(frozen=True)
class Ending:
    """How the process ended.

    Args:
        code: exit code; negative for a signal, None when the time was up.
        log: everything it printed.
        phase: the last thing it said it was doing.
    """

    code: int | None
    log: tuple[str, ...]
    phase: str

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that ended the process, if one did."""
        return signal.Signals(-self.code).name if self.code is not None and self.code < 0 else None


def run_order(module: str, folder: Path, timeout: float, environment: dict[str, str]) -> Ending:
    """Runs an order by `python -m module folder`, with a time limit, and ends everything that it started.

    Args:
        module: the way's own program.
        folder: where order and inputs lie; also the process's folder for temporary files.
        timeout: seconds; then the process and all its descendants are killed.
        environment: variables on top of the present ones.
    """
    variables = {**os.environ, **environment, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    file = folder / LOG
    with file.open("wb") as log:
        child = subprocess.Popen(
            tethered([sys.executable, "-m", module, str(folder)]),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
        try:
            code: int | None = child.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
    lines = tuple(file.read_text("utf-8", errors="replace").splitlines())
    for line in lines:
        _log.debug("%s", line)
    phases = [line[len(PHASE) :] for line in lines if line.startswith(PHASE)]
    return Ending(code, lines, phases[-1] if phases else "starting")


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kills what is left of the process; a browser puts its own processes into another group."""
    import psutil

    try:
        family = psutil.Process(child.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    if child.poll() is None:
        child.kill()
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=_GRACE)
    child.wait()
