"""Google's GPU engine on the iPhones' GPUs (Metal), which is not Core ML: one parameter from one published total.

Published for Apple GPUs are two totals of Macs: Stable Diffusion 1.4, 512x512 pixels, 20 iterations, end to end (ML
Drift, arXiv 2505.00232). The efficiency of dense kernels is set such that the total of the M4 Pro, one die like the
phones' chips, comes out. The M1 Ultra, two dies whose number of cores the paper does not give, is left for a check. The
reduction by all optimisations on an iPhone 14 Pro Max (arXiv 2304.11267) is a check, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.calibration.ablation import AblationRow, ablation
from benchmarks.calibration.iphone_rows import CHIPS, Chip, gpu_macs
from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels
from sdmobile.prediction.latency import Parameters, UnitModel, predict
from sdmobile.prediction.pipeline_time import end_to_end

STEPS = 20
BANDWIDTH_SHARE = 0.8  # of the memory's peak; assumed
DISPATCH, FIXED = 5e-6, 1e-3  # seconds per command and per inference; assumed
DEPTHWISE = 0.05  # no Stable Diffusion has such kernels; assumed
_DENSE = ("conv", "matmul", "winograd", "attention")
_COMPONENTS = ("text_encoder", "unet", "vae_decoder")


@dataclass(frozen=True)
class MacTotal:
    """A published total of Stable Diffusion 1.4 under ML Drift's Metal backend."""

    chip: Chip
    seconds: float
    note: str


TOTALS: Mapping[str, MacTotal] = {
    "M4 Pro": MacTotal(Chip(0.0, gpu_macs(20, 1.578), 273e9, ""), 5.34, "20-core GPU"),
    "M1 Ultra": MacTotal(CHIPS["M1 Ultra, 64 cores"], 3.86, "64 cores taken; 48 would be possible"),
}


def metal_unit(chip: Chip, efficiency: float, name: str = "gpu-metal") -> UnitModel:
    """Returns the model of an Apple GPU under ML Drift.

    Args:
        chip: its peaks.
        efficiency: of dense kernels.
        name: of the unit.
    """
    parts = {**dict.fromkeys(_DENSE, efficiency), "depthwise": DEPTHWISE}
    parameters = Parameters(parts, BANDWIDTH_SHARE * chip.dram, DISPATCH, FIXED)
    return UnitModel(name, chip.gpu_macs, parameters)


def total(unit: UnitModel) -> float:
    """Returns the predicted seconds of an image of 20 iterations with guidance at batch 2, without Winograd's method.

    The engine's own Stable Diffusion, of which the totals are, forbids that method for all three parts
    (kNoWinogradOptimizations in google-ai-edge/ml-drift `ml_drift/samples/stable_diffusion/`).
    """
    graphs = (stored_graph(f"sd15_512_{name}") for name in _COMPONENTS)
    launched = (ml_drift_kernels(graph, Gpu.OTHER, winograd=None) for graph in graphs)
    text, denoiser, decoder = (predict(kernels, unit) for kernels in launched)
    return end_to_end(text, denoiser, decoder, STEPS, "batch2").seconds


def dense_efficiency() -> float:
    """Returns the efficiency with which the total of the M4 Pro comes out."""
    from scipy.optimize import brentq

    known = TOTALS["M4 Pro"]

    def excess(efficiency: float) -> float:
        return total(metal_unit(known.chip, efficiency)) - known.seconds

    return float(brentq(excess, 0.1, 1.0, xtol=1e-4))  # pyright: ignore[reportArgumentType]


def phone_ablation(chip: str, efficiency: float) -> tuple[AblationRow, ...]:
    """Returns what each optimisation of the paper saves on a phone's GPU, in a call of batch 2.

    Args:
        chip: key of `CHIPS`.
        efficiency: of dense kernels.
    """
    return ablation(stored_graph("sd15_512_unet"), metal_unit(CHIPS[chip], efficiency), Gpu.OTHER)
