"""Compares every stored weight of a bundle with the checkpoint's parameter, its transform undone."""

from __future__ import annotations

from sdmobile.validate.weights.check import check_weights, weights_checker

__all__ = ["check_weights", "weights_checker"]
