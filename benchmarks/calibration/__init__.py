"""Fits the latency models to published measurements, and says how far the fit can be trusted."""
