"""One structure of the bundled checkpoint's text encoder for each phone, made as `structures make` makes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sdmobile.checkpoints import Checkpoint, open_checkpoint
from sdmobile.exporters.component import export_component
from sdmobile.exporters.request import ExportPlan, ExportRequest, make_plan
from sdmobile.exporters.structures.probe import PROOF_SEED
from sdmobile.exporters.structures.structure import Structure, read_structure


@dataclass(frozen=True)
class Made:
    """A structure, the plan that it was made for, and the files that it was proved on."""

    plan: ExportPlan
    structure: Structure
    path: Path
    files: Path


def make(checkpoint: Path, component: str, target: str, folder: Path) -> Made:
    """Makes the structure of one component in this process."""
    request = ExportRequest(checkpoint, target, folder / "bundle", components=(component,), structures=False)
    plan, path = make_plan(request), folder / "made.structure"
    export_component(replace(plan.job(component, folder / "files"), probe=PROOF_SEED, structure=path))
    return Made(plan, read_structure(path), path, folder / "files")


@pytest.fixture(scope="session", params=["ios", "android"])
def made(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The denoiser of the tiny checkpoint."""
    return make(tiny_checkpoint, "unet", request.param, tmp_path_factory.mktemp(f"structure-{request.param}"))


@pytest.fixture(scope="session")
def opened(tiny_checkpoint: Path) -> Checkpoint:
    return open_checkpoint(tiny_checkpoint)
