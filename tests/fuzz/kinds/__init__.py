"""The kinds of cases: one file per kind."""

from __future__ import annotations

from tests.fuzz.case import Kind
from tests.fuzz.kinds import models, resources

KINDS: dict[str, Kind] = {kind.name: kind for kind in (models.KIND, resources.KIND)}
