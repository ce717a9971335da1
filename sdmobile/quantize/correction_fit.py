"""Fits factors on the weights that a recipe compresses, and drops them unless held-out inputs agree.

recorded inputs ─▶ a factor per layer ─▶ keep by the output for other prompts ─▶ measure on a third set

Biases are left alone: they need other constants of the file, and bring a tenth of what the factors do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.quantize.correction import corrected
from sdmobile.quantize.encodings import encode, misfit
from sdmobile.quantize.recipes import Recipe, flat_path
from sdmobile.quantize.schemes import Float16
from sdmobile.quantize.sensitivity_study import Study, open_study, recorded, rows_of
from sdmobile.quantize.sensitivity_work import silent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.quantize.sensitivity_work import Tell

STEPS = 20
MAX_SAMPLES = 15
DECIDING_ROWS = 10


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
    from sdmobile.quantize import sensitivity_prompts as sets

    def requests(prompts: tuple[str, ...], seed: int) -> Any:
        return sets.requests_for(checkpoint, prompts, STEPS, seed)

    fit = open_study(checkpoint, component, requests(sets.ANALYSIS_PROMPTS, 0), MAX_SAMPLES, recordings)
    others: list[Study] = []
    for prompts, seed in ((sets.SELECTION_PROMPTS, sets.SELECTION_SEED), (sets.JUDGING_PROMPTS, sets.JUDGING_SEED)):
        samples = recorded(checkpoint, component, requests(prompts, seed), MAX_SAMPLES, recordings)
        others.append(Study(component, fit.module, rows_of(samples)))
    decide, held_out = others
    stride = -(-len(decide.rows) // DECIDING_ROWS)
    decide = Study(component, fit.module, decide.rows[::stride])
    settings = {
        "steps": STEPS,
        "fit": {"prompts": list(sets.ANALYSIS_PROMPTS), "seed": 0, "rows": len(fit.rows)},
        "decide": {"prompts": list(sets.SELECTION_PROMPTS), "seed": sets.SELECTION_SEED, "rows": len(decide.rows)},
        "held_out": {"prompts": list(sets.JUDGING_PROMPTS), "seed": sets.JUDGING_SEED, "rows": len(held_out.rows)},
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
    found = corrected(fit, decide, weights, layers, tell, biases_too=False)
    exact = held_out.outputs()
    before = held_out.quality(exact, weights).psnr_db
    scaled = {name: np.asarray(weights[name], np.float32) * np.float32(s) for name, s in found.scales.items()}
    after = held_out.quality(exact, {**weights, **scaled}).psnr_db
    kept = found.scales if after > before else {}
    return FittedScales(kept, found.tried, before, after, settings or {})


def compressed_weights(study: Study, recipe: Recipe) -> dict[str, NDArray[np.float16]]:
    """Returns the decoded weight of each layer that a recipe compresses and whose shape its scheme fits."""
    weights: dict[str, NDArray[np.float16]] = {}
    for name, parameter in study.layers.items():
        scheme = recipe.scheme_for(study.component, name, parameter.numel())
        if not isinstance(scheme, Float16) and misfit(tuple(parameter.shape), scheme) is None:
            weights[name] = encode(study.weight(name), scheme).decode()
    return weights
