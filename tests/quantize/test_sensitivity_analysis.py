from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from sdmobile.quantize.sensitivity_analysis import probe_gradients, projections
from tests.quantize.small_studies import WIDTH, deep_network, encoded, estimated, measured, study_of

SCHEMES = ("palette2", "palette4", "int8c")


def test_a_linear_layers_estimate_is_its_error_in_expectation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    study = study_of(nn.Sequential(nn.Linear(WIDTH, WIDTH)), rows=2, tokens=4)
    weights = encoded(study, tmp_path)
    # 2·200 probes: the standard deviation of the mean is at most √(2/400) = 7 %.
    ratio = estimated(study, weights, SCHEMES, 200) / measured(study, weights, SCHEMES)
    np.testing.assert_allclose(ratio, 1.0, rtol=0.2)


def test_a_projection_is_the_signs_times_the_change_of_the_output(tmp_path: Path) -> None:
    torch.manual_seed(1)
    study = study_of(nn.Sequential(nn.Linear(WIDTH, WIDTH)), rows=1, tokens=4)
    weights = encoded(study, tmp_path)
    found = projections(study, weights, ("palette2",), 0, seed=5)
    decoded = weights.get("0", "palette2")
    assert decoded is not None
    exact = study.outputs()[0]
    with study.replaced({"0": decoded[0]}):
        change = study.outputs()[0].astype(np.float64) - exact
    signs = np.random.default_rng((5, 0)).integers(0, 2, change.size, dtype=np.int8) * 2.0 - 1
    assert found[0, 0] == pytest.approx(float(signs @ change.ravel()) / np.sqrt(change.size), rel=1e-4)


def test_the_estimate_ranks_layers_and_widths_as_measuring_does(tmp_path: Path) -> None:
    study = study_of(deep_network())
    weights = encoded(study, tmp_path)
    guess, truth = estimated(study, weights, SCHEMES, 40), measured(study, weights, SCHEMES)
    assert spearmanr(guess.ravel(), truth.ravel())[0] > 0.97  # pyright: ignore[reportOperatorIssue]
    fine = SCHEMES.index("int8c")  # small changes: first order holds
    np.testing.assert_allclose(10 * np.log10(guess[:, fine] / truth[:, fine]), 0.0, atol=1.5)


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(tmp_path: Path) -> None:
    study = study_of(deep_network(2))
    weights = encoded(study, tmp_path)
    first, again = (projections(study, weights, SCHEMES, 1, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, projections(study, weights, SCHEMES, 1, seed=4))
    assert not np.array_equal(first, projections(study, weights, SCHEMES, 0, seed=3))


def test_probing_leaves_the_module_without_gradients(tmp_path: Path) -> None:
    study = study_of(deep_network(2))
    probe_gradients(study, study.rows[0], (0,))
    assert not any(p.requires_grad for p in study.module.parameters())
    assert all(p.grad is None for p in study.module.parameters())


def test_a_scheme_that_does_not_fit_is_nan(tmp_path: Path) -> None:
    torch.manual_seed(0)
    study = study_of(nn.Sequential(nn.Linear(WIDTH, 40)), rows=1)
    found = projections(study, encoded(study, tmp_path), ("palette4g16", "palette4"), 0, 0)
    assert np.isnan(found[0, 0])
    assert np.isfinite(found[0, 1])
