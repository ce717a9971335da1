"""An `adb` that answers as the real one does, with a phone whose `benchmark_model` prints recorded lines."""

from __future__ import annotations

import sys
from pathlib import Path

# Printed lines as in logs of benchmark_model on phones; the numbers are made up.
GPU = """\
INFO: STARTING!
INFO: Log parameter values verbosely: [0]
INFO: Graph: [{graph}]
INFO: Use gpu: [1]
INFO: Loaded model {graph}
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite delegate for GPU.
VERBOSE: Replacing {taken} out of 412 node(s) with delegate (TfLiteGpuDelegateV2) node, yielding {parts} partitions \
for subgraph 0.
INFO: Explicitly applied GPU delegate, and the model graph will be {how} executed by the delegate.
INFO: The input model file size (MB): 4.61
INFO: Initialized session in 1523.5ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 60 seconds.
INFO: count=12 first=61203 curr=40210 min=39800 max=61203 avg=42100.5 std=5800

INFO: Running benchmark for at least 5 iterations and at least 0 seconds but terminate if exceeding 60 seconds.
INFO: count=5 first=41000 curr=40500 min=40125 max=41000 avg=40600 std=300

INFO: Inference timings in us: Init: 1523500, First inference: 61203, Warmup (avg): 42100.5, Inference (avg): 40600
INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE.
INFO: Memory footprint delta from the start of the tool (MB): init=54.2852 overall=73.4102
"""
CPU = """\
STARTING!
Graph: [{graph}]
Loaded model {graph}
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
VERBOSE: Replacing 400 out of 412 node(s) with delegate (TfLiteXNNPackDelegate) node, yielding 3 partitions \
for subgraph 0.
Initialized session in 17.187ms.
count=1 curr=3512391

count=5 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Peak memory footprint (MB): init=4.92969 overall=138.809
"""

_PROGRAM = """\
#!{python}
import pathlib, sys
here = pathlib.Path({folder!r})
words = sys.argv[1:]
with (here / "calls.txt").open("a") as log:
    log.write(" ".join(words) + "\\n")
if words == ["devices"]:
    print("* daemon started successfully")
    print("List of devices attached")
    print((here / "devices.txt").read_text())
elif words[0] == "-s" and words[2] == "push":
    print(words[3] + ": 1 file pushed, 0 skipped. 30.1 MB/s (1 bytes in 0.001s)")
elif words[0] == "-s" and words[2] == "shell":
    line = words[3]
    if "ro.product.model" in line:
        print("Pixel 9")
    elif "ro.build.version.release" in line:
        print("16")
    elif "--use_gpu=true" in line:
        print((here / "gpu.txt").read_text())
    elif "--graph=" in line:
        print((here / "cpu.txt").read_text())
else:
    sys.exit("adb: unknown command " + " ".join(words))
"""


def write_adb(folder: Path, devices: str = "0A1B2C\tdevice\n", taken: int = 412, parts: int = 1) -> Path:
    """Writes the program and what its phone prints; the folder goes on the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = "/data/local/tmp/sdmobile/unet.tflite"
    how = "completely" if taken == 412 else "partially"
    (folder / "devices.txt").write_text(devices, "utf-8")
    (folder / "gpu.txt").write_text(GPU.format(graph=graph, taken=taken, parts=parts, how=how), "utf-8")
    (folder / "cpu.txt").write_text(CPU.format(graph=graph), "utf-8")
    program = folder / "adb"
    program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)), "utf-8")
    program.chmod(0o755)
    return program


def calls(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text("utf-8").splitlines()
