"""The facts of one convolution that decide about its algorithm."""

from __future__ import annotations

from dataclasses import dataclass

KERNEL = 3


@dataclass(frozen=True)
class ConvLayer:
    """One two-dimensional convolution.

    Args:
        batch: images.
        channels: input and output channels.
        size: height and width of the output.
        kernel, stride, dilation, padding: per axis.
        groups: groups of channels.
    """

    batch: int
    channels: tuple[int, int]
    size: tuple[int, int]
    kernel: tuple[int, int] = (KERNEL, KERNEL)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def macs(self) -> int:
        """Multiplications of the direct form, the whole batch."""
        taps = self.kernel[0] * self.kernel[1] * self.channels[0] // self.groups
        return self.batch * self.size[0] * self.size[1] * self.channels[1] * taps

    @property
    def weights(self) -> int:
        """Number of weights without the bias."""
        return self.kernel[0] * self.kernel[1] * self.channels[0] // self.groups * self.channels[1]

    @property
    def elements(self) -> int:
        """Elements that go in and come out."""
        return self.batch * self.size[0] * self.size[1] * sum(self.channels)

    def tiles(self, tile: int) -> int:
        """Returns the number of m×m output tiles of one image."""
        return -(-self.size[0] // tile) * -(-self.size[1] // tile)

    def products(self, tile: int) -> int:
        """Returns the multiplications between transformed inputs and weights: tiles · (m+2)² · C · O."""
        return self.batch * self.tiles(tile) * (tile + KERNEL - 1) ** 2 * self.channels[0] * self.channels[1]

    def transformed_weights(self, tile: int) -> int:
        """Returns the number of transformed weights, (m+2)² · C · O."""
        return (tile + KERNEL - 1) ** 2 * self.channels[0] * self.channels[1]

    def shape_objection(self) -> str | None:
        """Returns why Winograd's method for 3×3 kernels does not compute this convolution, None if it does."""
        wanted = (
            ("kernel", self.kernel, (KERNEL, KERNEL)),
            ("stride", self.stride, (1, 1)),
            ("dilation", self.dilation, (1, 1)),
        )
        for name, value, want in wanted:
            if value != want:
                return f"the {name} is {value[0]}×{value[1]}; the method is for {want[0]}×{want[1]}"
        if self.groups != 1:
            return f"{self.groups} groups; the method sums over all channels"
        if max(self.padding) >= KERNEL:
            return f"padding of {max(self.padding)}; the method takes up to {KERNEL - 1}"
        return None
