"""The GPU check: Google's own engine (ML Drift) on software GPUs, in a browser and through the Python wheel."""

from __future__ import annotations

from sdmobile.validate.gpu.check import DEFAULT_TIMEOUT, GpuRun, check_file, judge, run_on_gpu
from sdmobile.validate.gpu.verdict import PRECISIONS, WAYS, GpuVerdict, LargestTensor, RefusedOperator

__all__ = [
    "DEFAULT_TIMEOUT",
    "PRECISIONS",
    "WAYS",
    "GpuRun",
    "GpuVerdict",
    "LargestTensor",
    "RefusedOperator",
    "check_file",
    "judge",
    "run_on_gpu",
]
