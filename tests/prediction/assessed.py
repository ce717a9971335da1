"""A bundle of the packaged Stable Diffusion 1.5 graphs: what assessment reads, without files of gigabytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks.calibration.stored import stored_graph
from sdmobile.formats.bundle.reading import Bundle, BundleComponent
from sdmobile.formats.graph import FileGraph
from sdmobile.prediction import assess as assess_module
from sdmobile.prediction import measurements
from tests.families import COMPONENTS


def sd15_graph(path: Path) -> FileGraph:
    """Returns the packaged graph that stands for a file."""
    return stored_graph(f"sd15_512_{path.stem}")


def sd15_bundle(
    components: tuple[str, ...] = COMPONENTS, target: str = "android", record: Mapping[str, Any] | None = None
) -> Bundle:
    """Returns a bundle whose files are the packaged graphs."""
    parts = {
        name: BundleComponent(name, Path(f"{name}.tflite"), cast(Any, None), dict(record or {"sha256": f"hash {name}"}))
        for name in components
    }
    source, manifest = {"name": "SD1.5"}, {"device": "galaxy-s23-ultra"}
    return Bundle(Path("sd15"), target, "batch2", cast(Any, None), parts, source, {}, manifest)


@pytest.fixture
def sd15(monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The bundle, with the reader of files replaced."""
    monkeypatch.setattr(assess_module, "read_graph", sd15_graph)
    monkeypatch.setattr(measurements, "read_graph", sd15_graph)
    return sd15_bundle()
