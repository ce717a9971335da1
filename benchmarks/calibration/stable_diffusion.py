"""Stable Diffusion 1.4 on the S23 Ultra under Google's current engine: one parameter from the one published total.

ML Drift runs convolutions and matrix products faster than the classic delegate that ran the vision models; no times of
single models by it on this GPU are published. So bandwidth, dispatch and fixed cost are the delegate's, and one factor
on the rates of dense kernels is set such that the published total comes out: 11.5 s for 512x512 pixels and 20
iterations, with guidance at batch 2 (arXiv 2304.11267). That total is therefore no check of the model, and nothing else
of that paper can be one with the factor: its reduction by all optimisations is predicted from the delegate's fit alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from benchmarks.calibration.ablation import AblationRow, ablations
from benchmarks.calibration.adreno import PEAK_MACS, model_parameters
from benchmarks.calibration.stored import stored_graph
from sdmobile.device_profiles import load_profile
from sdmobile.device_profiles.runtime_rules.winograd import Gpu
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction.kernels.google_gpu import ml_drift_kernels
from sdmobile.prediction.latency import Parameters, UnitModel, predict, unit_model
from sdmobile.prediction.pipeline_time import ImageTime, end_to_end

PUBLISHED_TOTAL = 11.5  # seconds, 20 iterations
STEPS = 20
DENSE = ("conv", "winograd", "matmul", "attention")
COMPONENTS = ("text_encoder", "unet", "vae_decoder")


def unet() -> FileGraph:
    """Returns the UNet of Stable Diffusion 1.x at 512 pixels and batch 2, with composites."""
    return stored_graph("sd15_512_unet")


def faster(parameters: Parameters, factor: float) -> Parameters:
    """Returns parameters with the efficiencies and rates of dense kernels multiplied by a factor."""

    def changed(values: Mapping[str, float]) -> dict[str, float]:
        return {category: value * (factor if category in DENSE else 1.0) for category, value in values.items()}

    return replace(parameters, efficiency=changed(parameters.efficiency), fetch_rate=changed(parameters.fetch_rate))


def image_time(unit: UnitModel, gpu: Gpu = Gpu.ADRENO_7XX) -> ImageTime:
    """Returns the predicted time of one image of 20 iterations with guidance at batch 2."""
    graphs = (stored_graph(f"sd15_512_{name}") for name in COMPONENTS)
    text, denoiser, decoder = (predict(ml_drift_kernels(graph, gpu), unit) for graph in graphs)
    return end_to_end(text, denoiser, decoder, STEPS, "batch2")


def engine_factor(delegate: Parameters) -> float:
    """Returns how much faster than the delegate's the engine's dense kernels are if the published total comes out.

    Args:
        delegate: the classic delegate's parameters.
    """
    from scipy.optimize import brentq

    def excess(factor: float) -> float:
        return image_time(UnitModel("gpu", PEAK_MACS, faster(delegate, factor))).seconds - PUBLISHED_TOTAL

    most = 1.0 / max(delegate.efficiency[category] for category in DENSE)  # no more than the peak
    return float(brentq(excess, 0.1, most, xtol=1e-6))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Phone:
    """A phone's GPU under Google's engine.

    Args:
        unit: the unit's model.
        gpu: the family of GPUs that the engine's rules tell apart.
    """

    unit: UnitModel
    gpu: Gpu


def engine_unit(delegate: Mapping[str, float]) -> UnitModel:
    """Returns the S23 Ultra's GPU under Google's engine, with the one factor.

    Args:
        delegate: fitted values of the classic delegate.
    """
    fitted = model_parameters(delegate)
    return UnitModel("gpu", PEAK_MACS, faster(fitted, engine_factor(fitted)))


def phones(delegate: Mapping[str, float] | None = None) -> dict[str, Phone]:
    """Returns the phones of the paper's ablation, by values that nothing of the paper was used for.

    Args:
        delegate: fitted values of the classic delegate on the S23 Ultra; None for those of its profile. The iPhone's
            unit is its profile's.
    """
    adreno = (
        _profile_unit("galaxy-s23-ultra", "tflite-gpu")
        if delegate is None
        else UnitModel("gpu", PEAK_MACS, model_parameters(delegate))
    )
    return {
        "galaxy-s23-ultra": Phone(adreno, Gpu.ADRENO_7XX),
        "iphone-14-pro-max": Phone(_profile_unit("iphone-14-pro-max", "gpu-metal"), Gpu.OTHER),
    }


def _profile_unit(device: str, name: str) -> UnitModel:
    profile = load_profile(device)
    return unit_model(name, profile.units[name], profile.latency[name])


def published_ablation(delegate: Mapping[str, float] | None = None) -> dict[str, tuple[AblationRow, ...]]:
    """Returns the paper's ablation on both phones, by cumulative step.

    Args:
        delegate: as of `phones`.
    """
    chosen = phones(delegate)
    return ablations(unet(), {name: (phone.unit, phone.gpu) for name, phone in chosen.items()})
