"""Every operation has a witness, and docs/evaluator.md says which."""

from __future__ import annotations

from pathlib import Path

from sdmobile.runtimes.mlprogram.ops.table import operations
from tests.runtimes.mlprogram import witnesses

DOCUMENT = Path(__file__).parents[3] / "docs/evaluator.md"


def test_every_operation_has_a_witness_and_the_document_names_it() -> None:
    table = witnesses.table()
    bare = [row for row in table.splitlines() if row.endswith("|  |  |")]
    assert not bare
    text = DOCUMENT.read_text(encoding="utf-8")
    assert table in text, f"docs/evaluator.md must contain\n{table}"


def test_what_is_emitted_is_implemented() -> None:
    emitted = set().union(*witnesses.EMITTED.values())
    assert emitted - {"const"} <= set(operations())
