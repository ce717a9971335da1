"""An embedding whose table is larger than a buffer of the device, looked up in pieces.

    E[ids] = [E₁[ids], …, Eₙ[ids]]        E = [E₁, …, Eₙ] split along the features

ML Drift looks up float32 tables only (a float16 one is refused: "Empty quantization params"), and the table of CLIP-L
in float32, 49,408 × 768, has 152 MB, more than one buffer of an Adreno takes. Split along the features every piece is
looked up with the same ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import Graph
from torch.nn import functional as F

from sdmobile.rewrites.rule import Exactness, Match, OperatorRule

_FLOAT32 = 4


@dataclass(frozen=True)
class EmbeddingColumns(OperatorRule):
    """Splits tables that are over the budget into the fewest equal pieces; smaller ones are not its business.

    The pieces are stored, so that nothing is left of the table.

    Captured:
        y = embedding(E, ids)                                           (N, S, C), of E (V, C)

    Rewritten:
        y = cat(embedding(E₁, ids), …, embedding(Eₙ, ids))              (N, S, C), of Eᵢ (V, C/n)

    Args:
        budget_bytes: largest float32 table.
    """

    name: ClassVar[str] = "embedding_columns"
    title: ClassVar[str] = "Embedding tables over the device's buffer limit in pieces of features"
    source: ClassVar[str] = "own check with ML Drift on a software GPU: float16 tables are refused; limits.buffer_bytes"
    exactness: ClassVar[Exactness] = Exactness.EXACT
    bound_db: ClassVar[float] = math.inf
    folds: ClassVar[bool] = True
    operator: ClassVar = torch.ops.aten.embedding.default

    budget_bytes: int = 134_217_728

    def matches(self, graph: Graph) -> Iterable[Match]:
        return [match for match in super().matches(graph) if self.pieces(match) > 1]

    def pieces(self, match: Match) -> int:
        """Returns in how many pieces the table of a match fits the budget; more than it has columns if in none."""
        rows, columns = match.shape(0)
        most = self.budget_bytes // (rows * _FLOAT32)
        return columns + 1 if most == 0 else math.ceil(columns / most)

    def check(self, match: Match) -> str | None:
        column = match.shape(0)[0] * _FLOAT32
        if column > self.budget_bytes:
            return f"one column of the table has {column} bytes, more than the budget of {self.budget_bytes}"
        return None

    def replacement(
        self, weight: Tensor, indices: Tensor, *, padding_idx: int, scale_grad_by_freq: bool, sparse: bool
    ) -> Tensor:
        """Returns the embeddings, (..., columns); all three options are about gradients."""
        columns = weight.shape[1]
        most = self.budget_bytes // (weight.shape[0] * _FLOAT32)
        step = math.ceil(columns / math.ceil(columns / most))  # the fewest pieces, equally wide
        return torch.cat([F.embedding(indices, weight[:, i : i + step]) for i in range(0, columns, step)], -1)

    def details(self, match: Match) -> dict[str, Any]:
        return {"pieces": self.pieces(match), "table_bytes": math.prod(match.shape(0)) * _FLOAT32}
