"""The kinds of cases: one file per kind."""

from __future__ import annotations

from tests.fuzz.case import Kind
from tests.fuzz.kinds import models, processes, resources

KINDS: dict[str, Kind] = {kind.name: kind for kind in (models.KIND, processes.KIND, resources.KIND)}
