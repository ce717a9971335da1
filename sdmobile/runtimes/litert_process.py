"""LiteRT in a process of its own: a file that makes it crash ends that process, and the program says which file.

A .tflite file may come from anybody. LiteRT verifies the flatbuffer and then trusts it: indices, shapes and options
that do not fit each other end in native aborts. This file is also the program of the child: `python -m
sdmobile.runtimes.litert_process FILE THREADS DELEGATES`. A message is one line of JSON and the bytes of its arrays;
nothing is unpickled on either side.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sdmobile.basics.tether import tethered
from sdmobile.errors import MissingDependencyError, ResourceError, SdmobileError, UnsupportedError
from sdmobile.formats.errors import FormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

_MAX_HEADER, _MAX_ARRAY = 1 << 20, 1 << 33
_LAST_WORDS = 300
_AGAIN = "Export it again."
_log = logging.getLogger("sdmobile.workers")


class LiteRTProcess:
    """A loaded file and the process that runs it; the process ends with the object, or with the program.

    Args:
        path: the `.tflite` file.
        signature: which of its signatures; None for the first, or for the graph of a file that has none.
        threads: CPU threads, None for the runtime's choice.
        delegates: let LiteRT hand operators to XNNPACK, as it does by itself.

    Raises:
        FormatError: LiteRT cannot load the file, or crashes on it.
        UnsupportedError: there is no such signature.
        MissingDependencyError: LiteRT is not installed.
    """

    def __init__(
        self, path: Path, signature: str | None = None, threads: int | None = None, delegates: bool = True
    ) -> None:
        if find_spec("ai_edge_litert") is None:
            raise MissingDependencyError(
                "running a .tflite file needs ai-edge-litert",
                "it is not installed",
                "Install it: pip install 'sdmobile[android]'.",
            )
        self._path = path
        self._crashed: SdmobileError | None = None
        self.crossing = 0.0
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        command = [sys.executable, "-m", __name__, str(path), str(threads or 0), str(int(delegates))]
        self._child = subprocess.Popen(
            tethered(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            start_new_session=True,  # Ctrl-C reaches this process only, which then ends the child
        )
        self._end = weakref.finalize(self, _end, self._child, self._noise)
        signatures, _ = self._answer("load")
        known = sorted(signatures["signatures"])
        self._signature = next(iter(signatures["signatures"]), "") if signature is None else signature
        if self._signature not in known:
            self.close()
            raise UnsupportedError(f"{path.name} must have the signature {self._signature}", known, _AGAIN)
        self.inputs: dict[str, tuple[tuple[int, ...], str]] = {
            name: (tuple(shape), dtype) for name, shape, dtype in signatures["signatures"][self._signature]
        }

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Returns the outputs by their names in the signature.

        Raises:
            FormatError: LiteRT refuses the inputs, or crashes.
        """
        assert self._child.stdin is not None
        if self._crashed is not None:
            raise self._crashed
        started = time.perf_counter()
        with suppress(OSError):  # it is gone; what it said before tells why
            _send(self._child.stdin, {"signature": self._signature}, inputs)
        header, outputs = self._answer("run")
        self.crossing = time.perf_counter() - started - header["seconds"]
        return outputs

    def close(self) -> None:
        """Ends the process."""
        self._end()

    def _answer(self, task: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Returns what the child answers, or raises what became of it."""
        assert self._child.stdout is not None
        try:
            header, arrays = _receive(self._child.stdout)
        except (EOFError, ValueError, OSError) as error:
            self._crashed = self._crash(task)
            self.close()
            raise self._crashed from error
        except BaseException:
            self.close()
            raise
        if "error" in header:
            raise FormatError(f"LiteRT must be able to {task} the file", f"{self._path}: {header['error']}", _AGAIN)
        return header, arrays

    def _crash(self, task: str) -> SdmobileError:
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.close()
        code = self._child.wait()
        self._noise.seek(0)
        words = self._noise.read().decode("utf-8", "replace").split()
        said = " ".join(words)[-_LAST_WORDS:]
        if code == -signal.SIGKILL:
            return ResourceError(f"LiteRT must have the memory to {task} the file", f"{self._path} was killed")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return FormatError(f"LiteRT must {task} the file without a crash", f"{self._path}: {name}; {said}", _AGAIN)


def _end(child: subprocess.Popen[bytes], noise: IO[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    noise.seek(0)
    for line in noise.read().decode("utf-8", "replace").splitlines():
        _log.debug("%s", line)
    for stream in (child.stdin, child.stdout, noise):
        if stream is not None:
            with suppress(OSError):  # what was left to write has no reader
                stream.close()
    child.wait()


def _send(stream: IO[bytes], header: dict[str, Any], arrays: Arrays) -> None:
    """Writes a message."""
    import numpy as np

    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in kept.items()]
    stream.write(json.dumps({**header, "arrays": listed}).encode() + b"\n")
    for array in kept.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Reads a message.

    Raises:
        EOFError: the other side is gone.
        ValueError: it sent something else.
    """
    import numpy as np

    line = stream.readline(_MAX_HEADER)
    if not line:
        raise EOFError
    header = json.loads(line)
    arrays = {}
    for name, code, shape in header["arrays"]:
        dtype = np.dtype(code)
        size = dtype.itemsize * int(np.prod(shape, dtype=object)) if shape else dtype.itemsize
        if dtype.hasobject or not 0 <= size <= _MAX_ARRAY:
            raise ValueError(f"an array of {size} bytes")
        data = stream.read(size)
        if len(data) < size:
            raise EOFError
        arrays[name] = np.frombuffer(data, dtype).reshape(shape)
    return header, arrays


def main(path: str, threads: str, delegates: str) -> None:
    """Loads a file and runs it for as long as inputs come."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # native code prints to it
    questions = sys.stdin.buffer
    try:
        interpreter = _interpreter(path, int(threads), delegates == "1")
        runners = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
        runners = runners or {"": _Unsigned(interpreter)}
        listed = {name: _inputs(runner) for name, runner in runners.items()}
    except Exception as error:
        _send(answers, {"error": _one_line(error)}, {})
        return
    _send(answers, {"signatures": listed}, {})
    while True:
        try:
            header, arrays = _receive(questions)
        except EOFError:
            return
        try:
            runner = runners[header["signature"]]
            started = time.perf_counter()
            results = runner(**arrays)
            seconds = time.perf_counter() - started
        except Exception as error:
            _send(answers, {"error": _one_line(error)}, {})
        else:
            _send(answers, {"seconds": seconds}, results)


def _interpreter(path: str, threads: int, delegates: bool) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_path=path, num_threads=threads or None, experimental_op_resolver_type=resolver)


class _Unsigned:
    """A file without a signature, called by the names of its tensors."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        interpreter.allocate_tensors()

    def get_input_details(self) -> dict[str, Any]:
        """As of a signature's runner."""
        return {item["name"]: item for item in self._interpreter.get_input_details()}

    def __call__(self, **arrays: Any) -> dict[str, Any]:
        """Returns the outputs by name."""
        for name, item in self.get_input_details().items():
            self._interpreter.set_tensor(item["index"], arrays[name])
        self._interpreter.invoke()
        outputs = self._interpreter.get_output_details()
        return {item["name"]: self._interpreter.get_tensor(item["index"]) for item in outputs}


def _inputs(runner: Any) -> list[list[Any]]:
    details = runner.get_input_details()
    return [[name, [int(n) for n in item["shape"]], item["dtype"].__name__] for name, item in details.items()]


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:1000]


if __name__ == "__main__":
    main(*sys.argv[1:])
