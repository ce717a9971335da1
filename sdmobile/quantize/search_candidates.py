"""From sensitivities to a recipe: several near-optimal allocations, each measured, the best kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.quantize.recipes import Override, Recipe
from sdmobile.quantize.schemes import Float16, parse_scheme
from sdmobile.quantize.search import Chosen, least_bytes, least_error, total
from sdmobile.quantize.sensitivity import DIRECT, PROBES, Sensitivity, rank_correlation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.quantize.sensitivity_study import EncodedWeights, Quality, Study

_ROUNDS = 4  # of tightening towards a quality floor


@dataclass(frozen=True)
class Goal:
    """What is asked of a recipe: a size, or a quality.

    Args:
        bits: average bits per weight at most, tables and scales included, over all layers of the table.
        psnr_db: PSNR of the component's output at least; one of the two is None.
    """

    bits: float | None = None
    psnr_db: float | None = None

    def __post_init__(self) -> None:
        if (self.bits is None) == (self.psnr_db is None):
            raise ValueError("a goal is either a size or a quality")

    @property
    def name(self) -> str:
        """`mixed-4.0`, or `mixed-40dB`."""
        return f"mixed-{self.bits:.1f}" if self.bits is not None else f"mixed-{self.psnr_db:g}dB"


@dataclass(frozen=True)
class Candidate:
    """One allocation.

    Args:
        model: which errors it is the optimum of.
        chosen: column of the table, per layer.
        stored_bytes: of all layers of the table.
        predicted_db: PSNR if errors of layers just add.
        measured: on inputs of other prompts than the analysis; None before it was measured.
    """

    model: str
    chosen: Chosen
    stored_bytes: float
    predicted_db: float
    measured: Quality | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns figures without the allocation."""
        measured = None if self.measured is None else round(self.measured.psnr_db, 3)
        return {
            "model": self.model,
            "stored_bytes": int(self.stored_bytes),
            "predicted_db": round(self.predicted_db, 3),
            "measured_db": measured,
        }


def error_models(sensitivity: Sensitivity) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yields the tables of errors that candidates are optimal for: measured, estimated, and their geometric mean."""
    yield "best", sensitivity.best
    direct, probes = sensitivity.errors.get(DIRECT), sensitivity.errors.get(PROBES)
    if direct is not None and probes is not None:
        yield PROBES, probes
        mean = np.sqrt(direct * probes)
        yield "mean", np.where(np.isnan(mean), sensitivity.best, mean)


def candidates(sensitivity: Sensitivity, bits: float) -> list[Candidate]:
    """Returns the optimal allocation for a size under each model of the errors, each different one once."""
    budget = bits * sensitivity.total_elements / 8.0
    found: dict[Chosen, Candidate] = {}
    for model, errors in error_models(sensitivity):
        chosen = least_error(errors, sensitivity.stored_bytes, budget)
        found.setdefault(chosen, _candidate(sensitivity, model, chosen))
    return list(found.values())


def _candidate(sensitivity: Sensitivity, model: str, chosen: Chosen) -> Candidate:
    predicted = sensitivity.psnr_db(total(sensitivity.best, chosen))
    return Candidate(model, chosen, total(sensitivity.stored_bytes, chosen), predicted)


def search(sensitivity: Sensitivity, goal: Goal, study: Study | None, encoded: EncodedWeights | None) -> Recipe:
    """Returns the recipe for a goal, the best measured of the candidates.

    Args:
        sensitivity: what `analyse` returned.
        goal: size or quality.
        study: the component with recorded inputs of other prompts than the analysis, which candidates are measured on;
            None to trust the prediction.
        encoded: compressed weights, wanted together with `study`.
    """
    measure = _Measure(sensitivity, study, encoded)
    if goal.bits is not None:
        tried = [measure(candidate) for candidate in candidates(sensitivity, goal.bits)]
    else:
        tried = list(_towards(sensitivity, goal.psnr_db or 0.0, measure))
    return recipe_of(sensitivity, goal.name, _best(tried, goal), _evidence(sensitivity, goal, tried))


def _towards(sensitivity: Sensitivity, floor: float, measure: _Measure) -> Iterator[Candidate]:
    """Yields ever more exact allocations until one reaches the floor when measured."""
    asked = floor
    for _ in range(_ROUNDS):
        chosen = least_bytes(sensitivity.best, sensitivity.stored_bytes, sensitivity.error_of(asked))
        candidate = measure(_candidate(sensitivity, f"at least {asked:.2f} dB", chosen))
        yield candidate
        reached = candidate.predicted_db if candidate.measured is None else candidate.measured.psnr_db
        if reached >= floor:
            return
        asked += floor - reached + 0.02


def _best(tried: Sequence[Candidate], goal: Goal) -> Candidate:
    """Returns the best measured for a size; the smallest that reaches the floor, or else the most exact."""

    def level(candidate: Candidate) -> float:
        return candidate.predicted_db if candidate.measured is None else candidate.measured.psnr_db

    reached = [c for c in tried if goal.psnr_db is not None and level(c) >= goal.psnr_db]
    return min(reached, key=lambda c: c.stored_bytes) if reached else max(tried, key=level)


@dataclass(frozen=True)
class _Measure:
    sensitivity: Sensitivity
    study: Study | None
    encoded: EncodedWeights | None

    def __call__(self, candidate: Candidate) -> Candidate:
        if self.study is None or self.encoded is None:
            return candidate
        recipe = recipe_of(self.sensitivity, candidate.model, candidate, {})
        weights, _ = self.encoded.of_recipe(recipe)
        return replace(candidate, measured=self.study.quality(self.study.outputs(), weights))


def recipe_of(sensitivity: Sensitivity, name: str, candidate: Candidate, evidence: Mapping[str, Any]) -> Recipe:
    """Returns the recipe of an allocation: module names and schemes only, so that it fits fine-tunes too.

    A layer that the recipe does not name stays float16.
    """
    overrides = tuple(
        Override(f"{sensitivity.component}/{layer}", parse_scheme(sensitivity.schemes[column]))
        for layer, column in zip(sensitivity.layers, candidate.chosen, strict=True)
    )
    return Recipe(name, Float16(), overrides, components=(sensitivity.component,), evidence=evidence)


def _evidence(sensitivity: Sensitivity, goal: Goal, tried: Sequence[Candidate]) -> dict[str, Any]:
    best = _best(tried, goal)
    counts = {name: best.chosen.count(i) for i, name in enumerate(sensitivity.schemes) if i in best.chosen}
    return {
        "component": sensitivity.component,
        "source_hash": sensitivity.source_hash,
        "goal": {"bits": goal.bits, "psnr_db": goal.psnr_db},
        "stored_bytes": int(best.stored_bytes),
        "bits_per_weight": round(sensitivity.bits(best.stored_bytes), 4),
        "layers_per_scheme": counts,
        "predicted_db": round(best.predicted_db, 3),
        "measured_db": best.to_json()["measured_db"],
        "candidates": [candidate.to_json() for candidate in tried],
        "most_sensitive": _most_sensitive(sensitivity),
        "rank_correlation": rank_correlation(sensitivity),
        "analysis": dict(sensitivity.settings),
    }


def _most_sensitive(sensitivity: Sensitivity, count: int = 10) -> list[dict[str, Any]]:
    """Returns the layers whose error per weight is largest, with the PSNR of the output when only they are coarse."""
    errors = sensitivity.best
    column = int(np.nanargmax(np.nan_to_num(errors, nan=-1.0).sum(axis=0)))
    order = np.argsort(-np.nan_to_num(errors[:, column] / sensitivity.elements, nan=-1.0), kind="stable")[:count]
    return [
        {
            "module": sensitivity.layers[i],
            "scheme": sensitivity.schemes[column],
            "psnr_db": round(sensitivity.psnr_db(float(errors[i, column])), 2),
        }
        for i in order.tolist()
    ]
