"""Makes the structures that come with the package: `python -m sdmobile.exporters.structures.shipping`.

    architecture ─▶ empty checkpoint ─▶ per device and component: the long way, twice, with random weights ─▶ structure

What is there and not stale is left. What is stale by a change of rules, but whose rewritten graph is as it was, gets
the versions of today: the converters would be given the same. A component takes minutes at full size otherwise.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdmobile.basics.scratch import temporary_folder
from sdmobile.exporters.job import ExportJob
from sdmobile.exporters.structures.architectures import (
    Architecture,
    architectures,
    write_hollow,
    write_hollow_model,
)
from sdmobile.exporters.structures.find import SHIPPED
from sdmobile.exporters.structures.keys import facts_of, file_stem, staleness, versions_of
from sdmobile.exporters.structures.probe import PROOF_SEED
from sdmobile.exporters.structures.structure import SUFFIX, Structure, StructureError, read_structure, write_structure

if TYPE_CHECKING:
    from sdmobile.checkpoints import Checkpoint

DEVICES = {"iphone-14-pro-max": "ios", "iphone-15-pro": "ios", "galaxy-s23-ultra": "android"}


@dataclass(frozen=True)
class Wanted:
    """A structure that comes with the package.

    Args:
        architecture: name of the architecture.
        device: name of the device profile.
        path: of its file.
        job: that makes it, but for the folder of the files.
    """

    architecture: str
    device: str
    path: Path
    job: ExportJob


def opened(architecture: Architecture, folder: Path) -> Checkpoint:
    """Returns the checkpoint of an architecture, written into a folder if it is not bundled."""
    from sdmobile.checkpoints import bundled_checkpoint, open_checkpoint
    from sdmobile.checkpoints.control import ControlFolder

    if architecture.bundled:
        return open_checkpoint(bundled_checkpoint(architecture.name))
    path = write_hollow(architecture, folder / architecture.name)
    if architecture.control is None:
        return open_checkpoint(path)
    control = write_hollow_model(architecture.control, folder / "controlnet")
    return open_checkpoint(path, controls=(ControlFolder(control, 1.0),))


def wanted_structures(architecture: Architecture, checkpoint: Checkpoint, place: Path = SHIPPED) -> Iterator[Wanted]:
    """Yields the structures of an architecture, for every device; what two architectures share has one path."""
    from sdmobile.families.contracts import contract_for
    from sdmobile.reference.geometry import geometry_for

    guidance = checkpoint.family.guidance(None).name
    geometry = geometry_for(checkpoint, None, None)
    for device, target in DEVICES.items():
        chunks = architecture.chunks.get(target, 1)
        for name in checkpoint.family.names:
            job = ExportJob(checkpoint.path, name, target, device, guidance, None, place, chunks=chunks)
            contract = contract_for(checkpoint.family, target, name, geometry)
            facts = facts_of(checkpoint, contract, device, job.rewrites, chunks)
            yield Wanted(architecture.name, device, place / f"{file_stem(facts)}{SUFFIX}", job)


def is_current(path: Path) -> bool:
    """Returns whether a structure is there, whole, and what would be made today."""
    try:
        return staleness(read_structure(path)) is None
    except (OSError, StructureError):
        return False


def main(arguments: Sequence[str]) -> int:
    """Makes the structures of the architectures that are named, without a name of those that ship; returns the code."""
    known = {one.name: one for one in architectures()}
    unknown = sorted(set(arguments) - known.keys())
    if unknown:
        print(f"architectures are {', '.join(known)}, not {', '.join(unknown)}", file=sys.stderr)
        return 2
    ships = [one.name for one in architectures() if one.ships]
    paths: set[Path] = set()
    for architecture in (one for name, one in known.items() if name in (arguments or ships)):
        with temporary_folder("structures") as scratch:
            checkpoint = opened(architecture, scratch)
            for wanted in wanted_structures(architecture, checkpoint):
                paths.add(wanted.path)
                _make(wanted, checkpoint, scratch)
    if not arguments:
        for path in set(SHIPPED.glob(f"*{SUFFIX}")) - paths:
            print(f"{path.name}: of no architecture any more, removed")
            path.unlink()
    return 0


def _make(wanted: Wanted, checkpoint: Checkpoint, scratch: Path) -> None:
    from sdmobile.checkpoints.control import ControlFolder
    from sdmobile.exporters.process import run_component

    title = f"{wanted.architecture} {wanted.job.component} {wanted.device}"
    if is_current(wanted.path):
        print(f"{title}: is there", flush=True)
        return
    started = time.perf_counter()
    networks = zip(checkpoint.control_files, checkpoint.family.controls, strict=True)
    controls = tuple(ControlFolder(files[0].parent, control.scale) for files, control in networks)
    folder = scratch / wanted.path.stem
    folder.mkdir()
    try:
        job = replace(wanted.job, out_dir=folder, probe=PROOF_SEED, controls=controls)
        same = _same_lowering(wanted.path)
        if same is not None:
            graph = run_component(replace(job, graph_only=True), folder, lambda event: None)["graph"]
            if graph == same.versions["graph"]:
                versions = {**versions_of(wanted.job.target), "graph": graph}
                write_structure(replace(same, versions=versions), wanted.path)
                print(f"{title}: the same graph, {time.perf_counter() - started:.0f} s", flush=True)
                return
        run_component(replace(job, structure=wanted.path), folder, lambda event: None)
    finally:
        shutil.rmtree(folder)
    size = wanted.path.stat().st_size
    print(f"{title}: {size / 1e3:.0f} kB in {time.perf_counter() - started:.0f} s", flush=True)


def _same_lowering(path: Path) -> Structure | None:
    """Returns a structure that is stale by its graph at most: what writes files is that of today."""
    try:
        structure = read_structure(path)
    except (OSError, StructureError):
        return None
    today = versions_of(structure.facts["contract"]["target"])
    alike = all(structure.versions.get(part) == today[part] for part in ("lowering", "libraries"))
    return structure if alike else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
