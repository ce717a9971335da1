"""Speed and memory of the Core ML evaluator beside torch eager, on the UNet of one checkpoint.

Each runner is a process of its own, so that peak memory is its own; their forward passes alternate, so that other load
on the machine meets all alike. Needs a bundle made by `sdmobile export CHECKPOINT --target ios --components unet`.

    python benchmarks/evaluator.py CHECKPOINT BUNDLE/Unet.mlpackage [--rounds 3] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SMALLEST = 2048
"""Weights of fewer elements stay float16, as coremltools leaves them by default."""
BITS = 6
WEIGHTS = Path("weights/weight.bin")


@dataclass(frozen=True)
class Figures:
    """What one runner measured.

    Args:
        load_s: until the first forward pass could start; for the 6-bit package all weights are decoded by then.
        load_cpu_s: processor time of the same.
        forward_s: each forward pass but the first.
        cpu_s: processor time of the same passes, which other load disturbs less.
        peak_gib: highest resident memory, mapped weight files included.
        difference: ‖result − torch's‖ / ‖torch's‖.
    """

    load_s: float
    load_cpu_s: float
    forward_s: list[float]
    cpu_s: list[float]
    peak_gib: float
    difference: float


def inputs(channels: int, size: int, text: int) -> dict[str, np.ndarray]:
    """Returns two rows of guidance: latents, timesteps and text features in the layout of a Diffusers UNet."""
    random = np.random.default_rng(0)
    return {
        "sample": random.standard_normal((2, channels, size, size)).astype(np.float32),
        "timestep": np.full(2, 500, np.float32),
        "encoder_hidden_states": random.standard_normal((2, 77, text)).astype(np.float32),
    }


def open_torch(path: Path, given: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """Returns the forward pass of the checkpoint's UNet in float32."""
    import torch
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(path / "unet", dtype=torch.float32).eval()  # type: ignore[attr-defined]
    tensors = {name: torch.from_numpy(array) for name, array in given.items()}

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return unet(**tensors, return_dict=False)[0].numpy()

    return forward


def open_package(path: Path, given: dict[str, np.ndarray]) -> Callable[[], np.ndarray]:
    """Returns the forward pass of a package, its compressed weights decoded."""
    from sdmobile.validate import MLProgram

    program = MLProgram(path)
    program.decode_weights()
    by_rank = {array.ndim: array for array in given.values()}
    arranged = {name: _arranged(by_rank[4 if "sample" in name else 1 if "time" in name else 3], shape)
                for name, (shape, _) in program.inputs.items()}  # fmt: skip
    return lambda: next(iter(program.predict(arranged).values()))


def _arranged(array: np.ndarray, shape: tuple[int | None, ...]) -> np.ndarray:
    """Returns an input in the layout of the package: text features as [n, channels, 1, tokens] if it wants them so."""
    if array.ndim == 3 and len(shape) == 4:
        array = array.transpose(0, 2, 1)[:, :, None]
    return np.ascontiguousarray(array)


def serve(kind: str, path: Path, given: dict[str, np.ndarray], threads: int, pipe: Any) -> None:
    """Opens a runner and answers each "run" with seconds and result, then "stop" with its peak memory."""
    import torch

    torch.set_num_threads(threads)
    start, cpu = time.perf_counter(), time.process_time()
    forward = (open_torch if kind == "torch" else open_package)(path, given)
    pipe.send((time.perf_counter() - start, time.process_time() - cpu))
    while pipe.recv() == "run":
        start, cpu = time.perf_counter(), time.process_time()
        result = forward()
        pipe.send((time.perf_counter() - start, time.process_time() - cpu, result))
    status = Path("/proc/self/status").read_text(encoding="ascii")
    pipe.send(int(status.split("VmHWM:")[1].split()[0]) / 2**20)


def measure(runners: dict[str, Path], given: dict[str, np.ndarray], rounds: int, threads: int) -> dict[str, Figures]:
    """Opens each runner in its process, one after the other, and lets their forward passes alternate."""
    context = multiprocessing.get_context("spawn")
    pipes, load, results = {}, {}, {}
    passes: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for name, path in runners.items():
        pipes[name], end = context.Pipe()
        context.Process(target=serve, args=(name, path, given, threads, end), daemon=True).start()
        load[name] = pipes[name].recv()
        print("{}: opened in {:.1f} s, {:.1f} s of processor time".format(name, *load[name]), file=sys.stderr)
    for round_ in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send("run")
            took, cpu, results[name] = pipe.recv()
            print(f"{name}: {took:.2f} s, {cpu:.2f} s of processor time", file=sys.stderr)
            if round_:  # the first pass warms caches and thread pools
                passes[name].append((took, cpu))
    for pipe in pipes.values():
        pipe.send("stop")
    reference = results["torch"]
    return {
        name: Figures(
            round(load[name][0], 2),
            round(load[name][1], 2),
            [round(took, 3) for took, _ in passes[name]],
            [round(cpu, 3) for _, cpu in passes[name]],
            round(pipe.recv(), 2),
            float(np.linalg.norm(results[name] - reference) / np.linalg.norm(reference)),
        )
        for name, pipe in pipes.items()
    }


def palette(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a uniform palette of 64 float16 values and the indices, four of them packed into three bytes."""
    low, high = float(weight.min()), float(weight.max())
    scale = (2**BITS - 1) / (high - low)
    indices = np.rint((weight.reshape(-1).astype(np.float32) - low) * scale).astype(np.uint32)
    indices = np.concatenate([indices, np.zeros(-len(indices) % 4, np.uint32)]).reshape(-1, 4)
    words = indices[:, 0] | indices[:, 1] << 6 | indices[:, 2] << 12 | indices[:, 3] << 18
    packed = words.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    return np.linspace(low, high, 2**BITS).astype(np.float16), packed.reshape(-1)[: -(-weight.size * BITS // 8)]


def palettise(source: Path, target: Path) -> None:
    """Writes a package with 6-bit `constexpr_lut_to_dense` of iOS 16 in place of each large float16 weight."""
    from coremltools.proto import MIL_pb2, Model_pb2

    from sdmobile.formats.mlprogram.blob_writer import BlobWriter
    from sdmobile.formats.mlprogram.constants import WeightReader
    from sdmobile.formats.mlprogram.package import open_package
    from sdmobile.formats.mlprogram.write import BlobCopier, stored_type

    shutil.copytree(source, target, ignore=shutil.ignore_patterns("weight.bin"))
    model_path = open_package(target).model
    model: Any = Model_pb2.Model()  # type: ignore[attr-defined]
    model.ParseFromString(model_path.read_bytes())
    reader = WeightReader(source)
    (model_path.parent / WEIGHTS).parent.mkdir(exist_ok=True)
    types: Any = MIL_pb2  # generated at run time

    def add_value(op: Any, name: str, array: np.ndarray, writer: BlobWriter) -> None:
        tensor = op.attributes[name].type.tensorType
        tensor.dataType, tensor.rank = types.DataType.Value(array.dtype.name.upper()), array.ndim
        for size in array.shape:
            tensor.dimensions.add().constant.size = size
        blob = op.attributes[name].blobFileValue
        blob.fileName, blob.offset = "@model_path/weights/weight.bin", writer.add(array, array.dtype.name)

    with BlobWriter(model_path.parent / WEIGHTS) as writer:
        copier = BlobCopier(reader, writer)
        for function in model.mlProgram.functions.values():
            for op in function.block_specializations[function.opset].operations:
                if op.type != "const" or not op.attributes["val"].HasField("blobFileValue"):
                    continue
                value = op.attributes["val"]
                stored = stored_type(value)
                weight = reader.read_blob(value.blobFileValue.fileName, value.blobFileValue.offset, stored)
                if stored.dtype != "float16" or weight.size < SMALLEST or weight.min() == weight.max():
                    copier.move(value)
                    continue
                lut, indices = palette(weight)
                op.type = "constexpr_lut_to_dense"
                del op.attributes["val"]
                add_value(op, "indices", indices, writer)
                add_value(op, "lut", lut, writer)
                add_value(op, "shape", np.array(stored.sizes, np.uint32), writer)
    model_path.write_bytes(model.SerializeToString())


def main() -> None:
    """Measures and prints JSON: the figures of each runner and the ratios to torch."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--six-bit", type=Path, help="a 6-bit package made before; without it one is made and removed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    config = json.loads((options.checkpoint / "unet/config.json").read_text(encoding="utf-8"))
    given = inputs(config["in_channels"], config["sample_size"], config["cross_attention_dim"])
    with tempfile.TemporaryDirectory() as folder:
        six_bit = options.six_bit or Path(folder) / "six-bit.mlpackage"
        if not six_bit.exists():
            palettise(options.package, six_bit)
        runners = {"torch": options.checkpoint, "package": options.package, "six-bit package": six_bit}
        figures = measure(runners, given, options.rounds, options.threads)
    print(json.dumps({name: asdict(each) | ratios(each, figures["torch"]) for name, each in figures.items()}, indent=2))


def ratios(figures: Figures, reference: Figures) -> dict[str, float]:
    """Returns median time, median processor time and peak memory relative to a reference."""
    return {
        "forward_ratio": round(statistics.median(figures.forward_s) / statistics.median(reference.forward_s), 2),
        "cpu_ratio": round(statistics.median(figures.cpu_s) / statistics.median(reference.cpu_s), 2),
        "peak_ratio": round(figures.peak_gib / reference.peak_gib, 2),
    }


if __name__ == "__main__":
    main()
