"""Neutral graphs of a few operations, written by hand."""

from __future__ import annotations

from benchmarks.calibration.cpu_graphs import GraphDraft


class Small(GraphDraft):
    """A graph under construction, with convolutions."""

    def conv(self, image: str, channels: int, kernel: int = 3, stride: int = 1) -> str:
        """Adds a convolution with a bias that keeps height and width, or halves them."""
        batch, height, width, given = self.shape(image)
        inputs = [image, self.weights(channels, kernel, kernel, given), self.weights(channels)]
        shape = (batch, -(-height // stride), -(-width // stride), channels)
        return self.op("conv_2d", inputs, shape, strideH=stride, strideW=stride)
