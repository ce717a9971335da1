"""Reads a checkpoint's weights for streaming, each when it is written, and looks for what float16 loses of them."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from sdmobile.basics.float16 import TensorLoss, scan
from sdmobile.checkpoints.arrays import array_reader, lora_layers, plain_sources, read_bits, require_finite
from sdmobile.errors import CheckpointError
from sdmobile.families.clip import TOKEN_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.checkpoints import Checkpoint
    from sdmobile.checkpoints.headers import TensorInfo

_INFINITE = 0x7C00
"""Bits of a float16 that are all set where it is infinite or NaN."""


class StreamedWeights:
    """The weights of one model; a value is a function of the checkpoint that is read from any thread.

    Args:
        checkpoint: from open_checkpoint.
        model: of the family.

    Raises:
        CheckpointError: they do not lie in safetensors files one by one.
    """

    def __init__(self, checkpoint: Checkpoint, model: str) -> None:
        sources = plain_sources(checkpoint, model)
        if sources is None:
            raise CheckpointError("weights are streamed from safetensors files", checkpoint.components[model].path)
        self._model = model
        self._sources = sources
        self._read = array_reader(checkpoint, model, sources)
        self._changed = {*lora_layers(checkpoint, model), TOKEN_ROWS}
        self._losses: dict[str, TensorLoss | None] = {}
        self._lock = Lock()

    def read(self, name: str, half: bool) -> NDArray[Any]:
        """Returns a weight in float32, or in float16 if that will do and it is stored so.

        Args:
            name: in the model.
            half: whether its float16 values are all that is wanted.

        Raises:
            CheckpointError: it is not finite, or the file changed or cannot be read.
        """
        info = self._sources[name]
        if half and info.dtype == "float16" and info.scale is None and name not in self._changed:
            return self._stored_half(name, info)
        value = self._read(name)
        if name not in self._losses:
            found = scan([(name, value)])
            with self._lock:
                self._losses[name] = found[0] if found else None
        return value

    def _stored_half(self, name: str, info: TensorInfo) -> NDArray[np.float16]:
        """Returns a weight as it is stored: float16 loses nothing of it."""
        values = read_bits(info)
        bits = values.reshape(-1).view(np.uint16)
        if bool(((bits & _INFINITE) == _INFINITE).any()):
            require_finite(self._model, name, values.astype(np.float32))
        return values

    @property
    def losses(self) -> list[TensorLoss]:
        """What float16 loses of the weights that were read, in the order of the files."""
        found = (self._losses.get(name) for name in self._sources)
        return [loss for loss in found if loss is not None]
