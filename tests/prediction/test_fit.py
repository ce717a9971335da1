"""The fit finds parameters that made the times, does not follow one wild row, and leaves a row out when it says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sdmobile.prediction.fit import COVERAGE, Parameter, Problem, Vector, farther, fit, interval, leave_one_out, quality
from sdmobile.prediction.latency import Features, Parameters, concatenate, totals

PEAK_MACS = 3.68e12

TRUTH = {
    "dense": 0.3,
    "depthwise": 0.05,
    "bandwidth": 30e9,
    "dispatch": 6e-6,
    "fixed": 1.2e-3,
    "saturation": 9000.0,
}
PARAMETERS = (
    Parameter("dense", 0.2, 1e3, 0.01, 1.0),
    Parameter("depthwise", 0.02, 1e3, 0.001, 1.0),
    Parameter("bandwidth", 50e9, 1e3, 1e9, 67e9),
    Parameter("dispatch", 10e-6, 1e3, 1e-7, 1e-4),
    Parameter("fixed", 0.5e-3, 1e3, 1e-5, 1e-2),
    Parameter("saturation", 3000.0, 1e3, 10.0, 1e6),
)


def synthetic_models(count: int = 24) -> list[Features]:
    """Returns models of random kernels: some bound by arithmetic, some by memory, some by dispatch."""
    draw = np.random.default_rng(0)
    models = []
    for _ in range(count):
        size = int(draw.integers(20, 200))
        scale = 10.0 ** draw.uniform(-1.0, 1.0, size)
        categories = draw.choice([0, 2, 3, 7], size)  # conv, depthwise, matmul, elementwise
        macs = np.where(np.isin(categories, (0, 3)), 2e7, np.where(categories == 2, 1e6, 0.0)) * scale
        nbytes = 3e5 * 10.0 ** draw.uniform(-1.0, 1.0, size)
        items = 10.0 ** draw.uniform(2.0, 5.0, size)
        models.append(Features(categories, macs, nbytes, np.ones(size), items, np.zeros(size)))
    return models


def model_parameters(values: dict[str, float]) -> Parameters:
    """Returns the latency model's parameters from `PARAMETERS`."""
    efficiency = dict.fromkeys(("conv", "matmul"), values["dense"]) | {"depthwise": values["depthwise"]}
    rest = ("bandwidth", "dispatch", "fixed", "saturation")
    return Parameters(efficiency, **{name: values[name] for name in rest})  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def problem() -> Problem:
    joined, starts = concatenate(synthetic_models())
    names = [parameter.name for parameter in PARAMETERS]

    def predict(vector: Vector) -> Vector:
        return totals(joined, starts, PEAK_MACS, model_parameters(dict(zip(names, vector, strict=True))))

    return Problem(PARAMETERS, predict, predict(np.array([TRUTH[name] for name in names])), sigma=0.01)


def test_known_parameters_are_recovered(problem: Problem) -> None:
    found = dict(zip(TRUTH, fit(problem), strict=True))

    for name, value in TRUTH.items():
        assert found[name] == pytest.approx(value, rel=0.03), name


def test_known_parameters_are_recovered_from_noisy_times(problem: Problem) -> None:
    noise = np.random.default_rng(1).normal(0.0, 0.02, len(problem.measured))
    noisy = replace(problem, measured=problem.measured * np.exp(noise))

    errors = noisy.predict(fit(noisy)) / problem.measured - 1.0

    assert np.abs(errors).max() < 0.02


def test_one_wild_row_does_not_bend_the_others(problem: Problem) -> None:
    wild = problem.measured.copy()
    wild[3] *= 3.0

    errors = problem.predict(fit(replace(problem, measured=wild))) / problem.measured - 1.0

    assert np.abs(errors).max() < 0.03


def test_a_left_out_row_has_no_influence_on_its_own_prediction(problem: Problem) -> None:
    changed = problem.measured.copy()
    changed[5] *= 2.0

    before, after = leave_one_out(problem), leave_one_out(replace(problem, measured=changed))

    assert after[5] == before[5]
    assert not np.allclose(np.delete(after, 5), np.delete(before, 5), rtol=1e-4)


def test_groups_are_left_out_together(problem: Problem) -> None:
    names = [str(i) for i in range(len(problem.measured))]
    names[1] = names[0]

    together = leave_one_out(problem, names)

    assert together[0] == problem.predict(fit(problem, [0, 1]))[0]
    assert together[2] == problem.predict(fit(problem, [2]))[2]


def test_a_guess_decides_what_no_row_says(problem: Problem) -> None:
    parameters = (*PARAMETERS, Parameter("unused", 7.0, 1.5, 1.0, 100.0))
    widened = replace(problem, parameters=parameters, predict=lambda vector: problem.predict(vector[:-1]))

    assert fit(widened)[-1] == pytest.approx(7.0, rel=1e-4)


def test_bounds_hold(problem: Problem) -> None:
    slow = replace(problem, measured=problem.measured / 20.0)

    found = dict(zip(TRUTH, fit(slow), strict=True))

    assert found["dense"] <= 1.0 + 1e-9
    assert found["bandwidth"] <= 67e9 * (1 + 1e-9)


def test_quality_of_a_case_worked_out_by_hand() -> None:
    found = quality(np.array([1.1, 1.8, 3.0, 5.0]), np.array([1.0, 2.0, 3.0, 4.0]))

    assert found.median == pytest.approx(0.1)  # errors 0.1, 0.1, 0, 0.25
    assert found.p90 == pytest.approx(0.205)
    assert found.worst == pytest.approx(0.25)
    assert found.rank_correlation == 1.0
    assert (found.low, found.high) == (None, None)  # four rows say nothing of eight in ten


def test_an_interval_of_80_percent_takes_nine_rows_and_the_corrected_ranks() -> None:
    ratios = np.arange(1, 30) / 15.0  # 29 ratios: ranks 3 and 27

    assert interval(ratios[:8]) is None
    assert interval(np.array([0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.1, 1.2, 1.3])) == (0.7, 1.3)
    assert interval(ratios) == pytest.approx((3 / 15, 27 / 15))
    assert interval(np.full(9, 1.2)) == (1.0, 1.2)  # what was predicted is in it


@pytest.mark.parametrize("rows", [9, 14, 18, 29, 40])
def test_an_interval_holds_at_least_its_share_of_new_rows(rows: int) -> None:
    draw = np.random.default_rng(rows)
    inside = 0
    for _ in range(2000):
        *ratios, new = np.exp(draw.normal(0.1, 0.3, rows + 1))
        low, high = interval(np.array(ratios)) or (0.0, 0.0)
        inside += low <= new <= high
    assert inside / 2000 > COVERAGE - 0.02


def test_the_farther_of_two_ratios_is_taken_as_factors() -> None:
    assert farther(np.array([0.5, 1.1]), np.array([1.9, 0.8])).tolist() == [0.5, 0.8]
