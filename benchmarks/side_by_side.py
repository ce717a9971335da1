"""The android UNet (or another component) by sdmobile's rules for CPUs, beside plain tools, interleaved in one run.

    python benchmarks/side_by_side.py [--checkpoint DIR] [--component unet] [--rounds 3] [--repeats 3] [--threads 2]

Contenders: sdmobile's file for the device `android-cpu`; the plain `litert_torch.convert` of the same Diffusers module
(float32, and with weights cast to float16 as in sdmobile's files); ONNX Runtime on sdmobile's float32 export; PyTorch
eager. Each runs in a process of its own, in turns: load, warm up, timed runs, end. Prints a Markdown table of medians,
ratios against the plain conversion, peak memory and error against PyTorch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

GIB = 2**30


def worker(kind: str, path: Path, inputs: Path, threads: int, repeats: int) -> None:
    """Times one contender in this process and prints a JSON line: milliseconds, peak memory, seconds to load."""
    from sdmobile.basics.memory import peak_resident_bytes

    with np.load(inputs) as arrays:
        given = {name: arrays[name] for name in arrays.files if name != "expected"}
        expected = arrays["expected"]
    started = time.perf_counter()
    run = _LOADERS[kind](path, given, threads)
    output = run()
    ready = time.perf_counter() - started
    milliseconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        milliseconds.append(1e3 * (time.perf_counter() - started))
    from sdmobile.basics.metrics import psnr

    if output.shape != expected.shape:
        output = output.transpose(0, 3, 1, 2)  # sdmobile's files are channels-last at the interface
    row = {
        "ms": milliseconds,
        "ready_s": ready,
        "peak_rss_bytes": peak_resident_bytes(),
        "psnr_db": psnr(expected, output),
    }
    print(json.dumps(row))


def _litert(path: Path, given: dict[str, Any], threads: int) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path), num_threads=threads).get_signature_runner()
    names = {name.split("_")[-1]: name for name in runner.get_input_details()}
    if "args_0" in runner.get_input_details():  # the plain conversion numbers its inputs
        named = {names[str(index)]: array for index, array in enumerate(given.values())}
    else:
        named = {n: a.transpose(0, 2, 3, 1) if a.ndim == 4 else a for n, a in given.items()}
    return lambda: next(iter(runner(**named).values()))


def _onnx(path: Path, given: dict[str, Any], threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, given)[0]


def _torch(path: Path, given: dict[str, Any], threads: int) -> Callable[[], Any]:
    import torch

    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.reference.torch_runner import TorchRunner

    torch.set_num_threads(threads)
    runner = TorchRunner(open_checkpoint(path))
    component = next(name for name, keys in _INPUTS.items() if set(given) == keys)
    return lambda: next(iter(runner.run(component, given).values()))


_INPUTS = {
    "text_encoder": {"input_ids"},
    "unet": {"sample", "timestep", "encoder_hidden_states"},
    "vae_decoder": {"latent"},
    "vae_encoder": {"image"},
}
_LOADERS = {"litert": _litert, "ort": _onnx, "torch": _torch}


def plain_file(checkpoint: Path, component: str, output: Path) -> None:
    """Converts Diffusers' own module with `litert_torch.convert`, channels first, in this process."""
    import litert_torch
    import torch

    from sdmobile.checkpoints import open_checkpoint
    from sdmobile.families.contracts import contract_for
    from sdmobile.reference.capture import example_inputs
    from sdmobile.reference.geometry import geometry_for
    from sdmobile.reference.subject import wrapped_component

    opened = open_checkpoint(checkpoint)
    contract = contract_for(opened.family, "onnx", component, geometry_for(opened, "batch2"))  # the canonical layout
    module = wrapped_component(opened, "onnx", component)
    with torch.no_grad():
        litert_torch.convert(module, example_inputs(contract)).export(str(output))


def prepare(checkpoint: Path | None, component: str, work: Path) -> tuple[dict[str, tuple[str, Path]], Path]:
    """Makes every contender's file and the inputs that all get; files of an earlier run are used again."""
    from sdmobile.checkpoints import bundled_checkpoint, open_checkpoint
    from sdmobile.exporters.job import ExportJob
    from sdmobile.exporters.process import run_component
    from sdmobile.families.contracts import contract_for
    from sdmobile.quantize.tflite_float16 import cast_weights
    from sdmobile.reference.component_inputs import recorded_samples
    from sdmobile.reference.geometry import geometry_for

    source = checkpoint or bundled_checkpoint()
    found: dict[str, tuple[str, Path]] = {}
    for name, target, device in (("sdmobile, android-cpu", "android", "android-cpu"), ("ONNX Runtime", "onnx", "cpu")):
        folder = work / device
        folder.mkdir(parents=True, exist_ok=True)
        contract = contract_for(
            open_checkpoint(source).family, target, component, geometry_for(open_checkpoint(source), "batch2")
        )
        path = folder / contract.file_name
        if not path.exists():
            run_component(ExportJob(source, component, target, device, "batch2", None, folder), folder, lambda _: None)
        found[name] = ("litert" if target == "android" else "ort", path)
    plain = work / "plain.tflite"
    if not plain.exists():
        arguments = ["--make-plain", str(plain), "--checkpoint", str(source), "--component", component]
        subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.DEVNULL)
    half = work / "plain-float16.tflite"
    if not half.exists():
        cast_weights(plain, half)
    found |= {"plain litert_torch": ("litert", plain), "plain, float16 weights": ("litert", half)}
    found["PyTorch eager"] = ("torch", source)
    inputs = work / "inputs.npz"
    if not inputs.exists():
        opened = open_checkpoint(source)
        sample = recorded_samples(opened, component, geometry_for(opened, "batch2"))[-1]
        np.savez(inputs, **sample.inputs, expected=next(iter(sample.outputs.values())))  # type: ignore[arg-type]
    return found, inputs


def main() -> None:
    """Runs the benchmark and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="without it, the bundled one")
    parser.add_argument("--component", default="unet")
    parser.add_argument("--work", type=Path, default=Path("build/side-by-side"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--make-plain", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make_plain:
        plain_file(arguments.checkpoint, arguments.component, arguments.make_plain)
        return
    if arguments.worker:
        kind, path, inputs = arguments.worker
        worker(kind, Path(path), Path(inputs), arguments.threads, arguments.repeats)
        return
    contenders, inputs = prepare(arguments.checkpoint, arguments.component, arguments.work)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(arguments.rounds):
        for name, (kind, path) in contenders.items():
            command = [sys.executable, __file__, "--worker", kind, str(path), str(inputs)]
            command += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    _print(rows)


def _print(rows: dict[str, list[dict[str, Any]]]) -> None:
    medians = {name: statistics.median(ms for row in found for ms in row["ms"]) for name, found in rows.items()}
    peaks = {name: max(row["peak_rss_bytes"] for row in found) for name, found in rows.items()}
    base = "plain litert_torch"
    print("| contender | median ms | spread | times faster than plain | peak GiB | of plain | ready s | dB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, found in rows.items():
        every = [ms for row in found for ms in row["ms"]]
        print(
            f"| {name} | {medians[name]:.1f} | {min(every):.1f}–{max(every):.1f} | {medians[base] / medians[name]:.2f} "
            f"| {peaks[name] / GIB:.2f} | {peaks[name] / peaks[base]:.2f} "
            f"| {statistics.median(row['ready_s'] for row in found):.1f} | {found[0]['psnr_db']:.1f} |"
        )


if __name__ == "__main__":
    main()
