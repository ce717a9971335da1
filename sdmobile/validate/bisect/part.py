"""What bisecting works on and ends in: a failing call on both sides, a part cut out of its file, and the finding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdmobile.basics.metrics import json_number

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from sdmobile.validate.bisect.graph import ExportedGraph, Piece
    from sdmobile.validate.bisect.match import Match


@dataclass(frozen=True)
class Part:
    """A cut part with what goes in and what should come out.

    Args:
        match: the module that it ends in.
        piece: its operations.
        inputs: PyTorch's exact values for what it takes, by name in the file.
    """

    match: Match
    piece: Piece
    inputs: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """One recorded call that failed, on both sides."""

    graph: ExportedGraph
    program: ExportedProgram
    inputs: dict[str, NDArray[Any]]
    matches: Sequence[Match]
    least_db: float

    def part(self, match: Match, known: Mapping[str, NDArray[Any]] | None = None) -> Part:
        """Cuts the file between values that agree, or are known, and one that does not."""
        agreeing = (other for other in self.matches if other.agrees(self.least_db))
        exact = {other.value: other.expected for other in agreeing} | dict(known or {})
        piece = self.graph.piece(match.value, set(exact))
        return Part(match, piece, {name: exact.get(name, self.inputs.get(name)) for name in piece.inputs})  # pyright: ignore


@dataclass(frozen=True)
class Culprit:
    """The smallest failing part that was found.

    Args:
        component: canonical name.
        runtime: where the component failed.
        module: path of the first module whose value differs, None if none was found.
        operations: names of the part's operations in the file.
        type: type of its last operation.
        modules: source modules of its operations.
        in_place_db: PSNR of the module's value in the file's own run.
        alone_db: PSNR of the part on PyTorch's exact values.
        reproduced: whether the part fails by itself.
        faults: what its constants say is wrong, in words.
        folder: where it was saved, None if there is nothing.
        reason: why nothing was found.
    """

    component: str
    runtime: str
    module: str | None = None
    operations: tuple[str, ...] = ()
    type: str | None = None
    modules: tuple[str, ...] = ()
    in_place_db: float = float("nan")
    alone_db: float = float("nan")
    reproduced: bool = False
    faults: tuple[str, ...] = ()
    folder: str | None = None
    reason: str | None = None

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        where = f"{self.component} on {self.runtime}"
        if self.module is None:
            return f"{where}: no failing part was found: {self.reason}"
        saved = f". Saved in {self.folder}" if self.folder else ""
        return f"{where}: {self.finding}{saved}"

    def after(self, told: str) -> str:
        """Returns the sentence, without the finding where a text that goes before has it."""
        if self.folder is None or self.finding not in told:
            return self.sentence
        return f"{self.component} on {self.runtime}: the failing part is saved in {self.folder}"

    @property
    def finding(self) -> str:
        """What differs first, without where it was run and saved."""
        if self.module is None:
            return f"no failing part was found: {self.reason}"
        alone = f"{self.alone_db:.1f} dB by itself" if self.alone_db == self.alone_db else "not finite by itself"
        count = f"{len(self.operations)} operation" + ("s" if len(self.operations) != 1 else "")
        last = f" ending in {self.type} '{self.operations[-1]}'" if self.operations else ""
        others = [module for module in self.modules if module != self.module]
        beside = f", with {', '.join(others[:3])}{', …' if len(others) > 3 else ''}" if others else ""
        sure = "" if self.reproduced else ", which is not below its limit: the error builds up over the modules before"
        faults = f": {'; '.join(self.faults)}" if self.faults else ""
        return f"{self.module} differs first ({count}{last}{beside}, {alone}{sure}){faults}"

    def to_json(self) -> dict[str, Any]:
        """Returns the fields with null for what is not finite."""
        return {
            "component": self.component,
            "runtime": self.runtime,
            "module": self.module,
            "operations": list(self.operations),
            "type": self.type,
            "modules": list(self.modules),
            "in_place_db": json_number(self.in_place_db),
            "alone_db": json_number(self.alone_db),
            "reproduced": self.reproduced,
            "faults": list(self.faults),
            "folder": self.folder,
            "reason": self.reason,
        }
