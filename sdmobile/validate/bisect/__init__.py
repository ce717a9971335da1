"""Finds the smallest part of an exported file that computes something else than PyTorch."""

from __future__ import annotations

from sdmobile.validate.bisect.part import Culprit
from sdmobile.validate.bisect.run import bisect_component

__all__ = ["Culprit", "bisect_component"]
