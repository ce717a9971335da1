"""What `sdmobile export` says about the phone's memory."""

from __future__ import annotations

import pytest

from sdmobile.cli.export import show_memory
from sdmobile.formats.bundle.reading import Bundle
from sdmobile.prediction.assess import bundle_memory
from sdmobile.prediction.memory_budget import Advice, BudgetCheck
from tests.prediction.assessed import sd15, sd15_bundle

__all__ = ["sd15"]


def test_a_bundle_that_does_not_fit_is_a_warning_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    advice = (Advice("load one component at a time", 1_900_000_000),)
    show_memory(BudgetCheck(3_400_000_000, 3_100_000_000, "all at once", advice, "a table"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "warning: memory, predicted, all at once: needs 3.4 GB, an app may use 3.1 GB. "
        "load one component at a time: 1.90 GB\n"
    )


def test_a_bundle_that_fits_is_told_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    show_memory(BudgetCheck(1_900_000_000, 3_100_000_000, "one at a time", (), "a table"))
    expected = "memory, predicted, one at a time: needs 1.9 GB, an app may use 3.1 GB\n"
    assert capsys.readouterr().err == expected


def test_nothing_is_said_where_nothing_is_known(sd15: Bundle) -> None:
    assert len(bundle_memory(sd15)) == 2
    assert bundle_memory(sd15_bundle(target="onnx")) == ()
