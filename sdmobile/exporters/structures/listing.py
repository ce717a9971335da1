"""What structures there are, in what state, and making those of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdmobile.basics.scratch import temporary_folder
from sdmobile.errors import OutputError, UnsupportedError
from sdmobile.exporters.structures.find import SHIPPED, places
from sdmobile.exporters.structures.keys import STREAMED, staleness
from sdmobile.exporters.structures.probe import PROOF_SEED
from sdmobile.exporters.structures.structure import SUFFIX, StructureError, read_structure

if TYPE_CHECKING:
    from sdmobile.exporters.request import ExportPlan

    Watch = Callable[[str, dict[str, Any]], None]

CURRENT = "current"


@dataclass(frozen=True)
class Entry:
    """One structure's file.

    Args:
        path: of the file.
        bytes: its size.
        shipped: whether it comes with the package.
        state: "current", or why it is not used.
        component: canonical name; empty, as what follows, where it cannot be read.
        checkpoint: that it was made for first.
        device: the same.
        parameters: weights of the component.
    """

    path: str
    bytes: int
    shipped: bool
    state: str
    component: str = ""
    checkpoint: str = ""
    device: str = ""
    parameters: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the fields."""
        return asdict(self)


def entries(files: Sequence[Path] | None = None) -> Iterator[Entry]:
    """Yields what is known of structures: of the given files, or of all that are kept.

    Raises:
        OutputError: a file is not there.
    """
    if not files:
        files = [path for folder in places() for path in sorted(folder.glob(f"*{SUFFIX}"))]
    for path in files:
        if not path.is_file():
            raise OutputError(
                "a structure must be a file", path, "`sdmobile structures list` names those that are kept"
            )
        yield _entry(path)


def _entry(path: Path) -> Entry:
    size, shipped = path.stat().st_size, path.parent == SHIPPED
    try:
        structure = read_structure(path)
        state = staleness(structure) or CURRENT
    except (StructureError, OSError) as error:
        return Entry(str(path), size, shipped, f"damaged: {error}")
    return Entry(
        str(path),
        size,
        shipped,
        state if state == CURRENT else f"stale: {state}",
        str(structure.record["component"]),
        str(structure.origin["checkpoint"]),
        str(structure.origin["device"]),
        structure.record["parameters"],
    )


def make_all(plan: ExportPlan, watch: Watch) -> list[tuple[str, Path, bool]]:
    """Makes the structures of a plan's components that are not there yet.

    Args:
        plan: of an export; nothing is written but structures.
        watch: called with component and event.

    Returns:
        Component, the structure's file, and whether it was made now.

    Raises:
        UnsupportedError: the target's files are not streamed.
        SdmobileError: a component could not be exported, or has a tensor of unknown origin.
    """
    from sdmobile.exporters.process import run_component

    if plan.request.target not in STREAMED:
        raise UnsupportedError(f"structures are of {' and '.join(STREAMED)} files", plan.request.target)
    made: list[tuple[str, Path, bool]] = []
    for name, fit in plan.structures.items():
        if fit.structure is None:
            with temporary_folder("structures") as folder:
                job = replace(plan.job(name, folder), probe=PROOF_SEED, structure=fit.path)
                run_component(job, folder, lambda event, name=name: watch(name, event))
        made.append((name, fit.path, fit.structure is None))
    return made
