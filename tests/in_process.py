"""Exports in the process of the tests, where the libraries are imported already.

A worker of its own takes seconds to import them, for each component of each bundle. That workers work, and what becomes
of one that dies, is the matter of tests/exporters; a test that only needs a bundle takes this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from sdmobile.exporters import bundle
from sdmobile.exporters.component import run_stages
from sdmobile.exporters.job import ExportJob


@contextmanager
def exports_in_this_process() -> Iterator[None]:
    """Lets `export_bundle`, and so the command, export its components here instead of in workers."""

    def run(job: ExportJob, _scratch: Path, _on_event: object, *_: object) -> dict[str, Any]:
        return run_stages(job, lambda *_: None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "run_component", run)
        patch.setattr(bundle, "AT_ONCE", 1)  # PyTorch does not trace in two threads
        patch.setattr(bundle, "Workers", lambda _: nullcontext())
        yield
