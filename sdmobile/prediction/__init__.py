"""Latency, memory and kernels of a saved file, predicted."""
