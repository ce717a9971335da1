"""Reads the weights of a component when its files are made, and looks for values that float16 loses."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from sdmobile.basics.float16 import TensorLoss
    from sdmobile.checkpoints import Checkpoint


@dataclass
class ComponentWeights:
    """The weights of one component, by their names in its program.

    Args:
        checkpoint: that holds them.
        model: the component's model.
        names: in the model, by those in the program.
        probe: seed of random weights that take the place of the checkpoint's own.
    """

    checkpoint: Checkpoint
    model: str
    names: Mapping[str, str]
    probe: int | None = None
    _scanned: set[str] = field(default_factory=set)
    _losses: list[TensorLoss] = field(default_factory=list)

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Yields weights in float32, one at a time.

        Args:
            wanted: names in the program; those that are none of the model's weights do not come.
        """
        places = {self.names[name]: name for name in wanted if name in self.names}
        for name, tensor in self._stored(places.keys()):
            yield places[name], tensor

    def _stored(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Yields weights by their names in the model."""
        from sdmobile.checkpoints.load import read_weights

        if self.probe is None:
            yield from read_weights(self.checkpoint, self.model, names)
            return
        import torch

        from sdmobile.exporters.structures.probe import probe_array

        for name, info in self.checkpoint.components[self.model].tensors.items():
            if name in names:
                yield name, torch.from_numpy(probe_array(self.probe, name, info.shape))

    def scanned(self, wanted: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Does what `read` does, and scans each weight when it comes first."""
        for name, tensor in self.read(wanted):
            self.scan(name, tensor)
            yield name, tensor

    def scan(self, name: str, tensor: Tensor) -> None:
        """Notes what values of a weight float16 loses."""
        from sdmobile.basics.float16 import scan

        if name not in self._scanned:
            self._scanned.add(name)
            self._losses += scan([(name.removeprefix("component."), tensor)])

    def new_losses(self) -> list[TensorLoss]:
        """Returns what was noted since the last call."""
        losses, self._losses = self._losses, []
        return losses


def release(program: ExportedProgram, names: frozenset[str] | None) -> None:
    """Gives the memory of some tensors, or all, back at once: converters keep references in caches of theirs."""
    import torch

    for name, tensor in (*program.state_dict.items(), *program.constants.items()):
        if isinstance(tensor, torch.Tensor) and (names is None or name in names):
            tensor.data = tensor.new_empty(0)
    gc.collect()  # graphs hold their weights in reference cycles
