"""`python -m sdmobile.exporters.fork_server TARGET DESCRIPTOR`: has the libraries imported, and forks workers.

    parent ── order, result, TMPDIR, threads; stdout, stderr, reply ──▶ server ── fork ──▶ worker
       ◀───────────────── "pid N", in the end "code N" ────────────────────┘

PyTorch, Diffusers, Transformers and a converter take seconds to import; a fork has them at once and shares their
memory. The server computes nothing and starts no thread of Python's: OpenMP and MLIR start theirs in the workers. Linux
only: it rests on pidfd_open(2), and on the kernel that ends a worker when its parent is gone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import socket
import sys
import traceback
from contextlib import suppress
from typing import Any, NoReturn

from sdmobile.basics.tether import end_with_parent

DESCRIPTORS = 3  # of a request: the worker's stdout and stderr, and where its number and exit code are said
MOST_BYTES = 1 << 16
# What lowering imports; what it lacks is told by the worker that needs it.
_CONVERTERS = {
    "ios": ("coremltools",),
    "android": ("litert_torch", "litert_torch.hlfb", "ai_edge_quantizer.quantizer"),
    "onnx": ("onnxscript", "torch.onnx"),
}


def main(arguments: list[str]) -> int:
    """Imports the target's libraries, then serves the socket until its other end is closed."""
    target, descriptor = arguments
    channel = socket.socket(fileno=int(descriptor))
    channel.set_inheritable(False)
    _prepare(target)
    _serve(channel)
    return 0


def _prepare(target: str) -> None:
    """Imports what a component's export imports."""
    import diffusers
    import transformers

    from sdmobile.families import FAMILIES

    classes = {name for family in FAMILIES for model in family.models for name in model.classes}
    for name in sorted(classes):
        for library in (diffusers, transformers):
            with suppress(Exception):  # one of the two has it; and a worker says better what is wrong with a library
                getattr(library, name)
    ours = ("exporters.worker", "exporters.component", "rewrites.engine", "rewrites.registry", "reference.capture")
    lowering = {"ios": "coreml", "android": "litert", "onnx": "onnx"}[target]
    for module in (*_CONVERTERS[target], *(f"sdmobile.{name}" for name in (*ours, f"exporters.{lowering}.lower"))):
        with suppress(Exception):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a worker shall not walk through, and so copy, what all of them share


def _serve(channel: socket.socket) -> None:
    with selectors.DefaultSelector() as waiting:
        waiting.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.data is not None:
                    waiting.unregister(key.fd)
                    _say_end(key.fd, *key.data)
                    continue
                message, descriptors, _, _ = socket.recv_fds(channel, MOST_BYTES, DESCRIPTORS)
                if not message:
                    return
                started = _start(json.loads(message), descriptors)
                if started is not None:
                    waiting.register(os.pidfd_open(started), selectors.EVENT_READ, (started, descriptors[-1]))


def _start(request: dict[str, Any], descriptors: list[int]) -> int | None:
    """Forks a worker and returns its number; None if there is no room for one: then the reply ends at once."""
    stdout, stderr, reply = descriptors
    server = os.getpid()
    try:
        worker = os.fork()
    except OSError:
        worker = None
        os.close(reply)
    if worker == 0:
        _work(request, server, stdout, stderr, reply)
    os.close(stdout)
    os.close(stderr)
    return worker


def _say_end(handle: int, worker: int, reply: int) -> None:
    _, status = os.waitpid(worker, 0)
    with suppress(OSError):  # nobody wants to know any more
        os.write(reply, f"code {os.waitstatus_to_exitcode(status)}\n".encode())
    os.close(reply)
    os.close(handle)


def _work(request: dict[str, Any], server: int, stdout: int, stderr: int, reply: int) -> NoReturn:
    """Becomes a worker, in a session of its own; it ends without Python's ways, which are about the server's things."""
    code = 1
    try:
        os.setsid()
        if not end_with_parent(server):
            os._exit(code)
        os.write(reply, f"pid {os.getpid()}\n".encode())
        null = os.open(os.devnull, os.O_RDONLY)
        for source, place in ((null, 0), (stdout, 1), (stderr, 2)):
            os.dup2(source, place)
        for descriptor in (null, stdout, stderr, reply):
            os.close(descriptor)
        code = _export(request)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        with suppress(Exception):
            sys.stderr.flush()
        os._exit(code)


def _export(request: dict[str, Any]) -> int:
    import tempfile

    import torch

    from sdmobile.exporters.worker import main as export

    os.environ["TMPDIR"] = request["tmp"]
    tempfile.tempdir = None
    torch.set_num_threads(min(request["threads"], torch.get_num_threads()))
    return export([request["order"], request["result"]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
