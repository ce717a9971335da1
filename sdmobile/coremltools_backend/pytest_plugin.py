"""Makes a test suite predict on Linux: `pytest -p sdmobile.coremltools_backend.pytest_plugin`.

Tests that ask coremltools whether this is a Mac (`ct.utils._is_macos()`, `ct.utils._macos_version()`, `_IS_MACOS`) run
as on one; `sys.platform` stays what it is. Each test's report says how often it predicted (`user_properties`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

import pytest

from sdmobile.coremltools_backend.proxy import ModelProxy
from sdmobile.coremltools_backend.stand_in import install
from sdmobile.runtimes.mlprogram.precision import Precision

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("coreml").addoption(
        "--coreml-precision",
        choices=get_args(Precision),
        help="how the evaluator rounds, for all compute units (by default each has its own)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if sys.platform != "darwin":
        install(config.getoption("--coreml-precision"), tests=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = dict(ModelProxy.tally)
    try:
        return (yield)
    finally:
        for what, count in ModelProxy.tally.items():
            if count > before.get(what, 0):
                item.user_properties.append((f"coreml_{what}", count - before.get(what, 0)))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    ran = sum(any(name == "coreml_predicted" for name, _ in report.user_properties) for report in reports)
    terminalreporter.write_line(f"sdmobile's evaluator stood in for Core ML: {ran} tests predicted through it")
