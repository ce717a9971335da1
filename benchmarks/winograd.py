"""Measures Winograd's method against plain CONV_2D in LiteRT on this machine's CPU, interleaved in one run.

    python benchmarks/winograd.py layers [--threads 1] [IN,OUT,SIZE ...]
    python benchmarks/winograd.py model blocks|decoder-PIXELS|unet-mid|unet-shapes|decoder-shapes [--threads 1]

`layers` prints one Markdown row per layer: CONV_2D and each output tile, minimum and median of the rounds in
milliseconds, and the prediction. `model` exports a component twice, with the rules of the Android profile and with
`winograd_conv` on top, both with float16 weights, and prints one JSON line: time, peak memory of a process that loads
and runs the file twice, size, operators, error against PyTorch in float32, and what the rule did.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from sdmobile.formats.bundle.contracts import Geometry

LAYERS = (
    (32, 32, 64),
    (64, 64, 64),
    (128, 128, 32),
    (320, 320, 64),
    (960, 320, 64),
    (640, 640, 32),
    (1280, 1280, 16),
    (1280, 1280, 8),
    (512, 512, 64),
    (256, 256, 256),
    (128, 128, 512),
)
TILES = (2, 4, 6)
# SD1.5's widths, two levels of three, one block per level.
_UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640),
    "layers_per_block": 1,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
# Stable Diffusion's autoencoder.
_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
_MEMORY = """
import sys, numpy as np
from ai_edge_litert.interpreter import Interpreter
it = Interpreter(model_path=sys.argv[1], num_threads=1)
it.allocate_tensors()
for d in it.get_input_details():
    it.set_tensor(d["index"], np.zeros(d["shape"], d["dtype"]))
it.invoke(); it.invoke()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def interleaved(paths: list[Path], threads: int, rounds: int) -> list[list[float]]:
    """Returns the milliseconds of every round of every file; in each round all files take their turn."""
    from ai_edge_litert.interpreter import Interpreter

    runners, rng = [], np.random.default_rng(0)
    for path in paths:
        runner = Interpreter(model_path=str(path), num_threads=threads)
        runner.allocate_tensors()
        for detail in runner.get_input_details():
            runner.set_tensor(detail["index"], rng.standard_normal(detail["shape"]).astype(detail["dtype"]))
        runner.invoke()
        runners.append(runner)
    times: list[list[float]] = [[] for _ in runners]
    for _ in range(rounds):
        for runner, row in zip(runners, times, strict=True):
            started = time.perf_counter()
            runner.invoke()
            row.append(1e3 * (time.perf_counter() - started))
    return times


def _layer_file(sizes: tuple[int, int, int], tile: int | None, folder: Path) -> Path:
    """Writes one convolution, channels last at its interface, and returns the file."""
    import litert_torch
    import torch

    from sdmobile.rewrites.engine import rewrite
    from sdmobile.rewrites.winograd.conv import winograd_conv2d
    from sdmobile.rewrites.winograd.rule import WinogradConv

    channels, out, size = sizes

    class Forced(WinogradConv):
        """Every layer with the given tile, whatever is predicted."""

        def check(self, match: Any) -> str | None:
            return None

        def replacement(self, x: Any, weight: Any, bias: Any = None, **options: Any) -> torch.Tensor:
            assert tile is not None
            return winograd_conv2d(x, weight, bias, tile=tile)

        def details(self, match: Any) -> dict[str, Any]:
            return {}

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(channels, out, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    sample = (torch.zeros(1, size, size, channels),)
    program = torch.export.export(Layer().eval(), sample)
    if tile is not None:
        program = rewrite(program, [Forced()]).program
    path = folder / f"{tile or 'direct'}.tflite"
    litert_torch.convert(_callable(program), sample).export(str(path))
    return path


def _callable(program: ExportedProgram) -> torch.nn.Module:
    module = program.module(check_guards=False)
    module.eval = lambda: module  # type: ignore[method-assign]
    module.training = False
    return module


def measure_layers(layers: list[tuple[int, int, int]], threads: int) -> None:
    """Prints the table of single layers."""
    from sdmobile.device_profiles.runtime_rules.conv_layer import ConvLayer
    from sdmobile.rewrites.winograd.selection import CpuTime

    print("| layer | CONV_2D | F(2×2) | F(4×4) | F(6×6) | F(4×4) times as fast | predicted |")
    print("|---|---|---|---|---|---|---|")
    for sizes in layers:
        with tempfile.TemporaryDirectory() as folder:
            files = [_layer_file(sizes, tile, Path(folder)) for tile in (None, *TILES)]
            rows = interleaved(files, threads, 7 if sizes[2] < 256 else 5)
        layer = ConvLayer(1, sizes[:2], (sizes[2], sizes[2]))
        predicted = CpuTime().milliseconds(layer, None) / CpuTime().milliseconds(layer, 4)
        cells = [f"{min(row):.1f} ({statistics.median(row):.1f})" for row in rows]
        ratio = min(rows[0]) / min(rows[2])
        name = f"{sizes[0]}→{sizes[1]} at {sizes[2]}×{sizes[2]}"
        print(f"| {name} | {' | '.join(cells)} | {ratio:.2f} | {predicted:.2f} |", flush=True)


def _component(name: str) -> tuple[str, torch.nn.Module, Geometry]:
    """Returns a component's name, a module with random weights (the bundled ones for -shapes), and its geometry."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from sdmobile.checkpoints import load_model, open_checkpoint
    from sdmobile.formats.bundle.contracts import Geometry
    from sdmobile.reference.geometry import geometry_for

    if name.endswith("-shapes"):
        checkpoint = open_checkpoint(None)
        component = "unet" if name.startswith("unet") else "vae_decoder"
        module = load_model(checkpoint, "unet" if component == "unet" else "vae")
        return component, module, geometry_for(checkpoint, "batch2")
    if name == "unet-mid":
        module = UNet2DConditionModel(**_UNET)
        return "unet", module, Geometry(1, 4, 64, 64, 512, 512, 77, 768)
    pixels = int(name.removeprefix("decoder-"))
    module = AutoencoderKL(**_AUTOENCODER)
    return "vae_decoder", module, Geometry(1, 4, pixels // 8, pixels // 8, pixels, pixels, 77, 768)


def _export(program: ExportedProgram, inputs: tuple[torch.Tensor, ...], path: Path) -> dict[str, int]:
    """Writes a program with float16 weights and returns its operators."""
    import litert_torch

    from sdmobile.formats.tflite.graph import read_facts
    from sdmobile.quantize.tflite_float16 import cast_weights

    full = path.with_suffix(".float32.tflite")
    litert_torch.convert(_callable(program), inputs).export(str(full))
    cast_weights(full, path)
    full.unlink()
    return read_facts(path).operators


def _blocks() -> torch.nn.Module:
    """Returns residual blocks of SD1.5's UNet with random weights: two of 320 channels, then one of 640."""
    import torch
    from diffusers.models.resnet import Downsample2D, ResnetBlock2D

    class Blocks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            wide = {"in_channels": 320, "temb_channels": None}
            self.high = torch.nn.ModuleList([ResnetBlock2D(**wide), ResnetBlock2D(**wide)])
            self.down = Downsample2D(320, use_conv=True)
            self.low = ResnetBlock2D(in_channels=320, out_channels=640, temb_channels=None)  # pyright: ignore

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.permute(0, 3, 1, 2)
            for block in self.high:
                y = block(y, None)
            return self.low(self.down(y), None).permute(0, 2, 3, 1)

    return Blocks()


def _captured(name: str) -> tuple[ExportedProgram, tuple[torch.Tensor, ...]]:
    """Returns a model's program as the Android target takes it, and inputs for it."""
    import torch

    from sdmobile.families import family_named
    from sdmobile.families.contracts import contract_for, wrap
    from sdmobile.reference.capture import capture, example_inputs

    torch.manual_seed(0)
    if name == "blocks":
        inputs = (torch.randn(1, 64, 64, 320),)
        with torch.no_grad():
            return torch.export.export(_blocks().eval(), inputs), inputs
    component, module, geometry = _component(name)
    contract = contract_for(family_named("stable-diffusion"), "android", component, geometry)
    program, _ = capture(
        wrap("android", family_named("stable-diffusion").component(component), module.eval()), contract
    )
    return program, example_inputs(contract)


def measure_model(name: str, threads: int, rounds: int) -> None:
    """Prints what the rule does to one model."""
    from sdmobile.device_profiles import default_profile
    from sdmobile.rewrites.engine import rewrite
    from sdmobile.rewrites.program import run
    from sdmobile.rewrites.registry import rules_for
    from sdmobile.rewrites.winograd.rule import WinogradConv

    program, inputs = _captured(name)
    reference = run(program, inputs)[0].numpy()
    rules = [r for r in rules_for(default_profile("android")) if r.name != WinogradConv.name]
    row: dict[str, Any] = {"model": name, "threads": threads}
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for label, selected in (("plain", rules), ("winograd", [*rules, WinogradConv()])):
            rewritten = rewrite(program, selected)
            files.append(Path(folder) / f"{label}.tflite")
            started = time.perf_counter()
            operators = _export(rewritten.program, inputs, files[-1])
            row[label] = {"export_s": round(time.perf_counter() - started, 1), "operators": sum(operators.values())}
            row[label] |= _facts(files[-1], inputs, reference)
            row["layers"] = _did(rewritten.records)
        for label, times in zip(("plain", "winograd"), interleaved(files, threads, rounds), strict=True):
            row[label] |= {"min_ms": round(min(times), 1), "median_ms": round(statistics.median(times), 1)}
    row["times_as_fast"] = round(row["plain"]["min_ms"] / row["winograd"]["min_ms"], 2)
    row["peak_ratio"] = round(row["winograd"]["peak_mib"] / row["plain"]["peak_mib"], 2)
    print(json.dumps(row, ensure_ascii=False), flush=True)


def _facts(path: Path, inputs: tuple[torch.Tensor, ...], reference: np.ndarray) -> dict[str, Any]:
    """Returns size, peak memory and error of a file; its inputs are told apart by their shapes."""
    from ai_edge_litert.interpreter import Interpreter

    from sdmobile.basics.metrics import psnr

    peak = int(subprocess.run([sys.executable, "-c", _MEMORY, str(path)], capture_output=True, check=True).stdout)
    signature = Interpreter(model_path=str(path)).get_signature_runner()
    by_shape = {tuple(t.shape): t.numpy() for t in inputs}
    details = signature.get_input_details()
    output = next(iter(signature(**{n: by_shape[tuple(details[n]["shape"])] for n in details}).values()))
    error = round(float(psnr(reference, output)), 1)
    return {"file_mib": round(path.stat().st_size / 2**20, 1), "peak_mib": round(peak / 1024), "psnr_db": error}


def _did(records: Any) -> dict[str, Any]:
    """Returns how many layers took which tile, and the reasons of the others."""
    mine = [r for r in records if r.rule == "winograd_conv"]
    tiles = Counter(f"F({r.details['tile']})" for r in mine if r.outcome == "applied")
    return {**tiles, "refused": dict(Counter(_kind(r.reason or "") for r in mine if r.outcome == "refused"))}


def _kind(reason: str) -> str:
    """Returns a refusal without the sizes of the one layer."""
    if reason.startswith("predicted"):
        return "no gain predicted"
    return "over the budget of weights" if "MB of weights" in reason else reason.split(";")[0]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("layers", "model"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if given.what == "layers":
        chosen = [tuple(int(v) for v in text.split(",")) for text in given.names]
        measure_layers(chosen or list(LAYERS), given.threads)  # type: ignore[arg-type]
    for name in given.names if given.what == "model" else ():
        measure_model(name, given.threads, given.rounds)


if __name__ == "__main__":
    main()
