"""The wheel way: the WebGPU accelerator of the ai-edge-litert wheel, on a software Vulkan driver.

Run as `python -m sdmobile.validate.gpu.wheel FOLDER` by the check, which sets the driver's environment variables.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.validate.gpu.order import Answer, Order, load_arrays, load_order, save_outputs, tell_phase

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WEBGPU_KINDS = range(20, 30)  # of LiteRtTensorBufferType in litert/c/litert_tensor_buffer_types.h; host memory is 1
_DRIVER = "libvulkan_lvp"
_LOCK_FAILED = "Failed to lock"
PAUSE = 1.0
_IDLE = 0.01  # seconds of processor time that an idle driver stays below in a pause


def main(folder: Path) -> None:
    """Runs the order in a folder and writes the answer."""
    order = load_order(folder)
    adapter, limit = order.settings["adapter"], int(order.settings["limit"])
    own = running_threads()
    tell_phase("compiling")
    started = time.perf_counter()
    try:
        model = _compile(order)
    except RuntimeError as error:
        Answer(False, str(error), adapter, limit).save(folder)
        return
    seconds = {"compile": time.perf_counter() - started}
    proof: dict[str, Any] = {"buffer_types": _buffer_types(model), "driver_loaded": driver_is_loaded()}
    before = _processor_seconds(running_threads() - own)
    error = None
    try:
        seconds |= _run(model, order, folder, own)
    except RuntimeError as failure:
        error = str(failure)
    proof["driver_seconds"] = round(_processor_seconds(running_threads() - own) - before, 6)
    Answer(bool(model.is_fully_accelerated()), error, adapter, limit, proof, [], seconds).save(folder)


def proves_gpu(proof: dict[str, Any]) -> bool:
    """Whether a run used the GPU.

    The software driver is loaded; inputs and outputs lie in the GPU's kind of buffer; and the threads that came with
    the driver computed during the run, while kernels of the CPU would run in the calling thread.
    `is_fully_accelerated()` is true for a compilation for the CPU alone, so it is no part of this.
    """
    kinds = proof.get("buffer_types", [])
    on_gpu = bool(kinds) and all(kind in _WEBGPU_KINDS for kind in kinds)
    return on_gpu and proof.get("driver_loaded") is True and proof.get("driver_seconds", 0.0) > 0.0


def driver_is_loaded() -> bool:
    """Whether Mesa's software rasteriser is mapped into this process."""
    return _DRIVER in Path("/proc/self/maps").read_text("utf-8", errors="replace")


def running_threads() -> set[str]:
    """Returns the ids of this process's threads."""
    return {task.name for task in Path("/proc/self/task").iterdir()}


def _processor_seconds(threads: set[str]) -> float:
    """Returns the processor time that some threads of this process have used.

    The first number of /proc/self/task/<id>/schedstat is a thread's time on a processor in nanoseconds; the ticks of
    /proc/self/task/<id>/stat are too coarse for a small file.
    """
    total = 0
    for name in threads:
        try:
            total += int(Path(f"/proc/self/task/{name}/schedstat").read_text().split()[0])
        except OSError:  # the thread ended meanwhile
            continue
    return total / 1e9


def _compile(order: Order) -> Any:
    from ai_edge_litert.compiled_model import CompiledModel, GpuOptions, HardwareAccelerator, Options

    if order.accelerator == "cpu":
        return CompiledModel.from_file(order.model, options=Options(hardware_accelerators=HardwareAccelerator.CPU))
    options = Options(
        hardware_accelerators=HardwareAccelerator.GPU,
        gpu_options=GpuOptions(enforce_f32=order.precision == "float32"),
    )
    return CompiledModel.from_file(order.model, options=options)


def _buffer_types(model: Any) -> list[int]:
    """Returns the preferred kind of memory of each input and output."""
    names = model.get_signature_by_index(0)
    requirements = [model.get_input_buffer_requirements(i, 0) for i in range(len(names["inputs"]))]
    requirements += [model.get_output_buffer_requirements(i, 0) for i in range(len(names["outputs"]))]
    return [int(requirement["supported_types"][0]) for requirement in requirements]


def _run(model: Any, order: Order, folder: Path, own: set[str]) -> dict[str, float]:
    """Runs all samples and returns the time of the first run and the median of the later ones.

    Args:
        model: the compiled model.
        order: what to run.
        folder: where inputs and outputs lie.
        own: threads that were there before the driver.
    """
    times: list[float] = []
    for index in range(order.samples):
        arrays = load_arrays(folder / f"input-{index}.npz")
        results: dict[str, NDArray[Any]] = {}
        for _ in range(order.repeat):
            tell_phase(f"running sample {index + 1} of {order.samples}")
            started = time.perf_counter()
            results = run_patiently(model, arrays, own)
            times.append(time.perf_counter() - started)
        save_outputs(folder, index, results)
    return run_times(times)


def run_patiently(model: Any, arrays: dict[str, NDArray[Any]], own: set[str]) -> dict[str, NDArray[Any]]:
    """Runs once, and again if the runtime lost its patience with a GPU that was still computing.

    The runtime waits for outputs as long as a real GPU may need ("Failed to lock custom tensor buffer"); this one
    compiles its kernels for minutes. Once they are compiled, the next run is quick. The check's own limit ends this.
    """
    while True:
        try:
            return run_once(model, arrays)
        except RuntimeError as error:
            if _LOCK_FAILED not in str(error) or not was_busy(own):
                raise


def run_once(model: Any, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Runs in new buffers, because a failed wait leaves a buffer locked."""
    import numpy as np

    key = model.get_signature_by_index(0)["key"]
    details = model.get_output_tensor_details(key)
    inputs = {name: model.create_input_buffer_by_name(key, name) for name in model.get_input_tensor_details(key)}
    outputs = {name: model.create_output_buffer_by_name(key, name) for name in details}
    for name, buffer in inputs.items():
        buffer.write(arrays[name])
    model.run_by_name(key, inputs, outputs)
    results = {}
    for name, buffer in outputs.items():
        shape = [int(size) for size in details[name]["shape"]]
        results[name] = np.array(buffer.read(int(np.prod(shape)), np.dtype(details[name]["dtype"]))).reshape(shape)
    return results


def was_busy(own: set[str]) -> bool:
    """Waits until the driver's threads rest, and returns whether they had been at work."""
    first = last = _processor_seconds(running_threads() - own)
    while True:
        time.sleep(PAUSE)
        now = _processor_seconds(running_threads() - own)
        if now - last < _IDLE:
            return last - first >= _IDLE
        last = now


def run_times(times: list[float]) -> dict[str, float]:
    """Returns the first time, with the compilation of kernels, and the median of the others."""
    from statistics import median

    first = {"first": times[0]} if times else {}
    return {**first, "later": median(times[1:])} if len(times) > 1 else first


if __name__ == "__main__":
    main(Path(sys.argv[1]))
