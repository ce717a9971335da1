"""How much each layer's compression disturbs the output, for all layers and schemes from a few backward passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from sdmobile.quantize.sensitivity_study import EncodedWeights, Row, Study


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
        found = torch.autograd.grad(output, list(layers.values()), direction, allow_unused=True)
    finally:
        for weight in layers.values():
            weight.requires_grad_(False)
    zeros = (torch.zeros_like(w) if g is None else g for w, g in zip(layers.values(), found, strict=True))
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
            found = encoded.get(layer, scheme)
            if found is not None:
                change = torch.from_numpy(found[0].astype(np.float32)) - exact
                table[i, j] = float(torch.dot(flat, change.reshape(-1)))
    return table


def estimate(pieces: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Returns the mean of p² over all rows and probes: the estimated mean squared error, [layers, schemes]."""
    return np.mean(np.square(np.stack(pieces)), axis=0)
