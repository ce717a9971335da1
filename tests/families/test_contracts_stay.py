"""The interfaces of Stable Diffusion's files, which apps rely on, are those that they were before families.

`contracts.json` was written by the hand-made tables of names and layouts (commit 2748019), which the derivation from
canonical arrays replaced: names, order, shapes, element types, layouts and descriptions, of every target and component.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdmobile.families.contracts import contract_for
from sdmobile.formats.bundle.contracts import TARGETS, Geometry
from tests.families import COMPONENTS, SD

BEFORE = json.loads((Path(__file__).parent / "contracts.json").read_text("utf-8"))


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("target", TARGETS)
def test_a_file_has_the_interface_that_it_had(target: str, component: str, rows: int) -> None:
    geometry = Geometry(rows, 4, 16, 16, 64, 64, 77, 128)
    assert contract_for(SD, target, component, geometry).to_json() == BEFORE[f"{target} {component} {rows}"]
