"""The browser way: LiteRT.js in headless Chromium, whose WebGPU runs on SwiftShader.

Run as `python -m sdmobile.validate.gpu.browser FOLDER` by the check.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.untrusted import inside
from sdmobile.errors import MissingDependencyError
from sdmobile.validate.gpu.order import Answer, Order, load_arrays, load_order, save_outputs, tell_phase
from sdmobile.validate.gpu.server import serve
from sdmobile.validate.gpu.wheel import run_times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from playwright.sync_api import ConsoleMessage, Page

FLAGS = (
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-webgpu-adapter=swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-gpu-watchdog",  # a large kernel on a software GPU takes longer than the watchdog waits
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
)
_PHASE = "[phase] "


def main(folder: Path) -> None:
    """Runs the order in a folder and writes the answer."""
    order = load_order(folder)
    files, samples = _inputs(folder, order)
    results = folder / "results"
    results.mkdir()
    tell_phase("starting the browser")
    with serve(Path(order.settings["page"]), files, results) as address, open_page(order.settings["browser"]) as page:
        page.on("console", _pass_on)
        page.goto(address)
        _check(page, order, samples, folder)


def open_page(browser: str) -> AbstractContextManager[Page]:
    """Starts a browser and returns its page; the sandbox is off because containers and root cannot have it.

    Only the project's own page from the loopback interface is ever opened in it.
    """
    from contextlib import contextmanager

    from playwright.sync_api import sync_playwright

    @contextmanager
    def opened() -> Iterator[Page]:
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=browser, args=list(FLAGS), chromium_sandbox=False)
            try:
                page = chromium.new_page()
                page.set_default_timeout(0)  # the parent process keeps the time
                yield page
            finally:
                chromium.close()

    return opened()


def describe_gpu(page: Page) -> str:
    """Returns a line about the GPU that an opened page finds.

    Raises:
        MissingDependencyError: it finds none.
    """
    page.wait_for_function("globalThis.sdmobile !== undefined")
    device = page.evaluate("sdmobile.device()")
    if device is None:
        raise MissingDependencyError("the browser must offer WebGPU", "no adapter", "Use Chromium 121 or newer")
    return f"{_name(device)}, buffers to {device['maxStorageBufferBindingSize'] >> 20} MiB"


def proves_gpu(proof: dict[str, Any]) -> bool:
    """Whether a run used the GPU: kernels were dispatched and submitted, and every output lay in a GPU buffer."""
    places = proof.get("output_places", [])
    in_gpu_memory = bool(places) and all(place == "webgpu" for place in places)
    return in_gpu_memory and proof.get("dispatches", 0) > 0 and proof.get("submits", 0) > 0


def _inputs(folder: Path, order: Order) -> tuple[dict[str, Path], list[list[dict[str, Any]]]]:
    """Writes each input as raw bytes and returns the files to serve and the page's description of them."""
    files = {"/job/model.tflite": Path(order.model)}
    samples = []
    for index in range(order.samples):
        sample = []
        for number, (name, array) in enumerate(load_arrays(folder / f"input-{index}.npz").items()):
            file = folder / f"input-{index}-{number}.bin"
            file.write_bytes(array.tobytes())
            url = f"/job/{file.name}"
            files[url] = file
            sample.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "url": url})
        samples.append(sample)
    return files, samples


def _check(page: Page, order: Order, samples: list[list[dict[str, Any]]], folder: Path) -> None:
    from playwright.sync_api import Error

    call = {
        "model": "/job/model.tflite",
        "samples": samples,
        "accelerator": "wasm" if order.accelerator == "cpu" else "webgpu",
        "precision": order.precision,
        "signature": order.signature,
        "repeat": order.repeat,
        "outputs": "/results",
    }
    try:
        page.wait_for_function("globalThis.sdmobile !== undefined")
        device = page.evaluate("sdmobile.device()")
        unavailable = _unavailable(device, order)
        if unavailable is not None:
            Answer(False, unavailable=unavailable).save(folder)
            return
        result = page.evaluate("(order) => sdmobile.check(order)", call)
    except Error as error:
        Answer(False, _first_line(error) + _heap_words(page), None, None).save(folder)
        return
    _collect(result, folder)
    _answer(result).save(folder)


def _unavailable(device: dict[str, Any] | None, order: Order) -> str | None:
    if device is None:
        return "the browser offers no WebGPU adapter"
    if order.precision == "float16" and not device["float16"]:
        return f"the browser's GPU ({_name(device)}) computes no float16 (no shader-f16); the wheel way does"
    return None


def _answer(result: dict[str, Any]) -> Answer:
    runs, device = result["runs"], result["device"]
    proof: dict[str, Any] = {}
    if runs:
        proof = {
            name: sum(run["gpu"][name] for run in runs) for name in ("dispatches", "submits", "pipelines", "buffers")
        }
        proof["largest_buffer"] = max(run["gpu"]["largestBuffer"] for run in runs)
        proof["output_places"] = [output["place"] for run in runs for output in run["outputs"]]
        proof["heap"] = result["heap"]["bytes"]
        proof["isolated"] = result["isolated"]
    return Answer(
        accepted=bool(result["accepted"]),
        adapter=_name(device),
        limit=int(device["maxStorageBufferBindingSize"]),
        proof=proof,
        errors=list(result["errors"]),
        seconds={"compile": result["compileSeconds"], **run_times([s for run in runs for s in run["seconds"]])},
    )


def _name(device: dict[str, Any]) -> str:
    words = (device["vendor"], device["architecture"], device["description"])
    return " / ".join(word for word in words if word) or "unnamed adapter"


def _collect(result: dict[str, Any], folder: Path) -> None:
    """Turns the raw outputs that the page sent into named arrays."""
    for index, run in enumerate(result["runs"]):
        outputs = {}
        for output in run["outputs"]:
            raw = inside(folder / "results", output["file"]).read_bytes()
            outputs[output["name"]] = np.frombuffer(raw, output["dtype"]).reshape(output["shape"])
        save_outputs(folder, index, outputs)


def _pass_on(message: ConsoleMessage) -> None:
    """Prints what the page printed; its remarks about phases become this process's."""
    text = message.text
    if text.startswith(_PHASE):
        tell_phase(text[len(_PHASE) :])
    else:
        print(text, flush=True)


def _heap_words(page: Page) -> str:
    """Returns how full the runtime's WebAssembly memory was when it failed; nothing if the page cannot say."""
    from playwright.sync_api import Error

    try:
        heap = page.evaluate("globalThis.sdmobile?.heap()")
    except Error:  # the page died with the runtime
        return ""
    return heap_words(heap["bytes"], heap["limit"]) if heap else ""


def heap_words(bytes_used: int, limit: int) -> str:
    """Returns a remark for an error of a runtime whose memory is more than half full, else nothing.

    Args:
        bytes_used: WebAssembly memory at its largest. It grows in steps of the next request, so a request that was too
            large leaves it well below the limit.
        limit: the most that the runtime can have.
    """
    if 2 * bytes_used < limit:
        return ""
    words = f"; the runtime's memory had grown to {bytes_used >> 20} of {limit >> 20} MiB"
    return f"{words}, so the file is likely too large for the browser: export with more --chunks"


def _first_line(error: Exception) -> str:
    text = str(error).removeprefix("Page.evaluate: ")
    return text.splitlines()[0] if text else type(error).__name__


if __name__ == "__main__":
    main(Path(sys.argv[1]))
