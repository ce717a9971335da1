"""Tables in pieces give what whole tables give, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sdmobile.lint import lint_file
from sdmobile.quantize.tflite_float16 import cast_weights
from sdmobile.rewrites.embedding_columns import EmbeddingColumns
from sdmobile.rewrites.engine import rewrite
from tests.rewrites.litert_files import litert_file


class Lookup(nn.Module):
    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(rows, columns)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.table(ids.int()))


@given(rows=st.integers(2, 40), columns=st.integers(2, 33), budget=st.integers(200, 3000), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_bit_identical_and_every_piece_in_the_budget(rows: int, columns: int, budget: int, seed: int) -> None:
    module = Lookup(rows, columns)
    ids = torch.randint(0, rows, (2, 7), generator=torch.Generator().manual_seed(seed)).float()
    result = rewrite(torch.export.export(module, (ids,)), [EmbeddingColumns(budget)], [(ids,)])
    outcomes = [record.outcome for record in result.records]
    if rows * columns * 4 <= budget:
        assert outcomes == ["unmatched"]
        return
    assert torch.equal(result.program.module()(ids), module(ids))
    pieces = [t for t in result.program.constants.values() if isinstance(t, Tensor)]
    assert sum(piece.numel() for piece in pieces) == rows * columns
    assert all(piece.numel() * 4 <= budget for piece in pieces)


def test_a_column_over_the_budget_is_refused() -> None:
    ids = torch.zeros(2, 7)
    (record,) = rewrite(torch.export.export(Lookup(40, 3), (ids,)), [EmbeddingColumns(100)]).records
    assert record.outcome == "refused"
    assert "160 bytes" in (record.reason or "")


@pytest.mark.parametrize(("float32_tables", "verdict"), [(True, "accepted"), (False, "refused")])
def test_the_gpu_takes_float32_tables_only(tmp_path: Path, float32_tables: bool, verdict: str) -> None:
    ids = torch.tensor([3.0, 1.0, 4.0])
    case = litert_file(Lookup(64, 48), (ids,), [EmbeddingColumns(64 * 24 * 4)], tmp_path)
    out = tmp_path / "float16.tflite"
    cast_weights(case.path, out, float32_tables)
    lookup = [f for f in lint_file(out, "ml-drift").findings if f.op == "EMBEDDING_LOOKUP"]
    assert ("refused" if any(f.severity == "refused" for f in lookup) else "accepted") == verdict
    if float32_tables:
        assert (case.run(out) == case.run()).all()
