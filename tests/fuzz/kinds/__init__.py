"""The kinds of cases: one file per kind."""

from __future__ import annotations

from tests.fuzz.case import Kind
from tests.fuzz.kinds import bundles, checkpoints, models, processes, resources

_ALL = (models.KIND, checkpoints.KIND, bundles.KIND, processes.KIND, resources.KIND)

KINDS: dict[str, Kind] = {kind.name: kind for kind in _ALL}
