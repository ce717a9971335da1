"""The interface that sampling and checks use, and what all runners of exported files share."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from sdmobile.formats.bundle.reading import BundleComponent

Arrays = Mapping[str, "NDArray[Any]"]
Predict = Callable[[dict[str, "NDArray[Any]"]], Mapping[str, "NDArray[Any]"]]
_LOADED = 4.0  # bytes in memory for each of a float16 file: 3.9 in LiteRT, 1.9 in the evaluator (docs/preflight.md)
_SHARE = 0.5  # of the free memory, for parts that stay


@runtime_checkable
class Runner(Protocol):
    """Computes components on canonical arrays, loading each on first use."""

    @property
    def name(self) -> str:
        """What computes, for tables and records."""
        ...

    @property
    def components(self) -> tuple[str, ...]:
        """Canonical names of what it can run."""
        ...

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Returns the canonical outputs of one component."""
        ...

    def release(self, component: str | None = None) -> None:
        """Frees one component's memory, or all; a later `run` loads it again."""
        ...


class FileRunner(ABC):
    """Runs the files of a bundle, translating through each file's contract.

    Files of a component in parts take turns where memory is short: the first ones stay while they fit into `room`, each
    of the others is loaded when its turn comes, and let go.

    Args:
        name: runtime name.
        components: exported files by canonical name.
    """

    def __init__(self, name: str, components: Mapping[str, BundleComponent]) -> None:
        self._name = name
        self._files = dict(components)
        self._loaded: dict[str, dict[Path, Predict]] = {}
        self.room: float | None = None
        """Bytes that parts may take in memory at once; None until a part is loaded, then half of what is free."""
        self.crossing = 0.0
        """Seconds of the last run in which arrays went to another process and back."""

    @property
    def name(self) -> str:
        """What computes, for tables and records."""
        return self._name

    @property
    def components(self) -> tuple[str, ...]:
        """Canonical names of the bundle's files."""
        return tuple(self._files)

    def run(self, component: str, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Returns the canonical outputs of one component.

        Raises:
            UnsupportedError: the bundle has no such component, or an array has another shape than its file's.
        """
        if component not in self._files:
            raise UnsupportedError(
                f"the bundle must hold the component that is run; it has {', '.join(self._files)}",
                component,
                "Export the bundle again with that component.",
            )
        file = self._files[component]
        values, self.crossing = dict(inputs), 0.0
        for part in file.chain or (file,):
            predict = self._ready(component, part)
            values.update(part.contract.from_target(predict(part.contract.to_target(values))))
            self.crossing += getattr(predict, "crossing", 0.0)
            del predict  # a part that does not stay goes before the next one comes
        return {spec.canonical: values[spec.canonical] for spec in file.contract.outputs}

    def _ready(self, component: str, part: BundleComponent) -> Predict:
        """Returns the function of a file, which stays loaded if there is room; a component's only file always does."""
        loaded = self._loaded.setdefault(component, {})
        if part.path in loaded:
            return loaded[part.path]
        stays = not self._files[component].chain or self._fits(part)
        predict = self._open(part)
        if stays:
            loaded[part.path] = predict
        return predict

    def _fits(self, part: BundleComponent) -> bool:
        """Returns whether a part may stay beside the files that are loaded."""
        from sdmobile.basics.files import size_of

        if self.room is None:
            import psutil

            self.room = _SHARE * psutil.virtual_memory().available
        paths = [part.path, *(path for loaded in self._loaded.values() for path in loaded)]
        return _LOADED * size_of(paths) <= self.room

    def release(self, component: str | None = None) -> None:
        """Frees one component's memory, or all."""
        for name in list(self._loaded) if component is None else [component]:
            self._loaded.pop(name, None)
        gc.collect()

    @abstractmethod
    def _open(self, file: BundleComponent) -> Predict:
        """Loads a file and returns the function from its named inputs to its named outputs."""
