"""The pytest plugin of `coremltools_suite`: chooses tests, tightens what they allow, keeps their results."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.coremltools_suite import append, stable

ABSOLUTE = 4e-3
RELATIVE = 1e-2
"""What coremltools' tests may allow at most; for float16 they allow 0.5 and 5 %."""
PLANTED = 1.05
_WORST = ("failed", "skipped", "passed")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("coremltools_suite")
    group.addoption("--only", type=Path, help="a JSON list of the ids of the tests to run")
    group.addoption("--results", type=Path, help="a file to which a line is added for each test")
    group.addoption("--plant", help="an operation whose results are made too large")


def pytest_configure(config: pytest.Config) -> None:
    np.testing.assert_allclose = _tightened(np.testing.assert_allclose)
    np.isclose = _tightened(np.isclose)  # by which some tests count what may differ
    if results := config.getoption("--results"):
        config.pluginmanager.register(Recorder(results))
    if operation := config.getoption("--plant"):
        plant(operation)


def _tightened(compare: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(compare)
    def closer(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **rest: Any) -> Any:
        return compare(actual, desired, rtol=min(rtol, RELATIVE), atol=min(atol, ABSOLUTE), **rest)

    return closer


def plant(name: str) -> None:
    """Makes the results of an operation 5 % too large, which no test that looks at them may overlook."""
    from sdmobile.runtimes.mlprogram.ops.table import operations

    right = operations()[name]

    def wrong(**arguments: Any) -> Any:
        result = right.function(**arguments)
        return result * PLANTED if isinstance(result, torch.Tensor) and result.is_floating_point() else result

    operations()[name] = replace(right, function=wrong)


def pytest_make_parametrize_id(val: object, argname: str) -> str:
    """Names parameters as a conftest of coremltools does, whichever of its folders are collected."""
    return f"{argname}={val}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if chosen := config.getoption("--only"):
        wanted = set(json.loads(chosen.read_text(encoding="utf-8")))
        items[:] = [item for item in items if stable(item.nodeid) in wanted]


def pytest_runtest_setup(item: pytest.Item) -> None:
    seed = zlib.crc32(stable(item.nodeid).encode())
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Recorder:
    """Writes a line when a test begins, which tells where a process died, and one when it has ended.

    Args:
        results: the file.
    """

    def __init__(self, results: Path) -> None:
        self._results = results
        self._reports: list[pytest.TestReport] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports = []
        append(self._results, {"test": stable(nodeid), "outcome": "begun", "predicted": False, "message": ""})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        worst = min(self._reports, key=lambda report: _WORST.index(report.outcome))
        counted = dict(pair for report in self._reports for pair in report.user_properties)
        refused = worst.failed and "coreml_refused" in counted
        other = worst.failed and "coreml_other_kind" in counted
        line = {
            "test": stable(nodeid),
            "outcome": "not an ML Program" if other else worst.outcome,
            "predicted": "coreml_predicted" in counted or refused,
            "message": _first_line(worst) if worst.failed else "",
            "seconds": round(sum(report.duration for report in self._reports), 3),
        }
        append(self._results, line)


def _first_line(report: pytest.TestReport) -> str:
    """Returns what the error says, in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longrepr).splitlines()
    return " ".join(line.strip() for line in lines[:6] if line.strip())
