"""The interface that sampling and checks use, and what all runners of exported files share."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sdmobile.errors import UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdmobile.formats.bundle.reading import BundleComponent

Arrays = Mapping[str, "NDArray[Any]"]
Predict = Callable[[dict[str, "NDArray[Any]"]], Mapping[str, "NDArray[Any]"]]


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

    Args:
        name: runtime name.
        components: exported files by canonical name.
    """

    def __init__(self, name: str, components: Mapping[str, BundleComponent]) -> None:
        self._name = name
        self._files = dict(components)
        self._loaded: dict[str, list[Predict]] = {}
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
        chain = file.chain or (file,)
        if component not in self._loaded:
            self._loaded[component] = [self._open(part) for part in chain]
        values, self.crossing = dict(inputs), 0.0
        for part, predict in zip(chain, self._loaded[component], strict=True):
            values.update(part.contract.from_target(predict(part.contract.to_target(values))))
            self.crossing += getattr(predict, "crossing", 0.0)
        return {spec.canonical: values[spec.canonical] for spec in file.contract.outputs}

    def release(self, component: str | None = None) -> None:
        """Frees one component's memory, or all."""
        for name in list(self._loaded) if component is None else [component]:
            self._loaded.pop(name, None)
        gc.collect()

    @abstractmethod
    def _open(self, file: BundleComponent) -> Predict:
        """Loads a file and returns the function from its named inputs to its named outputs."""
