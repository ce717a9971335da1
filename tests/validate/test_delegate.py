"""A `.tflite` file that LiteRT's CPU delegate computes wrongly is told from one that is wrong itself.

`one_head/one_head.tflite` is one attention of one head at batch 2 between linear layers, as it was exported before the
composite got another form for that; `recorded.npz` is an input of it and PyTorch's output in float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sdmobile.formats.bundle.contracts import Contract, TensorSpec
from sdmobile.formats.bundle.reading import BundleComponent
from sdmobile.reference.recording import RecordedSample, Recording
from sdmobile.runtimes.litert import LiteRTRunner
from sdmobile.validate.cause import with_delegates
from sdmobile.validate.checks import CauseKind, ComponentCheck, Status
from sdmobile.validate.parity import check_component
from sdmobile.validate.thresholds import Thresholds

FOLDER = Path(__file__).with_name("one_head")
SHAPE = (2, 16, 8, 8)


@pytest.fixture(scope="module")
def component() -> BundleComponent:
    given, made = (TensorSpec(name, SHAPE, "float32", "", name, "nchw") for name in ("x0", "y"))
    contract = Contract("android", "unet", "one_head.tflite", "run", (given,), (made,))
    return BundleComponent("unet", FOLDER / "one_head.tflite", contract, {})


def _checked(component: BundleComponent, change: float = 0.0) -> ComponentCheck:
    """Returns the check of the file against PyTorch's output plus a change, explained."""
    arrays = np.load(FOLDER / "recorded.npz")
    sample = RecordedSample("unet", "sample", {"x0": arrays["x0"]}, {"y": arrays["y"] + np.float32(change)})
    recording = Recording()
    recording.samples["unet"] = [sample]
    thresholds = Thresholds()
    check = check_component(LiteRTRunner({"unet": component}), "unet", [sample], thresholds)
    (explained,) = with_delegates({"unet": component}, [check], recording, thresholds)
    return explained


def test_a_delegate_that_is_wrong_is_named(component: BundleComponent) -> None:
    """If this fails, LiteRT's delegate has been corrected, and the form of the composite for one head can go."""
    check = _checked(component)
    assert check.status == Status.FAILED
    assert check.cause is not None
    assert check.cause.kind == CauseKind.DELEGATE
    assert "the file is right" in check.failure
    assert "without XNNPACK" in check.failure


def test_a_file_that_is_wrong_is_wrong_without_the_delegate_too(component: BundleComponent) -> None:
    check = _checked(component, change=0.3)
    assert check.cause is not None
    assert check.cause.kind == CauseKind.DIFFERS
    assert "the file is wrong" in check.failure


def test_other_runtimes_and_what_passes_are_left_alone(component: BundleComponent) -> None:
    checks = [
        ComponentCheck("unet", "litert", Status.PASSED),
        ComponentCheck("unet", "evaluator", Status.FAILED),
        ComponentCheck("unet", "litert", Status.NOT_RUN),
    ]
    assert with_delegates({"unet": component}, checks, Recording(), Thresholds()) == checks
