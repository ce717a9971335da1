"""Finds the smallest part of an exported file that computes something else than PyTorch."""
