"""Recovery without data: biases and table scales that undo a layer's systematic error, where measured to help.

W̃ differs from W by a fixed ΔW, so that its output is off by ΔW·x: by E[ΔW·x] on average, and by a factor where the
values shrank. Both can be absorbed in numbers that the file stores anyway, at no run-time cost.

recorded inputs ─▶ a factor per layer ─▶ keep by the output for other prompts ─▶ measure on a third set

What is written to files are the factors. Biases need other constants of the file, and bring a tenth of what they do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.quantize.encodings import encode, misfit
from sdmobile.quantize.recipes import Recipe, flat_path
from sdmobile.quantize.records import Watch, told
from sdmobile.quantize.schemes import Float16
from sdmobile.quantize.sensitivity_study import (
    ANALYSIS_PROMPTS,
    JUDGING_PROMPTS,
    JUDGING_SEED,
    SELECTION_PROMPTS,
    SELECTION_SEED,
    Study,
    open_study,
    recorded,
    requests_for,
    rows_of,
)
from sdmobile.quantize.sensitivity_work import silent

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.quantize.sensitivity_study import Quality
    from sdmobile.quantize.sensitivity_work import Tell

STEPS = 20
MAX_SAMPLES = 15
DECIDING_ROWS = 10


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over recorded activations of one layer, exact y and compressed ỹ without the bias.

    Args:
        shift: [output channels] mean of y − ỹ.
        cross: Σ y·ỹ over everything.
        square: Σ ỹ².
    """

    shift: NDArray[np.float64]
    cross: float
    square: float

    @property
    def scale(self) -> float:
        """The factor on ỹ with the least squared error, Σ y·ỹ / Σ ỹ²; 1 where ỹ is zero."""
        return self.cross / self.square if self.square > 0 else 1.0


@dataclass(frozen=True, eq=False)
class Correction:
    """New biases and scales.

    Args:
        biases: float32 [output channels] by layer, in place of the old ones.
        scales: factor on the layer's decoded weight (on a palette's table, or on a linear scheme's scales).
        before_db: PSNR of the output on the judging inputs without any correction.
        after_db: with what was kept.
        tried: layers times kinds that were tried.
    """

    biases: Mapping[str, NDArray[np.float32]]
    scales: Mapping[str, float]
    before_db: float
    after_db: float
    tried: int

    def to_json(self) -> dict[str, Any]:
        """Returns what was kept and what it brought."""
        return {
            "biases": sorted(self.biases),
            "scales": dict(self.scales),
            "tried": self.tried,
            "before_db": round(self.before_db, 3),
            "after_db": round(self.after_db, 3),
        }


def moments(study: Study, weights: Mapping[str, NDArray[Any]]) -> dict[str, Moments]:
    """Collects the moments of every compressed layer on the exact trajectory, one layer's error at a time.

    Source: the empirical bias correction of Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction" (arXiv 1906.04721), section 4.2 and appendix D, on recorded inputs.

    Args:
        study: the component with recorded inputs.
        weights: decoded weights by layer.
    """
    import torch

    sums: dict[str, list[Any]] = {}
    owners = layer_modules(study.module, weights)

    def hook(name: str) -> Any:
        changed = torch.from_numpy(np.asarray(weights[name], np.float32))

        def see(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            compressed = applied(module, inputs[0], changed)
            exact = applied(module, inputs[0], module.weight)  # pyright: ignore[reportArgumentType]
            axes = (0, 2, 3) if output.ndim == 4 else tuple(range(output.ndim - 1))
            entry = sums.setdefault(name, [0.0, 0, 0.0, 0.0])
            entry[0] = entry[0] + (exact - compressed).double().sum(axes).numpy()
            entry[1] += output.numel() // len(entry[0])
            entry[2] += float((exact.double() * compressed.double()).sum())
            entry[3] += float(compressed.double().square().sum())

        return see

    handles = [module.register_forward_hook(hook(name)) for name, module in owners.items()]
    try:
        study.outputs()
    finally:
        for handle in handles:
            handle.remove()
    return {name: Moments(shift / count, cross, square) for name, (shift, count, cross, square) in sums.items()}


def layer_modules(module: nn.Module, names: Mapping[str, Any]) -> dict[str, Any]:
    """Returns convolutions and linear layers by the names that recipes know them by."""
    import torch

    modules = {path.removeprefix("component."): child for path, child in module.named_modules()}
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    return {name: modules[name] for name in names if isinstance(modules.get(name), kinds)}


def applied(module: nn.Module, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Returns a convolution or linear layer's output with another weight and no bias."""
    import torch

    if isinstance(module, torch.nn.Conv2d):
        return module._conv_forward(value, weight, None)
    return torch.nn.functional.linear(value, weight)


def corrected(
    fit: Study,
    judge: Study,
    weights: Mapping[str, NDArray[Any]],
    layers: Sequence[str] | None = None,
    tell: Tell = silent,
    biases_too: bool = True,
) -> Correction:
    """Fits a bias and a scale per layer and keeps each only if it lowers the output's error on other inputs.

    The layers are gone through in the order of the module, each judged with what was kept before it. A layer without a
    bias can only be scaled.

    Args:
        fit: the component with the inputs that corrections are fitted to.
        judge: the same component with inputs of other prompts.
        weights: decoded weights by layer.
        layers: which to try; None for all.
        tell: sees (what, finished, all).
        biases_too: False to fit scales alone.
    """
    fitted = moments(fit, weights)
    owners = layer_modules(judge.module, fitted)
    exact = judge.outputs()
    kept: dict[str, NDArray[Any]] = dict(weights)
    biases: dict[str, NDArray[np.float32]] = {}
    scales: dict[str, float] = {}
    best = before = judge.quality(exact, weights)
    names = [name for name in fitted if layers is None or name in layers]
    for done, name in enumerate(names):
        tell("correcting", done, len(names))
        bias = owners[name].bias if biases_too else None
        if bias is not None:
            trial = biases | {name: (bias.detach().numpy() + fitted[name].shift).astype(np.float32)}
            measured = _quality(judge, exact, owners, kept, trial)
            if measured.mse < best.mse:
                best, biases = measured, trial
        scaled = kept | {name: np.asarray(kept[name], np.float32) * np.float32(fitted[name].scale)}
        measured = _quality(judge, exact, owners, scaled, biases)
        if measured.mse < best.mse:
            best, kept, scales = measured, scaled, scales | {name: fitted[name].scale}
    tried = len(names) + (sum(owners[name].bias is not None for name in names) if biases_too else 0)
    return Correction(biases, scales, before.psnr_db, best.psnr_db, tried)


def _quality(
    judge: Study,
    exact: Sequence[NDArray[np.float32]],
    owners: Mapping[str, Any],
    weights: Mapping[str, NDArray[Any]],
    biases: Mapping[str, NDArray[np.float32]],
) -> Quality:
    """Measures the output with other weights and biases, and puts the biases back."""
    import torch

    old = {name: owners[name].bias.data for name in biases}
    try:
        for name, bias in biases.items():
            owners[name].bias.data = torch.from_numpy(bias)
        return judge.quality(exact, weights)
    finally:
        for name, data in old.items():
            owners[name].bias.data = data


@dataclass(frozen=True)
class FittedScales:
    """Factors of one component's layers, and what they bring on inputs that decided nothing.

    Args:
        scales: factor on the decoded weight by module path; empty where held-out inputs did not agree.
        tried: layers for which a factor was fitted.
        before_db: PSNR of the output on held-out inputs without factors.
        after_db: with those that lowered the error on the deciding inputs, kept or not.
        settings: prompts, seeds and steps.
    """

    scales: Mapping[str, float]
    tried: int
    before_db: float
    after_db: float
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def flat(self) -> dict[str, float]:
        """Factors by module as exported files spell it, with underscores for dots."""
        return {flat_path(name): factor for name, factor in self.scales.items()}

    def to_json(self) -> dict[str, Any]:
        """Returns the facts that a manifest keeps."""
        return {
            "kept": len(self.scales),
            "tried": self.tried,
            "held_out_before_db": round(self.before_db, 2),
            "held_out_after_db": round(self.after_db, 2),
            "scales": {name: round(scale, 6) for name, scale in self.scales.items()},
            **({"settings": dict(self.settings)} if self.settings else {}),
        }


def fit_components(
    checkpoint: Checkpoint, correctable: Mapping[str, Collection[str]], recipe: Recipe, watch: Watch
) -> dict[str, FittedScales]:
    """Fits the factors of several components.

    Args:
        checkpoint: the source of the weights.
        correctable: by component, the layers that may get a factor.
        recipe: what each weight becomes.
        watch: called with component and event.
    """
    from sdmobile.reference.recording_cache import default_recordings_dir

    fitted: dict[str, FittedScales] = {}
    for component, names in correctable.items():
        with told(watch, component, "correct"):
            fitted[component] = fit_scales(checkpoint, component, recipe, names, default_recordings_dir())
    return fitted


def fit_scales(
    checkpoint: Checkpoint,
    component: str,
    recipe: Recipe,
    names: Collection[str] | None = None,
    recordings: Path | None = None,
    tell: Tell = silent,
) -> FittedScales:
    """Fits the factors of one component on real trajectories of its checkpoint.

    Args:
        checkpoint: the source of the weights.
        component: canonical name.
        recipe: what each weight becomes.
        names: layers that may get a factor, dots and underscores being the same; None for all.
        recordings: cache of recordings, None for none.
        tell: sees (what, finished, all).
    """

    def requests(prompts: tuple[str, ...], seed: int) -> Any:
        return requests_for(checkpoint, prompts, STEPS, seed)

    fit = open_study(checkpoint, component, requests(ANALYSIS_PROMPTS, 0), MAX_SAMPLES, recordings)
    others: list[Study] = []
    for prompts, seed in ((SELECTION_PROMPTS, SELECTION_SEED), (JUDGING_PROMPTS, JUDGING_SEED)):
        samples = recorded(checkpoint, component, requests(prompts, seed), MAX_SAMPLES, recordings)
        others.append(Study(component, fit.module, rows_of(samples)))
    decide, held_out = others
    stride = -(-len(decide.rows) // DECIDING_ROWS)
    decide = Study(component, fit.module, decide.rows[::stride])
    settings = {
        "steps": STEPS,
        "fit": {"prompts": list(ANALYSIS_PROMPTS), "seed": 0, "rows": len(fit.rows)},
        "decide": {"prompts": list(SELECTION_PROMPTS), "seed": SELECTION_SEED, "rows": len(decide.rows)},
        "held_out": {"prompts": list(JUDGING_PROMPTS), "seed": JUDGING_SEED, "rows": len(held_out.rows)},
    }
    return choose_scales(fit, decide, held_out, recipe, names, settings, tell)


def choose_scales(
    fit: Study,
    decide: Study,
    held_out: Study,
    recipe: Recipe,
    names: Collection[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    tell: Tell = silent,
) -> FittedScales:
    """Fits factors to some inputs, keeps those that others like, and drops all if a third set does not agree.

    Args:
        fit: the component with the inputs to fit to.
        decide: with inputs by which each factor is kept or not.
        held_out: with inputs that judge the result.
        recipe: what each weight becomes.
        names: as in `fit_scales`.
        settings: what to note of the inputs.
        tell: sees (what, finished, all).
    """
    known = None if names is None else {flat_path(name) for name in names}
    weights = compressed_weights(fit, recipe)
    layers = [name for name in weights if known is None or flat_path(name) in known]
    correction = corrected(fit, decide, weights, layers, tell, biases_too=False)
    exact = held_out.outputs()
    before = held_out.quality(exact, weights).psnr_db
    scaled = {name: np.asarray(weights[name], np.float32) * np.float32(s) for name, s in correction.scales.items()}
    after = held_out.quality(exact, {**weights, **scaled}).psnr_db
    kept = correction.scales if after > before else {}
    return FittedScales(kept, correction.tried, before, after, settings or {})


def compressed_weights(study: Study, recipe: Recipe) -> dict[str, NDArray[np.float16]]:
    """Returns the decoded weight of each layer that a recipe compresses and whose shape its scheme fits."""
    weights: dict[str, NDArray[np.float16]] = {}
    for name, parameter in study.layers.items():
        scheme = recipe.scheme_for(study.component, name, parameter.numel(), parameter.dim() == 2)
        if not isinstance(scheme, Float16) and misfit(tuple(parameter.shape), scheme) is None:
            weights[name] = encode(study.weight(name), scheme).decode()
    return weights
