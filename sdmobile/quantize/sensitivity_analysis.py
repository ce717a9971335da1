"""The whole analysis of one component: estimate by probes, direct measurements, kept and shared among processes.

A probe tells how much each layer's compression disturbs the output, for all layers and schemes from one backward pass.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.words import nearest
from sdmobile.errors import UnsupportedError
from sdmobile.families import FAMILIES
from sdmobile.families.family import Family
from sdmobile.quantize.schemes import parse_scheme
from sdmobile.quantize.sensitivity import DEFAULT_SCHEMES, DIRECT, PROBES, Sensitivity
from sdmobile.quantize.sensitivity_study import EncodedWeights, Row, Study, open_study, weights_key
from sdmobile.quantize.sensitivity_work import computed, is_main, silent, wait_for_all, world

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.quantize.sensitivity_work import Tell
    from sdmobile.reference.sampling import SampleRequest


CALL, TRAJECTORY = "call", "trajectory"


@dataclass(frozen=True)
class AnalysisPlan:
    """How a component is analysed.

    Args:
        component: canonical name.
        requests: pictures whose trajectories are recorded.
        schemes: what each layer may become.
        max_samples: most recorded calls.
        probes: random probes per recorded row; 0 for no estimate.
        direct: how many layers are measured directly, those with the largest estimate first; None for all.
        seed: of the probes.
        through: "call" for the error of single calls, "trajectory" for that of a UNet's final latents.
    """

    component: str
    requests: tuple[SampleRequest, ...]
    schemes: tuple[str, ...] = DEFAULT_SCHEMES
    max_samples: int = 15
    probes: int = 4
    direct: int | None = None
    seed: int = 0
    through: str = CALL

    def __post_init__(self) -> None:
        if self.probes == 0 and self.direct == 0:
            raise UnsupportedError("an analysis needs probes or direct measurements", "0 of both")
        if self.through not in (CALL, TRAJECTORY) or (self.through == TRAJECTORY and not _is_denoiser(self.component)):
            known = nearest(self.through, (CALL, TRAJECTORY))
            raise UnsupportedError("errors are those of a call, or of a UNet's trajectory", self.through, known)
        for scheme in self.schemes:
            parse_scheme(scheme)

    def settings(self) -> dict[str, Any]:
        """Returns what the figures come from, as JSON."""
        return {**asdict(self), "requests": [request.to_json() for request in self.requests]}


def _is_denoiser(component: str) -> bool:
    """Returns whether a component is called at every step, so that its errors may be those of the final latents."""
    return any(component == family.denoiser.name for family in FAMILIES)


def can_be_followed(family: Family) -> bool:
    """Returns whether a whole trajectory can be analysed: with both rows of guidance, and nothing beside the latent."""
    guided = any(guidance.rows == guidance.texts == 2 for guidance in family.guidances)
    return guided and not family.takes_picture and not family.controls


def usual_error(family: Family, component: str) -> str:
    """Returns whose error counts unless something else is asked for: a denoiser's is that of the final latents."""
    return TRAJECTORY if component == family.denoiser.name and can_be_followed(family) else CALL


def analyse(
    checkpoint: Checkpoint, plan: AnalysisPlan, folder: Path, recordings: Path | None, tell: Tell = silent
) -> Sensitivity:
    """Measures the sensitivity of every layer of a component to every scheme.

    Args:
        checkpoint: the opened checkpoint.
        plan: how.
        folder: finished pieces are kept here under a hash of everything that decides them; a stopped analysis goes on.
        recordings: cache of recordings, None for none.
        tell: sees (what, finished, all).

    Raises:
        UnsupportedError: the checkpoint has no such component.
    """
    checkpoint.family.component(plan.component)  # before minutes of sampling
    if not is_main():
        wait_for_all()  # and find what the first process recorded
    tell("recording", 0, 1)
    study = opened_study(checkpoint, plan.component, plan.requests, plan.max_samples, recordings, plan.through)
    if is_main():
        wait_for_all()
    code = weights_key(checkpoint.content_hash, plan.component)
    encoded = EncodedWeights(study, folder / "weights" / code)
    sizes = _encode_all(study, encoded, plan.schemes, tell)
    work = folder / "work" / _key(study, plan, code)
    exact = study.outputs()
    errors: dict[str, NDArray[np.float64]] = {}
    if plan.probes:
        errors[PROBES] = _estimated(study, encoded, plan, work, tell)
    if plan.direct != 0:
        errors[DIRECT] = _direct(study, encoded, plan, exact, errors.get(PROBES), work, tell)
    stacked = np.stack(exact).astype(np.float64)
    return Sensitivity(
        component=plan.component,
        source_hash=checkpoint.content_hash,
        schemes=plan.schemes,
        layers=tuple(study.layers),
        elements=np.array([weight.numel() for weight in study.layers.values()], np.int64),
        stored_bytes=sizes,
        errors=errors,
        power=float(np.mean(np.square(stacked))),
        peak=float(np.abs(stacked).max()),
        settings=plan.settings(),
    )


def opened_study(
    checkpoint: Checkpoint,
    component: str,
    requests: Sequence[SampleRequest],
    max_samples: int,
    recordings: Path | None,
    through: str,
) -> Study:
    """Returns the component under study, by its calls or by its trajectories."""
    if through == TRAJECTORY:
        from sdmobile.quantize.sensitivity_trajectory import open_trajectories

        return open_trajectories(checkpoint, requests)
    return open_study(checkpoint, component, requests, max_samples, recordings)


def _encode_all(study: Study, encoded: EncodedWeights, schemes: Sequence[str], tell: Tell) -> NDArray[np.float64]:
    """Encodes every layer in every scheme and returns the stored bytes; each process starts at another layer."""
    layers = list(study.layers)
    rank, size = world()
    sizes = np.full((len(layers), len(schemes)), np.nan)
    for turn in range(len(layers)):
        tell("encoding", turn, len(layers))
        i = (turn + rank * len(layers) // size) % len(layers)
        for j, scheme in enumerate(schemes):
            fitting = encoded.get(layers[i], scheme)
            if fitting is not None:
                sizes[i, j] = fitting[1]
    return sizes


def _estimated(
    study: Study, encoded: EncodedWeights, plan: AnalysisPlan, work: Path, tell: Tell
) -> NDArray[np.float64]:
    def piece(index: int) -> NDArray[np.float64]:
        return projections(study, encoded, plan.schemes, index, plan.seed)

    return estimate(computed("probes", range(len(study.rows) * plan.probes), piece, work, tell))


def _direct(
    study: Study,
    encoded: EncodedWeights,
    plan: AnalysisPlan,
    exact: Sequence[NDArray[np.float32]],
    estimated: NDArray[np.float64] | None,
    work: Path,
    tell: Tell,
) -> NDArray[np.float64]:
    """Compresses one layer at a time and measures the output; NaN where that was not asked for or does not fit."""
    names = list(study.layers)
    chosen = measured_layers(names, estimated, plan.direct)

    def piece(index: int) -> NDArray[np.float64]:
        row, column = divmod(index, len(plan.schemes))
        fitting = encoded.get(names[row], plan.schemes[column])
        return np.array(np.nan if fitting is None else study.quality(exact, {names[row]: fitting[0]}).mse)

    table = np.full((len(names), len(plan.schemes)), np.nan)
    cells = [row * len(plan.schemes) + column for row in chosen for column in range(len(plan.schemes))]
    table.flat[cells] = computed("direct", cells, piece, work, tell)
    return table


def measured_layers(names: Sequence[str], estimated: NDArray[np.float64] | None, count: int | None) -> list[int]:
    """Returns which layers are measured directly: all, or those with the largest estimated error of any scheme."""
    if count is None or count >= len(names):
        return list(range(len(names)))
    if estimated is None:
        return list(range(count))
    return sorted(np.argsort(-np.nanmax(estimated, axis=1), kind="stable")[:count].tolist())


def _sampling(plan: AnalysisPlan) -> list[Any]:
    """Returns what decides a trajectory besides its inputs."""
    return [(r.steps, r.guidance_scale, r.scheduler) for r in plan.requests] if plan.through == TRAJECTORY else []


def _key(study: Study, plan: AnalysisPlan, code: str) -> str:
    """Returns the hash that names finished pieces: inputs, schemes, seed, and `code`, which the package's is part of.

    How many probes and direct measurements were asked for is not in it: more of them use those that are there.
    """
    digest = hashlib.sha256(
        json.dumps([plan.component, plan.schemes, plan.seed, plan.through, _sampling(plan), code], default=str).encode()
    )
    for row in study.rows:
        for tensor in row:
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:32]


def probe_gradients(study: Study, row: Row, seed: Sequence[int]) -> dict[str, torch.Tensor]:
    """Returns the gradient of one random projection of the output with respect to every layer's weight.

    g_l = ∂(r·f(x)/√n)/∂W_l with r of n independent signs. The vector-Jacobian product is one backward pass.

    Args:
        study: the component.
        row: one recorded input x.
        seed: decides r.
    """
    import torch

    layers = study.layers
    for weight in layers.values():
        weight.requires_grad_(True)
    try:
        output = study.module(*row)
        signs = np.random.default_rng(seed).integers(0, 2, output.numel(), dtype=np.int8) * 2 - 1
        direction = torch.from_numpy((signs / np.sqrt(output.numel())).astype(np.float32)).reshape(output.shape)
        gradients = torch.autograd.grad(output, list(layers.values()), direction, allow_unused=True)
    finally:
        for weight in layers.values():
            weight.requires_grad_(False)
    zeros = (torch.zeros_like(w) if g is None else g for w, g in zip(layers.values(), gradients, strict=True))
    return dict(zip(layers, zeros, strict=True))


def projections(
    study: Study, encoded: EncodedWeights, schemes: Sequence[str], index: int, seed: int
) -> NDArray[np.float64]:
    """Returns p[l, s] = g_l·ΔW_{l,s} of one probe on one recorded row.

    For signs r, E_r[p²] = ‖J_l ΔW_{l,s}‖²/n with J_l = ∂f/∂W_l: the mean squared error of the output to first order in
    ΔW, by Hutchinson's identity E[(r·v)²] = ‖v‖². One backward pass serves every layer and scheme. The relative
    standard deviation of a mean over K probes is at most √(2/K).

    Sources: Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
    Commun. Stat. Simul. Comput. 18 (1989) 1059-1076. That sensitivity is the second-order term of the output error
    and is got from random probes: HAWQ-V2 (arXiv 1911.03852), which probes the Hessian of a training loss; here the
    loss is the output's squared error, whose Gauss-Newton Hessian 2·JᵀJ is exact at the unchanged weights.

    Args:
        study: the component.
        encoded: compressed weights.
        schemes: names of the columns.
        index: number of the probe; the rows take turns, so that further probes leave the first ones as they are.
        seed: of the whole analysis.

    Returns:
        [layers, schemes], in the output's unit; NaN where a scheme does not fit.
    """
    import torch

    gradients = probe_gradients(study, study.rows[index % len(study.rows)], (seed, index))
    table = np.full((len(gradients), len(schemes)), np.nan)
    for i, (layer, gradient) in enumerate(gradients.items()):
        exact, flat = study.layers[layer].detach(), gradient.reshape(-1)
        for j, scheme in enumerate(schemes):
            fitting = encoded.get(layer, scheme)
            if fitting is not None:
                change = torch.from_numpy(fitting[0].astype(np.float32)) - exact
                table[i, j] = float(torch.dot(flat, change.reshape(-1)))
    return table


def estimate(pieces: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Returns the mean of p² over all rows and probes: the estimated mean squared error, [layers, schemes]."""
    return np.mean(np.square(np.stack(pieces)), axis=0)
